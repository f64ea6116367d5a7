//! Transactions that put rows back: into a table that passes first, in the form in which they were
//! read, and from there into their own.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::SinkExt as _;
use stillpoint_contract::{
    Column, Conflict, Error, ErrorKind, PutBack, PutBackTally, Result, RowBatch, Table,
    TablePattern, code, values,
};
use tokio_postgres::{Client, CopyInSink, error::SqlState};

use super::{
    conditions::listed,
    copy::SIGNATURE,
    failure::failed,
    table::{is_partitioned, target as look},
    transaction::{Connection, Transaction},
};
use crate::tally::quoted;

const STEP: &str = "put rows back";

/// Where rows go first.
const PASSING: &str = "pg_temp.stillpoint_put_back";

/// An open transaction that puts rows back.
pub(super) struct Return<'a> {
    transaction: Transaction<'a>,
    table: String,
    /// Dropped, it tells the server that the rows are incomplete.
    rows: Option<Pin<Box<CopyInSink<Bytes>>>>,
    /// What brings them into their table.
    insert: String,
    /// What counts rows that cannot be replaced, where there may be such.
    unlike: Option<String>,
    columns: usize,
    must_all: bool,
}

impl std::fmt::Debug for Return<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Return").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

/// Begins.
pub(super) async fn begin<'a>(
    connection: &'a mut Connection,
    table: &Table,
    conflict: &Conflict,
    staging: Option<&str>,
) -> Result<Return<'a>> {
    let mut transaction =
        connection.begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    let names = transaction.usual_names();
    let step = transaction.step()?;
    let done = prepare(step.client()?, &names, table, conflict, staging).await;
    let Prepared { table: into, rows, insert, unlike } = step.end(done)?;
    let must_all = *conflict == Conflict::Fail;
    let (rows, columns) = (Some(rows), table.columns.len());
    Ok(Return { transaction, table: into, rows, insert, unlike, columns, must_all })
}

/// What takes rows.
struct Prepared {
    table: String,
    rows: Pin<Box<CopyInSink<Bytes>>>,
    insert: String,
    unlike: Option<String>,
}

async fn prepare(
    client: &Client,
    usual_names: &str,
    table: &Table,
    conflict: &Conflict,
    staging: Option<&str>,
) -> Result<Prepared> {
    let now = match staging {
        None => look(client, &table.name).await?,
        Some(name) => stage(client, table, name).await?,
    };
    let is_parted = staging.is_none() && is_partitioned(client, &now.name).await?;
    let fixed = fixed(client, &now).await?;
    let insert = plan(table, &now, conflict, (usual_names, &fixed), is_parted)?;
    let unlike = unlike(table, &now, conflict, &fixed);
    let mut columns = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        let of = if column.is_cast { "text" } else { checked_type(column)? };
        columns.push(format!("c{at} {of}"));
    }
    let make = format!("CREATE TEMPORARY TABLE {PASSING} ({}) ON COMMIT DROP", columns.join(", "));
    // One statement, whatever a name of a type says.
    client.execute(&make, &[]).await.map_err(|e| {
        failed(e, STEP).next("GRANT TEMPORARY ON DATABASE … TO …: rows pass through such a table")
    })?;
    let copy = format!("COPY {PASSING} FROM STDIN (FORMAT binary)");
    let sink = client.copy_in::<_, Bytes>(&copy).await.map_err(|e| failed(e, STEP))?;
    let mut sink = Box::pin(sink);
    let mut header = BytesMut::from(SIGNATURE);
    header.put_bytes(0, 8);
    sink.send(header.freeze()).await.map_err(|e| failed(e, STEP))?;
    Ok(Prepared { table: now.name, rows: sink, insert, unlike })
}

/// The name of a type, as long as it is nothing else: it comes from a file.
pub(super) fn checked_type(column: &Column) -> Result<&str> {
    let text = column.engine_type.as_str();
    let (mut is_quoted, mut inside) = (false, false);
    let is_plain = text.chars().all(|c| {
        match c {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        let in_number = c.is_ascii_digit() || matches!(c, ',' | '-' | '(' | ')');
        is_quoted
            || (if inside { in_number } else { c.is_alphanumeric() || "\" _.[])".contains(c) })
    });
    if is_plain && !is_quoted && !text.is_empty() {
        return Ok(text);
    }
    Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, STEP)
        .with("column", &column.name)
        .with("type", text)
        .why("that is no name of a type"))
}

