//! What goes wrong beside the databases: the state, a secret, a pack, a move.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;

use super::ward::{HEAD, Ward, fill, rows};
use crate::copies::yard::{DR, PLACES, copy, grow, prove, yard};

const QUIET: &str = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n";

fn block(name: &str) -> String {
    format!("[database.{name}]\nendpoint = \"sqlite:{name}.db\"\n")
}

fn is_done(ward: &Ward, name: &str) -> bool {
    ward.jobs(name).iter().any(|job| job["kind"] == "full" && job["outcome"] == "succeeded")
}

#[test]
fn a_state_database_that_stands_still_for_a_while_holds_nobody_up_for_ever() {
    let names: Vec<String> = (0..8).map(|n| format!("app{n}")).collect();
    let blocks: String = names.iter().map(|name| block(name)).collect();
    let ward = Ward::new(&format!("{HEAD}{QUIET}{blocks}"));
    for name in &names {
        let connection = ward.create(&format!("{name}.db"));
        fill(&connection, 9_000);
    }
    let serving = ward.serve();
    ward.wait_until("a job", || !ward.jobs("app0").is_empty());
    let state = Connection::open(ward.path("state/stillpoint/state.db")).unwrap();
    for _ in 0..4 {
        state.busy_timeout(Duration::from_secs(10)).unwrap();
        state.execute_batch("BEGIN IMMEDIATE").unwrap();
        sleep(Duration::from_millis(2500));
        state.execute_batch("ROLLBACK").unwrap();
        sleep(Duration::from_millis(50));
    }
    ward.wait_until("all backups", || names.iter().all(|name| is_done(&ward, name)));
    assert_eq!(serving.stop(), 143);
}

/// Losing the state database loses no backup: what there is of it is in the repository.
#[test]
fn a_state_database_that_is_lost_is_filled_again_from_the_repositories() {
    let ward = Ward::new(&format!("{HEAD}{QUIET}{}{}", block("app"), block("old")));
    for name in ["app", "old"] {
        drop(ward.create(&format!("{name}.db")));
    }
    let serving = ward.serve();
    for name in ["app", "old"] {
        ward.wait_for_backups(name, 1);
        ward.wait_until("its job", || is_done(&ward, name));
    }
    assert_eq!(serving.stop(), 143);
    fs::remove_dir_all(ward.path("state")).unwrap();
    ward.configure(&format!("{HEAD}{QUIET}{}", block("app")));
    let rebuilt = ward.json(&["catalog", "rebuild"]);
    let rows = rebuilt["databases"].as_array().unwrap();
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!((&of("app")["backups"], &of("app")["configured"]), (&1.into(), &true.into()));
    assert_eq!((&of("old")["backups"], &of("old")["configured"]), (&1.into(), &false.into()));
    assert!(of("app")["restorable_to"].is_string());
    assert!(ward.ok(&["audit", "log"]).contains("catalog.rebuilt"));
    // Nothing is backed up once more because of it.
    let serving = ward.serve();
    ward.wait_until("it serves", || ward.said().matches("serve.started").count() >= 2);
    sleep(Duration::from_secs(3));
    assert_eq!(ward.status("app")["backups"], 1);
    assert_eq!(serving.stop(), 143);
    fs::rename(ward.path("repo"), ward.path("away")).unwrap();
    let (status, told) = ward.run(&["catalog", "rebuild"]);
    assert_eq!(status, 4, "{told}");
}

/// A due time that was served elsewhere is not served here.
#[test]
fn a_database_that_moves_to_another_repository_gets_its_first_backup_there() {
    let two = "[repository.second]\nurl = \"second\"\n";
    let of = |repository: &str| {
        format!("{HEAD}{two}{QUIET}{}repository = \"{repository}\"\n", block("app"))
    };
    let ward = Ward::new(&of("primary"));
    let application = ward.create("app.db");
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.configure(&of("second"));
    let plan = ward.run(&["plan"]).1;
    assert!(plan.contains("stay there"), "{plan}");
    ward.ok(&["apply"]);
    ward.wait_until("a backup there", || {
        let (status, told) = ward.run(&["list", "app", "--repo", "second", "-o", "json"]);
        let told: Value = serde_json::from_str(&told).unwrap_or_default();
        status == 0 && told["backups"].as_array().is_some_and(|backups| backups.len() == 1)
    });
    ward.wait_for_backups("app", 1);
    serving.stop();
    let to = ward.path("moved.db");
    ward.ok(&["restore", "app", "--repo", "second", "--to", to.to_str().unwrap()]);
    assert_eq!(rows(&Connection::open(&to).unwrap()), rows(&application));
}

