//! Increments by the WAL that was captured, where the server keeps no summaries.

use std::process::Command;

use stillpoint_conformance::memory::MemoryLog;
use stillpoint_contract::{Engine as _, LogMark, Shape};
use stillpoint_testcontainers::{Postgres, PostgresOptions};
use tokio_postgres::{Client, NoTls};

use super::stage::{
    Bustle, Copy, Restored, Stage, back_up_after, back_up_on, connect, endpoint, engine,
};

const QUIET: &[&str] = &["autovacuum = off", "summarize_wal = off"];

fn settings(major: u32) -> &'static [&'static str] {
    if major >= 17 { QUIET } else { &QUIET[..1] }
}

/// Captures what was committed since the copy, and stops.
async fn capture(stage: &Stage, log: &MemoryLog, mark: &LogMark) {
    let mut opened = stage.driver("").await.open_log(Some(mark)).await.unwrap();
    assert_eq!(opened.gap, None);
    log.open(Some(mark), &opened);
    log.drain(opened.capture.as_mut()).await.unwrap();
}

fn mark(copy: &Copy) -> LogMark {
    let position = copy.evidence.consistent_at.clone().unwrap();
    LogMark { position, cursor: copy.evidence.cursor.clone() }
}

/// Bytes that were read of relations that the base has, and all of them.
fn read_bytes(base: &Copy, copy: &Copy) -> (u64, u64) {
    let (mut read, mut all) = (0, 0);
    for record in copy.parts.records() {
        let is_known = base.parts.bytes(&record.spec.name).is_some();
        if is_known && matches!(record.spec.shape, Shape::Paged { .. }) {
            let kept: u64 =
                copy.parts.kept(&record.spec.name).iter().map(|kept| kept.end - kept.start).sum();
            all += record.length_bytes;
            read += record.length_bytes - kept;
        }
    }
    (read, all)
}

/// A hash of every row of every table of a database, table by table.
async fn rows(client: &Client) -> Vec<(String, Option<String>)> {
    let tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' \
                  AND relnamespace = 'public'::regnamespace AND relpersistence = 'p' ORDER BY 1";
    let mut found = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let hash = format!("SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t");
        found.push((table, client.query_one(&hash, &[]).await.unwrap().get(0)));
    }
    found
}

