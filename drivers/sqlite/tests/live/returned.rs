//! Rows that come back into tables which are others by now, or hold what SQLite does not hand over
//! as it is.

use rusqlite::Connection;
use stillpoint_conformance::memory::rows::{MemoryRows, PATIENCE, delete, hang, set};
use stillpoint_contract::{Conflict, ErrorKind, KeyRange, Table, Weight, code};
use tempfile::TempDir;

use crate::rows::{at, count, database, open};

/// A column that is declared otherwise by now makes other values of those that were archived.
#[tokio::test]
async fn values_that_a_changed_column_would_alter_are_refused() {
    let make = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w, r INTEGER)";
    let insert = "INSERT INTO t VALUES (1, 'a', 'b', 2), (2, '007', '1e3', 5)";
    for (now, column, was, becomes) in [
        ("(id INTEGER PRIMARY KEY, v INTEGER, w, r INTEGER)", "v", "'007'", "7"),
        ("(id INTEGER PRIMARY KEY, v TEXT, w NUMERIC, r INTEGER)", "w", "'1e3'", "1000"),
        ("(id INTEGER PRIMARY KEY, v TEXT, w, r REAL)", "r", "2", "2.0"),
        ("(id INTEGER PRIMARY KEY, v TEXT, w, r TEXT)", "r", "2", "'2'"),
        ("(id INTEGER PRIMARY KEY, v TEXT, w, r INT AS (id + 1) STORED)", "r", "5", "3"),
        ("(id INTEGER PRIMARY KEY, v TEXT, w, r INT AS (id + 1))", "r", "5", "3"),
        ("(id INTEGER PRIMARY KEY, v TEXT, w, r NUMERIC) WITHOUT ROWID", "", "", ""),
        ("(id INT PRIMARY KEY NOT NULL, v ANY, w ANY, r INT) STRICT", "", "", ""),
        ("(id TEXT PRIMARY KEY NOT NULL, v TEXT, w, r INTEGER)", "id", "1", "'1'"),
    ] {
        let (directory, db) = database(make);
        db.execute_batch(insert).unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = set(rows.table("t").await.unwrap(), "1");
        let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
        db.execute_batch(&format!("DROP TABLE t; CREATE TABLE t {now}")).unwrap();
        let table = &set.root().table;
        for conflict in [Conflict::Overwrite, Conflict::Skip, Conflict::Fail] {
            let put = all.put_back(rows.as_mut(), table, &conflict, None).await;
            if column.is_empty() {
                assert!(put.is_ok(), "{now}: {put:?}");
                db.execute_batch("DELETE FROM t").unwrap();
                continue;
            }
            let error = put.expect_err(now);
            let found = (error.kind(), error.code());
            assert_eq!(found, (ErrorKind::Refused, code::ROWS_DIFFER), "{now}: {error:?}");
            let fact = |name: &str| {
                let fact = error.facts().into_iter().find(|(label, _)| *label == name);
                fact.map(|(_, value)| value.to_owned()).unwrap()
            };
            let told = [fact("column"), fact("archived"), fact("would become")];
            assert_eq!(told, [column, was, becomes], "{now}");
            assert!(fact("key").starts_with("(id) = ("), "{error:?}");
            assert!(format!("{:?}", error.advice()).contains("--into staging"), "{error:?}");
            assert_eq!(count(&db, "t"), 0, "{now}");
        }
        let put = all.put_back(rows.as_mut(), table, &Conflict::Fail, Some("beside")).await;
        assert_eq!(put.unwrap(), 2, "{now}");
        let same = "SELECT count(*) FROM beside WHERE typeof(v) = 'text' AND typeof(w) = 'text' \
            AND typeof(r) = 'integer' AND v IN ('a', '007') AND w IN ('b', '1e3')";
        assert_eq!(db.query_row(same, [], |row| row.get::<_, i64>(0)).unwrap(), 2, "{now}");
    }
}

