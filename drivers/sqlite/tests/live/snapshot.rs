//! Backups: what they hold, what they keep, what they refuse.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rusqlite::Connection;
use stillpoint_contract::{Capabilities, Engine, ErrorKind, LogSupply, RecoveryTarget, code};
use tempfile::TempDir;

use crate::doubles::{
    Log, application, back_up, connect, drain, dump, dump_file, endpoint, engine, restore,
};

async fn round_trip(path: &Path, directory: &Path) -> String {
    let copy = back_up(connect(path).await.as_ref(), None).await.unwrap();
    let (restored, _) =
        restore(&copy, &Log::default(), RecoveryTarget::Consistent, directory).await.unwrap();
    dump_file(&restored)
}

#[tokio::test]
async fn every_page_size_and_vacuum_mode_survives() {
    let directory = TempDir::new().unwrap();
    for page_size in [512, 1024, 4096, 8192, 65536] {
        for auto_vacuum in ["NONE", "FULL", "INCREMENTAL"] {
            let path = directory.path().join(format!("{page_size}-{auto_vacuum} ü.db"));
            let before = Connection::open(&path).unwrap();
            before
                .execute_batch(&format!(
                    "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum};
                     PRAGMA journal_mode=WAL;
                     CREATE TABLE t(a TEXT PRIMARY KEY, b BLOB) WITHOUT ROWID;
                     CREATE VIRTUAL TABLE f USING fts5(body);"
                ))
                .unwrap();
            let db = application(&path);
            db.execute_batch(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 300)
                 INSERT INTO t SELECT 'key ' || i, randomblob(i) FROM n;
                 INSERT INTO f SELECT 'word' || (abs(random()) % 50) FROM t;
                 DELETE FROM t WHERE a LIKE '%7';",
            )
            .unwrap();
            assert_eq!(round_trip(&path, directory.path()).await, dump(&db));
        }
    }
}

#[tokio::test]
async fn a_rollback_journal_database_is_backed_up_and_its_log_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("old.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(1),(2);").unwrap();
    assert_eq!(round_trip(&path, directory.path()).await, dump(&db));
    let driver = connect(&path).await;
    let Capabilities { log, .. } = driver.probe().await.unwrap().capabilities;
    assert_eq!(log, LogSupply::Never);
    let error = driver.open_log(None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, code::UNSUITABLE_DATABASE));
    assert!(error.advice()[0].contains("PRAGMA journal_mode=WAL"), "{error:?}");
}

#[tokio::test]
async fn an_empty_file_is_an_empty_database() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("empty.db");
    fs::write(&path, "").unwrap();
    round_trip(&path, directory.path()).await;
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "the source was written");
}

#[tokio::test]
async fn what_is_no_database_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("text.db"), "not a database at all, just text ".repeat(100)).unwrap();
    fs::write(at("short.db"), "short").unwrap();
    let noise: Vec<u8> = (0..8192_u32)
        .flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..1].to_vec())
        .collect();
    fs::write(at("encrypted.db"), noise).unwrap();
    for (name, kind, number) in [
        ("text.db", ErrorKind::Unsupported, code::NOT_A_DATABASE),
        ("short.db", ErrorKind::Unsupported, code::NOT_A_DATABASE),
        ("encrypted.db", ErrorKind::Unsupported, code::NOT_A_DATABASE),
        (".", ErrorKind::Unsupported, code::NOT_A_DATABASE),
        ("missing.db", ErrorKind::Missing, code::NO_DATABASE),
    ] {
        let error = engine().connect(&endpoint(&at(name))).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, number), "{name}: {error:?}");
        assert!(error.facts().iter().any(|(label, _)| *label == "file"), "{name}");
    }
}

