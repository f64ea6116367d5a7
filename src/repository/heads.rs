//! Heads of captured segments: each read once, and found by time or position.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, LogPosition, Result, code};
use tokio::sync::Mutex;

use super::{
    handle::Repository,
    names,
    segment::{HEAD_BYTES_MAX, PREFIX_BYTES, Prefix, StoredHead, broken},
    store::Key,
    timeline::{SegmentId, Unwatched},
};

/// Bytes read first of a segment; most heads fit.
const HEAD_GUESS_BYTES: u64 = 16 << 10;

/// How far from its time a backup's position is searched, in segments to either side.
const ANCHOR_STEPS_MAX: usize = 2048;

/// Damaged segments that are remembered.
const PROBLEMS_MAX: usize = 100;

/// Heads kept in memory.
const HEADS_MAX: usize = 4096;

/// Reads the heads of segments, each once.
#[derive(Debug)]
pub(super) struct Heads<'a> {
    repository: &'a Repository,
    database: String,
    known: Mutex<HashMap<SegmentId, Arc<StoredHead>>>,
    /// Damage that a search went round.
    pub(super) damaged: Mutex<Vec<String>>,
}

impl<'a> Heads<'a> {
    pub(super) fn new(repository: &'a Repository, database: &str) -> Self {
        let (known, damaged) = (Mutex::default(), Mutex::default());
        Self { repository, database: database.to_owned(), known, damaged }
    }

    /// The head of a segment, or `None` also when it is damaged: one bad segment must not hide the
    /// others from a search.
    pub(super) async fn read_sound(&self, id: &SegmentId) -> Result<Option<Arc<StoredHead>>> {
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

    /// The number of the first segment in `segments` that touches `position`, searched from the
    /// place where the log was at `near`.
    pub(super) async fn anchor(
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
    pub(super) async fn at_time(
        &self,
        segments: &[SegmentId],
        time: DateTime<Utc>,
    ) -> Result<usize> {
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

    /// The segment in which a recovery to `time` finds a commit that is too new, or the last. What
    /// was captured long after it was committed may lie further on than is searched.
    pub(super) async fn passing(
        &self,
        segments: &[SegmentId],
        time: DateTime<Utc>,
    ) -> Result<usize> {
        let mut found = self.at_time(segments, time).await?;
        for _ in 0..ANCHOR_STEPS_MAX {
            let Some(before) = found.checked_sub(1) else { break };
            match self.read_sound(&segments[before]).await? {
                Some(head) if head.passes(time) => found = before,
                _ => break,
            }
        }
        for _ in 0..ANCHOR_STEPS_MAX {
            let Some(id) = segments.get(found) else { break };
            if self.read_sound(id).await?.is_some_and(|head| head.passes(time)) {
                break;
            }
            found += 1;
        }
        Ok(found.min(segments.len().saturating_sub(1)))
    }
}

impl StoredHead {
    /// Whether something in it was committed after `time`.
    pub(super) fn passes(&self, time: DateTime<Utc>) -> bool {
        self.head.events.last().is_some_and(|event| time < event.at)
    }

    /// The time before its commits in which nobody looked at the log, if that was long.
    pub(super) fn unwatched(&self) -> Option<Unwatched> {
        // What follows the first was seen one by one.
        let to = self.head.events.first()?.at;
        let from = self.head.not_before?;
        Some(Unwatched { from, to }).filter(|unwatched| !unwatched.is_short())
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

pub(super) fn key_of(heads: &Heads<'_>, id: &SegmentId) -> Result<Key> {
    names::segment(&heads.database, &id.stream, id.seq)
}
