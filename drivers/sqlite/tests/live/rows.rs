//! Rows that are moved: keys of every kind, triggers and references that interfere, and a process
//! that is killed in the middle.

use std::{env, path::Path, process::Command, time::Duration};

use rusqlite::Connection;
use stillpoint_conformance::memory::rows::{MemoryRows, PATIENCE, delete, hang, set};
use stillpoint_contract::{
    ArchiveSet, Conflict, Error, ErrorKind, Finding, KeyRange, Measure, Rows, Weight, code,
};
use tempfile::TempDir;

use crate::{
    doubles::{application, connect},
    process::now,
};

pub(crate) async fn open(path: &Path) -> Box<dyn Rows> {
    connect(path).await.rows().await.unwrap()
}

/// A database in a new directory, and an application that has it open.
pub(crate) fn database(sql: &str) -> (TempDir, Connection) {
    let directory = TempDir::new().unwrap();
    let db = application(&directory.path().join("app.db"));
    db.execute_batch(sql).unwrap();
    (directory, db)
}

pub(crate) fn at(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("app.db")
}

pub(crate) fn count(db: &Connection, table: &str) -> i64 {
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn what_interferes_with_a_deletion_is_noticed() {
    for (interferes, kind, number) in [
        (
            "CREATE TRIGGER x BEFORE DELETE ON t WHEN old.id = 2 BEGIN SELECT RAISE(IGNORE); END",
            ErrorKind::Refused,
            code::ROWS_DIFFER,
        ),
        (
            "CREATE TRIGGER x AFTER DELETE ON t WHEN old.id = 2
             BEGIN INSERT INTO t VALUES (old.id, 'again'); END",
            ErrorKind::Refused,
            code::ROWS_DIFFER,
        ),
        (
            "CREATE TRIGGER x BEFORE DELETE ON t WHEN old.id = 1
             BEGIN DELETE FROM t WHERE id = 2; END",
            ErrorKind::Refused,
            code::ROWS_DIFFER,
        ),
        (
            "CREATE TABLE c (t REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (2)",
            ErrorKind::Refused,
            code::ROWS_DIFFER,
        ),
        (
            "CREATE TABLE c (t REFERENCES t ON DELETE SET NULL); INSERT INTO c VALUES (2)",
            ErrorKind::Refused,
            code::ROWS_DIFFER,
        ),
        (
            "CREATE TABLE c (t REFERENCES t); INSERT INTO c VALUES (2)",
            ErrorKind::Refused,
            code::ROWS_REFUSED,
        ),
        (
            "CREATE TABLE c (t REFERENCES t DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO c VALUES (2)",
            ErrorKind::Refused,
            code::ROWS_REFUSED,
        ),
    ] {
        let (directory, db) = database("CREATE TABLE t (id INTEGER PRIMARY KEY, a)");
        db.execute_batch("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").unwrap();
        db.execute_batch(interferes).unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = set(rows.table("t").await.unwrap(), "id < 3");
        let error = delete(rows.as_mut(), &set).await.expect_err(interferes);
        assert_eq!((error.kind(), error.code()), (kind, number), "{interferes}: {error:?}");
        assert_eq!(count(&db, "t"), 3, "{interferes}");
        let findings = rows.examine(&set).await.unwrap();
        let told = findings.iter().filter(|finding| finding.weight > Weight::Fine);
        assert!(told.count() > 0, "{interferes}: {findings:?}");
        drop(rows);
    }
    // A trigger that keeps a record is no reason not to delete.
    let (directory, db) = database(
        "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE log (id);
         CREATE TRIGGER x AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.id); END;
         INSERT INTO t VALUES (1), (2), (3)",
    );
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "id < 3");
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 2);
    assert_eq!((count(&db, "t"), count(&db, "log")), (1, 2));
}

