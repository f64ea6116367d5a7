//! Second copies that lack something: documents that never came, as an older version left them,
//! documents and files that are gone, or all of a batch, as where there was no second place yet.
//! They are brought, and read back. What came there of a batch that was let go since, and has no
//! manifest, gets one that says so, and goes.
//!
//! What is there stays as it is: a document, or a file, that is another one than at the first place
//! is damage, and is told.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{Error, ErrorKind, Result};

use super::{
    copy::{bring, bring_document},
    document::{Batch, Plan, Sealed},
    hold::Holds,
    place::{Place, Sheet},
    shelf::{Shelf, Shelved, ShelvedBatch},
    shelve::read_back,
    unnamed::writing_of,
};
use crate::pipeline::cpu::CpuPool;

/// What the names of all objects of a place say, by run.
#[derive(Debug, Default)]
pub(super) struct Outline(BTreeMap<String, OfRun>);

/// What they say of a run.
#[derive(Debug, Default)]
struct OfRun {
    has_plan: bool,
    has_end: bool,
    batches: BTreeMap<u32, OfBatch>,
}

/// What they say of a batch.
#[derive(Debug, Default)]
struct OfBatch {
    is_sealed: bool,
    is_void: bool,
    is_expired: bool,
    /// The generation of its newest manifest.
    newest: Option<u32>,
    /// Its files, and objects of their keys, each with its generation.
    objects: BTreeMap<String, u32>,
}

impl Outline {
    pub(super) async fn of(place: &Place) -> Result<Self> {
        let mut runs: BTreeMap<String, OfRun> = BTreeMap::new();
        for (run, sheets) in place.runs().await? {
            let of = runs.entry(run).or_default();
            for sheet in sheets {
                of.add(sheet);
            }
        }
        for file in place.files().await? {
            if let Some((run, batch, generation)) = writing_of(&file) {
                let of = runs.entry(run.to_owned()).or_default().batches.entry(batch);
                of.or_default().objects.insert(file.as_str().to_owned(), generation);
            }
        }
        for (object, key) in place.keys().await? {
            let of = runs.entry(key.run).or_default().batches.entry(key.batch);
            of.or_default().objects.insert(object.as_str().to_owned(), key.generation);
        }
        Ok(Self(runs))
    }

    /// Whether batches of a second place are others by now at the first one, or gone; or whether it
    /// lacks something of them, or all of one whose rows are in files and nowhere else.
    pub(super) fn is_behind(&self, first: &Self) -> bool {
        let nothing = OfRun::default();
        let is_behind =
            |(run, first): (&String, &OfRun)| self.0.get(run).unwrap_or(&nothing).is_behind(first);
        first.0.iter().any(is_behind)
    }
}

impl OfRun {
    fn add(&mut self, sheet: Sheet) {
        match sheet {
            Sheet::Plan => self.has_plan = true,
            Sheet::End => self.has_end = true,
            Sheet::Batch { batch, generation } => {
                let newest = &mut self.batches.entry(batch).or_default().newest;
                *newest = (*newest).max(Some(generation));
            }
            Sheet::Sealed { batch } => self.batches.entry(batch).or_default().is_sealed = true,
            Sheet::Void { batch } => self.batches.entry(batch).or_default().is_void = true,
            Sheet::Expired { batch } => self.batches.entry(batch).or_default().is_expired = true,
        }
    }

    /// Of what does not count, a second place may be told without having had it.
    fn lacks_plan(&self) -> bool {
        let needs =
            |one: &OfBatch| one.newest.is_some() || one.needs_manifest() || !one.objects.is_empty();
        !self.has_plan && (self.has_end || self.batches.values().any(needs))
    }

    /// Whether it has no plan for what it has, or is to get.
    fn needs_plan(&self, first: &Shelved) -> bool {
        let is_new = |(number, one): (&u32, &ShelvedBatch)| {
            one.is_sealed() && !self.batches.get(number).is_some_and(OfBatch::is_gone)
        };
        self.lacks_plan() || !self.has_plan && first.batches.iter().any(is_new)
    }

    fn is_behind(&self, first: &Self) -> bool {
        let nothing = OfBatch::default();
        let is_behind = |(number, first): (&u32, &OfBatch)| {
            self.batches.get(number).unwrap_or(&nothing).is_behind(first)
        };
        first.has_plan && self.lacks_plan() || first.batches.iter().any(is_behind)
    }
}

impl OfBatch {
    fn is_gone(&self) -> bool {
        self.is_void || self.is_expired
    }

    /// Whether something is said of it that is worth nothing without its manifest.
    fn needs_manifest(&self) -> bool {
        self.is_sealed || self.is_expired
    }

