//! PostgreSQL servers that are promoted, forked, or others than they seem.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;

use stillpoint_testcontainers::{POSTGRES_USER, Postgres};

use crate::postgres::{Story, connect, exact};

impl Story {
    /// What a command says that must end with this status.
    fn fails(&self, words: &[&str], status: i32) -> String {
        let (found, _, said) = self.run(words);
        assert_eq!(found, status, "stillpoint {}\n{said}", words.join(" "));
        said
    }

    fn address(port: u16) -> String {
        format!("postgres://{POSTGRES_USER}@127.0.0.1:{port}/postgres?method=sql")
    }
}

/// Waits until a standby has what its primary has.
async fn catch_up(story: &Story, standby: &Postgres) {
    let wanted = story.ask("SELECT pg_current_wal_lsn()::text").await;
    let client = connect(standby).await;
    let query = format!("SELECT pg_last_wal_replay_lsn() >= '{wanted}'");
    for _ in 0..400 {
        if client.query_one(&query, &[]).await.unwrap().get(0) {
            return;
        }
        story.pause(50).await;
    }
    panic!("the standby does not follow");
}

/// Waits until what was committed is captured on the second timeline, however long the capture
/// pauses between two looks for the server.
async fn wait_for_capture(story: &Story) {
    let wanted = story.ask("SELECT pg_current_wal_lsn()::text").await;
    let query = |reached: &str| format!("SELECT ('{reached}'::pg_lsn >= '{wanted}')::text");
    for _ in 0..300 {
        let status = story.ok(&["logs", "status", "shop"]);
        let status = &status["databases"][0];
        let is_second = status["captured_to"].as_str().is_some_and(|at| at.contains("/2:"));
        if let Some(reached) = status["captured_to_engine_position"].as_str()
            && is_second
            && story.ask(&query(reached)).await == "true"
        {
            return;
        }
        story.pause(100).await;
    }
    panic!("the capture does not follow: {}", story.ok(&["logs", "status", "shop"]));
}

async fn a_standby_is_promoted(major: u32) {
    let Some(mut story) = Story::begin(major, "sql").await else { return };
    story.write(2).await;
    let standby = story.server.standby().unwrap();
    let (old_port, new_port) = (story.server.port(), standby.port());
    // Each server keeps the log for us: a slot does not come along with a promotion.
    let slot = "SELECT pg_create_physical_replication_slot('stillpoint', true)::text";
    connect(&standby).await.query_one(slot, &[]).await.unwrap();
    story.url = format!(
        "postgres://{POSTGRES_USER}@127.0.0.1:{old_port},127.0.0.1:{new_port}/postgres\
         ?method=sql&target_session_attrs=read-write"
    );
    let first = story.back_up();
    let capture = story.capture().await;
    story.write(4).await;
    catch_up(&story, &standby).await;
    story.server.kill();
    connect(&standby).await.batch_execute("SELECT pg_promote()").await.unwrap();
    let mut old = std::mem::replace(&mut story.server, standby);
    story.write(4).await;
    let second = story.back_up();
    story.write(2).await;
    wait_for_capture(&story).await;
    story.end(capture).await;
    let said = fs::read_to_string(story.site.path("capture.log")).unwrap();
    assert!(!said.contains("gap"), "{said}");

    // Before the switch, on both sides of it, and behind the backup after it.
    for wanted in [4, 6, 7, 9, 11] {
        let at = exact(story.instants[wanted - 1]);
        let found = story.restore(&at, &format!("at-{wanted}")).await;
        let expected: Vec<_> = (1..=i32::try_from(wanted).unwrap()).collect();
        assert_eq!(found, expected, "PostgreSQL {major}, {at}\n{said}");
    }
    for (backup, rows) in [(&first, 2), (&second, 10)] {
        let id = backup["backup"]["id"].as_str().unwrap();
        let name = format!("alone-{rows}");
        story.ok(&["restore", "shop", "--backup", id, "--to", &name]);
        assert_eq!(story.start(&story.site.path(&name)).await.len(), rows);
    }
    assert_eq!(story.restore("latest", "latest").await.len(), 12);
    let timeline = story.ok(&["timeline", "shop"]);
    assert_eq!(timeline["gaps"].as_array().unwrap().len(), 0, "{timeline}");

    // The old primary comes back and goes its own way.
    old.restart().unwrap();
    connect(&old).await.batch_execute("INSERT INTO entry VALUES (99)").await.unwrap();
    let url = Story::address(old.port());
    let before = story.ok(&["timeline", "shop"]);
    for words in [&["backup"][..], &["logs", "stream", "--stop-at-eof"]] {
        let said = story.fails(&[words, &[&url, "--name", "shop"]].concat(), 5);
        assert!(said.contains("SP0520") && said.contains("a branch that was left"), "{said}");
    }
    let after = story.ok(&["timeline", "shop"]);
    assert_eq!((&after["gaps"], &after["stretches"]), (&before["gaps"], &before["stretches"]));
    assert_eq!(story.restore("latest", "once-more").await.len(), 12);
    // Under a name of its own it is as good as any.
    story.ok(&["backup", &url, "--name", "old"]);
}

