//! What a process remembers of packs and index runs: whoever makes thousands of backups does not
//! list and read everything for each of them.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use stillpoint_contract::{Entropy, Error, ErrorKind, Result, code};
use tokio::sync::MutexGuard;

use super::{
    blobs::Blobs,
    handle::{INDEX_RUN_BYTES_MAX, Repository},
    history::{History, PackList},
    index_run::{IndexRun, Merge, RunName},
    index_set::{IndexSet, Run},
    names,
    pack::PackName,
};
use crate::pipeline::id::RepositoryId;

/// How long a listing may be used for new backups: no pack goes that the log has not doomed before.
const LISTED_AGE_MAX: Duration = Duration::from_secs(10);

/// Index runs that are read at once.
const READS_MAX: usize = 4;

/// Packs that are asked themselves what they hold, before every index run is read for them.
const ASKED_MAX: usize = 8;

/// Small runs that are remembered one by one; more of them are merged, in memory.
const SMALL_RUNS_MAX: usize = 32;

/// Entries of a small run.
const SMALL_ENTRIES_MAX: usize = 4096;

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Known {
    listed_at: Option<Duration>,
    /// The newest entry by which something was doomed when it was listed.
    doomed_by: Option<u64>,
    /// Packs that may be referred to: they exist and were not doomed.
    usable: Arc<PackList>,
    /// Runs that were read.
    names: HashSet<RunName>,
    /// What they say; of what lies in packs that are gone, too.
    runs: Vec<Arc<Run>>,
    /// The packs that they cover.
    covered: Arc<HashSet<PackName>>,
    resident_bytes: u64,
}

impl Known {
    /// Small runs, if there are so many that they are better merged.
    fn small(&self) -> Option<Vec<Arc<Run>>> {
        let small: Vec<_> = self.runs.iter().filter(|run| is_small(run)).map(Arc::clone).collect();
        (small.len() > SMALL_RUNS_MAX).then_some(small)
    }
}

impl Repository {
    /// Packs that may be referred to, and the blobs in them by every index run. What was listed a
    /// moment ago is not listed again, if everything that is `needed` is in it.
    pub(super) async fn lately(
        &self,
        history: &History,
        needed: &PackList,
        suspects: &BTreeSet<PackName>,
    ) -> Result<Blobs> {
        let mut known = self.known.lock().await;
        let age = |at| self.world.clock.elapsed().saturating_sub(at);
        let is_recent = known.listed_at.is_some_and(|at| age(at) < LISTED_AGE_MAX)
            && doomed_by(history) <= known.doomed_by;
        if !is_recent || !needed.keys().all(|pack| known.usable.contains_key(pack)) {
            self.look_around(&mut known, history).await?;
        }
        let mut usable = Arc::clone(&known.usable);
        if !suspects.is_empty() {
            Arc::make_mut(&mut usable).retain(|pack, _| !suspects.contains(pack));
        }
        self.known_blobs(&known, usable)
    }

    /// Everything that may be referred to now, packs that exist and are not doomed, and the blobs
    /// in it.
    pub(super) async fn usable(&self, history: &History) -> Result<(Arc<PackList>, Blobs)> {
        let mut known = self.known.lock().await;
        self.look_around(&mut known, history).await?;
        Ok((Arc::clone(&known.usable), self.known_blobs(&known, Arc::clone(&known.usable))?))
    }

    /// Blobs in the packs of one backup, every one of which is covered.
    pub(super) async fn blobs_of(&self, history: &History, packs: &PackList) -> Result<Blobs> {
        let packs = &Arc::new(packs.clone());
        let blobs = self.known_blobs(&*self.known.lock().await, Arc::clone(packs))?;
        let unknown = packs.keys().filter(|pack| !blobs.index.covers(pack)).count();
        if unknown <= ASKED_MAX && blobs.cover(packs).await.is_ok() {
            return Ok(blobs);
        }
        // What a pack cannot say itself, an index run may.
        let blobs = {
            let mut known = self.known.lock().await;
            self.look_around(&mut known, history).await?;
            self.known_blobs(&known, Arc::clone(packs))?
        };
        blobs.cover(packs).await?;
        Ok(blobs)
    }

    fn known_blobs(&self, known: &Known, usable: Arc<PackList>) -> Result<Blobs> {
        let domain = self.domain()?;
        let index = IndexSet::new(domain.repository(), usable);
        let index = index.with_runs(known.runs.clone(), &known.covered, known.resident_bytes);
        let index = Arc::new(index);
        let (store, cpu) = (Arc::clone(&self.store), self.world.cpu.clone());
        Ok(Blobs { store, domain, cpu, index, opened: Arc::new(AtomicU64::new(0)) })
    }

