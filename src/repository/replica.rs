//! A copy of a repository: objects travel as they are stored, and only forward.
//!
//! A copy has the id and the keys of the original, so that no byte has to be opened on its way, and
//! a log of its own. What is forgotten, expired or damaged in one of them changes nothing in the
//! other: a backup is copied once it was proven, object by object, each hashed when it is read, and
//! again when it is read back from where it was written. Then an entry in the copy's log makes it
//! exist there, and another one says that every byte of it was read back there.
//!
//! What is there is found by looking, so no note of progress can be wrong: whoever is killed goes
//! on with what lacks.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor, Writers},
    entry::{Action, Commit, hash_of},
    handle::{Repository, read_slots, unlock},
    history::{Committed, History, PackList},
    init::refuse_occupied,
    keys::{PassphraseCost, Secret},
    log::Appended,
    manifest::{MANIFEST_BYTES_MAX, PACK_LIST_BYTES_MAX, encode_pack_list},
    names,
    pace::Pace,
    pack::PackName,
    packer::persist,
    store::{Deleted, Key, Put, Store},
};
use crate::{
    pipeline::{
        Meter,
        id::RepositoryId,
        keys::{Domain, RepositoryKey},
    },
    world::World,
};

/// How often a backup is committed anew because garbage was collected meanwhile.
const ATTEMPTS_MAX: u32 = 8;

/// Pack lists of one backup: each attempt that needs other packs has a name of its own.
const LISTS_MAX: u32 = 64;

/// The fact of an error that says that it was the source that could not be read, and where it is.
pub const COPIED_FROM: &str = "copied from";

/// How bytes may go from one repository to the other.
#[derive(Clone, Copy)]
pub struct Road<'a> {
    /// How fast.
    pub pace: &'a Pace,
    /// Whether they may go at all, asked before each object and while it waits.
    pub may_go: &'a (dyn Fn() -> Result<()> + Send + Sync),
    /// Where progress is told.
    pub meter: &'a Arc<Meter>,
}

/// Two repositories of one origin, and the way between them.
pub struct Replication<'a> {
    pub(super) source: &'a Repository,
    pub(super) target: &'a Repository,
    pub(super) road: Road<'a>,
    /// Packs of the target that were read whole.
    pub(super) whole: Mutex<BTreeSet<PackName>>,
    /// The packs that lie at the target, listed once, and those that came since.
    pub(super) listed: tokio::sync::Mutex<Option<PackList>>,
    sent_objects: AtomicU64,
    sent_bytes: AtomicU64,
}

