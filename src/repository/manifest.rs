//! What a backup is: wire types of the manifest and of the part table, versioned.
//!
//! A manifest names plaintext chunks only. How a chunk is encoded and in which pack it lies is the
//! index's business, so repacking never touches a manifest.

use std::{collections::BTreeMap, fmt::Write as _};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Error, ErrorKind, Evidence, Extensions, Identity, LogPosition, LogRange, PartName, PartRecord,
    PartSpec, Result, Shape, Tally, code,
};

use super::{descriptor::newer, history::PackList};
use crate::pipeline::id::ChunkId;

/// The newest version of manifests that this program writes and reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// The longest manifest, in bytes before compression.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// The longest pack list, in bytes: 2.6 million packs, 80 TiB.
pub const PACK_LIST_BYTES_MAX: u64 = 256 << 20;

/// Chunks of a part that are named in the part table itself; longer parts have leaves.
pub const INLINE_CHUNKS_MAX: usize = 16;

/// Chunk ids in one leaf; 1 GiB of a part at the default chunk length.
pub const LEAF_CHUNKS: usize = 4096;

/// Parts in one page of the part table.
pub const PAGE_PARTS_MAX: usize = 4096;

/// One page of the part table, in bytes.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// The object that is the backup. Written before the log entry that makes it one; never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this structure.
    pub format: u32,
    /// What wrote it, for people.
    pub program: String,
    /// The backup's id, a ULID.
    pub backup: String,
    /// The database's name.
    pub database: String,
    /// The name of its engine.
    pub engine: String,
    /// The engine's version.
    pub version: String,
    /// Which incarnation of the database.
    pub identity: Identity,
    /// Settings recorded for the restore.
    pub settings: BTreeMap<String, String>,
    /// The digest of the configuration by which it was made; none, if it was made without one, or
    /// before that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// When the backup began.
    pub started_at: DateTime<Utc>,
    /// When its last byte was stored.
    pub finished_at: DateTime<Utc>,
    /// The instant, by our clock, of the state it holds.
    pub consistent_time: DateTime<Utc>,
    /// The position of the state it holds.
    pub consistent_at: Option<LogPosition>,
    /// What capture needs to join its log to this backup, in hex.
    pub cursor: String,
    /// Log that must be replayed before the copy is consistent.
    pub replay: Option<LogRange>,
    /// Whether unchanged pages were kept without reading them.
    pub incremental: bool,
    /// How the copy was taken.
    pub method: String,
    /// How many rows tables have, as far as the driver knew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tallies: Vec<Tally>,
    /// Names and versions of the extensions of each database, as far as the driver knew.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: Extensions,
    /// What the engine's checksums said against pages that were copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// The backup whose chunks were reused first. Advisory: nothing is read through it.
    pub parent: Option<String>,
    /// How many backups of this incarnation came before, as its writer counted.
    pub ordinal: u64,
    /// Length of a chunk in bytes.
    pub chunk_bytes: u32,
    /// The pages of the part table, in order.
    pub part_pages: Vec<ChunkId>,
    /// How many parts there are.
    pub parts: u64,
    /// Length of all parts, in bytes.
    pub size_bytes: u64,
    /// What the driver wrote, in bytes; the rest was kept.
    pub written_bytes: u64,
    /// Plaintext that was new to the repository, in bytes.
    pub new_bytes: u64,
}

impl Manifest {
    /// The engine's proof, as the driver gave it.
    pub fn evidence(&self) -> Result<Evidence> {
        let cursor = data_encoding::HEXLOWER
            .decode(self.cursor.as_bytes())
            .map_err(|e| damaged("manifest").caused_by(e))?;
        Ok(Evidence {
            consistent_at: self.consistent_at.clone(),
            consistent_time: self.consistent_time,
            cursor: cursor.into(),
            replay: self.replay.clone(),
            incremental: self.incremental,
            method: self.method.clone(),
            tallies: self.tallies.clone(),
            extensions: self.extensions.clone(),
            damage: self.damage.clone(),
        })
    }

    /// Writes the plaintext form.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::bug("write a manifest").caused_by(e))
    }

    /// Reads the plaintext form.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version =
            serde_json::from_slice(bytes).map_err(|e| damaged("manifest").caused_by(e))?;
        if version.format > MANIFEST_FORMAT {
            return Err(newer("a manifest", version.format));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| damaged("manifest").caused_by(e))?;
        let chunk_bytes = manifest.chunk_bytes;
        if !chunk_bytes.is_power_of_two() || !(65_536..=1 << 20).contains(&chunk_bytes) {
            return Err(damaged("manifest"));
        }
        Ok(manifest)
    }
}

/// A part, as the part table has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Its name.
    pub name: PartName,
    /// How its bytes are arranged.
    pub shape: Shape,
    /// What the driver needs at restore.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Its length in bytes.
    pub length_bytes: u64,
    /// Its chunks.
    pub content: Content,
}

