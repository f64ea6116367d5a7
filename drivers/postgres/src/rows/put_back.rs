//! Transactions that put rows back: into a table that passes first, in the form in which they were
//! read, and from there into their own.

use async_trait::async_trait;
use futures::SinkExt as _;
use stillpoint_contract::{
    Column, Conflict, Error, ErrorKind, Followed, PutBack, PutBackTally, Result, RowBatch, Table,
    TablePattern, code, values,
};
use tokio_postgres::{Client, error::SqlState};

use super::{
    altered::{AS_THEN, Changed, changed, has_type},
    conditions::{key_columns, listed},
    failure::failed,
    follow::leave,
    passing::{Passing, Sink, checked_type, close, open, passing_type, value},
    prune::OWN_NAMES,
    table::{is_partitioned, target as look},
    transaction::{Connection, Transaction},
    watch::{Target, Watch},
};
use crate::tally::quoted;

const STEP: &str = "put rows back";

const ASIDE: &str = "--staging NAME puts all of them into a table of their own";

/// Files of rows are read in between, each of which may take a while to come.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL idle_in_transaction_session_timeout = '1h'";

/// An open transaction that puts rows back.
pub(super) struct Return<'a> {
    transaction: Transaction<'a>,
    passing: Passing,
    watch: Watch,
    /// What takes the rows of a table that was begun.
    begun: Option<Begun>,
    /// The tables that it made.
    made: Vec<String>,
}

impl std::fmt::Debug for Return<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Return").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

impl<'a> Return<'a> {
    /// Opens one.
    pub(super) async fn open(connection: &'a mut Connection) -> Result<Self> {
        let transaction = connection.begin(BEGIN).await?;
        let (passing, watch) = (Passing::default(), Watch::default());
        Ok(Self { transaction, passing, watch, begun: None, made: Vec::new() })
    }
}

/// What takes rows of a table.
struct Begun {
    target: Target,
    rows: Sink,
    /// Where they pass.
    through: String,
    /// What takes out those that do not come back, since what they refer to does not.
    leave: Option<String>,
    /// What brings them into their table.
    insert: String,
    /// What counts rows that cannot be replaced, where there may be such.
    unlike: Option<String>,
    /// What takes out those that are not put back, where the others are compared afterwards.
    skip: Option<String>,
    /// What finds values that became others, each with the column that made them such.
    changed: Vec<(Changed, String)>,
    now: Table,
    columns: usize,
    must_all: bool,
    /// Whether the transaction made the table, for these rows or for others before.
    is_new: bool,
    is_watched: bool,
}

async fn prepare(
    client: &Client,
    (passing, watch): (&mut Passing, &Watch),
    usual_names: &str,
    (table, conflict): (&Table, &Conflict),
    (staging, is_new): (Option<&str>, bool),
) -> Result<Begun> {
    let now = match staging {
        None => look(client, &table.name).await?,
        Some(name) => stage(client, table, name).await?,
    };
    let is_parted = staging.is_none() && is_partitioned(client, &now.name).await?;
    // Nobody else knows a new table.
    let is_watched = staging.is_none() && watch.is_needed(client).await?;
    let fixed = fixed(client, &now).await?;
    // Without a key, no row is there in a new table.
    let conflict = if is_new && now.key.is_empty() { &Conflict::Absent } else { conflict };
    let put = Put { table, now: &now, conflict, fixed: &fixed, is_parted };
    let (target, conflicts) = (put.target()?, put.on_conflict()?);
    let types: Vec<&str> = table.columns.iter().map(passing_type).collect::<Result<_>>()?;
    let through = passing.ready(client, &types).await?;
    let insert = put.insert(&target, &through, (usual_names, &conflicts));
    let unlike = put.unlike(&through);
    let changed = changed(client, table, &now).await?;
    let skip = if is_watched || !changed.is_empty() { put.skip(&through) } else { None };
    let only = if is_parted { "" } else { "ONLY " };
    let query = |one: Changed| -> Result<(Changed, String)> {
        let query = if target.key.is_empty() {
            one.query_before(table, &now, &through)?
        } else {
            one.query(table, &now, &through, only)
        };
        Ok((one, query))
    };
    let changed = changed.into_iter().map(query).collect::<Result<_>>()?;
    let must_all = is_watched || matches!(conflict, Conflict::Fail | Conflict::Absent);
    let rows = open(client, &through).await?;
    let columns = table.columns.len();
    Ok(Begun {
        target,
        rows,
        through,
        leave: None,
        insert,
        unlike,
        skip,
        changed,
        now,
        columns,
        must_all,
        is_new,
        is_watched,
    })
}

