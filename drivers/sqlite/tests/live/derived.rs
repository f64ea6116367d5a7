//! Rows of a set that hang on rows which only derive from others: none may go with those before it
//! was handed over.

use rusqlite::Connection;
use stillpoint_conformance::memory::rows::{delete, hang, set};
use stillpoint_contract::{ArchiveSet, ErrorKind, Rows, Weight, code};
use tempfile::TempDir;

use crate::rows::{at, count, database, open};

const TAKES: &str = "DELETE FROM docs WHERE id = old.doc";
const REPLACES: &str = "REPLACE INTO docs VALUES (old.doc, 'none')";
const TABLES: [&str; 3] = ["orders", "items", "docs"];

/// Two orders of which the first one is closed, and an item of each. One document is for both.
fn shop(orders: &str, items: &str, then: &str) -> (TempDir, Connection) {
    database(&format!(
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, words TEXT);
         CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT, doc INTEGER {orders});
         CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY, doc INTEGER {items},
             order_id INTEGER REFERENCES orders ON DELETE CASCADE) WITHOUT ROWID;
         CREATE INDEX orders_doc ON orders (doc); CREATE INDEX items_doc ON items (doc);
         CREATE INDEX items_order ON items (order_id);
         CREATE TRIGGER x AFTER DELETE ON orders BEGIN {then}; END;
         INSERT INTO docs VALUES (7, 'both');
         INSERT INTO orders VALUES (1, 'closed', 7), (2, 'open', 7);
         INSERT INTO items VALUES (1, 7, 1), (2, 7, 2)"
    ))
}

async fn closed(rows: &mut dyn Rows) -> ArchiveSet {
    let mut set = set(rows.table("orders").await.unwrap(), "state = 'closed'");
    hang(&mut set, rows.table("items").await.unwrap(), ["order_id", "id"]);
    set.derived.push(rows.named("docs").await.unwrap().name);
    set
}

#[tokio::test]
async fn no_row_of_the_set_goes_with_one_that_only_derives() {
    const CASCADES: &str = "REFERENCES docs ON DELETE CASCADE";
    for (orders, items, table) in [(CASCADES, "", "orders"), ("", CASCADES, "items")] {
        for then in [TAKES, REPLACES] {
            let (directory, db) = shop(orders, items, then);
            let counts = || TABLES.map(|name| count(&db, name));
            let mut rows = open(&at(&directory)).await;
            let set = closed(rows.as_mut()).await;
            let findings = rows.examine(&set).await.unwrap();
            let told = format!("{table} refers to docs, of which triggers delete rows");
            let mut advice = findings.iter().filter(|one| one.weight == Weight::Advice);
            assert!(advice.any(|one| one.found.starts_with(&told)), "{then}: {findings:?}");

            // Fired by the cascade of what it does itself, it replaces nothing: SQLite refuses.
            let is_again = table == "orders" && then == REPLACES;
            let expected = if is_again { code::ROWS_REFUSED } else { code::ROWS_DIFFER };
            let error = delete(rows.as_mut(), &set).await.expect_err(then);
            let found = (error.kind(), error.code());
            assert_eq!(found, (ErrorKind::Refused, expected), "{table}: {error:?}");
            assert!(error.facts().contains(&("table", table)), "{then}: {error:?}");
            assert_eq!(counts(), [2, 2, 1], "{table}: {then}");

            // What nobody else needs goes alone.
            db.execute_batch(
                "INSERT INTO docs VALUES (8, 'other'); UPDATE items SET doc = 8 WHERE id = 2;
                 UPDATE orders SET doc = 8 WHERE id = 2",
            )
            .unwrap();
            assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 2, "{table}: {then}");
            let left = if then == TAKES { 1 } else { 2 };
            assert_eq!(counts(), [1, 1, left], "{table}: {then}");
        }
    }
}

/// A reference that takes nothing along is no reason to tell anything.
#[tokio::test]
async fn rows_that_only_derive_go_where_nothing_hangs_on_them() {
    let (directory, db) = shop("", "", TAKES);
    let mut rows = open(&at(&directory)).await;
    let set = closed(rows.as_mut()).await;
    let findings = rows.examine(&set).await.unwrap();
    assert!(findings.iter().all(|one| !one.found.contains("refers to docs")), "{findings:?}");
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 2);
    assert_eq!(TABLES.map(|name| count(&db, name)), [1, 1, 0]);
}

/// A table may refer to itself: without triggers, what is changed in all tells of it.
#[tokio::test]
async fn no_row_goes_with_another_one_of_its_table_where_a_trigger_writes_something_down() {
    let (directory, db) = database(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INTEGER REFERENCES t ON DELETE CASCADE);
         CREATE INDEX t_up ON t (up); CREATE TABLE log (id);
         CREATE TRIGGER x AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.id); END;
         INSERT INTO t VALUES (1, NULL), (2, 1)",
    );
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "id = 1");
    let error = delete(rows.as_mut(), &set).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_DIFFER), "{error:?}");
    assert_eq!((count(&db, "t"), count(&db, "log")), (2, 0));
}
