//! Where a run is read from: memory, or a local file that is never held in memory whole.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, code};

/// Bytes that can be read at any place, by several readers at once.
pub trait ReadAt: Send + Sync {
    /// Their number.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when the bytes end before the buffer is full.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

impl ReadAt for Bytes {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let stretch = usize::try_from(offset)
            .ok()
            .and_then(|begin| self.get(begin..begin.checked_add(buffer.len())?))
            .ok_or_else(|| failed(ErrorKind::Corrupt, "its end is missing"))?;
        buffer.copy_from_slice(stretch);
        Ok(())
    }
}

/// A run copied to a local file.
#[derive(Clone)]
pub struct SpooledFile {
    file: Arc<File>,
    size_bytes: u64,
}

impl SpooledFile {
    /// Opens a local copy. The file must not change while it is open; it may be unlinked.
    ///
    /// # Errors
    ///
    /// [`Transient`](ErrorKind::Transient) when the file cannot be opened: it is a cache, and can
    /// be fetched again.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |cause: io::Error| {
            Error::new(ErrorKind::Transient, code::FILE, "open a local copy of an index run")
                .with("file", path.display())
                .caused_by(cause)
        };
        let file = File::open(path).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        Ok(Self { file: Arc::new(file), size_bytes })
    }
}

impl fmt::Debug for SpooledFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpooledFile").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl ReadAt for SpooledFile {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|cause| {
            let kind = match cause.kind() {
                io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
                _ => ErrorKind::Transient,
            };
            failed(kind, "its local copy cannot be read").caused_by(cause)
        })
    }
}

fn failed(kind: ErrorKind, problem: &'static str) -> Error {
    Error::new(kind, code::CORRUPT_OBJECT, "read an index run").with("problem", problem)
}
