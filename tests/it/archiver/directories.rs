//! Where files of tables are: each table has a directory of its own, whatever it is called, and
//! files from before that are read where they are.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use stillpoint::{
    archiver::{FoundRows, Place, Shelf, Wanted, duckdb_views, find, hive_tables, verify},
    policy::ArchivedChild,
    repository::store::{Key, LocalStore, MemoryStore, RealFs, Store, Writers},
    world::World,
};

use super::{
    keys::{bytes, names},
    shop::{Shop as _, Sqlite, Yard},
};

/// Two tables whose names have as many letters, none of which is plain.
const ORDERS: &str = "\"订单\"";
const CUSTOMERS: &str = "\"顾客\"";
const ORDERS_DIRECTORY: &str = "~22~e8~ae~a2~e5~8d~95~22";
const CUSTOMERS_DIRECTORY: &str = "~22~e9~a1~be~e5~ae~a2~22";

/// The one that both had before.
const SHARED: &str = "~~~~";

async fn yard(with_customers: bool) -> Yard<Sqlite> {
    let mut yard = Yard::new(Sqlite::empty().await, false);
    yard.shop
        .change(&[
            format!("CREATE TABLE {ORDERS} (id INTEGER PRIMARY KEY, state TEXT)"),
            format!(
                "CREATE TABLE {CUSTOMERS} (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL \
                 REFERENCES {ORDERS} (id))"
            ),
            format!("CREATE INDEX by_order ON {CUSTOMERS} (order_id)"),
        ])
        .await;
    if !with_customers {
        yard.shop.change(&[format!("DROP TABLE {CUSTOMERS}")]).await;
    }
    ORDERS.clone_into(&mut yard.rule.root);
    if with_customers {
        let child = ArchivedChild { table: CUSTOMERS.to_owned(), columns: Vec::new() };
        yard.rule.children = vec![child];
    }
    yard
}

/// Archives one more order, with a customer where there are such.
async fn archive(yard: &Yard<Sqlite>, id: i64) {
    let mut fill = vec![format!("INSERT INTO {ORDERS} VALUES ({id}, 'closed')")];
    if !yard.rule.children.is_empty() {
        fill.push(format!("INSERT INTO {CUSTOMERS} VALUES ({id}, {id})"));
    }
    yard.shop.change(&fill).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, fill.len() as u64);
}

/// The directories of tables that there are.
async fn directories(store: &dyn Store) -> Vec<String> {
    let names = names(store, "archive/orders/").await;
    let mut found: Vec<String> =
        names.iter().map(|name| name.as_str().split('/').nth(2).unwrap().to_owned()).collect();
    found.retain(|one| one != "_stillpoint");
    found.dedup();
    found
}

/// The same archive, as it was written when each letter that is not plain was `~`.
async fn aged(yard: &mut Yard<Sqlite>) {
    let old: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let plain = |text: &str| {
        text.replace(&format!("/{ORDERS_DIRECTORY}/"), &format!("/{SHARED}/"))
            .replace(&format!("/{CUSTOMERS_DIRECTORY}/"), &format!("/{SHARED}/"))
    };
    for name in names(&*yard.store, "").await {
        let mut content = bytes(&*yard.store, &name).await;
        if Path::new(name.as_str()).extension().is_some_and(|end| end == "json") {
            content = plain(&String::from_utf8(content).unwrap()).into_bytes();
        }
        let name = Key::new(plain(name.as_str())).unwrap();
        old.create(&name, Bytes::from(content)).await.unwrap();
    }
    yard.place = Place::new(Arc::clone(&old), "orders").unwrap();
    yard.store = old;
}

async fn count(yard: &Yard<Sqlite>, table: Option<&str>) -> u64 {
    let wanted = Wanted { table: table.map(str::to_owned), ..Wanted::default() };
    let take = async |_: FoundRows| Ok(());
    Box::pin(find(&yard.place, &yard.world.cpu, &wanted, None, take)).await.unwrap()
}

