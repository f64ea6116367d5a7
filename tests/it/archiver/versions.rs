//! Rows that were put back, corrected and archived again: they are in files of several runs, or of
//! one that had not ended, and the newest version of each comes back.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use stillpoint::{
    archiver::{
        FoundRows, Quit, Reconciling, Returned, Returning, Shelf, Wanted, duckdb_views, find,
        put_back,
    },
    policy::ArchivedChild,
};
use stillpoint_contract::{Conflict, ErrorKind, Result, code};

use super::{
    few::few,
    shop::{InPostgres, Shop, Sqlite, Yard},
};

/// Puts rows back that are as a condition says, of one run or of all.
async fn put<S: Shop>(
    yard: &Yard<S>,
    condition: &str,
    (conflict, staging): (Conflict, Option<&str>),
    run: Option<&str>,
) -> Result<Vec<Returned>> {
    let driver = yard.shop.driver().await;
    let terms = Wanted::terms_of(condition).unwrap();
    let wanted = Wanted { terms, run: run.map(str::to_owned), ..Wanted::default() };
    let returning = Returning { wanted, conflict, staging: staging.map(str::to_owned) };
    Box::pin(put_back(&yard.place, &yard.world, &*driver, &returning)).await
}

/// Of each table: rows that are new, replaced, skipped, and left in the files.
fn counts(back: &[Returned]) -> Vec<[u64; 4]> {
    let count =
        |one: &Returned| [one.tally.inserted, one.tally.replaced, one.tally.skipped, one.older];
    back.iter().map(count).collect()
}

