//! A server with a bank on it, and a restore that needs nothing but the parts of a backup.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZeroUsize,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use stillpoint_conformance::memory::{MemoryBackup, MemoryLog, MemorySink, RealClock};
use stillpoint_contract::{
    BackupRequest, Base, Driver, Endpoint, Engine, Evidence, PartName, Result,
};
use stillpoint_postgres::PostgresEngine;
use stillpoint_testcontainers::{Postgres, PostgresOptions};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

pub(crate) const ACCOUNTS: i64 = 1000;
pub(crate) const TOTAL: i64 = ACCOUNTS * 100;

/// A server with a bank.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) server: Postgres,
}

/// A finished backup.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) evidence: Evidence,
    pub(crate) parts: MemoryBackup,
}

impl Copy {
    pub(crate) fn layout(&self) -> serde_json::Value {
        let name = PartName::new("stillpoint/layout.json").unwrap();
        serde_json::from_slice(&self.parts.bytes(&name).unwrap()).unwrap()
    }
}

pub(crate) async fn connect(conninfo: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Stage {
    /// A server of this version, if it is installed.
    pub(crate) async fn open(major: u32, settings: &[&str]) -> Option<Self> {
        let settings = settings.iter().map(|line| (*line).to_owned()).collect();
        let options = PostgresOptions { settings, ..PostgresOptions::default() };
        Self::open_with(major, &options).await
    }

    pub(crate) async fn open_with(major: u32, options: &PostgresOptions) -> Option<Self> {
        let server = Postgres::required_with(major, options)?;
        let stage = Self { server };
        stage
            .run(&format!(
                "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint);
                 INSERT INTO accounts SELECT n, 100 FROM generate_series(1, {ACCOUNTS}) AS n;
                 CREATE TABLE ledger (number bigint);
                 INSERT INTO ledger VALUES (0);
                 CREATE TABLE still AS
                    SELECT n, repeat(md5(n::text), 10) AS t FROM generate_series(1, 20000) AS n;
                 CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS n"
            ))
            .await;
        Some(stage)
    }

    pub(crate) async fn client(&self) -> Client {
        connect(&self.server.conninfo()).await
    }

    /// Runs statements one by one: some must not share a transaction.
    pub(crate) async fn run(&self, sql: &str) {
        let client = self.client().await;
        if sql.contains("$$") {
            return client.batch_execute(sql).await.unwrap();
        }
        for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
            client.batch_execute(statement).await.unwrap();
        }
    }

    pub(crate) fn endpoint(&self, more: &str) -> Endpoint {
        endpoint(&self.server, more)
    }

    pub(crate) async fn driver(&self, more: &str) -> Box<dyn Driver> {
        engine().connect(&self.endpoint(more)).await.unwrap()
    }

    pub(crate) async fn back_up(&self, more: &str) -> Copy {
        self.try_back_up(more, None).await.unwrap()
    }

    pub(crate) async fn try_back_up(&self, more: &str, base: Option<&Copy>) -> Result<Copy> {
        let driver = self.driver(more).await;
        back_up(driver.as_ref(), base, 4).await
    }

    /// What clients of ours hold in the server.
    pub(crate) async fn leftovers(&self) -> Vec<String> {
        let query = "SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL \
                     SELECT 'session ' || pid || ' ' || query FROM pg_stat_activity \
                     WHERE application_name = 'stillpoint'";
        let rows = self.client().await.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until nothing is left.
    pub(crate) async fn settled(&self) {
        let mut left = Vec::new();
        for _ in 0..200 {
            left = self.leftovers().await;
            if left.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("left behind: {left:?}");
    }
}

pub(crate) fn endpoint(server: &Postgres, more: &str) -> Endpoint {
    let address = format!("{} {more}", server.conninfo());
    Endpoint { scheme: "postgres".to_owned(), address, settings: BTreeMap::new() }
}

pub(crate) fn engine() -> PostgresEngine {
    PostgresEngine::new(Arc::new(RealClock::new()))
}

pub(crate) async fn back_up(
    driver: &dyn Driver,
    base: Option<&Copy>,
    streams: usize,
) -> Result<Copy> {
    let streams_max = NonZeroUsize::new(streams).unwrap();
    let sink = base.map_or_else(MemorySink::new, |base| MemorySink::on(&base.parts));
    let log = MemoryLog::new();
    let mut log = base.map(|base| log.from(base.evidence.consistent_at.as_ref().unwrap()));
    let base = base.zip(log.as_mut()).map(|(base, log)| Base {
        evidence: &base.evidence,
        parts: &base.parts,
        log,
    });
    let evidence = driver.backup(BackupRequest { base, streams_max }, &sink).await?;
    Ok(Copy { evidence, parts: sink.seal()? })
}

/// A backup that builds on another one and the log captured since.
pub(crate) async fn back_up_after(stage: &Stage, more: &str, base: &Copy, log: &MemoryLog) -> Copy {
    back_up_on(stage.driver(more).await.as_ref(), base, log).await
}

/// The same, of whatever `driver` reaches.
pub(crate) async fn back_up_on(driver: &dyn Driver, base: &Copy, log: &MemoryLog) -> Copy {
    let sink = MemorySink::on(&base.parts);
    let mut log = log.from(base.evidence.consistent_at.as_ref().unwrap());
    let base = Some(Base { evidence: &base.evidence, parts: &base.parts, log: &mut log });
    let streams_max = NonZeroUsize::new(4).unwrap();
    let evidence = driver.backup(BackupRequest { base, streams_max }, &sink).await.unwrap();
    Copy { evidence, parts: sink.seal().unwrap() }
}

/// Clients that move money, and others that make and drop things.
#[derive(Debug)]
pub(crate) struct Bustle {
    stop: Arc<AtomicBool>,
    /// The last number that was committed to the ledger.
    pub(crate) number: Arc<AtomicI64>,
    tasks: JoinSet<()>,
}

impl Bustle {
    pub(crate) async fn start(stage: &Stage) -> Self {
        let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let mut tasks = JoinSet::new();
        for seed in 0..3_i64 {
            let (client, stop) = (stage.client().await, Arc::clone(&stop));
            tasks.spawn(async move {
                let mut turn = seed;
                while !stop.load(Ordering::Relaxed) {
                    turn = (turn * 1_103_515_245 + 12_345).rem_euclid(1 << 31);
                    let (from, to) = (turn % ACCOUNTS + 1, turn / ACCOUNTS % ACCOUNTS + 1);
                    let moved = format!(
                        "BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = {from}; \
                         UPDATE accounts SET balance = balance + 1 WHERE id = {to}; COMMIT"
                    );
                    // Two of them may lock each other.
                    if client.batch_execute(&moved).await.is_err() {
                        client.batch_execute("ROLLBACK").await.unwrap();
                    }
                }
            });
        }
        let (client, stopped, counter) =
            (stage.client().await, Arc::clone(&stop), Arc::clone(&number));
        tasks.spawn(async move {
            for number in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let count = format!("UPDATE ledger SET number = {number}");
                client.batch_execute(&count).await.unwrap();
                counter.store(number, Ordering::Relaxed);
            }
        });
        let (client, stopped) = (stage.client().await, Arc::clone(&stop));
        tasks.spawn(async move {
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                for statement in [
                    // No faster than log is read that a server keeps for a while only.
                    "SELECT pg_sleep(0.05)".to_owned(),
                    format!("CREATE TABLE churn{number} AS SELECT generate_series(1, 5000) AS n"),
                    format!("CREATE INDEX ON churn{number} (n)"),
                    format!("CREATE TEMP TABLE passing{number} AS SELECT 1"),
                    format!("TRUNCATE churn{number}"),
                    format!("DROP TABLE churn{number}"),
                    "VACUUM FULL accounts".to_owned(),
                    "SELECT lo_unlink(lo_from_bytea(0, 'large'))".to_owned(),
                    format!("CREATE DATABASE other{number}"),
                    format!("DROP DATABASE other{number}"),
                ] {
                    client.batch_execute(&statement).await.unwrap();
                }
            }
        });
        Self { stop, number, tasks }
    }

    pub(crate) async fn end(mut self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        self.number.load(Ordering::Relaxed)
    }
}

