//! Packs on their way into a copy, and back from it where the original lost some.
//!
//! A pack keeps its name, and with it its hash. Only where the target has given the name up, or has
//! something else under it, its blobs come to lie in a new pack, and an entry in the target's log
//! says where they are now: nothing is overwritten, and what is damaged stays until what replaces
//! it was read back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    entry::{Action, Doom},
    history::{Committed, History, PackList},
    index_set::IndexSet,
    manifest::{MANIFEST_BYTES_MAX, PACK_LIST_BYTES_MAX},
    names,
    pack::{PACK_BYTES_MAX, PackBuilder, PackEntry, PackName, SealedBlob, inspect},
    packer::persist,
    replica::{Replication, bad_copy},
    store::Key,
    verify::is_finding,
};

/// Packs on their way at once. Each is held in memory.
const TRANSFERS_MAX: usize = 2;

/// Newest backups of the database at the target whose packs need not be read again: all of them
/// were when it was proven.
const TRUSTED_MAX: usize = 2;

/// How a pack gets to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Under its own name.
    AsItIs,
    /// Its blobs in a new pack.
    Moved,
}

/// What the target has of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
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
            if self.has(&own, &stored, &trusted, one.clone()).await? == There::Whole {
                list.extend(one);
                continue;
            }
            // What the source itself has moved since comes as it lies there now.
            for (home, size_bytes) in theirs.resolve(one) {
                let one = PackList::from([(home, size_bytes)]);
                let way = match self.has(&own, &stored, &trusted, one.clone()).await? {
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

    /// What the target has of a pack, wherever it lies there.
    async fn has(
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
    async fn stored(&self) -> Result<PackList> {
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
            trusted.extend(own.resolve(self.target.pack_list(committed).await?).into_keys());
        }
        Ok(trusted)
    }

    async fn send(&self, packs: BTreeMap<PackName, (u64, Way)>) -> Result<()> {
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
        let store = &self.source.store;
        let bytes = store.read(&pack.key(), PACK_BYTES_MAX as u64).await?.ok_or_else(|| {
            Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("read pack {pack}"))
                .with("repository", store.location())
                .why("chunks of at least one backup were in it")
        })?;
        let checked = self.source.world.cpu.run(move |_| {
            let (_, entries) = inspect(&pack, &bytes)?;
            Ok::<_, Error>((bytes, entries))
        });
        let (bytes, entries) = checked.await?.map_err(|error: Error| {
            error.with("pack", pack).with("repository", self.source.location())
        })?;
        if bytes.len() as u64 == size_bytes {
            return Ok((bytes, entries));
        }
        Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read pack {pack}"))
            .with("repository", self.source.location())
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
    async fn send_moved(
        &self,
        pack: PackName,
        size_bytes: u64,
        index: &Arc<IndexSet>,
    ) -> Result<Vec<(PackName, u64)>> {
        (self.road.may_go)()?;
        let (bytes, entries) = self.fetch(pack, size_bytes).await?;
        let domain = self.target.domain()?;
        let entropy = Arc::clone(&self.target.world.entropy);
        let build = self.target.world.cpu.run(move |_| {
            let begin = || PackBuilder::new(pack.kind, &domain, &*entropy);
            let (mut packs, mut filling) = (Vec::new(), begin());
            for entry in entries {
                let range = entry.range();
                let blob = bytes.slice(range.start as usize..range.end as usize);
                let blob = SealedBlob::decode(&blob)?;
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
    async fn say_moved(&self, pack: PackName, homes: Vec<(PackName, u64)>) -> Result<()> {
        let doom =
            Doom { packs: vec![pack], moved: BTreeMap::from([(pack, homes)]), ..Doom::default() };
        self.target.append(async |_| Ok(Some(Action::Doom(Box::new(doom.clone()))))).await?;
        Ok(())
    }

    /// Brings back what a backup at the target needs and is not as it was written there. Returns
    /// the names of the objects that were damaged or missing.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Missing`](ErrorKind::Missing) when the source has no
    /// good one either.
    pub async fn mend(&self, committed: &Committed) -> Result<Vec<String>> {
        let commit = &committed.commit;
        let mut mended = Vec::new();
        for (name, hash, limit) in [
            (&commit.manifest, &commit.manifest_hash, MANIFEST_BYTES_MAX),
            (&commit.packs, &commit.packs_hash, PACK_LIST_BYTES_MAX),
        ] {
            match self.target.hashed(name, hash, limit).await {
                Err(error) if is_finding(&error) => {
                    let good = self.source.hashed(name, hash, limit).await?;
                    self.whole(&Key::new(name.clone())?, good, true).await?;
                    mended.push(name.clone());
                }
                known => drop(known?),
            }
        }
        let (theirs, own) = (self.source.history().await?, self.target.history().await?);
        let stored = self.stored().await?;
        let mut to_send = BTreeMap::new();
        for (pack, size_bytes) in self.target.pack_list(committed).await? {
            let one = PackList::from([(pack, size_bytes)]);
            let there = self.has(&own, &stored, &BTreeSet::new(), one.clone()).await?;
            if there == There::Whole {
                continue;
            }
            mended.push(pack.key().to_string());
            let homes = theirs.resolve(one.clone());
            if there == There::Nothing && homes == one {
                to_send.insert(pack, (size_bytes, Way::AsItIs));
            } else {
                self.replace(pack, homes).await?;
            }
        }
        self.send(to_send).await?;
        Ok(mended)
    }

    /// Puts what a pack held into new packs, from wherever the source has it.
    async fn replace(&self, pack: PackName, at_source: PackList) -> Result<()> {
        let domain = self.target.domain()?;
        let index = Arc::new(IndexSet::new(domain.repository(), PackList::new()));
        let mut homes = Vec::new();
        for (home, size_bytes) in at_source {
            homes.extend(self.send_moved(home, size_bytes, &index).await?);
        }
        self.target.store_run_of(&index).await?;
        self.say_moved(pack, homes).await
    }
}
