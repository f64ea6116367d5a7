//! Rows 66, 83 and 84 from the command line, with a SQLite database.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{cli::golden::assert_shape, site::Site};

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

/// A site whose policy keeps the newest backup, and what `keep` says.
fn site(keep: &str) -> Site {
    let site = Site::new();
    configure(&site, keep);
    site.create("app.db", 50);
    site
}

fn configure(site: &Site, keep: &str) {
    let config = format!(
        "version = 1\ntimezone = \"Europe/Berlin\"\n\
         [repository.primary]\nurl = \"repo\"\n\
         encryption = {{ key = {{ exec = [\"sh\", \"-c\", \"cat key\"] }} }}\n\
         [policy.short]\npitr_window = \"1s\"\nfloor = 1\nkeep = {keep}\n\
         [database.\"app.db\"]\nendpoint = \"sqlite:app.db\"\npolicy = \"short\"\n\
         labels = {{ customer_id = \"4711, 12\" }}\n"
    );
    std::fs::write(site.path("stillpoint.toml"), config).unwrap();
}

const CONFIG: [&str; 2] = ["-c", "stillpoint.toml"];

fn configured(site: &Site, words: &[&str]) -> Value {
    site.json(&[words, &CONFIG[..]].concat())
}

/// Backs up, and returns the id.
fn back_up(site: &Site) -> String {
    text(&site.json(&["backup", "sqlite:app.db"])["backup"], "id").to_owned()
}

fn listed(site: &Site) -> Vec<String> {
    let list = site.json(&["list"]);
    let backups = list["backups"].as_array().unwrap().iter();
    backups.map(|backup| text(backup, "id").to_owned()).collect()
}

#[expect(clippy::disallowed_methods, reason = "the test measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// Until the window of one second has passed.
fn leave_window() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// Who keeps a backup, by word.
fn reasons(site: &Site, backup: &str) -> Vec<String> {
    let explained = configured(site, &["explain", "retention", backup]);
    let why = explained["backups"][0]["why"].as_array().unwrap().iter();
    why.map(|why| text(why, "reason").to_owned()).collect()
}

#[test]
fn row_66_83_what_is_held_stays_and_what_nothing_keeps_goes() {
    let site = site("{ last = 1 }");
    let backups = [back_up(&site), back_up(&site), back_up(&site)];
    leave_window();
    // What nobody read back stands for no other.
    let words = ["expire", "-c", "stillpoint.toml"];
    let told = site.ok(&words);
    assert!(told.err.contains("stillpoint verify --database app.db"), "{}", told.err);
    assert_eq!(listed(&site), backups);
    site.ok(&["verify"]);

    let dry = configured(&site, &["expire", "--dry-run"]);
    assert_shape("expire", &dry);
    let gone = |answer: &Value| answer["databases"][0]["gone"].as_u64().unwrap();
    assert_eq!((gone(&dry), listed(&site).len()), (2, 3));
    let id = &backups[0];
    let hold = site.json(&["hold", "add", "app.db", "--case", "LEG-2231", "--backup", &id[..20]]);
    assert_shape("hold", &hold);
    let hold = text(&hold["hold"], "id");
    assert_shape("explain-retention", &configured(&site, &["explain", "retention", "app.db"]));
    assert_eq!(reasons(&site, id), ["held"]);
    for words in [&["forget", id][..], &["forget", id, "--force"], &["forget", id, "--dry-run"]] {
        site.fails(words, 5, &["SP0709", "LEG-2231", "stillpoint hold release"]);
    }
    assert_eq!(gone(&configured(&site, &["expire"])), 1);
    assert_eq!(listed(&site), [id.clone(), backups[2].clone()]);
    assert_eq!(gone(&configured(&site, &["expire"])), 0);

    // Everything is lost but the repository and its key.
    for lost in ["state", "app.db", "stillpoint.toml"] {
        let path = site.path(lost);
        let removed = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        removed.unwrap();
    }
    configure(&site, "{ last = 1 }");
    assert_shape("holds", &site.json(&["hold", "list"]));
    assert_eq!(gone(&configured(&site, &["expire"])), 0);
    site.ok(&["restore", "app.db", "--backup", id, "--to", "restored.db"]);
    site.fails(&["hold", "release", hold], 2, &["--reason"]);
    site.ok(&["hold", "release", hold, "--reason", "settled"]);
    site.fails(&["hold", "release", hold, "--reason", "again"], 6, &["SP0710"]);
    assert_eq!(gone(&configured(&site, &["expire"])), 1);
    assert_eq!(listed(&site), [backups[2].clone()]);
    let all = site.json(&["hold", "list", "--all"]);
    assert_eq!(text(&all["holds"][0], "released_because"), "settled");
    // The last one that was verified never goes.
    assert_eq!(gone(&configured(&site, &["expire"])), 0);
    assert_eq!(reasons(&site, &backups[2]), ["window-base", "last", "floor"]);
}