/// Makes a table beside the one that rows come from, with the columns and the key of then: whatever
/// else that table demands by now, other rows or values may have fulfilled that.
async fn stage(client: &Client, table: &Table, name: &str) -> Result<Table> {
    let now = match look(client, &table.name).await {
        // It may be gone, or something else may have its name.
        Err(e) if matches!(e.code(), code::NO_SUCH_TABLE | code::ROWS_REFUSED) => None,
        now => Some(now?.name),
    };
    let pattern = TablePattern::new(name)?;
    let own = match pattern.names().as_slice() {
        [own] if pattern.is_exact() => quoted(own),
        _ => {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, STEP)
                .with("table", name)
                .why("a new table gets one name, and is made in the schema of the other one"));
        }
    };
    let schema = schema_of(now.as_deref().unwrap_or(&table.name))?;
    let full = format!("{}.{own}", quoted(&schema));
    let columns = columns_of_then(client, table).await?;
    let make = format!("CREATE TABLE {full} ({columns})");
    client.batch_execute(&make).await.map_err(|e| match e.code() {
        Some(&SqlState::DUPLICATE_TABLE) => {
            Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
                .with("table", name)
                .why("there is a table of that name")
                .next("choose a name that is free")
                .caused_by(e)
        }
        Some(&SqlState::INVALID_SCHEMA_NAME) => failed(e, "make a table for the rows")
            .with("table", &full)
            .next(format!("CREATE SCHEMA {}", quoted(&schema))),
        _ => failed(e, "make a table for the rows"),
    })?;
    look(client, &full).await
}

/// The schema of a table, as its complete name says it.
fn schema_of(table: &str) -> Result<String> {
    let name = TablePattern::new(table)?;
    match name.names().as_slice() {
        [schema, _] if name.is_exact() => Ok((*schema).to_owned()),
        _ => Err(Error::bug("make a table for the rows").with("table", table)),
    }
}

async fn columns_of_then(client: &Client, table: &Table) -> Result<String> {
    let mut parts = Vec::new();
    for column in &table.columns {
        let engine_type = checked_type(column)?;
        // Text is what values of a type that is gone came as.
        let is_text = column.is_cast && !has_type(client, engine_type).await?;
        let engine_type = if is_text { "text" } else { engine_type };
        parts.push(format!("{} {engine_type}", quoted(&column.name)));
    }
    if !table.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key_columns(table)?));
    }
    Ok(parts.join(", "))
}

/// How rows of a table go into it as it is now.
struct Put<'a> {
    table: &'a Table,
    now: &'a Table,
    conflict: &'a Conflict,
    /// The columns that the server numbers itself.
    fixed: &'a [String],
    is_parted: bool,
}