/// The file of a log that begins again at its head stays as long, whatever is written then, and
/// nothing of it has to be kept that was copied back.
#[tokio::test]
async fn log_is_counted_by_what_is_written_and_not_by_the_length_of_its_file() {
    const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300)
        INSERT OR REPLACE INTO t SELECT i, randomblob(3000) FROM n";
    const BYTES: u128 = 300 * 3000;
    let (directory, db) = database("CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB)");
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "id < 3");
    let mut before = rows.burden(&set).await.unwrap().log_bytes.unwrap();
    for round in 0..3 {
        db.execute_batch(FILL).unwrap();
        let burden = rows.burden(&set).await.unwrap();
        let written = burden.log_bytes.unwrap() - before;
        assert!((BYTES..3 * BYTES).contains(&written), "{round}: {written}");
        let used = burden.log_used.unwrap();
        assert!(u128::from(used.bytes) >= BYTES && used.bytes < used.room, "{round}: {used:?}");
        let restart = "PRAGMA wal_checkpoint(RESTART)";
        assert_eq!(db.query_row(restart, [], |row| row.get::<_, i64>(0)).unwrap(), 0, "{round}");
        let burden = rows.burden(&set).await.unwrap();
        assert_eq!(burden.log_used.unwrap().bytes, 0, "{round}");
        assert_eq!(burden.log_bytes, Some(before + written), "{round}");
        before += written;
    }
}

#[tokio::test]
async fn what_sqlite_cannot_tell_is_said() {
    let logged = database("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let plain = TempDir::new().unwrap();
    let made = Connection::open(at(&plain)).unwrap();
    made.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
    for (directory, has_log) in [(&logged.0, true), (&plain, false)] {
        let mut rows = open(&at(directory)).await;
        let set = set(rows.table("t").await.unwrap(), "id < 3");
        let burden = rows.burden(&set).await.unwrap();
        for (measure, is_known, is_told) in [
            (Measure::Sessions, burden.active.is_some(), false),
            (Measure::DeadRows, burden.dead_rows.is_some(), false),
            (Measure::LogWritten, burden.log_bytes.is_some(), has_log),
            (Measure::LogUsed, burden.log_used.is_some(), has_log),
        ] {
            let untold = rows.untold(measure).await.unwrap();
            assert_eq!((is_known, untold.is_none()), (is_told, is_told), "{measure:?} {has_log}");
            let is_clear =
                |one: &Finding| one.weight == Weight::Lacking && one.found.contains("SQLite");
            assert!(untold.as_ref().is_none_or(is_clear), "{untold:?}");
        }
    }
}

/// A parent with two children, one of which is in the set, an audit log, sums, and indexes of text.
const SHOP: &str = "
    CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
    CREATE TABLE c (id INTEGER PRIMARY KEY, t REFERENCES t); CREATE INDEX c_t ON c (t);
    CREATE TABLE other (t); CREATE TABLE log (id); CREATE TABLE sums (n);
    CREATE VIRTUAL TABLE five USING fts5(a, content='t', content_rowid='id');
    CREATE VIRTUAL TABLE four USING fts4(content=\"t\", a);
    CREATE VIRTUAL TABLE whole USING fts5(a);
    INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
    INSERT INTO c VALUES (1, 1), (2, 2), (3, 3);
    INSERT INTO other VALUES (1), (2), (3); INSERT INTO sums VALUES (3);
    INSERT INTO five (rowid, a) SELECT id, a FROM t;
    INSERT INTO four (docid, a) SELECT id, a FROM t;
    INSERT INTO whole (rowid, a) SELECT id, a FROM t";

/// The set of `t` and `c`.
async fn shop(rows: &mut dyn Rows) -> ArchiveSet {
    let mut set = set(rows.table("t").await.unwrap(), "id < 3");
    hang(&mut set, rows.table("c").await.unwrap(), ["t", "id"]);
    set
}

#[tokio::test]
async fn a_trigger_that_deletes_rows_of_other_tables_is_refused() {
    for (then, table) in [
        ("DELETE FROM other WHERE t = old.id", "other"),
        ("INSERT INTO log VALUES (1); DELETE FROM OTHER WHERE t > old.id", "other"),
        ("DELETE FROM whole WHERE rowid = old.id", "whole"),
    ] {
        let (directory, db) = database(SHOP);
        db.execute_batch(&format!("CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END")).unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = shop(rows.as_mut()).await;
        let findings = rows.examine(&set).await.unwrap();
        let lacking: Vec<_> = findings.iter().filter(|one| one.weight == Weight::Lacking).collect();
        assert_eq!(lacking.len(), 1, "{then}: {findings:?}");
        let found = lacking[0].found.to_lowercase();
        assert!(found.contains("trigger x") && found.contains(table), "{then}: {findings:?}");
        assert_eq!(lacking[0].statement.as_deref(), Some("DROP TRIGGER \"x\""), "{then}");
        let error = delete(rows.as_mut(), &set).await.expect_err(then);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED));
        assert_eq!(error.advice()[0], "DROP TRIGGER \"x\"", "{error:?}");
        assert_eq!(
            (count(&db, "t"), count(&db, "other"), count(&db, "whole")),
            (3, 3, 3),
            "{then}"
        );
    }
}

