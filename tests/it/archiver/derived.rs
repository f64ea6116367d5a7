//! Tables whose rows only derive from others: what triggers delete of them is no loss, where a
//! policy says so, and as long as it does.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use rusqlite::Connection;
use serde_json::json;
use stillpoint::{
    archiver::{Quit, Reconciling, Shelf},
    repository::store::Key,
};
use stillpoint_contract::{Error, ErrorKind, code};

use super::{
    keys::{bytes, replace},
    shop::{InPostgres, Shop, Sqlite, Yard},
};
use crate::serving::ward::{HEAD, Ward};

impl<S: Shop> Yard<S> {
    async fn do_all(&self, statements: &[&str]) {
        let statements = statements.iter().map(|one| (*one).to_owned());
        self.shop.change(&statements.collect::<Vec<_>>()).await;
    }

    /// How many rows there are of orders, of what is searched, and of parts.
    async fn counts(&self) -> [String; 3] {
        let mut counts = Vec::new();
        for table in ["orders", "search", "parts"] {
            let query = format!("SELECT CAST(count(*) AS text) FROM {}", self.shop.table(table));
            counts.extend(self.shop.ask(&query).await);
        }
        counts.try_into().unwrap()
    }
}

/// Whether an error tells something, as a fact or as what to do.
fn tells(error: &Error, what: &str) -> bool {
    let mut told = error.facts().into_iter().map(|(_, value)| value).chain(error.advice());
    told.any(|one| one.contains(what))
}

fn assert_refused(error: &Error, table: &str) {
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    assert!(tells(error, table), "{error:?}");
    assert!(tells(error, &format!("derived = [{table:?}]")), "{error:?}");
}

/// Statements of an engine: they make `search` and `parts`, and a trigger of orders; put orders
/// into what is searched; let a trigger take parts along; do not any more; and empty the ledger.
struct Statements<'a> {
    make: &'a [&'a str],
    index: &'a str,
    more: &'a str,
    less: &'a str,
    forget: &'a str,
}

async fn derives<S: Shop>(mut yard: Yard<S>, with: &Statements<'_>) {
    let (search, items) = (yard.shop.table("search"), yard.shop.table("items"));
    yard.fill(0..20, 1).await;
    yard.do_all(with.make).await;
    yard.do_all(&[with.index]).await;
    for (derived, why) in [("nowhere", "no such table"), (items.as_str(), "are archived")] {
        yard.rule.derived = vec![search.clone(), derived.to_owned()];
        let error = yard.run().await.unwrap_err();
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::Config, code::CONFIG_VALUE), "{error:?}");
        assert!(error.facts().contains(&("derived", derived)), "{error:?}");
        assert!(error.reason().is_some_and(|reason| reason.contains(why)), "{error:?}");
    }

    yard.rule.derived.clear();
    assert_refused(&yard.run().await.unwrap_err(), &search);
    assert_eq!(yard.counts().await, ["20", "21", "2"]);
    // What is said of one table says nothing of another one.
    yard.rule.derived = vec!["search".to_owned()];
    yard.do_all(&[with.more]).await;
    assert_refused(&yard.run().await.unwrap_err(), &yard.shop.table("parts"));
    assert_eq!(yard.counts().await, ["20", "21", "2"]);
    yard.do_all(&[with.less]).await;
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 40), "{report:?}");
    assert_eq!(yard.counts().await, ["0", "1", "2"]);
    assert_eq!(yard.archived("orders").await.len(), 20);
    let shelf = Shelf::load(&yard.place).await.unwrap();
    assert_eq!(shelf.runs.last().unwrap().plan.derived, std::slice::from_ref(&search));

    // It is taken back when rows are in files already.
    yard.fill(20..40, 1).await;
    yard.do_all(&[with.index]).await;
    yard.limits.keeps_source = true;
    assert_eq!(yard.run().await.unwrap().exported_rows, 40);
    yard.limits.keeps_source = false;
    yard.rule.derived.clear();
    assert_refused(&yard.run().await.unwrap_err(), &search);
    assert_eq!(yard.counts().await, ["20", "21", "2"]);
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let mut ends = shelf.runs.iter().filter_map(|run| run.end.as_ref());
    assert!(ends.any(|end| end.reason.contains("that their rows derive")), "{shelf:?}");
    yard.rule.derived = vec![search];
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 40), "{report:?}");
    assert_eq!(yard.counts().await, ["0", "1", "2"]);
    assert_eq!(yard.archived("orders").await.len(), 40);
}

