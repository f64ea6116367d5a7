//! Invariant 1 with real kills: a process that archives ends by SIGKILL at each step that a witness
//! is told of, and before and amid what it does with files; the next run goes on from there.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    env, io,
    ops::Range,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use stillpoint::{
    archiver::{Archiving, Limits, Place, Step, Witness},
    policy::{ArchiveRule, Verification},
    repository::store::{Entry, Fs, RealFs, Store},
    world::World,
};
use tempfile::TempDir;

use super::shop::{InPostgres, Shop, Sqlite, Yard, driver, local_store, rule};

/// What the process is told that is killed.
const TASK: &str = "STILLPOINT_TEST_KILLED";

/// Its main function.
const MAIN: &str = "archiver::sigkill::the_process_that_is_killed";

/// A process that archives until it is killed: this test binary again.
#[derive(Debug)]
pub(super) struct Process {
    scheme: &'static str,
    address: String,
    folder: TempDir,
}

impl Process {
    pub(super) fn new(scheme: &'static str, address: String) -> Self {
        let folder = tempfile::Builder::new().prefix("killed-").tempdir().unwrap();
        Self { scheme, address, folder }
    }

    /// Where it puts files.
    pub(super) async fn store(&self) -> Arc<dyn Store> {
        local_store(RealFs, self.folder.path(), &World::real(1)).await
    }

    /// Whether it had so many steps, and was killed then; otherwise it was through.
    pub(super) async fn is_killed(&self, rule: &ArchiveRule, step: i64) -> bool {
        let task = json!({
            "scheme": self.scheme,
            "address": self.address,
            "folder": self.folder.path(),
            "step": step,
            "root": rule.root,
            "items": rule.children.first().map(|child| &child.table),
            "slice_rows": rule.slice_rows,
            "file_bytes": rule.file_bytes,
            "by_tuple": rule.verification == Verification::Tuple,
        });
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", MAIN]).env(TASK, task.to_string());
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let was_killed = ended.status.signal() == Some(Signal::KILL.as_raw());
        assert!(
            was_killed || ended.status.success(),
            "step {step}: {}\n{}{}",
            ended.status,
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(&ended.stderr)
        );
        was_killed
    }
}

/// Waits until nothing is left of a killed run: its server may be about to commit what it was told.
pub(super) async fn settle<S: Shop>(yard: &Yard<S>) {
    let driver = yard.shop.driver().await;
    let mut rows = driver.rows().await.unwrap();
    rows.lock(&yard.rule.name, Duration::from_secs(30)).await.unwrap();
}

/// Ends its own process at a step.
#[derive(Debug)]
struct Doom(AtomicI64);

impl Doom {
    fn is_due(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }

    fn step(&self) {
        if self.is_due() {
            die();
        }
    }
}

impl Witness for Doom {
    fn see(&self, _step: &Step) {
        self.step();
    }
}

fn die() -> ! {
    kill_process(getpid(), Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

/// The file system of a process that is killed.
#[derive(Debug)]
struct Doomed {
    doom: Arc<Doom>,
    /// Whether each call is a step, not only the middle of a file. Files are written in one way,
    /// whatever the engine is.
    counts_calls: bool,
}

impl Doomed {
    fn step(&self) {
        if self.counts_calls {
            self.doom.step();
        }
    }
}

impl Fs for Doomed {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step();
        if self.doom.is_due() {
            drop(RealFs.write_new(path, &bytes[..bytes.len() / 2]));
            die();
        }
        RealFs.write_new(path, bytes)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        RealFs.link(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        RealFs.rename_new(from, to)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        RealFs.rename_over(from, to)
    }

    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        RealFs.is_same(one, other)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step();
        RealFs.unlink(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        RealFs.make_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealFs.sync_directory(path)
    }

    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        RealFs.read(path, range)
    }

    fn entries(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        RealFs.entries(directory)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_is_killed() {
    let Some(task) = env::var_os(TASK) else { return };
    let task: Value = serde_json::from_str(task.to_str().unwrap()).unwrap();
    let text = |name: &str| task[name].as_str().unwrap();
    let number = |name: &str| task[name].as_u64().unwrap();
    let doom = Arc::new(Doom(AtomicI64::new(task["step"].as_i64().unwrap())));
    let world = World::real(1);
    let fs = Doomed { doom: Arc::clone(&doom), counts_calls: text("scheme") == "sqlite" };
    let store = local_store(fs, Path::new(text("folder")), &world).await;
    let place = Place::new(store, "orders").unwrap();
    let mut rule = rule(text("root").to_owned(), task["items"].as_str().map(str::to_owned));
    rule.slice_rows = number("slice_rows");
    rule.file_bytes = number("file_bytes");
    if task["by_tuple"].as_bool() == Some(true) {
        rule.verification = Verification::Tuple;
    }
    let driver = driver(text("scheme"), text("address")).await;
    let archiving = Archiving {
        driver: &*driver,
        place: &place,
        world: &world,
        rule: &rule,
        gates: &[],
        limits: Limits::default(),
        witness: &*doom,
    };
    println!("{:?}", Box::pin(archiving.run()).await.unwrap());
}

/// Archives in a process that is killed at a step, and then once more. Whether it was killed.
async fn is_survived<S: Shop>(shop: S, process: &Process, step: i64) -> bool {
    let at = format!("{}, killed at step {step}", process.scheme);
    let mut yard = Yard::in_store(shop, true, process.store().await);
    yard.rule.slice_rows = 3;
    yard.fill(0..6, 1).await;
    let orders = yard.shop.table("orders");
    yard.shop.change(&[format!("UPDATE {orders} SET state = 'open' WHERE id = 5")]).await;
    let was_killed = process.is_killed(&yard.rule, step).await;
    settle(&yard).await;
    yard.conserves_each(0..6, &at).await;
    if was_killed {
        let report = yard.run().await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
        assert!(report.quit.is_done(), "{at}: {report:?}");
        yard.conserves_each(0..6, &at).await;
    }
    assert_eq!(yard.live("orders").await, ["o5"], "{at}");
    assert_eq!(yard.live("items").await, ["i500"], "{at}");
    yard.agrees(10, &at).await;
    was_killed
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_process_that_archives_sqlite_is_killed_at_each_step() {
    let mut step = 0;
    loop {
        step += 1;
        let shop = Sqlite::new().await;
        let process = Process::new("sqlite", shop.path().display().to_string());
        if !is_survived(shop, &process, step).await {
            break;
        }
    }
    println!("{step} steps");
    // A witness is told of fourteen; for each of six objects there are four.
    assert!(step > 30, "{step}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_process_that_archives_postgresql_is_killed_at_each_step() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let mut step = 0;
    loop {
        step += 1;
        shop.reset().await;
        let process = Process::new("postgres", shop.address());
        if !is_survived(&shop, &process, step).await {
            break;
        }
    }
    println!("{step} steps");
    // A witness is told of fourteen; six objects are written.
    assert!(step > 15, "{step}");
}
