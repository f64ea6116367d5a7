//! Invariants 2 and 5 to 15, each where it is most likely to break.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{Datelike as _, NaiveTime, TimeDelta};
use stillpoint::{
    archiver::{Aged, Place, Quit, Reconciling, SecondCopy, Shelf, Step, Witness, verify},
    policy::{FileFormat, Verification, Window},
    repository::store::{Key, MemoryStore, Store},
};
use stillpoint_contract::{ErrorKind, code};
use tokio::runtime::Handle;

use super::shop::{InPostgres, Shop, Sqlite, Yard, tokens};

/// Does something to the shop as soon as the first transaction that deletes has begun, or before.
pub(super) struct Meddler<S: 'static> {
    pub(super) shop: Arc<S>,
    pub(super) when: fn(&Step) -> bool,
    pub(super) statements: Mutex<Vec<String>>,
}

impl<S> std::fmt::Debug for Meddler<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddler")
    }
}

impl<S: Shop> Witness for Meddler<S> {
    fn see(&self, step: &Step) {
        let statements = if (self.when)(step) {
            std::mem::take(&mut *self.statements.lock().unwrap())
        } else {
            Vec::new()
        };
        for statement in statements {
            let shop = Arc::clone(&self.shop);
            tokio::task::block_in_place(|| {
                Handle::current().block_on(async { shop.change(&[statement]).await })
            });
        }
    }
}

/// Files are durable, and nothing is deleted yet.
pub(super) const SHELVED: fn(&Step) -> bool = |step| matches!(step, Step::Shelved { .. });

/// Archives twenty orders, while somebody does something between a file and the deletion of its
/// rows.
async fn meddled<S: Shop + 'static>(
    shop: S,
    verification: Verification,
    statements: &[&str],
) -> Yard<Arc<S>> {
    let shop = Arc::new(shop);
    let mut yard = Yard::new(Arc::clone(&shop), false);
    yard.rule.verification = verification;
    yard.fill(0..20, 0).await;
    let orders = shop.table("orders");
    let statements = statements.iter().map(|one| one.replace("orders", &orders)).collect();
    let meddler = Meddler { shop, when: SHELVED, statements: Mutex::new(statements) };
    let report = yard.run_seen(&meddler).await.unwrap();
    assert!(report.quit.is_done(), "{report:?}");
    assert!(!report.differences.is_empty(), "nobody noticed: {report:?}");
    assert_eq!(report.left_rows, 0, "{report:?}");
    // What was read before that counts for nothing.
    let archived = yard.archived("orders").await.len() as u64;
    assert_eq!((report.exported_rows, report.pruned_rows), (archived, archived), "{report:?}");
    yard
}

