//! Whoever has to know is told once, and nobody is told of what is no danger.

use std::{fs, os::unix::fs::PermissionsExt as _, thread::sleep, time::Duration};

use serde_json::Value;

use super::ward::{HEAD, Ward};

/// What the program of an alert was given, one notice in a line.
fn notices(ward: &Ward) -> Vec<Value> {
    let text = fs::read_to_string(ward.path("notices")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ward() -> Ward {
    let here = "here";
    let ward = Ward::new("");
    let program = ward.path("pager");
    let notices = ward.path("notices").display().to_string();
    fs::write(&program, format!("#!/bin/sh\ncat >> {notices}\necho >> {notices}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let alert = format!(
        "[[alert]]\nname = \"{here}\"\nwhen = [\"rpo-breached\"]\nto = [{{ exec = [\"{}\"] }}]\n",
        program.display()
    );
    let policy = "[policy.default]\nrpo = \"15s\"\nincremental = \"@daily\"\n";
    let database = "[database.app]\nendpoint = \"sqlite:app.db\"\n";
    ward.configure(&format!("{HEAD}{policy}{database}{alert}"));
    ward
}

/// Row 9b: a database that silently stops being backed up pages exactly once, with its cause, and
/// once more when it is over; also over a restart.
#[test]
fn row_9b_the_only_endpoint_is_lost_and_somebody_is_told_once() {
    let ward = ward();
    drop(ward.create("app.db"));
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    // At rest, it keeps its promise: nothing new is nothing lost.
    sleep(Duration::from_secs(25));
    assert_eq!(notices(&ward), Vec::<Value>::new(), "{}", ward.said());

    let files = ["app.db", "app.db-wal", "app.db-shm"];
    for file in files {
        drop(fs::rename(ward.path(file), ward.path(&format!("gone-{file}"))));
    }
    ward.wait_until("a page", || !notices(&ward).is_empty());
    sleep(Duration::from_secs(6));
    serving.kill();
    let serving = ward.serve();
    sleep(Duration::from_secs(40));
    let told = notices(&ward);
    assert_eq!(told.len(), 1, "{told:#?}\n{}", ward.said());
    let page = &told[0];
    assert_eq!((&page["kind"], &page["urgency"]), (&"raised".into(), &"page".into()));
    assert_eq!(page["alerts"][0]["class"], "rpo-breached");
    assert_eq!(page["alerts"][0]["database"], "app");
    assert!(page["cause"].as_str().is_some_and(|cause| cause.contains("log")), "{page}");

    for file in files {
        drop(fs::rename(ward.path(&format!("gone-{file}")), ward.path(file)));
    }
    ward.wait_until("that it is over", || notices(&ward).len() > 1);
    sleep(Duration::from_secs(6));
    let told = notices(&ward);
    assert_eq!(told.len(), 2, "{told:#?}\n{}", ward.said());
    assert_eq!(told[1]["kind"], "resolved");
    serving.stop();
}