impl Put<'_> {
    /// The columns that are given, and their values.
    fn target(&self) -> Result<Target> {
        let Self { table, now, .. } = *self;
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (at, column) in table.columns.iter().enumerate() {
            match self.place_now(column) {
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
                        .next(add)
                        .next(AS_THEN));
                }
                Some(target) if target.is_generated => {}
                Some(target) => {
                    names.push(column.name.clone());
                    values.push(value(at, column, &target.engine_type));
                }
            }
        }
        let key: Vec<_> = now.key.iter().map(|at| now.columns[*at].name.clone()).collect();
        let has_key = !key.is_empty() && key.iter().all(|name| names.contains(name));
        if !has_key && *self.conflict != Conflict::Absent {
            return Err(table.without_key(STEP));
        }
        let key = if has_key { key } else { Vec::new() };
        let (table, is_parted) = (now.name.clone(), self.is_parted);
        Ok(Target { table, is_parted, names, values, key })
    }

    fn place_now(&self, column: &Column) -> Option<&Column> {
        self.now.columns.iter().find(|target| target.name == column.name)
    }

    fn is_key(&self, name: &str) -> bool {
        self.now.key.iter().any(|at| self.now.columns[*at].name == name)
    }

    /// The columns of a row that are given other values where it is replaced.
    fn replaced(&self) -> Vec<&str> {
        let given = self.table.columns.iter().filter(|column| {
            self.place_now(column).is_some_and(|target| !target.is_generated)
                && !self.is_key(&column.name)
                && !self.fixed.contains(&column.name)
        });
        given.map(|column| column.name.as_str()).collect()
    }

    fn insert(
        &self,
        target: &Target,
        through: &str,
        (usual_names, conflicts): (&str, &str),
    ) -> String {
        let table = &target.table;
        let is_new = if target.key.is_empty() {
            "true".to_owned()
        } else if self.is_parted {
            // A row that went into a partition does not show its transaction, and what was there
            // before the statement still does.
            let same = |name: &String| format!("o.{0} = there.{0}", quoted(name));
            let same = target.key.iter().map(same).collect::<Vec<_>>().join(" AND ");
            format!("NOT EXISTS (SELECT FROM {table} AS o WHERE {same})")
        } else {
            "there.xmax = 0".to_owned()
        };
        // A row that was inserted has no transaction yet that locked, replaced or deleted it.
        // Source: PostgreSQL 18 documentation, 5.6, "System Columns"; INSERT, "ON CONFLICT Clause".
        format!(
            "WITH put AS (INSERT INTO {table} AS there ({}) OVERRIDING SYSTEM VALUE
                SELECT {} FROM {through} WHERE {usual_names} {conflicts}
                RETURNING ({is_new}) AS is_new)
             SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new),
                (SELECT count(*) FROM {through}) FROM put",
            listed(target.names.iter().map(String::as_str)),
            target.values.join(", "),
        )
    }

    /// Rows that pass, as `put`, beside those with their keys, as `there`; and which those are.
    fn beside(&self, through: &str) -> (String, String) {
        let (mut puts, mut same) = (vec!["ctid AS place".to_owned()], Vec::new());
        for (at, column) in self.table.columns.iter().enumerate() {
            let target = self.place_now(column).filter(|target| !target.is_generated);
            let Some(target) = target else { continue };
            let mut put = value(at, column, &target.engine_type);
            if !column.is_cast && column.engine_type != target.engine_type {
                // There may be nothing that compares the one with the other.
                put = format!("{put}::{}", target.engine_type);
            }
            puts.push(format!("{put} AS c{at}"));
            if self.is_key(&column.name) {
                same.push(format!("there.{} = put.c{at}", quoted(&target.name)));
            }
        }
        let from = format!(
            "(SELECT {} FROM {through}) AS put JOIN {}{} AS there ON {}",
            puts.join(", "),
            if self.is_parted { "" } else { "ONLY " },
            self.now.name,
            same.join(" AND ")
        );
        let newer = match self.conflict {
            Conflict::Newer(by) => {
                let at = self.table.columns.iter().position(|column| column.name == *by);
                at.map(|at| format!("put.c{at} > there.{}", quoted(by)))
            }
            _ => None,
        };
        (from, newer.unwrap_or_else(|| "true".to_owned()))
    }

    /// What counts the rows that are to be replaced, and have another value in a column that the
    /// server does not let anybody replace.
    fn unlike(&self, through: &str) -> Option<String> {
        if matches!(self.conflict, Conflict::Fail | Conflict::Absent | Conflict::Skip) {
            return None;
        }
        let columns = self.table.columns.iter().enumerate();
        let others = columns
            .filter(|(_, column)| self.fixed.contains(&column.name) && !self.is_key(&column.name));
        let others = others.map(|(at, column)| {
            format!("there.{} IS DISTINCT FROM put.c{at}", quoted(&column.name))
        });
        let others = others.collect::<Vec<_>>().join(" OR ");
        let (from, newer) = self.beside(through);
        (!others.is_empty())
            .then(|| format!("SELECT count(*) FROM {from} WHERE ({newer}) AND ({others})"))
    }

    /// What takes out the rows that are not put back, since others are there.
    fn skip(&self, through: &str) -> Option<String> {
        let (from, newer) = self.beside(through);
        let stays = match self.conflict {
            Conflict::Fail | Conflict::Absent => return None,
            Conflict::Overwrite if !self.replaced().is_empty() => return None,
            Conflict::Skip | Conflict::Overwrite => "true".to_owned(),
            Conflict::Newer(_) => format!("({newer}) IS NOT TRUE"),
        };
        Some(format!(
            "DELETE FROM {through} WHERE ctid IN (SELECT put.place FROM {from} WHERE {stays})"
        ))
    }

    fn on_conflict(&self) -> Result<String> {
        let key = self.now.key.iter().map(|at| self.now.columns[*at].name.as_str());
        let target = listed(key);
        let replaced = self.replaced().into_iter();
        let sets: Vec<_> =
            replaced.map(|name| format!("{0} = excluded.{0}", quoted(name))).collect();
        let skip = format!("ON CONFLICT ({target}) DO NOTHING");
        let replace = if sets.is_empty() {
            // A row that is nothing but its key is the same row.
            skip.clone()
        } else {
            format!("ON CONFLICT ({target}) DO UPDATE SET {}", sets.join(", "))
        };
        let is_given = |by: &String| {
            let mut columns = self.table.columns.iter().filter(|column| column.name == *by);
            columns.any(|one| self.place_now(one).is_some_and(|target| !target.is_generated))
        };
        Ok(match self.conflict {
            Conflict::Fail | Conflict::Absent => String::new(),
            Conflict::Skip => skip,
            Conflict::Overwrite => replace,
            Conflict::Newer(by) if !is_given(by) => {
                return Err(Error::new(ErrorKind::Invalid, code::USAGE, "compare rows")
                    .with("table", &self.table.name)
                    .with("column", by)
                    .why("it has no such column"));
            }
            Conflict::Newer(_) if sets.is_empty() => skip,
            Conflict::Newer(by) => {
                format!("{replace} WHERE excluded.{0} > there.{0}", quoted(by))
            }
        })
    }
}

