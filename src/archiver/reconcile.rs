//! After a restore of the database: which archived rows live in their tables again.
//!
//! The ledger lies in the database, and goes back in time with it: a slice that is in files and
//! not in the ledger was deleted in a future that the database has not had.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Driver, Error, ErrorKind, LedgerEntry, Result, RowBatch, RowSink, Rows, code,
};

use super::{
    document::{Batch, Plan, Slice},
    identity,
    place::Place,
    prune::{Pruned, entry, prune},
    shelf::Shelf,
    shelve::read_back,
    witness::Witness,
};
use crate::world::World;

/// What was found, as a document: the newest one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
    /// Slices whose rows live in their tables again.
    pub live: Vec<LiveSlice>,
}

/// A slice whose rows live in their tables again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LiveSlice {
    /// Its run.
    pub run: String,
    /// Its batch.
    pub batch: u32,
    /// Its number.
    pub slice: u32,
    /// How many rows it has, of all tables.
    pub rows: u64,
}

/// Slices that readers of the archive pass over, since their rows are in their tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Hidden(Vec<LiveSlice>);

impl Hidden {
    /// Whether a slice is one of them.
    pub(super) fn has(&self, slice: &LiveSlice) -> bool {
        // How many rows it has is another number once somebody was erased.
        let place = |one: &LiveSlice| (one.run.clone(), one.batch, one.slice);
        self.0.iter().any(|one| place(one) == place(slice))
    }

    /// Whether a slice of a batch is one of them.
    pub(super) fn has_slice(&self, batch: &Batch, slice: &Slice) -> bool {
        self.has(&live(batch, slice))
    }
}

const NOTICES: &str = "reconciled";

/// What the newest document says.
pub(super) async fn hidden(place: &Place) -> Result<Hidden> {
    let notices: Vec<Reconciled> = place.notices(NOTICES).await?;
    Ok(Hidden(notices.into_iter().next_back().unwrap_or_default().live))
}

/// What the comparison found.
#[derive(Clone, Debug, Default)]
pub struct Overlap {
    /// How many slices, and rows, are in files and not in their tables.
    pub archived: (u64, u64),
    /// Slices whose rows live in their tables again.
    pub live: Vec<LiveSlice>,
    /// Slices of which the ledger does not know, and of whose rows none is in its table: the
    /// ledger was lost.
    pub unnoted: Vec<LiveSlice>,
    /// Entries of the ledger of which no manifest knows: rows that were deleted, and whose files
    /// this place does not have.
    pub unknown: Vec<LedgerEntry>,
    /// How many rows were deleted again.
    pub pruned_rows: u64,
    /// Slices that were not, since their rows are others now.
    pub differing: Vec<LiveSlice>,
}

/// Compares the ledger of a database with what is in files.
pub async fn compare(place: &Place, ledger: &[LedgerEntry]) -> Result<Overlap> {
    let shelf = Shelf::load(place).await?;
    let mut overlap = Overlap::default();
    for run in &shelf.runs {
        for one in run.batches.values().filter(|one| one.is_sealed()) {
            let gone = one.gone(&run.plan, ledger)?;
            for slice in &one.batch.slices {
                if gone.iter().any(|gone| gone.number == slice.number) {
                    overlap.archived.0 += 1;
                    overlap.archived.1 += slice.rows();
                } else {
                    overlap.live.push(live(&one.batch, slice));
                }
            }
        }
    }
    let is_known = |entry: &&LedgerEntry| {
        shelf.runs.iter().any(|run| {
            let batch = run.batches.get(&entry.batch).filter(|_| run.plan.run == entry.run);
            batch.is_some_and(|one| {
                one.void.is_none()
                    && one.batch.slices.iter().any(|slice| slice.number == entry.slice)
            })
        })
    };
    overlap.unknown = ledger.iter().filter(|entry| !is_known(entry)).cloned().collect();
    Ok(overlap)
}

/// Refuses where the ledger knows of rows that were deleted, and no manifest does.
pub(super) fn refuse_unknown(place: &Place, overlap: &Overlap) -> Result<()> {
    if overlap.unknown.is_empty() {
        return Ok(());
    }
    let set = place.set();
    Err(Error::new(ErrorKind::Corrupt, code::LEDGER, "compare the ledger with manifests")
        .with("set", set)
        .with("place", place.location())
        .with("slices", overlap.unknown.len())
        .with("rows", overlap.unknown.iter().map(|entry| entry.rows).sum::<u64>())
        .why("the ledger says that they were archived, and no manifest here knows of them")
        .next("look whether `to` names the repository that the rows are in")
        .next(format!("bring archive/{set}/ back from a second copy")))
}

fn live(batch: &Batch, slice: &Slice) -> LiveSlice {
    LiveSlice {
        run: batch.run.clone(),
        batch: batch.number,
        slice: slice.number,
        rows: slice.rows(),
    }
}

/// What a reconciliation may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciling {
    /// Delete rows again that live again.
    pub prunes: bool,
    /// Take the table for the one that rows come from, though it is another one.
    pub adopts: bool,
    /// Note in the ledger again what is in files and in no table, since the ledger was lost.
    pub notes: bool,
}