#[test]
fn one_missing_secret_keeps_nobody_else_from_being_backed_up() {
    let secret = "password = { file = \"secret\" }\n";
    let ward = Ward::new(&format!("{HEAD}{QUIET}{}{secret}{}", block("one"), block("two")));
    ward.create("one.db");
    ward.create("two.db");
    let serving = ward.serve();
    ward.wait_for_backups("two", 1);
    ward.create("three.db");
    let three = block("three");
    ward.configure(&format!("{HEAD}{QUIET}{}{secret}{}{three}", block("one"), block("two")));
    ward.ok(&["apply"]);
    ward.wait_for_backups("three", 1);
    assert!(ward.said().contains("database.unreachable"), "{}", ward.said());
    let one = ward.status("one");
    assert_eq!(one["backups"], 0);
    assert!(one["trouble"].as_str().unwrap().contains("secret"), "{one}");
    fs::write(ward.path("secret"), "hunter2\n").unwrap();
    // It is read again within half a minute; what failed is tried again later, or at once when
    // somebody says so.
    ward.wait_until("the third", || {
        retry(&ward, "one");
        ward.status("one")["backups"] == 1
    });
    assert!(!ward.said().contains("hunter2"));
    serving.stop();
}

/// Says that what failed last is to be tried again now.
fn retry(ward: &Ward, name: &str) {
    let newest = ward.jobs(name).into_iter().next();
    if let Some(failed) = newest.filter(|job| job["outcome"] == "failed") {
        ward.run(&["jobs", "retry", failed["id"].as_str().unwrap()]);
    }
}

/// Row 65: what was read back and is damaged is not a point, and the next backup does not lean on
/// it.
#[test]
fn row_65_a_damaged_backup_is_told_and_the_next_one_is_whole() {
    let ward = Ward::new(&format!(
        "{HEAD}[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\n\
        incremental = \"* * * * *\"\n{}",
        block("app")
    ));
    let application = ward.create("app.db");
    fill(&application, 2_000);
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    ward.wait_until("its proof", || is_done(&ward, "app"));
    serving.kill();
    let pack = largest(&ward.path("repo/packs"));
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut permissions = fs::metadata(&pack).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "it is a test's file")]
    permissions.set_readonly(false);
    fs::set_permissions(&pack, permissions).unwrap();
    fs::write(&pack, bytes).unwrap();
    let serving = ward.serve();
    ward.wait_until("that it is found", || {
        ward.jobs("app")
            .iter()
            .any(|job| job["reason"].as_str().is_some_and(|reason| reason.contains("damaged")))
    });
    assert_eq!(ward.run(&["status", "--fail"]).0, 7);
    ward.wait_until("a whole one", || {
        retry(&ward, "app");
        ward.jobs("app")[0]["outcome"] == "succeeded"
    });
    serving.stop();
    assert_eq!(ward.restored_rows("app"), rows(&application));
}

