//! Archived rows on their way back into a table.

use std::collections::BTreeMap;

use stillpoint_contract::{
    Column, Conflict, Driver, Error, ErrorKind, PutBack, PutBackTally, Result, Table, code,
};

use super::{
    document::{Batch, Plan},
    identity::ledger_of,
    names::Names,
    place::Place,
    read::{Reading, Visible, Wanted, visible},
    shelf::Shelf,
    subject::Searched,
};
use crate::{pipeline::cpu::CpuPool, world::World};

/// How archived rows are put back.
#[derive(Clone, Debug)]
pub struct Returning {
    /// Which: of one table, or else rows of the root and all that hang on them.
    pub wanted: Wanted,
    /// What happens where a row with the same key is there.
    pub conflict: Conflict,
    /// The name of a new table that takes rows of the root, or of the table that is named; that of
    /// another one has the other's name behind it.
    pub staging: Option<String>,
}

/// What became of the rows of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// The table that has them now.
    pub table: String,
    /// What became of them.
    pub tally: PutBackTally,
}

/// Puts archived rows back in one transaction, those of one file after those of the other, parents
/// before children. They stay in the archive.
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
    let mut rows = driver.rows().await?;
    let transaction = rows.put_back().await?;
    let mut back = Back { returning, transaction, made: BTreeMap::new(), all: Vec::new() };
    for visible in visible(place, &shelf, ledger.as_deref()).await? {
        let Visible { plan, batch, .. } = &visible;
        if wanted.run.as_ref().is_some_and(|run| *run != plan.run) {
            continue;
        }
        // Before a table was added to the set, runs did not have it.
        let Some(first) = names.table(plan, of) else { continue };
        // Of all rows, nobody has to find out which hang on which.
        let found = if wanted.terms.is_empty() {
            None
        } else {
            let searched = Searched { place, world, names: &names, plan, batch };
            Some(searched.rows_of(&wanted.terms, first).await?)
        };
        let members =
            if wanted.table.is_some() { first..first + 1 } else { 0..batch.members.len() };
        for number in members {
            let picked = found.as_ref().map(|found| found.of_member(number));
            let mut at = 0;
            let picks = move |_: &[Column], _: &[u8]| {
                at += 1;
                Ok(picked.as_ref().is_none_or(|picked| picked.contains(&(at - 1))))
            };
            if let Some(rows) = visible.read(place, &world.cpu, number, u64::MAX, picks).await? {
                back.file(&world.cpu, &names, plan, (number, first), batch, rows).await?;
            }
        }
    }
    back.transaction.commit().await?;
    Ok(back.all)
}

/// Rows on their way.
struct Back<'a> {
    returning: &'a Returning,
    transaction: Box<dyn PutBack + 'a>,
    /// By the table that rows come from: the staging table that was made.
    made: BTreeMap<String, String>,
    all: Vec<Returned>,
}

impl Back<'_> {
    /// Puts the rows of a file back, if there are any.
    async fn file(
        &mut self,
        cpu: &CpuPool,
        names: &Names,
        plan: &Plan,
        (number, first): (usize, usize),
        batch: &Batch,
        mut rows: Reading,
    ) -> Result<()> {
        let mut into = None;
        while let Some(some) = rows.next(cpu).await? {
            if into.is_none() {
                let columns = &batch.members[number].columns;
                into = Some(self.begin(names, plan, (number, first), columns).await?);
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
        names: &Names,
        plan: &Plan,
        (number, first): (usize, usize),
        columns: &[Column],
    ) -> Result<String> {
        let now = names.table_now(plan, number);
        let made = self.made.get(&now);
        let staging = self.returning.staging.as_ref().filter(|_| made.is_none());
        let staging = staging
            .map(|name| if number == first { name.clone() } else { staging_name(name, &now) });
        let renamed = |column: &Column| {
            let name = names.column_now(plan, number, column);
            Column { name, ..column.clone() }
        };
        let columns = columns.iter().map(renamed).collect();
        let name = made.unwrap_or(&now).clone();
        let table = Table { name, columns, ..plan.members[number].table.clone() };
        let conflict = &self.returning.conflict;
        let into = self.transaction.begin(&table, conflict, staging.as_deref()).await?;
        if staging.is_some() {
            self.made.insert(now, into.clone());
        }
        Ok(into)
    }
}

/// The name of a new table for rows that hang on those of another one.
fn staging_name(name: &str, of: &str) -> String {
    let last = of.rsplit('.').next().unwrap_or(of).trim_matches('"');
    format!("{name}_{last}")
}
