//! `COPY … TO STDOUT (FORMAT binary)`: a stream that is cut into rows.
//!
//! A tuple of that format is a row of ours, byte by byte, so that values are never looked at.
//! Source: PostgreSQL 18 documentation, COPY, "Binary Format".

use std::pin::pin;

use bytes::Bytes;
use futures::StreamExt as _;
use stillpoint_contract::{Error, ErrorKind, ROW_BYTES_MAX, Result, RowBatch, RowSink, code};
use tokio_postgres::Client;

use super::failure::failed;
use crate::error::unexpected;

/// What the stream begins with.
pub(super) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// With that: flags, and the length of what else is in the header.
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// How many bytes of rows are handed over at once.
const BATCH_BYTES: usize = 256 << 10;

const STEP: &str = "read rows";

/// Runs a statement that returns rows, and hands them over. Returns how many.
pub(super) async fn copy_out(
    client: &Client,
    query: &str,
    into: &mut dyn RowSink,
    step: &'static str,
) -> Result<u64> {
    let statement = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
    let stream = client.copy_out(&statement).await.map_err(|e| failed(e, step))?;
    let mut stream = pin!(stream);
    let (mut cutter, mut count) = (Cutter::default(), 0);
    while let Some(chunk) = stream.next().await {
        cutter.push(&chunk.map_err(|e| failed(e, step))?)?;
        if cutter.ready_bytes() >= BATCH_BYTES {
            let batch = cutter.take();
            count += batch.len() as u64;
            into.put(batch).await?;
        }
    }
    // The last row is sent before triggers and references are looked at, and what they refuse
    // comes behind it. Source: PostgreSQL 18, `src/backend/commands/copyto.c`, `DoCopyTo` and
    // `EndCopyTo`.
    if let Some(Err(e)) = stream.next().await
        && (e.as_db_error().is_some() || e.is_closed())
    {
        return Err(failed(e, step));
    }
    cutter.finish()?;
    let batch = cutter.take();
    if !batch.is_empty() {
        count += batch.len() as u64;
        into.put(batch).await?;
    }
    Ok(count)
}

/// Cuts the stream where rows end, wherever its pieces do.
#[derive(Debug, Default)]
struct Cutter {
    /// Whole rows, and the beginning of one.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    has_header: bool,
    is_over: bool,
}

impl Cutter {
    fn push(&mut self, chunk: &[u8]) -> Result<()> {
        if self.is_over {
            return Err(malformed("something behind the end"));
        }
        self.bytes.extend_from_slice(chunk);
        if !self.has_header {
            let Some(length) = header(&self.bytes)? else { return Ok(()) };
            self.bytes.drain(..length);
            self.has_header = true;
        }
        let mut begin = self.ready_bytes();
        while let Some(length) = tuple(&self.bytes[begin..])? {
            if length == 0 {
                self.is_over = true;
                if self.bytes.len() != begin + 2 {
                    return Err(malformed("something behind the end"));
                }
                self.bytes.truncate(begin);
                return Ok(());
            }
            begin += length;
            self.ends.push(u32::try_from(begin).map_err(|_| too_long())?);
        }
        if self.bytes.len() - begin > ROW_BYTES_MAX { Err(too_long()) } else { Ok(()) }
    }

    /// How many bytes whole rows have.
    fn ready_bytes(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// Takes the whole rows.
    fn take(&mut self) -> RowBatch {
        let rest = self.bytes.split_off(self.ready_bytes());
        let mut next = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 8);
        next.extend_from_slice(&rest);
        let bytes = std::mem::replace(&mut self.bytes, next);
        RowBatch::new(Bytes::from(bytes), std::mem::take(&mut self.ends))
    }

    fn finish(&self) -> Result<()> {
        if self.is_over { Ok(()) } else { Err(malformed("no end")) }
    }
}

