//! A machine that was lost with all that was on it, save the repository.

use std::{fs, path::Path, process::Command};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, types::Value};
use stillpoint::world::SystemClock;
use stillpoint_contract::Clock as _;

use super::ward::{HEAD, Ward, rows};

const PASSPHRASE: &str = "correct horse battery staple\n";

const REST: &str = "repository.primary.encryption = { passphrase = { file = \"pass.txt\" } }\n\
    [policy.default]\nlogs = \"stream\"\nrpo = \"2d\"\n\
    [database.\"shop/orders\"]\nendpoint = \"sqlite:orders.db\"\n";

/// Values of every class of SQLite.
const FILL: &str = "CREATE TABLE v (n INTEGER PRIMARY KEY, a ANY, b TEXT, c BLOB, d REAL) STRICT;";

/// A hash over the values of all rows and their classes.
fn row_hash(database: &Connection) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut statement = database.prepare("SELECT n, a, b, c, d FROM v ORDER BY n").unwrap();
    let mut found = statement.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        for column in 0..5 {
            let value: Value = row.get(column).unwrap();
            hasher.update(format!("{value:?};").as_bytes());
        }
    }
    hasher.finalize()
}

fn insert(database: &Connection, count: u32) {
    let insert = format!(
        "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {count})
         INSERT INTO v (a, b, c, d)
         SELECT CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN i ELSE 'ü' || i END,
             hex(randomblob(9)), randomblob(i % 70), i / 7.0 FROM i"
    );
    database.execute_batch(&insert).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Restores on a machine that knows nothing but the repository's place and its passphrase.
fn restore_anew(machine: &Path, repository: &Path) -> Connection {
    let home = machine.join("home");
    for folder in [&home, &machine.join("new")] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(machine.join("secret"), PASSPHRASE).unwrap();
    let restored = Command::new(env!("CARGO_BIN_EXE_stillpoint"))
        .args(["restore", "shop/orders", "--to", "new/orders.db", "--repo"])
        .arg(repository)
        .current_dir(machine)
        .env_clear()
        .env("HOME", &home)
        .env("STILLPOINT_PASSPHRASE_FILE", "secret")
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    Connection::open(machine.join("new/orders.db")).unwrap()
}

#[test]
fn row_31_a_repository_and_its_key_are_all_that_a_new_machine_needs() {
    let ward = Ward::new(&format!("{HEAD}{REST}"));
    fs::write(ward.path("pass.txt"), PASSPHRASE).unwrap();
    let application = ward.create("orders.db");
    application.execute_batch(FILL).unwrap();
    insert(&application, 500);
    let serving = ward.serve();
    ward.wait_for_backups("shop/orders", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    // What only the log has.
    insert(&application, 77);
    application.execute("DELETE FROM v WHERE n % 10 = 0", []).unwrap();
    let after = SystemClock::new().now();
    ward.wait_until("capture of what came last", || {
        let status = ward.status("shop/orders");
        let until: Option<DateTime<Utc>> =
            status["restorable_to"].as_str().and_then(|at| at.parse().ok());
        until.is_some_and(|until| until >= after)
    });
    assert_eq!(serving.stop(), 143);
    let (hash, count) = (row_hash(&application), rows(&application));
    drop(application);

    // The machine is lost; somebody mounts its repository elsewhere.
    let machine = tempfile::Builder::new().prefix("machine-").tempdir().unwrap();
    let kept = tempfile::Builder::new().prefix("kept-").tempdir().unwrap();
    let moved = kept.path().join("mounted here");
    fs::rename(ward.path("repo"), &moved).unwrap();
    let lost = ward.path("");
    assert!(names(&lost).iter().any(|name| name == "state"), "there was state to lose");
    drop(ward);
    assert!(!lost.exists());

    let restored = restore_anew(machine.path(), &moved);
    assert_eq!(row_hash(&restored), hash);
    assert_eq!(rows(&restored), count);
    let check: String = restored.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
