//! The whole way through the program: a configuration, a database in a file, real kills.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;
use serde_json::Value;

use crate::serving::ward::{HEAD, Ward};

const ARCHIVE: &str = r#"
[database.shop]
endpoint = "sqlite:shop.db"
[archive.orders]
database = "shop"
root = "orders"
where = "created_at < :cutoff and state = 'closed'"
cutoff = "now - 24 months"
cutoff_form = "datetime"
children = [{ table = "items" }]
slice_rows = 50
"#;

/// Orders that are archived, and the two that are not.
const ORDERS: u64 = 1_000;
const STAY: u64 = 2;

/// A repository that is not encrypted, a configuration, and a shop.
fn shop() -> Ward {
    let ward = Ward::new(&format!("{HEAD}{ARCHIVE}"));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let tables = "
        CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, state TEXT, amount REAL,
            created_at TEXT NOT NULL);
        CREATE TABLE items (id INTEGER PRIMARY KEY,
            order_id INTEGER NOT NULL REFERENCES orders (id), what TEXT);
        CREATE INDEX items_order ON items (order_id);";
    shop.execute_batch(tables).unwrap();
    let fill = "
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO orders SELECT i, 'customer ' || (i % 7), 'closed', i / 4.0,
            datetime('now', '-3 years', '+' || i || ' minutes') FROM n";
    shop.execute(fill, [ORDERS.cast_signed()]).unwrap();
    let young = "INSERT INTO orders VALUES (1000000, 'young', 'closed', 1, datetime('now')),
        (1000001, 'open', 'open', 1, '2001-01-01 00:00:00')";
    shop.execute(young, []).unwrap();
    shop.execute("INSERT INTO items SELECT id * 2, id, 'a thing' FROM orders", []).unwrap();
    ward
}

fn count(ward: &Ward, table: &str) -> u64 {
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    let count = shop.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
    let count: i64 = count.unwrap();
    count.cast_unsigned()
}

