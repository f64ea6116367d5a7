//! The tables of a state database, and how an older one becomes this.

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::database::{Database, Value};

/// The version of these tables.
const VERSION: i64 = 1;

const META: &str = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BIGINT NOT NULL)";

/// Statements that make version 1.
const TABLES: [&str; 8] = [
    // One attempt at something that was due.
    "CREATE TABLE job (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, due BIGINT NOT NULL,
        attempt BIGINT NOT NULL, why TEXT NOT NULL, repository TEXT NOT NULL, host TEXT NOT NULL,
        rank BIGINT NOT NULL, state TEXT NOT NULL, epoch BIGINT NOT NULL, worker TEXT,
        started BIGINT, moved BIGINT, bytes BIGINT NOT NULL, ended BIGINT, outcome TEXT,
        reason TEXT,
        UNIQUE (name, kind, due, attempt)
    )",
    "CREATE INDEX job_waiting ON job (rank, due) WHERE state = 'waiting'",
    "CREATE INDEX job_running ON job (repository, host) WHERE state = 'running'",
    "CREATE INDEX job_of ON job (name, kind, due)",
    // A process that works, under a name that it drew when it began.
    "CREATE TABLE worker (name TEXT PRIMARY KEY, place TEXT NOT NULL, until BIGINT NOT NULL)",
    // How many jobs may run at once: of a repository, of a host, of everything.
    "CREATE TABLE cap (
        scope TEXT NOT NULL, name TEXT NOT NULL, most BIGINT NOT NULL, PRIMARY KEY (scope, name)
    )",
    // Until when every due time has become something.
    "CREATE TABLE looked (
        name TEXT NOT NULL, kind TEXT NOT NULL, until BIGINT NOT NULL, PRIMARY KEY (name, kind)
    )",
    "CREATE TABLE audit (
        seq BIGINT PRIMARY KEY, at BIGINT NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, detail TEXT NOT NULL, hash TEXT NOT NULL
    )",
];

/// Makes the tables where there are none.
pub(super) async fn prepare(database: &dyn Database) -> Result<()> {
    let mut open = database.begin().await?;
    open.run(META, &[]).await?;
    let found =
        open.run("SELECT value FROM meta WHERE key = $1", &[Value::from("version")]).await?;
    match found.first().map(|row| row.number(0)).transpose()? {
        None => {
            for table in TABLES {
                open.run(table, &[]).await?;
            }
            let version = [Value::from("version"), Value::from(VERSION)];
            open.run("INSERT INTO meta (key, value) VALUES ($1, $2)", &version).await?;
        }
        Some(VERSION) => {}
        Some(newer) => {
            return Err(Error::new(ErrorKind::Unsupported, code::STATE, "use the state database")
                .with("its version", newer)
                .with("known here", VERSION)
                .why("a newer version of this program made it")
                .next("run the newer version, or start with a new state database"));
        }
    }
    open.commit().await
}
