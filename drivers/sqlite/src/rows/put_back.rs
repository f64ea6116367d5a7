//! Transactions that put rows back.

use async_trait::async_trait;
use rusqlite::{ErrorCode, ffi};
use stillpoint_contract::{
    Column, Conflict, Error, ErrorKind, PutBack, PutBackTally, Result, RowBatch, Table, code,
    values,
};

use super::{
    schema::{Term, listed, own_name, quoted, table as look},
    select::{Dynamic, prepare, terms, tuple},
    worker::{Desk, Transaction},
};

const STEP: &str = "put rows back";

/// How rows of a table are put back.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    table: String,
    insert: String,
    /// Finds the row that is there.
    find: Option<String>,
    /// The places of those columns in a row that are inserted.
    given: Vec<usize>,
    /// The places of the key's columns.
    key: Vec<usize>,
    columns: usize,
    /// What of the key is told to people.
    shown: String,
}

/// Begins, and makes the table if it is a new one.
pub(super) fn begin(
    desk: &Desk,
    table: &Table,
    conflict: &Conflict,
    staging: Option<&str>,
) -> Result<Plan> {
    let connection = desk.connection();
    desk.sql(connection.execute_batch("BEGIN IMMEDIATE"), STEP)?;
    // References among rows of one table hold at the end.
    desk.sql(connection.execute_batch("PRAGMA defer_foreign_keys = ON"), STEP)?;
    let Some(name) = staging else {
        let now = look(desk, &table.name)?;
        return plan(desk, table, &now, conflict);
    };
    let own = own_name(name)?;
    let made = connection.execute_batch(&definition(&own, table));
    if let Err(e) = made {
        let is_there = desk.sql(connection.table_exists(Some("main"), own.as_str()), STEP)?;
        if is_there {
            return Err(Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
                .with("table", name)
                .why("there is a table of that name")
                .next("choose a name that is free"));
        }
        return desk.sql(Err(e), "make a table for the rows");
    }
    plan(desk, table, &look(desk, &quoted(&own))?, conflict)
}

/// A table that holds the same values: of the same types, save where another kind of table would
/// turn values into others. Source: <https://www.sqlite.org/stricttables.html>, 3.
pub(super) fn definition(own: &str, table: &Table) -> String {
    let mut parts: Vec<_> = table.columns.iter().map(column).collect();
    // Without that, a key of text could hold NULLs.
    for at in &table.key {
        parts[*at].push_str(" NOT NULL");
    }
    let key = table.key.iter().filter_map(|at| table.columns.get(*at));
    let key: Vec<_> = key.map(|column| column.name.as_str()).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", listed(key)));
    }
    format!("CREATE TABLE main.{} ({})", quoted(own), parts.join(", "))
}

pub(super) fn column(column: &Column) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '(' | ')' | ',');
    let engine_type = column.engine_type.as_str();
    let is_known = engine_type.chars().all(is_plain) && !engine_type.eq_ignore_ascii_case("ANY");
    let engine_type = if is_known { engine_type } else { "" };
    format!("{} {engine_type}", quoted(&column.name))
}

pub(super) fn plan(desk: &Desk, table: &Table, now: &Table, conflict: &Conflict) -> Result<Plan> {
    let place_now = |name: &str| now.columns.iter().find(|column| column.name == name);
    let mut given = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        match place_now(&column.name) {
            None if column.is_generated => {}
            None => {
                let add = format!(
                    "ALTER TABLE {} ADD COLUMN {} {}",
                    now.name,
                    quoted(&column.name),
                    column.engine_type
                );
                return Err(unfit(table, "the table has no such column any more")
                    .with("column", &column.name)
                    .next(add));
            }
            Some(column) if column.is_generated => {}
            Some(_) => given.push(at),
        }
    }
    let names = |places: &[usize]| -> Vec<String> {
        places.iter().map(|at| table.columns[*at].name.clone()).collect()
    };
    let given_names = names(&given);
    let own = quoted(&own_name(&now.name)?);
    let marks: Vec<_> = (1..=given.len()).map(|n| format!("?{n}")).collect();
    // `OR ABORT`: what the table says of conflicts does not count here.
    let mut insert = format!(
        "INSERT OR ABORT INTO main.{own} ({}) VALUES ({})",
        listed(given_names.iter().map(String::as_str)),
        marks.join(", ")
    );
    let key_terms = if now.key.is_empty() { Vec::new() } else { terms(desk, now)? };
    let key: Vec<_> = key_terms.iter().filter_map(|term| place(table, &term.name)).collect();
    if key.len() != key_terms.len() || key.is_empty() {
        return Err(unfit(table, "it has no key by which rows could be found"));
    }
    if let Some(policy) = on_conflict(table, &own, &key_terms, &given_names, conflict)? {
        insert.push_str(&policy);
    }
    let marks: Vec<_> = (1..=key.len()).map(|n| format!("?{n}")).collect();
    let find =
        format!("SELECT 1 FROM main.{own} WHERE ({}) = ({})", tuple(&key_terms), marks.join(", "));
    Ok(Plan {
        table: now.name.clone(),
        insert,
        find: (*conflict != Conflict::Fail).then_some(find),
        given,
        shown: names(&key).join(", "),
        key,
        columns: table.columns.len(),
    })
}

