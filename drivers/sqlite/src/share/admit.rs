//! The file that an application uses: whether it takes tables, and how it is opened for that.

use std::{sync::Arc, thread, time::Duration};

use rusqlite::{Connection, ErrorCode};
use stillpoint_contract::{
    Clock, Error, ErrorKind, Result, Share, ShareRequest, TablePattern, code,
};

use super::{
    choose::is_meant,
    remains::{self, is_passing},
};
use crate::{config::Config, connect::Database, error, snapshot::blocking, version};

const STEP: &str = "look at the live database";

/// How often a lock is waited for again, each time as long as the settings say.
const TRIES_MAX: u32 = 12;

/// What is left to others between two transactions of ours.
const PAUSE: Duration = Duration::from_millis(1);

/// Settings of a connection that writes. Written means synced; other clients copy the log back
/// from time to time, and so do we.
const SETTINGS: &str = "
    PRAGMA query_only = OFF; PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = OFF;
    PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 1000";

/// Looks at the live file before anything is restored.
pub(crate) async fn admit(request: &ShareRequest<'_>, clock: &Arc<dyn Clock>) -> Result<()> {
    refuse_databases(request)?;
    let database = Database::locate(Config::new(request.into)?, Arc::clone(clock))?;
    let name = request.name.map(chosen).transpose()?;
    let compared = match request.share {
        Share::Tables(patterns) if request.compares => match patterns.as_slice() {
            [one] if one.is_exact() => Some(one.clone()),
            _ => None,
        },
        _ => None,
    };
    blocking(move || {
        let live = open(&database)?;
        let failed = |e| error::sqlite(e, STEP, &database.path);
        if let Some(pattern) = compared
            && !all(&live).map_err(failed)?.iter().any(|name| is_meant(&pattern, name))
        {
            return Err(not_there(&pattern.to_string()));
        }
        if let Some(name) = name
            && is_taken(&live, &name).map_err(failed)?
        {
            return Err(taken(&name));
        }
        Database::close(live);
        Ok(())
    })
    .await
}

/// The names of its tables.
fn all(live: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = live.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    query.query_map([], |row| row.get(0))?.collect()
}

/// The error for a table that only the copy has.
pub(super) fn not_there(table: &str) -> Error {
    Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP)
        .with("table", table)
        .why("the live database has no table of this name to compare with")
        .next(stillpoint_contract::without_compare(table))
}

/// Removes what killed ones left in the live file.
pub(crate) async fn sweep(
    request: &ShareRequest<'_>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<String>> {
    let database = Database::locate(Config::new(request.into)?, Arc::clone(clock))?;
    blocking(move || {
        let live = open(&database)?;
        let removed = remains::sweep(&live).map_err(|e| error::sqlite(e, STEP, &database.path))?;
        Database::close(live);
        Ok(removed)
    })
    .await
}

/// Refuses what a file cannot have.
pub(super) fn refuse_databases(request: &ShareRequest<'_>) -> Result<()> {
    if *request.share != Share::Database && request.database.is_none() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, code::USAGE, "restore one of several databases")
        .why("a SQLite file holds one database")
        .next("tables of it: --table TABLE --into sqlite:PATH")
        .next("all of it, into a new file: --to PATH"))
}

/// A name that a person chose.
pub(super) fn chosen(name: &str) -> Result<String> {
    let pattern = TablePattern::new(name)?;
    let names = pattern.names();
    let own = match names.as_slice() {
        [own] | ["main", own] if pattern.is_exact() => *own,
        _ => "sqlite_",
    };
    if own.to_lowercase().starts_with("sqlite_") || is_passing(own) {
        return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "use the new name")
            .with("given", name)
            .why("it is no name that a table can have")
            .next("--as NAME"));
    }
    Ok(own.to_owned())
}

/// Opens the live file to write.
pub(super) fn open(database: &Database) -> Result<Connection> {
    database.check_identity()?;
    let live = database.open_writable()?;
    version::check()?;
    live.execute_batch(SETTINGS).map_err(|e| error::sqlite(e, STEP, &database.path))?;
    Ok(live)
}

/// Whether something has a name.
pub(super) fn is_taken(live: &Connection, name: &str) -> rusqlite::Result<bool> {
    let query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
    live.query_row(query, [name], |row| row.get(0))
}

/// The error for a name that is not free.
pub(super) fn taken(name: &str) -> Error {
    Error::new(ErrorKind::Refused, code::TARGET_EXISTS, "bring a table back")
        .with("name", name)
        .why("something has this name in the live database already; nothing was changed")
        .next("choose a name that is free: --as NAME")
}

/// Does something in one short transaction. Others that hold the lock are waited for.
pub(super) fn transaction<T>(
    (live, database): (&Connection, &Database),
    mut work: impl FnMut(&Connection) -> Result<T>,
) -> Result<T> {
    let failed = |e| error::sqlite(e, "write into the live database", &database.path);
    let mut tries = 1;
    let clock = &database.clock;
    while let Err(e) = live.execute_batch("BEGIN IMMEDIATE") {
        if e.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || tries == TRIES_MAX {
            return Err(failed(e));
        }
        tries += 1;
    }
    let begun = clock.elapsed();
    let done = work(live);
    let ended = match &done {
        Ok(_) => commit(live).map_err(failed),
        Err(_) => Ok(()),
    };
    if (done.is_err() || ended.is_err()) && !live.is_autocommit() {
        drop(live.execute_batch("ROLLBACK"));
    }
    // Whoever sleeps between tries finds the lock free at least half of the time.
    thread::sleep(PAUSE.max(clock.elapsed().saturating_sub(begun)));
    ended.and(done)
}

/// With a rollback journal, readers are waited for once more.
fn commit(live: &Connection) -> rusqlite::Result<()> {
    let mut tries = 1;
    loop {
        match live.execute_batch("COMMIT") {
            Err(e)
                if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && tries < TRIES_MAX =>
            {
                tries += 1;
            }
            done => return done,
        }
    }
}