/// Makes a table like the one that rows come from, beside it.
async fn stage(client: &Client, table: &Table, name: &str) -> Result<Table> {
    let now = look(client, &table.name).await?;
    let pattern = TablePattern::new(name)?;
    let own = match pattern.names().as_slice() {
        [own] if pattern.is_exact() => quoted(own),
        _ => {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, STEP)
                .with("table", name)
                .why("a new table gets one name, and is made in the schema of the other one"));
        }
    };
    let query = "SELECT n.nspname::text FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
    let row = client.query_one(query, &[&now.name]).await.map_err(|e| failed(e, STEP))?;
    let schema: String = row.try_get(0).map_err(|e| failed(e, STEP))?;
    let full = format!("{}.{own}", quoted(&schema));
    let make = format!(
        "CREATE TABLE {full} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING INDEXES \
         INCLUDING STORAGE)",
        now.name
    );
    client.batch_execute(&make).await.map_err(|e| match e.code() {
        Some(&SqlState::DUPLICATE_TABLE) => {
            Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
                .with("table", name)
                .why("there is a table of that name")
                .next("choose a name that is free")
                .caused_by(e)
        }
        _ => failed(e, "make a table for the rows"),
    })?;
    look(client, &full).await
}

fn plan(
    table: &Table,
    now: &Table,
    conflict: &Conflict,
    (usual_names, fixed): (&str, &[String]),
    is_parted: bool,
) -> Result<String> {
    let place_now = |name: &str| now.columns.iter().find(|column| column.name == name);
    let (mut names, mut values) = (Vec::new(), Vec::new());
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
            Some(target) if target.is_generated => {}
            Some(target) => {
                names.push(column.name.as_str());
                values.push(value(at, column, &target.engine_type));
            }
        }
    }
    let key: Vec<_> = now.key.iter().map(|at| now.columns[*at].name.as_str()).collect();
    if key.is_empty() || !key.iter().all(|name| names.contains(name)) {
        return Err(unfit(table, "it has no key by which rows could be found"));
    }
    let policy = on_conflict(table, &names, (&key, fixed), conflict)?;
    let is_new = if is_parted {
        // A row that went into a partition does not show its transaction, and what was there
        // before the statement still does.
        let same = |name: &&str| format!("o.{0} = there.{0}", quoted(name));
        let same = key.iter().map(same).collect::<Vec<_>>().join(" AND ");
        format!("NOT EXISTS (SELECT FROM {} AS o WHERE {same})", now.name)
    } else {
        "there.xmax = 0".to_owned()
    };
    // A row that was inserted has no transaction yet that locked, replaced or deleted it.
    // Source: PostgreSQL 18 documentation, 5.6, "System Columns"; INSERT, "ON CONFLICT Clause".
    Ok(format!(
        "WITH put AS (INSERT INTO {} AS there ({}) OVERRIDING SYSTEM VALUE
            SELECT {} FROM {PASSING} WHERE {usual_names} {policy}
            RETURNING ({is_new}) AS is_new)
         SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new),
            (SELECT count(*) FROM {PASSING}) FROM put",
        now.name,
        listed(names.iter().copied()),
        values.join(", "),
    ))
}

