//! After a restore of the database: which archived rows live in their tables again.
//!
//! The ledger lies in the database, and goes back in time with it: a slice that is in files and
//! not in the ledger was deleted in a future that the database has not had.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Driver, Error, ErrorKind, LedgerEntry, Result, RowBatch, RowSink, Rows, code, values,
};

use super::{
    document::{Batch, Plan, Slice},
    identity,
    place::Place,
    prune::{Pruned, Versions, entry, ledgered, prune},
    shelf::Shelf,
    shelve::{keep_slices, read_back, verified},
    witness::Witness,
};
use crate::{pipeline::cpu::CpuPool, world::World};

/// A predicate that selects all rows.
const EVERY_ROW: &str = "1 = 1";

/// As many rows as every engine can count.
const ROWS_MAX: u64 = i64::MAX.cast_unsigned();

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
///
/// By their places: how many rows one has is another number once somebody was erased.
#[derive(Clone, Debug, Default)]
pub(super) struct Hidden(BTreeMap<String, BTreeSet<(u32, u32)>>);

impl Hidden {
    fn of(slices: &[LiveSlice]) -> Self {
        let mut places: BTreeMap<String, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for slice in slices {
            let of_run = places.entry(slice.run.clone()).or_default();
            of_run.insert((slice.batch, slice.slice));
        }
        Self(places)
    }

    /// Whether a slice is one of them.
    pub(super) fn has(&self, slice: &LiveSlice) -> bool {
        self.0.get(&slice.run).is_some_and(|of| of.contains(&(slice.batch, slice.slice)))
    }

    /// Whether a slice of a batch is one of them.
    pub(super) fn has_slice(&self, batch: &Batch, slice: &Slice) -> bool {
        self.has(&live(batch, slice))
    }
}

const NOTICES: &str = "reconciled";

/// What the newest document says.
pub(super) async fn hidden(place: &Place) -> Result<Hidden> {
    Ok(Hidden::of(&newest(place).await?.live))
}

async fn newest(place: &Place) -> Result<Reconciled> {
    let notices: Vec<Reconciled> = place.notices(NOTICES).await?;
    Ok(notices.into_iter().next_back().unwrap_or_default())
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

/// Compares the ledger of a database, in its order, with what is in files.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when they say different things of a slice.
pub fn compare(shelf: &Shelf, ledger: &[LedgerEntry]) -> Result<Overlap> {
    let entries = ledger.chunk_by(|one, next| (one.batch, &one.run) == (next.batch, &next.run));
    let mut entries: BTreeMap<(&str, u32), &[LedgerEntry]> =
        entries.map(|of| ((&*of[0].run, of[0].batch), of)).collect();
    let mut overlap = Overlap::default();
    for run in &shelf.runs {
        for one in run.batches.values().filter(|one| one.void.is_none()) {
            let batch = &one.batch;
            let noted = entries.remove(&(&*batch.run, batch.number)).unwrap_or_default();
            let known: BTreeSet<u32> = batch.slices.iter().map(|slice| slice.number).collect();
            let unknown = noted.iter().filter(|entry| !known.contains(&entry.slice));
            overlap.unknown.extend(unknown.cloned());
            if !one.is_sealed() {
                continue;
            }
            for (slice, gone) in batch.slices.iter().zip(ledgered(batch, noted, &run.plan)?) {
                if gone {
                    overlap.archived.0 += 1;
                    overlap.archived.1 += slice.rows();
                } else {
                    overlap.live.push(live(batch, slice));
                }
            }
        }
    }
    overlap.unknown.extend(entries.into_values().flatten().cloned());
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
    let mut overlap = compare(&shelf, &ledger)?;
    set_apart(&mut *rows, (place, &world.cpu), &shelf, &mut overlap).await?;
    if may.notes && !overlap.unnoted.is_empty() {
        rows.open_ledger().await?;
        note_again(&mut *rows, &shelf, &mut overlap).await?;
    }
    if may.prunes && !overlap.live.is_empty() {
        rows.open_ledger().await?;
        // A partition that was taken out and stands there is the run's own to look after.
        let open = shelf.runs.iter().filter(|run| run.end.is_none() && run.plan.whole().is_some());
        let open: Vec<&str> = open.map(|run| &*run.plan.run).collect();
        let alive = Hidden::of(&overlap.live);
        let mut gone = Vec::new();
        for (plan, batch) in shelf.sealed().filter(|(plan, _)| !open.contains(&&*plan.run)) {
            let of_batch = batch.slices.iter().filter(|slice| alive.has_slice(batch, slice));
            let slices: Vec<Slice> = of_batch.cloned().collect();
            if slices.is_empty() {
                continue;
            }
            read_back(place, &world.cpu, plan, batch).await?;
            let set = batch.set_of(plan);
            for slice in slices {
                let by_row = (std::slice::from_ref(&slice), &Versions::default());
                match prune(&mut *rows, &world.cpu, batch, &set, by_row, witness).await? {
                    Pruned::Gone => {
                        overlap.pruned_rows += slice.rows();
                        overlap.archived.0 += 1;
                        overlap.archived.1 += slice.rows();
                        gone.push(live(batch, &slice));
                    }
                    Pruned::Differs(_) => overlap.differing.push(live(batch, &slice)),
                }
            }
        }
        let gone = Hidden::of(&gone);
        overlap.live.retain(|one| !gone.has(one));
    }
    write_down(place, world, &overlap.live).await?;
    Ok(overlap)
}

/// Batches that are sealed, but for those of partitions that a run looks after itself.
fn of_tables(shelf: &Shelf) -> impl Iterator<Item = (&Plan, &Batch)> {
    shelf.sealed().filter(|(plan, _)| plan.whole().is_none())
}

/// Tells slices whose rows are in their table from those that the ledger has forgotten. A row is
/// there if its key is, whatever became of it: policies may not select it any more.
async fn set_apart(
    rows: &mut dyn Rows,
    (place, cpu): (&Place, &CpuPool),
    shelf: &Shelf,
    overlap: &mut Overlap,
) -> Result<()> {
    let alive = Hidden::of(&overlap.live);
    for (plan, batch) in of_tables(shelf) {
        let mut set = batch.set_of(plan);
        EVERY_ROW.clone_into(&mut set.predicate);
        let mut keys = Keys { places: set.root().table.key.clone(), found: HashSet::new() };
        let mut doubtful = BTreeSet::new();
        for slice in batch.slices.iter().filter(|slice| alive.has_slice(batch, slice)) {
            let mut snapshot = rows.snapshot().await?;
            if snapshot.root(&set, &slice.range()?, ROWS_MAX, &mut keys).await? > 0 {
                doubtful.insert(slice.number);
            } else {
                overlap.unnoted.push(live(batch, slice));
            }
        }
        if doubtful.is_empty() {
            continue;
        }
        let found = slices_with(place, cpu, (plan, batch), keys).await?;
        let slices = batch.slices.iter().filter(|slice| doubtful.contains(&slice.number));
        let forgotten = slices.filter(|slice| !found.contains(&slice.number));
        overlap.unnoted.extend(forgotten.map(|slice| live(batch, slice)));
    }
    let forgotten = Hidden::of(&overlap.unnoted);
    overlap.live.retain(|one| !forgotten.has(one));
    Ok(())
}

/// Notes slices in the ledger of which it does not know, and whose rows are in no table.
async fn note_again(rows: &mut dyn Rows, shelf: &Shelf, overlap: &mut Overlap) -> Result<()> {
    let unnoted = Hidden::of(&std::mem::take(&mut overlap.unnoted));
    for (plan, batch) in of_tables(shelf) {
        let set = batch.set_of(plan);
        let of_batch = batch.slices.iter().filter(|slice| unnoted.has_slice(batch, slice));
        let slices: Vec<&Slice> = of_batch.collect();
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
        }
    }
    Ok(())
}

