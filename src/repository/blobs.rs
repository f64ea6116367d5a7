//! Verified reads of chunks: at most two blobs for each, neighbours in one request.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    index_run::Located,
    index_set::IndexSet,
    pack::{PackEntry, PackName, SealedBlob, Trailer, read_trailer},
    store::Store,
};
use crate::{
    pipeline::{cpu::CpuPool, id::ChunkId, keys::Domain},
    repository::history::PackList,
};

/// Chunks that are fetched together. Bounds the memory of one fetch.
pub(super) const FETCH_CHUNKS_MAX: usize = 64;

/// Bytes between two blobs that are read rather than skipped.
const GAP_BYTES_MAX: u64 = 256 << 10;

/// The longest single read, in bytes.
const READ_BYTES_MAX: u64 = 8 << 20;

/// Reads under way at once, within one fetch.
const READS_MAX: usize = 4;

/// First guess at the length of a pack's table of contents, in bytes.
const TABLE_GUESS_BYTES: u64 = 64 << 10;

/// The longest table of contents, in bytes.
const TABLE_BYTES_MAX: usize = 64 << 20;

/// Reads blobs.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    pub(super) store: Arc<dyn Store>,
    pub(super) domain: Arc<Domain>,
    pub(super) cpu: CpuPool,
    pub(super) index: Arc<IndexSet>,
    /// How many blobs were opened, for the test that bounds it.
    pub(super) opened: Arc<AtomicU64>,
}

/// A chunk that is stored in full, opened: deltas may be made against it.
#[derive(Clone, Debug)]
pub(super) struct OpenBase {
    pub(super) id: ChunkId,
    pub(super) plain: Bytes,
    /// The bytes that its blob occupies.
    pub(super) stored_bytes: usize,
}

impl OpenBase {
    fn new(place: &Located, plain: Bytes) -> Self {
        let range = place.entry.range();
        let stored_bytes = (range.end - range.start) as usize;
        Self { id: place.entry.label.id, plain, stored_bytes }
    }
}

/// A stretch of a pack, read in one request.
type Stretch = (PackName, Range<u64>);

impl Blobs {
    /// Reads one chunk of known length.
    pub(super) async fn chunk(&self, id: ChunkId, plain_bytes: usize) -> Result<Bytes> {
        let mut chunks = self.fetch(&[(id, plain_bytes)]).await?;
        chunks.pop().ok_or_else(|| Error::bug("fetch a chunk"))
    }

    /// Reads one chunk, and with it the full chunk that it is, or that it is a delta against.
    pub(super) async fn chunk_with_base(
        &self,
        id: ChunkId,
        plain_bytes: usize,
    ) -> Result<(Bytes, Option<OpenBase>)> {
        if id.is_zero() {
            return Ok((Bytes::from(vec![0; plain_bytes]), None));
        }
        let index = Arc::clone(&self.index);
        let (own, base) = self.cpu.run(move |_| index.locate(&id)).await??;
        let read = Arc::new(self.read(plan_reads([Some(own), base].into_iter().flatten())).await?);
        let full = match base {
            None => None,
            Some(base) => {
                let (id, length) = (base.entry.label.id, base.entry.label.plain_bytes as usize);
                let plain = self.open(id, length, Some((base, None)), None, Arc::clone(&read));
                Some(OpenBase::new(&base, plain.await?))
            }
        };
        let known = full.as_ref().map(|full| full.plain.clone());
        let plain = self.open(id, plain_bytes, Some((own, base)), known, read).await?;
        let full = full.unwrap_or_else(|| OpenBase::new(&own, plain.clone()));
        Ok((plain, Some(full)))
    }

    /// Reads one chunk whose length its own label says, such as a leaf.
    pub(super) async fn metadata(&self, id: ChunkId) -> Result<Bytes> {
        let index = Arc::clone(&self.index);
        let (place, _) = self.cpu.run(move |_| index.locate(&id)).await??;
        self.chunk(id, place.entry.label.plain_bytes as usize).await
    }

