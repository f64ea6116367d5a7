//! After a restore of the database: which archived rows live in their tables again.
//!
//! The ledger lies in the database, and goes back in time with it: a slice that is in files and
//! not in the ledger was deleted in a future that the database has not had.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Alike, ArchiveSet, Error, ErrorKind, KeyRange, LedgerEntry, Result, RowBatch, RowSink, Rows,
    code, values,
};

use super::{
    again::{Left, delete_again},
    anew::archived_anew,
    came_back::{CameBack, came_back},
    document::{Batch, Plan, Slice},
    homes::Homes,
    identity,
    names::Names,
    place::Place,
    prepare::refuse_unmeasured,
    prune::{entry, ledgered},
    reattach::Standing,
    run::Archiving,
    shelf::Shelf,
    shelve::{keep_slices, verified},
    twins::take_out_living,
};
use crate::{pipeline::cpu::CpuPool, world::World};

/// A predicate that selects all rows.
const EVERY_ROW: &str = "1 = 1";

/// As many rows as every engine can count.
pub(super) const ROWS_MAX: u64 = i64::MAX.cast_unsigned();

/// What was found, as a document: the newest one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// When, by the coordinator's clock.
    pub at: DateTime<Utc>,
    /// Slices whose rows live in their tables again, or did when somebody looked first: readers
    /// pass over them all, also once a run archived their rows anew.
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
pub struct Hidden(BTreeMap<String, BTreeSet<(u32, u32)>>);

impl Hidden {
    pub(super) fn of(slices: &[LiveSlice]) -> Self {
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
    pub fn has_slice(&self, batch: &Batch, slice: &Slice) -> bool {
        self.has(&live(batch, slice))
    }

    /// Those slices of a batch that readers see.
    pub fn shown<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = &'a Slice> {
        batch.slices.iter().filter(move |slice| !self.has_slice(batch, slice))
    }
}

const NOTICES: &str = "reconciled";

/// What the newest document says.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when it is not what was written.
pub async fn hidden(place: &Place) -> Result<Hidden> {
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
    /// Slices whose rows lived again, and left their tables since: newer files have what a run
    /// archived anew of them. Readers pass over them for good.
    pub anew: Vec<LiveSlice>,
    /// The same, of which no newer file has any row: somebody deleted what had come back.
    pub deleted: Vec<LiveSlice>,
    /// Partitions of runs that ended, which stand beside their table again: no run looks after
    /// them, and `reattach` puts them back.
    pub standing: Vec<Standing>,
    /// Entries of the ledger of which no manifest knows: rows that were deleted, and whose files
    /// this place does not have.
    pub unknown: Vec<LedgerEntry>,
    /// How many rows were deleted again.
    pub pruned_rows: u64,
    /// Slices that were not, since their rows are others now.
    pub differing: Vec<LiveSlice>,
    /// Rows that were not, since they may not be deleted now.
    pub left: Vec<Left>,
    /// Rows of somebody who was erased, which live again, by erasure and table.
    pub erased: Vec<CameBack>,
}

