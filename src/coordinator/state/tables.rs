//! The tables of a state database, and how an older one becomes this.

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::database::{Database, Transaction, Value};

/// The version of these tables.
const VERSION: i64 = 4;

const META: &str = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BIGINT NOT NULL)";

/// Statements that make version 1.
const TABLES: [&str; 18] = [
    // One attempt at something that was due.
    "CREATE TABLE job (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, due BIGINT NOT NULL,
        attempt BIGINT NOT NULL, why TEXT NOT NULL, repository TEXT NOT NULL, host TEXT NOT NULL,
        rank BIGINT NOT NULL, state TEXT NOT NULL, epoch BIGINT NOT NULL, worker TEXT,
        ticket TEXT, started BIGINT, moved BIGINT, bytes BIGINT NOT NULL, ended BIGINT,
        outcome TEXT, reason TEXT,
        UNIQUE (name, kind, due, attempt)
    )",
    "CREATE INDEX job_waiting ON job (rank DESC, due, id) WHERE state = 'waiting'",
    "CREATE INDEX job_running ON job (name, kind) WHERE state = 'running'",
    "CREATE INDEX job_of ON job (name, id)",
    "CREATE INDEX job_ended ON job (ended) WHERE state = 'ended'",
    // A process that works, under a name that it drew when it began.
    "CREATE TABLE worker (name TEXT PRIMARY KEY, place TEXT NOT NULL, until BIGINT NOT NULL)",
    // What one worker at a time has; without an end, for as long as it is heard of.
    "CREATE TABLE lease (
        name TEXT PRIMARY KEY, worker TEXT, epoch BIGINT NOT NULL, until BIGINT
    )",
    // How many jobs may run at once: of a repository, of a host, of everything.
    "CREATE TABLE cap (
        scope TEXT NOT NULL, name TEXT NOT NULL, most BIGINT NOT NULL, PRIMARY KEY (scope, name)
    )",
    // Until when every due time has become something.
    "CREATE TABLE looked (
        name TEXT NOT NULL, kind TEXT NOT NULL, until BIGINT NOT NULL, PRIMARY KEY (name, kind)
    )",
    // Due times that became nothing, and why.
    "CREATE TABLE skipped (
        name TEXT NOT NULL, kind TEXT NOT NULL, due BIGINT NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (name, due, kind)
    )",
    // What people said of a database, and from when until when it holds.
    "CREATE TABLE mark (
        name TEXT NOT NULL, since BIGINT NOT NULL, until BIGINT, what TEXT NOT NULL,
        reason TEXT NOT NULL, who TEXT NOT NULL, PRIMARY KEY (name, since)
    )",
    // Since when somebody looks after a database, and what was last known of it.
    "CREATE TABLE member (
        name TEXT PRIMARY KEY, since BIGINT NOT NULL, newest BIGINT, trouble TEXT
    )",
    // The one configuration that holds.
    "CREATE TABLE applied (
        id BIGINT PRIMARY KEY, digest TEXT NOT NULL, text TEXT NOT NULL, who TEXT NOT NULL,
        at BIGINT NOT NULL
    )",
    // Alerts that were told and are not over.
    "CREATE TABLE alert (key TEXT PRIMARY KEY, body TEXT NOT NULL)",
    // What is still to be told.
    "CREATE TABLE message (id TEXT PRIMARY KEY, at BIGINT NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE audit (
        seq BIGINT PRIMARY KEY, at BIGINT NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, detail TEXT NOT NULL, hash TEXT NOT NULL
    )",
    // The last line of it, so that one that was cut off is missed.
    "CREATE TABLE audit_end (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL, hash TEXT NOT NULL)",
    "INSERT INTO audit_end (id, seq, hash) VALUES (1, 0, '')",
];

