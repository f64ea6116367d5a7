//! The two halves of the hand-over of a backup: a driver writes parts into a [`Sink`] and finds
//! them again in a [`Source`]. Neither side knows who stands behind it.
//!
//! Push, not pull: engines that stripe must drain every stripe at once, and a full pipeline slows
//! the engine down instead of filling memory.

use std::{collections::BTreeMap, fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, code};

/// A relative, `/`-separated name of one part of a backup, such as `base/16384/2619`.
///
/// Invariant: 1 to 1,024 bytes; no empty, `.` or `..` segment, no leading `/`, no NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartName(String);

impl PartName {
    /// The longest name, in bytes.
    pub const LENGTH_BYTES_MAX: usize = 1024;

    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let bad = |segment: &str| matches!(segment, "" | "." | "..") || segment.contains('\0');
        if name.len() > Self::LENGTH_BYTES_MAX || name.split('/').any(bad) {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "name a part")
                .with("part", name.escape_debug()));
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PartName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<PartName> for String {
    fn from(name: PartName) -> Self {
        name.0
    }
}

/// How the bytes of a part are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Pages of a fixed size, written at any offset, in any order, from several tasks at once.
    Paged {
        /// Length of a page in bytes.
        page_bytes: u32,
    },
    /// Bytes in order, of a length that nobody knows before the end.
    Stream,
}

/// A part that a driver is about to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// Its name, unique in the backup.
    pub name: PartName,
    /// How its bytes are arranged.
    pub shape: Shape,
    /// What the driver needs at restore, such as a file mode. At most 4 KiB in all.
    pub attributes: BTreeMap<String, String>,
}

/// A part as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// What the driver wrote.
    pub spec: PartSpec,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// Where a driver puts the parts of a backup.
///
/// # Behaviour
///
/// - Parts may be written concurrently, and each paged part by several tasks.
/// - Nothing written here can be seen by anyone until the whole backup is committed, which is not
///   the driver's business. Dropping sink and writers at any point leaves no backup.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    /// Opens a new part.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the name was used before in this backup.
    async fn create(&self, spec: PartSpec) -> Result<Box<dyn PartWriter>>;
}

/// One part being written. Dropping it unfinished makes the backup impossible to commit.
///
/// # Behaviour
///
/// - Every byte of the part is either written or kept, exactly once.
/// - A stream is written in order: `offset` is the length so far.
/// - Ranges of a paged part may come in any order. Whole multiples of [`EXTENT_BYTES`] pass
///   through; what lies between them is buffered until its neighbours arrive, up to
///   [`EXTENTS_OPEN_MAX`] extents, so a driver writes neighbours soon after each other.
/// - `write` waits while the pipeline is full, and so slows the engine down to its pace.
#[async_trait]
pub trait PartWriter: fmt::Debug + Send + Sync {
    /// Writes bytes at `offset`.
    ///
    /// # Errors
    ///
    /// Whatever the repository reports; the backup must then be abandoned.
    async fn write(&self, offset: u64, bytes: Bytes) -> Result<()>;

    /// Keeps `range` as it is in the part of the same name of the base backup, without reading it.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when there is no base, or the base's part is shorter.
    async fn keep(&self, range: Range<u64>) -> Result<()>;

    /// Ends the part at `length_bytes`. Returns when its bytes are on their way, not when they are
    /// durable: only the commit of the backup says that.
    ///
    /// # Errors
    ///
    /// [`Bug`](ErrorKind::Bug) when some byte was neither written nor kept.
    async fn finish(self: Box<Self>, length_bytes: u64) -> Result<()>;
}

/// Alignment at which a paged part passes through the pipeline without buffering, in bytes.
pub const EXTENT_BYTES: u64 = 1 << 20;

/// How many partly written extents a sink holds for one part before it refuses more.
pub const EXTENTS_OPEN_MAX: usize = 64;

/// Where a driver finds the parts of a backup again. Bytes are verified before they are returned.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Lists the parts in the order they were finished, one page of at most 4,096 at a time; an
    /// empty page lies past the last.
    async fn parts(&self, page: u32) -> Result<Vec<PartRecord>>;

    /// Reads a range of a part, shorter where the part ends earlier. At most 32 MiB at a time.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when the stored bytes do not match their hash. No byte of a
    /// corrupt chunk is ever returned. [`Missing`](ErrorKind::Missing) when there is no such part.
    async fn read(&self, name: &PartName, range: Range<u64>) -> Result<Bytes>;
}