impl std::fmt::Debug for Road<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Road").field("pace", self.pace).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Replication<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication")
            .field("source", &self.source.location())
            .field("target", &self.target.location())
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes an empty copy of this repository, or goes on where an earlier attempt stopped.
    /// `secret` opens it as well as what opens the original does.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when anything else is there already.
    pub async fn init_replica(
        &self,
        store: Arc<dyn Store>,
        writers: Writers,
        secret: Option<&Secret>,
    ) -> Result<Self> {
        self.domain()?;
        refuse_occupied(&*store).await?;
        let world = self.world.clone();
        let id = RepositoryId::new(self.descriptor().id()?);
        // The key slots first: a copy that nobody can open must never look finished.
        let (mut slots, history) = (Vec::new(), self.history().await?);
        for (slot, bytes) in read_slots(&*self.store, id).await? {
            if history.is_removed_slot(&slot.id().to_string()) {
                continue;
            }
            put_whole(&*store, &world, &slot.id().key(), bytes.clone()).await?;
            slots.push((slot, bytes));
        }
        let key = names::descriptor();
        let mut replica = [0; 16];
        world.entropy.fill(&mut replica);
        let descriptor = Descriptor {
            created_at: world.clock.now(),
            program: concat!("stillpoint ", env!("CARGO_PKG_VERSION")).to_owned(),
            writers,
            replica: Some(data_encoding::HEXLOWER.encode(&replica)),
            ..self.descriptor().clone()
        };
        persist(&*store, &*world.clock, &key, descriptor.encode()?).await?;
        let stored = store.read(&key, DESCRIPTOR_BYTES_MAX).await?;
        let stored = stored.ok_or_else(|| Error::bug("read what was just written"))?;
        let descriptor = Descriptor::decode(&stored)?;
        self.check_kin(&descriptor, &store.location())?;
        let (domain, master) = self.same_keys()?;
        let made = Self::assemble(world, store, descriptor, Some(domain), master)?;
        if made.try_append(Action::Init { descriptor: hash_of(&stored) }).await? == Appended::Lost {
            return Err(Error::new(ErrorKind::Busy, code::REPOSITORY_EXISTS, "create a copy")
                .with("place", made.location())
                .why("somebody else has just created it")
                .next("repeat the command"));
        }
        for (slot, bytes) in slots {
            made.log_slot(&slot, &bytes).await?;
        }
        if let Some(secret) = secret {
            made.let_in(secret).await?;
        }
        Ok(made)
    }

    /// Lets a secret open the copy, unless it does already.
    async fn let_in(&self, secret: &Secret) -> Result<()> {
        if self.descriptor().signing_key.is_none() {
            return Ok(());
        }
        let (store, descriptor) = (&*self.store, self.descriptor());
        match unlock(&self.world, store, descriptor, Some(secret.clone())).await {
            Err(error) if error.code() == code::WRONG_KEY => {
                let cost = PassphraseCost::DEFAULT;
                self.add_key(secret, "copy", cost).await.map(drop)
            }
            opened => opened.map(drop),
        }
    }

    fn same_keys(&self) -> Result<(Domain, Option<RepositoryKey>)> {
        let domain = self.domain()?;
        if !domain.is_encrypted() {
            return Ok((Domain::plain(domain.repository()), None));
        }
        let master = RepositoryKey::new(zeroize::Zeroizing::new(*self.master()?.expose()));
        Ok((Domain::encrypted(domain.repository(), domain.epoch(), &master), Some(master)))
    }

    /// Makes sure that a descriptor is that of a copy of the same origin.
    fn check_kin(&self, other: &Descriptor, place: &str) -> Result<()> {
        let own = self.descriptor();
        let problem = if !other.is_replica() {
            "it is a repository of its own, and nothing is copied over one"
        } else if other.repository != own.repository || other.signing_key != own.signing_key {
            "it is a copy of another repository"
        } else if other.log_id() == own.log_id() {
            "it is the very repository that it would be copied from"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Refused, code::REPLICA, "copy into the repository")
            .with("place", place)
            .with(COPIED_FROM, self.location())
            .why(problem)
            .next("give each copy a place of its own, and feed it from one origin"))
    }

    /// Refuses to write to a copy anything but what is copied.
    pub(super) fn refuse_replica(&self) -> Result<()> {
        if !self.descriptor().is_replica() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Refused, code::REPLICA, "store into a copy of a repository")
            .with("place", self.location())
            .why("what a copy holds comes from its origin alone, or the two would drift apart")
            .next("name the repository that it is copied from"))
    }
}

impl<'a> Replication<'a> {
    /// Copies go from `source` to `target`.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when `target` is no copy of the same origin.
    pub fn new(source: &'a Repository, target: &'a Repository, road: Road<'a>) -> Result<Self> {
        source.check_kin(target.descriptor(), &target.location())?;
        Ok(Self::between(source, target, road))
    }

    /// What lacks in `target` may come from `source`: one is a copy of the other, or both are of a
    /// third one.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when they are of different origins.
    pub fn to_mend(source: &'a Repository, target: &'a Repository, road: Road<'a>) -> Result<Self> {
        let (own, other) = (source.descriptor(), target.descriptor());
        let is_kin = own.repository == other.repository && own.signing_key == other.signing_key;
        if !is_kin || own.log_id() == other.log_id() {
            return Err(Error::new(ErrorKind::Refused, code::REPLICA, "repair from a copy")
                .with("place", target.location())
                .with("copy", source.location())
                .why("neither is a copy of the other"));
        }
        Ok(Self::between(source, target, road))
    }

    /// The way back: what the target has and the source lacks.
    ///
    /// # Errors
    ///
    /// As [`to_mend`](Self::to_mend).
    pub fn back<'b>(&'b self, pace: &'b Pace) -> Result<Replication<'b>> {
        let road = Road { pace, ..self.road };
        Replication::to_mend(self.target, self.source, road)
    }

