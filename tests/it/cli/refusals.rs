//! What cannot be done, and how it is told.

use super::bench::{Bench, Ran, files_below};

#[test]
fn a_place_without_a_repository() {
    let bench = Bench::new();
    let ran = bench.refused(&["list"], "SP0200", 6);
    assert!(ran.err.contains("stillpoint init"), "{}", ran.err);
    bench.create("app.db");
    bench.refused(&["backup", "sqlite:app.db"], "SP0200", 6);
    bench.refused(&["restore", "app.db", "--to", "x.db"], "SP0200", 6);
    assert!(!bench.path("repo").exists(), "a refusal made a repository's folder");
}

#[test]
fn no_place_at_all() {
    let bench = Bench::new();
    let mut command = bench.command(&["list"]);
    command.env_remove("STILLPOINT_REPO");
    let ran = Ran::of(command);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("--repo DIR"), "{}", ran.err);
}

#[test]
fn a_suggested_command_names_the_repository_and_the_key_that_were_typed() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db", "--name", "my app"]);
    let options = ["--repo", "repo", "--passphrase-file", "pass.txt"];
    let words = ["restore", "my app", "--at", "2001-02-03 04:05:06", "--to", "x.db"];
    let mut command = bench.command(&[&words[..], &options].concat());
    command.env_remove("STILLPOINT_REPO").env_remove("STILLPOINT_PASSPHRASE_FILE");
    let ran = Ran::of(command);
    let suggested = "restore \"my app\" --to x.db --repo repo --passphrase-file pass.txt --at ";
    let next = ran.err.lines().find(|line| line.contains(suggested));
    let next = next.unwrap_or_else(|| panic!("{}", ran.err)).trim().trim_start_matches("next: ");
    // A shell finds the program as everybody does.
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_stillpoint")).parent().unwrap();
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", next]).current_dir(bench.path("")).env_clear().env("PATH", bin);
    let ran = Ran::of(shell);
    assert_eq!(ran.status, 0, "{next}\n{}", ran.err);
    assert_eq!(bench.rows("x.db"), 10);
}

#[test]
fn a_second_repository_in_the_same_place() {
    let bench = Bench::with_database();
    bench.refused(&["init"], "SP0201", 5);
}

#[test]
fn a_place_where_something_else_is() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("repo")).unwrap();
    for name in ["letter.txt", "My notes (1).txt"] {
        let path = bench.path("repo").join(name);
        std::fs::write(&path, "dear").unwrap();
        bench.refused(&["list"], "SP0203", 5);
        bench.refused(&["init"], "SP0201", 5);
        assert_eq!(std::fs::read_dir(bench.path("repo")).unwrap().count(), 1);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_repository_of_which_only_a_part_was_copied() {
    for missing in ["log", "stillpoint-repo.json", "keys"] {
        let bench = Bench::with_database();
        let path = bench.path("repo").join(missing);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        // What was seen before would betray it as well; here it was never seen.
        std::fs::remove_dir_all(bench.path("state")).unwrap();
        bench.refused(&["backup", "sqlite:app.db"], "SP0204", 5);
    }
}

#[test]
fn a_repository_of_a_newer_version() {
    let bench = Bench::with_database();
    let path = bench.path("repo/stillpoint-repo.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let (line, _) = text.split_once('\n').unwrap();
    let newer = line.replacen("\"format\":1", "\"format\":2", 1);
    let hash = blake3::hash(newer.as_bytes()).to_hex();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, format!("{newer}\n{hash}\n")).unwrap();
    for words in [&["list"][..], &["backup", "sqlite:app.db"]] {
        bench.refused(words, "SP0202", 5);
    }
}

#[test]
fn a_key_of_a_newer_version() {
    let bench = Bench::with_database();
    for path in files_below(&bench.path("repo/keys")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let newer = text.replacen("\"format\": 1", "\"format\": 2", 1);
        assert_ne!(newer, text);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, newer).unwrap();
    }
    bench.refused(&["list"], "SP0202", 5);
}

#[test]
fn a_wrong_passphrase_and_none() {
    let bench = Bench::with_database();
    std::fs::write(bench.path("wrong.txt"), "wrong\n").unwrap();
    bench.refused(&["backup", "sqlite:app.db", "--passphrase-file", "wrong.txt"], "SP0210", 4);
    bench.refused(&["backup", "sqlite:app.db", "--passphrase-file", "none.txt"], "SP0303", 3);
    let mut command = bench.command(&["backup", "sqlite:app.db"]);
    command.env_remove("STILLPOINT_PASSPHRASE_FILE");
    // In a session of its own the program has no terminal to ask on.
    let ran = Ran::of(detached(&command));
    assert_eq!(ran.status, 4, "{}", ran.err);
    assert!(ran.err.contains("SP0211") && ran.err.contains("--passphrase-file"), "{}", ran.err);
}

