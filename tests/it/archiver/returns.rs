//! A database that comes back as another file, or is mistaken for a copy of itself; rows that come
//! back with all that hangs on them.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{fs, path::Path};

use stillpoint::archiver::{
    FoundRows, Quit, Reconciling, Returning, Term, Wanted, find, ledger_of, put_back, verify,
};
use stillpoint_contract::{Conflict, ErrorKind, Result, code};

use super::shop::{InPostgres, Shop, Sqlite, Yard};

fn tokens(letter: &str, numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let mut all: Vec<String> = numbers.into_iter().map(|one| format!("{letter}{one}")).collect();
    all.sort();
    all
}

/// Brings a copy into the place of a database, as another file.
pub(super) fn replace(copy: &Path, path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        drop(fs::remove_file(beside));
    }
    fs::rename(copy, path).unwrap();
}

pub(super) fn copy(path: &Path, to: &Path) {
    let to = to.display().to_string();
    rusqlite::Connection::open(path).unwrap().execute("VACUUM INTO ?", [&to]).unwrap();
}

/// Invariant 15, where the restored database is another file: nothing goes on before somebody says
/// that it takes the place of the other one.
#[tokio::test(flavor = "multi_thread")]
async fn i15_a_database_that_was_restored_goes_on_once_it_is_adopted() {
    let yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..40, 1).await;
    let path = yard.shop.path();
    copy(&path, &path.with_extension("copy"));
    assert!(yard.run().await.unwrap().quit.is_done());
    replace(&path.with_extension("copy"), &path);

    let error = yard.run().await.unwrap_err();
    assert_eq!(error.code(), code::FOREIGN_DATABASE, "{error:?}");
    assert!(error.advice()[0].contains("reconcile orders --adopt"), "{error:?}");
    let look = Reconciling::default();
    let error = yard.reconcile(look).await.unwrap_err();
    assert_eq!(error.code(), code::FOREIGN_DATABASE, "{error:?}");

    let adopts = Reconciling { adopts: true, prunes: true, notes: false };
    let found = yard.reconcile(adopts).await.unwrap();
    assert_eq!((found.pruned_rows, found.live.len()), (80, 0), "{found:?}");
    yard.fill(40..50, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!(yard.archived("orders").await, tokens("o", 0..50));
    assert_eq!(yard.live("orders").await.len(), 0);
}

/// Somebody reconciles with a copy, and then with the database again: nothing stays hidden.
#[tokio::test(flavor = "multi_thread")]
async fn i3_what_a_copy_of_the_database_hid_is_seen_again() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    let path = yard.shop.path();
    let (held, clone) = (path.with_extension("held"), path.with_extension("copy"));
    copy(&path, &clone);
    assert!(yard.run().await.unwrap().quit.is_done());
    copy(&path, &held);
    replace(&clone, &path);
    let adopts = Reconciling { adopts: true, ..Reconciling::default() };
    let (place, world) = (&yard.place, &yard.world);
    let found = yard.reconcile(adopts).await.unwrap();
    assert_eq!(found.live.iter().map(|slice| slice.rows).sum::<u64>(), 20);
    assert_eq!(yard.archived("orders").await, Vec::<String>::new());

    replace(&held, &path);
    let driver = yard.shop.driver().await;
    assert!(yard.run().await.is_err(), "it is another table again");
    let nothing = ledger_of(place, &*driver).await.unwrap();
    assert_eq!(nothing, None, "of a table that is not the set's, no ledger counts");
    // It is adopted, but nobody looked: the run that follows does.
    let found = yard.reconcile(adopts).await.unwrap();
    assert_eq!(found.live, []);
    let ledger = ledger_of(place, &*driver).await.unwrap();
    let verified = verify(place, &world.cpu, ledger.as_deref(), |_| true).await.unwrap();
    assert_eq!((verified.rows, verified.damages.len()), (20, 0));
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    assert_eq!(yard.archived("orders").await, tokens("o", 0..20));
}