/// Rows that are printed.
fn scan(ward: &Ward, words: &[&str]) -> Vec<Value> {
    let output = ward.command(&[&["archive"], words].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
    let lines = output.stdout.lines().map(Result::unwrap);
    lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
}

#[test]
fn orders_are_planned_archived_found_and_put_back() {
    let ward = shop();
    let plan = ward.json(&["archive", "plan", "orders"]);
    assert_eq!((plan["rows"].as_u64(), plan["admitted"].as_bool()), (Some(ORDERS), Some(true)));
    assert_eq!(plan["tables"][1]["refers_to"], "orders", "{plan:#}");
    assert_eq!(count(&ward, "orders"), ORDERS + STAY);

    let run = ward.json(&["archive", "run", "orders"]);
    assert_eq!(run["quit"], "finished", "{run:#}");
    assert_eq!(
        (run["exported_rows"].as_u64(), run["pruned_rows"].as_u64()),
        (Some(2 * ORDERS), Some(2 * ORDERS))
    );
    assert_eq!((count(&ward, "orders"), count(&ward, "items")), (STAY, STAY));
    let again = ward.json(&["archive", "run", "orders"]);
    assert_eq!(again["quit"], "nothing-selected", "{again:#}");

    let runs = ward.json(&["archive", "ls", "orders"]);
    assert_eq!(runs["runs"][0]["archived_rows"].as_u64(), Some(2 * ORDERS), "{runs:#}");
    let shown = ward.json(&["archive", "show", "orders"]);
    assert_eq!(shown["batches"][0]["state"], "archived", "{shown:#}");
    let verified = ward.json(&["archive", "verify", "orders", "--against-ledger"]);
    assert_eq!(verified["rows"].as_u64(), Some(2 * ORDERS), "{verified:#}");

    let found = scan(&ward, &["get", "orders", "--id", "8"]);
    assert_eq!((found.len(), found[0]["amount"].as_f64()), (1, Some(2.0)), "{found:?}");
    let (status, told) = ward.run(&["archive", "get", "orders", "--id", "1000000"]);
    assert!(status == 6 && told.contains("no archived row"), "{told}");
    // No server waits for it, whatever word it shares with what one waits for.
    let (status, told) = ward.run(&["archive", "get", "orders"]);
    assert!(status == 2 && told.contains("(exit 2)"), "{status}: {told}");
    let where_ = "customer = 'customer 3' and id <= 70";
    let some = scan(&ward, &["scan", "orders", "--where", where_]);
    assert_eq!(some.len(), 10, "{some:?}");
    let listed = "customer in ('customer 3', 'nobody') and amount is not null";
    assert_eq!(scan(&ward, &["scan", "orders", "--where", listed]).len(), 143);
    let (status, told) = ward.run(&["archive", "scan", "orders", "--where", "customer = null"]);
    assert!(status == 2 && told.contains("note is null"), "{told}");
    let things = scan(&ward, &["scan", "orders", "--table", "items", "--limit", "5"]);
    assert_eq!(things.len(), 5);
    let csv = ward.ok(&["archive", "scan", "orders", "--where", "id = 8", "--format", "csv"]);
    assert!(csv.starts_with("\"id\",\"customer\"") && csv.lines().count() == 2, "{csv}");

    let restore = ["archive", "restore", "orders", "--where", where_];
    let back = ward.json(&restore);
    assert_eq!(back["inserted"].as_u64(), Some(20), "orders with their items: {back:#}");
    let (status, told) = ward.run(&restore);
    assert!(status == 5 && told.contains("SP0906"), "{told}");
    let skipped = ward.json(&[&restore[..], &["--on-conflict", "skip"]].concat());
    assert_eq!(skipped["skipped"].as_u64(), Some(20), "{skipped:#}");
    let staged = ["archive", "restore", "orders", "--all", "--staging", "orders_before"];
    assert_eq!(ward.json(&staged)["inserted"].as_u64(), Some(2 * ORDERS));
    assert_eq!((count(&ward, "orders"), count(&ward, "orders_before")), (STAY + 10, ORDERS));
}

#[test]
fn space_is_accounted_for_and_words_have_others_beside_them() {
    let ward = shop();
    ward.configure(&format!("{HEAD}{ARCHIVE}reclaim = \"vacuum\"\nsort = [\"id\"]\n"));
    let run = ward.json(&["archive", "run", "orders"]);
    let reclaimed = &run["reclaimed"];
    assert_eq!(reclaimed["archived_rows"].as_u64(), Some(2 * ORDERS), "{run:#}");
    assert!(!reclaimed["done"].as_array().unwrap().is_empty(), "{run:#}");
    assert!(reclaimed["tables"][0]["returned_bytes"].is_u64(), "{run:#}");
    assert_eq!(scan(&ward, &["get", "orders", "--key", "8"]).len(), 1);

    assert_eq!(ward.json(&["archive", "verify", "orders", "--full"])["rows"], 2 * ORDERS);
    ward.ok(&["archive", "verify", "orders", "--sample", "1%"]);
    let (status, told) = ward.run(&["archive", "verify", "orders", "--sample", "101%"]);
    assert!(status == 2 && told.contains("from 1% to 100%"), "{told}");
    let publish = |words: &[&str]| ward.ok(&[&["archive", "publish", "orders"], words].concat());
    assert_eq!(publish(&["--duckdb-views"]), publish(&[]));
    assert_eq!(publish(&["--hive"]), publish(&["--for", "hive"]));
    let (status, told) = ward.run(&["archive", "publish", "orders", "--iceberg"]);
    assert!(status == 2 && told.contains("--into"), "{told}");

    // Of a database, each of its sets.
    let compared = ward.json(&["archive", "reconcile", "shop"]);
    assert_eq!((&compared["set"], &compared["live_rows"]), (&"orders".into(), &0.into()));
    let (status, told) = ward.run(&["archive", "reconcile", "nothing"]);
    assert!(status == 6 && told.contains("SP0901"), "{told}");

    let restore = ["archive", "restore", "orders", "--all", "--into"];
    let staged = ward.json(&[&restore[..], &["staging"]].concat());
    assert_eq!(staged["staging"], "orders_restored", "{staged:#}");
    assert_eq!(count(&ward, "orders_restored"), ORDERS);
    let wrong = [&restore[..], &["table", "--staging", "beside"]].concat();
    let (status, told) = ward.run(&wrong);
    assert!(status == 2 && told.contains("--into staging"), "{told}");
    ward.json(&[&restore[..], &["table"]].concat());
    assert_eq!(count(&ward, "orders"), ORDERS + STAY);

    // Rows have one order in files.
    ward.configure(&format!("{HEAD}{ARCHIVE}sort = [\"customer\"]\n"));
    let (status, told) = ward.run(&["archive", "run", "orders"]);
    assert!(status == 5 && told.contains("sort = [\"id\"]"), "{told}");
    ward.configure(&format!("{HEAD}{ARCHIVE}key = \"orders_other\"\n"));
    let (status, told) = ward.run(&["archive", "run", "orders"]);
    assert!(status != 0 && told.contains("key = \"primary\""), "{told}");
}

/// Lets the files of the only batch be of an hour ago.
fn made_an_hour_ago(ward: &Ward) {
    let documents = std::fs::read_dir(ward.path("repo/archive/orders/_stillpoint")).unwrap();
    let mut runs = documents.map(|entry| entry.unwrap().path().join("000001.0000.json"));
    let path = runs.find(|path| path.exists()).unwrap();
    let mut batch: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let made: DateTime<Utc> = serde_json::from_value(batch["made"].clone()).unwrap();
    batch["made"] = serde_json::to_value(made - TimeDelta::hours(1)).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, serde_json::to_vec_pretty(&batch).unwrap()).unwrap();
}

