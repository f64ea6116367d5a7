//! PostgreSQL from the command line: a server that is backed up, captured and brought back to an
//! instant between two commits, on which another server is started.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use stillpoint::world::World;
use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};
use tokio_postgres::{Client, NoTls};

use crate::{cli::golden::assert_shape, site::Site};

/// A server, a repository, and when each row was surely there.
struct Story {
    world: World,
    server: Postgres,
    site: Site,
    url: String,
    /// An instant after the commit of each row, and before that of the next.
    instants: Vec<DateTime<Utc>>,
}

async fn connect(server: &Postgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.conninfo(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(server: &Postgres) -> Vec<i32> {
    let query = "SELECT n FROM entry ORDER BY n";
    let rows = connect(server).await.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

impl Story {
    async fn begin(major: u32, method: &str) -> Option<Self> {
        let settings = ["autovacuum = off", "wal_sender_timeout = 5s"].map(str::to_owned);
        let mut settings = settings.to_vec();
        if major >= 17 {
            settings.push("summarize_wal = on".to_owned());
        }
        let options = PostgresOptions { settings, ..PostgresOptions::default() };
        let server = Postgres::required_with(major, &options)?;
        let site = Site::new();
        // The server that is started on what is restored has a user of its own.
        let folder = site.path(".");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let port = server.port();
        let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{port}/postgres?method={method}");
        let sql = "CREATE TABLE entry (n int PRIMARY KEY, text text)";
        connect(&server).await.batch_execute(sql).await.unwrap();
        let world = World::real(1).unwrap();
        Some(Self { world, server, site, url, instants: Vec::new() })
    }

    async fn pause(&self, milliseconds: u64) {
        self.world.clock.sleep(Duration::from_millis(milliseconds)).await;
    }

    async fn write(&mut self, count: usize) {
        let client = connect(&self.server).await;
        for _ in 0..count {
            let n = i32::try_from(self.instants.len()).unwrap() + 1;
            let insert = "INSERT INTO entry VALUES ($1, repeat('x', 1000))";
            client.execute(insert, &[&n]).await.unwrap();
            self.pause(20).await;
            self.instants.push(self.world.clock.now());
            self.pause(20).await;
        }
    }

    /// Runs the program where it finds the server's own programs.
    fn run(&self, words: &[&str]) -> (i32, Value, String) {
        let programs = Postgres::programs(self.server.major()).unwrap();
        let mut places = vec![programs];
        places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut command = self.site.command(words);
        command.args(["--output", "json"]).env("PATH", env::join_paths(places).unwrap());
        let output = command.output().unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap_or(-1), answer, said)
    }

    fn ok(&self, words: &[&str]) -> Value {
        let (status, answer, said) = self.run(words);
        assert_eq!(status, 0, "stillpoint {}\n{said}", words.join(" "));
        answer
    }

    fn back_up(&self) -> Value {
        self.ok(&["backup", &self.url, "--name", "shop"])
    }

    /// Restores to `at` and returns the rows that a server then has.
    async fn restore(&self, at: &str, name: &str) -> Vec<i32> {
        let answer = self.ok(&["restore", "shop", "--at", at, "--to", name]);
        let check = answer["check"].as_str().unwrap();
        assert!(check.contains("checksums of"), "{check}");
        self.start(&self.site.path(name)).await
    }

    async fn start(&self, data: &Path) -> Vec<i32> {
        let server = Postgres::start_on(self.server.major(), data).unwrap();
        rows(&server).await
    }
}

fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

async fn any_instant_can_be_restored(major: u32, method: &str) {
    let Some(mut story) = Story::begin(major, method).await else { return };
    let server = story.ok(&["check", &story.url]);
    assert_eq!((&server["engine"], &server["sound"]), (&"postgres".into(), &true.into()));
    let grants = story.ok(&["grants", "postgres", "--server-version", &major.to_string()]);
    assert!(grants["statements"].as_str().unwrap().contains("CREATE ROLE \"stillpoint\""));
    story.write(3).await;
    let first = story.back_up();
    assert_eq!(first["backup"]["incremental"], false, "{first}");
    let words = ["logs", "stream", &story.url, "--name", "shop", "--flush", "1s", "--stop-at-eof"];
    let capture = story.site.spawn(&words, "capture");
    while !fs::read_to_string(story.site.path("capture.log")).unwrap().contains("Capturing") {
        story.pause(20).await;
    }
    story.write(5).await;
    // Servers before 17 do not know themselves what changed; captured log does.
    while story.ok(&["logs", "status", "shop"])["databases"][0]["captured_to"].is_null() {
        story.pause(50).await;
    }
    let second = story.back_up();
    assert_eq!(second["backup"]["incremental"], true, "{second}");
    story.write(5).await;
    story.pause(2500).await;
    let said = || fs::read_to_string(story.site.path("capture.log")).unwrap();
    assert_eq!(capture.end(), 0, "{}", said());

    // Before the second backup, and after it; at the end.
    for wanted in [5, 8, 11] {
        let at = exact(story.instants[wanted - 1]);
        let found = story.restore(&at, &format!("at-{wanted}")).await;
        let expected: Vec<_> = (1..=i32::try_from(wanted).unwrap()).collect();
        assert_eq!(found, expected, "{at}\n{}", said());
    }
    assert_eq!(story.restore("latest", "latest").await.len(), 13);
    let id = first["backup"]["id"].as_str().unwrap();
    story.ok(&["restore", "shop", "--backup", id, "--to", "alone"]);
    assert_eq!(story.start(&story.site.path("alone")).await, [1, 2, 3]);

    // What cannot be reached is refused before a byte is written.
    let later = exact(story.world.clock.now() + chrono::TimeDelta::hours(1));
    let (status, _, said) = story.run(&["restore", "shop", "--at", &later, "--to", "never"]);
    assert_eq!(status, 6, "{said}");
    assert!(said.contains("SP0704") && !story.site.path("never").exists(), "{said}");

    let list = story.ok(&["list"]);
    assert_eq!(list["databases"][0]["engine"], "postgres", "{list}");
    assert!(story.ok(&["timeline", "shop"]).to_string().contains(id));
    story.ok(&["check", "--max-age", "1h"]);
    story.ok(&["verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_instant_of_15_can_be_restored_by_sql() {
    any_instant_can_be_restored(15, "sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_instant_of_18_can_be_restored_by_local_files() {
    any_instant_can_be_restored(18, "local").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_outlives_restarts_and_a_crash_of_the_server() {
    let Some(mut story) = Story::begin(15, "sql").await else { return };
    story.write(1).await;
    story.back_up();
    let words = ["logs", "stream", &story.url, "--name", "shop", "--stop-at-eof"];
    let capture = story.site.spawn(&words, "capture");
    let said = |story: &Story| fs::read_to_string(story.site.path("capture.log")).unwrap();
    while !said(&story).contains("Capturing") {
        story.pause(20).await;
    }
    for round in 0..3 {
        story.write(2).await;
        if round == 1 {
            story.server.kill()
        } else {
            story.server.stop().unwrap()
        }
        story.pause(3000).await;
        story.server.restart().unwrap();
        story.write(2).await;
        // It comes back by itself.
        let times = |text: &str| text.matches("Capturing").count();
        for _ in 0..400 {
            if times(&said(&story)) >= round + 2 {
                break;
            }
            story.pause(50).await;
        }
        // Long enough for it to count as well again.
        story.pause(2500).await;
        assert_eq!(said(&story).matches("Interrupted").count(), round + 1, "{}", said(&story));
    }
    story.pause(2500).await;
    assert_eq!(capture.end(), 0, "{}", said(&story));
    assert!(!said(&story).contains("gap"), "{}", said(&story));
    assert_eq!(story.restore("latest", "latest").await.len(), 13);
    let retired = story.ok(&["logs", "retire", &story.url, "--name", "shop"]);
    assert_eq!(retired["dropped"], "replication slot stillpoint", "{retired}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_about_servers_and_roles_have_the_form_that_scripts_rely_on() {
    let Some(story) = Story::begin(15, "sql").await else { return };
    assert_shape("grants", &story.ok(&["grants", "postgres", "--server-version", "15"]));
    let mut found = story.ok(&["check", &story.url]);
    // Each of them is looked at, whatever it says.
    let subjects: Vec<_> =
        found["findings"].as_array().unwrap().iter().map(|f| &f["subject"]).collect();
    for subject in ["wal_level", "max_wal_senders", "max_slot_wal_keep_size", "way of backups"] {
        assert!(subjects.contains(&&Value::from(subject)), "{subject}: {subjects:?}");
    }
    found["version"] = "<version>".into();
    found["findings"][0]["found"] = "<version>".into();
    assert_shape("check-server", &found);
}