async fn other(conninfo: &str, database: &str) -> Client {
    let config: tokio_postgres::Config = conninfo.parse().unwrap();
    let (client, connection) = config.clone().dbname(database).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The server's own check of every heap and index, where its program is installed.
fn amcheck(major: u32, server: &Postgres) {
    let program = Postgres::programs(major).unwrap().join("pg_amcheck");
    if !program.exists() {
        return;
    }
    let mut command = Command::new(program);
    command.args(["--all", "--install-missing", "--heapallindexed"]);
    command.args(["--host", "127.0.0.1", "--username", "postgres"]);
    let output = command.args(["--port", &server.port().to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

const TABLES: &str = "
    CREATE TABLE big AS SELECT n, repeat(md5(n::text), 40) AS t FROM generate_series(1, 40000) AS n;
    CREATE INDEX ON big (n);
    CREATE TABLE cut AS SELECT n FROM generate_series(1, 30000) AS n;
    CREATE TABLE emptied AS SELECT n FROM generate_series(1, 30000) AS n;
    CREATE TABLE dropped AS SELECT n FROM generate_series(1, 30000) AS n;
    CREATE TABLE rewritten (n int PRIMARY KEY, t text);
    INSERT INTO rewritten SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n;
    CREATE TABLE seen (n int PRIMARY KEY);
    INSERT INTO seen SELECT generate_series(1, 20000);
    CREATE DATABASE doomed;
    CREATE DATABASE reborn;
    VACUUM seen;
    CHECKPOINT";

const CHANGES: &str = "
    UPDATE big SET t = reverse(t) WHERE n % 4000 = 7;
    DELETE FROM cut WHERE n > 100;
    VACUUM cut;
    INSERT INTO cut SELECT generate_series(200000, 200300);
    TRUNCATE emptied;
    INSERT INTO emptied VALUES (1), (2);
    DROP TABLE dropped;
    DELETE FROM rewritten WHERE n % 3 = 0;
    VACUUM FULL rewritten;
    DELETE FROM seen WHERE n <= 50;
    DROP DATABASE doomed;
    DROP DATABASE reborn;
    CREATE DATABASE reborn;
    CREATE DATABASE born;
    CREATE TABLE made AS SELECT generate_series(1, 5000) AS n";

async fn only_changed_blocks(major: u32, way: &str) {
    let Some(stage) = Stage::open(major, settings(major)).await else { return };
    stage.run(TABLES).await;
    let method = format!("method={way}");
    // From here on, a slot keeps the WAL.
    drop(stage.driver("").await.open_log(None).await.unwrap());
    let base = stage.back_up(&method).await;
    let log = MemoryLog::new();
    stage.run(CHANGES).await;
    capture(&stage, &log, &mark(&base)).await;
    // Not captured any more, but still on the server.
    stage.run("UPDATE big SET t = 'late' WHERE n = 39999; INSERT INTO made VALUES (-1)").await;
    let client = other(&stage.server.conninfo(), "reborn").await;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 500) AS n").await.unwrap();

    let copy = back_up_after(&stage, &method, &base, &log).await;
    let method_said = &copy.evidence.method;
    assert!(copy.evidence.incremental, "{method_said}");
    assert!(method_said.contains("changed by captured WAL"), "{method_said}");
    let (read, all) = read_bytes(&base, &copy);
    assert!(read * 10 < all, "{way}: {read} of {all} B were read");

    let restored = Restored::start(major, &copy).unwrap();
    restored.check().await;
    assert_eq!(rows(&restored.client().await).await, rows(&stage.client().await).await);
    for database in ["reborn", "born"] {
        let ours = other(&restored.server.conninfo(), database).await;
        let theirs = other(&stage.server.conninfo(), database).await;
        assert_eq!(rows(&ours).await, rows(&theirs).await, "{database}");
    }
    // By the index alone, which trusts the visibility map.
    let seen = "SET enable_seqscan = off; SET enable_bitmapscan = off";
    let client = restored.client().await;
    client.batch_execute(seen).await.unwrap();
    let count = client.query_one("SELECT count(*) FROM seen WHERE n < 1000", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 949);
    amcheck(major, &restored.server);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sql_captured_log_tells_13_what_changed() {
    only_changed_blocks(13, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_the_server_captured_log_tells_13_what_changed() {
    only_changed_blocks(13, "local").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sql_captured_log_tells_15_what_changed() {
    only_changed_blocks(15, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_the_server_captured_log_tells_15_what_changed() {
    only_changed_blocks(15, "local").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_log_tells_17_without_summaries_what_changed() {
    only_changed_blocks(17, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_a_busy_server_hold_no_part_of_a_transaction() {
    let Some(stage) = Stage::open(15, settings(15)).await else { return };
    drop(stage.driver("").await.open_log(None).await.unwrap());
    let mut base = stage.back_up("method=sql").await;
    let log = MemoryLog::new();
    let mut from = mark(&base);
    for round in 0..3 {
        let bustle = Bustle::start(&stage).await;
        stage.run("UPDATE still SET t = t WHERE n % 1000 = 0").await;
        let mut opened = stage.driver("").await.open_log(Some(&from)).await.unwrap();
        assert_eq!(opened.gap, None);
        log.open(Some(&from), &opened);
        for _ in 0..3 {
            log.take(opened.capture.as_mut()).await.unwrap();
        }
        drop(opened);
        from = log.mark().unwrap();
        let copy = back_up_after(&stage, "method=sql", &base, &log).await;
        let number = bustle.end().await;
        assert!(copy.evidence.incremental, "{round}: {}", copy.evidence.method);
        let restored = Restored::start(15, &copy).unwrap();
        assert!(restored.check().await <= number);
        stage.run("UPDATE ledger SET number = 0").await;
        // The next one joins the log behind this backup.
        capture(&stage, &log, &from).await;
        from = log.mark().unwrap();
        base = copy;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_log_that_proves_nothing_is_not_trusted() {
    let Some(mut stage) = Stage::open(15, settings(15)).await else { return };
    let base = stage.back_up("method=sql").await;
    let (log, whole) = (MemoryLog::new(), "every block (");
    stage.run("UPDATE still SET t = t WHERE n = 1").await;
    capture(&stage, &log, &mark(&base)).await;
    // The slot is gone, and what was not captured as well.
    stage.run("SELECT pg_drop_replication_slot('stillpoint')").await;
    for _ in 0..3 {
        stage.run("UPDATE still SET t = t WHERE n = 2; SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    let copy = back_up_after(&stage, "method=sql", &base, &log).await;
    assert!(!copy.evidence.incremental, "{}", copy.evidence.method);
    assert!(copy.evidence.method.contains(whole), "{}", copy.evidence.method);
    Restored::start(15, &copy).unwrap().check().await;

    // A copy of the same cluster that went another way from the base on.
    let base = stage.back_up("method=sql").await;
    let log = MemoryLog::new();
    let twin = Restored::start(15, &base).unwrap();
    let mut opened = stage.driver("").await.open_log(Some(&mark(&base))).await.unwrap();
    log.open(Some(&mark(&base)), &opened);
    stage.run("UPDATE still SET t = t WHERE n < 500").await;
    log.drain(opened.capture.as_mut()).await.unwrap();
    drop(opened);
    let client = connect(&twin.server.conninfo()).await;
    client.batch_execute("UPDATE still SET t = t WHERE n = 3").await.unwrap();
    let driver = engine().connect(&endpoint(&twin.server, "method=sql")).await.unwrap();
    let copy = back_up_on(driver.as_ref(), &base, &log).await;
    assert!(!copy.evidence.incremental, "{}", copy.evidence.method);
    assert!(copy.evidence.method.contains(whole), "{}", copy.evidence.method);
    stage.server.stop().unwrap();
}

/// A standby takes over, and what the old primary wrote before counts as well.
#[tokio::test(flavor = "multi_thread")]
async fn captured_log_tells_what_changed_across_a_promotion() {
    for (major, way) in [(13, "sql"), (15, "local")] {
        let Some(mut stage) = Stage::open(major, settings(major)).await else { continue };
        stage.run(TABLES).await;
        let standby = Stage { server: stage.server.standby().unwrap() };
        let method = format!("method={way}");
        drop(stage.driver("").await.open_log(None).await.unwrap());
        standby.run("SELECT pg_create_physical_replication_slot('stillpoint', true)").await;
        let base = stage.back_up(&method).await;
        let log = MemoryLog::new();
        stage.run(CHANGES).await;
        capture(&stage, &log, &mark(&base)).await;
        let written = "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8";
        let replayed = "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8";
        let ask = async |stage: &Stage, query: &str| -> i64 {
            stage.client().await.query_one(query, &[]).await.unwrap().get(0)
        };
        let written = ask(&stage, written).await;
        while ask(&standby, replayed).await < written {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        stage.server.kill();
        let stage = standby;
        stage.run("SELECT pg_promote()").await;
        stage.run("UPDATE big SET t = 'promoted' WHERE n % 5000 = 9; DROP TABLE made").await;

        // Not captured beyond the switch: then nobody knows.
        let copy = back_up_after(&stage, &method, &base, &log).await;
        let said = &copy.evidence.method;
        assert!(!copy.evidence.incremental && said.contains("does not reach timeline 2"), "{said}");

        capture(&stage, &log, &log.mark().unwrap()).await;
        stage.run("UPDATE big SET t = 'late' WHERE n = 39999").await;
        let copy = back_up_after(&stage, &method, &base, &log).await;
        let said = &copy.evidence.method;
        assert!(copy.evidence.incremental && said.contains("changed by captured WAL"), "{said}");
        let (read, all) = read_bytes(&base, &copy);
        assert!(read * 10 < all, "{way}: {read} of {all} B were read");
        let restored = Restored::start(major, &copy).unwrap();
        restored.check().await;
        assert_eq!(rows(&restored.client().await).await, rows(&stage.client().await).await);
        amcheck(major, &restored.server);
    }
}

const FILE_BYTES: u128 = 1 << 20;

/// Where a captured stretch ends with a file, no record ends: its bytes are the proof.
#[tokio::test(flavor = "multi_thread")]
async fn captured_log_that_ends_with_a_file_counts_only_for_the_server_that_wrote_it() {
    for major in [13, 15] {
        let settings = ["autovacuum = off", "min_wal_size = 32MB"].map(str::to_owned).into();
        let options =
            PostgresOptions { wal_segment_mib: 1, settings, ..PostgresOptions::default() };
        let Some(stage) = Stage::open_with(major, &options).await else { continue };
        drop(stage.driver("").await.open_log(None).await.unwrap());
        let base = stage.back_up("method=sql").await;
        let twin = Restored::start(major, &base).unwrap();
        let log = MemoryLog::new();
        let mut opened = stage.driver("").await.open_log(Some(&mark(&base))).await.unwrap();
        log.open(Some(&mark(&base)), &opened);
        // Others may write between a switch and its capture.
        let mut edge = 1;
        for _ in 0..20 {
            stage.run("UPDATE still SET t = t WHERE n < 500; SELECT pg_switch_wal()").await;
            log.drain(opened.capture.as_mut()).await.unwrap();
            edge = log.mark().unwrap().position.offset;
            if edge.is_multiple_of(FILE_BYTES) {
                break;
            }
        }
        assert_eq!(edge % FILE_BYTES, 0, "{major}: no stretch ended with a file");
        drop(opened);
        stage.run("UPDATE still SET t = t WHERE n > 19900").await;
        let copy = back_up_after(&stage, "method=sql", &base, &log).await;
        let said = &copy.evidence.method;
        assert!(copy.evidence.incremental && said.contains("changed by captured WAL"), "{said}");
        Restored::start(major, &copy).unwrap().check().await;

        // A copy of the same cluster passed the same place with other records.
        let client = connect(&twin.server.conninfo()).await;
        let query = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8";
        while client.query_one(query, &[]).await.unwrap().get::<_, i64>(0) <= edge as i64 {
            client.batch_execute("UPDATE still SET t = t WHERE n = 9000").await.unwrap();
            client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        }
        let inside = edge - 1;
        let file = format!(
            "SELECT pg_walfile_name('{:X}/{:X}')",
            inside >> 32,
            inside & u128::from(u32::MAX)
        );
        let file: String = client.query_one(&file, &[]).await.unwrap().get(0);
        assert!(twin.server.data().join("pg_wal").join(file).exists(), "nothing to compare with");
        let driver = engine().connect(&endpoint(&twin.server, "method=sql")).await.unwrap();
        let copy = back_up_on(driver.as_ref(), &base, &log).await;
        let said = &copy.evidence.method;
        assert!(!copy.evidence.incremental && said.contains("is not what was captured"), "{said}");
        Restored::start(major, &copy).unwrap().check().await;
    }
}
