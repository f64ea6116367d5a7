//! The SQLite driver keeps the contract, with a write-ahead log and with a rollback journal.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, config::DbConfig};
use stillpoint_conformance::{
    Bank, Fixture, RowTables, Scene, Server, Transfer, memory::RealClock, run,
};
use stillpoint_contract::{
    Capabilities, Clock, Consistency, Endpoint, Engine, Error, ErrorKind, Incremental, LogSupply,
    RestorePlan, Result, code,
};
use stillpoint_sqlite::SqliteEngine;
use tempfile::TempDir;

/// Rows that no transfer touches, of 4 KiB each.
const BALLAST_ROWS: u32 = 300;

/// Rows of 1 MB that one transaction writes.
const BULK_ROWS: u32 = 42;

/// How long the workload waits for locks.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tables for rows to be moved out of. Values of other classes than their columns are declared for
/// are among the samples.
const ROW_TABLES: &str = "
    CREATE TABLE orders (id INTEGER PRIMARY KEY, placed TEXT NOT NULL, status TEXT NOT NULL,
        total NUMERIC, note TEXT, twice INTEGER GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE items (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders,
        body TEXT);
    CREATE INDEX items_order ON items (order_id);
    CREATE TABLE parts (id INTEGER PRIMARY KEY,
        item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE, label TEXT);
    CREATE INDEX parts_item ON parts (item_id);
    CREATE TABLE named (name TEXT NOT NULL, v INTEGER);
    CREATE UNIQUE INDEX named_name ON named (name COLLATE BINARY);
    CREATE TABLE pairs (a INTEGER, b TEXT, v INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE zoneless (id INTEGER PRIMARY KEY, at TEXT);
    CREATE TABLE keyless (a TEXT PRIMARY KEY, b TEXT UNIQUE);
    CREATE TABLE floating (a REAL PRIMARY KEY NOT NULL);
    CREATE TABLE unlike (code TEXT PRIMARY KEY NOT NULL);
    CREATE TABLE unlike_parts (id INTEGER PRIMARY KEY, code INTEGER REFERENCES unlike (code));
    CREATE INDEX unlike_code ON unlike_parts (code);
    CREATE TABLE samples (id INTEGER PRIMARY KEY, i INTEGER, r REAL, t TEXT, b BLOB, n NUMERIC,
        \"o'dd \"\"one\" ANY, twice AS (id * 2));
    INSERT INTO samples (id, i, r, t, b, n, \"o'dd \"\"one\") VALUES
        (-9223372036854775808, -1, -0.0, '', x'', 1.5, '12'),
        (1, 9223372036854775807, 9e999, 'ü', x'00ff', '1e3', 12),
        (2, 'text', 'text', 12, 'text', x'31', 12.5),
        (3, 1.5, 1e300, x'ff00', 1, '0012', x''),
        (4, CAST(x'ff61' AS TEXT), 5e-324, CAST(x'6100c3' AS TEXT), NULL, NULL, NULL),
        (5, NULL, NULL, NULL, 0.1, 9007199254740993, 'x');";

fn main() -> ExitCode {
    run([Journal::Wal, Journal::Delete].map(|journal| Arc::new(journal) as Arc<dyn Fixture>))
}

/// How the databases of a fixture keep their journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Wal,
    Delete,
}

#[async_trait]
impl Fixture for Journal {
    fn name(&self) -> &str {
        match self {
            Self::Wal => "wal",
            Self::Delete => "rollback_journal",
        }
    }

    fn capabilities(&self) -> Capabilities {
        let (incremental, log) = match self {
            Self::Wal => {
                let period = Duration::from_millis(100);
                (Incremental::SincePrevious, LogSupply::Poll { period })
            }
            Self::Delete => (Incremental::Never, LogSupply::Never),
        };
        let consistency = Consistency::AtStart;
        Capabilities { consistency, incremental, log, restores_single_database: true }
    }

    fn offers(&self, _: Scene) -> Result<(), &'static str> {
        Ok(())
    }

    fn balances_statement(&self) -> Result<&'static str, &'static str> {
        Ok("SELECT balance FROM account ORDER BY id")
    }

    fn row_tables(&self) -> Result<RowTables, &'static str> {
        Ok(RowTables {
            create: ROW_TABLES,
            schema: "",
            reads_beside_writers: *self == Self::Wal,
            other_settings: "",
            drop_index: "DROP INDEX items_order",
            trigger: |table, then| {
                format!("CREATE TRIGGER meddle AFTER DELETE ON {table} BEGIN {then}; END")
            },
            drop_trigger: "DROP TRIGGER meddle",
            partitions: Err("it has no partitions"),
        })
    }

    async fn start(&self) -> Result<Arc<dyn Server>> {
        let directory = TempDir::new().map_err(failed)?;
        let path = directory.path().join("bank ü.db");
        let application = create(&path, *self).map_err(failed)?;
        let clock = Arc::new(RealClock::new());
        let engine = SqliteEngine::new(Arc::<RealClock>::clone(&clock));
        Ok(Arc::new(Application {
            journal: *self,
            directory,
            path,
            connection: Mutex::new(Some(application)),
            engine: Arc::new(engine),
            clock,
        }))
    }
}

/// A database file and the application that uses it.
#[derive(Debug)]
struct Application {
    journal: Journal,
    directory: TempDir,
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
    engine: Arc<SqliteEngine>,
    clock: Arc<RealClock>,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Config, code::FILE, "play the application").caused_by(error)
}

