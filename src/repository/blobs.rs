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
    pipeline::{compress::Scratch, cpu::CpuPool, id::ChunkId, keys::Domain},
    repository::history::PackList,
};

/// Chunks that are fetched together. Bounds the memory of one fetch.
pub(super) const FETCH_CHUNKS_MAX: usize = 64;

/// Chunks that one job opens, at least: going from thread to thread costs as much as opening one.
const OPENED_TOGETHER: usize = 4;

/// Into how many jobs for each CPU thread a fetch is divided, so that all of them end together.
const JOBS_PER_THREAD: usize = 2;

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

/// A chunk's id and length.
pub(super) type Wanted = (ChunkId, usize);

/// Where a chunk's blob lies, and that of its base if it is a delta.
type Place = (Located, Option<Located>);

/// A stretch of a pack, read in one request.
type Stretch = (PackName, Range<u64>);

impl Blobs {
    /// Reads one chunk of known length.
    pub(super) async fn chunk(&self, id: ChunkId, plain_bytes: usize) -> Result<Bytes> {
        let mut chunks = self.fetch(&[(id, plain_bytes)]).await?;
        chunks.pop().ok_or_else(|| Error::bug("fetch a chunk"))
    }

    /// Reads chunks, and gives `each`, with the full chunk that it is, or that it is a delta
    /// against. Few of them: they are opened in one go.
    pub(super) async fn fetch_with_bases<T: Send + 'static>(
        &self,
        wanted: Vec<Wanted>,
        mut each: impl FnMut(Bytes, Option<OpenBase>, &mut Scratch) -> Result<T> + Send + 'static,
    ) -> Result<Vec<T>> {
        let (places, opener) = self.read_for(&wanted).await?;
        let open = self.cpu.run(move |scratch| {
            let open = |(wanted, place)| match place {
                None => each(zeros(wanted), None, scratch),
                Some(place @ (own, base)) => {
                    let full = match base {
                        None => None,
                        Some(base) => Some(OpenBase::new(&base, opener.full(&base, scratch)?)),
                    };
                    let known = full.as_ref().map(|full| &*full.plain);
                    let plain = opener.chunk(wanted, place, known, scratch)?;
                    let full = full.unwrap_or_else(|| OpenBase::new(&own, plain.clone()));
                    each(plain, Some(full), scratch)
                }
            };
            wanted.into_iter().zip(places).map(open).collect()
        });
        open.await?
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
    pub(super) async fn fetch(&self, wanted: &[Wanted]) -> Result<Vec<Bytes>> {
        debug_assert!(wanted.len() <= FETCH_CHUNKS_MAX);
        let (places, opener) = self.read_for(wanted).await?;
        let jobs: Vec<_> = wanted.iter().copied().zip(places).collect();
        let together = jobs.len().div_ceil(self.cpu.size() * JOBS_PER_THREAD).max(OPENED_TOGETHER);
        let jobs: Vec<Vec<_>> = jobs.chunks(together).map(<[_]>::to_vec).collect();
        let opened = stream::iter(jobs).map(|jobs| {
            let opener = opener.clone();
            self.cpu.run(move |scratch| {
                let open = |(wanted, place): (_, Option<_>)| match place {
                    None => Ok(zeros(wanted)),
                    Some(place) => opener.open(wanted, place, scratch),
                };
                jobs.into_iter().map(open).collect::<Result<Vec<_>>>()
            })
        });
        let opened = opened.buffered(self.cpu.size() * JOBS_PER_THREAD);
        opened
            .try_fold(Vec::with_capacity(wanted.len()), |mut all, opened| async move {
                all.extend(opened?);
                Ok(all)
            })
            .await
    }

    /// Finds chunks and reads their blobs, and those of their bases.
    async fn read_for(&self, wanted: &[Wanted]) -> Result<(Vec<Option<Place>>, Opener)> {
        let (index, ids) = (Arc::clone(&self.index), wanted.to_vec());
        let locate = self.cpu.run(move |_| {
            let locate = |(id, _): Wanted| {
                if id.is_zero() { Ok(None) } else { index.locate(&id).map(Some) }
            };
            ids.into_iter().map(locate).collect::<Result<Vec<_>>>()
        });
        let places = locate.await??;
        let needed = places.iter().flatten().flat_map(|(own, base)| [Some(*own), *base]);
        let read = self.read(plan_reads(needed.flatten())).await?;
        Ok((places, self.opener(read)))
    }

    fn opener(&self, read: Reads) -> Opener {
        let (domain, opened) = (Arc::clone(&self.domain), Arc::clone(&self.opened));
        Opener { domain, opened, read: Arc::new(read) }
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
        let (opener, wanted) = (self.opener(read), (label.id, label.plain_bytes as usize));
        let read = Arc::clone(&opener.read);
        self.cpu.run(move |scratch| opener.open(wanted, (place, base), scratch)).await??;
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

/// Opens blobs that were read. Work for a CPU thread.
#[derive(Clone)]
struct Opener {
    domain: Arc<Domain>,
    read: Arc<Reads>,
    opened: Arc<AtomicU64>,
}

impl Opener {
    /// A chunk, whose base is opened first if it has one.
    fn open(&self, wanted: Wanted, place: Place, scratch: &mut Scratch) -> Result<Bytes> {
        let base = place.1.map(|base| self.full(&base, scratch)).transpose()?;
        self.chunk(wanted, place, base.as_deref(), scratch)
    }

    /// A chunk that is stored in full.
    fn full(&self, place: &Located, scratch: &mut Scratch) -> Result<Bytes> {
        self.blob(&place.entry.label.id, place, None, scratch)
    }

    /// A chunk of known length, and the plaintext of its base.
    fn chunk(
        &self,
        (id, plain_bytes): Wanted,
        (own, _): Place,
        base: Option<&[u8]>,
        scratch: &mut Scratch,
    ) -> Result<Bytes> {
        let plain = self.blob(&id, &own, base, scratch)?;
        if plain.len() == plain_bytes {
            Ok(plain)
        } else {
            Err(damaged(&own.pack, "a chunk has not the length that the backup says"))
        }
    }

    fn blob(
        &self,
        id: &ChunkId,
        place: &Located,
        base: Option<&[u8]>,
        scratch: &mut Scratch,
    ) -> Result<Bytes> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let blob = SealedBlob::decode(&self.read.slice(place)?);
        let opened = blob.and_then(|blob| blob.open(id, base, &self.domain, scratch));
        opened.map(Bytes::from).map_err(|error| error.with("pack", place.pack))
    }
}

/// A chunk of nothing but zeros is not stored.
fn zeros((_, plain_bytes): Wanted) -> Bytes {
    Bytes::from(vec![0; plain_bytes])
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