/// The six races of invariant 7.
async fn race<S: Shop + 'static>(by: Verification, make: impl AsyncFn() -> S) {
    // An update is archived as it is in the end: pt-archiver loses it.
    let yard = meddled(make().await, by, &["UPDATE orders SET token = 'new' WHERE id = 7"]).await;
    let mut wanted = tokens((0..20).filter(|one| *one != 7));
    wanted.insert(0, "new".to_owned());
    assert_eq!((yard.archived("orders").await, yard.live("orders").await.len()), (wanted, 0));

    // A row that is inserted into the range is archived, or stays: pt-archiver loses it.
    let insert = "INSERT INTO orders VALUES (-3, 'below', 'closed', NULL, 0)";
    let yard = meddled(make().await, by, &[insert]).await;
    let mut wanted = tokens(0..20);
    wanted.insert(0, "below".to_owned());
    assert_eq!((yard.archived("orders").await, yard.live("orders").await.len()), (wanted, 0));

    // One that somebody deleted is in no file.
    let yard = meddled(make().await, by, &["DELETE FROM orders WHERE id = 7"]).await;
    let wanted = tokens((0..20).filter(|one| *one != 7));
    assert_eq!((yard.archived("orders").await, yard.live("orders").await.len()), (wanted, 0));

    // One that was deleted and inserted again.
    let again = [
        "DELETE FROM orders WHERE id = 7",
        "INSERT INTO orders VALUES (7, 'again', 'closed', NULL, 7.5)",
    ];
    let yard = meddled(make().await, by, &again).await;
    let mut wanted = tokens((0..20).filter(|one| *one != 7));
    wanted.insert(0, "again".to_owned());
    assert_eq!((yard.archived("orders").await, yard.live("orders").await.len()), (wanted, 0));

    // One that is not selected any more stays.
    let yard = meddled(make().await, by, &["UPDATE orders SET state = 'open' WHERE id = 7"]).await;
    let wanted = tokens((0..20).filter(|one| *one != 7));
    assert_eq!((yard.archived("orders").await, yard.live("orders").await), (wanted, tokens([7])));

    // One that gets another key.
    let moved = ["UPDATE orders SET id = 700 WHERE id = 7"];
    let yard = meddled(make().await, by, &moved).await;
    assert_eq!(
        (yard.archived("orders").await, yard.live("orders").await.len()),
        (tokens(0..20), 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_sqlite_races_lose_nothing() {
    Box::pin(race(Verification::Row, async || Sqlite::new().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_postgresql_races_lose_nothing() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let shop = &*Box::leak(Box::new(shop));
    let fresh = async || {
        shop.reset().await;
        shop
    };
    for by in shop.verifications() {
        Box::pin(race(*by, fresh)).await;
    }
}

/// A trigger that keeps rows from being deleted: nothing is lost, and somebody is told.
#[tokio::test(flavor = "multi_thread")]
async fn i7_rows_that_a_trigger_keeps_stay_and_are_in_no_file() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF OLD.id = 7 THEN RETURN NULL; END IF; RETURN OLD; END $$;
        CREATE TRIGGER keep BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION keep()";
    shop.client().await.batch_execute(keep).await.unwrap();
    let yard = Yard::new(shop, false);
    yard.fill(0..30, 0).await;
    let report = yard.run().await.unwrap();
    assert_eq!((report.left_rows, report.exported_rows), (1, 29), "{report:?}");
    let kept = yard.live("orders").await;
    assert_eq!(kept, ["o7"]);
    let archived = yard.archived("orders").await;
    assert!(archived.len() == 29 && !archived.contains(&"o7".to_owned()), "{archived:?}");
}

/// Invariant 2: whatever is changed in a stored file, nothing is deleted for its sake: the rows are
/// read again, and all of them are in files that are what was written.
#[tokio::test(flavor = "multi_thread")]
async fn i2_i5_a_file_that_is_not_what_was_written_deletes_nothing() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [Option<Damage>; 7] = [
        Some(|bytes| bytes[0] ^= 1),
        Some(|bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        Some(|bytes| *bytes.last_mut().unwrap() ^= 1),
        Some(|bytes| bytes.truncate(bytes.len() / 2)),
        Some(Vec::clear),
        Some(|bytes| bytes.push(b'x')),
        // A file that is gone.
        None,
    ];
    for format in FileFormat::ALL {
        let mut yard = Yard::new(Sqlite::new().await, false);
        yard.rule.format = format;
        let mut count = 0;
        let mut known = Vec::new();
        for damage in damages {
            yard.fill(count..count + 50, 0).await;
            count += 50;
            yard.limits.keeps_source = true;
            assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);
            yard.limits.keeps_source = false;
            let files = async || {
                let listed = yard.store.list("archive/orders/orders/").await.unwrap();
                listed.into_iter().map(|one| one.key).collect::<Vec<_>>()
            };
            let new: Vec<Key> =
                files().await.into_iter().filter(|one| !known.contains(one)).collect();
            let [file] = new.as_slice() else { panic!("{new:?}") };
            let mut bytes = yard.store.read(file, 1 << 20).await.unwrap().unwrap().to_vec();
            yard.store.delete(file).await.unwrap();
            if let Some(damage) = damage {
                damage(&mut bytes);
                yard.store.create(file, bytes.into()).await.unwrap();
            }
            let report = yard.run().await.unwrap();
            assert_eq!((report.pruned_rows, report.exported_rows), (50, 50), "{report:?}");
            assert!(report.findings.iter().any(|one| one.subject == "file"), "{report:?}");
            assert_eq!(yard.live("orders").await.len(), 0);
            assert_eq!(yard.archived("orders").await, tokens(0..count));
            let found = verify(&yard.place, &yard.world.cpu, None, |_| true).await.unwrap();
            assert_eq!(found.damages.len(), 0);
            known = files().await;
            assert!(!known.contains(file), "it counts for nothing, and stays");
        }
    }
}

/// Two files of one table that change places are both found out.
#[tokio::test(flavor = "multi_thread")]
async fn i5_files_that_are_swapped_are_found_out() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.file_bytes = 1;
    yard.fill(0..300, 0).await;
    yard.limits.keeps_source = true;
    yard.run().await.unwrap();
    let files = yard.store.list("archive/orders/orders/").await.unwrap();
    assert!(files.len() > 1, "{files:?}");
    let bytes = async |key: &Key| yard.store.read(key, 1 << 20).await.unwrap().unwrap();
    let (one, other) = (bytes(&files[0].key).await, bytes(&files[1].key).await);
    for (key, bytes) in [(&files[0].key, other), (&files[1].key, one)] {
        yard.store.delete(key).await.unwrap();
        yard.store.create(key, bytes).await.unwrap();
    }
    let found = verify(&yard.place, &yard.world.cpu, None, |_| true).await.unwrap();
    assert_eq!(found.damages.len(), 2);
    yard.limits.keeps_source = false;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 300);
    assert_eq!(yard.archived("orders").await, tokens(0..300));
}