/// The columns that the server numbers itself: rows are inserted with other values, and are never
/// given others. Source: PostgreSQL 18 documentation, 5.3, "Identity Columns"; UPDATE.
async fn fixed(client: &Client, table: &Table) -> Result<Vec<String>> {
    let query = "SELECT attname::text FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attidentity = 'a' AND NOT attisdropped";
    let rows = client.query(query, &[&table.name]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| row.try_get(0).map_err(|e| failed(e, STEP))).collect()
}

fn unfit(table: &Table, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP).with("table", &table.name).why(why)
}

#[async_trait]
impl PutBack for Return<'_> {
    async fn begin(
        &mut self,
        table: &Table,
        conflict: &Conflict,
        staging: Option<&str>,
    ) -> Result<String> {
        if self.begun.is_some() {
            return Err(Error::bug(STEP));
        }
        let names = self.transaction.usual_names();
        let into = (staging, staging.is_some() || self.made.contains(&table.name));
        let step = self.transaction.step()?;
        let with = (&mut self.passing, &self.watch);
        let done = prepare(step.client()?, with, &names, (table, conflict), into).await;
        let begun = self.begun.insert(step.end(done)?);
        let name = begun.target.table.clone();
        if staging.is_some() {
            self.made.push(name.clone());
        }
        Ok(name)
    }

    async fn follow(&mut self, table: &Table, followed: &Followed) -> Result<String> {
        let step = self.transaction.step()?;
        let is_parted = is_partitioned(step.client()?, &followed.parent).await;
        let is_parted = step.end(is_parted)?;
        let name = self.begin(table, &Conflict::Overwrite, None).await?;
        let begun = self.begun.as_mut().ok_or_else(|| Error::bug(STEP))?;
        begun.leave = Some(leave((table, &begun.now), followed, &begun.through, is_parted)?);
        Ok(name)
    }

    async fn rows(&mut self, rows: RowBatch) -> Result<()> {
        let begun = self.begun.as_mut().ok_or_else(|| Error::bug(STEP))?;
        // What the server would say of another number of columns says nothing of the file.
        let first = rows.rows().next().map_or(begun.columns, |row| values(row).count());
        if first != begun.columns {
            return Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, STEP)
                .with("columns of the table", begun.columns)
                .with("columns of the row", first));
        }
        let step = self.transaction.step()?;
        let sent = begun.rows.send(rows.bytes().clone()).await;
        step.end(sent.map_err(|e| failed(e, STEP)))
    }

    async fn end(&mut self) -> Result<PutBackTally> {
        let begun = self.begun.take().ok_or_else(|| Error::bug(STEP))?;
        let step = self.transaction.step()?;
        let done = bring(step.client()?, begun, &mut self.watch).await;
        step.end(done)
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        let Self { mut transaction, watch, begun, .. } = *self;
        if begun.is_some() {
            return Err(Error::bug(STEP));
        }
        let names = transaction.usual_names();
        let step = transaction.step()?;
        let done = conclude(step.client()?, &names, &watch).await;
        step.end(done)?;
        transaction.commit().await
    }
}

