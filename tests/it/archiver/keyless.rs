//! Rows of a table without a key, which hang on others: they come back with those, or into a table
//! of their own.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use stillpoint::{
    archiver::{Returned, Returning, Wanted, prepare, put_back},
    policy::DestinationRule,
};
use stillpoint_contract::{Conflict, ErrorKind, Result, Weight, code};

use super::shop::{InPostgres, Shop, Sqlite, Yard};

/// Puts rows back that are as a condition says, of one table or of all.
async fn put<S: Shop>(
    yard: &Yard<S>,
    condition: &str,
    (conflict, staging): (Conflict, Option<&str>),
    table: Option<&str>,
) -> Result<Vec<Returned>> {
    let driver = yard.shop.driver().await;
    let terms = Wanted::terms_of(condition).unwrap();
    let table = table.map(|table| yard.shop.table(table));
    let wanted = Wanted { terms, table, ..Wanted::default() };
    let returning = Returning { wanted, conflict, staging: staging.map(str::to_owned) };
    Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await
}

/// Of each table: rows that are new, and those that were left in the files.
fn counts(back: &[Returned]) -> Vec<[u64; 2]> {
    back.iter().map(|one| [one.tally.inserted, one.older]).collect()
}

/// Orders 0 to 9 with two items each, of which one is there twice.
async fn begin<S: Shop>(mut yard: Yard<S>) -> Yard<S> {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 3;
    let (orders, items) = (yard.shop.table("orders"), yard.shop.table("items"));
    let make = [
        format!(
            "CREATE TABLE {items} (id INTEGER, order_id INTEGER NOT NULL, token TEXT,
            FOREIGN KEY (order_id) REFERENCES {orders} (id))"
        ),
        format!("CREATE INDEX items_order ON {items} (order_id)"),
    ];
    yard.shop.change(&make).await;
    yard.fill(0..10, 2).await;
    yard.shop.change(&[format!("INSERT INTO {items} VALUES (300, 3, 'i300')")]).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!((yard.live("items").await.len(), yard.archived("items").await.len()), (0, 21));
    yard
}

async fn keyless<S: Shop>(yard: Yard<S>, [harmless, harmful]: [&[&str]; 2]) {
    let yard = begin(yard).await;
    let (orders, items) = (yard.shop.table("orders"), yard.shop.table("items"));
    let emptied = [format!("DELETE FROM {items}"), format!("DELETE FROM {orders}")];
    let three = ["i300", "i300", "i301"];

    let back = put(&yard, "id = 3", (Conflict::Fail, None), None).await.unwrap();
    assert_eq!(counts(&back), [[1, 0], [3, 0]], "{back:?}");
    assert_eq!(yard.live("items").await, three);
    // Nobody could see which of them are there: no way brings them in twice.
    let error = put(&yard, "id = 3", (Conflict::Fail, None), None).await.unwrap_err();
    assert_eq!(error.code(), code::ROWS_CONFLICT, "{error:?}");
    for (conflict, table) in [
        (Conflict::Skip, None),
        (Conflict::Overwrite, None),
        (Conflict::Newer("token".to_owned()), None),
        // Only orders have that.
        (Conflict::Newer("amount".to_owned()), None),
        (Conflict::Fail, Some("items")),
    ] {
        let condition = if table.is_none() { "id = 3" } else { "order_id = 3" };
        let error = put(&yard, condition, (conflict.clone(), None), table).await.unwrap_err();
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::Unsupported, code::ROWS_REFUSED), "{conflict:?}: {error:?}");
        let told = format!("{:?}", error.advice());
        assert!(told.contains("--staging NAME") && told.contains("--table"), "{told}");
        assert_eq!(yard.live("items").await, three, "{conflict:?}");
    }
    // Those that they hang on come back alone.
    let back = put(&yard, "id = 3", (Conflict::Overwrite, None), Some("orders")).await.unwrap();
    assert_eq!(back[0].tally.replaced, 1, "{back:?}");

    // What hung on an older version of an order is not part of the newest one.
    let correct = [
        format!("UPDATE {orders} SET note = 'corrected' WHERE id = 3"),
        format!("DELETE FROM {items} WHERE id = 301"),
    ];
    yard.shop.change(&correct).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    for ways in [None, Some("again")] {
        let back = put(&yard, "", (Conflict::Fail, ways), None).await.unwrap();
        assert_eq!(counts(&back), [[10, 1], [20, 3]], "{back:?}");
        let query = format!("SELECT token FROM {} WHERE order_id = 3", back[1].table);
        assert_eq!(yard.shop.ask(&query).await, ["i300", "i300"], "{ways:?}");
    }
    yard.shop.change(&emptied).await;
    // A new table takes them whatever is there, and also alone.
    let skips = (Conflict::Skip, Some("beside"));
    let back = put(&yard, "id < 3", skips, None).await.unwrap();
    assert_eq!(counts(&back), [[3, 0], [6, 0]], "{back:?}");
    let newer = (Conflict::Newer("amount".to_owned()), Some("newer"));
    let back = put(&yard, "id < 5", newer, None).await.unwrap();
    assert_eq!(counts(&back), [[5, 1], [10, 3]], "{back:?}");
    let back = put(&yard, "", (Conflict::Fail, Some("alone")), Some("items")).await.unwrap();
    assert_eq!(counts(&back), [[23, 0]], "{back:?}");

    // Where there are triggers, each row has to be there as often as it was put.
    for (statements, is_fine) in [(harmless, true), (harmful, false)] {
        yard.shop.change(&statements.iter().map(|&one| one.to_owned()).collect::<Vec<_>>()).await;
        let back = put(&yard, "", (Conflict::Fail, None), None).await;
        if is_fine {
            assert_eq!(counts(&back.unwrap()), [[10, 1], [20, 3]]);
            assert_eq!(yard.live("items").await.len(), 20);
            yard.shop.change(&emptied).await;
            continue;
        }
        let error = back.unwrap_err();
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::Refused, code::ROWS_DIFFER), "{error:?}");
        let told = format!("{:?} {:?}", error.facts(), error.advice());
        assert!(told.contains("(\"rows that differ\", \"1\")"), "{told}");
        assert_eq!(yard.live("items").await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_come_back_to_sqlite_with_what_they_hang_on() {
    let harmless = [
        "CREATE TABLE log (id)",
        "CREATE TRIGGER fine AFTER INSERT ON items BEGIN \
          INSERT INTO log VALUES (new.id); END",
    ];
    // Of two that are the same, it takes one away.
    let harmful = ["CREATE TRIGGER meddle AFTER INSERT ON items WHEN new.id = 900 BEGIN \
        DELETE FROM items WHERE rowid = (SELECT min(rowid) FROM items WHERE id = 300); END"];
    keyless(Yard::new(Sqlite::new().await, true), [&harmless, &harmful]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_come_back_to_postgresql_with_what_they_hang_on() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let gone = "DROP TABLE IF EXISTS again_items, again, beside_items, beside, newer_items, newer, \
        alone, log";
    shop.change(&[gone.to_owned()]).await;
    let body = |name: &str, what: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN {what}; RETURN NULL; END $$"
        )
    };
    let logs = body("fine", "INSERT INTO log VALUES (new.id)");
    let takes = body(
        "meddle",
        "DELETE FROM items WHERE ctid = (SELECT min(ctid) FROM items WHERE id = 300)",
    );
    let harmless = [
        "CREATE TABLE log (id int)",
        logs.as_str(),
        "CREATE TRIGGER fine AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION fine()",
    ];
    let harmful = [
        takes.as_str(),
        "CREATE CONSTRAINT TRIGGER meddle AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW WHEN (new.id = 900) EXECUTE FUNCTION meddle()",
    ];
    keyless(Yard::new(&shop, true), [&harmless, &harmful]).await;
    shop.change(&["DROP TABLE items".to_owned(), gone.to_owned()]).await;
    shop.change(&["DROP FUNCTION fine".to_owned(), "DROP FUNCTION meddle".to_owned()]).await;
}

