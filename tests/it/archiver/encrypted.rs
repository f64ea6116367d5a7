//! Archive sets in encrypted repositories, by the program: what is configured, told and refused.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;

use rusqlite::Connection;
use serde_json::Value;

use crate::serving::ward::{HEAD, Ward};

const KEY: &str = "repository.primary.encryption = { key = { file = \"key\" } }\n";

const ARCHIVE: &str = r#"
[database.shop]
endpoint = "sqlite:shop.db"
[archive.orders]
database = "shop"
root = "orders"
where = "state = 'closed'"
format = "jsonl"
"#;

const RETENTION: &str =
    "retention = { basis = \"subject.closed_at\", keep = \"7y\", subject = \"customer_id\" }\n";

/// An encrypted repository, and a shop with orders of three customers.
fn shop(rest: &str) -> Ward {
    let ward = Ward::new(&format!("{HEAD}{KEY}{ARCHIVE}{rest}"));
    fs::write(ward.path("key"), format!("stillpoint key file 1\n{}\n", "5a".repeat(32))).unwrap();
    ward.ok(&["init", "--repo", "repo", "--key-file", "key"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let table = "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, state TEXT)";
    shop.execute_batch(table).unwrap();
    fill(&ward, 30);
    ward
}

fn fill(ward: &Ward, orders: u32) {
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO orders (customer_id, state) SELECT 40 + i % 3, 'closed' FROM n";
    shop.execute(fill, [orders]).unwrap();
}

fn archived(ward: &Ward) -> usize {
    let output = ward.command(&["archive", "scan", "orders"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().count()
}

/// What is in the file of the only batch.
fn stored(ward: &Ward) -> Vec<u8> {
    let shown = ward.json(&["archive", "show", "orders"]);
    let key = shown["batches"][0]["files"][0]["key"].as_str().unwrap().to_owned();
    fs::read(ward.path("repo").join(key)).unwrap()
}

fn run(ward: &Ward) -> Value {
    ward.json(&["archive", "run", "orders"])
}

#[test]
fn files_in_an_encrypted_repository_are_encrypted_unless_somebody_says_otherwise() {
    let ward = shop("");
    assert_eq!(run(&ward)["pruned_rows"].as_u64(), Some(30));
    assert!(stored(&ward).starts_with(b"STLPROWS"));
    assert_eq!(archived(&ward), 30);
    let shown = ward.json(&["archive", "show", "orders"]);
    assert_eq!(shown["batches"][0]["files"][0]["encrypted"], true, "{shown:#}");
    let verified = ward.json(&["archive", "verify", "orders"]);
    assert_eq!(verified["undecrypted_files"].as_u64(), Some(0), "{verified:#}");
    let (status, told) = ward.run(&["archive", "publish", "orders"]);
    assert!(status == 5 && told.contains("SP0910") && told.contains("archive scan"), "{told}");

    // Without the key, bytes are verified, and rows are not read.
    ward.configure(&format!("{HEAD}{ARCHIVE}"));
    let verified = ward.json(&["archive", "verify", "orders"]);
    assert_eq!(verified["undecrypted_files"].as_u64(), Some(1), "{verified:#}");
    let (status, told) = ward.run(&["archive", "scan", "orders"]);
    assert!(status == 3 && told.contains("SP0211"), "{told}");

    // Files that are written from then on are plain; those before are still read.
    ward.configure(&format!("{HEAD}{KEY}{ARCHIVE}encryption = \"none\"\n"));
    fill(&ward, 6);
    assert_eq!(run(&ward)["pruned_rows"].as_u64(), Some(6));
    assert_eq!(archived(&ward), 36);
    assert!(stored(&ward).starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "a frame of Zstandard");
    let erased = ward.json(&[
        "archive",
        "erase",
        "orders",
        "--subject",
        "customer_id=41",
        "--reason",
        "Art. 17",
    ]);
    assert_eq!(erased["erased_rows"].as_u64(), Some(12), "{erased:#}");
    assert_eq!(erased["destroyed_keys"].as_u64(), Some(1), "{erased:#}");
    assert_eq!(archived(&ward), 24);
}

#[test]
fn what_cannot_be_encrypted_is_refused() {
    let ward = shop("");
    ward.ok(&["init", "--repo", "other", "--no-encryption"]);
    ward.configure(&format!("{HEAD}{KEY}{ARCHIVE}encryption = \"parquet-modular\"\n"));
    let (status, told) = ward.run(&["config", "check"]);
    assert!(status == 3 && told.contains("key that can be destroyed"), "{told}");
    let archive = ARCHIVE.replace("[archive", "repository = \"primary\"\n[archive");
    let config =
        |rest: &str| format!("{HEAD}{KEY}repository.other.url = \"other\"\n{archive}{rest}\n");
    for (rest, said) in [
        ("to = \"other\"\nencryption = \"repo\"", "not encrypted"),
        ("delete_gate = { second_copy = \"other\" }", "second_copy"),
    ] {
        ward.configure(&config(rest));
        let (status, told) = ward.run(&["archive", "run", "orders"]);
        assert!(status == 5 && told.contains("SP0910") && told.contains(said), "{told}");
    }
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    let count = shop.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, u32>(0));
    assert_eq!(count.unwrap(), 30);
}

#[test]
fn rows_of_a_subject_go_so_long_after_what_happened() {
    let ward = shop(RETENTION);
    run(&ward);
    let event = |customer: &str, at: &str| {
        let subject = format!("customer_id={customer}");
        ward.json(&["archive", "event", "add", "orders", "--subject", &subject, "--at", at])
    };
    let made = event("41", "2019-01-31");
    assert_eq!(made["events"][0]["event"], "closed_at", "{made:#}");
    event("42", "2990-01-31");
    let would = ward.json(&["archive", "expire", "orders", "--dry-run"]);
    assert_eq!(would["batches"][0]["rows"].as_u64(), Some(10), "{would:#}");
    assert_eq!(archived(&ward), 30);
    let listed = ward.json(&["archive", "event", "ls", "orders"]);
    assert_eq!(listed["events"].as_array().unwrap().len(), 2, "{listed:#}");
    let did = ward.json(&["archive", "expire", "orders"]);
    assert_eq!(
        (did["batches"][0]["rows"].as_u64(), did["destroyed_keys"].as_u64()),
        (Some(10), Some(1))
    );
    assert_eq!(archived(&ward), 20);
    ward.ok(&["archive", "verify", "orders", "--against-ledger"]);
    let id = listed["events"][1]["id"].as_str().unwrap();
    ward.ok(&["archive", "event", "withdraw", "orders", id, "--reason", "mistyped"]);
    let (status, told) = ward.run(&[
        "archive",
        "event",
        "add",
        "orders",
        "--subject",
        "state=closed",
        "--at",
        "2019-01-31",
    ]);
    assert!(status == 2 && told.contains("customer_id"), "{told}");
}

#[test]
fn how_long_rows_are_kept_is_said_once_and_completely() {
    let ward = shop("");
    for (wrong, said) in [
        ("keep = \"7y\"\nretention = { keep = \"7y\" }", "twice"),
        ("retention = { basis = \"subject.closed_at\", keep = \"7y\" }", "whose event"),
        ("retention = { keep = \"7y\", subject = \"customer_id\" }", "no event"),
        ("retention = { basis = \"closed_at\", keep = \"7y\" }", "event of a subject"),
        ("retention = { basis = \"archived\" }", "keep"),
    ] {
        ward.configure(&format!("{HEAD}{KEY}{ARCHIVE}{wrong}\n"));
        let (status, told) = ward.run(&["config", "check"]);
        assert!(status == 3 && told.contains(said), "{wrong}: {told}");
    }
    for fine in ["keep = \"7y\"", "retention = { keep = \"7y\" }", RETENTION] {
        ward.configure(&format!("{HEAD}{KEY}{ARCHIVE}{fine}\n"));
        ward.ok(&["config", "check"]);
    }
    ward.configure(&format!("{HEAD}{KEY}{ARCHIVE}retention = {{ keep = \"7y\" }}\n"));
    run(&ward);
    let shown = ward.json(&["archive", "show", "orders"]);
    let key = shown["batches"][0]["files"][0]["key"].as_str().unwrap();
    assert!(key.contains("expire=20") && !key.contains("expire=open"), "{key}");
}