    /// Reads chunks, in the order asked. At most [`FETCH_CHUNKS_MAX`].
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when a stored blob is not what was written,
    /// [`Missing`](ErrorKind::Missing) when it is gone. Never wrong bytes.
    pub(super) async fn fetch(&self, wanted: &[(ChunkId, usize)]) -> Result<Vec<Bytes>> {
        debug_assert!(wanted.len() <= FETCH_CHUNKS_MAX);
        let index = Arc::clone(&self.index);
        let ids: Vec<_> = wanted.to_vec();
        let places: Vec<Option<(Located, Option<Located>)>> = self
            .cpu
            .run(move |_| {
                let locate = |(id, _): &(ChunkId, usize)| {
                    if id.is_zero() { Ok(None) } else { index.locate(id).map(Some) }
                };
                ids.iter().map(locate).collect::<Result<Vec<_>>>()
            })
            .await??;
        let needed = places.iter().flatten().flat_map(|(own, base)| [Some(*own), *base]);
        let read = self.read(plan_reads(needed.flatten())).await?;
        let read = Arc::new(read);
        let jobs: Vec<_> = wanted.iter().copied().zip(places).collect();
        stream::iter(jobs)
            .map(|((id, plain_bytes), place)| {
                self.open(id, plain_bytes, place, None, Arc::clone(&read))
            })
            .buffered(self.cpu.size().max(1) * 2)
            .try_collect()
            .await
    }

    /// Reads the full blob of a chunk as it is stored, for a delta against it.
    pub(super) async fn sealed(&self, place: Located) -> Result<SealedBlob> {
        let range = place.entry.range();
        let bytes = read_range(&*self.store, place.pack, range).await?;
        SealedBlob::decode(&bytes)
    }

    /// Reads a blob as it is stored, to copy it into another pack. Opens it first: damage must not
    /// travel on under a new name that it hashes to.
    pub(super) async fn intact(&self, place: Located) -> Result<SealedBlob> {
        let label = place.entry.label;
        let base = match label.base {
            None => None,
            Some(base) => {
                let index = Arc::clone(&self.index);
                Some(self.cpu.run(move |_| index.locate(&base)).await??.0)
            }
        };
        let read = self.read(plan_reads([Some(place), base].into_iter().flatten())).await?;
        let (read, plain_bytes) = (Arc::new(read), label.plain_bytes as usize);
        self.open(label.id, plain_bytes, Some((place, base)), None, Arc::clone(&read)).await?;
        SealedBlob::decode(&read.slice(&place)?)
    }

    /// The same packs as one backup may look at them: into those that it needs, and no others.
    pub(super) fn narrowed(&self, packs: PackList) -> Self {
        Self { index: Arc::new(self.index.narrowed(packs)), ..self.clone() }
    }

    /// Learns from the packs themselves what those of `packs` hold that no index run covers.
    pub(super) async fn cover(&self, packs: &PackList) -> Result<()> {
        for (pack, size_bytes) in packs {
            if !self.index.covers(pack) {
                let entries = read_table(&*self.store, *pack, *size_bytes).await?;
                self.index.add_pack(*pack, *size_bytes, entries)?;
            }
        }
        Ok(())
    }

    /// Opens what was read. `known` is the plaintext of the base, if that is at hand.
    async fn open(
        &self,
        id: ChunkId,
        plain_bytes: usize,
        place: Option<(Located, Option<Located>)>,
        known: Option<Bytes>,
        read: Arc<Reads>,
    ) -> Result<Bytes> {
        let Some((own, base)) = place else { return Ok(Bytes::from(vec![0; plain_bytes])) };
        let opens_base = base.is_some() && known.is_none();
        self.opened.fetch_add(1 + u64::from(opens_base), Ordering::Relaxed);
        let domain = Arc::clone(&self.domain);
        let opened = self.cpu.run(move |scratch| {
            let base = match (base, known) {
                (None, _) => None,
                (Some(_), Some(known)) => Some(known),
                (Some(base), None) => {
                    let blob = SealedBlob::decode(&read.slice(&base)?)?;
                    Some(blob.open(&base.entry.label.id, None, &domain, scratch)?.into())
                }
            };
            let blob = SealedBlob::decode(&read.slice(&own)?)?;
            blob.open(&id, base.as_deref(), &domain, scratch)
        });
        let plain = opened.await?.map_err(|e| e.with("pack", own.pack))?;
        if plain.len() != plain_bytes {
            return Err(damaged(&own.pack, "a chunk has not the length that the backup says"));
        }
        Ok(plain.into())
    }

    async fn read(&self, stretches: Vec<Stretch>) -> Result<Reads> {
        let bytes: Vec<_> = stream::iter(stretches)
            .map(|(pack, range)| async move {
                let bytes = read_range(&*self.store, pack, range.clone()).await?;
                Ok::<_, Error>(((pack, range.start), bytes))
            })
            .buffered(READS_MAX)
            .try_collect()
            .await?;
        Ok(Reads(bytes.into_iter().collect()))
    }
}

