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
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, backup::Backup, config::DbConfig, types};
use stillpoint::{
    coordinator::state::{Database, Row, Transaction, Value},
    repository::store::Dice,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::Notify;

use super::time::Time;

/// Statements that are kept ready.
const STATEMENTS_MAX: usize = 128;

/// Whoever was not heard of for longer was not awake.
const AWAKE_GAP_MAX: TimeDelta = TimeDelta::minutes(6);

/// What all coordinators share.
pub(super) struct Ledger {
    time: Arc<Time>,
    connection: Mutex<Connection>,
    /// What a standby knows, which lags behind.
    standby: Mutex<Option<Connection>>,
    wrong: Mutex<Option<String>>,
    commits: AtomicU64,
    /// Every so many commits are looked at.
    look_every: u64,
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
        Arc::new(Self {
            time: Arc::clone(time),
            connection: Mutex::new(connection),
            standby: Mutex::new(None),
            wrong: Mutex::new(None),
            commits: AtomicU64::new(0),
            look_every,
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

    /// No cap is passed, and of one kind of one database one job runs.
    fn look(&self) {
        let commits = self.commits.fetch_add(1, Ordering::Relaxed);
        if !commits.is_multiple_of(self.look_every) {
            return;
        }
        let connection = self.connection();
        let ask = |sql: &str| -> Option<String> {
            let mut statement = connection.prepare_cached(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            rows.next().unwrap().map(|row| row.get(0).unwrap())
        };
        let twice = "SELECT name || ' ' || kind FROM job WHERE state = 'running'
             GROUP BY name, kind HAVING count(*) > 1";
        let passed = "SELECT c.scope || ' ' || c.name FROM cap AS c WHERE c.most < (
             SELECT count(*) FROM job AS j WHERE j.state = 'running' AND (c.scope = 'all'
                 OR c.scope = 'repository' AND j.repository = c.name
                 OR c.scope = 'host' AND j.host = c.name))";
        let again = "SELECT name || ' ' || kind || ' ' || due FROM job
             WHERE outcome = 'succeeded' GROUP BY name, kind, due
             HAVING count(*) > 1";
        let wrong = [(twice, "runs twice"), (passed, "passed its cap"), (again, "succeeded twice")];
        for (sql, what) in wrong {
            if let Some(which) = ask(sql) {
                let now = self.time.now();
                self.wrong.lock().unwrap().get_or_insert(format!("{which} {what} at {now}"));
            }
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
    is_begun: bool,
    /// Whether jobs or caps may have changed.
    has_changed: bool,
    now: i64,
}

#[async_trait]
impl Database for Line {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        self.call().await;
        let turn = self.ledger.turn.lock().await;
        self.ledger.connection().prepare_cached("BEGIN").unwrap().execute([]).unwrap();
        let now = self.ledger.time.now().timestamp_micros();
        Ok(Box::new(Open { line: self, _turn: turn, is_begun: true, has_changed: false, now }))
    }
}

#[async_trait]
impl Transaction for Open<'_> {
    fn now(&self) -> i64 {
        self.now
    }

    async fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.line.call().await;
        self.has_changed |= ["UPDATE job", "INSERT INTO job", "INSERT INTO cap"]
            .iter()
            .any(|change| sql.starts_with(change));
        let connection = self.line.ledger.connection();
        let mut statement = connection.prepare_cached(sql).map_err(|error| failed(&error))?;
        let columns = statement.column_count();
        let values = values.iter().map(|value| match value {
            Value::Null => types::Value::Null,
            Value::Number(number) => types::Value::Integer(*number),
            Value::Text(text) => types::Value::Text(text.clone()),
        });
        let read = |row: &rusqlite::Row<'_>| {
            let value = |column| {
                Ok(match row.get_ref(column)? {
                    types::ValueRef::Integer(number) => Value::Number(number),
                    types::ValueRef::Text(text) => {
                        Value::Text(String::from_utf8_lossy(text).into_owned())
                    }
                    _ => Value::Null,
                })
            };
            (0..columns).map(value).collect::<rusqlite::Result<Vec<_>>>().map(Row)
        };
        let rows = statement.query_map(rusqlite::params_from_iter(values), read);
        rows.and_then(Iterator::collect).map_err(|error| failed(&error))
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        self.line.call().await;
        let ledger = &self.line.ledger;
        ledger
            .connection()
            .prepare_cached("COMMIT")
            .unwrap()
            .execute([])
            .map_err(|error| failed(&error))?;
        self.is_begun = false;
        ledger.note_awake();
        if self.has_changed {
            ledger.look();
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

fn failed(error: &rusqlite::Error) -> Error {
    Error::bug("use the state database").caused_by(error.to_string())
}
