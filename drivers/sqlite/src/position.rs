//! Names of places in a SQLite database's history.
//!
//! One generation of the write-ahead log is one lineage, and a frame number, counted from one, is
//! the offset of the state that includes the frame: zero is the state before the first. While
//! nobody has a log open, the file *rests*; that state has a lineage of its own, with the single
//! offset zero, named by when the file was last written and changed, and how long it is. Names that
//! were given before the time of change was part of them match no file: whatever follows them is
//! read in full.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Clock, Lineage, LogPosition, Result};

use crate::{
    error,
    first_page::{FirstPages, PageHash},
    wal::{Checksum, Generation, Salts, be32, is_page_size},
};

/// How old a file's time stamp must be before another write is sure to give it another one: file
/// systems take it from the kernel's tick, at most 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// The same for file systems that keep coarse stamps: FAT, the coarsest, rounds to two seconds.
const COARSE_TICK: Duration = Duration::from_millis(2020);

/// A stamp that is a multiple of this may come from such a file system.
const COARSE_NANOSECONDS: i64 = 10_000_000;

/// The lineage of one generation.
pub(crate) fn generation(id: &str, salts: Salts) -> Result<Lineage> {
    Lineage::new(format!("{}-{salts}", short(id)))
}

/// The lineage of what is left of a generation after another program wrote over the file: its
/// frames belong to another file than those before.
pub(crate) fn over(id: &str, salts: Salts, in_file: PageHash) -> Result<Lineage> {
    let page = u64::from_be_bytes(in_file);
    Lineage::new(format!("{}-over-{page:016x}-{salts}", short(id)))
}

/// Whether a lineage is one of those.
pub(crate) fn is_over(lineage: &Lineage) -> bool {
    lineage.as_str().contains("-over-")
}

/// Whether a lineage is of the generation with these salts, over whichever file.
pub(crate) fn is_of(lineage: &Lineage, id: &str, salts: Salts) -> bool {
    let rest = lineage.as_str().strip_prefix(short(id));
    rest.is_some_and(|rest| rest.ends_with(&format!("-{salts}")))
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
///
/// Programs can set the time of modification as they like, but not that of change, so the name has
/// both. Where another write might leave even that one as it is, the name is given once and never
/// again: whatever is compared with it has changed.
pub(crate) fn at_rest(id: &str, path: &Path, clock: &dyn Clock) -> Result<LogPosition> {
    let stamps = || fs::metadata(path).map(|m| Stamps::of(&m)).map_err(|_| error::vanished(path));
    let mut found = stamps()?;
    if !found.is_final(clock.now()) && found.is_fine() {
        std::thread::sleep(TICK);
        found = stamps()?;
    }
    let mut hash = found.hash();
    if !found.is_final(clock.now()) {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        hash.update(&number.to_le_bytes());
        hash.update(&std::process::id().to_le_bytes());
        hash.update(&clock.now().timestamp_micros().to_le_bytes());
        hash.update(&clock.elapsed().as_nanos().to_le_bytes());
    }
    let hash = hash.finalize().to_hex();
    let lineage = Lineage::new(format!("{}-rest-{}", short(id), &hash.as_str()[..16]))?;
    Ok(LogPosition { lineage, offset: 0 })
}

/// By what an untouched file is recognised, beside its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
    length_bytes: u64,
}

impl Stamps {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length_bytes: metadata.size(),
        }
    }

    fn hash(&self) -> blake3::Hasher {
        let mut hash = blake3::Hasher::new();
        hash.update(b"rest 2");
        for number in [self.modified.0, self.modified.1, self.changed.0, self.changed.1] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(&self.length_bytes.to_le_bytes());
        hash
    }

    /// Whether the file system keeps stamps as fine as the kernel's tick.
    fn is_fine(&self) -> bool {
        self.changed.1 % COARSE_NANOSECONDS != 0
    }

    /// Whether a write from `now` on leaves another stamp. A stamp that was never kept, or lies in
    /// the future because a clock was set back, says nothing.
    pub(crate) fn is_final(&self, now: DateTime<Utc>) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let at = u32::try_from(nanoseconds).ok().and_then(|n| DateTime::from_timestamp(seconds, n));
        let age = at.filter(|_| 0 < seconds).and_then(|at| (now - at).to_std().ok());
        age.is_some_and(|age| if self.is_fine() { TICK <= age } else { COARSE_TICK <= age })
    }
}

