//! Rows into a file, in memory.

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use stillpoint_contract::{
    Column, Error, ErrorKind, ROW_BYTES_MAX, Result, RowBatch, code, values,
};

#[cfg(feature = "parquet")]
use super::parquet;
use super::{
    cell::{self, Cell},
    layout::{self, Format, Layout},
    seal::{Seal, Sealer},
    text,
};

/// Writes rows into a file. Holds about the file, and rows that are not compressed yet.
pub struct Encoder {
    columns: Vec<Column>,
    sealer: Sealer,
    misfits: BTreeSet<usize>,
    /// `None` once there is a misfit: nobody is going to read that file.
    file: Option<File>,
}

/// What became of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// A file that holds them.
    File {
        /// It.
        bytes: Bytes,
        /// How many rows it holds.
        rows: u64,
    },
    /// The columns, by their places and in order, that hold values which do not fit: there is no
    /// file. Write it again, with the columns [promoted](Column::promoted).
    Misfits(Vec<usize>),
}

enum File {
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::Writer>),
    Text(Box<text::Writer>),
}

impl Encoder {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when no file has such columns, or when files of that
    /// format cannot be written by this program.
    pub fn new(layout: &Layout<'_>) -> Result<Self> {
        layout::check(layout.columns)?;
        let file = match layout.format {
            #[cfg(feature = "parquet")]
            Format::Parquet => File::Parquet(Box::new(parquet::Writer::new(layout)?)),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => return Err(layout::no_parquet()),
            format => File::Text(Box::new(text::Writer::new(layout.columns, format)?)),
        };
        Ok(Self {
            columns: layout.columns.to_vec(),
            sealer: Sealer::default(),
            misfits: BTreeSet::new(),
            file: Some(file),
        })
    }

    /// Adds rows.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when they are not well-formed, or have another number of
    /// columns; [`Bug`](ErrorKind::Bug) when rows that are said to be sorted are not.
    pub fn push(&mut self, rows: &RowBatch) -> Result<()> {
        for row in rows.rows() {
            self.push_row(row)?;
        }
        self.sealer.add(rows);
        Ok(())
    }

    fn push_row(&mut self, row: &[u8]) -> Result<()> {
        if row.len() > ROW_BYTES_MAX {
            return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "write a row")
                .with("bytes", row.len())
                .with("limit", ROW_BYTES_MAX));
        }
        if let Some(file) = &mut self.file {
            file.begin_row(row.len())?;
        }
        let mut values = values(row);
        for (at, column) in self.columns.iter().enumerate() {
            let value = values.next().ok_or_else(other_columns)??;
            let cell = match value {
                None => None,
                Some(value) => {
                    let cell = cell::take(&column.kind, value);
                    if cell.is_none() {
                        self.misfits.insert(at);
                        self.file = None;
                    }
                    cell
                }
            };
            if let Some(file) = &mut self.file {
                file.append(at, column, cell.as_ref())?;
            }
        }
        match values.next() {
            None => {}
            Some(value) => return Err(value.err().unwrap_or_else(other_columns)),
        }
        self.file.as_mut().map_or(Ok(()), File::end_row)
    }

    /// About how long the file is, with what is not written yet; 0 once there is a misfit.
    pub fn len_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, File::len_bytes)
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.sealer.rows()
    }

    /// Ends the file.
    pub fn finish(self) -> Result<Encoded> {
        let rows = self.rows();
        match self.file {
            Some(file) => Ok(Encoded::File { bytes: file.finish(&self.sealer.seal())?, rows }),
            None => Ok(Encoded::Misfits(self.misfits.into_iter().collect())),
        }
    }
}

impl File {
    /// Begins a row of so many bytes.
    fn begin_row(&mut self, bytes: usize) -> Result<()> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => file.begin_row(bytes),
            Self::Text(_) => {
                let _ = bytes;
                Ok(())
            }
        }
    }

    fn append(&mut self, at: usize, column: &Column, cell: Option<&Cell<'_>>) -> Result<()> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => file.append(at, cell),
            Self::Text(file) => {
                file.append(at, &column.kind, cell);
                Ok(())
            }
        }
    }

    fn end_row(&mut self) -> Result<()> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => file.end_row(),
            Self::Text(file) => file.end_row(),
        }
    }

    fn len_bytes(&self) -> u64 {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => file.len_bytes(),
            Self::Text(file) => file.len_bytes(),
        }
    }

    fn finish(self, seal: &Seal) -> Result<Bytes> {
        match self {
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => Ok(file.finish(seal)?.into()),
            Self::Text(file) => Ok(file.finish(seal)?.into()),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Encoder");
        shown.field("rows", &self.rows()).field("misfits", &self.misfits).finish_non_exhaustive()
    }
}

fn other_columns() -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "write a row")
        .why("it has another number of columns than its table")
}
