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
pub(crate) struct Story {
    pub(crate) world: World,
    pub(crate) server: Postgres,
    pub(crate) site: Site,
    pub(crate) url: String,
    /// An instant after the commit of each row, and before that of the next.
    pub(crate) instants: Vec<DateTime<Utc>>,
}

pub(crate) async fn connect(server: &Postgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.conninfo(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn rows(server: &Postgres) -> Vec<i32> {
    let query = "SELECT n FROM entry ORDER BY n";
    let rows = connect(server).await.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

impl Story {
    pub(crate) async fn begin(major: u32, method: &str) -> Option<Self> {
        Self::begin_with(major, method, &[]).await
    }

    pub(crate) async fn begin_with(major: u32, method: &str, more: &[String]) -> Option<Self> {
        let settings = ["autovacuum = off", "wal_sender_timeout = 5s"].map(str::to_owned);
        let mut settings = [&settings[..], more].concat();
        if major >= 17 {
            settings.push("summarize_wal = on".to_owned());
        }
        let options = PostgresOptions { settings, ..PostgresOptions::default() };
        let server = Postgres::required_with(major, &options)?;
        let site = Site::of_clusters();
        // The server that is started on what is restored has a user of its own.
        let folder = site.path(".");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let port = server.port();
        let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{port}/postgres?method={method}");
        let sql = "CREATE TABLE entry (n int PRIMARY KEY, text text)";
        connect(&server).await.batch_execute(sql).await.unwrap();
        let world = World::real(1);
        Some(Self { world, server, site, url, instants: Vec::new() })
    }

    pub(crate) async fn pause(&self, milliseconds: u64) {
        self.world.clock.sleep(Duration::from_millis(milliseconds)).await;
    }

    pub(crate) async fn write(&mut self, count: usize) {
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
    pub(crate) fn run(&self, words: &[&str]) -> (i32, Value, String) {
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

    pub(crate) fn ok(&self, words: &[&str]) -> Value {
        let (status, answer, said) = self.run(words);
        assert_eq!(status, 0, "stillpoint {}\n{said}", words.join(" "));
        answer
    }

    pub(crate) fn back_up(&self) -> Value {
        self.ok(&["backup", &self.url, "--name", "shop"])
    }

    /// Restores to `at` and returns the rows that a server then has.
    pub(crate) async fn restore(&self, at: &str, name: &str) -> Vec<i32> {
        let answer = self.ok(&["restore", "shop", "--at", at, "--to", name]);
        let check = answer["check"].as_str().unwrap();
        assert!(check.contains("checksums of"), "{check}");
        self.start(&self.site.path(name)).await
    }

    pub(crate) async fn start(&self, data: &Path) -> Vec<i32> {
        let server = Postgres::start_on(self.server.major(), data).unwrap();
        rows(&server).await
    }
}

pub(crate) fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A capture of the story's server, once it is at work.
pub(crate) struct Capturing(crate::site::Running);

impl Story {
    pub(crate) async fn capture(&self) -> Capturing {
        let words =
            ["logs", "stream", &self.url, "--name", "shop", "--flush", "1s", "--stop-at-eof"];
        let running = self.site.spawn(&words, "capture");
        while !fs::read_to_string(self.site.path("capture.log")).unwrap().contains("Capturing") {
            self.pause(20).await;
        }
        Capturing(running)
    }

    pub(crate) async fn end(&self, capture: Capturing) {
        self.pause(2500).await;
        let said = fs::read_to_string(self.site.path("capture.log")).unwrap();
        assert_eq!(capture.0.end(), 0, "{said}");
    }

    /// One text that the server answers.
    pub(crate) async fn ask(&self, query: &str) -> String {
        connect(&self.server).await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// What a command prints for people.
    pub(crate) fn page(&self, words: &[&str]) -> String {
        let output = self.site.command(words).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "stillpoint {}\n{said}", words.join(" "));
        String::from_utf8(output.stdout).unwrap()
    }
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
            story.server.kill();
        } else {
            story.server.stop().unwrap();
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
async fn points_are_named_as_postgresql_names_them() {
    let Some(mut story) = Story::begin(15, "sql").await else { return };
    story.write(2).await;
    story.back_up();
    let capture = story.capture().await;
    story.write(1).await;
    let lsn = story.ask("SELECT pg_current_wal_lsn()::text").await;
    let third = "WITH new AS (INSERT INTO entry VALUES (4) RETURNING 1) \
                 SELECT txid_current()::text FROM new";
    let xid = story.ask(third).await;
    let point = story.ask("SELECT pg_create_restore_point('before upgrade')::text").await;
    story.instants.push(story.world.clock.now());
    story.write(2).await;
    story.ask("SELECT pg_create_restore_point('after upgrade')::text").await;
    story.end(capture).await;

    for (number, (at, rows)) in [
        (lsn.as_str(), 3),
        (&format!("xid:{xid}"), 4),
        ("name:before upgrade", 4),
        ("name:after upgrade", 6),
        (&point, 4),
    ]
    .into_iter()
    .enumerate()
    {
        let found = story.restore(at, &format!("restored-{number}")).await;
        assert_eq!(found, (1..=rows).collect::<Vec<_>>(), "{at}");
    }

    // What cannot be reached is refused before a byte is written, and says what can.
    for (at, says) in [
        ("F/0", "nearest before"),
        ("0/10", "nearest after"),
        ("xid:4000000000", "newest"),
        ("name:never", "after upgrade"),
    ] {
        let (status, _, said) = story.run(&["restore", "shop", "--at", at, "--to", "never"]);
        assert_eq!(status, 6, "{at}: {said}");
        assert!(said.contains("SP0704") && said.contains(says), "{at}: {said}");
        assert!(!story.site.path("never").exists());
    }
    let (status, _, said) = story.run(&["restore", "shop", "--at", "xid:one", "--to", "never"]);
    assert!(status == 2 && said.contains("SP0102"), "{said}");
    let (_, _, said) = story.run(&["restore", "shop", "--at", "soon", "--to", "never"]);
    assert!(said.contains("xid:731") && said.contains("yesterday"), "{said}");

    // Positions look as the server prints them; scripts have the whole.
    let stable = story.ok(&["timeline", "shop"]);
    let newest = &stable["stretches"][0]["to"];
    let shown = newest["engine_position"].as_str().unwrap();
    assert!(shown.starts_with("0/"), "{stable}");
    assert!(newest["position"].as_str().unwrap().contains("/1:"), "{stable}");
    assert!(story.page(&["timeline", "shop"]).contains(shown));
    assert!(story.page(&["logs", "status", "shop"]).contains("0/"));
    let plan = story.page(&["restore", "shop", "--at", &point, "--to", "never", "--plan"]);
    assert!(plan.contains(&point), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_before_a_drop_is_proposed_and_restored() {
    for major in [13, 17] {
        let Some(mut story) = Story::begin(major, "sql").await else { continue };
        let run = async |sql: &str| connect(&story.server).await.batch_execute(sql).await.unwrap();
        run("CREATE TABLE orders (id int PRIMARY KEY, text text)").await;
        run("CREATE TABLE items AS SELECT 1 AS n").await;
        run("CREATE DATABASE other").await;
        story.back_up();
        let capture = story.capture().await;
        run("INSERT INTO orders VALUES (1, 'one')").await;
        run("CREATE SCHEMA young").await;
        run("CREATE TABLE young.late AS SELECT 1 AS n").await;
        story.pause(1500).await;
        run("TRUNCATE items").await;
        run("SELECT pg_create_restore_point('before the flood')").await;
        story.pause(1500).await;
        run("DROP TABLE orders").await;
        run("INSERT INTO entry VALUES (1)").await;
        run("DROP TABLE young.late").await;
        run("DROP DATABASE other").await;
        story.write(0).await;
        story.end(capture).await;

        let timeline = story.ok(&["timeline", "shop"]);
        let events = timeline["events"].as_array().unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|e| format!("{} {}", e["kind"].as_str().unwrap(), e["name"].as_str().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                "emptied postgres.public.items",
                "restore_point before the flood",
                "dropped postgres.public.orders",
                "dropped postgres.young.late",
                "dropped other",
            ],
            "PostgreSQL {major}"
        );
        let page = story.page(&["timeline", "shop"]);
        assert!(page.contains("dropped: postgres.public.orders"), "{page}");

        let proposed = story.ok(&["restore", "shop", "--before-drop", "orders"]);
        assert_shape("restore-before-drop", &proposed);
        let point = &proposed["loss"]["before"];
        assert_eq!(point["engine_position"], events[1]["point"]["engine_position"]);
        story.ok(&["restore", "shop", "--before-drop", "orders", "--to", "before"]);
        let server = Postgres::start_on(major, &story.site.path("before")).unwrap();
        let client = connect(&server).await;
        let row = client.query_one("SELECT text FROM orders", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "one");
        assert!(rows(&server).await.is_empty());
        story.ok(&["restore", "shop", "--before-drop", "young.late", "--to", "late"]);
        let server = Postgres::start_on(major, &story.site.path("late")).unwrap();
        assert_eq!(rows(&server).await, [1]);

        let words = ["restore", "shop", "--before-drop", "nothing", "--to", "never"];
        let (status, _, said) = story.run(&words);
        assert!(status == 6 && said.contains("postgres.public.orders at"), "{said}");
        assert!(!story.site.path("never").exists());
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Ends a server that a restore started.
fn stop(data: &Path) {
    let lock = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let process = lock.lines().next().unwrap();
    assert!(std::process::Command::new("kill").args(["-INT", process]).status().unwrap().success());
    while data.join("postmaster.pid").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_all_its_surroundings_is_restored_and_started() {
    for major in [13, 18] {
        let outside = tempfile::TempDir::with_prefix("stillpoint-etc-").unwrap();
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        open(outside.path()).unwrap();
        let (hba, ident) = (outside.path().join("rules"), outside.path().join("maps"));
        fs::write(&hba, "local all all trust\nhost all all 127.0.0.1/32 trust\n").unwrap();
        fs::write(&ident, "# of the original\n").unwrap();
        let port = free_port();
        let lines = [
            format!("hba_file = '{}'", hba.display()),
            format!("ident_file = '{}'", ident.display()),
            format!("port = {port}"),
            "unix_socket_directories = ''".to_owned(),
            // These rules let nobody replicate: WAL is copied once the backup is through.
            "wal_keep_size = '256MB'".to_owned(),
        ];
        let Some(mut story) = Story::begin_with(major, "sql", &lines).await else { continue };
        let space = story.server.make_directory("space").unwrap();
        let client = connect(&story.server).await;
        client
            .batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()))
            .await
            .unwrap();
        let sql = "CREATE TABLE quick TABLESPACE fast AS SELECT generate_series(1, 1000) AS n";
        client.batch_execute(sql).await.unwrap();
        story.write(2).await;
        story.back_up();

        // What cannot be done is refused before a byte is written.
        let elsewhere = story.site.path("elsewhere");
        let (unknown, inside) =
            (format!("slow={}", elsewhere.display()), "fast=relative".to_owned());
        let full = format!("fast={}", space.display());
        for (space, expected) in [(&unknown, 2), (&inside, 2), (&full, 5)] {
            let words = ["restore", "shop", "--to", "never", "--tablespace", space];
            let (status, _, said) = story.run(&words);
            assert_eq!(status, expected, "{said}");
            assert!(!story.site.path("never").exists() && !elsewhere.exists());
        }
        // Without the programs of the version; nothing installs 13 in a usual place.
        if major == 13 {
            let ran = story.site.run(&["restore", "shop", "--to", "never", "--start"]);
            assert!(ran.status == 5 && ran.err.contains("install PostgreSQL 13"), "{}", ran.err);
            assert!(!story.site.path("never").exists());
            let laid_out = story.site.run(&["restore", "shop", "--to", "laid-out"]);
            assert!(laid_out.out.contains("replays the WAL by itself"), "{}", laid_out.out);
            assert_eq!(story.start(&story.site.path("laid-out")).await, [1, 2]);
        }

        let space = format!("fast={}", elsewhere.display());
        let words = ["restore", "shop", "--to", "restored", "--tablespace", &space, "--start"];
        let answer = story.ok(&words);
        let restored = story.site.path("restored");
        assert!(answer["started"].as_str().unwrap().contains(&port.to_string()), "{answer}");
        assert!(answer["notes"].to_string().contains("hba_file comes to lie"), "{answer}");
        let conninfo = format!("host=127.0.0.1 port={port} user={POSTGRES_USER} dbname=postgres");
        let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
        tokio::spawn(connection);
        let query = "SELECT count(*)::text, current_setting('hba_file'), \
                     (SELECT pg_tablespace_location(oid) FROM pg_tablespace \
                     WHERE spcname = 'fast'), \
                     current_setting('data_directory') FROM quick";
        let row = client.query_one(query, &[]).await.unwrap();
        let text = |column: usize| row.get::<_, String>(column);
        assert_eq!(text(0), "1000");
        assert_eq!(text(1), restored.join("pg_hba.conf").display().to_string());
        assert_eq!(text(2), elsewhere.display().to_string());
        assert_eq!(text(3), restored.display().to_string());
        assert!(fs::read_to_string(restored.join("pg_ident.conf")).unwrap().contains("original"));
        drop(client);
        stop(&restored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_directory_is_rewritten_where_it_differs_also_after_kills() {
    for major in [15, 17] {
        let Some(mut story) = Story::begin(major, "sql").await else { continue };
        let sql = "CREATE TABLE bulk AS SELECT n, repeat(md5(n::text), 8) AS t \
                   FROM generate_series(1, 100000) AS n";
        connect(&story.server).await.batch_execute(sql).await.unwrap();
        story.write(2).await;
        story.back_up();
        story.ok(&["restore", "shop", "--to", "copy"]);
        let copy = story.site.path("copy");

        // It is in use; then it went its own way.
        let mut server = Postgres::start_on(major, &copy).unwrap();
        let (status, _, said) = story.run(&["restore", "shop", "--to", "copy", "--delta"]);
        assert!(status == 5 && said.contains("SP0703"), "{said}");
        let astray = "INSERT INTO entry VALUES (99); UPDATE bulk SET t = 'x' WHERE n < 100; \
                      CREATE TABLE stray AS SELECT generate_series(1, 10000) AS n; \
                      DROP TABLE IF EXISTS gone";
        connect(&server).await.batch_execute(astray).await.unwrap();
        server.stop().unwrap();
        drop(server);

        let answer = story.ok(&["restore", "shop", "--to", "copy", "--delta"]);
        let number = |field: &str| answer[field].as_u64().unwrap();
        assert!(number("kept_bytes") * 2 > number("restored_bytes"), "{answer}");
        assert!(number("kept_bytes") < number("restored_bytes"), "{answer}");
        let mut server = Postgres::start_on(major, &copy).unwrap();
        assert_eq!(rows(&server).await, [1, 2]);
        let query = "SELECT count(*)::text FROM bulk WHERE t = repeat(md5(n::text), 8)";
        let row = connect(&server).await.query_one(query, &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "100000");
        connect(&server).await.batch_execute(astray).await.unwrap();
        server.stop().unwrap();
        drop(server);

        // Killed again and again, somewhere in the middle.
        let half = story.site.path(".copy.stillpoint-rewriting").join("data");
        let is_half = || half.exists() && !half.join("global/pg_control").exists();
        let rewrite = || story.site.spawn(&["restore", "shop", "--to", "copy", "--delta"], "delta");
        for wait in [20, 60, 100, 150, 200, 300] {
            let running = rewrite();
            story.pause(wait).await;
            running.kill();
            if is_half() {
                assert!(Postgres::start_on(major, &half).is_err(), "a server started on a half");
            }
        }
        // And once surely there, however slow the machine is.
        let mut running = rewrite();
        while !is_half() && running.ended().is_none() {
            story.pause(2).await;
        }
        running.kill();
        assert!(is_half(), "no kill came in the middle");
        assert!(Postgres::start_on(major, &half).is_err(), "a server started on a half");
        story.ok(&["restore", "shop", "--to", "copy", "--delta"]);
        assert!(!story.site.path(".copy.stillpoint-rewriting").exists());
        assert_eq!(story.start(&copy).await, [1, 2]);

        // Another cluster's directory is not compared, and not touched.
        let mut other = Postgres::start(major, &PostgresOptions::default()).unwrap();
        other.stop().unwrap();
        let place = other.data().display().to_string();
        let (status, _, said) = story.run(&["restore", "shop", "--to", &place, "--delta"]);
        assert!(status == 5 && said.contains("system identifier"), "{said}");
        other.restart().unwrap();
    }
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
