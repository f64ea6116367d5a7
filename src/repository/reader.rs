//! A backup, read back: its parts, and their bytes once they are verified.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, PartName, PartRecord, Result, Source, code};
use tokio::sync::Mutex;

use super::{
    blobs::{Blobs, FETCH_CHUNKS_MAX, Wanted},
    manifest::{Content, LEAF_CHUNKS, Manifest, PartEntry, decode_leaf, decode_page},
};
use crate::pipeline::id::ChunkId;

/// The longest answer to one read, in bytes.
const READ_BYTES_MAX: u64 = 32 << 20;

/// Where each part is in the part table: 16 bytes for each, sorted. Equal hashes are told apart by
/// the names themselves.
type Places = Vec<PlaceOfPart>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlaceOfPart {
    name_hash: u64,
    page: u32,
    index: u32,
}

/// Reads one backup.
pub struct BackupReader {
    manifest: Manifest,
    blobs: Blobs,
    /// Where each part is in the part table, by hash of its name; read when first needed.
    places: Mutex<Option<Arc<Places>>>,
    /// The page read last.
    page: Mutex<Option<(u32, Arc<Vec<PartEntry>>)>>,
    /// The part read last.
    part: Mutex<Option<Arc<BasePart>>>,
}

impl fmt::Debug for BackupReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupReader")
            .field("backup", &self.manifest.backup)
            .finish_non_exhaustive()
    }
}

impl BackupReader {
    pub(super) fn new(manifest: Manifest, blobs: Blobs) -> Self {
        let (places, page, part) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { manifest, blobs, places, page, part }
    }

