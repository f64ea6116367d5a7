//! Answers in JSON: their form is a promise.

use serde_json::Value;

use super::{bench::Bench, golden::assert_shape};

#[test]
fn every_answer_has_the_form_that_was_promised() {
    let bench = Bench::new();
    assert_shape("init", &bench.json(&["init"]));
    bench.create("app.db");
    assert_shape("list-empty", &bench.json(&["list"]));
    let backup = bench.json(&["backup", "sqlite:app.db"]);
    assert_shape("backup", &backup);
    let id = backup["backup"]["id"].as_str().unwrap();
    assert_shape("list", &bench.json(&["list"]));
    assert_shape("show", &bench.json(&["show", id]));
    assert_shape("timeline", &bench.json(&["timeline", "app.db"]));
    assert_shape("logs-status", &bench.json(&["logs", "status"]));
    let restored = bench.json(&["restore", "app.db", "--to", "back.db", "--plan"]);
    assert_shape("restore-plan", &restored);
    assert_shape("restore", &bench.json(&["restore", "app.db", "--to", "back.db"]));
    assert_shape("verify", &bench.json(&["verify"]));
    assert_shape("verify-keyless", &bench.json(&["verify", "--keyless"]));
    assert_shape("check", &bench.json(&["check"]));
    assert_shape("check-files-only", &bench.json(&["check", "--files-only"]));
    assert_shape("repo-stats", &bench.json(&["repo", "stats"]));
    assert_shape("repo-check", &bench.json(&["repo", "check"]));
    assert_shape("repo-gc", &bench.json(&["repo", "gc"]));
    assert_shape("repo-key-list", &bench.json(&["repo", "key", "list"]));
    assert_shape("repo-key-export", &bench.json(&["repo", "key", "export", "--recovery"]));
    std::fs::write(bench.path("new.txt"), "another long passphrase\n").unwrap();
    let words = ["repo", "key", "add", "--new-passphrase-file", "new.txt"];
    let added = bench.json(&words);
    assert_shape("repo-key-add", &added);
    let slot = added["key"]["slot"].as_str().unwrap();
    assert_shape("repo-key-remove", &bench.json(&["repo", "key", "remove", slot]));
    bench.ok(&["backup", "sqlite:app.db"]);
    assert_shape("timeline-gap", &bench.json(&["timeline", "app.db"]));
    assert_shape("forget-dry-run", &bench.json(&["forget", id, "--dry-run"]));
    assert_shape("forget", &bench.json(&["forget", id]));
}

#[test]
fn a_capture_answers_with_one_line_for_each_event() {
    let bench = Bench::with_database();
    let streaming = bench.stream_with(&["--output", "json"]);
    bench.wait_until_capturing();
    let connection = rusqlite::Connection::open(bench.path("app.db")).unwrap();
    connection.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let said = || std::fs::read_to_string(bench.path("stream.log")).unwrap();
    bench.wait_until("a stored commit", || said().contains("\"event\":\"stored\""));
    assert_eq!(streaming.stop(), 0);
    let events: Vec<Value> =
        said().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        assert_shape(&format!("logs-stream-{}", event["event"].as_str().unwrap()), event);
    }
    assert_eq!(events.first().unwrap()["event"], "started");
    assert!(events.iter().any(|event| event["event"] == "stored"));
    assert_eq!(events.last().unwrap()["event"], "stopped");
}

#[test]
fn a_failure_has_the_form_that_was_promised() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let words = ["restore", "app.db", "--at", "2001-02-03 04:05:06", "--to", "x.db"];
    let ran = bench.run(&[&words[..], &["--output", "json"]].concat());
    assert_eq!((ran.status, ran.out.as_str()), (6, ""));
    assert_shape("error", &serde_json::from_str(&ran.err).unwrap());
}