#[tokio::test]
async fn an_exclusive_holder_is_reported_as_busy() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("held.db");
    let db = application(&path);
    db.execute_batch("PRAGMA locking_mode=EXCLUSIVE; CREATE TABLE t(a);").unwrap();
    let mut endpoint = endpoint(&path);
    endpoint.settings.insert("busy_timeout_ms".into(), "50".into());
    let error = engine().connect(&endpoint).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Busy, code::DATABASE_BUSY), "{error:?}");
}

#[tokio::test]
async fn a_backup_leaves_nothing_beside_a_database_that_nobody_uses() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("idle.db");
    application(&path).execute_batch("CREATE TABLE t(a)").unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let first = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    let driver = connect(&path).await;
    let again = back_up(driver.as_ref(), Some((&first, &Log::default()))).await.unwrap();
    assert_eq!(again.evidence.consistent_at, first.evidence.consistent_at);
    assert!(again.evidence.incremental);
    assert_eq!(again.written_bytes, 0);
}

/// Sets when a file was modified, as `touch -d`, `rsync -t` and `cp -p` do.
pub(crate) fn set_modified(path: &Path, at: std::time::SystemTime) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_modified(at).unwrap();
}

#[tokio::test]
async fn a_change_that_leaves_length_and_time_of_a_resting_file_is_backed_up() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("idle.db");
    application(&path)
        .execute_batch("CREATE TABLE t(v); INSERT INTO t VALUES ('before'), ('before')")
        .unwrap();
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_hours(490_896);
    set_modified(&path, at);
    let first = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    let length = fs::metadata(&path).unwrap().len();
    application(&path).execute_batch("UPDATE t SET v = 'after!'").unwrap();
    set_modified(&path, at);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let log = Log::default();
    let next = back_up(connect(&path).await.as_ref(), Some((&first, &log))).await.unwrap();
    assert!(!next.evidence.incremental, "{}", next.evidence.method);
    let (restored, _) =
        restore(&next, &log, RecoveryTarget::Consistent, directory.path()).await.unwrap();
    assert_eq!(dump_file(&restored), dump_file(&path));
}

#[tokio::test]
async fn a_resting_file_under_a_name_of_the_old_form_is_read_in_full() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("idle.db");
    application(&path).execute_batch("CREATE TABLE t(a)").unwrap();
    let driver = connect(&path).await;
    let mut first = back_up(driver.as_ref(), None).await.unwrap();
    let named = first.evidence.consistent_at.clone().unwrap();
    let (identity, _) = named.lineage.as_str().split_once("-rest-").unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let mut old = blake3::Hasher::new();
    old.update(&metadata.mtime().to_le_bytes());
    old.update(&metadata.mtime_nsec().to_le_bytes());
    old.update(&metadata.size().to_le_bytes());
    let old = format!("{identity}-rest-{}:0", &old.finalize().to_hex()[..16]);
    first.evidence.consistent_at = Some(old.parse().unwrap());
    let next = back_up(driver.as_ref(), Some((&first, &Log::default()))).await.unwrap();
    assert!(!next.evidence.incremental, "{}", next.evidence.method);
    assert_eq!(next.evidence.consistent_at, Some(named));
}

#[tokio::test]
async fn an_increment_writes_only_what_changed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000)
         INSERT INTO t SELECT i, randomblob(1000) FROM n;
         PRAGMA wal_checkpoint(TRUNCATE);",
    )
    .unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let mut log = Log::default();
    let mut base = back_up(driver.as_ref(), None).await.unwrap();
    for round in 0..6 {
        db.execute("UPDATE t SET a = randomblob(1000) WHERE id = 77 + ?1", [round]).unwrap();
        match round {
            1 => db.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap(),
            3 => db.execute_batch("DELETE FROM t WHERE id > 3000; VACUUM;").unwrap(),
            _ => {}
        }
        if round != 2 {
            drain(&mut opened, &mut log).await;
            drain(&mut opened, &mut log).await;
        }
        if round == 4 {
            // Everything is copied back and the log restarts.
            db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            db.execute("UPDATE t SET a = randomblob(1000) WHERE id = 5", []).unwrap();
            drain(&mut opened, &mut log).await;
        }
        let next = back_up(driver.as_ref(), Some((&base, &log))).await.unwrap();
        assert!(next.evidence.incremental, "round {round}: {}", next.evidence.method);
        if round != 3 {
            assert!(next.written_bytes < 200_000, "round {round}: {}", next.written_bytes);
        }
        let (restored, _) =
            restore(&next, &log, RecoveryTarget::Consistent, directory.path()).await.unwrap();
        assert_eq!(dump_file(&restored), dump(&db), "round {round}");
        base = next;
    }
}

