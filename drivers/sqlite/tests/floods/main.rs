//! Writers that commit as fast as they can, and what they may suffer.
//!
//! A test binary of its own: what is measured here, the other tests would falsify.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]
#![expect(clippy::print_stdout, reason = "measurements")]

#[path = "../live/doubles.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod doubles;
#[path = "../live/process.rs"]
mod process;

use std::{
    os::unix::fs::FileExt as _,
    path::Path,
    process::Child,
    sync::Mutex,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use stillpoint_contract::{ErrorKind, RecoveryTarget};
use tempfile::TempDir;

use doubles::{Copy, Log, application, back_up, connect, drain, mark, restore, take};
use process::{now, task};

/// Held by each test.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The length that no log may exceed because of us.
const LOG_BYTES_MAX: u64 = 256 << 20;

/// The file that ends writers before their time.
const ENOUGH: &str = "enough";

/// How long busy writers are captured for, in seconds.
const FLOOD_SECONDS: u64 = 6;

/// How often busy writers are watched until they were not held up.
const TRIES_MAX: u32 = 3;

/// How long SQLite's own handler sleeps between tries, in milliseconds.
/// Source: SQLite 3.54 main.c, `sqliteDefaultBusyCallback`.
const SLEEPS_MILLIS: [u64; 12] = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100];

/// When a commit first found the lock taken, and for how long, in a process that writes.
static WAIT: Mutex<(Option<Instant>, Duration)> = Mutex::new((None, Duration::ZERO));

/// The main function of a process that writes: the test binary starts itself.
#[test]
fn a_writer() {
    if let Some(task) = task() {
        let row_bytes = if task.kind == "deluge" { 1_000_000 } else { 2_000 };
        flood(&task.path, task.until, task.kind != "hoard", row_bytes);
    }
}

fn spawn(kind: &str, seconds: u64, path: &Path) -> Child {
    process::spawn("a_writer", kind, seconds, path)
}

/// Waits for the lock as SQLite does by itself, and measures that. Everything else that a commit
/// takes long for is the writer's own doing, and its disk's.
fn wait_for_lock(tries: i32) -> bool {
    let mut wait = WAIT.lock().unwrap();
    let begun = *wait.0.get_or_insert_with(now);
    let millis = SLEEPS_MILLIS.get(tries as usize).unwrap_or(&100);
    std::thread::sleep(Duration::from_millis(*millis));
    wait.1 = begun.elapsed();
    wait.1 < Duration::from_secs(10)
}

/// Commits as fast as it can, without a pause, for ever new rows, as an import does; prints the
/// longest wait for the lock, and what the longest commit took besides, in microseconds. It copies
/// the log back itself or leaves that to others. Ends earlier where [`ENOUGH`] stands beside the
/// database.
fn flood(path: &Path, until: Instant, copies_back: bool, row_bytes: u32) {
    let mut db = application(path);
    db.busy_handler(Some(wait_for_lock)).unwrap();
    db.execute_batch("PRAGMA synchronous=NORMAL").unwrap();
    if !copies_back {
        db.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    }
    let (mut waited, mut worked, mut commits) = (Duration::ZERO, Duration::ZERO, 0);
    let enough = path.with_file_name(ENOUGH);
    while now() < until && !enough.exists() {
        *WAIT.lock().unwrap() = (None, Duration::ZERO);
        let begun = now();
        db.execute("INSERT INTO t(a) VALUES (randomblob(?1))", [row_bytes]).unwrap();
        let (took, (_, wait)) = (begun.elapsed(), *WAIT.lock().unwrap());
        (waited, worked) = (waited.max(wait), worked.max(took.saturating_sub(wait)));
        commits += 1;
    }
    println!("waited {} worked {} commits {commits}", waited.as_micros(), worked.as_micros());
}

/// What a writer had to bear.
struct Commits {
    count: u64,
    /// For the lock, at most.
    waited: Duration,
    /// At most, besides.
    worked: Duration,
}

fn commits(writer: Child) -> Commits {
    let output = writer.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |word: &str| -> u64 {
        let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("{text}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    Commits {
        count: after("commits "),
        waited: Duration::from_micros(after("waited ")),
        worked: Duration::from_micros(after("worked ")),
    }
}

/// The length of the log beside a database.
fn log_bytes(path: &Path) -> u64 {
    std::fs::metadata(format!("{}-wal", path.display())).map_or(0, |metadata| metadata.len())
}

/// What tells one generation of the log beside a database from the next one.
fn salts(path: &Path) -> [u8; 8] {
    let mut salts = [0; 8];
    let log = std::fs::File::open(format!("{}-wal", path.display())).unwrap();
    log.read_exact_at(&mut salts, 16).unwrap();
    salts
}

/// The rows of a flood, as one hash.
fn digest(db: &Connection) -> String {
    let mut hash = blake3::Hasher::new();
    let mut rows = db.prepare("SELECT id, a FROM t ORDER BY id").unwrap();
    let mut rows = rows.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        hash.update(&row.get::<_, i64>(0).unwrap().to_le_bytes());
        hash.update(row.get_ref(1).unwrap().as_blob().unwrap());
    }
    hash.finalize().to_hex().to_string()
}

