//! Copying from the command line.

use std::fs;

use super::yard::{DR, PLACES, back_up, copy, grow, listed, prove, rows_in, yard};
use crate::{cli::golden::assert_shape, serving::ward::rows};

/// Row 72: the first repository is gone; the copy gives the database back, and says so.
#[test]
fn row_72_what_is_deleted_with_the_original_is_restored_from_the_copy() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 300);
    let first = prove(&ward, &[]);
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let second = prove(&ward, &[]);
    let ran = ward.json(&["copy", "run"]);
    assert_shape("copy-run", &ran);
    assert_eq!(ran["copies"][0]["backups"], serde_json::json!([first, second]));
    let list = ward.json(&["copy", "list"]);
    assert_shape("copy-list", &list);
    assert_eq!(list["copies"][0]["lag_seconds"], 0);
    assert_eq!(listed(&ward, "dr"), listed(&ward, "repo"));
    assert!(ward.ok(&["repo", "stats", "--repo", "dr"]).contains("copy "), "it is told as one");
    ward.ok(&["verify", "--repo", "dr"]);

    // Chosen, while both are there.
    let to = ward.path("chosen.db");
    let words = ["restore", "app", "--from", "dr", "--to", to.to_str().unwrap()];
    let plan = ward.json(&[&words[..], &["--plan"]].concat());
    assert!(plan["source"].as_str().unwrap().starts_with("dr ("), "{plan}");
    assert!(plan["command"].as_str().unwrap().contains("--from dr"), "{plan}");
    ward.ok(&words);
    assert_eq!(rows_in(&to, "t"), rows(&application));

    fs::rename(ward.path("repo"), ward.path("gone")).unwrap();
    let to = ward.path("back.db");
    let words = ["restore", "app", "--to", to.to_str().unwrap()];
    let plan = ward.json(&[&words[..], &["--plan"]].concat());
    let source = plan["source"].as_str().unwrap();
    assert!(source.starts_with("dr (") && source.contains("because primary"), "{plan}");
    ward.ok(&words);
    assert_eq!(rows_in(&to, "t"), rows(&application));
    ward.ok(&["restore", "app", "--backup", &first, "--to", ward.path("old").to_str().unwrap()]);
    assert_eq!(rows_in(&ward.path("old"), "t"), rows(&application) - 1);
}

/// Row 72: log travels as well: an instant between two commits is reached from the copy alone.
#[test]
fn row_72_log_is_copied_and_replayed() {
    let (ward, application) = yard(PLACES, "pitr_window = \"1d\"", DR);
    prove(&ward, &[]);
    let words = ["logs", "stream", "sqlite:app.db", "--name", "app", "--repo", "repo"];
    let mut command = ward.command(&[&words[..], &["--stop-at-eof", "--flush", "1s"]].concat());
    command.stdin(std::process::Stdio::piped());
    let said = fs::File::create(ward.path("serve.log")).unwrap();
    command.stdout(said.try_clone().unwrap()).stderr(said);
    let mut capture = command.spawn().unwrap();
    ward.wait_until("a capture", || ward.said().contains("Capturing"));
    for _ in 0..3 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    }
    let segments = || {
        let stored = walk(&ward.path("repo").join("streams"));
        u64::try_from(stored).unwrap()
    };
    ward.wait_until("a segment", || segments() > 0);
    drop(capture.stdin.take());
    assert!(capture.wait().unwrap().success());

    let ran = copy(&ward);
    assert_eq!((&ran["segments"], &ran["lacking_segments"]), (&segments().into(), &0.into()));
    fs::remove_dir_all(ward.path("repo")).unwrap();
    let to = ward.path("back.db");
    ward.ok(&["restore", "app", "--to", to.to_str().unwrap()]);
    assert_eq!(rows_in(&to, "t"), rows(&application));
    ward.ok(&["verify", "--repo", "dr"]);
}

/// Files below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

