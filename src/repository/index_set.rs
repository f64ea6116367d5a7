//! Where blobs are: the index runs of a repository, and what this writer added.
//!
//! Runs are hints. One that cannot be read costs deduplication, never a restore: the tables of
//! contents in the packs say the same, and [`IndexSet::add_pack`] takes them.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use stillpoint_contract::{Entropy, Error, ErrorKind, Result, code};

use super::{
    history::PackList,
    index_run::{FinishedRun, IndexRun, IndexRunBuilder, Located, SpooledFile},
    pack::{PackEntry, PackName},
};
use crate::pipeline::{
    compress::Encoding,
    id::{ChunkId, RepositoryId},
};

/// Runs held in memory, in bytes; more than that is spooled to an unnamed temporary file.
const RESIDENT_BYTES_MAX: u64 = 32 << 20;

/// Entries that are collected before they become a run.
pub(super) const FRESH_ENTRIES_MAX: usize = 100_000;

/// Finds blobs by the id of their plaintext.
#[derive(Debug)]
pub(super) struct IndexSet {
    /// Packs that may be referred to: they exist and are not doomed.
    usable: RwLock<Usable>,
    repository: RepositoryId,
    runs: RwLock<Vec<Arc<Run>>>,
    covered: RwLock<Covered>,
    resident_bytes: Mutex<u64>,
    fresh: Mutex<Fresh>,
}

/// Packs that may be referred to: what others may look at as well, and what was stored here.
#[derive(Debug)]
struct Usable {
    shared: Arc<PackList>,
    own: PackList,
}

impl Usable {
    fn get(&self, pack: &PackName) -> Option<u64> {
        self.own.get(pack).or_else(|| self.shared.get(pack)).copied()
    }
}

/// Packs of which it is known what they hold, likewise.
#[derive(Clone, Debug, Default)]
struct Covered {
    shared: Arc<HashSet<PackName>>,
    own: HashSet<PackName>,
}

/// A run, in memory or not.
#[derive(Debug)]
pub(super) enum Run {
    Resident(IndexRun<Bytes>),
    Spooled(IndexRun<SpooledFile>),
}

/// What is in no run yet.
#[derive(Debug, Default)]
struct Fresh {
    gathering: Arc<Places>,
    /// What is being made into runs.
    cutting: Vec<Arc<Places>>,
    claimed: HashSet<ChunkId>,
}

impl Fresh {
    fn of(&self, id: &ChunkId) -> impl Iterator<Item = Located> {
        let all = self.cutting.iter().chain([&self.gathering]);
        all.flat_map(|places| places.of(id))
    }
}

/// Places of chunks: each once, in the order in which they came.
#[derive(Clone, Debug, Default)]
struct Places {
    ordered: Vec<Place>,
    newest: HashMap<ChunkId, u32>,
}

#[derive(Clone, Debug)]
struct Place {
    located: Located,
    /// An earlier place of the same chunk.
    earlier: Option<u32>,
}

impl Places {
    fn push(&mut self, located: Located) {
        let number = self.ordered.len() as u32;
        let earlier = self.newest.insert(located.entry.label.id, number);
        self.ordered.push(Place { located, earlier });
    }

    fn of(&self, id: &ChunkId) -> impl Iterator<Item = Located> {
        let place = |number: u32| self.ordered.get(number as usize);
        let newest = self.newest.get(id).copied().and_then(place);
        std::iter::successors(newest, move |this| this.earlier.and_then(place))
            .map(|place| place.located)
    }
}

impl IndexSet {
    /// Begins with no runs. Only blobs in `usable` packs are ever found.
    pub(super) fn new(repository: RepositoryId, usable: impl Into<Arc<PackList>>) -> Self {
        Self {
            usable: RwLock::new(Usable { shared: usable.into(), own: PackList::new() }),
            repository,
            runs: RwLock::default(),
            covered: RwLock::default(),
            resident_bytes: Mutex::default(),
            fresh: Mutex::default(),
        }
    }

