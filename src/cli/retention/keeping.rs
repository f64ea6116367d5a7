//! A database and what is promised about keeping it, and the words for what follows.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::super::answer::Stamp;
use crate::{
    config::{Config, Database},
    coordinator::subjects,
    policy::{CopyRule, Policy, Retention, Rules, State, Until, Verdict},
    repository::Holdings,
};

/// Why a backup is kept, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Why {
    /// A word that stays the same.
    pub(super) reason: &'static str,
    /// The same for people.
    pub(super) says: String,
}

/// Until when a backup is kept, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct End {
    /// `gone`, `at`, `replaced` or `told`.
    pub(super) when: &'static str,
    /// Since when it may go, when it goes, or before when it does not.
    pub(super) at: Option<Stamp>,
    /// The same for people.
    pub(super) says: String,
}

impl Why {
    /// Every reason of a verdict.
    pub(super) fn all(verdict: &Verdict) -> Vec<Self> {
        let why = verdict.reasons.iter();
        why.map(|reason| Self { reason: reason.code(), says: reason.to_string() }).collect()
    }
}

impl End {
    /// What a verdict says, in the zone of its policy.
    pub(super) fn of(verdict: &Verdict, policy: &Policy) -> Self {
        let (when, at) = match verdict.until {
            Until::Gone(since) => ("gone", Some(since)),
            Until::Instant(at) => ("at", Some(at)),
            Until::Replaced(earliest) => ("replaced", earliest),
            Until::Told => ("told", None),
        };
        Self { when, at: at.map(Stamp), says: verdict.until.told(policy.zone) }
    }
}

/// A database and what is promised about keeping it.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Keeping<'a> {
    /// The database.
    pub(in crate::cli) database: &'a Database,
    /// What is promised for it.
    pub(in crate::cli) policy: &'a Policy,
    /// The copy that it is about; without one, it is the original.
    pub(in crate::cli) copy: Option<&'a CopyRule>,
    /// Whether the database is still protected.
    pub(in crate::cli) state: State,
}

impl<'a> Keeping<'a> {
    /// A configured database, and its policy.
    pub(in crate::cli) fn of(config: &'a Config, database: &'a Database) -> Option<Self> {
        let policy = config.policies.get(&database.policy)?;
        Some(Self { database, policy, copy: None, state: State::Active })
    }

    /// The same about each of its copies.
    pub(in crate::cli) fn copies(self) -> impl Iterator<Item = Self> {
        self.policy.copies.iter().map(move |copy| Self { copy: Some(copy), ..self })
    }

    /// The repository that it is about.
    pub(in crate::cli) fn repository(&self) -> &'a str {
        self.copy.map_or(&self.database.repository, |copy| &copy.to)
    }

    /// Decides about what there is.
    pub(in crate::cli) fn decide(&self, holdings: &Holdings, now: DateTime<Utc>) -> Retention {
        let holdings = holdings.clone().about(&self.subjects());
        self.rules().retain(&holdings.stock(self.state), now)
    }

    /// What is promised about keeping there.
    pub(super) fn rules(&self) -> Rules<'a> {
        match self.copy {
            Some(copy) => Rules::of_copy(self.policy, copy),
            None => Rules::of(self.policy),
        }
    }

    /// Whom the database concerns: what its label of that name says, apart by commas.
    pub(in crate::cli) fn subjects(&self) -> Vec<String> {
        let keep = self.copy.map_or(&self.policy.keep, |copy| &copy.keep);
        subjects(keep, &self.database.labels)
    }
}
