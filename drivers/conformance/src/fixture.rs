//! What a driver's tests must provide: real databases, a workload, and things that happen to them.

use std::{fmt, io, path::Path, sync::Arc};

use async_trait::async_trait;
use stillpoint_contract::{Capabilities, Clock, Endpoint, Engine, Error, RestorePlan, Result};
use tempfile::TempDir;

use crate::{Bank, Transfer};

/// One kind of server, set up in one way, such as `wal mode`.
#[async_trait]
pub trait Fixture: fmt::Debug + Send + Sync {
    /// A short name that tells this fixture from the driver's others.
    fn name(&self) -> &str;

    /// Whether its server can be started here; otherwise what is missing, by name.
    fn available(&self) -> Result<(), String> {
        Ok(())
    }

    /// What a server of this fixture allows. Compared with what the driver's probe says, so that a
    /// driver cannot escape a test by claiming less.
    fn capabilities(&self) -> Capabilities;

    /// Whether `scene` can be played on a server of this fixture; otherwise why not.
    fn offers(&self, scene: Scene) -> Result<(), &'static str>;

    /// The statement to which a sandbox answers with the balances of all accounts, one on a line;
    /// or why the engine has no sandbox.
    fn balances_statement(&self) -> Result<&'static str, &'static str>;

    /// Tables for rows to be moved out of, or why rows are not.
    fn row_tables(&self) -> Result<RowTables, &'static str> {
        Err("rows of this engine are not moved")
    }

    /// A directory that goes when it is dropped: for what is restored there.
    fn directory(&self) -> io::Result<TempDir> {
        tempfile::tempdir()
    }

    /// Starts a new database that holds [`Bank::opening`], and beside it at least 1 MiB that no
    /// transfer touches, so that there is something to keep. Its files go when it is dropped.
    async fn start(&self) -> Result<Arc<dyn Server>>;
}

/// Tables for rows to be moved out of.
///
/// - `orders (id, placed, status, total, note, …)` with a key `id`, a time `placed` and one
///   generated column; `items (id, order_id, body)` refers to it, by an index, and
///   `parts (id, item_id, label)` to that.
/// - `named (name, v)` with a key of text; `pairs (a, b, v)` with one of a number and a text.
/// - `samples (id, …)` with rows of every type; `zoneless (id, at)` with a time without a zone.
/// - `keyless` without a key, and `floating` with one of floating-point numbers.
/// - `unlike (code, …)`, to which `unlike_parts (id, code)` refers, by an index: values alone do
///   not tell which rows refer to which, or the engine means others when it deletes.
#[derive(Clone, Copy, Debug)]
pub struct RowTables {
    /// The statements that make all of them.
    pub create: &'static str,
    /// What names of tables begin with in a set.
    pub schema: &'static str,
    /// Whether others can write while an export reads.
    pub reads_beside_writers: bool,
    /// Statements after which new sessions have other settings by default; none where no setting
    /// changes how values look.
    pub other_settings: &'static str,
    /// The statement that drops the index by which `items` are found.
    pub drop_index: &'static str,
    /// Statements that make a trigger `meddle` which does something after each row of a table that
    /// is deleted; that row is `OLD` there.
    pub trigger: fn(table: &str, then: &str) -> String,
    /// The statement that drops it.
    pub drop_trigger: &'static str,
    /// Statements that make a table `parted (id, v)` with partitions `early`, of ids below 100, and
    /// `late`, of those below 200; or why there is no such thing.
    pub partitions: Result<&'static str, &'static str>,
}

/// One running database, with a connection of the workload's own.
#[async_trait]
pub trait Server: fmt::Debug + Send + Sync {
    /// The engine under test, on [`clock`](Self::clock).
    fn engine(&self) -> Arc<dyn Engine>;

    /// How to reach this database.
    fn endpoint(&self) -> Endpoint;

    /// The clock that the engine, and thus the driver, goes by.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Commits one transfer; waits for locks that others hold for a moment.
    async fn transact(&self, transfer: Transfer) -> Result<()>;

    /// What the database holds now.
    async fn bank(&self) -> Result<Bank>;

    /// What the restored database at `target` holds.
    async fn bank_at(&self, target: &Path) -> Result<Bank>;

    /// What other clients hold in the server: locks, open transactions, backup modes, replication
    /// slots. Empty when no driver works on it.
    async fn leftovers(&self) -> Result<Vec<String>>;

    /// Plays a scene that the fixture offers.
    async fn play(&self, scene: Scene) -> Result<()>;

    /// Runs statements as an application does.
    async fn execute(&self, _statements: &str) -> Result<()> {
        Err(Error::bug("run statements of an application"))
    }

    /// The first column of what a statement answers, as text.
    async fn ask(&self, _statement: &str) -> Result<Vec<String>> {
        Err(Error::bug("run a statement of an application"))
    }

    /// An address of this engine at which nothing answers.
    fn nowhere(&self) -> Endpoint;

    /// An address at which something else than this engine answers; see [`Scene::Foreign`].
    fn foreign(&self) -> Option<Endpoint> {
        None
    }

    /// Statements by which a sandbox would write, or reach this database: each must fail.
    fn escapes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Damages what was laid out, so that the engine can notice; see [`Scene::Damage`].
    fn damage(&self, plan: &RestorePlan) -> Result<()>;
}

/// Something that happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scene {
    /// It stops in an orderly way and starts again.
    Restart,
    /// It is killed and recovers.
    Crash,
    /// It discards all log that nobody holds, as its own housekeeping does.
    Discard,
    /// Its history goes on in another lineage, with nothing lost: a fail-over, a new log.
    Succession,
    /// Another database takes its place.
    Replacement,
    /// It goes away for good.
    Departure,
    /// One transaction writes at least 40 MiB of log, outside of the bank.
    Bulk,
    /// Something else than this engine answers at [`Server::foreign`].
    Foreign,
    /// [`Server::damage`] can damage a laid out copy so that the engine's check can find it.
    Damage,
}
