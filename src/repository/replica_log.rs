//! Captured log on its way into a copy: segments in the order of their streams, each checked link
//! by link, and the newest sign of life behind them.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    entry::{Action, Doom, hash_of},
    handle::Repository,
    heads::{Heads, is_unreadable},
    history::{Committed, History},
    names,
    replica::Replication,
    segment::{SEGMENT_BYTES_MAX, StoredHead, broken},
    store::{Key, Put},
    stream::BEAT_BYTES_MAX,
    timeline::{SegmentId, Timeline},
    verify::is_finding,
};

/// Log that a copy lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogToCopy {
    /// Its segments, in the order in which they go.
    pub segments: Vec<SegmentId>,
    /// When the oldest of them was captured.
    pub since: Option<DateTime<Utc>>,
    /// Segments that the copy should have, those that it lacks included.
    wanted: BTreeSet<SegmentId>,
}

/// What came of copying log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogCopied {
    /// Segments that were copied.
    pub segments: u64,
    /// Objects that are not as they were written, and what is wrong with them.
    pub problems: Vec<(String, String)>,
}

/// A segment that was read last, and its hash.
type Before = Option<(SegmentId, String)>;

impl Repository {
    /// The log that a copy of this repository should have and has not: all that leads on from
    /// backups that are there, as far back as `needed_from`.
    pub async fn log_to_copy(
        &self,
        target: &Self,
        database: &str,
        needed_from: Option<DateTime<Utc>>,
    ) -> Result<LogToCopy> {
        let timeline = match self.timeline(database).await {
            Err(error) if error.kind() == ErrorKind::Missing => return Ok(LogToCopy::default()),
            timeline => timeline?,
        };
        let own = target.history().await?;
        let there = segments_in(target, database).await?;
        let mut to_copy = LogToCopy::default();
        for coverage in &timeline.coverage {
            let leads = |backup: &&Committed| {
                let commit = &backup.commit;
                let is_there = own.commit(&commit.backup).is_some_and(|known| !known.forgotten);
                is_there
                    && coverage.backups.contains(&commit.backup)
                    && needed_from.is_none_or(|from| from <= commit.consistent_time)
            };
            let leading: Vec<&Committed> = timeline.backups.iter().filter(leads).collect();
            if leading.is_empty() {
                continue;
            }
            let from = self.oldest_anchor(database, coverage, &leading).await?;
            to_copy.wanted.extend(coverage.segments[from..].iter().cloned());
        }
        for id in &to_copy.wanted {
            let key = names::segment(database, &id.stream, id.seq)?;
            if !there.contains(id) && !own.is_doomed_object(key.as_str()) {
                to_copy.segments.push(id.clone());
            }
        }
        if let Some(first) = to_copy.segments.first() {
            let heads = Heads::new(self, database);
            let head = heads.read_sound(first).await?;
            // One that cannot be read is what is missing, and for how long nobody knows.
            let oldest = timeline.backups.first().map(|backup| backup.commit.consistent_time);
            to_copy.since = head.map(|head| head.captured_at).or(oldest);
        }
        Ok(to_copy)
    }
}