/// What became of a flood.
struct Flood {
    writers: Vec<Commits>,
    wal_bytes: u64,
    log: Log,
    latest: Copy,
}

/// Lets `writers` flood a database for `seconds` while its log is captured, each segment being
/// stored as fast as `store` does. Now and then an incremental backup is taken.
async fn survive(path: &Path, writers: usize, seconds: u64, store: impl Fn(&[u8])) -> Flood {
    let driver = connect(path).await;
    let mut latest = back_up(driver.as_ref(), None).await.unwrap();
    let mut opened = driver.open_log(None).await.unwrap();
    let (mut log, mut wal_bytes, mut polls) = (Log::default(), 0, 0_u32);
    let mut writers: Vec<_> = (0..writers).map(|_| spawn("flood", seconds, path)).collect();
    while writers.iter_mut().any(|writer| writer.try_wait().unwrap().is_none()) {
        while let Some(segment) = opened.capture.next().await.unwrap() {
            store(&segment.body);
            opened.capture.confirm(segment.head.range.end()).await.unwrap();
            log.0.push(segment);
            wal_bytes = wal_bytes.max(log_bytes(path));
        }
        polls += 1;
        if polls % 40 == 20 {
            latest = back_up(driver.as_ref(), Some((&latest, &log))).await.unwrap();
        }
        wal_bytes = wal_bytes.max(log_bytes(path));
        std::thread::sleep(Duration::from_millis(20));
    }
    drain(&mut opened, &mut log).await;
    Flood { writers: writers.into_iter().map(commits).collect(), wal_bytes, log, latest }
}

#[tokio::test]
async fn busy_writers_are_not_held_up_and_the_log_stays_bounded() {
    let _alone = ALONE.lock().await;
    for count in [1, 2] {
        // What a busy machine does to writers, it does not do each time.
        let mut waited = Duration::MAX;
        for _ in 0..TRIES_MAX {
            waited = waited.min(endure(count).await);
            if waited < Duration::from_secs(1) {
                break;
            }
        }
        assert!(waited < Duration::from_secs(1), "{count} writers: {waited:?}");
    }
}

/// Lets writers be busy, and returns how long one of them waited for the lock at most.
async fn endure(count: usize) -> Duration {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("busy.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)").unwrap();
    let first = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    // Storing costs what compression and a disk cost.
    let store = |body: &[u8]| {
        std::hint::black_box(blake3::hash(body));
        std::thread::sleep(Duration::from_secs(1) * (body.len() >> 16) as u32 / (150 << 4));
    };
    let Flood { writers, wal_bytes, log, latest } =
        survive(&path, count, FLOOD_SECONDS, store).await;
    let generations = log.0.iter().filter(|s| s.head.succeeds.is_some()).count();
    let written_bytes: u64 = log.0.iter().map(|segment| segment.body.len() as u64).sum();
    for copy in [&first, &latest] {
        let (file, _) =
            restore(copy, &log, RecoveryTarget::Latest, directory.path()).await.unwrap();
        assert_eq!(digest(&Connection::open(file).unwrap()), digest(&db));
    }
    let worked = writers.iter().map(|writer| writer.worked).max().unwrap();
    let waited = writers.iter().map(|writer| writer.waited).max().unwrap();
    println!(
        "{count} writers: longest wait {waited:?}, else at most {worked:?}, {} commits, \
         {} MiB, log at most {} MiB, {} segments, {generations} changes of generation",
        writers.iter().map(|writer| writer.count).sum::<u64>(),
        written_bytes >> 20,
        wal_bytes >> 20,
        log.0.len()
    );
    assert!(wal_bytes < LOG_BYTES_MAX, "{} MiB", wal_bytes >> 20);
    let is_let_go = generations > 0 || written_bytes < LOG_BYTES_MAX / 2;
    assert!(is_let_go, "{} MiB in one generation", written_bytes >> 20);
    waited
}