    /// Lists packs and index runs, and reads those runs that are new.
    async fn look_around(
        &self,
        known: &mut MutexGuard<'_, Known>,
        history: &History,
    ) -> Result<()> {
        let at = self.world.clock.elapsed();
        let packs = self.store.list(names::PACKS).await?;
        let runs = self.store.list(names::INDEX).await?;
        let named = runs.iter().filter_map(|object| RunName::from_key(&object.key));
        let there: HashSet<RunName> = named.filter(|run| !history.is_doomed_index(run)).collect();
        let gone = known.names.difference(&there).count();
        if known.names.len() < 2 * gone {
            // Others say now what they said.
            (known.runs, known.resident_bytes) = (Vec::new(), 0);
            (known.covered, known.names) = (Arc::default(), HashSet::new());
        }
        let mut unread: Vec<RunName> = there.difference(&known.names).copied().collect();
        unread.sort_unstable();
        let mut reads = stream::iter(unread)
            .map(|run| async move { (run, self.store.read(&run.key(), INDEX_RUN_BYTES_MAX).await) })
            .buffered(READS_MAX);
        while let Some((name, read)) = reads.next().await {
            let bytes = match read {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tell_unreadable(name, &error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let resident_bytes = known.resident_bytes;
            let job = move |_: &mut _| open(name, bytes, resident_bytes);
            match self.world.cpu.run(job).await? {
                Ok(run) => {
                    known.resident_bytes += run.resident_bytes();
                    Arc::make_mut(&mut known.covered).extend(run.packs());
                    known.runs.push(Arc::new(run));
                    known.names.insert(name);
                }
                Err(error) => tell_unreadable(name, &error),
            }
            if let Some(small) = known.small() {
                self.merge_small(known, small).await?;
            }
        }
        let sized = packs.into_iter();
        let sized = sized.filter_map(|o| Some((PackName::from_key(&o.key)?, o.size_bytes)));
        let usable = sized.filter(|(pack, _)| !history.is_doomed_pack(pack));
        known.usable = Arc::new(usable.collect());
        (known.listed_at, known.doomed_by) = (Some(at), doomed_by(history));
        Ok(())
    }

    async fn merge_small(
        &self,
        known: &mut MutexGuard<'_, Known>,
        small: Vec<Arc<Run>>,
    ) -> Result<()> {
        let (repository, entropy) = (self.domain()?.repository(), Arc::clone(&self.world.entropy));
        let resident_bytes = known.resident_bytes;
        let job = move |_: &mut _| merge(repository, &small, resident_bytes, &*entropy);
        let merged = self.world.cpu.run(job).await?;
        known.runs.retain(|run| !is_small(run));
        match merged {
            Ok(merged) => known.runs.extend(merged.into_iter().map(Arc::new)),
            Err(error) => {
                // Their packs say the same.
                tracing::warn!("small index runs are unreadable and are not used: {error}");
                let covered = known.runs.iter().flat_map(|run| run.packs()).collect();
                known.covered = Arc::new(covered);
            }
        }
        known.resident_bytes = known.runs.iter().map(|run| run.resident_bytes()).sum();
        Ok(())
    }
}

fn doomed_by(history: &History) -> Option<u64> {
    history.dooms().last_key_value().map(|(seq, _)| *seq)
}

fn is_small(run: &Run) -> bool {
    matches!(run, Run::Resident(run) if run.len() < SMALL_ENTRIES_MAX)
}

fn open(name: RunName, bytes: Bytes, resident_bytes: u64) -> Result<Run> {
    if blake3::hash(&bytes).as_bytes() != name.as_bytes() {
        return Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read an index run")
            .with("run", name));
    }
    fitting(bytes, resident_bytes)
}

/// A small run stays in memory, so that it is merged with others: each that does not is a file that
/// stays open.
fn fitting(bytes: Bytes, resident_bytes: u64) -> Result<Run> {
    let run = IndexRun::open(bytes.clone())?;
    if run.len() < SMALL_ENTRIES_MAX {
        return Ok(Run::Resident(run));
    }
    Run::open(bytes, resident_bytes)
}

fn merge(
    repository: RepositoryId,
    small: &[Arc<Run>],
    resident_bytes: u64,
    entropy: &dyn Entropy,
) -> Result<Vec<Run>> {
    let runs = small.iter().filter_map(|run| match &**run {
        Run::Resident(run) => Some(run),
        Run::Spooled(_) => None,
    });
    let none = BTreeSet::new();
    let mut merge = Merge::new(repository, runs, &none)?;
    let mut merged = Vec::new();
    while let Some(run) = merge.next_run(entropy)? {
        merged.push(fitting(run.bytes, resident_bytes)?);
    }
    Ok(merged)
}

fn tell_unreadable(run: RunName, error: &Error) {
    tracing::warn!(%run, "an index run is unreadable and is not used: {error}");
}