/// It is the file that counts, and not what its backups are called.
#[test]
fn rows_wait_for_a_verified_backup_of_their_own_file() {
    for (file, quit, left) in [("other.db", "gate", ORDERS + STAY), ("shop.db", "finished", STAY)] {
        let ward = shop();
        ward.create("other.db");
        ward.configure(&format!("{HEAD}{ARCHIVE}delete_gate = {{ verified_backup = true }}\n"));
        assert_eq!(ward.json(&["archive", "run", "orders"])["quit"], "gate", "{file}");
        made_an_hour_ago(&ward);
        let file = format!("sqlite:{file}");
        ward.ok(&["backup", &file, "--repo", "repo", "--name", "shop"]);
        assert_eq!(ward.json(&["archive", "run", "orders"])["quit"], "gate", "{file}");
        ward.ok(&["verify", "--repo", "repo"]);
        let run = ward.json(&["archive", "run", "orders"]);
        assert_eq!((&run["quit"], count(&ward, "orders")), (&quit.into(), left), "{run:#}");
    }
}

/// Rows are deleted on the strength of two copies: what becomes of either is told.
#[test]
fn second_copies_are_verified_and_brought_again() {
    let ward = shop();
    let second = "repository.second.url = \"second\"\n";
    let gate = "delete_gate = { second_copy = \"second\" }\n";
    let archive = ARCHIVE.replace("[archive.orders]", "repository = \"primary\"\n[archive.orders]");
    ward.configure(&format!("{HEAD}{second}{archive}{gate}"));
    ward.ok(&["init", "--repo", "second", "--no-encryption"]);
    let verify = ["archive", "verify", "orders"];
    assert_eq!(ward.json(&["archive", "run", "orders"])["quit"], "finished");
    let told = ward.json(&verify);
    assert_eq!(told["second"]["repository"], "second", "{told:#}");
    assert_eq!(told["rows"], 2 * ORDERS, "{told:#}");
    assert_eq!(told["second"]["rows"], 2 * ORDERS, "{told:#}");

    let mut folders = vec![ward.path("second/archive/orders")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_file = path.extension().is_some_and(|extension| extension == "parquet");
            if path.is_dir() {
                folders.push(path);
            } else if is_file {
                files.push(path);
            }
        }
    }
    assert_eq!(files.len(), 2, "{files:?}");
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        std::fs::remove_file(file).unwrap();
        std::fs::write(file, &bytes[..100]).unwrap();
    }
    let (status, told) = ward.run(&verify);
    assert!(status != 0 && told.contains("DAMAGED"), "{status}: {told}");
    assert!(told.contains("in second, run") && !told.contains("in primary"), "{told}");

    std::fs::remove_dir_all(ward.path("second/archive")).unwrap();
    let (status, told) = ward.run(&verify);
    assert!(status != 0 && told.contains("the second copy of a batch"), "{status}: {told}");
    assert!(told.contains("stillpoint archive run orders"), "{told}");
    assert_eq!(ward.json(&["archive", "run", "orders"])["quit"], "nothing-selected");
    assert_eq!(ward.json(&verify)["second"]["rows"], 2 * ORDERS);

    // What keeps the second place from being looked at does not keep the first one from it.
    std::fs::rename(ward.path("second"), ward.path("away")).unwrap();
    let (status, told) = ward.run(&verify);
    assert!(status != 0 && told.contains("in second, the set"), "{status}: {told}");
    assert!(told.contains("2,000 rows"), "{told}");
}

