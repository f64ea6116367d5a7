//! One part on its way in: whole chunks pass through at once, ids gather in leaves.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    Buffer, BufferPool, Error, ErrorKind, PartSpec, PartWriter, Result, code,
};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    task::JoinSet,
};

use super::{
    assembly::{Assembly, Piece},
    chunk_writer::{ChunkWriter, Slot},
    draft::Table,
    manifest::{Content, INLINE_CHUNKS_MAX, LEAF_CHUNKS, PartEntry, encode_leaf},
    packer::settle,
    reader::BasePart,
};
use crate::pipeline::{Meter, id::ChunkId};

/// Chunks that one task takes through the pipeline together.
const RUN_CHUNKS_MAX: usize = 4;

/// What one task patches, in bytes, unless a single chunk is longer. With each chunk it holds what
/// that was before, and that one's base.
const PATCHED_BYTES_MAX: usize = 1 << 20;

/// What every part of one draft shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) writer: ChunkWriter,
    pub(super) chunk_bytes: u32,
    /// Buffers for chunks that arrive in pieces.
    pub(super) pool: BufferPool,
    /// Runs that may be in the pipeline at once, over all parts. Bounds memory.
    pub(super) runs: Arc<Semaphore>,
    pub(super) table: AsyncMutex<Table>,
    pub(super) meter: Arc<Meter>,
    /// How many backups came before: the turn in which slots are stored in full again.
    pub(super) ordinal: u64,
}

/// What one task takes through the pipeline.
enum Incoming {
    /// Neighbouring chunks, from one on.
    Run(u64, Bytes),
    Patches(Vec<Patch>),
}

/// A chunk of which some ranges stay as they are in the base.
struct Patch {
    chunk: u64,
    bytes: Buffer,
    kept: Vec<Range<usize>>,
}

/// A part being written.
pub(super) struct DraftPart {
    shared: Arc<Shared>,
    spec: PartSpec,
    base: Option<Arc<BasePart>>,
    assembly: Mutex<Assembly>,
    /// Those that do not make a whole run yet.
    patches: Mutex<Vec<Patch>>,
    leaves: Arc<AsyncMutex<Leaves>>,
    tasks: AsyncMutex<JoinSet<Result<()>>>,
}

