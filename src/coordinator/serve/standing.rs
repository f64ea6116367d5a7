//! Where a database stands, by its repository: what can be restored, and what is needed at once.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{LogPosition, Result};

use crate::{
    coordinator::reach::windows,
    policy::{Anomaly, Interval, Need, TOLD},
    repository::{Repository, Timeline, anomalies_of, entry::Drilled, history::History},
};

/// What a repository says about one database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What can be restored.
    pub coverage: Vec<Interval>,
    /// How many backups there are.
    pub backups: usize,
    /// The state of the newest backup.
    pub newest_backup: Option<DateTime<Utc>>,
    /// The state of the newest one that read everything.
    pub newest_full: Option<DateTime<Utc>>,
    /// The state of the newest one that did not.
    #[serde(default)]
    pub newest_incremental: Option<DateTime<Utc>>,
    /// What backups take, in bytes; what is shared counts for the first that stored it.
    #[serde(default)]
    pub stored_bytes: u64,
    /// How long the newest drill that passed needed, and how much was not in what it restored.
    #[serde(default)]
    pub rehearsed: Rehearsed,
    /// Why a full backup is needed at once.
    pub need: Option<Need>,
    /// The end of the last drill that passed.
    pub drill_passed: Option<DateTime<Utc>>,
    /// The end of the last drill that found something.
    pub drill_failed: Option<DateTime<Utc>>,
    /// Since when it is known that a backup cannot be restored, if the newest look found that.
    pub corrupt_since: Option<DateTime<Utc>>,
    /// Since when it is known that the database itself is damaged, if the newest look found that:
    /// a drill of one of its backups, or the engine while the newest was made. Its backups can be
    /// restored as they are, and stay points.
    #[serde(default)]
    pub damaged_since: Option<DateTime<Utc>>,
    /// The newest of its last backups that is not like those before it.
    #[serde(default)]
    pub anomaly: Option<Anomaly>,
    /// The states of first backups of incarnations that followed others.
    pub successions: Vec<DateTime<Utc>>,
    /// Which incarnation the newest backup is of.
    pub incarnation: Option<String>,
    /// When a capture last gave a sign of life.
    pub captured_at: Option<DateTime<Utc>>,
}

/// What the newest drill that passed measured, in milliseconds, as far as it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsed {
    /// From the start until the first answer.
    pub rto_ms: Option<u64>,
    /// How much was committed and is not there, as time.
    pub rpo_ms: Option<u64>,
}

/// What the drills of a database say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drills {
    /// The end of the last one that passed.
    passed: Option<DateTime<Utc>>,
    /// What that one measured.
    rehearsed: Rehearsed,
    /// The end of the last one that did not.
    failed: Option<DateTime<Utc>>,
    /// Since when they find damage, if none has passed since.
    damage: Option<DateTime<Utc>>,
}

/// Asks the repository. `since` is when somebody began to look after the database.
///
/// # Errors
///
/// What keeps the repository from being read.
pub async fn standing(
    repository: &Repository,
    database: &str,
    since: DateTime<Utc>,
) -> Result<Standing> {
    let history = repository.history().await?;
    let mut standing = Standing::default();
    standing.add(Drills::of(&history, database));
    if !history.protects(database) {
        standing.damaged_since = None;
        // Backups that were all forgotten make another first one due, later than those were.
        let last = history.commits_of(database).map(|c| c.commit.finished_at).max();
        standing.need = Some(Need::First(last.unwrap_or(since).max(since)));
        return Ok(standing);
    }
    let newest = history.live_of(database).next_back();
    standing.incarnation = newest.map(|one| one.commit.incarnation.clone());
    let copied = copied_damage(&history, database);
    standing.damaged_since = standing.damaged_since.into_iter().chain(copied).min();
    standing.anomaly = odd(&history, database);
    let mut timeline = repository.timeline(database).await?;
    standing.leave_out_damaged(&history, &mut timeline);
    standing.read(&timeline);
    if standing.need.is_none() && unjoined(&timeline).is_some() {
        // What was stored while it was read looks the same, once.
        standing.need = unjoined(&repository.timeline(database).await?).map(Need::Gap);
    }
    Ok(standing)
}

/// Since when the engine has told of damage whenever a backup was made.
fn copied_damage(history: &History, database: &str) -> Option<DateTime<Utc>> {
    let newest = history.live_of(database).rev().map(|one| &one.commit);
    let damaged = newest.take_while(|commit| commit.damage.is_some());
    damaged.last().map(|commit| commit.finished_at)
}

