//! What a coordinator does outside of its state database: what repositories say, and what is done
//! to databases. A simulation of months does it by a model.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint_contract::Result;
use tokio::sync::watch;

use super::{
    fleet::{Fleet, Member},
    standing::Standing,
};
use crate::{
    coordinator::{CaptureEvent, state::Outcome},
    pipeline::Meter,
    policy::Kind,
};

/// Whoever does what a coordinator decides. Every future may be dropped; all of them are polled by
/// one task.
#[async_trait(?Send)]
pub trait Hands: fmt::Debug + Send + Sync {
    /// Where a database stands, by its repository.
    ///
    /// # Errors
    ///
    /// What keeps the repository from being read; so everywhere here.
    async fn standing(&self, fleet: &Fleet, member: &Member) -> Result<Standing>;

    /// Backs up for a due time, at most once whoever else does, and proves what was stored.
    async fn back_up(
        &self,
        fleet: &Fleet,
        member: &Member,
        task: BackupTask,
        meter: &Arc<Meter>,
    ) -> Result<Ending>;

    /// Rehearses a restore, and keeps the evidence.
    async fn rehearse(&self, fleet: &Fleet, member: &Member, meter: &Arc<Meter>) -> Result<Ending>;

    /// Gives up what no promise keeps. Returns the backups, by their ids.
    async fn expire(
        &self,
        fleet: &Fleet,
        member: &Member,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>>;

    /// Frees the space of what was given up. Returns the bytes.
    async fn collect(&self, fleet: &Fleet, repository: &str, meter: &Arc<Meter>) -> Result<u64>;

    /// Captures log until `is_over` is true.
    async fn capture(
        &self,
        fleet: &Fleet,
        member: &Member,
        is_over: &mut watch::Receiver<bool>,
        tell: &dyn Fn(CaptureEvent),
    ) -> Result<()>;
}

/// A due time for which a backup is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupTask {
    /// Which kind.
    pub kind: Kind,
    /// The due time with its kind, as the repository keeps it.
    pub due: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Whether it did what it was to do.
    pub outcome: Outcome,
    /// What was done, or why not, for people.
    pub reason: String,
    /// Objects that were found damaged.
    pub damaged: u64,
}

impl Ending {
    /// It did.
    pub fn succeeded(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Succeeded, reason: reason.into(), damaged: 0 }
    }

    /// It did not.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, reason: reason.into(), damaged: 0 }
    }

    /// It does not matter any more.
    pub fn superseded(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Superseded, reason: reason.into(), damaged: 0 }
    }
}
