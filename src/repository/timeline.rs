//! What can be recovered: captured log as chains of streams, backups anchored in them, and gaps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Lineage, LogPosition, Result, code};

use super::{
    coverage::{branches, cover},
    handle::Repository,
    heads::{Heads, is_unreadable},
    history::Committed,
    names,
    replay::RepositoryLog,
    segment::StoredHead,
    stream::Beat,
};

/// How many damaged segments in a row a new capture goes back over.
const DAMAGED_TAIL_MAX: usize = 16;

/// One segment, by stream and number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The stream.
    pub stream: String,
    /// The number in it.
    pub seq: u64,
}

/// A moment of a database's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// When.
    pub at: DateTime<Utc>,
    /// Where in the log.
    pub position: LogPosition,
}

/// How much later than a commit its time may be, in seconds, before it counts as unknown.
const TIME_ERROR_SECONDS_MAX: i64 = 1;

/// Times between which nobody looked at the log. What was committed then was captured later, and
/// can be told apart by position, not by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// When the end of the log was last seen. This instant itself is known.
    pub from: DateTime<Utc>,
    /// When it was seen again. This instant itself is known.
    pub to: DateTime<Utc>,
}

impl Unwatched {
    /// What remains of it after an instant whose state is known.
    #[must_use]
    pub fn since(self, known: DateTime<Utc>) -> Self {
        Self { from: self.from.max(known), ..self }
    }

    /// Whether it is too short to put any commit's time in doubt.
    pub fn is_short(self) -> bool {
        (self.to - self.from).num_seconds() < TIME_ERROR_SECONDS_MAX
    }
}

/// Captured log without a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Its beginning.
    pub start: Point,
    /// The newest transaction in it.
    pub end: Point,
    /// Until when the capture saw that nothing else was committed; at least `end.at`.
    pub until: DateTime<Utc>,
    /// When no capture was running, although no commit is missing; in order.
    pub unwatched: Vec<Unwatched>,
    /// Why it does not continue the coverage before it.
    pub gap: Option<String>,
    /// The segment that should lead into it, where that was not let go and is not there.
    pub missing: Option<SegmentId>,
    /// Set when log that was stored after its end is missing or damaged: why that is known.
    pub lost: Option<String>,
    /// Backups from which it can be replayed, by id, in order.
    pub backups: Vec<String>,
    /// Its segments, in order.
    pub segments: Vec<SegmentId>,
}

/// Everything known of a database's recoverable history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// The database.
    pub database: String,
    /// Backups that exist, in the order of their commits.
    pub backups: Vec<Committed>,
    /// Captured log, in the order in which its captures began, whatever their clocks said.
    pub coverage: Vec<Coverage>,
    /// The newest sign of life of a capture.
    pub beat: Option<Beat>,
    /// Damage that was found on the way.
    pub problems: Vec<String>,
}

impl Timeline {
    /// The lineages of backups, and those in which captured log begins and ends.
    pub fn lineages(&self) -> BTreeSet<Lineage> {
        let backups = self.backups.iter().filter_map(|b| b.commit.consistent_at.as_ref());
        let log = self.coverage.iter().flat_map(|c| [&c.start.position, &c.end.position]);
        backups.chain(log).map(|position| position.lineage.clone()).collect()
    }

    /// The captured log that a backup joins.
    pub fn coverage_of(&self, backup: &Committed) -> Option<&Coverage> {
        self.coverage.iter().find(|c| c.backups.contains(&backup.commit.backup))
    }

    /// Until when the database certainly was as a backup had found it: a later backup, or a capture
    /// that saw nothing new, found it at the same position.
    pub fn stood_until(&self, backup: &Committed) -> DateTime<Utc> {
        let own = &backup.commit;
        let Some(position) = &own.consistent_at else { return own.consistent_time };
        let later = self.backups.iter().filter(|later| later.made() > backup.made());
        let later = later.filter(|later| later.commit.consistent_at.as_ref() == Some(position));
        let beats = self.beat.iter().filter(|beat| beat.position == *position);
        let seen = later.map(|later| later.commit.consistent_time).chain(beats.map(|beat| beat.at));
        seen.max().map_or(own.consistent_time, |seen| seen.max(own.consistent_time))
    }

