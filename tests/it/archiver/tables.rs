//! Tables of another database as a destination: they have what the files have, each row once,
//! before anything is deleted, wherever a run is killed and whatever becomes of rows later.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::Months;
use futures::FutureExt as _;
use stillpoint::{
    archiver::{
        Aged, Copies, Destination, Erasing, InTable, Nobody, Quit, RunReport, Step, Witness, erase,
        expire, verify_copies,
    },
    policy::{Period, PeriodUnit},
};
use stillpoint_contract::{Driver, ErrorKind, Result, code};

use super::{
    shop::{InPostgres, Killed, Shop, Sqlite, Yard, driver},
    types_postgres::{HOSTILE, TABLE, cases, fill},
    values_postgres::TYPES,
};

/// Lets a yard copy its rows into tables that a driver leads to.
fn copy_into<S: Shop>(
    yard: &mut Yard<S>,
    driver: Box<dyn Driver>,
    schema: Option<&str>,
    witness: Arc<dyn Witness>,
) {
    let destination = Destination {
        driver: driver.into(),
        name: "history".to_owned(),
        schema: schema.map(str::to_owned),
        world: yard.world.clone(),
        witness,
    };
    yard.place = yard.place.clone().with_copies(Copies::In(destination));
    yard.gates = vec![Box::new(InTable { place: yard.place.clone() })];
}

/// Two files of SQLite, one for the shop and one for the history.
async fn files(with_items: bool) -> (Yard<Sqlite>, Sqlite) {
    let (mut yard, history) = (Yard::new(Sqlite::new().await, with_items), Sqlite::empty().await);
    copy_into(&mut yard, history.driver().await, None, Arc::new(Nobody));
    (yard, history)
}

/// The tokens of a table, sorted; none where it is not there yet.
async fn tokens(shop: &dyn Shop, table: &str) -> Vec<String> {
    let name = shop.table(table);
    let is_there = if name.contains('.') {
        format!("SELECT 'x' WHERE to_regclass('{name}') IS NOT NULL")
    } else {
        format!("SELECT 'x' FROM sqlite_schema WHERE name = '{name}'")
    };
    if shop.ask(&is_there).await.is_empty() {
        return Vec::new();
    }
    let mut tokens = shop.ask(&format!("SELECT token FROM {name}")).await;
    tokens.sort();
    tokens
}

/// What is wrong with the tables.
async fn damages<S: Shop>(yard: &Yard<S>) -> Vec<String> {
    let found = Box::pin(verify_copies(&yard.place)).await.unwrap();
    found.iter().map(|damage| format!("{:?}", damage.error)).collect()
}

fn why(report: &RunReport) -> &str {
    match &report.quit {
        Quit::Gate(why) => why,
        other => panic!("it is not shut: {other:?}"),
    }
}

/// Ends a run amid one of its steps, those of copies among them.
#[derive(Debug)]
struct Killer(AtomicI64);

impl Witness for Killer {
    fn see(&self, _: &Step) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

async fn run_until<S: Shop>(
    yard: &mut Yard<S>,
    history: &dyn Shop,
    schema: Option<&str>,
    step: i64,
) -> Option<Result<RunReport>> {
    let killer = Arc::new(Killer(AtomicI64::new(step)));
    copy_into(yard, history.driver().await, schema, Arc::<Killer>::clone(&killer));
    let run = std::panic::AssertUnwindSafe(yard.run_seen(&*killer)).catch_unwind().await;
    run.map_err(|cause| assert!(cause.is::<Killed>(), "it broke")).ok()
}

/// Killed at each step, every row is in the shop or in the files, and what is not in the shop is in
/// the tables; in the end the tables have each row once.
async fn kill_at_each_step<S: Shop>(
    make: impl AsyncFn() -> S,
    make_history: impl AsyncFn() -> Box<dyn Shop>,
    schema: Option<&str>,
) {
    let mut step = 1;
    loop {
        let (mut yard, history) = (Yard::new(make().await, true), make_history().await);
        yard.fill(0..24, 1).await;
        // Killed twice, at different places.
        let first = run_until(&mut yard, &*history, schema, step).await;
        let is_over = first.is_some();
        for (table, sign) in [("orders", 'o'), ("items", 'i')] {
            let live: BTreeSet<String> = yard.live(table).await.into_iter().collect();
            let copied: BTreeSet<String> = tokens(&*history, table).await.into_iter().collect();
            assert_eq!(live.union(&copied).count(), 24, "{sign} after step {step}");
        }
        if !is_over {
            drop(run_until(&mut yard, &*history, schema, 3).await);
        }
        let last = run_until(&mut yard, &*history, schema, i64::MAX).await.unwrap().unwrap();
        assert!(last.quit.is_done() && last.lacking_copies.is_empty(), "step {step}: {last:?}");
        for table in ["orders", "items"] {
            let archived = yard.archived(table).await;
            assert_eq!((yard.live(table).await.len(), archived.len()), (0, 24), "step {step}");
            assert_eq!(tokens(&*history, table).await, archived, "step {step}");
        }
        assert_eq!(damages(&yard).await, Vec::<String>::new(), "step {step}");
        if is_over {
            break;
        }
        step += 1;
    }
    assert!(step > 10, "it took {step} steps");
}

/// Row 53: another database as the target, on SQLite.
#[tokio::test(flavor = "multi_thread")]
async fn row_53_sqlite_copies_are_there_once_wherever_a_run_is_killed() {
    let history = async || Box::new(Sqlite::empty().await) as Box<dyn Shop>;
    Box::pin(kill_at_each_step(async || Sqlite::new().await, history, None)).await;
}

/// Row 53: another database as the target, on PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn row_53_postgresql_copies_are_there_once_wherever_a_run_is_killed() {
    let Some(shop) = InPostgres::new(17).await else { return };
    let shop: &'static InPostgres = Box::leak(Box::new(shop));
    let fresh = async || {
        shop.reset().await;
        shop
    };
    shop.beside("history").await;
    let history = async || {
        let history = shop.known("history");
        let reset = "DROP SCHEMA IF EXISTS archive, stillpoint CASCADE";
        history.client().await.batch_execute(reset).await.unwrap();
        Box::new(history) as Box<dyn Shop>
    };
    Box::pin(kill_at_each_step(fresh, history, Some("archive"))).await;
}

