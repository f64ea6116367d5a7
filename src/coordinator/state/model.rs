//! What a queue is made of: tasks, attempts at them, and who has which.

use std::time::Duration;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::database::Row;
#[cfg(doc)]
use crate::policy::RANK_PER_RPO;

/// Jobs that are told in one go, unless more are asked for.
const JOBS_MAX: u32 = 1_000;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The database.
    pub database: String,
    /// What to do with it, in a word such as `full`.
    pub kind: String,
    /// The due time that it is for. With database and kind it names the work.
    pub due: DateTime<Utc>,
    /// Why, in a word such as `calendar`.
    pub why: String,
    /// The repository that it writes to or reads from.
    pub repository: String,
    /// The host that it burdens.
    pub host: String,
    /// Who goes first when not all can: the larger number.
    pub rank: u64,
    /// While it waits, it grows by [`RANK_PER_RPO`] in so long; not at all, if that is nothing.
    pub rpo: Duration,
    /// The agent that is to do it; nothing, if whoever serves does.
    pub agent: String,
    /// The site whose workers are to do it; nothing, if any may.
    pub site: String,
}

/// An attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id, which sorts by when it was put into the queue.
    pub id: String,
    /// The task.
    pub task: Task,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// What has become of it.
    pub phase: Phase,
    /// Bytes that were done when last heard of.
    pub bytes: u64,
}

/// An attempt at a task, as far as decisions rest on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What was to be done, in a word such as `full`.
    pub kind: String,
    /// The due time that it is for.
    pub due: DateTime<Utc>,
    /// When it began, if it did.
    pub started: Option<DateTime<Utc>>,
    /// When and how it ended, unless it waits or runs.
    pub ended: Option<(DateTime<Utc>, Outcome)>,
}

/// What has become of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn.
    Waiting,
    /// Somebody is at it.
    Running {
        /// Who.
        worker: String,
        /// Since when.
        started: DateTime<Utc>,
        /// When it last got on.
        moved: DateTime<Utc>,
    },
    /// It is over.
    Ended {
        /// When it began, if it did.
        started: Option<DateTime<Utc>>,
        /// When it ended.
        at: DateTime<Utc>,
        /// How.
        outcome: Outcome,
        /// Why, for people.
        reason: String,
    },
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// Its endpoint went away, and another one takes over.
    Superseded,
    /// It did what it may, and does the rest when something else has come about.
    Deferred,
    /// Somebody ended it.
    Cancelled,
    /// Nobody has heard of its worker.
    Lost,
}

/// The right to work on a job. It ends when the worker is not heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job: String,
    /// The task.
    pub task: Task,
    /// Which attempt it is.
    pub attempt: u32,
    pub(super) worker: String,
    pub(super) epoch: i64,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::Failed,
        Self::Superseded,
        Self::Deferred,
        Self::Cancelled,
        Self::Lost,
    ];

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Deferred => "deferred",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// How jobs are called that archive rows; the name of the set follows.
pub const ARCHIVE: &str = "archive ";

/// Which jobs are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this database.
    pub database: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
    /// Only those that have come so far.
    pub stage: Option<Stage>,
    /// Only those that were put into the queue before this one: the next page.
    pub before: Option<String>,
    /// At most so many.
    pub most: u32,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its turn.
    Waiting,
    /// Somebody is at it.
    Running,
    /// It is over.
    Ended,
}

impl Default for Filter {
    fn default() -> Self {
        Self { database: None, kind: None, stage: None, before: None, most: JOBS_MAX }
    }
}

impl Stage {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// What a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Jobs of a repository.
    Repository,
    /// Jobs of a host.
    Host,
}

impl Scope {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Host => "host",
        }
    }
}

/// An attempt, from the columns `kind, due, state, started, ended, outcome`.
pub(super) fn tried(row: &Row) -> Result<Tried> {
    let ended = match row.text(2)? {
        "ended" => Some((row.time(4)?, outcome(row.text(5)?)?)),
        _ => None,
    };
    let (kind, due, started) = (row.text(0)?.to_owned(), row.time(1)?, row.maybe_time(3)?);
    Ok(Tried { kind, due, started, ended })
}

fn outcome(word: &str) -> Result<Outcome> {
    let found = Outcome::ALL.into_iter().find(|outcome| outcome.word() == word);
    found.ok_or_else(|| Error::bug("read how a job ended"))
}

/// A task and which attempt at it, from the columns `id, name, kind, due, why, repository, host,
/// rank, attempt, rpo, agent, site`.
pub(super) fn task(row: &Row) -> Result<(Task, u32)> {
    let text = |column| row.text(column).map(str::to_owned);
    let task = Task {
        database: text(1)?,
        kind: text(2)?,
        due: row.time(3)?,
        why: text(4)?,
        repository: text(5)?,
        host: text(6)?,
        rank: row.number(7)?.unsigned_abs(),
        rpo: Duration::from_millis(row.number(9)?.unsigned_abs()),
        agent: text(10)?,
        site: text(11)?,
    };
    Ok((task, row.number(8)? as u32))
}

/// A job, from the columns `id, name, kind, due, why, repository, host, rank, attempt, rpo, agent,
/// site, state, worker, started, moved, ended, outcome, reason, bytes`.
pub(super) fn job(row: &Row) -> Result<Job> {
    let (task, attempt) = task(row)?;
    let phase = match row.text(12)? {
        "waiting" => Phase::Waiting,
        "running" => Phase::Running {
            worker: row.text(13)?.to_owned(),
            started: row.time(14)?,
            moved: row.time(15)?,
        },
        _ => Phase::Ended {
            started: row.maybe_time(14)?,
            at: row.time(16)?,
            outcome: outcome(row.text(17)?)?,
            reason: row.maybe_text(18)?.unwrap_or_default().to_owned(),
        },
    };
    let bytes = row.number(19)?.unsigned_abs();
    Ok(Job { id: row.text(0)?.to_owned(), task, attempt, phase, bytes })
}
