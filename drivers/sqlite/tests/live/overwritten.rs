//! Files that other programs write over in place: same name, same inode, another database.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rusqlite::Connection;
use stillpoint_contract::{ErrorKind, LogMark, RecoveryTarget};
use tempfile::TempDir;

use crate::doubles::{Log, application, back_up, connect, drain, dump, dump_file, mark, restore};

/// A database in use, with everything in its log copied back.
fn in_use(directory: &TempDir) -> (PathBuf, Connection) {
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch(
        "CREATE TABLE t(a); INSERT INTO t VALUES (randomblob(20000)); PRAGMA wal_checkpoint;
         INSERT INTO t VALUES (randomblob(9000));",
    )
    .unwrap();
    (path, db)
}

/// Writes another database over the file, as `cat other.db > app.db` does. In another process:
/// closing the file in this one would drop the locks of every connection here.
fn write_over(path: &Path) {
    let other = path.with_file_name("other.db");
    application(&other).execute_batch("CREATE TABLE u(b); INSERT INTO u VALUES (1)").unwrap();
    let status = Command::new("cp").arg(&other).arg(path).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_file_that_is_written_over_ends_its_capture_with_a_gap_that_the_next_one_records() {
    let directory = TempDir::new().unwrap();
    let (path, db) = in_use(&directory);
    let driver = connect(&path).await;
    let first = back_up(driver.as_ref(), None).await.unwrap();
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    drain(&mut opened, &mut log).await;
    db.execute("INSERT INTO t VALUES (2)", []).unwrap();
    drain(&mut opened, &mut log).await;
    write_over(&path);
    let error = opened.capture.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap, "{error:?}");
    assert!(error.reason().unwrap().contains("wrote over"), "{error:?}");
    drop(opened);

    let end = mark(&log).unwrap();
    let first_mark = LogMark {
        position: first.evidence.consistent_at.clone().unwrap(),
        cursor: first.evidence.cursor.clone(),
    };
    for known in [&end, &first_mark] {
        let opened = driver.open_log(Some(known)).await.unwrap();
        assert!(opened.gap.as_deref().unwrap().contains("wrote over"), "{:?}", opened.gap);
        assert_ne!(opened.start.lineage, end.position.lineage, "two histories under one name");
    }
    let next = back_up(driver.as_ref(), Some((&first, &log))).await.unwrap();
    assert!(!next.evidence.incremental, "{}", next.evidence.method);
    assert!(next.evidence.method.contains("wrote over"), "{}", next.evidence.method);
    let position = next.evidence.consistent_at.clone().unwrap();
    assert_ne!(position.lineage, end.position.lineage);

    // From there on it is a history like any other.
    let again = LogMark { position, cursor: next.evidence.cursor.clone() };
    let opened = driver.open_log(Some(&again)).await.unwrap();
    assert_eq!((opened.gap, opened.start), (None, again.position));
    let third = back_up(driver.as_ref(), Some((&next, &Log::default()))).await.unwrap();
    assert!(third.evidence.incremental, "{}", third.evidence.method);
    assert_eq!(third.evidence.consistent_at, next.evidence.consistent_at);
}

#[tokio::test]
async fn a_file_that_is_written_over_while_nobody_looks_is_read_in_full() {
    for uses in [true, false] {
        let directory = TempDir::new().unwrap();
        let (path, db) = in_use(&directory);
        db.execute_batch("PRAGMA wal_checkpoint").unwrap();
        let db = uses.then_some(db);
        let driver = connect(&path).await;
        let first = back_up(driver.as_ref(), None).await.unwrap();
        write_over(&path);
        let log = Log::default();
        let next = back_up(driver.as_ref(), Some((&first, &log))).await.unwrap();
        assert!(!next.evidence.incremental, "in use {uses}: {}", next.evidence.method);
        assert_ne!(
            next.evidence.consistent_at.clone().unwrap().lineage,
            first.evidence.consistent_at.clone().unwrap().lineage
        );
        drop(db);
        if !uses {
            let until = RecoveryTarget::Consistent;
            let (file, _) = restore(&next, &log, until, directory.path()).await.unwrap();
            assert_eq!(dump_file(&file), dump_file(&path.with_file_name("other.db")));
        }
    }
}

#[tokio::test]
async fn what_sqlite_itself_writes_into_the_file_is_no_gap() {
    let directory = TempDir::new().unwrap();
    let (path, db) = in_use(&directory);
    let driver = connect(&path).await;
    let first = back_up(driver.as_ref(), None).await.unwrap();
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    for (round, mode) in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"].into_iter().cycle().enumerate()
    {
        if round == 40 {
            break;
        }
        db.execute_batch(&format!(
            "CREATE TABLE t{round}(a); INSERT INTO t VALUES (randomblob(9000));"
        ))
        .unwrap();
        if round % 3 != 0 {
            drain(&mut opened, &mut log).await;
        }
        let patience = std::time::Duration::from_millis(200);
        db.busy_timeout(patience).unwrap();
        db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        drain(&mut opened, &mut log).await;
        if round % 10 == 5 {
            drop(opened);
            opened = driver.open_log(mark(&log).as_ref()).await.unwrap();
            assert_eq!(opened.gap, None);
        }
        if round % 10 == 8 {
            let next = back_up(driver.as_ref(), Some((&first, &log))).await.unwrap();
            assert!(next.evidence.incremental, "{}", next.evidence.method);
        }
    }
    drain(&mut opened, &mut log).await;
    let (file, _) = restore(&first, &log, RecoveryTarget::Latest, directory.path()).await.unwrap();
    assert_eq!(dump_file(&file), dump(&db));
}
