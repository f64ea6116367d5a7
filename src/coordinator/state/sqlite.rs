//! State in a SQLite file: for one coordinator.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, config::DbConfig, types};
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};
use tokio::sync::{Mutex, MutexGuard, oneshot};

use super::database::{Database, Row, Transaction, Value};

const STEP: &str = "use the state database";

/// How long somebody else's transaction is waited for, in milliseconds.
const BUSY_MS: u32 = 10_000;

/// Statements that are kept ready: more than there are.
const STATEMENTS_MAX: usize = 128;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// How often, and after which pauses, a file is prepared that others prepare at the same time.
const PREPARE_TRIES: u32 = 100;
const PREPARE_PAUSE: Duration = Duration::from_millis(50);

/// A file, and the thread that alone touches it.
#[derive(Debug)]
pub struct SqliteState {
    jobs: mpsc::Sender<Job>,
    clock: Arc<dyn Clock>,
    /// Whoever has it has the only transaction of this process.
    turn: Mutex<()>,
}

impl SqliteState {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    ///
    /// What keeps it from being opened.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut connection =
            Connection::open(path).map_err(|e| failed(&e).with("file", path.display()))?;
        // A commit that was acknowledged outlives a loss of power: jobs are never run twice.
        let prepare = || {
            connection
                .pragma_update(None, "busy_timeout", BUSY_MS)
                .and_then(|()| connection.pragma_update(None, "journal_mode", "wal"))
                .and_then(|()| connection.pragma_update(None, "synchronous", "full"))
        };
        // Whoever makes a new file at the same time is not waited for by SQLite itself.
        let mut tries = 0;
        loop {
            match prepare() {
                Err(error) if tries < PREPARE_TRIES && is_busy(&error) => {
                    tries += 1;
                    thread::sleep(PREPARE_PAUSE);
                }
                prepared => break prepared.map_err(|e| failed(&e).with("file", path.display()))?,
            }
        }
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        // Otherwise statements are prepared anew whenever other values are bound.
        let stable = DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG;
        connection.set_db_config(stable, true).map_err(|error| failed(&error))?;
        let (jobs, work) = mpsc::channel::<Job>();
        let serve = move || work.into_iter().for_each(|job| job(&mut connection));
        let thread = thread::Builder::new().name("state".to_owned()).spawn(serve);
        thread.map_err(|cause| Error::bug(STEP).caused_by(cause))?;
        Ok(Self { jobs, clock, turn: Mutex::new(()) })
    }

    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever asked may be gone.
            drop(tell.send(job(connection)));
        });
        self.jobs.send(job).map_err(|_| Error::bug(STEP))?;
        let answer = answer.await.map_err(|cause| Error::bug(STEP).caused_by(cause))?;
        answer.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl Database for SqliteState {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        let turn = self.turn.lock().await;
        let mut open = Open { state: self, _turn: turn, is_begun: true, now: 0 };
        self.ask(|connection| connection.execute_batch("BEGIN IMMEDIATE")).await?;
        open.now = self.clock.now().timestamp_micros();
        Ok(Box::new(open))
    }
}

struct Open<'a> {
    state: &'a SqliteState,
    _turn: MutexGuard<'a, ()>,
    is_begun: bool,
    now: i64,
}

#[async_trait]
impl Transaction for Open<'_> {
    fn now(&self) -> i64 {
        self.now
    }

    async fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        let values: Vec<types::Value> = values.iter().map(stored).collect();
        let run = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let columns = statement.column_count();
            let read = |row: &rusqlite::Row<'_>| {
                (0..columns).map(|column| row.get_ref(column).map(loaded)).collect()
            };
            let rows = statement.query_map(rusqlite::params_from_iter(values), read)?;
            rows.map(|row| row.map(Row)).collect::<rusqlite::Result<Vec<_>>>()
        };
        self.state.ask(run).await
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        let done = self.state.ask(|connection| connection.execute_batch("COMMIT")).await;
        self.is_begun = done.is_err();
        done
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.is_begun {
            // In its turn: before whoever begins next.
            let end: Job = Box::new(|connection| {
                if !connection.is_autocommit() {
                    drop(connection.execute_batch("ROLLBACK"));
                }
            });
            drop(self.state.jobs.send(end));
        }
    }
}

fn stored(value: &Value) -> types::Value {
    match value {
        Value::Null => types::Value::Null,
        Value::Number(number) => types::Value::Integer(*number),
        Value::Text(text) => types::Value::Text(text.clone()),
    }
}

fn loaded(value: types::ValueRef<'_>) -> Value {
    match value {
        types::ValueRef::Integer(number) => Value::Number(number),
        types::ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        _ => Value::Null,
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};

    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

fn failed(error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DiskFull, NotADatabase};
    let kind = match error.sqlite_error_code() {
        Some(DatabaseBusy) => ErrorKind::Busy,
        Some(DatabaseCorrupt | NotADatabase) => ErrorKind::Corrupt,
        Some(DiskFull) => ErrorKind::Exhausted,
        _ => ErrorKind::Config,
    };
    let error = Error::new(kind, code::STATE, STEP).caused_by(error.to_string());
    match kind {
        ErrorKind::Corrupt => error
            .why("it is only a queue and a cache: no backup depends on it")
            .next("move the file away; what the repositories hold is read from them again"),
        _ => error,
    }
}
