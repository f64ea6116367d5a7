//! One chunk's way into the repository: hash, look up, encode against its base, seal, pack.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use stillpoint_contract::{Error, Result};

use super::{
    blobs::{Blobs, OpenBase, Wanted},
    index_run::Located,
    index_set::IndexSet,
    pack::SealedBlob,
    packer::{Packer, persist},
    store::Store,
};
use crate::{
    pipeline::{
        Meter,
        adaptive::{AdaptiveLevel, Sample},
        compress::{Base, Effort, Level, Scratch},
        id::ChunkId,
        keys::Domain,
        seal::{BlobKind, Sealer},
    },
    world::World,
};

/// A base serves the deltas of about so many backups before its slot is stored in full again, so
/// that the loss of one pack costs a bounded stretch of history. Slots take turns.
const BASE_BACKUPS_MAX: u64 = 64;

/// Stores chunks for one session.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    store: Arc<dyn Store>,
    domain: Arc<Domain>,
    world: World,
    index: Arc<IndexSet>,
    blobs: Blobs,
    packer: Packer,
    sealer: Arc<Sealer>,
    options: WriteOptions,
    level: Mutex<AdaptiveLevel>,
    new_bytes: AtomicU64,
}

/// How chunks are stored.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// The zstd level; `None` begins at the default and adapts to what holds the backup up.
    pub level: Option<Level>,
    /// Whether every blob is decoded again before it is trusted.
    pub verify: bool,
    /// Whether changed chunks are stored as deltas against the full copy of their slot.
    pub deltas: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { level: None, verify: true, deltas: true }
    }
}

/// What is known of the place that a chunk takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// The chunk that the base backup has there.
    pub(super) previous: Option<ChunkId>,
    /// A number that spreads slots evenly, so that they are not all stored in full at once.
    pub(super) turn: u64,
    /// The full chunk that `previous` is, or is a delta against, if that is at hand.
    pub(super) full: Option<OpenBase>,
}

impl Slot {
    /// The chunk against whose full copy `id` may be stored as a delta.
    fn previous_of(&self, id: &ChunkId) -> Option<ChunkId> {
        let previous = self.previous.filter(|previous| !previous.is_zero() && previous != id)?;
        (!self.turn.is_multiple_of(BASE_BACKUPS_MAX)).then_some(previous)
    }
}

/// A chunk on its way, after the first look at it.
enum Looked {
    /// It is in the repository already, or is all zero.
    Known,
    /// It was encoded at once.
    Encoded(SealedBlob),
    /// The base of its slot must be read first.
    NeedsBase(Bytes, ChunkId),
}

impl ChunkWriter {
    pub(super) fn new(
        blobs: Blobs,
        world: World,
        meter: Arc<Meter>,
        options: WriteOptions,
    ) -> Self {
        let (store, domain) = (Arc::clone(&blobs.store), Arc::clone(&blobs.domain));
        let index = Arc::clone(&blobs.index);
        let packer = Packer::new(
            Arc::clone(&store),
            Arc::clone(&domain),
            world.clone(),
            Arc::clone(&index),
            meter,
        );
        let sealer = Arc::new(domain.sealer(&*world.entropy));
        let new_bytes = AtomicU64::new(0);
        let level = Mutex::new(AdaptiveLevel::new());
        Self { store, domain, world, index, blobs, packer, sealer, options, level, new_bytes }
    }

    /// Reads chunks that are in the repository already.
    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Plaintext that was new to the repository, in bytes.
    pub(super) fn new_bytes(&self) -> u64 {
        self.new_bytes.load(Ordering::Relaxed)
    }

    /// Stores a few chunks and returns their ids. There is one slot for each.
    pub(super) async fn store_run(
        &self,
        chunks: Vec<Bytes>,
        slots: Vec<Slot>,
    ) -> Result<Vec<ChunkId>> {
        let look = self.look();
        let job = move |scratch: &mut Scratch| -> Result<Vec<_>> {
            chunks.into_iter().zip(slots).map(|(plain, slot)| look(plain, slot, scratch)).collect()
        };
        self.finish(self.world.cpu.run(job).await??).await
    }