#[test]
fn row_66_a_stretch_is_held_with_what_it_needs() {
    let site = site("{ last = 1 }");
    let backups = [back_up(&site), back_up(&site), back_up(&site)];
    site.ok(&["verify"]);
    leave_window();
    let list = site.json(&["list"]);
    let from = text(&list["backups"][1], "at").to_owned();
    let words = ["hold", "add", "app.db", "--case", "LEG-1", "--from", &from, "--to", &from];
    site.ok(&words);
    let expired = configured(&site, &["expire"]);
    assert_eq!(expired["databases"][0]["gone"], 1);
    assert_eq!(listed(&site), backups[1..]);
    site.fails(&["hold", "add", "app.db", "--case", "LEG-1"], 2, &["--backup", "--from"]);
    let reversed = ["hold", "add", "app.db", "--case", "x", "--from", "-1h", "--to", "-2h"];
    site.fails(&reversed, 2, &["ends before it begins"]);
    site.fails(&["hold", "add", "other", "--case", "x", "--from", "-1h"], 6, &["SP0701"]);
}

#[test]
fn row_84_seven_years_after_the_last_of_two_relationships_ended() {
    let keep = "{ last = 1, for = \"7y\", after_event = \"relationship_end\", \
                subject = \"customer_id\" }";
    let site = site(keep);
    let first = back_up(&site);
    back_up(&site);
    site.ok(&["verify"]);
    leave_window();
    let gone = || configured(&site, &["expire"])["databases"][0]["gone"].as_u64().unwrap();
    let record = |subject: &str, on: &str| {
        let words = ["event", "record", "relationship_end", "--subject", subject, "--on", on];
        site.json(&[&words[..], &["--database", "app.db"]].concat())
    };
    assert_eq!((gone(), reasons(&site, &first)), (0, vec!["event".to_owned()]), "nobody knows");
    let leap = record("4711", "2016-02-29");
    assert_shape("event", &leap);
    assert_eq!(gone(), 0, "of the other one nobody knows");
    let explained = configured(&site, &["explain", "retention", &first]);
    let says = text(&explained["backups"][0]["why"][0], "says");
    assert_eq!(says, "relationship_end of 12 is not known");
    let other = record("12", "2015-06-30");
    let explained = configured(&site, &["explain", "retention", &first]);
    assert_eq!(explained["backups"][0]["why"].as_array().unwrap().len(), 0);
    assert_eq!(text(&explained["backups"][0]["until"], "when"), "gone");
    assert_shape("events", &site.json(&["event", "list"]));
    site.ok(&["event", "withdraw", text(&other["event"], "id")]);
    site.fails(&["event", "withdraw", text(&other["event"], "id")], 6, &["SP0711"]);
    assert_eq!(gone(), 0, "it was withdrawn");
    record("12", "2015-06-30");
    assert_eq!((gone(), listed(&site).len()), (1, 1));
    let words = ["event", "record", "over", "--subject", "database", "--on", "2020-01-01"];
    site.fails(&words, 2, &["--database"]);
    site.fails(&["event", "record", "over", "--subject", "x", "--on", "2023-02-29"], 2, &["--on"]);
}

