//! What commands tell of what they did is so: numbers of rows, why a run stopped, what there is.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use rusqlite::Connection;
use serde_json::Value;

use crate::serving::ward::{HEAD, Ward};

const ARCHIVE: &str = "[database.shop]\nendpoint = \"sqlite:shop.db\"\nrepository = \"primary\"\n\
    [archive.orders]\ndatabase = \"shop\"\nroot = \"orders\"\nwhere = \"state = 'closed'\"\n\
    slice_rows = 10\n";

/// A hundred orders of four customers, and a second place for their files.
fn shop(rest: &str) -> Ward {
    let second = "repository.second.url = \"second\"\n";
    let ward = Ward::new(&format!("{HEAD}{second}{ARCHIVE}{rest}"));
    for repository in ["repo", "second"] {
        ward.ok(&["init", "--repo", repository, "--no-encryption"]);
    }
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    shop.pragma_update(None, "journal_mode", "WAL").unwrap();
    let fill = "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, state TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
        INSERT INTO orders SELECT i, i % 4, 'closed' FROM n";
    shop.execute_batch(fill).unwrap();
    ward
}

/// Rows of the set, those in second copies, and those that are held.
fn numbers(told: &Value) -> [Option<u64>; 3] {
    ["erased_rows", "copied_rows", "held_rows"].map(|key| told[key].as_u64())
}

#[test]
fn rows_that_are_erased_are_counted_once_whatever_copies_there_are() {
    let ward = shop("delete_gate = { second_copy = \"second\" }\n");
    assert_eq!(ward.json(&["archive", "run", "orders"])["pruned_rows"].as_u64(), Some(100));
    let hold = ["archive", "hold", "add", "orders", "--case", "LEG-1"];
    ward.ok(&[&hold[..], &["--subject", "customer_id=2"]].concat());

    let dry = |subject| ["archive", "erase", "orders", "--dry-run", "--subject", subject];
    let would = ward.json(&dry("customer_id=1"));
    assert_eq!(numbers(&would), [Some(25), Some(25), Some(0)], "{would:#}");
    let told = ward.ok(&dry("customer_id=1"));
    assert!(told.contains("25 rows would be erased"), "{told}");
    assert!(told.contains("In second copies: 25."), "{told}");
    assert!(!told.contains("removed") && !told.contains("destroyed"), "{told}");
    let would = ward.json(&dry("customer_id=2"));
    assert_eq!(numbers(&would), [Some(0), Some(0), Some(25)], "{would:#}");
    assert!(ward.ok(&dry("customer_id=2")).contains("25 rows stay until then."));

    let erase = ["archive", "erase", "orders", "--reason", "Art. 17", "--subject"];
    let did = ward.json(&[&erase[..], &["customer_id=1"]].concat());
    assert_eq!(numbers(&did), [Some(25), Some(25), Some(0)], "{did:#}");
    let verified = ward.json(&["archive", "verify", "orders"]);
    assert_eq!(verified["rows"].as_u64(), Some(75), "{verified:#}");
}

#[test]
fn a_run_that_only_read_its_rows_moved_none_of_them() {
    let ward = shop("");
    let run = ["archive", "run", "orders", "--keep-source", "--max-rows", "40"];
    let told = ward.json(&run);
    assert_eq!(told["quit"], "kept-source", "{told:#}");
    assert_eq!(told["why"], "rows are to stay in their tables", "{told:#}");
    let moved = ["exported_rows", "pruned_rows"].map(|key| told[key].as_u64());
    assert_eq!(moved, [Some(40), Some(0)], "{told:#}");
}

#[test]
fn what_becomes_of_space_has_the_methods_that_there_are() {
    let ward = shop("");
    let (status, told) = ward.run(&["archive", "reclaim", "orders", "--method", "repack"]);
    assert!(status == 2 && told.contains("none") && told.contains("vacuum"), "{status}: {told}");
    let (status, help) = ward.run(&["archive", "reclaim", "--help"]);
    assert!(status == 0 && help.contains("vacuum") && !help.contains("repack"), "{help}");
}
