//! What is not as it should be with PostgreSQL, and is refused or told in so many words: other
//! clusters, other versions, log that is gone.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};

use crate::postgres::{Story, connect, exact};

/// What an administrator looks up when he is told of another database.
const FOREIGN: &str = "SP0520";
const UNREACHABLE: &str = "SP0704";

fn url(server: &Postgres) -> String {
    format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres?method=sql", server.port())
}

async fn ask(server: &Postgres, query: &str) -> String {
    connect(server).await.query_one(query, &[]).await.unwrap().get(0)
}

async fn run(server: &Postgres, statements: &[&str]) {
    let client = connect(server).await;
    for statement in statements {
        client.batch_execute(statement).await.unwrap();
    }
}

/// Writes so many transactions and begins another WAL file. Returns a copy of the one that holds
/// them, beside which nothing waits to be archived.
async fn fill(story: &Story, server: &Postgres, transactions: usize) -> PathBuf {
    let client = connect(server).await;
    for _ in 0..transactions {
        client.batch_execute("INSERT INTO entry VALUES (DEFAULT)").await.unwrap();
    }
    let file = ask(server, "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    let copy = story.site.path(&format!("of-{}", server.port())).join(&file);
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    let wal = server.data().join("pg_wal");
    let names = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name());
    let histories = names.filter(|name| name.to_string_lossy().ends_with(".history"));
    for name in histories.chain([file.into()]) {
        fs::copy(wal.join(&name), copy.with_file_name(name)).unwrap();
    }
    copy
}

