//! Names of places in a SQLite database's history.
//!
//! One generation of the write-ahead log is one lineage, and a frame number, counted from one, is
//! the offset of the state that includes the frame: zero is the state before the first. While
//! nobody has a log open, the file *rests*; that state has a lineage of its own, with the single
//! offset zero, named by when the file was last written and how long it is.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use bytes::Bytes;
use stillpoint_contract::{Clock, Lineage, LogPosition, Result};

use crate::{
    error,
    wal::{Checksum, Generation, Salts, be32, is_page_size},
};

/// How old a file's time stamp must be before another write is sure to give it another one: file
/// systems take it from the kernel's tick, at most 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// The lineage of one generation.
pub(crate) fn generation(id: &str, salts: Salts) -> Result<Lineage> {
    Lineage::new(format!("{}-{salts}", short(id)))
}

/// The position after `frame` frames of a generation.
pub(crate) fn at_frame(id: &str, salts: Salts, frame: u32) -> Result<LogPosition> {
    Ok(LogPosition { lineage: generation(id, salts)?, offset: u128::from(frame) })
}

/// Whether `lineage` names a resting file.
pub(crate) fn is_rest(lineage: &Lineage) -> bool {
    lineage.as_str().contains("-rest-")
}

/// The position of the file as it rests.
///
/// The caller holds a read transaction that began when no frame was waiting, so that nothing can
/// be written into the file meanwhile; two processes that look at an untouched file agree.
pub(crate) fn at_rest(id: &str, path: &Path, clock: &dyn Clock) -> Result<LogPosition> {
    let metadata = fs::metadata(path).map_err(|_| error::vanished(path))?;
    let modified = metadata.modified().map(chrono::DateTime::<chrono::Utc>::from);
    let is_old = modified
        .ok()
        .and_then(|at| (clock.now() - at).to_std().ok())
        .is_some_and(|age| TICK <= age);
    if !is_old {
        std::thread::sleep(TICK);
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&metadata.mtime().to_le_bytes());
    hash.update(&metadata.mtime_nsec().to_le_bytes());
    hash.update(&metadata.size().to_le_bytes());
    let hash = hash.finalize().to_hex();
    let lineage = Lineage::new(format!("{}-rest-{}", short(id), &hash.as_str()[..16]))?;
    Ok(LogPosition { lineage, offset: 0 })
}

/// The part of an identity that lineages bear.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// What capture needs to find a frame again in the log: its generation and the checksum over
/// everything up to it.
///
/// Bytes, big-endian: version (1), salts (8), frame (4), page length (4), checksum (4 + 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) salts: Salts,
    pub(crate) frame: u32,
    pub(crate) page_bytes: u32,
    pub(crate) checksum: Checksum,
}

impl Cursor {
    const VERSION: u8 = 1;
    const BYTES: usize = 25;

    /// The cursor after frame `frame`, whose running checksum is `checksum`.
    pub(crate) fn new(generation: &Generation, frame: u32, checksum: Checksum) -> Self {
        Self { salts: generation.salts, frame, page_bytes: generation.page_bytes, checksum }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.push(Self::VERSION);
        bytes.extend_from_slice(&self.salts.0);
        for word in [self.frame, self.page_bytes, self.checksum.0, self.checksum.1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.into()
    }

    /// Reads a cursor; `None` for anything that [`encode`](Self::encode) did not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES || bytes[0] != Self::VERSION {
            return None;
        }
        let cursor = Self {
            salts: Salts(bytes[1..9].try_into().ok()?),
            frame: be32(bytes, 9),
            page_bytes: be32(bytes, 13),
            checksum: Checksum(be32(bytes, 17), be32(bytes, 21)),
        };
        is_page_size(cursor.page_bytes).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_bytes_and_nothing_else_is_one() {
        let cursor = Cursor {
            salts: Salts(*b"saltsalt"),
            frame: 7,
            page_bytes: 4096,
            checksum: Checksum(1, u32::MAX),
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        assert_eq!(Cursor::decode(&cursor.encode()[..24]), None);
        assert_eq!(Cursor::decode(&[2; 25]), None);
        assert_eq!(Cursor::decode(&[]), None);
    }
}
