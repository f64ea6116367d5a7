//! Archived rows on their way back into a table.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use stillpoint_contract::{
    Column, Conflict, Driver, Error, ErrorKind, Followed, PutBack, PutBackTally, Result, Table,
    code,
};

use super::{
    document::Plan,
    identity::ledger_of,
    names::{Names, place_of},
    newest::{IsNewest, Keys, Newest},
    place::Place,
    read::{Reading, Visible, Wanted, visible},
    shelf::Shelf,
    subject::{Doomed, Searched},
};
use crate::world::World;

/// How archived rows are put back.
#[derive(Clone, Debug)]
pub struct Returning {
    /// Which: of one table, or else rows of the root and all that hang on them.
    pub wanted: Wanted,
    /// What happens where a row with the same key is there. What hangs on rows of the root, and has
    /// no column by which it would be [`Newer`](Conflict::Newer), comes back with those that do.
    pub conflict: Conflict,
    /// The name of a new table that takes rows of the root, or of the table that is named, whether
    /// or not that is there; that of another one has the other's name behind it.
    pub staging: Option<String>,
}

/// What became of the rows of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// The table that has them now.
    pub table: String,
    /// What became of them.
    pub tally: PutBackTally,
    /// How many rows were left in the files, since newer files have rows with their keys.
    pub older: u64,
}

/// Puts archived rows back in one transaction, those of one file after those of the other, parents
/// before children. They stay in the archive. Of rows with one key, the one that was archived last
/// counts, whether or not it is one of those that are wanted; with a run, the last one of that run.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) when rows with their keys are there, and that is not allowed, or
/// when a trigger makes other rows of them. Whatever the error is, nothing was put back, save where
/// it says that this is not known.
pub async fn put_back(
    place: &Place,
    world: &World,
    driver: &dyn Driver,
    returning: &Returning,
) -> Result<Vec<Returned>> {
    let shelf = Shelf::load(place).await?;
    let Some(last) = shelf.runs.last() else {
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find the set")
            .with("set", place.set())
            .with("place", place.location()));
    };
    let wanted = &returning.wanted;
    let (names, of) = (Names::of(&shelf), wanted.table.as_deref());
    if names.name(of).is_none() {
        last.plan.member_of(of)?;
    }
    names.check(of, &wanted.terms)?;
    if let Some(run) = &wanted.run {
        shelf.run(run)?;
    }
    let ledger = ledger_of(place, driver).await?;
    let mut seen = visible(place, &shelf, ledger.as_deref()).await?;
    seen.retain(|one| wanted.run.as_ref().is_none_or(|run| *run == one.plan.run));
    let mut newest = Newest::new((place, &world.cpu), &names, &seen, wanted.terms.is_empty());
    let mut left = newest.order().into_iter().peekable();
    let mut rows = driver.rows().await?;
    let transaction = rows.put_back().await?;
    let (into, older) = (BTreeMap::new(), BTreeMap::new());
    let mut back =
        Back { place, world, names: &names, returning, transaction, into, older, all: Vec::new() };
    while left.peek().is_some() {
        let (mut keys, mut chosen, mut held_rows) = (Keys::default(), Vec::new(), 0);
        while !keys.is_full()
            && held_rows < HELD_ROWS_MAX
            && let Some(at) = left.next()
        {
            // Before a table was added to the set, runs did not have it.
            let one = choose((place, world, &names), wanted, (at, &seen[at]));
            let Some(one) = Box::pin(one).await? else { continue };
            for number in one.members.clone() {
                let picked = one.picked(number);
                keys = Box::pin(newest.collect(keys, (at, number), picked)).await?;
            }
            held_rows += one.found.as_ref().map_or(0, |found| found.rows);
            chosen.push(one);
        }
        let keys = Arc::new(Box::pin(newest.settle(keys)).await?);
        for mut one in chosen {
            if one.members.len() > 1 && (one.found.is_some() || !one.keyless.is_empty()) {
                // What hangs on an older version of a row does not come back for its sake.
                let Visible { plan, batch, .. } = seen[one.at];
                let searched = Searched { place, world, names: &names, plan, batch };
                let is_newest = newest.judge(&keys, (one.at, one.first));
                let family = searched.newest_of(&wanted.terms, one.first, is_newest);
                one.family = Some(Box::pin(family).await?);
                back.leave(&seen[one.at], &one);
            }
            for number in one.members.clone() {
                let is_newest = newest.judge(&keys, (one.at, number));
                Box::pin(back.member(&seen[one.at], (number, &one), is_newest)).await?;
            }
        }
    }
    back.end().await
}

const STAGING: &str = "--staging NAME puts all of them into a table of their own, with the columns \
                       of then";

