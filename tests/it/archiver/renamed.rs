//! Sets whose tables and columns got other names since, or other forms: what was archived before is
//! found, erased, put back and shown like everything else.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::sync::Arc;

use stillpoint::{
    archiver::{
        Erasing, FoundRows, Returning, Shelf, Wanted, duckdb_views, erase, erasures, find,
        put_back, revoke,
    },
    repository::store::{LocalStore, RealFs, Store, Writers},
    world::World,
};
use stillpoint_contract::{Conflict, ErrorKind};
use stillpoint_testcontainers::DuckDb;

use super::shop::{InPostgres, Shop, Sqlite, Yard};

const WHO: (&str, &str) = ("Art. 17", "dba");

async fn count<S: Shop>(yard: &Yard<S>, table: Option<&str>, condition: &str) -> u64 {
    let terms = Wanted::terms_of(condition).unwrap();
    let wanted = Wanted { terms, table: table.map(str::to_owned), ..Wanted::default() };
    let take = async |_: FoundRows| Ok(());
    Box::pin(find(&yard.place, &yard.world.cpu, &wanted, None, take)).await.unwrap()
}

/// A store that another program can read.
async fn local() -> (tempfile::TempDir, Arc<dyn Store>) {
    let (folder, world) = (tempfile::tempdir().unwrap(), World::real(3));
    let entropy = Arc::clone(&world.entropy);
    let store =
        LocalStore::open(RealFs, folder.path(), Writers::Several, &*world.clock, entropy).await;
    (folder, Arc::new(store.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_i16_who_is_erased_is_gone_from_files_of_other_names_too() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let execute = async |sql: &str| shop.client().await.batch_execute(sql).await.unwrap();
    execute(
        "DROP TABLE IF EXISTS calls, phone_calls;
         CREATE TABLE calls (id int PRIMARY KEY, state text, who int, other int);
         INSERT INTO calls SELECT n, 'closed', n % 10, 7 FROM generate_series(0, 99) AS n",
    )
    .await;
    let (_folder, store) = local().await;
    let mut yard = Yard::in_store(&shop, false, store);
    "public.calls".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 100);
    // One takes the name of the other one, and the table another name.
    execute(
        "ALTER TABLE calls RENAME TO phone_calls;
         ALTER TABLE phone_calls RENAME who TO customer;
         ALTER TABLE phone_calls RENAME other TO who;
         ALTER TABLE phone_calls ADD note text;
         INSERT INTO phone_calls SELECT n, 'closed', n % 10, 7, 'new'
             FROM generate_series(100, 149) AS n",
    )
    .await;
    "public.phone_calls".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 50);
    for (condition, expected) in [
        ("customer = 3", 15),
        ("who = 7", 150),
        ("who = 3", 0),
        ("other = 7", 150),
        ("note = new", 50),
        ("note != new", 0),
    ] {
        assert_eq!(count(&yard, None, condition).await, expected, "{condition}");
        for table in ["phone_calls", "public.phone_calls", "calls"] {
            let found = count(&yard, Some(table), condition).await;
            assert_eq!(found, expected, "{table}: {condition}");
        }
    }
    let wanted = Wanted { terms: Wanted::terms_of("id = 13").unwrap(), ..Wanted::default() };
    let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
    let driver = yard.shop.driver().await;
    let back = put_back(&yard.place, &yard.world, &*driver, &returning).await.unwrap();
    assert_eq!((back.len(), back[0].tally.inserted), (1, 1), "{back:?}");
    let row = "SELECT customer, who FROM phone_calls WHERE id = 13";
    let row = shop.client().await.query_one(row, &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (3, 7));

    let places = [yard.place.clone()];
    let subject = (None, "customer", "3");
    let erase =
        async |erasing| Box::pin(erase(&places, &yard.world, subject, WHO, erasing)).await.unwrap();
    assert_eq!((erase(Erasing::Dry).await.rows, erase(Erasing::Dry).await.rows), (15, 15));
    assert_eq!(erase(Erasing::IfFound).await.rows, 15);
    assert_eq!(count(&yard, None, "customer = 3").await, 0);
    assert_eq!(count(&yard, None, "").await, 135);
    if let Some(duckdb) = DuckDb::required() {
        let views =
            duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
        let rows = duckdb.query(&format!("{views}\nSELECT count(*)::VARCHAR FROM orders"));
        assert_eq!(rows.unwrap().trim(), "[\"135\"]");
    }
    // Whose rows those are does not change with the names.
    execute(
        "ALTER TABLE phone_calls RENAME customer TO caller;
         ALTER TABLE phone_calls RENAME who TO customer;
         INSERT INTO phone_calls VALUES (200, 'closed', 5, 3, ''), (201, 'closed', 3, 8, '')",
    )
    .await;
    assert_eq!(yard.run().await.unwrap().erased_rows, 1 + 1, "13, which was put back, and 201");
    assert_eq!(count(&yard, None, "caller = 3").await, 0);
    assert_eq!(count(&yard, None, "customer = 3").await, 1);
    // A column that takes the place of one that was dropped is that one to people.
    execute(
        "ALTER TABLE phone_calls ADD fresh int; ALTER TABLE phone_calls DROP caller;
         ALTER TABLE phone_calls RENAME fresh TO caller;
         INSERT INTO phone_calls VALUES (300, 'closed', 0, '', 4)",
    )
    .await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
    assert_eq!(count(&yard, None, "caller = 4").await, 15 + 1);
    execute("DROP TABLE phone_calls").await;
}