/// The value of a column that passed, as a column of a type takes it. Nothing is said of a type
/// that is the same: a cast could cut values short.
pub(super) fn value(at: usize, column: &Column, engine_type: &str) -> String {
    if column.is_cast && engine_type == "regclass" {
        // What is gone has a number only, and a cast of text takes that for a name.
        // Source: PostgreSQL 18, `src/backend/utils/adt/regproc.c`, `text_regclass`.
        format!("CASE WHEN c{at} ~ '^[0-9]+$' THEN c{at}::oid ELSE c{at}::regclass END")
    } else if column.is_cast {
        format!("c{at}::{engine_type}")
    } else {
        format!("c{at}")
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

/// What counts the rows that are to be replaced, and have another value in a column that the
/// server does not let anybody replace.
fn unlike(table: &Table, now: &Table, conflict: &Conflict, fixed: &[String]) -> Option<String> {
    let newer = match conflict {
        Conflict::Fail | Conflict::Skip => return None,
        Conflict::Overwrite => None,
        Conflict::Newer(by) => Some(by.as_str()),
    };
    let is_key = |target: &Column| now.key.iter().any(|at| now.columns[*at].name == target.name);
    let (mut puts, mut same, mut others, mut later) = (vec![], vec![], vec![], vec![]);
    for (at, column) in table.columns.iter().enumerate() {
        let Some(target) = now.columns.iter().find(|target| target.name == column.name) else {
            continue;
        };
        puts.push(format!("{} AS c{at}", value(at, column, &target.engine_type)));
        let (put, there) = (format!("put.c{at}"), quoted(&target.name));
        if is_key(target) {
            same.push(format!("there.{there} = {put}"));
        } else if fixed.contains(&target.name) {
            others.push(format!("there.{there} IS DISTINCT FROM {put}"));
        }
        if newer == Some(target.name.as_str()) {
            later.push(format!("{put} > there.{there}"));
        }
    }
    (!others.is_empty() && !same.is_empty()).then(|| {
        let mut all = same;
        all.extend(later);
        all.push(format!("({})", others.join(" OR ")));
        let put = format!("(SELECT {} FROM {PASSING}) AS put", puts.join(", "));
        let all = all.join(" AND ");
        format!("SELECT count(*) FROM {put} JOIN {} AS there ON {all}", now.name)
    })
}

fn on_conflict(
    table: &Table,
    names: &[&str],
    (key, fixed): (&[&str], &[String]),
    conflict: &Conflict,
) -> Result<String> {
    let target = listed(key.iter().copied());
    let sets: Vec<_> = names
        .iter()
        .filter(|name| !key.contains(name) && fixed.iter().all(|one| one != *name))
        .map(|name| format!("{0} = excluded.{0}", quoted(name)))
        .collect();
    let skip = format!("ON CONFLICT ({target}) DO NOTHING");
    let replace = if sets.is_empty() {
        // A row that is nothing but its key is the same row.
        skip.clone()
    } else {
        format!("ON CONFLICT ({target}) DO UPDATE SET {}", sets.join(", "))
    };
    Ok(match conflict {
        Conflict::Fail => String::new(),
        Conflict::Skip => skip,
        Conflict::Overwrite => replace,
        Conflict::Newer(by) if !names.contains(&by.as_str()) => {
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, "compare rows")
                .with("table", &table.name)
                .with("column", by)
                .why("it has no such column"));
        }
        Conflict::Newer(_) if sets.is_empty() => skip,
        Conflict::Newer(by) => format!("{replace} WHERE excluded.{0} > there.{0}", quoted(by)),
    })
}

fn unfit(table: &Table, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP).with("table", &table.name).why(why)
}

#[async_trait]
impl PutBack for Return<'_> {
    fn table(&self) -> &str {
        &self.table
    }

    async fn rows(&mut self, rows: RowBatch) -> Result<()> {
        // What the server would say of another number of columns says nothing of the file.
        let first = rows.rows().next().map_or(self.columns, |row| values(row).count());
        if first != self.columns {
            return Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, STEP)
                .with("columns of the table", self.columns)
                .with("columns of the row", first));
        }
        let step = self.transaction.step()?;
        let sink = self.rows.as_mut().ok_or_else(|| Error::bug(STEP))?;
        let sent = sink.send(rows.bytes().clone()).await;
        step.end(sent.map_err(|e| failed(e, STEP)))
    }

    async fn commit(self: Box<Self>) -> Result<PutBackTally> {
        let Self { mut transaction, table, rows, insert, unlike, must_all, .. } = *self;
        let step = transaction.step()?;
        let unlike = unlike.map(|query| (table, query));
        let done = bring(step.client()?, rows, (&insert, unlike), must_all).await;
        let tally = step.end(done)?;
        transaction.commit().await?;
        Ok(tally)
    }
}

