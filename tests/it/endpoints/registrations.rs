//! Endpoints are registered by files and by hand, and what nobody asked for is told.

use std::fs;

use serde_json::json;

use super::quay::{
    CALM, FILES, SQLITE, endpoint, file, register, register_file, wait_for_endpoint,
    wait_for_state, ward,
};
use crate::cli::golden::assert_shape;

/// Row 17: a file that is moved into the directory registers an endpoint; deleted, its end is
/// expected.
#[test]
fn row_17_a_file_registers_an_endpoint_and_its_removal_ends_it() {
    let ward = ward(&format!("{CALM}{FILES}{SQLITE}"));
    drop(ward.create("blue.db"));
    let serving = ward.serve();
    register_file(&ward, "blue", "blue.db", "shop");
    // Half-written, and of another kind.
    fs::write(file(&ward, "green"), "[{\"targets\": [\"green.db\"], \"lab").unwrap();
    fs::write(ward.path("targets.d/notes"), "{").unwrap();
    wait_for_state(&ward, "blue", "active");
    ward.wait_for_backups("shop", 1);
    let status = ward.status("shop");
    assert_eq!((&status["endpoint"], &status["policy"]), (&"blue".into(), &"default".into()));
    // Commands that look at the configuration know it as well.
    assert!(ward.ok(&["config", "explain", "shop"]).contains("[[rule]] 1"));
    assert!(ward.ok(&["schedule", "next", "shop"]).contains("shop"));
    assert_eq!(ward.restored_rows("shop"), 1);

    fs::remove_file(file(&ward, "blue")).unwrap();
    wait_for_state(&ward, "blue", "gone(expected)");
    let trouble = ward.status("shop")["trouble"].to_string();
    assert!(trouble.contains("blue was taken out"), "{trouble}");
    assert_eq!(ward.status("shop")["backups"], 1);
    // What it promised holds without it.
    assert_eq!(ward.run(&["status", "--fail"]).0, 0);
    let (status, told) = ward.run(&["plan"]);
    assert_eq!(status, 0, "{told}");
    assert_eq!(serving.stop(), 143);
}