/// Row 67: the copy has the classes that were chosen, and a backup brings along whatever it is
/// made of.
#[test]
fn row_67_a_copy_has_the_chosen_classes() {
    let keep = "keep = { last = 9 }\n";
    let only = |class: &str| format!("{DR}class = [\"{class}\"]\n{keep}");
    let (ward, application) = yard(PLACES, "", &only("incremental"));
    grow(&application, 300);
    let full = prove(&ward, &["--full"]);
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let incremental = prove(&ward, &[]);
    copy(&ward);
    assert_eq!(listed(&ward, "dr"), [incremental]);
    // The same place, asked for the other class.
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    ward.configure(&text.replace("[\"incremental\"]", "[\"full\"]"));
    copy(&ward);
    assert!(listed(&ward, "dr").contains(&full));
    fs::remove_dir_all(ward.path("repo")).unwrap();
    for backup in listed(&ward, "dr") {
        let to = ward.path(&backup);
        ward.ok(&["restore", "app", "--backup", &backup, "--to", to.to_str().unwrap()]);
        assert_eq!(rows_in(&to, "big"), 300);
    }
}

/// Rows 4, 66 and 71: what the original gives up stays where it is kept for longer; only what is
/// proven goes.
#[test]
fn row_66_71_the_copy_keeps_what_the_original_gives_up() {
    let keep = "keep = { last = 1 }\npitr_window = \"1s\"";
    let (ward, application) = yard(PLACES, keep, &format!("{DR}keep = {{ last = 9 }}\n"));
    let mut made = Vec::new();
    for _ in 0..3 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        made.push(prove(&ward, &[]));
    }
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let unproven = back_up(&ward, &[]);
    let ran = copy(&ward);
    let held_back = serde_json::json!([{ "backup": unproven, "why": "unverified" }]);
    assert_eq!(ran["held_back"], held_back);
    assert_eq!(listed(&ward, "dr"), made);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    ward.ok(&["expire"]);
    ward.ok(&["forget", &unproven, "--repo", "repo"]);
    ward.ok(&["repo", "gc", "--grace", "0s", "--repo", "repo"]);
    assert_eq!(listed(&ward, "repo"), made[2..]);
    // Nothing of that travels, and nothing is brought back.
    let ran = copy(&ward);
    assert_eq!((&ran["backups"], &ran["sent_objects"]), (&serde_json::json!([]), &0.into()));
    assert_eq!(listed(&ward, "dr"), made);
    ward.ok(&["verify", "--repo", "dr"]);
    // What is given up in the copy is not brought back to it either.
    ward.ok(&["forget", &made[2], "--repo", "dr"]);
    copy(&ward);
    assert_eq!(listed(&ward, "dr"), made[..2]);
    assert_eq!(listed(&ward, "repo"), made[2..]);
}

