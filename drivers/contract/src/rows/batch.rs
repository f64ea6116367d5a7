//! Rows as bytes: one form for all engines, so that what is compared and hashed is what the engine
//! itself sent.
//!
//! A row is the number of its columns (`i16`), and for each column the length of its value (`i32`,
//! -1 for NULL) and the value; numbers are big-endian. That is how PostgreSQL's binary `COPY`
//! frames a tuple. Source: PostgreSQL 18 documentation, COPY, Binary Format.

use bytes::Bytes;

use crate::{Error, ErrorKind, Result, code};

/// The longest row that is moved: no engine's values are longer than a GiB, and a row is held in
/// memory.
pub const ROW_BYTES_MAX: usize = 1 << 30;

/// Some rows, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowBatch {
    bytes: Bytes,
    ends: Vec<u32>,
}

impl RowBatch {
    /// Rows that end where `ends` says, in ascending order, the last one at the end of `bytes`.
    pub fn new(bytes: Bytes, ends: Vec<u32>) -> Self {
        debug_assert!(ends.is_sorted());
        debug_assert_eq!(ends.last().map_or(0, |end| *end as usize), bytes.len());
        Self { bytes, ends }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// One after the other.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut begin = 0;
        self.ends.iter().map(move |end| {
            let row = &self.bytes[begin..*end as usize];
            begin = *end as usize;
            row
        })
    }
}

/// Rows as they are being written.
#[derive(Debug, Default)]
pub struct RowWriter {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl RowWriter {
    /// Begins a row.
    pub fn begin(&mut self, columns: usize) {
        let columns = i16::try_from(columns).expect("no engine has so many columns");
        self.bytes.extend_from_slice(&columns.to_be_bytes());
    }

    /// Writes the next value of the row, in any number of pieces.
    pub fn value(&mut self, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let length = i32::try_from(length).expect("no engine has such long values");
        self.bytes.extend_from_slice(&length.to_be_bytes());
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// Writes NULL as the next value of the row.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    /// Ends a row.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when the rows that were not taken are too long.
    pub fn end(&mut self) -> Result<()> {
        let end = u32::try_from(self.bytes.len());
        let end = end.map_err(|_| {
            Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "hold a row in memory")
                .with("limit", format!("{ROW_BYTES_MAX} bytes"))
        })?;
        self.ends.push(end);
        Ok(())
    }

    /// How many bytes were written and not taken.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What was written.
    pub fn take(&mut self) -> RowBatch {
        let bytes = std::mem::take(&mut self.bytes);
        RowBatch { bytes: bytes.into(), ends: std::mem::take(&mut self.ends) }
    }
}

/// The values of a row, `None` for NULL. Ends with the first one that is not well-formed.
pub fn values(row: &[u8]) -> impl Iterator<Item = Result<Option<&[u8]>>> {
    let count = row.first_chunk().map(|count| i16::from_be_bytes(*count));
    let mut rest = row.get(2..).unwrap_or_default();
    let mut left = match count {
        Some(count) if count >= 0 => count,
        // One value that is an error.
        _ => {
            rest = &[];
            1
        }
    };
    std::iter::from_fn(move || {
        if left == 0 {
            return if rest.is_empty() {
                None
            } else {
                rest = &[];
                Some(Err(malformed()))
            };
        }
        let value = take_value(&mut rest);
        left = if value.is_ok() { left - 1 } else { 0 };
        if value.is_err() {
            rest = &[];
        }
        Some(value)
    })
}

fn take_value<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    let (length, behind) = rest.split_first_chunk().ok_or_else(malformed)?;
    match i32::from_be_bytes(*length) {
        -1 => {
            *rest = behind;
            Ok(None)
        }
        length => {
            let length = usize::try_from(length).map_err(|_| malformed())?;
            let (value, behind) = behind.split_at_checked(length).ok_or_else(malformed)?;
            *rest = behind;
            Ok(Some(value))
        }
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "take a row apart")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_written() {
        let mut writer = RowWriter::default();
        writer.begin(3);
        writer.value(&[b"a", b"bc"]);
        writer.null();
        writer.value(&[]);
        writer.end().unwrap();
        writer.begin(0);
        writer.end().unwrap();
        let batch = writer.take();
        assert!(writer.is_empty() && writer.len_bytes() == 0);
        assert_eq!(batch.len(), 2);
        let rows: Vec<_> = batch.rows().collect();
        let first: Result<Vec<_>> = values(rows[0]).collect();
        assert_eq!(first.unwrap(), [Some(&b"abc"[..]), None, Some(&b""[..])]);
        assert_eq!(values(rows[1]).count(), 0);
    }

    #[test]
    fn bytes_that_are_no_row_are_refused() {
        let whole = b"\0\x02\0\0\0\x01x\xff\xff\xff\xff";
        assert!(values(whole).all(|value| value.is_ok()));
        for length in 0..whole.len() {
            assert!(values(&whole[..length]).any(|value| value.is_err()), "{length}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(values(&longer).any(|value| value.is_err()));
        assert!(values(b"\xff\xff").any(|value| value.is_err()));
        assert!(values(b"\0\x01\xff\xff\xff\xfe").any(|value| value.is_err()));
        assert!(values(b"\0\x01\x7f\xff\xff\xff").any(|value| value.is_err()));
    }
}