fn detached(command: &std::process::Command) -> std::process::Command {
    let mut outer = std::process::Command::new("setsid");
    outer.arg("--wait").arg(command.get_program()).args(command.get_args()).env_clear();
    outer.env("PATH", "/usr/bin:/bin");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer.current_dir(command.get_current_dir().unwrap());
    outer
}

#[test]
fn moments_that_cannot_be_reached_name_the_nearest_that_can() {
    let bench = Bench::with_database();
    let backup = bench.json(&["backup", "sqlite:app.db"]);
    for at in ["-1d", "2020-01-01 00:00", "2099-01-01 00:00", "yesterday 12:00"] {
        let ran = bench.refused(&["restore", "app.db", "--at", at, "--to", "x.db"], "SP0704", 6);
        let day = &backup["backup"]["at"].as_str().unwrap()[..13];
        assert!(ran.err.contains("nearest") && ran.err.contains(day), "{at}: {}", ran.err);
        assert!(ran.err.contains("next: stillpoint"), "{at}: {}", ran.err);
    }
    assert!(!bench.path("x.db").exists());
}

#[test]
fn moments_in_a_gap_name_the_nearest_on_both_sides() {
    let bench = Bench::with_database();
    let time = |answer: serde_json::Value| -> chrono::DateTime<chrono::Utc> {
        answer["backup"]["at"].as_str().unwrap().parse().unwrap()
    };
    let before = time(bench.json(&["backup", "sqlite:app.db"]));
    let application = rusqlite::Connection::open(bench.path("app.db")).unwrap();
    application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    let after = time(bench.json(&["backup", "sqlite:app.db"]));
    let between = (before + (after - before) / 2).to_rfc3339();
    let words = ["restore", "app.db", "--at", &between, "--to", "x.db"];
    let ran = bench.refused(&words, "SP0704", 6);
    assert!(ran.err.contains("nearest before") && ran.err.contains("nearest after"), "{}", ran.err);
    assert!(bench.ok(&["timeline", "app.db"]).out.contains("gap of "));
}

#[test]
fn log_that_somebody_threw_away_while_no_capture_ran_is_a_gap_that_the_next_backup_closes() {
    let bench = Bench::new();
    bench.ok(&["init"]);
    let application = bench.create("app.db");
    let insert = || application.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
    bench.ok(&["backup", "sqlite:app.db"]);
    let capture = ["logs", "stream", "sqlite:app.db", "--stop-at-eof"];
    insert();
    bench.ok(&capture);
    assert!(!bench.ok(&["timeline", "app.db"]).out.contains("gap since"));
    insert();
    application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    insert();
    let ran = bench.ok(&capture);
    assert!(format!("{}{}", ran.out, ran.err).contains("gap"), "{}{}", ran.out, ran.err);
    let text = bench.ok(&["timeline", "app.db"]).out;
    assert!(text.contains("gap since") && text.contains("restarted"), "{text}");
    bench.ok(&["restore", "app.db", "--at", "latest", "--to", "before.db"]);
    assert_eq!(bench.rows("before.db"), 11, "what is past the gap needs another backup");
    bench.ok(&["backup", "sqlite:app.db"]);
    assert!(!bench.ok(&["timeline", "app.db"]).out.contains("gap since"));
    insert();
    bench.ok(&capture);
    bench.ok(&["restore", "app.db", "--at", "latest", "--to", "after.db"]);
    assert_eq!(bench.rows("after.db"), 14);
}

