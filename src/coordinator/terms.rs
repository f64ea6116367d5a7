//! What is said of one copy of one database, wherever it goes, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::{
    policy::{
        Backup, Candidate, CopyRule, Hours, Keep, Policy, Proof, Rules, State, Stock, Window,
    },
    repository::{
        Holdings, Problem, Repository, VerifyReport,
        history::{Committed, History},
    },
};

/// A backup that does not go, though the copy should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Its id.
    pub backup: String,
    /// Whether nobody has proven it, or something is wrong with it.
    pub proof: Proof,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// What is said of a copy of a database.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The database.
    pub database: &'a str,
    /// What is promised for it.
    pub policy: &'a Policy,
    /// What is said of the copy.
    pub rule: &'a CopyRule,
    /// Whether the database is still protected.
    pub state: State,
    /// Words to choose the database by: whom it concerns is among them.
    pub labels: &'a BTreeMap<String, String>,
    /// Where it is made of.
    pub source: &'a Repository,
    /// When the place that gets it may be written to; always, if there is none.
    pub windows: &'a [Window],
}

impl Terms<'_> {
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules::of_copy(self.policy, self.rule)
    }

    /// When it may run.
    pub fn hours(&self) -> Hours<'_> {
        Hours {
            zone: self.policy.zone,
            of_copy: &self.rule.windows,
            of_repository: self.windows,
            closed: &self.policy.blackout_hard,
        }
    }

    /// Refuses to go on outside of its hours.
    pub(super) fn may_go(&self, now: DateTime<Utc>) -> Result<()> {
        if self.hours().are_open(now) {
            return Ok(());
        }
        let step = format!("copy {} to {} outside of its windows", self.database, self.rule.name);
        let error = Error::new(ErrorKind::Busy, code::COPY_PAUSED, step);
        Err(match self.hours().next_open(now) {
            Some(at) => error.with("opens", at),
            None => error,
        })
    }

    /// Whom the database concerns, where retention follows from events about somebody.
    pub(super) fn subjects(&self) -> Vec<String> {
        subjects(&self.rule.keep, self.labels)
    }

    pub(super) fn holdings(&self, history: &History) -> Holdings {
        Holdings::of(history, self.database).about(&self.subjects())
    }

    /// What keeps a backup from going, unless it was given up meanwhile. Where the source is not
    /// what it was when the backup was proven, that is written down there.
    pub(super) async fn note(
        &self,
        committed: &Committed,
        found: Problem,
        is_of_source: bool,
    ) -> Result<Option<Problem>> {
        let backup = &committed.commit.backup;
        let theirs = self.source.history().await?;
        if theirs.commit(backup).is_none_or(|known| known.forgotten) {
            return Ok(None);
        }
        if is_of_source {
            let report = VerifyReport { problems: vec![found.clone()], ..VerifyReport::default() };
            if let Err(error) = self.source.prove(committed, &report).await {
                tracing::warn!(event = "proof.unwritten", backup, "{error}");
            }
        }
        Ok(Some(found))
    }

    /// What would go if it were proven.
    pub(super) fn held_back(
        &self,
        theirs: &History,
        candidates: &[Candidate],
        there: &Stock<'_>,
        now: DateTime<Utc>,
    ) -> Vec<HeldBack> {
        let proven = candidates.iter().cloned().map(|one| Candidate {
            backup: Backup { proof: Proof::Verified, ..one.backup },
            kind: one.kind,
        });
        let proven: Vec<_> = proven.collect();
        let wanted: BTreeSet<String> = self.rule.wanted(self.policy, &proven, there, now);
        let doubtful = candidates.iter().map(|one| &one.backup);
        let doubtful = doubtful.filter(|b| b.proof != Proof::Verified && wanted.contains(&b.id));
        let told = |backup: &Backup| HeldBack {
            backup: backup.id.clone(),
            proof: backup.proof,
            problem: theirs.fault(&backup.id).map(str::to_owned),
        };
        doubtful.map(told).collect()
    }
}

/// Whom a database concerns, where retention follows from events about somebody: what its label of
/// that name says, apart by commas.
pub fn subjects(keep: &Keep, labels: &BTreeMap<String, String>) -> Vec<String> {
    let label = keep.event.as_ref().and_then(|rule| labels.get(&rule.subject));
    let names = label.into_iter().flat_map(|label| label.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
