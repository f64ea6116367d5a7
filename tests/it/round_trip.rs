//! A database that is written to, backed up, captured, lost, and brought back to any commit.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::Connection;
use stillpoint::{
    coordinator::{
        CaptureEvent, CaptureJob, Preference, RestoreJob, Wanted, back_up, capture, choose, plan,
        run, staging_beside,
    },
    pipeline::{Meter, id::ChunkSize},
    registry,
    repository::{
        InitOptions, Repository,
        descriptor::Writers,
        drill::{DrillRecord, EngineCheck, RECORD_FORMAT, RestoredBackup},
        history::Committed,
        keys::{PassphraseCost, Secret},
        store::MemoryStore,
    },
    world::World,
};
use stillpoint_contract::{Overwrite, RecoveryTarget, RestoreExtras, Verdict};

use crate::support::jobs::{backup_of, capture_of};

async fn repository(world: &World) -> Repository {
    let cost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let secret = Some((Secret::passphrase("secret").unwrap(), "test".to_owned()));
    let chunk_size = ChunkSize::DEFAULT;
    let options = InitOptions { secret, cost, chunk_size, writers: Writers::Many };
    Repository::init(world.clone(), Arc::new(MemoryStore::default()), options).await.unwrap()
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v BLOB)", []).unwrap();
    connection
}

