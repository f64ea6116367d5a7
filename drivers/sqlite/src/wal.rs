//! The write-ahead log's file format: headers, frames and their running checksum.
//!
//! A frame counts only when its salts are those of the file's header and its checksum continues
//! that of the frame before; and even then only up to the last frame that the wal-index has
//! published, which only SQLite knows (see `generation.rs`).
//!
//! Source: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::{
    fmt, fs,
    io::{self, ErrorKind::UnexpectedEof},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_contract::Result;

use crate::error;

/// Length of the file's header.
pub(crate) const HEADER_BYTES: usize = 32;

/// Length of the header in front of each frame's page.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;

/// The magic number, without its lowest bit, which tells the byte order of checksums.
const MAGIC: u32 = 0x377f_0682;

/// The only version of the format there has ever been.
const VERSION: u32 = 3_007_000;

/// The smallest and largest page.
const PAGE_BYTES_MIN: u32 = 512;
const PAGE_BYTES_MAX: u32 = 65_536;

/// Reads a big-endian number; zero past the end, which no caller reaches.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Whether SQLite can have pages of this size.
pub(crate) fn is_page_size(page_bytes: u32) -> bool {
    page_bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes)
}

/// The two salts that tell one generation of the log from all others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salts(pub(crate) [u8; 8]);

impl Salts {
    /// The salts in a frame's header.
    pub(crate) fn of_frame(header: &[u8; FRAME_HEADER_BYTES]) -> Self {
        let mut salts = Self([0; 8]);
        salts.0.copy_from_slice(&header[8..16]);
        salts
    }

    /// Whether a WAL with these salts came right after one with `earlier`: each restart of the
    /// log adds one to the first salt, and a new file draws both at random.
    pub(crate) fn follow(self, earlier: Self) -> bool {
        be32(&self.0, 0) == be32(&earlier.0, 0).wrapping_add(1)
    }
}

impl fmt::Display for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The checksum over everything in the log so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum(pub(crate) u32, pub(crate) u32);

/// In which byte order checksums read their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As written on most machines.
    Little,
    /// As written on big-endian machines.
    Big,
}

impl Checksum {
    fn update(self, bytes: &[u8], order: Order) -> Self {
        let word = |b: &[u8]| {
            let b = [b[0], b[1], b[2], b[3]];
            if order == Order::Little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) }
        };
        bytes.chunks_exact(8).fold(self, |Self(s0, s1), pair| {
            let s0 = s0.wrapping_add(word(&pair[..4])).wrapping_add(s1);
            let s1 = s1.wrapping_add(word(&pair[4..])).wrapping_add(s0);
            Self(s0, s1)
        })
    }
}

/// One generation of the log, as the file's header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) order: Order,
    /// Length of a page in bytes.
    pub(crate) page_bytes: u32,
    pub(crate) salts: Salts,
    /// Where the chain of checksums begins.
    pub(crate) checksum: Checksum,
}

impl Generation {
    /// Reads a header; `None` when it is torn or not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let magic = be32(bytes, 0);
        let page_bytes = be32(bytes, 8);
        let order = if magic & 1 == 0 { Order::Little } else { Order::Big };
        let checksum = Checksum(0, 0).update(&bytes[..24], order);
        let is_valid = magic & !1 == MAGIC
            && be32(bytes, 4) == VERSION
            && is_page_size(page_bytes)
            && checksum == Checksum(be32(bytes, 24), be32(bytes, 28));
        let salts = Salts(bytes[16..24].try_into().ok()?);
        is_valid.then_some(Self { order, page_bytes, salts, checksum })
    }

    /// Length of a frame with its header.
    pub(crate) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.page_bytes as usize
    }

    /// Where frame `number`, counted from one, begins in the file.
    fn offset(&self, number: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(number - 1) * self.frame_bytes() as u64
    }

    /// Checks one frame against the chain and returns it with the chain's new end.
    pub(crate) fn check<'a>(
        &self,
        frame: &'a [u8],
        before: Checksum,
    ) -> Option<(Frame<'a>, Checksum)> {
        if frame.len() != self.frame_bytes() || frame[8..16] != self.salts.0 {
            return None;
        }
        let header = &frame[..FRAME_HEADER_BYTES];
        let frame = Frame::trusted(frame);
        let after = before.update(&header[..8], self.order).update(frame.page, self.order);
        let is_valid = after == frame_checksum(header) && frame.number != 0;
        is_valid.then_some((frame, after))
    }
}