/// Invariant 6: where nothing is selected, nothing is written, neither here nor there.
#[tokio::test(flavor = "multi_thread")]
async fn i6_a_second_run_writes_nothing() {
    let yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..25, 2).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 75);
    let names = async || {
        let listed = yard.store.list("").await.unwrap();
        listed.into_iter().map(|one| one.key).collect::<Vec<_>>()
    };
    let (before, ledger) = (names().await, "SELECT count(*) || '' FROM stillpoint_archive_ledger");
    let noted = yard.shop.ask(ledger).await;
    // It changes for one connection whenever another one commits.
    let watching = rusqlite::Connection::open(yard.shop.path()).unwrap();
    let version = || watching.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
    let unchanged = version().unwrap();
    let again = yard.run().await.unwrap();
    assert_eq!((again.quit, again.run), (Quit::NothingSelected, None));
    assert_eq!((names().await, yard.shop.ask(ledger).await), (before, noted));
    assert_eq!(version().unwrap(), unchanged);
}

/// Invariant 8: a table that refers to the root and is not listed.
async fn refuse_unlisted<S: Shop>(yard: &mut Yard<S>) {
    yard.fill(0..5, 2).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    let told = format!("{:?} {:?}", error.facts(), error.advice());
    assert!(told.contains("items"), "{told}");
    assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (5, 10));
    assert_eq!(yard.store.list("").await.unwrap(), []);
    yard.rule.includes_unlisted = true;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 15);
    assert_eq!((yard.archived("orders").await.len(), yard.archived("items").await.len()), (5, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn i8_children_that_are_not_listed_are_refused() {
    let sqlite = Sqlite::new().await;
    refuse_unlisted(&mut Yard::new(sqlite, false)).await;
    let Some(shop) = InPostgres::new(18).await else { return };
    refuse_unlisted(&mut Yard::new(shop, false)).await;
}

/// How many bytes the files have that count.
async fn stored_bytes<S: Shop>(yard: &Yard<S>) -> u64 {
    let shelf = Shelf::load(&yard.place).await.unwrap();
    shelf.sealed().flat_map(|(_, batch)| batch.files()).map(|file| file.bytes).sum()
}

/// Invariant 10: tables that change between a file and the deletion of its rows.
async fn drift<S: Shop + 'static>(make: impl AsyncFn() -> S, changes: &[&str]) {
    for change in changes {
        let shop = Arc::new(make().await);
        let yard = Yard::new(Arc::clone(&shop), false);
        yard.fill(0..20, 0).await;
        let orders = shop.table("orders");
        let statements = Mutex::new(vec![change.replace("orders", &orders)]);
        let meddler = Meddler { shop, when: SHELVED, statements };
        let report = yard.run_seen(&meddler).await.unwrap_or_else(|e| panic!("{change}: {e:?}"));
        assert!(report.differences.iter().any(|one| one.is_schema), "{change}: {report:?}");
        assert_eq!(yard.archived("orders").await, tokens(0..20), "{change}");
        assert_eq!(report.exported_rows, 20, "{change}: {report:?}");
        assert_eq!(report.file_bytes, stored_bytes(&yard).await, "{change}: {report:?}");
        assert_eq!(yard.live("orders").await.len(), 0, "{change}");
        let shelf = Shelf::load(&yard.place).await.unwrap();
        assert_eq!(shelf.runs.len(), 2, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_tables_that_change_are_read_again() {
    let common = [
        "ALTER TABLE orders ADD COLUMN extra TEXT DEFAULT 'x'",
        "ALTER TABLE orders DROP COLUMN note",
        "ALTER TABLE orders RENAME COLUMN note TO remark",
    ];
    drift(async || Sqlite::new().await, &common).await;
    let Some(shop) = InPostgres::new(17).await else { return };
    let shop = &*Box::leak(Box::new(shop));
    let reset = async || {
        shop.reset().await;
        shop
    };
    drift(reset, &common).await;
    drift(reset, &["ALTER TABLE orders ALTER COLUMN note TYPE varchar(100)"]).await;
}

/// Two columns change names between a file and the deletion of its rows: those of the file are not
/// selected by what the predicate means then, and none of them goes.
async fn swapped<S: Shop + 'static>(shop: S) {
    let shop = Arc::new(shop);
    let yard = Yard::new(Arc::clone(&shop), false);
    yard.fill(0..20, 0).await;
    let orders = shop.table("orders");
    let rename =
        |from: &str, to: &str| format!("ALTER TABLE {orders} RENAME COLUMN {from} TO {to}");
    let names = [("state", "aside"), ("note", "state"), ("aside", "note")];
    let statements = Mutex::new(names.map(|(from, to)| rename(from, to)).to_vec());
    let meddler = Meddler { shop, when: SHELVED, statements };
    let report = yard.run_seen(&meddler).await.unwrap();
    assert!(report.differences.iter().any(|one| one.is_schema), "{report:?}");
    assert_eq!((report.exported_rows, report.pruned_rows), (0, 0), "{report:?}");
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_no_rows_go_by_names_that_mean_other_columns_by_now() {
    swapped(Sqlite::new().await).await;
    let Some(shop) = InPostgres::new(18).await else { return };
    swapped(shop).await;
}

/// Invariant 11: one name for two tables.
#[tokio::test(flavor = "multi_thread")]
async fn i11_rows_of_two_tables_are_never_mixed() {
    let first = Yard::new(Sqlite::new().await, false);
    first.fill(0..5, 0).await;
    first.run().await.unwrap();
    let second = Yard::in_store(Sqlite::new().await, false, Arc::clone(&first.store));
    second.fill(0..5, 0).await;
    let error = second.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::FOREIGN_DATABASE));
    assert_eq!(second.live("orders").await.len(), 5);
}

/// Gates: nothing is deleted before it may be, and a second copy is there before.
#[tokio::test(flavor = "multi_thread")]
async fn gates_hold_rows_back() {
    let mut yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..25, 2).await;
    yard.gates.push(Box::new(Aged(Duration::from_hours(1))));
    let report = yard.run().await.unwrap();
    assert!(matches!(report.quit, Quit::Gate(_)), "{report:?}");
    assert_eq!((report.exported_rows, report.pruned_rows), (75, 0));
    assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (25, 0));
    let again = yard.run().await.unwrap();
    assert!(matches!(again.quit, Quit::Gate(_)) && again.exported_rows == 0, "{again:?}");

    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let to = Place::new(Arc::clone(&second), "orders").unwrap();
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates = vec![Box::new(SecondCopy { from, to: to.clone(), cpu })];
    assert_eq!(yard.run().await.unwrap().pruned_rows, 75);
    let found = verify(&to, &yard.world.cpu, None, |_| true).await.unwrap();
    assert_eq!((found.rows, found.damages.len()), (75, 0));
}

