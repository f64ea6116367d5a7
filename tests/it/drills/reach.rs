//! A sandbox reaches nothing. A cluster that archives, subscribes, has slots, loads libraries and
//! follows another server is restored, and its sandbox is made to try everything else.

use std::fs;

use serde_json::Value;

use super::remains::assert_none;
use crate::postgres::{Story, connect};

/// What the sandbox is asked, and what it must answer; `None` where the kernel must refuse.
#[expect(clippy::print_stderr, reason = "a kernel that lacks something is named")]
fn attempts(story: &Story, archive: &str, process: &str) -> Vec<(String, Option<&'static str>)> {
    let port = story.server.port();
    let socket = story.server.socket_directory().display().to_string();
    let program = |command: &str| format!("COPY (SELECT 1) TO PROGRAM '{command}'");
    let dblink = |host: &str| {
        format!(
            "SELECT * FROM \
             dblink('host={host} port={port} user=postgres', 'DROP TABLE entry') AS x (t text)"
        )
    };
    let settings = [
        "archive_mode",
        "archive_command",
        "listen_addresses",
        "primary_conninfo",
        "shared_preload_libraries",
    ];
    let settings = settings.map(|name| format!("current_setting('{name}')")).join(" || ',' || ");
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ \
                   'archiver|walsender|walreceiver|logical|autovacuum'";
    let mut attempts = Vec::new();
    if signals_are_kept_in() {
        attempts.push((program(&format!("kill -9 {process}")), None));
    } else {
        eprintln!("not tried, since this kernel cannot refuse it: a signal to the server");
    }
    attempts.extend([
        (program(&format!("cat > {archive}/stolen")), None),
        (program(&format!("rm {archive}/kept")), None),
        (dblink("127.0.0.1"), None),
        (dblink(&socket), None),
        ("SELECT 1 FROM pg_switch_wal(); CHECKPOINT; SELECT 2".to_owned(), Some("2")),
        (format!("SELECT {settings}"), Some("off,(disabled),,,")),
        (workers.to_owned(), Some("0")),
        ("SELECT count(*) FROM pg_replication_slots".to_owned(), Some("0")),
        ("SELECT subenabled FROM pg_subscription".to_owned(), Some("t")),
        // Long enough for anything that works in the background.
        ("SELECT pg_sleep(2)".to_owned(), Some("")),
    ]);
    attempts
}

/// Whether the kernel can keep a process from signalling others of its user.
/// Source: landlock(7), "ABI versions": the sixth, of Linux 6.12.
fn signals_are_kept_in() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_reaches_neither_the_protected_server_nor_its_archive() {
    for major in [15, 13] {
        try_everything(major).await;
    }
}

async fn try_everything(major: u32) {
    let settings = [
        "wal_level = logical",
        "archive_mode = on",
        "log_connections = on",
        "shared_preload_libraries = 'pg_stat_statements'",
    ];
    let Some(mut story) = Story::begin_with(major, "local", &settings.map(str::to_owned)).await
    else {
        return;
    };
    story.write(2).await;
    fs::create_dir(story.site.path("scratch")).unwrap();
    let archive = story.server.make_directory("archive").unwrap();
    fs::write(archive.join("kept"), "").unwrap();
    let archive = archive.display().to_string();
    let (port, client) = (story.server.port(), connect(&story.server).await);
    let live = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    for statement in [
        format!("ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'"),
        format!("ALTER SYSTEM SET primary_conninfo = '{live} application_name=follower'"),
        "SELECT pg_reload_conf()".to_owned(),
        "CREATE EXTENSION dblink".to_owned(),
        "CREATE DATABASE other".to_owned(),
        "ALTER DATABASE other SET session_preload_libraries = 'missing'".to_owned(),
        "SELECT pg_create_logical_replication_slot('live', 'pgoutput')".to_owned(),
        "CREATE PUBLICATION live FOR ALL TABLES".to_owned(),
        format!(
            "CREATE SUBSCRIPTION subscriber CONNECTION '{live} application_name=subscriber' \
             PUBLICATION live WITH (slot_name = live, create_slot = false, copy_data = false)"
        ),
    ] {
        client.batch_execute(&statement).await.unwrap();
    }
    story.back_up();
    client.batch_execute("ALTER SUBSCRIPTION subscriber DISABLE").await.unwrap();
    story.pause(1000).await;
    let logins = |story: &Story| {
        let log = story.server.log();
        let foreign = ["application_name=subscriber", "application_name=follower", "dblink"];
        log.lines().filter(|line| foreign.iter().any(|name| line.contains(name))).count()
    };
    let before = logins(&story);
    assert!(before > 0, "the subscription never worked: {}", story.server.log());

    let lock = fs::read_to_string(story.server.data().join("postmaster.pid")).unwrap();
    let attempts = attempts(&story, &archive, lock.lines().next().unwrap());
    let mut words = vec!["drill", "run", "shop", "--scratch", "scratch", "--inside", "postgres"];
    for (sql, answer) in &attempts {
        words.extend(["--check", sql, "--expect", answer.unwrap_or("done")]);
    }
    let (status, drill, said) = story.run(&words);
    assert_eq!(status, 12, "{said}");
    assert!(drill["sandbox"].as_str().unwrap().contains("the kernel refuses"), "{drill:#}");
    for (number, (sql, answer)) in attempts.iter().enumerate() {
        let assertion: &Value = &drill["assertions"][number];
        if answer.is_some() {
            assert_eq!(assertion["verdict"], "passed", "{sql}: {assertion:#}");
            continue;
        }
        assert!(assertion["answered"].is_null(), "{sql}: {assertion:#}");
        // It got as far as the kernel, which refused it.
        let refused = if sql.contains("dblink") { "connection" } else { "program" };
        let error = assertion["error"].as_str().unwrap();
        assert!(error.contains(refused), "{sql}: {error}");
    }
    assert_none(&story.site);
    let archived = fs::read_dir(&archive).unwrap().map(|entry| entry.unwrap().file_name());
    let archived: Vec<_> = archived.map(|name| name.into_string().unwrap()).collect();
    assert!(archived.iter().any(|name| name == "kept"), "{archived:?}");
    // The restored cluster is on a timeline of its own.
    let is_foreign = |name: &String| name == "stolen" || !name.starts_with("00000001");
    let foreign: Vec<_> =
        archived.iter().filter(|name| *name != "kept" && is_foreign(name)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(logins(&story), before, "{}", story.server.log());
    assert_eq!(story.ask("SELECT count(*)::text FROM entry").await, "2");
    let slots = "SELECT string_agg(slot_name || active::text, ',') FROM pg_replication_slots";
    assert_eq!(story.ask(slots).await, "livefalse");
}
