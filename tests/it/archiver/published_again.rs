//! Invariant 15, for those who read files by themselves: what query engines are told of, and what
//! is counted, has no row that lives in its table again after a restore.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;
use stillpoint::{
    archiver::{Overlap, Reconciling, Shelf, duckdb_views, hive_tables},
    policy::FileFormat,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use stillpoint_testcontainers::DuckDb;

use super::{
    iceberg_seen::{local, publish},
    returns::{copy, replace},
    shop::{Shop as _, Sqlite, Yard, tokens},
};
use crate::serving::ward::{HEAD, Ward};

/// Forty orders with an item each, in a batch of four slices, that came back with a restore.
async fn restored(root: &Path, format: FileFormat) -> Yard<Sqlite> {
    let mut yard = Yard::in_store(Sqlite::new().await, true, local(root).await);
    yard.rule.format = format;
    yard.fill(0..40, 1).await;
    let path = yard.shop.path();
    copy(&path, &path.with_extension("copy"));
    assert!(yard.run().await.unwrap().quit.is_done());
    replace(&path.with_extension("copy"), &path);
    yard
}

async fn look(yard: &Yard<Sqlite>, prunes: bool) -> Overlap {
    yard.reconcile(Reconciling { adopts: true, prunes, notes: false }).await.unwrap()
}

async fn duckdb(yard: &Yard<Sqlite>) -> Result<String> {
    duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await
}

async fn hive(yard: &Yard<Sqlite>) -> Result<String> {
    hive_tables(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await
}

/// The texts of one column, sorted.
fn seen(engine: &DuckDb, views: &str, query: &str) -> Vec<String> {
    let answer = engine.query(&format!("{views}\n{query}"));
    let answer = answer.unwrap_or_else(|error| panic!("{views}\n{query}\n{error}"));
    let value = |line: &str| serde_json::from_str::<[String; 1]>(line).unwrap()[0].clone();
    let mut seen: Vec<String> = answer.lines().map(value).collect();
    seen.sort();
    seen
}

fn items(ids: impl Iterator<Item = i64>) -> Vec<String> {
    let mut items: Vec<String> = ids.map(|id| format!("i{}", id * 100)).collect();
    items.sort();
    items
}

fn is_refused(error: &Error, engine: &str) {
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Refused, code::ARCHIVE_PUBLISH),
        "{engine}"
    );
    assert!(error.advice()[0].contains("archive reconcile orders --prune"), "{engine}: {error:?}");
}

/// While all rows of a file live again, it is left out and named; a view for DuckDB has those rows
/// of a file that are gone, and no others; what cannot be told so is refused.
#[tokio::test(flavor = "multi_thread")]
async fn i15_rows_that_live_again_are_in_no_table_of_a_query_engine() {
    let Some(engine) = DuckDb::required() else { return };
    let (folder, tables) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let yard = restored(folder.path(), FileFormat::Parquet).await;
    let found = look(&yard, false).await;
    assert_eq!(found.live.iter().map(|slice| slice.rows).sum::<u64>(), 80);

    for told in [duckdb(&yard).await.unwrap(), hive(&yard).await.unwrap()] {
        assert!(told.lines().all(|line| line.starts_with("-- ")), "{told}");
        assert_eq!(told.matches("its rows live in their table again").count(), 2, "{told}");
    }
    let published = publish(&yard, tables.path()).await.unwrap();
    for one in &published {
        assert_eq!((one.files, one.rows, one.passed.len()), (0, 0, 1), "{one:?}");
    }

    // The other three slices go again, and this one does not.
    yard.shop.change(&["UPDATE orders SET note = 'changed' WHERE id = 1".to_owned()]).await;
    assert_eq!(look(&yard, true).await.pruned_rows, 60);
    let views = duckdb(&yard).await.unwrap();
    for (table, wanted) in [("orders", tokens(10..40)), ("orders_items", items(10..40))] {
        for view in [table.to_owned(), format!("{table}_newest")] {
            let token = format!("SELECT token FROM {view}");
            assert_eq!(seen(&engine, &views, &token), wanted, "{view}");
        }
    }
    is_refused(&hive(&yard).await.unwrap_err(), "Hive");
    is_refused(&publish(&yard, tables.path()).await.unwrap_err(), "Iceberg");

    // Archived anew, it is in a newer file, and there only.
    assert_eq!(yard.run().await.unwrap().pruned_rows, 20);
    let views = duckdb(&yard).await.unwrap();
    for (table, wanted) in [("orders", tokens(0..40)), ("orders_items", items(0..40))] {
        let token = format!("SELECT token FROM {table}");
        assert_eq!(seen(&engine, &views, &token), wanted, "{table}");
    }
    assert_eq!(seen(&engine, &views, "SELECT note FROM orders WHERE id = 1"), ["changed"]);
}

