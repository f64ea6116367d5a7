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

use crate::{cli::golden::assert_shape, site::Site};

pub(crate) async fn connect(server: &Postgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.conninfo(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn count(server: &Postgres) -> i64 {
    let row = connect(server).await.query_one("SELECT count(*) FROM entry", &[]).await;
    row.map_or(-1, |row| row.get(0))
}

/// Lets the server's user, who is not ours, use what we wrote.
pub(crate) fn give_away(site: &Site) {
    let folder = site.path(".");
    let _ = Command::new("chown").args(["-R", "65534:65534"]).arg(&folder).status();
    let _ = Command::new("chmod").args(["a+rx"]).arg(&folder).status();
}

/// The program as a server's own user calls it.
pub(crate) fn called(site: &Site, words: &str) -> String {
    let at = |name: &str| site.path(name).display().to_string();
    format!(
        "env STILLPOINT_REPO={} XDG_STATE_HOME={} {} {words} --name shop --key-file {} -q",
        at("repo"),
        at("state"),
        env!("CARGO_BIN_EXE_stillpoint"),
        at("key"),
    )
}

/// Leaves a stopped standby nothing but `wal-get`.
fn feed(standby: &Postgres, site: &Site) {
    let conf = standby.data().join("postgresql.conf");
    let get = called(site, "wal-get %f %p");
    let lines =
        ["primary_conninfo = ''", "archive_mode = off", &format!("restore_command = '{get}'")];
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\n{}\n", lines.join("\n"))).unwrap();
    give_away(site);
}

pub(crate) async fn wait(world: &World, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

pub(crate) fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archiver_pushes_is_restored_and_fetched_by_a_standby_byte_for_byte() {
    let settings = ["autovacuum = off", "archive_mode = on", "archive_command = ''"];
    let settings = settings.map(str::to_owned).to_vec();
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let Some(mut server) = Postgres::required_with(15, &options) else { return };
    let (site, world) = (Site::of_clusters(), World::real(1));
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
    assert_shape("logs-push", &known);
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
    }
    site.fails(&["wal-get", "0000000100000000000000F0", "fetched"], 1, &[]);
    site.fails(&["logs", "get", "00000007.history", "fetched"], 1, &[]);
    let mut away = site.command(&["wal-get", "0000000100000000000000F0", "fetched"]);
    let status = away.env("STILLPOINT_REPO", "nowhere").output().unwrap().status;
    assert_eq!(status.code(), Some(126));
    let misused = site.command(&["wal-get", "--what"]).output().unwrap();
    assert_eq!(misused.status.code(), Some(126));
    let told = String::from_utf8(misused.stderr).unwrap();
    assert!(told.contains("(exit 126)"), "{told}");

    // A standby that knows nothing but `wal-get` catches up.
    feed(&standby, &site);
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

/// A server whose archiver waits, with a backup, and its WAL files that wait, in a folder of ours.
pub(crate) async fn with_waiting_files(
    site: &Site,
    count: usize,
) -> Option<(Postgres, Vec<String>)> {
    let settings = ["autovacuum = off", "archive_mode = on", "archive_command = ''"];
    let settings = settings.map(str::to_owned).to_vec();
    let options = PostgresOptions { settings, wal_segment_mib: 1, ..PostgresOptions::default() };
    let server = Postgres::required_with(17, &options)?;
    let client = connect(&server).await;
    client.batch_execute("CREATE TABLE entry (n int, t text)").await.unwrap();
    let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
    site.ok(&["backup", &url, "--name", "shop"]);
    for n in 0..count {
        let insert = format!(
            "INSERT INTO entry SELECT {n} * 500 + g, md5(g::text) FROM generate_series(1, 500) g; \
             SELECT pg_switch_wal()"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    let (own, copy) = (server.data().join("pg_wal"), site.path("wal"));
    let copied = Command::new("cp").arg("-a").args([own, copy]).status().unwrap();
    assert!(copied.success());
    let waiting = files(&site.path("wal/archive_status"));
    let waiting = waiting.iter().filter_map(|f| name(f).strip_suffix(".ready"));
    let waiting: Vec<_> = waiting.filter(|f| f.len() == 24).map(str::to_owned).collect();
    assert!(waiting.len() >= count, "{waiting:?}");
    Some((server, waiting))
}

fn receipts(site: &Site) -> Vec<String> {
    let folders = fs::read_dir(site.path("wal/stillpoint.spool")).into_iter().flatten().flatten();
    let found = folders.flat_map(|folder| files(&folder.path()));
    found.filter_map(|f| Some(name(&f).strip_suffix(".stored")?.to_owned())).collect()
}

fn receipt(site: &Site, file: &str) -> PathBuf {
    let folders = files(&site.path("wal/stillpoint.spool"));
    let mut paths = folders.iter().map(|folder| folder.join(format!("{file}.stored")));
    paths.find(|path| path.exists()).unwrap()
}

/// What the repository has of a file must be the file.
fn assert_stored(site: &Site, file: &str) {
    site.ok(&["wal-get", file, "fetched", "--name", "shop"]);
    let own = fs::read(site.path("wal").join(file)).unwrap();
    assert!(own == fs::read(site.path("fetched")).unwrap(), "{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_are_killed_lose_nothing_and_leave_no_false_receipt() {
    let (site, world) = (Site::of_clusters(), World::real(1));
    let Some((_server, waiting)) = with_waiting_files(&site, 50).await else { return };
    let at = |file: &str| format!("wal/{file}");
    let mut left = waiting.iter();
    for count in [0, 1, 2, 3, 5, 8] {
        // Until this one, everything is stored; then some more are under way.
        let (first, next) = (left.next().unwrap(), left.as_slice().first().unwrap());
        // Where nothing else waits, nobody works ahead.
        let alone = format!("alone/{first}");
        fs::create_dir_all(site.path("alone")).unwrap();
        fs::copy(site.path(&at(first)), site.path(&alone)).unwrap();
        site.ok(&["wal-push", &alone, "--name", "shop"]);
        for file in receipts(&site) {
            fs::remove_file(receipt(&site, &file)).unwrap();
        }
        let ahead = site.spawn(&["wal-push", &at(next), "--name", "shop", "--ahead"], "ahead");
        while receipts(&site).len() < count {
            world.clock.sleep(Duration::from_millis(1)).await;
        }
        ahead.kill();
        let told = receipts(&site);
        for file in &told {
            assert_stored(&site, file);
        }
        while left.as_slice().first().is_some_and(|file| told.contains(file)) {
            left.next();
        }
    }
    // The server asks for all that it did not hear of, some for the second time.
    for file in &waiting {
        site.ok(&["wal-push", &at(file), "--name", "shop"]);
    }
    for file in &waiting {
        assert_stored(&site, file);
    }
    let timeline = site.json(&["timeline", "shop"]);
    assert_eq!(timeline["stretches"].as_array().unwrap().len(), 1, "{timeline}");
    site.ok(&["verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_is_stale_or_damaged_is_not_believed() {
    let (site, world) = (Site::of_clusters(), World::real(1));
    let Some((_server, waiting)) = with_waiting_files(&site, 12).await else { return };
    let at = |index: usize| format!("wal/{}", waiting[index]);
    // One call stores all that wait, and the next ones need not ask the repository.
    site.ok(&["wal-push", &at(0), "--name", "shop"]);
    wait(&world, "all are stored", async || receipts(&site).len() == waiting.len() - 1).await;
    let push = |index| site.json(&["wal-push", &at(index), "--name", "shop"]);
    let outcome = |index| push(index)["outcome"].clone();
    assert_eq!(outcome(1), "stored");
    assert_eq!(outcome(1), "known", "a receipt counts once");

    let sound = fs::read(site.path(&at(2))).unwrap();
    let mut other = sound.clone();
    other[9000] ^= 1;
    fs::write(site.path(&at(2)), &other).unwrap();
    site.fails(&["wal-push", &at(2), "--name", "shop"], 5, &["other log of this name"]);
    fs::write(site.path(&at(2)), &sound).unwrap();
    assert_eq!(outcome(2), "known");
    let mut elsewhere = site.command(&["wal-push", &at(3), "--name", "shop"]);
    let elsewhere = elsewhere.env("STILLPOINT_REPO", "nowhere").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(6), "{elsewhere:?}");
    let receipt = receipts(&site).into_iter().find(|file| *file == waiting[3]);
    assert!(receipt.is_some(), "the receipt of another repository");
    assert_eq!(outcome(3), "stored");

    // What was fetched ahead and is not what was written is fetched again.
    site.ok(&["wal-get", &waiting[0], "fetched", "--name", "shop"]);
    let kept = || {
        let folders = files(&site.path("stillpoint.spool"));
        let found = folders.iter().flat_map(|folder| files(folder));
        let mut found = found.filter(|f| name(f).starts_with(&waiting[1]));
        found.find(|f| f.extension().is_some_and(|end| end == "kept"))
    };
    wait(&world, "the next one is fetched", async || kept().is_some()).await;
    let path = kept().unwrap();
    let mut damaged = fs::read(&path).unwrap();
    damaged[100_000] ^= 1;
    fs::write(&path, damaged).unwrap();
    for file in &waiting {
        assert_stored(&site, file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_follows_a_promotion_by_what_both_servers_archived() {
    let settings = ["autovacuum = off", "archive_mode = on", "archive_command = ''"];
    let settings = settings.map(str::to_owned).to_vec();
    let options = PostgresOptions { settings, wal_segment_mib: 1, ..PostgresOptions::default() };
    let Some(mut server) = Postgres::required_with(17, &options) else { return };
    let (site, world) = (Site::of_clusters(), World::real(1));
    let client = connect(&server).await;
    client.batch_execute("CREATE TABLE entry (n int PRIMARY KEY, t text)").await.unwrap();
    let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
    site.ok(&["backup", &url, "--name", "shop"]);
    give_away(&site);
    let push = called(&site, "wal-push %p");
    client.batch_execute(&format!("ALTER SYSTEM SET archive_command = '{push}'")).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let mut replica = server.standby().unwrap();
    replica.stop().unwrap();
    let successor = server.standby().unwrap();
    let insert = |from: i32| {
        format!(
            "INSERT INTO entry SELECT g, md5(g::text) FROM generate_series({from}, {}) g",
            from + 99
        )
    };
    let client = connect(&server).await;
    for from in [0, 100, 200] {
        client.batch_execute(&insert(from)).await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    client.batch_execute(&insert(300)).await.unwrap();
    wait(&world, "the standby has everything", async || count(&successor).await == 400).await;
    let query = "SELECT coalesce(last_archived_wal, '') >= \
                 pg_walfile_name(pg_current_wal_lsn() - wal_segment_size.setting::int8) \
                 FROM pg_stat_archiver, pg_settings wal_segment_size \
                 WHERE wal_segment_size.name = 'wal_segment_size'";
    wait(&world, "all whole files are archived", async || {
        client.query_one(query, &[]).await.unwrap().get(0)
    })
    .await;
    server.kill();
    let client = connect(&successor).await;
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    for from in [400, 500] {
        client.batch_execute(&insert(from)).await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    let query = "SELECT coalesce(last_archived_wal, '') >= \
                 pg_walfile_name(pg_current_wal_lsn() - 1) FROM pg_stat_archiver";
    wait(&world, "the new timeline is archived", async || {
        client.query_one(query, &[]).await.unwrap().get(0)
    })
    .await;
    let own = |file: &str| successor.data().join("pg_wal").join(file);
    let second = files(&successor.data().join("pg_wal"));
    let first = second.iter().find(|f| name(f).len() == 24 && name(f).starts_with("00000002"));
    for file in ["00000002.history", name(first.unwrap())] {
        site.ok(&["wal-get", file, "fetched", "--name", "shop"]);
        assert!(fs::read(own(file)).unwrap() == fs::read(site.path("fetched")).unwrap(), "{file}");
    }
    site.fails(&["wal-get", "00000003.history", "fetched", "--name", "shop"], 1, &[]);
    let timeline = site.json(&["timeline", "shop"]);
    assert_eq!(timeline["stretches"].as_array().unwrap().len(), 1, "{timeline}");

    feed(&replica, &site);
    replica.restart().unwrap();
    wait(&world, "the replica followed", async || count(&replica).await == 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_timeline_is_there_although_log_before_it_was_never_archived() {
    let settings = ["autovacuum = off", "archive_mode = on", "archive_command = ''"];
    let settings = settings.map(str::to_owned).to_vec();
    let options = PostgresOptions { settings, wal_segment_mib: 1, ..PostgresOptions::default() };
    let Some(mut server) = Postgres::required_with(17, &options) else { return };
    let (site, world) = (Site::of_clusters(), World::real(1));
    let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
    site.ok(&["backup", &url, "--name", "shop"]);
    give_away(&site);
    let successor = server.standby().unwrap();
    let client = connect(&server).await;
    client.batch_execute("CREATE TABLE entry (n int); SELECT pg_switch_wal()").await.unwrap();
    client.batch_execute("INSERT INTO entry VALUES (1)").await.unwrap();
    wait(&world, "the standby has everything", async || {
        let there = "SELECT to_regclass('entry') IS NOT NULL";
        connect(&successor).await.query_one(there, &[]).await.unwrap().get(0)
    })
    .await;
    server.kill();
    let client = connect(&successor).await;
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    let push = called(&site, "wal-push %p");
    client.batch_execute(&format!("ALTER SYSTEM SET archive_command = '{push}'")).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    client.batch_execute("INSERT INTO entry VALUES (2)").await.unwrap();
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    let query = "SELECT coalesce(last_archived_wal, '') >= \
                 pg_walfile_name(pg_current_wal_lsn() - 1) FROM pg_stat_archiver";
    wait(&world, "the new timeline is archived", async || {
        client.query_one(query, &[]).await.unwrap().get(0)
    })
    .await;
    let own = successor.data().join("pg_wal/00000002.history");
    site.ok(&["wal-get", "00000002.history", "fetched", "--name", "shop"]);
    assert_eq!(fs::read(own).unwrap(), fs::read(site.path("fetched")).unwrap());
}