/// A server on what a backup held, started without help of the driver.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) server: Postgres,
    _directory: TempDir,
}

impl Restored {
    pub(crate) fn start(major: u32, copy: &Copy) -> io::Result<Self> {
        Self::start_with(major, copy, |_| Ok(()))
    }

    fn start_with(
        major: u32,
        copy: &Copy,
        prepare: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let directory = TempDir::with_prefix("stillpoint-restored-")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        lay_out(copy, directory.path())?;
        prepare(&directory.path().join("data"))?;
        let server = Postgres::start_on(major, &directory.path().join("data"))?;
        Ok(Self { server, _directory: directory })
    }

    /// Like [`start`](Self::start), for the copy of a standby: without what made it one.
    pub(crate) fn start_alone(major: u32, copy: &Copy) -> io::Result<Self> {
        Self::start_with(major, copy, |data| fs::remove_file(data.join("standby.signal")))
    }

    pub(crate) async fn client(&self) -> Client {
        connect(&self.server.conninfo()).await
    }

    /// One number.
    pub(crate) async fn ask(&self, query: &str) -> i64 {
        self.client().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Whether the bank is whole, every table can be read, and the ledger's number.
    pub(crate) async fn check(&self) -> i64 {
        assert_eq!(self.ask("SELECT sum(balance)::int8 FROM accounts").await, TOTAL);
        assert_eq!(self.ask("SELECT count(*) FROM accounts").await, ACCOUNTS);
        assert_eq!(self.ask("SELECT count(*) FROM fleeting").await, 0, "unlogged tables are empty");
        let still = "SELECT count(*) FROM still WHERE t = repeat(md5(n::text), 10)";
        assert_eq!(self.ask(still).await, 20_000);
        let indexed = "SELECT count(*) FROM accounts AS a WHERE EXISTS \
                       (SELECT FROM accounts AS b WHERE b.id = a.id)";
        assert_eq!(self.ask(indexed).await, ACCOUNTS);
        // Reads every page of every table, whose checksums the server verifies.
        let all = "DO $$ DECLARE t regclass; n bigint; BEGIN \
                   FOR t IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'm', 't') \
                   AND relpersistence <> 't' LOOP \
                   EXECUTE format('SELECT count(*) FROM %s', t) INTO n; END LOOP; END $$";
        self.client().await.batch_execute(all).await.unwrap();
        self.ask("SELECT number FROM ledger").await
    }
}

/// Puts parts where they belong; tablespaces go beside the data directory.
pub(crate) fn lay_out(copy: &Copy, directory: &Path) -> io::Result<()> {
    let data = directory.join("data");
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(&data)?;
    let layout = copy.layout();
    let place = |path: &str| match path.strip_prefix("pg_tblspc/") {
        Some(rest) => directory.join("spaces").join(rest),
        None => data.join(path),
    };
    for path in layout["directories"].as_array().unwrap() {
        make(&place(path.as_str().unwrap()))?;
    }
    make(&data.join("pg_tblspc"))?;
    for record in copy.parts.records() {
        let name = record.spec.name.as_str();
        if name.starts_with("stillpoint/") {
            continue;
        }
        let mut bytes = copy.parts.bytes(&record.spec.name).unwrap().to_vec();
        if name == "tablespace_map" {
            let map = String::from_utf8(bytes).unwrap();
            let moved = map.lines().map(|line| {
                let oid = line.split(' ').next().unwrap();
                format!("{oid} {}\n", directory.join("spaces").join(oid).display())
            });
            bytes = moved.collect::<String>().into_bytes();
        }
        let path = place(name);
        make(path.parent().unwrap())?;
        fs::write(&path, bytes)?;
        let mode = u32::from_str_radix(&record.spec.attributes["mode"], 8).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    if directory.join("spaces").exists() {
        let spaces = directory.join("spaces");
        give_to_all(&spaces)?;
    }
    Ok(())
}

/// The server runs as another user than root.
fn give_to_all(path: &Path) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).or_else(|cause| {
        if cause.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(cause) }
    })?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_all(&entry?.path())?;
        }
    }
    Ok(())
}