/// Compares, deletes again what is told to be deleted, and writes down what readers pass over.
///
/// Rows are deleted again only if they are what the files hold; they are not exported again.
///
/// # Errors
///
/// [`Refused`](stillpoint_contract::ErrorKind::Refused) when the table is not the one that rows
/// come from.
pub async fn reconcile(
    place: &Place,
    world: &World,
    driver: &dyn Driver,
    may: Reconciling,
    witness: &dyn Witness,
) -> Result<Overlap> {
    let mut rows = driver.rows().await?;
    rows.lock(place.set(), std::time::Duration::from_secs(10)).await?;
    let shelf = Shelf::load(place).await?;
    if let Some(root) = shelf.runs.last().and_then(|run| run.plan.members.first()) {
        let identity = identity::of_table(&mut *rows, &root.table.name).await?;
        if may.adopts {
            identity::adopt(place, &shelf, world, &identity).await?;
        }
        identity::check(place, &shelf, &identity).await?;
    }
    let ledger = rows.ledger(place.set()).await?;
    let mut overlap = compare(place, &ledger).await?;
    set_apart(&mut *rows, &shelf, &mut overlap).await?;
    if may.notes && !overlap.unnoted.is_empty() {
        rows.open_ledger().await?;
        note_again(&mut *rows, &shelf, &mut overlap).await?;
    }
    if may.prunes && !overlap.live.is_empty() {
        rows.open_ledger().await?;
        // A partition that was taken out and stands there is the run's own to look after.
        let open = shelf.runs.iter().filter(|run| run.end.is_none() && run.plan.whole().is_some());
        let open: Vec<&str> = open.map(|run| &*run.plan.run).collect();
        for (plan, batch) in shelf.sealed().filter(|(plan, _)| !open.contains(&&*plan.run)) {
            let is_live = |slice: &&Slice| overlap.live.contains(&live(batch, slice));
            let slices: Vec<Slice> = batch.slices.iter().filter(is_live).cloned().collect();
            if slices.is_empty() {
                continue;
            }
            read_back(place, &world.cpu, plan, batch).await?;
            let set = batch.set_of(plan);
            for slice in slices {
                let one = std::slice::from_ref(&slice);
                match prune(&mut *rows, &world.cpu, batch, &set, one, witness).await? {
                    Pruned::Gone => {
                        overlap.pruned_rows += slice.rows();
                        overlap.archived.0 += 1;
                        overlap.archived.1 += slice.rows();
                        overlap.live.retain(|one| *one != live(batch, &slice));
                    }
                    Pruned::Differs(_) => overlap.differing.push(live(batch, &slice)),
                }
            }
        }
    }
    write_down(place, world, &overlap.live).await?;
    Ok(overlap)
}

/// Batches that are sealed, but for those of partitions that a run looks after itself.
fn of_tables(shelf: &Shelf) -> impl Iterator<Item = (&Plan, &Batch)> {
    shelf.sealed().filter(|(plan, _)| plan.whole().is_none())
}

/// Tells slices whose rows are in their table from those that the ledger has forgotten.
async fn set_apart(rows: &mut dyn Rows, shelf: &Shelf, overlap: &mut Overlap) -> Result<()> {
    for (plan, batch) in of_tables(shelf) {
        let set = batch.set_of(plan);
        for slice in &batch.slices {
            let Some(at) = overlap.live.iter().position(|one| *one == live(batch, slice)) else {
                continue;
            };
            let range = slice.range()?;
            let mut snapshot = rows.snapshot().await?;
            if snapshot.root(&set, &range, 1, &mut Uncounted).await? == 0 {
                overlap.unnoted.push(overlap.live.remove(at));
            }
        }
    }
    Ok(())
}

/// Notes slices in the ledger of which it does not know, and whose rows are in no table.
async fn note_again(rows: &mut dyn Rows, shelf: &Shelf, overlap: &mut Overlap) -> Result<()> {
    for (plan, batch) in of_tables(shelf) {
        let set = batch.set_of(plan);
        let is_unnoted = |slice: &&Slice| overlap.unnoted.contains(&live(batch, slice));
        let slices: Vec<&Slice> = batch.slices.iter().filter(is_unnoted).collect();
        if slices.is_empty() {
            continue;
        }
        let mut transaction = rows.prune().await?;
        for slice in &slices {
            transaction.note(&entry(&set, batch, slice)).await?;
        }
        transaction.commit().await?;
        for slice in slices {
            overlap.archived.0 += 1;
            overlap.archived.1 += slice.rows();
            overlap.unnoted.retain(|one| *one != live(batch, slice));
        }
    }
    Ok(())
}

/// Takes rows of which only matters how many there are.
struct Uncounted;

#[async_trait]
impl RowSink for Uncounted {
    async fn put(&mut self, _rows: RowBatch) -> Result<()> {
        Ok(())
    }
}

/// Writes down what readers pass over, unless that is what was written last.
pub(super) async fn write_down(place: &Place, world: &World, live: &[LiveSlice]) -> Result<()> {
    if hidden(place).await?.0 == live {
        return Ok(());
    }
    let found = Reconciled { at: world.clock.now(), live: live.to_vec() };
    place.write_at(&place.notice(NOTICES, &world.new_id())?, &found).await
}