#[test]
fn a_database_that_goes_away_or_is_replaced_during_its_backup() {
    let bench = Bench::new();
    bench.ok(&["init"]);
    let application = bench.create("app.db");
    application
        .execute_batch(
            "CREATE TABLE bulk (bytes BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 256)
             INSERT INTO bulk SELECT randomblob(1 << 20) FROM n;",
        )
        .unwrap();
    drop(application);
    let files = || walk(&bench.path("repo/packs"));
    let mut ends = Vec::new();
    for replacement in [None, Some("other.db")] {
        let before = files();
        let mut command = bench.command(&["backup", "sqlite:app.db"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        bench.wait_until("a pack", || files() > before);
        std::fs::rename(bench.path("app.db"), bench.path("gone.db")).unwrap();
        if let Some(other) = replacement {
            drop(bench.create(other));
            std::fs::rename(bench.path(other), bench.path("app.db")).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        ends.push((output.status.code(), String::from_utf8(output.stderr).unwrap()));
        std::fs::rename(bench.path("gone.db"), bench.path("app.db")).unwrap();
    }
    for (status, told) in ends {
        assert_eq!(status, Some(8), "{told}");
        assert!(told.contains("error[SP0504]"), "{told}");
    }
    assert_eq!(bench.json(&["list"])["databases"].as_array().map(Vec::len), Some(0));
    bench.ok(&["backup", "sqlite:app.db"]);
}

/// How many files there are below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { walk(&path) } else { 1 })
        .sum()
}

#[test]
fn a_passphrase_for_a_repository_that_is_not_encrypted() {
    let bench = Bench::new();
    let ran = bench.refused(&["init", "--no-encryption"], "SP0100", 2);
    assert!(ran.err.contains("unset STILLPOINT_PASSPHRASE_FILE"), "{}", ran.err);
    assert!(!bench.path("repo/stillpoint-repo.json").exists());
    let mut init = bench.command(&["init", "--no-encryption"]);
    init.env_remove("STILLPOINT_PASSPHRASE_FILE");
    assert_eq!(Ran::of(init).status, 0);
    bench.refused(&["list"], "SP0210", 5);
    let mut list = bench.command(&["list"]);
    list.env_remove("STILLPOINT_PASSPHRASE_FILE");
    assert_eq!(Ran::of(list).status, 0);
}

#[test]
fn a_second_capture_of_the_same_database() {
    let bench = Bench::with_database();
    bench.ok(&["backup", "sqlite:app.db"]);
    let stream = bench.stream();
    bench.wait_until_capturing();
    let again = ["logs", "stream", "sqlite:app.db", "--stop-at-eof"];
    let ran = bench.refused(&again, "SP0601", 11);
    assert!(ran.err.contains("--take-over"), "{}", ran.err);
    assert_eq!(stream.stop(), 0);
    bench.ok(&again);
}

#[test]
fn moments_that_mean_nothing_are_refused_before_anything_is_opened() {
    let bench = Bench::new();
    for at in ["2026-03-29 02:30", "2026-10-25 02:30", "someday", "2026-11-21", "25:00"] {
        bench.refused(&["restore", "app.db", "--at", at, "--to", "x.db"], "SP0102", 2);
    }
}

#[test]
fn databases_that_are_not_there_or_not_named() {
    let bench = Bench::with_database();
    let ran = bench.refused(&["backup", "app.db"], "SP0101", 2);
    assert!(ran.err.contains("sqlite:app.db"), "{}", ran.err);
    let ran = bench.refused(&["backup", "oracle:app.db"], "SP0101", 2);
    assert!(ran.err.contains("sqlite:"), "{}", ran.err);
    bench.refused(&["backup", "sqlite:missing.db"], "SP0500", 6);
    std::fs::write(bench.path("letter.txt"), "dear reader, this is no database\n".repeat(99))
        .unwrap();
    let ran = bench.run(&["backup", "sqlite:letter.txt"]);
    assert!(ran.err.starts_with("error[SP0501]"), "{}", ran.err);
    bench.refused(&["restore", "nothing.db", "--to", "x.db"], "SP0700", 6);
    bench.refused(&["timeline", "nothing.db"], "SP0700", 6);
    bench.refused(&["show", "01ZZ"], "SP0701", 6);
}

#[test]
fn a_log_that_the_database_does_not_keep() {
    let bench = Bench::with_database();
    let connection = rusqlite::Connection::open(bench.path("old.db")).unwrap();
    connection.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1);").unwrap();
    let ran = bench.refused(&["logs", "stream", "sqlite:old.db", "--stop-at-eof"], "SP0502", 5);
    assert!(ran.err.contains("journal_mode=WAL") || ran.err.contains("journal_mode = WAL"));
    bench.ok(&["backup", "sqlite:old.db"]);
}

#[test]
fn secrets_in_urls() {
    let bench = Bench::new();
    let mut command = bench.command(&["list", "--repo", "s3://AKIA:hunter2@bucket/x"]);
    command.env_remove("STILLPOINT_REPO");
    let ran = Ran::of(command);
    assert_eq!(ran.status, 5, "{}", ran.err);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}
