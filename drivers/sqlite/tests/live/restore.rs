//! Restores: where they stop, and what they refuse to overwrite.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use stillpoint_contract::{Engine, ErrorKind, Overwrite, PartName, RecoveryTarget, code};
use tempfile::TempDir;

use crate::doubles::{
    Log, application, back_up, commits, connect, drain, dump, dump_file, engine, plan, restore,
    restore_to,
};

#[tokio::test]
async fn a_restore_stops_at_times_and_positions() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a)").unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let base = back_up(driver.as_ref(), None).await.unwrap();
    let (mut log, mut states) = (Log::default(), Vec::new());
    drain(&mut opened, &mut log).await;
    for i in 0..5 {
        db.execute("INSERT INTO t VALUES (?1)", [i]).unwrap();
        states.push(dump(&db));
        drain(&mut opened, &mut log).await;
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    let all = commits(&log);
    let commits = &all[all.len() - 5..];
    for (index, (_, at)) in commits.iter().enumerate() {
        let until = RecoveryTarget::Time(*at);
        let (file, reached) = restore(&base, &log, until, directory.path()).await.unwrap();
        assert_eq!(dump_file(&file), states[index]);
        assert_eq!(reached.committed_at, Some(*at));
    }
    let beyond = commits[4].0.at(commits[4].0.offset + 1);
    let error = restore(&base, &log, RecoveryTarget::Position(beyond), directory.path()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Gap);
    db.execute_batch("BEGIN; INSERT INTO t SELECT randomblob(9000) FROM t; COMMIT").unwrap();
    drain(&mut opened, &mut log).await;
    let inside = commits[4].0.at(commits[4].0.offset + 1);
    let error = restore(&base, &log, RecoveryTarget::Position(inside), directory.path()).await;
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Missing, code::UNREACHABLE_POINT));
    assert_eq!(error.facts().iter().filter(|(label, _)| *label == "nearest").count(), 2);
}

#[tokio::test]
async fn a_transaction_larger_than_a_segment_is_applied_whole_or_not_at_all() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a)").unwrap();
    let driver = connect(&path).await;
    let mut opened = driver.open_log(None).await.unwrap();
    let base = back_up(driver.as_ref(), None).await.unwrap();
    let mut log = Log::default();
    db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let small = dump(&db);
    db.execute_batch(
        "BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 40)
         INSERT INTO t SELECT randomblob(1000000) FROM n; COMMIT",
    )
    .unwrap();
    drain(&mut opened, &mut log).await;
    assert!(log.0.len() >= 3, "{}", log.0.len());
    assert!(log.0.iter().any(|segment| segment.head.events.is_empty()));
    let commits = commits(&log);
    let at = |index: usize| RecoveryTarget::Position(commits[index].0.clone());
    let last = commits.len() - 1;
    let (file, _) = restore(&base, &log, at(last), directory.path()).await.unwrap();
    assert_eq!(dump_file(&file), dump(&db));
    let (file, _) = restore(&base, &log, at(last - 1), directory.path()).await.unwrap();
    assert_eq!(dump_file(&file), small);
    let torn = Log(log.0[..log.0.len() - 1].to_vec());
    let (file, _) = restore(&base, &torn, RecoveryTarget::Latest, directory.path()).await.unwrap();
    assert_eq!(dump_file(&file), small);
}

#[tokio::test]
async fn an_existing_target_is_replaced_only_on_demand_and_never_while_in_use() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let copy = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    let state = dump(&db);
    db.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    let log = Log::default();
    let until = || RecoveryTarget::Consistent;
    let error = restore_to(&copy, &log, until(), &path, Overwrite::Never).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::TARGET_EXISTS));
    let error = restore_to(&copy, &log, until(), &path, Overwrite::Replace).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::TARGET_IN_USE));
    drop(db);
    restore_to(&copy, &log, until(), &path, Overwrite::Replace).await.unwrap();
    assert_eq!(dump_file(&path), state);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_schema_that_only_its_application_understands_is_restored() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch(
        "CREATE TABLE t(a TEXT COLLATE NOCASE PRIMARY KEY); INSERT INTO t VALUES ('x');
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'KLINGON');
         INSERT INTO sqlite_schema VALUES
             ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING warp(a)');",
    )
    .unwrap();
    drop(db);
    let copy = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    let log = Log::default();
    restore(&copy, &log, RecoveryTarget::Consistent, directory.path()).await.unwrap();
}