/// Row 60: an endpoint that no rule is about is shown, and fails checks.
#[test]
fn row_60_what_no_rule_is_about_is_unprotected_and_fails_checks() {
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let own = format!("[coordinator]\nmetrics = \"{metrics}\"\n");
    let ward = ward(&format!("{own}{CALM}{FILES}{SQLITE}"));
    drop(ward.create("shop.db"));
    let serving = ward.serve();
    register_file(&ward, "i-1", "shop.db", "shop");
    ward.wait_for_backups("shop", 1);
    assert_eq!(ward.run(&["status", "--fail"]).0, 0);
    assert_eq!(ward.run(&["check"]).0, 0);
    let labels = json!({ "app": "billing", "env": "prod", "database": "billing/new" });
    register(&ward, "i-2", "10.0.0.9:5432", &labels, &json!({}));
    ward.wait_until("that it is seen", || ward.run(&["status", "--fail"]).0 == 7);
    assert_shape("status-unprotected", &ward.status("billing/new"));
    assert_shape("endpoints", &ward.json(&["endpoint", "list"]));
    let told = ward.ok(&["status"]);
    let why = "UNPROTECTED: no [[rule]] matches app=billing,database=billing/new,env=prod";
    assert!(told.contains(why) && told.contains("1 unprotected"), "{told}");
    let row = ward.status("billing/new");
    assert_eq!((&row["rpo"], &row["state"]), (&"unprotected".into(), &"unprotected".into()));
    let (status, told) = ward.run(&["check"]);
    assert_eq!((status, told.contains(why)), (7, true), "{told}");
    // Somebody is told of it, during working hours.
    ward.wait_until("a ticket", || !super::quay::notices(&ward).is_empty());
    let notice = super::quay::notices(&ward).remove(0);
    assert_eq!((&notice["urgency"], &notice["kind"]), (&"ticket".into(), &"raised".into()));
    assert_eq!(notice["alerts"][0]["class"], "unprotected");
    let page = page(metrics);
    for line in [
        "stillpoint_database_protected{database=\"billing/new\"} 0",
        "stillpoint_database_protected{database=\"shop\"} 1",
        "stillpoint_endpoints{state=\"active\"} 1",
        "stillpoint_endpoints{state=\"pending\"} 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    fs::remove_file(file(&ward, "i-2")).unwrap();
    ward.wait_until("that all is well", || ward.run(&["check"]).0 == 0);
    serving.stop();
}

fn page(address: std::net::SocketAddr) -> String {
    use std::io::{Read as _, Write as _};

    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let ask = "GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_endpoint_is_registered_and_taken_back_by_hand() {
    let ward = ward(&format!("{CALM}{FILES}{SQLITE}"));
    drop(ward.create("blue.db"));
    let serving = ward.serve();
    let blue = ["endpoint", "register", "blue", "--target", "blue.db"];
    let labels = ["--label", "engine=sqlite", "--label", "app=shop"];
    assert_eq!(ward.run(&[&blue[..], &["--label", "app"]].concat()).0, 2);
    let words = [&blue[..], &labels[..], &["--ttl", "1h", "--pending"]].concat();
    assert_eq!(ward.json(&words)["database"], "shop");
    wait_for_state(&ward, "blue", "pending");
    ward.ok(&[&blue[..], &labels[..], &["--ttl", "1h"]].concat());
    wait_for_endpoint(&ward, "shop", "blue");
    let first = endpoint(&ward, "blue")["leased_until"].clone();
    ward.ok(&[&blue[..], &labels[..], &["--ttl", "2h"]].concat());
    assert_ne!(endpoint(&ward, "blue")["leased_until"], first);
    register_file(&ward, "green", "blue.db", "shop");
    wait_for_endpoint(&ward, "shop", "green");
    // Each is taken back by whoever registered it.
    assert_eq!(ward.run(&["endpoint", "remove", "green"]).0, 5);
    assert_eq!(ward.run(&["endpoint", "register", "green", "--target", "x"]).0, 5);
    assert_eq!(ward.run(&["endpoint", "remove", "red"]).0, 6);
    ward.ok(&["endpoint", "remove", "blue"]);
    assert_eq!(endpoint(&ward, "blue")["state"], "gone(expected)");
    let audit = ward.ok(&["audit", "log"]);
    for deed in ["endpoint.registered", "endpoint.active", "endpoint.gone"] {
        assert!(audit.contains(deed), "{audit}");
    }
    serving.stop();
}

/// A program that fails leaves what it said before; one that says less, less.
#[test]
fn a_program_prints_endpoints_and_its_failure_takes_none_out() {
    use std::os::unix::fs::PermissionsExt as _;

    let discover = "[[discover]]\nkind = \"exec\"\ncommand = [\"./discover\"]\nevery = \"1s\"\n\
        labels = { engine = \"sqlite\" }\n";
    let ward = ward(&format!("{CALM}{discover}{SQLITE}"));
    drop(ward.create("blue.db"));
    let says = |script: &str| {
        let passing = ward.path("discover.tmp");
        fs::write(&passing, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&passing, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(passing, ward.path("discover")).unwrap();
    };
    says("echo '[{\"targets\":[\"blue.db\"],\"labels\":{\"app\":\"shop\"}}]'");
    let serving = ward.serve();
    ward.wait_for_backups("shop", 1);
    says("touch asked; exit 1");
    ward.wait_until("that it failed", || ward.said().contains("it ended with a failure"));
    says("echo '[{'");
    ward.wait_until("that it broke off", || ward.said().contains("or not complete"));
    assert_eq!(endpoint(&ward, "blue.db")["state"], "active");
    says("echo '[]'");
    wait_for_state(&ward, "blue.db", "gone(expected)");
    serving.stop();
}