/// Invariant 15: the database goes back to a time amid a run.
#[tokio::test(flavor = "multi_thread")]
async fn i15_after_a_restore_it_is_known_which_rows_live_again() {
    let mut yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..40, 1).await;
    yard.limits.rows_max = Some(20);
    assert_eq!(yard.run().await.unwrap().quit, Quit::RowsMax);
    let copy = yard.shop.path().with_extension("copy");
    let (path, to) = (yard.shop.path(), copy.display().to_string());
    rusqlite::Connection::open(&path).unwrap().execute("VACUUM INTO ?", [&to]).unwrap();
    yard.limits.rows_max = None;
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!(yard.archived("orders").await, tokens(0..40));

    // Back in place, by the file: as a restore would bring it.
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.clone().into_os_string();
        beside.push(suffix);
        drop(fs::remove_file(beside));
    }
    fs::write(&path, fs::read(&copy).unwrap()).unwrap();
    let live = yard.live("orders").await;
    assert!(!live.is_empty() && live.len() < 40, "{live:?}");
    let error = yard.run().await.unwrap_err();
    assert_eq!(error.code(), code::LEDGER, "{error:?}");
    assert!(error.advice()[0].contains("archive reconcile"), "{error:?}");

    let look = Reconciling::default();
    let found = yard.reconcile(look).await.unwrap();
    let rows: u64 = found.live.iter().map(|slice| slice.rows).sum();
    assert_eq!(rows as usize, 2 * live.len());
    // Each row is counted once.
    let mut all = [yard.archived("orders").await, yard.live("orders").await].concat();
    all.sort();
    assert_eq!(all, tokens(0..40));

    let files = yard.store.list("archive/orders/orders/").await.unwrap();
    let prunes = Reconciling { prunes: true, ..look };
    let pruned = yard.reconcile(prunes).await.unwrap();
    assert_eq!((pruned.pruned_rows, pruned.live.len()), (rows, 0));
    assert_eq!(yard.store.list("archive/orders/orders/").await.unwrap(), files);
    assert_eq!(yard.archived("orders").await, tokens(0..40));
    assert_eq!(yard.live("orders").await.len(), 0);
}