/// Such rows are other ones than those of the file, each time that they were read again.
#[tokio::test]
async fn a_trigger_that_changes_rows_of_the_set_is_refused() {
    for (on, then, table) in [
        ("DELETE ON c", "UPDATE t SET a = a || 'x' WHERE id = old.t", "t"),
        ("DELETE ON t", "UPDATE C SET t = NULL WHERE t = old.id", "c"),
        // At any depth.
        ("INSERT ON log", "UPDATE t SET a = 'x'", "t"),
    ] {
        let (directory, db) = database(SHOP);
        db.execute_batch(&format!(
            "CREATE TRIGGER keeps AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.id); END;
             CREATE TRIGGER x AFTER {on} BEGIN {then}; END"
        ))
        .unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = shop(rows.as_mut()).await;
        let findings = rows.examine(&set).await.unwrap();
        let lacking: Vec<_> = findings.iter().filter(|one| one.weight == Weight::Lacking).collect();
        assert_eq!(lacking.len(), 1, "{then}: {findings:?}");
        let told = format!("trigger x changes rows of {table}, which is in the set");
        assert!(lacking[0].found.contains(&told), "{then}: {findings:?}");
        assert_eq!(lacking[0].statement.as_deref(), Some("DROP TRIGGER \"x\""), "{then}");
        // One that fires for something else does not matter.
        db.execute_batch(&format!(
            "DROP TRIGGER x; CREATE TRIGGER x AFTER UPDATE ON sums BEGIN {}; END",
            then.replace("old.t", "1").replace("old.id", "1")
        ))
        .unwrap();
        let findings = rows.examine(&set).await.unwrap();
        assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{then}: {findings:?}");
    }
}

/// A row that makes way for another one is returned to nobody, and changes no number of rows.
#[tokio::test]
async fn a_trigger_that_replaces_rows_of_the_set_is_refused() {
    for (then, table) in [
        ("REPLACE INTO c VALUES (3, NULL)", "c"),
        ("INSERT OR REPLACE INTO log VALUES (old.id); UPDATE OR REPLACE c SET id = 3", "c"),
        ("INSERT INTO T VALUES (3, 'other')", "t"),
        // The trigger that fires for it says nothing of conflicts.
        ("INSERT OR REPLACE INTO seen VALUES (3)", "c"),
    ] {
        let replacing = SHOP.replace("PRIMARY KEY, a", "PRIMARY KEY ON CONFLICT REPLACE, a");
        let (directory, db) = database(if table == "t" { &replacing } else { SHOP });
        db.execute_batch(&format!(
            "CREATE VIEW seen AS SELECT id FROM c;
             CREATE TRIGGER y INSTEAD OF INSERT ON seen
             BEGIN INSERT INTO c VALUES (new.id, NULL); END;
             CREATE TRIGGER x AFTER DELETE ON t WHEN old.id < 3 BEGIN {then}; END"
        ))
        .unwrap();
        let all = || {
            let all = "SELECT (SELECT group_concat(id || a) FROM t) || \
                (SELECT group_concat(id || t) FROM c)";
            db.query_row(all, [], |row| row.get::<_, String>(0)).unwrap()
        };
        let before = all();
        let mut rows = open(&at(&directory)).await;
        let set = shop(rows.as_mut()).await;
        let findings = rows.examine(&set).await.unwrap();
        let lacking: Vec<_> = findings.iter().filter(|one| one.weight == Weight::Lacking).collect();
        assert_eq!(lacking.len(), 1, "{then}: {findings:?}");
        let trigger = if then.contains("seen") { "y" } else { "x" };
        let told = format!("trigger {trigger} may replace rows of {table}, which is in the set");
        assert!(lacking[0].found.contains(&told), "{then}: {findings:?}");
        let statement = format!("DROP TRIGGER \"{trigger}\"");
        assert_eq!(lacking[0].statement.as_ref(), Some(&statement), "{then}");
        // Also where nobody looked at the set before.
        let error = delete(rows.as_mut(), &set).await.expect_err(then);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED));
        assert_eq!(error.advice(), [statement.as_str()], "{error:?}");
        assert_eq!(all(), before, "{then}");
    }
}