    /// The same, with stored runs: the packs that they cover, and how much of them is in memory.
    pub(super) fn with_runs(
        mut self,
        runs: Vec<Arc<Run>>,
        covered: &Arc<HashSet<PackName>>,
        resident_bytes: u64,
    ) -> Self {
        let shared = Arc::clone(covered);
        self.covered = RwLock::new(Covered { shared, own: HashSet::new() });
        (self.runs, self.resident_bytes) = (RwLock::new(runs), Mutex::new(resident_bytes));
        self
    }

    /// Adds a run that was made here.
    fn add_run(&self, bytes: Bytes) -> Result<()> {
        let mut resident = lock(&self.resident_bytes);
        let run = Run::open(bytes, *resident)?;
        *resident += run.resident_bytes();
        drop(resident);
        write(&self.covered).own.extend(run.packs());
        write(&self.runs).push(Arc::new(run));
        Ok(())
    }

    /// The same runs for somebody who may look into `usable` packs only.
    pub(super) fn narrowed(&self, usable: PackList) -> Self {
        let fresh = {
            let Fresh { gathering, cutting, .. } = &*lock(&self.fresh);
            // Nothing is written here, so no run is ever due.
            let cutting = cutting.iter().chain([gathering]).cloned().collect();
            Fresh { cutting, ..Fresh::default() }
        };
        Self {
            usable: RwLock::new(Usable { shared: usable.into(), own: PackList::new() }),
            repository: self.repository,
            runs: RwLock::new(read(&self.runs).clone()),
            covered: RwLock::new(read(&self.covered).clone()),
            resident_bytes: Mutex::new(*lock(&self.resident_bytes)),
            fresh: Mutex::new(fresh),
        }
    }

    /// Adds what a pack holds: one that this writer stored, or one whose table was read.
    pub(super) fn add_pack(
        &self,
        pack: PackName,
        size_bytes: u64,
        entries: Vec<PackEntry>,
    ) -> Result<()> {
        write(&self.usable).own.insert(pack, size_bytes);
        write(&self.covered).own.insert(pack);
        let pack_bytes = u32::try_from(size_bytes).map_err(|_| Error::bug("index a pack"))?;
        let fresh = &mut *lock(&self.fresh);
        let gathering = Arc::make_mut(&mut fresh.gathering);
        for entry in entries {
            gathering.push(Located { pack, pack_bytes, entry });
            fresh.claimed.remove(&entry.label.id);
        }
        Ok(())
    }

    /// Whether a run or this writer says what `pack` holds.
    pub(super) fn covers(&self, pack: &PackName) -> bool {
        let covered = read(&self.covered);
        covered.own.contains(pack) || covered.shared.contains(pack)
    }

    /// Stops referring to packs that others doomed meanwhile.
    pub(super) fn retire(&self, is_doomed: impl Fn(&PackName) -> bool) {
        let mut usable = write(&self.usable);
        usable.own.retain(|pack, _| !is_doomed(pack));
        Arc::make_mut(&mut usable.shared).retain(|pack, _| !is_doomed(pack));
    }

    /// Claims the right to store a chunk: `false` when it is stored, or being stored, already.
    pub(super) fn claim(&self, id: &ChunkId) -> Result<bool> {
        if lock(&self.fresh).claimed.contains(id) || !self.find(id)?.is_empty() {
            return Ok(false);
        }
        Ok(lock(&self.fresh).claimed.insert(*id))
    }

    /// Every usable place of a chunk. Reads spooled runs: call it on a CPU thread.
    pub(super) fn find(&self, id: &ChunkId) -> Result<Vec<Located>> {
        let mut found = Vec::new();
        let usable = read(&self.usable);
        // A pack of another size than it was written with is damaged, and as good as gone.
        let is_usable =
            |place: &Located| usable.get(&place.pack) == Some(u64::from(place.pack_bytes));
        found.extend(lock(&self.fresh).of(id).filter(is_usable));
        for run in &*read(&self.runs) {
            let places = run.find(id)?;
            found.extend(places.into_iter().filter(is_usable));
        }
        Ok(found)
    }

