//! What a backup knows of the cluster besides its files: one small part, versioned.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Error, ErrorKind, Extensions, PartName, PartSpec, Result, Shape, Sink, Source, code,
};

/// The name of the part.
pub(crate) const LAYOUT_PART: &str = "stillpoint/layout.json";

/// Below this, files that lie outside of the data directory.
pub(crate) const OUTSIDE_PREFIX: &str = "stillpoint/etc/";

/// The version of [`Layout`] that is written; a newer one is refused.
const VERSION: u32 = 1;

/// The longest part that is read.
const LAYOUT_BYTES_MAX: u64 = 16 << 20;

/// How many corrupt pages are named; more are only counted.
pub(crate) const CORRUPT_PAGES_MAX: usize = 1000;

/// What a restore must know besides the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) version: u32,
    /// As the server says it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub(crate) server_version: String,
    /// Such as 150018.
    pub(crate) server_version_num: u32,
    /// Decimal.
    pub(crate) system_identifier: String,
    pub(crate) timeline: u32,
    /// Where replay begins, such as `0/2000028`.
    pub(crate) start_lsn: String,
    /// Where the copy is consistent.
    pub(crate) stop_lsn: String,
    pub(crate) wal_segment_bytes: u32,
    pub(crate) page_bytes: u32,
    pub(crate) data_checksums: bool,
    /// Permission bits of directories.
    pub(crate) directory_mode: u32,
    /// Permission bits of files.
    pub(crate) file_mode: u32,
    /// Every directory, relative to the data directory, also empty ones.
    pub(crate) directories: Vec<String>,
    pub(crate) tablespaces: Vec<Tablespace>,
    /// Pages whose checksums do not fit, by part.
    pub(crate) corrupt_pages: Vec<CorruptPage>,
    /// All of them, also those that are not named.
    pub(crate) corrupt_pages_count: u64,
    /// Configuration files outside of the data directory.
    pub(crate) files_outside: Vec<FileOutside>,
    /// Extensions of each database that could be asked.
    pub(crate) extensions: Extensions,
    /// Settings that a server needs to replay, and that matter afterwards.
    pub(crate) settings: BTreeMap<String, String>,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tablespace {
    pub(crate) oid: u32,
    /// `None` in backups that were made before names were recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Where it was; `None` for one inside of `pg_tblspc`.
    pub(crate) location: Option<String>,
}

/// A page whose checksum does not fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct CorruptPage {
    pub(crate) part: String,
    /// Its number within the part.
    pub(crate) page: u32,
}

/// A file outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileOutside {
    /// The setting that names it, such as `hba_file`.
    pub(crate) setting: String,
    pub(crate) path: String,
    /// The part that holds it; `None` where the role may not read it.
    pub(crate) part: Option<String>,
}

impl Layout {
    /// The version to write.
    pub(crate) const fn version() -> u32 {
        VERSION
    }

    /// Writes the part.
    pub(crate) async fn write(&self, sink: &dyn Sink) -> Result<()> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::bug("encode").caused_by(e))?;
        write_part(sink, LAYOUT_PART, BTreeMap::new(), bytes.into()).await
    }

    /// Reads the part of a backup.
    pub(crate) async fn read(parts: &dyn Source) -> Result<Self> {
        let bytes = parts.read(&PartName::new(LAYOUT_PART)?, 0..LAYOUT_BYTES_MAX).await?;
        let bad = || Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read the layout");
        let layout: Self = serde_json::from_slice(&bytes).map_err(|e| bad().caused_by(e))?;
        if layout.version > VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                code::NEWER_FORMAT,
                "read the layout of a PostgreSQL backup",
            )
            .with("version", layout.version)
            .next("use a newer Stillpoint"));
        }
        Ok(layout)
    }
}

/// Writes a whole part that is a stream.
pub(crate) async fn write_part(
    sink: &dyn Sink,
    name: &str,
    attributes: BTreeMap<String, String>,
    bytes: Bytes,
) -> Result<()> {
    let spec = PartSpec { name: PartName::new(name)?, shape: Shape::Stream, attributes };
    let part = sink.create(spec).await?;
    let length = bytes.len() as u64;
    if length > 0 {
        part.write(0, bytes).await?;
    }
    part.finish(length).await
}
