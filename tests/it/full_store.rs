//! Every single operation of a backup and of a capture fails once: as on a full disk, or for ever.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, and says what it tried"
)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use rustix::io::Errno;
use stillpoint::{
    coordinator::{CaptureJob, RestoreJob, Wanted, back_up, capture, plan, run, staging_beside},
    pipeline::{Meter, id::ChunkSize},
    registry,
    repository::{
        InitOptions, Repository,
        descriptor::Writers,
        keys::PassphraseCost,
        store::{self, Dice, FsFault, LocalStore, SimFs, Store},
    },
    world::{SystemClock, World},
};
use stillpoint_contract::{Clock, Endpoint, Engine, ErrorKind, Overwrite, RestoreExtras, Result};
use tempfile::TempDir;

use crate::{
    site::{rows, seed, setting},
    support::jobs::{backup_of, capture_of},
};

/// Operations that fail, of those that a backup or a capture makes; `STILLPOINT_FAULTS` says
/// otherwise. All of them, unless there are more.
const FAULTS_MAX: u64 = 200;

/// A clock on which waiting takes no time.
#[derive(Debug)]
struct Impatient(SystemClock);

#[async_trait]
impl Clock for Impatient {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, _: Duration) {
        tokio::task::yield_now().await;
    }
}

/// A database that is written to, and a repository on a disk that fails when told.
struct Bench {
    folder: TempDir,
    application: Connection,
    rows: u32,
    world: World,
    engines: Vec<Arc<dyn Engine>>,
    engine: Arc<dyn Engine>,
    endpoint: Endpoint,
    disk: SimFs,
    store: Arc<dyn Store>,
}

impl Bench {
    /// One database with one row, and one backup of it. Whatever is done first to two of these
    /// makes the same operations.
    async fn new(world: &World, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let application = Connection::open(&path).unwrap();
        application.pragma_update(None, "journal_mode", "WAL").unwrap();
        application.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, v BLOB)").unwrap();
        let world = world.clone();
        let engines = registry::engines(&world.clock);
        let url = format!("sqlite:{}", path.display());
        let (engine, endpoint) = registry::endpoint(&engines, &url).unwrap();
        let disk = SimFs::new(seed);
        let store = LocalStore::open(
            disk.clone(),
            Path::new("/repo"),
            store::Writers::Several,
            &*world.clock,
            Arc::clone(&world.entropy),
        );
        let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
        let options = InitOptions {
            secret: None,
            cost: PassphraseCost::DEFAULT,
            chunk_size: ChunkSize::DEFAULT,
            writers: Writers::Many,
        };
        Repository::init(world.clone(), Arc::clone(&store), options).await.unwrap();
        let mut bench =
            Self { folder, application, rows: 0, world, engines, engine, endpoint, disk, store };
        bench.write();
        bench.back_up().await.unwrap();
        bench
    }

    /// Lets an operation fail that is still to come.
    fn plan(&self, operation: u64, (errno, lasting, _): (Errno, bool, ErrorKind)) {
        let at = self.disk.operations() + operation;
        let fault = FsFault::Fail(errno);
        if lasting { self.disk.fault_from(at, fault) } else { self.disk.fault_at(at, fault) }
    }

    /// Commits one more row.
    fn write(&mut self) {
        self.application.execute("INSERT INTO t (v) VALUES (randomblob(2000))", []).unwrap();
        self.rows += 1;
    }

    async fn open(&self) -> Result<Repository> {
        Repository::open(self.world.clone(), Arc::clone(&self.store), None, None).await
    }

    async fn back_up(&self) -> Result<()> {
        let job = backup_of(&*self.engine, &self.endpoint);
        let repository = self.open().await?;
        back_up(&self.world, &repository, job, &Arc::new(Meter::default())).await.map(drop)
    }

    /// Captures what there is, and stops.
    async fn capture(&self) -> Result<()> {
        let job = CaptureJob { take_over: true, ..capture_of(&*self.engine, &self.endpoint) };
        let repository = self.open().await?;
        capture(&self.world, &repository, job, std::future::ready(()), |_| {}).await.map(drop)
    }

    /// How many rows a restore of the newest state has.
    async fn restored(&self) -> u32 {
        let repository = self.open().await.unwrap();
        let target = self.target();
        let staging = staging_beside(&self.world, &target).unwrap();
        let job = RestoreJob {
            engines: &self.engines,
            database: "app",
            wanted: Wanted::Latest,
            target: &target,
            overwrite: Overwrite::Never,
            extras: RestoreExtras::default(),
        };
        let resolved = plan(&repository, &job, &staging).await.unwrap();
        run(&self.world, &repository, &resolved, &Arc::new(Meter::default())).await.unwrap();
        let count = rows(&target);
        std::fs::remove_file(&target).unwrap();
        count
    }

    fn target(&self) -> PathBuf {
        let mut random = [0; 4];
        self.world.entropy.fill(&mut random);
        self.folder.path().join(format!("restored-{}.db", u32::from_le_bytes(random)))
    }

    async fn check(&self) {
        let repository = self.open().await.unwrap();
        let meter = Arc::new(Meter::default());
        assert_eq!(repository.verify_names(&meter).await.unwrap().problems, []);
        let history = repository.history().await.unwrap();
        let newest = (*history.live().last().unwrap()).clone();
        assert_eq!(repository.verify_backup(&newest, &meter).await.unwrap().problems, []);
    }
}