/// Rows that live again after a restore go as the policy says now, whatever their plan says.
async fn derives_again<S: Shop>(mut yard: Yard<S>, with: &Statements<'_>) {
    let search = yard.shop.table("search");
    yard.fill(0..20, 1).await;
    yard.do_all(with.make).await;
    yard.do_all(&[with.index]).await;
    yard.rule.derived = vec![search.clone()];
    assert_eq!(yard.run().await.unwrap().pruned_rows, 40);
    let prunes = Reconciling { prunes: true, ..Reconciling::default() };
    for is_planned in [true, false] {
        if !is_planned {
            forget_derived(&yard).await;
        }
        // As the database was before the run.
        yard.fill(0..20, 1).await;
        yard.do_all(&[with.index, with.forget]).await;
        yard.rule.derived.clear();
        assert_refused(&yard.reconcile(prunes).await.unwrap_err(), &search);
        assert_eq!(yard.counts().await, ["20", "21", "2"], "{is_planned}");
        yard.rule.derived = vec![yard.shop.table("nowhere")];
        let error = yard.reconcile(prunes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert_eq!(yard.counts().await, ["20", "21", "2"], "{is_planned}");
        yard.rule.derived = vec![search.clone()];
        let found = yard.reconcile(prunes).await.unwrap();
        assert_eq!((found.pruned_rows, found.live.len()), (40, 0), "{is_planned}: {found:?}");
        assert_eq!(yard.counts().await, ["0", "1", "2"], "{is_planned}");
        assert_eq!(yard.archived("orders").await.len(), 20, "{is_planned}");
    }
}

/// Lets the only plan be of a policy that named no such table.
async fn forget_derived<S: Shop>(yard: &Yard<S>) {
    let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
    let key = Key::new(format!("archive/orders/_stillpoint/{run}/plan.json")).unwrap();
    let plan = bytes(&*yard.store, &key).await;
    let mut plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    assert!(plan.as_object_mut().unwrap().remove("derived").is_some(), "{plan:#}");
    replace(&*yard.store, &key, serde_json::to_vec_pretty(&plan).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_rows_of_sqlite_that_only_derive_go_where_a_policy_says_so() {
    let with = Statements {
        make: &[
            "CREATE TABLE parts (order_id INTEGER, token TEXT)",
            "INSERT INTO parts VALUES (3, 'p3'), (4, 'p4')",
            "CREATE VIRTUAL TABLE search USING fts5(body)",
            "INSERT INTO search (rowid, body) VALUES (999, 'of something else')",
            "CREATE TRIGGER unsearch AFTER DELETE ON orders BEGIN
                 DELETE FROM search WHERE rowid = old.id; END",
        ],
        index: "INSERT INTO search (rowid, body) SELECT id, note FROM orders",
        more: "CREATE TRIGGER take AFTER DELETE ON orders BEGIN
                   DELETE FROM parts WHERE order_id = old.id; END",
        less: "DROP TRIGGER take",
        forget: "DELETE FROM stillpoint_archive_ledger",
    };
    derives(Yard::new(Sqlite::new().await, true), &with).await;
    derives_again(Yard::new(Sqlite::new().await, true), &with).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_rows_of_postgresql_that_only_derive_go_where_a_policy_says_so() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let unsearch = "CREATE OR REPLACE FUNCTION unsearch() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN DELETE FROM search WHERE order_id = old.id; RETURN NULL; END $$";
    let with = Statements {
        make: &[
            "DROP TABLE IF EXISTS parts, search",
            "CREATE TABLE parts (order_id integer, token text)",
            "INSERT INTO parts VALUES (3, 'p3'), (4, 'p4')",
            "CREATE TABLE search (order_id integer PRIMARY KEY, body text)",
            "INSERT INTO search VALUES (999, 'of something else')",
            unsearch,
            "CREATE TRIGGER unsearch AFTER DELETE ON orders
                 FOR EACH ROW EXECUTE FUNCTION unsearch()",
        ],
        index: "INSERT INTO search SELECT id, note FROM orders",
        more: "CREATE OR REPLACE FUNCTION unsearch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   DELETE FROM search WHERE order_id = old.id;
                   DELETE FROM parts WHERE order_id = old.id; RETURN NULL; END $$",
        less: unsearch,
        forget: "DELETE FROM stillpoint.archive_ledger",
    };
    derives(Yard::new(&shop, true), &with).await;
    shop.reset().await;
    derives_again(Yard::new(&shop, true), &with).await;
}

/// The same through the program.
#[test]
fn a_plan_says_which_rows_are_not_archived() {
    let policy = |derived: &str| {
        format!(
            "{HEAD}[database.shop]\nendpoint = \"sqlite:shop.db\"\n[archive.orders]\n\
             database = \"shop\"\nroot = \"orders\"\nwhere = \"state = 'closed'\"\n{derived}"
        )
    };
    let ward = Ward::new(&policy(""));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    let fill = "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT);
        INSERT INTO orders VALUES (1, 'closed'), (2, 'open');
        CREATE TABLE search (word TEXT PRIMARY KEY, id INTEGER);
        INSERT INTO search VALUES ('one', 1), ('two', 2);
        CREATE TRIGGER unsearch AFTER DELETE ON orders
        BEGIN DELETE FROM search WHERE id = old.id; END";
    shop.execute_batch(fill).unwrap();
    let plan = ["archive", "plan", "orders"];
    let (status, told) = ward.run(&plan);
    assert!(status != 0 && told.contains("say so: derived = [\"search\"]"), "{told}");

    ward.configure(&policy("derived = [\"SEARCH\"]\n"));
    let told = ward.ok(&plan);
    assert!(told.contains("rows of search that triggers delete are not archived"), "{told}");
    assert_eq!(ward.json(&plan)["derived"], json!(["search"]));
    ward.ok(&["archive", "run", "orders"]);
    let left: i64 = shop.query_row("SELECT sum(id) FROM search", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 2);

    ward.configure(&policy("derived = [\"orders\"]\n"));
    let (status, told) = ward.run(&["config", "check"]);
    assert!(status != 0 && told.contains("`orders` is archived by `orders`"), "{told}");
    ward.configure(&policy("derived = [\"serach\"]\n"));
    let (status, told) = ward.run(&plan);
    assert!(status != 0 && told.contains("serach") && told.contains("no such table"), "{told}");
}
