//! Views of the newest version of each row: those that a restore brings back.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{path::Path, sync::Arc};

use stillpoint::{
    archiver::{
        Erasing, Quit, Returned, Returning, Shelf, Wanted, duckdb_views, erase, hive_tables,
        put_back,
    },
    policy::FileFormat,
    repository::store::{LocalStore, RealFs, Store, Writers},
    world::World,
};
use stillpoint_contract::Conflict;
use stillpoint_testcontainers::DuckDb;

use super::shop::{InPostgres, Shop, Sqlite, Yard};

async fn local(root: &Path) -> Arc<dyn Store> {
    let world = World::real(3);
    let entropy = Arc::clone(&world.entropy);
    let store = LocalStore::open(RealFs, root, Writers::Several, &*world.clock, entropy).await;
    Arc::new(store.unwrap())
}

/// The values of the only column of a query of views, sorted.
fn seen(duckdb: &DuckDb, views: &str, query: &str) -> Vec<String> {
    let answer = duckdb.query(&format!("{views}\n{query}"));
    let answer = answer.unwrap_or_else(|error| panic!("{views}\n{query}\n{error}"));
    let value = |line: &str| serde_json::from_str::<[String; 1]>(line).unwrap()[0].clone();
    let mut seen: Vec<String> = answer.lines().map(value).collect();
    seen.sort();
    seen
}

async fn views<S: Shop>(yard: &Yard<S>) -> String {
    duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap()
}

/// Puts rows back, into their tables or into new ones.
async fn back<S: Shop>(yard: &Yard<S>, condition: &str, staging: Option<&str>) -> Vec<Returned> {
    let driver = yard.shop.driver().await;
    let terms = Wanted::terms_of(condition).unwrap();
    let wanted = Wanted { terms, ..Wanted::default() };
    let staging = staging.map(str::to_owned);
    let returning = Returning { wanted, conflict: Conflict::Fail, staging };
    Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await.unwrap()
}

/// Orders 0 to 39 with an item each, of which 2 was corrected twice and 17 once, in runs that write
/// files of those formats.
async fn corrected(root: &Path, with_items: bool, formats: [FileFormat; 4]) -> Yard<Sqlite> {
    let items = i64::from(with_items);
    let mut yard = Yard::in_store(Sqlite::new().await, with_items, local(root).await);
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    yard.fill(0..30, items).await;
    let corrections: [&[&str]; 4] = [&[], &["id = 2", "id = 17"], &["id = 2"], &[]];
    for (number, (format, rows)) in formats.into_iter().zip(corrections).enumerate() {
        for row in rows {
            back(&yard, row, None).await;
        }
        if number > 0 {
            let correct = format!("UPDATE orders SET note = 'corrected {number}'");
            yard.shop.change(&[correct]).await;
        }
        if number == 3 {
            yard.fill(30..40, items).await;
        }
        yard.rule.format = format;
        assert!(yard.run().await.unwrap().quit.is_done());
    }
    yard
}

