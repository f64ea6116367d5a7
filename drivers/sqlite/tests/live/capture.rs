//! Log capture: nothing is missing, whatever other connections do.

use std::collections::HashMap;

use rusqlite::Connection;
use stillpoint_contract::{LogPosition, RecoveryTarget};
use tempfile::TempDir;

use crate::dice::{Dice, seeds};
use crate::doubles::{
    Log, application, back_up, commits, connect, drain, dump, dump_file, mark, restore, take,
};

fn checkpoint(db: &Connection, mode: &str) {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// A random workload with a record of every state it committed.
struct Workload {
    db: Connection,
    dice: Dice,
    states: Vec<String>,
}

impl Workload {
    fn new(path: &std::path::Path, seed: u64) -> Self {
        let db = application(path);
        db.busy_timeout(std::time::Duration::from_millis(1)).unwrap();
        let mut workload = Self { db, dice: Dice::new(seed), states: Vec::new() };
        workload.commit("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)");
        workload
    }

    fn commit(&mut self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
        self.states.push(dump(&self.db));
    }

    fn step(&mut self) {
        let id = self.dice.roll(400);
        let size = 1 + self.dice.roll(3000);
        match self.dice.roll(20) {
            0..8 => self.commit(&format!("INSERT INTO t(a) VALUES (randomblob({size}))")),
            8..12 => self.commit(&format!(
                "INSERT INTO t VALUES ({id}, randomblob({size}))
                 ON CONFLICT DO UPDATE SET a = randomblob({size})"
            )),
            12 => self.commit(&format!(
                "BEGIN; DELETE FROM t WHERE id > {id};
                 INSERT INTO t VALUES (100000 + abs(random()) % 100000, zeroblob({size})); COMMIT"
            )),
            13 => self.commit("VACUUM"),
            14 => drop(self.db.execute_batch("BEGIN; DELETE FROM t; ROLLBACK")),
            15 => checkpoint(&self.db, "PASSIVE"),
            16 => checkpoint(&self.db, "FULL"),
            17 => checkpoint(&self.db, "RESTART"),
            _ => checkpoint(&self.db, "TRUNCATE"),
        }
    }
}

async fn a_random_history_can_be_replayed(seed: u64) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let mut work = Workload::new(&path, seed);
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    drain(&mut opened, &mut log).await;
    work.states.clear();
    log.0.clear();
    let first = back_up(driver.as_ref(), None).await.unwrap();
    let (mut latest, start) = (back_up(driver.as_ref(), None).await.unwrap(), dump(&work.db));
    let mut copies = Vec::new();
    for _ in 0..150 {
        work.step();
        match work.dice.roll(10) {
            0..3 => drop(take(&mut opened, &mut log).await),
            3..5 => drain(&mut opened, &mut log).await,
            // Ended and begun again, with nothing written in between.
            5 => {
                drain(&mut opened, &mut log).await;
                drop(opened);
                opened = driver.open_log(mark(&log).as_ref()).await.unwrap();
                if let (Some(gap), false) = (&opened.gap, log.0.is_empty()) {
                    panic!("seed {seed}: {gap}");
                }
            }
            6 => {
                let next = back_up(driver.as_ref(), Some((&latest, &log))).await.unwrap();
                copies.push((next.evidence.clone(), dump(&work.db)));
                let (file, _) = restore(&next, &log, RecoveryTarget::Consistent, directory.path())
                    .await
                    .unwrap();
                assert_eq!(dump_file(&file), dump(&work.db), "seed {seed}");
                latest = next;
            }
            _ => {}
        }
    }
    drain(&mut opened, &mut log).await;
    let commits = commits(&log);
    assert_eq!(commits.len(), work.states.len(), "seed {seed}");
    let positions: HashMap<&LogPosition, usize> =
        commits.iter().enumerate().map(|(index, (position, _))| (position, index)).collect();
    for (index, (position, _)) in commits.iter().enumerate().step_by(7) {
        let until = RecoveryTarget::Position(position.clone());
        let (file, reached) = restore(&first, &log, until, directory.path()).await.unwrap();
        assert_eq!(reached.position.as_ref(), Some(position));
        assert_eq!(dump_file(&file), work.states[index], "seed {seed}, commit {index}");
    }
    for (evidence, state) in &copies {
        let at = evidence.consistent_at.as_ref().unwrap();
        let expected = positions.get(at).map(|index| &work.states[*index]);
        assert!(expected.is_none_or(|expected| expected == state), "seed {seed}: {at}");
    }
    let (file, _) = restore(&latest, &log, RecoveryTarget::Latest, directory.path()).await.unwrap();
    assert_eq!(dump_file(&file), dump(&work.db), "seed {seed}");
    assert!(!start.is_empty());
}

#[tokio::test]
async fn every_commit_of_random_histories_can_be_restored() {
    let usual = (1..=12_u64).map(|seed| seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for seed in seeds(usual) {
        a_random_history_can_be_replayed(seed).await;
    }
}

#[tokio::test]
async fn a_new_capture_of_a_log_too_long_to_be_read_ahead_begins_where_that_ends() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch(
        "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL; CREATE TABLE t(a);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 50)
         INSERT INTO t SELECT randomblob(1000000) FROM n;",
    )
    .unwrap();
    checkpoint(&db, "PASSIVE");
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let first = back_up(driver.as_ref(), None).await.unwrap();
    // The log is restarted over everything that it held.
    for _ in 0..3 {
        db.execute("INSERT INTO t VALUES (1)", []).unwrap();
    }
    let mut log = Log::default();
    drain(&mut opened, &mut log).await;
    assert_eq!(commits(&log).len(), 3);
    let (file, _) = restore(&first, &log, RecoveryTarget::Latest, directory.path()).await.unwrap();
    assert_eq!(dump_file(&file), dump(&db));
}
