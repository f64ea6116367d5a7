//! Restores that meet something in their way: damage, links, other users, transactions.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use super::bench::{Bench, files_below};

/// Takes one row out of an index of `app.db`, which has an index for this then.
fn damage(bench: &Bench) {
    let path = bench.path("app.db");
    let open = || Connection::open(&path).unwrap();
    let db = open();
    db.execute_batch("CREATE TABLE k (a); CREATE INDEX ki ON k (a); INSERT INTO k VALUES (1);")
        .unwrap();
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'ki'";
    let root: i64 = db.query_row(root, [], |row| row.get(0)).unwrap();
    db.execute_batch("PRAGMA writable_schema = 1; DELETE FROM sqlite_schema WHERE name = 'ki';")
        .unwrap();
    drop(db);
    let db = open();
    db.execute_batch("INSERT INTO k VALUES (2); PRAGMA writable_schema = 1;").unwrap();
    let index = "INSERT INTO sqlite_schema VALUES ('index', 'ki', 'k', ?1, ?2)";
    db.execute(index, (root, "CREATE INDEX ki ON k (a)")).unwrap();
}

#[test]
fn a_database_that_was_damaged_before_its_backup_is_restored_on_demand_only() {
    let bench = Bench::with_database();
    damage(&bench);
    bench.ok(&["backup", "sqlite:app.db"]);
    let words = ["restore", "app.db", "--to", "back.db"];
    let ran = bench.refused(&words, "SP0705", 9);
    assert!(ran.err.contains("--accept-damage") && ran.err.contains("index ki"), "{}", ran.err);
    assert!(!bench.path("back.db").exists());

    let accepting = [&words[..], &["--accept-damage"]].concat();
    let ran = bench.run(&accepting);
    assert_eq!(ran.status, 9, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("damaged: ") && ran.out.contains("index ki"), "{}", ran.out);
    assert_eq!(bench.rows("back.db"), 10);

    let ran = bench.run(&[&accepting[..], &["--force", "--output", "json"]].concat());
    assert_eq!(ran.status, 9, "{}{}", ran.out, ran.err);
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    let found = answer["damage"].as_array().unwrap();
    assert!(found.iter().any(|line| line.as_str().unwrap().contains("index ki")), "{}", ran.out);
    let plan = bench.json(&[&accepting[..], &["--force", "--plan"]].concat());
    assert!(plan["command"].as_str().unwrap().ends_with("--force --accept-damage"), "{plan}");
}