/// What nobody has is not written down, unless somebody says so; what is revoked comes back.
#[tokio::test(flavor = "multi_thread")]
async fn i16_an_erasure_is_tried_listed_and_revoked() {
    let yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..10, 1).await;
    yard.run().await.unwrap();
    let places = [yard.place.clone()];
    let erase = async |column: &'static str, value: &'static str, erasing| {
        let subject = (None, column, value);
        Box::pin(erase(&places, &yard.world, subject, WHO, erasing)).await
    };
    let listed = async || erasures(&yard.place).await.unwrap();
    assert_eq!(erase("id", "3", Erasing::Dry).await.unwrap().rows, 2);
    assert_eq!(erase("id", "77", Erasing::IfFound).await.unwrap().id, None);
    assert_eq!(erase("nosuch", "3", Erasing::Always).await.unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!((listed().await.len(), count(&yard, None, "").await), (0, 10));
    let standing = erase("id", "77", Erasing::Always).await.unwrap().id.unwrap();
    assert_eq!(erase("id", "3", Erasing::IfFound).await.unwrap().rows, 2);
    assert_eq!(listed().await.len(), 2);

    yard.fill(77..78, 1).await;
    let run = yard.run().await.unwrap();
    assert_eq!((run.pruned_rows, run.erased_rows, count(&yard, None, "").await), (2, 2, 9));
    // Nothing is new: no file is read, and none written.
    let before = yard.store.list("archive/").await.unwrap().len();
    assert_eq!(yard.run().await.unwrap().erased_rows, 0);
    assert_eq!(yard.store.list("archive/").await.unwrap().len(), before);

    revoke(&yard.place, &yard.world, &standing, WHO).await.unwrap();
    let again = revoke(&yard.place, &yard.world, &standing, WHO).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Missing);
    assert!(listed().await.iter().any(|(one, end)| one.id == standing && end.is_some()));
    yard.fill(177..178, 0).await;
    yard.shop.change(&["UPDATE orders SET id = 77 WHERE id = 177".to_owned()]).await;
    yard.run().await.unwrap();
    assert_eq!(count(&yard, None, "id = 77").await, 1);
}

/// One value that does not fit has its file keep a column in another form, and hides no other file.
#[tokio::test(flavor = "multi_thread")]
async fn duckdb_sees_files_of_several_forms_together() {
    let Some(duckdb) = DuckDb::required() else { return };
    let (_folder, store) = local().await;
    let mut yard = Yard::in_store(Sqlite::new().await, false, store);
    yard.shop
        .change(&["CREATE TABLE odd (id INTEGER PRIMARY KEY, n INTEGER, state TEXT)".into()])
        .await;
    "odd".clone_into(&mut yard.rule.root);
    for (id, value) in [(1, "5"), (2, "'odd'"), (3, "6.5")] {
        let insert = format!("INSERT INTO odd VALUES ({id}, {value}, 'closed')");
        yard.shop.change(&[insert]).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
    }
    let views = duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
    let rows = duckdb.query(&format!("{views}\nSELECT n FROM orders ORDER BY id")).unwrap();
    assert_eq!(rows.lines().collect::<Vec<_>>(), ["[\"5\"]", "[\"odd\"]", "[\"6.5\"]"]);
}
