//! Invariant 2, as the server's own log of statements tells it: before rows are deleted for good,
//! the files were written and read back, and the ledger has its entry in the same transaction.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use stillpoint::{
    archiver::{Step, Witness},
    repository::store::{Call, FaultyStore, MemoryStore, Store},
};
use stillpoint_testcontainers::{Postgres, PostgresOptions};
use tokio::runtime::Handle;

use super::shop::{InPostgres, Shop, Yard};

/// A statement in the log.
#[derive(Debug)]
struct Logged {
    /// Where its line begins.
    at: usize,
    text: String,
    /// Its parameters, as the log has them.
    detail: String,
}

impl Logged {
    fn deletes(&self, table: &str) -> bool {
        self.text.contains(&format!("DELETE FROM ONLY public.{table} "))
    }

    fn is_note(&self) -> bool {
        self.text.starts_with("INSERT INTO stillpoint.archive_ledger")
    }

    /// A parameter by its number.
    fn parameter(&self, number: u32) -> &str {
        let (_, behind) = self.detail.split_once(&format!("${number} = '")).unwrap();
        behind.split_once('\'').unwrap().0
    }
}

/// A transaction, and where its COMMIT is, if it has one.
#[derive(Debug, Default)]
struct Transaction {
    statements: Vec<Logged>,
    committed: Option<usize>,
    is_rolled_back: bool,
}

/// Each statement of a log, with the process that it is from.
/// Source: PostgreSQL 18 documentation, 19.8.3, "What to Log", `log_statement`.
fn statements(log: &str) -> Vec<(u32, Logged)> {
    let mut found: Vec<(u32, Logged)> = Vec::new();
    let (mut at, mut is_amid) = (0, false);
    for line in log.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        // Messages of several lines go on behind a tab.
        if let Some(more) = line.strip_prefix('\t') {
            if let Some((_, last)) = found.last_mut().filter(|_| is_amid) {
                last.text.push_str(more);
            }
            continue;
        }
        is_amid = false;
        let process = line.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let Some(process) = process.and_then(|(process, _)| process.parse().ok()) else { continue };
        if let Some((_, detail)) = line.split_once("DETAIL:  ") {
            if let Some((_, last)) = found.last_mut().filter(|(of, _)| *of == process) {
                detail.clone_into(&mut last.detail);
            }
            continue;
        }
        let text = line.split_once("LOG:  statement: ").or_else(|| {
            // Of a prepared one, its name comes first.
            line.split_once("LOG:  execute ").and_then(|(_, rest)| rest.split_once(": "))
        });
        if let Some((_, text)) = text {
            is_amid = true;
            let (text, detail) = (text.to_owned(), String::new());
            found.push((process, Logged { at: begin, text, detail }));
        }
    }
    found
}

/// The transactions of a log that have statements of their own for their begin and end.
fn transactions(log: &str) -> Vec<Transaction> {
    let (mut open, mut ended) = (BTreeMap::<u32, Transaction>::new(), Vec::new());
    for (process, statement) in statements(log) {
        match statement.text.trim() {
            // One that is a single message is over with it.
            text if text.starts_with("BEGIN") && !text.ends_with("; COMMIT") => {
                open.insert(process, Transaction::default());
            }
            "COMMIT" => {
                let transaction = open.remove(&process).into_iter();
                let committed = Some(statement.at);
                ended.extend(transaction.map(|one| Transaction { committed, ..one }));
            }
            "ROLLBACK" => {
                let transaction = open.remove(&process).into_iter();
                ended.extend(transaction.map(|one| Transaction { is_rolled_back: true, ..one }));
            }
            _ => {
                if let Some(transaction) = open.get_mut(&process) {
                    transaction.statements.push(statement);
                }
            }
        }
    }
    ended.extend(open.into_values());
    ended
}

/// A step, how long the log was then, and how many calls of the store there had been.
#[derive(Debug)]
struct Seen {
    step: Step,
    log: usize,
    calls: usize,
}

/// Notes each step; changes an order once, between its file and its deletion.
struct Clerk<'a> {
    shop: &'a InPostgres,
    store: &'a FaultyStore<Arc<MemoryStore>>,
    seen: Mutex<Vec<Seen>>,
    has_changed: AtomicBool,
}

impl fmt::Debug for Clerk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clerk")
    }
}

impl Witness for Clerk<'_> {
    fn see(&self, step: &Step) {
        let (log, calls) = (self.shop.server.log().len(), self.store.trace().len());
        self.seen.lock().unwrap().push(Seen { step: step.clone(), log, calls });
        let is_shelved = matches!(step, Step::Shelved { .. });
        if is_shelved && !self.has_changed.swap(true, Ordering::Relaxed) {
            let change = ["UPDATE orders SET note = 'later' WHERE id = 1".to_owned()];
            tokio::task::block_in_place(|| {
                Handle::current().block_on(async { self.shop.change(&change).await })
            });
        }
    }
}

