//! Transactions that delete, and the ledger of what they deleted.

use async_trait::async_trait;
use chrono::SecondsFormat;
use rusqlite::{Connection, ErrorCode, params};
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, KeyRange, LedgerEntry, Pruning, Result, RowSink, Table, code,
};

use super::{
    besides::Besides,
    schema::{fingerprint, own_name, quoted, triggers},
    select::{Condition, condition, count, hand_over, prepare},
    text::checked_columns,
    worker::{Batches, Desk, Transaction},
};

const LEDGER: &str = "stillpoint_archive_ledger";
const STEP: &str = "use the ledger";

/// Makes the ledger.
pub(super) fn open_ledger(desk: &mut Desk) -> Result<()> {
    let connection = desk.connection();
    let made = connection.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS main.{LEDGER} (
            set_name TEXT NOT NULL, run TEXT NOT NULL, batch INTEGER NOT NULL,
            slice INTEGER NOT NULL, rows INTEGER NOT NULL, hash TEXT NOT NULL, at TEXT NOT NULL,
            position TEXT, PRIMARY KEY (set_name, run, batch, slice)) WITHOUT ROWID"
    ));
    desk.sql(made, "make the ledger")?;
    read(desk, "").map(drop)
}

/// What the ledger says of a set.
pub(super) fn read(desk: &Desk, set: &str) -> Result<Vec<LedgerEntry>> {
    let connection = desk.connection();
    // Asked by a statement: what the connection knows of the schema by itself may be older than a
    // ledger that somebody else has made since.
    // Source: https://www.sqlite.org/c3ref/table_column_metadata.html
    let is_there = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema \
                    WHERE type = 'table' AND name = ?1)";
    let is_there = connection.query_row(is_there, [LEDGER], |row| row.get(0));
    if !desk.sql::<bool>(is_there, STEP)? {
        return Ok(Vec::new());
    }
    let query = format!(
        "SELECT set_name, run, batch, slice, rows, hash, at, position FROM main.{LEDGER} \
         WHERE set_name = ?1 ORDER BY run, batch, slice"
    );
    let entries = || -> rusqlite::Result<Vec<LedgerEntry>> {
        let mut query = connection.prepare_cached(&query)?;
        let entries = query.query_map([set], |row| {
            let at: String = row.get(6)?;
            Ok(LedgerEntry {
                set: row.get(0)?,
                run: row.get(1)?,
                batch: row.get(2)?,
                slice: row.get(3)?,
                rows: row.get::<_, i64>(4)?.cast_unsigned(),
                hash: row.get(5)?,
                at: Some(at.parse().map_err(foreign_time)?),
                position: row.get(7)?,
            })
        })?;
        entries.collect()
    };
    entries().map_err(|e| match e.sqlite_error_code() {
        Some(code) if code != ErrorCode::Unknown => {
            crate::error::sqlite(e, STEP, &desk.database.path)
        }
        _ => Error::new(ErrorKind::Refused, code::LEDGER, STEP)
            .with("table", LEDGER)
            .why("it is not the table that Stillpoint made, or holds what it did not write")
            .caused_by(e),
    })
}

fn foreign_time(e: chrono::ParseError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, Box::new(e))
}

/// An open transaction that deletes.
#[derive(Debug)]
pub(super) struct Prune<'a>(pub(super) Transaction<'a>);

/// Takes the write lock, which keeps others from writing and from changing the schema.
pub(super) fn begin(desk: &mut Desk) -> Result<()> {
    if desk.locks.is_empty() {
        return Err(Error::bug("delete rows of a set that is not locked"));
    }
    desk.sql(desk.connection().execute_batch("BEGIN IMMEDIATE"), "begin to delete rows")
}

#[async_trait]
impl Pruning for Prune<'_> {
    async fn fingerprints(&mut self, set: &ArchiveSet) -> Result<Vec<String>> {
        let tables: Vec<_> = set.members.iter().map(|member| member.table.name.clone()).collect();
        let all = move |desk: &mut Desk| {
            let of = |name: &String| {
                let found = fingerprint(desk.connection(), &own_name(name)?);
                desk.sql(found, "look at the table")
            };
            tables.iter().map(of).collect()
        };
        self.0.run(all).await
    }

    async fn delete(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let (set, range) = (set.clone(), range.clone());
        let work = move |desk: &mut Desk, batches: &mut Batches| {
            delete(desk, &set, member, &range, batches)
        };
        self.0.hand_over(work, into).await
    }

    async fn note(&mut self, entry: &LedgerEntry) -> Result<()> {
        let entry = entry.clone();
        self.0.run(move |desk| note(desk, &entry)).await
    }

    async fn strike(&mut self, entry: &LedgerEntry) -> Result<()> {
        let entry = entry.clone();
        self.0.run(move |desk| strike(desk, &entry)).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit().await
    }

    async fn roll_back(self: Box<Self>) -> Result<()> {
        self.0.roll_back().await
    }
}

fn told(entry: &LedgerEntry, why: &'static str) -> Error {
    Error::new(ErrorKind::Refused, code::LEDGER, STEP)
        .with("set", &entry.set)
        .with("run", &entry.run)
        .with("slice", format!("{}/{}", entry.batch, entry.slice))
        .why(why)
}