/// Rows come back with all that hangs on them, from several files, and into tables of their own.
async fn families<S: Shop>(mut yard: Yard<S>) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    yard.fill(0..30, 2).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let driver = yard.shop.driver().await;
    let put = async |condition: &str, staging: Option<&str>| {
        let terms = Wanted::terms_of(condition).unwrap();
        let wanted = Wanted { terms, ..Wanted::default() };
        let staging = staging.map(str::to_owned);
        let returning = Returning { wanted, conflict: Conflict::Fail, staging };
        Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await.unwrap()
    };
    let back = put("id >= 5 and id < 15", None).await;
    let inserted: Vec<u64> = back.iter().map(|one| one.tally.inserted).collect();
    assert_eq!(inserted, [10, 20], "{back:?}");
    assert_eq!(yard.live("orders").await, tokens("o", 5..15));
    let items = |ids: std::ops::Range<i64>| ids.flat_map(|id| [id * 100, id * 100 + 1]);
    assert_eq!(yard.live("items").await, tokens("i", items(5..15)));

    let back = put("", Some("again")).await;
    let inserted: Vec<u64> = back.iter().map(|one| one.tally.inserted).collect();
    assert_eq!(inserted, [30, 60], "{back:?}");
    for (one, all) in back.iter().zip([tokens("o", 0..30), tokens("i", items(0..30))]) {
        let mut found = yard.shop.ask(&format!("SELECT token FROM {}", one.table)).await;
        found.sort();
        assert_eq!(found, all, "{}", one.table);
    }
    assert!(back[0].table.contains("again") && back[1].table.contains("again_items"), "{back:?}");
    assert_eq!(put("id = 1000", None).await, []);
    let odd = Term { column: "nothing".to_owned(), ..Wanted::terms_of("a = 1").unwrap().remove(0) };
    let wanted = Wanted { terms: vec![odd], ..Wanted::default() };
    let returning = Returning { wanted, conflict: Conflict::Fail, staging: None };
    let back = Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await;
    assert_eq!(back.unwrap_err().code(), code::NO_SUCH_ARCHIVE);
}