/// Every file of a directory, with its bytes.
fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_does_not_get_into_a_name() {
    let Some(mut story) = Story::begin(15, "sql").await else { return };
    story.write(2).await;
    story.back_up();
    let before = story.ok(&["timeline", "shop"]);
    let other = Postgres::start(15, &PostgresOptions::default()).unwrap();
    run(&other, &["CREATE TABLE entry (n serial)"]).await;
    let file = fill(&story, &other, 1).await.display().to_string();
    let (here, there) = (&story.server, &other);
    let identifier = "SELECT system_identifier::text FROM pg_control_system()";
    let (ours, theirs) = (ask(here, identifier).await, ask(there, identifier).await);

    let url = url(&other);
    for words in [&["backup", &url][..], &["logs", "stream", &url, "--stop-at-eof"]] {
        let (status, _, said) = story.run(&[words, &["--name", "shop"]].concat());
        assert_eq!(status, 5, "{said}");
        for expected in [FOREIGN, &ours, &theirs, "--name NAME", "--new-incarnation"] {
            assert!(said.contains(expected), "{words:?}: {expected}\n{said}");
        }
    }
    let (status, _, said) = story.run(&["wal-push", &file, "--name", "shop"]);
    assert!(status == 5 && said.contains(FOREIGN), "{said}");
    assert!(said.contains(&theirs), "{theirs}, {ours}: {said}");
    // Without a name it is nobody's.
    let (status, _, said) = story.run(&["wal-push", &file]);
    assert!(status == 5 && said.contains("backup URL"), "{said}");
    let after = story.ok(&["timeline", "shop"]);
    for field in ["stretches", "gaps", "open_gap", "backups"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    // Under a name of its own it is welcome.
    story.ok(&["backup", &url, "--name", "other"]);
    story.ok(&["wal-push", &file]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_or_version_is_not_rewritten() {
    let Some(mut story) = Story::begin(15, "sql").await else { return };
    story.write(1).await;
    story.back_up();
    for (major, says) in [(15, "system identifier"), (17, "version 17"), (13, "version 13")] {
        let mut other = Postgres::start(major, &PostgresOptions::default()).unwrap();
        other.stop().unwrap();
        let before = contents(other.data());
        let place = other.data().display().to_string();
        let (status, _, said) = story.run(&["restore", "shop", "--to", &place, "--delta"]);
        assert_eq!(status, 5, "{major}: {said}");
        for expected in [FOREIGN, says, "another cluster", "--force", &place] {
            assert!(said.contains(expected), "{major}: {expected}\n{said}");
        }
        assert!(contents(other.data()) == before, "{major}: it was touched");
        let around = other.data().parent().unwrap();
        let strange = fs::read_dir(around).unwrap().flatten().map(|entry| entry.file_name());
        let strange: Vec<_> =
            strange.filter(|name| name.to_string_lossy().contains("stillpoint-re")).collect();
        assert!(strange.is_empty(), "{major}: {strange:?}");
        other.restart().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_gave_up_is_told_and_what_it_held_is_refused() {
    let settings = ["max_slot_wal_keep_size = 64MB", "max_wal_size = 32MB"].map(str::to_owned);
    for major in [13, 18] {
        let Some(mut story) = Story::begin_with(major, "sql", &settings).await else { continue };
        story.back_up();
        // From here on, a slot keeps the WAL.
        let capture = story.capture().await;
        story.write(2).await;
        story.back_up();
        story.write(2).await;
        story.end(capture).await;
        story.write(2).await;
        for _ in 0..8 {
            let switch =
                ["CREATE TABLE passing ()", "DROP TABLE passing", "SELECT pg_switch_wal()"];
            run(&story.server, &switch).await;
            run(&story.server, &["CHECKPOINT"]).await;
        }
        let (_, found, said) = story.run(&["check", &story.url]);
        let lost = "SELECT pg_drop_replication_slot('stillpoint')";
        assert!(found.to_string().contains(lost), "{major}: {found}\n{said}");

        let capture = story.capture().await;
        story.write(1).await;
        story.end(capture).await;
        let said = fs::read_to_string(story.site.path("capture.log")).unwrap();
        let told = "it gave up what replication slot stillpoint held (max_slot_wal_keep_size";
        assert!(said.contains("the log has a gap") && said.contains(told), "{major}: {said}");
        let timeline = story.page(&["timeline", "shop"]);
        assert!(timeline.contains("gap since") && timeline.contains(told), "{timeline}");
        story.write(1).await;
        story.back_up();
        let timeline = story.page(&["timeline", "shop"]);
        assert!(timeline.contains("gap of") && timeline.contains(told), "{timeline}");

        // Before it, inside of it, behind it.
        assert_eq!(story.restore(&exact(story.instants[2]), "before").await.len(), 3);
        let inside = exact(story.instants[5]);
        let (status, _, said) = story.run(&["restore", "shop", "--at", &inside, "--to", "never"]);
        assert_eq!(status, 6, "{major}: {said}");
        for expected in
            [UNREACHABLE, "nearest before", "nearest after", "restore shop --to never", " --at 20"]
        {
            assert!(said.contains(expected), "{major}: {expected}\n{said}");
        }
        assert!(!story.site.path("never").exists());
        assert_eq!(story.restore("latest", "latest").await.len(), 8);
    }
}

/// A server whose archiver hands nothing over, with a backup.
async fn archived(major: u32) -> Option<Story> {
    let settings = ["archive_mode = on", "archive_command = ''"].map(str::to_owned);
    let story = Story::begin_with(major, "sql", &settings).await?;
    let serial = ["DROP TABLE entry", "CREATE TABLE entry (n serial)"];
    run(&story.server, &serial).await;
    let backup = story.back_up();
    let end = backup["backup"]["engine_position"].as_str().unwrap();
    let file = ask(&story.server, &format!("SELECT pg_walfile_name('{end}')")).await;
    let file = story.server.data().join("pg_wal").join(file).display().to_string();
    story.ok(&["wal-push", &file, "--name", "shop"]);
    Some(story)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_file_that_was_never_pushed_is_a_gap_that_nothing_is_restored_across() {
    let Some(story) = archived(15).await else { return };
    let push = |path: &Path| {
        let path = path.display().to_string();
        story.run(&["wal-push", &path, "--name", "shop"])
    };
    let (mut files, mut positions) = (Vec::new(), Vec::new());
    for transactions in [3, 5, 7] {
        files.push(fill(&story, &story.server, transactions).await);
        // Where the file ends.
        positions.push(ask(&story.server, "SELECT pg_current_wal_lsn()::text").await);
    }
    positions.remove(0);
    for file in [&files[0], &files[2]] {
        let (status, _, said) = push(file);
        assert_eq!(status, 0, "{said}");
    }
    let timeline = story.page(&["timeline", "shop"]);
    let told = "files between the two were never archived (captured up to 0/4000000";
    assert!(timeline.contains("gap since") && timeline.contains(told), "{timeline}");

    // A server that asks for what is missing must not take it for the end of the log.
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let (status, ..) = story.run(&["wal-get", &name(&files[1]), "fetched", "--name", "shop"]);
    assert_eq!(status, 126);
    story.ok(&["wal-get", &name(&files[2]), "fetched", "--name", "shop"]);
    assert!(fs::read(story.site.path("fetched")).unwrap() == fs::read(&files[2]).unwrap());

    // The newest state before it can be had, and is not passed off as the newest of all.
    let plan = story.site.run(&["restore", "shop", "--to", "never", "--plan"]);
    assert!(plan.err.contains("cannot be restored: files between"), "{}{}", plan.out, plan.err);
    for lsn in positions {
        let (status, _, said) = story.run(&["restore", "shop", "--at", &lsn, "--to", "never"]);
        assert!(status == 6 && said.contains(UNREACHABLE), "{lsn}: {said}");
        assert!(said.contains("nearest before") && said.contains("timeline shop"), "{said}");
        assert!(!story.site.path("never").exists());
    }

    // A backup closes it.
    let count = ask(&story.server, "SELECT count(*)::text FROM entry").await;
    story.back_up();
    assert!(story.page(&["timeline", "shop"]).contains("gap of"));
    assert_eq!(story.restore("latest", "latest").await.len().to_string(), count);
}

/// Two standbys of one primary are promoted, and each writes a second timeline.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_with_one_timeline_the_second_is_refused() {
    let Some(mut story) = archived(15).await else { return };
    // A server that was promoted takes a checkpoint by itself, which removes what nobody asked for.
    run(&story.server, &["ALTER SYSTEM SET wal_keep_size = '1GB'"]).await;
    let (one, two) = (story.server.standby().unwrap(), story.server.standby().unwrap());
    let file = fill(&story, &story.server, 1).await;
    let written = ask(&story.server, "SELECT pg_current_wal_lsn()::text").await;
    let push = |story: &Story, path: &Path| {
        let path = path.display().to_string();
        story.run(&["wal-push", &path, "--name", "shop"])
    };
    assert_eq!(push(&story, &file).0, 0);
    let replayed = format!("SELECT (pg_last_wal_replay_lsn() >= '{written}')::text");
    for standby in [&one, &two] {
        while ask(standby, &replayed).await != "true" {
            story.pause(50).await;
        }
    }
    story.server.stop().unwrap();
    let mut files = Vec::new();
    for (standby, transactions) in [(&one, 20), (&two, 300)] {
        run(standby, &["SELECT pg_promote()"]).await;
        files.push(fill(&story, standby, transactions).await);
    }
    let name = files[0].file_name().unwrap();
    assert!(files[1].file_name() == Some(name), "both wrote one file: {files:?}");
    let (status, _, said) = push(&story, &files[0]);
    assert_eq!(status, 0, "{said}");
    let (status, _, said) = push(&story, &files[1]);
    assert!(status == 5 && said.contains("other log of this name"), "{status}: {said}");
    let name = name.to_str().unwrap();
    story.ok(&["wal-get", name, "fetched", "--name", "shop"]);
    assert!(fs::read(story.site.path("fetched")).unwrap() == fs::read(&files[0]).unwrap());

    // Its stream is no continuation either.
    story.server = two;
    story.url = url(&story.server);
    let capture = story.capture().await;
    fill(&story, &story.server, 1).await;
    story.end(capture).await;
    let said = fs::read_to_string(story.site.path("capture.log")).unwrap();
    let told = "the log has a gap before this point: the server's log is not the one that was";
    assert!(said.contains(told), "{said}");
    // What is restored is wholly of one of them.
    let count = ask(&story.server, "SELECT count(*)::text FROM entry").await;
    let restored = async |name: &str| {
        story.ok(&["restore", "shop", "--to", name]);
        let server = Postgres::start_on(15, &story.site.path(name)).unwrap();
        ask(&server, "SELECT count(*)::text FROM entry").await
    };
    assert_eq!(restored("streamed").await, count);
    story.back_up();
    assert_eq!(restored("copied").await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_files_that_nobody_can_name_are_counted_and_listed_when_asked() {
    let Some(story) = archived(15).await else { return };
    // Whoever is handed WAL has no server to ask for names.
    run(&story.server, &["CREATE TABLE gone (t text)", "DROP TABLE gone", "CREATE DATABASE other"])
        .await;
    run(&story.server, &["DROP DATABASE other"]).await;
    let file = fill(&story, &story.server, 1).await.display().to_string();
    story.ok(&["wal-push", &file, "--name", "shop"]);
    let kinds = |answer: &serde_json::Value| -> Vec<String> {
        let events = answer["events"].as_array().unwrap().iter();
        events.map(|event| event["name"].as_str().unwrap().to_owned()).collect()
    };
    let usual = story.ok(&["timeline", "shop"]);
    let hidden = usual["unnamed_left_out"].as_u64().unwrap();
    assert!(hidden >= 1, "{usual}");
    assert!(kinds(&usual).iter().all(|name| name.starts_with("database ")), "{usual}");
    assert_eq!(kinds(&usual).len(), 1, "{usual}");
    let all = story.ok(&["timeline", "shop", "--all"]);
    assert_eq!(kinds(&all).len() as u64, hidden + 1, "{all}");
    assert_eq!(all["unnamed_left_out"], 0);
    let page = story.page(&["timeline", "shop"]);
    assert!(page.contains("without a known name: --all lists"), "{page}");
    assert!(!page.contains("dropped: file"), "{page}");
    assert!(story.page(&["timeline", "shop", "--all"]).contains("dropped: file"));
    // It can be gone back to all the same.
    let name = kinds(&all).into_iter().find(|name| name.starts_with("file ")).unwrap();
    story.ok(&["restore", "shop", "--before-drop", &name]);
}