/// Row 53: whatever PostgreSQL can hold is the same in the other database, by its text in both
/// directions; bit by bit it was compared before rows were deleted.
#[tokio::test(flavor = "multi_thread")]
async fn row_53_every_type_of_postgresql_is_copied_as_it_was() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.client().await.batch_execute(TYPES).await.unwrap();
    let cases = cases(&shop).await;
    let history = shop.beside("history").await;
    let there = history.client().await;
    there.batch_execute(TYPES).await.unwrap();
    for case in cases.iter().filter(|case| !["", "xml"].contains(&case.needs)) {
        let create = format!("CREATE EXTENSION IF NOT EXISTS {}", case.needs);
        there.batch_execute(&create).await.unwrap();
    }
    for is_odd in [false, true] {
        shop.client().await.batch_execute("ALTER ROLE postgres RESET ALL").await.unwrap();
        fill(&shop, &cases, is_odd).await;
        shop.client().await.batch_execute(HOSTILE).await.unwrap();
        let mut yard = Yard::new(&shop, false);
        yard.rule.name = format!("types-{is_odd}");
        yard.place =
            stillpoint::archiver::Place::new(Arc::clone(&yard.store), &yard.rule.name).unwrap();
        TABLE.clone_into(&mut yard.rule.root);
        "true".clone_into(&mut yard.rule.selects);
        let schema = format!("odd_{is_odd}");
        copy_into(&mut yard, history.driver().await, Some(&schema), Arc::new(Nobody));
        let report = yard.run().await.unwrap();
        assert!(report.quit.is_done() && report.pruned_rows > 3, "{report:?}");
        let texts = |table: &str| format!("SELECT t::text FROM {table} AS t ORDER BY 1");
        let kept: BTreeSet<String> = shop.ask(&texts("kept")).await.into_iter().collect();
        let name = format!("{schema}.\"Every type\"");
        let copied: BTreeSet<String> = history.ask(&texts(&name)).await.into_iter().collect();
        let show = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.difference(other).map(|row| row.chars().take(300).collect()).collect()
        };
        assert_eq!((show(&kept, &copied), show(&copied, &kept)), (vec![], vec![]));
        assert_eq!(kept.len() as u64, report.pruned_rows);
        assert_eq!(damages(&yard).await, Vec::<String>::new());
    }
    // A column that gets another type at the source is refused; one that is new is added.
    let mut yard = Yard::new(&shop, false);
    yard.shop.reset().await;
    copy_into(&mut yard, history.driver().await, Some("archive"), Arc::new(Nobody));
    yard.fill(0..5, 0).await;
    yard.run().await.unwrap();
    let add = "ALTER TABLE orders ADD COLUMN city text DEFAULT 'Bonn'";
    yard.shop.change(&[add.to_owned()]).await;
    let row = "INSERT INTO orders VALUES (9, 'o9', 'closed', NULL, 9)";
    yard.shop.change(&[row.to_owned()]).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let cities =
        "SELECT string_agg(id || coalesce(city, '-'), ' ' ORDER BY id) FROM archive.orders";
    assert_eq!(history.ask(cities).await, ["0- 1- 2- 3- 4- 9Bonn"]);
    let alter = "ALTER TABLE orders ALTER COLUMN amount TYPE numeric(14, 4)";
    let row = "INSERT INTO orders VALUES (10, 'o10', 'closed', NULL, 1.2345)";
    yard.shop.change(&[alter.to_owned(), row.to_owned()]).await;
    let refused = yard.run().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Unsupported, code::ROWS_REFUSED));
    assert!(format!("{refused:?}").contains("ALTER COLUMN \\\"amount\\\" TYPE numeric(14,4)"));
    assert_eq!(yard.live("orders").await, ["o10"]);
    let alter = "ALTER TABLE archive.orders ALTER COLUMN amount TYPE numeric(14, 4)";
    history.change(&[alter.to_owned()]).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!(yard.live("orders").await.len(), 0);
}

