//! What other programs lost rows by, each by its name.
//!
//! | whose fault | where it is tried |
//! |---|---|
//! | pt-archiver 1: an update between copy and deletion | `protocol::i7_…_races_lose_nothing` |
//! | pt-archiver 2: an insert into the range | `protocol::i7_…_races_lose_nothing` |
//! | pt-archiver 3: killed and run again, rows twice | `chaos::i1_i3_…_is_killed_at_each_step` |
//! | pt-archiver 4, 5, 6: bytes, newlines, digits | `types_sqlite`, `types_postgres` |
//! | pt-archiver 7: cascades | here |
//! | pt-archiver 8: CSV that nobody else reads | `published`; not synced: `local::conformance` |
//! | pt-archiver 9: the largest key, keys that are none | here |
//! | pt-archiver 10: two commits | `chaos::i1_i3_…_is_killed_at_each_step` |
//! | dbtrail 779: a count that is the same | `protocol::i7_…_races_lose_nothing` |
//! | dbtrail 802: a file that was cut short | `protocol::i2_i5_…_deletes_nothing` |
//! | coldfront 71: names that sort wrongly | here, `partitions` |
//! | coldfront 53: one name in two schemas | here, `protocol::i11_…_are_never_mixed` |
//! | coldfront 20: a row that moves to another partition | `partitions` |
//! | opendxp 180: rows twice | `chaos::i1_i3_…_is_killed_at_each_step` |
//! | pimcore 19409: a column that became wider | here |
//! | mermaid-api 759: a key whose row is another one | `protocol::i7_…_races_lose_nothing` |
//! | pg-boss 282: two at once | here |
//! | pgcolumnar 632: files of an earlier run | here |
//! | Sentry 107906: dead rows | `throttle` |
//! | luthien 653: one giant deletion | here |
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use stillpoint::{
    archiver::{Place, Quit, Shelf, Step, Witness, duckdb_views, verify},
    repository::store::{Key, MemoryStore, Store},
};
use stillpoint_contract::{ErrorKind, code};

use super::shop::{InPostgres, Shop, Sqlite, Yard};

/// Items that go, or change, when their order does.
async fn cascade<S: Shop>(shop: S, action: &str) {
    let items = format!(
        "CREATE TABLE {} (id INTEGER PRIMARY KEY, order_id INTEGER DEFAULT 1
            REFERENCES {} (id) ON DELETE {action}, token TEXT NOT NULL)",
        shop.table("items"),
        shop.table("orders"),
    );
    let index = format!("CREATE INDEX items_order ON {} (order_id)", shop.table("items"));
    shop.change(&[items, index]).await;
    let mut yard = Yard::new(shop, false);
    yard.fill(1..6, 0).await;
    let items = yard.shop.table("items");
    let fill = |id| format!("INSERT INTO {items} VALUES ({id}, 1 + {id} % 5, 'i{id}')");
    yard.shop.change(&(0..15).map(fill).collect::<Vec<_>>()).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    assert!(format!("{:?}", error.facts()).contains("items"), "{action}: {error:?}");
    assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (5, 15));
    // Those that are listed are in files before they go.
    yard.rule.includes_unlisted = true;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 20, "{action}");
    assert_eq!(yard.archived("items").await.len(), 15, "{action}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pt_archiver_7_rows_that_go_along_are_archived_or_nothing_goes() {
    for action in ["CASCADE", "SET NULL", "SET DEFAULT"] {
        cascade(Sqlite::new().await, action).await;
    }
    let Some(shop) = InPostgres::new(18).await else { return };
    for action in ["CASCADE", "SET NULL", "SET DEFAULT"] {
        shop.reset().await;
        cascade(&shop, action).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pt_archiver_9_the_row_with_the_largest_key_goes_too() {
    let sqlite = Yard::new(Sqlite::new().await, false);
    sqlite.fill(0..21, 0).await;
    let largest = "INSERT INTO orders VALUES (9223372036854775807, 'last', 'closed', NULL, 0)";
    sqlite.shop.change(&[largest.to_owned()]).await;
    assert_eq!(sqlite.run().await.unwrap().pruned_rows, 22);
    assert_eq!((sqlite.live("orders").await.len(), sqlite.archived("orders").await.len()), (0, 22));
    let Some(shop) = InPostgres::new(18).await else { return };
    let yard = Yard::new(shop, false);
    yard.fill(0..21, 0).await;
    let largest =
        largest.replace("orders", "public.orders").replace("9223372036854775807", "2147483647");
    yard.shop.change(&[largest]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 22);
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (0, 22));
}

/// A table whose only index is none that tells all rows apart.
async fn no_key<S: Shop>(shop: S, make: &str) {
    let orders = shop.table("orders");
    let mut statements = vec![format!("DROP TABLE {orders}")];
    statements.extend(make.split(';').map(|one| one.replace("orders", &orders)));
    shop.change(&statements).await;
    let yard = Yard::new(shop, false);
    yard.fill(0..5, 0).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{make}");
    let told = format!("{:?}", error.facts());
    assert!(told.contains("no unique columns that are all NOT NULL"), "{make}: {told}");
    assert_eq!(yard.live("orders").await.len(), 5, "{make}");
    assert_eq!(yard.store.list("").await.unwrap(), [], "{make}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pt_archiver_9_an_index_that_is_not_unique_is_no_key() {
    const COLUMNS: &str =
        "CREATE TABLE orders (id INTEGER NOT NULL, token TEXT, state TEXT NOT NULL,
        note TEXT, amount NUMERIC";
    let indexes = [
        "); CREATE INDEX i ON orders (id)",
        "); CREATE UNIQUE INDEX i ON orders (token)",
        "); CREATE UNIQUE INDEX i ON orders (id) WHERE state = 'closed'",
        "); CREATE UNIQUE INDEX i ON orders ((id + 1))",
    ];
    for index in indexes {
        no_key(Sqlite::new().await, &format!("{COLUMNS}{index}")).await;
    }
    let Some(shop) = InPostgres::new(18).await else { return };
    // What it takes for the same, columns may tell apart.
    let own = "); CREATE OPERATOR === (LEFTARG = int4, RIGHTARG = int4, PROCEDURE = int4eq);
        CREATE OPERATOR CLASS own FOR TYPE int4 USING btree AS OPERATOR 1 <, OPERATOR 2 <=,
            OPERATOR 3 ===, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int4, int4);
        CREATE UNIQUE INDEX i ON orders (id own)";
    let late = ", UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)";
    for index in indexes.into_iter().chain([late, own]) {
        shop.reset().await;
        no_key(&shop, &format!("{COLUMNS}{index}")).await;
    }
}

/// What is archived is what the ledger says, and not what is below some name or number.
#[tokio::test(flavor = "multi_thread")]
async fn coldfront_71_names_that_sort_wrongly_hide_nothing() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let make = "DROP TABLE orders; CREATE TABLE orders (id text PRIMARY KEY, token text NOT NULL,
        state text NOT NULL, note text, amount numeric)";
    shop.client().await.batch_execute(make).await.unwrap();
    let mut yard = Yard::new(&shop, false);
    yard.rule.slice_rows = 3;
    yard.fill(5..120, 0).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 115);
    // All of these come before `99`.
    yard.fill(120..140, 0).await;
    yard.fill(0..5, 0).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 25);
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (0, 140));
}

