//! The PostgreSQL driver keeps the contract, on real servers of several versions, in each of the
//! three ways to copy one.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Arc, Mutex as Lock, PoisonError},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_conformance::{
    Bank, Fixture, Scene, Server, Transfer, WRITERS, memory::RealClock, run,
};
use stillpoint_contract::{
    Capabilities, Clock, Consistency, Endpoint, Engine, Error, ErrorKind, Incremental, LogSupply,
    RestorePlan, Result, code,
};
use stillpoint_postgres::PostgresEngine;
use stillpoint_testcontainers::{POSTGRES_USER, Postgres, PostgresOptions};
use tempfile::TempDir;
use tokio::{sync::Mutex, task::block_in_place};
use tokio_postgres::{Client, NoTls};

/// Rows that no transfer touches, of 4 KiB each.
const BALLAST_ROWS: u32 = 300;

/// Rows of 1 MiB that one transaction writes.
const BULK_ROWS: u32 = 44;

/// Versions whose neighbours tell nearly as much; two minutes each, so they wait for `make soak`.
const RARE: [u32; 2] = [14, 16];

fn main() -> ExitCode {
    let mut fixtures = vec![
        Setup { name: "v14_sql", major: 14, method: "sql", has_socket: true },
        Setup { name: "v15_sql", major: 15, method: "sql", has_socket: false },
        Setup { name: "v16_local", major: 16, method: "local", has_socket: true },
        Setup { name: "v17_base_backup", major: 17, method: "base_backup", has_socket: true },
        Setup { name: "v18_local", major: 18, method: "local", has_socket: true },
    ];
    if env::var_os("STILLPOINT_VERSIONS").is_none_or(|versions| versions != "every") {
        #[expect(clippy::print_stderr, reason = "what is not run must be seen")]
        {
            eprintln!("not run: PostgreSQL {RARE:?}; STILLPOINT_VERSIONS=every runs them as well");
        }
        fixtures.retain(|setup| !RARE.contains(&setup.major));
    }
    run(fixtures.into_iter().map(|setup| Arc::new(setup) as Arc<dyn Fixture>))
}

/// A version, a way to copy it, and how it is reached.
#[derive(Clone, Copy, Debug)]
struct Setup {
    name: &'static str,
    major: u32,
    method: &'static str,
    /// Whether it is reached through its socket, or over TCP.
    has_socket: bool,
}

impl Setup {
    fn has_summaries(self) -> bool {
        self.major >= 17
    }

    fn options(self) -> PostgresOptions {
        // Without autovacuum, every commit is the workload's. A server that stops waits for a
        // capture that nobody polls, but not for a minute.
        let settings = ["autovacuum = off", "wal_sender_timeout = 5s"].map(str::to_owned);
        let mut settings = settings.to_vec();
        if self.has_summaries() {
            settings.push("summarize_wal = on".to_owned());
        }
        PostgresOptions { settings, ..PostgresOptions::default() }
    }
}

#[async_trait]
impl Fixture for Setup {
    fn name(&self) -> &str {
        self.name
    }

    fn available(&self) -> Result<(), String> {
        Postgres::programs(self.major).map(drop).map_err(|missing| missing.to_string())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            consistency: Consistency::AtEnd,
            incremental: if self.has_summaries() {
                Incremental::SincePrevious
            } else {
                Incremental::Never
            },
            log: LogSupply::Stream,
            restores_single_database: false,
        }
    }

    fn offers(&self, scene: Scene) -> Result<(), &'static str> {
        match scene {
            Scene::Departure if !self.has_socket => {
                Err("over a network, a server that is gone looks like one that restarts")
            }
            Scene::Foreign if self.has_socket => Err("asked over TCP, by another fixture"),
            _ => Ok(()),
        }
    }

    fn balances_statement(&self) -> Result<&'static str, &'static str> {
        Ok("SELECT balance FROM account ORDER BY id")
    }

    async fn start(&self) -> Result<Arc<dyn Server>> {
        let programs = Postgres::programs(self.major).map_err(failed)?;
        let server = block_in_place(|| Postgres::start(self.major, &self.options()));
        let clock = Arc::new(RealClock::new());
        let engine = PostgresEngine::new(Arc::<RealClock>::clone(&clock));
        let application = Application {
            setup: *self,
            server: Lock::new(Some(server.map_err(failed)?)),
            clients: std::array::from_fn(|_| Mutex::new(None)),
            engine: Arc::new(engine.with_programs(vec![programs])),
            clock,
        };
        application.create().await?;
        Ok(Arc::new(application))
    }
}

/// A server and the clients that use it.
#[derive(Debug)]
struct Application {
    setup: Setup,
    /// `None` once it has departed.
    server: Lock<Option<Postgres>>,
    clients: [Mutex<Option<Client>>; WRITERS as usize],
    engine: Arc<PostgresEngine>,
    clock: Arc<RealClock>,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Config, code::FILE, "play the application").caused_by(error)
}

