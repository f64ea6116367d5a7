//! Filling a pack in memory.

use std::collections::HashSet;

use bytes::Bytes;
use stillpoint_contract::{Entropy, Error, Result};

use super::{
    PackEntry, PackHeader, PackKind, PackName, SealedBlob, header::PACK_BYTES_MAX, read::seal_table,
};
use crate::pipeline::{id::ChunkId, keys::Domain};

/// Room that a pack has at first. Many are small, and room for a large one that is given back
/// again and again leaves the allocator with holes.
const FIRST_BYTES: usize = 64 << 10;

/// A pack being filled. Holds at most its target and one blob more in memory.
pub struct PackBuilder {
    kind: PackKind,
    target_bytes: usize,
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
    ids: HashSet<ChunkId>,
    bases: HashSet<ChunkId>,
}

/// A pack ready to be stored.
#[derive(Clone, Debug)]
pub struct FinishedPack {
    /// Its name.
    pub name: PackName,
    /// The whole file.
    pub bytes: Bytes,
    /// What it holds, in order of offset.
    pub entries: Vec<PackEntry>,
}

impl PackBuilder {
    /// Where a data pack is cut, in bytes: large enough that syncing it to disk is cheap, small
    /// enough that losing an unfinished one is.
    pub const DATA_TARGET_BYTES: usize = 32 << 20;
    /// Where a metadata pack is cut, in bytes.
    pub const META_TARGET_BYTES: usize = 8 << 20;

    /// Begins a pack of the usual size.
    pub fn new(kind: PackKind, domain: &Domain, entropy: &dyn Entropy) -> Self {
        let target_bytes = match kind {
            PackKind::Data => Self::DATA_TARGET_BYTES,
            PackKind::Meta => Self::META_TARGET_BYTES,
        };
        Self::with_target(kind, target_bytes, domain, entropy)
    }

    /// Begins a pack that is cut at `target_bytes`, which is kept within half the largest pack.
    pub fn with_target(
        kind: PackKind,
        target_bytes: usize,
        domain: &Domain,
        entropy: &dyn Entropy,
    ) -> Self {
        let mut random = [0; 16];
        entropy.fill(&mut random);
        let (epoch, repository) = (domain.epoch(), domain.repository());
        let header = PackHeader { kind, epoch, repository, random };
        let target_bytes = target_bytes.min(PACK_BYTES_MAX / 2);
        let mut bytes = Vec::with_capacity(target_bytes.min(FIRST_BYTES));
        bytes.extend_from_slice(&header.encode());
        let (entries, ids, bases) = (Vec::new(), HashSet::new(), HashSet::new());
        Self { kind, target_bytes, bytes, entries, ids, bases }
    }

    /// Whether `blob` may join this pack: there is room below the target (a first blob always has
    /// room), and the pack does not bring a delta and its base together, which would put both at
    /// risk of one damaged file.
    pub fn accepts(&self, blob: &SealedBlob) -> bool {
        let label = blob.label();
        let room =
            self.is_empty() || self.file_bytes_with(blob.stored_bytes()) <= self.target_bytes;
        room && !self.bases.contains(&label.id)
            && label.base.is_none_or(|base| !self.ids.contains(&base))
    }

    /// Adds a blob, freshly sealed or copied from another pack of the same key epoch.
    ///
    /// # Errors
    ///
    /// [`Bug`](stillpoint_contract::ErrorKind::Bug) when the pack does not accept it.
    pub fn push(&mut self, blob: &SealedBlob) -> Result<()> {
        if !self.accepts(blob) {
            return Err(Error::bug("add a blob to a pack").with("blob", blob.label().id));
        }
        let offset = self.bytes.len() as u32;
        let (label, stored_bytes) = (*blob.label(), blob.stored_bytes() as u32);
        blob.write_to(&mut self.bytes);
        self.entries.push(PackEntry { label, offset, stored_bytes });
        self.ids.insert(label.id);
        self.bases.extend(label.base);
        Ok(())
    }

    /// Whether nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Length that the file would have if it were finished now, in bytes.
    pub fn file_bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * PackEntry::LENGTH_BYTES + super::read::FOOTER_BYTES
    }

    /// Whether the pack has this chunk.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.ids.contains(id)
    }

    /// Adds the table of contents and names the pack. Hashes all of it: work for a CPU thread.
    pub fn finish(mut self) -> FinishedPack {
        seal_table(&self.entries, &mut self.bytes);
        let name = PackName::of(self.kind, &self.bytes);
        FinishedPack { name, bytes: self.bytes.into(), entries: self.entries }
    }

    fn file_bytes_with(&self, stored_bytes: usize) -> usize {
        self.file_bytes() + stored_bytes + PackEntry::LENGTH_BYTES
    }
}

impl std::fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackBuilder")
            .field("kind", &self.kind)
            .field("blobs", &self.entries.len())
            .field("file_bytes", &self.file_bytes())
            .finish_non_exhaustive()
    }
}
