//! Packs on their way into a copy, and back from it where the original lost some.
//!
//! A pack keeps its name, and with it its hash. Only where the target has given the name up, or has
//! something else under it, its blobs come to lie in a new pack, and an entry in the target's log
//! says where they are now: nothing is overwritten, and what is damaged stays until what replaces
//! it was read back.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    blobs::read_table,
    entry::{Action, Doom},
    history::{Committed, History, PackList},
    index_set::IndexSet,
    names,
    pack::{PACK_BYTES_MAX, PackBuilder, PackEntry, PackKind, PackName, SealedBlob, inspect},
    packer::persist,
    replica::{Replication, bad_copy},
    verify::is_finding,
};
use crate::pipeline::id::ChunkId;

/// Packs on their way at once. Each is held in memory.
const TRANSFERS_MAX: usize = 2;

/// Newest backups of the database at the target whose packs need not be read again: all of them
/// were when it was proven.
const TRUSTED_MAX: usize = 2;

/// Packs that hold what another one held, and their sizes in bytes.
pub(super) type Homes = Vec<(PackName, u64)>;

/// How a pack gets to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Under its own name.
    AsItIs,
    /// Its blobs in a new pack.
    Moved,
}

/// What the target has of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There {
    /// All of it.
    Whole,
    /// Nothing, and the name is free.
    Nothing,
    /// The name is given up, or what lies under it is damaged.
    Lost,
}

