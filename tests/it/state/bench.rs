//! A state database of its own for each test, and a clock that the test sets, in whatever keeps it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use stillpoint::{
    coordinator::state::{
        Claim, Database, Filter, Job, Outcome, Phase, PostgresState, SqliteState, State, Task,
    },
    registry,
};
use stillpoint_conformance::memory::{RealClock, SeededEntropy, TestClock};
use stillpoint_contract::{Clock, Endpoint};
use stillpoint_testcontainers::{POSTGRES_USER, Postgres};
use tokio_postgres::{Client, NoTls};

pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// No job stands still for so long.
pub(crate) const NEVER: Duration = Duration::MAX;

/// A clock that a test sets, where statements find it before the server's own.
///
/// Source: <https://www.postgresql.org/docs/current/runtime-config-client.html>, `search_path`.
const CLOCK: &str = "CREATE SCHEMA test; CREATE TABLE test.passed (microseconds bigint);
    INSERT INTO test.passed VALUES (0);
    CREATE FUNCTION test.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT pg_catalog.clock_timestamp() + microseconds * interval ''1 microsecond''
         FROM test.passed'";

static DATABASES: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Bench {
    place: Place,
    pub(crate) state: State,
    seeds: AtomicU64,
}

enum Place {
    Sqlite { folder: tempfile::TempDir, clock: Arc<TestClock> },
    Postgres { port: u16, name: String },
}

impl Place {
    fn file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("state.db")
    }

    fn open(&self) -> Arc<dyn Database> {
        match self {
            Self::Sqlite { folder, clock } => {
                let shared: Arc<dyn Clock> = Arc::<TestClock>::clone(clock);
                Arc::new(SqliteState::open(&Self::file(folder), shared).unwrap())
            }
            Self::Postgres { port, name } => {
                let address = format!(
                    "//{POSTGRES_USER}@127.0.0.1:{port}/{name}?\
                     options=-c%20search_path%3Dtest%2Cpg_catalog%2Cpublic"
                );
                Arc::new(postgres(address))
            }
        }
    }
}

/// The state in a server, connected to as the program does it.
pub(crate) fn postgres(address: String) -> PostgresState {
    let endpoint = Endpoint { scheme: "postgres".to_owned(), address, settings: BTreeMap::new() };
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    PostgresState::new(Box::new(registry::sessions(&endpoint, &clock).unwrap()))
}

impl Bench {
    pub(crate) async fn sqlite(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::manual(start()));
        Self::new(Place::Sqlite { folder, clock }, seed).await
    }

    pub(crate) async fn postgres(server: &Postgres) -> Self {
        Self::on_port(server.port()).await
    }

    async fn on_port(port: u16) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("state{number}");
        let client = connect(port, "postgres").await;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let place = Place::Postgres { port, name };
        place.behind(CLOCK).await;
        Self::new(place, number).await
    }

    /// Another one of the same kind.
    pub(crate) async fn fresh(&self) -> Self {
        match &self.place {
            Place::Sqlite { .. } => Self::sqlite(1).await,
            Place::Postgres { port, .. } => Self::on_port(*port).await,
        }
    }

    async fn new(place: Place, seed: u64) -> Self {
        let entropy = Arc::new(SeededEntropy::new(seed));
        let state = State::open(place.open(), entropy).await.unwrap();
        Self { place, state, seeds: AtomicU64::new(1_000 * (seed + 1)) }
    }

    /// The same database, as another process would open it.
    pub(crate) async fn again(&self) -> State {
        self.with(self.database()).await
    }

    pub(crate) async fn with(&self, database: Arc<dyn Database>) -> State {
        State::open(database, self.entropy()).await.unwrap()
    }

    pub(crate) fn entropy(&self) -> Arc<SeededEntropy> {
        Arc::new(SeededEntropy::new(self.seeds.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn database(&self) -> Arc<dyn Database> {
        self.place.open()
    }

    /// Lets time pass.
    pub(crate) async fn wait(&self, time: Duration) {
        match &self.place {
            Place::Sqlite { clock, .. } => clock.advance(time),
            Place::Postgres { .. } => {
                let passed = time.as_micros();
                let pass = "UPDATE test.passed SET microseconds = microseconds";
                self.behind(&format!("{pass} + {passed}")).await;
            }
        }
    }

    /// Lets time pass in which somebody looks after workers, and none of them is lost.
    pub(crate) async fn watch(&self, time: Duration) {
        let step = Duration::from_secs(10);
        let mut left = time;
        loop {
            assert_eq!(self.state.reap(NEVER, "watch").await.unwrap(), [0, 0]);
            if left.is_zero() {
                return;
            }
            self.wait(step.min(left)).await;
            left = left.saturating_sub(step);
        }
    }

    /// Runs statements that are none of ours.
    pub(crate) async fn behind(&self, sql: &str) {
        self.place.behind(sql).await;
    }

    /// A worker that is heard of.
    pub(crate) async fn worker(&self, name: &str) {
        self.state.renew(name, "here", LEASE).await.unwrap();
    }

    /// Claims the next job, which there is.
    pub(crate) async fn claim(&self, worker: &str) -> Claim {
        self.state.claim(worker).await.unwrap().unwrap()
    }

    pub(crate) async fn jobs(&self) -> Vec<Job> {
        self.state.jobs(&Filter::default()).await.unwrap()
    }
}

impl Place {
    async fn behind(&self, sql: &str) {
        match self {
            Self::Sqlite { folder, .. } => {
                Connection::open(Self::file(folder)).unwrap().execute_batch(sql).unwrap();
            }
            Self::Postgres { port, name } => {
                connect(*port, name).await.batch_execute(sql).await.unwrap();
            }
        }
    }
}

/// Waits, in real time.
pub(crate) async fn pause(milliseconds: u64) {
    RealClock::new().sleep(Duration::from_millis(milliseconds)).await;
}

pub(crate) async fn connect(port: u16, database: &str) -> Client {
    let settings = format!(
        "host=127.0.0.1 port={port} user={POSTGRES_USER} dbname={database} \
         options='-c search_path=test,pg_catalog,public -c default_transaction_read_only=off'"
    );
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn start() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

/// So many minutes after the first due time.
pub(crate) fn minute(minutes: u64) -> DateTime<Utc> {
    start() + Duration::from_secs(60 * minutes)
}

pub(crate) fn task(database: &str, kind: &str, rank: u64) -> Task {
    Task {
        database: database.to_owned(),
        kind: kind.to_owned(),
        due: start(),
        why: "calendar".to_owned(),
        repository: "primary".to_owned(),
        host: "db1".to_owned(),
        rank,
        rpo: Duration::ZERO,
        agent: String::new(),
        site: String::new(),
    }
}

pub(crate) fn due(database: &str, minutes: u64) -> Task {
    Task { due: minute(minutes), ..task(database, "full", 1) }
}

pub(crate) fn outcome(job: &Job) -> Option<(Outcome, &str)> {
    match &job.phase {
        Phase::Ended { outcome, reason, .. } => Some((*outcome, reason)),
        Phase::Waiting | Phase::Running { .. } => None,
    }
}

pub(crate) fn running(jobs: &[Job]) -> Vec<&Task> {
    let running = jobs.iter().filter(|job| matches!(job.phase, Phase::Running { .. }));
    running.map(|job| &job.task).collect()
}
