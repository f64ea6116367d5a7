//! What is known of a database when it is asked what is due.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    due::Why,
    model::{Kind, State},
};

/// After the first failure, so long until it is tried again; twice as long after each further one.
pub const BACKOFF_FIRST: TimeDelta = TimeDelta::minutes(1);

/// Never longer than this.
pub const BACKOFF_MAX: TimeDelta = TimeDelta::hours(1);

/// What is known of a database when it is asked what is due.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its name, which decides its place in every spread.
    pub database: &'a str,
    /// Whether it is still protected.
    pub state: State,
    /// Since when it is protected.
    pub since: DateTime<Utc>,
    /// For each kind, until when every due time is settled; otherwise nothing was since `since`.
    pub looked: &'a BTreeMap<Kind, DateTime<Utc>>,
    /// When it was, is or will be paused.
    pub pauses: &'a [Pause],
    /// The newest attempts of each kind, in any order, those that run and wait to run included.
    pub attempts: &'a [Attempt],
    /// Why a full backup is needed at once, whatever the calendar says.
    pub need: Option<Need>,
}

/// A time in which nothing is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Its beginning.
    pub since: DateTime<Utc>,
    /// Its end, if one is known; it is no part of it.
    pub until: Option<DateTime<Utc>>,
}

/// Why a backup is needed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// There is none, of the database or of its present incarnation, since then.
    First(DateTime<Utc>),
    /// Log that was captured since then joins no backup.
    Gap(DateTime<Utc>),
}

/// Something that was begun, or waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What.
    pub kind: Kind,
    /// The due time that it is for.
    pub due: DateTime<Utc>,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// How and when it ended, unless it runs.
    pub ended: Option<(DateTime<Utc>, Outcome)>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Succeeded,
    /// With an error, or, for a drill, with a finding.
    Failed,
    /// Its endpoint went away; another one takes over.
    Superseded,
    /// Somebody ended it.
    Cancelled,
}

impl Pause {
    /// Whether an instant is in it.
    pub fn covers(&self, at: DateTime<Utc>) -> bool {
        self.since <= at && self.until.is_none_or(|until| at < until)
    }

    /// Whether it is over, and was not yet at `due`.
    pub(super) fn ended_after(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.until.is_some_and(|until| self.since <= now && until <= now && due < until)
    }
}

impl Need {
    pub(super) fn run(self) -> (DateTime<Utc>, Why) {
        match self {
            Self::First(since) => (since, Why::First),
            Self::Gap(since) => (since, Why::Gap),
        }
    }
}

impl Attempt {
    /// How it ended, unless it runs.
    pub fn outcome(&self) -> Option<Outcome> {
        self.ended.map(|(_, outcome)| outcome)
    }

    /// How long a backup took that ended well.
    pub(super) fn duration(&self) -> Option<TimeDelta> {
        let (at, outcome) = self.ended?;
        let is_backup = self.kind != Kind::Drill && outcome == Outcome::Succeeded;
        is_backup.then(|| (at - self.started_at).max(TimeDelta::zero()))
    }
}

impl Facts<'_> {
    pub(super) fn looked_until(&self, kind: Kind) -> DateTime<Utc> {
        self.looked.get(&kind).copied().unwrap_or(self.since)
    }

    /// What has to end before something of the kind may begin. Two backups of one database would
    /// read the same bytes twice.
    pub(super) fn running(&self, kind: Kind) -> Option<&Attempt> {
        let is_beside = |attempt: &&Attempt| match kind {
            Kind::Drill => attempt.kind == Kind::Drill,
            Kind::Full | Kind::Incremental => attempt.kind != Kind::Drill,
        };
        let mut running = self.attempts.iter().filter(|attempt| attempt.ended.is_none());
        // One of the same kind, if there is one: it stands for more.
        let same = self.attempts.iter().find(|a| a.ended.is_none() && a.kind == kind);
        same.or_else(|| running.find(is_beside))
    }

    /// The newest attempts that ended, the newest first.
    fn ended(&self, kind: Kind) -> Vec<(&Attempt, DateTime<Utc>, Outcome)> {
        let of_kind = self.attempts.iter().filter(|attempt| attempt.kind == kind);
        let mut ended: Vec<_> =
            of_kind.filter_map(|a| a.ended.map(|(at, outcome)| (a, at, outcome))).collect();
        ended.sort_by_key(|(_, at, _)| std::cmp::Reverse(*at));
        ended
    }

    /// When something of the kind may be begun again, judged by how the last attempts ended.
    pub(super) fn ready_at(&self, kind: Kind) -> Option<DateTime<Utc>> {
        let ended = self.ended(kind);
        let (_, at, outcome) = ended.first()?;
        let failures = ended.iter().take_while(|(_, _, o)| *o == Outcome::Failed).count();
        let backoff = match outcome {
            Outcome::Succeeded | Outcome::Superseded => TimeDelta::zero(),
            Outcome::Cancelled => BACKOFF_MAX,
            Outcome::Failed => {
                let doubled = 1 << failures.saturating_sub(1).min(10);
                (BACKOFF_FIRST * doubled).min(BACKOFF_MAX)
            }
        };
        Some(*at + backoff)
    }

    /// The due time of a backup that did not end well and is to be tried again. A drill is not:
    /// what it finds is a finding.
    pub(super) fn retry(&self, kind: Kind, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (attempt, at, outcome) = self.ended(kind).into_iter().next()?;
        let stands_for_it = |other: &Attempt| {
            other.kind <= kind
                && attempt.started_at < other.started_at
                && other.outcome() == Some(Outcome::Succeeded)
        };
        let is_wanted = kind != Kind::Drill
            && matches!(outcome, Outcome::Failed | Outcome::Superseded)
            && !self.pauses.iter().any(|pause| pause.ended_after(at, now))
            && !self.attempts.iter().any(stands_for_it);
        is_wanted.then_some(attempt.due)
    }
}
