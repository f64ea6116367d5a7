//! Archived rows, found and read again.

use std::collections::BTreeSet;

use stillpoint_contract::{
    Class, Column, Error, ErrorKind, Key, Kind, LedgerEntry, Result, RowBatch, code, values,
};

pub(super) use super::condition::{Term, fits};
use super::{
    condition::Compares,
    document::{Batch, Plan, Slice},
    file::value_text,
    names::Names,
    place::Place,
    reconcile::{Hidden, compare, hidden, refuse_unknown},
    shelf::{Shelf, Shelved, ShelvedBatch},
    shelve::{SliceRows, keep_slices, read_back, stored, verified},
    unnamed::unnamed,
};
use crate::pipeline::cpu::CpuPool;

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The table; the root where that is not said.
    pub table: Option<String>,
    /// What has to be so of a row: all of it.
    pub terms: Vec<Term>,
    /// The run; all of them where that is not said.
    pub run: Option<String>,
    /// At most so many rows.
    pub rows_max: Option<u64>,
}

/// Rows of one file that were wanted, or some of them.
#[derive(Clone, Debug)]
pub struct FoundRows {
    /// The run whose file it is.
    pub run: String,
    /// The batch.
    pub batch: u32,
    /// The table.
    pub table: String,
    /// The table's columns, in the forms of the file.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: RowBatch,
}

/// A batch of which readers see something.
#[derive(Debug)]
pub(super) struct Visible<'a> {
    pub(super) plan: &'a Plan,
    pub(super) batch: &'a Batch,
    /// Those of its slices whose rows are gone from their tables.
    pub(super) slices: BTreeSet<u32>,
}

/// What readers see: rows that are gone from their tables. The ledger knows which those are; where
/// it cannot be asked, documents tell it of batches that are gone completely.
pub(super) async fn visible<'a>(
    place: &Place,
    shelf: &'a Shelf,
    ledger: Option<&[LedgerEntry]>,
) -> Result<Vec<Visible<'a>>> {
    let hidden = hidden(place).await?;
    let mut found = Vec::new();
    for run in &shelf.runs {
        for one in run.batches.values().filter(|one| one.is_there()) {
            let batch = &one.batch;
            let slices = match ledger {
                Some(ledger) => one.gone(&run.plan, ledger)?.iter().map(|s| s.number).collect(),
                None if one.is_sealed() => {
                    let shown = batch.slices.iter().filter(|slice| !hidden.has_slice(batch, slice));
                    shown.map(|slice| slice.number).collect()
                }
                None => BTreeSet::new(),
            };
            if !slices.is_empty() {
                found.push(Visible { plan: &run.plan, batch, slices });
            }
        }
    }
    Ok(found)
}

/// How many rows are in files of batches that are not gone completely: which of them still are in
/// their tables, only the ledger knows.
pub fn unsettled_rows(shelf: &Shelf) -> u64 {
    shelf.runs.iter().flat_map(Shelved::pending).map(Batch::rows).sum()
}