    /// Stores what `patch` makes of each of a few chunks of the base, one after the other: what was
    /// read, what it becomes and its delta are still in the processor's cache.
    pub(super) async fn store_patched(
        &self,
        old: Vec<(Wanted, u64)>,
        mut patch: impl FnMut(&[u8]) -> Result<Bytes> + Send + 'static,
    ) -> Result<Vec<ChunkId>> {
        let look = self.look();
        let wanted = old.iter().map(|(wanted, _)| *wanted).collect();
        let mut slots = old.into_iter().map(|((id, _), turn)| (Some(id), turn));
        let each = move |plain: Bytes, full, scratch: &mut Scratch| {
            let (previous, turn) = slots.next().ok_or_else(|| Error::bug("patch a chunk"))?;
            look(patch(&plain)?, Slot { previous, turn, full }, scratch)
        };
        self.finish(self.blobs.fetch_with_bases(wanted, each).await?).await
    }

    /// Takes a first look at chunks: work for a CPU thread.
    fn look(
        &self,
    ) -> impl Fn(Bytes, Slot, &mut Scratch) -> Result<(ChunkId, Looked)> + Send + use<> {
        let (domain, index) = (Arc::clone(&self.domain), Arc::clone(&self.index));
        let (sealer, effort) = (Arc::clone(&self.sealer), self.effort());
        let deltas = self.options.deltas;
        move |plain, slot, scratch| {
            let id = domain.chunk_id(&plain);
            if id.is_zero() || slot.previous == Some(id) || !index.claim(&id)? {
                return Ok((id, Looked::Known));
            }
            let previous = slot.previous_of(&id).filter(|_| deltas);
            let full = slot.full.filter(|full| previous.is_some() && full.id != id);
            let looked = match (previous, full) {
                (Some(previous), None) => Looked::NeedsBase(plain, previous),
                (_, full) => {
                    let base = full.as_ref().map(|full| {
                        let (plain, stored_bytes) = (full.plain.as_ref(), full.stored_bytes);
                        (full.id, Base { plain, stored_bytes })
                    });
                    let chunk = (BlobKind::Data, id, plain.as_ref());
                    Looked::Encoded(SealedBlob::make(chunk, base, effort, &sealer, scratch)?)
                }
            };
            Ok((id, looked))
        }
    }

    /// Brings chunks that were looked at into the repository.
    async fn finish(&self, looked: Vec<(ChunkId, Looked)>) -> Result<Vec<ChunkId>> {
        let mut ids = Vec::with_capacity(looked.len());
        for (id, work) in looked {
            ids.push(id);
            match work {
                Looked::Known => {}
                Looked::Encoded(blob) => self.add(&blob).await?,
                Looked::NeedsBase(plain, previous) => {
                    let base = self.base(previous, &id).await;
                    self.store_new(BlobKind::Data, id, plain, base).await?;
                }
            }
        }
        Ok(ids)
    }

    /// Stores a leaf or a page of the part table, and returns its id.
    pub(super) async fn store_metadata(&self, bytes: Bytes) -> Result<ChunkId> {
        let (domain, index) = (Arc::clone(&self.domain), Arc::clone(&self.index));
        let plain = bytes.clone();
        let looked_up = self.world.cpu.run(move |_| {
            let id = domain.chunk_id(&plain);
            Ok::<_, Error>((id, !id.is_zero() && index.claim(&id)?))
        });
        let (id, is_new) = looked_up.await??;
        if is_new {
            self.store_new(BlobKind::Leaf, id, bytes, None).await?;
        }
        Ok(id)
    }

    /// Copies a blob as it is stored, because its pack is doomed.
    pub(super) async fn copy(&self, place: Located) -> Result<()> {
        let blob = self.blobs.intact(place).await?;
        self.packer.add(&blob).await
    }

    /// Makes everything durable, the index included, and returns the bytes stored so far.
    pub(super) async fn flush(&self) -> Result<u64> {
        let stored_bytes = self.packer.flush().await?;
        Ok(stored_bytes + self.store_index().await?)
    }

    async fn store_new(
        &self,
        kind: BlobKind,
        id: ChunkId,
        plain: Bytes,
        base: Option<(ChunkId, SealedBlob)>,
    ) -> Result<()> {
        let (sealer, domain) = (Arc::clone(&self.sealer), Arc::clone(&self.domain));
        let effort = self.effort();
        let encode = self.world.cpu.run(move |scratch| {
            let base = base.and_then(|(base, blob)| {
                let opened = blob.open(&base, None, &domain, scratch);
                // A base that cannot be read costs space, not the backup.
                opened
                    .inspect_err(|e| tracing::warn!(chunk = %base, "unreadable base: {e}"))
                    .ok()
                    .map(|plain| (base, plain, blob.stored_bytes()))
            });
            let base = base.as_ref().map(|(id, plain, stored_bytes)| {
                (*id, Base { plain, stored_bytes: *stored_bytes })
            });
            SealedBlob::make((kind, id, &plain), base, effort, &sealer, scratch)
        });
        self.add(&encode.await??).await
    }

