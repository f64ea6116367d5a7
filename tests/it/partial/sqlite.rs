//! Tables of SQLite, brought back into the file from which they were backed up.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use stillpoint::world::World;

use crate::{
    cli::golden::assert_shape,
    drills::remains::assert_none,
    mounts::{can_mount, packs},
    site::{Running, Site},
};

/// One of everything that a table can have.
const SCHEMA: &str = r#"
    CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        customer INT REFERENCES customers (id) ON DELETE CASCADE,
        total REAL CHECK (orders.total >= 0), note TEXT DEFAULT 'REFERENCES customers',
        twice AS (total * 2) STORED, FOREIGN KEY (customer) REFERENCES customers);
    CREATE INDEX by_note ON orders (lower(note)) WHERE total > 1;
    CREATE UNIQUE INDEX orders_pair ON orders (customer, id);
    CREATE TABLE log (t);
    CREATE TRIGGER tell AFTER INSERT ON orders BEGIN INSERT INTO log VALUES ('x;' || new.id); END;
    CREATE TABLE "Order Items" (a TEXT, b BLOB, "order" INT REFERENCES orders, PRIMARY KEY (a, b))
        WITHOUT ROWID;
    CREATE TABLE strict_one (id INT PRIMARY KEY, v ANY) STRICT;
    CREATE TABLE bare (a, b);
    CREATE TABLE small (n);
    CREATE VIEW totals AS SELECT sum(total) FROM orders;
    CREATE VIRTUAL TABLE words USING fts5(w);
    INSERT INTO customers (name) VALUES ('a'), ('b');
    INSERT INTO orders (customer, total, note)
        SELECT value % 2 + 1, value, 'n''' || char(10) || value FROM generate_series(1, 1000);
    DELETE FROM orders WHERE id = 1000;
    INSERT INTO "Order Items" SELECT 'ö' || value, randomblob(9), value FROM generate_series(1, 50);
    INSERT INTO strict_one VALUES (1, 1), (2, 1.5), (3, x'00'), (4, NULL), (5, 'a' || char(0));
    INSERT INTO bare (rowid, a, b) VALUES (7, 1, NULL), (9, 1, NULL), (11, 'x', 2);
    INSERT INTO small VALUES (1);
"#;

/// A backed up database with one of everything and a table `t` of so many rows.
pub(crate) fn site(rows: u32) -> Site {
    let site = Site::new();
    let app = site.create("app.db", rows);
    let schema = SCHEMA
        .replace("generate_series(1, 1000)", "n1000")
        .replace("generate_series(1, 50)", "n1000 WHERE value <= 50");
    let numbers = "CREATE TEMP TABLE n1000 AS WITH RECURSIVE n (value) AS
        (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 1000) SELECT value FROM n;";
    app.execute_batch(numbers).unwrap();
    app.execute_batch(&schema).unwrap();
    fs::create_dir(site.path("scratch")).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    site
}