/// Reads the table of contents of a pack.
pub(super) async fn read_table(
    store: &dyn Store,
    pack: PackName,
    size_bytes: u64,
) -> Result<Vec<PackEntry>> {
    let mut tail_bytes = TABLE_GUESS_BYTES.min(size_bytes);
    loop {
        let tail = read_range(store, pack, size_bytes - tail_bytes..size_bytes).await?;
        match read_trailer(&tail, size_bytes)? {
            Trailer::Whole(entries) => return Ok(entries),
            Trailer::Needs { tail_bytes: needed } if needed <= TABLE_BYTES_MAX => {
                tail_bytes = (needed as u64).min(size_bytes);
            }
            Trailer::Needs { .. } => return Err(damaged(&pack, "its table is too long")),
        }
    }
}

/// Reads a stretch of a pack.
pub(super) async fn read_range(
    store: &dyn Store,
    pack: PackName,
    range: Range<u64>,
) -> Result<Bytes> {
    let length = range.end - range.start;
    let bytes = store.read_range(&pack.key(), range).await?;
    match bytes {
        Some(bytes) if bytes.len() as u64 == length => Ok(bytes),
        Some(_) => Err(damaged(&pack, "it is shorter than it was written")),
        None => {
            Err(Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("read pack {pack}"))
                .with("repository", store.location())
                .why("chunks of at least one backup were in it")
                .next("restore the object from another copy of the repository: packs never change"))
        }
    }
}

/// What was read, by where it began.
#[derive(Debug)]
struct Reads(BTreeMap<(PackName, u64), Bytes>);

impl Reads {
    fn slice(&self, place: &Located) -> Result<Bytes> {
        let range = place.entry.range();
        let before = self.0.range(..=(place.pack, range.start)).next_back();
        before
            .filter(|((pack, start), bytes)| {
                *pack == place.pack && range.end <= start + bytes.len() as u64
            })
            .map(|((_, start), bytes)| {
                bytes.slice((range.start - start) as usize..(range.end - start) as usize)
            })
            .ok_or_else(|| Error::bug("find a blob among what was read"))
    }
}

/// Joins neighbouring blobs into few reads.
fn plan_reads(places: impl Iterator<Item = Located>) -> Vec<Stretch> {
    let mut by_pack: HashMap<PackName, Vec<Range<u64>>> = HashMap::new();
    for place in places {
        by_pack.entry(place.pack).or_default().push(place.entry.range());
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    for (pack, mut ranges) in by_pack {
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Option<Range<u64>> = None;
        for range in ranges {
            joined = Some(match joined {
                Some(last)
                    if range.start <= last.end + GAP_BYTES_MAX
                        && range.end.max(last.end) - last.start <= READ_BYTES_MAX =>
                {
                    last.start..range.end.max(last.end)
                }
                Some(last) => {
                    stretches.push((pack, last));
                    range
                }
                None => range,
            });
        }
        stretches.extend(joined.map(|last| (pack, last)));
    }
    stretches.sort_unstable_by_key(|(pack, range)| (*pack, range.start));
    stretches
}

fn damaged(pack: &PackName, what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read pack {pack}"))
        .with("pack", what)
        .why("the stored bytes are not the ones that were written")
        .next("restore the object from another copy of the repository: packs never change")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::{
            compress::Encoding,
            seal::{BlobKind, Label},
        },
        repository::pack::PackKind,
    };

    fn place(pack: u8, offset: u32, stored_bytes: u32) -> Located {
        let label = Label {
            kind: BlobKind::Data,
            encoding: Encoding::Raw,
            id: ChunkId::new([1; 32]),
            base: None,
            plain_bytes: 1,
        };
        let entry = PackEntry { label, offset, stored_bytes };
        Located { pack: PackName { hash: [pack; 32], kind: PackKind::Data }, pack_bytes: 0, entry }
    }

    #[test]
    fn neighbours_are_read_in_one_request() {
        let places = [
            place(1, 64, 100),
            place(1, 164, 100),
            place(1, 300_000_000, 100),
            place(1, 164, 100),
            place(2, 64, 50),
        ];
        let reads = plan_reads(places.into_iter());
        let ranges: Vec<_> = reads.iter().map(|(_, range)| range.clone()).collect();
        assert_eq!(ranges, [64..264, 300_000_000..300_000_100, 64..114]);
    }
}
