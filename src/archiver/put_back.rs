//! Archived rows on their way back into a table.

use std::collections::BTreeMap;

use bytes::Bytes;
use stillpoint_contract::{
    Column, Conflict, Driver, Error, ErrorKind, PutBackTally, Result, RowBatch, Table, code,
};

use super::{
    identity::ledger_of,
    names::Names,
    place::Place,
    read::{Visible, Wanted, visible},
    shelf::Shelf,
    subject::Searched,
};
use crate::world::World;

/// How many bytes of rows are handed over at once.
const CHUNK_BYTES: usize = 256 << 10;

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

/// Puts archived rows back, those of each file in one transaction, parents before children. They
/// stay in the archive.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) when rows with their keys are there, and that is not allowed;
/// those of files before stay where they were put, and the error says how many those are.
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
    let mut all: Vec<Returned> = Vec::new();
    // By the table that rows come from: the staging table that was made.
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    for visible in visible(place, &shelf, ledger.as_deref()).await? {
        let Visible { plan, batch, .. } = &visible;
        if wanted.run.as_ref().is_some_and(|run| *run != plan.run) {
            continue;
        }
        // Before a table was added to the set, runs did not have it.
        let Some(first) = names.table(plan, of) else { continue };
        let searched = Searched { place, world, names: &names, plan, batch };
        let found = searched.rows_of(&wanted.terms, first).await?;
        let members =
            if wanted.table.is_some() { first..first + 1 } else { 0..batch.members.len() };
        for number in members {
            let picked = found.of_member(number);
            let mut at = 0;
            let picks = move |_: &[Column], _: &[u8]| {
                at += 1;
                Ok(picked.contains(&(at - 1)))
            };
            let found = visible.read(place, &world.cpu, number, u64::MAX, picks).await?;
            if found.rows.is_empty() {
                continue;
            }
            let source = &plan.members[number].table;
            let now = names.table_now(plan, number);
            let staging = returning
                .staging
                .as_ref()
                .map(|name| if number == first { name.clone() } else { staging_name(name, &now) });
            let name = made.get(&now).unwrap_or(&now).clone();
            let staging = staging.filter(|_| !made.contains_key(&now));
            let renamed = |column: Column| {
                let name = names.column_now(plan, number, &column);
                Column { name, ..column }
            };
            let columns = found.columns.into_iter().map(renamed).collect();
            let table = Table { name, columns, ..source.clone() };
            let told = |error| with_what_stays(error, &all);
            let mut transaction = rows
                .put_back(&table, &returning.conflict, staging.as_deref())
                .await
                .map_err(told)?;
            let into = transaction.table().to_owned();
            for batch in batches(found.rows) {
                transaction.rows(batch).await.map_err(told)?;
            }
            let tally = transaction.commit().await.map_err(told)?;
            if staging.is_some() {
                made.insert(now, into.clone());
            }
            let known = all.iter_mut().find(|one| one.table == into);
            let of = match known {
                Some(of) => of,
                None => all.push_mut(Returned { table: into, ..Returned::default() }),
            };
            of.tally.inserted += tally.inserted;
            of.tally.replaced += tally.replaced;
            of.tally.skipped += tally.skipped;
        }
    }
    Ok(all)
}

/// An error that says which rows stay in tables although it ended the rest: their transactions were
/// committed.
fn with_what_stays(error: Error, before: &[Returned]) -> Error {
    let written = |one: &Returned| one.tally.inserted + one.tally.replaced;
    before.iter().filter(|one| written(one) > 0).fold(error, |error, one| {
        error.with("rows put back before, which stay", format!("{} {}", one.table, written(one)))
    })
}

/// The name of a new table for rows that hang on those of another one.
fn staging_name(name: &str, of: &str) -> String {
    let last = of.rsplit('.').next().unwrap_or(of).trim_matches('"');
    format!("{name}_{last}")
}

fn batches(rows: Vec<Bytes>) -> Vec<RowBatch> {
    let mut batches = Vec::new();
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for row in rows {
        bytes.extend_from_slice(&row);
        ends.push(bytes.len() as u32);
        if bytes.len() >= CHUNK_BYTES {
            batches
                .push(RowBatch::new(std::mem::take(&mut bytes).into(), std::mem::take(&mut ends)));
        }
    }
    if !ends.is_empty() {
        batches.push(RowBatch::new(bytes.into(), ends));
    }
    batches
}