async fn connect(conninfo: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await.map_err(failed)?;
    tokio::spawn(connection);
    Ok(client)
}

async fn read_bank(client: &Client) -> Result<Bank> {
    let column = async |query: &str| -> Result<Vec<i64>> {
        let rows = client.query(query, &[]).await.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let progress = column("SELECT number FROM progress ORDER BY writer").await?;
    Ok(Bank {
        balances: column("SELECT balance FROM account ORDER BY id").await?,
        progress: progress.into_iter().map(i64::cast_unsigned).collect(),
    })
}

impl Application {
    fn with<T>(&self, work: impl FnOnce(&mut Postgres) -> T) -> Result<T> {
        let gone = || Error::new(ErrorKind::Config, code::FILE, "find the server running");
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let server = server.as_mut().ok_or_else(gone)?;
        Ok(block_in_place(|| work(server)))
    }

    fn conninfo(&self) -> Result<String> {
        self.with(|server| server.conninfo())
    }

    /// Runs a statement in a session of its own, ahead of which no other is.
    async fn run(&self, sql: &str) -> Result<()> {
        connect(&self.conninfo()?).await?.batch_execute(sql).await.map_err(failed)
    }

    async fn create(&self) -> Result<()> {
        let Bank { balances, progress } = Bank::opening();
        let rows = |values: Vec<i64>| {
            let rows = (0..).zip(values).map(|(id, value): (u32, i64)| format!("({id}, {value})"));
            rows.collect::<Vec<_>>().join(", ")
        };
        let progress = progress.into_iter().map(u64::cast_signed).collect();
        self.run(&format!(
            "BEGIN;
             CREATE TABLE account(id int PRIMARY KEY, balance bigint);
             CREATE TABLE progress(writer int PRIMARY KEY, number bigint);
             CREATE TABLE ballast(id int PRIMARY KEY, a text);
             CREATE TABLE bulk(a text);
             ALTER TABLE ballast ALTER a SET STORAGE EXTERNAL;
             ALTER TABLE bulk ALTER a SET STORAGE EXTERNAL;
             INSERT INTO account VALUES {};
             INSERT INTO progress VALUES {};
             INSERT INTO ballast SELECT n, repeat(md5(n::text), 128)
                FROM generate_series(1, {BALLAST_ROWS}) AS n;
             COMMIT",
            rows(balances),
            rows(progress),
        ))
        .await
    }

    /// Discards all log that no session holds: an administrator drops slots that nobody uses.
    async fn discard(&self) -> Result<()> {
        let client = connect(&self.conninfo()?).await?;
        for statement in [
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        ] {
            client.batch_execute(statement).await.map_err(failed)?;
        }
        // A server that summarises its log keeps it until that is done.
        while self.setup.has_summaries() {
            let query = "SELECT summarized_lsn >= redo_lsn
                         FROM pg_get_wal_summarizer_state(), pg_control_checkpoint()";
            let row = client.query_one(query, &[]).await.map_err(failed)?;
            if row.get(0) {
                return client.batch_execute("CHECKPOINT").await.map_err(failed);
            }
            self.clock.sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn at(&self, host: &str, port: u16) -> Endpoint {
        let method = self.setup.method;
        let address = format!("host={host} port={port} user={POSTGRES_USER} method={method}");
        Endpoint { scheme: "postgres".to_owned(), address, settings: BTreeMap::new() }
    }
}

/// A copy of a restored cluster, in a directory that the server's user may enter.
fn copy_of(target: &Path) -> Result<(TempDir, PathBuf)> {
    let directory = TempDir::with_prefix("stillpoint-look-").map_err(failed)?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open).map_err(failed)?;
    let data = directory.path().join("data");
    // The directory is entered once: it is one cluster, whatever takes its place meanwhile.
    let mut command = Command::new("cp");
    command.args(["-a", "."]).arg(&data).current_dir(target);
    let status = block_in_place(|| command.status()).map_err(failed)?;
    if !status.success() {
        return Err(Error::new(ErrorKind::Config, code::FILE, "copy a restored cluster"));
    }
    Ok((directory, data))
}

#[async_trait]
impl Server for Application {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::<PostgresEngine>::clone(&self.engine)
    }

    fn endpoint(&self) -> Endpoint {
        let place = self.with(|server| (server.socket_directory().to_owned(), server.port()));
        let (directory, port) = place.unwrap_or_default();
        let directory = directory.display().to_string();
        self.at(if self.setup.has_socket { &directory } else { "127.0.0.1" }, port)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::<RealClock>::clone(&self.clock)
    }

    async fn transact(&self, transfer: Transfer) -> Result<()> {
        let Transfer { writer, number, from, to, amount } = transfer;
        let mut client = self.clients[writer as usize].lock().await;
        if client.as_ref().is_none_or(Client::is_closed) {
            *client = Some(connect(&self.conninfo()?).await?);
        }
        // In the order of accounts, so that no two writers wait for each other.
        let mut changes = [(from, -amount), (to, amount)];
        changes.sort_unstable();
        let [first, second] = changes.map(|(account, amount)| {
            format!("UPDATE account SET balance = balance + {amount} WHERE id = {account}")
        });
        let advance = format!("UPDATE progress SET number = {number} WHERE writer = {writer}");
        let all = format!("BEGIN; {first}; {second}; {advance}; COMMIT");
        let client = client.as_ref().ok_or_else(|| Error::bug("connect a writer"))?;
        client.batch_execute(&all).await.map_err(failed)
    }

    async fn bank(&self) -> Result<Bank> {
        read_bank(&connect(&self.conninfo()?).await?).await
    }

    async fn bank_at(&self, target: &Path) -> Result<Bank> {
        let (_directory, data) = copy_of(target)?;
        let server = block_in_place(|| Postgres::start_on(self.setup.major, &data));
        let server = server.map_err(failed)?;
        read_bank(&connect(&server.conninfo()).await?).await
    }

    /// Sessions of ours, and slots that are in use or end with their session. The slot that a
    /// capture leaves behind holds log for the next one: that is what it is for.
    async fn leftovers(&self) -> Result<Vec<String>> {
        let query = "SELECT 'slot ' || slot_name FROM pg_replication_slots
                        WHERE active OR temporary
                     UNION ALL SELECT 'session ' || query FROM pg_stat_activity
                        WHERE application_name = 'stillpoint'";
        let client = connect(&self.conninfo()?).await?;
        let rows = client.query(query, &[]).await.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn play(&self, scene: Scene) -> Result<()> {
        match scene {
            Scene::Restart => self.with(|server| server.stop().and_then(|()| server.restart()))?,
            Scene::Crash => self.with(|server| {
                server.kill();
                server.restart()
            })?,
            Scene::Succession => self.with(Postgres::fail_over)?,
            Scene::Replacement => {
                self.with(|server| server.replace(&self.setup.options()))?.map_err(failed)?;
                return self.create().await;
            }
            Scene::Departure => {
                let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
                block_in_place(|| drop(server));
                Ok(())
            }
            Scene::Discard => return self.discard().await,
            Scene::Bulk => {
                return self
                    .run(&format!(
                        "INSERT INTO bulk SELECT repeat(md5(n::text), 32768)
                            FROM generate_series(1, {BULK_ROWS}) AS n"
                    ))
                    .await;
            }
            Scene::Foreign | Scene::Damage => Ok(()),
        }
        .map_err(failed)
    }

    fn nowhere(&self) -> Endpoint {
        let directory = TempDir::new().map(|directory| directory.path().display().to_string());
        match directory {
            Ok(directory) if self.setup.has_socket => self.at(&directory, 5432),
            // Port 1 is that of a service of the seventies.
            _ => self.at("127.0.0.1", 1),
        }
    }

    /// A web server.
    fn foreign(&self) -> Option<Endpoint> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).ok()?;
        let port = listener.local_addr().ok()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().take(8) {
                let Ok(mut stream) = stream else { continue };
                let mut request = [0; 8];
                drop(stream.read(&mut request));
                drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            }
        });
        Some(self.at("127.0.0.1", port))
    }

    fn escapes(&self) -> Vec<String> {
        let place =
            self.with(|server| (server.data().to_owned(), server.socket_directory().to_owned()));
        let (data, directory) = place.unwrap_or_default();
        let (data, directory) = (data.display(), directory.display());
        vec![
            "UPDATE account SET balance = 0".to_owned(),
            "COMMIT; UPDATE account SET balance = 0".to_owned(),
            format!("SELECT pg_read_file('{data}/PG_VERSION')"),
            format!("COPY (SELECT 1) TO PROGRAM 'cat > {directory}/escaped'"),
        ]
    }

    fn damage(&self, plan: &RestorePlan) -> Result<()> {
        let databases = plan.staging.join("data/base");
        let mut largest: Option<(u64, PathBuf)> = None;
        for database in fs::read_dir(databases).map_err(failed)? {
            for file in fs::read_dir(database.map_err(failed)?.path()).map_err(failed)? {
                let file = file.map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                let is_larger = largest.as_ref().is_none_or(|(most, _)| *most < length);
                let name = file.file_name();
                if is_larger && name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
                    largest = Some((length, file.path()));
                }
            }
        }
        let (_, path) = largest.ok_or_else(|| Error::bug("find a table"))?;
        let file = File::options().write(true).open(path).map_err(failed)?;
        file.write_all_at(&[0xFF; 64], 8192 + 4000).map_err(failed)
    }
}