/// Counts steps.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Witness for Counter {
    fn see(&self, step: &Step) {
        if matches!(step, Step::Committed { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A run that is to stop early stops, says why, and is continued.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_when_it_is_told_to() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..100, 0).await;
    yard.limits.until = Some(yard.world.clock.now());
    let counter = Counter::default();
    let report = yard.run_seen(&counter).await.unwrap();
    assert_eq!((report.quit, counter.0.load(Ordering::Relaxed)), (Quit::OutOfTime, 0));
    yard.limits.until = None;
    // A window of tomorrow's is closed today, and nothing is begun.
    let now = yard.world.clock.now();
    let (days, from) = (vec![(now + TimeDelta::days(2)).weekday()], NaiveTime::MIN);
    let to = from + TimeDelta::hours(1);
    yard.rule.windows = vec![Window { days, from, to, zone: None }];
    let report = yard.run().await.unwrap();
    assert!(matches!(report.quit, Quit::Closed(Some(until)) if now < until), "{report:?}");
    assert!(report.words().starts_with("its window is closed until 2"), "{report:?}");
    assert_eq!(yard.store.list("").await.unwrap(), []);
    yard.rule.windows.clear();
    yard.limits.rows_max = Some(30);
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit, report.pruned_rows), (Quit::RowsMax, 30));
    yard.limits.rows_max = None;
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit, report.pruned_rows), (Quit::Finished, 70));
    assert_eq!(yard.archived("orders").await, tokens(0..100));
}

/// What was compared, of each slice.
#[derive(Debug, Default)]
struct Compared(Mutex<Vec<Verification>>);

impl Compared {
    fn take(&self) -> Vec<Verification> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Witness for Compared {
    fn see(&self, step: &Step) {
        if let Step::Compared { by, .. } = step {
            self.0.lock().unwrap().push(*by);
        }
    }
}

/// Says a step to several.
#[derive(Debug)]
struct Both<'a>(&'a dyn Witness, &'a dyn Witness);

impl Witness for Both<'_> {
    fn see(&self, step: &Step) {
        self.0.see(step);
        self.1.see(step);
    }
}