#[tokio::test]
async fn a_log_that_cannot_be_stored_is_let_go_before_it_fills_the_disk_and_that_is_a_gap() {
    let _alone = ALONE.lock().await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("busy.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)").unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    drain(&mut opened, &mut log).await;
    // The larger its rows, the sooner it is there, however slow the machine is.
    let mut writer = spawn("deluge", 60, &path);
    let (mut wal_bytes, mut told, mut held) = (0, None, None);
    let begun = now();
    while writer.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(20));
        wal_bytes = wal_bytes.max(log_bytes(&path));
        // Nothing that was handed out is ever said to be durable.
        if told.is_none() && wal_bytes > LOG_BYTES_MAX {
            held = Some(salts(&path));
            std::thread::sleep(Duration::from_secs(1));
            for _ in 0..100 {
                told = told.or(opened.capture.next().await.err());
            }
            println!("let go after {:?}", begun.elapsed());
        }
        if held.is_some_and(|held| salts(&path) != held) {
            std::fs::write(path.with_file_name(ENOUGH), "").unwrap();
        }
    }
    println!("log at most {} MiB", wal_bytes >> 20);
    // One commit copies all of the log back, as whoever hoards a log has to, and takes as long as
    // its disk does.
    let Commits { waited, worked, .. } = commits(writer);
    println!("longest wait {waited:?}, else at most {worked:?}");
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    let told = told.unwrap();
    assert_eq!(told.kind(), ErrorKind::Gap);
    assert!(told.reason().unwrap().contains("before it filled the application's disk"), "{told:?}");
    assert!(wal_bytes < LOG_BYTES_MAX + (64 << 20), "{} MiB", wal_bytes >> 20);
    drop(opened);
    let opened = driver.open_log(mark(&log).as_ref()).await.unwrap();
    assert!(opened.gap.is_some());
}

#[tokio::test]
async fn a_log_that_the_application_never_copies_back_stays_bounded() {
    let _alone = ALONE.lock().await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("busy.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)").unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let (mut log, mut wal_bytes) = (Log::default(), 0);
    let first = back_up(driver.as_ref(), None).await.unwrap();
    let mut writer = spawn("hoard", 4, &path);
    while writer.try_wait().unwrap().is_none() {
        while take(&mut opened, &mut log).await {
            wal_bytes = wal_bytes.max(log_bytes(&path));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("log at most {} MiB of {} commits", wal_bytes >> 20, commits(writer).count);
    assert!(wal_bytes < LOG_BYTES_MAX, "{} MiB", wal_bytes >> 20);
    drain(&mut opened, &mut log).await;
    let (file, _) = restore(&first, &log, RecoveryTarget::Latest, directory.path()).await.unwrap();
    assert_eq!(digest(&Connection::open(file).unwrap()), digest(&db));
}

#[tokio::test]
async fn a_capture_that_ends_while_writers_are_slowed_down_leaves_the_lock_free() {
    let _alone = ALONE.lock().await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("busy.db");
    let mut db = application(&path);
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)").unwrap();
    let opened = connect(&path).await.open_log(None).await.unwrap();
    // Nobody asks for what is written, which soon is more than fits into memory.
    let mut writer = spawn("deluge", 60, &path);
    let begun = now();
    while log_bytes(&path) < LOG_BYTES_MAX / 8 * 5 {
        assert!(begun.elapsed() < Duration::from_mins(1), "{} MiB", log_bytes(&path) >> 20);
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    db.busy_timeout(Duration::ZERO).unwrap();
    let mut is_free =
        || db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).is_ok();
    let mut held = 0;
    for _ in 0..200 {
        held += usize::from(!is_free());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(held > 0, "writers were not slowed down");
    drop(opened);
    // What is under way when the capture is dropped takes its time, more on a busy machine. Pauses
    // that went on would never leave the lock alone for so many tries.
    let (dropped, mut free) = (now(), 0);
    while free < 300 {
        assert!(dropped.elapsed() < Duration::from_secs(30), "the lock is still taken");
        free = if is_free() { free + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_truncating_checkpoint_gets_through_within_a_few_polls() {
    let _alone = ALONE.lock().await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a)").unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    for round in 0..5 {
        db.execute("INSERT INTO t VALUES (randomblob(100000))", []).unwrap();
        let path = path.clone();
        let checkpoint = std::thread::spawn(move || {
            let db = application(&path);
            let begun = now();
            let busy: i64 =
                db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
            (busy, begun.elapsed())
        });
        let mut polls = 0;
        while !checkpoint.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
            take(&mut opened, &mut log).await;
            polls += 1;
        }
        let (busy, took) = checkpoint.join().unwrap();
        println!("round {round}: busy {busy}, {took:?}, {polls} polls");
        assert_eq!(busy, 0);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