#[tokio::test]
async fn a_log_left_by_another_database_is_never_applied() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let copy = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    let target = directory.path().join("target.db");
    let stale = directory.path().join("target.db-wal");
    fs::copy(directory.path().join("app.db-wal"), &stale).unwrap();
    let log = Log::default();
    let until = || RecoveryTarget::Consistent;
    let error = restore_to(&copy, &log, until(), &target, Overwrite::Never).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::TARGET_EXISTS));
    assert!(stale.exists() && !target.exists());
    restore_to(&copy, &log, until(), &target, Overwrite::Replace).await.unwrap();
    assert!(!stale.exists());
    assert_eq!(dump_file(&target), dump(&db));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_restored_file_is_open_to_nobody_who_could_not_read_the_source() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    application(&path).execute_batch("CREATE TABLE t(a)").unwrap();
    let until = || RecoveryTarget::Consistent;
    let log = Log::default();
    let old = directory.path().join("old.db");
    for source in [0o600, 0o640, 0o664, 0o444] {
        fs::set_permissions(&path, fs::Permissions::from_mode(source)).unwrap();
        let mut copy = back_up(connect(&path).await.as_ref(), None).await.unwrap();
        let (file, _) = restore(&copy, &log, until(), directory.path()).await.unwrap();
        assert_eq!(mode(&file), source);
        fs::write(&old, "").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
        restore_to(&copy, &log, until(), &old, Overwrite::Replace).await.unwrap();
        assert_eq!(mode(&old), 0o644 & source, "what both allow");
        for (spec, _) in copy.parts.values_mut() {
            spec.attributes.clear();
        }
        let (file, _) = restore(&copy, &log, until(), directory.path()).await.unwrap();
        assert_eq!(mode(&file), 0o600, "a backup that does not say");
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_replaced_is_as_it_was() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let copy = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    db.execute_batch("INSERT INTO t VALUES (2)").unwrap();
    // A rename does not reach another file system.
    let far = TempDir::new_in("/dev/shm").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(far.path()), device(directory.path()), "/dev/shm and TMPDIR are one");
    let target = far.path().join("target.db");
    for suffix in ["", "-wal"] {
        let name = |base: &Path| format!("{}{suffix}", base.display());
        fs::copy(name(&path), name(&target)).unwrap();
    }
    let before = names(far.path());
    let staging = TempDir::new_in(directory.path()).unwrap();
    let until = RecoveryTarget::Consistent;
    let plan = plan(&copy, &until, &target, staging.path(), Overwrite::Replace).await.unwrap();
    let name = PartName::new("main").unwrap();
    fs::write(plan.place(&name).unwrap(), &copy.parts[&name].1).unwrap();
    engine().publish(&plan).await.unwrap_err();
    assert_eq!(names(far.path()), before);
    assert_eq!(dump_file(&target), dump(&db), "the old database, with its log");
}

#[tokio::test]
async fn a_link_to_nothing_is_restored_to_what_it_names() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.db");
    let db = application(&path);
    db.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let copy = back_up(connect(&path).await.as_ref(), None).await.unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("data")).unwrap();
    symlink("data/real.db", at("second.db")).unwrap();
    symlink(at("second.db"), at("first.db")).unwrap();
    let log = Log::default();
    let until = || RecoveryTarget::Consistent;
    restore_to(&copy, &log, until(), &at("first.db"), Overwrite::Never).await.unwrap();
    assert!(fs::symlink_metadata(at("first.db")).unwrap().is_symlink());
    assert_eq!(dump_file(&at("data/real.db")), dump(&db));
    let again = restore_to(&copy, &log, until(), &at("first.db"), Overwrite::Never).await;
    assert_eq!(again.unwrap_err().code(), code::TARGET_EXISTS);
    symlink("round.db", at("round.db")).unwrap();
    let round = restore_to(&copy, &log, until(), &at("round.db"), Overwrite::Never).await;
    assert_eq!(round.unwrap_err().kind(), ErrorKind::Invalid);
}