/// A key that was dropped since is missed as one that never was; one that is new does not matter.
async fn changed<S: Shop>(yard: Yard<S>, [drops, adds]: [&[&str]; 2]) {
    yard.fill(0..5, 2).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    yard.shop.change(&owned(drops)).await;
    put(&yard, "id = 1", (Conflict::Skip, None), None).await.unwrap_err();
    assert_eq!(yard.live("orders").await, Vec::<String>::new());
    let back = put(&yard, "id = 1", (Conflict::Fail, None), None).await.unwrap();
    assert_eq!(counts(&back), [[1, 0], [2, 0]], "{back:?}");
    yard.shop.change(&owned(adds)).await;
    put(&yard, "id = 2", (Conflict::Skip, None), None).await.unwrap_err();
    let back = put(&yard, "id = 2", (Conflict::Fail, None), None).await.unwrap();
    assert_eq!(counts(&back), [[1, 0], [2, 0]], "{back:?}");
    assert_eq!(yard.live("items").await, ["i100", "i101", "i200", "i201"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_to_sqlite_whatever_became_of_their_key() {
    let drops = [
        "DROP TABLE items",
        "CREATE TABLE items (id INTEGER, order_id INTEGER REFERENCES orders (id), token TEXT)",
    ];
    let adds = [
        "CREATE TABLE other (number INTEGER PRIMARY KEY, id INTEGER, \
         order_id INTEGER REFERENCES orders (id), token TEXT)",
        "INSERT INTO other SELECT rowid, * FROM items",
        "DROP TABLE items",
        "ALTER TABLE other RENAME TO items",
    ];
    changed(Yard::new(Sqlite::new().await, true), [&drops, &adds]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_back_to_postgresql_whatever_became_of_their_key() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let drops = [
        "ALTER TABLE items DROP CONSTRAINT items_pkey",
        "ALTER TABLE items DROP CONSTRAINT items_token_key",
    ];
    let adds = ["ALTER TABLE items ADD number serial PRIMARY KEY"];
    changed(Yard::new(shop, true), [&drops, &adds]).await;
}

/// The plan says what there is to know, and what cannot be is refused before anything is done.
async fn told<S: Shop>(yard: Yard<S>) {
    let mut yard = begin(yard).await;
    yard.fill(20..22, 1).await;
    let driver = yard.shop.driver().await;
    let mut rows = driver.rows().await.unwrap();
    let prepared = prepare(rows.as_mut(), &yard.rule).await.unwrap();
    let told = prepared.findings.iter().find(|one| one.found.contains("--staging")).unwrap();
    assert!(told.subject == "key" && told.statement.is_some(), "{told:?}");
    assert_eq!(told.weight, Weight::Advice, "{told:?}");
    drop(rows);
    let database = "history".to_owned();
    yard.rule.destination = DestinationRule::Tables { database, schema: None };
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    let facts = format!("{:?}", error.facts());
    assert!(facts.contains("destination") && facts.contains("items has no key"), "{facts}");
    assert_eq!(yard.live("orders").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_archives_rows_without_a_key_is_told_on_sqlite() {
    told(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_archives_rows_without_a_key_is_told_on_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    told(Yard::new(&shop, true)).await;
    shop.change(&["DROP TABLE items".to_owned()]).await;
}