impl Replication<'_> {
    /// Copies the log that lacks, as [`Repository::log_to_copy`] says. What is damaged at the
    /// source does not travel, and keeps nothing behind it from being copied.
    ///
    /// # Errors
    ///
    /// What keeps anything from being copied.
    pub async fn log(
        &self,
        database: &str,
        needed_from: Option<DateTime<Utc>>,
    ) -> Result<LogCopied> {
        // What a sign of life says to be durable is in a listing that is made after it was read.
        let beat = self.beat_of(database).await?;
        let to_copy = self.source.log_to_copy(self.target, database, needed_from).await?;
        let (mut copied, mut before) = (LogCopied::default(), None);
        for id in &to_copy.segments {
            match self.segment(database, id, &to_copy, &mut before).await {
                Ok(()) => copied.segments += 1,
                Err(error) if is_finding(&error) => {
                    let key = names::segment(database, &id.stream, id.seq)?;
                    copied.problems.push((key.to_string(), error.to_string()));
                    before = None;
                }
                Err(error) => return Err(error),
            }
        }
        if let Some((key, bytes)) = beat.filter(|_| copied.problems.is_empty()) {
            self.beat(database, key, bytes, &to_copy).await?;
        }
        Ok(copied)
    }

    async fn segment(
        &self,
        database: &str,
        id: &SegmentId,
        to_copy: &LogToCopy,
        before: &mut Before,
    ) -> Result<()> {
        (self.road.may_go)()?;
        let key = names::segment(database, &id.stream, id.seq)?;
        let (head, bytes) = read_segment(self.source, &key, id).await?;
        let hash = hash_of(&bytes);
        if id.seq > 1 {
            self.join(database, id, &head, to_copy, before.take()).await?;
        }
        self.whole(&key, bytes, false).await?;
        *before = Some((id.clone(), hash));
        Ok(())
    }

    /// Makes sure that a segment follows the one before it at the target. Where that is not there
    /// and never will be, the target's log says so, as of log that was let go.
    async fn join(
        &self,
        database: &str,
        id: &SegmentId,
        head: &StoredHead,
        to_copy: &LogToCopy,
        before: Before,
    ) -> Result<()> {
        let earlier = SegmentId { stream: id.stream.clone(), seq: id.seq - 1 };
        let key = names::segment(database, &earlier.stream, earlier.seq)?;
        let read = before.filter(|(known, _)| *known == earlier).map(|(_, hash)| hash);
        let hash = if read.is_some() {
            read
        } else {
            let read = self.target.store.read(&key, SEGMENT_BYTES_MAX).await?;
            read.map(|bytes| hash_of(&bytes))
        };
        match hash {
            Some(hash) if hash == head.previous => Ok(()),
            // What is damaged at the target comes anew; what is good there is never replaced,
            // though the source says otherwise.
            Some(_) => {
                let there = read_segment(self.target, &key, &earlier).await;
                if there.is_err_and(|error| is_finding(&error)) {
                    let (_, good) = read_segment(self.source, &key, &earlier).await?;
                    if hash_of(&good) == head.previous {
                        return self.whole(&key, good, true).await;
                    }
                }
                Err(broken(&names::segment(database, &id.stream, id.seq)?))
            }
            None if to_copy.wanted.contains(&earlier) => Ok(()),
            None => {
                self.target
                    .append(async |own| {
                        let objects = vec![key.to_string()];
                        let doom = Doom { objects, ..Doom::default() };
                        let is_known = own.is_doomed_object(key.as_str());
                        Ok((!is_known).then(|| Action::Doom(Box::new(doom))))
                    })
                    .await?;
                Ok(())
            }
        }
    }

    /// The newest sign of life of a capture, as it is stored.
    async fn beat_of(&self, database: &str) -> Result<Option<(Key, Bytes)>> {
        let beats = self.source.newest_beats(database).await?;
        let Some((_, key)) = beats.into_iter().next_back() else { return Ok(None) };
        let bytes = self.source.store.read(&key, BEAT_BYTES_MAX).await?;
        Ok(bytes.map(|bytes| (key, bytes)))
    }

    /// Lets the target know up to when nothing was committed, where what it has ends there.
    async fn beat(
        &self,
        database: &str,
        key: Key,
        bytes: Bytes,
        to_copy: &LogToCopy,
    ) -> Result<()> {
        let Some((stream, number)) = names::beat_of(&key) else { return Ok(()) };
        let beat = match self.source.read_beat(&key).await {
            Err(error) if is_unreadable(&error) => return Ok(()),
            beat => beat?,
        };
        let Some(beat) = beat else { return Ok(()) };
        let ends_here = to_copy.wanted.iter().any(|id| id.stream == stream);
        let own = self.target.history().await?;
        let is_there = |backup: &&Committed| own.commit(&backup.commit.backup).is_some();
        let timeline = self.source.timeline(database).await?;
        let stands = stands_at(&timeline, &beat.position, &own, is_there);
        if !ends_here && !stands {
            return Ok(());
        }
        let store = &self.target.store;
        if store.create(&key, bytes).await? == Put::Existed {
            return Ok(());
        }
        for object in store.list(&format!("{}{stream}/", names::all_beats(database))).await? {
            if names::beat_of(&object.key).is_some_and(|(_, known)| known < number) {
                store.delete(&object.key).await?;
            }
        }
        Ok(())
    }

    /// Brings back segments that the target should have, and has not as they were written. Returns
    /// their names.
    ///
    /// # Errors
    ///
    /// What keeps the two from being compared, and what is damaged in both.
    pub async fn mend_log(&self, database: &str) -> Result<Vec<String>> {
        let timeline = match self.source.timeline(database).await {
            Err(error) if error.kind() == ErrorKind::Missing => return Ok(Vec::new()),
            timeline => timeline?,
        };
        let own = self.target.history().await?;
        // What a copy should have at all is decided when log is copied to it.
        let is_replica = self.target.descriptor().is_replica();
        let there = segments_in(self.target, database).await?;
        let mut mended = Vec::new();
        for id in timeline.coverage.iter().flat_map(|coverage| &coverage.segments) {
            let key = names::segment(database, &id.stream, id.seq)?;
            if own.is_doomed_object(key.as_str()) || is_replica && !there.contains(id) {
                continue;
            }
            match read_segment(self.target, &key, id).await {
                Err(error) if is_finding(&error) => {
                    let (_, good) = read_segment(self.source, &key, id).await?;
                    self.whole(&key, good, true).await?;
                    mended.push(key.to_string());
                }
                known => drop(known?),
            }
        }
        Ok(mended)
    }
}