/// Whoever changes, removes or adds rows there keeps the gate shut, and `verify` tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_tampered_with_keeps_the_gate_shut() {
    let (mut yard, history) = files(false).await;
    yard.fill(0..20, 0).await;
    let change = async |statement: &str| {
        assert_eq!(history.change(&[statement.to_owned()]).await, [1], "{statement}");
    };
    yard.gates.push(Box::new(Aged(Duration::from_hours(1))));
    assert!(why(&yard.run().await.unwrap()).contains("are to be kept beside the rows until"));
    assert_eq!(tokens(&history, "orders").await.len(), 20);
    yard.gates.pop();
    change("UPDATE orders SET amount = 7.51 WHERE id = 7").await;
    let report = yard.run().await.unwrap();
    assert!(why(&report).contains("1 rows of batch"), "{report:?}");
    assert!(why(&report).contains("otherwise than their file, and 0 not at all"), "{report:?}");
    change("UPDATE orders SET amount = 7.5 WHERE id = 7").await;
    change("DELETE FROM orders WHERE id = 13").await;
    let report = yard.run().await.unwrap();
    assert!(why(&report).contains("0 rows of batch"), "{report:?}");
    assert!(why(&report).contains("and 1 not at all, from slice 1 on"), "{report:?}");
    assert_eq!((yard.live("orders").await.len(), report.pruned_rows), (20, 0));
    assert_eq!(damages(&yard).await.len(), 1);
    // Once the ledger there says nothing of the batch, what is missing is brought anew.
    change("DELETE FROM stillpoint_archive_ledger WHERE run NOT LIKE '\\_%' ESCAPE '\\'").await;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!((yard.live("orders").await.len(), tokens(&history, "orders").await.len()), (0, 20));
    change("INSERT INTO orders VALUES (1000, 'foreign', 'closed', NULL, 0)").await;
    let told = damages(&yard).await;
    assert!(told.len() == 1 && told[0].contains("1 rows of no file"), "{told:?}");
    // A foreign row with the key of one that comes is never overwritten.
    yard.fill(1000..1003, 0).await;
    let report = yard.run().await.unwrap();
    assert!(why(&report).contains("has a row that no file has"), "{report:?}");
    assert_eq!(yard.live("orders").await.len(), 3);
    assert!(tokens(&history, "orders").await.contains(&"foreign".to_owned()));
    change("DELETE FROM orders WHERE id = 1000").await;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!((tokens(&history, "orders").await.len(), damages(&yard).await.len()), (23, 0));
}

