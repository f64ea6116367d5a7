//! What a file says of its rows as a whole, so that whoever reads other ones notices.

use stillpoint_contract::{Error, ErrorKind, Result, RowBatch, code};

/// How many rows there are, and the BLAKE3 hash of their bytes, one row behind the other.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    hasher: blake3::Hasher,
    rows: u64,
}

/// What a [`Sealer`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) rows: u64,
    pub(super) hash: [u8; 32],
}

impl Sealer {
    pub(super) fn add(&mut self, rows: &RowBatch) {
        self.hasher.update(rows.bytes());
        self.rows += rows.len() as u64;
    }

    pub(super) const fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn seal(&self) -> Seal {
        Seal { rows: self.rows, hash: *self.hasher.finalize().as_bytes() }
    }
}

impl Seal {
    /// As text: the number and the hash.
    #[cfg(feature = "parquet")]
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.rows, data_encoding::HEXLOWER.encode(&self.hash))
    }

    #[cfg(feature = "parquet")]
    pub(super) fn of_text(text: &str) -> Option<Self> {
        let (rows, hash) = text.split_once(' ')?;
        let hash = data_encoding::HEXLOWER.decode(hash.as_bytes()).ok()?;
        Some(Self { rows: rows.parse().ok()?, hash: hash.try_into().ok()? })
    }

    pub(super) fn bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.rows.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hash);
        bytes
    }

    pub(super) fn of_bytes(bytes: &[u8; 40]) -> Self {
        let (rows, hash) = bytes.split_first_chunk().expect("there are 40");
        let hash = hash.try_into().expect("there are 40");
        Self { rows: u64::from_le_bytes(*rows), hash }
    }
}

/// A file, or what belongs to it, that is not what was written.
pub(super) fn corrupt(why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "read a file of rows").why(why)
}

/// Compares what a file says with what was read from it.
pub(super) fn compare(said: &Seal, read: &Seal) -> Result<()> {
    if said == read {
        return Ok(());
    }
    Err(corrupt("its rows are not those that were written into it")
        .with("rows written", said.rows)
        .with("rows read", read.rows))
}
