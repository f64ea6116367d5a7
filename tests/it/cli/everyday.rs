//! What people do every day.

use stillpoint::world::SystemClock;
use stillpoint_contract::Clock as _;

use super::bench::{Bench, PASSPHRASE, Ran, contents, files_below};

/// The commands that the documentation shows, word by word.
#[test]
fn the_documented_commands_protect_a_database_and_bring_back_a_moment() {
    let bench = Bench::new();
    let application = bench.create("app.db");
    let run = |words: &[&str]| {
        let mut command = bench.command(words);
        command.env_remove("STILLPOINT_REPO");
        let ran = Ran::of(command);
        assert_eq!(ran.status, 0, "{}{}", ran.out, ran.err);
        ran
    };
    run(&["init", "--repo", "repo"]);
    run(&["backup", "sqlite:app.db", "--repo", "repo"]);
    let stream = bench.stream();
    bench.wait_until_capturing();

    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    let moment = SystemClock::new().now();
    std::thread::sleep(std::time::Duration::from_millis(500));
    application.execute("DELETE FROM t", []).unwrap();
    let after = SystemClock::new().now();
    bench.wait_until("capture of the deletion", || captured_until(&bench) >= after);

    let at = moment.with_timezone(&chrono_tz::Europe::Berlin).format("%Y-%m-%d %H:%M:%S%.f");
    run(&["restore", "app.db", "--repo", "repo", "--at", &at.to_string(), "--to", "restored.db"]);
    assert_eq!(bench.rows("restored.db"), 11);
    run(&["restore", "app.db", "--repo", "repo", "--to", "newest.db"]);
    assert_eq!(bench.rows("newest.db"), 0);
    assert_eq!(stream.stop(), 0);
}