/// Orders 0 to 29 with an item each, of which 2 and 17 were corrected twice, and 5 once.
async fn corrected<S: Shop>(yard: &Yard<S>) {
    let orders = yard.shop.table("orders");
    yard.fill(0..30, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    for (number, ids) in ["2, 5, 17", "2, 17"].into_iter().enumerate() {
        for id in ids.split(", ") {
            put(yard, &format!("id = {id}"), (Conflict::Fail, None), None).await.unwrap();
        }
        let correct = format!("UPDATE {orders} SET note = 'corrected {number}'");
        yard.shop.change(&[correct]).await;
        assert!(yard.run().await.unwrap().quit.is_done());
    }
    yard.fill(30..40, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
}

/// The notes of orders 2, 5 and 6.
async fn notes<S: Shop>(yard: &Yard<S>, table: &str) -> Vec<String> {
    let query = format!("SELECT note FROM {table} WHERE id IN (2, 5, 6) ORDER BY id");
    yard.shop.ask(&query).await
}

const NEWEST: [&str; 3] = ["corrected 1", "corrected 0", "note 6"];

async fn newest<S: Shop>(mut yard: Yard<S>) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 7;
    corrected(&yard).await;
    let orders = yard.shop.table("orders");
    let emptied =
        [format!("DELETE FROM {}", yard.shop.table("items")), format!("DELETE FROM {orders}")];
    let one = "SELECT note FROM orders WHERE id = 2";
    // The newest version comes back, however conflicts are settled: there is none.
    for conflict in
        [Conflict::Fail, Conflict::Skip, Conflict::Overwrite, Conflict::Newer("token".to_owned())]
    {
        let back = put(&yard, "id = 2", (conflict, None), None).await.unwrap();
        assert_eq!(counts(&back), [[1, 0, 0, 2], [1, 0, 0, 2]], "{back:?}");
        assert_eq!(yard.shop.ask(one).await, ["corrected 1"]);
        yard.shop.change(&emptied).await;
    }
    // Also where all come back, into their table or a new one.
    for staging in [None, Some("again")] {
        let back = put(&yard, "", (Conflict::Fail, staging), None).await.unwrap();
        assert_eq!(counts(&back), [[40, 0, 0, 5], [40, 0, 0, 5]], "{back:?}");
        assert_eq!(notes(&yard, &back[0].table).await, NEWEST, "{staging:?}");
    }
    // What is there now is replaced by the newest version, and by no other one after that.
    yard.shop.change(&[format!("UPDATE {orders} SET note = 'mine'")]).await;
    let back = put(&yard, "id = 2", (Conflict::Overwrite, None), None).await.unwrap();
    assert_eq!(counts(&back), [[0, 1, 0, 2], [0, 1, 0, 2]], "{back:?}");
    assert_eq!(notes(&yard, &orders).await, ["corrected 1", "mine", "mine"]);
    yard.shop.change(&emptied).await;

    // A version that was corrected since is not what the row is, also where only it is wanted.
    let old = "note = 'note 2'";
    let back = put(&yard, old, (Conflict::Fail, None), None).await.unwrap();
    assert_eq!(counts(&back), [[0, 0, 0, 1], [0, 0, 0, 1]], "{back:?}");
    assert_eq!(yard.live("orders").await, Vec::<String>::new());
    // Unless somebody says which run's.
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let runs: Vec<&str> = shelf.runs.iter().map(|run| &*run.plan.run).collect();
    assert_eq!(runs.len(), 4);
    for (run, note) in [(runs[0], "note 2"), (runs[1], "corrected 0"), (runs[2], "corrected 1")] {
        let back = put(&yard, "id = 2", (Conflict::Fail, None), Some(run)).await.unwrap();
        assert_eq!(counts(&back), [[1, 0, 0, 0], [1, 0, 0, 0]], "{back:?}");
        assert_eq!(yard.shop.ask(one).await, [note]);
        yard.shop.change(&emptied).await;
    }
    // Readers see each version, and of which run it is.
    let (mut seen, wanted) = (Vec::new(), Wanted::terms_of("id = 2").unwrap());
    let wanted = Wanted { terms: wanted, ..Wanted::default() };
    let take = async |found: FoundRows| {
        seen.push(found.run);
        Ok(())
    };
    let found = find(&yard.place, &yard.world.cpu, &wanted, None, take);
    assert_eq!(Box::pin(found).await.unwrap(), 3);
    assert_eq!(seen, runs[..3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_version_of_a_row_comes_back_to_sqlite() {
    newest(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_version_of_a_row_comes_back_to_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.change(&["DROP TABLE IF EXISTS again_items, again".to_owned()]).await;
    newest(Yard::new(&shop, true)).await;
    shop.change(&["DROP TABLE again_items, again".to_owned()]).await;
}

/// A run that goes on archives again what was put back meanwhile: its later batch has the row.
async fn of_one_run<S: Shop>(mut yard: Yard<S>) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 2;
    yard.fill(0..8, 1).await;
    let orders = yard.shop.table("orders");
    for number in 0..2 {
        yard.limits.rows_max = Some(4);
        assert_eq!(yard.run().await.unwrap().quit, Quit::RowsMax, "{number}");
        let back = put(&yard, "id = 1", (Conflict::Fail, None), None).await.unwrap();
        assert_eq!(counts(&back), [[1, 0, 0, number], [1, 0, 0, number]], "{back:?}");
        let correct = format!("UPDATE {orders} SET note = 'corrected {number}' WHERE id = 1");
        yard.shop.change(&[correct]).await;
    }
    yard.limits.rows_max = None;
    assert!(yard.run().await.unwrap().quit.is_done());
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let runs: Vec<&str> = shelf.runs.iter().map(|run| &*run.plan.run).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");

    let note = format!("SELECT note FROM {orders} WHERE id = 1");
    let emptied =
        [format!("DELETE FROM {}", yard.shop.table("items")), format!("DELETE FROM {orders}")];
    for (conflict, run) in [
        (Conflict::Fail, None),
        (Conflict::Skip, None),
        (Conflict::Overwrite, None),
        (Conflict::Newer("token".to_owned()), None),
        (Conflict::Fail, Some(runs[0])),
    ] {
        for (condition, rows) in [("id = 1", 1), ("", 8)] {
            let back = put(&yard, condition, (conflict.clone(), None), run).await.unwrap();
            assert_eq!(counts(&back), [[rows, 0, 0, 2], [rows, 0, 0, 2]], "{back:?}");
            assert_eq!(yard.shop.ask(&note).await, ["corrected 1"], "{conflict:?}, {run:?}");
            yard.shop.change(&emptied).await;
        }
    }
    for (number, condition) in ["id = 1", "", "note = 'corrected 1'"].into_iter().enumerate() {
        let staging = format!("once_{number}");
        let back = put(&yard, condition, (Conflict::Fail, Some(&staging)), None).await.unwrap();
        let note = format!("SELECT note FROM {} WHERE id = 1", back[0].table);
        assert_eq!(yard.shop.ask(&note).await, ["corrected 1"], "{condition}");
    }
    // What is true of an earlier one only is not true of the row.
    let back = put(&yard, "note = 'corrected 0'", (Conflict::Fail, None), None).await.unwrap();
    assert_eq!(counts(&back), [[0, 0, 0, 1], [0, 0, 0, 1]], "{back:?}");
    // Readers see each version, oldest first.
    let wanted = Wanted { terms: Wanted::terms_of("id = 1").unwrap(), ..Wanted::default() };
    let mut seen = Vec::new();
    let take = async |found: FoundRows| {
        seen.push(found.batch);
        Ok(())
    };
    let found = find(&yard.place, &yard.world.cpu, &wanted, None, take);
    assert_eq!(Box::pin(found).await.unwrap(), 3);
    assert!(seen.is_sorted() && seen.len() == 3, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_version_comes_back_that_one_run_archived_to_sqlite() {
    of_one_run(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_version_comes_back_that_one_run_archived_to_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let tables = (0..3).map(|number| format!("once_{number}_items, once_{number}"));
    let gone = [format!("DROP TABLE IF EXISTS {}", tables.collect::<Vec<_>>().join(", "))];
    shop.change(&gone).await;
    of_one_run(Yard::new(&shop, true)).await;
    shop.change(&gone).await;
}

/// Of a column that only the root has, `newer` decides for what hangs on its rows, too: on several
/// steps, where there are parts of items.
async fn newer_families<S: Shop>(mut yard: Yard<S>, with_parts: bool, besides: &[String]) {
    yard.rule.file_bytes = 1;
    yard.rule.slice_rows = 2;
    yard.fill(0..6, 2).await;
    if with_parts {
        let make = [
            "CREATE TABLE parts (id INTEGER PRIMARY KEY,
                item INTEGER NOT NULL REFERENCES items (id))",
            "CREATE INDEX parts_item ON parts (item)",
            "INSERT INTO parts SELECT id, id FROM items",
        ];
        yard.shop.change(&make.map(str::to_owned)).await;
        yard.rule.children.push(ArchivedChild { table: "parts".to_owned(), columns: Vec::new() });
    }
    assert!(yard.run().await.unwrap().quit.is_done());

    // Of those that are there, 0 is older than the archived one, 1 is newer, and 2 as old.
    let (orders, items) = (yard.shop.table("orders"), yard.shop.table("items"));
    let there = [
        format!(
            "INSERT INTO {orders} VALUES (0, 'o0', 'open', 'mine', 0.25),
                (1, 'o1', 'open', 'mine', 9.5), (2, 'o2', 'open', 'mine', 2.5)"
        ),
        format!("INSERT INTO {items} VALUES (0, 0, 'mine0'), (200, 2, 'mine2')"),
    ];
    yard.shop.change(&there).await;
    if with_parts {
        yard.shop.change(&["INSERT INTO parts VALUES (200, 200)".to_owned()]).await;
    }
    yard.shop.change(besides).await;
    let newer = || Conflict::Newer("amount".to_owned());
    let mut expected = vec![[3, 1, 2, 0], [7, 1, 4, 0]];
    expected.extend(with_parts.then_some([8, 0, 4, 0]));
    let back = put(&yard, "", (newer(), None), None).await.unwrap();
    assert_eq!(counts(&back), expected, "{back:?}");
    let mine = format!("SELECT token FROM {orders} WHERE note = 'mine' ORDER BY id");
    assert_eq!(yard.shop.ask(&mine).await, ["o1", "o2"]);
    let come = ["i0", "i1", "i300", "i301", "i400", "i401", "i500", "i501", "mine2"];
    assert_eq!(yard.live("items").await, come);
    if with_parts {
        let parts = "SELECT CAST(id AS TEXT) FROM parts ORDER BY id";
        let come = ["0", "1", "200", "300", "301", "400", "401", "500", "501"];
        assert_eq!(yard.shop.ask(parts).await, come);
    }
    // Of some rows only, the same.
    let emptied = [
        format!("DELETE FROM {items} WHERE order_id IN (0, 1)"),
        format!("UPDATE {orders} SET amount = 0 WHERE id = 0"),
    ];
    if !with_parts {
        yard.shop.change(&emptied).await;
        let back = put(&yard, "id < 2", (newer(), None), None).await.unwrap();
        assert_eq!(counts(&back), [[0, 1, 1, 0], [2, 0, 2, 0]], "{back:?}");
        assert_eq!(yard.live("items").await, come);
    }
    // Nothing is there in new tables.
    let mut expected = vec![[6, 0, 0, 0], [12, 0, 0, 0]];
    expected.extend(with_parts.then_some([12, 0, 0, 0]));
    let back = put(&yard, "", (newer(), Some("fresh")), None).await.unwrap();
    assert_eq!(counts(&back), expected, "{back:?}");
    // A column that the root does not have is none to decide by.
    let nothing = Conflict::Newer("order_id".to_owned());
    let error = put(&yard, "", (nothing, None), None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, code::USAGE), "{error:?}");
    assert_eq!(yard.live("items").await, come);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_newer_rows_comes_back_with_them_to_sqlite() {
    newer_families(Yard::new(Sqlite::new().await, true), false, &[]).await;
    newer_families(Yard::new(Sqlite::new().await, true), true, &[]).await;
    let harmless = [
        "CREATE TABLE log (id)",
        "CREATE TRIGGER logs AFTER INSERT ON orders BEGIN INSERT INTO log VALUES (new.id); END",
    ];
    let harmless = harmless.map(str::to_owned);
    newer_families(Yard::new(Sqlite::new().await, true), false, &harmless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_on_newer_rows_comes_back_with_them_to_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let gone = "DROP TABLE IF EXISTS fresh_items, fresh; DROP FUNCTION IF EXISTS quiet CASCADE";
    shop.execute(gone).await;
    newer_families(Yard::new(&shop, true), false, &[]).await;
    shop.execute(gone).await;
    shop.reset().await;
    let harmless = [
        "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        "CREATE TRIGGER quiet BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION quiet()",
    ];
    let harmless = harmless.map(str::to_owned);
    newer_families(Yard::new(&shop, true), false, &harmless).await;
    shop.execute(gone).await;
}

/// A row that was written by another spelling of its key, by an index that takes both for one.
async fn spelled_otherwise(index: &str, [old, new]: [&str; 2], is_same: bool) {
    let yard = Yard::new(Sqlite::new().await, false);
    let insert = |key: &str, token: &str, note: &str| {
        format!("INSERT INTO orders VALUES ('{key}', '{token}', 'closed', '{note}')")
    };
    let make = [
        "DROP TABLE orders".to_owned(),
        "CREATE TABLE orders (id TEXT NOT NULL COLLATE NOCASE, token TEXT, state TEXT, note TEXT)"
            .to_owned(),
        format!("CREATE UNIQUE INDEX orders_id ON orders (id COLLATE {index})"),
        insert(old, "o1", "old"),
        insert("other", "o2", "other"),
    ];
    yard.shop.change(&make).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 2, "{index}");
    yard.shop.change(&[insert(new, "o3", "new")]).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 1, "{index}");

    let note = format!("SELECT note FROM orders WHERE id COLLATE {index} = '{old}'");
    let back = put(&yard, "", (Conflict::Fail, None), None).await.unwrap();
    let (rows, older) = if is_same { (2, 1) } else { (3, 0) };
    assert_eq!(counts(&back), [[rows, 0, 0, older]], "{index}");
    let expected = if is_same { "new" } else { "old" };
    assert_eq!(yard.shop.ask(&note).await, [expected], "{index}");
    // Whatever is there by now, the newest one is what takes its place.
    let mine = ["DELETE FROM orders".to_owned(), insert(old, "o4", "mine")];
    yard.shop.change(&mine).await;
    let back = put(&yard, "", (Conflict::Overwrite, None), None).await.unwrap();
    assert_eq!(counts(&back), [[rows - 1, 1, 0, older]], "{index}");
    assert_eq!(yard.shop.ask(&note).await, [expected], "{index}");
    let views = duckdb_views(&yard.place, &Shelf::load(&yard.place).await.unwrap()).await.unwrap();
    let is_left_out = views.contains("is left out: texts of other bytes are one key");
    assert_eq!(is_left_out, is_same, "{views}");

    // Whoever has the key now is that row, also where the ledger is lost.
    let lost = ["DROP TABLE stillpoint_archive_ledger".to_owned(), "DELETE FROM orders".to_owned()];
    yard.shop.change(&lost).await;
    yard.shop.change(&[insert(old, "o5", "again")]).await;
    let found = yard.reconcile(Reconciling::default()).await.unwrap();
    let is_live = if is_same { (2, 0) } else { (1, 1) };
    assert_eq!((found.live.len(), found.unnoted.len()), is_live, "{index}: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_the_same_where_the_index_of_sqlite_says_so() {
    spelled_otherwise("NOCASE", ["Bob", "bOB"], true).await;
    spelled_otherwise("RTRIM", ["bob", "bob  "], true).await;
    spelled_otherwise("BINARY", ["Bob", "bob"], false).await;
}

/// Plans of before do not say that texts of other bytes are one key. The newest one does, whether
/// or not readers see a file of its run.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_the_same_in_files_of_runs_that_older_versions_planned() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    let table = "CREATE TABLE orders (id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, token TEXT,
        state TEXT, note TEXT)";
    yard.shop.change(&["DROP TABLE orders".to_owned(), table.to_owned()]).await;
    let insert = |key: &str, note: &str| {
        [format!("INSERT INTO orders VALUES ('{key}', '{note}', 'closed', '{note}')")]
    };
    for (key, note) in [("Bob", "old"), ("bOB", "new")] {
        yard.shop.change(&insert(key, note)).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 1, "{key}");
    }
    yard.shop.change(&insert("Eve", "stays")).await;
    yard.limits.keeps_source = true;
    yard.run().await.unwrap();
    yard.forget_likeness().await;
    let shelf = Shelf::load(&yard.place).await.unwrap();
    assert!(shelf.runs[0].plan.members[0].table.alike.is_empty());
    assert!(!shelf.runs[2].plan.members[0].table.alike.is_empty());

    let views = duckdb_views(&yard.place, &shelf).await.unwrap();
    assert!(views.contains("is left out: texts of other bytes are one key"), "{views}");
    let back = put(&yard, "", (Conflict::Fail, None), None).await.unwrap();
    assert_eq!(counts(&back), [[1, 0, 0, 1]], "{back:?}");
    assert_eq!(yard.live("orders").await, ["new", "stays"]);

    // Whoever has the key now is that row, where the ledger is lost.
    let lost = "DROP TABLE stillpoint_archive_ledger".to_owned();
    yard.shop.change(&[lost, "DELETE FROM orders".to_owned()]).await;
    yard.shop.change(&insert("BOB", "again")).await;
    let found = yard.reconcile(Reconciling::default()).await.unwrap();
    assert_eq!((found.live.len(), found.unnoted.len()), (2, 0), "{found:?}");
}

/// The same through the program, which says what it left and whose versions it shows.
#[test]
fn older_versions_are_left_in_the_files_and_told() {
    let (ward, shop) = few(3, "");
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    ward.ok(&["archive", "run", "few"]);
    let restore = ["archive", "restore", "few", "--where", "id = 2"];
    ward.ok(&restore);
    shop.execute("UPDATE few SET v = 'v2-corrected' WHERE id = 2", []).unwrap();
    ward.ok(&["archive", "run", "few"]);

    let with = |more: &[&'static str]| [&restore[..], more].concat();
    let staged = ["--into", "staging", "--staging", "beside"];
    for words in [with(&[]), with(&["--on-conflict", "skip"]), with(&staged)] {
        let back = ward.json(&words);
        let table = back["tables"][0]["table"].as_str().unwrap();
        let shown = (back["inserted"].as_u64(), back["older_versions"].as_u64());
        assert_eq!(shown, (Some(1), Some(1)), "{back:#}");
        let version = format!("SELECT v FROM {table} WHERE id = 2");
        let version: String = shop.query_row(&version, [], |row| row.get(0)).unwrap();
        assert_eq!(version, "v2-corrected", "{words:?}");
        shop.execute("DELETE FROM few", []).unwrap();
    }
    let told = ward.ok(&restore);
    assert!(told.contains("1 older version was left in the files"), "{told}");
    let runs = ward.json(&["archive", "ls", "few"]);
    let output = ward.command(&["archive", "get", "few", "--id", "2"]).output().unwrap();
    let (rows, told) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (rows, told) = (rows.unwrap(), told.unwrap());
    assert_eq!(rows.lines().count(), 2, "{rows}");
    for run in runs["runs"].as_array().unwrap() {
        assert!(told.contains(run["run"].as_str().unwrap()), "{told}");
    }
}

/// Versions of one run are told apart by their batches.
#[test]
fn versions_of_one_run_are_told() {
    let (ward, shop) = few(3, "");
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    ward.ok(&["archive", "run", "few", "--max-rows", "1"]);
    let restore = ["archive", "restore", "few", "--where", "id = 1"];
    ward.ok(&restore);
    shop.execute("UPDATE few SET v = 'v1-corrected' WHERE id = 1", []).unwrap();
    ward.ok(&["archive", "run", "few"]);
    let runs = ward.json(&["archive", "ls", "few"]);
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs:#}");

    let output = ward.command(&["archive", "get", "few", "--id", "1"]).output().unwrap();
    let (rows, told) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    let (rows, told) = (rows.unwrap(), told.unwrap());
    let newest = rows.lines().last().unwrap();
    assert!(rows.lines().count() == 2 && newest.contains("v1-corrected"), "{rows}");
    let run = runs["runs"][0]["run"].as_str().unwrap();
    for batch in [1, 2] {
        assert!(told.contains(&format!("{run} (batch {batch})")), "{told}");
    }
    let back = ward.json(&restore);
    let shown = (back["inserted"].as_u64(), back["older_versions"].as_u64());
    assert_eq!(shown, (Some(1), Some(1)), "{back:#}");
    let version = "SELECT v FROM few WHERE id = 1";
    let version: String = shop.query_row(version, [], |row| row.get(0)).unwrap();
    assert_eq!(version, "v1-corrected");
}

/// What was set holds until somebody takes it back, and everybody is told.
#[test]
fn what_was_set_is_told_and_taken_back() {
    let (ward, _shop) = few(1, "");
    let set = |words: &[&str]| ward.json(&[&["archive", "set", "few"], words].concat());
    let first = set(&["lag=9s", "batch=1"]);
    // Whatever is said of others later, it is since then.
    let status = set(&["nice=50"]);
    assert_eq!(first["overrides"].as_array().unwrap().len(), 2, "{first:#}");
    let since = |answer: &serde_json::Value, name: &str| {
        let all = answer["overrides"].as_array().unwrap();
        all.iter().find(|one| one["setting"] == name).map(|one| one["since"].clone())
    };
    assert!(since(&status, "lag").is_some() && since(&status, "nice").is_some(), "{status:#}");
    assert_eq!(since(&status, "lag"), since(&first, "lag"));
    for command in ["plan", "status", "run"] {
        let told = ward.ok(&["archive", command, "few"]);
        assert!(told.contains("lag = ") && told.contains("batch=policy"), "{command}: {told}");
    }
    let left = set(&["lag=policy", "batch=policy"]);
    assert_eq!((&left["lag_max_ms"], &left["slice_rows"]), (&().into(), &().into()), "{left:#}");
    assert!(since(&left, "nice").is_some() && since(&left, "lag").is_none(), "{left:#}");
    for name in ["threads", "wal_rate", "log_used", "dead_rows", "nice", "txn"] {
        set(&[&format!("{name}=policy")]);
    }
    assert_eq!(set(&["nice=policy"])["overrides"].as_array().unwrap().len(), 0);
    for (said, means_ms) in [("txn=100", 100), ("txn=250ms", 250), ("txn=1s", 1000)] {
        assert_eq!(set(&[said])["transaction_ms"], means_ms, "{said}");
    }
    for misuse in ["nothing=policy", "lag", "lag=", "txn=2min", "txn=0ms"] {
        let (status, told) = ward.run(&["archive", "set", "few", misuse]);
        assert!(status == 2 && told.contains("lag=2s"), "{misuse}: {told}");
    }
}