/// Reads the rows that are wanted, and hands them over in their order, some at a time: those of one
/// file after those of the other.
///
/// Only rows count that are gone from their tables, as [`visible`] says.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when a file is not what was written. That its rows are others is
/// known once all of them were read: what was handed over of it before is worth nothing then.
pub async fn find(
    place: &Place,
    cpu: &CpuPool,
    wanted: &Wanted,
    ledger: Option<&[LedgerEntry]>,
    mut take: impl AsyncFnMut(FoundRows) -> Result<()>,
) -> Result<u64> {
    let shelf = Shelf::load(place).await?;
    let names = Names::of(&shelf);
    let table = wanted.table.as_deref();
    let runs = match &wanted.run {
        Some(run) => std::slice::from_ref(shelf.run(run)?),
        None => &shelf.runs[..],
    };
    if let Some(last) = runs.last() {
        if !runs.iter().any(|run| names.table(&run.plan, table).is_some()) {
            last.plan.member_of(table)?;
        }
        names.check(table, &wanted.terms)?;
    }
    let mut count = 0;
    for visible in visible(place, &shelf, ledger).await? {
        if wanted.run.as_ref().is_some_and(|run| *run != visible.plan.run) {
            continue;
        }
        let left = wanted.rows_max.map_or(u64::MAX, |max| max.saturating_sub(count));
        if left == 0 {
            break;
        }
        // Before a table was added to the set, runs did not have it.
        let Some(number) = names.table(visible.plan, table) else { continue };
        let columns = &visible.batch.members[number].columns;
        let terms = names.places(visible.plan, number, columns, &wanted.terms);
        if number == 0 && !can_hold(place, visible.plan, visible.batch, &terms).await? {
            continue;
        }
        let planned = visible.plan.members[number].table.columns.clone();
        let picks = move |is_shown: bool, columns: &[Column], row: &[u8]| {
            Ok(is_shown && fits(row, columns, &planned, &terms)?)
        };
        let Some(mut reading) = visible.read(place, cpu, number, left, picks).await? else {
            continue;
        };
        let table = names.table_now(visible.plan, number);
        let mut columns = columns.clone();
        for column in &mut columns {
            column.name = names.column_now(visible.plan, number, column);
        }
        while let Some(rows) = reading.next(cpu).await? {
            count += rows.len() as u64;
            let (run, batch) = (visible.plan.run.clone(), visible.batch.number);
            take(FoundRows { run, batch, table: table.clone(), columns: columns.clone(), rows })
                .await?;
        }
    }
    Ok(count)
}

/// Whether some slice of a batch can have the key of the root that is asked for, as its manifest
/// says: most files need not be opened then.
async fn can_hold(
    place: &Place,
    plan: &Plan,
    batch: &Batch,
    terms: &[(Option<usize>, Term)],
) -> Result<bool> {
    let Some(first) = plan.members[0].table.key.first() else { return Ok(true) };
    let is_asked = |(place, term): &&(Option<usize>, Term)| {
        *place == Some(*first) && term.compares == Compares::Equal
    };
    let numbers = |term: &Term| -> Option<Vec<i64>> {
        term.values.iter().map(|value| value.trim().parse().ok()).collect()
    };
    let mut asked = terms.iter().filter(is_asked);
    let Some(asked) = asked.find_map(|(_, term)| numbers(term)) else { return Ok(true) };
    let kind = &batch.members[0].columns[*first].kind;
    let number = |key: Option<Key>| whole_number(kind, values(&key?.0).next()?.ok()??);
    Ok(place.known_bounds(batch).await?.iter().any(|slice| {
        let Ok(Some(range)) = slice.range() else { return true };
        let (after, to) = (number(range.from.or(range.after)), number(range.to));
        asked.iter().any(|asked| {
            after.is_none_or(|after| after <= *asked) && to.is_none_or(|to| *asked <= to)
        })
    }))
}

/// A value of a column whose order is that of whole numbers; what else it holds is not told.
fn whole_number(kind: &Kind, value: &[u8]) -> Option<i64> {
    let is_whole = match kind {
        Kind::Int16 | Kind::Int32 | Kind::Int64 => true,
        Kind::Dynamic { .. } => value.first().copied().and_then(Class::of) == Some(Class::Integer),
        _ => false,
    };
    value_text(kind, value).filter(|_| is_whole)?.parse().ok()
}

/// The columns of a table in all files, by the names that they have now: those of the newest run,
/// and behind them those that only earlier ones had.
pub fn columns_of(shelf: &Shelf, table: Option<&str>) -> Vec<Column> {
    let names = Names::of(shelf);
    let mut all: Vec<Column> = Vec::new();
    for run in shelf.runs.iter().rev() {
        let Some(number) = names.table(&run.plan, table) else { continue };
        for column in &run.plan.members[number].table.columns {
            let name = names.column_now(&run.plan, number, column);
            if all.iter().all(|known| known.name != name) {
                all.push(Column { name, ..column.clone() });
            }
        }
    }
    all
}