/// The file is what is free, and what becomes shorter: pages that no table has are in none of them.
#[test]
fn space_of_a_file_is_told_for_all_of_it() {
    for incremental in [false, true] {
        let ward = shop();
        let shop = Connection::open(ward.path("shop.db")).unwrap();
        let mode = if incremental { "INCREMENTAL" } else { "NONE" };
        // The mode is that of a file that is written anew, which one with a WAL is not.
        shop.execute_batch(&format!(
            "PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = {mode}; VACUUM;
             UPDATE orders SET customer = hex(zeroblob(2000)); PRAGMA journal_mode = WAL"
        ))
        .unwrap();
        drop(shop);
        let length = || std::fs::metadata(ward.path("shop.db")).unwrap().len();
        let full = length();
        assert!(full > 2_000_000, "{full}");
        ward.ok(&["archive", "run", "orders"]);

        let told = ward.json(&["archive", "reclaim", "orders"]);
        let number = |told: &Value, key: &str| told["file"][key].as_u64().unwrap();
        assert!(number(&told, "reusable_bytes") > full / 10 * 9, "{told:#}");
        assert_eq!(number(&told, "returned_bytes"), 0, "{told:#}");
        let vacuum = ["archive", "reclaim", "orders", "--method", "vacuum"];
        let told = ward.json(&vacuum);
        let (returned, left) = (number(&told, "returned_bytes"), number(&told, "after_bytes"));
        if incremental {
            assert_eq!(left, length(), "{told:#}");
            assert!(returned > full / 10 * 9, "{told:#}");
            assert_eq!(number(&told, "reusable_bytes"), 0, "{told:#}");
        } else {
            assert_eq!(returned, 0, "{told:#}");
            assert!(number(&told, "reusable_bytes") > full / 10 * 9, "{told:#}");
        }
        assert!(ward.ok(&vacuum).contains("the whole file"));
    }
}

#[test]
fn what_cannot_be_archived_is_refused_with_what_would_change_it() {
    let ward = shop();
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    shop.execute_batch("DROP INDEX items_order").unwrap();
    let (status, told) = ward.run(&["archive", "run", "orders"]);
    assert!(status == 5 && told.contains("SP0900") && told.contains("CREATE INDEX"), "{told}");
    assert_eq!((count(&ward, "orders"), count(&ward, "items")), (ORDERS + STAY, ORDERS + STAY));
    let (status, told) = ward.run(&["archive", "plan", "orders"]);
    assert!(status == 5 && told.contains("CREATE INDEX"), "{told}");
    let (status, told) = ward.run(&["archive", "run", "nothing"]);
    assert!(status == 6 && told.contains("SP0901") && told.contains("orders"), "{told}");
    for (wrong, code) in [
        ("created_at < :cutoff) or (1", "SP09"),
        ("created_at < datetime('now')", "SP09"),
        ("id in (select order_id from items)", "SP09"),
    ] {
        let config = ARCHIVE.replace("created_at < :cutoff and state = 'closed'", wrong);
        ward.configure(&format!("{HEAD}{config}"));
        let (status, told) = ward.run(&["archive", "run", "orders"]);
        assert!(matches!(status, 2 | 5) && told.contains(code), "{wrong}: {status} {told}");
    }
    assert_eq!(count(&ward, "orders"), ORDERS + STAY);
}