fn count(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_can_be_restored() {
    let world = World::real(2);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app ü.db");
    let connection = open(&path);
    let insert = |n: i64| {
        connection.execute("INSERT INTO t VALUES (?, randomblob(3000))", [n]).unwrap();
    };
    (0..100).for_each(&insert);
    let repository = repository(&world).await;
    let (url, engines) = (format!("sqlite:{}", path.display()), registry::engines(&world.clock));
    let (engine, endpoint) = registry::endpoint(&engines, &url).unwrap();
    let meter = Arc::new(Meter::default());
    let job = || backup_of(&*engine, &endpoint);
    let first = back_up(&world, &repository, job(), &meter).await.unwrap();
    assert!(!first.committed.commit.incremental);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let flush = Duration::from_millis(50);
    let capturing = CaptureJob { flush, ..capture_of(&*engine, &endpoint) };
    let mut positions = Vec::new();
    let stop_signal = async {
        stopped.await.ok();
    };
    let writing = async {
        for n in 100..160 {
            insert(n);
            world.clock.sleep(Duration::from_millis(10)).await;
        }
        let second = back_up(&world, &repository, job(), &meter).await.unwrap();
        assert!(second.committed.commit.incremental, "{}", second.method);
        for n in 160..200 {
            insert(n);
        }
        world.clock.sleep(Duration::from_millis(300)).await;
        stop.send(()).unwrap();
        second
    };
    let tell = |event: CaptureEvent| {
        if let CaptureEvent::Stored { position, at, .. } = event {
            positions.push((position, at));
        } else {
            println!("{event:?}");
        }
    };
    let captured = capture(&world, &repository, capturing, stop_signal, tell);
    let (captured, second) = tokio::join!(captured, writing);
    let captured = captured.unwrap();
    // What the first backup holds is not captured once more.
    assert_eq!(captured.transactions, 100, "{captured:?}");
    let restore = async |wanted: Wanted, name: &str| {
        let target = directory.path().join(name);
        let staging = staging_beside(&world, &target).unwrap();
        let (overwrite, extras) = (Overwrite::Never, RestoreExtras::default());
        let (engines, target) = (&engines, target.as_path());
        let job = RestoreJob { engines, database: "app", wanted, target, overwrite, extras };
        let resolved = plan(&repository, &job, &staging).await?;
        run(&world, &repository, &resolved, &meter).await.map(|r| (r, count(target), resolved))
    };
    let (report, rows, resolved) = restore(Wanted::Latest, "latest.db").await.unwrap();
    assert_eq!((rows, &report.reached.position), (200, &Some(captured.position.clone())));
    assert_eq!(resolved.chosen.backup, second.committed);
    assert_eq!(resolved.chosen.until, RecoveryTarget::Latest);
    let id = Wanted::Backup(first.committed.commit.backup.clone());
    assert_eq!(restore(id, "first.db").await.unwrap().1, 100);
    for (number, (position, at)) in positions.iter().enumerate() {
        let wanted = Wanted::Position(position.clone());
        let by_position = restore(wanted, &format!("p{number}.db")).await.unwrap();
        let wanted = Wanted::Time(at.unwrap());
        let by_time = restore(wanted, &format!("t{number}.db")).await.unwrap();
        assert_eq!(by_position.1, by_time.1, "{position} {at:?}");
        assert!((100..=200).contains(&by_time.1));
    }
    let later = Wanted::Time(world.clock.now() + chrono::TimeDelta::hours(1));
    let error = restore(later, "never.db").await.unwrap_err();
    assert_eq!(error.code().to_string(), "SP0704");
    assert!(!directory.path().join("never.db").exists());
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.contains("restoring"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(repository.verify_names(&meter).await.unwrap().problems, []);
    assert_eq!(repository.verify_backup(&second.committed, &meter).await.unwrap().problems, []);
    assert_eq!(repository.verify_log("app").await.unwrap().problems, []);
}

/// A drill of a backup that found damage.
fn damaging(world: &World, repository: &Repository, of: &Committed) -> DrillRecord {
    let (at, commit) = (world.clock.now(), &of.commit);
    let backup = RestoredBackup {
        id: commit.backup.clone(),
        at: commit.consistent_time,
        engine: commit.engine.clone(),
        engine_version: String::new(),
    };
    let check = EngineCheck {
        check: "files".to_owned(),
        verdict: Verdict::Failed,
        is_damage: true,
        says: vec!["page 3".to_owned()],
    };
    DrillRecord {
        format: RECORD_FORMAT,
        program: String::new(),
        repository: repository.id().to_owned(),
        drill: repository.new_drill(),
        started_by: String::new(),
        database: commit.database.clone(),
        started_at: at,
        finished_at: at,
        asked: "latest".to_owned(),
        is_random: false,
        backup: Some(backup),
        presented: None,
        reached: None,
        rpo_ms: None,
        rto_ms: None,
        phases: Vec::new(),
        restored_bytes: 0,
        log_bytes: 0,
        sandbox: None,
        checks: vec![check],
        rows: None,
        assertions: Vec::new(),
        teardown: String::new(),
        notes: Vec::new(),
        causes: vec!["files: page 3".to_owned()],
        passed: false,
    }
}

/// Row 65: what a drill found damaged is passed over by a restore where an older backup leads to
/// the same point, and told where none does; the next drill looks at it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn row_65_a_restore_passes_over_what_a_drill_found_damaged() {
    let world = World::real(2);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let connection = open(&path);
    let insert = |n: i64| {
        connection.execute("INSERT INTO t VALUES (?, randomblob(3000))", [n]).unwrap();
    };
    (0..20).for_each(&insert);
    let repository = repository(&world).await;
    let (url, engines) = (format!("sqlite:{}", path.display()), registry::engines(&world.clock));
    let (engine, endpoint) = registry::endpoint(&engines, &url).unwrap();
    let meter = Arc::new(Meter::default());
    let job = || backup_of(&*engine, &endpoint);
    let first = back_up(&world, &repository, job(), &meter).await.unwrap().committed;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let flush = Duration::from_millis(50);
    let capturing = CaptureJob { flush, ..capture_of(&*engine, &endpoint) };
    let stop_signal = async {
        stopped.await.ok();
    };
    let writing = async {
        (20..40).for_each(&insert);
        world.clock.sleep(Duration::from_millis(300)).await;
        let second = back_up(&world, &repository, job(), &meter).await.unwrap().committed;
        (40..60).for_each(&insert);
        world.clock.sleep(Duration::from_millis(300)).await;
        stop.send(()).unwrap();
        second
    };
    let captured = capture(&world, &repository, capturing, stop_signal, |_: CaptureEvent| ());
    let (captured, second) = tokio::join!(captured, writing);
    captured.unwrap();
    let planned = async |wanted: Wanted, name: &str| {
        let target = directory.path().join(name);
        let staging = staging_beside(&world, &target).unwrap();
        let (overwrite, extras) = (Overwrite::Never, RestoreExtras::default());
        let (engines, target) = (&engines, target.as_path());
        let job = RestoreJob { engines, database: "app", wanted, target, overwrite, extras };
        plan(&repository, &job, &staging).await.unwrap()
    };
    let found = planned(Wanted::Latest, "a.db").await.chosen;
    assert_eq!((&found.backup, found.warnings.len()), (&second, 0));

    repository.keep_drill(&damaging(&world, &repository, &second), "").await.unwrap();
    let resolved = planned(Wanted::Latest, "b.db").await;
    let chosen = &resolved.chosen;
    assert_eq!((&chosen.backup, &chosen.until), (&first, &RecoveryTarget::Latest));
    assert!(chosen.warnings[0].contains("was passed over"), "{:?}", chosen.warnings);
    run(&world, &repository, &resolved, &meter).await.unwrap();
    assert_eq!(count(&directory.path().join("b.db")), 60);
    let at = Wanted::Time(second.commit.consistent_time);
    assert_eq!(planned(at, "c.db").await.chosen.backup, first);
    // What is asked for by its name is what is restored.
    let named = planned(Wanted::Backup(second.commit.backup.clone()), "d.db").await.chosen;
    assert_eq!(named.backup, second);
    assert!(named.warnings[0].contains("is suspect: drill "), "{:?}", named.warnings);
    let timeline = repository.timeline("app").await.unwrap();
    let newest = (&Wanted::Latest, Preference::Newest);
    let drilled = choose(&repository, &timeline, &*engine, newest.0, newest.1).await.unwrap();
    assert_eq!((drilled.backup, drilled.warnings.len()), (second.clone(), 1));

    // Where nothing else leads there, there is a warning.
    repository.keep_drill(&damaging(&world, &repository, &first), "").await.unwrap();
    let found = planned(Wanted::Latest, "e.db").await.chosen;
    assert_eq!(found.backup, second);
    assert!(found.warnings[0].contains("is suspect"), "{:?}", found.warnings);
}
