//! Drills of PostgreSQL: on every version, and faults that they must find, each seeded into a
//! cluster of its own.

use std::{
    env, fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
};

use serde_json::Value;
use stillpoint_testcontainers::{POSTGRES_VERSIONS, Postgres};

use super::remains::assert_none;
use crate::{
    mounts::can_mount,
    partial::shop::command,
    postgres::{Story, connect},
};

const DRILL: [&str; 5] = ["drill", "run", "shop", "--scratch", "scratch"];

async fn begin(major: u32) -> Option<Story> {
    let mut story = Story::begin(major, "local").await?;
    fs::create_dir(story.site.path("scratch")).unwrap();
    story.write(3).await;
    Some(story)
}

/// A drill that must fail, with its evidence kept and nothing left behind.
fn failed(story: &Story, more: &[&str]) -> Value {
    let (status, drill, said) = story.run(&[&DRILL[..], more].concat());
    assert_eq!(status, 12, "{drill:#}{said}");
    story.ok(&["report", "verify"]);
    assert_none(&story.site);
    drill
}

fn assert_cause(drill: &Value, words: &str) {
    let causes = drill["causes"].to_string();
    assert!(causes.contains(words), "{words}: {drill:#}");
}

/// The file of a relation, while its server is stopped.
async fn stopped_file(story: &mut Story, relation: &str) -> PathBuf {
    let path = story.ask(&format!("SELECT pg_relation_filepath('{relation}')")).await;
    story.server.stop().unwrap();
    story.server.data().join(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_drilled_with_its_own_checks() {
    for major in POSTGRES_VERSIONS {
        let Some(story) = begin(major).await else { continue };
        story.back_up();
        let question = ["--check", "SELECT count(*) FROM entry", "--expect", "3"];
        let drill = story.ok(&[&DRILL[..], &question].concat());
        let verdict = |check: &str| {
            let checks = drill["checks"].as_array().unwrap();
            checks
                .iter()
                .any(|c| c["check"].as_str().unwrap().ends_with(check) && c["verdict"] == "passed")
        };
        assert!(
            ["files", "amcheck", "lengths of tables", "foreign keys"].into_iter().all(verdict),
            "{major} {drill:#}"
        );
        assert!(drill["rto_ms"].as_u64() > Some(0), "{drill:#}");
        assert_none(&story.site);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_its_group_may_read_is_mounted_with_its_modes() {
    let Some(mut story) = begin(15).await else { return };
    story.server.stop().unwrap();
    let data = story.server.data().to_owned();
    let opened = Command::new("chmod").args(["-R", "g+rX"]).arg(data).status().unwrap();
    assert!(opened.success());
    story.server.restart().unwrap();
    story.back_up();
    let mut command = command(&story, &[&DRILL[..], &["-o", "json"]].concat());
    let output = command.env("STILLPOINT_LOG", "fuser=debug").output().unwrap();
    let drill: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(drill["passed"], true, "{drill:#}");
    assert_eq!(drill["presented"]["mounted"], can_mount(), "{drill:#}");
    // Nobody has to change them one by one, of a thousand.
    let said = String::from_utf8(output.stderr).unwrap();
    let changes = said.lines().filter(|line| line.contains("SETATTR mode: Some")).count();
    assert!(said.contains("LOOKUP") || !can_mount(), "{said}");
    assert!(changes < 40, "{changes} changes of modes");
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_flipped_before_its_backup() {
    for major in [15, 13] {
        let Some(mut story) = begin(major).await else { continue };
        let path = stopped_file(&mut story, "entry").await;
        fs::File::options().write(true).open(path).unwrap().write_all_at(b"!", 5000).unwrap();
        story.server.restart().unwrap();
        story.back_up();
        let drill = failed(&story, &[]);
        assert_cause(&drill, "invalid page in block 0");
        assert!(drill["checks"].to_string().contains("\"is_damage\":true"), "{drill:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_truncated() {
    for major in [15, 17] {
        let Some(mut story) = begin(major).await else { continue };
        let path = stopped_file(&mut story, "entry_pkey").await;
        fs::File::options().write(true).open(path).unwrap().set_len(8192).unwrap();
        story.server.restart().unwrap();
        story.back_up();
        assert_cause(&failed(&story, &[]), "entry_pkey");
    }
}

/// Only B-trees and tables are.
#[tokio::test(flavor = "multi_thread")]
async fn what_amcheck_does_not_look_at_is_looked_at_as_well() {
    let Some(mut story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    let fill = "CREATE TABLE more (n int PRIMARY KEY, v int[], h text);
        INSERT INTO more SELECT i, ARRAY[i, i + 1], 'h' || i FROM generate_series(1, 3000) i;
        CREATE INDEX more_h ON more USING hash (h); CREATE INDEX more_v ON more USING gin (v)";
    client.batch_execute(fill).await.unwrap();
    drop(client);
    let path = stopped_file(&mut story, "more_h").await;
    fs::File::options().write(true).open(path).unwrap().write_all_at(b"!!!", 20000).unwrap();
    story.server.restart().unwrap();
    story.back_up();
    for more in [&[][..], &["--no-mount"]] {
        let drill = failed(&story, more);
        assert_cause(&drill, "page 2 of base/");
        assert_cause(&drill, "differs from its checksum, as it was when it was backed up");
    }
    let restore = ["restore", "shop", "--to", "damaged"];
    let (status, _, said) = story.run(&restore);
    assert_eq!(status, 9, "{said}");
    assert!(said.contains("as it was when it was backed up"), "{said}");
    assert!(!story.site.path("damaged").exists());
    let (status, _, said) = story.run(&[&restore[..], &["--accept-damage"]].concat());
    assert_eq!(status, 9, "{said}");
    assert!(story.site.path("damaged/PG_VERSION").exists());

    connect(&story.server).await.batch_execute("REINDEX INDEX more_h").await.unwrap();
    let path = stopped_file(&mut story, "more_v").await;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 8192).unwrap();
    story.server.restart().unwrap();
    story.back_up();
    assert_cause(&failed(&story, &[]), "index \\\"public\\\".\\\"more_v\\\" has");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_lost_its_page() {
    let Some(mut story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    client.batch_execute("CREATE TABLE numbered (n serial); CHECKPOINT").await.unwrap();
    drop(client);
    story.back_up();
    story.ok(&DRILL);
    let path = stopped_file(&mut story, "numbered_n_seq").await;
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    story.server.restart().unwrap();
    story.back_up();
    assert_cause(
        &failed(&story, &[]),
        "sequence \\\"public\\\".\\\"numbered_n_seq\\\" has no page",
    );
    fs::remove_file(path).unwrap();
    story.back_up();
    assert_cause(&failed(&story, &[]), "numbered_n_seq");
}

/// amcheck looks for rows in indexes, and not the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_end_was_cut_off() {
    let Some(mut story) = begin(15).await else { return };
    let client = connect(&story.server).await;
    let fill = "CREATE TABLE long (n int PRIMARY KEY, v text);
        INSERT INTO long SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
        CREATE TABLE shrunk (n int PRIMARY KEY, v text); INSERT INTO shrunk TABLE long;";
    client.batch_execute(fill).await.unwrap();
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
    // What the server itself cut off, and forgot to write down, is not missed.
    client.batch_execute("DELETE FROM shrunk WHERE n > 9999").await.unwrap();
    client.batch_execute("VACUUM shrunk").await.unwrap();
    let forget = "UPDATE pg_class SET relpages = 1000 WHERE relname = 'shrunk'";
    client.batch_execute(forget).await.unwrap();
    story.back_up();
    story.ok(&DRILL);
    drop(client);
    let path = stopped_file(&mut story, "long").await;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 20 * 8192).unwrap();
    story.server.restart().unwrap();
    story.back_up();
    assert_cause(&failed(&story, &[]), "pages, and had");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_to_a_row_that_is_missing() {
    let Some(story) = begin(15).await else { return };
    let broken = "CREATE TABLE child (n int REFERENCES entry); INSERT INTO child VALUES (1), (2);
        CREATE TABLE parts (n int REFERENCES entry) PARTITION BY LIST (n);
        CREATE TABLE part PARTITION OF parts FOR VALUES IN (3); INSERT INTO parts VALUES (3);
        CREATE TABLE \"Base\" (n int PRIMARY KEY) PARTITION BY LIST (n);
        CREATE TABLE base1 PARTITION OF \"Base\" FOR VALUES IN (1);
        CREATE TABLE base2 PARTITION OF \"Base\" FOR VALUES IN (2);
        INSERT INTO \"Base\" VALUES (1), (2);
        CREATE TABLE onto (n int REFERENCES \"Base\"); INSERT INTO onto VALUES (1), (2);";
    let client = connect(&story.server).await;
    client.batch_execute(broken).await.unwrap();
    story.back_up();
    story.ok(&DRILL);
    let delete = "SET session_replication_role = replica; DELETE FROM entry WHERE n = 2";
    client.batch_execute(delete).await.unwrap();
    story.back_up();
    let drill = failed(&story, &[]);
    assert_cause(&drill, "child_n_fkey");
    assert!(!drill["causes"].to_string().contains("part"), "{drill:#}");
    assert!(!drill["checks"].to_string().contains("is_damage"), "{drill:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_the_log_that_is_missing_and_a_point_that_cannot_be_reached() {
    let Some(mut story) = begin(15).await else { return };
    story.back_up();
    let capture = story.capture().await;
    for _ in 0..4 {
        story.write(1).await;
        story.pause(1300).await;
    }
    story.end(capture).await;
    story.ok(&DRILL);
    let drill = failed(&story, &["--at", "F/0"]);
    assert_cause(&drill, "nearest before");
    let stream = story.site.path("repo/streams/shop");
    let stream = fs::read_dir(stream).unwrap().next().unwrap().unwrap().path();
    let segments = fs::read_dir(stream).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = segments.collect();
    segments.sort();
    assert!(segments.len() > 2, "{segments:?}");
    fs::remove_file(&segments[segments.len() / 2]).unwrap();
    assert_cause(&failed(&story, &[]), "lost it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_answers_something_else() {
    let Some(story) = begin(15).await else { return };
    connect(&story.server).await.batch_execute("CREATE DATABASE crm").await.unwrap();
    story.back_up();
    let own = |sql: &'static str| ["--check", sql, "--inside", "postgres", "--expect", "4"];
    let drill = failed(&story, &own("SELECT max(n) FROM entry"));
    assert_cause(&drill, "answered \\\"3\\\", and \\\"4\\\" was expected");
    assert_cause(&failed(&story, &own("SELECT 1/0")), "division by zero");
    let drill = failed(&story, &["--check", "SELECT max(n) FROM entry", "--expect", "4"]);
    assert_cause(&drill, "ask another one: --inside DATABASE");
    let elsewhere = ["--check", "SELECT 1", "--expect", "1", "--inside", "nowhere"];
    let (status, answer, said) = story.run(&[&DRILL[..], &elsewhere].concat());
    assert_eq!(status, 2, "{answer:#}{said}");
    assert!(said.contains("crm") && said.contains("nowhere"), "{said}");
    assert_none(&story.site);
}

/// What was prepared before the backup has its locks in the copy as well.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_transaction_that_was_prepared() {
    let settings = ["max_prepared_transactions = 5".to_owned()];
    let Some(mut story) = Story::begin_with(15, "local", &settings).await else { return };
    fs::create_dir(story.site.path("scratch")).unwrap();
    story.write(3).await;
    let prepare = "BEGIN; TRUNCATE entry; PREPARE TRANSACTION 'it''s'";
    connect(&story.server).await.batch_execute(prepare).await.unwrap();
    story.back_up();
    let question = ["--check", "SELECT count(*) FROM entry", "--expect", "3"];
    story.ok(&[&DRILL[..], &question, &["--timeout", "60s"]].concat());
    connect(&story.server).await.batch_execute("ROLLBACK PREPARED 'it''s'").await.unwrap();
    assert_none(&story.site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_writes() {
    let Some(story) = begin(15).await else { return };
    story.back_up();
    for (sql, cause) in [
        ("DELETE FROM entry", "cannot execute DELETE in a read-only transaction"),
        ("SET TRANSACTION READ WRITE; DELETE FROM entry", "must be set before any query"),
        ("REINDEX TABLE entry", "it writes, or ends the transaction"),
        ("ANALYZE entry", "it writes, or ends the transaction"),
        ("CLUSTER entry USING entry_pkey", "it writes, or ends the transaction"),
        ("ROLLBACK; DELETE FROM entry", "cannot execute DELETE in a read-only transaction"),
        ("COMMIT; REINDEX TABLE entry", "it writes, or ends the transaction"),
    ] {
        // Whoever asks for the number of its transaction gets one, and has written nothing.
        let question = "SELECT count(*) FROM entry WHERE txid_current() > 0";
        let question = ["--check", question, "--expect", "3"];
        let drill = failed(&story, &[&["--check", sql, "--expect", ""], &question[..]].concat());
        assert_cause(&drill, cause);
        assert_eq!(drill["causes"].as_array().unwrap().len(), 1, "{drill:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_version_or_one_that_does_not_work() {
    let Some(story) = begin(17).await else { return };
    story.back_up();
    let fake = story.site.path("fake");
    fs::create_dir(&fake).unwrap();
    let run = |path: &str| {
        let mut command = story.site.command(&DRILL);
        let output = command.args(["-o", "json"]).env("PATH", path).output().unwrap();
        assert_eq!(output.status.code(), Some(12), "{output:?}");
        assert_none(&story.site);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let usual = "/usr/bin:/bin";
    let drill = run(usual);
    assert_cause(&drill, "only a server of the same major version");
    let script = "#!/bin/sh\n\
                  test \"$1\" = --version && echo 'postgres (PostgreSQL) 17.99' && exit\n\
                  echo 'FATAL: this is no server' >&2\nexit 1\n";
    fs::write(fake.join("postgres"), script).unwrap();
    fs::set_permissions(fake.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = env::join_paths([fake.as_os_str(), "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
    assert_cause(&run(path.to_str().unwrap()), "this is no server");
    // One of another version is not the last word of PATH.
    let script = "#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n";
    fs::write(fake.join("postgres"), script).unwrap();
    let programs = Postgres::programs(17).unwrap();
    let places = [fake.as_os_str(), programs.as_os_str(), "/usr/bin".as_ref(), "/bin".as_ref()];
    let path = env::join_paths(places).unwrap();
    let output = story.site.command(&DRILL).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