/// Batches are added until so many rows of them were found.
const HELD_ROWS_MAX: u64 = 3_000_000;

/// Rows of a batch that are wanted.
struct Chosen {
    /// The place of the batch.
    at: usize,
    /// The place of the table that is named, or of the root.
    first: usize,
    /// The places of the tables whose rows are wanted.
    members: Range<usize>,
    /// Which rows; none for all of them.
    found: Option<Doomed>,
    /// The same, without what hangs on older versions of rows.
    family: Option<Doomed>,
    /// The places of tables without a key: of their rows, those count that hang on rows that do.
    keyless: BTreeSet<usize>,
}

impl Chosen {
    /// The places of a table's rows in its file; none for all of them.
    fn picked(&self, number: usize) -> Option<BTreeSet<u64>> {
        // Older versions are counted.
        let is_told = self.found.is_some() || self.keyless.contains(&number);
        let family = self.family.as_ref().filter(|_| is_told && number != self.first);
        family.or(self.found.as_ref()).map(|found| found.of_member(number))
    }
}

/// Chooses rows of a batch, unless it has no such table.
async fn choose(
    (place, world, names): (&Place, &World, &Names),
    wanted: &Wanted,
    (at, visible): (usize, &Visible<'_>),
) -> Result<Option<Chosen>> {
    let Visible { plan, batch, .. } = *visible;
    let Some(first) = names.table(plan, wanted.table.as_deref()) else { return Ok(None) };
    let is_one = wanted.table.is_some();
    // Of all rows, nobody has to find out which hang on which.
    let found = if wanted.terms.is_empty() {
        None
    } else {
        let searched = Searched { place, world, names, plan, batch };
        let found = searched.rows_of(&wanted.terms, first).await?;
        if !is_one {
            searched.refuse_untold(&found)?;
        }
        Some(found)
    };
    let members = if is_one { first..first + 1 } else { 0..batch.members.len() };
    let has_file = |number: &usize| batch.members[*number].file.is_some();
    let keyless = members.clone().filter(has_file);
    let keyless = keyless.filter(|number| plan.members[*number].table.key.is_empty()).collect();
    Ok(Some(Chosen { at, first, members, found, family: None, keyless }))
}

/// Rows on their way.
struct Back<'a> {
    place: &'a Place,
    world: &'a World,
    names: &'a Names,
    returning: &'a Returning,
    transaction: Box<dyn PutBack + 'a>,
    /// By the table that rows come from: the one that takes them.
    into: BTreeMap<String, String>,
    /// By the table that rows come from: how many are left in the files.
    older: BTreeMap<String, u64>,
    all: Vec<Returned>,
}