/// The length of the header, once all of it is there.
fn header(bytes: &[u8]) -> Result<Option<usize>> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(malformed("another signature"));
    }
    let Some(fixed) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
    let number = |at: usize| -> i32 {
        fixed[at..].first_chunk().map_or(-1, |bytes| i32::from_be_bytes(*bytes))
    };
    if number(SIGNATURE.len()) != 0 {
        return Err(malformed("flags that are not known"));
    }
    let more = usize::try_from(number(SIGNATURE.len() + 4));
    let length = HEADER_BYTES + more.map_err(|_| malformed("a negative length"))?;
    Ok((length <= bytes.len()).then_some(length))
}

/// The length of the tuple at the beginning, once all of it is there; 0 for the end of all.
fn tuple(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((count, _)) = bytes.split_first_chunk() else { return Ok(None) };
    let count = i16::from_be_bytes(*count);
    if count < 0 {
        return if count == -1 { Ok(Some(0)) } else { Err(malformed("a negative count")) };
    }
    let mut at = 2;
    for _ in 0..count {
        let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        at += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            length => at += usize::try_from(length).map_err(|_| malformed("a negative length"))?,
        }
    }
    Ok((at <= bytes.len()).then_some(at))
}

fn malformed(what: &'static str) -> Error {
    unexpected(what, STEP)
}

fn too_long() -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "hold a row in memory")
        .with("limit", format!("{ROW_BYTES_MAX} bytes"))
}

/// Cuts any bytes as a server's answer to `COPY`, in pieces of any length; what comes of them are
/// rows or an error.
#[doc(hidden)]
pub fn fuzz_copy(bytes: &[u8]) {
    let length = bytes.first().map_or(1, |first| usize::from(*first) + 1);
    let mut cutter = Cutter::default();
    for chunk in bytes.chunks(length) {
        if cutter.push(chunk).is_err() {
            return;
        }
        if cutter.ready_bytes() > length {
            let batch = cutter.take();
            assert!(batch.rows().all(|row| row.len() >= 2), "a row has a count");
        }
    }
    drop(cutter.finish());
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::values;

    use super::*;

    fn stream(rows: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, 9, 9, 9]);
        for row in rows {
            bytes.extend_from_slice(&i16::try_from(row.len()).unwrap().to_be_bytes());
            for value in *row {
                let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(value.unwrap_or_default());
            }
        }
        bytes.extend_from_slice(&[0xff, 0xff]);
        bytes
    }

    #[test]
    fn rows_are_cut_wherever_pieces_end() {
        let rows: &[&[Option<&[u8]>]] =
            &[&[Some(b"abc"), None, Some(b"")], &[], &[Some(b"\xff\xff"), Some(&[0; 40]), None]];
        let bytes = stream(rows);
        for length in 1..=bytes.len() {
            let (mut cutter, mut found) = (Cutter::default(), Vec::new());
            for chunk in bytes.chunks(length) {
                cutter.push(chunk).unwrap();
                found.extend(cutter.take().rows().map(<[u8]>::to_vec));
            }
            cutter.finish().unwrap();
            assert_eq!(found.len(), rows.len(), "{length}");
            for (found, row) in found.iter().zip(rows) {
                let found: Result<Vec<_>> = values(found).collect();
                assert_eq!(found.unwrap(), *row);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_rows_or_an_error(
            length in proptest::prelude::any::<u8>(),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        ) {
            let mut near = stream(&[&[Some(&rest), None], &[Some(b"x")]]);
            fuzz_copy(&near);
            let at = usize::from(length) % near.len();
            near[at] ^= rest.first().copied().unwrap_or(1) | 1;
            fuzz_copy(&near);
            let mut cutter = Cutter::default();
            for chunk in near.chunks(usize::from(length) + 1) {
                if cutter.push(chunk).is_err() {
                    break;
                }
            }
            fuzz_copy(&[&[length], &rest[..]].concat());
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_noticed() {
        let bytes = stream(&[&[Some(b"abc")]]);
        for length in 0..bytes.len() {
            let mut cutter = Cutter::default();
            assert!(cutter.push(&bytes[..length]).and_then(|()| cutter.finish()).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Cutter::default().push(&longer).is_err());
        let mut broken = bytes;
        broken[HEADER_BYTES + 3] = 0x80;
        assert!(Cutter::default().push(&broken).is_err());
    }
}
