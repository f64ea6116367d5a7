//! What can be recovered: captured log as chains of streams, backups anchored in them, and gaps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, LogPosition, Result, code};
use tokio::sync::Mutex;

use super::{
    handle::Repository,
    history::Committed,
    names,
    segment::{HEAD_BYTES_MAX, PREFIX_BYTES, Prefix, StoredHead, broken},
    store::Key,
    stream::Beat,
};

/// Bytes read first of a segment; most heads fit.
const HEAD_GUESS_BYTES: u64 = 16 << 10;

/// How far from its time a backup's position is searched, in segments to either side.
const ANCHOR_STEPS_MAX: usize = 2048;

/// Damaged segments that a timeline names.
const PROBLEMS_MAX: usize = 100;

/// Heads kept in memory.
const HEADS_MAX: usize = 4096;

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
pub const TIME_ERROR_SECONDS_MAX: i64 = 1;

/// Times between which nobody looked at the log. What was committed then was captured later, and
/// can be told apart by position, not by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// When the end of the log was last seen. This instant itself is known.
    pub from: DateTime<Utc>,
    /// When it was seen again. This instant itself is known.
    pub to: DateTime<Utc>,
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

/// Reads the heads of segments, each once.
#[derive(Debug)]
pub(super) struct Heads<'a> {
    repository: &'a Repository,
    database: String,
    known: Mutex<HashMap<SegmentId, Arc<StoredHead>>>,
    /// Damage that a search went round.
    damaged: Mutex<Vec<String>>,
}

impl<'a> Heads<'a> {
    pub(super) fn new(repository: &'a Repository, database: &str) -> Self {
        let (known, damaged) = (Mutex::default(), Mutex::default());
        Self { repository, database: database.to_owned(), known, damaged }
    }

    /// The head of a segment, or `None` also when it is damaged: one bad segment must not hide the
    /// others from a search.
    async fn read_sound(&self, id: &SegmentId) -> Result<Option<Arc<StoredHead>>> {
        match self.read(id).await {
            Err(error) if is_unreadable(&error) => {
                let problem = format!("{error}: {}", key_of(self, id)?);
                let mut damaged = self.damaged.lock().await;
                if !damaged.contains(&problem) && damaged.len() < PROBLEMS_MAX {
                    damaged.push(problem);
                }
                Ok(None)
            }
            read => read,
        }
    }

    /// The head of a segment, or `None` when there is none.
    pub(super) async fn read(&self, id: &SegmentId) -> Result<Option<Arc<StoredHead>>> {
        if let Some(head) = self.known.lock().await.get(id) {
            return Ok(Some(Arc::clone(head)));
        }
        let key = names::segment(&self.database, &id.stream, id.seq)?;
        let store = &self.repository.store;
        let Some(mut bytes) = store.read_range(&key, 0..HEAD_GUESS_BYTES).await? else {
            return Ok(None);
        };
        let needed = Prefix::read(&bytes, &key)?.head_end;
        if needed > bytes.len() {
            debug_assert!(needed <= PREFIX_BYTES + HEAD_BYTES_MAX);
            bytes = store.read_range(&key, 0..needed as u64).await?.ok_or_else(|| broken(&key))?;
        }
        let domain = self.repository.domain()?;
        let open = self
            .repository
            .world
            .cpu
            .run(move |scratch| StoredHead::open(&bytes, &key, &domain, scratch));
        let head = Arc::new(open.await??);
        if head.stream != id.stream || head.seq != id.seq {
            return Err(broken(&names::segment(&self.database, &id.stream, id.seq)?));
        }
        let mut known = self.known.lock().await;
        if known.len() >= HEADS_MAX {
            known.clear();
        }
        known.insert(id.clone(), Arc::clone(&head));
        Ok(Some(head))
    }

