//! What was written down about a set: its runs, their batches, and what became of them.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use stillpoint_contract::{Error, ErrorKind, LedgerEntry, Result, code};

use super::{
    document::{Batch, End, Expired, Plan, Sealed, Slice, Void},
    place::{Place, Sheet},
    prune,
    read::Damage,
};

/// Everything that was written down about a set, oldest run first.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// Its runs.
    pub runs: Vec<Shelved>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Shelved {
    /// What it is to move.
    pub plan: Plan,
    /// Its batches, by number, each in its newest generation.
    pub batches: BTreeMap<u32, ShelvedBatch>,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// The greatest number of a batch that any of its documents is about.
    last: u32,
}

/// A batch.
#[derive(Clone, Debug)]
pub struct ShelvedBatch {
    /// What its files hold.
    pub batch: Batch,
    /// Set when all of its rows are gone from their tables.
    pub sealed: Option<Sealed>,
    /// Set when none of it counts.
    pub void: Option<Void>,
    /// Set when its time was over.
    pub expired: Option<Expired>,
}

impl Shelf {
    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when a document is not what was written, or is gone.
    pub async fn load(place: &Place) -> Result<Self> {
        let (shelf, damages) = Self::look(place).await?;
        damages.into_iter().next().map_or(Ok(shelf), |damage| Err(damage.error))
    }

    /// Reads all that can be read, and tells what cannot: of such a run, or batch, nothing is in
    /// what is returned.
    pub(super) async fn look(place: &Place) -> Result<(Self, Vec<Damage>)> {
        let (mut runs, mut damages) = (Vec::new(), Vec::new());
        for (run, sheets) in place.runs().await? {
            let documents = Documents { place, run: &run, sheets: &sheets };
            match documents.load(&mut damages).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    damages.push(Damage { run, batch: 0, error });
                }
                loaded => runs.extend(loaded?),
            }
        }
        Ok((Self { runs }, damages))
    }

    /// The run that was begun and not ended.
    pub fn unfinished(&self) -> Option<&Shelved> {
        self.runs.iter().rev().find(|run| run.end.is_none())
    }

    /// A run by its name.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none.
    pub fn run(&self, name: &str) -> Result<&Shelved> {
        self.runs.iter().find(|run| run.plan.run == name).ok_or_else(|| {
            let known: Vec<&str> = self.runs.iter().map(|run| &*run.plan.run).collect();
            Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find a run")
                .with("run", name)
                .with("runs", known.join(", "))
        })
    }

    /// The batches whose rows are in files and nowhere else, with their plans.
    pub fn sealed(&self) -> impl Iterator<Item = (&Plan, &Batch)> {
        self.runs.iter().flat_map(|run| {
            let sealed = run.batches.values().filter(|one| one.is_sealed());
            sealed.map(|one| (&run.plan, &one.batch))
        })
    }
}

/// What is listed of a run.
struct Documents<'a> {
    place: &'a Place,
    run: &'a str,
    sheets: &'a [Sheet],
}