pub(crate) fn sql(site: &Site) -> Connection {
    let connection = Connection::open(site.path("app.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection
}

/// Every definition and row of the live file, less what was brought back.
pub(crate) fn state(site: &Site) -> Vec<String> {
    let connection = sql(site);
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let query = "SELECT type || name || tbl_name || coalesce(sql, '') FROM sqlite_schema
        WHERE tbl_name NOT LIKE '%_restored_%' AND tbl_name NOT LIKE '%copy%' ORDER BY 1";
    let mut found = texts(&connection, query);
    for table in ["customers", "orders", "\"Order Items\"", "strict_one", "bare", "small", "log"] {
        found.push(rows(&connection, table));
    }
    found.push(texts(&connection, "SELECT count(*) || sum(n) || hex(max(v)) FROM t").concat());
    found
}

fn texts(connection: &Connection, query: &str) -> Vec<String> {
    let mut query = connection.prepare(query).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Everything in a table, in its own order.
fn rows(connection: &Connection, table: &str) -> String {
    let mut query = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let columns = query.column_count();
    let row = query.query_map([], |row| {
        let value = |place| row.get::<_, rusqlite::types::Value>(place);
        Ok(format!("{:?}", (0..columns).map(value).map(Result::unwrap).collect::<Vec<_>>()))
    });
    row.unwrap().map(Result::unwrap).collect::<Vec<_>>().join("\n")
}

/// Whether there is a table that is not complete.
pub(crate) fn has_passing(site: &Site) -> bool {
    let query = "SELECT name FROM sqlite_schema WHERE name LIKE 'stillpoint%'";
    !texts(&sql(site), query).is_empty()
}

/// Removes what came back as a whole.
pub(crate) fn forget(site: &Site) {
    let connection = sql(site);
    let query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '%_restored_%'";
    for name in texts(&connection, query) {
        assert_eq!(
            texts(&connection, &format!("SELECT count(*) || '' FROM {name}")),
            texts(&connection, "SELECT count(*) || '' FROM t")
        );
        connection.execute_batch(&format!("DROP TABLE {name}")).unwrap();
    }
}

fn restore(words: &[&'static str]) -> Vec<&'static str> {
    let all = ["restore", "app.db", "--into", "sqlite:app.db", "--scratch", "scratch"];
    [&all[..], words].concat()
}

#[test]
fn tables_come_back_under_load_and_nothing_else_changes() {
    for mode in ["WAL", "DELETE"] {
        under_load(mode);
    }
}

fn under_load(mode: &str) {
    let site = site(20_000);
    sql(&site).pragma_update(None, "journal_mode", mode).unwrap();
    let before = state(&site);
    sql(&site)
        .execute_batch(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, cents INT);
             INSERT INTO account VALUES (1, 500), (2, 500)",
        )
        .unwrap();
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, moved, clock) = (Arc::clone(&stop), Arc::clone(&moved), World::real(1).clock);
        let connection = sql(&site);
        std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = clock.elapsed();
                connection
                    .execute_batch(
                        "BEGIN IMMEDIATE; UPDATE account SET cents = cents - 1 WHERE id = 1;
                         UPDATE account SET cents = cents + 1 WHERE id = 2; COMMIT",
                    )
                    .unwrap();
                longest = longest.max(clock.elapsed().saturating_sub(begun));
                moved.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
            longest
        })
    };
    let one = site.json(&restore(&["--table", "t", "--as", "t_copy"]));
    let all = site.json(&restore(&["--table", "*o*", "--table", "bare"]));
    stop.store(true, Ordering::Relaxed);
    let longest = writer.join().unwrap();
    assert!(longest < Duration::from_secs(2), "{mode}: a writer waited for {longest:?}");
    assert!(moved.load(Ordering::Relaxed) > 10, "the load stood still");
    assert_eq!(one["rows"], 20_000, "{one:#}");
    let live = sql(&site);
    assert_eq!(texts(&live, "SELECT sum(cents) || '' FROM account"), ["1000"]);
    live.execute_batch("DROP TABLE account").unwrap();
    assert_eq!(state(&site), before);
    assert_eq!(
        texts(&live, "SELECT count(*) || hex(max(v)) || hex(min(v)) FROM t_copy"),
        texts(&live, "SELECT count(*) || hex(max(v)) || hex(min(v)) FROM t")
    );
    check_families(&live, &all);
    assert_none(&site);
}