async fn bring(client: &Client, begun: Begun, watch: &mut Watch) -> Result<PutBackTally> {
    let Begun { target, rows, through, leave, insert, unlike, skip, .. } = begun;
    let Begun { changed, now, must_all, is_new, is_watched, .. } = begun;
    let table = &target.table;
    close(rows).await?;
    let not_put = |e| not_put(e, table, is_new);
    let left_behind = match &leave {
        Some(leave) => client.execute(leave, &[]).await.map_err(not_put)?,
        None => 0,
    };
    if let Some(query) = unlike {
        let row = client.query_one(&query, &[]).await.map_err(not_put)?;
        let rows: i64 = row.try_get(0).map_err(|e| failed(e, STEP))?;
        if rows > 0 {
            return Err(Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
                .with("table", table)
                .with("rows", rows)
                .why("they have another number in a column that is GENERATED ALWAYS AS IDENTITY")
                .next(format!("ALTER TABLE {table} ALTER COLUMN … SET GENERATED BY DEFAULT")));
        }
    }
    let taken_out = match &skip {
        Some(skip) => client.execute(skip, &[]).await.map_err(not_put)?,
        None => 0,
    };
    let row = client.query_one(&insert, &[]).await.map_err(not_put)?;
    client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
    let number = |at: usize| -> Result<u64> {
        let number = row.try_get::<_, i64>(at).map_err(|e| failed(e, STEP))?;
        u64::try_from(number).map_err(|_| Error::bug("count rows"))
    };
    let (inserted, replaced, all) = (number(0)?, number(1)?, number(2)?);
    let left = all.saturating_sub(inserted + replaced);
    if !is_new {
        watch.put_into(table);
    }
    if must_all && left != 0 {
        return Err(watch.differ(client, table, left).await?);
    }
    for (column, query) in &changed {
        let found = client.query_opt(query, &[]).await.map_err(not_put)?;
        if let Some(row) = found {
            return Err(column.refused(&now, &row));
        }
    }
    if is_watched {
        watch.keep(client, target, &through).await?;
    } else if !is_new && watch.is_needed(client).await? {
        // It may have acted on these rows, or on those before, which nobody kept.
        return Err(Error::new(ErrorKind::Busy, code::ROWS_DIFFER, STEP)
            .with("table", table)
            .why("a trigger, a rule or a foreign table was made meanwhile")
            .next("put them back again"));
    }
    Ok(PutBackTally { inserted, replaced, skipped: left_behind + taken_out + left })
}

/// Lets happen now what was put off until the end, and makes sure that the rows are those that were
/// handed over.
async fn conclude(client: &Client, names: &str, watch: &Watch) -> Result<()> {
    let set_names = format!("SELECT WHERE {names}");
    client.batch_execute(&set_names).await.map_err(|e| failed(e, STEP))?;
    let fired = client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
    fired.map_err(|e| match e.code() {
        Some(&SqlState::FOREIGN_KEY_VIOLATION) => dangling(e),
        _ => failed(e, "let deferred triggers and constraints act"),
    })?;
    client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
    watch.compare(client).await
}

/// What a server says of a type of which it makes no values of another one.
const NO_CAST: [SqlState; 3] =
    [SqlState::FEATURE_NOT_SUPPORTED, SqlState::DATATYPE_MISMATCH, SqlState::CANNOT_COERCE];

/// What is told where a table does not take rows; there is no other way for those that a table of
/// their own does not take.
fn not_put(cause: tokio_postgres::Error, table: &str, is_new: bool) -> Error {
    let aside = |error: Error| if is_new { error } else { error.next(ASIDE) };
    match cause.code() {
        Some(&SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION) => {
            aside(refused(cause, table))
        }
        Some(&SqlState::FOREIGN_KEY_VIOLATION) => dangling(cause).with("table", table),
        Some(code)
            if code.code().starts_with("22")
                || code.code().starts_with("23")
                || NO_CAST.contains(code) =>
        {
            let message = cause.as_db_error().map(|db| db.message().to_owned());
            let why = if is_new {
                "the columns do not admit the rows, although they have the types of then"
            } else {
                "the table as it is now does not admit the rows"
            };
            let error = Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                .with("table", table)
                .with("server", message.unwrap_or_default())
                .why(why)
                .caused_by(cause);
            if is_new { error } else { error.next(AS_THEN) }
        }
        _ => failed(cause, STEP),
    }
}

fn dangling(cause: tokio_postgres::Error) -> Error {
    Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
        .why("they refer to rows that are not there")
        .next("put those back first; if they were, a trigger keeps them out of their table")
        .next(ASIDE)
        .caused_by(cause)
}

fn refused(cause: tokio_postgres::Error, table: &str) -> Error {
    let detail = cause.as_db_error().and_then(|db| db.detail()).unwrap_or_default().to_owned();
    Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
        .with("table", table)
        .with("key", detail)
        .why("a row that has the same key, or the same unique values, is there")
        .next("--on-conflict skip keeps those that are there, overwrite replaces them")
        .caused_by(cause)
}
