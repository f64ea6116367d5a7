//! What must be so before rows are deleted that are in a durable, verified file already.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::Result;

use super::{
    copy::bring,
    document::{Batch, Plan},
    garbage::discard,
    place::Place,
};
use crate::{
    pipeline::cpu::CpuPool,
    policy::Proof,
    repository::{Repository, proof_of},
};

/// How long after files were written a backup must have begun, to be of a state with their rows:
/// the clocks of those who wrote either may differ by that, and a standby be so far behind.
const BACKUP_MARGIN: TimeDelta = TimeDelta::minutes(10);

/// Something that has to be so before the rows of a batch are deleted.
#[async_trait]
pub trait Gate: fmt::Debug + Send + Sync {
    /// Why they may not be deleted yet; `None` when they may.
    async fn closed(
        &self,
        plan: &Plan,
        batch: &Batch,
        now: DateTime<Utc>,
    ) -> Result<Option<String>>;

    /// A batch that had passed was written anew, without some of its rows.
    async fn renew(&self, _plan: &Plan, _old: &Batch, _new: &Batch) -> Result<()> {
        Ok(())
    }

    /// Where else files are because of it.
    fn copy(&self) -> Option<&Place> {
        None
    }
}

/// The files must have been there for so long.
#[derive(Clone, Copy, Debug)]
pub struct Aged(pub Duration);

#[async_trait]
impl Gate for Aged {
    async fn closed(
        &self,
        _plan: &Plan,
        batch: &Batch,
        now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        let age = TimeDelta::from_std(self.0).unwrap_or(TimeDelta::MAX);
        // A clock that went back deletes nothing.
        let open = batch.made.checked_add_signed(age);
        Ok(match open {
            Some(open) if now >= open => None,
            Some(open) => Some(format!("its files are to be kept beside the rows until {open}")),
            None => Some("its files are to be kept beside the rows for ever".to_owned()),
        })
    }
}

/// There must be a second copy of the files; it is made here, and read back.
#[derive(Debug)]
pub struct SecondCopy {
    /// Where the first one is.
    pub from: Place,
    /// Where the second one is to be.
    pub to: Place,
    /// Threads for work.
    pub cpu: CpuPool,
}

#[async_trait]
impl Gate for SecondCopy {
    async fn closed(
        &self,
        plan: &Plan,
        batch: &Batch,
        _now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        bring(&self.from, &self.to, &self.cpu, plan, batch).await.map(|()| None)
    }

    async fn renew(&self, plan: &Plan, old: &Batch, new: &Batch) -> Result<()> {
        bring(&self.from, &self.to, &self.cpu, plan, new).await?;
        discard(&self.to, old, Some(new)).await.map(|_| ())
    }

    fn copy(&self) -> Option<&Place> {
        Some(&self.to)
    }
}

/// A verified backup of the database must hold the rows: one of a state after they were read.
#[derive(Debug)]
pub struct BackedUp {
    /// Where its backups are.
    pub repository: Repository,
    /// Its name there.
    pub database: String,
    /// The identity of the database that rows are deleted from: a name may be another one's.
    pub identity: String,
}

#[async_trait]
impl Gate for BackedUp {
    async fn closed(
        &self,
        _plan: &Plan,
        batch: &Batch,
        _now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        let database = &self.database;
        let Some(from) = batch.made.checked_add_signed(BACKUP_MARGIN) else {
            return Ok(Some(format!("no backup of {database} can begin after its files")));
        };
        let history = self.repository.history().await?;
        let mut other = None;
        for committed in history.live_of(database) {
            let commit = &committed.commit;
            // A file that stands for a database is of an earlier state than when it was taken in.
            let is_later = commit.started_at >= from && commit.consistent_time >= from;
            if !is_later || proof_of(&history, &commit.backup) != Proof::Verified {
                continue;
            }
            if commit.incarnation == self.identity {
                return Ok(None);
            }
            other = Some(commit);
        }
        let why = format!("no verified backup of {database} has begun at {from} or later");
        Ok(Some(match other {
            Some(other) => {
                let (backup, location) = (&other.backup, &other.location);
                format!("{why}; {backup} is of another database of that name, at {location}")
            }
            None => why,
        }))
    }
}
