//! Beginning again where a capture ended: when it can be proven that nothing is missing, and how
//! it is said when it cannot.

use std::{fs, path::Path, time::Duration};

use rusqlite::Connection;
use stillpoint_contract::{ErrorKind, LogMark, RecoveryTarget};
use tempfile::TempDir;

use crate::snapshot::set_modified;

use crate::doubles::{
    Copy, Log, application, back_up, commits, connect, drain, dump, dump_file, mark, restore,
};

fn checkpoint(db: &Connection, mode: &str) {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
}

/// Commits `count` transactions of a few pages each.
fn work(db: &Connection, count: u32) {
    for _ in 0..count {
        db.execute("INSERT INTO t VALUES (randomblob(9000))", []).unwrap();
    }
}

fn bystander(directory: &TempDir) -> (std::path::PathBuf, Connection) {
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)").unwrap();
    (path, db)
}

fn mark_of(copy: &Copy) -> LogMark {
    LogMark {
        position: copy.evidence.consistent_at.clone().unwrap(),
        cursor: copy.evidence.cursor.clone(),
    }
}

async fn leads_to(copy: &Copy, log: &Log, db: &Connection, directory: &Path) {
    let (file, _) = restore(copy, log, RecoveryTarget::Latest, directory).await.unwrap();
    assert_eq!(dump_file(&file), dump(db));
}

/// Captures everything, lets the log go, and dies.
async fn capture_all(path: &Path, db: &Connection) -> (Copy, Log) {
    let driver = connect(path).await;
    let copy = back_up(driver.as_ref(), None).await.unwrap();
    let mut opened = driver.open_log(Some(&mark_of(&copy))).await.unwrap();
    let mut log = Log::default();
    work(db, 5);
    drain(&mut opened, &mut log).await;
    checkpoint(db, "PASSIVE");
    drain(&mut opened, &mut log).await;
    drop(opened);
    std::thread::sleep(Duration::from_millis(100));
    (copy, log)
}

#[tokio::test]
async fn a_generation_that_restarted_meanwhile_is_joined_by_what_the_old_one_left() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    let (copy, mut log) = capture_all(&path, &db).await;
    let before = commits(&log).len();
    work(&db, 2);
    let driver = connect(&path).await;
    let mut opened = driver.open_log(mark(&log).as_ref()).await.unwrap();
    assert_eq!(opened.gap, None);
    drain(&mut opened, &mut log).await;
    assert_eq!(commits(&log).len(), before + 2);
    assert!(log.0.last().unwrap().head.succeeds.is_some(), "the log was not restarted");
    leads_to(&copy, &log, &db, directory.path()).await;
}

#[tokio::test]
async fn a_generation_that_ended_unseen_is_a_gap_and_a_backup_closes_it() {
    for unseen in [1, 20] {
        let directory = TempDir::new().unwrap();
        let (path, db) = bystander(&directory);
        let (_, mut log) = capture_all(&path, &db).await;
        work(&db, unseen);
        checkpoint(&db, "RESTART");
        work(&db, 2);
        let driver = connect(&path).await;
        let mut opened = driver.open_log(mark(&log).as_ref()).await.unwrap();
        assert!(opened.gap.is_some(), "{unseen} commits are missing and nobody says so");
        log.0.clear();
        let copy = back_up(driver.as_ref(), None).await.unwrap();
        work(&db, 2);
        drain(&mut opened, &mut log).await;
        assert_eq!(log.0[0].head.succeeds, None);
        leads_to(&copy, &log, &db, directory.path()).await;
    }
}

#[tokio::test]
async fn a_copy_of_a_resting_file_is_joined_by_the_log_that_begins_later() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    work(&db, 3);
    drop(db);
    assert!(!directory.path().join("app.db-wal").exists());
    let driver = connect(&path).await;
    let copy = back_up(driver.as_ref(), None).await.unwrap();
    let db = application(&path);
    work(&db, 3);
    let mut opened = driver.open_log(Some(&mark_of(&copy))).await.unwrap();
    assert_eq!(opened.gap, None);
    let mut log = Log::default();
    drain(&mut opened, &mut log).await;
    assert_eq!(commits(&log).len(), 3);
    leads_to(&copy, &log, &db, directory.path()).await;
}

