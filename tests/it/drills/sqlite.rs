//! Faults that a drill of a SQLite database must find, each seeded into a database of its own.

use std::{fs, os::unix::fs::FileExt as _, path::Path};

use rusqlite::Connection;
use serde_json::Value;

use super::remains::assert_none;
use crate::site::{Site, add};

/// A backed up database, after `fault`, and what a drill says of it.
fn drill_after(fault: impl FnOnce(&Site), more: &[&str]) -> Value {
    let site = Site::new();
    drop(site.create("app.db", 200));
    fs::create_dir(site.path("scratch")).unwrap();
    fault(&site);
    failed(&site, more)
}

/// A drill that must fail, with its evidence kept and nothing left behind.
fn failed(site: &Site, more: &[&str]) -> Value {
    let words = ["drill", "run", "app.db", "--scratch", "scratch", "-o", "json"];
    let ran = site.run(&[&words[..], more].concat());
    assert_eq!(ran.status, 12, "{}{}", ran.out, ran.err);
    let drill: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(drill["passed"], false, "{drill}");
    let shown = site.json(&["drill", "show", drill["drill"].as_str().unwrap()]);
    assert_eq!(shown["causes"], drill["causes"]);
    site.ok(&["report", "verify"]);
    assert_none(site);
    drill
}

fn assert_cause(drill: &Value, words: &str) {
    let causes = drill["causes"].to_string();
    assert!(causes.contains(words), "{words}: {drill:#}");
}

fn open(site: &Site) -> Connection {
    Connection::open(site.path("app.db")).unwrap()
}

fn back_up(site: &Site) {
    site.ok(&["backup", "sqlite:app.db"]);
}

#[test]
fn a_page_that_was_flipped_before_its_backup() {
    let drill = drill_after(
        |site| {
            let file = fs::File::options().write(true).open(site.path("app.db")).unwrap();
            // The kind of the third page, which no tree has.
            file.write_all_at(&[0xff], 2 * 4096).unwrap();
            back_up(site);
        },
        &[],
    );
    assert_cause(&drill, "files: ");
    assert_eq!(drill["checks"][0]["verdict"], "failed", "{drill:#}");
    assert_eq!(drill["checks"][0]["is_damage"], true, "{drill:#}");
}

#[test]
fn an_index_that_lost_its_entries() {
    let drill = drill_after(
        |site| {
            open(site)
                .execute_batch(
                    "CREATE INDEX ti ON t (length(v)); CREATE TABLE e (a); CREATE INDEX ei ON e (a);
                     PRAGMA writable_schema = 1;
                     UPDATE sqlite_schema SET rootpage =
                         (SELECT rootpage FROM sqlite_schema WHERE name = 'ei') WHERE name = 'ti';",
                )
                .unwrap();
            back_up(site);
        },
        &[],
    );
    assert_cause(&drill, "index ti");
}

#[test]
fn a_reference_to_a_row_that_is_missing() {
    let drill = drill_after(
        |site| {
            let schema = "PRAGMA foreign_keys = 0; CREATE TABLE c (t REFERENCES t);
                INSERT INTO c VALUES (999)";
            open(site).execute_batch(schema).unwrap();
            back_up(site);
        },
        &[],
    );
    assert_cause(&drill, "foreign_key_check: 1 rows refer to missing rows");
    // An application did that, and the pages are sound.
    assert!(!drill["checks"].to_string().contains("is_damage"), "{drill:#}");
}

#[test]
fn a_statement_that_answers_something_else_or_nothing() {
    let words = ["--check", "SELECT count(*) FROM t", "--expect", "201"];
    let drill = drill_after(back_up, &words);
    assert_cause(&drill, "and \\\"201\\\" was expected");
    let drill = drill_after(back_up, &["--check", "SELECT * FROM missing", "--expect", ""]);
    assert_cause(&drill, "no such table: missing");
    // Only who asked is wrong: no drill.
    let site = Site::new();
    drop(site.create("app.db", 20));
    fs::create_dir(site.path("scratch")).unwrap();
    back_up(&site);
    let words = ["drill", "run", "app.db", "--scratch", "scratch", "--inside", "main"];
    let words = [&words[..], &["--check", "SELECT 1", "--expect", "1"]].concat();
    site.fails(&words, 2, &["leave --inside out"]);
    assert!(site.json(&["drill", "list"])["drills"].as_array().unwrap().is_empty());
}

/// A database that does not come back in time has failed its drill, which says how far it came.
#[test]
fn what_takes_longer_than_it_may() {
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let words = ["--check", endless, "--expect", "1", "--timeout", "3s"];
    let drill = drill_after(back_up, &words);
    assert_cause(&drill, "not finished within --timeout, but still at: ask");
    let phases = drill["phases"].as_array().unwrap();
    let of = |name| phases.iter().find(|phase| phase["name"] == name);
    assert!(of("ask").is_some_and(|ask| ask["took_ms"].as_u64() > Some(500)), "{drill:#}");
    assert!(of("remove").is_some(), "{drill:#}");
}