    /// Whether the database was at an instant as a backup had found it.
    pub fn stood_still(&self, backup: &Committed, at: DateTime<Utc>) -> bool {
        backup.commit.consistent_time <= at && at <= self.stood_until(backup)
    }

    /// Says which backups' times contradict the order in which they were made, if any do.
    pub fn clock_doubt(&self) -> Option<String> {
        let mut pairs = self.backups.windows(2).map(|pair| (&pair[0].commit, &pair[1].commit));
        let (ahead, behind) =
            pairs.rfind(|(one, next)| next.consistent_time < one.consistent_time)?;
        Some(format!(
            "backup {} was made before {}, and has a later time: the clock was set back, or one \
             machine's clock is wrong; restore by position or by backup where times are in doubt",
            ahead.backup, behind.backup
        ))
    }

    /// Why the newest captured log does not count: no backup leads into it.
    pub fn open_gap(&self) -> Option<&str> {
        let newest = self.coverage.last()?;
        let is_open = newest.backups.is_empty() && !self.backups.is_empty();
        is_open.then(|| newest.gap.as_deref().unwrap_or("no backup joins the newest captured log"))
    }

    /// Whether the newest captured log was led into by log that is no longer there.
    pub fn is_holed(&self) -> bool {
        self.coverage.last().is_some_and(|newest| newest.missing.is_some())
    }
}

impl Repository {
    /// Every database that has backups or captured log, by name.
    pub async fn databases(&self) -> Result<Vec<String>> {
        let history = self.history().await?;
        let mut known: Vec<String> =
            history.live().iter().map(|c| c.commit.database.clone()).collect();
        for object in self.store.list(names::STREAMS).await? {
            let source = object.key.as_str().split('/').nth(1).and_then(names::decode);
            known.extend(source);
        }
        // A capture that stored nothing yet is known by its signs of life.
        for object in self.store.list(names::ALL_BEATS).await? {
            known.extend(names::beat_database(&object.key));
        }
        known.sort();
        known.dedup();
        Ok(known)
    }

    /// What can be recovered of a database.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when the repository never heard of it.
    pub async fn timeline(&self, database: &str) -> Result<Timeline> {
        let history = self.history().await?;
        let mut backups: Vec<Committed> = history.live_of(database).cloned().collect();
        backups.sort_by_key(Committed::made);
        let mut timeline = Timeline {
            database: database.to_owned(),
            backups,
            coverage: Vec::new(),
            beat: None,
            problems: Vec::new(),
        };
        let stored = self.stored(database, &history).await?;
        if timeline.backups.is_empty()
            && stored.is_empty()
            && self.newest_beats(database).await?.is_empty()
        {
            return Err(self.no_database(database).await?);
        }
        if !self.is_unlocked() {
            return Ok(timeline);
        }
        timeline.problems.extend(stored.missing.iter().map(|key| format!("{key} is missing")));
        let heads = Heads::new(self, database);
        for segments in branches(&heads, &stored.runs, &mut timeline.problems).await? {
            if let Some(coverage) =
                cover(&heads, &history, segments, &mut timeline.problems).await?
            {
                timeline.coverage.push(coverage);
            }
        }
        mark_holes(&mut timeline.coverage);
        self.anchor_backups(&heads, &mut timeline).await?;
        let damaged = heads.damaged.lock().await;
        let unknown = damaged.iter().filter(|problem| !timeline.problems.contains(problem));
        let unknown: Vec<String> = unknown.cloned().collect();
        timeline.problems.extend(unknown);
        drop(damaged);
        extend_to_backups(&mut timeline);
        self.extend_to_beats(&heads, &mut timeline).await?;
        Ok(timeline)
    }