    fn is_behind(&self, first: &Self) -> bool {
        let Some(newest) = first.newest else { return false };
        match self.newest {
            Some(own) => {
                let lacks = |(name, generation): (&String, &u32)| {
                    *generation == newest && !self.objects.contains_key(name)
                };
                let is_other = first.is_gone() || own < newest;
                !self.is_gone() && (is_other || own == newest && first.objects.iter().any(lacks))
            }
            None if self.needs_manifest() => true,
            // Files that no manifest names are found by nobody who looks for rows.
            None if first.is_gone() => !self.objects.is_empty(),
            // What waits is brought by the gate that it waits for.
            None => !self.is_void && first.is_sealed,
        }
    }

    /// Whether it has the files of a writing of it, and their keys.
    fn has_all(&self, batch: &Batch) -> bool {
        batch.files().all(|file| {
            let key = file.encryption.as_ref().map(|encryption| &encryption.key);
            self.objects.contains_key(&file.key)
                && key.is_none_or(|key| self.objects.contains_key(key))
        })
    }
}

/// A second place that has again what it lacked.
#[derive(Debug)]
pub(super) struct Completed {
    /// What it has of each batch.
    pub(super) shelf: Shelf,
    /// Batches, by run and number, of which that is an earlier writing than other documents there
    /// are about.
    pub(super) behind: BTreeSet<(String, u32)>,
    /// Whether documents there were damaged, or gone.
    pub(super) was_damaged: bool,
    /// What could not be brought.
    pub(super) told: Option<Error>,
}

