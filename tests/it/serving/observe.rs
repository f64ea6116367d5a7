//! Row 43: what is only observed is watched and told, and nothing is written for it.

use std::{fs, path::Path, thread::sleep, time::Duration};

use serde_json::Value;

use super::ward::Ward;

const CONFIG: &str = r#"version = 1
timezone = "UTC"
repository.primary.url = "repo"
repository.other.url = "other"
repository.dr.url = "dr"
[policy.watched]
mode = "MODE"
rpo = "4s"
full = "* * * * *"
pitr_window = "1s"
keep = { last = 1 }
floor = 1
[[policy.watched.copy]]
name = "dr"
to = "dr"
[policy.calm]
rpo = "2d"
logs = "never"
[database.app]
endpoint = "sqlite:app.db"
policy = "watched"
repository = "primary"
[database.single]
endpoint = "sqlite:single.db"
policy = "calm"
mode = "observe"
repository = "primary"
[database.kept]
endpoint = "sqlite:kept.db"
policy = "calm"
repository = "other"
"#;

/// Every file below a folder, with what it holds.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
            found.push((path.display().to_string(), Vec::new()));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn raised(ward: &Ward) -> bool {
    let log = ward.json(&["audit", "log", "--count", "1000"]);
    let is_it = |line: &Value| line["action"] == "alert.raised" && line["subject"] == "app";
    log["lines"].as_array().unwrap().iter().any(is_it)
}

/// Row 43.
#[test]
fn row_43_what_is_observed_is_told_and_nothing_is_written_for_it() {
    let ward = Ward::new(&CONFIG.replace("MODE", "observe"));
    for name in ["app", "single", "kept"] {
        drop(ward.create(&format!("{name}.db")));
    }
    ward.ok(&["init", "--no-encryption", "--repo", "repo"]);
    // Somebody else makes backups; all but the newest would go.
    for _ in 0..3 {
        ward.ok(&["backup", "sqlite:app.db", "--name", "app", "--repo", "repo"]);
    }
    ward.ok(&["verify", "--repo", "repo"]);
    sleep(Duration::from_secs(2));
    let before = contents(&ward.path("repo"));
    let database = fs::read(ward.path("app.db")).unwrap();

    // From then on, what is not observed may expire.
    ward.ok(&["apply"]);
    let serving = ward.serve();
    ward.wait_until("an alert", || raised(&ward));
    // What is not observed is backed up meanwhile, into another repository.
    ward.wait_until("a backup", || {
        ward.jobs("kept").iter().any(|job| job["outcome"] == "succeeded")
    });
    // A full backup is due each minute.
    sleep(Duration::from_secs(62));
    let status = ward.status("app");
    assert_eq!((&status["state"], &status["rpo"]), (&"observe".into(), &"breached".into()));
    assert_eq!(status["alerts"][0]["class"], "rpo-breached", "{status:#}");
    assert_eq!(ward.status("single")["state"], "observe");
    assert!(ward.ok(&["status"]).contains("nothing is written for it"));
    let explained = ward.json(&["explain", "schedule", "app"]);
    assert_eq!(explained["kinds"][0]["why"], "observe", "{explained:#}");
    for name in ["app", "single", "repository primary", "repository dr"] {
        assert_eq!(ward.jobs(name), Vec::<Value>::new(), "{name}");
    }
    assert!(!ward.said().contains("capture.started"), "{}", ward.said());
    ward.ok(&["expire"]);
    ward.ok(&["copy", "run"]);
    assert_eq!(contents(&ward.path("repo")), before);
    assert!(!ward.path("dr").exists(), "nothing is made for copies");
    assert_eq!(fs::read(ward.path("app.db")).unwrap(), database);

    // Once it is to be protected, it is.
    ward.configure(&CONFIG.replace("MODE", "protect"));
    ward.ok(&["apply", "--accept-expire"]);
    ward.wait_until("a job", || ward.jobs("app").iter().any(|job| job["kind"] == "full"));
    ward.wait_until("a capture", || ward.said().contains("capture.started"));
    assert_eq!(serving.stop(), 143);
    assert_ne!(contents(&ward.path("repo")), before);
}

/// Row 43: nothing is made where there is no repository yet, and somebody is told all the same.
#[test]
fn row_43_no_repository_is_made_for_what_is_observed() {
    let only = CONFIG.replace("MODE", "observe");
    let ward = Ward::new(only.split("[database.kept]").next().unwrap());
    drop((ward.create("app.db"), ward.create("single.db")));
    let serving = ward.serve();
    ward.wait_until("that it serves", || {
        ward.said().contains("repository.unopened") || ward.said().contains("serve.started")
    });
    sleep(Duration::from_secs(3));
    assert_eq!(ward.status("app")["rpo"], "unknown");
    assert!(!ward.path("repo").exists() && !ward.path("dr").exists());
    assert_eq!(serving.stop(), 143, "{}", ward.said());
}