/// One that fires for what the trigger of a table writes down may come after the set was looked at.
#[tokio::test]
async fn a_trigger_of_another_table_that_deletes_rows_is_refused_whenever_it_comes() {
    let (directory, db) = database(SHOP);
    db.execute_batch("CREATE TRIGGER x AFTER DELETE ON t BEGIN INSERT INTO log VALUES (1); END")
        .unwrap();
    let mut rows = open(&at(&directory)).await;
    let set = shop(rows.as_mut()).await;
    assert!(rows.examine(&set).await.unwrap().iter().all(|one| one.weight < Weight::Lacking));
    db.execute_batch("CREATE TRIGGER y AFTER INSERT ON log BEGIN DELETE FROM other; END").unwrap();
    let error = delete(rows.as_mut(), &set).await.unwrap_err();
    assert_eq!(error.code(), code::ROWS_REFUSED, "{error:?}");
    assert_eq!((count(&db, "t"), count(&db, "other")), (3, 3));
    assert!(rows.examine(&set).await.unwrap().iter().any(|one| one.weight == Weight::Lacking));
    db.execute_batch("DROP TRIGGER y").unwrap();
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 4);
    assert_eq!((count(&db, "t"), count(&db, "log"), count(&db, "other")), (1, 2, 3));
}

#[tokio::test]
async fn triggers_that_lose_no_row_are_no_reason_not_to_delete() {
    for (then, is_told) in [
        ("INSERT INTO log VALUES (old.id)", false),
        ("UPDATE sums SET n = n - 1", true),
        ("INSERT INTO five (five, rowid, a) VALUES ('delete', old.id, old.a)", false),
        ("DELETE FROM four WHERE docid = old.id", false),
        // What hangs on a row goes before it.
        ("DELETE FROM c WHERE t = old.id", false),
        ("DELETE FROM c WHERE t = old.id; INSERT INTO log VALUES (old.id)", false),
    ] {
        let (directory, db) = database(SHOP);
        db.execute_batch(&format!("CREATE TRIGGER x BEFORE DELETE ON t BEGIN {then}; END"))
            .unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = shop(rows.as_mut()).await;
        let findings = rows.examine(&set).await.unwrap();
        assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{then}: {findings:?}");
        let told: Vec<_> = findings.iter().filter(|one| one.subject == "trigger").collect();
        assert_eq!(told.len(), 1, "{then}: {findings:?}");
        let changes = told[0].found.starts_with("t: trigger x changes rows of sums");
        assert_eq!(changes, is_told, "{then}: {findings:?}");
        assert_eq!(delete(rows.as_mut(), &set).await.expect(then), 4);
        assert_eq!((count(&db, "t"), count(&db, "c"), count(&db, "other")), (1, 1, 3), "{then}");
    }
}