    fn between(source: &'a Repository, target: &'a Repository, road: Road<'a>) -> Self {
        let (sent_objects, sent_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (whole, listed) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { source, target, road, whole, listed, sent_objects, sent_bytes }
    }

    /// Marks an error as one of reading the source.
    pub(super) fn at_source(&self, error: Error) -> Error {
        error.with(COPIED_FROM, self.source.location())
    }

    /// Objects and bytes that were sent so far.
    pub fn sent(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.sent_objects), read(&self.sent_bytes))
    }

    pub(super) fn count(&self, bytes: u64) {
        self.sent_objects.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.road.meter.store(bytes);
    }

    /// Waits until so many bytes may go.
    pub(super) async fn wait(&self, bytes: u64) -> Result<()> {
        let each = |portion| {
            (self.road.may_go)()?;
            self.road.meter.advance(portion);
            Ok(())
        };
        self.road.pace.take(bytes, each).await
    }

    /// Copies one backup that was proven, and proves it where it came to. Says what it added there,
    /// in bytes; nothing if it is there already, or was given up there.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Missing`](ErrorKind::Missing) when something is not as
    /// it was written: at the source, nothing of that comes to exist at the target.
    pub async fn backup(&self, committed: &Committed) -> Result<Option<u64>> {
        let commit = &committed.commit;
        if self.target.history().await?.commit(&commit.backup).is_some() {
            return Ok(None);
        }
        let (_, before) = self.sent();
        let (name, hash) = (&commit.manifest, &commit.manifest_hash);
        let at_source = |error| self.at_source(error);
        let manifest = self.source.hashed(name, hash, MANIFEST_BYTES_MAX).await;
        let manifest = manifest.map_err(at_source)?;
        let original = self.source.pack_list(committed).await.map_err(at_source)?;
        for _ in 0..ATTEMPTS_MAX {
            let packs = self.packs(committed, &original).await?;
            // No backup of the target has that name: whatever lies there is of no use.
            self.whole(&Key::new(name.clone())?, manifest.clone(), true).await?;
            let (list, list_hash) = self.list(committed, &packs).await?;
            let (_, sent) = self.sent();
            let own = Commit {
                stored_bytes: sent - before,
                packs: list,
                packs_hash: list_hash,
                origin: Some(committed.made()),
                ..commit.clone()
            };
            if self.commit(own, &packs).await? {
                self.prove(&commit.backup).await?;
                return Ok(Some(sent - before));
            }
        }
        Err(Error::new(ErrorKind::Busy, code::BACKUP_DISCARDED, "copy a backup")
            .with("backup", &commit.backup)
            .why("garbage is collected there faster than it can be copied"))
    }

    /// Makes the backup exist at the target, unless something that it needs was doomed meanwhile.
    async fn commit(&self, own: Commit, packs: &PackList) -> Result<bool> {
        let mut is_good = true;
        self.target
            .append(async |history| {
                let gone = history.resolve(packs.clone());
                let is_lost = gone.keys().any(|pack| history.is_doomed_pack(pack));
                let objects = [&own.manifest, &own.packs];
                let is_doomed = objects.into_iter().any(|name| history.is_doomed_object(name));
                is_good = !is_lost && !is_doomed;
                let is_new = history.commit(&own.backup).is_none();
                Ok((is_good && is_new).then(|| Action::Commit(Box::new(own.clone()))))
            })
            .await?;
        Ok(is_good)
    }

    /// Reads every byte of a backup at the target, and writes down what came of it there.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is not as it was written.
    pub async fn prove(&self, backup: &str) -> Result<()> {
        let history = self.target.history().await?;
        let committed = history.commit(backup).filter(|known| !known.forgotten);
        let Some(committed) = committed else { return Ok(()) };
        self.road.meter.begin("verify", committed.commit.size_bytes);
        let report = self.target.verify_backup(committed, self.road.meter).await?;
        self.target.prove(committed, &report).await?;
        match report.problems.first() {
            None => Ok(()),
            Some(first) => Err(bad_copy(self.target, &first.object).with("problem", &first.what)),
        }
    }

    /// Stores an object and reads it back. What lies there under its name and is not it gives way
    /// only where it `is_lost`: it is known that nobody can use it, and the good bytes are at hand.
    pub(super) async fn whole(&self, key: &Key, bytes: Bytes, is_lost: bool) -> Result<()> {
        if self.holds(key, &bytes).await? {
            return Ok(());
        }
        let (store, clock) = (&*self.target.store, &*self.target.world.clock);
        self.wait(bytes.len() as u64).await?;
        let put = persist(store, clock, key, bytes.clone()).await?;
        self.count(bytes.len() as u64);
        if self.holds(key, &bytes).await? {
            return Ok(());
        }
        let gives_way = is_lost && put == Put::Existed;
        if !gives_way || store.delete(key).await? == Deleted::Retained {
            return Err(bad_copy(self.target, key.as_str()));
        }
        let put = persist(store, clock, key, bytes.clone()).await?;
        if put == Put::Created && self.holds(key, &bytes).await? {
            return Ok(());
        }
        Err(bad_copy(self.target, key.as_str()))
    }

    /// Whether these bytes lie at the target under a name.
    async fn holds(&self, key: &Key, bytes: &Bytes) -> Result<bool> {
        match self.target.store.read(key, bytes.len() as u64).await {
            // Something longer lies there.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            read => Ok(read?.is_some_and(|known| known == *bytes)),
        }
    }

    /// Stores the list of the packs that answer for a backup at the target: as it is at the source,
    /// or, where packs have moved, under a name of its own.
    async fn list(&self, committed: &Committed, packs: &PackList) -> Result<(String, String)> {
        let commit = &committed.commit;
        let bytes = Bytes::from(encode_pack_list(packs));
        let hash = hash_of(&bytes);
        if hash == commit.packs_hash {
            self.whole(&Key::new(commit.packs.clone())?, bytes, true).await?;
            return Ok((commit.packs.clone(), hash));
        }
        for attempt in 1..LISTS_MAX {
            let (started_at, database) = (commit.started_at, &commit.database);
            let key = names::pack_list(started_at, database, &commit.backup, attempt)?;
            let known = self.target.store.read(&key, PACK_LIST_BYTES_MAX).await;
            let is_free = matches!(&known, Ok(None));
            if is_free || matches!(&known, Ok(Some(known)) if *known == bytes) {
                self.whole(&key, bytes, false).await?;
                return Ok((key.to_string(), hash));
            }
        }
        Err(Error::bug("name another pack list").with("backup", &commit.backup))
    }

    /// Lets whoever can open the source open the target as well. Nobody is locked out: a slot that
    /// was taken away there stays here until somebody says so here.
    pub async fn slots(&self) -> Result<()> {
        let id = RepositoryId::new(self.source.descriptor().id()?);
        let (theirs, own) = (self.source.history().await?, self.target.history().await?);
        for (slot, bytes) in read_slots(&*self.source.store, id).await? {
            let name = slot.id().to_string();
            let is_meant = theirs.key_slots().get(&name).is_none_or(|h| *h == hash_of(&bytes));
            let is_known = own.key_slots().contains_key(&name) || own.is_removed_slot(&name);
            if is_meant && !is_known && !theirs.is_removed_slot(&name) {
                put_whole(&*self.target.store, &self.target.world, &slot.id().key(), bytes.clone())
                    .await?;
                self.target.log_slot(&slot, &bytes).await?;
            }
        }
        Ok(())
    }

    /// Tells the target what people said at the source: holds, events, and the end of both; and
    /// what drills there found damaged. What only the target knows stays.
    pub async fn custody(&self, database: &str) -> Result<()> {
        let theirs = self.source.history().await?;
        while said(&theirs, &*self.target.history().await?, database).is_some() {
            self.target.append(async |own| Ok(said(&theirs, own, database))).await?;
        }
        self.doubts(&theirs, database).await
    }
}