    async fn anchor_backups(&self, heads: &Heads<'_>, timeline: &mut Timeline) -> Result<()> {
        for backup in &timeline.backups {
            let Some(position) = &backup.commit.consistent_at else { continue };
            for coverage in timeline.coverage.iter_mut().rev() {
                let near = backup.commit.consistent_time;
                if heads.anchor(&coverage.segments, position, near).await?.is_some() {
                    coverage.backups.push(backup.commit.backup.clone());
                    break;
                }
            }
        }
        Ok(())
    }

    /// A capture that saw nothing new still proves that nothing is missing until it looked; and
    /// what it said to be durable must be there.
    async fn extend_to_beats(&self, heads: &Heads<'_>, timeline: &mut Timeline) -> Result<()> {
        let newest = self.newest_beats(&timeline.database).await?;
        let newest_stream = newest.last_key_value().map(|(stream, _)| stream.clone());
        let ends: Vec<SegmentId> =
            timeline.coverage.iter().filter_map(|c| c.segments.last().cloned()).collect();
        let streams = ends.iter().map(|end| &end.stream);
        let wanted: BTreeSet<&String> = streams.chain(&newest_stream).collect();
        let mut beats = BTreeMap::new();
        for stream in wanted {
            let Some(key) = newest.get(stream) else { continue };
            match self.read_beat(key).await {
                Ok(Some(beat)) => drop(beats.insert(stream.clone(), beat)),
                Ok(None) => {}
                Err(error) if is_unreadable(&error) => {
                    timeline.problems.push(format!("{error}: {key}"));
                }
                Err(error) => return Err(error),
            }
        }
        for (coverage, end) in timeline.coverage.iter_mut().zip(&ends) {
            let Some(beat) = beats.get(&end.stream) else { continue };
            if coverage.end.position == beat.position {
                coverage.until = coverage.until.max(beat.at);
            } else if coverage.end.position < beat.position {
                let next = SegmentId { stream: end.stream.clone(), seq: end.seq + 1 };
                if heads.read_sound(&next).await?.is_some() {
                    // A running capture stored it after we looked.
                    continue;
                }
                let lost = format!(
                    "the captured log ends at {}, and was stored up to {}: segments are missing",
                    coverage.end.position, beat.position
                );
                timeline.problems.push(lost.clone());
                coverage.lost = Some(lost);
            }
        }
        timeline.beat = newest_stream.and_then(|stream| beats.remove(&stream));
        Ok(())
    }

    async fn no_database(&self, database: &str) -> Result<Error> {
        let known = self.databases().await?;
        let error = Error::new(ErrorKind::Missing, code::NO_SUCH_DATABASE, "find the database")
            .with("asked", database)
            .with("repository", self.location())
            .why("nothing was ever backed up under this name there");
        Ok(if known.is_empty() {
            error.next("take its first backup: stillpoint backup sqlite:FILE")
        } else {
            error.with("known", known.join(", ")).next("name one of them: stillpoint list")
        })
    }

    /// The newest segment of a database's captured log that can be read. Whoever goes on from
    /// there captures again what damaged segments after it held.
    pub async fn last_segment(&self, database: &str) -> Result<Option<Arc<StoredHead>>> {
        let history = self.history().await?;
        let stored = self.stored(database, &history).await?;
        let heads = Heads::new(self, database);
        for id in stored.newest_first().take(DAMAGED_TAIL_MAX) {
            match heads.read(&id).await {
                Err(error) if is_unreadable(&error) => {
                    tracing::warn!(stream = id.stream, seq = id.seq, "damaged: {error}");
                }
                read => return read,
            }
        }
        Ok(None)
    }

    /// Whether a backup of the database can be brought to `position` with captured log, or is
    /// there already.
    pub async fn is_anchored(&self, database: &str, position: &LogPosition) -> Result<bool> {
        let Ok(timeline) = self.timeline(database).await else { return Ok(false) };
        let at_position = |b: &Committed| {
            b.commit
                .consistent_at
                .as_ref()
                .is_some_and(|own| own == position || own.partial_cmp(position).is_some())
        };
        let joined = timeline.coverage.last().filter(|c| c.end.position == *position);
        Ok(joined.is_some_and(|c| !c.backups.is_empty())
            || timeline.backups.last().is_some_and(at_position))
    }