/// Statements that make version 2 of version 1.
const SECOND: [&str; 3] = [
    // What runs burdens a repository and a host: counted for every claim.
    "CREATE INDEX job_burden ON job (repository, host) WHERE state = 'running'",
    // An endpoint that was registered, and what has become of it.
    "CREATE TABLE endpoint (
        id TEXT PRIMARY KEY, source TEXT NOT NULL, target TEXT NOT NULL, labels TEXT NOT NULL,
        wanted TEXT NOT NULL, ttl BIGINT, sign TEXT NOT NULL, since BIGINT NOT NULL,
        renewed BIGINT NOT NULL, active BIGINT, identity TEXT, silent BIGINT, trouble TEXT,
        drain_since BIGINT, drain_until BIGINT, drained BIGINT, ended BIGINT, how TEXT
    )",
    // That a database may begin another incarnation, in place of this one.
    "CREATE TABLE adoption (
        name TEXT PRIMARY KEY, incarnation TEXT NOT NULL, at BIGINT NOT NULL, who TEXT NOT NULL
    )",
];

/// Statements that make version 3 of version 2.
const THIRD: [&str; 7] = [
    // How fast the rank of a job grows while it waits, in milliseconds for an RPO's worth.
    "ALTER TABLE job ADD COLUMN rpo BIGINT NOT NULL DEFAULT 0",
    // When it last did.
    "ALTER TABLE job ADD COLUMN ranked BIGINT NOT NULL DEFAULT 0",
    // The agent that is to do it; without one, whoever serves.
    "ALTER TABLE job ADD COLUMN agent TEXT NOT NULL DEFAULT ''",
    "DROP INDEX job_waiting",
    "CREATE INDEX job_of_agent ON job (agent, rank DESC, due, id) WHERE state = 'waiting'",
    // When an agent was last heard of.
    "CREATE TABLE agent (name TEXT PRIMARY KEY, seen BIGINT NOT NULL)",
    // What agents say of databases, and when each said something else.
    "CREATE TABLE report (name TEXT PRIMARY KEY, at BIGINT NOT NULL, body TEXT NOT NULL)",
];

/// Statements that make version 4 of version 3.
const FOURTH: [&str; 6] = [
    // The site whose workers are to do it; without one, any may.
    "ALTER TABLE job ADD COLUMN site TEXT NOT NULL DEFAULT ''",
    "DROP INDEX job_of_agent",
    "CREATE INDEX job_of_site ON job (agent, site, rank DESC, due, id) WHERE state = 'waiting'",
    "ALTER TABLE worker ADD COLUMN site TEXT NOT NULL DEFAULT ''",
    // Since when anything waits for the workers of a site, and when one was last heard of.
    "CREATE TABLE site (name TEXT PRIMARY KEY, since BIGINT NOT NULL, seen BIGINT)",
    // What the workers of its site say of a copy, and when they said something else.
    "CREATE TABLE copied (
        name TEXT NOT NULL, copy TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (name, copy)
    )",
];

/// Makes the tables where there are none, and makes older ones newer.
pub(super) async fn prepare(database: &dyn Database) -> Result<()> {
    let mut open = database.begin().await?;
    open.run(META, &[]).await?;
    let steps: [&[&str]; VERSION as usize] = [&TABLES, &SECOND, &THIRD, &FOURTH];
    match number(&mut *open, "version").await?.unwrap_or(0) {
        VERSION => {}
        older @ 0..VERSION => {
            for table in steps.into_iter().skip(older as usize).flatten() {
                open.run(table, &[]).await?;
            }
            set_number(&mut *open, "version", VERSION).await?;
        }
        newer => {
            return Err(Error::new(ErrorKind::Unsupported, code::STATE, "use the state database")
                .with("its version", newer)
                .with("known here", VERSION)
                .why("a newer version of this program made it")
                .next("run the newer version, or start with a new state database"));
        }
    }
    open.commit().await
}

/// One of the numbers that there is one of.
pub(super) async fn number(open: &mut dyn Transaction, key: &'static str) -> Result<Option<i64>> {
    let found = open.run("SELECT value FROM meta WHERE key = $1", &[Value::from(key)]).await?;
    found.first().map(|row| row.number(0)).transpose()
}

/// Sets one of them.
pub(super) async fn set_number(
    open: &mut dyn Transaction,
    key: &'static str,
    value: i64,
) -> Result<()> {
    let set = "INSERT INTO meta (key, value) VALUES ($1, $2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    open.run(set, &[Value::from(key), Value::from(value)]).await.map(drop)
}