/// Brings what a second place lacks: of the batches that it has something of, and all of others
/// whose rows are in files and nowhere else.
pub(super) async fn complete(
    from: &Place,
    to: &Place,
    cpu: &CpuPool,
    first: &Shelf,
    holds: &Holds,
) -> Result<Completed> {
    let there = Outline::of(to).await?;
    let (no_run, no_batch) = (OfRun::default(), OfBatch::default());
    for run in &first.runs {
        if there.0.get(&run.plan.run).unwrap_or(&no_run).needs_plan(run) {
            bring_document(to, &run.plan.run, Sheet::Plan, &run.plan).await?;
        }
    }
    let (mut shelf, damages) = Shelf::look(to).await?;
    let has_holds = !holds.0.is_empty();
    let completing = Completing { from, to, cpu, has_holds };
    let (mut found, mut told) = (Vec::new(), None);
    for run in &first.runs {
        let own = there.0.get(&run.plan.run).unwrap_or(&no_run);
        let known = shelf.runs.iter().find(|one| one.plan.run == run.plan.run);
        let Some(known) = known else { continue };
        for (number, now) in &run.batches {
            let own = own.batches.get(number).unwrap_or(&no_batch);
            let of = (own, known.batches.get(number));
            match Box::pin(completing.batch(run, now, of)).await {
                Ok(one) => found.extend(one.map(|one| (run.plan.run.clone(), one))),
                // The others are brought all the same.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Corrupt | ErrorKind::Refused | ErrorKind::Missing
                    ) =>
                {
                    told = told.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
    }
    let was_damaged = !damages.is_empty();
    if was_damaged {
        (shelf, _) = Shelf::look(to).await?;
    }
    let mut behind = BTreeSet::new();
    for (name, one) in found {
        let number = one.batch.number;
        if let Some(run) = shelf.runs.iter_mut().find(|run| run.plan.run == name) {
            run.batches.entry(number).or_insert(one);
        }
        behind.insert((name, number));
    }
    Ok(Completed { shelf, behind, was_damaged, told })
}

/// Brings the manifest that documents of a second place are about, of a batch of which nothing
/// counts there.
pub(super) async fn bring_manifest(
    from: &Place,
    to: &Place,
    plan: &Plan,
    now: &ShelvedBatch,
) -> Result<()> {
    let batch = now.batch.number;
    let sealed: Option<Sealed> = to.read(&plan.run, Sheet::Sealed { batch }).await?;
    let generation = sealed.map_or(now.batch.generation, |sealed| sealed.generation);
    let sheet = Sheet::Batch { batch, generation };
    if let Some(manifest) = from.read::<Batch>(&plan.run, sheet).await? {
        return bring_document(to, &plan.run, sheet, &manifest).await;
    }
    let sheet = Sheet::Batch { batch, generation: now.batch.generation };
    bring_document(to, &plan.run, sheet, &now.batch).await
}

struct Completing<'a> {
    from: &'a Place,
    to: &'a Place,
    cpu: &'a CpuPool,
    /// Whether rows of the set are held, which stay wherever they are.
    has_holds: bool,
}

impl Completing<'_> {
    /// Brings what is lacking of a batch, by what names at the second place say of it, and by what
    /// can be read of it there. Returns what it has where that is an earlier writing: whether that
    /// one may go is for others to say.
    async fn batch(
        &self,
        run: &Shelved,
        now: &ShelvedBatch,
        (own, known): (&OfBatch, Option<&ShelvedBatch>),
    ) -> Result<Option<ShelvedBatch>> {
        let Self { from, to, cpu, .. } = *self;
        let plan = &run.plan;
        if let Some(known) = known {
            let are_there = known.is_there() && now.is_there();
            let is_same = known.batch.generation == now.batch.generation;
            if are_there && is_same && !own.has_all(&now.batch) {
                bring(from, to, cpu, plan, &now.batch).await?;
            }
            return Ok(None);
        }
        // Whoever brought files of it was killed before its manifest, and it was let go since.
        let has_left = own.newest.is_none() && !own.objects.is_empty() && !now.is_there();
        if own.is_gone() {
            if own.needs_manifest() || has_left {
                bring_manifest(from, to, plan, now).await?;
            }
            return Ok(None);
        }
        match own.newest {
            Some(newest) => self.earlier(plan, now, newest).await,
            // Its rows are in their tables: nobody has to know which ones these files hold.
            None if has_left && now.void.is_some() && !own.is_sealed && !self.has_holds => {
                self.tell_gone(plan, now).await.map(|()| None)
            }
            None if own.is_sealed || now.is_sealed() || has_left => {
                self.unnamed(plan, now, own).await
            }
            None => Ok(None),
        }
    }

    /// The newest writing of which the manifest is there, where other documents are about a later
    /// one.
    async fn earlier(
        &self,
        plan: &Plan,
        now: &ShelvedBatch,
        newest: u32,
    ) -> Result<Option<ShelvedBatch>> {
        let number = now.batch.number;
        let sheet = Sheet::Batch { batch: number, generation: newest };
        let batch: Option<Batch> = self.to.read(&plan.run, sheet).await?;
        let is_behind = newest < now.batch.generation || !now.is_there();
        let is_sound = |batch: &Batch| {
            batch.check(plan).is_ok() && (batch.number, batch.generation) == (number, newest)
        };
        Ok(batch.filter(|batch| is_behind && is_sound(batch)).map(alone))
    }

    /// Brings the manifest of files that no document there names; and the files, where some of them
    /// are gone.
    async fn unnamed(
        &self,
        plan: &Plan,
        now: &ShelvedBatch,
        own: &OfBatch,
    ) -> Result<Option<ShelvedBatch>> {
        let Self { from, to, cpu, has_holds } = *self;
        let (run, batch, newest) = (&*plan.run, now.batch.number, now.batch.generation);
        for generation in (0..=newest).rev() {
            let sheet = Sheet::Batch { batch, generation };
            let written: Option<Batch> = from.read(run, sheet).await?;
            let has_it = |batch: &Batch| batch.files().next().is_some() && own.has_all(batch);
            if let Some(written) = written.filter(has_it) {
                read_back(to, cpu, plan, &written).await?;
                bring_document(to, run, sheet, &written).await?;
                let is_behind = generation < newest || !now.is_there();
                return Ok(Some(alone(written)).filter(|_| is_behind));
            }
        }
        // Some rows of an earlier writing may be there, and nobody knows whose.
        let may_be_held = !own.objects.is_empty() && (newest > 0 || !now.is_there());
        if has_holds && may_be_held {
            return Ok(None);
        }
        if now.is_there() {
            bring(from, to, cpu, plan, &now.batch).await?;
            return Ok(None);
        }
        self.tell_gone(plan, now).await.map(|()| None)
    }

    /// Says there that nothing of a batch counts: whoever sweeps removes what is left of it.
    async fn tell_gone(&self, plan: &Plan, now: &ShelvedBatch) -> Result<()> {
        let (to, run, batch) = (self.to, &*plan.run, now.batch.number);
        if let Some(expired) = &now.expired {
            to.mark(run, Sheet::Expired { batch }, expired).await?;
        } else if let Some(void) = &now.void {
            to.mark(run, Sheet::Void { batch }, void).await?;
        }
        let sheet = Sheet::Batch { batch, generation: now.batch.generation };
        bring_document(to, run, sheet, &now.batch).await
    }
}

/// A batch of which nothing but its manifest is known.
fn alone(batch: Batch) -> ShelvedBatch {
    ShelvedBatch { batch, sealed: None, void: None, expired: None }
}
