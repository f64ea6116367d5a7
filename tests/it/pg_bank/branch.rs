//! The server with the bank on it, and the repository.

use std::{env, fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::Value;
use stillpoint::{repository::store::Dice, world::World};
use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};
use tokio_postgres::{Client, NoTls};

use super::ledger::{ACCOUNTS, OPENING_BALANCE};
use crate::site::{Running, Site};

/// The name of the database in the repository.
pub(super) const NAME: &str = "bank";

/// Rows of the database that others are copied from.
pub(super) const PATTERN_ROWS: i64 = 500;

#[derive(Debug)]
pub(super) struct Branch {
    pub(super) site: Site,
    pub(super) server: Postgres,
    pub(super) world: World,
    url: String,
}

/// Connects, and gives up soon: a server that was killed is killed again.
pub(super) async fn connect(conninfo: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = conninfo.parse()?;
    config.connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Branch {
    /// Founds a bank on a new server, if one of this version is installed.
    pub(super) async fn open(major: u32, way: &str, dice: &Dice) -> Option<Self> {
        let settings = [
            "wal_sender_timeout = 5s",
            "wal_keep_size = 256MB",
            "max_wal_size = 64MB",
            "max_prepared_transactions = 5",
            "checkpoint_timeout = 30s",
            "deadlock_timeout = 200ms",
        ];
        let mut settings = settings.map(str::to_owned).to_vec();
        if major >= 17 && dice.below(4) > 0 {
            settings.push("summarize_wal = on".to_owned());
        }
        let wal_segment_mib = [1, 16][dice.below(2)];
        let options = PostgresOptions { settings, wal_segment_mib, ..PostgresOptions::default() };
        println!("{options:?}");
        let server = Postgres::required_with(major, &options)?;
        let site = Site::of_clusters();
        // The server that is started on what is restored has a user of its own.
        fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        let port = server.port();
        let url = format!("postgres://{POSTGRES_USER}@127.0.0.1:{port}/postgres?method={way}");
        let branch = Self { site, server, world: World::real(1), url };
        branch.found().await;
        Some(branch)
    }

    async fn found(&self) {
        let space = self.server.make_directory("vault").unwrap();
        let client = connect(&self.server.conninfo()).await.unwrap();
        for statement in [
            &format!("CREATE TABLESPACE vault LOCATION '{}'", space.display()),
            "CREATE DATABASE pattern",
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)",
            &format!(
                "INSERT INTO account SELECT n, {OPENING_BALANCE} \
                 FROM generate_series(1, {ACCOUNTS}) AS n"
            ),
            "CREATE SEQUENCE slip",
            "CREATE TABLE ledger (n bigint PRIMARY KEY, source int, target int, amount bigint, \
             began_us bigint, slip bigint UNIQUE, note text)",
            "CREATE INDEX ON ledger (amount, source)",
            "CREATE TABLE counter (n bigint)",
            "INSERT INTO counter VALUES (0)",
            "CREATE TABLE made (name text PRIMARY KEY, rows bigint)",
            "CREATE TABLE letter (id oid PRIMARY KEY, hash text)",
            "CREATE TABLE batch (id int PRIMARY KEY, rows bigint)",
            "CREATE TABLE load (batch int, n int, text text) TABLESPACE vault",
            "CREATE INDEX ON load (batch, n) TABLESPACE vault",
            "CREATE TABLE scrap (text text)",
            "CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS n",
        ] {
            client.batch_execute(statement).await.unwrap();
        }
        let conninfo = self.server.conninfo().replace("dbname=postgres", "dbname=pattern");
        let client = connect(&conninfo).await.unwrap();
        let rows = format!(
            "CREATE TABLE row AS SELECT n, md5(n::text) AS t \
             FROM generate_series(1, {PATTERN_ROWS}) AS n"
        );
        client.batch_execute(&rows).await.unwrap();
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.world.clock.now()
    }

    pub(super) async fn pause(&self, milliseconds: usize) {
        self.world.clock.sleep(Duration::from_millis(milliseconds as u64)).await;
    }

    /// The program, where it finds the server's own programs.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let programs = Postgres::programs(self.server.major()).unwrap();
        let mut places = vec![programs];
        places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut command = self.site.command(words);
        command.args(["--output", "json"]).env("PATH", env::join_paths(places).unwrap());
        command
    }

    /// Runs what must succeed, and answers in JSON.
    pub(super) fn ok(&self, words: &[&str]) -> Value {
        let output = self.command(words).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "stillpoint {}\n{said}", words.join(" "));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(super) fn back_up(&self) -> DateTime<Utc> {
        self.ok(&["backup", &self.url, "--name", NAME]);
        self.now()
    }

    pub(super) fn start_backup(&self, is_full: bool) -> Running {
        let full: &[&str] = if is_full { &["--full"] } else { &[] };
        self.site.spawn(&[&["backup", &self.url, "--name", NAME, "-v"], full].concat(), "backup")
    }

    pub(super) fn start_capture(&self, flush: &str, log: &str) -> Running {
        let words = ["logs", "stream", &self.url, "--name", NAME, "--take-over", "--stop-at-eof"];
        self.site.spawn(&[&words[..], &["--flush", flush, "-v"]].concat(), log)
    }

    pub(super) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.site.path(&format!("{name}.log"))).unwrap_or_default()
    }
}