impl Documents<'_> {
    /// Reads them. `None` where nothing was begun.
    async fn load(&self, damages: &mut Vec<Damage>) -> Result<Option<Shelved>> {
        let Some(plan) = self.place.read::<Plan>(self.run, Sheet::Plan).await? else {
            // A second place is told what does not count, also of what never came there.
            let is_void = |sheet: &Sheet| matches!(sheet, Sheet::Void { .. });
            return if self.sheets.iter().all(is_void) { Ok(None) } else { self.gone(Sheet::Plan) };
        };
        if plan.run != self.run {
            return self.misplaced(Sheet::Plan);
        }
        let end = self.mark(Sheet::End).await?;
        let mut newest: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        for sheet in self.sheets {
            if let Some((batch, generation)) = sheet.batch() {
                let known = newest.entry(batch).or_default();
                *known = generation.max(*known);
            }
        }
        let last = newest.keys().next_back().copied().unwrap_or_default();
        let mut batches = BTreeMap::new();
        for (number, generation) in newest {
            match self.batch(&plan, number, generation).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    damages.push(Damage { run: self.run.to_owned(), batch: number, error });
                }
                one => batches.extend(one?.map(|one| (number, one))),
            }
        }
        Ok(Some(Shelved { plan, batches, end, last }))
    }

    /// Reads those of a batch, of which so many generations are listed. `None` where none of it
    /// was there, and none counts.
    async fn batch(
        &self,
        plan: &Plan,
        number: u32,
        listed: Option<u32>,
    ) -> Result<Option<ShelvedBatch>> {
        let sealed: Option<Sealed> = self.mark(Sheet::Sealed { batch: number }).await?;
        let void: Option<Void> = self.mark(Sheet::Void { batch: number }).await?;
        let expired: Option<Expired> = self.mark(Sheet::Expired { batch: number }).await?;
        // What is sealed has a manifest, whether or not a listing shows it.
        let generation = listed.max(sealed.as_ref().map(|sealed| sealed.generation));
        let sheet = Sheet::Batch { batch: number, generation: generation.unwrap_or_default() };
        let Some(batch) = self.place.read::<Batch>(self.run, sheet).await? else {
            let is_nothing = generation.is_none() && expired.is_none() && void.is_some();
            return if is_nothing { Ok(None) } else { self.gone(sheet) };
        };
        batch.check(plan)?;
        let names = Sheet::Batch { batch: batch.number, generation: batch.generation };
        if names != sheet {
            return self.misplaced(sheet);
        }
        Ok(Some(ShelvedBatch { batch, sealed, void, expired }))
    }

    /// Reads one that is there, or not, to say something.
    async fn mark<T: DeserializeOwned>(&self, sheet: Sheet) -> Result<Option<T>> {
        if self.sheets.contains(&sheet) { self.place.read(self.run, sheet).await } else { Ok(None) }
    }

    fn gone<T>(&self, sheet: Sheet) -> Result<T> {
        self.damaged(sheet, "it is gone, and others are there that were written after it")
    }

    fn misplaced<T>(&self, sheet: Sheet) -> Result<T> {
        self.damaged(sheet, "it is that of another run, or of another batch")
    }

    /// Says what is wrong with a document, without which nobody finds rows that are archived.
    fn damaged<T>(&self, sheet: Sheet, why: &'static str) -> Result<T> {
        let (key, set) = (self.place.sheet(self.run, sheet)?, self.place.set());
        Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, format!("read {key}"))
            .with("place", self.place.location())
            .why(why)
            .next("put it back from a second copy of the set, or a copy of the place")
            .next(format!("stillpoint archive verify {set}")))
    }
}

impl Shelved {
    /// A run that begins.
    pub(super) fn begun(plan: Plan) -> Self {
        Self { plan, batches: BTreeMap::new(), end: None, last: 0 }
    }

    /// The batches that hold rows which may still be in their tables.
    pub fn pending(&self) -> impl Iterator<Item = &Batch> {
        self.batches
            .values()
            .filter(|one| one.sealed.is_none() && one.is_there())
            .map(|one| &one.batch)
    }

    /// The number of the next batch: one that no document is about.
    pub fn next_batch(&self) -> u32 {
        self.batches.keys().next_back().copied().unwrap_or_default().max(self.last) + 1
    }
}

impl ShelvedBatch {
    /// Whether its files are there.
    pub fn is_there(&self) -> bool {
        self.void.is_none() && self.expired.is_none()
    }

    /// Whether its rows are in its files and nowhere else.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some() && self.is_there()
    }

    /// The slices that the ledger says are gone from their tables.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when ledger and manifest disagree.
    pub fn gone(&self, plan: &Plan, ledger: &[LedgerEntry]) -> Result<Vec<Slice>> {
        let gone = prune::ledgered(&self.batch, ledger, plan)?;
        let slices = self.batch.slices.iter().zip(gone);
        Ok(slices.filter(|(_, gone)| *gone).map(|(slice, _)| slice.clone()).collect())
    }
}
