//! The bytes of captured log segments, which restores read for years.
//!
//! Body, version 1: a header of 36 bytes and then frames exactly as the log held them, with their
//! own headers, so that a restore checks salts and the chain of checksums once more.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `SPWL` |
//! | 1 | version: 1 |
//! | 1 | byte order of checksums: 0 little, 1 big |
//! | 2 | zero |
//! | 4 | length of a page |
//! | 8 | salts of the generation |
//! | 8 | running checksum before the first frame |
//! | 4 | number of the first frame, from one |
//! | 4 | number of frames |
//!
//! Index, version 1: what a backup needs to know of a segment without its body.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 4 | length of a page |
//! | 4 | smallest length of the database, in pages, after any commit inside; all ones if none |
//! | varint | number of different pages |
//! | varints | their numbers in ascending order, each less the one before |
//!
//! Fixed numbers are big-endian, varints LEB128. Both are empty in a segment that only says that
//! the database came to rest. The longest body holds 31,300 frames of 512-byte pages, whose index
//! is shorter than 160 KiB, so an index always fits.

use bytes::Bytes;
use stillpoint_contract::{Result, SEGMENT_BODY_BYTES_MAX};

use crate::{
    error::broken_segment,
    wal::{Checksum, Frame, Generation, Order, Salts, be32, is_page_size},
};

const MAGIC: &[u8; 4] = b"SPWL";
const VERSION: u8 = 1;

/// Length of a body's header.
pub(crate) const BODY_HEADER_BYTES: usize = 36;

/// How many frames of a generation fit into one segment.
pub(crate) fn frames_max(generation: &Generation) -> u32 {
    ((SEGMENT_BODY_BYTES_MAX - BODY_HEADER_BYTES) / generation.frame_bytes()) as u32
}

/// Writes a body's header into its first [`BODY_HEADER_BYTES`].
pub(crate) fn write_body_header(
    into: &mut [u8],
    generation: &Generation,
    before: Checksum,
    first: u32,
    count: u32,
) {
    let mut header = Vec::with_capacity(BODY_HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[VERSION, u8::from(generation.order == Order::Big), 0, 0]);
    header.extend_from_slice(&generation.page_bytes.to_be_bytes());
    header.extend_from_slice(&generation.salts.0);
    for word in [before.0, before.1, first, count] {
        header.extend_from_slice(&word.to_be_bytes());
    }
    into[..BODY_HEADER_BYTES].copy_from_slice(&header);
}

/// A body, checked: its frames chain from `before` to `after`.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Bytes,
    pub(crate) generation: Generation,
    pub(crate) before: Checksum,
    pub(crate) after: Checksum,
    /// Number of the first frame, from one.
    pub(crate) first: u32,
}

impl Body {
    /// Decodes and checks a body.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self> {
        let header = bytes.get(..BODY_HEADER_BYTES).ok_or_else(|| broken_segment("no header"))?;
        if &header[..4] != MAGIC || header[4] != VERSION || header[5] > 1 {
            return Err(broken_segment("another format"));
        }
        let page_bytes = be32(header, 8);
        if !is_page_size(page_bytes) {
            return Err(broken_segment("a page size that cannot be"));
        }
        let mut salts = Salts([0; 8]);
        salts.0.copy_from_slice(&header[12..20]);
        let before = Checksum(be32(header, 20), be32(header, 24));
        let order = if header[5] == 0 { Order::Little } else { Order::Big };
        let generation = Generation { order, page_bytes, salts, checksum: before };
        let (first, count) = (be32(header, 28), be32(header, 32));
        let length = bytes.len() - BODY_HEADER_BYTES;
        let is_whole = u64::from(count) * generation.frame_bytes() as u64 == length as u64
            && 0 < first
            && first.checked_add(count).is_some();
        if !is_whole {
            return Err(broken_segment("a length that is not its frames'"));
        }
        let mut body = Self { bytes, generation, before, after: before, first };
        body.after = body.check()?;
        Ok(body)
    }

    fn check(&self) -> Result<Checksum> {
        self.raw_frames().try_fold(self.before, |before, frame| {
            let checked = self.generation.check(frame, before);
            checked.map(|(_, after)| after).ok_or_else(|| broken_segment("a frame out of order"))
        })
    }

    /// The frames as the log held them.
    pub(crate) fn raw_frames(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes[BODY_HEADER_BYTES..].chunks_exact(self.generation.frame_bytes())
    }

    /// The frames with their numbers.
    pub(crate) fn frames(&self) -> impl Iterator<Item = (u32, Frame<'_>)> {
        (self.first..).zip(self.raw_frames().map(Frame::trusted))
    }

    /// Number of the last frame; one less than the first in an empty body.
    pub(crate) fn last(&self) -> u32 {
        self.first - 1 + self.raw_frames().len() as u32
    }
}