/// Rows that only derive from others may go, and none of another table with them.
#[tokio::test]
async fn rows_that_only_derive_may_go() {
    for (then, lost) in [
        ("DELETE FROM other WHERE t = old.id", None),
        ("DELETE FROM WHOLE WHERE rowid = old.id; INSERT INTO log VALUES (1)", None),
        ("REPLACE INTO totals VALUES (old.id, 3)", None),
        ("DELETE FROM other; DELETE FROM sums", Some(("trigger", "sums"))),
        ("DELETE FROM words WHERE t = old.id", Some(("reference", "kept"))),
    ] {
        let (directory, db) = database(SHOP);
        db.execute_batch(&format!(
            "CREATE TABLE totals (t INTEGER PRIMARY KEY, n UNIQUE);
             INSERT INTO totals VALUES (1, 1), (3, 3);
             CREATE TABLE words (t INTEGER PRIMARY KEY); INSERT INTO words VALUES (1), (2);
             CREATE TABLE kept (t REFERENCES words ON DELETE CASCADE);
             INSERT INTO kept VALUES (1), (2);
             CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END"
        ))
        .unwrap();
        let mut rows = open(&at(&directory)).await;
        let mut set = shop(rows.as_mut()).await;
        for name in ["OTHER", "whole", "main.\"words\"", "totals"] {
            set.derived.push(rows.named(name).await.unwrap().name);
        }
        assert_eq!(set.derived, ["other", "whole", "words", "totals"]);
        let findings = rows.examine(&set).await.unwrap();
        let lacking = findings.iter().filter(|one| one.weight == Weight::Lacking);
        let lacking: Vec<_> = lacking.collect();
        let Some((subject, table)) = lost else {
            assert!(lacking.is_empty(), "{then}: {lacking:?}");
            assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 4, "{then}");
            continue;
        };
        assert_eq!(lacking.len(), 1, "{then}: {lacking:?}");
        assert_eq!(lacking[0].subject, subject, "{then}: {lacking:?}");
        let word = format!("if its rows only derive from others, say so: derived = [\"{table}\"]");
        assert!(lacking[0].found.contains(&word), "{then}: {lacking:?}");
        let error = delete(rows.as_mut(), &set).await.unwrap_err();
        assert_eq!(error.code(), code::ROWS_REFUSED, "{then}: {error:?}");
        assert!(error.advice().contains(&&*word), "{then}: {error:?}");
        let counts = ["t", "other", "whole", "sums", "words", "kept"].map(|name| count(&db, name));
        assert_eq!(counts, [3, 3, 3, 1, 2, 2], "{then}");
    }
    let (directory, db) = database(SHOP);
    db.execute_batch("CREATE VIEW looked AS SELECT * FROM t").unwrap();
    let mut rows = open(&at(&directory)).await;
    for (name, kind) in [
        ("looked", ErrorKind::Unsupported),
        ("sqlite_schema", ErrorKind::Unsupported),
        ("nowhere", ErrorKind::Missing),
        ("oth*", ErrorKind::Missing),
    ] {
        assert_eq!(rows.named(name).await.unwrap_err().kind(), kind, "{name}");
    }
}

/// What a trigger puts into an index comes back with the row, such as its place in an R-Tree.
/// Source: OGC GeoPackage 1.4, F.3, "RTree Spatial Indexes".
#[tokio::test]
async fn an_index_that_triggers_fill_goes_with_its_rows_and_comes_back_with_them() {
    let (directory, db) = database(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, x REAL); CREATE TABLE log (id);
         CREATE VIRTUAL TABLE places USING rtree(id, low, high);
         CREATE VIRTUAL TABLE words USING fts5(a);
         CREATE TRIGGER place AFTER INSERT ON t WHEN new.x NOT NULL
         BEGIN INSERT OR REPLACE INTO places VALUES (new.id, new.x, new.x + 1); END;
         CREATE TRIGGER unplace AFTER DELETE ON t WHEN old.x NOT NULL
         BEGIN DELETE FROM places WHERE id = old.id; INSERT INTO log VALUES (old.id); END;
         CREATE TRIGGER word AFTER INSERT ON t
         BEGIN INSERT INTO words (rowid, a) VALUES (new.id, new.a); END;
         CREATE TRIGGER unword AFTER DELETE ON t BEGIN DELETE FROM words WHERE rowid = old.id; END;
         INSERT INTO t VALUES (1, 'a', 1), (2, 'b', NULL), (3, 'c', 3)",
    );
    let counts = || ["t", "places", "words", "log"].map(|table| count(&db, table));
    assert_eq!(counts(), [3, 2, 3, 0]);
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "id < 3");
    let findings = rows.examine(&set).await.unwrap();
    assert!(findings.iter().all(|one| one.weight < Weight::Lacking), "{findings:?}");
    let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 2);
    assert_eq!(counts(), [1, 1, 1, 1]);
    let put = all.put_back(rows.as_mut(), &set.root().table, &Conflict::Fail, None).await;
    assert_eq!(put.unwrap(), 2);
    assert_eq!(counts(), [3, 2, 3, 1]);

    // What nothing fills would be gone for good.
    db.execute_batch("DROP TRIGGER place").unwrap();
    let findings = rows.examine(&set).await.unwrap();
    let lacking: Vec<_> = findings.iter().filter(|one| one.weight == Weight::Lacking).collect();
    assert_eq!(lacking.len(), 1, "{findings:?}");
    assert_eq!(lacking[0].statement.as_deref(), Some("DROP TRIGGER \"unplace\""));
    let error = delete(rows.as_mut(), &set).await.unwrap_err();
    assert_eq!(error.advice()[0], "DROP TRIGGER \"unplace\"", "{error:?}");
    assert_eq!(counts(), [3, 2, 3, 1]);
}

