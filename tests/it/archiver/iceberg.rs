//! What is published as tables of Iceberg shows archived rows to a reader that knows nothing of us,
//! each once and as it was, and no others; what Iceberg cannot say is refused.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use stillpoint::{
    archiver::{Erasing, Quit, Shelf, duckdb_views, erase},
    policy::{ArchivedChild, FileFormat},
    repository::store::MemoryStore,
};
use stillpoint_contract::{Error, ErrorKind, code};
use stillpoint_testcontainers::{DuckDb, Iceberg};

use super::{
    iceberg_seen::{archived, assert_same, local, publish, seen},
    shop::{InPostgres, Shop, Sqlite, Yard},
    types_postgres, types_sqlite,
    values_postgres::TYPES,
};
use crate::serving::ward::{HEAD, Ward};

/// Of directories: what readers of URLs, shells and globs take for something else.
const HOSTILE: &str = "it's 100% hëre; %20 a=b & [c] {d} *";

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What lies beside the metadata of a table.
fn beside(table: &Path) -> Vec<String> {
    let entries = fs::read_dir(table.join("metadata")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Nothing was written, and the error says what and why, and what to do.
fn assert_refused(refused: &Error, into: &Path, words: &[&str]) {
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::ARCHIVE_PUBLISH));
    let told = format!("{refused:?}");
    for word in words {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(told.contains("stillpoint archive publish orders --for duckdb"), "{told}");
    assert!(!into.join("orders").exists(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_postgresql_is_seen_as_it_is_archived() {
    let Some(iceberg) = Iceberg::required() else { return };
    for major in [13, 18] {
        let Some(shop) = InPostgres::new(major).await else { continue };
        shop.client().await.batch_execute(TYPES).await.unwrap();
        let cases = types_postgres::cases(&shop).await;
        for is_odd in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join(HOSTILE);
            let client = shop.client().await;
            let reset = "DROP SCHEMA IF EXISTS stillpoint CASCADE; ALTER ROLE postgres RESET ALL";
            client.batch_execute(reset).await.unwrap();
            types_postgres::fill(&shop, &cases, is_odd).await;
            client.batch_execute(types_postgres::HOSTILE).await.unwrap();
            let mut yard = Yard::in_store(&shop, false, local(&root).await);
            types_postgres::TABLE.clone_into(&mut yard.rule.root);
            "true".clone_into(&mut yard.rule.selects);
            let pruned = yard.run().await.unwrap().pruned_rows;
            assert!(pruned > 20, "{pruned}");
            let into = root.join("tables");
            let published = publish(&yard, &into).await.unwrap();
            assert_eq!(published[0].rows, pruned);
            let found = seen(&iceberg, &into.join("orders"));
            assert!(found[0].len() > cases.len(), "{:?}", found[0].keys());
            assert_same(found, archived(&yard, None).await, &format!("{major} {is_odd}"));
            client.batch_execute("ALTER ROLE postgres RESET ALL").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_in_every_column_of_sqlite_is_seen_as_it_is_archived() {
    let Some(iceberg) = Iceberg::required() else { return };
    let of = types_sqlite::AFFINITIES;
    let folder = tempfile::tempdir().unwrap();
    let shop = Sqlite::empty().await;
    let connection = rusqlite::Connection::open(shop.path()).unwrap();
    let columns = types_sqlite::columns(of);
    let make =
        format!("CREATE TABLE every (id INTEGER PRIMARY KEY, {columns}, \"a.b, \"\"c\" INT)");
    connection.execute_batch(&make).unwrap();
    types_sqlite::fill(&connection, of.len());
    let mut yard = Yard::in_store(shop, false, local(&folder.path().join(HOSTILE)).await);
    "every".clone_into(&mut yard.rule.root);
    "1".clone_into(&mut yard.rule.selects);
    assert!(yard.run().await.unwrap().pruned_rows as usize >= 2 * types_sqlite::VALUES.len());
    let into = folder.path().join("tables");
    publish(&yard, &into).await.unwrap();
    assert_same(seen(&iceberg, &into.join("orders")), archived(&yard, None).await, "sqlite");
    // One class in each column, and nothing but NULL in one.
    let make = "CREATE TABLE plain (id INTEGER PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, n TEXT);
        INSERT INTO plain VALUES (1, -7, 0.1, 'é', x'ff', NULL), (2, NULL, 9e999, '', x'', NULL)";
    connection.execute_batch(make).unwrap();
    "plain".clone_into(&mut yard.rule.root);
    yard.place = stillpoint::archiver::Place::new(Arc::clone(&yard.store), "plain").unwrap();
    "plain".clone_into(&mut yard.rule.name);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 2);
    publish(&yard, &into).await.unwrap();
    let found = seen(&iceberg, &into.join("plain"));
    assert!(
        found.iter().any(|row| row["i"] == json!("-7") && row["b"] == json!("ff")),
        "{found:?}"
    );
    assert_same(found, archived(&yard, None).await, "plain");
}

/// Rows that live are not seen, nor are batches that wait; each version replaces the one before.
#[tokio::test(flavor = "multi_thread")]
async fn each_publication_shows_what_counts_then_and_nothing_else() {
    let Some(iceberg) = Iceberg::required() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(Sqlite::new().await, true, local(folder.path()).await);
    yard.rule.file_bytes = 1;
    let into = folder.path().join("tables");
    yard.fill(0..25, 1).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 50);
    yard.shop.change(&["ALTER TABLE orders ADD COLUMN later TEXT".to_owned()]).await;
    let insert = |id: i64, state: &str| {
        format!("INSERT INTO orders VALUES ({id}, 'o{id}', '{state}', NULL, 1.5, 'later')")
    };
    yard.shop.change(&[insert(25, "closed"), insert(26, "open")]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
    yard.shop.change(&[insert(27, "closed")]).await;
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);

    let first = publish(&yard, &into).await.unwrap();
    let counts: Vec<(u64, bool)> = first.iter().map(|one| (one.rows, one.files > 1)).collect();
    assert_eq!(counts, [(26, true), (25, true)]);
    let orders = into.join("orders");
    let found = seen(&iceberg, &orders);
    assert_eq!(found.iter().filter(|row| row["later"] == json!("later")).count(), 1);
    assert_same(found, archived(&yard, None).await, "orders");
    let items = seen(&iceberg, &into.join("orders_items"));
    assert_same(items, archived(&yard, Some("items")).await, "items");
    let before = json_of(&first[0].metadata);
    assert!(first[0].metadata.ends_with("v1.metadata.json"));
    assert_eq!(fs::read_to_string(orders.join("metadata/version-hint.text")).unwrap(), "1");

    // Who was erased is in no version that is found from then on.
    let places = [yard.place.clone()];
    let who = ("Art. 17", "dba");
    let gone = erase(&places, &yard.world, (None, "token", "o7"), who, Erasing::IfFound);
    assert_eq!(Box::pin(gone).await.unwrap().rows, 2);
    let second = publish(&yard, &into).await.unwrap();
    assert_eq!((second[0].rows, second[1].rows), (25, 24));
    let found = seen(&iceberg, &orders);
    assert!(found.iter().all(|row| row["token"] != json!("o7")));
    assert_same(found, archived(&yard, None).await, "after an erasure");
    let after = json_of(&second[0].metadata);
    assert_eq!(after["table-uuid"], before["table-uuid"]);
    assert_ne!(after["current-snapshot-id"], before["current-snapshot-id"]);
    assert_eq!(
        (&after["last-sequence-number"], &after["current-schema-id"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(after["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(after["schemas"], before["schemas"]);
    let log = after["metadata-log"][0]["metadata-file"].as_str().unwrap();
    assert_eq!(PathBuf::from(log.strip_prefix("file://").unwrap()), first[0].metadata);
    assert!(first[0].metadata.exists(), "who reads it may go on");

    // The third one lets the first one go, with all that was in it.
    let third = publish(&yard, &into).await.unwrap();
    assert_same(seen(&iceberg, &third[0].metadata), archived(&yard, None).await, "by its metadata");
    let names = beside(&orders);
    let versions: Vec<&str> = names.iter().map(|name| &name[..2]).collect();
    assert_eq!(versions, ["v2", "v2", "v2", "v3", "v3", "v3", "ve"], "{names:?}");
    let left: Vec<_> = fs::read_dir(into.join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A table all of whose files are gone is empty, and not what it was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_files_is_empty() {
    let Some(iceberg) = Iceberg::required() else { return };
    let folder = tempfile::tempdir().unwrap();
    let yard = Yard::in_store(Sqlite::new().await, true, local(folder.path()).await);
    yard.fill(0..3, 1).await;
    let into = folder.path().join("tables");
    assert_eq!(publish(&yard, &into).await.unwrap_err().code(), code::NO_SUCH_ARCHIVE);
    yard.shop.change(&["DELETE FROM items".to_owned()]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 3);
    let published = publish(&yard, &into).await.unwrap();
    assert_eq!((published[1].rows, published[1].files), (0, 0));
    assert!(seen(&iceberg, &into.join("orders_items")).is_empty());
    assert_eq!(seen(&iceberg, &into.join("orders")).len(), 3);
}

/// Numbers tell PostgreSQL's columns, whatever they and their table are called.
#[tokio::test(flavor = "multi_thread")]
async fn columns_of_postgresql_are_seen_by_the_names_that_they_have_now() {
    let Some(iceberg) = Iceberg::required() else { return };
    let Some(shop) = InPostgres::new(18).await else { return };
    let execute = async |sql: &str| shop.client().await.batch_execute(sql).await.unwrap();
    execute(
        "DROP TABLE IF EXISTS calls, phone_calls;
         CREATE TABLE calls (id int PRIMARY KEY, who smallint, at timetz, note text, gone text);
         INSERT INTO calls SELECT n, n, '12:00+01', 'old', 'gone' FROM generate_series(0, 9) AS n",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(&shop, false, local(folder.path()).await);
    "public.calls".clone_into(&mut yard.rule.root);
    "true".clone_into(&mut yard.rule.selects);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 10);
    let into = folder.path().join("tables");
    let first = publish(&yard, &into).await.unwrap();
    execute(
        "ALTER TABLE calls RENAME TO phone_calls;
         ALTER TABLE phone_calls RENAME who TO caller;
         ALTER TABLE phone_calls ALTER caller TYPE bigint;
         ALTER TABLE phone_calls RENAME at TO since;
         ALTER TABLE phone_calls DROP note, ADD note int, DROP gone;
         INSERT INTO phone_calls VALUES (10, 1::bigint << 40, '13:00+01', 7)",
    )
    .await;
    "public.phone_calls".clone_into(&mut yard.rule.root);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
    // It goes on, whatever its table is called.
    publish(&yard, &into).await.unwrap();
    let mut found = seen(&iceberg, &into.join("orders"));
    found.sort_by_key(|row| row["id"].as_str().unwrap().parse::<i64>().unwrap());
    let wanted = |id: i64, caller: i64, since: i64, note, note_before, gone| {
        json!({
            "id": id.to_string(), "caller": caller.to_string(),
            "since": (since * 3_600_000_000).to_string(), "since__offset": "3600",
            "note": note, "note__4": note_before, "gone": gone,
        })
    };
    for (id, row) in (0..).zip(&found[..10]) {
        assert_eq!(json!(row), wanted(id, id, 11, json!(null), json!("old"), json!("gone")));
    }
    let last = wanted(10, 1 << 40, 12, json!("7"), json!(null), json!(null));
    assert_eq!(found[10..].iter().map(|row| json!(row)).collect::<Vec<_>>(), [last]);
    let schema = json_of(&into.join("orders/metadata/v2.metadata.json"));
    assert_eq!(schema["current-schema-id"], json!(1), "{schema:#}");
    assert!(
        schema["last-column-id"].as_i64() >= json_of(&first[0].metadata)["last-column-id"].as_i64()
    );
    execute("DROP TABLE phone_calls").await;
}

/// Numbers of fields, wherever they are in a schema.
fn collect(value: &Value, ids: &mut Vec<i64>) {
    for key in ["id", "element-id"] {
        ids.extend(value.get(key).and_then(Value::as_i64));
    }
    let members = value.as_object().into_iter().flat_map(|object| object.values());
    let elements = value.as_array().into_iter().flatten();
    members.chain(elements).for_each(|inner| collect(inner, ids));
}

/// Numbers of what is within columns are the largest ones, and count.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_all_fields_are_known() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let make = "DROP TABLE IF EXISTS nested; CREATE TABLE nested (id int PRIMARY KEY, a interval,
        b timetz[]); INSERT INTO nested VALUES (1, '1 day', '{12:00+01}')";
    shop.client().await.batch_execute(make).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(&shop, false, local(folder.path()).await);
    "public.nested".clone_into(&mut yard.rule.root);
    "true".clone_into(&mut yard.rule.selects);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1);
    let into = folder.path().join("tables");
    let published = publish(&yard, &into).await.unwrap();
    let metadata = json_of(&published[0].metadata);
    let mut ids = Vec::new();
    collect(&metadata["schemas"][0]["fields"], &mut ids);
    let most = ids.iter().max().copied();
    assert_eq!(metadata["last-column-id"].as_i64(), most);
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), count), (9, 9), "{metadata:#}");
    if let Some(iceberg) = Iceberg::required() {
        let found = seen(&iceberg, &into.join("orders"));
        assert_same(found, archived(&yard, None).await, "nested");
    }
    shop.client().await.batch_execute("DROP TABLE nested").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_iceberg_cannot_say_is_refused() {
    // Files in other formats.
    for format in [FileFormat::Csv, FileFormat::Jsonl] {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("tables");
        let mut yard = Yard::in_store(Sqlite::new().await, false, local(folder.path()).await);
        yard.rule.format = format;
        yard.fill(0..3, 0).await;
        yard.run().await.unwrap();
        let refused = publish(&yard, &into).await.unwrap_err();
        assert_refused(&refused, &into, &["archive/orders/orders/expire=", "no files but Parquet"]);
    }
    // A column in two forms; the other table could be told, and is not written either.
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("tables");
    let yard = Yard::in_store(Sqlite::new().await, true, local(folder.path()).await);
    yard.fill(0..3, 1).await;
    yard.run().await.unwrap();
    publish(&yard, &folder.path().join("others")).await.unwrap();
    yard.fill(3..4, 1).await;
    yard.shop.change(&["UPDATE items SET token = x'ff'".to_owned()]).await;
    yard.run().await.unwrap();
    let refused = publish(&yard, &into).await.unwrap_err();
    assert_refused(&refused, &into, &["\"token\"", "in different forms", "Any"]);
    // SQLite does not say whether a column was renamed, or is another one.
    let yard = Yard::in_store(Sqlite::new().await, false, local(&folder.path().join("b")).await);
    yard.fill(0..3, 0).await;
    yard.run().await.unwrap();
    yard.shop.change(&["ALTER TABLE orders RENAME note TO remark".to_owned()]).await;
    yard.fill(3..4, 0).await;
    yard.run().await.unwrap();
    let refused = publish(&yard, &into).await.unwrap_err();
    assert_refused(&refused, &into, &["\"remark\"", "\"note\"", "has its number"]);
    // Nor does its number stay the same when one before it goes.
    let yard = Yard::in_store(Sqlite::new().await, false, local(&folder.path().join("c")).await);
    yard.fill(0..3, 0).await;
    yard.run().await.unwrap();
    let drop = "ALTER TABLE orders DROP COLUMN amount; ALTER TABLE orders DROP COLUMN note;
        ALTER TABLE orders ADD COLUMN amount; INSERT INTO orders VALUES (7, 'o7', 'closed', 1)";
    rusqlite::Connection::open(yard.shop.path()).unwrap().execute_batch(drop).unwrap();
    yard.run().await.unwrap();
    let refused = publish(&yard, &into).await.unwrap_err();
    assert_refused(&refused, &into, &["\"amount\"", "number"]);
    // Places that readers do not find.
    for name in ["a#b", "a?b", "a\nb"] {
        let root = folder.path().join(name);
        let yard = Yard::in_store(Sqlite::new().await, false, local(&root).await);
        yard.fill(0..3, 0).await;
        yard.run().await.unwrap();
        assert_refused(&publish(&yard, &into).await.unwrap_err(), &into, &["something else"]);
    }
    let in_memory = Yard::in_store(Sqlite::new().await, false, Arc::new(MemoryStore::default()));
    in_memory.fill(0..3, 0).await;
    in_memory.run().await.unwrap();
    assert_refused(&publish(&in_memory, &into).await.unwrap_err(), &into, &["s3://"]);
}

/// A column with the name of what is within another one.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_iceberg_would_take_for_others_are_refused() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let make = "DROP TABLE IF EXISTS nested; CREATE TABLE nested (id int PRIMARY KEY, a interval,
        \"a.days\" int); INSERT INTO nested VALUES (1, '1 day', 2)";
    shop.client().await.batch_execute(make).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(&shop, false, local(folder.path()).await);
    "public.nested".clone_into(&mut yard.rule.root);
    "true".clone_into(&mut yard.rule.selects);
    yard.run().await.unwrap();
    let into = folder.path().join("tables");
    assert_refused(&publish(&yard, &into).await.unwrap_err(), &into, &["a.days"]);
    shop.client().await.batch_execute("DROP TABLE nested").await.unwrap();
}

/// Nobody's tables are written over, and of several who publish at once each is told the truth.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_stays() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("tables");
    let yard = Yard::in_store(Sqlite::new().await, false, local(folder.path()).await);
    yard.fill(0..3, 0).await;
    yard.run().await.unwrap();
    let published = publish(&yard, &into).await.unwrap();
    let metadata = &published[0].metadata;
    let good = fs::read_to_string(metadata).unwrap();
    for bad in [good.replace("stillpoint.set", "owner"), String::new(), "{}".to_owned()] {
        fs::remove_file(metadata).unwrap();
        fs::write(metadata, &bad).unwrap();
        let refused = publish(&yard, &into).await.unwrap_err();
        assert_eq!(refused.code(), code::ARCHIVE_PUBLISH, "{refused:?}");
        assert!(format!("{refused:?}").contains("--into DIR"), "{refused:?}");
        assert_eq!(fs::read_to_string(metadata).unwrap(), bad);
        assert_eq!(beside(&into.join("orders")).len(), 4);
    }
    fs::write(metadata, &good).unwrap();
    // A set of the same name, in another repository.
    let other = Yard::in_store(Sqlite::new().await, false, local(&folder.path().join("b")).await);
    other.fill(0..3, 0).await;
    other.run().await.unwrap();
    let refused = publish(&other, &into).await.unwrap_err();
    assert!(format!("{refused:?}").contains("that is another table"), "{refused:?}");
    let all = futures::future::join_all((0..8).map(|_| publish(&yard, &into))).await;
    let (done, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert!(!done.is_empty());
    for refused in refused {
        assert!(format!("{:?}", refused.unwrap_err()).contains("at the same time"));
    }
    // Those who wrote the very same in the same millisecond share a version.
    let newest = done.iter().map(|one| &one.as_ref().unwrap()[0].metadata).max().unwrap();
    let hint = fs::read_to_string(into.join("orders/metadata/version-hint.text")).unwrap();
    assert!(newest.ends_with(format!("v{hint}.metadata.json")), "{newest:?} {hint}");
    if let Some(iceberg) = Iceberg::required() {
        assert_eq!(seen(&iceberg, &into.join("orders")).len(), 3);
    }
}

/// Tables of one name in several schemas are several tables.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_one_name_in_several_schemas_are_all_seen() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::in_store(&shop, true, local(folder.path()).await);
    yard.fill(0..3, 1).await;
    let make = "DROP SCHEMA IF EXISTS \"o/ther\" CASCADE; CREATE SCHEMA \"o/ther\";
        CREATE TABLE \"o/ther\".items (id int PRIMARY KEY, order_id int REFERENCES orders (id),
            token text); CREATE INDEX ON \"o/ther\".items (order_id);
        INSERT INTO \"o/ther\".items VALUES (1, 1, 'x'), (2, 2, 'y')";
    shop.client().await.batch_execute(make).await.unwrap();
    let table = "\"o/ther\".items".to_owned();
    yard.rule.children.push(ArchivedChild { table, columns: Vec::new() });
    assert_eq!(yard.run().await.unwrap().pruned_rows, 8);
    let views = duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
    if let Some(duckdb) = DuckDb::required() {
        let count = "SELECT count(*) FROM duckdb_views() WHERE NOT internal";
        let rows = duckdb.query(&format!("{views}\n{count}"));
        assert_eq!(rows.unwrap().trim(), "[\"6\"]", "two of each: {views}");
    }
    let into = folder.path().join("tables");
    let published = publish(&yard, &into).await.unwrap();
    let mut rows: Vec<u64> = published.iter().map(|one| one.rows).collect();
    rows.sort_unstable();
    assert_eq!(rows, [2, 3, 3]);
    if let Some(iceberg) = Iceberg::required() {
        for one in &published {
            let found = seen(&iceberg, &one.metadata);
            assert_same(found, archived(&yard, Some(&one.table)).await, &one.table);
        }
    }
    shop.client().await.batch_execute("DROP SCHEMA \"o/ther\" CASCADE").await.unwrap();
}

#[test]
fn the_program_publishes_for_iceberg_and_says_where() {
    let configuration = "\n[database.shop]\nendpoint = \"sqlite:shop.db\"\n[archive.orders]\n\
        database = \"shop\"\nroot = \"orders\"\nwhere = \"state = 'closed'\"\n";
    let ward = Ward::new(&format!("{HEAD}{configuration}"));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = rusqlite::Connection::open(ward.path("shop.db")).unwrap();
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let make = "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT);
        INSERT INTO orders VALUES (1, 'closed'), (2, 'open')";
    shop.execute_batch(make).unwrap();
    ward.ok(&["archive", "run", "orders"]);
    let publish = ["archive", "publish", "orders", "--for", "iceberg"];
    let (status, told) = ward.run(&publish);
    assert!(status == 2 && told.contains("--into"), "{status} {told}");
    let told = ward.ok(&[&publish[..], &["--into", "the tables 100%"]].concat());
    let metadata = PathBuf::from(told.trim_end());
    assert_eq!(metadata, ward.path("the tables 100%/orders/metadata/v1.metadata.json"));
    if let Some(iceberg) = Iceberg::required() {
        let rows = iceberg.rows(metadata.parent().unwrap().parent().unwrap().to_str().unwrap());
        assert_eq!(rows.unwrap(), "{\"id\": \"1\", \"state\": \"closed\"}\n");
    }
    let (status, told) = ward.run(&["archive", "publish", "orders", "--into", "elsewhere"]);
    assert!(status == 2 && told.contains("only what is for iceberg"), "{status} {told}");
}