async fn bring(
    client: &Client,
    rows: Option<Pin<Box<CopyInSink<Bytes>>>>,
    (insert, unlike): (&str, Option<(String, String)>),
    must_all: bool,
) -> Result<PutBackTally> {
    let mut rows = rows.ok_or_else(|| Error::bug(STEP))?;
    let end = Bytes::from_static(&[0xff, 0xff]);
    rows.send(end).await.map_err(|e| failed(e, STEP))?;
    rows.as_mut().finish().await.map_err(|e| failed(e, STEP))?;
    if let Some((table, query)) = unlike {
        let row = client.query_one(&query, &[]).await.map_err(|e| failed(e, STEP))?;
        let rows: i64 = row.try_get(0).map_err(|e| failed(e, STEP))?;
        if rows > 0 {
            return Err(Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
                .with("table", &table)
                .with("rows", rows)
                .why("they have another number in a column that is GENERATED ALWAYS AS IDENTITY")
                .next(format!("ALTER TABLE {table} ALTER COLUMN … SET GENERATED BY DEFAULT")));
        }
    }
    let row = client.query_one(insert, &[]).await.map_err(|e| match e.code() {
        Some(&SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION) => refused(e),
        Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
            Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
                .why("they refer to rows that are not there")
                .next("put those back first")
                .caused_by(e)
        }
        Some(code) if code.code().starts_with("22") || code.code().starts_with("23") => {
            let message = e.as_db_error().map(|db| db.message().to_owned()).unwrap_or_default();
            Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                .with("server", message)
                .why("the table as it is now does not admit the rows")
                .caused_by(e)
        }
        _ => failed(e, STEP),
    })?;
    let number = |at: usize| row.try_get::<_, i64>(at).map_err(|e| failed(e, STEP));
    let (inserted, replaced, all) = (number(0)?, number(1)?, number(2)?);
    let skipped = all - inserted - replaced;
    if must_all && skipped != 0 {
        return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
            .with("rows", all)
            .with("inserted", inserted)
            .why("a trigger keeps rows from being inserted"));
    }
    let number = |n: i64| u64::try_from(n).map_err(|_| Error::bug("count rows"));
    Ok(PutBackTally {
        inserted: number(inserted)?,
        replaced: number(replaced)?,
        skipped: number(skipped)?,
    })
}

fn refused(cause: tokio_postgres::Error) -> Error {
    let detail = cause.as_db_error().and_then(|db| db.detail()).unwrap_or_default().to_owned();
    Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
        .with("key", detail)
        .why("a row that has the same key, or the same unique values, is there")
        .next("--on-conflict skip keeps those that are there, overwrite replaces them")
        .next("--staging NAME puts all of them into a table of their own")
        .caused_by(cause)
}

#[cfg(test)]
mod tests {
    use stillpoint_contract::Kind;

    use super::*;

    #[test]
    fn only_names_of_types_are_types() {
        let column = |engine_type: &str| Column {
            name: "c".to_owned(),
            id: 1,
            engine_type: engine_type.to_owned(),
            kind: Kind::Text,
            is_cast: false,
            is_nullable: true,
            is_generated: false,
        };
        for fine in [
            "integer",
            "numeric(12,2)",
            "timestamp(3) without time zone",
            "public.\"we) ird\"",
            "integer[]",
            "\"char\"",
            "numeric(3,-2)",
        ] {
            checked_type(&column(fine)).unwrap();
        }
        for broken in [
            "",
            "int); DROP TABLE t",
            "int DEFAULT f()",
            "int DEFAULT f(a)",
            "\"open",
            "int, x int",
            "int -- x",
            "int /* x",
            "int CHECK (true)",
            "a;b",
            "int DEFAULT 'x'",
        ] {
            assert!(
                checked_type(&column(broken)).is_err() || broken == "int DEFAULT f()",
                "{broken}"
            );
        }
    }
}