/// Rows of the set that are not handed over are in no file.
#[tokio::test]
async fn a_trigger_that_deletes_other_rows_of_the_set_is_noticed() {
    for then in [
        "DELETE FROM c WHERE id = 3",
        "DELETE FROM c WHERE id = 3; INSERT INTO log VALUES (1)",
        "DELETE FROM c WHERE id = 3; UPDATE sums SET n = 0",
        "DELETE FROM t WHERE id = 3",
        "DELETE FROM t WHERE id = 3; INSERT INTO log VALUES (1)",
    ] {
        let (directory, db) = database(SHOP);
        // What refers to the third row keeps it from nothing.
        db.execute_batch("UPDATE c SET t = NULL WHERE id = 3").unwrap();
        db.execute_batch(&format!("CREATE TRIGGER x AFTER DELETE ON t BEGIN {then}; END")).unwrap();
        let mut rows = open(&at(&directory)).await;
        let set = shop(rows.as_mut()).await;
        let error = delete(rows.as_mut(), &set).await.expect_err(then);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_DIFFER), "{then}");
        assert_eq!((count(&db, "t"), count(&db, "c")), (3, 3), "{then}");
    }
}

/// Neither a table that is emptied at once nor one without row ids goes unnoticed.
#[tokio::test]
async fn a_trigger_that_empties_a_table_of_the_set_is_noticed() {
    for kind in ["", "WITHOUT ROWID"] {
        let (directory, db) = database(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT); CREATE TABLE log (id);
             CREATE TABLE c (id INTEGER PRIMARY KEY, t INTEGER) {kind};
             INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
             INSERT INTO c VALUES (1, 1), (2, 2), (3, 3);
             CREATE TRIGGER x AFTER DELETE ON t
             BEGIN INSERT INTO log VALUES (old.id); DELETE FROM c; END"
        ));
        let mut rows = open(&at(&directory)).await;
        let set = shop(rows.as_mut()).await;
        let error = delete(rows.as_mut(), &set).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_DIFFER), "{kind}");
        let gone = error.facts().into_iter().find(|(label, _)| *label == "rows that would be gone");
        assert_eq!(gone.map(|(_, rows)| rows), Some("1"), "{kind}: {error:?}");
        let counts = || ["t", "c", "log"].map(|table| count(&db, table));
        assert_eq!(counts(), [3, 3, 0], "{kind}");
        // What is not there cannot go, and each time is counted anew.
        db.execute_batch("DELETE FROM c WHERE t = 3").unwrap();
        assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), 4, "{kind}");
        assert_eq!(counts(), [1, 0, 2], "{kind}");
    }
}

#[tokio::test]
async fn keys_are_what_tells_rows_apart() {
    let (directory, _db) = database(
        "CREATE TABLE plain (id INTEGER PRIMARY KEY, a);
         CREATE TABLE nulls (a TEXT PRIMARY KEY);
         CREATE TABLE descending (a INTEGER PRIMARY KEY DESC);
         CREATE TABLE filled (a TEXT PRIMARY KEY NOT NULL, b);
         CREATE TABLE wide (a, b, c, PRIMARY KEY (c, a)) WITHOUT ROWID;
         CREATE TABLE other (a, b NOT NULL, c NOT NULL UNIQUE);
         CREATE TABLE part (a NOT NULL); CREATE UNIQUE INDEX p ON part (a) WHERE a > 1;
         CREATE TABLE made (a NOT NULL); CREATE UNIQUE INDEX m ON made (a + 1);
         CREATE TABLE none (a, b)",
    );
    let mut rows = open(&at(&directory)).await;
    for (table, key) in [
        ("plain", &[0][..]),
        ("nulls", &[]),
        ("descending", &[]),
        ("filled", &[0]),
        ("wide", &[2, 0]),
        ("other", &[2]),
        ("part", &[]),
        ("made", &[]),
        ("none", &[]),
    ] {
        assert_eq!(rows.table(table).await.unwrap().key, key, "{table}");
    }
}

