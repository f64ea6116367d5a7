//! What is left, lost or brought elsewhere: files that nobody names, manifests and ledgers that are
//! gone, second copies that are the only ones.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::sync::Arc;

use bytes::Bytes;
use stillpoint::{
    archiver::{Place, Quit, Reconciling, SecondCopy, Wanted, find, ledger_of, verify},
    repository::store::{Key, MemoryStore, Store},
};
use stillpoint_contract::{ErrorKind, code};

use super::shop::{Shop, Sqlite, Yard};

const FILES: &str = "archive/orders/orders/";
const DOCUMENTS: &str = "archive/orders/_stillpoint/";

async fn keys(store: &dyn Store, folder: &str, ending: &str) -> Vec<Key> {
    let listed = store.list(folder).await.unwrap();
    let keys = listed.into_iter().map(|listed| listed.key);
    keys.filter(|key| key.as_str().ends_with(ending)).collect()
}

/// An erasure writes a batch anew while a run begins: the run has the set's lock, and the erasure
/// has not. Its file is on its way, and no garbage.
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_run_leaves_alone_what_an_erasure_is_about_to_name() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..40, 0).await;
    yard.rule.file_bytes = 1;
    yard.limits.rows_max = Some(20);
    assert_eq!(yard.run().await.unwrap().quit, Quit::RowsMax);
    let there = keys(&*yard.store, FILES, ".parquet").await;
    let (folder, name) = there[0].as_str().rsplit_once('/').unwrap();
    let run = name.split('-').next().unwrap();
    assert!(name.contains("-000001-0000-"), "{name}");
    let of =
        |writing: &str| Key::new(format!("{folder}/{run}-{writing}-0badf00d.parquet")).unwrap();
    let coming = of("000001-0001");
    let (lost, never) = (of("000001-0000"), of("000099-0000"));
    for key in [&coming, &lost, &never] {
        yard.store.create(key, Bytes::from_static(b"rows")).await.unwrap();
    }
    yard.limits.rows_max = None;
    assert!(yard.run().await.unwrap().quit.is_done());
    let there = keys(&*yard.store, FILES, ".parquet").await;
    assert!(there.contains(&coming), "{there:?}");
    assert!(!there.contains(&lost) && !there.contains(&never), "{there:?}");
}

/// Manifests are gone: that is told, and nothing goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_knows_more_than_the_manifests_is_an_alarm() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    for key in keys(&*yard.store, DOCUMENTS, "").await {
        if !key.as_str().starts_with(&format!("{DOCUMENTS}_")) {
            yard.store.delete(&key).await.unwrap();
        }
    }
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, code::LEDGER), "{error:?}");
    let ledger = yard.ledger().await;
    let found = verify(&yard.place, &yard.world.cpu, Some(&ledger), |_| true).await.unwrap();
    // The ledger says so, and so do the files of which nothing is written down.
    assert_eq!((found.damages.len(), found.rows), (2, 0), "{found:?}");
}

/// The ledger is gone, and the rows are in no table: they are not taken for rows that live again.
/// A few that are in their table hide no others; of an order that came back without its item, the
/// item stays archived.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_lost_is_written_again() {
    let yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..20, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    yard.shop.change(&["DROP TABLE stillpoint_archive_ledger".to_owned()]).await;
    // Some come back, by somebody else's hands.
    let back = [
        "INSERT INTO orders VALUES (3, 'o3', 'closed', 'n', 1)",
        "INSERT INTO orders VALUES (4, 'o4', 'closed', 'note 4', 4.50)",
        "INSERT INTO items VALUES (400, 4, 'i400')",
        "INSERT INTO orders VALUES (5, 'o5', 'closed', 'note 5', 5.50)",
    ];
    yard.shop.change(&back.map(str::to_owned)).await;
    assert_eq!(yard.run().await.unwrap_err().code(), code::LEDGER);

    let look = async |may| yard.reconcile(may).await.unwrap();
    let found = look(Reconciling::default()).await;
    let rows = |slices: &[stillpoint::archiver::LiveSlice]| -> u64 {
        slices.iter().map(|slice| slice.rows).sum()
    };
    assert_eq!((rows(&found.live), rows(&found.unnoted)), (0, 40), "{found:?}");
    let found = look(Reconciling { notes: true, ..Reconciling::default() }).await;
    assert_eq!((rows(&found.live), rows(&found.unnoted), found.archived.1), (0, 0, 40));
    // What is another row by now is in the archive as it was.
    let names = |letter: &str, left_out: &[i64], factor: i64| {
        let ids = (0..20).filter(|id| !left_out.contains(id));
        let mut names: Vec<String> = ids.map(|id| format!("{letter}{}", id * factor)).collect();
        names.sort();
        names
    };
    assert_eq!(yard.archived("orders").await, names("o", &[4, 5], 1));
    assert_eq!(yard.archived("items").await, names("i", &[4], 100));
    assert_eq!(yard.live("orders").await, ["o3", "o4", "o5"]);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 4);
    let found = look(Reconciling::default()).await;
    assert_eq!((found.live.len(), found.unnoted.len()), (0, 0), "{found:?}");
    let ledger = yard.ledger().await;
    let found = verify(&yard.place, &yard.world.cpu, Some(&ledger), |_| true).await.unwrap();
    assert_eq!(found.damages.len(), 0, "{found:?}");
}

/// The first place is lost: the second one knows all that the first one did.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_is_read_like_the_first_one() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let to = Place::new(Arc::clone(&second), "orders").unwrap();
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates = vec![Box::new(SecondCopy { from, to: to.clone(), cpu })];
    assert!(yard.run().await.unwrap().quit.is_done());
    let count =
        find(&to, &yard.world.cpu, &Wanted::default(), None, async |_| Ok(())).await.unwrap();
    assert_eq!(count, 20);
    assert!(ledger_of(&to, &*yard.shop.driver().await).await.unwrap().is_some());
    yard.gates.clear();
    yard.place = to;
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
}