impl fmt::Debug for DraftPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DraftPart").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl DraftPart {
    pub(super) fn new(shared: Arc<Shared>, spec: PartSpec, base: Option<Arc<BasePart>>) -> Self {
        let base_bytes = base.as_ref().map(|base| base.length_bytes());
        let assembly =
            Mutex::new(Assembly::new(shared.chunk_bytes, base_bytes, shared.pool.clone()));
        let (patches, leaves, tasks) = (Mutex::default(), Arc::default(), AsyncMutex::default());
        Self { shared, spec, base, assembly, patches, leaves, tasks }
    }

    fn assemble<T>(&self, act: impl FnOnce(&mut Assembly) -> T) -> T {
        act(&mut self.assembly.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn patches(&self) -> MutexGuard<'_, Vec<Patch>> {
        self.patches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands pieces to the pipeline; waits while it is full.
    async fn dispatch(&self, pieces: impl IntoIterator<Item = Piece>) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Run { first, bytes } => self.dispatch_run(first, &bytes).await?,
                Piece::Kept(chunks) => self.keep_chunks(chunks).await?,
                Piece::Patched { chunk, bytes, kept } => {
                    let whole = {
                        let mut patches = self.patches();
                        patches.push(Patch { chunk, bytes, kept });
                        (patches.len() >= self.shared.patches_max())
                            .then(|| std::mem::take(&mut *patches))
                    };
                    if let Some(patches) = whole {
                        self.spawn(Incoming::Patches(patches)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn dispatch_run(&self, first: u64, bytes: &Bytes) -> Result<()> {
        let chunk_bytes = self.shared.chunk_bytes as usize;
        for (index, at) in (0..bytes.len()).step_by(chunk_bytes * RUN_CHUNKS_MAX).enumerate() {
            let end = (at + chunk_bytes * RUN_CHUNKS_MAX).min(bytes.len());
            let run = bytes.slice(at..end);
            let first = first + (index * RUN_CHUNKS_MAX) as u64;
            self.spawn(Incoming::Run(first, run)).await?;
        }
        Ok(())
    }

    async fn spawn(&self, incoming: Incoming) -> Result<()> {
        let mut tasks = self.tasks.lock().await;
        while let Some(done) = tasks.try_join_next() {
            settle(done)?;
        }
        let permit = Arc::clone(&self.shared.runs).acquire_owned().await;
        let permit = permit.map_err(|_| Error::bug("write a part after the end"))?;
        let (shared, leaves) = (Arc::clone(&self.shared), Arc::clone(&self.leaves));
        let base = self.base.clone();
        tasks.spawn(async move {
            let base = base.as_deref();
            let stored = match incoming {
                Incoming::Run(first, run) => shared.store_run(first, &run, base).await?,
                Incoming::Patches(patches) => shared.store_patched(patches, base).await?,
            };
            drop(permit);
            leaves.lock().await.set(stored, &shared).await
        });
        Ok(())
    }

    async fn keep_chunks(&self, chunks: Range<u64>) -> Result<()> {
        let base = self.base()?;
        let mut at = chunks.start;
        while at < chunks.end {
            let leaf = at / LEAF_CHUNKS as u64;
            let stop = chunks.end.min((leaf + 1) * LEAF_CHUNKS as u64);
            let is_whole_leaf = stop - at == LEAF_CHUNKS as u64;
            let mut leaves = self.leaves.lock().await;
            if let Some(id) = base.leaf_id(leaf).filter(|_| is_whole_leaf) {
                leaves.set_leaf(leaf, id)?;
            } else {
                let ids = base.ids(self.shared.writer.blobs(), at..stop).await?;
                leaves.set((at..).zip(ids), &self.shared).await?;
            }
            at = stop;
        }
        Ok(())
    }

    fn base(&self) -> Result<&BasePart> {
        self.base.as_deref().ok_or_else(baseless)
    }
}

impl Shared {
    fn patches_max(&self) -> usize {
        (PATCHED_BYTES_MAX / self.chunk_bytes as usize).clamp(1, RUN_CHUNKS_MAX)
    }

    async fn store_run(
        &self,
        first: u64,
        run: &Bytes,
        base: Option<&BasePart>,
    ) -> Result<Vec<(u64, ChunkId)>> {
        let chunk_bytes = self.chunk_bytes as usize;
        let (mut plain, mut slots) = (Vec::new(), Vec::new());
        let starts = (0..run.len()).step_by(chunk_bytes);
        for (chunk, at) in (first..).zip(starts) {
            let previous = match base {
                Some(base) => base.ids(self.writer.blobs(), chunk..chunk + 1).await?.pop(),
                None => None,
            };
            slots.push(Slot { previous, turn: self.turn(chunk), full: None });
            plain.push(run.slice(at..run.len().min(at + chunk_bytes)));
        }
        self.meter.advance(run.len() as u64);
        Ok((first..).zip(self.writer.store_run(plain, slots).await?).collect())
    }

    /// Fills what is kept of chunks from the base, and stores them.
    async fn store_patched(
        &self,
        patches: Vec<Patch>,
        base: Option<&BasePart>,
    ) -> Result<Vec<(u64, ChunkId)>> {
        let base = base.ok_or_else(baseless)?;
        let chunks: Vec<u64> = patches.iter().map(|patch| patch.chunk).collect();
        let mut old = Vec::with_capacity(patches.len());
        for Patch { chunk, bytes, .. } in &patches {
            old.push((base.wanted(self.writer.blobs(), *chunk).await?, self.turn(*chunk)));
            self.meter.advance(bytes.len() as u64);
        }
        let mut patches = patches.into_iter();
        let patch = move |old: &[u8]| {
            let wrong = || Error::bug("patch a chunk");
            let Patch { mut bytes, kept, .. } = patches.next().ok_or_else(wrong)?;
            for range in kept {
                bytes[range.clone()].copy_from_slice(old.get(range).ok_or_else(wrong)?);
            }
            Ok(bytes.into())
        };
        let ids = self.writer.store_patched(old, patch).await?;
        Ok(chunks.into_iter().zip(ids).collect())
    }

    /// The number that spreads the chunks of a part over the backups in which they are stored in
    /// full again.
    fn turn(&self, chunk: u64) -> u64 {
        let spread = chunk.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.ordinal.wrapping_add(spread)
    }
}

#[async_trait]
impl PartWriter for DraftPart {
    async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let pieces = self.assemble(|assembly| assembly.write(offset, &bytes))?;
        self.shared.table.lock().await.written_bytes += bytes.len() as u64;
        self.dispatch(pieces).await
    }

    async fn keep(&self, range: Range<u64>) -> Result<()> {
        self.shared.meter.advance(range.end.saturating_sub(range.start));
        let pieces = self.assemble(|assembly| assembly.keep(range))?;
        self.dispatch(pieces).await
    }

    async fn finish(self: Box<Self>, length_bytes: u64) -> Result<()> {
        let last = self.assemble(|assembly| assembly.finish(length_bytes))?;
        self.dispatch(last).await?;
        let patches = std::mem::take(&mut *self.patches());
        if !patches.is_empty() {
            self.spawn(Incoming::Patches(patches)).await?;
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().await);
        while let Some(done) = tasks.join_next().await {
            settle(done)?;
        }
        let leaves = std::mem::take(&mut *self.leaves.lock().await);
        let content = leaves.finish(&self.shared).await?;
        let PartSpec { name, shape, attributes } = self.spec;
        let entry = PartEntry { name, shape, attributes, length_bytes, content };
        self.shared.table.lock().await.finish(entry, &self.shared.writer).await
    }
}

/// The ids of a part's chunks, gathering. A leaf is stored as soon as it is whole.
#[derive(Debug, Default)]
struct Leaves {
    leaves: Vec<Leaf>,
}

#[derive(Clone, Debug)]
enum Leaf {
    Open { ids: Vec<Option<ChunkId>>, missing: usize },
    Stored(ChunkId),
}

impl Default for Leaf {
    fn default() -> Self {
        Self::Open { ids: Vec::new(), missing: LEAF_CHUNKS }
    }
}

impl Leaves {
    /// Sets the ids of chunks.
    async fn set(
        &mut self,
        chunks: impl IntoIterator<Item = (u64, ChunkId)>,
        shared: &Shared,
    ) -> Result<()> {
        for (chunk, id) in chunks {
            let (number, place) =
                (chunk / LEAF_CHUNKS as u64, (chunk % LEAF_CHUNKS as u64) as usize);
            let leaf = self.leaf(number)?;
            let Leaf::Open { ids, missing } = leaf else { return Err(twice()) };
            if ids.len() <= place {
                ids.resize(place + 1, None);
            }
            if ids[place].replace(id).is_some() {
                return Err(twice());
            }
            *missing -= 1;
            if *missing == 0 {
                let whole: Vec<ChunkId> = ids.iter().flatten().copied().collect();
                *leaf =
                    Leaf::Stored(shared.writer.store_metadata(encode_leaf(&whole).into()).await?);
            }
        }
        Ok(())
    }

    fn set_leaf(&mut self, number: u64, id: ChunkId) -> Result<()> {
        match self.leaf(number)? {
            leaf @ Leaf::Open { missing: LEAF_CHUNKS, .. } => {
                *leaf = Leaf::Stored(id);
                Ok(())
            }
            _ => Err(twice()),
        }
    }

    fn leaf(&mut self, number: u64) -> Result<&mut Leaf> {
        let number = usize::try_from(number).map_err(|_| Error::bug("number a leaf"))?;
        if self.leaves.len() <= number {
            self.leaves.resize(number + 1, Leaf::default());
        }
        Ok(&mut self.leaves[number])
    }

    async fn finish(self, shared: &Shared) -> Result<Content> {
        if let [Leaf::Open { ids, .. }] = self.leaves.as_slice()
            && ids.len() <= INLINE_CHUNKS_MAX
        {
            let ids = ids.iter().copied().collect::<Option<_>>().ok_or_else(hole)?;
            return Ok(Content::Chunks(ids));
        }
        if self.leaves.is_empty() {
            return Ok(Content::Chunks(Vec::new()));
        }
        let mut stored = Vec::with_capacity(self.leaves.len());
        for leaf in self.leaves {
            stored.push(match leaf {
                Leaf::Stored(id) => id,
                Leaf::Open { ids, .. } => {
                    let ids: Vec<ChunkId> =
                        ids.into_iter().collect::<Option<_>>().ok_or_else(hole)?;
                    shared.writer.store_metadata(encode_leaf(&ids).into()).await?
                }
            });
        }
        Ok(Content::Leaves(stored))
    }
}

fn baseless() -> Error {
    Error::new(ErrorKind::Invalid, code::BUG, "keep a range without a base backup")
}

fn twice() -> Error {
    Error::bug("set the id of a chunk twice")
}

fn hole() -> Error {
    Error::bug("end a part with a chunk that has no id")
}