/// Says whether a row is wanted: of whether readers see it, and the columns of its file.
type Picks = Box<dyn FnMut(bool, &[Column], &[u8]) -> Result<bool> + Send>;

impl Visible<'_> {
    /// Begins to read rows of a member, at most so many. `None` where it has no file.
    pub(super) async fn read(
        &self,
        place: &Place,
        cpu: &CpuPool,
        number: usize,
        rows_max: u64,
        picks: impl FnMut(bool, &[Column], &[u8]) -> Result<bool> + Send + 'static,
    ) -> Result<Option<Reading>> {
        let member = &self.batch.members[number];
        let Some(file) = &member.file else { return Ok(None) };
        let bytes = verified(place, cpu, file).await?;
        let (columns, format) = (member.columns.clone(), self.plan.format);
        let (slices, shown) = (self.batch.slices.clone(), self.slices.clone());
        let picks: Picks = Box::new(picks);
        let open = move |_: &mut _| {
            let rows = SliceRows::new(&bytes, &columns, format, slices, number)?;
            Ok::<_, Error>(Pages { rows, columns, shown, picks, left: rows_max })
        };
        let pages = cpu.run(open).await??;
        Ok(Some(Reading(Some(Box::new(pages)))))
    }

    /// Makes something of the rows of a member that readers see, by their places in its file.
    pub(super) async fn fold<T: Send + 'static>(
        &self,
        place: &Place,
        cpu: &CpuPool,
        number: usize,
        mut value: T,
        mut see: impl FnMut(&mut T, u64, &[u8]) -> Result<()> + Send + 'static,
    ) -> Result<T> {
        let member = &self.batch.members[number];
        let Some(file) = &member.file else { return Ok(value) };
        let bytes = verified(place, cpu, file).await?;
        let (columns, format) = (member.columns.clone(), self.plan.format);
        let (slices, shown) = (self.batch.slices.clone(), self.slices.clone());
        let work = move || {
            let mut at = 0;
            keep_slices(&bytes, &columns, format, &slices, number, |slice, row| {
                at += 1;
                if shown.contains(&slice.number) {
                    see(&mut value, at - 1, row)?;
                }
                Ok(())
            })?;
            Ok::<_, Error>(value)
        };
        cpu.run(move |_| work()).await?
    }
}

/// Rows of one file that are wanted, as they are read.
pub(super) struct Reading(Option<Box<Pages>>);

struct Pages {
    rows: SliceRows,
    columns: Vec<Column>,
    shown: BTreeSet<u32>,
    picks: Picks,
    left: u64,
}

impl Reading {
    /// Some rows, never none; `None` when all were read, and were the right ones.
    pub(super) async fn next(&mut self, cpu: &CpuPool) -> Result<Option<RowBatch>> {
        let Some(mut pages) = self.0.take() else { return Ok(None) };
        let read = move |_: &mut _| {
            let page = pages.next()?;
            Ok::<_, Error>(page.map(|rows| (rows, pages)))
        };
        Ok(cpu.run(read).await??.map(|(rows, pages)| {
            self.0 = Some(pages);
            rows
        }))
    }
}

impl Pages {
    /// Everything is read in any case: also what is not wanted may show that the file is broken.
    fn next(&mut self) -> Result<Option<RowBatch>> {
        let Self { rows, columns, shown, picks, left } = self;
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let mut is_over = false;
        while ends.is_empty() && !is_over {
            is_over = !rows.next(|slice, row| {
                // Asked of every row: it may count them.
                let is_shown = shown.contains(&slice.number);
                let is_picked = picks(is_shown, columns, row)?;
                if is_picked && *left > 0 && is_shown {
                    *left -= 1;
                    bytes.extend_from_slice(row);
                    // A decoder does not read more than that at once.
                    ends.push(bytes.len() as u32);
                }
                Ok(())
            })?;
        }
        Ok((!is_over).then(|| RowBatch::new(bytes.into(), ends)))
    }
}