impl Replication<'_> {
    /// Brings every pack that a backup needs to the target. Returns the packs that answer for it
    /// there.
    pub(super) async fn packs(
        &self,
        committed: &Committed,
        original: &PackList,
    ) -> Result<PackList> {
        let (theirs, own) = (self.source.history().await?, self.target.history().await?);
        let stored = self.stored().await?;
        let trusted = self.trusted(&own, &committed.commit.database).await?;
        let (mut list, mut to_send) = (PackList::new(), BTreeMap::new());
        for (pack, size_bytes) in original {
            let one = PackList::from([(*pack, *size_bytes)]);
            let sides = (&*theirs, &*own);
            if self.has(sides, &stored, &trusted, one.clone()).await? == There::Whole {
                list.extend(one);
                continue;
            }
            // What the source itself has moved since comes as it lies there now.
            for (home, size_bytes) in theirs.resolve(one) {
                let one = PackList::from([(home, size_bytes)]);
                let way = match self.has(sides, &stored, &trusted, one.clone()).await? {
                    There::Whole => None,
                    There::Nothing => Some(Way::AsItIs),
                    There::Lost => Some(Way::Moved),
                };
                to_send.extend(way.map(|way| (home, (size_bytes, way))));
                list.extend(one);
            }
        }
        let total = to_send.values().map(|(size_bytes, _)| size_bytes).sum();
        self.road.meter.begin("copy", total);
        self.send(to_send).await?;
        Ok(list)
    }

    /// What the target has of a pack. One that it has moved is whole only if nothing was left
    /// behind: it took along what its own backups needed then, and another one may need the rest.
    async fn has(
        &self,
        (theirs, own): (&History, &History),
        stored: &PackList,
        trusted: &BTreeSet<PackName>,
        pack: PackList,
    ) -> Result<There> {
        let there = self.lies(own, stored, trusted, pack.clone()).await?;
        let homes = own.resolve(pack.clone());
        if there != There::Whole || homes == pack {
            return Ok(there);
        }
        let is_whole = self.covers(&theirs.resolve(pack), &homes).await?;
        Ok(if is_whole { There::Whole } else { There::Lost })
    }

    /// Whether packs of the target hold everything that packs of the source do, by their tables.
    pub(super) async fn covers(&self, at_source: &PackList, homes: &PackList) -> Result<bool> {
        let mut known = HashSet::new();
        for (home, size_bytes) in homes {
            match read_table(&*self.target.store, *home, *size_bytes).await {
                Err(error) if is_finding(&error) => return Ok(false),
                table => known.extend(table?.into_iter().map(|entry| blob_of(&entry))),
            }
        }
        for (pack, size_bytes) in at_source {
            let table = read_table(&*self.source.store, *pack, *size_bytes).await;
            let table = table.map_err(|error| self.at_source(error.with("pack", pack)))?;
            if !table.iter().all(|entry| known.contains(&blob_of(entry))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What of a pack lies at the target, wherever it is there.
    pub(super) async fn lies(
        &self,
        own: &History,
        stored: &PackList,
        trusted: &BTreeSet<PackName>,
        pack: PackList,
    ) -> Result<There> {
        let mut there = There::Whole;
        for (home, size_bytes) in own.resolve(pack.clone()) {
            let is_moved = !pack.contains_key(&home);
            match stored.get(&home) {
                _ if own.is_doomed_pack(&home) => return Ok(There::Lost),
                Some(known) if *known != size_bytes => return Ok(There::Lost),
                None if is_moved => return Ok(There::Lost),
                None => there = There::Nothing,
                Some(_) if trusted.contains(&home) || self.is_known(&home) => {}
                // An earlier attempt left it, and nobody has read it since.
                Some(_) => match self.target.verify_pack(home, size_bytes).await {
                    Ok(()) => {
                        self.road.meter.advance(size_bytes);
                        self.know(home);
                    }
                    Err(error) if is_finding(&error) => return Ok(There::Lost),
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(there)
    }

    fn is_known(&self, pack: &PackName) -> bool {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).contains(pack)
    }

    fn know(&self, pack: PackName) {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).insert(pack);
    }

    /// The packs that lie at the target, and their sizes in bytes.
    pub(super) async fn stored(&self) -> Result<PackList> {
        let mut listed = self.listed.lock().await;
        if let Some(known) = &*listed {
            return Ok(known.clone());
        }
        let objects = self.target.store.list(names::PACKS).await?;
        let sized = objects.into_iter();
        let sized = sized.filter_map(|o| Some((PackName::from_key(&o.key)?, o.size_bytes)));
        Ok(listed.insert(sized.collect()).clone())
    }

    async fn trusted(&self, own: &History, database: &str) -> Result<BTreeSet<PackName>> {
        let is_proven = |committed: &&Committed| {
            let proof = own.proof(&committed.commit.backup);
            !committed.forgotten && proof.is_some_and(|proof| proof.problem.is_none())
        };
        let mut proven: Vec<_> = own.commits_of(database).filter(is_proven).collect();
        proven.sort_by_key(|committed| std::cmp::Reverse(committed.made()));
        let mut trusted = BTreeSet::new();
        for committed in proven.into_iter().take(TRUSTED_MAX) {
            // What a damaged list names is read again, and what it is of is mended by itself.
            match self.target.pack_list(committed).await {
                Err(error) if is_finding(&error) => {}
                list => trusted.extend(own.resolve(list?).into_keys()),
            }
        }
        Ok(trusted)
    }

    pub(super) async fn send(&self, packs: BTreeMap<PackName, (u64, Way)>) -> Result<()> {
        let domain = self.target.domain()?;
        let index = Arc::new(IndexSet::new(domain.repository(), PackList::new()));
        let sent = stream::iter(packs)
            .map(|(pack, (size_bytes, way))| {
                let index = &index;
                async move {
                    match way {
                        Way::AsItIs => self.send_as_it_is(pack, size_bytes, index).await,
                        Way::Moved => {
                            let homes = self.send_moved(pack, size_bytes, index).await?;
                            self.say_moved(pack, homes).await
                        }
                    }
                }
            })
            .buffer_unordered(TRANSFERS_MAX)
            .try_collect::<()>()
            .await;
        // Where others find what was sent, also where the rest could not be.
        self.target.store_run_of(&index).await?;
        sent
    }

    /// Reads a pack at the source, and makes sure that it is what its name says.
    async fn fetch(&self, pack: PackName, size_bytes: u64) -> Result<(Bytes, Vec<PackEntry>)> {
        self.fetched(pack, size_bytes).await.map_err(|error| self.at_source(error))
    }

    async fn fetched(&self, pack: PackName, size_bytes: u64) -> Result<(Bytes, Vec<PackEntry>)> {
        let store = &self.source.store;
        let bytes = store.read(&pack.key(), PACK_BYTES_MAX as u64).await?.ok_or_else(|| {
            Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("read pack {pack}"))
                .with("pack", pack)
                .why("chunks of at least one backup were in it")
        })?;
        let checked = self.source.world.cpu.run(move |_| {
            let (_, entries) = inspect(&pack, &bytes)?;
            Ok::<_, Error>((bytes, entries))
        });
        let (bytes, entries) = checked.await?.map_err(|error: Error| error.with("pack", pack))?;
        if bytes.len() as u64 == size_bytes {
            return Ok((bytes, entries));
        }
        Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read pack {pack}"))
            .with("pack", pack)
            .why("it is not as long as the backup says"))
    }

    async fn send_as_it_is(
        &self,
        pack: PackName,
        size_bytes: u64,
        index: &Arc<IndexSet>,
    ) -> Result<()> {
        (self.road.may_go)()?;
        let (bytes, entries) = self.fetch(pack, size_bytes).await?;
        self.put(pack, bytes).await?;
        index.add_pack(pack, size_bytes, entries)
    }

    /// Stores a pack and reads it back.
    async fn put(&self, pack: PackName, bytes: Bytes) -> Result<()> {
        let size_bytes = bytes.len() as u64;
        self.wait(size_bytes).await?;
        let target = self.target;
        persist(&*target.store, &*target.world.clock, &pack.key(), bytes).await?;
        self.count(size_bytes);
        match target.verify_pack(pack, size_bytes).await {
            Err(error) if is_finding(&error) => {
                Err(bad_copy(target, pack.key().as_str()).caused_by(error))
            }
            read => {
                read?;
                self.know(pack);
                if let Some(listed) = &mut *self.listed.lock().await {
                    listed.insert(pack, size_bytes);
                }
                Ok(())
            }
        }
    }

    /// Stores the blobs of a pack under new names.
    pub(super) async fn send_moved(
        &self,
        pack: PackName,
        size_bytes: u64,
        index: &Arc<IndexSet>,
    ) -> Result<Homes> {
        (self.road.may_go)()?;
        let (bytes, entries) = self.fetch(pack, size_bytes).await?;
        let blobs = entries.into_iter().map(move |entry| {
            let range = entry.range();
            SealedBlob::decode(&bytes.slice(range.start as usize..range.end as usize))
        });
        self.pack_up(pack.kind, blobs, index).await
    }

    /// Stores blobs in new packs.
    pub(super) async fn pack_up(
        &self,
        kind: PackKind,
        blobs: impl Iterator<Item = Result<SealedBlob>> + Send + 'static,
        index: &Arc<IndexSet>,
    ) -> Result<Homes> {
        let domain = self.target.domain()?;
        let entropy = Arc::clone(&self.target.world.entropy);
        let build = self.target.world.cpu.run(move |_| {
            let begin = || PackBuilder::new(kind, &domain, &*entropy);
            let (mut packs, mut filling) = (Vec::new(), begin());
            for blob in blobs {
                let blob = blob?;
                if !filling.accepts(&blob) {
                    packs.push(std::mem::replace(&mut filling, begin()).finish());
                }
                filling.push(&blob)?;
            }
            packs.push(filling.finish());
            Ok::<_, Error>(packs)
        });
        let mut homes = Vec::new();
        for made in build.await?? {
            let size_bytes = made.bytes.len() as u64;
            self.put(made.name, made.bytes).await?;
            index.add_pack(made.name, size_bytes, made.entries)?;
            homes.push((made.name, size_bytes));
        }
        Ok(homes)
    }

    /// Says in the target's log where what a pack held is now.
    pub(super) async fn say_moved(&self, pack: PackName, homes: Homes) -> Result<()> {
        let doom =
            Doom { packs: vec![pack], moved: BTreeMap::from([(pack, homes)]), ..Doom::default() };
        self.target.append(async |_| Ok(Some(Action::Doom(Box::new(doom.clone()))))).await?;
        Ok(())
    }
}

/// What a blob is, wherever it lies: a chunk may be stored in full, and against other chunks.
pub(super) fn blob_of(entry: &PackEntry) -> (ChunkId, Option<ChunkId>) {
    (entry.label.id, entry.label.base)
}
