//! The ledger of what was deleted: a table beside the others, so that it goes back with them when
//! the database does.

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, LedgerEntry, Result, code};
use tokio_postgres::{Client, Row, error::SqlState};

use super::failure::failed;

pub(super) const LEDGER: &str = "stillpoint.archive_ledger";
const STEP: &str = "use the ledger";

/// Whether there is one.
pub(super) async fn is_there(client: &Client) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n
        ON n.oid = c.relnamespace WHERE n.nspname = 'stillpoint' AND c.relname = 'archive_ledger')";
    let row = client.query_one(query, &[]).await.map_err(|e| failed(e, STEP))?;
    row.try_get(0).map_err(|e| failed(e, STEP))
}

/// Makes it if there is none.
pub(super) async fn open(client: &Client) -> Result<()> {
    let made = async {
        if is_there(client).await? {
            return Ok(None);
        }
        let query = "SELECT FROM pg_namespace WHERE nspname = 'stillpoint'";
        let schema = client.query_opt(query, &[]).await.map_err(|e| failed(e, STEP))?;
        // Whoever may not make schemas may use one that is there.
        let schema = if schema.is_none() { "CREATE SCHEMA stillpoint;" } else { "" };
        let make = format!(
            "BEGIN; {schema} CREATE TABLE {LEDGER} (
                set_name text NOT NULL, run text NOT NULL, batch int4 NOT NULL,
                slice int4 NOT NULL, rows int8 NOT NULL, hash text NOT NULL,
                at timestamptz NOT NULL DEFAULT clock_timestamp(),
                position text, PRIMARY KEY (set_name, run, batch, slice)); COMMIT"
        );
        Ok(client.batch_execute(&make).await.err())
    };
    let Some(cause) = made.await? else { return read(client, "").await.map(drop) };
    client.batch_execute("ROLLBACK").await.map_err(|e| failed(e, STEP))?;
    // Somebody else made it at the same time.
    if is_there(client).await? {
        return Ok(());
    }
    let error = failed(cause, "make the ledger");
    Err(match error.kind() {
        ErrorKind::Denied => error.next(
            "CREATE SCHEMA stillpoint; GRANT USAGE, CREATE ON SCHEMA stillpoint TO …, as a role \
             that may create schemas",
        ),
        _ => error,
    })
}

/// What it says of a set.
pub(super) async fn read(client: &Client, set: &str) -> Result<Vec<LedgerEntry>> {
    if !is_there(client).await? {
        return Ok(Vec::new());
    }
    let query = format!(
        "SELECT set_name, run, batch, slice, rows, hash, at, position,
            (extract(epoch FROM at) * 1000000)::int8
         FROM {LEDGER} WHERE set_name = $1 ORDER BY run COLLATE \"C\", batch, slice"
    );
    let rows = client.query(&query, &[&set]).await.map_err(foreign)?;
    rows.iter().map(|row| entry(row).map_err(foreign)).collect()
}

fn entry(row: &Row) -> std::result::Result<LedgerEntry, tokio_postgres::Error> {
    let number = |at: usize| row.try_get::<_, i32>(at).map(i32::cast_unsigned);
    Ok(LedgerEntry {
        set: row.try_get(0)?,
        run: row.try_get(1)?,
        batch: number(2)?,
        slice: number(3)?,
        rows: row.try_get::<_, i64>(4)?.cast_unsigned(),
        hash: row.try_get(5)?,
        at: DateTime::<Utc>::from_timestamp_micros(row.try_get(8)?),
        position: row.try_get(7)?,
    })
}

fn foreign(cause: tokio_postgres::Error) -> Error {
    match cause.code() {
        Some(&SqlState::UNDEFINED_COLUMN | &SqlState::WRONG_OBJECT_TYPE) | None => {
            Error::new(ErrorKind::Refused, code::LEDGER, STEP)
                .with("table", LEDGER)
                .why("it is not the table that Stillpoint made")
                .caused_by(cause)
        }
        _ => failed(cause, STEP),
    }
}

/// Adds an entry.
pub(super) async fn note(client: &Client, entry: &LedgerEntry) -> Result<()> {
    let statement = format!(
        "INSERT INTO {LEDGER} (set_name, run, batch, slice, rows, hash, at, position)
         VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), pg_current_wal_insert_lsn()::text)"
    );
    let rows = i64::try_from(entry.rows).map_err(|_| Error::bug("count rows"))?;
    let (batch, slice) = numbers(entry)?;
    let noted = client
        .execute(&statement, &[&entry.set, &entry.run, &batch, &slice, &rows, &entry.hash])
        .await;
    match noted {
        Ok(_) => Ok(()),
        Err(e) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            Err(told(entry, "the slice has an entry already").caused_by(e))
        }
        Err(e) => Err(failed(e, STEP)),
    }
}

/// Removes an entry.
pub(super) async fn strike(client: &Client, entry: &LedgerEntry) -> Result<()> {
    let statement = format!(
        "DELETE FROM {LEDGER} WHERE set_name = $1 AND run = $2 AND batch = $3 AND slice = $4"
    );
    let (batch, slice) = numbers(entry)?;
    let struck = client.execute(&statement, &[&entry.set, &entry.run, &batch, &slice]).await;
    match struck.map_err(|e| failed(e, STEP))? {
        1 => Ok(()),
        _ => Err(told(entry, "the ledger has no such entry")),
    }
}

fn numbers(entry: &LedgerEntry) -> Result<(i32, i32)> {
    let number = |n: u32| i32::try_from(n).map_err(|_| Error::bug("count slices"));
    Ok((number(entry.batch)?, number(entry.slice)?))
}

fn told(entry: &LedgerEntry, why: &'static str) -> Error {
    Error::new(ErrorKind::Refused, code::LEDGER, STEP)
        .with("set", &entry.set)
        .with("run", &entry.run)
        .with("slice", format!("{}/{}", entry.batch, entry.slice))
        .why(why)
}
