//! A throw-away server on a restored copy: what drills and partial restores work with.

use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Brought, Comparison, Endpoint, Error, ErrorKind, Progress, Result, Script, ShareRequest, code,
};

/// The most tables of which a backup records how many rows they have.
pub const TALLIES_MAX: usize = 10_000;

/// What a sandbox is opened on.
#[derive(Clone, Copy, Debug)]
pub struct SandboxRequest<'a> {
    /// The restored database. From now on it is the sandbox's, which may change it.
    pub database: &'a Path,
    /// A directory that is new, empty and ours, for everything else that a server needs, such as
    /// its socket. The database lies beside it.
    pub directory: &'a Path,
    /// Letters and digits that no other sandbox has.
    pub token: &'a str,
}

/// A throw-away server on a restored copy of a database.
///
/// # Contract
///
/// - It reaches nothing: no other server, no network, no log archive, no file outside of its
///   directories. What the database itself says, as settings, subscriptions or triggers, changes
///   nothing of that.
/// - It ends with our process, or is at work in its directories, where whoever removes them finds
///   it: a process of a sandbox has its working directory there.
/// - Dropping it ends it.
#[async_trait]
pub trait Sandbox: std::fmt::Debug + Send + Sync {
    /// What it is and what keeps it to itself, for reports; such as the version of its server.
    fn description(&self) -> &str;

    /// How the engine's own tools reach it while it lives.
    fn endpoint(&self) -> Endpoint;

    /// The databases that [`query`](Self::query) can name; none where there is only one anyway.
    fn databases(&self) -> &[String] {
        &[]
    }

    /// Asks it one short question about what the database holds, to prove that it answers.
    async fn greet(&self) -> Result<()>;

    /// Runs statements in one of its databases, or in the usual one, and returns what the last of
    /// them answers: columns apart by `|`, rows by line feeds, nothing for NULL. They change
    /// nothing: checks of what was restored may follow.
    ///
    /// # Errors
    ///
    /// What the engine said; what tries to write fails;
    /// [`Exhausted`](crate::ErrorKind::Exhausted) for a longer answer than [`ANSWER_BYTES_MAX`].
    async fn query(&self, database: Option<&str>, sql: &str) -> Result<String>;

    /// Runs those of the engine's own checks that need a server, or that look at what the
    /// database holds; [`Engine::check`](crate::Engine::check) has looked at its files.
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking; what it finds is in the answer.
    async fn check(&self) -> Result<Vec<Examined>>;

    /// Counts the rows of every table, exactly, under the names that backups record.
    async fn tally(&self) -> Result<Vec<Tally>>;

    /// Brings a share into a server that lives, under names that are free there: rows, indexes,
    /// constraints, sequences, grants and comments. Every table appears as a whole or not at all,
    /// and so does a database; nothing else there is changed, or locked against anybody.
    ///
    /// The copy itself may be changed by it.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when a name is taken,
    /// [`Missing`](crate::ErrorKind::Missing) when the copy has no such table or the server lacks
    /// what it needs.
    async fn bring(
        &self,
        _request: &ShareRequest<'_>,
        _progress: &dyn Progress,
    ) -> Result<Brought> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "restore a part of a database"))
    }

    /// Compares tables with those of the same names in a server that lives, each in one state of
    /// it, without writing there; and writes statements into `script` that bring missing rows back
    /// and make different ones equal. Memory does not depend on how many rows there are.
    ///
    /// # Errors
    ///
    /// As [`bring`](Self::bring); [`Missing`](crate::ErrorKind::Missing) also when a table does
    /// not live any more.
    async fn compare(
        &self,
        _request: &ShareRequest<'_>,
        _progress: &dyn Progress,
        _script: &mut Script<'_>,
    ) -> Result<Comparison> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "compare tables"))
    }

    /// Ends it and waits until it has ended.
    async fn stop(self: Box<Self>) -> Result<()>;
}

/// The longest answer to a statement, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One check of the engine's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// Its name, such as `pg_amcheck`.
    pub check: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Whether it failed because pages, or what leads from one to another, are not as the engine
    /// leaves them: nothing that an application says, or that this machine lacks, makes it so.
    pub is_damage: bool,
    /// What the engine said, word by word; or why it was not run.
    pub says: Vec<String>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Passed,
    /// Something is wrong.
    Failed,
    /// It could not be run here, or there was nothing to judge.
    Skipped,
}

/// How many rows a table has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Its name, with those of its schema and database where the engine has them.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Whether they were counted, in the very state of the copy; else the engine's own estimate.
    pub exact: bool,
}