/// What is wrong with a batch.
#[derive(Debug)]
pub struct Damage {
    /// The run.
    pub run: String,
    /// The batch.
    pub batch: u32,
    /// What.
    pub error: Error,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many batches were looked at.
    pub batches: u64,
    /// How many rows they hold.
    pub rows: u64,
    /// How many bytes their files have.
    pub bytes: u64,
    /// How many files are encrypted, and could only be compared with the hashes of their bytes,
    /// since the repository's key is not at hand.
    pub undecrypted: u64,
    /// How many files no document names, and nobody misses: they are on their way, or were left by
    /// whoever was killed.
    pub unnamed: u64,
    /// What is wrong.
    pub damages: Vec<Damage>,
}

/// Reads documents, and files back, and decodes every row; with a ledger, also compares what was
/// deleted with what is written down. Without the key of an encrypted repository, it compares the
/// bytes of files.
pub async fn verify(
    place: &Place,
    cpu: &CpuPool,
    ledger: Option<&[LedgerEntry]>,
    mut picks: impl FnMut(&Batch) -> bool,
) -> Result<Verified> {
    let files = place.files().await?;
    let (shelf, damages) = Shelf::look(place).await?;
    let hidden = hidden(place).await?;
    let unnamed = unnamed(place, &shelf, &files, ledger, &damages).await?;
    let mut verified = Verified { unnamed: unnamed.files, damages, ..Verified::default() };
    verified.damages.extend(unnamed.damages);
    let is_locked = |batch: &Batch| {
        place.keyring.is_none() && batch.files().any(|file| file.encryption.is_some())
    };
    for run in &shelf.runs {
        for one in run.batches.values().filter(|one| one.is_there()) {
            if !picks(&one.batch) {
                continue;
            }
            let look = async || {
                if is_locked(&one.batch) {
                    for file in one.batch.files() {
                        stored(place, cpu, file).await?;
                    }
                } else {
                    read_back(place, cpu, &run.plan, &one.batch).await?;
                }
                ledger.map_or(Ok(()), |ledger| agree(&run.plan, one, ledger, &hidden))
            };
            let looked = look().await;
            if is_locked(&one.batch) {
                verified.undecrypted += one.batch.files().count() as u64;
            }
            verified.batches += 1;
            verified.rows += one.batch.rows();
            let files = one.batch.members.iter().filter_map(|member| member.file.as_ref());
            verified.bytes += files.map(|file| file.bytes).sum::<u64>();
            if let Err(error) = looked {
                let (run, batch) = (run.plan.run.clone(), one.batch.number);
                verified.damages.push(Damage { run, batch, error });
            }
        }
    }
    if let Some(ledger) = ledger
        && let Err(error) = compare(&shelf, ledger).and_then(|all| refuse_unknown(place, &all))
    {
        verified.damages.push(Damage { run: String::new(), batch: 0, error });
    }
    Ok(verified)
}

fn agree(plan: &Plan, one: &ShelvedBatch, ledger: &[LedgerEntry], hidden: &Hidden) -> Result<()> {
    let gone = one.gone(plan, ledger)?;
    if gone.iter().any(|slice| hidden.has_slice(&one.batch, slice)) {
        let step = "compare the ledger with what readers see";
        return Err(Error::new(ErrorKind::Refused, code::LEDGER, step)
            .why("readers pass over rows that are gone from their tables")
            .next(format!("stillpoint archive reconcile {}", plan.set)));
    }
    if !one.is_sealed() {
        return Ok(());
    }
    let gone: BTreeSet<u32> = gone.iter().map(|slice| slice.number).collect();
    // Readers pass over the others, once somebody has looked at them.
    let slices = one.batch.slices.iter().filter(|slice| !hidden.has_slice(&one.batch, slice));
    let live: Vec<&Slice> = slices.filter(|slice| !gone.contains(&slice.number)).collect();
    if live.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, code::LEDGER, "compare the ledger with the manifest")
        .with("slices without an entry", live.len())
        .with("their rows", live.iter().map(|slice| slice.rows()).sum::<u64>())
        .why("their rows live in the table again, as after a restore to a time before the run")
        .next(format!("stillpoint archive reconcile {}", plan.set)))
}