    /// Where a chunk lies and, if it is stored as a delta, where the full blob of its base lies.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when either is nowhere.
    pub(super) fn locate(&self, id: &ChunkId) -> Result<(Located, Option<Located>)> {
        let places = self.find(id)?;
        if let Some(full) = places.iter().find(|place| is_full(place)) {
            return Ok((*full, None));
        }
        for place in places {
            let Some(base) = place.entry.label.base else { continue };
            if let Some(full) = self.find(&base)?.into_iter().find(is_full) {
                return Ok((place, Some(full)));
            }
        }
        Err(nowhere(id))
    }

    /// The size of a usable pack, in bytes.
    pub(super) fn size_of(&self, pack: &PackName) -> Option<u64> {
        read(&self.usable).get(pack)
    }

    /// Whether enough was added to be worth a run.
    pub(super) fn is_run_due(&self) -> bool {
        lock(&self.fresh).gathering.ordered.len() >= FRESH_ENTRIES_MAX
    }

    /// Makes a run of what was added since the last one, adds it to the set, and returns it; `None`
    /// when nothing was added.
    pub(super) fn cut_run(&self, entropy: &dyn Entropy) -> Result<Option<FinishedRun>> {
        let taken = {
            let fresh = &mut *lock(&self.fresh);
            let taken = std::mem::take(&mut fresh.gathering);
            if taken.ordered.is_empty() {
                return Ok(None);
            }
            fresh.cutting.push(Arc::clone(&taken));
            taken
        };
        let mut builder = IndexRunBuilder::new(self.repository);
        for place in &taken.ordered {
            builder.add(&place.located)?;
        }
        let run = builder.finish(entropy);
        self.add_run(run.bytes.clone())?;
        // What the run now finds need not be remembered beside it.
        lock(&self.fresh).cutting.retain(|places| !Arc::ptr_eq(places, &taken));
        Ok(Some(run))
    }
}

impl Run {
    /// Opens a run where so many bytes of others are in memory already.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is damaged; it is then not used.
    pub(super) fn open(bytes: Bytes, resident_bytes: u64) -> Result<Self> {
        if resident_bytes + bytes.len() as u64 <= RESIDENT_BYTES_MAX {
            return IndexRun::open(bytes).map(Self::Resident);
        }
        IndexRun::open(spool(&bytes)?).map(Self::Spooled)
    }

    /// What it needs in memory.
    pub(super) fn resident_bytes(&self) -> u64 {
        match self {
            Self::Resident(run) => run.size_bytes(),
            Self::Spooled(_) => 0,
        }
    }

    fn find(&self, id: &ChunkId) -> Result<Vec<Located>> {
        match self {
            Self::Resident(run) => run.find(id),
            Self::Spooled(run) => run.find(id),
        }
    }

    pub(super) fn packs(&self) -> Vec<PackName> {
        match self {
            Self::Resident(run) => run.packs().collect(),
            Self::Spooled(run) => run.packs().collect(),
        }
    }
}

/// Copies a run to a temporary file that vanishes with its last reader.
pub(super) fn spool(bytes: &Bytes) -> Result<SpooledFile> {
    let failed = |cause: std::io::Error| {
        Error::new(ErrorKind::Exhausted, code::FILE_FULL, "copy an index run to a temporary file")
            .with("directory", std::env::temp_dir().display())
            .caused_by(cause)
    };
    let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    SpooledFile::open(file.path())
}

fn is_full(place: &Located) -> bool {
    place.entry.label.encoding != Encoding::Delta
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nowhere(id: &ChunkId) -> Error {
    Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("find chunk {id}"))
        .why("no pack of this repository holds it any more")
        .next("run `stillpoint verify` and restore from another copy or another backup")
}