fn check_families(live: &Connection, all: &Value) {
    let notes = all["notes"].to_string();
    assert!(notes.contains("totals is left out") && notes.contains("words is left out"), "{notes}");
    let name = |from: &str| {
        let tables = all["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["from"] == from);
        table.unwrap_or_else(|| panic!("{from}: {all:#}"))["to"].as_str().unwrap().to_owned()
    };
    for from in ["customers", "orders", "Order Items", "strict_one", "bare", "log"] {
        let (quoted, copy) = (format!("\"{from}\""), format!("\"{}\"", name(from)));
        assert_eq!(rows(live, &copy), rows(live, &quoted), "{from}");
        let definition = |name: &str| {
            let query = format!("SELECT count(*) || '' FROM pragma_index_list('{name}')");
            (
                texts(live, &query),
                texts(
                    live,
                    &format!(
                        "SELECT name || type || hidden || pk FROM pragma_table_xinfo('{name}')"
                    ),
                ),
            )
        };
        assert_eq!(definition(&name(from)), definition(from), "{from}");
    }
    let parents = |name: &str| {
        texts(live, &format!("SELECT DISTINCT \"table\" FROM pragma_foreign_key_list('{name}')"))
    };
    assert_eq!(parents(&name("orders")), [name("customers")]);
    assert_eq!(parents(&name("Order Items")), [name("orders")]);
    let rowids = format!("SELECT rowid || '' FROM {}", name("bare"));
    assert_eq!(texts(live, &rowids), ["7", "9", "11"]);
    // It counts on where it was, and its triggers are its own.
    let (orders, log) = (name("orders"), name("log"));
    let insert = format!("INSERT INTO {orders} (customer, total) VALUES (1, 1)");
    live.execute_batch(&insert).unwrap();
    assert_eq!(texts(live, &format!("SELECT max(id) || '' FROM {orders}")), ["1001"]);
    assert_eq!(texts(live, &format!("SELECT t FROM {log} WHERE t = 'x;1001'")), ["x;1001"]);
    live.execute_batch(&format!("ALTER TABLE {orders} RENAME TO renamed")).unwrap();
}

#[test]
fn a_hundred_lost_rows_are_found_and_merged() {
    let site = site(10);
    let point = state(&site);
    let live = sql(&site);
    live.execute_batch(
        "DROP TRIGGER tell; PRAGMA foreign_keys = 0; DELETE FROM orders WHERE id % 10 = 3;
         DELETE FROM \"Order Items\"; DELETE FROM bare WHERE rowid = 7;
         UPDATE orders SET note = 'x' || char(10) || 'DELETE FROM orders;' WHERE id IN (1, 2);
         UPDATE strict_one SET v = NULL WHERE id = 5;
         INSERT INTO orders (id, note) VALUES (5000, 'a' || char(10) || 'b')",
    )
    .unwrap();
    let compare = |script| {
        let words = ["--table", "*o*", "--table", "bare", "--compare", "--script", script];
        site.json(&restore(&words))
    };
    let found = compare("first.sql");
    let table = |found: &Value, name: &str| {
        let tables = found["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["table"] == name).unwrap();
        ["missing", "extra", "different"].map(|what| table[what].as_u64().unwrap())
    };
    assert_eq!(table(&found, "orders"), [100, 1, 2], "{found:#}");
    assert_eq!(table(&found, "Order Items"), [50, 0, 0], "{found:#}");
    assert_eq!(table(&found, "bare"), [1, 0, 0], "{found:#}");
    assert_eq!(table(&found, "strict_one"), [0, 0, 1], "{found:#}");
    let script = fs::read_to_string(site.path("first.sql")).unwrap();
    let begins = |text: &str| script.lines().filter(|line| line.starts_with(text)).count();
    assert_eq!(begins("INSERT INTO \"orders\" "), 100);
    assert_eq!((begins("UPDATE "), begins("DELETE "), begins("-- DELETE ")), (3, 0, 1));
    live.execute_batch("PRAGMA foreign_keys = 1").unwrap();
    live.execute_batch(&script).unwrap();
    let again = compare("second.sql");
    assert_eq!(
        (&again["missing"], &again["extra"], &again["different"]),
        (&0.into(), &1.into(), &0.into())
    );
    live.execute_batch("DELETE FROM orders WHERE id = 5000").unwrap();
    let rest = |state: Vec<String>| -> Vec<String> {
        let is_other =
            |line: &String| !line.contains("tell") && !line.contains("[Integer(1), Null]");
        state.into_iter().filter(is_other).collect()
    };
    assert_eq!(rest(state(&site)), rest(point));
    assert_none(&site);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let site = site(10);
    let before = state(&site);
    let fails = |words: &[&'static str], status, said: &[&str]| {
        drop(site.fails(&restore(words), status, said));
    };
    fails(&["--table", "orders", "--as", "Customers"], 5, &["SP0702", "--as NAME"]);
    fails(&["--table", "order"], 6, &["SP0706", "orders"]);
    fails(&["--table", "totals"], 5, &["SP0707", "view"]);
    fails(&["--table", "*", "--as", "x"], 2, &["several"]);
    fails(&["--table", "orders", "--as", "sqlite_x"], 2, &["SP0103"]);
    fails(&["--database", "main"], 5, &["one database", "--to PATH"]);
    assert_eq!(state(&site), before);
    // Triggers whose tables are gone are left out, and told.
    sql(&site).execute_batch("DROP TRIGGER tell; DROP TABLE log").unwrap();
    let copied = site.json(&restore(&["--table", "orders", "--as", "orders_copy"]));
    assert!(copied["notes"].to_string().contains("log"), "{copied:#}");
    sql(&site).execute_batch("INSERT INTO orders_copy (total) VALUES (1)").unwrap();
    assert_none(&site);
}

#[test]
fn merge_scripts_take_no_row_that_is_not_theirs() {
    let site = site(10);
    let schema = "CREATE TABLE folded (id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE, r REAL);
        INSERT INTO folded VALUES (1, 'old', 0.1 + 0.2), (2, 'same', 1.0), (3, 'gone', 9e999);
        INSERT INTO folded VALUES (4, 'gone', 2.2250738585072014e-308);
        INSERT INTO folded VALUES (5, 'gone', 19.99), (6, 'gone', -0.0);
        CREATE TABLE replacing (id INTEGER PRIMARY KEY, u INT UNIQUE ON CONFLICT REPLACE);
        INSERT INTO replacing VALUES (1, 1), (2, 2), (4, 40)";
    sql(&site).execute_batch(schema).unwrap();
    let bits = "SELECT id || v || hex(r = r) || quote(r) || (r - 19.99) FROM folded";
    let before = texts(&sql(&site), bits);
    site.ok(&["backup", "sqlite:app.db"]);
    let live = sql(&site);
    live.execute_batch(
        "UPDATE folded SET v = 'ABC' WHERE id = 1; DELETE FROM folded WHERE id > 2;
         UPDATE replacing SET u = 20 WHERE id = 2; INSERT INTO replacing VALUES (3, 2);
         DELETE FROM replacing WHERE id = 4; INSERT INTO replacing VALUES (5, 40)",
    )
    .unwrap();
    let compare = |table, script| {
        site.json(&restore(&["--table", table, "--compare", "--script", script]));
        fs::read_to_string(site.path(script)).unwrap()
    };
    // Changed once more since, which the column takes for the same.
    let script = compare("folded", "folded.sql");
    live.execute_batch("UPDATE folded SET v = 'abc' WHERE id = 1").unwrap();
    live.execute_batch(&script).unwrap();
    assert_eq!(texts(&live, "SELECT v FROM folded WHERE id = 1"), ["abc"], "{script}");
    live.execute_batch("UPDATE folded SET v = 'old' WHERE id = 1").unwrap();
    assert_eq!(texts(&live, bits), before, "{script}");
    // The table would replace what is in the way.
    let script = compare("replacing", "replacing.sql");
    let rows = "SELECT id || ':' || u FROM replacing ORDER BY id";
    let had = texts(&live, rows);
    live.execute_batch(&script).unwrap_err();
    live.execute_batch("ROLLBACK").unwrap();
    assert_eq!(texts(&live, rows), had, "{script}");
    live.execute_batch("DELETE FROM replacing WHERE id = 3").unwrap();
    live.execute_batch(&script).unwrap();
    assert_eq!(texts(&live, rows), ["1:1", "2:2", "5:40"], "{script}");
}

#[test]
fn rows_come_back_whose_unique_values_others_have_meanwhile() {
    let site = site(10);
    let live = sql(&site);
    live.execute_batch(
        "CREATE TABLE handed (id INTEGER PRIMARY KEY, u TEXT UNIQUE, v TEXT);
         INSERT INTO handed VALUES (1, 'a', 'x\ny'), (2, 'b', ''), (3, 'c', 'é\n')",
    )
    .unwrap();
    let all = "SELECT quote(id) || quote(u) || quote(v) FROM handed ORDER BY id";
    live.execute_batch(
        "CREATE TABLE folded (k TEXT COLLATE NOCASE PRIMARY KEY, v);
         INSERT INTO folded VALUES ('ABC', 1)",
    )
    .unwrap();
    let before = texts(&live, all);
    site.ok(&["backup", "sqlite:app.db"]);
    live.execute_batch(
        "DELETE FROM handed WHERE id <> 2; UPDATE handed SET u = 'a';
         UPDATE folded SET k = 'Abc', v = 2",
    )
    .unwrap();
    let found = site.json(&restore(&["--table", "handed", "--compare", "--script", "m.sql"]));
    assert_eq!(found["tables"][0]["missing"], 2, "{found:#}");
    let script = fs::read_to_string(site.path("m.sql")).unwrap();
    live.execute_batch(&script).unwrap();
    assert_eq!(texts(&live, all), before, "{script}");
    // What is only proposed, taken, makes room for what its key is equal to.
    site.json(&restore(&["--table", "folded", "--compare", "--script", "folded.sql"]));
    let script = fs::read_to_string(site.path("folded.sql")).unwrap();
    live.execute_batch(&script.replace("-- DELETE", "DELETE")).unwrap();
    assert_eq!(texts(&live, "SELECT k || v FROM folded"), ["ABC1"], "{script}");
}

#[test]
fn merge_scripts_know_rows_that_a_collation_takes_for_the_same() {
    let site = site(10);
    let live = sql(&site);
    live.execute_batch(
        "CREATE TABLE keyed (v TEXT COLLATE NOCASE, x INT);
         CREATE UNIQUE INDEX keyed_by ON keyed (v COLLATE BINARY);
         INSERT INTO keyed VALUES ('abc', 1), ('ABC', 2);
         CREATE TABLE lone (rowid TEXT COLLATE NOCASE);
         INSERT INTO lone VALUES ('abc');
         CREATE TABLE kinds (a, b); INSERT INTO kinds VALUES (1, 'a'), (1, 'a'), (1.0, 'a');
         CREATE TABLE nulls (id TEXT PRIMARY KEY, v);
         INSERT INTO nulls VALUES ('a', 'old'), ('b', 'old'), ('c', 'old'), (NULL, 'null'),
             (NULL, 'twice'), (NULL, 'twice');
         CREATE TABLE guarded (id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE, w REAL, x);
         INSERT INTO guarded VALUES (1, 'old', 0.1, 5), (2, 'old', 0.2, 5), (3, 'old', NULL, 5),
             (4, 'old', NULL, 5)",
    )
    .unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    live.execute_batch("UPDATE keyed SET x = 2; INSERT INTO lone VALUES ('ABC')").unwrap();
    let compare = |table, script| {
        site.json(&restore(&["--table", table, "--compare", "--script", script]));
        fs::read_to_string(site.path(script)).unwrap()
    };
    let script = compare("keyed", "keyed.sql");
    live.execute_batch(&script).unwrap();
    assert_eq!(texts(&live, "SELECT v || x FROM keyed ORDER BY x"), ["abc1", "ABC2"], "{script}");
    // What is only proposed, taken.
    let script = compare("lone", "lone.sql").replace("-- DELETE", "DELETE");
    live.execute_batch(&script).unwrap();
    assert_eq!(texts(&live, "SELECT rowid FROM lone"), ["abc"], "{script}");
    // A number is the same only if it is stored in the same way.
    live.execute_batch("DELETE FROM kinds WHERE rowid = 1").unwrap();
    let script = compare("kinds", "kinds.sql");
    live.execute_batch(&script).unwrap();
    let all = "SELECT typeof(a) FROM kinds ORDER BY 1";
    assert_eq!(texts(&live, all), ["integer", "integer", "real"], "{script}");
    // A NULL in a key is no reason to take no row by its key.
    live.execute_batch(
        "UPDATE nulls SET v = 'new' WHERE id <> 'c'; DELETE FROM nulls WHERE v = 'twice'",
    )
    .unwrap();
    let script = compare("nulls", "nulls.sql");
    live.execute_batch(&script).unwrap();
    let all = texts(&live, "SELECT coalesce(id, '-') || v FROM nulls ORDER BY 1");
    assert_eq!(all, ["-null", "-twice", "-twice", "aold", "bold", "cold"], "{script}");
    // One that is gone does not keep others from being compared.
    live.execute_batch("DROP TABLE lone; ALTER TABLE keyed ADD more INT NOT NULL DEFAULT 0")
        .unwrap();
    let words = ["--table", "keyed", "--table", "lone", "--compare", "--script", "two.sql"];
    let found = site.json(&restore(&words));
    let of = |table: &str| {
        let tables = found["tables"].as_array().unwrap();
        tables.iter().find(|one| one["table"] == table).unwrap_or_else(|| panic!("{found:#}"))
    };
    assert_eq!(of("lone")["missing"], 1, "{found:#}");
    assert_eq!(of("keyed")["missing"], 0, "{found:#}");
    assert!(found["warnings"].to_string().contains("--table lone without"), "{found:#}");
    let alone = restore(&["--table", "lone", "--compare", "--plan"]);
    site.fails(&alone, 6, &["to compare with"]);
    // What was changed after it was compared stays.
    live.execute_batch("UPDATE guarded SET v = 'new'").unwrap();
    let script = compare("guarded", "guarded.sql");
    let meanwhile = "UPDATE guarded SET v = 'NEW' WHERE id = 2;
        UPDATE guarded SET w = 3 WHERE id = 3; UPDATE guarded SET x = 5.0 WHERE id = 4";
    live.execute_batch(meanwhile).unwrap();
    live.execute_batch(&script).unwrap();
    let found = texts(&live, "SELECT v FROM guarded ORDER BY id");
    assert_eq!(found, ["old", "NEW", "new", "new"], "{script}");
}

/// Also where whoever runs it does not ask for references to be kept, as `sqlite3` does not.
#[test]
fn a_merge_leaves_no_reference_to_a_row_that_stayed_away() {
    let site = site(10);
    let live = sql(&site);
    live.execute_batch(
        "PRAGMA foreign_keys = OFF;
         CREATE TABLE parent (id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
         CREATE TABLE child (id INTEGER PRIMARY KEY, parent INT REFERENCES parent);
         INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES (1, 1), (2, 2)",
    )
    .unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    let compare = |script: &'static str| {
        let tables = ["--table", "parent", "--table", "child"];
        let words = [&tables[..], &["--compare", "--script", script]].concat();
        site.json(&restore(&words));
        fs::read_to_string(site.path(script)).unwrap()
    };
    live.execute_batch("DELETE FROM parent; DELETE FROM child; INSERT INTO parent VALUES (9, 'a')")
        .unwrap();
    let script = compare("met.sql");
    let said = live.execute_batch(&script).unwrap_err().to_string();
    assert!(said.contains("FOREIGN KEY constraint failed"), "{said}\n{script}");
    live.execute_batch("ROLLBACK; PRAGMA foreign_keys = OFF").unwrap();
    assert!(texts(&live, "SELECT id || '' FROM child").is_empty(), "{script}");
    // Nobody is in the way any more.
    live.execute_batch("DELETE FROM parent").unwrap();
    live.execute_batch(&compare("free.sql")).unwrap();
    assert_eq!(texts(&live, "SELECT parent || '' FROM child"), ["1", "2"]);
    // Where references were broken already, nobody expects them to be kept.
    live.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM parent WHERE id = 1").unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    live.execute_batch("DELETE FROM child").unwrap();
    let script = compare("broken.sql");
    assert!(script.contains("-- references of child were broken already"), "{script}");
    live.execute_batch(&script).unwrap();
    assert_eq!(texts(&live, "SELECT parent || '' FROM child"), ["1", "2"]);
    let words = ["--table", "*", "--compare", "--script", "all.sql"];
    let told = site.json(&restore(&words))["warnings"].to_string();
    assert!(told.contains("words is left out") && told.contains("totals is left out"), "{told}");
    live.execute_batch("DROP TABLE child; CREATE VIEW child AS SELECT id, mail FROM parent")
        .unwrap();
    site.fails(
        &restore(&["--table", "child", "--compare"]),
        6,
        &["SP0706", "no table of this name"],
    );
}

/// What the repository lost is no damage of the database.
#[test]
fn a_damaged_pack_is_told_as_such() {
    if !can_mount() {
        return;
    }
    let site = site(3000);
    let pack = packs(&site).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0x5a);
    fs::write(&pack, bytes).unwrap();
    let said = ["SP0400", "the database itself may be sound", "what else is damaged", "verify"];
    site.fails(&restore(&["--table", "t"]), 9, &said);
    assert_none(&site);
}

#[test]
fn a_copy_in_which_the_engine_finds_damage_is_used_only_when_that_is_accepted() {
    use std::os::unix::fs::FileExt as _;

    let site = site(200);
    sql(&site).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let page: u32 = sql(&site)
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'by_note'", [], |r| r.get(0))
        .unwrap();
    let file = fs::File::options().write(true).open(site.path("app.db")).unwrap();
    // The kind of a page, which no tree has; of an index that nobody asks for.
    file.write_all_at(&[0xff], u64::from(page - 1) * 4096).unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    for more in [&[][..], &["--no-mount"]] {
        let words = [&["--table", "small", "--as", "other"][..], more].concat();
        site.fails(&restore(&words), 9, &["--accept-damage"]);
        assert!(
            texts(&sql(&site), "SELECT name FROM sqlite_schema WHERE name = 'other'").is_empty()
        );
        let found = site.json(&restore(&[&words[..], &["--accept-damage"]].concat()));
        assert!(!found["damage"].as_array().unwrap().is_empty(), "{found:#}");
        sql(&site).execute_batch("DROP TABLE other").unwrap();
    }
    assert_none(&site);
}

#[test]
fn triggers_come_back_also_where_a_view_of_the_point_was_broken() {
    let site = site(10);
    sql(&site)
        .execute_batch(
            "CREATE TABLE gone (n); CREATE VIEW sums AS SELECT * FROM doubled;
             CREATE VIEW doubled AS SELECT total FROM orders;
             CREATE TRIGGER by_view AFTER DELETE ON orders
                 BEGIN INSERT INTO log SELECT 'left' || count(*) FROM sums; END;
             CREATE TRIGGER to_gone AFTER UPDATE ON small
                 BEGIN INSERT INTO gone VALUES (1); END;
             CREATE TRIGGER of_bare AFTER INSERT ON bare
                 BEGIN INSERT INTO log VALUES ('bare'); END;
             CREATE VIEW broken AS SELECT * FROM gone;
             DROP TABLE gone",
        )
        .unwrap();
    site.ok(&["backup", "sqlite:app.db"]);
    sql(&site).execute_batch("DROP TRIGGER to_gone; DROP VIEW broken").unwrap();
    let tables = ["orders", "log", "bare", "small"];
    let words: Vec<_> = tables.iter().flat_map(|table| ["--table", *table]).collect();
    let found = site.json(&restore(&words));
    let told = |notes: &Value, words: &[&str]| {
        let has = |note: &&Value| words.iter().all(|word| note.as_str().unwrap().contains(word));
        notes.as_array().unwrap().iter().filter(has).count()
    };
    assert_eq!(
        told(&found["notes"], &["trigger to_gone is left out", "INTO gone"]),
        1,
        "{found:#}"
    );
    assert_eq!(told(&found["notes"], &["trigger"]), 1, "{found:#}");
    let live = sql(&site);
    let name = |from: &str| {
        let mut tables = found["tables"].as_array().unwrap().iter();
        tables.find(|table| table["from"] == from).unwrap()["to"].as_str().unwrap().to_owned()
    };
    live.execute_batch(&format!(
        "INSERT INTO {} (a) VALUES (1); DELETE FROM {} WHERE id = 1",
        name("bare"),
        name("orders")
    ))
    .unwrap();
    let said = texts(&live, &format!("SELECT t FROM {} ORDER BY rowid DESC LIMIT 2", name("log")));
    assert_eq!(said, ["left999", "bare"]);
}

#[test]
fn what_is_brought_back_is_captured_like_everything_else() {
    let site = site(3000);
    let words = ["logs", "stream", "sqlite:app.db", "--flush", "1s", "--stop-at-eof"];
    let capture = site.spawn(&words, "capture");
    while !fs::read_to_string(site.path("capture.log")).unwrap().contains("Capturing") {
        std::thread::sleep(Duration::from_millis(20));
    }
    site.ok(&["backup", "sqlite:app.db"]);
    site.json(&restore(&["--table", "t", "--as", "t_copy"]));
    let said = || fs::read_to_string(site.path("capture.log")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(capture.end(), 0, "{}", said());
    // The one that the test made before it began.
    assert!(said().matches("gap").count() < 2, "{}", said());
    site.ok(&["restore", "app.db", "--to", "later.db"]);
    let later = Connection::open(site.path("later.db")).unwrap();
    assert_eq!(texts(&later, "SELECT count(*) || '' FROM t_copy"), ["3000"]);
}

#[test]
fn a_plan_changes_nothing_and_tells_how_the_copy_comes_to_be_there() {
    let site = site(20);
    let before = state(&site);
    let words = ["restore", "app.db", "--table", "orders", "--into", "sqlite:app.db", "--plan"];
    let scratch = ["--scratch", "scratch"];
    let plan = site.json(&[&words[..], &scratch].concat());
    assert_shape("restore-partial-plan", &plan);
    assert_eq!(plan["tables"][0]["table"], "orders", "{plan:#}");
    assert!(plan["suffix"].as_str().unwrap().starts_with("_restored_2"), "{plan:#}");
    let compared = site.json(&[&words[..], &scratch, &["--compare"]].concat());
    assert_eq!(compared["script"], "merge-app.db.sql", "{compared:#}");
    let taken = [&words[..], &scratch, &["--as", "orders"]].concat();
    site.fails(&taken, 5, &["SP0702", "--as NAME"]);
    let none = [&words[..3], &["nix"], &words[4..], &scratch].concat();
    assert!(site.json(&none)["warnings"].to_string().contains("no table fits nix"));
    let restored = site.json(&[&words[..], &scratch, &["--no-mount"]].concat());
    assert_eq!(restored["presented"]["mounted"], false, "{restored:#}");
    assert_eq!(restored["presented"]["why_not"], "a full restore was asked for");
    assert_eq!(fs::read_dir(site.path("scratch")).unwrap().count(), 0);
    assert_eq!(state(&site), before);

    let bring = |more: &[&str]| -> Value {
        let words = ["restore", "app.db", "--table", "orders", "--into", "sqlite:app.db"];
        site.json(&[&words[..], &scratch, more].concat())
    };
    let can_mount = plan["presented"]["mounted"].clone();
    assert_eq!(bring(&["--as", "copy"])["presented"]["mounted"], can_mount);
    let other = bring(&["--as", "other", "--no-mount"]);
    assert_eq!((&other["presented"]["mounted"], &other["rows"]), (&false.into(), &999.into()));
    assert_none(&site);
}

#[test]
fn a_name_that_would_be_taken_for_an_unfinished_one_is_refused() {
    let site = site(20);
    let before = state(&site);
    for name in ["stillpoint_partial_1_2_0", "main.stillpoint_partial_x"] {
        let words = ["restore", "app.db", "--table", "orders", "--into", "sqlite:app.db"];
        let words = [&words[..], &["--as", name, "--scratch", "scratch"]].concat();
        site.fails(&words, 2, &[name, "it is no name that a table can have"]);
    }
    assert_eq!(state(&site), before);
    assert_none(&site);
}

/// On a terminal, which `script` plays.
#[test]
fn whoever_waits_for_rows_sees_how_far_they_are_and_when_they_will_be_there() {
    let site = site(40_000);
    let words = ["restore", "app.db", "--table", "t", "--into", "sqlite:app.db"];
    let inner = site.command(&[&words[..], &["--scratch", "scratch"]].concat());
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
    let line = [inner.get_program()].into_iter().chain(inner.get_args()).map(quoted);
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &line.collect::<Vec<_>>().join(" "), "/dev/null"]);
    terminal.current_dir(site.path("")).stdin(std::process::Stdio::null());
    terminal.envs(inner.get_envs().map(|(name, value)| (name, value.unwrap())));
    terminal.env("COLUMNS", "120").stdout(fs::File::create(site.path("drawn")).unwrap());
    let mut running = Running(terminal.spawn().unwrap());
    // An application writes, most of the time: it cannot be over at once.
    let application = sql(&site);
    let ended = loop {
        application.execute_batch("BEGIN IMMEDIATE").unwrap();
        std::thread::sleep(Duration::from_millis(80));
        application.execute_batch("ROLLBACK").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if let Some(ended) = running.ended() {
            break ended;
        }
    };
    let said = fs::read_to_string(site.path("drawn")).unwrap();
    assert_eq!(ended, 0, "{said}");
    let drawn: Vec<_> = said.split('\r').filter(|line| line.contains("app.db  rows ")).collect();
    let shares = drawn.iter().filter_map(|line| {
        let (before, _) = line.split_once(" %")?;
        before.rsplit(' ').next()?.parse::<u32>().ok()
    });
    let shares: Vec<_> = shares.collect();
    assert!(shares.len() > 2 && shares.is_sorted(), "{drawn:?}");
    assert!(shares.iter().any(|share| (1..100).contains(share)), "{drawn:?}");
    assert!(drawn.iter().any(|line| line.contains("  ETA ")), "{drawn:?}");
}