fn place(table: &Table, name: &str) -> Option<usize> {
    table.columns.iter().position(|column| column.name == name)
}

fn on_conflict(
    table: &Table,
    own: &str,
    key: &[Term],
    given: &[String],
    conflict: &Conflict,
) -> Result<Option<String>> {
    let target = tuple(key);
    let sets: Vec<_> = given.iter().map(|n| format!("{0} = excluded.{0}", quoted(n))).collect();
    let replace = format!(" ON CONFLICT ({target}) DO UPDATE SET {}", sets.join(", "));
    Ok(match conflict {
        Conflict::Fail => None,
        Conflict::Skip => Some(format!(" ON CONFLICT ({target}) DO NOTHING")),
        Conflict::Overwrite => Some(replace),
        Conflict::Newer(by) if given.contains(by) => {
            Some(format!("{replace} WHERE excluded.{0} > {own}.{0}", quoted(by)))
        }
        Conflict::Newer(by) => {
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, "compare rows")
                .with("table", &table.name)
                .with("column", by)
                .why("it has no such column"));
        }
    })
}

fn unfit(table: &Table, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP).with("table", &table.name).why(why)
}

/// An open transaction that puts rows back.
#[derive(Debug)]
pub(super) struct Return<'a> {
    pub(super) transaction: Transaction<'a>,
    pub(super) plan: Plan,
    pub(super) tally: PutBackTally,
}

#[async_trait]
impl PutBack for Return<'_> {
    fn table(&self) -> &str {
        &self.plan.table
    }

    async fn rows(&mut self, rows: RowBatch) -> Result<()> {
        let plan = self.plan.clone();
        let put = self.transaction.run(move |desk| put(desk, &plan, &rows)).await?;
        self.tally.inserted += put.inserted;
        self.tally.replaced += put.replaced;
        self.tally.skipped += put.skipped;
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<PutBackTally> {
        let Self { transaction, tally, .. } = *self;
        transaction.commit().await.map_err(|error| match error.code() {
            code::ROWS_REFUSED => Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
                .why("they refer to rows that are not there")
                .next("put those back first")
                .caused_by(error),
            _ => error,
        })?;
        Ok(tally)
    }
}

pub(super) fn put(desk: &Desk, plan: &Plan, rows: &RowBatch) -> Result<PutBackTally> {
    let connection = desk.connection();
    let mut insert = prepare(desk, connection, &plan.insert)?;
    let mut find = plan.find.as_deref().map(|sql| prepare(desk, connection, sql)).transpose()?;
    let mut tally = PutBackTally::default();
    for row in rows.rows() {
        let row: Vec<_> = values(row).collect::<Result<_>>()?;
        if row.len() != plan.columns {
            return Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, STEP)
                .with("columns of the table", plan.columns)
                .with("columns of the row", row.len()));
        }
        let row: Vec<_> = row.into_iter().map(Dynamic::read).collect::<Result<_>>()?;
        let is_there = match &mut find {
            None => false,
            Some(find) => {
                for (mark, at) in (1..).zip(&plan.key) {
                    desk.sql(find.raw_bind_parameter(mark, row[*at]), STEP)?;
                }
                desk.sql(find.raw_query().next().map(|row| row.is_some()), STEP)?
            }
        };
        for (mark, at) in (1..).zip(&plan.given) {
            desk.sql(insert.raw_bind_parameter(mark, row[*at]), STEP)?;
        }
        let changed = match insert.raw_execute() {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Err(refused(e, plan, &row));
            }
            done => desk.sql(done, STEP)?,
        };
        match (is_there, changed) {
            (false, 1) => tally.inserted += 1,
            (true, 1) => tally.replaced += 1,
            (true, 0) => tally.skipped += 1,
            _ => {
                return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
                    .with("key", key_text(plan, &row))
                    .why("a trigger keeps the row from being inserted"));
            }
        }
    }
    Ok(tally)
}

fn key_text(plan: &Plan, row: &[Dynamic<'_>]) -> String {
    let values: Vec<_> = plan.key.iter().map(|at| row[*at].to_string()).collect();
    format!("({}) = ({})", plan.shown, values.join(", "))
}

/// Source of the codes: <https://www.sqlite.org/rescode.html#extrc>.
fn refused(e: rusqlite::Error, plan: &Plan, row: &[Dynamic<'_>]) -> Error {
    let extended = e.sqlite_error().map(|error| error.extended_code);
    let is_key = matches!(
        extended,
        Some(
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_ROWID
        )
    );
    let error = Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
        .with("key", key_text(plan, row))
        .caused_by(e);
    if is_key {
        error
            .why("a row that has the same key, or the same unique values, is there")
            .next("--on-conflict skip keeps those that are there, overwrite replaces them")
            .next("--staging NAME puts all of them into a table of their own")
    } else {
        error.why("the table does not admit the row as it is")
    }
}
