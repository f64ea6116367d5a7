//! A report on a month, as it is written down once. What is not known is left out.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::{answer::Stamp, retention::report::Kept};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct MonthRecord {
    pub(super) format: u32,
    /// What wrote it, for people.
    pub(super) program: &'static str,
    /// The id of the repository that keeps it.
    pub(super) repository: String,
    pub(super) report: String,
    pub(super) made_by: String,
    pub(super) made_at: Stamp,
    pub(super) month: String,
    pub(super) zone: String,
    pub(super) from: Stamp,
    /// The end of the month, or when the report was made if that was earlier.
    pub(super) to: Stamp,
    /// Whether the month was over.
    pub(super) complete: bool,
    /// What tells the configuration that held from others.
    pub(super) configuration: String,
    /// The logs that it was made of, as they were then.
    pub(super) repositories: Vec<Anchor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) audit: Option<AuditEnd>,
    pub(super) databases: Vec<Month>,
    /// What keeps it from being complete.
    pub(super) problems: Vec<String>,
}

/// The newest entry of the log of a repository.
#[derive(Debug, Serialize)]
pub(super) struct Anchor {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) entries: u64,
    pub(super) head: String,
}

/// The newest line of the audit log.
#[derive(Debug, Serialize)]
pub(super) struct AuditEnd {
    pub(super) lines: i64,
    pub(super) hash: String,
}

/// One database.
#[derive(Debug, Serialize)]
pub(super) struct Month {
    pub(super) database: String,
    /// `active` or `retired`.
    pub(super) state: &'static str,
    pub(super) policy: String,
    pub(super) repository: String,
    pub(super) promise: Promise,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) breaches: Option<Breaches>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jobs: Option<Jobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backups: Option<BackedUp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drills: Option<Vec<Rehearsal>>,
    pub(super) copies: Vec<Copied>,
    /// What is kept of it now, there and in every copy, with what is held.
    pub(super) retention: Vec<Kept>,
}

/// What was promised when the report was made.
#[derive(Debug, Serialize)]
pub(super) struct Promise {
    pub(super) rpo_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rto_seconds: Option<u64>,
}

/// What was told of broken promises.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Breaches {
    /// From when on that was written down.
    pub(super) known_from: Stamp,
    pub(super) alerts: Vec<Breach>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Breach {
    /// The class of the alert, such as `rpo-breached`.
    pub(super) class: String,
    pub(super) since: Stamp,
    /// When it was found to be over; nothing while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) over: Option<Stamp>,
}

/// How jobs ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Jobs {
    /// From when on that is remembered.
    pub(super) known_from: Stamp,
    /// Of each kind, how many ended in each way.
    pub(super) ended: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

/// Backups that were made.
#[derive(Debug, Default, Serialize)]
pub(super) struct BackedUp {
    pub(super) made: u64,
    pub(super) full: u64,
    pub(super) incremental: u64,
    /// How many of them were read back and are as they were written.
    pub(super) verified: u64,
    /// How many are not.
    pub(super) suspect: u64,
    /// How many are gone since.
    pub(super) gone: u64,
    /// What they added to the repository.
    pub(super) stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Stamp>,
}

/// A drill.
#[derive(Debug, Serialize)]
pub(super) struct Rehearsal {
    pub(super) drill: String,
    /// The repository that was restored from.
    pub(super) from: String,
    pub(super) finished_at: Stamp,
    pub(super) passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rto_ms: Option<u64>,
    /// Whether that is what was promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_time: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rpo_ms: Option<u64>,
    /// Why its evidence could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// What a copy got.
#[derive(Debug, Serialize)]
pub(super) struct Copied {
    pub(super) copy: String,
    pub(super) repository: String,
    /// How many of the backups of the month it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backups: Option<u64>,
}