#[tokio::test]
async fn a_change_that_leaves_length_and_time_of_a_resting_file_is_a_gap() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    work(&db, 3);
    drop(db);
    let at = std::time::UNIX_EPOCH + Duration::from_hours(490_896);
    set_modified(&path, at);
    let mark = mark_of(&back_up(connect(&path).await.as_ref(), None).await.unwrap());
    application(&path).execute_batch("UPDATE t SET a = zeroblob(9000)").unwrap();
    set_modified(&path, at);
    let opened = connect(&path).await.open_log(Some(&mark)).await.unwrap();
    assert!(opened.gap.is_some());
    drop(opened);
    let mark = mark_of(&back_up(connect(&path).await.as_ref(), None).await.unwrap());
    assert_eq!(connect(&path).await.open_log(Some(&mark)).await.unwrap().gap, None);
}

#[tokio::test]
async fn a_copy_taken_between_two_generations_is_joined_by_the_running_capture() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    work(&db, 3);
    drain(&mut opened, &mut log).await;
    drain(&mut opened, &mut log).await;
    checkpoint(&db, "TRUNCATE");
    let copy = back_up(driver.as_ref(), None).await.unwrap();
    work(&db, 3);
    drain(&mut opened, &mut log).await;
    leads_to(&copy, &log, &db, directory.path()).await;
}

#[tokio::test]
async fn a_file_that_was_set_back_is_a_gap() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    work(&db, 3);
    let wal = directory.path().join("app.db-wal");
    let earlier = fs::metadata(&wal).unwrap().len();
    let (_, log) = capture_all(&path, &db).await;
    // Everybody dies, and the log loses its end.
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(db);
    fs::remove_file(directory.path().join("app.db-shm")).unwrap();
    fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(earlier).unwrap();
    let opened = connect(&path).await.open_log(mark(&log).as_ref()).await.unwrap();
    assert!(opened.gap.unwrap().contains("set back"));
}

#[tokio::test]
async fn a_log_that_is_removed_by_hand_ends_the_capture() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    let mut opened = connect(&path).await.open_log(None).await.unwrap();
    work(&db, 1);
    fs::remove_file(directory.path().join("app.db-wal")).unwrap();
    let error = opened.capture.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap);
}

#[tokio::test]
async fn a_call_that_is_dropped_loses_no_segment() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    let mut opened = connect(&path).await.open_log(None).await.unwrap();
    let mut log = Log::default();
    for _ in 0..20 {
        work(&db, 1);
        tokio::select! {
            biased;
            segment = opened.capture.next() => log.0.extend(segment.unwrap()),
            () = tokio::task::yield_now() => {}
        }
    }
    drain(&mut opened, &mut log).await;
    assert_eq!(commits(&log).len(), 21);
}

#[tokio::test]
async fn what_is_wrong_with_a_mark_is_no_error() {
    let directory = TempDir::new().unwrap();
    let (path, db) = bystander(&directory);
    work(&db, 1);
    let driver = connect(&path).await;
    let good = mark_of(&back_up(driver.as_ref(), None).await.unwrap());
    for (position, cursor) in [
        ("elsewhere:7", &b""[..]),
        ("elsewhere:7", &good.cursor),
        ("elsewhere-rest-00:0", b""),
        (&format!("{}:99", good.position.lineage.as_str()), &good.cursor),
        (&good.position.to_string(), b"nonsense"),
        (&good.position.to_string(), &[1; 25]),
    ] {
        let mark = LogMark {
            position: position.parse().unwrap(),
            cursor: bytes::Bytes::copy_from_slice(cursor),
        };
        assert!(driver.open_log(Some(&mark)).await.unwrap().gap.is_some(), "{mark:?}");
    }
    assert_eq!(driver.open_log(Some(&good)).await.unwrap().gap, None);
}