async fn hive(yard: &Yard<Sqlite>) -> String {
    hive_tables(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap()
}

/// Whether the rows of orders are put together of several tables.
fn is_view(sql: &str) -> bool {
    sql.contains("VIEW `orders` ")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_share_no_directory() {
    let mut yard = yard(true).await;
    archive(&yard, 1).await;
    assert_eq!(directories(&*yard.store).await, [ORDERS_DIRECTORY, CUSTOMERS_DIRECTORY]);
    let sql = hive(&yard).await;
    for directory in [ORDERS_DIRECTORY, CUSTOMERS_DIRECTORY] {
        assert!(sql.contains(&format!("/{directory}';")), "{sql}");
    }
    assert!(sql.contains("TABLE IF NOT EXISTS `orders` (") && !is_view(&sql), "{sql}");

    // Those that do are read by all who know files by their names, and not by Hive.
    aged(&mut yard).await;
    assert_eq!(directories(&*yard.store).await, [SHARED]);
    archive(&yard, 2).await;
    let all = directories(&*yard.store).await;
    assert_eq!(all, [ORDERS_DIRECTORY, CUSTOMERS_DIRECTORY, SHARED]);
    let found = verify(&yard.place, &yard.world.cpu, None, |_| true).await.unwrap();
    assert_eq!((found.rows, found.damages.len(), found.unnamed), (4, 0, 0), "{found:?}");
    assert_eq!((count(&yard, None).await, count(&yard, Some(CUSTOMERS)).await), (2, 2));
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let views = duckdb_views(&yard.place, &shelf).await.unwrap();
    for one in shelf.runs.iter().flat_map(|run| run.batches.values()) {
        for file in one.batch.files() {
            assert!(views.contains(&file.key), "{views}");
        }
    }
    let sql = hive(&yard).await;
    assert_eq!(sql.matches("LOCATION").count(), 2, "{sql}");
    assert!(!sql.contains(&format!("/{SHARED}';")) && !is_view(&sql), "{sql}");
    assert_eq!(sql.matches(&*format!("/{SHARED}; see --for duckdb")).count(), 2, "{sql}");
}

/// A table whose files are in two directories, the one of which nobody else has any in.
#[tokio::test(flavor = "multi_thread")]
async fn hive_sees_a_table_of_several_directories_as_one() {
    let mut yard = yard(false).await;
    archive(&yard, 1).await;
    aged(&mut yard).await;
    let before = hive(&yard).await;
    assert!(before.contains(&format!("/{SHARED}';")) && !is_view(&before), "{before}");
    archive(&yard, 2).await;
    let sql = hive(&yard).await;
    assert!(
        sql.contains(&format!("/{SHARED}';")) && sql.contains(&format!("/{ORDERS_DIRECTORY}';")),
        "{sql}"
    );
    assert!(sql.contains("CREATE OR REPLACE VIEW `orders` AS SELECT * FROM `orders__"), "{sql}");
    let parts: Vec<&str> =
        sql.split("EXISTS `").skip(1).map(|rest| rest.split_once('`').unwrap().0).collect();
    assert!(parts.len() == 2 && parts[0] != parts[1], "{parts:?}");
    for part in parts {
        assert!(sql.contains(&format!("SELECT * FROM `{part}`")), "{sql}");
    }
    assert_eq!(hive(&yard).await, sql, "the same each time");
}

/// A name that is as long as file systems allow, and longer once it is written in plain letters.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_name_of_a_table_has_a_directory_of_its_own() {
    for name in ["x".repeat(255), "ß".repeat(127), "y".repeat(1000)] {
        let folder = tempfile::tempdir().unwrap();
        let world = World::real(1);
        let entropy = Arc::clone(&world.entropy);
        let store =
            LocalStore::open(RealFs, folder.path(), Writers::Several, &*world.clock, entropy);
        let store: Arc<dyn Store> = Arc::new(store.await.unwrap());
        let mut yard = Yard::in_store(Sqlite::empty().await, false, store);
        let make = format!("CREATE TABLE \"{name}\" (id INTEGER PRIMARY KEY, state TEXT)");
        let fill = format!("INSERT INTO \"{name}\" VALUES (1, 'closed'), (2, 'open')");
        yard.shop.change(&[make, fill]).await;
        yard.rule.root.clone_from(&name);
        assert_eq!(yard.run().await.unwrap().pruned_rows, 1, "{name}");
        assert_eq!(count(&yard, None).await, 1, "{name}");
        let found = directories(&*yard.store).await;
        assert!(found.len() == 1 && found[0].len() <= 200, "{found:?}");
    }
}