    /// Whether nobody looked at the log at `time`: then it is not known which of the commits that
    /// were seen later had been made.
    pub async fn unwatched_at(
        &self,
        database: &str,
        coverage: &Coverage,
        time: DateTime<Utc>,
    ) -> Result<Option<Unwatched>> {
        let heads = Heads::new(self, database);
        let start = heads.at_time(&coverage.segments, time).await?;
        for id in &coverage.segments[start..] {
            // What is damaged is told elsewhere, and hides no time but its own.
            let Some(head) = heads.read_sound(id).await? else { continue };
            if head.passes(time) {
                return Ok(head.unwatched().filter(|unwatched| unwatched.from < time));
            }
        }
        Ok(None)
    }

    /// The number of the first segment of a coverage that some of `backups` needs.
    pub(super) async fn oldest_anchor(
        &self,
        database: &str,
        coverage: &Coverage,
        backups: &[&Committed],
    ) -> Result<usize> {
        let heads = Heads::new(self, database);
        let mut oldest = coverage.segments.len();
        for backup in backups {
            let Some(position) = &backup.commit.consistent_at else { continue };
            let near = backup.commit.consistent_time;
            let anchor = heads.anchor(&coverage.segments, position, near).await?;
            oldest = oldest.min(anchor.unwrap_or(0));
        }
        Ok(oldest)
    }

    /// Captured log from the beginning of a coverage on.
    pub(super) fn log_of(&self, database: &str, coverage: &Coverage) -> RepositoryLog<'_> {
        RepositoryLog::new(Heads::new(self, database), coverage.segments.clone())
    }

    /// Captured log from the segment that touches a backup's position on.
    pub async fn log_from(&self, backup: &Committed) -> Result<RepositoryLog<'_>> {
        self.log_in(&self.timeline(&backup.commit.database).await?, backup).await
    }

    /// The same, in a timeline that is at hand.
    pub async fn log_in(
        &self,
        timeline: &Timeline,
        backup: &Committed,
    ) -> Result<RepositoryLog<'_>> {
        let heads = Heads::new(self, &timeline.database);
        let mut segments = Vec::new();
        let coverage = timeline.coverage_of(backup);
        if let (Some(coverage), Some(position)) = (coverage, &backup.commit.consistent_at) {
            let near = backup.commit.consistent_time;
            if let Some(index) = heads.anchor(&coverage.segments, position, near).await? {
                segments = coverage.segments[index..].to_vec();
            }
        }
        Ok(RepositoryLog::new(heads, segments))
    }
}

/// Marks what ends because the segment after it is missing: a later one, which continues it, is
/// there.
fn mark_holes(coverage: &mut [Coverage]) {
    for later in 1..coverage.len() {
        let (before, after) = coverage.split_at_mut(later);
        let Some((missing, gap)) =
            after.first().and_then(|c| c.missing.as_ref().zip(c.gap.clone()))
        else {
            continue;
        };
        let precedes = |coverage: &&mut Coverage| {
            let last = coverage.segments.last();
            last.is_some_and(|last| last.stream == missing.stream && last.seq < missing.seq)
        };
        if let Some(holed) = before.iter_mut().rev().find(precedes) {
            holed.lost.get_or_insert(gap);
        }
    }
}

/// A backup that found the database where the log ends proves that nothing is missing until then.
fn extend_to_backups(timeline: &mut Timeline) {
    for commit in timeline.backups.iter().map(|backup| &backup.commit) {
        let ends_here = |coverage: &&mut Coverage| {
            commit.consistent_at.as_ref() == Some(&coverage.end.position)
        };
        if let Some(coverage) = timeline.coverage.iter_mut().find(ends_here) {
            coverage.until = coverage.until.max(commit.consistent_time);
        }
    }
}