    /// What the backup is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many blobs were opened so far.
    pub fn blobs_opened(&self) -> u64 {
        self.blobs.opened.load(Ordering::Relaxed)
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// One page of the part table; empty past the last.
    pub(super) async fn page(&self, page: u32) -> Result<Arc<Vec<PartEntry>>> {
        let Some(id) = self.manifest.part_pages.get(page as usize) else {
            return Ok(Arc::default());
        };
        let mut cached = self.page.lock().await;
        if let Some((number, parts)) = &*cached
            && *number == page
        {
            return Ok(Arc::clone(parts));
        }
        let bytes = self.blobs.metadata(*id).await?;
        let parts = Arc::new(decode_page(&bytes, self.manifest.chunk_bytes)?);
        *cached = Some((page, Arc::clone(&parts)));
        Ok(parts)
    }

    /// A part by name, or `None` when the backup has none.
    pub(super) async fn find(&self, name: &PartName) -> Result<Option<Arc<BasePart>>> {
        let mut last = self.part.lock().await;
        if let Some(part) = last.as_ref().filter(|part| part.entry.name == *name) {
            return Ok(Some(Arc::clone(part)));
        }
        let places = self.places().await?;
        let name_hash = short_hash(name);
        let first = places.partition_point(|place| place.name_hash < name_hash);
        let same = places.iter().skip(first).take_while(|place| place.name_hash == name_hash);
        for place in same {
            let parts = self.page(place.page).await?;
            let Some(entry) = parts.get(place.index as usize) else {
                return Err(Error::bug("find a part in its page"));
            };
            if entry.name == *name {
                let part = Arc::new(BasePart::new(entry.clone(), self.manifest.chunk_bytes));
                *last = Some(Arc::clone(&part));
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    async fn places(&self) -> Result<Arc<Places>> {
        let mut known = self.places.lock().await;
        if let Some(places) = &*known {
            return Ok(Arc::clone(places));
        }
        let mut places = Places::new();
        for page in 0..self.manifest.part_pages.len() as u32 {
            for (index, part) in self.page(page).await?.iter().enumerate() {
                let (name_hash, index) = (short_hash(&part.name), index as u32);
                places.push(PlaceOfPart { name_hash, page, index });
            }
        }
        places.sort_unstable();
        let places = Arc::new(places);
        *known = Some(Arc::clone(&places));
        Ok(places)
    }
}

#[async_trait]
impl Source for BackupReader {
    async fn parts(&self, page: u32) -> Result<Vec<PartRecord>> {
        Ok(self.page(page).await?.iter().map(PartEntry::record).collect())
    }

    async fn read(&self, name: &PartName, range: Range<u64>) -> Result<Bytes> {
        let part = self.find(name).await?.ok_or_else(|| {
            Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("read part {name}"))
                .with("backup", &self.manifest.backup)
        })?;
        part.read(&self.blobs, range).await
    }
}

/// One part of a backup and the ids of its chunks.
#[derive(Debug)]
pub(super) struct BasePart {
    entry: PartEntry,
    chunk_bytes: u32,
    /// The leaf read last.
    leaf: Mutex<Option<(u64, Arc<Vec<ChunkId>>)>>,
}

impl BasePart {
    pub(super) fn new(entry: PartEntry, chunk_bytes: u32) -> Self {
        Self { entry, chunk_bytes, leaf: Mutex::default() }
    }

    pub(super) fn length_bytes(&self) -> u64 {
        self.entry.length_bytes
    }

    pub(super) fn name(&self) -> &PartName {
        &self.entry.name
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> u64 {
        self.entry.chunks(self.chunk_bytes)
    }

    /// The id of a whole leaf, where the part has it.
    pub(super) fn leaf_id(&self, leaf: u64) -> Option<ChunkId> {
        let is_whole = (leaf + 1) * LEAF_CHUNKS as u64 <= self.chunks();
        match &self.entry.content {
            Content::Leaves(ids) if is_whole => ids.get(usize::try_from(leaf).ok()?).copied(),
            Content::Leaves(_) | Content::Chunks(_) => None,
        }
    }

    /// The length of a chunk in bytes.
    pub(super) fn chunk_length(&self, chunk: u64) -> usize {
        let start = chunk * u64::from(self.chunk_bytes);
        self.length_bytes().saturating_sub(start).min(u64::from(self.chunk_bytes)) as usize
    }

    /// The ids of neighbouring chunks, as far as the part has them.
    pub(super) async fn ids(&self, blobs: &Blobs, chunks: Range<u64>) -> Result<Vec<ChunkId>> {
        let chunks = chunks.start..chunks.end.min(self.chunks());
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        if let Content::Chunks(ids) = &self.entry.content {
            return Ok(ids[chunks.start as usize..chunks.end as usize].to_vec());
        }
        let mut ids = Vec::with_capacity((chunks.end - chunks.start) as usize);
        let mut at = chunks.start;
        while at < chunks.end {
            let number = at / LEAF_CHUNKS as u64;
            let first = number * LEAF_CHUNKS as u64;
            let stop = chunks.end.min(first + LEAF_CHUNKS as u64);
            let leaf = self.leaf(blobs, number).await?;
            let stretch = leaf.get((at - first) as usize..(stop - first) as usize);
            ids.extend_from_slice(stretch.ok_or_else(|| self.damaged())?);
            at = stop;
        }
        Ok(ids)
    }

    /// The id and length of a chunk that the part has.
    pub(super) async fn wanted(&self, blobs: &Blobs, chunk: u64) -> Result<Wanted> {
        let id = self.ids(blobs, chunk..chunk + 1).await?.pop();
        Ok((id.ok_or_else(|| self.damaged())?, self.chunk_length(chunk)))
    }

    /// A range of bytes, shorter where the part ends earlier.
    pub(super) async fn read(&self, blobs: &Blobs, range: Range<u64>) -> Result<Bytes> {
        let end =
            range.end.min(self.length_bytes()).min(range.start.saturating_add(READ_BYTES_MAX));
        if range.start >= end {
            return Ok(Bytes::new());
        }
        let chunk_bytes = u64::from(self.chunk_bytes);
        let (first, last) = (range.start / chunk_bytes, end.div_ceil(chunk_bytes));
        let mut bytes = Vec::with_capacity((end - range.start) as usize);
        let mut at = first;
        while at < last {
            let stop = last.min(at + FETCH_CHUNKS_MAX as u64);
            for (chunk, plain) in (at..).zip(self.fetch(blobs, at..stop).await?) {
                let start = chunk * chunk_bytes;
                let from = range.start.saturating_sub(start).min(plain.len() as u64);
                let to = (end - start).min(plain.len() as u64);
                bytes.extend_from_slice(&plain[from as usize..to as usize]);
            }
            at = stop;
        }
        Ok(bytes.into())
    }

    /// Neighbouring chunks, verified. At most [`FETCH_CHUNKS_MAX`].
    pub(super) async fn fetch(&self, blobs: &Blobs, chunks: Range<u64>) -> Result<Vec<Bytes>> {
        let ids = self.ids(blobs, chunks.clone()).await?;
        let wanted: Vec<_> =
            chunks.zip(ids).map(|(chunk, id)| (id, self.chunk_length(chunk))).collect();
        blobs.fetch(&wanted).await
    }

    async fn leaf(&self, blobs: &Blobs, number: u64) -> Result<Arc<Vec<ChunkId>>> {
        let mut cached = self.leaf.lock().await;
        if let Some((known, ids)) = &*cached
            && *known == number
        {
            return Ok(Arc::clone(ids));
        }
        let Content::Leaves(leaves) = &self.entry.content else { return Err(self.damaged()) };
        let id = *leaves.get(number as usize).ok_or_else(|| self.damaged())?;
        let length = (self.chunks() - number * LEAF_CHUNKS as u64).min(LEAF_CHUNKS as u64) as usize;
        // A leaf of nothing but zero chunks is itself all zero, and so is not stored.
        let ids = if id.is_zero() {
            vec![ChunkId::ZERO; length]
        } else {
            decode_leaf(&blobs.metadata(id).await?)?
        };
        if ids.len() != length {
            return Err(self.damaged());
        }
        let ids = Arc::new(ids);
        *cached = Some((number, Arc::clone(&ids)));
        Ok(ids)
    }

    /// The ids of leaves, which are blobs themselves.
    pub(super) fn leaf_ids(&self) -> &[ChunkId] {
        match &self.entry.content {
            Content::Leaves(ids) => ids,
            Content::Chunks(_) => &[],
        }
    }

    fn damaged(&self) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            code::CORRUPT_OBJECT,
            format!("read part {}", self.entry.name),
        )
        .with("part", "its leaves do not name all its chunks")
    }
}

/// What is enough to find a part; whoever finds it compares the name.
fn short_hash(name: &PartName) -> u64 {
    name_hash(name) as u64
}

pub(super) fn name_hash(name: &PartName) -> u128 {
    let hash = blake3::hash(name.as_str().as_bytes());
    let (half, _) = hash.as_bytes().split_at(16);
    u128::from_le_bytes(half.try_into().expect("16 bytes"))
}