/// What the source knows next of holds and events that the target does not.
fn said(theirs: &History, own: &History, database: &str) -> Option<Action> {
    for hold in theirs.holds().filter(|hold| hold.held.database == database) {
        let known = own.holds().find(|known| known.held.hold == hold.held.hold);
        match (known, &hold.released) {
            (None, None) if own.can_hold(&hold.held) => {
                return Some(Action::Held(Box::new(hold.held.clone())));
            }
            (Some(known), Some((_, ended))) if known.released.is_none() => {
                return Some(Action::Released(Box::new(ended.clone())));
            }
            _ => {}
        }
    }
    for event in theirs.events() {
        if event.recorded.database.as_ref().is_some_and(|own| own != database) {
            continue;
        }
        let known = own.events().iter().find(|k| k.recorded.event == event.recorded.event);
        match (known, &event.withdrawn) {
            (None, _) => return Some(Action::Event(Box::new(event.recorded.clone()))),
            (Some(known), Some((_, ended))) if known.withdrawn.is_none() => {
                return Some(Action::Withdrawn(Box::new(ended.clone())));
            }
            _ => {}
        }
    }
    None
}

/// Stores an object, or makes sure that it is there.
pub(super) async fn put_whole(
    store: &dyn Store,
    world: &World,
    key: &Key,
    bytes: Bytes,
) -> Result<()> {
    persist(store, &*world.clock, key, bytes.clone()).await?;
    match store.read(key, bytes.len() as u64).await? {
        Some(known) if known == bytes => Ok(()),
        _ => Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("store {key}"))
            .with("place", store.location())
            .why("what was read back is not what was written")),
    }
}

/// What was written is not what is read.
pub(super) fn bad_copy(target: &Repository, object: &str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {object} back"))
        .with("copy", target.location())
        .why(
            "what the copy's store gives back is not what was written; the original is not touched",
        )
        .next("check the disk or the network there, and copy again")
}
