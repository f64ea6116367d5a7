//! What was written down about a set: its runs, their batches, and what became of them.

use std::collections::BTreeMap;

use stillpoint_contract::{Error, ErrorKind, LedgerEntry, Result, code};

use super::{
    document::{Batch, End, Expired, Plan, Sealed, Slice, Void},
    place::{Place, Sheet},
    prune,
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
    /// [`Corrupt`](ErrorKind::Corrupt) when a document is not what was written.
    pub async fn load(place: &Place) -> Result<Self> {
        let mut runs = Vec::new();
        for (run, sheets) in place.runs().await? {
            // A run whose plan is not there has written nothing else either.
            let Some(plan) = place.read::<Plan>(&run, Sheet::Plan).await? else { continue };
            runs.push(load_run(place, plan, &sheets).await?);
        }
        Ok(Self { runs })
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

async fn load_run(place: &Place, plan: Plan, sheets: &[Sheet]) -> Result<Shelved> {
    let run = plan.run.clone();
    let mut newest = BTreeMap::new();
    for sheet in sheets {
        if let Sheet::Batch { batch, generation } = *sheet {
            let known = newest.entry(batch).or_insert(generation);
            *known = generation.max(*known);
        }
    }
    let mut batches = BTreeMap::new();
    for (number, generation) in newest {
        let sheet = Sheet::Batch { batch: number, generation };
        let Some(batch) = place.read::<Batch>(&run, sheet).await? else { continue };
        batch.check(&plan)?;
        let sealed = Sheet::Sealed { batch: number };
        let void = Sheet::Void { batch: number };
        let sealed = if sheets.contains(&sealed) { place.read(&run, sealed).await? } else { None };
        let void = if sheets.contains(&void) { place.read(&run, void).await? } else { None };
        let expired = Sheet::Expired { batch: number };
        let expired =
            if sheets.contains(&expired) { place.read(&run, expired).await? } else { None };
        batches.insert(number, ShelvedBatch { batch, sealed, void, expired });
    }
    let end = if sheets.contains(&Sheet::End) { place.read(&run, Sheet::End).await? } else { None };
    Ok(Shelved { plan, batches, end })
}

impl Shelved {
    /// The batches that hold rows which may still be in their tables.
    pub fn pending(&self) -> impl Iterator<Item = &Batch> {
        self.batches
            .values()
            .filter(|one| one.sealed.is_none() && one.is_there())
            .map(|one| &one.batch)
    }

    /// The number of the next batch.
    pub fn next_batch(&self) -> u32 {
        self.batches.keys().last().map_or(1, |last| last + 1)
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