impl Back<'_> {
    /// Counts what hangs on older versions of rows, and does not come back.
    fn leave(&mut self, visible: &Visible<'_>, chosen: &Chosen) {
        let Chosen { found: Some(found), family: Some(family), .. } = chosen else { return };
        for number in chosen.members.clone().filter(|number| *number != chosen.first) {
            let left = found.of_member(number).len() - family.of_member(number).len();
            if left > 0 {
                let table = self.names.table_now(visible.plan, number);
                *self.older.entry(table).or_default() += left as u64;
            }
        }
    }

    /// Puts the rows of a file back of which no newer one has others.
    async fn member(
        &mut self,
        visible: &Visible<'_>,
        (number, chosen): (usize, &Chosen),
        is_newest: IsNewest,
    ) -> Result<()> {
        let picked = chosen.picked(number);
        // Of all rows, nobody has counted yet which hang on older versions.
        let counts = chosen.found.is_none();
        if !counts && picked.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(());
        }
        let (mut at, older) = (0_u64, Arc::new(AtomicU64::new(0)));
        let left = Arc::clone(&older);
        let picks = move |is_shown: bool, _: &[Column], row: &[u8]| -> Result<bool> {
            at += 1;
            let is_picked = picked.as_ref().is_none_or(|picked| picked.contains(&(at - 1)));
            if !is_shown {
                return Ok(false);
            }
            let is_newest = is_picked && is_newest(row)?;
            if !is_newest && (is_picked || counts) {
                left.fetch_add(1, Ordering::Relaxed);
            }
            Ok(is_newest)
        };
        let cpu = &self.world.cpu;
        let rows = visible.read(self.place, cpu, number, u64::MAX, picks).await?;
        if let Some(rows) = rows {
            self.file(visible, (number, chosen.first), rows).await?;
        }
        let older = older.load(Ordering::Relaxed);
        if older > 0 {
            *self.older.entry(self.names.table_now(visible.plan, number)).or_default() += older;
        }
        Ok(())
    }

    /// Puts the rows of a file back, if there are any.
    async fn file(
        &mut self,
        visible: &Visible<'_>,
        (number, first): (usize, usize),
        mut rows: Reading,
    ) -> Result<()> {
        let Visible { plan, batch, .. } = *visible;
        let mut into = None;
        while let Some(some) = rows.next(&self.world.cpu).await? {
            if into.is_none() {
                let columns = &batch.members[number].columns;
                into = Some(self.begin(plan, (number, first), columns).await?);
            }
            self.transaction.rows(some).await?;
        }
        let Some(into) = into else { return Ok(()) };
        let tally = self.transaction.end().await?;
        tracing::debug!(table = into, batch = batch.number, ?tally, "rows of a file are put back");
        let known = self.all.iter_mut().find(|one| one.table == into);
        let of = match known {
            Some(of) => of,
            None => self.all.push_mut(Returned { table: into, ..Returned::default() }),
        };
        of.tally.inserted += tally.inserted;
        of.tally.replaced += tally.replaced;
        of.tally.skipped += tally.skipped;
        Ok(())
    }

    async fn begin(
        &mut self,
        plan: &Plan,
        (number, first): (usize, usize),
        columns: &[Column],
    ) -> Result<String> {
        let now = self.names.table_now(plan, number);
        let known = self.into.get(&now);
        let staging = self.returning.staging.as_ref().filter(|_| known.is_none());
        let staging = staging
            .map(|name| if number == first { name.clone() } else { staging_name(name, &now) });
        let renamed = |column: &Column| {
            let name = self.names.column_now(plan, number, column);
            Column { name, ..column.clone() }
        };
        let columns = columns.iter().map(renamed).collect();
        let name = known.unwrap_or(&now).clone();
        let table = Table { name, columns, ..plan.members[number].table.clone() };
        // What hangs on rows that have to be new is not there either.
        let is_absent = number != first && self.returning.conflict == Conflict::Fail;
        let conflict = if is_absent { &Conflict::Absent } else { &self.returning.conflict };
        let decides = number == first || has_version(&table, conflict);
        let begun = if decides {
            self.transaction.begin(&table, conflict, staging.as_deref()).await
        } else if self.returning.staging.is_some() {
            // Only rows of this transaction are there, and the newest one of each key came first.
            self.transaction.begin(&table, &Conflict::Skip, staging.as_deref()).await
        } else {
            // Without a key, they are refused: those that hang on a replaced row may be there.
            let followed = self.followed(plan, number)?;
            self.transaction.follow(&table, &followed).await
        };
        let into = begun.map_err(|error| match error.code() {
            code::NO_SUCH_TABLE => error.next(STAGING),
            _ => error,
        })?;
        self.into.insert(now, into.clone());
        Ok(into)
    }

    /// With rows of which table those of another one come back, by names of now.
    fn followed(&self, plan: &Plan, number: usize) -> Result<Followed> {
        let link = plan.members[number].link.as_ref().ok_or_else(|| Error::bug("put rows back"))?;
        let names = |number: usize, names: &[String]| -> Result<Vec<String>> {
            let table = &plan.members[number].table;
            let now = |name: &String| {
                let at = place_of(&table.columns, name)?;
                Some(self.names.column_now(plan, number, &table.columns[at]))
            };
            let all: Option<Vec<String>> = names.iter().map(now).collect();
            all.ok_or_else(|| Error::bug("put rows back").with("table", &table.name))
        };
        let parent = self.names.table_now(plan, link.parent);
        let parent = self.into.get(&parent).cloned().unwrap_or(parent);
        let columns = names(number, &link.columns)?;
        let parent_columns = names(link.parent, &link.parent_columns)?;
        Ok(Followed { columns, parent, parent_columns })
    }

    /// Lets all of it count, and tells of it.
    async fn end(self) -> Result<Vec<Returned>> {
        let Self { transaction, into, older, mut all, .. } = self;
        transaction.commit().await?;
        for (from, rows) in older {
            let table = into.get(&from).unwrap_or(&from);
            let of = match all.iter().position(|one| one.table == *table) {
                Some(place) => &mut all[place],
                None => all.push_mut(Returned { table: table.clone(), ..Returned::default() }),
            };
            of.older += rows;
        }
        Ok(all)
    }
}

/// Whether a table has what says which of two rows is the newer one, where that is asked.
fn has_version(table: &Table, conflict: &Conflict) -> bool {
    let Conflict::Newer(by) = conflict else { return true };
    table.columns.iter().any(|column| column.name == *by && !column.is_generated)
}

/// The name of a new table for rows that hang on those of another one.
fn staging_name(name: &str, of: &str) -> String {
    let last = of.rsplit('.').next().unwrap_or(of).trim_matches('"');
    format!("{name}_{last}")
}
