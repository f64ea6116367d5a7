//! Writers in processes of their own, and what they may suffer.

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use stillpoint_contract::RecoveryTarget;
use tempfile::TempDir;

use crate::doubles::{Log, application, back_up, connect, drain, dump, dump_file, restore, take};

/// How many accounts the bank has, and what is in each at first.
const ACCOUNTS: i64 = 50;
const OPENING_BALANCE: i64 = 1000;

/// This test is the writer's main function: the test binary starts itself with the variable set.
#[test]
fn a_writer_process() {
    let Some(task) = env::var_os("STILLPOINT_TEST_WRITER") else { return };
    let task = task.into_string().unwrap();
    let (kind, rest) = task.split_once(' ').unwrap();
    let (seconds, path) = rest.split_once(' ').unwrap();
    let until = now() + Duration::from_secs(seconds.parse().unwrap());
    match kind {
        "bank" => move_money(Path::new(path), until),
        "flood" => flood(Path::new(path), until),
        _ => panic!("{kind}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn spawn(kind: &str, seconds: u64, path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "writers::a_writer_process", "--nocapture"])
        .env("STILLPOINT_TEST_WRITER", format!("{kind} {seconds} {}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn open_bank(path: &Path) -> Connection {
    let db = application(path);
    db.execute_batch(&format!(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
         CREATE TABLE ledger(id INTEGER PRIMARY KEY, source, target, amount, note);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {ACCOUNTS})
         INSERT INTO account SELECT i, {OPENING_BALANCE} FROM n;"
    ))
    .unwrap();
    db
}

/// One transfer per transaction, each on record in the ledger.
fn move_money(path: &Path, until: Instant) {
    let db = application(path);
    db.execute_batch("PRAGMA synchronous=NORMAL").unwrap();
    while now() < until {
        db.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             INSERT INTO ledger(source, target, amount, note) VALUES (
                 1 + abs(random()) % {ACCOUNTS}, 1 + abs(random()) % {ACCOUNTS},
                 abs(random()) % 100, hex(randomblob(abs(random()) % 200)));
             UPDATE account SET balance = balance - (SELECT amount FROM ledger ORDER BY id DESC)
                 WHERE id = (SELECT source FROM ledger ORDER BY id DESC);
             UPDATE account SET balance = balance + (SELECT amount FROM ledger ORDER BY id DESC)
                 WHERE id = (SELECT target FROM ledger ORDER BY id DESC);
             COMMIT;"
        ))
        .unwrap();
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Checks a restored bank and returns how many transfers it has seen.
pub(crate) fn audit(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(one("SELECT sum(balance) FROM account"), ACCOUNTS * OPENING_BALANCE);
    let wrong = one(&format!(
        "WITH moved(id, amount) AS (SELECT source, -amount FROM ledger
                                    UNION ALL SELECT target, amount FROM ledger),
              total AS MATERIALIZED (SELECT id, sum(amount) AS amount FROM moved GROUP BY id)
         SELECT count(*) FROM account LEFT JOIN total USING (id)
             WHERE balance <> {OPENING_BALANCE} + coalesce(total.amount, 0)"
    ));
    assert_eq!(wrong, 0, "balances that the ledger does not explain");
    let transfers = one("SELECT count(*) FROM ledger");
    assert_eq!(transfers, one("SELECT coalesce(max(id), 0) FROM ledger"));
    transfers
}

/// Commits a thousand times a second at most, 20 MB each second, and prints the longest commit in
/// microseconds. A disk must be able to copy back what is written, or no log can stay short.
fn flood(path: &Path, until: Instant) {
    let db = application(path);
    db.execute_batch("PRAGMA synchronous=OFF").unwrap();
    let (mut longest, mut commits) = (Duration::ZERO, 0);
    while now() < until {
        let begun = now();
        db.execute("INSERT OR REPLACE INTO t VALUES (abs(random()) % 2000, randomblob(20000))", [])
            .unwrap();
        longest = longest.max(begun.elapsed());
        commits += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("longest {} commits {commits}", longest.as_micros());
}

fn longest_commit(writer: Child) -> (Duration, u64) {
    let output = writer.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |word: &str| -> u64 {
        let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("{text}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    (Duration::from_micros(after("longest ")), after("commits "))
}

#[tokio::test]
async fn busy_writers_are_not_held_up_and_the_log_stays_bounded() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("busy.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)").unwrap();
    let alone: Vec<_> = (0..2).map(|_| spawn("flood", 2, &path)).collect();
    let alone = alone.into_iter().map(|writer| longest_commit(writer).0).max().unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let first = back_up(driver.as_ref(), None).await.unwrap();
    let (mut log, mut latest, mut wal_bytes) = (Log::default(), None, 0);
    let mut writers: Vec<_> = (0..2).map(|_| spawn("flood", 6, &path)).collect();
    let mut polls = 0;
    while writers.iter_mut().any(|writer| writer.try_wait().unwrap().is_none()) {
        // A poll now and then leaves more than one segment waiting.
        while take(&mut opened, &mut log).await && polls % 8 != 0 {}
        polls += 1;
        if polls % 40 == 20 {
            let base = latest.as_ref().unwrap_or(&first);
            latest = Some(back_up(driver.as_ref(), Some((base, &log))).await.unwrap());
        }
        let wal = directory.path().join("busy.db-wal");
        wal_bytes = wal_bytes.max(std::fs::metadata(wal).unwrap().len());
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(20));
    }
    drain(&mut opened, &mut log).await;
    let measured: Vec<_> = writers.into_iter().map(longest_commit).collect();
    let longest = measured.iter().map(|(longest, _)| *longest).max().unwrap();
    let commits: u64 = measured.iter().map(|(_, commits)| commits).sum();
    let generations = log.0.iter().filter(|s| s.head.succeeds.is_some()).count();
    println!(
        "longest commit {longest:?} (alone {alone:?}), {commits} commits, {polls} polls, \
         log at most {} MiB, {} segments, {generations} changes of generation",
        wal_bytes >> 20,
        log.0.len()
    );
    // What a busy machine does to writers that are alone is not our doing.
    assert!(longest < Duration::from_secs(1) + 4 * alone, "{longest:?}, alone {alone:?}");
    let written_bytes: u64 = log.0.iter().map(|segment| segment.body.len() as u64).sum();
    // It is let grow to 64 MiB.
    let limit_bytes = (written_bytes / 2).max(96 << 20);
    assert!(wal_bytes < limit_bytes, "{wal_bytes} of {written_bytes}");
    for copy in [&first, latest.as_ref().unwrap_or(&first)] {
        let (file, _) =
            restore(copy, &log, RecoveryTarget::Latest, directory.path()).await.unwrap();
        assert_eq!(dump_file(&file), dump(&db));
    }
}

#[tokio::test]
async fn a_truncating_checkpoint_gets_through_within_a_few_polls() {
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