/// Where the ids of a part's chunks are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Here.
    Chunks(Vec<ChunkId>),
    /// In leaves of [`LEAF_CHUNKS`] ids each.
    Leaves(Vec<ChunkId>),
}

impl PartEntry {
    /// What drivers see of it.
    pub fn record(&self) -> PartRecord {
        PartRecord {
            spec: PartSpec {
                name: self.name.clone(),
                shape: self.shape,
                attributes: self.attributes.clone(),
            },
            length_bytes: self.length_bytes,
        }
    }

    /// How many chunks it has.
    pub fn chunks(&self, chunk_bytes: u32) -> u64 {
        self.length_bytes.div_ceil(u64::from(chunk_bytes))
    }

    /// Checks that it names as many chunks as its length needs.
    fn is_sound(&self, chunk_bytes: u32) -> bool {
        let chunks = self.chunks(chunk_bytes);
        match &self.content {
            Content::Chunks(ids) => ids.len() as u64 == chunks && ids.len() <= INLINE_CHUNKS_MAX,
            Content::Leaves(ids) => ids.len() as u64 == chunks.div_ceil(LEAF_CHUNKS as u64),
        }
    }
}

/// Writes one page of the part table: one line of JSON for each part.
pub fn encode_page(parts: &[PartEntry]) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    for part in parts {
        serde_json::to_writer(&mut page, part)
            .map_err(|e| Error::bug("write a part table").caused_by(e))?;
        page.push(b'\n');
    }
    Ok(page)
}

/// Reads one page of the part table.
pub fn decode_page(bytes: &[u8], chunk_bytes: u32) -> Result<Vec<PartEntry>> {
    let text = bytes.strip_suffix(b"\n").ok_or_else(|| damaged("part table"))?;
    let mut parts = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let part: PartEntry =
            serde_json::from_slice(line).map_err(|e| damaged("part table").caused_by(e))?;
        if !part.is_sound(chunk_bytes) || parts.len() == PAGE_PARTS_MAX {
            return Err(damaged("part table"));
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Writes a leaf: chunk ids one after the other.
pub fn encode_leaf(ids: &[ChunkId]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// Reads a leaf.
pub fn decode_leaf(bytes: &[u8]) -> Result<Vec<ChunkId>> {
    let (ids, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || ids.len() > LEAF_CHUNKS {
        return Err(damaged("leaf"));
    }
    Ok(ids.iter().map(|id| ChunkId::new(*id)).collect())
}

/// First line of a pack list.
const PACK_LIST_TITLE: &str = "stillpoint-packs 1";

/// Writes a pack list: names and sizes, readable and checkable without a key.
pub fn encode_pack_list(packs: &PackList) -> Vec<u8> {
    let mut text = format!("{PACK_LIST_TITLE}\n");
    for (name, size_bytes) in packs {
        writeln!(text, "{name} {size_bytes}").expect("a String grows");
    }
    text.into_bytes()
}

/// Reads a pack list.
pub fn decode_pack_list(bytes: &[u8]) -> Result<PackList> {
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("pack list"))?;
    let mut lines = text.lines();
    if lines.next() != Some(PACK_LIST_TITLE) {
        return Err(damaged("pack list"));
    }
    lines
        .map(|line| {
            let (name, size) = line.split_once(' ')?;
            Some((name.parse().ok()?, size.parse().ok()?))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| damaged("pack list"))
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read a {what}"))
        .why("the backup that it describes cannot be restored from this copy")
        .next("run `stillpoint verify` and restore from another copy or another backup")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::pack::{PackKind, PackName};

    #[test]
    fn pack_lists_survive_their_text_and_refuse_any_other() {
        let name = |byte, kind| PackName { hash: [byte; 32], kind };
        let packs = PackList::from([
            (name(0xab, PackKind::Data), 7),
            (name(0xcd, PackKind::Meta), 33_554_432),
        ]);
        let text = encode_pack_list(&packs);
        assert_eq!(decode_pack_list(&text).unwrap(), packs);
        for bad in ["", "stillpoint-packs 2\n", "stillpoint-packs 1\nxyz 1\n"] {
            assert!(decode_pack_list(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_part_that_names_too_few_chunks_is_refused() {
        let part = PartEntry {
            name: PartName::new("main").unwrap(),
            shape: Shape::Paged { page_bytes: 4096 },
            attributes: BTreeMap::new(),
            length_bytes: 262_145,
            content: Content::Chunks(vec![ChunkId::ZERO, ChunkId::ZERO]),
        };
        let page = encode_page(std::slice::from_ref(&part)).unwrap();
        assert_eq!(decode_page(&page, 262_144).unwrap(), std::slice::from_ref(&part));
        let short = PartEntry { content: Content::Chunks(vec![ChunkId::ZERO]), ..part };
        assert!(decode_page(&encode_page(&[short]).unwrap(), 262_144).is_err());
    }
}