#[tokio::test]
async fn a_database_that_is_replaced_is_not_backed_up_under_its_old_name() {
    let directory = TempDir::new().unwrap();
    let (path, other) = (directory.path().join("app.db"), directory.path().join("other.db"));
    application(&path).execute_batch("CREATE TABLE t(a)").unwrap();
    application(&other).execute_batch("CREATE TABLE u(a)").unwrap();
    let driver = connect(&path).await;
    fs::rename(&other, &path).unwrap();
    let error = back_up(driver.as_ref(), None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Departed, code::SOURCE_VANISHED));
}

#[tokio::test]
async fn a_file_with_two_names_is_refused_by_both_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let (path, second) = (directory.path().join("app.db"), directory.path().join("hard.db"));
    let link = directory.path().join("link.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(round_trip(&link, directory.path()).await, dump(&db), "a symbolic link is followed");
    fs::hard_link(&path, &second).unwrap();
    for (name, other) in [(&second, &path), (&path, &second), (&link, &second)] {
        let error = engine().connect(&endpoint(name)).await.unwrap_err();
        let number = code::UNSUITABLE_DATABASE;
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, number), "{error:?}");
        let other = fs::canonicalize(other).unwrap().display().to_string();
        assert!(error.facts().iter().any(|(_, fact)| *fact == other), "{error:?}");
    }
    assert!(!directory.path().join("hard.db-wal").exists());
    fs::remove_file(&second).unwrap();
    assert_eq!(round_trip(&path, directory.path()).await, dump(&db));
}

/// A rollback-journal database of about `mebibytes`.
fn old_kind(path: &Path, mebibytes: u32) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE t(a);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {mebibytes})
         INSERT INTO t SELECT zeroblob(1 << 20) FROM n;"
    ))
    .unwrap();
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_of_a_rollback_journal_database_has_no_name_that_could_stay_behind() {
    let directory = TempDir::new().unwrap();
    let scratch = TempDir::new().unwrap();
    let path = directory.path().join("old.db");
    drop(old_kind(&path, 64));
    let mut endpoint = endpoint(&path);
    endpoint.settings.insert("scratch".into(), scratch.path().to_str().unwrap().into());
    let driver = engine().connect(&endpoint).await.unwrap();
    let backup = tokio::spawn(async move { back_up(driver.as_ref(), None).await });
    while !backup.is_finished() {
        for entry in fs::read_dir(scratch.path()).unwrap().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            assert!(metadata.is_file() && metadata.len() == 0, "{entry:?}: {metadata:?}");
        }
    }
    let copy = backup.await.unwrap().unwrap();
    assert_eq!(copy.written_bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_writes_does_not_make_a_backup_hold_up_the_writers() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("old.db");
    let db = old_kind(&path, 32);
    db.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    // The burst is short whatever the disk does.
    db.execute_batch("PRAGMA synchronous=OFF").unwrap();
    let driver = connect(&path).await;
    let backup = tokio::spawn(async move { back_up(driver.as_ref(), None).await });
    let writer = tokio::task::spawn_blocking(move || {
        for i in 0..150 {
            db.execute("INSERT INTO t VALUES (?1)", [i]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    writer.await.unwrap();
    let method = backup.await.unwrap().unwrap().evidence.method;
    assert!(!method.contains("in one step"), "{method}");
}