/// A file none of whose rows counts stays in its directory: only a view leaves it out for Hive.
#[tokio::test(flavor = "multi_thread")]
async fn i15_hive_is_told_of_no_file_whose_rows_were_archived_anew() {
    let folder = tempfile::tempdir().unwrap();
    let yard = restored(folder.path(), FileFormat::Parquet).await;
    let before = Shelf::load(&yard.place).await.unwrap();
    let file = before.sealed().next().unwrap().1.files().next().unwrap().key.clone();
    look(&yard, false).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 80);
    let told = hive(&yard).await.unwrap();
    assert!(told.contains("CREATE OR REPLACE VIEW `orders` AS SELECT * FROM `orders__"), "{told}");
    let name = file.rsplit('/').next().unwrap();
    let left_out = format!("regexp_extract(INPUT__FILE__NAME, '[^/]+$', 0) NOT IN ('{name}')");
    assert!(told.contains(&left_out), "{told}");
    assert!(told.contains("\"orders_newest\" is left out: some files do not count"), "{told}");
    let into = tempfile::tempdir().unwrap();
    for one in publish(&yard, into.path()).await.unwrap() {
        assert_eq!((one.files, one.rows, one.passed.len()), (1, 40, 1), "{one:?}");
    }
}

/// Rows of text have no numbers that a query could tell them by.
#[tokio::test(flavor = "multi_thread")]
async fn i15_text_of_which_some_rows_live_again_is_not_published() {
    for format in [FileFormat::Csv, FileFormat::Jsonl] {
        let folder = tempfile::tempdir().unwrap();
        let yard = restored(folder.path(), format).await;
        yard.shop.change(&["UPDATE orders SET note = 'changed' WHERE id = 1".to_owned()]).await;
        assert_eq!(look(&yard, true).await.pruned_rows, 60);
        is_refused(&duckdb(&yard).await.unwrap_err(), "DuckDB");
        yard.shop.change(&["UPDATE orders SET note = 'note 1' WHERE id = 1".to_owned()]).await;
        assert_eq!(look(&yard, true).await.pruned_rows, 20, "{format:?}");
        assert!(!duckdb(&yard).await.unwrap().contains("live in their table again"));
    }
}

const ARCHIVE: &str = "[database.shop]\nendpoint = \"sqlite:shop.db\"\n\
    [archive.orders]\ndatabase = \"shop\"\nroot = \"orders\"\nwhere = \"state = 'closed'\"\n";

fn shop() -> Ward {
    let ward = Ward::new(&format!("{HEAD}{ARCHIVE}"));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let fill = "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
        INSERT INTO orders SELECT i, 'closed' FROM n";
    shop.execute_batch(fill).unwrap();
    ward
}

#[test]
fn i15_rows_that_live_again_are_not_counted_as_archived() {
    let ward = shop();
    copy(&ward.path("shop.db"), &ward.path("copy.db"));
    ward.ok(&["archive", "run", "orders"]);
    let numbers = |told: &Value| [&told["archived_rows"], &told["passed_rows"]].map(Value::as_u64);
    let listed = ward.json(&["archive", "ls", "orders"]);
    assert_eq!(numbers(&listed["runs"][0]), [Some(100), Some(0)], "{listed:#}");
    replace(&ward.path("copy.db"), &ward.path("shop.db"));
    ward.ok(&["archive", "reconcile", "orders", "--adopt"]);

    let listed = ward.json(&["archive", "ls", "orders"]);
    assert_eq!(numbers(&listed["runs"][0]), [Some(0), Some(100)], "{listed:#}");
    let told = ward.ok(&["archive", "ls", "orders"]);
    assert!(told.contains("100 rows in files of orders do not count"), "{told}");
    let shown = ward.json(&["archive", "show", "orders"]);
    assert_eq!(shown["batches"][0]["passed_rows"].as_u64(), Some(100), "{shown:#}");
    let space = ward.json(&["archive", "reclaim", "orders"]);
    let archived = [&space["archived_rows"], &space["archived_bytes"]].map(Value::as_u64);
    assert_eq!(archived, [Some(0), Some(0)], "{space:#}");

    ward.ok(&["archive", "reconcile", "orders", "--prune"]);
    let listed = ward.json(&["archive", "ls", "orders"]);
    assert_eq!(numbers(&listed["runs"][0]), [Some(100), Some(0)], "{listed:#}");
    assert_eq!(ward.json(&["archive", "reclaim", "orders"])["archived_rows"].as_u64(), Some(100));
}

/// Where nothing was archived yet, there is nothing that could be shown: that is said, so that no
/// script goes on with an empty file.
#[test]
fn what_was_never_archived_is_neither_shown_nor_published() {
    let ward = shop();
    for words in [
        &["show", "orders"][..],
        &["publish", "orders"],
        &["publish", "orders", "--hive"],
        &["publish", "orders", "--iceberg", "--into", "tables"],
    ] {
        let (status, told) = ward.run(&[&["archive"], words].concat());
        assert!(status == 6 && told.contains("SP0901"), "{words:?}: {status} {told}");
        assert!(told.contains("stillpoint archive run orders"), "{words:?}: {told}");
    }
}