/// Whether views have what a restore puts into new tables.
async fn are_restored(duckdb: &DuckDb, yard: &Yard<Sqlite>, what: &str) {
    let views = views(yard).await;
    let restored = back(yard, "", Some("again")).await;
    assert_eq!(restored.iter().map(|one| one.older).sum::<u64>(), 6, "{what}: {restored:?}");
    for (view, table, rows) in [
        ("orders", "again", "token || '/' || note"),
        ("orders_items", "again_items", "token || '/' || order_id"),
    ] {
        let all = seen(duckdb, &views, &format!("SELECT {rows} FROM {view}"));
        let newest = seen(duckdb, &views, &format!("SELECT {rows} FROM {view}_newest"));
        let mut wanted = yard.shop.ask(&format!("SELECT {rows} FROM {table}")).await;
        wanted.sort();
        assert_eq!((all.len(), newest.len()), (43, 40), "{what}, {view}: {views}");
        assert_eq!(newest, wanted, "{what}, {view}");
    }
    let columns = "SELECT column_name FROM (DESCRIBE orders_newest)";
    assert_eq!(seen(duckdb, &views, columns), ["amount", "id", "note", "state", "token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_sees_the_newest_version_of_each_row() {
    let Some(duckdb) = DuckDb::required() else { return };
    let [parquet, csv, jsonl] = FileFormat::ALL;
    for formats in [[parquet; 4], [csv; 4], [jsonl; 4], [csv, parquet, jsonl, parquet]] {
        let folder = tempfile::tempdir().unwrap();
        let yard = corrected(folder.path(), true, formats).await;
        are_restored(&duckdb, &yard, &format!("{formats:?}")).await;
        // What is erased was the newest version, too.
        let places = [yard.place.clone()];
        let who = ("Art. 17", "dba");
        let of = (None, "note", "corrected 2");
        let gone = Box::pin(erase(&places, &yard.world, of, who, Erasing::IfFound)).await.unwrap();
        assert_eq!(gone.rows, 2);
        let views = views(&yard).await;
        let note = seen(&duckdb, &views, "SELECT note FROM orders_newest WHERE token = 'o2'");
        assert_eq!(note, ["corrected 1"]);
    }
}

/// Of a key that one run archived twice, it is the later one, as `archive restore` has it.
#[tokio::test(flavor = "multi_thread")]
async fn duckdb_sees_the_newest_version_of_a_row_that_one_run_archived_twice() {
    let Some(duckdb) = DuckDb::required() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(Sqlite::new().await, true, local(folder.path()).await);
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 2;
    yard.fill(0..8, 1).await;
    yard.limits.rows_max = Some(4);
    assert_eq!(yard.run().await.unwrap().quit, Quit::RowsMax);
    back(&yard, "id = 1", None).await;
    yard.shop.change(&["UPDATE orders SET note = 'corrected' WHERE id = 1".to_owned()]).await;
    yard.limits.rows_max = None;
    assert!(yard.run().await.unwrap().quit.is_done());

    let restored = back(&yard, "", Some("again")).await;
    assert_eq!(restored.iter().map(|one| one.older).sum::<u64>(), 2, "{restored:?}");
    let views = views(&yard).await;
    let rows = "token || '/' || note";
    assert_eq!(seen(&duckdb, &views, &format!("SELECT {rows} FROM orders")).len(), 9);
    let newest = seen(&duckdb, &views, &format!("SELECT {rows} FROM orders_newest"));
    let mut wanted = yard.shop.ask(&format!("SELECT {rows} FROM again")).await;
    wanted.sort();
    assert_eq!(newest, wanted, "{views}");
    assert_eq!(newest[1], "o1/corrected");
}

/// Keys are compared as the database does, whatever forms files have.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_row_is_that_of_a_key_and_not_of_its_text() {
    let Some(duckdb) = DuckDb::required() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(Sqlite::new().await, false, local(folder.path()).await);
    "people".clone_into(&mut yard.rule.root);
    let make = [
        "CREATE TABLE people (code PRIMARY KEY NOT NULL, state TEXT, note TEXT)",
        "INSERT INTO people VALUES ('007', 'closed', 'a'), ('7', 'closed', 'b'), \
         (7, 'closed', 'c'), (7.5, 'closed', 'd'), (x'37', 'closed', 'e')",
    ];
    yard.shop.change(&make.map(str::to_owned)).await;
    for format in [FileFormat::Parquet, FileFormat::Jsonl, FileFormat::Parquet] {
        yard.rule.format = format;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 5, "{format:?}");
        back(&yard, "", None).await;
        // Equal to the engine.
        let change = [
            "UPDATE people SET note = note || '+'",
            "UPDATE people SET code = 7.0
            WHERE code = 7",
        ];
        yard.shop.change(&change.map(str::to_owned)).await;
    }
    let views = views(&yard).await;
    assert_eq!(seen(&duckdb, &views, "SELECT note FROM orders").len(), 15);
    let newest = seen(&duckdb, &views, "SELECT note FROM orders_newest");
    assert_eq!(newest, ["a++", "b++", "c++", "d++", "e++"], "{views}");
    let restored = back(&yard, "", Some("again")).await;
    assert_eq!((restored[0].tally.inserted, restored[0].older), (5, 10), "{restored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_row_is_found_where_keys_got_other_types_and_names() {
    let Some(duckdb) = DuckDb::required() else { return };
    let Some(shop) = InPostgres::new(18).await else { return };
    let execute = async |sql: &str| shop.client().await.batch_execute(sql).await.unwrap();
    for format in FileFormat::ALL {
        shop.reset().await;
        execute(
            "DROP TABLE IF EXISTS notes;
             CREATE TABLE notes (c char(8), u uuid, at timestamptz, d date, n numeric(10, 2),
                 i int, state text, note text, PRIMARY KEY (c, u, at, d, n, i));
             INSERT INTO notes SELECT 'AB' || n, '550e8400-e29b-41d4-a716-446655440000',
                 timestamptz '2024-01-01 00:00:00+00', date '2024-01-01', 1.5, 7, 'closed', 'old'
                 FROM generate_series(1, 3) AS n",
        )
        .await;
        let folder = tempfile::tempdir().unwrap();
        let mut yard = Yard::in_store(&shop, false, local(folder.path()).await);
        "public.notes".clone_into(&mut yard.rule.root);
        yard.rule.format = format;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 3);
        back(&yard, "", None).await;
        execute(
            "ALTER TABLE notes ALTER c TYPE char(10), ALTER n TYPE numeric(12, 4),
                 ALTER i TYPE bigint;
             ALTER TABLE notes RENAME u TO who;
             UPDATE notes SET note = 'new'; DELETE FROM notes WHERE c = 'AB3'",
        )
        .await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 2);
        let views = views(&yard).await;
        assert_eq!(seen(&duckdb, &views, "SELECT note FROM orders").len(), 5, "{format:?}");
        let newest = seen(&duckdb, &views, "SELECT note FROM orders_newest");
        assert_eq!(newest, ["new", "new", "old"], "{format:?}: {views}");
        let restored = back(&yard, "", Some("again")).await;
        assert_eq!((restored[0].tally.inserted, restored[0].older), (3, 2), "{restored:?}");
        execute(&format!("DROP TABLE {}; DROP TABLE notes", restored[0].table)).await;
    }
}