pub(super) fn note(desk: &Desk, entry: &LedgerEntry) -> Result<()> {
    let statement =
        format!("INSERT OR ABORT INTO main.{LEDGER} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL)");
    let rows = i64::try_from(entry.rows).map_err(|_| Error::bug("count rows"))?;
    // The clock of the machine is that of the database.
    let values = params![
        entry.set,
        entry.run,
        entry.batch,
        entry.slice,
        rows,
        entry.hash,
        desk.database.clock.now().to_rfc3339_opts(SecondsFormat::Micros, true),
    ];
    match desk.connection().execute(&statement, values) {
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Err(told(entry, "the slice has an entry already").caused_by(e))
        }
        noted => desk.sql(noted, STEP).map(drop),
    }
}

pub(super) fn strike(desk: &Desk, entry: &LedgerEntry) -> Result<()> {
    let statement = format!(
        "DELETE FROM main.{LEDGER} WHERE set_name = ?1 AND run = ?2 AND batch = ?3 AND slice = ?4"
    );
    let key = params![entry.set, entry.run, entry.batch, entry.slice];
    let struck = desk.sql(desk.connection().execute(&statement, key), STEP)?;
    if struck == 1 { Ok(()) } else { Err(told(entry, "the ledger has no such entry")) }
}

/// SQLite deletes all rows before it returns the first one, and returns them as they were before
/// triggers saw them. Source: <https://www.sqlite.org/lang_returning.html>, 2.1 and 3.
fn delete(
    desk: &mut Desk,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
    batches: &mut Batches,
) -> Result<u64> {
    let condition = condition(desk, set, member, range)?;
    let table = &set.members[member].table;
    let own = own_name(&table.name)?;
    let triggers = triggers(desk.connection(), &own);
    let has_triggers = !desk.sql(triggers, "look for triggers")?.is_empty();
    // A trigger may delete rows that are selected, too, before it is their turn.
    let selected = if has_triggers { Some(count(desk, table, &condition)?) } else { None };
    // A trigger of another table may be new, and make one of this table do more than it did.
    let besides = if has_triggers { Besides::look(desk, set, &own)? } else { Besides::default() };
    let before = desk.connection().total_changes();
    let work = |desk: &Desk| return_deleted(desk, table, &condition, batches);
    let returned = besides.listen(desk, work)?;
    let connection = desk.connection();
    check(connection, before, returned, selected).map_err(|(what, number)| {
        Error::new(ErrorKind::Refused, code::ROWS_DIFFER, "delete rows")
            .with("table", &table.name)
            .with("rows that were returned", returned)
            .with(what, number)
            .why("a trigger or a foreign key did something else than to delete these rows")
    })?;
    besides.check(desk, (own.as_str(), returned), connection.total_changes() - before)?;
    let left = count(desk, table, &condition)?;
    if left > 0 {
        return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, "delete rows")
            .with("table", &table.name)
            .with("rows that are still there", left)
            .why("a trigger keeps rows from being deleted, or puts them back"));
    }
    Ok(returned)
}

/// Deletes rows, and hands them over.
fn return_deleted(
    desk: &Desk,
    table: &Table,
    condition: &Condition,
    batches: &mut Batches,
) -> Result<u64> {
    let own = own_name(&table.name)?;
    let (columns, checked) = checked_columns(desk, table)?;
    let sql =
        format!("DELETE FROM main.{} WHERE {} RETURNING {columns}", quoted(&own), condition.sql);
    let mut statement = prepare(desk, desk.connection(), &sql)?;
    condition.give(desk, &mut statement)?;
    let returned = hand_over(desk, &mut statement, checked, batches);
    returned.map_err(|error| still_referred(error, table))
}

fn still_referred(error: Error, table: &Table) -> Error {
    let is_constraint = std::error::Error::source(&error)
        .and_then(|cause| cause.downcast_ref::<rusqlite::Error>())
        .is_some_and(|e| e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation));
    if !is_constraint {
        return error;
    }
    Error::new(ErrorKind::Refused, code::ROWS_REFUSED, "delete rows")
        .with("table", &table.name)
        .why("rows of another table refer to them, or a trigger refuses it")
        .next("add that table to the set")
        .caused_by(error)
}

/// How many rows were deleted, and, where no trigger changes others, how many were changed in all:
/// actions of foreign keys count there.
/// Source: <https://www.sqlite.org/c3ref/changes.html>, <https://www.sqlite.org/c3ref/total_changes.html>.
fn check(
    connection: &Connection,
    before: u64,
    returned: u64,
    selected: Option<u64>,
) -> std::result::Result<(), (&'static str, u64)> {
    let total = connection.total_changes() - before;
    let deleted = connection.changes();
    if deleted != returned {
        return Err(("rows that were deleted", deleted));
    }
    match selected {
        None if total != returned => Err(("rows that were changed", total)),
        Some(selected) if selected != returned => Err(("rows that were there", selected)),
        _ => Ok(()),
    }
}
