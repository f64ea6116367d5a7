//! A database that is written to, backed up, captured, lost, and brought back to any commit.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use rusqlite::Connection;
use stillpoint::{
    coordinator::{
        BackupJob, CaptureEvent, CaptureJob, Process, RestoreJob, Successor, Wanted, back_up,
        capture, plan, run, staging_beside,
    },
    pipeline::{Meter, id::ChunkSize},
    registry,
    repository::{
        InitOptions, Repository, WriteOptions,
        descriptor::Writers,
        keys::{PassphraseCost, Secret},
        store::MemoryStore,
    },
    world::World,
};
use stillpoint_contract::{Overwrite, RecoveryTarget, RestoreExtras};

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
    let job = || BackupJob {
        engine: &*engine,
        endpoint: &endpoint,
        database: "app",
        full: false,
        successor: Successor::InPlace,
        streams_max: NonZeroUsize::MIN,
        options: WriteOptions::default(),
        task: None,
        configuration: None,
    };
    let first = back_up(&world, &repository, job(), &meter).await.unwrap();
    assert!(!first.committed.commit.incremental);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let capturing = CaptureJob {
        engine: &*engine,
        endpoint: &endpoint,
        database: "app",
        flush: Duration::from_millis(50),
        retry_for: Duration::ZERO,
        take_over: false,
        process: Process::UNKNOWN,
    };
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
    let report = repository.verify_names(&meter).await.unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(repository.verify_backup(&second.committed, &meter).await.unwrap().problems, []);
    assert_eq!(repository.verify_log("app").await.unwrap().problems, []);
}