#[test]
fn what_is_configured_wrongly_is_told_all_at_once() {
    let wrong = ARCHIVE
        .replace("database = \"shop\"", "database = \"shpo\"")
        .replace("cutoff = \"now - 24 months\"\n", "")
        .replace("slice_rows = 50", "slice_rows = 0\nto = \"nowhere\"");
    let ward = Ward::new(&format!("{HEAD}{wrong}"));
    let (status, told) = ward.run(&["config", "check"]);
    assert_eq!(status, 3, "{told}");
    for said in ["shpo", ":cutoff", "nowhere", "from 1 to 50000"] {
        assert!(told.contains(said), "{said}: {told}");
    }
}

/// Kills the program as soon as it says that it has taken a step, each step once; whatever is
/// killed, the next run goes on, and in the end each row is where it belongs.
#[test]
fn i1_the_program_is_killed_at_each_step_that_it_names() {
    let ward = shop();
    let all = 2 * (ORDERS + STAY);
    let mut number = 0;
    loop {
        let mut command = ward.command(&["archive", "run", "orders"]);
        command.env("STILLPOINT_LOG", "stillpoint::cli::archiver=debug");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut steps = lines.filter(|line| line.contains("step="));
        let is_there = steps.nth(number).is_some();
        if is_there {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        let live = count(&ward, "orders") + count(&ward, "items");
        assert_eq!(live + noted(&ward), all, "killed at step {number}");
        if !is_there {
            assert!(status.success(), "{status}");
            break;
        }
        number += 3;
    }
    assert!(number > 9, "{number}");
    assert_eq!((count(&ward, "orders"), count(&ward, "items")), (STAY, STAY));
    let mut ids: Vec<u64> =
        scan(&ward, &["scan", "orders"]).iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=ORDERS).collect::<Vec<_>>());
    ward.ok(&["archive", "verify", "orders", "--against-ledger"]);
}

/// Killed amid a restore, nothing is back; the next one puts all of it back.
#[test]
fn a_restore_that_is_killed_puts_nothing_back() {
    let ward = shop();
    ward.ok(&["archive", "run", "orders"]);
    let restore = ["archive", "restore", "orders", "--all"];
    let mut were_killed = 0;
    for number in 0..2 {
        let mut command = ward.command(&restore);
        command.env("STILLPOINT_LOG", "stillpoint::archiver::put_back=debug");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut files = lines.filter(|line| line.contains("rows of a file are put back"));
        assert!(files.nth(number).is_some(), "file {number}");
        child.kill().unwrap();
        child.wait().unwrap();
        let found = (count(&ward, "orders") - STAY, count(&ward, "items") - STAY);
        let all = (ORDERS, ORDERS);
        // What is killed behind its commit is back.
        assert!(found == (0, 0) || found == all, "{found:?}");
        if found == (0, 0) {
            were_killed += 1;
            continue;
        }
        let shop = Connection::open(ward.path("shop.db")).unwrap();
        let empty = "DELETE FROM items WHERE order_id <= 1000; DELETE FROM orders WHERE id <= 1000";
        shop.execute_batch(empty).unwrap();
    }
    assert!(were_killed > 0, "each kill was late");
    assert_eq!(ward.json(&restore)["inserted"].as_u64(), Some(2 * ORDERS));
}

/// How many rows the ledger says are archived.
fn noted(ward: &Ward) -> u64 {
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    let sum = "SELECT coalesce(sum(rows), 0) FROM stillpoint_archive_ledger";
    // Before the first run, there is no ledger.
    let noted: i64 = shop.query_row(sum, [], |row| row.get(0)).unwrap_or_default();
    noted.cast_unsigned()
}

#[test]
fn those_that_serve_begin_a_run_when_its_time_has_come() {
    let ward = shop();
    // Its newest time is past, and no run was begun since.
    let config = format!("{HEAD}{ARCHIVE}schedule = \"0 0 1 1 *\"\n");
    ward.configure(&config);
    let serving = ward.serve();
    ward.wait_until("the orders", || count(&ward, "orders") == STAY && noted(&ward) == 2 * ORDERS);
    ward.wait_until("the end", || ward.said().contains("archive.ended"));
    let runs = ward.json(&["archive", "ls", "orders"]);
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs:#}");
    assert!(ward.ok(&["audit", "log"]).contains("archive.ended"));
    assert_eq!(ward.said().matches("archive.started").count(), 1);
    assert_eq!(serving.stop(), 143);
}