#[tokio::test(flavor = "multi_thread")]
async fn families_of_sqlite_come_back_together() {
    families(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn families_of_postgresql_come_back_together() {
    let Some(shop) = InPostgres::new(18).await else { return };
    families(Yard::new(shop, true)).await;
}

/// Puts all rows back, those of the root and those that hang on them.
async fn put_all<S: Shop>(
    yard: &Yard<S>,
    conflict: Conflict,
    staging: Option<&str>,
) -> Result<Vec<u64>> {
    let driver = yard.shop.driver().await;
    let staging = staging.map(str::to_owned);
    let returning = Returning { wanted: Wanted::default(), conflict, staging };
    let back = Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await?;
    Ok(back.iter().map(|one| one.tally.inserted + one.tally.replaced).collect())
}

/// Whatever is refused, and however late, nothing was put back.
async fn all_or_nothing<S: Shop>(mut yard: Yard<S>) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    yard.fill(100..130, 2).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let orders = yard.shop.table("orders");
    // Of the file that is put back last.
    let there = format!("INSERT INTO {orders} VALUES (103, 'there', 'open', NULL, 1)");
    yard.shop.change(&[there]).await;
    let error = put_all(&yard, Conflict::Fail, None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_CONFLICT));
    assert!(format!("{:?}", error.facts()).contains("103"), "{error:?}");
    assert_eq!(yard.live("orders").await, ["there"]);
    assert_eq!(yard.live("items").await, Vec::<String>::new());

    // A table of its own goes as well.
    let broken = format!("ALTER TABLE {} RENAME COLUMN token TO other", yard.shop.table("items"));
    yard.shop.change(&[broken]).await;
    put_all(&yard, Conflict::Skip, None).await.unwrap_err();
    assert_eq!(yard.live("orders").await, ["there"]);
    let mended = format!("ALTER TABLE {} RENAME COLUMN other TO token", yard.shop.table("items"));
    yard.shop.change(&[mended]).await;
    assert_eq!(put_all(&yard, Conflict::Skip, None).await.unwrap(), [29, 60]);
    assert_eq!(put_all(&yard, Conflict::Overwrite, None).await.unwrap(), [30, 60]);
    assert_eq!(yard.live("orders").await, tokens("o", 100..130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_return_to_sqlite_puts_nothing_back() {
    all_or_nothing(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_return_to_postgresql_puts_nothing_back() {
    let Some(shop) = InPostgres::new(18).await else { return };
    all_or_nothing(Yard::new(shop, true)).await;
}

/// Rows of tables that are gone come back into new ones.
async fn of_no_table<S: Shop>(mut yard: Yard<S>) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    yard.fill(0..20, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let gone = ["items", "orders"].map(|table| format!("DROP TABLE {}", yard.shop.table(table)));
    yard.shop.change(&gone).await;
    let error = put_all(&yard, Conflict::Fail, None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Missing, code::NO_SUCH_TABLE));
    assert!(error.advice().iter().any(|one| one.contains("--staging NAME")), "{error:?}");
    assert_eq!(put_all(&yard, Conflict::Fail, Some("afterwards")).await.unwrap(), [20, 20]);
    let mut found = yard.shop.ask("SELECT token FROM afterwards").await;
    found.sort();
    assert_eq!(found, tokens("o", 0..20));
    let mut found = yard.shop.ask("SELECT token FROM afterwards_items").await;
    found.sort();
    assert_eq!(found, tokens("i", (0..20).map(|id| id * 100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_dropped_tables_of_sqlite_come_back_into_new_ones() {
    let yard = Yard::new(Sqlite::new().await, true);
    of_no_table(yard).await;
    // A view may have the name, for those who still ask for it.
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let renamed =
        ["ALTER TABLE orders RENAME TO retired", "CREATE VIEW orders AS SELECT * FROM retired"];
    yard.shop.change(&renamed.map(str::to_owned)).await;
    put_all(&yard, Conflict::Fail, None).await.unwrap_err();
    assert_eq!(put_all(&yard, Conflict::Fail, Some("afterwards")).await.unwrap(), [20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_dropped_tables_of_postgresql_come_back_into_new_ones() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let gone = "DROP TABLE IF EXISTS afterwards_items, afterwards";
    shop.execute(gone).await;
    of_no_table(Yard::new(&shop, true)).await;
    shop.execute(gone).await;
}

/// A trigger, made and taken away again, that makes other rows of those that are put back.
struct Meddler {
    make: Vec<String>,
    end: String,
    /// What becomes of a row.
    how: &'static str,
}

async fn meddled<S: Shop>(mut yard: Yard<S>, meddlers: Vec<Meddler>, harmless: Meddler) {
    yard.rule.file_bytes = 1;
    yard.fill(0..30, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    for Meddler { make, end, how } in meddlers {
        yard.shop.change(&make).await;
        for conflict in [Conflict::Fail, Conflict::Skip, Conflict::Overwrite] {
            let error = put_all(&yard, conflict.clone(), None).await.unwrap_err();
            let told = format!("{:?} {:?}", error.facts(), error.advice());
            // Rows of items miss their order before anything is compared.
            let is_missed = how == "moved";
            let code = if is_missed { code::ROWS_CONFLICT } else { code::ROWS_DIFFER };
            assert_eq!(error.code(), code, "{how}, {conflict:?}: {error:?}");
            assert!(told.contains("--staging"), "{how}: {told}");
            let names = told.contains("orders") && told.contains("meddle");
            assert!(names && told.contains("TRIGGER") || is_missed, "{how}: {told}");
            assert_eq!(yard.live("orders").await, Vec::<String>::new(), "{how}, {conflict:?}");
        }
        let staging = format!("beside_{how}");
        assert_eq!(put_all(&yard, Conflict::Fail, Some(&staging)).await.unwrap(), [30, 30]);
        yard.shop.change(&[end]).await;
    }
    yard.shop.change(&harmless.make).await;
    assert_eq!(put_all(&yard, Conflict::Fail, None).await.unwrap(), [30, 30]);
    let orders = yard.shop.table("orders");
    let gone = [3, 4].map(|id| {
        let items = yard.shop.table("items");
        format!("DELETE FROM {items} WHERE order_id = {id}")
    });
    yard.shop.change(&gone).await;
    yard.shop.change(&[format!("DELETE FROM {orders} WHERE id IN (3, 4)")]).await;
    yard.shop.change(&[format!("UPDATE {orders} SET note = 'kept' WHERE id = 5")]).await;
    // What is left as it is, is not compared.
    assert_eq!(put_all(&yard, Conflict::Skip, None).await.unwrap(), [2, 2]);
    let note = format!("SELECT note FROM {orders} WHERE note = 'kept'");
    assert_eq!(yard.shop.ask(&note).await, ["kept"]);
    assert_eq!(put_all(&yard, Conflict::Overwrite, None).await.unwrap(), [30, 30]);
    assert_eq!(yard.shop.ask(&note).await, Vec::<String>::new());
    assert_eq!(yard.live("orders").await, tokens("o", 0..30));
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_sqlite_make_no_other_rows() {
    let meddler = |how, when: &str, does: &str| Meddler {
        make: vec![format!("CREATE TRIGGER meddle {when} BEGIN {does}; END")],
        end: "DROP TRIGGER meddle".to_owned(),
        how,
    };
    let change = "UPDATE orders SET note = 'Note 7' WHERE id = 7";
    let meddlers = vec![
        meddler("changed", "AFTER INSERT ON orders WHEN new.id = 7", change),
        meddler("all", "AFTER INSERT ON orders WHEN new.id = 7", "UPDATE orders SET amount = 7"),
        meddler(
            "gone",
            "AFTER INSERT ON orders WHEN new.id = 7",
            "DELETE FROM orders WHERE id = 7",
        ),
        meddler("dropped", "BEFORE INSERT ON orders WHEN new.id = 7", "SELECT RAISE(IGNORE)"),
        meddler("late", "AFTER INSERT ON items WHEN new.order_id = 7", change),
    ];
    let log = "CREATE TABLE log (id)".to_owned();
    let mut harmless =
        meddler("harmless", "AFTER INSERT ON orders", "INSERT INTO log VALUES (new.id)");
    harmless.make.insert(0, log);
    meddled(Yard::new(Sqlite::new().await, true), meddlers, harmless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_postgresql_make_no_other_rows() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let meddler = |how, when: &str, does: &str| Meddler {
        make: vec![
            format!(
                "CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN {does} END $$"
            ),
            format!("CREATE {when} FOR EACH ROW EXECUTE FUNCTION meddle()"),
        ],
        end: "DROP FUNCTION meddle CASCADE".to_owned(),
        how,
    };
    let before = "TRIGGER meddle BEFORE INSERT ON orders";
    let change = "UPDATE orders SET note = 'Note 7' WHERE id = 7; RETURN NULL;";
    let meddlers = vec![
        meddler("changed", before, "IF new.id = 7 THEN new.note := 'Note 7'; END IF; RETURN new;"),
        meddler(
            "scaled",
            "TRIGGER meddle AFTER INSERT ON orders",
            "UPDATE orders SET amount = 7
            WHERE id = new.id; RETURN NULL;",
        ),
        meddler("moved", before, "IF new.id = 7 THEN new.id := 77; END IF; RETURN new;"),
        meddler("dropped", before, "IF new.id = 7 THEN RETURN NULL; END IF; RETURN new;"),
        meddler(
            "redirected",
            before,
            "IF new.id = 7 THEN CREATE TABLE IF NOT EXISTS elsewhere
            (LIKE orders); INSERT INTO elsewhere SELECT new.*; RETURN NULL; END IF; RETURN new;",
        ),
        meddler("late", "TRIGGER meddle AFTER INSERT ON items", change),
        meddler(
            "deferred",
            "CONSTRAINT TRIGGER meddle AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED",
            change,
        ),
    ];
    let log = "CREATE TABLE IF NOT EXISTS meddle_log (id integer)".to_owned();
    let logs = "INSERT INTO meddle_log VALUES (new.id); RETURN new;";
    let mut harmless = meddler("harmless", before, logs);
    harmless.make.insert(0, log);
    let yard = Yard::new(shop, true);
    meddled(yard, meddlers, harmless).await;
}

/// A column of another type makes no other values of those that were archived.
async fn altered<S: Shop>(mut yard: Yard<S>, alter: &[&str]) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    yard.fill(0..20, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let alter: Vec<String> = alter.iter().map(|one| (*one).to_owned()).collect();
    yard.shop.change(&alter).await;
    for conflict in [Conflict::Fail, Conflict::Skip, Conflict::Overwrite] {
        let error = put_all(&yard, conflict.clone(), None).await.unwrap_err();
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::Refused, code::ROWS_DIFFER), "{conflict:?}: {error:?}");
        let told = format!("{:?} {:?}", error.facts(), error.advice());
        assert!(told.contains("amount") && told.contains("--into staging"), "{told}");
        for table in ["orders", "items"] {
            assert_eq!(yard.live(table).await, Vec::<String>::new(), "{conflict:?}");
        }
    }
    assert_eq!(put_all(&yard, Conflict::Fail, Some("as_it_was")).await.unwrap(), [20, 20]);
    let same = "SELECT CAST(count(*) AS text) FROM as_it_was WHERE amount = id + 0.5";
    assert_eq!(yard.shop.ask(same).await, ["20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_sqlite_that_changed_alter_no_values() {
    let orders = "CREATE TABLE orders (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL, note TEXT, amount TEXT)";
    altered(Yard::new(Sqlite::new().await, true), &["DROP TABLE orders", orders]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_postgresql_that_changed_alter_no_values() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let alter = "ALTER TABLE orders ALTER amount TYPE numeric(12, 0)";
    altered(Yard::new(shop, true), &[alter]).await;
}

/// A file of more rows than are read at once: the same rows, in the same order, and all of them.
async fn portions<S: Shop>(mut yard: Yard<S>, fill: &str) {
    const ROWS: i64 = 3000;
    yard.rule.slice_rows = 500;
    yard.shop.change(&[fill.to_owned()]).await;
    let hash = "SELECT CAST(sum(length(note) * id) AS text) FROM orders";
    let before = yard.shop.ask(hash).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let driver = yard.shop.driver().await;
    let ledger = ledger_of(&yard.place, &*driver).await.unwrap();
    for rows_max in [None, Some(2500), Some(1)] {
        let wanted = Wanted { rows_max, ..Wanted::default() };
        let (mut portions, mut batches, mut count) = (0, Vec::new(), 0);
        let take = async |found: FoundRows| {
            portions += 1;
            count += found.rows.len() as u64;
            batches.push(found.batch);
            assert!(!found.rows.is_empty() && found.rows.bytes().len() < 20 << 20);
            Ok(())
        };
        let found = find(&yard.place, &yard.world.cpu, &wanted, ledger.as_deref(), take);
        let told = Box::pin(found).await.unwrap();
        assert_eq!((told, count), (rows_max.unwrap_or(3000), rows_max.unwrap_or(3000)));
        batches.dedup();
        assert_eq!(batches.len(), 1, "{batches:?}");
        assert!(portions > 2 || rows_max == Some(1), "{portions}");
    }
    assert_eq!(yard.archived("orders").await, tokens("o", 1..=ROWS));
    assert_eq!(put_all(&yard, Conflict::Fail, None).await.unwrap(), [3000]);
    assert_eq!(yard.shop.ask(hash).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_file_comes_back_to_sqlite_in_portions() {
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO orders SELECT i, 'o' || i, 'closed', hex(randomblob(5000)), i FROM n";
    portions(Yard::new(Sqlite::new().await, false), fill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_file_comes_back_to_postgresql_in_portions() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let fill = "INSERT INTO orders SELECT i, 'o' || i, 'closed',
        (SELECT string_agg(md5((i * 400 + k)::text), '') FROM generate_series(1, 312) AS k), i
        FROM generate_series(1, 3000) AS i";
    portions(Yard::new(shop, false), fill).await;
}
