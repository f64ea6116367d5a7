//! A server that says that it is another one: another incarnation, a question, or an error.

use std::fs;

use super::quay::{
    Balancer, CALM, FILES, SQLITE, ended, endpoint, register_file, server, sql, wait_for_endpoint,
    ward,
};
use crate::serving::ward::{HEAD, Ward};

/// Row 27: behind a load balancer, another server answers amid a backup. It fails with what was
/// found, and nothing is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_27_a_backend_that_flips_amid_a_backup_is_an_identity_error_and_no_backup() {
    let (Some(blue), Some(green)) = (server(), server()) else { return };
    let fill = "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) AS text
        FROM generate_series(1, 30000) AS n";
    sql(&blue, fill).await;
    let balancer = Balancer::before(blue.port());
    let never = format!("{CALM}logs = \"never\"\n");
    let database = format!(
        "[database.shop]\nendpoint = \"postgres://postgres@{}/postgres?method=sql\"\n",
        balancer.address
    );
    let ward = Ward::new(&format!("{HEAD}{never}{database}"));
    let serving = ward.serve();
    ward.wait_until("the backup", || balancer.is_busy());
    balancer.flip(green.port());
    ward.wait_until("its end", || ended(&ward, "shop", "failed") > 0);
    let jobs = ward.jobs("shop");
    let failed = jobs.iter().rev().find(|job| job["outcome"] == "failed").unwrap();
    let reason = failed["reason"].as_str().unwrap();
    // Found by a new connection of the copy, or by the last look before the commit.
    let is_found = |words: [&str; 2]| words.iter().all(|word| reason.contains(word));
    let is_found = is_found(["expected", "found"]) || is_found(["at the begin", "at the end"]);
    assert!(is_found, "{reason}");
    let listed = ward.run(&["list", "shop", "--repo", "repo", "-o", "json"]).1;
    assert!(!listed.contains("\"id\""), "{listed}");
    serving.stop();
}

/// With `lifecycle = "fixed"`, another server is refused until somebody says that it is right.
#[test]
fn a_fixed_database_asks_before_another_incarnation_begins() {
    let rule = format!("{SQLITE}lifecycle = \"fixed\"\n");
    let ward = ward(&format!("{CALM}{FILES}{rule}"));
    drop(ward.create("blue.db"));
    drop(ward.create("green.db"));
    let serving = ward.serve();
    assert_eq!(ward.run(&["db", "adopt", "shop", "--new-incarnation"]).0, 6);
    register_file(&ward, "blue", "blue.db", "shop");
    ward.wait_for_backups("shop", 1);
    assert_eq!(ward.run(&["db", "adopt", "shop"]).0, 2);
    // In the very same place, another one.
    for file in ["green.db", "green.db-wal", "green.db-shm"] {
        let to = ward.path(&file.replace("green", "blue"));
        drop(fs::rename(ward.path(file), to));
    }
    register_file(&ward, "green", "blue.db", "shop");
    wait_for_endpoint(&ward, "shop", "green");
    ward.wait_until("a question", || {
        ward.status("shop")["trouble"].to_string().contains("db adopt shop --new-incarnation")
    });
    assert_eq!(ward.status("shop")["backups"], 1);
    ward.ok(&["db", "adopt", "shop", "--new-incarnation"]);
    ward.wait_for_backups("shop", 2);
    ward.wait_until("its log", || ward.status("shop")["trouble"].is_null());
    assert!(endpoint(&ward, "green")["identity"].is_string());
    serving.stop();
}

/// All of a database goes only when it is retired, by its name, and when nothing of it is held.
#[test]
fn a_database_is_forgotten_by_its_name_and_not_while_it_is_held() {
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    let ward = Ward::new(&format!("{HEAD}{CALM}{database}"));
    drop(ward.create("app.db"));
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    let forget = |confirm: &str| ward.run(&["db", "forget", "app", "--confirm", confirm]);
    assert_eq!(forget("app").0, 5, "it is active");
    ward.ok(&["db", "retire", "app"]);
    assert_eq!(forget("ap").0, 5);
    ward.ok(&["hold", "add", "app", "--case", "LEG-1", "--from", "2020-01-01", "--repo", "repo"]);
    let (status, told) = forget("app");
    assert_eq!(status, 5, "{told}");
    assert_eq!(ward.status("app")["backups"], 1);
    let holds = ward.json(&["hold", "list", "--repo", "repo"]);
    let hold = holds["holds"][0]["id"].as_str().unwrap();
    ward.ok(&["hold", "release", hold, "--reason", "settled", "--repo", "repo"]);
    let (status, told) = forget("app");
    assert_eq!((status, told.contains("forgotten backups: 1")), (0, true), "{told}");
    assert_eq!(ward.status("app")["backups"], 0);
    assert!(ward.ok(&["audit", "log"]).contains("database.forgotten"));
    serving.stop();
}