#[test]
fn rows_make_way_for_backups_that_wait_for_room() {
    let ward = shop();
    // At its own pace it takes for days, and the only room meanwhile.
    let slow = "schedule = \"0 0 1 1 *\"\nthrottle = { dead_tuples_per_hour = 10 }\n";
    let config = format!("{HEAD}[coordinator]\nrunning = 1\n{ARCHIVE}{slow}");
    ward.configure(&config);
    let serving = ward.serve();
    ward.wait_until("the run", || ward.said().contains("archive.started"));
    ward.create("app.db");
    ward.configure(&format!("{config}[database.app]\nendpoint = \"sqlite:app.db\"\n"));
    ward.ok(&["apply"]);
    ward.wait_for_backups("app", 1);
    let jobs = ward.json(&["jobs", "list", "--count", "100"])["jobs"].clone();
    let of_set = |job: &&Value| job["kind"] == "archive orders";
    let ended = jobs.as_array().unwrap().iter().find(of_set).unwrap();
    assert_eq!(ended["outcome"], "deferred", "{jobs:#}");
    assert!(ended["reason"].as_str().unwrap().contains("backups waited"), "{jobs:#}");
    assert_eq!(serving.stop(), 143);
}

#[test]
fn a_set_whose_run_fails_for_a_day_is_a_ticket_until_it_succeeds() {
    let ward = shop();
    let route = "[[alert]]\nname = \"file\"\nwhen = [\"archive-overdue\"]\n\
        to = [{ exec = [\"sh\", \"-c\", \"cat >> told; echo >> told\"] }]\n";
    let good = format!("{HEAD}{ARCHIVE}schedule = \"0 0 1 1 *\"\n{route}");
    // Items that go with the orders are not listed.
    let bad = good.replace("children = [{ table = \"items\" }]\n", "");
    ward.configure(&bad);
    let told = || std::fs::read_to_string(ward.path("told")).unwrap_or_default();
    let serving = ward.serve();
    ward.wait_until("a failure", || ward.said().contains("archive.failed"));
    assert_eq!(serving.stop(), 143);
    assert_eq!(told(), "", "it may wait for a day");
    let status = ward.json(&["status"]);
    assert!(!status.to_string().contains("archive-overdue"), "{status:#}");

    // As if it had been queued, and had failed, when it was due.
    let state = Connection::open(ward.path("state/stillpoint/state.db")).unwrap();
    let earlier = "UPDATE job SET id = '01B0000000' || substr(id, 11), ended = due
        WHERE kind = 'archive orders'";
    assert_eq!(state.execute(earlier, []).unwrap(), 1);
    drop(state);
    let serving = ward.serve();
    ward.wait_until("a ticket", || told().contains("archive-overdue"));
    assert_eq!(serving.stop(), 143);
    let first: Value = serde_json::from_str(told().lines().next().unwrap()).unwrap();
    assert_eq!(first["urgency"], "ticket", "{first:#}");
    let what = first["alerts"][0]["what"].as_str().unwrap();
    assert!(what.contains("archive set orders is due since") && what.contains("items"), "{what}");
    let status = ward.json(&["status"]);
    assert_eq!(status["databases"][0]["alerts"][0]["class"], "archive-overdue", "{status:#}");

    ward.configure(&good);
    ward.ok(&["apply"]);
    let state = Connection::open(ward.path("state/stillpoint/state.db")).unwrap();
    state.execute("UPDATE job SET ended = due WHERE kind = 'archive orders'", []).unwrap();
    drop(state);
    let serving = ward.serve();
    ward.wait_until("word that it is over", || told().contains("\"resolved\""));
    assert_eq!(count(&ward, "orders"), STAY);
    assert_eq!(serving.stop(), 143);
}