/// Row 65: a page that was damaged before it was copied makes its backup suspect once a drill has
/// found it, however well its bytes are read back; it goes to no copy, and lends the next one none.
#[test]
fn row_65_a_backup_of_a_damaged_page_is_suspect_and_goes_nowhere() {
    let (ward, application) = yard(PLACES, "", &format!("{DR}when = \"verified\"\n"));
    grow(&application, 200);
    drop(application);
    flip(&ward.path("app.db"));
    let bad = prove(&ward, &[]);
    let explained = || ward.json(&["explain", "retention", "app"])["backups"][0].clone();
    // Its bytes are those that were stored: nobody knows yet.
    assert_eq!(explained()["proof"], "verified");
    let (status, told) = ward.run(&["drill", "run", "app", "--repo", "repo"]);
    assert_eq!(status, 12, "{told}");
    for _ in 0..2 {
        let found = explained();
        assert_eq!(found["proof"], "suspect", "{found}");
        let problem = found["problem"].as_str().unwrap();
        assert!(problem.contains("found damage: files: "), "{problem}");
        ward.ok(&["verify", &bad, "--repo", "repo"]);
    }
    let told = ward.ok(&["explain", "retention", "app"]);
    assert!(told.contains(&format!("suspect: backup {bad}: drill ")), "{told}");
    let list = ward.json(&["list", "app", "--repo", "repo"]);
    assert_eq!(list["backups"][0]["proof"], "suspect", "{list}");
    let told = ward.ok(&["list", "app", "--repo", "repo"]);
    assert!(told.contains(&format!("backup {bad} of app is suspect: drill ")), "{told}");

    let there = || {
        let list = ward.json(&["list", "--repo", "dr"])["backups"].clone();
        let list = list.as_array().unwrap().iter().map(|backup| backup["id"].clone());
        list.collect::<Vec<_>>()
    };
    let (status, told) = ward.run(&["copy", "run"]);
    assert_eq!(status, 9, "{told}");
    assert!(told.contains(&format!("held back: backup {bad}: it is damaged")), "{told}");
    assert!(there().is_empty());
    let copies = ward.json(&["copy", "list"]);
    let held = &copies["copies"][0]["held_back"][0];
    assert_eq!((&held["backup"], &held["why"]), (&bad.as_str().into(), &"suspect".into()));
    assert!(held["problem"].as_str().unwrap().contains("found damage"), "{copies}");

    // Once the page is whole again, so is the next backup, which keeps none of the one in doubt.
    flip(&ward.path("app.db"));
    let good = prove(&ward, &[]);
    ward.ok(&["drill", "run", "app", "--repo", "repo"]);
    ward.run(&["copy", "run"]);
    assert_eq!(there(), [Value::from(good)]);
}

/// Row 65: what a copy took before anybody knew stays there, and nothing is brought back because of
/// it, from one side or the other: no stored byte is wrong.
#[test]
fn row_65_damage_of_the_source_is_no_damage_of_what_is_stored() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 200);
    drop(application);
    flip(&ward.path("app.db"));
    let bad = prove(&ward, &[]);
    assert_eq!(copy(&ward)["backups"], serde_json::json!([bad]));
    for place in ["repo", "dr"] {
        let (status, told) = ward.run(&["drill", "run", "app", "--repo", place]);
        assert_eq!(status, 12, "{told}");
        let list = ward.json(&["list", "app", "--repo", place]);
        assert_eq!(list["backups"][0]["proof"], "suspect", "{list}");
        let ran = copy(&ward);
        for what in ["backups", "mended", "repaired", "problems", "held_back"] {
            assert_eq!(ran[what], serde_json::json!([]), "{what}: {ran}");
        }
        assert_eq!((&ran["sent_objects"], &ran["waiting_since"]), (&0.into(), &Value::Null));
    }
}

