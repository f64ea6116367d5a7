//! Sealed blobs become packs: filled in memory, finished on a CPU thread, stored two at a time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
};

use super::{
    index_set::IndexSet,
    pack::{PackBuilder, PackKind, SealedBlob},
    store::{Key, Put, Store},
};
use crate::{
    pipeline::{Meter, keys::Domain, seal::BlobKind},
    world::World,
};

/// Packs that may be on their way to the store at once. Each holds a whole pack in memory.
const UPLOADS_MAX: usize = 2;

/// How often a write is repeated while the store does not answer.
const ATTEMPTS_MAX: u32 = 6;

/// Fills packs and stores them.
#[derive(Debug)]
pub(super) struct Packer {
    works: Arc<Works>,
    filling: Mutex<Filling>,
}

#[derive(Debug)]
struct Works {
    store: Arc<dyn Store>,
    domain: Arc<Domain>,
    world: World,
    index: Arc<IndexSet>,
    meter: Arc<Meter>,
    uploads: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Filling {
    data: Option<PackBuilder>,
    meta: Option<PackBuilder>,
    uploads: JoinSet<Result<u64>>,
    stored_bytes: u64,
}

impl Packer {
    pub(super) fn new(
        store: Arc<dyn Store>,
        domain: Arc<Domain>,
        world: World,
        index: Arc<IndexSet>,
        meter: Arc<Meter>,
    ) -> Self {
        let uploads = Arc::new(Semaphore::new(UPLOADS_MAX));
        let works = Works { store, domain, world, index, meter, uploads };
        Self { works: Arc::new(works), filling: Mutex::default() }
    }

    /// Adds a blob. Waits while too many packs are on their way.
    ///
    /// # Errors
    ///
    /// Whatever happened to an earlier pack: the backup cannot be committed any more.
    pub(super) async fn add(&self, blob: &SealedBlob) -> Result<()> {
        let mut filling = self.filling.lock().await;
        let kind = match blob.label().kind {
            BlobKind::Data => PackKind::Data,
            BlobKind::Leaf | BlobKind::Small => PackKind::Meta,
        };
        if filling.slot(kind).as_ref().is_some_and(|builder| !builder.accepts(blob)) {
            self.send(&mut filling, kind).await?;
        }
        let Works { domain, world, .. } = &*self.works;
        filling
            .slot(kind)
            .get_or_insert_with(|| PackBuilder::new(kind, domain, &*world.entropy))
            .push(blob)
    }

    /// How much of what may be on its way to the store is, from 0 to 1.
    pub(super) fn output_fill(&self) -> f32 {
        1.0 - self.works.uploads.available_permits() as f32 / UPLOADS_MAX as f32
    }

    /// Keeps every place for an upload taken, as a store that does not answer does.
    #[cfg(test)]
    pub(super) fn occupy(&self) -> Vec<tokio::sync::OwnedSemaphorePermit> {
        let take = || Arc::clone(&self.works.uploads).try_acquire_owned().ok();
        std::iter::from_fn(take).collect()
    }

    /// Stores what is left, waits until every pack is durable, and returns the bytes stored.
    pub(super) async fn flush(&self) -> Result<u64> {
        let mut filling = self.filling.lock().await;
        self.send(&mut filling, PackKind::Data).await?;
        self.send(&mut filling, PackKind::Meta).await?;
        while let Some(upload) = filling.uploads.join_next().await {
            filling.stored_bytes += settle(upload)?;
        }
        Ok(filling.stored_bytes)
    }

    async fn send(&self, filling: &mut Filling, kind: PackKind) -> Result<()> {
        let Some(builder) = filling.slot(kind).take() else { return Ok(()) };
        while let Some(upload) = filling.uploads.try_join_next() {
            filling.stored_bytes += settle(upload)?;
        }
        let works = Arc::clone(&self.works);
        let permit = Arc::clone(&works.uploads).acquire_owned().await;
        let permit = permit.map_err(|_| Error::bug("store a pack after the end"))?;
        filling.uploads.spawn(async move {
            let stored = works.store_pack(builder).await;
            drop(permit);
            stored
        });
        Ok(())
    }
}

impl Filling {
    fn slot(&mut self, kind: PackKind) -> &mut Option<PackBuilder> {
        match kind {
            PackKind::Data => &mut self.data,
            PackKind::Meta => &mut self.meta,
        }
    }
}

impl Works {
    async fn store_pack(&self, builder: PackBuilder) -> Result<u64> {
        let finished = self.world.cpu.run(move |_| builder.finish()).await?;
        let size_bytes = finished.bytes.len() as u64;
        persist(&*self.store, &*self.world.clock, &finished.name.key(), finished.bytes).await?;
        self.meter.store(size_bytes);
        // Only now may others refer to what the pack holds.
        self.index.add_pack(finished.name, size_bytes, finished.entries)?;
        Ok(size_bytes)
    }
}

/// Writes an object whose name nobody else uses, repeating the call while the outcome is unknown.
pub(super) async fn persist(
    store: &dyn Store,
    clock: &dyn Clock,
    key: &Key,
    bytes: Bytes,
) -> Result<Put> {
    let mut attempt = 0;
    loop {
        match store.create(key, bytes.clone()).await {
            Err(error) if error.kind().is_transient() && attempt + 1 < ATTEMPTS_MAX => {}
            Err(error) => return Err(error.during(format!("store {key}"))),
            Ok(put) => return Ok(put),
        }
        clock.sleep(Duration::from_millis(50 << attempt)).await;
        attempt += 1;
    }
}

pub(super) fn settle<T>(
    joined: std::result::Result<Result<T>, tokio::task::JoinError>,
) -> Result<T> {
    joined.unwrap_or_else(|stopped| {
        let kind = if stopped.is_cancelled() { ErrorKind::Interrupted } else { ErrorKind::Bug };
        Err(Error::new(kind, code::BUG, "wait for a task").caused_by(stopped))
    })
}