/// Somebody goes back, finds that it was too far, and goes back again: what is backed up then
/// holds nothing of what was backed up in between.
#[tokio::test(flavor = "multi_thread")]
async fn two_restores_of_one_point_are_two_histories() {
    for (major, method) in [(17, "sql"), (17, "base_backup"), (15, "sql")] {
        let Some(mut story) = Story::begin(major, method).await else { continue };
        let sql = "CREATE TABLE bulk AS SELECT n, 0 AS t, repeat('x', 100) \
                   FROM generate_series(1, 20000) AS n";
        connect(&story.server).await.batch_execute(sql).await.unwrap();
        // So that whoever looks a row up writes nothing.
        let client = connect(&story.server).await;
        client.batch_execute("CREATE INDEX ON bulk (n)").await.unwrap();
        client.batch_execute("VACUUM (FREEZE, ANALYZE) bulk").await.unwrap();
        drop(client);
        story.write(2).await;
        let first = story.back_up();
        let id = first["backup"]["id"].as_str().unwrap();
        for (name, value) in [("once", 1), ("twice", 2)] {
            story.ok(&["restore", "shop", "--backup", id, "--to", name]);
            let port = story.server.port();
            story.server.stop().unwrap();
            story.server = Postgres::start_on(major, &story.site.path(name)).unwrap();
            let url = story.url.replace(&port.to_string(), &story.server.port().to_string());
            story.url = url;
            // Each changes other blocks, and is further in its log than the one before.
            let range = 5000 * value;
            let change = format!(
                "SET enable_seqscan = off; UPDATE bulk SET t = {value} \
                 WHERE n BETWEEN {range} AND {range} + 50"
            );
            for _ in 0..value {
                connect(&story.server).await.batch_execute(&change).await.unwrap();
                for _ in 0..value {
                    connect(&story.server)
                        .await
                        .batch_execute("SELECT pg_switch_wal()")
                        .await
                        .unwrap();
                }
            }
            // The second restore knows of the timeline that the first one began.
            let timeline = "SELECT timeline_id::text FROM pg_control_checkpoint()";
            assert_eq!(story.ask(timeline).await, (value + 1).to_string());
            story.ok(&["backup", &story.url, "--name", "shop", "--new-incarnation"]);
        }
        let sum = "SELECT string_agg(t || ':' || count, ',' ORDER BY t) FROM \
                   (SELECT t, count(*) FROM bulk GROUP BY t) AS s";
        let expected = story.ask(sum).await;
        story.ok(&["restore", "shop", "--to", "last"]);
        story.server = Postgres::start_on(major, &story.site.path("last")).unwrap();
        assert_eq!(story.ask(sum).await, expected, "PostgreSQL {major} by {method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_13_is_promoted_in_mid_stream() {
    a_standby_is_promoted(13).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_15_is_promoted_in_mid_stream() {
    a_standby_is_promoted(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_18_is_promoted_in_mid_stream() {
    a_standby_is_promoted(18).await;
}