/// Rows 4 and 71: `expire` gives up in a copy what that does not keep, and nothing in the original.
#[test]
fn row_4_71_expire_follows_the_rules_of_each_copy() {
    let keep = "keep = { last = 9 }\npitr_window = \"1s\"";
    let (ward, application) = yard(PLACES, keep, &format!("{DR}keep = {{ last = 1 }}\n"));
    let mut made = Vec::new();
    for _ in 0..3 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        made.push(prove(&ward, &[]));
        copy(&ward);
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let answer = ward.json(&["expire"]);
    let gone = |copy: serde_json::Value| {
        let of = answer["databases"].as_array().unwrap().iter();
        of.filter(|one| one["copy"] == copy).map(|one| one["gone"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((gone(serde_json::Value::Null), gone("dr".into())), (0, 2), "{answer:#}");
    assert_eq!((listed(&ward, "repo"), listed(&ward, "dr")), (made.clone(), made[2..].to_vec()));
    // What the copy has given up by its own rules does not come back to be given up again.
    assert_eq!(copy(&ward)["backups"], serde_json::json!([]));
    assert!(ward.ok(&["hold", "list"]).contains("No"), "the original is meant");
}

/// A hold pins what it is on in every copy, and its release is told as well.
#[test]
fn row_71_holds_and_events_travel() {
    let (ward, application) = yard(PLACES, "", &format!("{DR}keep = {{ last = 1 }}\n"));
    let first = prove(&ward, &[]);
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let second = prove(&ward, &[]);
    let words = ["hold", "add", "app", "--case", "LEG-7", "--backup", &first, "--repo", "repo"];
    let hold = ward.json(&words)["hold"]["id"].as_str().unwrap().to_owned();
    copy(&ward);
    // The copy keeps one, and the one that is held.
    assert_eq!(listed(&ward, "dr"), [first.clone(), second]);
    let (status, told) = ward.run(&["forget", &first, "--repo", "dr"]);
    assert_eq!(status, 5, "{told}");
    assert!(told.contains("LEG-7"), "{told}");
    ward.ok(&["hold", "release", &hold, "--reason", "settled", "--repo", "repo"]);
    copy(&ward);
    ward.ok(&["forget", &first, "--repo", "dr"]);
}

/// Rows 66 and 71: a hold counts in the copy before anything is copied again, whatever the windows
/// say; and where what is held cannot be read, nothing goes.
#[test]
fn row_66_71_a_hold_counts_before_the_copy_runs_again() {
    let policy = "keep = { last = 9 }\npitr_window = \"1s\"";
    let (ward, application) = yard(PLACES, policy, &format!("{DR}keep = {{ last = 9 }}\n"));
    let mut made = Vec::new();
    for _ in 0..2 {
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        made.push(prove(&ward, &[]));
    }
    copy(&ward);
    let now = stillpoint::world::World::real(1).clock.now();
    let other = (now + chrono::TimeDelta::days(3)).format("%a").to_string().to_uppercase();
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    let closed = format!("{DR}window = [\"{other} 08:00-09:00\"]\nkeep = {{ last = 1 }}\n");
    ward.configure(&text.replace(&format!("{DR}keep = {{ last = 9 }}\n"), &closed));
    let words = ["hold", "add", "app", "--case", "LEG-7", "--backup", &made[0], "--repo", "repo"];
    let hold = ward.json(&words)["hold"]["id"].as_str().unwrap().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let planned = ward.json(&["expire", "--dry-run"]);
    assert_eq!(planned["gone"], serde_json::json!([]), "{planned:#}");
    ward.ok(&["expire"]);
    assert_eq!(listed(&ward, "dr"), made);
    ward.ok(&["hold", "release", &hold, "--reason", "settled", "--repo", "repo"]);
    fs::rename(ward.path("repo"), ward.path("away")).unwrap();
    let (status, told) = ward.run(&["expire"]);
    assert_ne!(status, 0, "{told}");
    assert!(told.contains("what is held"), "{told}");
    assert_eq!(listed(&ward, "dr"), made);
    fs::rename(ward.path("away"), ward.path("repo")).unwrap();
    ward.ok(&["expire"]);
    assert_eq!(listed(&ward, "dr"), made[1..]);
}

#[test]
fn a_copy_takes_nothing_but_copies_and_nothing_is_copied_over_something_else() {
    let (ward, _application) = yard(PLACES, "", DR);
    prove(&ward, &[]);
    copy(&ward);
    let (status, told) = ward.run(&["backup", "sqlite:app.db", "--name", "app", "--repo", "dr"]);
    assert_eq!(status, 5, "{told}");
    assert!(told.contains("SP0207"), "{told}");
    // Another repository where the copy should be.
    fs::rename(ward.path("dr"), ward.path("away")).unwrap();
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 6, "it may not be mounted: {told}");
    ward.ok(&["init", "--no-encryption", "--repo", "dr"]);
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 5, "{told}");
    assert!(told.contains("a repository of its own"), "{told}");
}

/// A copy is opened by what opens the original, or by a key of its own; no key is needed twice.
#[test]
fn an_encrypted_copy_is_opened_by_the_key_of_the_original() {
    let (ward, application) = yard(PLACES, "", DR);
    fs::remove_dir_all(ward.path("repo")).unwrap();
    ward.ok(&["init", "--repo", "repo", "--key-file", "key"]);
    let text = fs::read_to_string(ward.path("stillpoint.toml")).unwrap();
    let primary = "[repository.primary]\nurl = \"repo\"\n\
                   encryption = { key = { exec = [\"cat\", \"key\"] } }\n";
    ward.configure(&text.replace("repository.primary.url = \"repo\"\n", primary));
    let key = ["--key-file", "key"];
    let backup = back_up(&ward, &key);
    ward.ok(&["verify", &backup, "--repo", "repo", "--key-file", "key"]);
    copy(&ward);
    ward.ok(&["verify", "--repo", "dr", "--key-file", "key"]);
    fs::remove_dir_all(ward.path("repo")).unwrap();
    let to = ward.path("back.db");
    ward.ok(&["restore", "app", "--to", to.to_str().unwrap()]);
    assert_eq!(rows_in(&to, "t"), rows(&application));
}