/// `verify = "tuple"`: versions stand for rows as long as the run that read them goes on; rows are
/// compared where versions are others, and where another run had read them.
#[tokio::test(flavor = "multi_thread")]
async fn i7_versions_stand_for_rows_that_nobody_wrote() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let shop: &InPostgres = &*Box::leak(Box::new(shop));
    let by_tuple = Verification::Tuple;
    // Nothing happens; a row is written that stays as it is; all of them are put elsewhere.
    for (happens, last) in [
        ("SELECT", by_tuple),
        ("UPDATE orders SET token = token WHERE id = 7", Verification::Row),
        ("CLUSTER orders USING orders_pkey", Verification::Row),
    ] {
        shop.reset().await;
        let mut yard = Yard::new(shop, true);
        yard.rule.verification = by_tuple;
        yard.fill(0..40, 2).await;
        yard.shop.change(&["DELETE FROM items WHERE order_id = 0".to_owned()]).await;
        yard.shop.change(&["DELETE FROM orders WHERE id = 0".to_owned()]).await;
        let statements = Mutex::new(vec![happens.to_owned()]);
        let meddler = Meddler { shop: Arc::new(shop), when: SHELVED, statements };
        let compared = Compared::default();
        let report = yard.run_seen(&Both(&meddler, &compared)).await.unwrap();
        assert!(report.quit.is_done() && report.differences.is_empty(), "{happens}: {report:?}");
        assert_eq!(compared.take().last(), Some(&last), "{happens}");
        assert_eq!(yard.archived("orders").await, tokens(1..40), "{happens}");
        assert_eq!(yard.live("orders").await.len() + yard.live("items").await.len(), 0);
    }

    // What another run read is compared row by row: this may be another server by now.
    shop.reset().await;
    let mut yard = Yard::new(shop, false);
    yard.rule.verification = by_tuple;
    yard.fill(0..40, 0).await;
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().quit, Quit::KeptSource);
    yard.limits.keeps_source = false;
    yard.fill(40..45, 0).await;
    let compared = Compared::default();
    assert!(yard.run_seen(&compared).await.unwrap().quit.is_done());
    let compared = compared.take();
    assert_eq!(compared[..4], [Verification::Row; 4], "{compared:?}");
    assert_eq!(compared[4..], [by_tuple], "{compared:?}");
    assert_eq!(yard.archived("orders").await, tokens(0..45));
}

/// Where no versions are told apart, that is said before anything is done.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_by_versions_is_refused() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.verification = Verification::Tuple;
    yard.fill(0..5, 0).await;
    let error = yard.run().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED));
    assert_eq!(error.advice(), ["[archive.orders]  verify = \"row\""], "{error:?}");
    assert_eq!(yard.live("orders").await.len(), 5);
}

/// `key`: rows are told apart, and put in order, by another unique index than the primary key.
async fn in_order_of_an_index<S: Shop>(shop: S, unique: &str) {
    let orders = shop.table("orders");
    for make in ["UNIQUE INDEX orders_amount", "INDEX orders_state"] {
        let column = make.rsplit('_').next().unwrap();
        shop.change(&[format!("CREATE {make} ON {orders} ({column})")]).await;
    }
    let mut yard = Yard::new(shop, false);
    yard.rule.sort = vec!["token".to_owned()];
    yard.fill(0..40, 0).await;
    assert!(yard.run().await.unwrap_err().advice()[0].contains("sort = [\"id\"]"));
    for wrong in ["nothing", "orders_amount", "orders_state"] {
        yard.rule.key = Some(wrong.to_owned());
        let error = yard.run().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Missing, code::BAD_NAME), "{wrong}");
    }
    yard.rule.key = Some(unique.to_owned());
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!(yard.archived("orders").await, tokens(0..40));
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let (plan, batch) = shelf.sealed().next().unwrap();
    let table = &plan.members[0].table;
    let key: Vec<&str> = table.key.iter().map(|at| &*table.columns[*at].name).collect();
    assert_eq!((key, batch.slices.len()), (vec!["token"], 4));
    yard.put_back().await.unwrap();
    assert_eq!(yard.live("orders").await, tokens(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_sqlite_are_in_the_order_of_the_index_that_is_named() {
    in_order_of_an_index(Sqlite::new().await, "sqlite_autoindex_orders_1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_postgresql_are_in_the_order_of_the_index_that_is_named() {
    let Some(shop) = InPostgres::new(18).await else { return };
    in_order_of_an_index(shop, "orders_token_key").await;
}