/// What is printed for Trino is plain SQL, which DuckDB runs as well once it has such a table.
#[tokio::test(flavor = "multi_thread")]
async fn hive_and_trino_have_a_view_of_the_newest_rows() {
    let folder = tempfile::tempdir().unwrap();
    let yard = corrected(folder.path(), false, [FileFormat::Parquet; 4]).await;
    let tables = hive_tables(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
    assert!(tables.contains("CREATE VIEW `orders_newest` AS SELECT `id`, `token`"), "{tables}");
    assert!(tables.contains("PARTITION BY `id` ORDER BY regexp_extract("), "{tables}");
    let Some(duckdb) = DuckDb::required() else { return };
    let trino = tables.lines().filter_map(|line| line.strip_prefix("--   "));
    let files = folder.path().join("archive/orders/orders/*/*.parquet");
    let all = format!(
        "CREATE VIEW orders AS SELECT * FROM read_parquet('{}', hive_partitioning = true, \
         union_by_name = true, filename = '$path');",
        files.display()
    );
    let views = format!("{all}\n{}", trino.collect::<Vec<_>>().join("\n"));
    let rows = "token || '/' || note || '/' || expire";
    let newest = seen(&duckdb, &views, &format!("SELECT {rows} FROM orders_newest"));
    back(&yard, "", Some("again")).await;
    let restored = "SELECT token || '/' || note || '/open' FROM again";
    let mut restored = yard.shop.ask(restored).await;
    restored.sort();
    assert_eq!(newest, restored, "{views}");
}
