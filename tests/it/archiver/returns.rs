//! A database that comes back as another file, or is mistaken for a copy of itself; rows that come
//! back with all that hangs on them.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{fs, path::Path};

use stillpoint::archiver::{
    Nobody, Quit, Reconciling, Returning, Term, Wanted, ledger_of, put_back, reconcile, verify,
};
use stillpoint_contract::{Conflict, code};

use super::shop::{InPostgres, Shop, Sqlite, Yard};

fn tokens(letter: &str, numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let mut all: Vec<String> = numbers.into_iter().map(|one| format!("{letter}{one}")).collect();
    all.sort();
    all
}

/// Brings a copy into the place of a database, as another file.
fn replace(copy: &Path, path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        drop(fs::remove_file(beside));
    }
    fs::rename(copy, path).unwrap();
}

fn copy(path: &Path, to: &Path) {
    let to = to.display().to_string();
    rusqlite::Connection::open(path).unwrap().execute("VACUUM INTO ?", [&to]).unwrap();
}

/// Invariant 15, where the restored database is another file: nothing goes on before somebody says
/// that it takes the place of the other one.
#[tokio::test(flavor = "multi_thread")]
async fn i15_a_database_that_was_restored_goes_on_once_it_is_adopted() {
    let yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..40, 1).await;
    let path = yard.shop.path();
    copy(&path, &path.with_extension("copy"));
    assert!(yard.run().await.unwrap().quit.is_done());
    replace(&path.with_extension("copy"), &path);

    let error = yard.run().await.unwrap_err();
    assert_eq!(error.code(), code::FOREIGN_DATABASE, "{error:?}");
    assert!(error.advice()[0].contains("reconcile orders --adopt"), "{error:?}");
    let driver = yard.shop.driver().await;
    let look = Reconciling::default();
    let (place, world) = (&yard.place, &yard.world);
    let error = reconcile(place, world, &*driver, look, &Nobody).await.unwrap_err();
    assert_eq!(error.code(), code::FOREIGN_DATABASE, "{error:?}");

    let adopts = Reconciling { adopts: true, prunes: true, notes: false };
    let found = reconcile(place, world, &*driver, adopts, &Nobody).await.unwrap();
    assert_eq!((found.pruned_rows, found.live.len()), (80, 0), "{found:?}");
    yard.fill(40..50, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!(yard.archived("orders").await, tokens("o", 0..50));
    assert_eq!(yard.live("orders").await.len(), 0);
}

/// Somebody reconciles with a copy, and then with the database again: nothing stays hidden.
#[tokio::test(flavor = "multi_thread")]
async fn i3_what_a_copy_of_the_database_hid_is_seen_again() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    let path = yard.shop.path();
    let (held, clone) = (path.with_extension("held"), path.with_extension("copy"));
    copy(&path, &clone);
    assert!(yard.run().await.unwrap().quit.is_done());
    copy(&path, &held);
    replace(&clone, &path);
    let adopts = Reconciling { adopts: true, ..Reconciling::default() };
    let (place, world) = (&yard.place, &yard.world);
    let driver = yard.shop.driver().await;
    let found = reconcile(place, world, &*driver, adopts, &Nobody).await.unwrap();
    assert_eq!(found.live.iter().map(|slice| slice.rows).sum::<u64>(), 20);
    assert_eq!(yard.archived("orders").await, Vec::<String>::new());

    replace(&held, &path);
    let driver = yard.shop.driver().await;
    assert!(yard.run().await.is_err(), "it is another table again");
    let nothing = ledger_of(place, &*driver).await.unwrap();
    assert_eq!(nothing, None, "of a table that is not the set's, no ledger counts");
    // It is adopted, but nobody looked: the run that follows does.
    let found = reconcile(place, world, &*driver, adopts, &Nobody).await.unwrap();
    assert_eq!(found.live, []);
    let ledger = ledger_of(place, &*driver).await.unwrap();
    let verified = verify(place, &world.cpu, ledger.as_deref(), |_| true).await.unwrap();
    assert_eq!((verified.rows, verified.damages.len()), (20, 0));
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    assert_eq!(yard.archived("orders").await, tokens("o", 0..20));
}

/// Rows come back with all that hangs on them, from several files, and into tables of their own.
async fn families<S: Shop>(mut yard: Yard<S>) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    yard.fill(0..30, 2).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let driver = yard.shop.driver().await;
    let put = async |condition: &str, staging: Option<&str>| {
        let terms = Wanted::terms_of(condition).unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        let staging = staging.map(str::to_owned);
        let returning = Returning { wanted, conflict: Conflict::Fail, staging };
        Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await.unwrap()
    };
    let back = put("id >= 5 and id < 15", None).await;
    let inserted: Vec<u64> = back.iter().map(|one| one.tally.inserted).collect();
    assert_eq!(inserted, [10, 20], "{back:?}");
    assert_eq!(yard.live("orders").await, tokens("o", 5..15));
    let items = |ids: std::ops::Range<i64>| ids.flat_map(|id| [id * 100, id * 100 + 1]);
    assert_eq!(yard.live("items").await, tokens("i", items(5..15)));

    let back = put("", Some("again")).await;
    let inserted: Vec<u64> = back.iter().map(|one| one.tally.inserted).collect();
    assert_eq!(inserted, [30, 60], "{back:?}");
    for (one, all) in back.iter().zip([tokens("o", 0..30), tokens("i", items(0..30))]) {
        let mut found = yard.shop.ask(&format!("SELECT token FROM {}", one.table)).await;
        found.sort();
        assert_eq!(found, all, "{}", one.table);
    }
    assert!(back[0].table.contains("again") && back[1].table.contains("again_items"), "{back:?}");
    assert_eq!(put("id = 1000", None).await, []);
    let odd = Term { column: "nothing".to_owned(), ..Wanted::terms_of("a = 1").unwrap().remove(0) };
    let wanted = Wanted { terms: vec![odd], ..Wanted::default() };
    let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
    let back = Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await;
    assert_eq!(back.unwrap_err().code(), code::NO_SUCH_ARCHIVE);
}

#[tokio::test(flavor = "multi_thread")]
async fn families_of_sqlite_come_back_together() {
    families(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn families_of_postgresql_come_back_together() {
    let Some(shop) = InPostgres::new(18).await else { return };
    families(Yard::new(shop, true)).await;
}
