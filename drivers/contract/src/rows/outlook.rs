//! What moving a set will do to its server, for people who decide whether it is to begin.

use crate::Finding;

/// What a run will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The statements that select rows, and how the engine carries them out.
    pub steps: Vec<Explained>,
    /// The key of the first row that is selected, as people read it; `None` where there is none,
    /// or it would take long to find.
    pub first: Option<String>,
    /// That of the last one.
    pub last: Option<String>,
    /// What is locked.
    pub locks: Vec<LockTaken>,
    /// At least so many bytes of log.
    pub log_least: u64,
    /// And about so many at most.
    pub log_most: u64,
}

/// A statement, and how it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The table.
    pub table: String,
    /// The statement.
    pub statement: String,
    /// What the engine says of it, line by line.
    pub plan: Vec<String>,
    /// What would make it cheaper.
    pub advice: Option<Finding>,
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockTaken {
    /// What is locked.
    pub on: String,
    /// How, in the engine's words.
    pub mode: String,
    /// While what is done.
    pub during: &'static str,
    /// Who waits meanwhile.
    pub blocks: &'static str,
    /// Whether it is held for no longer than a transaction that deletes.
    pub is_brief: bool,
}