    /// Packs a new blob.
    async fn add(&self, blob: &SealedBlob) -> Result<()> {
        self.new_bytes.fetch_add(u64::from(blob.label().plain_bytes), Ordering::Relaxed);
        self.packer.add(blob).await?;
        if self.index.is_run_due() {
            self.store_index().await?;
        }
        Ok(())
    }

    /// How hard to try on the next chunk. Taking the sample is all that adapts the level.
    fn effort(&self) -> Effort {
        let level = self.options.level.unwrap_or_else(|| {
            let cpu = &self.world.cpu;
            let sample = Sample {
                output_fill: self.packer.output_fill(),
                work_fill: cpu.queue_fill(),
                idle: cpu.idle(),
            };
            let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
            let before = level.level();
            let now = level.observe(self.world.clock.elapsed(), sample);
            if now != before {
                tracing::debug!(level = now.number(), "compression adapts");
            }
            now
        });
        Effort { level, verify: self.options.verify }
    }

    /// The full blob that the previous chunk of a slot is, or is a delta against.
    async fn base(&self, previous: ChunkId, id: &ChunkId) -> Option<(ChunkId, SealedBlob)> {
        let index = Arc::clone(&self.index);
        let located = self.world.cpu.run(move |_| index.locate(&previous)).await.ok()?.ok()?;
        let full = located.1.unwrap_or(located.0);
        let base = full.entry.label.id;
        if base == *id {
            return None;
        }
        let blob = self.blobs.sealed(full).await;
        blob.inspect_err(|e| tracing::warn!(chunk = %base, "unreadable base: {e}"))
            .ok()
            .map(|blob| (base, blob))
    }

    async fn store_index(&self) -> Result<u64> {
        let (index, entropy) = (Arc::clone(&self.index), Arc::clone(&self.world.entropy));
        let Some(run) = self.world.cpu.run(move |_| index.cut_run(&*entropy)).await?? else {
            return Ok(0);
        };
        let stored_bytes = run.bytes.len() as u64;
        persist(&*self.store, &*self.world.clock, &run.name.key(), run.bytes).await?;
        Ok(stored_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};
    use stillpoint_contract::Clock;

    use super::*;
    use crate::{
        pipeline::{cpu::CpuPool, id::RepositoryId, testing::Seeded},
        repository::{history::PackList, store::MemoryStore},
    };

    /// Half a second passes between two looks.
    #[derive(Debug, Default)]
    struct Ticking(AtomicU64);

    #[async_trait]
    impl Clock for Ticking {
        fn now(&self) -> DateTime<Utc> {
            DateTime::UNIX_EPOCH
        }

        fn elapsed(&self) -> Duration {
            Duration::from_millis(500 * self.0.fetch_add(1, Ordering::Relaxed))
        }

        async fn sleep(&self, _: Duration) {}
    }

    fn writer(level: Option<Level>) -> ChunkWriter {
        let world = World {
            clock: Arc::new(Ticking::default()),
            entropy: Arc::new(Seeded::new(1)),
            cpu: CpuPool::inline(),
        };
        let id = RepositoryId::new([1; 16]);
        let blobs = Blobs {
            store: Arc::new(MemoryStore::default()),
            domain: Arc::new(Domain::plain(id)),
            cpu: world.cpu.clone(),
            index: Arc::new(IndexSet::new(id, PackList::new())),
            opened: Arc::default(),
        };
        let options = WriteOptions { level, ..WriteOptions::default() };
        ChunkWriter::new(blobs, world, Arc::default(), options)
    }

    #[test]
    fn a_repository_that_cannot_keep_up_gets_smaller_packs_unless_a_level_was_asked_for() {
        for (asked, last) in [(None, 6), (Some(Level::clamped(3)), 3)] {
            let writer = writer(asked);
            let first = asked.unwrap_or(Level::DEFAULT).number();
            assert_eq!(writer.effort().level.number(), first);
            let uploads = writer.packer.occupy();
            let levels: Vec<i32> = (0..200).map(|_| writer.effort().level.number()).collect();
            assert_eq!(levels.last(), Some(&last), "{levels:?}");
            drop(uploads);
        }
    }
}