/// The part of an identity that lineages bear.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// What capture needs to find a frame again in the log: its generation and the checksum over
/// everything up to it.
///
/// Bytes, big-endian: version (1), salts (8), frame (4), page length (4), checksum (4 + 4), and
/// from version 2 on the first page in the file (8) and as it is seen (8). Version 1 is still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) salts: Salts,
    pub(crate) frame: u32,
    pub(crate) page_bytes: u32,
    pub(crate) checksum: Checksum,
    pub(crate) pages: Option<FirstPages>,
}

impl Cursor {
    /// Lengths by version, from one.
    const BYTES: [usize; 2] = [25, 41];

    /// The cursor after frame `frame`, whose running checksum is `checksum`.
    pub(crate) fn new(
        generation: &Generation,
        frame: u32,
        checksum: Checksum,
        pages: FirstPages,
    ) -> Self {
        let (salts, page_bytes) = (generation.salts, generation.page_bytes);
        Self { salts, frame, page_bytes, checksum, pages: Some(pages) }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(Self::BYTES[1]);
        bytes.push(if self.pages.is_some() { 2 } else { 1 });
        bytes.extend_from_slice(&self.salts.0);
        for word in [self.frame, self.page_bytes, self.checksum.0, self.checksum.1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        if let Some(FirstPages { in_file, seen }) = self.pages {
            bytes.extend([in_file, seen].concat());
        }
        bytes.into()
    }

    /// Reads a cursor; `None` for anything that [`encode`](Self::encode) did not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let version = usize::from(*bytes.first()?);
        if Self::BYTES.get(version.checked_sub(1)?) != Some(&bytes.len()) {
            return None;
        }
        let page = |at: usize| bytes.get(at..at + 8).and_then(|page| page.try_into().ok());
        let cursor = Self {
            salts: Salts(bytes[1..9].try_into().ok()?),
            frame: be32(bytes, 9),
            page_bytes: be32(bytes, 13),
            checksum: Checksum(be32(bytes, 17), be32(bytes, 21)),
            pages: page(25).zip(page(33)).map(|(in_file, seen)| FirstPages { in_file, seen }),
        };
        is_page_size(cursor.page_bytes).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_another_write_could_leave_as_it_is_names_nothing() {
        let at = |changed| Stamps { modified: (7, 7), changed, length_bytes: 4096 };
        let later = |seconds, millis: i64| {
            DateTime::from_timestamp(seconds, 0).unwrap() + chrono::Duration::milliseconds(millis)
        };
        let (fine, coarse) = (at((1_000, 123_456_789)), at((1_000, 0)));
        assert!(!fine.is_final(later(1_000, 130)));
        assert!(fine.is_final(later(1_000, 150)));
        assert!(!coarse.is_final(later(1_001, 999)));
        assert!(!at((1_000, 990_000_000)).is_final(later(1_002, 999)));
        assert!(coarse.is_final(later(1_002, 20)));
        assert!(!fine.is_final(later(999, 0)), "the clock was set back");
        assert!(!at((0, 0)).is_final(later(1_000, 0)), "the file system keeps no such time");
        for other in [at((1_001, 123_456_789)), Stamps { modified: (7, 8), ..fine }] {
            assert_ne!(fine.hash().finalize(), other.hash().finalize());
        }
    }

    #[test]
    fn a_cursor_survives_its_bytes_and_nothing_else_is_one() {
        let cursor = Cursor {
            salts: Salts(*b"saltsalt"),
            frame: 7,
            page_bytes: 4096,
            checksum: Checksum(1, u32::MAX),
            pages: None,
        };
        let pages = Some(FirstPages { in_file: *b"in file.", seen: *b"is seen." });
        for cursor in [cursor, Cursor { pages, ..cursor }] {
            assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        }
        assert_eq!(cursor.encode().len(), 25, "what the first version wrote");
        assert_eq!(Cursor::decode(&cursor.encode()[..24]), None);
        assert_eq!(Cursor::decode(&[2; 25]), None);
        assert_eq!(Cursor::decode(&[]), None);
    }
}
