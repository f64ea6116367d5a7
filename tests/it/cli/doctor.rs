//! Row 25: what a machine has to have for what the configuration asks of it.

use serde_json::Value;

use super::golden::assert_shape;
use crate::site::{Site, add};

const CONFIG: &str = r#"
version = 1
timezone = "UTC"
[repository.primary]
url = "repo"
encryption = { key = { file = "key" } }
[coordinator]
running = 1
[policy.default]
logs = "never"
rpo = "26h"
full = "0 3 * * *"
incremental = "0 3 * * *"
[database."app.db"]
endpoint = "sqlite:app.db"
"#;

const WORDS: [&str; 4] = ["doctor", "--size", "-c", "stillpoint.toml"];

/// What is needed of something.
fn need<'a>(told: &'a Value, what: &str) -> &'a Value {
    let mut needs = told["needs"].as_array().unwrap().iter();
    needs.find(|need| need["what"] == what).unwrap_or_else(|| panic!("{what} in {told:#}"))
}

#[test]
fn row_25_what_a_machine_needs_follows_from_records_and_limits() {
    let site = Site::new();
    std::fs::write(site.path("stillpoint.toml"), CONFIG).unwrap();
    let before = site.json(&WORDS);
    assert_eq!((&before["backups"], &before["jobs"]), (&0.into(), &0.into()));
    assert_eq!(before["read_bytes_per_second"], Value::Null, "nothing is measured for it");
    assert_eq!(before["unmeasured"][0], "app.db");
    // What one job takes at most, as the tests of memory hold it to.
    assert_eq!(need(&before, "memory")["needed"], 256_u64 << 20);
    assert_eq!(need(&before, "sent to repositories")["needed"], 0);
    assert!(!site.path("state/stillpoint/state.db").exists(), "who looks makes nothing");
    let text = site.ok(&WORDS).out;
    assert!(text.contains("not measured: app.db") && text.contains("nobody knows yet"), "{text}");

    let application = site.create("app.db", 2_000);
    for _ in 0..2 {
        site.ok(&["backup", "sqlite:app.db"]);
        add(&application, 500);
    }
    let told = site.json(&WORDS);
    assert_shape("doctor-size", &told);
    assert_eq!(told["backups"], 2);
    assert!(told["read_bytes_per_second"].as_u64().unwrap() > 0, "{told:#}");
    let jobs = need(&told, "jobs at once");
    assert_eq!((&jobs["needed"], &jobs["here"]), (&1.into(), &1.into()));
    assert_eq!(need(&told, "memory")["needed"], 256_u64 << 20);
    // One backup a day, of a database of more than two megabytes.
    assert!(need(&told, "read from databases")["needed"].as_u64().unwrap() > 2_000_000);
    assert!(need(&told, "sent to repositories")["needed"].as_u64().unwrap() > 400_000);
    let disk = need(&told, "disk of repository primary");
    assert!(disk["here"].as_u64().unwrap() > 0 && disk["unit"] == "bytes", "{told:#}");
    let text = site.ok(&WORDS).out;
    assert!(text.contains("By the records of 2 backups and 0 jobs, which read"), "{text}");
}

#[test]
fn row_25_captures_and_jobs_that_run_at_once_take_memory_each() {
    let site = Site::new();
    let config = CONFIG.replace("logs = \"never\"", "logs = \"stream\"");
    let config = config.replace("running = 1", "running = 3");
    let more = "[database.\"b.db\"]\nendpoint = \"sqlite:b.db\"\n";
    std::fs::write(site.path("stillpoint.toml"), format!("{config}{more}")).unwrap();
    for name in ["app.db", "b.db"] {
        site.create(name, 20);
        site.ok(&["backup", &format!("sqlite:{name}")]);
    }
    // Both are due at three.
    let told = site.json(&WORDS);
    let jobs = need(&told, "jobs at once");
    assert_eq!((&jobs["needed"], &jobs["verdict"]), (&2.into(), &"ok".into()));
    assert_eq!(need(&told, "memory")["needed"], (2 * 256 + 2 * 48_u64) << 20);
}

#[test]
fn row_25_who_says_nothing_is_told_what_to_say() {
    let site = Site::empty();
    site.fails(&["doctor"], 2, &["SP0100", "stillpoint doctor --size"]);
}