/// The running checksum that a frame's header holds.
pub(crate) fn frame_checksum(header: &[u8]) -> Checksum {
    Checksum(be32(header, 16), be32(header, 20))
}

/// One page as a transaction left it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// The page's number, from one.
    pub(crate) number: u32,
    /// In the last frame of a transaction the database's length in pages, otherwise zero.
    pub(crate) db_pages: u32,
    /// The page.
    pub(crate) page: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Splits a frame whose place in the chain was checked before.
    pub(crate) fn trusted(frame: &'a [u8]) -> Self {
        let (header, page) = frame.split_at(FRAME_HEADER_BYTES);
        Self { number: be32(header, 0), db_pages: be32(header, 4), page }
    }
}

/// The `-wal` file, opened to be read.
///
/// It bears no locks, so opening and closing it beside SQLite's own descriptor is harmless,
/// unlike the database file and `-shm`.
/// Source: <https://www.sqlite.org/howtocorrupt.html> 2.2.
#[derive(Clone, Debug)]
pub(crate) struct WalFile {
    file: Arc<fs::File>,
    path: PathBuf,
    inode: u64,
}

impl WalFile {
    /// Opens the log at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = fs::File::open(path).map_err(|e| error::file(e, "open the log", path))?;
        let inode = file.metadata().map_err(|e| error::file(e, "read the log", path))?.ino();
        Ok(Self { file: Arc::new(file), path: path.to_owned(), inode })
    }

    /// Whether the path still leads to the file that was opened.
    pub(crate) fn is_current(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
    }

    /// When something was last written to the log.
    pub(crate) fn modified(&self) -> Option<std::time::SystemTime> {
        self.file.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// Reads the header, which is absent while the log is empty and torn while one is written.
    pub(crate) fn generation(&self) -> Result<Option<Generation>> {
        let mut bytes = [0; HEADER_BYTES];
        let whole = self.read(&mut bytes, 0)?;
        Ok(if whole { Generation::decode(&bytes) } else { None })
    }

    /// Reads whole frames from frame `first` on; false when the file is too short for them.
    pub(crate) fn frames(&self, of: &Generation, first: u32, into: &mut [u8]) -> Result<bool> {
        self.read(into, of.offset(first))
    }

    /// Whether the file ends exactly where frame `number` would begin.
    pub(crate) fn ends_before(&self, of: &Generation, number: u32) -> Result<bool> {
        let metadata = self.file.metadata().map_err(|e| self.failed(e))?;
        Ok(metadata.len() == of.offset(number))
    }

    /// Reads the header of one frame, `None` past the end of the file.
    pub(crate) fn frame_header(
        &self,
        of: &Generation,
        number: u32,
    ) -> Result<Option<[u8; FRAME_HEADER_BYTES]>> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let whole = self.read(&mut bytes, of.offset(number))?;
        Ok(whole.then_some(bytes))
    }

    /// The checksum after frame `number`, if that frame belongs to the generation.
    pub(crate) fn checksum_after(&self, of: &Generation, number: u32) -> Result<Option<Checksum>> {
        if number == 0 {
            return Ok(Some(of.checksum));
        }
        let header = self.frame_header(of, number)?;
        Ok(header.filter(|h| h[8..16] == of.salts.0).map(|h| frame_checksum(&h)))
    }

    fn read(&self, into: &mut [u8], offset: u64) -> Result<bool> {
        match self.file.read_exact_at(into, offset) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == UnexpectedEof => Ok(false),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn failed(&self, error: io::Error) -> stillpoint_contract::Error {
        error::file(error, "read the log", &self.path)
    }
}