/// Which pages a segment changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    /// Length of a page in bytes.
    pub(crate) page_bytes: u32,
    /// The smallest length of the database after any commit inside, in pages.
    pub(crate) db_pages_min: u32,
    /// Page numbers, ascending, each once.
    pub(crate) pages: Vec<u32>,
}

impl Index {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.page_bytes.to_be_bytes());
        bytes.extend_from_slice(&self.db_pages_min.to_be_bytes());
        put_varint(&mut bytes, self.pages.len() as u32);
        let mut previous = 0;
        for page in &self.pages {
            put_varint(&mut bytes, page - previous);
            previous = *page;
        }
        bytes.into()
    }

    /// Decodes an index. Takes memory in proportion to `bytes` only.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = || broken_segment("an index of another format");
        if bytes.len() < 9 || bytes[0] != VERSION {
            return Err(bad());
        }
        let (page_bytes, db_pages_min) = (be32(bytes, 1), be32(bytes, 5));
        let mut rest = &bytes[9..];
        let count = take_varint(&mut rest).ok_or_else(bad)?;
        if !is_page_size(page_bytes) || rest.len() < count as usize {
            return Err(bad());
        }
        let mut pages = Vec::with_capacity(count as usize);
        let mut page = 0_u32;
        for _ in 0..count {
            let step = take_varint(&mut rest).filter(|step| *step != 0).ok_or_else(bad)?;
            page = page.checked_add(step).ok_or_else(bad)?;
            pages.push(page);
        }
        if rest.is_empty() { Ok(Self { page_bytes, db_pages_min, pages }) } else { Err(bad()) }
    }
}

fn put_varint(into: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn take_varint(from: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u32::from(byte & 0x7f);
        if shift == 28 && bits > 0x0f {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Decodes arbitrary bytes as everything that is read back from a repository.
pub fn fuzz_segment(bytes: &[u8]) {
    if let Ok(body) = Body::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(body.frames().count() as u32 + body.first, body.last() + 1);
    }
    if let Ok(index) = Index::decode(bytes) {
        assert_eq!(Index::decode(&index.encode()).ok().as_ref(), Some(&index));
    }
    if let Some(cursor) = crate::position::Cursor::decode(bytes) {
        assert_eq!(cursor.encode(), bytes);
    }
}

/// Decodes arbitrary bytes as a write-ahead log.
pub fn fuzz_wal(bytes: &[u8]) {
    let Some(generation) = Generation::decode(bytes) else { return };
    let mut chain = generation.checksum;
    for frame in bytes[crate::wal::HEADER_BYTES..].chunks(generation.frame_bytes()) {
        let Some((_, after)) = generation.check(frame, chain) else { return };
        chain = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_index_survives_its_bytes(
            pages in proptest::collection::btree_set(1_u32.., 0..200),
            db_pages_min: u32,
        ) {
            let pages = pages.into_iter().collect();
            let index = Index { page_bytes: 4096, db_pages_min, pages };
            prop_assert_eq!(Index::decode(&index.encode()).unwrap(), index);
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(mut bytes: Vec<u8>, header in 0..3_u8) {
            fuzz_segment(&bytes);
            fuzz_wal(&bytes);
            let start: &[u8] = match header {
                0 => b"SPWL\x01\x00\x00\x00\x00\x00\x02\x00",
                1 => b"\x01\x00\x00\x10\x00\x00\x00\x00\x01",
                _ => b"\x37\x7f\x06\x82\x00\x2d\xe2\x18\x00\x00\x02\x00",
            };
            bytes.splice(..0, start.iter().copied());
            fuzz_segment(&bytes);
            fuzz_wal(&bytes);
        }
    }
}
