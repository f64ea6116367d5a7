//! What a server has, and lacks, for being protected: for people, before anything fails.

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What, such as `wal_level`.
    pub subject: &'static str,
    /// How it is.
    pub found: String,
    /// How that weighs.
    pub weight: Weight,
    /// The statement or command that would change it, where something is to be changed.
    pub statement: Option<String>,
}

/// How a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// All is well.
    Fine,
    /// It works, but not as well as it could.
    Advice,
    /// It does not work.
    Lacking,
}