/// Row 65: a copy that took a backup before anybody knew learns what a drill of the original found,
/// with the evidence; a restore from there warns as one from the original does.
#[test]
fn row_65_a_doubt_follows_its_backup_into_copies() {
    let (ward, application) = yard(PLACES, "", DR);
    grow(&application, 200);
    drop(application);
    flip(&ward.path("app.db"));
    let bad = prove(&ward, &[]);
    assert_eq!(copy(&ward)["backups"], serde_json::json!([bad]));
    let proof = |place: &str| {
        let list = ward.json(&["list", "app", "--repo", place]);
        list["backups"][0]["proof"].as_str().unwrap().to_owned()
    };
    let (status, told) = ward.run(&["drill", "run", "app", "--repo", "repo"]);
    assert_eq!(status, 12, "{told}");
    assert_eq!((&*proof("repo"), &*proof("dr")), ("suspect", "verified"));
    let drill = ward.json(&["drill", "list", "--repo", "repo"])["drills"][0]["id"].clone();
    // Told once, however often it is copied.
    for _ in 0..2 {
        let ran = copy(&ward);
        assert_eq!(ran["backups"], serde_json::json!([]), "{ran}");
        assert_eq!(proof("dr"), "suspect");
        let drills = ward.json(&["drill", "list", "--repo", "dr"])["drills"].clone();
        assert_eq!(
            drills.as_array().unwrap().iter().map(|d| &d["id"]).collect::<Vec<_>>(),
            [&drill]
        );
    }
    let shown = ward.json(&["drill", "show", drill.as_str().unwrap(), "--repo", "dr"]);
    assert_eq!(shown["passed"], false, "{shown}");
    ward.ok(&["report", "verify", "--repo", "dr"]);
    for from in ["primary", "dr"] {
        let plan = ward.json(&["restore", "app", "--from", from, "--to", "x.db", "--plan"]);
        let warning = plan["warnings"][0].as_str().unwrap();
        assert!(warning.contains(&format!("backup {bad} is suspect: drill ")), "{from}: {plan}");
    }
    // What is given up in the original stays in the copy, and so does what is known of it.
    ward.ok(&["forget", &bad, "--force", "--repo", "repo"]);
    copy(&ward);
    assert_eq!(proof("dr"), "suspect");
}

/// Flips the kind of a page in the middle of a database that nobody has open: a leaf of a table.
fn flip(database: &Path) {
    let mut bytes = fs::read(database).unwrap();
    let page = bytes.len() / 4096 / 2 * 4096;
    assert!([0x0d, !0x0d].contains(&bytes[page]), "another page lies there");
    bytes[page] = !bytes[page];
    fs::write(database, bytes).unwrap();
}

fn largest(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn who_is_put_back_with_less_is_asked_first() {
    let long = "[policy.default]\nlogs = \"never\"\nrpo = \"2d\"\nkeep = { daily = 3000 }\n";
    let ward = Ward::new(&format!("{HEAD}{long}{}{}", block("app"), block("other")));
    ward.create("app.db");
    ward.create("other.db");
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    serving.stop();
    ward.configure(&format!("{HEAD}{long}{}", block("other")));
    ward.ok(&["apply"]);
    let short = "[policy.short]\nkeep = { daily = 3 }\n";
    let back = format!("{HEAD}{long}{short}{}policy = \"short\"\n{}", block("app"), block("other"));
    ward.configure(&back);
    let (status, told) = ward.run(&["apply"]);
    assert_eq!(status, 5, "{told}");
    ward.ok(&["apply", "--accept-expire"]);
    assert_eq!(ward.status("app")["state"], "active");
}

/// A lost state and an edited file together must not expire what was promised.
#[test]
fn with_a_new_state_nothing_expires_before_somebody_applies() {
    let ward = Ward::new(&format!("{HEAD}{QUIET}{}", block("app")));
    ward.create("app.db");
    let serving = ward.serve();
    ward.wait_for_backups("app", 1);
    serving.stop();
    fs::remove_dir_all(ward.path("state/stillpoint")).unwrap();
    let waits = |ward: &Ward| {
        let jobs = ward.json(&["jobs", "list", "--count", "100"])["jobs"].clone();
        let upkeep = jobs.as_array().unwrap().iter().find(|job| job["kind"] == "upkeep").cloned();
        let reason = upkeep.map(|job| job["reason"].clone()).unwrap_or_default();
        reason.as_str().map(|reason| reason.contains("nothing expires"))
    };
    let serving = ward.serve();
    ward.wait_until("the upkeep", || waits(&ward).is_some());
    assert_eq!(waits(&ward), Some(true), "{}", ward.said());
    serving.stop();
    assert_eq!(ward.run(&["plan"]).0, 0);
    ward.ok(&["apply"]);
}
