//! PostgreSQL's own archiver and its recovery, served by `wal-push` and `wal-get`.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use stillpoint::world::World;
use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};
use tokio_postgres::{Client, NoTls};

use crate::site::Site;

async fn connect(server: &Postgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.conninfo(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn count(server: &Postgres) -> i64 {
    let row = connect(server).await.query_one("SELECT count(*) FROM entry", &[]).await;
    row.map_or(-1, |row| row.get(0))
}

/// Lets the server's user, who is not ours, use what we wrote.
fn give_away(site: &Site) {
    let folder = site.path(".");
    let _ = Command::new("chown").args(["-R", "65534:65534"]).arg(&folder).status();
    let _ = Command::new("chmod").args(["a+rx"]).arg(&folder).status();
}

/// The program as a server's own user calls it.
fn called(site: &Site, words: &str) -> String {
    let at = |name: &str| site.path(name).display().to_string();
    format!(
        "env STILLPOINT_REPO={} XDG_STATE_HOME={} {} {words} --name shop --key-file {} -q",
        at("repo"),
        at("state"),
        env!("CARGO_BIN_EXE_stillpoint"),
        at("key"),
    )
}

async fn wait(world: &World, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archiver_pushes_is_restored_and_fetched_by_a_standby_byte_for_byte() {
    let settings = ["autovacuum = off", "archive_mode = on", "archive_command = ''"];
    let settings = settings.map(str::to_owned).to_vec();
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let Some(mut server) = Postgres::required_with(15, &options) else { return };
    let (site, world) = (Site::new(), World::real(1).unwrap());
    let sql = "CREATE TABLE entry (n int PRIMARY KEY, t text)";
    connect(&server).await.batch_execute(sql).await.unwrap();
    let mut standby = server.standby().unwrap();
    standby.stop().unwrap();
    let url = || format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
    site.ok(&["backup", &url(), "--name", "shop"]);
    fs::create_dir(site.path("kept")).unwrap();
    give_away(&site);
    let kept = site.path("kept");
    let push = format!("cp %p {}/%f && {}", kept.display(), called(&site, "wal-push %p"));
    let client = connect(&server).await;
    client.batch_execute(&format!("ALTER SYSTEM SET archive_command = '{push}'")).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    for n in 0..12 {
        let insert = "INSERT INTO entry SELECT $1 * 1000 + g, repeat('x', 500) \
                      FROM generate_series(1, 1000) AS g";
        client.execute(insert, &[&n]).await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    wait(&world, "everything is archived", async || {
        let query = "SELECT archived_count, coalesce(last_archived_wal, '') >= \
                     pg_walfile_name(pg_current_wal_lsn() - 1), failed_count FROM pg_stat_archiver";
        let row = client.query_one(query, &[]).await.unwrap();
        assert!(row.get::<_, i64>(2) < 3, "{}", server.log());
        row.get::<_, i64>(0) >= 12 && files(&kept).len() >= 12 && row.get::<_, bool>(1)
    })
    .await;
    give_away(&site);

    // It is restored as streamed log is.
    let timeline = site.json(&["timeline", "shop"]);
    assert_eq!(timeline["stretches"].as_array().unwrap().len(), 1, "{timeline}");
    site.ok(&["verify"]);
    let mut restored = site.command(&["restore", "shop", "--at", "latest", "--to", "latest"]);
    let programs = Postgres::programs(15).unwrap();
    let output = restored.env("PATH", format!("{}:/usr/bin:/bin", programs.display())).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::create_dir(site.path("place")).unwrap();
    fs::rename(site.path("latest"), site.path("place/latest")).unwrap();
    {
        let again = Postgres::start_on(15, &site.path("place/latest")).unwrap();
        assert_eq!(count(&again).await, 12_000);
    }

    // Archived again: the same is fine, another content or another cluster's is not.
    let segments: Vec<_> = files(&kept).into_iter().filter(|f| name(f).len() == 24).collect();
    assert!(segments.len() >= 12, "{segments:?}");
    let path = segments[3].display().to_string();
    let known: Value = site.json(&["wal-push", &path, "--name", "shop"]);
    assert_eq!(known["outcome"], "known", "{known}");
    let mut other = fs::read(&segments[3]).unwrap();
    other[100_000] ^= 1;
    let changed = site.path(name(&segments[3]));
    fs::write(&changed, &other).unwrap();
    let changed = changed.display().to_string();
    site.fails(&["wal-push", &changed, "--name", "shop"], 5, &["other log of this name"]);
    other[24] ^= 1;
    fs::write(&changed, &other).unwrap();
    site.fails(&["wal-push", &changed, "--name", "shop"], 5, &["SP0520", "system identifier"]);

    // Fetched byte for byte, in and out of order, and with the statuses that a server expects.
    let wanted: Vec<_> = segments.iter().chain(segments.iter().step_by(5)).collect();
    for path in wanted {
        site.ok(&["wal-get", name(path), "fetched"]);
        assert!(fs::read(path).unwrap() == fs::read(site.path("fetched")).unwrap(), "{path:?}");
        assert!(files(&site.path("stillpoint.spool")).len() <= 8);
    }
    site.fails(&["wal-get", "0000000100000000000000F0", "fetched"], 1, &[]);
    site.fails(&["logs", "get", "00000007.history", "fetched"], 1, &[]);
    let mut away = site.command(&["wal-get", "0000000100000000000000F0", "fetched"]);
    let status = away.env("STILLPOINT_REPO", "nowhere").output().unwrap().status;
    assert_eq!(status.code(), Some(126));
    let misused = site.command(&["wal-get", "--what"]).output().unwrap().status;
    assert_eq!(misused.code(), Some(126));

    // A standby that knows nothing but `wal-get` catches up.
    let conf = standby.data().join("postgresql.conf");
    let mut text = fs::read_to_string(&conf).unwrap();
    text.push_str("\nprimary_conninfo = ''\narchive_mode = off\n");
    text.push_str(&format!("restore_command = '{}'\n", called(&site, "wal-get %f %p")));
    fs::write(&conf, text).unwrap();
    give_away(&site);
    standby.restart().unwrap();
    wait(&world, "the standby has everything", async || count(&standby).await == 12_000).await;

    // Streamed log goes on from there, and is fetched in the same way.
    let words = ["logs", "stream", &url(), "--name", "shop", "--stop-at-eof"];
    let capture = site.spawn(&words, "capture");
    wait(&world, "the capture runs", async || {
        fs::read_to_string(site.path("capture.log")).unwrap().contains("Capturing")
    })
    .await;
    client.batch_execute("INSERT INTO entry VALUES (-1); SELECT pg_switch_wal()").await.unwrap();
    client.batch_execute("INSERT INTO entry VALUES (-2)").await.unwrap();
    world.clock.sleep(Duration::from_secs(3)).await;
    assert_eq!(capture.end(), 0);
    let said = fs::read_to_string(site.path("capture.log")).unwrap();
    assert!(!said.contains("gap"), "{said}");
    wait(&world, "the archiver agrees with the capture", async || {
        files(&kept).iter().filter(|f| name(f).len() == 24).count() > segments.len()
    })
    .await;
    let newest = files(&kept).into_iter().rev().find(|f| name(f).len() == 24).unwrap();
    site.ok(&["wal-get", name(&newest), "fetched"]);
    assert!(fs::read(&newest).unwrap() == fs::read(site.path("fetched")).unwrap());
    drop(standby);
    server.stop().unwrap();
}