/// Whoever is refused is told of the table that takes the rows.
#[tokio::test]
async fn rows_that_their_table_does_not_admit_go_into_one_of_their_own() {
    for now in [
        "(id TEXT PRIMARY KEY NOT NULL, v INTEGER) STRICT",
        "(id TEXT PRIMARY KEY NOT NULL, v TEXT CHECK (length(v) > 1))",
        "(id INTEGER PRIMARY KEY, v TEXT)",
        "(id TEXT PRIMARY KEY NOT NULL)",
    ] {
        let (directory, db) = database(
            "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, v TEXT);
             INSERT INTO t VALUES ('a', 'x')",
        );
        let mut rows = open(&at(&directory)).await;
        let set = set(rows.table("t").await.unwrap(), "1");
        let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
        db.execute_batch(&format!("DROP TABLE t; CREATE TABLE t {now}")).unwrap();
        let table = &set.root().table;
        for conflict in [Conflict::Overwrite, Conflict::Skip, Conflict::Fail] {
            let put = all.put_back(rows.as_mut(), table, &conflict, None).await;
            let error = put.expect_err(now);
            let is_refused = [code::ROWS_CONFLICT, code::ROWS_REFUSED].contains(&error.code());
            assert!(is_refused, "{now}: {error:?}");
            assert!(format!("{:?}", error.advice()).contains("--into staging"), "{error:?}");
            assert_eq!(count(&db, "t"), 0, "{now}");
        }
        let put = all.put_back(rows.as_mut(), table, &Conflict::Fail, Some("beside")).await;
        assert_eq!(put.unwrap(), 1, "{now}");
        let same = "SELECT count(*) FROM beside WHERE id = 'a' AND v = 'x'";
        assert_eq!(db.query_row(same, [], |row| row.get::<_, i64>(0)).unwrap(), 1, "{now}");
    }
}

/// A new table takes keys of every class, also where its column would be the row id.
#[tokio::test]
async fn keys_that_are_no_numbers_go_into_tables_of_their_own() {
    for make in [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE t (id INTEGER NOT NULL UNIQUE, v)",
        "CREATE TABLE t (id integer NOT NULL PRIMARY KEY DESC, v)",
    ] {
        let (directory, db) = database(make);
        db.execute_batch("INSERT INTO t VALUES ('x', 1), (2, 2), (3.5, 3), (x'00', 4)").unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = set(rows.table("t").await.unwrap(), "1");
        let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
        let table = &set.root().table;
        let put = all.put_back(rows.as_mut(), table, &Conflict::Fail, Some("beside")).await;
        assert_eq!(put.unwrap(), 4, "{make}");
        // It is found by its key again.
        let beside = Table { name: "beside".to_owned(), ..table.clone() };
        let put = all.put_back(rows.as_mut(), &beside, &Conflict::Overwrite, None).await;
        assert_eq!(put.unwrap(), 4, "{make}");

        // So does the table of a destination.
        db.execute_batch("ALTER TABLE t RENAME TO source; DROP TABLE beside").unwrap();
        rows.lock("set", PATIENCE).await.unwrap();
        let mut keep = rows.keep().await.unwrap();
        let made = keep.make(table, None).await.unwrap();
        assert_eq!(made.key, [0], "{make}");
        for batch in all.0 {
            keep.put(&made, batch).await.unwrap();
        }
        keep.commit().await.unwrap();
        for table in ["source", "t"] {
            let shown = "SELECT group_concat(typeof(id) || quote(id) || v) FROM (SELECT * FROM ";
            let shown = format!("{shown} {table} ORDER BY v)");
            let shown: String = db.query_row(&shown, [], |row| row.get(0)).unwrap();
            assert_eq!(shown, "text'x'1,integer22,real3.53,blobX'00'4", "{make}");
        }
    }
}

/// A row that replaces another one is compared as well, and what stays is not.
#[tokio::test]
async fn replaced_values_are_compared_and_those_that_stay_are_not() {
    let (directory, db) = database(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, '007')",
    );
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "1");
    let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
    db.execute_batch(
        "DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER);
         INSERT INTO t VALUES (1, 9)",
    )
    .unwrap();
    let table = &set.root().table;
    let put = all.put_back(rows.as_mut(), table, &Conflict::Overwrite, None).await;
    assert_eq!(put.unwrap_err().code(), code::ROWS_DIFFER);
    assert_eq!(all.put_back(rows.as_mut(), table, &Conflict::Skip, None).await.unwrap(), 0);
    let left = db.query_row("SELECT v FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(left.unwrap(), 9);
}

