//! Rows that wait for a verified backup of their database: none that is older than their files, or
//! damaged, or of another database of the same name, lets them go.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{path::Path, sync::Arc};

use rusqlite::Connection;
use stillpoint::{
    archiver::{BackedUp, Quit},
    coordinator::{BackupJob, Successor, back_up},
    pipeline::Meter,
    registry,
    repository::{
        Problem, Repository, VerifyReport,
        history::Committed,
        store::{MemoryStore, Store},
    },
};

use super::shop::{Shop as _, Sqlite, Yard};
use crate::support::{jobs::backup_of, session::init, world::TestClock};

/// The name of the shop's database, in repositories.
const NAME: &str = "app";

/// Takes a backup of a file by that name, whatever else has it.
async fn backup(yard: &Yard<Sqlite>, repository: &Repository, path: &Path) -> Committed {
    let engines = registry::engines(&yard.world.clock);
    let url = format!("sqlite:{}", path.display());
    let (engine, endpoint) = registry::endpoint(&engines, &url).unwrap();
    let usual = backup_of(&*engine, &endpoint);
    let job = BackupJob { database: NAME, full: true, successor: Successor::Anybody, ..usual };
    let meter = Arc::new(Meter::default());
    Box::pin(back_up(&yard.world, repository, job, &meter)).await.unwrap().committed
}

/// Lets rows wait for backups that are in a store.
async fn wait_for(yard: &mut Yard<Sqlite>, store: &Arc<dyn Store>) {
    let world = yard.world.clone();
    let repository = Repository::open(world, Arc::clone(store), None, None).await.unwrap();
    let identity = yard.shop.driver().await.probe().await.unwrap().identity.id;
    yard.gates = vec![Box::new(BackedUp { repository, database: NAME.to_owned(), identity })];
}

/// A run deletes nothing; why.
async fn waits(yard: &Yard<Sqlite>, what: &str) -> String {
    let report = yard.run().await.unwrap();
    assert_eq!((report.pruned_rows, yard.live("orders").await.len()), (0, 20), "{what}");
    match report.quit {
        Quit::Gate(why) => why,
        quit => panic!("{what}: {quit:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_verified_backup_of_the_same_database_that_began_later_lets_rows_go() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    let clock = TestClock::new();
    yard.world.clock = Arc::<TestClock>::clone(&clock);
    yard.fill(0..20, 0).await;
    let path = yard.shop.path();
    let [store, empty]: [Arc<dyn Store>; 2] =
        [Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default())];
    let repository = init(yard.world.clone(), Arc::clone(&store)).await.unwrap();
    init(yard.world.clone(), Arc::clone(&empty)).await.unwrap();
    let intact = VerifyReport::default();
    let before = backup(&yard, &repository, &path).await;
    assert!(repository.prove(&before, &intact).await.unwrap());
    clock.advance(3600);

    wait_for(&mut yard, &empty).await;
    let why = waits(&yard, "no backup").await;
    assert!(why.contains("no verified backup of app"), "{why}");
    wait_for(&mut yard, &store).await;
    waits(&yard, "a backup from before").await;
    clock.advance(300);
    let soon = backup(&yard, &repository, &path).await;
    assert!(repository.prove(&soon, &intact).await.unwrap());
    waits(&yard, "a backup from before, by a clock that is five minutes ahead").await;

    clock.advance(1200);
    let later = backup(&yard, &repository, &path).await;
    waits(&yard, "a backup that nobody read back").await;
    let problem = Problem {
        object: "a pack".to_owned(),
        what: "it is gone".to_owned(),
        backups: vec![later.commit.backup.clone()],
    };
    let damaged = VerifyReport { problems: vec![problem], ..VerifyReport::default() };
    assert!(repository.prove(&later, &damaged).await.unwrap());
    waits(&yard, "a damaged backup").await;

    let other = path.with_file_name("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE zz (n)").unwrap();
    let foreign = backup(&yard, &repository, &other).await;
    assert!(repository.prove(&foreign, &intact).await.unwrap());
    let why = waits(&yard, "a backup of another file").await;
    assert!(why.contains("another database") && why.contains("other.db"), "{why}");

    let right = backup(&yard, &repository, &path).await;
    assert!(repository.prove(&right, &intact).await.unwrap());
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit, report.pruned_rows), (Quit::Finished, 20));
}
