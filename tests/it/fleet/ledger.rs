//! A state database in memory that answers at once, breaks as planned, and is looked at after
//! every commit.

use std::{
    fmt,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use rusqlite::{Connection, ToSql, backup::Backup, config::DbConfig, types};
use stillpoint::{
    coordinator::state::{Database, Row, Transaction, Value},
    repository::store::Dice,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::Notify;

use super::{bounds::Bounds, time::Time};

/// Statements that are kept ready.
const STATEMENTS_MAX: usize = 128;

/// Whoever was not heard of for longer was not awake.
const AWAKE_GAP_MAX: TimeDelta = TimeDelta::minutes(6);

/// How statements begin that change jobs, and caps.
const JOBS: [&str; 4] = ["UPDATE job", "INSERT INTO job", "DELETE FROM job", "CREATE TABLE job"];
const CAPS: [&str; 2] = ["INSERT INTO cap", "DELETE FROM cap"];

/// What all coordinators share.
pub(super) struct Ledger {
    time: Arc<Time>,
    connection: Mutex<Connection>,
    /// What a standby knows, which lags behind.
    standby: Mutex<Option<Connection>>,
    wrong: Mutex<Option<String>>,
    commits: AtomicU64,
    bounds: Mutex<Bounds>,
    /// Every so many commits, and each day, everything is looked at.
    look_every: u64,
    looked: Mutex<Option<NaiveDate>>,
    turn: tokio::sync::Mutex<()>,
    /// When somebody was at work: idle coordinators renew their leases all the time.
    awake: Mutex<Vec<(DateTime<Utc>, DateTime<Utc>)>>,
}

/// The way of one coordinator to it.
pub(super) struct Line {
    ledger: Arc<Ledger>,
    dice: Dice,
    /// Of 256 commits, so many answers are lost.
    lost: u8,
    /// After so many more calls the process dies; negative, never.
    calls_left: AtomicI64,
    calls: AtomicU64,
    died: Notify,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Ledger {
    pub(super) fn new(time: &Arc<Time>, look_every: u64) -> Arc<Self> {
        let connection = Connection::open_in_memory().unwrap();
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).unwrap();
        connection.execute_batch("PRAGMA temp_store = MEMORY").unwrap();
        Arc::new(Self {
            time: Arc::clone(time),
            connection: Mutex::new(connection),
            standby: Mutex::new(None),
            wrong: Mutex::new(None),
            commits: AtomicU64::new(0),
            bounds: Mutex::default(),
            look_every,
            looked: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            awake: Mutex::default(),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap()
    }

    /// The first thing that was ever wrong.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Fails over to a standby that lags a second behind.
    pub(super) async fn fail_over(&self) {
        let seen = {
            let _turn = self.turn.lock().await;
            let mut standby = Connection::open_in_memory().unwrap();
            copy(&self.connection(), &mut standby);
            standby
        };
        *self.standby.lock().unwrap() = Some(seen);
        self.time.sleep(Duration::from_secs(1)).await;
        let _turn = self.turn.lock().await;
        let seen = self.standby.lock().unwrap().take().unwrap();
        copy(&seen, &mut self.connection());
        let (mut bounds, connection) = (self.bounds.lock().unwrap(), self.connection());
        self.judge(bounds.all(&connection, true));
    }

    /// When somebody was at work.
    pub(super) fn awake(&self, end: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let mut awake = self.awake.lock().unwrap().clone();
        if let Some(last) = awake.last_mut().filter(|last| end - last.1 < AWAKE_GAP_MAX) {
            last.1 = end;
        }
        awake
    }

    fn note_awake(&self) {
        let now = self.time.now();
        let mut awake = self.awake.lock().unwrap();
        match awake.last_mut() {
            Some(last) if now - last.1 < AWAKE_GAP_MAX => last.1 = now,
            _ => awake.push((now, now)),
        }
    }

    /// Looks at what a commit changed, and, at other times, at everything.
    fn look(&self, has_caps: bool) {
        let commits = self.commits.fetch_add(1, Ordering::Relaxed);
        let day = self.time.now().date_naive();
        let is_new_day = self.looked.lock().unwrap().replace(day) != Some(day);
        let is_due = is_new_day || has_caps || commits.is_multiple_of(self.look_every);
        let (mut bounds, connection) = (self.bounds.lock().unwrap(), self.connection());
        bounds.note(&connection);
        let changed = bounds.changed(&connection);
        let all = if is_due { bounds.all(&connection, false) } else { None };
        self.judge(changed.or(all));
    }

    /// Looks at everything.
    pub(super) fn look_at_all(&self) {
        let (mut bounds, connection) = (self.bounds.lock().unwrap(), self.connection());
        self.judge(bounds.all(&connection, false));
    }

    fn judge(&self, wrong: Option<String>) {
        if let Some(wrong) = wrong {
            let now = self.time.now();
            self.wrong.lock().unwrap().get_or_insert(format!("{wrong} at {now}"));
        }
    }
}

fn copy(from: &Connection, to: &mut Connection) {
    Backup::new(from, to).unwrap().run_to_completion(1 << 20, Duration::ZERO, None).unwrap();
}

impl Line {
    pub(super) fn to(ledger: &Arc<Ledger>, seed: u64, lost: u8) -> Arc<Self> {
        Arc::new(Self {
            ledger: Arc::clone(ledger),
            dice: Dice::new(seed),
            lost,
            calls_left: AtomicI64::new(-1),
            calls: AtomicU64::new(0),
            died: Notify::new(),
        })
    }

    /// Has the process die at one of the next calls.
    pub(super) fn die_after(&self, calls: i64) {
        self.calls_left.store(calls, Ordering::Relaxed);
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Is done when the process dies.
    pub(super) async fn died(&self) {
        self.died.notified().await;
    }

    /// The process may die here, and then nothing ever comes back.
    async fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let left = self.calls_left.load(Ordering::Relaxed);
        if left >= 0 {
            self.calls_left.store(left - 1, Ordering::Relaxed);
            if left == 0 {
                self.died.notify_one();
                pending::<()>().await;
            }
        }
    }
}

struct Open<'a> {
    line: &'a Line,
    _turn: tokio::sync::MutexGuard<'a, ()>,
    /// Not before anything is written: nobody else has a turn meanwhile.
    is_begun: bool,
    /// Whether jobs may have changed, or caps.
    has_changed: bool,
    has_caps: bool,
    now: i64,
}

#[async_trait]
impl Database for Line {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        self.call().await;
        let turn = self.ledger.turn.lock().await;
        let now = self.ledger.time.now().timestamp_micros();
        Ok(Box::new(Open {
            line: self,
            _turn: turn,
            is_begun: false,
            has_changed: false,
            has_caps: false,
            now,
        }))
    }
}

#[async_trait]
impl Transaction for Open<'_> {
    fn now(&self) -> i64 {
        self.now
    }

    async fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.line.call().await;
        self.has_caps |= CAPS.iter().any(|change| sql.starts_with(change));
        self.has_changed |= JOBS.iter().any(|change| sql.starts_with(change));
        let connection = self.line.ledger.connection();
        let mut statement = connection.prepare_cached(sql).map_err(|error| failed(&error))?;
        if !self.is_begun && !statement.readonly() {
            connection.prepare_cached("BEGIN").unwrap().execute([]).unwrap();
            self.is_begun = true;
        }
        let columns = statement.column_count();
        let values = rusqlite::params_from_iter(values.iter().map(Bound));
        let mut rows = statement.query(values).map_err(|error| failed(&error))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(|error| failed(&error))? {
            let mut read = Vec::with_capacity(columns);
            for column in 0..columns {
                read.push(match row.get_ref(column).map_err(|error| failed(&error))? {
                    types::ValueRef::Integer(number) => Value::Number(number),
                    types::ValueRef::Text(text) => {
                        Value::Text(String::from_utf8_lossy(text).into_owned())
                    }
                    _ => Value::Null,
                });
            }
            all.push(Row(read));
        }
        Ok(all)
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.line.call().await;
        let ledger = &self.line.ledger;
        if self.is_begun {
            let connection = ledger.connection();
            let mut commit = connection.prepare_cached("COMMIT").unwrap();
            commit.execute([]).map_err(|error| failed(&error))?;
            self.is_begun = false;
        }
        ledger.note_awake();
        if self.has_changed || self.has_caps {
            ledger.look(self.has_caps);
        }
        self.line.call().await;
        if self.line.dice.happens(self.line.lost) {
            let step = "commit to the state database";
            return Err(Error::new(ErrorKind::Transient, code::STATE, step));
        }
        Ok(())
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.is_begun {
            let connection = self.line.ledger.connection();
            connection.prepare_cached("ROLLBACK").unwrap().execute([]).unwrap();
        }
    }
}

/// A value of a statement, as it is bound.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<types::ToSqlOutput<'_>> {
        Ok(types::ToSqlOutput::Borrowed(match self.0 {
            Value::Null => types::ValueRef::Null,
            Value::Number(number) => types::ValueRef::Integer(*number),
            Value::Text(text) => types::ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn failed(error: &rusqlite::Error) -> Error {
    Error::bug("use the state database").caused_by(error.to_string())
}