/// What has to be so of a transaction that deleted rows for good. Returns how many slices it had.
fn check(deleted: &Transaction, seen: &[Seen], trace: &[Call]) -> usize {
    let Transaction { statements, committed, .. } = deleted;
    let notes: Vec<&Logged> = statements.iter().filter(|one| one.is_note()).collect();
    let of_orders: Vec<&Logged> = statements.iter().filter(|one| one.deletes("orders")).collect();
    let of_items: Vec<&Logged> = statements.iter().filter(|one| one.deletes("items")).collect();
    assert_eq!((of_orders.len(), of_items.len()), (notes.len(), notes.len()), "{deleted:#?}");
    assert!(!notes.is_empty() && notes.iter().all(|note| Some(note.at) < *committed));
    for ((note, orders), items) in notes.iter().zip(of_orders).zip(of_items) {
        // Children first, and then the entry, of each slice.
        assert!(items.at < orders.at && orders.at < note.at, "{deleted:#?}");
        let (batch, slice): (u32, u32) =
            (note.parameter(3).parse().unwrap(), note.parameter(4).parse().unwrap());

        // What was deleted was compared before it was noted.
        let is_compared = seen.iter().any(|one| {
            matches!(one.step, Step::Compared { slice: of, .. } if of == slice)
                && (orders.at + 1..=note.at).contains(&one.log)
        });
        assert!(is_compared, "batch {batch}, slice {slice}: {deleted:#?}");

        // Before anything of it was deleted, its files had been written, and read back, and then
        // its manifest had been written.
        let mut of_batch = seen.iter().filter(|one| {
            matches!(one.step, Step::Shelved { batch: of, .. } if of == batch)
                && one.log <= items.at
        });
        let shelved = of_batch.next().unwrap_or_else(|| panic!("batch {batch}: {seen:#?}"));
        let before = &trace[..shelved.calls];
        let place = |verb: &str, name: &str| {
            before.iter().rposition(|call| call.verb == verb && call.name.contains(name))
        };
        let manifest = place("create", &format!("/{batch:06}.0000.json")).unwrap();
        for table in ["public.orders", "public.items"] {
            let of_table = |call: &&Call| {
                call.verb == "create"
                    && call.name.contains(table)
                    && call.name.contains(&format!("-{batch:06}-"))
            };
            let file = before.iter().find(of_table).unwrap_or_else(|| panic!("{before:#?}"));
            let (written, read) = (place("create", &file.name), place("read", &file.name));
            assert!(written < read && read < Some(manifest), "{before:#?}");
        }
    }
    notes.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_the_server_saw_no_deletion_committed_without_file_and_ledger() {
    let settings = vec!["log_statement = 'all'".to_owned()];
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let Some(server) = Postgres::required_with(18, &options) else { return };
    let shop = InPostgres { server };
    shop.reset().await;
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), 1));
    let mut yard = Yard::in_store(&shop, true, Arc::clone(&store) as Arc<dyn Store>);
    yard.rule.slice_rows = 3;
    yard.rule.file_bytes = 1;
    yard.fill(0..12, 1).await;
    let clerk = Clerk {
        shop: &shop,
        store: &store,
        seen: Mutex::default(),
        has_changed: AtomicBool::new(false),
    };
    let report = yard.run_seen(&clerk).await.unwrap();
    assert!(report.quit.is_done() && report.left_rows == 0, "{report:?}");
    assert!(!report.differences.is_empty(), "{report:?}");
    yard.conserves_each(0..12, "in the end").await;

    let (log, seen) = (shop.server.log(), clerk.seen.into_inner().unwrap());
    let all = transactions(&log);
    let deletes = |one: &&Transaction| one.statements.iter().any(|of| of.deletes("items"));
    let (committed, others): (Vec<_>, Vec<_>) =
        all.iter().filter(deletes).partition(|one| one.committed.is_some());
    let slices: usize = committed.iter().map(|one| check(one, &seen, &store.trace())).sum();
    assert!(slices >= 4, "{committed:#?}");
    // What had changed since was deleted, looked at, and is there again.
    assert!(!others.is_empty() && others.iter().all(|one| one.is_rolled_back), "{others:#?}");
    assert!(others.iter().any(|one| !one.statements.iter().any(Logged::is_note)), "{others:#?}");
    // Each entry that there is came with a deletion.
    let noted = shop.ask("SELECT count(*)::text FROM stillpoint.archive_ledger").await;
    assert_eq!(noted, [slices.to_string()]);
}