#[test]
fn a_statement_that_writes_would_hide_what_is_looked_for() {
    for more in [&[][..], &["--no-mount"]] {
        let words = [&["--check", "REINDEX", "--expect", ""], more].concat();
        let drill = drill_after(
            |site| {
                open(site)
                    .execute_batch(
                        "CREATE INDEX ti ON t (n); CREATE TABLE e (a); CREATE INDEX ei ON e (a);
                         PRAGMA writable_schema = 1;
                         UPDATE sqlite_schema SET rootpage =
                             (SELECT rootpage FROM sqlite_schema WHERE name = 'ei')
                             WHERE name = 'ti'",
                    )
                    .unwrap();
                back_up(site);
            },
            &words,
        );
        assert_cause(&drill, "readonly database");
        assert_cause(&drill, "index ti");
    }
}

#[test]
fn a_point_that_cannot_be_reached() {
    let drill = drill_after(back_up, &["--at", "2001-01-01T00:00:00Z"]);
    assert_cause(&drill, "it is before the first backup");
    assert_cause(&drill, "nearest after");
    assert!(drill["backup"].is_null() && drill["rto_ms"].is_null(), "{drill:#}");
}

#[test]
fn a_segment_of_the_log_that_is_missing() {
    let site = Site::new();
    let app = site.create("app.db", 20);
    fs::create_dir(site.path("scratch")).unwrap();
    back_up(&site);
    let words = ["logs", "stream", "sqlite:app.db", "--flush", "1s", "--stop-at-eof"];
    let capture = site.spawn(&words, "capture");
    let said = || fs::read_to_string(site.path("capture.log")).unwrap();
    let pause = || std::thread::sleep(std::time::Duration::from_millis(1200));
    while !said().contains("Capturing") {
        pause();
    }
    for _ in 0..4 {
        add(&app, 5);
        pause();
    }
    assert_eq!(capture.end(), 0, "{}", said());
    site.ok(&["drill", "run", "app.db", "--scratch", "scratch"]);
    let segments = segments(&site.path("repo/streams"));
    assert!(segments.len() > 2, "{segments:?}");
    // Also the one that would lead on from the backup.
    for missing in [&segments[0], &segments[segments.len() / 2]] {
        let aside = site.path("aside");
        fs::rename(missing, &aside).unwrap();
        for more in [&[][..], &["--no-mount"]] {
            assert_cause(&failed(&site, more), "lost it");
        }
        site.fails(&["restore", "app.db", "--to", "back.db"], 6, &["lost it"]);
        fs::rename(&aside, missing).unwrap();
    }
    site.ok(&["drill", "run", "app.db", "--scratch", "scratch"]);
}

/// What says how a backup is laid out is needed before anything can be mounted.
#[test]
fn an_inventory_of_the_backup_that_is_damaged_or_missing() {
    for is_missing in [true, false] {
        let site = Site::new();
        drop(site.create("app.db", 200));
        fs::create_dir(site.path("scratch")).unwrap();
        back_up(&site);
        for pack in segments(&site.path("repo/packs")) {
            if pack.extension().is_none_or(|extension| extension != "mpack") {
                continue;
            }
            if is_missing {
                fs::remove_file(&pack).unwrap();
            } else {
                let mut bytes = fs::read(&pack).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xFF;
                fs::write(&pack, bytes).unwrap();
            }
        }
        for more in [&[][..], &["--no-mount"]] {
            let drill = failed(&site, more);
            assert!(!drill["causes"].as_array().unwrap().is_empty(), "{drill:#}");
        }
        fs::create_dir(site.path("there")).unwrap();
        let ran = site.run(&["mount", "app.db", "there"]);
        assert!([6, 9].contains(&ran.status), "{} {}", ran.status, ran.err);
    }
}

fn segments(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(segments(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn rows_that_were_counted_with_the_backup_are_counted_again() {
    let site = Site::new();
    let app = site.create("app.db", 200);
    fs::create_dir(site.path("scratch")).unwrap();
    back_up(&site);
    app.execute_batch("DELETE FROM t WHERE n > 150; CREATE TABLE u (n)").unwrap();
    back_up(&site);
    let drill = site.json(&["drill", "run", "app.db", "--scratch", "scratch"]);
    let table = |name: &str, rows: u32| {
        let tables = drill["rows"]["tables"].as_array().unwrap();
        tables.iter().any(|t| {
            t["table"] == name
                && t["recorded"] == rows
                && t["counted"] == rows
                && t["exact"] == true
        })
    };
    assert!(table("t", 150) && table("u", 0), "{drill:#}");
}

#[test]
fn what_proves_nothing_is_no_drill() {
    let site = Site::new();
    drop(site.create("app.db", 5));
    back_up(&site);
    site.fails(&["drill", "run", "other.db"], 6, &["SP0700"]);
    site.fails(&["drill", "run", "app.db", "--at", "soon"], 2, &["SP0102"]);
    let lonely = ["drill", "run", "app.db", "--check", "1", "--expect", "1", "--expect", "2"];
    site.fails(&lonely, 2, &["each --check needs an --expect"]);
    site.fails(&["drill", "run", "app.db", "--scratch", "nowhere"], 6, &["--scratch DIR"]);
    let drills = site.json(&["drill", "list"]);
    assert_eq!(drills["drills"].as_array().unwrap().len(), 0);
    site.fails(&["drill", "show", "01ABC"], 6, &["SP0800"]);
}