/// The newest of the last backups that is not like those before it.
fn odd(history: &History, database: &str) -> Option<Anomaly> {
    let found = anomalies_of(history, database);
    let mut newest: Vec<_> = history.live_of(database).collect();
    newest.sort_by_key(|one| std::cmp::Reverse((one.commit.consistent_time, one.made())));
    newest.iter().take(TOLD).find_map(|one| found.get(&one.commit.backup).copied())
}

/// Since when a capture stores log that no backup leads into, although it stored none yet: nothing
/// has been committed since it began, and nothing can be restored up to now.
pub(super) fn unjoined(timeline: &Timeline) -> Option<DateTime<Utc>> {
    let beat = timeline.beat.as_ref().filter(|beat| !beat.is_last)?;
    let has_stored = timeline.coverage.iter().any(|coverage| {
        let is_joined = coverage.end.position == beat.position && !coverage.backups.is_empty();
        is_joined || coverage.segments.iter().any(|segment| segment.stream == beat.stream)
    });
    let is_at = |position: &Option<LogPosition>| position.as_ref() == Some(&beat.position);
    let is_found = timeline.backups.iter().any(|backup| is_at(&backup.commit.consistent_at));
    let began = ulid::Ulid::from_string(&beat.stream).ok()?.timestamp_ms();
    let began = DateTime::from_timestamp_millis(began.try_into().ok()?)?;
    (!has_stored && !is_found && !timeline.backups.is_empty()).then_some(began)
}

impl Drills {
    /// As a repository knows them.
    pub(super) fn of(history: &History, database: &str) -> Self {
        let mut drills = Self::default();
        for drill in history.drills().filter(|drill| drill.database == database) {
            let end = Some(drill.finished_at);
            if drill.passed {
                if drills.passed <= end {
                    let Drilled { rto_ms, rpo_ms, .. } = *drill;
                    (drills.passed, drills.rehearsed) = (end, Rehearsed { rto_ms, rpo_ms });
                }
                drills.damage = None;
            } else {
                drills.failed = drills.failed.max(end);
                drills.damage = drills.damage.or(end.filter(|_| drill.damage.is_some()));
            }
        }
        drills
    }
}

impl Standing {
    /// Adds what the drills say that some repository knows of.
    pub(super) fn add(&mut self, drills: Drills) {
        // Each log has its own drills, and what passed in one is over in the other.
        let stands = |damage: &DateTime<Utc>, passed| passed <= Some(*damage);
        let own = self.damaged_since.filter(|damage| stands(damage, drills.passed));
        let other = drills.damage.filter(|damage| stands(damage, self.drill_passed));
        if drills.passed.is_some() && self.drill_passed <= drills.passed {
            (self.drill_passed, self.rehearsed) = (drills.passed, drills.rehearsed);
        }
        self.drill_failed = self.drill_failed.max(drills.failed);
        self.damaged_since = own.into_iter().chain(other).min();
    }

    /// A backup of which it is known that it cannot be restored is no point.
    fn leave_out_damaged(&mut self, history: &History, timeline: &mut Timeline) {
        let mut damaged = BTreeSet::new();
        for backup in &timeline.backups {
            let id = &backup.commit.backup;
            let proof = history.proof(id).filter(|proof| proof.problem.is_some());
            if let Some(proof) = proof {
                damaged.insert(id.clone());
                let since = self.corrupt_since.map_or(proof.at, |since| since.min(proof.at));
                self.corrupt_since = Some(since);
            }
        }
        timeline.backups.retain(|backup| !damaged.contains(&backup.commit.backup));
        for coverage in &mut timeline.coverage {
            coverage.backups.retain(|id| !damaged.contains(id));
        }
    }

    fn read(&mut self, timeline: &Timeline) {
        let coverage = windows(timeline);
        let interval =
            |window: &super::super::Window| Interval { from: window.from.at, to: window.to.at };
        self.coverage = coverage.iter().map(interval).collect();
        self.backups = timeline.backups.len();
        let states = timeline.backups.iter().map(|backup| &backup.commit);
        self.newest_backup = states.clone().map(|commit| commit.consistent_time).max();
        let newest = |incremental: bool| {
            let own = states.clone().filter(|commit| commit.incremental == incremental);
            own.map(|commit| commit.consistent_time).max()
        };
        (self.newest_full, self.newest_incremental) = (newest(false), newest(true));
        self.stored_bytes = states.map(|commit| commit.stored_bytes).sum();
        let pairs = timeline.backups.windows(2).filter_map(|pair| match pair {
            [before, after] if before.commit.incarnation != after.commit.incarnation => {
                Some(after.commit.consistent_time)
            }
            _ => None,
        });
        self.successions = pairs.collect();
        self.captured_at = timeline.beat.as_ref().map(|beat| beat.at);
        let open = timeline.open_gap().and(timeline.coverage.last());
        self.need = open.map(|coverage| Need::Gap(coverage.start.at));
    }
}