fn create(path: &Path, journal: Journal) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    let mode = if journal == Journal::Wal { "WAL" } else { "DELETE" };
    connection.execute_batch(&format!(
        "PRAGMA journal_mode={mode};
         BEGIN;
         CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);
         CREATE TABLE progress(writer INTEGER PRIMARY KEY, number INTEGER);
         CREATE TABLE ballast(id INTEGER PRIMARY KEY, a BLOB);
         CREATE TABLE bulk(a BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {BALLAST_ROWS})
         INSERT INTO ballast SELECT i, randomblob(4096) FROM n;"
    ))?;
    let Bank { balances, progress } = Bank::opening();
    for (id, balance) in (0_u32..).zip(balances) {
        connection.execute("INSERT INTO account VALUES (?1, ?2)", (id, balance))?;
    }
    for (writer, number) in (0_u32..).zip(progress) {
        connection
            .execute("INSERT INTO progress VALUES (?1, ?2)", (writer, number.cast_signed()))?;
    }
    connection.execute_batch("COMMIT; PRAGMA synchronous=NORMAL")?;
    connection.busy_timeout(PATIENCE)?;
    Ok(connection)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("PRAGMA synchronous=NORMAL; SELECT count(*) FROM account")?;
    Ok(connection)
}

fn transact(connection: &mut Connection, transfer: Transfer) -> rusqlite::Result<()> {
    let Transfer { writer, number, from, to, amount } = transfer;
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let add = "UPDATE account SET balance = balance + ?2 WHERE id = ?1";
    transaction.execute(add, (from, -amount))?;
    transaction.execute(add, (to, amount))?;
    let advance = "UPDATE progress SET number = ?2 WHERE writer = ?1";
    transaction.execute(advance, (writer, number.cast_signed()))?;
    transaction.commit()
}

fn read_bank(connection: &Connection) -> rusqlite::Result<Bank> {
    let numbers = |sql: &str| -> rusqlite::Result<Vec<i64>> {
        connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let progress = numbers("SELECT number FROM progress ORDER BY writer")?;
    Ok(Bank {
        balances: numbers("SELECT balance FROM account ORDER BY id")?,
        progress: progress.into_iter().map(i64::cast_unsigned).collect(),
    })
}

impl Application {
    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.connection();
        let gone = || Error::new(ErrorKind::Config, code::FILE, "find the application running");
        work(connection.as_mut().ok_or_else(gone)?).map_err(failed)
    }

    fn stop(&self) {
        *self.connection() = None;
    }

    fn start(&self) -> Result<()> {
        *self.connection() = Some(open(&self.path).map_err(failed)?);
        Ok(())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    fn replace(&self) -> Result<()> {
        self.stop();
        let other = self.directory.path().join("other.db");
        drop(create(&other, self.journal).map_err(failed)?);
        for suffix in ["-wal", "-shm"] {
            drop(fs::remove_file(self.beside(suffix)));
        }
        fs::rename(other, &self.path).map_err(failed)?;
        self.start()
    }

    fn crash(&self) -> Result<()> {
        self.with(|connection| {
            let option = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            connection.set_db_config(option, true)?;
            connection.execute_batch("BEGIN; UPDATE account SET balance = 0")
        })?;
        self.stop();
        self.start()
    }

    /// The log ends as `mode` says; `patience` is how long readers are waited for.
    fn checkpoint(&self, mode: &str, patience: Duration) -> Result<()> {
        self.with(|connection| {
            connection.busy_timeout(patience)?;
            connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))?;
            connection.busy_timeout(PATIENCE)
        })
    }

    fn bulk(&self) -> Result<()> {
        self.with(|connection| {
            connection.execute_batch(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {BULK_ROWS})
                 INSERT INTO bulk SELECT randomblob(1000000) FROM n;"
            ))
        })
    }
}

