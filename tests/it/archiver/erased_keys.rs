//! Invariant 16 where a key says who somebody is: manifests say between which keys rows are, and
//! say nothing of one that was erased.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{fs, sync::Arc, time::Duration};

use data_encoding::HEXLOWER;
use stillpoint::{
    archiver::{Aged, Erasing, Place, Quit, Reconciling, SecondCopy, Shelf, erase, expire, verify},
    policy::{Period, PeriodUnit},
    repository::store::{Key, MemoryStore, Store},
};

use super::{
    keys,
    returns::copy,
    shop::{Shop as _, Sqlite, Yard, tokens},
};

const ORDERS: u64 = 300;
const WHO: (&str, &str) = ("Art. 17", "dba");

fn address(number: u64) -> String {
    format!("zoe{number:03}@example.org")
}

fn hex(text: &str) -> String {
    HEXLOWER.encode(text.as_bytes())
}

/// Everything that any object of a store holds, as text where it is some.
async fn said(store: &dyn Store) -> String {
    let mut said = String::new();
    for name in keys::names(store, "").await {
        said.push_str(&String::from_utf8_lossy(&keys::bytes(store, &name).await));
    }
    said
}

/// Orders whose key is an address, in several batches, and a second copy of them.
async fn yard(encrypts: bool) -> (Yard<Sqlite>, Place, Arc<dyn Store>) {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.key = Some("sqlite_autoindex_orders_1".to_owned());
    yard.rule.file_bytes = 1;
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let mut to = Place::new(Arc::clone(&second), "orders").unwrap();
    if encrypts {
        yard.place = keys::place(&yard.store, 1);
        to = keys::place(&second, 2);
    }
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    let order = |number| {
        let token = address(number);
        format!("INSERT INTO orders VALUES ({number}, '{token}', 'closed', 'a note', 1)")
    };
    yard.shop.change(&(0..ORDERS).map(order).collect::<Vec<_>>()).await;
    (yard, to, second)
}

async fn is_in_no_object(encrypts: bool) {
    let (yard, to, second) = yard(encrypts).await;
    let path = yard.shop.path();
    let before = path.with_extension("copy");
    copy(&path, &before);
    assert_eq!(yard.run().await.unwrap().pruned_rows, ORDERS);
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let batches = &shelf.runs[0].batches;
    assert!(batches.len() > 1, "the end of one is where the next begins");
    // The last one of a slice, the last one of a batch, and the first one behind it.
    let end = batches[&1].batch.rows();
    let stores = [&yard.store, &second];
    for store in stores {
        let said = said(&**store).await;
        assert_eq!(said.contains(&hex(&address(end - 1))), !encrypts);
        assert_eq!(said.contains(&hex("@example.org")), !encrypts);
    }
    let places = [yard.place.clone(), to.clone()];
    let erased = [9, end - 1, end].map(address);
    for key in &erased {
        let subject = (None, "token", &**key);
        let did = erase(&places, &yard.world, subject, WHO, Erasing::Always);
        let did = Box::pin(did).await.unwrap();
        assert_eq!((did.rows, did.copied_rows), (1, 1), "in two places");
        for store in stores {
            let said = said(&**store).await;
            assert!(!said.contains(key) && !said.contains(&hex(key)), "{key}");
        }
    }
    let ledger = yard.ledger().await;
    for place in &places {
        let found = verify(place, &yard.world.cpu, Some(&ledger), |_| true).await.unwrap();
        assert_eq!((found.rows, found.damages.len()), (ORDERS - 3, 0), "{found:?}");
    }

    // The database goes back to before the run: all others are known, and deleted, by what is left.
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.clone().into_os_string();
        beside.push(suffix);
        drop(fs::remove_file(beside));
    }
    fs::write(&path, fs::read(&before).unwrap()).unwrap();
    let prunes = Reconciling { prunes: true, ..Reconciling::default() };
    let found = yard.reconcile(prunes).await.unwrap();
    assert_eq!((found.pruned_rows, found.live.len()), (ORDERS - 3, 0), "{found:?}");
    assert_eq!(yard.live("orders").await, erased);
    assert_eq!(yard.archived("orders").await.len() as u64, ORDERS - 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_key_that_is_erased_is_in_no_object() {
    is_in_no_object(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_key_that_is_erased_is_in_no_object_of_an_encrypted_repository() {
    is_in_no_object(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_no_key_of_a_row_outlives_its_time() {
    let (mut yard, to, second) = yard(false).await;
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.run().await.unwrap();
    let places = [yard.place.clone(), to];
    let later = yard.world.clock.now().checked_add_months(chrono::Months::new(3)).unwrap();
    let over = expire(&places, &yard.world, &yard.rule, later, false);
    assert!(!Box::pin(over).await.unwrap().batches.is_empty());
    for (store, place) in [&yard.store, &second].into_iter().zip(&places) {
        assert!(!said(&**store).await.contains(&hex("@example.org")));
        // What became of them is still known.
        let shelf = Shelf::load(place).await.unwrap();
        let batches = shelf.runs.iter().flat_map(|run| run.batches.values());
        assert_eq!(batches.map(|one| one.batch.rows()).sum::<u64>(), ORDERS);
    }
}

/// A run that waits goes on behind the last row of which it still knows the key, also where nothing
/// is left of a later batch: it does not read everything once more.
#[tokio::test(flavor = "multi_thread")]
async fn i16_a_run_that_waits_reads_no_more_again_than_what_is_erased() {
    for encrypts in [false, true] {
        let mut yard = Yard::new(Sqlite::new().await, false);
        if encrypts {
            yard.place = keys::place(&yard.store, 1);
        }
        yard.fill(0..30, 0).await;
        yard.gates.push(Box::new(Aged(Duration::from_hours(1))));
        assert_eq!(yard.run().await.unwrap().exported_rows, 30);
        let places = [yard.place.clone()];
        let did = erase(&places, &yard.world, (None, "id", "29"), WHO, Erasing::Always);
        assert_eq!(Box::pin(did).await.unwrap().rows, 1);
        for time in 0..3 {
            let report = yard.run().await.unwrap();
            assert!(matches!(report.quit, Quit::Gate(_)), "{report:?}");
            assert_eq!((report.exported_rows, report.erased_rows), (1, 1), "{time}: {report:?}");
        }
        yard.gates.clear();
        assert!(yard.run().await.unwrap().quit.is_done());
        assert_eq!(yard.live("orders").await, Vec::<String>::new());
        assert_eq!(yard.archived("orders").await, tokens(0..29));
    }
}

/// A manifest that another one replaced, and that cannot be read any more, keeps nobody from being
/// erased: keys may be in it, and it goes.
#[tokio::test(flavor = "multi_thread")]
async fn i16_a_damaged_manifest_that_counts_no_more_goes() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    yard.run().await.unwrap();
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let folder = format!("archive/orders/_stillpoint/{}", shelf.runs[0].plan.run);
    let first = Key::new(format!("{folder}/000001.0000.json")).unwrap();
    let places = [yard.place.clone()];
    for id in ["3", "4"] {
        let did = erase(&places, &yard.world, (None, "id", id), WHO, Erasing::Always);
        assert_eq!(Box::pin(did).await.unwrap().rows, 1);
        if id == "3" {
            keys::replace(&*yard.store, &first, b"{".to_vec()).await;
        }
    }
    assert!(!keys::names(&*yard.store, "").await.contains(&first));
    let ledger = yard.ledger().await;
    let found = verify(&yard.place, &yard.world.cpu, Some(&ledger), |_| true).await.unwrap();
    assert_eq!((found.rows, found.damages.len()), (18, 0), "{found:?}");
}
