//! What an engine can do, as questions the coordinator asks before it plans.

use std::time::Duration;

/// The answers one server gave.
///
/// Capabilities belong to a connected server, not to an engine: version, edition, recovery model
/// and privileges all change them. A capability that is claimed is exercised by the conformance
/// suite, or the suite fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// At which instant is a finished copy consistent?
    pub consistency: Consistency,
    /// Can a backup hold only what changed since an earlier one?
    pub incremental: Incremental,
    /// How does the change log leave the server?
    pub log: LogSupply,
    /// Can one database be restored without its neighbours?
    pub restores_single_database: bool,
}

/// The instant a copy represents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The instant the copy began: a snapshot.
    AtStart,
    /// The instant the copy ended, once the log written meanwhile has been replayed.
    AtEnd,
}

/// How an engine finds what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incremental {
    /// Every backup reads everything.
    Never,
    /// Pages changed since any earlier backup.
    SincePrevious,
    /// Pages changed since the last full backup only.
    SinceFull,
}

/// How an engine hands over its change log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSupply {
    /// There is no log to keep: recovery reaches backups, not moments between them.
    Never,
    /// The server pushes records as they commit; the recovery point trails by network latency.
    Stream,
    /// We ask for the next stretch; the recovery point trails by `period`.
    Poll {
        /// The time between two requests that the engine stands well.
        period: Duration,
    },
}