#[async_trait]
impl Server for Application {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::<SqliteEngine>::clone(&self.engine)
    }

    fn endpoint(&self) -> Endpoint {
        at(&self.path)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::<RealClock>::clone(&self.clock)
    }

    async fn transact(&self, transfer: Transfer) -> Result<()> {
        self.with(|connection| transact(connection, transfer))
    }

    async fn bank(&self) -> Result<Bank> {
        self.with(|connection| read_bank(connection))
    }

    async fn bank_at(&self, target: &Path) -> Result<Bank> {
        Connection::open(target).and_then(|connection| read_bank(&connection)).map_err(failed)
    }

    /// The locks that this process has on the database and its shared memory, beyond those of an
    /// application that does nothing.
    async fn leftovers(&self) -> Result<Vec<String>> {
        let inode =
            |path: &Path| fs::metadata(path).map(|metadata| metadata.ino().to_string()).ok();
        let (file, memory) = (inode(&self.path), inode(&self.beside("-shm")));
        let locks = fs::read_to_string("/proc/locks").map_err(failed)?;
        let is_held = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [.., place, start, _] = words[..] else { return false };
            let locked = place.rsplit(':').next().map(str::to_owned);
            // Byte 128 says that somebody has the log open at all.
            // Source: https://www.sqlite.org/walformat.html#wal_locks
            let is_memory = locked == memory && memory.is_some() && start != "128";
            let is_file = locked == file && self.journal == Journal::Delete;
            is_memory || is_file
        };
        Ok(locks.lines().filter(is_held).map(str::to_owned).collect())
    }

    async fn play(&self, scene: Scene) -> Result<()> {
        match scene {
            Scene::Restart => {
                self.stop();
                self.start()
            }
            Scene::Crash => self.crash(),
            Scene::Discard => self.checkpoint("TRUNCATE", Duration::ZERO),
            Scene::Succession => self.checkpoint("TRUNCATE", PATIENCE),
            Scene::Replacement => self.replace(),
            Scene::Departure => {
                self.stop();
                fs::remove_file(&self.path).map_err(failed)
            }
            Scene::Bulk => self.bulk(),
            Scene::Foreign => {
                fs::write(self.directory.path().join("text"), "text ".repeat(1000)).map_err(failed)
            }
            Scene::Damage => Ok(()),
        }
    }

    async fn execute(&self, statements: &str) -> Result<()> {
        self.with(|connection| connection.execute_batch(statements))
    }

    async fn ask(&self, statement: &str) -> Result<Vec<String>> {
        self.with(|connection| {
            let mut statement = connection.prepare(statement)?;
            let text = |row: &rusqlite::Row<'_>| {
                let value: rusqlite::types::Value = row.get(0)?;
                Ok(match value {
                    rusqlite::types::Value::Integer(number) => number.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    other => format!("{other:?}"),
                })
            };
            statement.query_map([], text)?.collect()
        })
    }

    fn nowhere(&self) -> Endpoint {
        at(&self.directory.path().join("missing.db"))
    }

    fn foreign(&self) -> Option<Endpoint> {
        let path = self.directory.path().join("text");
        fs::write(&path, "text ".repeat(1000)).ok()?;
        Some(at(&path))
    }

    fn escapes(&self) -> Vec<String> {
        let (own, other) = (self.path.display(), self.beside("-other"));
        vec![
            "UPDATE account SET balance = 0".to_owned(),
            format!("ATTACH '{own}' AS live; SELECT count(*) FROM live.account"),
            format!("VACUUM INTO '{}'", other.display()),
        ]
    }

    fn damage(&self, plan: &RestorePlan) -> Result<()> {
        let path = &plan.placements[0].path;
        let file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        file.write_all_at(&[0xFF; 4096], 4096).map_err(failed)
    }
}

fn at(path: &Path) -> Endpoint {
    Endpoint {
        scheme: "sqlite".to_owned(),
        address: path.display().to_string(),
        settings: BTreeMap::new(),
    }
}