fn captured_until(bench: &Bench) -> chrono::DateTime<chrono::Utc> {
    let answer = bench.json(&["logs", "status", "app.db"]);
    answer["databases"][0]["restorable_to"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_backup_is_named_after_its_file_or_as_told() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    bench.ok(&["backup", "sqlite:app.db", "--name", "shop/orders"]);
    let list = bench.json(&["list"]);
    let names: Vec<_> =
        list["databases"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["app.db", "shop/orders"]);
    bench.ok(&["restore", "shop/orders", "--to", "back.db"]);
    assert_eq!(bench.rows("back.db"), 10);
}

#[test]
fn paths_may_hold_spaces_and_every_letter() {
    let bench = Bench::new();
    let repo = "Sicherung für Übung";
    bench.ok(&["init", "--repo", repo]);
    bench.create("größe & preis 数.db");
    bench.ok(&["backup", "sqlite:größe & preis 数.db", "--repo", repo]);
    bench.ok(&["restore", "größe & preis 数.db", "--repo", repo, "--to", "zurück 数.db"]);
    assert_eq!(bench.rows("zurück 数.db"), 10);
    assert!(bench.ok(&["list", "--repo", repo]).out.contains("größe & preis 数.db"));
}

#[test]
fn two_backups_at_the_same_time_both_succeed() {
    let bench = Bench::with_database();
    bench.create("other.db");
    let spawn = |url: &str| bench.command(&["backup", url, "-q"]).spawn().unwrap();
    let both = [spawn("sqlite:app.db"), spawn("sqlite:other.db")];
    for mut child in both {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(bench.json(&["list"])["backups"].as_array().unwrap().len(), 2);
    bench.ok(&["verify"]);
}

#[test]
fn an_existing_file_is_replaced_only_when_forced() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    std::fs::write(bench.path("precious"), "mine").unwrap();
    let ran = bench.refused(&["restore", "app.db", "--to", "precious"], "SP0702", 5);
    assert!(ran.err.contains("--force"), "{}", ran.err);
    assert_eq!(std::fs::read(bench.path("precious")).unwrap(), b"mine");
    bench.ok(&["restore", "app.db", "--to", "precious", "--force"]);
    assert_eq!(bench.rows("precious"), 10);
}

#[test]
fn a_partial_copy_tells_which_backups_it_holds_whole() {
    let bench = Bench::with_database();
    let other = bench.create("other.db");
    other
        .execute_batch("CREATE TABLE other (n); INSERT INTO other VALUES (randomblob(9999));")
        .unwrap();
    let whole = bench.json(&["backup", "sqlite:app.db"])["backup"]["id"].clone();
    let packs = files_below(&bench.path("repo/packs"));
    let broken = bench.json(&["backup", "sqlite:other.db"])["backup"]["id"].clone();
    bench.ok(&["check", "--files-only", "repo"]);
    bench.ok(&["check", "--max-age", "1h"]);
    assert_eq!(bench.run(&["check", "--max-age", "0s"]).status, 7);

    let second = files_below(&bench.path("repo/packs")).into_iter().find(|p| !packs.contains(p));
    std::fs::remove_file(second.unwrap()).unwrap();
    let mut command = bench.command(&["check", "--files-only", "repo", "-o", "json"]);
    command.env_remove("STILLPOINT_PASSPHRASE_FILE");
    let ran = Ran::of(command);
    assert_eq!(ran.status, 8, "{}{}", ran.out, ran.err);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let backups = answer["backups"].as_array().unwrap();
    let complete = |id: &serde_json::Value| {
        let found = backups.iter().find(|found| found["backup"]["id"] == *id).unwrap();
        found["complete"].as_bool().unwrap()
    };
    assert!(complete(&whole) && !complete(&broken), "{}", ran.out);
    bench.ok(&["restore", "app.db", "--to", "back.db"]);
}

#[test]
fn a_half_copied_manifest_or_pack_list_costs_its_own_backup_only() {
    let bench = Bench::with_database();
    let whole = bench.json(&["backup", "sqlite:app.db"])["backup"]["id"].clone();
    rusqlite::Connection::open(bench.path("app.db"))
        .unwrap()
        .execute("INSERT INTO t DEFAULT VALUES", [])
        .unwrap();
    let broken = bench.json(&["backup", "sqlite:app.db"])["backup"]["id"].clone();
    let lists: Vec<_> = files_below(&bench.path("repo/snap"))
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(broken.as_str().unwrap()))
        .collect();
    assert_eq!(lists.len(), 2, "{lists:?}");
    for path in lists {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let ran = bench.run(&["check", "--files-only", "repo", "-o", "json"]);
        assert_eq!(ran.status, 8, "{}{}", ran.out, ran.err);
        let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        for found in answer["backups"].as_array().unwrap() {
            let id = &found["backup"]["id"];
            assert_eq!(found["complete"], *id == whole, "{} {}", path.display(), ran.out);
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    bench.ok(&["check", "--files-only", "repo"]);
}

#[test]
fn the_log_of_a_database_that_was_given_up_goes() {
    let bench = Bench::with_database();
    let id = bench.json(&["backup", "sqlite:app.db"])["backup"]["id"].clone();
    let application = rusqlite::Connection::open(bench.path("app.db")).unwrap();
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    bench.ok(&["logs", "stream", "sqlite:app.db", "--stop-at-eof"]);
    let segments = || files_below(&bench.path("repo/streams")).len();
    let collect = ["repo", "gc", "--grace", "0s", "--orphan-age", "0s"];
    bench.ok(&collect);
    assert!(segments() > 0, "what a backup leads into stays");
    bench.ok(&["forget", id.as_str().unwrap(), "--force"]);
    bench.ok(&collect);
    assert_eq!(segments(), 0);
    bench.ok(&["check"]);
}

#[test]
fn damage_is_found_and_named() {
    let bench = Bench::with_database();
    let id = bench.json(&["backup", "sqlite:app.db"])["backup"]["id"].clone();
    bench.ok(&["verify"]);
    for path in files_below(&bench.path("repo/packs")) {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    for words in [&["verify"][..], &["verify", "--keyless"]] {
        let ran = bench.run(words);
        assert_eq!(ran.status, 9, "{}{}", ran.out, ran.err);
        assert!(
            ran.out.contains("damaged") && ran.out.contains(id.as_str().unwrap()),
            "{}",
            ran.out
        );
    }
    assert_eq!(bench.run(&["restore", "app.db", "--to", "back.db"]).status, 9);
    assert!(!bench.path("back.db").exists());
}

#[test]
fn keys_are_added_and_removed_and_a_recovery_key_opens() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let printed = bench.ok(&["repo", "key", "export", "--recovery"]).out;
    let key = printed.lines().find(|line| line.matches('-').count() >= 6).unwrap().trim();
    std::fs::write(bench.path("paper"), key).unwrap();
    bench.ok(&["repo", "key", "export", "--new-key-file", "key"]);
    assert_eq!(bench.json(&["repo", "key", "list"])["keys"].as_array().unwrap().len(), 3);

    let open = |words: &[&str]| {
        let mut command = bench.command(&[words, &["verify"]].concat());
        command.env_remove("STILLPOINT_PASSPHRASE_FILE");
        Ran::of(command).status
    };
    assert_eq!(open(&["--recovery-key-file", "paper"]), 0);
    assert_eq!(open(&["--key-file", "key"]), 0);

    let keys = bench.json(&["repo", "key", "list"]);
    let slot = |kind: &str| {
        let keys = keys["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["opened_by"] == kind).unwrap();
        key["slot"].as_str().unwrap().to_owned()
    };
    bench.ok(&["repo", "key", "remove", &slot("key file")]);
    assert_eq!(open(&["--key-file", "key"]), 4);
    assert_eq!(open(&["--recovery-key-file", "paper"]), 0);
}

#[test]
fn no_secret_is_ever_written_or_said() {
    let bench = Bench::with_database();
    let mut said = String::new();
    for words in [
        &["backup", "sqlite:app.db", "-vv"][..],
        &["list", "-vv"],
        &["verify", "-vv"],
        &["check", "-vv"],
        &["repo", "key", "list", "-vv"],
        &["repo", "stats", "-o", "json"],
        &["restore", "app.db", "--to", "x.db", "-vv"],
    ] {
        let ran = bench.run(words);
        said += &(ran.out + &ran.err);
    }
    assert!(!said.contains("battery staple"), "{said}");
    let stored = [contents(&bench.path("repo")), contents(&bench.path("state"))].concat();
    let secret = PASSPHRASE.as_bytes();
    assert!(!stored.windows(secret.len()).any(|window| window == secret));
}

#[test]
fn a_repository_that_was_set_back_is_noticed() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let log = newest_log_entry(&bench);
    bench.ok(&["backup", "sqlite:app.db"]);
    let newest = newest_log_entry(&bench);
    assert_ne!(log, newest);
    std::fs::remove_file(newest).unwrap();
    let ran = bench.run(&["list"]);
    assert_ne!(ran.status, 0, "{}", ran.out);
    assert!(ran.err.contains("SP0206") && ran.err.contains("rm /"), "{}", ran.err);
}

fn newest_log_entry(bench: &Bench) -> std::path::PathBuf {
    files_below(&bench.path("repo/log")).pop().unwrap()
}