#[test]
fn rows_that_break_a_rule_of_their_table_are_told_and_refuse_nothing() {
    let bench = Bench::with_database();
    let db = Connection::open(bench.path("app.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE k (a CHECK (a > 0)); PRAGMA ignore_check_constraints = 1;
         INSERT INTO k VALUES (-5);",
    )
    .unwrap();
    bench.ok(&["backup", "sqlite:app.db"]);
    let restored = bench.json(&["restore", "app.db", "--to", "back.db"]);
    let check = restored["check"].as_str().unwrap();
    assert!(check.contains("CHECK constraint failed in k"), "{check}");
    assert_eq!(restored["damage"], Value::Array(Vec::new()));
}

#[test]
fn a_private_database_stays_private() {
    let bench = Bench::with_database();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(bench.path("app.db"), private).unwrap();
    bench.ok(&["backup", "sqlite:app.db"]);
    bench.ok(&["restore", "app.db", "--to", "back.db"]);
    let mode = std::fs::metadata(bench.path("back.db")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[test]
fn a_file_with_a_second_name_is_not_protected_without_its_log() {
    let bench = Bench::with_database();
    std::fs::hard_link(bench.path("app.db"), bench.path("hard.db")).unwrap();
    for url in ["sqlite:hard.db", "sqlite:app.db"] {
        bench.refused(&["backup", url], "SP0502", 5);
        bench.refused(&["logs", "stream", url, "--stop-at-eof"], "SP0502", 5);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_target_behind_a_link_may_lie_on_another_file_system() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let far = TempDir::new_in("/dev/shm").unwrap();
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    assert_ne!(device(far.path()), device(&bench.path("app.db")), "/dev/shm and TMPDIR are one");
    symlink(far.path().join("real.db"), bench.path("link.db")).unwrap();
    bench.ok(&["restore", "app.db", "--to", "link.db"]);
    bench.refused(&["restore", "app.db", "--to", "link.db"], "SP0702", 5);
    bench.ok(&["restore", "app.db", "--to", "link.db", "--force"]);
    assert!(std::fs::symlink_metadata(bench.path("link.db")).unwrap().is_symlink());
    assert_eq!(names(far.path()), ["real.db"]);
    assert_eq!(bench.rows("link.db"), 10);
}

#[test]
fn what_a_killed_restore_left_is_removed_without_a_word() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let left = bench.path(".back.db.restoring-0123456789ab");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("database"), "half").unwrap();
    let ran = bench.ok(&["restore", "app.db", "--to", "back.db"]);
    assert!(!left.exists());
    assert_eq!(ran.err, "");
}

#[test]
fn a_position_inside_a_transaction_is_refused_before_anything_is_copied() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let db = Connection::open(bench.path("app.db")).unwrap();
    db.execute_batch("CREATE TABLE b (x); INSERT INTO b VALUES (1);").unwrap();
    db.execute_batch(
        "BEGIN;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
         INSERT INTO b SELECT randomblob(4000) FROM n;
         COMMIT;",
    )
    .unwrap();
    let stream = ["logs", "stream", "sqlite:app.db", "--stop-at-eof"];
    bench.ok(&stream);
    let timeline = bench.json(&["timeline", "app.db"]);
    let end = timeline["stretches"][0]["to"]["position"].as_str().unwrap();
    let (lineage, offset) = end.rsplit_once(':').unwrap();
    let inside = format!("{lineage}:{}", offset.parse::<u64>().unwrap() - 3);
    for plan in [&["--plan"][..], &[]] {
        let words = [&["restore", "app.db", "--at", &inside, "--to", "back.db"], plan].concat();
        let ran = bench.refused(&words, "SP0704", 6);
        assert!(ran.err.contains("nearest before") && ran.err.contains(end), "{}", ran.err);
        let next = ran.err.lines().find_map(|line| line.split_once("--at ")).unwrap().1;
        let nearest = next.split(' ').next().unwrap();
        bench.ok(&["restore", "app.db", "--at", nearest, "--to", "nearest.db", "--force"]);
    }
    bench.ok(&["restore", "app.db", "--at", end, "--to", "back.db"]);
}

#[test]
fn a_newest_commit_that_was_captured_and_lost_is_not_replaced_by_an_older_one() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let application = Connection::open(bench.path("app.db")).unwrap();
    let stream = bench.stream();
    bench.wait_until_capturing();
    let segments = || {
        let mut files = files_below(&bench.path("repo/streams"));
        files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
        files
    };
    for rows in 11..14 {
        let before = segments().len();
        application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        bench.wait_until("a segment", || segments().len() > before);
        assert_eq!(bench.rows("app.db"), rows);
    }
    assert_eq!(stream.stop(), 0);
    bench.ok(&["restore", "app.db", "--to", "whole.db"]);
    assert_eq!(bench.rows("whole.db"), 13);

    // The last one, then one in the middle.
    for lost in [segments().len() - 1, 1] {
        let path = segments()[lost].clone();
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let words = ["restore", "app.db", "--to", "older.db"];
        let ran = bench.refused(&words, "SP0401", 6);
        assert!(!bench.path("older.db").exists());
        let nearest = ran.err.lines().find_map(|line| line.split(" --at ").nth(1)).unwrap();
        let nearest = nearest.split(' ').next().unwrap();
        bench.ok(&[&words[..], &["--at", nearest]].concat());
        assert_eq!(bench.rows("older.db"), 10 + i64::try_from(lost).unwrap());
        std::fs::remove_file(bench.path("older.db")).unwrap();
        std::fs::write(&path, kept).unwrap();
    }
}