impl Overlap {
    /// All slices that readers pass over, in the order of runs, batches and slices: what a run
    /// writes down, too, to which the ledger says no more.
    fn passed(&self) -> Vec<LiveSlice> {
        let all = [&self.live, &self.anew, &self.deleted];
        let mut all: Vec<LiveSlice> = all.into_iter().flatten().cloned().collect();
        all.sort();
        all
    }
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

pub(super) fn live(batch: &Batch, slice: &Slice) -> LiveSlice {
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
/// Rows are deleted again only if they are what the files hold; they are not exported again. What
/// keeps a run from deleting rows keeps these in their tables, too.
///
/// # Errors
///
/// [`Refused`](stillpoint_contract::ErrorKind::Refused) when the table is not the one that rows
/// come from, or rows are to be deleted and nobody can tell whether a limit is kept.
pub async fn reconcile(archiving: &Archiving<'_>, may: Reconciling) -> Result<Overlap> {
    let Archiving { driver, place, world, .. } = *archiving;
    let mut rows = driver.rows().await?;
    rows.lock(place.set(), std::time::Duration::from_secs(10)).await?;
    if may.prunes {
        refuse_unmeasured(&mut *rows, archiving.rule).await?;
    }
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
    // Also of those that are told apart next: a file may lack the very rows that live.
    let alive = overlap.live.clone();
    let homes = Homes::look(&mut *rows, &shelf).await?;
    overlap.standing = standing_again(&homes, &shelf, &overlap.live);
    Box::pin(set_apart(&mut *rows, (place, &world.cpu), (&shelf, &homes), &mut overlap)).await?;
    Box::pin(tell_anew((place, &world.cpu), (&shelf, &ledger), &mut overlap)).await?;
    if may.notes && !overlap.unnoted.is_empty() {
        rows.open_ledger().await?;
        let of = (&shelf, &homes);
        Box::pin(note_again(&mut *rows, (place, world), of, &mut overlap)).await?;
    }
    let mut deleted = Ok(());
    if may.prunes && !overlap.live.is_empty() {
        rows.open_ledger().await?;
        let of = (&shelf, &homes);
        deleted = Box::pin(delete_again(archiving, &mut *rows, of, &mut overlap)).await;
    }
    write_down(place, world, &overlap.passed()).await?;
    deleted?;
    let of = (&shelf, &homes);
    overlap.erased = Box::pin(came_back(&mut *rows, (place, world), of, &alive)).await?;
    Ok(overlap)
}

/// Batches that are sealed, but for those of partitions that a run looks after itself, until it
/// ends.
pub(super) fn left_alone(shelf: &Shelf) -> impl Iterator<Item = (&Plan, &Batch)> {
    let open = shelf.runs.iter().filter(|run| run.end.is_none() && run.plan.whole().is_some());
    let open: BTreeSet<&str> = open.map(|run| &*run.plan.run).collect();
    shelf.sealed().filter(move |(plan, _)| !open.contains(&*plan.run))
}

/// Partitions of runs that ended, which stand beside their table again.
fn standing_again(homes: &Homes, shelf: &Shelf, live: &[LiveSlice]) -> Vec<Standing> {
    let standing = homes.alone(shelf).into_iter().map(|(run, partition)| Standing {
        partition: partition.clone(),
        run: run.plan.run.clone(),
        rows: run.batches.values().filter(|one| one.void.is_none()).map(|o| o.batch.rows()).sum(),
        is_archived: live.iter().all(|slice| slice.run != run.plan.run),
        until: None,
    });
    standing.collect()
}

/// Tells slices whose rows are in their table from those that the ledger has forgotten. It cannot
/// have forgotten those that readers pass over already: it did not know them when their rows lived
/// again, and whatever took the rows away since, a run or somebody else, was not their deletion.
async fn set_apart(
    rows: &mut dyn Rows,
    (place, cpu): (&Place, &CpuPool),
    (shelf, homes): (&Shelf, &Homes),
    overlap: &mut Overlap,
) -> Result<()> {
    let (names, alive) = (&Names::of(shelf), Hidden::of(&overlap.live));
    let (before, mut left) = (hidden(place).await?, Vec::new());
    for (plan, batch) in left_alone(shelf) {
        let slices = batch.slices.iter().filter(|slice| alive.has_slice(batch, slice));
        let slices: Vec<Slice> = slices.cloned().collect();
        let sets = every_row(homes.sets(plan, batch));
        let of = (plan, batch, &*sets);
        let living = living(rows, (place, cpu), names, of, &slices).await?;
        // Of a slice of which most rows are gone, the others were put back, or are other rows. What
        // hangs on them is with them, or is looked for when they are taken out of the files.
        let is_forgotten = |slice: &&Slice| {
            let count = living.get(&slice.number).copied().unwrap_or_default();
            slice.rows() > 0 && (count == 0 || 2 * count < slice.members[0].rows)
        };
        let forgotten = slices.iter().filter(is_forgotten).map(|slice| live(batch, slice));
        let (gone, unnoted): (Vec<_>, Vec<_>) = forgotten.partition(|one| before.has(one));
        // Of what has no rows any more, nothing is told by looking: it is as all the others are.
        let (empty, full): (Vec<&Slice>, Vec<_>) = slices.iter().partition(|one| one.rows() == 0);
        if !unnoted.is_empty() && unnoted.len() == full.len() {
            let empty = empty.into_iter().map(|slice| live(batch, slice));
            overlap.unnoted.extend(empty.filter(|one| !before.has(one)));
        }
        left.extend(gone);
        overlap.unnoted.extend(unnoted);
    }
    let (forgotten, gone) = (Hidden::of(&overlap.unnoted), Hidden::of(&left));
    overlap.live.retain(|one| !forgotten.has(one) && !gone.has(one));
    overlap.deleted = left;
    Ok(())
}

/// Tells slices whose rows left their tables since they lived again by what newer files have.
async fn tell_anew(
    (place, cpu): (&Place, &CpuPool),
    (shelf, ledger): (&Shelf, &[LedgerEntry]),
    overlap: &mut Overlap,
) -> Result<()> {
    let (left, passed) = (&overlap.deleted, overlap.passed());
    let found = archived_anew((place, cpu), (shelf, ledger), left, &passed).await?;
    let anew = Hidden::of(&found);
    overlap.deleted.retain(|one| !anew.has(one));
    overlap.anew = found;
    Ok(())
}

/// Notes slices in the ledger of which it does not know, and whose rows are in no table. Those of
/// their rows that are in their table as they are in the files are taken out of these before; where
/// another row has the key by now, the archived one stays, since it is nowhere else.
async fn note_again(
    rows: &mut dyn Rows,
    (place, world): (&Place, &World),
    (shelf, homes): (&Shelf, &Homes),
    overlap: &mut Overlap,
) -> Result<()> {
    let names = &Names::of(shelf);
    let unnoted = Hidden::of(&std::mem::take(&mut overlap.unnoted));
    for (plan, batch) in left_alone(shelf) {
        let set = batch.set_of(plan);
        let of_batch = batch.slices.iter().filter(|slice| unnoted.has_slice(batch, slice));
        let slices: Vec<Slice> = of_batch.cloned().collect();
        if slices.is_empty() {
            continue;
        }
        let sets = every_row(homes.sets(plan, batch));
        let of = (plan, batch, &*sets);
        let living = living(rows, (place, &world.cpu), names, of, &slices).await?;
        let mut mixed = slices.clone();
        mixed.retain(|slice| living.contains_key(&slice.number));
        if !mixed.is_empty() {
            take_out_living(rows, (place, world), (plan, batch), (&sets, &mixed)).await?;
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

/// By the number of a slice: how many rows of the root are in its file, and by their keys in their
/// table, whatever became of them: policies may not select them any more.
type Living = BTreeMap<u32, u64>;

/// The same, but of rows that no policy selects, too.
pub(super) fn every_row(mut sets: Vec<ArchiveSet>) -> Vec<ArchiveSet> {
    for set in &mut sets {
        EVERY_ROW.clone_into(&mut set.predicate);
    }
    sets
}

/// How many rows of some slices of a batch live in one of the tables that may have them.
async fn living(
    rows: &mut dyn Rows,
    (place, cpu): (&Place, &CpuPool),
    names: &Names,
    (plan, batch, sets): (&Plan, &Batch, &[ArchiveSet]),
    slices: &[Slice],
) -> Result<Living> {
    let mut searched = Vec::new();
    let slices = place.open_bounds(batch, slices.to_vec()).await?;
    for set in sets {
        // Most partitions have no rows of another one's stretch.
        if sets.len() > 1 && !has_any(rows, set, &stretch(&slices)?).await? {
            continue;
        }
        for slice in &slices {
            let Some(range) = slice.range()? else { continue };
            if has_any(rows, set, &range).await? {
                searched.push((set, slice.number, range));
            }
        }
    }
    let member = &batch.members[0];
    let Some(file) = member.file.as_ref().filter(|_| !searched.is_empty()) else {
        return Ok(Living::default());
    };
    let bytes = verified(place, cpu, file).await?;
    let (columns, format, all) = (member.columns.clone(), plan.format, batch.slices.clone());
    let numbers: BTreeSet<u32> = searched.iter().map(|(_, number, _)| *number).collect();
    let places = key_of(names, plan, batch)?;
    let of_living = places.clone();
    let work = move || {
        let mut archived = HashMap::new();
        keep_slices(&bytes, &columns, format, &all, 0, |slice, row| {
            if numbers.contains(&slice.number) {
                archived.insert(key_hash(&places, row)?, slice.number);
            }
            Ok(())
        })?;
        Ok::<_, Error>(archived)
    };
    let archived = cpu.run(move |_| work()).await??;
    let mut looking = Looking { places: of_living, archived, living: Living::default() };
    for (set, _, range) in searched {
        let mut snapshot = rows.snapshot().await?;
        snapshot.root(set, &range, ROWS_MAX, &mut looking).await?;
    }
    Ok(looking.living)
}

/// From where the first of some slices begins to where the last one ends.
fn stretch(slices: &[Slice]) -> Result<KeyRange> {
    let ranges = slices.iter().filter_map(|slice| slice.range().transpose());
    let ranges = ranges.collect::<Result<Vec<_>>>()?;
    let to = ranges.last().and_then(|range| range.to.clone());
    Ok(KeyRange { to, ..ranges.into_iter().next().unwrap_or_default() })
}

async fn has_any(rows: &mut dyn Rows, set: &ArchiveSet, range: &KeyRange) -> Result<bool> {
    let mut snapshot = rows.snapshot().await?;
    Ok(snapshot.root(set, range, 1, &mut Uncounted).await? > 0)
}

/// Where the columns of the root's key are in a file, and which texts each of them takes for one.
fn key_of(names: &Names, plan: &Plan, batch: &Batch) -> Result<Vec<(usize, Alike)>> {
    let key = names.key(plan, 0, &batch.members[0].columns);
    let key = key.ok_or_else(|| Error::bug("find the key of a file"))?;
    Ok(key.into_iter().map(|one| (one.place, one.alike)).collect())
}

fn key_hash(places: &[(usize, Alike)], row: &[u8]) -> Result<u64> {
    let values = values(row).collect::<Result<Vec<_>>>()?;
    let mut hasher = blake3::Hasher::new();
    for (place, alike) in places {
        let value = values.get(*place).copied().flatten().unwrap_or_default();
        let value = alike.form_of(value);
        hasher.update(&(value.len() as u64).to_le_bytes());
        hasher.update(&value);
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    Ok(u64::from_le_bytes(first))
}

/// Takes rows of which only matters how many there are.
struct Uncounted;

#[async_trait]
impl RowSink for Uncounted {
    async fn put(&mut self, _rows: RowBatch) -> Result<()> {
        Ok(())
    }
}

/// Looks for rows of a table among those of a file.
struct Looking {
    /// Where the columns of the key are, and which texts each of them takes for one.
    places: Vec<(usize, Alike)>,
    /// By the hash of a key that was not found yet: the slice that has it.
    archived: HashMap<u64, u32>,
    living: Living,
}

#[async_trait]
impl RowSink for Looking {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        for row in rows.rows() {
            let hash = key_hash(&self.places, row)?;
            if let Some(slice) = self.archived.remove(&hash) {
                *self.living.entry(slice).or_default() += 1;
            }
        }
        Ok(())
    }
}

/// Writes down what readers pass over, unless that is what was written last.
pub(super) async fn write_down(place: &Place, world: &World, live: &[LiveSlice]) -> Result<()> {
    if newest(place).await?.live == live {
        return Ok(());
    }
    let found = Reconciled { at: world.clock.now(), live: live.to_vec() };
    place.add_notice(world, NOTICES, &found).await
}