/// Which operations fail: all of `count`, or as many of them as there is time for.
fn chosen(count: u64, dice: &Dice) -> Vec<u64> {
    let most = setting("STILLPOINT_FAULTS", FAULTS_MAX);
    if count <= most {
        return (0..count).collect();
    }
    println!("{most} of {count} operations are tried; STILLPOINT_FAULTS={count} tries all");
    (0..most).map(|_| dice.below(count as usize) as u64).collect()
}

/// What fails, whether for ever, and what whoever waits for it must be told.
const FAULTS: [(Errno, bool, ErrorKind); 3] = [
    (Errno::NOSPC, true, ErrorKind::Exhausted),
    (Errno::IO, true, ErrorKind::Transient),
    (Errno::IO, false, ErrorKind::Transient),
];

fn impatient() -> World {
    let mut world = World::real(2);
    world.clock = Arc::new(Impatient(SystemClock::new()));
    world
}

/// What became of the operations that were made to fail.
#[derive(Debug, Default)]
struct Outcome {
    failed: u32,
    survived: u32,
}

impl Outcome {
    fn add(&mut self, done: Result<()>, operation: u64, kind: ErrorKind) {
        let Err(error) = done else {
            self.survived += 1;
            return;
        };
        assert_eq!(error.kind(), kind, "operation {operation}: {error:?}");
        assert!(format!("{error:?}").contains("/repo"), "no path: {error:?}");
        self.failed += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_in_a_backup_the_next_one_succeeds_and_nothing_is_lost() {
    let (seed, world) = (seed(), impatient());
    let dice = Dice::new(seed);
    let mut model = Bench::new(&world, seed).await;
    model.write();
    let before = model.disk.operations();
    model.back_up().await.unwrap();
    let count = model.disk.operations() - before;

    let mut outcome = Outcome::default();
    for operation in chosen(count, &dice) {
        for fault in FAULTS {
            let mut bench = Bench::new(&world, seed).await;
            bench.write();
            bench.plan(operation, fault);
            outcome.add(bench.back_up().await, operation, fault.2);
            bench.disk.heal();
            let restored = bench.restored().await;
            assert!([1, 2].contains(&restored), "operation {operation}: {restored} rows");
            bench.back_up().await.unwrap_or_else(|e| panic!("after operation {operation}: {e:?}"));
            assert_eq!(bench.restored().await, 2, "operation {operation}");
            bench.check().await;
        }
    }
    println!("{count} operations: {outcome:?}");
    assert!(outcome.failed > 0 && outcome.survived > 0, "every write was to be tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_in_a_capture_the_next_one_has_every_commit() {
    let (seed, world) = (seed(), impatient());
    let dice = Dice::new(seed);
    let mut model = Bench::new(&world, seed).await;
    model.write();
    let before = model.disk.operations();
    model.capture().await.unwrap();
    let count = model.disk.operations() - before;

    let mut outcome = Outcome::default();
    for operation in chosen(count, &dice) {
        for fault in FAULTS {
            let mut bench = Bench::new(&world, seed).await;
            bench.write();
            bench.plan(operation, fault);
            outcome.add(bench.capture().await, operation, fault.2);
            bench.disk.heal();
            bench.write();
            bench.capture().await.unwrap_or_else(|e| panic!("after operation {operation}: {e:?}"));
            assert_eq!(bench.restored().await, 3, "operation {operation}");
            let repository = bench.open().await.unwrap();
            assert_eq!(repository.verify_log("app").await.unwrap().problems, []);
        }
    }
    println!("{count} operations: {outcome:?}");
    assert!(outcome.failed > 0 && outcome.survived > 0, "every write was to be tried");
}