/// Hashes of the keys that rows of a table have.
struct Keys {
    /// Where the columns of the key are.
    places: Vec<usize>,
    found: HashSet<u64>,
}

impl Keys {
    fn hash(&self, row: &[u8]) -> Result<u64> {
        let values = values(row).collect::<Result<Vec<_>>>()?;
        let mut hasher = blake3::Hasher::new();
        for place in &self.places {
            let value = values.get(*place).copied().flatten().unwrap_or_default();
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value);
        }
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        Ok(u64::from_le_bytes(first))
    }
}

#[async_trait]
impl RowSink for Keys {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        for row in rows.rows() {
            let hash = self.hash(row)?;
            self.found.insert(hash);
        }
        Ok(())
    }
}

/// The slices of a batch of which some row of the root has one of those keys.
async fn slices_with(
    place: &Place,
    cpu: &CpuPool,
    (plan, batch): (&Plan, &Batch),
    keys: Keys,
) -> Result<BTreeSet<u32>> {
    let member = &batch.members[0];
    let Some(file) = &member.file else { return Ok(BTreeSet::new()) };
    let bytes = verified(place, cpu, file).await?;
    let (columns, format, slices) = (member.columns.clone(), plan.format, batch.slices.clone());
    let work = move || {
        let mut found = BTreeSet::new();
        keep_slices(&bytes, &columns, format, &slices, 0, |slice, row| {
            if keys.found.contains(&keys.hash(row)?) {
                found.insert(slice.number);
            }
            Ok(())
        })?;
        Ok::<_, Error>(found)
    };
    cpu.run(move |_| work()).await?
}

/// Writes down what readers pass over, unless that is what was written last.
pub(super) async fn write_down(place: &Place, world: &World, live: &[LiveSlice]) -> Result<()> {
    if newest(place).await?.live == live {
        return Ok(());
    }
    let found = Reconciled { at: world.clock.now(), live: live.to_vec() };
    place.write_at(&place.notice(NOTICES, &world.new_id())?, &found).await
}