/// SQLite gives the key of the last row to another one, once it is gone, and somebody says so.
#[tokio::test]
async fn keys_that_are_given_to_other_rows_again_are_told() {
    for (make, predicate, told) in [
        ("p (id INTEGER PRIMARY KEY, v)", "v < 9", &["p", "c"][..]),
        ("p (id INTEGER PRIMARY KEY, v)", "v < 3", &["c"]),
        ("p (id INTEGER PRIMARY KEY, v)", "v < 2", &[]),
        ("p (id INTEGER PRIMARY KEY AUTOINCREMENT, v)", "v < 9", &["c"]),
        ("p (id INTEGER PRIMARY KEY, v) WITHOUT ROWID", "v < 9", &["c"]),
        ("p (id INT PRIMARY KEY NOT NULL, v)", "v < 9", &["c"]),
    ] {
        let (directory, _db) = database(&format!(
            "CREATE TABLE {make};
             CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id));
             CREATE INDEX c_p ON c (p);
             INSERT INTO p VALUES (1, 1), (2, 2), (3, 3); INSERT INTO c VALUES (1, 3), (2, 2)"
        ));
        let mut rows = open(&at(&directory)).await;
        let mut set = set(rows.table("p").await.unwrap(), predicate);
        hang(&mut set, rows.table("c").await.unwrap(), ["p", "id"]);
        let findings = rows.examine(&set).await.unwrap();
        let advice = findings.iter().filter(|one| one.found.contains("AUTOINCREMENT"));
        let found: Vec<_> = advice
            .map(|one| {
                assert_eq!((one.subject, one.weight), ("key", Weight::Advice), "{one:?}");
                one.found.split(':').next().unwrap()
            })
            .collect();
        assert_eq!(found, told, "{make}, {predicate}");
    }
}

/// Text that SQLite makes other text of on its way through UTF-8 stays where it is.
#[tokio::test]
async fn text_that_is_no_utf_16_is_refused() {
    for (encoding, fine, other) in [
        ("UTF-16le", ["3dd800de", "fffe", "610000000000", "", "ffff"], ["00d8", "00dc6100"]),
        ("UTF-16be", ["d83dde00", "feff", "006100000000", "", "fffe"], ["d800", "dc000061"]),
    ] {
        for bytes in other {
            let directory = TempDir::new().unwrap();
            let db = Connection::open(at(&directory)).unwrap();
            // Before anything else is written.
            db.execute_batch(&format!(
                "PRAGMA encoding = '{encoding}'; PRAGMA journal_mode = WAL;
                 CREATE TABLE t (id INTEGER PRIMARY KEY, v, w)"
            ))
            .unwrap();
            let text = |bytes: &str| format!("CAST(x'{bytes}' AS TEXT)");
            let insert = |id: usize, value: &str| {
                db.execute_batch(&format!("INSERT INTO t VALUES ({id}, {value}, 'text')")).unwrap();
            };
            for (id, bytes) in fine.into_iter().enumerate() {
                insert(id, &text(bytes));
            }
            insert(8, "x'00d8'");
            insert(9, &text(bytes));
            let mut rows = open(&at(&directory)).await;
            let all = set(rows.table("t").await.unwrap(), "1");
            let mut snapshot = rows.snapshot().await.unwrap();
            let read =
                snapshot.root(&all, &KeyRange::default(), 99, &mut MemoryRows::default()).await;
            drop(snapshot);
            let deleted = delete(rows.as_mut(), &all).await;
            for error in [read.unwrap_err(), deleted.unwrap_err()] {
                let found = (error.kind(), error.code());
                assert_eq!(found, (ErrorKind::Unsupported, code::ROWS_REFUSED), "{error:?}");
                let told = format!("{:?}", error.facts());
                assert!(told.contains("(id) = (9)") && told.contains("\"v\""), "{told}");
                // What it says finds the row.
                let find = error.advice()[0].replace('*', "id");
                let found = db.query_row(&find, [], |row| row.get::<_, i64>(0));
                assert_eq!(found.unwrap(), 9, "{find}");
            }
            assert_eq!(count(&db, "t"), 7, "{encoding}, {bytes}");

            // All others go, and come back.
            let others = set(all.root().table.clone(), "id < 9");
            let before = read_bytes(&db);
            let archived = MemoryRows::read(rows.as_mut(), &others).await.unwrap();
            assert_eq!(delete(rows.as_mut(), &others).await.unwrap(), 6);
            let table = &others.root().table;
            let put = archived.put_back(rows.as_mut(), table, &Conflict::Fail, None).await;
            assert_eq!(put.unwrap(), 6);
            assert_eq!(read_bytes(&db), before, "{encoding}, {bytes}");
        }
    }
}

/// The bytes of the values, as the file has them.
fn read_bytes(db: &Connection) -> String {
    let query = "SELECT group_concat(id || typeof(v) || hex(CAST(v AS BLOB))) FROM \
        (SELECT * FROM t ORDER BY id)";
    db.query_row(query, [], |row| row.get(0)).unwrap()
}