/// Nothing is deleted while the other database cannot be reached, or is not the right one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_without_the_right_database() {
    let (mut yard, history) = files(false).await;
    yard.fill(0..20, 0).await;
    // A table that is there already, and is somebody else's.
    history.change(&["CREATE TABLE orders (id INTEGER PRIMARY KEY, token TEXT)".to_owned()]).await;
    let refused = yard.run().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::TARGET_EXISTS));
    history.change(&["DROP TABLE orders".to_owned()]).await;
    // The database of the rows themselves.
    let shop = yard.shop.driver().await;
    let (right, gates) = (yard.place.clone(), std::mem::take(&mut yard.gates));
    let mut other = Yard::new(yard.shop, false);
    other.rule.name = "other".to_owned();
    other.place = stillpoint::archiver::Place::new(Arc::clone(&other.store), "other").unwrap();
    copy_into(&mut other, shop, None, Arc::new(Nobody));
    let refused = other.run().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::FOREIGN_DATABASE));
    let mut yard = Yard { place: right, gates, store: yard.store, ..other };
    yard.rule.name = "orders".to_owned();
    yard.run().await.unwrap();
    assert_eq!((yard.live("orders").await.len(), tokens(&history, "orders").await.len()), (0, 20));
    // Another one, that knows of no copies.
    yard.fill(20..30, 0).await;
    let stranger = Sqlite::empty().await;
    copy_into(&mut yard, stranger.driver().await, None, Arc::new(Nobody));
    let refused = yard.run().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::FOREIGN_DATABASE));
    // One that is gone.
    let path = history.path();
    copy_into(&mut yard, history.driver().await, None, Arc::new(Nobody));
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    assert!(yard.run().await.is_err());
    assert_eq!((yard.live("orders").await.len(), tokens(&stranger, "orders").await.len()), (10, 0));
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    copy_into(
        &mut yard,
        driver("sqlite", &path.display().to_string()).await,
        None,
        Arc::new(Nobody),
    );
    assert!(yard.run().await.unwrap().quit.is_done());
    // Whoever does not say what is to become of copies erases nothing.
    let place = yard.place.clone();
    let subject = async |copies: Copies| {
        let places = [place.clone().with_copies(copies)];
        let subject = (None, "id", "3");
        Box::pin(erase(&places, &yard.world, subject, ("Art. 17", "dba"), Erasing::Always)).await
    };
    let refused = subject(Copies::Unsaid).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::CONFIG_LACKS));
    assert_eq!(subject(Copies::GivenUp).await.unwrap().rows, 1);
    assert_eq!(tokens(&history, "orders").await.len(), 30, "given up");
    assert_eq!(subject(Copies::Unsaid).await.unwrap().rows, 0, "nobody asks any more");
}

/// Rows that are erased, expire, or were put back and are archived again, are followed.
#[tokio::test(flavor = "multi_thread")]
async fn tables_follow_what_becomes_of_rows() {
    let (mut yard, history) = files(true).await;
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.fill(0..20, 2).await;
    yard.run().await.unwrap();
    yard.fill(20..30, 2).await;
    yard.run().await.unwrap();
    assert_eq!(tokens(&history, "items").await.len(), 60);
    let places = [yard.place.clone()];
    let subject = (None, "id", "7");
    let erased =
        Box::pin(erase(&places, &yard.world, subject, ("Art. 17", "dba"), Erasing::Always))
            .await
            .unwrap();
    assert_eq!(erased.rows, 3);
    let (orders, items) = (tokens(&history, "orders").await, tokens(&history, "items").await);
    assert_eq!((orders.len(), items.len()), (29, 58));
    assert!(!orders.contains(&"o7".to_owned()) && !items.contains(&"i701".to_owned()));
    assert_eq!(damages(&yard).await, Vec::<String>::new());
    // What was put back, and changed, is in the tables as it was archived last.
    let back = yard.put_back().await.unwrap();
    assert_eq!(back.inserted, 29);
    let change = "UPDATE orders SET note = 'newer' WHERE id IN (3, 25)".to_owned();
    let open = "UPDATE orders SET state = 'open' WHERE id > 26".to_owned();
    yard.shop.change(&[change, open]).await;
    let report = yard.run().await.unwrap();
    assert!(report.quit.is_done() && report.pruned_rows == 26, "{report:?}");
    assert_eq!(tokens(&history, "orders").await.len(), 29);
    let newer = "SELECT id || note FROM orders WHERE id IN (3, 4, 25) ORDER BY id";
    assert_eq!(history.ask(newer).await, ["3newer", "4note 4", "25newer"]);
    assert_eq!(damages(&yard).await, Vec::<String>::new());
    // Rows that change between their file and their deletion are archived as they are in the end.
    yard.fill(40..50, 0).await;
    yard.gates.push(Box::new(Aged(Duration::from_hours(1))));
    why(&yard.run().await.unwrap());
    yard.gates.pop();
    yard.shop.change(&["UPDATE orders SET note = 'late' WHERE id = 44".to_owned()]).await;
    let report = yard.run().await.unwrap();
    assert!(report.quit.is_done() && !report.differences.is_empty(), "{report:?}");
    let late = "SELECT note FROM orders WHERE id IN (43, 44) ORDER BY id";
    assert_eq!(history.ask(late).await, ["note 43", "late"]);
    assert_eq!(damages(&yard).await, Vec::<String>::new());
    let later = yard.world.clock.now().checked_add_months(Months::new(4)).unwrap();
    let expiry = Box::pin(expire(&places, &yard.world, &yard.rule, later, false)).await.unwrap();
    assert!(!expiry.batches.is_empty());
    assert_eq!(tokens(&history, "orders").await, Vec::<String>::new());
    assert_eq!(tokens(&history, "items").await, Vec::<String>::new());
    assert_eq!(damages(&yard).await, Vec::<String>::new());
}