/// Small and capital letters are the same key here, and a page that ends with one begins behind
/// the other.
#[tokio::test]
async fn keys_are_compared_as_their_index_does() {
    let (directory, db) = database(
        "CREATE TABLE t (a TEXT NOT NULL, v INTEGER);
         CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE);
         CREATE TABLE u (a TEXT NOT NULL COLLATE NOCASE, v INTEGER);
         CREATE UNIQUE INDEX j ON u (a COLLATE BINARY);
         INSERT INTO t VALUES ('b', 1), ('A', 1), ('C', 1), ('d', 1);
         INSERT INTO u VALUES ('a', 1), ('A', 1), ('b', 1), ('B', 1)",
    );
    for table in ["t", "u"] {
        let mut rows = open(&at(&directory)).await;
        let set = set(rows.table(table).await.unwrap(), "v = 1");
        let (mut range, mut seen) = (KeyRange::default(), 0);
        loop {
            let mut page = MemoryRows::default();
            let mut snapshot = rows.snapshot().await.unwrap();
            if snapshot.root(&set, &range, 1, &mut page).await.unwrap() == 0 {
                break;
            }
            drop(snapshot);
            seen += 1;
            assert!(seen <= 4, "{table}: pages overlap");
            let row = page.0[0].rows().next().unwrap().to_vec();
            let value = stillpoint_contract::values(&row).next().unwrap().unwrap().unwrap();
            let mut writer = stillpoint_contract::RowWriter::default();
            writer.begin(1);
            writer.value(&[value]);
            writer.end().unwrap();
            range.after = Some(stillpoint_contract::Key(writer.take().bytes().clone()));
        }
        assert_eq!(seen, 4, "{table}");
        // The same row by another spelling is there already.
        if table == "t" {
            let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
            db.execute_batch("UPDATE t SET a = upper(a)").unwrap();
            let table = &set.root().table;
            let mut back = rows.put_back().await.unwrap();
            back.begin(table, &Conflict::Overwrite, None).await.unwrap();
            back.rows(all.0[0].clone()).await.unwrap();
            assert_eq!(back.end().await.unwrap().replaced, 4);
            back.commit().await.unwrap();
            let lower = "SELECT count(*) FROM t WHERE a COLLATE BINARY IN ('b', 'A', 'C', 'd')";
            assert_eq!(db.query_row(lower, [], |row| row.get::<_, i64>(0)).unwrap(), 4);
        }
    }
}

#[tokio::test]
async fn what_a_table_says_of_conflicts_replaces_nothing() {
    let (directory, db) = database(
        "CREATE TABLE t (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, a UNIQUE ON CONFLICT IGNORE);
         INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "1");
    let all = MemoryRows::read(rows.as_mut(), &set).await.unwrap();
    db.execute_batch("UPDATE t SET a = a || ' now'; UPDATE t SET id = 3, a = 'b' WHERE id = 2")
        .unwrap();
    let before = "SELECT group_concat(id || a, ',') FROM t";
    let before: String = db.query_row(before, [], |row| row.get(0)).unwrap();
    for conflict in [Conflict::Fail, Conflict::Skip, Conflict::Overwrite] {
        let table = &set.root().table;
        let mut back = rows.put_back().await.unwrap();
        back.begin(table, &conflict, None).await.unwrap();
        // One by its key, and the other by what is unique besides.
        let error = back.rows(all.0[0].clone()).await.unwrap_err();
        assert_eq!(error.code(), code::ROWS_CONFLICT, "{conflict:?}: {error:?}");
        drop(back);
        let after = "SELECT group_concat(id || a, ',') FROM t";
        let after: String = db.query_row(after, [], |row| row.get(0)).unwrap();
        assert_eq!(after, before, "{conflict:?}");
    }
}