#[tokio::test(flavor = "multi_thread")]
async fn coldfront_53_one_name_in_two_schemas_is_two_tables() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let make = "DROP SCHEMA IF EXISTS eu, us CASCADE; CREATE SCHEMA eu; CREATE SCHEMA us;
        CREATE TABLE eu.orders (LIKE orders INCLUDING ALL);
        CREATE TABLE us.orders (LIKE orders INCLUDING ALL);
        INSERT INTO eu.orders SELECT n, 'eu ' || n, 'closed' FROM generate_series(1, 20) AS n;
        INSERT INTO us.orders SELECT n, 'us ' || n, 'closed' FROM generate_series(1, 30) AS n;";
    shop.client().await.batch_execute(make).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let yard = |set: &str, root: &str| {
        let mut yard = Yard::in_store(&shop, false, Arc::clone(&store));
        set.clone_into(&mut yard.rule.name);
        root.clone_into(&mut yard.rule.root);
        yard.place = Place::new(Arc::clone(&store), set).unwrap();
        yard
    };
    let (eu, us) = (yard("eu", "eu.orders"), yard("us", "us.orders"));
    let (one, other) = tokio::join!(eu.run(), us.run());
    assert_eq!((one.unwrap().pruned_rows, other.unwrap().pruned_rows), (20, 30));
    for (yard, rows) in [(&eu, 20), (&us, 30)] {
        let set = yard.place.set();
        let found = verify(&yard.place, &yard.world.cpu, None, |_| true).await.unwrap();
        assert_eq!((found.rows, found.damages.len()), (rows, 0), "{set}");
        for run in Shelf::load(&yard.place).await.unwrap().runs {
            let members = run.batches.values().flat_map(|one| &one.batch.members);
            for file in members.filter_map(|member| member.file.as_ref()) {
                assert!(file.key.contains(&format!("/{set}/")), "{}", file.key);
            }
        }
    }
    // The other table in the set of this one.
    let mixed = yard("eu", "us.orders");
    let error = mixed.run().await.unwrap_err();
    assert_eq!(error.code(), code::FOREIGN_DATABASE, "{error:?}");
    // A name that is several.
    let error = yard("any", "orders").run().await.unwrap_err();
    assert_eq!(error.code(), code::BAD_NAME, "{error:?}");
    assert!(format!("{:?}", error.facts()).contains("us.orders"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pimcore_19409_a_column_that_became_wider_is_not_cut_short() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let client = shop.client().await;
    client.batch_execute("ALTER TABLE orders ALTER note TYPE varchar(10)").await.unwrap();
    let yard = Yard::new(&shop, false);
    yard.fill(0..20, 0).await;
    client.batch_execute("CREATE TABLE IF NOT EXISTS kept AS TABLE orders").await.unwrap();
    assert_eq!(yard.run().await.unwrap().pruned_rows, 20);
    let widen = "ALTER TABLE orders ALTER note TYPE text; ALTER TABLE kept ALTER note TYPE text";
    client.batch_execute(widen).await.unwrap();
    yard.fill(20..30, 0).await;
    let longer = "UPDATE orders SET note = repeat('x', 2000) || id; \
        INSERT INTO kept SELECT * FROM orders";
    client.batch_execute(longer).await.unwrap();
    assert_eq!(yard.run().await.unwrap().pruned_rows, 10);
    assert_eq!(yard.put_back().await.unwrap().inserted, 30);
    let same = "SELECT count(*)::text FROM orders AS o JOIN kept AS k ON o *= k";
    assert_eq!(shop.ask(same).await, ["30"]);

    // Narrow again: what does not fit is not put back in part.
    let narrow = "TRUNCATE orders; ALTER TABLE orders ALTER note TYPE varchar(10)";
    client.batch_execute(narrow).await.unwrap();
    let error = yard.put_back().await.unwrap_err();
    assert_eq!(error.code(), code::ROWS_REFUSED, "{error:?}");
    let longest = "SELECT coalesce(max(length(note)), 0)::text FROM orders";
    assert_eq!(shop.ask(longest).await, ["0"], "not even the rows of the older file");
    client.batch_execute("DROP TABLE kept").await.unwrap();
}

/// Two runs of one set at the same time.
async fn two_at_once<S: Shop>(shop: S) {
    let mut one = Yard::new(shop, false);
    one.rule.slice_rows = 2;
    one.fill(0..200, 0).await;
    let mut other = Yard::in_store(&one.shop, false, Arc::clone(&one.store));
    other.rule.slice_rows = 3;
    let (first, second) = tokio::join!(one.run(), other.run());
    let mut pruned = 0;
    for run in [first, second] {
        match run {
            Ok(report) => pruned += report.pruned_rows,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}"),
        }
    }
    assert_eq!(pruned, 200);
    let archived = one.archived("orders").await;
    let mut once = archived.clone();
    once.dedup();
    assert_eq!((archived.len(), once.len(), one.live("orders").await.len()), (200, 200, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_boss_282_two_at_once_take_turns() {
    two_at_once(Sqlite::new().await).await;
    let Some(shop) = InPostgres::new(18).await else { return };
    two_at_once(&shop).await;
    assert!(!shop.server.log().contains("deadlock"), "they waited for each other");
}

/// Who waited for the other one has looked at the database before there was a ledger.
async fn ledger_since<S: Shop>(shop: S) {
    let yard = Yard::new(shop, false);
    yard.fill(0..20, 0).await;
    let driver = yard.shop.driver().await;
    let mut waiting = driver.rows().await.unwrap();
    assert_eq!(waiting.ledger("orders").await.unwrap(), []);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 20);
    let noted = waiting.ledger("orders").await.unwrap();
    assert_eq!(noted.iter().map(|entry| entry.rows).sum::<u64>(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_boss_282_who_waits_sees_the_ledger_that_was_made_meanwhile() {
    ledger_since(Sqlite::new().await).await;
    let Some(shop) = InPostgres::new(17).await else { return };
    ledger_since(shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgcolumnar_632_files_that_nobody_names_do_not_count() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    yard.run().await.unwrap();
    let files = yard.store.list("archive/orders/orders/").await.unwrap();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let bytes = yard.store.read(&file.key, 1 << 20).await.unwrap().unwrap();
    let (folder, name) = file.key.as_str().rsplit_once('/').unwrap();
    for stale in [format!("{folder}/0-{name}"), format!("{folder}/z-{name}")] {
        yard.store.create(&Key::new(stale).unwrap(), bytes.clone()).await.unwrap();
    }
    yard.fill(20..30, 0).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 10);
    assert_eq!(yard.archived("orders").await.len(), 30);
    let found = verify(&yard.place, &yard.world.cpu, None, |_| true).await.unwrap();
    assert_eq!((found.rows, found.damages.len()), (30, 0));
    let views = duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
    assert!(views.contains(name) && !views.contains(&format!("-{name}'")), "{views}");
    assert_eq!(yard.shop.ask("SELECT token FROM orders").await, Vec::<String>::new());
}

/// Notes how many rows each transaction deleted.
#[derive(Debug, Default)]
struct Scribe(Mutex<Vec<u64>>);

impl Witness for Scribe {
    fn see(&self, step: &Step) {
        if let Step::Committed { rows, .. } = step {
            self.0.lock().unwrap().push(*rows);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn luthien_653_no_transaction_deletes_more_than_it_has_time_for() {
    let mut yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..100, 3).await;
    // Whatever it deletes, it took too long.
    yard.rule.transaction = Duration::ZERO;
    let scribe = Scribe::default();
    let report = yard.run_seen(&scribe).await.unwrap();
    assert_eq!((report.quit, report.pruned_rows), (Quit::Finished, 400));
    assert_eq!(*scribe.0.lock().unwrap(), [40; 10]);
}