    pub(super) fn repository(&self) -> &'a Repository {
        self.repository
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// The first segment of the stream that continues `last`, if there is one.
    pub(super) async fn successor(&self, last: &StoredHead) -> Result<Option<Arc<StoredHead>>> {
        let listed = self.repository.store.list(&names::streams(&self.database)).await?;
        let firsts = listed.iter().filter_map(|object| names::segment_of(&object.key));
        for (stream, _) in firsts.filter(|(stream, seq)| *seq == 1 && *stream > last.stream) {
            let id = SegmentId { stream, seq: 1 };
            if let Some(head) = self.read_sound(&id).await?
                && head.continues.as_ref() == Some(&(last.stream.clone(), last.seq))
            {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// The number of the first segment in `segments` that touches `position`, searched from the
    /// place where the log was at `near`.
    async fn anchor(
        &self,
        segments: &[SegmentId],
        position: &LogPosition,
        near: DateTime<Utc>,
    ) -> Result<Option<usize>> {
        let start = self.at_time(segments, near).await?;
        let outward = (0..=segments.len().min(ANCHOR_STEPS_MAX)).flat_map(|step| {
            [start.checked_sub(step), (step > 0).then_some(start + step)].into_iter().flatten()
        });
        let mut found: Option<usize> = None;
        for index in outward.filter(|index| *index < segments.len()) {
            if let Some(head) = self.read_sound(&segments[index]).await?
                && touches(&head, position)
            {
                found = Some(index);
                break;
            }
        }
        // Neighbours can touch the same position; recovery starts at the first of them.
        while let Some(index) = found.filter(|index| *index > 0) {
            match self.read_sound(&segments[index - 1]).await? {
                Some(head) if touches(&head, position) => found = Some(index - 1),
                _ => break,
            }
        }
        Ok(found)
    }

    /// The first segment captured at or after `time`, by binary search.
    async fn at_time(&self, segments: &[SegmentId], time: DateTime<Utc>) -> Result<usize> {
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.read_sound(&segments[middle]).await? {
                Some(head) if head.captured_at < time => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low.min(segments.len().saturating_sub(1)))
    }
}

impl StoredHead {
    /// The time before its commits in which nobody looked at the log, if that was long.
    fn unwatched(&self) -> Option<Unwatched> {
        // What follows the first was seen one by one.
        let to = self.head.events.first()?.at;
        let from = self.head.not_before?;
        ((to - from).num_seconds() >= TIME_ERROR_SECONDS_MAX).then_some(Unwatched { from, to })
    }
}

/// Whether the error is about one object only. A damaged version number looks like a newer one, and
/// a damaged key epoch like another key.
pub(super) fn is_unreadable(error: &Error) -> bool {
    let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::Refused];
    kinds.contains(&error.kind()) || error.code() == code::WRONG_KEY
}

fn touches(head: &StoredHead, position: &LogPosition) -> bool {
    head.head.range.touches(position) || head.head.succeeds.as_ref() == Some(position)
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
        let backups: Vec<Committed> =
            history.live().into_iter().filter(|c| c.commit.database == database).cloned().collect();
        let mut timeline = Timeline {
            database: database.to_owned(),
            backups,
            coverage: Vec::new(),
            beat: None,
            problems: Vec::new(),
        };
        let (runs, missing) = self.runs(database, &history).await?;
        if timeline.backups.is_empty() && runs.is_empty() {
            return Err(self.no_database(database).await?);
        }
        if !self.is_unlocked() {
            return Ok(timeline);
        }
        timeline.beat = self.newest_beat(database).await.unwrap_or_else(|e| {
            timeline.problems.push(e.to_string());
            None
        });
        timeline.problems.extend(missing.iter().map(|key| format!("{key} is missing")));
        let heads = Heads::new(self, database);
        for segments in chain(&heads, runs, &mut timeline.problems).await? {
            if let Some(coverage) = cover(&heads, segments, &mut timeline.problems).await? {
                timeline.coverage.push(coverage);
            }
        }
        self.anchor_backups(&heads, &mut timeline).await?;
        let damaged = heads.damaged.lock().await;
        let unknown = damaged.iter().filter(|problem| !timeline.problems.contains(problem));
        let unknown: Vec<String> = unknown.cloned().collect();
        timeline.problems.extend(unknown);
        drop(damaged);
        extend_to_backups(&mut timeline);
        miss_tail(&mut timeline);
        extend_to_beat(&mut timeline);
        Ok(timeline)
    }

    /// The segments of each stream, cut where one is missing; and those that are, the last of each
    /// hole. What garbage collection took away is not missing.
    pub(super) async fn runs(
        &self,
        database: &str,
        history: &super::history::History,
    ) -> Result<(Vec<Vec<SegmentId>>, Vec<Key>)> {
        let mut streams: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for object in self.store.list(&names::streams(database)).await? {
            if history.is_doomed_object(object.key.as_str()) {
                continue;
            }
            if let Some((stream, seq)) = names::segment_of(&object.key) {
                streams.entry(stream).or_default().push(seq);
            }
        }
        let (mut runs, mut missing): (Vec<Vec<SegmentId>>, _) = (Vec::new(), Vec::new());
        for (stream, mut seqs) in streams {
            seqs.sort_unstable();
            let mut next = 1;
            runs.push(Vec::new());
            for seq in seqs {
                if next != seq {
                    runs.push(Vec::new());
                    let before = names::segment(database, &stream, seq - 1)?;
                    if !history.is_doomed_object(before.as_str()) {
                        missing.push(before);
                    }
                }
                next = seq + 1;
                let id = SegmentId { stream: stream.clone(), seq };
                runs.last_mut().expect("pushed before the first number").push(id);
            }
        }
        runs.retain(|run| !run.is_empty());
        Ok((runs, missing))
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

    async fn no_database(&self, database: &str) -> Result<Error> {
        let known = self.databases().await?;
        let error = Error::new(ErrorKind::Missing, code::NO_SUCH_DATABASE, "find the database")
            .with("asked", database)
            .with("repository", self.location());
        Ok(if known.is_empty() {
            error.next("take its first backup: stillpoint backup sqlite:FILE")
        } else {
            error.with("known", known.join(", "))
        })
    }

    /// The newest segment of a database's captured log.
    pub async fn last_segment(&self, database: &str) -> Result<Option<Arc<StoredHead>>> {
        let history = self.history().await?;
        let (runs, _) = self.runs(database, &history).await?;
        let Some(last) = runs.last().and_then(|run| run.last()) else { return Ok(None) };
        Heads::new(self, database).read(last).await
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
            let Some(head) = heads.read(id).await? else { continue };
            if head.head.events.last().is_some_and(|event| time < event.at) {
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
    pub(super) fn log_of(
        &self,
        database: &str,
        coverage: &Coverage,
    ) -> super::replay::RepositoryLog<'_> {
        let start = coverage.segments.first().cloned();
        super::replay::RepositoryLog::new(Heads::new(self, database), start)
    }

    /// Captured log from the segment that touches a backup's position on.
    pub async fn log_from(&self, backup: &Committed) -> Result<super::replay::RepositoryLog<'_>> {
        let database = backup.commit.database.clone();
        let timeline = self.timeline(&database).await?;
        let heads = Heads::new(self, &database);
        if let Some(position) = &backup.commit.consistent_at {
            for coverage in timeline.coverage {
                let near = backup.commit.consistent_time;
                if let Some(index) = heads.anchor(&coverage.segments, position, near).await? {
                    let start = coverage.segments[index].clone();
                    return Ok(super::replay::RepositoryLog::new(heads, Some(start)));
                }
            }
        }
        Ok(super::replay::RepositoryLog::new(heads, None))
    }
}

/// Joins streams that continue each other.
async fn chain(
    heads: &Heads<'_>,
    runs: Vec<Vec<SegmentId>>,
    problems: &mut Vec<String>,
) -> Result<Vec<Vec<SegmentId>>> {
    let mut chains: Vec<Vec<SegmentId>> = Vec::new();
    for run in runs {
        let Some(first) = run.first() else { continue };
        let continues = match heads.read(first).await {
            Ok(head) => head.and_then(|head| head.continues.clone()),
            Err(error) if is_unreadable(&error) => {
                problems.push(format!("{error}: {}", key_of(heads, first)?));
                None
            }
            Err(error) => return Err(error),
        };
        let before = continues.and_then(|(stream, seq)| {
            let id = SegmentId { stream, seq };
            chains.iter_mut().find(|chain| chain.last() == Some(&id))
        });
        match before {
            Some(chain) => chain.extend(run),
            None => chains.push(run),
        }
    }
    Ok(chains)
}

fn key_of(heads: &Heads<'_>, id: &SegmentId) -> Result<Key> {
    names::segment(&heads.database, &id.stream, id.seq)
}

/// Reads the ends of a chain; leaves out damaged ends, and says so.
async fn cover(
    heads: &Heads<'_>,
    segments: Vec<SegmentId>,
    problems: &mut Vec<String>,
) -> Result<Option<Coverage>> {
    let mut ends = Vec::new();
    for id in [segments.first(), segments.last()].into_iter().flatten() {
        match heads.read(id).await {
            Ok(Some(head)) => ends.push(head),
            Ok(None) => {}
            Err(error) if is_unreadable(&error) => {
                problems.push(format!("{error}: {}", key_of(heads, id)?));
            }
            Err(error) => return Err(error),
        }
    }
    let (Some(first), Some(last)) = (ends.first(), ends.last()) else { return Ok(None) };
    let started = first.head.events.first().map_or(first.captured_at, |event| event.at);
    let ended = last.head.events.last().map_or(last.captured_at, |event| event.at);
    let unwatched = unwatched(heads, &segments).await;
    Ok(Some(Coverage {
        start: Point { at: started, position: first.head.range.start().clone() },
        end: Point { at: ended, position: last.head.range.end().clone() },
        until: ended,
        unwatched,
        gap: first.gap.clone(),
        backups: Vec::new(),
        segments,
    }))
}

/// The stretches before each capture began, as the first segments of each stream tell.
async fn unwatched(heads: &Heads<'_>, segments: &[SegmentId]) -> Vec<Unwatched> {
    let mut found: Vec<Unwatched> = Vec::new();
    let mut is_open = false;
    for id in segments {
        if id.seq != 1 && !is_open {
            continue;
        }
        // What is damaged is told elsewhere.
        let Ok(Some(head)) = heads.read(id).await else { continue };
        let Some(next) = head.unwatched() else {
            is_open &= head.head.events.is_empty();
            continue;
        };
        match found.last_mut().filter(|last| is_open && last.from == next.from) {
            // What had waited did not fit into one segment.
            Some(last) => last.to = next.to,
            None if id.seq == 1 => found.push(next),
            None => {
                is_open = false;
                continue;
            }
        }
        is_open = true;
    }
    found
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

/// The last sign of life says how far the log was durable: what lies before that must be there.
fn miss_tail(timeline: &mut Timeline) {
    let (Some(beat), Some(newest)) = (&timeline.beat, timeline.coverage.last()) else { return };
    let is_same = newest.segments.last().is_some_and(|last| last.stream == beat.stream);
    if is_same && newest.end.position < beat.position {
        timeline.problems.push(format!(
            "the captured log ends at {}, and was stored up to {}: its last segments are missing",
            newest.end.position, beat.position
        ));
    }
}

/// A capture that saw nothing new still proves that nothing is missing.
fn extend_to_beat(timeline: &mut Timeline) {
    let Some(beat) = &timeline.beat else { return };
    let newest = timeline.coverage.last_mut();
    if let Some(newest) = newest.filter(|newest| newest.end.position == beat.position) {
        newest.until = newest.until.max(beat.at);
    }
}
