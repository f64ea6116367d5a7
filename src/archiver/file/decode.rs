//! Rows out of a file.

use std::fmt;

use bytes::Bytes;
use stillpoint_contract::{Column, Result, RowBatch, RowWriter};

#[cfg(feature = "parquet")]
use super::parquet;
use super::{
    layout::{self, Format},
    seal::{Seal, Sealer, compare, corrupt},
    text,
};

/// How many rows are read at once.
pub const ROWS_MAX: usize = 8192;

/// About how many bytes of rows are read at once, whatever their number is.
pub(super) const BATCH_BYTES: usize = 8 << 20;

/// Reads the rows of a file, in their order, with the bytes that were pushed into it.
///
/// Whether they are those is known at the end: what came before an error is worth nothing.
pub struct Decoder {
    /// `None` once everything was read, or something is wrong.
    file: Option<File>,
    is_whole: bool,
    sealer: Sealer,
}

enum File {
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::Reader>),
    Text(Box<text::Reader>),
}

impl Decoder {
    /// Opens a file whose rows have such columns.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when it is no such file.
    pub fn new(bytes: &Bytes, columns: &[Column], format: Format) -> Result<Self> {
        layout::check(columns)?;
        let file = match format {
            #[cfg(feature = "parquet")]
            Format::Parquet => File::Parquet(Box::new(parquet::Reader::new(bytes, columns)?)),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => return Err(layout::no_parquet()),
            format => File::Text(Box::new(text::Reader::new(bytes, columns, format)?)),
        };
        Ok(Self { file: Some(file), is_whole: false, sealer: Sealer::default() })
    }

    /// How many rows the file says that it has.
    pub fn rows(&self) -> u64 {
        self.file.as_ref().map_or(self.sealer.rows(), |file| file.seal().rows)
    }

    /// Some rows, never none; `None` when all were there, and were the right ones.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when the file is not as it was written.
    #[expect(clippy::should_implement_trait, reason = "an iterator would not stop at an error")]
    pub fn next(&mut self) -> Result<Option<RowBatch>> {
        let Some(mut file) = self.file.take() else {
            return if self.is_whole { Ok(None) } else { Err(corrupt("reading it has failed")) };
        };
        let rows = file.read()?;
        self.sealer.add(&rows);
        let said = file.seal();
        if rows.is_empty() {
            compare(said, &self.sealer.seal())?;
            self.is_whole = true;
            return Ok(None);
        }
        if self.sealer.rows() > said.rows {
            return Err(corrupt("it has more rows than it says").with("rows written", said.rows));
        }
        self.file = Some(file);
        Ok(Some(rows))
    }
}

impl File {
    /// Reads some rows, none at the end.
    fn read(&mut self) -> Result<RowBatch> {
        let mut rows = RowWriter::default();
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => return file.read(),
            Self::Text(file) => {
                let mut count = 0;
                while count < ROWS_MAX && rows.len_bytes() < BATCH_BYTES && file.read(&mut rows)? {
                    count += 1;
                }
            }
        }
        Ok(rows.take())
    }

    fn seal(&self) -> &Seal {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => file.seal(),
            Self::Text(file) => file.seal(),
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("rows_read", &self.sealer.rows()).finish_non_exhaustive()
    }
}