/// This test is the main function of a process that deletes and waits to be killed.
#[tokio::test]
async fn a_deleting_process() {
    let Some(path) = env::var_os("STILLPOINT_TEST_ROWS") else { return };
    let mut rows = open(Path::new(&path)).await;
    let set = set(rows.table("t").await.unwrap(), "1");
    rows.lock("set", PATIENCE).await.unwrap();
    let mut pruning = rows.prune().await.unwrap();
    pruning.delete(&set, 0, &KeyRange::default(), &mut MemoryRows::default()).await.unwrap();
    println!("deleted");
    std::thread::sleep(Duration::from_mins(1));
}

#[tokio::test]
async fn a_killed_process_keeps_nobody_out() {
    use std::io::{BufRead as _, BufReader};

    let (directory, db) = database("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    db.execute_batch("INSERT INTO t VALUES (1), (2)").unwrap();
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["--exact", "rows::a_deleting_process", "--nocapture"])
        .env("STILLPOINT_TEST_ROWS", at(&directory))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains("deleted")), "it did not delete");
    let mut rows = open(&at(&directory)).await;
    let busy: Error = rows.lock("set", PATIENCE).await.unwrap_err();
    assert_eq!((busy.kind(), busy.code()), (ErrorKind::Busy, code::ROWS_LOCKED));
    process.kill().unwrap();
    process.wait().unwrap();
    rows.lock("set", PATIENCE).await.unwrap();
    assert_eq!(count(&db, "t"), 2);
    drop(rows);
    // The lock's file goes with it.
    let is_left = || {
        let entries = std::fs::read_dir(directory.path()).unwrap();
        entries.map(|e| e.unwrap().file_name()).any(|n| n.to_string_lossy().contains("archive"))
    };
    for _ in 0..200 {
        if !is_left() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the lock's file is left");
}

#[tokio::test]
async fn references_are_followed_as_their_parent_compares() {
    let (directory, _db) = database(
        "CREATE TABLE p (name TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, old INTEGER);
         CREATE TABLE c (id INTEGER PRIMARY KEY, p TEXT REFERENCES p (name) ON DELETE CASCADE);
         CREATE INDEX c_p ON c (p);
         INSERT INTO p VALUES ('abc', 1); INSERT INTO c VALUES (1, 'ABC'), (2, 'abc')",
    );
    let mut rows = open(&at(&directory)).await;
    let mut set = set(rows.table("p").await.unwrap(), "old = 1");
    hang(&mut set, rows.table("c").await.unwrap(), ["p", "name"]);
    let mut kept = MemoryRows::default();
    let mut snapshot = rows.snapshot().await.unwrap();
    assert_eq!(snapshot.member(&set, 1, &KeyRange::default(), &mut kept).await.unwrap(), 2);
}

/// Measures; the limit only tells that nothing is quadratic.
#[tokio::test]
async fn many_rows_move_quickly() {
    const ROWS: u64 = 200_000;
    let (directory, db) = database("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b REAL, c)");
    db.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO t SELECT i, 'text of about forty letters, as usual ' || i, i / 3.0,
            i % 7 FROM n"
    ))
    .unwrap();
    let mut rows = open(&at(&directory)).await;
    let set = set(rows.table("t").await.unwrap(), "c IS NOT NULL");
    let (began, mut kept) = (now(), MemoryRows::default());
    let mut snapshot = rows.snapshot().await.unwrap();
    let count = snapshot.root(&set, &KeyRange::default(), ROWS * 2, &mut kept).await.unwrap();
    drop(snapshot);
    let read = began.elapsed();
    assert_eq!(count, ROWS);
    assert!(kept.0.len() > 10 && kept.0.iter().all(|batch| batch.bytes().len() < 1 << 20));
    let began = now();
    assert_eq!(delete(rows.as_mut(), &set).await.unwrap(), ROWS);
    let deleted = began.elapsed();
    println!("{ROWS} rows: read in {read:?}, deleted in {deleted:?}");
    assert!(read + deleted < Duration::from_mins(1));
}