#[test]
fn row_66_databases_that_nobody_configured_are_told_and_left_alone() {
    let site = site("{ last = 1 }");
    site.create("other.db", 50);
    let own = back_up(&site);
    site.ok(&["backup", "sqlite:other.db"]);
    site.ok(&["backup", "sqlite:other.db"]);
    site.ok(&["verify"]);
    leave_window();
    let expired = configured(&site, &["expire"]);
    let unknown = &expired["unknown"][0];
    assert_eq!((text(unknown, "database"), &unknown["backups"]), ("other.db", &2.into()));
    assert_eq!(listed(&site).len(), 3);
    configured(&site, &["expire", "app.db"]);
    site.fails(&["expire", "other.db", "-c", "stillpoint.toml"], 6, &["SP0112"]);
    site.fails(&["explain", "retention", "x", "-c", "stillpoint.toml"], 6, &["SP0112"]);
    // A drill that passed is as good as a verification.
    let newer = back_up(&site);
    assert_eq!(reasons(&site, &newer), ["window", "unproven"]);
    site.ok(&["drill", "run", "app.db", "--at", "latest", "--no-mount"]);
    leave_window();
    assert_eq!(configured(&site, &["expire"])["databases"][0]["gone"], 1);
    let left = listed(&site);
    assert!(left.contains(&newer) && !left.contains(&own));
}

#[test]
fn without_a_place_the_configuration_says_where_holds_are() {
    let site = site("{ last = 1 }");
    let id = back_up(&site);
    let run = |words: &[&str], prepare: &dyn Fn(&mut std::process::Command)| {
        let mut command = site.command(&[words, &CONFIG[..]].concat());
        command.env_remove("STILLPOINT_REPO");
        prepare(&mut command);
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(told).unwrap())
    };
    let plain = |_: &mut std::process::Command| ();
    let add = ["hold", "add", "app.db", "--case", "LEG-1", "--backup", &id];
    assert_eq!(run(&add, &plain).0, 0);
    assert!(run(&["hold", "list"], &plain).1.contains("LEG-1"));
    // Where the secret does not come, that is said, and nothing of it.
    let config = std::fs::read_to_string(site.path("stillpoint.toml")).unwrap();
    let key = std::fs::read_to_string(site.path("key")).unwrap();
    let broken = "sh\", \"-c\", \"cat key; exit 1";
    for (secret, code, said) in [
        (format!("exec = [\"{broken}\"]"), 3, "ended with a failure"),
        ("exec = [\"/nowhere\"]".to_owned(), 3, "cannot be started"),
        ("env = \"NOT_SET\"".to_owned(), 3, "NOT_SET"),
        ("file = \"absent\"".to_owned(), 3, "absent"),
        ("env = \"KEY\"".to_owned(), 0, "LEG-1"),
        ("file = \"key\"".to_owned(), 0, "LEG-1"),
    ] {
        let changed = config.replace("exec = [\"sh\", \"-c\", \"cat key\"]", &secret);
        assert_ne!(changed, config);
        std::fs::write(site.path("stillpoint.toml"), changed).unwrap();
        let (status, told) = run(&["hold", "list"], &|command| {
            command.env("KEY", &key);
        });
        assert_eq!(status, code, "{secret}: {told}");
        assert!(told.contains(said), "{secret}: {told}");
        assert!(!told.contains(key.lines().nth(1).unwrap()), "{told}");
    }
    let locked = config.replace("encryption", "#encryption");
    std::fs::write(site.path("stillpoint.toml"), locked).unwrap();
    let (status, told) = run(&["hold", "list"], &plain);
    assert!(status == 3 && told.contains("[repository.primary]"), "{told}");
}

#[test]
fn row_66_a_killed_expiry_leaves_a_sound_repository() {
    let site = site("{ last = 1 }");
    let words = [&["expire"][..], &CONFIG[..]].concat();
    back_up(&site);
    // How long one takes that is left alone, while the machine is as busy as now.
    let start = now();
    site.ok(&words);
    let mut usual = start.elapsed();
    let mut killed = 0;
    for round in 0..12 {
        let newest = back_up(&site);
        site.ok(&["verify", &newest]);
        leave_window();
        let before = listed(&site);
        let mut command = site.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = command.spawn().unwrap();
        std::thread::sleep(usual * round / 12);
        running.kill().unwrap();
        if running.wait().unwrap().code().is_none() {
            killed += 1;
        } else {
            usual /= 2;
        }
        let after = listed(&site);
        let expected = vec![newest.clone()];
        assert!(after == before || after == expected, "{before:?} {after:?}");
        site.ok(&["restore", "app.db", "--backup", &newest, "--to", &format!("{round}.db")]);
    }
    assert!(killed > 3, "too few were killed in time: {killed}");
    site.ok(&words);
    site.ok(&["repo", "gc", "--grace", "0s"]);
    site.ok(&["verify"]);
    assert_eq!(listed(&site).len(), 1);
}