/// Whether what the target has ends at a position: with a backup, or with log that was captured
/// before.
fn stands_at(
    timeline: &Timeline,
    position: &stillpoint_contract::LogPosition,
    own: &History,
    is_there: impl Fn(&&Committed) -> bool,
) -> bool {
    let mut backups = timeline.backups.iter().filter(is_there);
    let has_log = |id: &String| own.commit(id).is_some_and(|known| !known.forgotten);
    backups.any(|backup| backup.commit.consistent_at.as_ref() == Some(position))
        || timeline
            .coverage
            .iter()
            .any(|c| c.end.position == *position && c.backups.iter().any(has_log))
}

/// The segments of a database that lie in a repository.
async fn segments_in(repository: &Repository, database: &str) -> Result<BTreeSet<SegmentId>> {
    let listed = repository.store.list(&names::streams(database)).await?;
    let ids = listed.iter().filter_map(|object| names::segment_of(&object.key));
    Ok(ids.map(|(stream, seq)| SegmentId { stream, seq }).collect())
}

/// Reads a segment, and opens all of it.
async fn read_segment(
    repository: &Repository,
    key: &Key,
    id: &SegmentId,
) -> Result<(StoredHead, Bytes)> {
    let bytes = repository.store.read(key, SEGMENT_BYTES_MAX).await?.ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("read log segment {key}"))
            .with("repository", repository.location())
    })?;
    let (domain, name) = (repository.domain()?, key.clone());
    let opened = repository.world.cpu.run(move |scratch| {
        let head = StoredHead::open(&bytes, &name, &domain, scratch)?;
        head.open_body(&bytes, &name, &domain, scratch)?;
        Ok::<_, Error>((head, bytes))
    });
    let (head, bytes) =
        opened.await?.map_err(|error: Error| error.with("repository", repository.location()))?;
    if head.stream == id.stream && head.seq == id.seq {
        Ok((head, bytes))
    } else {
        Err(broken(key))
    }
}
