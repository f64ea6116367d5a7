//! Captured log on its way in: one stream for each capture, segments in a chain, beats between.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, LogPosition, LogSegment, Result, code};

use super::{
    entry::hash_of,
    envelope::{self, ObjectKind},
    handle::Repository,
    heads::is_unreadable,
    names,
    packer::persist,
    segment::{SEGMENT_BYTES_MAX, SealedSegment, StoredHead, broken},
    store::{Key, Put},
};
use crate::{pipeline::keys::Domain, world::World};

/// The longest beat, in bytes.
pub(super) const BEAT_BYTES_MAX: u64 = 64 << 10;

/// A capture that did not beat for so long is taken for dead, in seconds.
pub const BEAT_SECONDS_MAX: i64 = 30;

/// A sign of life of a capture: nothing is missing up to `position`, seen at `at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The capture.
    pub stream: String,
    /// When it last saw the end of the log.
    pub at: DateTime<Utc>,
    /// When it gave this sign; absent where that was when it looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alive_at: Option<DateTime<Utc>>,
    /// Which process it is, where others on the same machine can find out whether it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Everything before this is durable, and nothing was committed after it until `at`.
    pub position: LogPosition,
    /// Whether the capture said goodbye.
    pub is_last: bool,
}

/// Writes one stream. Its id is new, so two captures never write the same names; the one that
/// began later wins.
#[derive(Debug)]
pub struct StreamWriter<'a> {
    repository: &'a Repository,
    database: String,
    stream: String,
    incarnation: String,
    seq: u64,
    previous: String,
    continues: Option<(String, u64)>,
    gap: Option<String>,
    process: Option<String>,
    beat: u64,
}

impl Beat {
    /// How long ago it was given. One from the future says that a clock is wrong, not that anybody
    /// lives: it counts as old as it is ahead.
    pub fn age(&self, now: DateTime<Utc>) -> TimeDelta {
        (now - self.alive_at.unwrap_or(self.at)).abs()
    }
}

impl Repository {
    /// Begins a stream that continues another one, or says why it continues none.
    ///
    /// Its id is later than that of every stream of the database that left a trace, whatever the
    /// clock says: the order of ids is the order in which captures began.
    pub async fn begin_stream(
        &self,
        database: &str,
        incarnation: &str,
        continues: Option<(String, u64)>,
        gap: Option<String>,
    ) -> Result<StreamWriter<'_>> {
        self.refuse_replica()?;
        names::check_database(database)?;
        self.domain()?;
        let newest = self.newest_capture(database).await?;
        let stream = self.world.new_id_behind(newest.as_deref());
        Ok(StreamWriter {
            repository: self,
            database: database.to_owned(),
            stream,
            incarnation: incarnation.to_owned(),
            seq: 0,
            previous: "0".repeat(64),
            continues,
            gap,
            process: None,
            beat: 0,
        })
    }
}

impl Repository {
    /// Goes on with a stream behind its last segment. It must be nobody else's.
    pub(super) async fn resume_stream(
        &self,
        database: &str,
        last: &StoredHead,
    ) -> Result<StreamWriter<'_>> {
        self.refuse_replica()?;
        let key = names::segment(database, &last.stream, last.seq)?;
        let bytes = self.store.read(&key, SEGMENT_BYTES_MAX).await?.ok_or_else(|| broken(&key))?;
        Ok(StreamWriter {
            repository: self,
            database: database.to_owned(),
            stream: last.stream.clone(),
            incarnation: last.incarnation.clone(),
            seq: last.seq,
            previous: hash_of(&bytes),
            continues: None,
            gap: None,
            process: None,
            beat: 0,
        })
    }
}

/// Compresses and seals the segments of one stream, of which several may be under way at once.
#[derive(Debug)]
pub struct SegmentSealer {
    world: World,
    domain: Arc<Domain>,
    database: String,
    stream: String,
    seq: u64,
}

impl SegmentSealer {
    /// Seals the segment that follows those that were given before.
    pub fn seal(
        &mut self,
        segment: LogSegment,
    ) -> impl Future<Output = Result<SealedSegment>> + Send + 'static {
        self.seq += 1;
        let (seq, key) = (self.seq, names::segment(&self.database, &self.stream, self.seq));
        let (domain, world) = (Arc::clone(&self.domain), self.world.clone());
        async move {
            let (key, inner) = (key?, world.clone());
            let seal = world.cpu.run(move |scratch| {
                SealedSegment::new(segment, (&key, seq), &domain, &inner, scratch)
            });
            seal.await?
        }
    }
}

impl StreamWriter<'_> {
    /// Says in each sign of life which process gives it.
    pub fn held_by(self, process: Option<String>) -> Self {
        Self { process, ..self }
    }

    /// The stream's id.
    pub fn id(&self) -> &str {
        &self.stream
    }

    /// Stores a segment. When this returns, it is durable.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced) when another capture of the database took over.
    pub async fn append(&mut self, segment: LogSegment, captured_at: DateTime<Utc>) -> Result<u64> {
        let sealed = self.sealer()?.seal(segment).await?;
        self.append_sealed(sealed, captured_at).await
    }

    /// What seals the segments that will follow, ahead of their turn.
    pub fn sealer(&self) -> Result<SegmentSealer> {
        Ok(SegmentSealer {
            world: self.repository.world.clone(),
            domain: self.repository.domain()?,
            database: self.database.clone(),
            stream: self.stream.clone(),
            seq: self.seq,
        })
    }

    /// Stores a segment that a sealer of this stream sealed as the next one. When this returns, it
    /// is durable.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub async fn append_sealed(
        &mut self,
        sealed: SealedSegment,
        captured_at: DateTime<Utc>,
    ) -> Result<u64> {
        let seq = self.seq + 1;
        if sealed.seq != seq {
            return Err(Error::bug("store segments in another order than they were sealed"));
        }
        let head = StoredHead {
            stream: self.stream.clone(),
            seq,
            previous: self.previous.clone(),
            captured_at,
            incarnation: self.incarnation.clone(),
            continues: self.continues.clone().filter(|_| seq == 1),
            gap: self.gap.clone().filter(|_| seq == 1),
            body_hash: sealed.body_hash,
            head: sealed.head,
        };
        let key = names::segment(&self.database, &self.stream, seq)?;
        let (domain, world) = (self.repository.domain()?, self.repository.world.clone());
        let (body, name) = (sealed.body, key.clone());
        let seal = self.repository.world.cpu.run(move |scratch| {
            let bytes = head.seal(&body, &name, &domain, &world, scratch)?;
            Ok::<_, Error>((hash_of(&bytes), bytes))
        });
        let (hash, bytes) = seal.await??;
        let stored_bytes = bytes.len() as u64;
        self.put(&key, bytes).await?;
        (self.seq, self.previous) = (seq, hash);
        Ok(stored_bytes)
    }

    /// Says that nothing is missing up to `position`, and that nothing was committed after it until
    /// `at`, when the capture last saw the end of the log.
    pub async fn beat(
        &mut self,
        position: &LogPosition,
        at: DateTime<Utc>,
        is_last: bool,
    ) -> Result<()> {
        let (stream, position) = (self.stream.clone(), position.clone());
        let alive_at = Some(self.repository.world.clock.now()).filter(|now| *now != at);
        let process = self.process.clone();
        let beat = Beat { stream, at, alive_at, process, position, is_last };
        let plain =
            serde_json::to_vec(&beat).map_err(|e| Error::bug("write a beat").caused_by(e))?;
        let key = names::beat(&self.database, &self.stream, self.beat + 1)?;
        let (domain, entropy) =
            (self.repository.domain()?, Arc::clone(&self.repository.world.entropy));
        let name = key.to_string();
        let seal = self.repository.world.cpu.run(move |scratch| {
            envelope::seal(&domain, ObjectKind::Checkpoint, &name, &plain, scratch, &*entropy)
        });
        let bytes = seal.await??;
        self.put(&key, bytes).await?;
        if self.beat > 0 {
            let old = names::beat(&self.database, &self.stream, self.beat)?;
            self.repository.store.delete(&old).await?;
        }
        self.beat += 1;
        Ok(())
    }

    /// Makes sure that no other capture of the database began after this one.
    pub async fn check_fence(&self) -> Result<()> {
        self.repository.check_fence(&self.database, &self.stream).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let store = &*self.repository.store;
        if persist(store, &*self.repository.world.clock, key, bytes.clone()).await? == Put::Existed
        {
            // The name is ours alone, so only an answer can have been lost.
            let stored = store.read(key, bytes.len() as u64).await?;
            if stored != Some(bytes) {
                return Err(fenced(&self.database, &self.stream));
            }
        }
        Ok(())
    }
}

impl Repository {
    /// Makes sure that no capture of a database began after that of `stream`.
    pub async fn check_fence(&self, database: &str, stream: &str) -> Result<()> {
        // Whoever begins gives a sign of life before anything else.
        let beats = self.newest_beats(database).await?;
        let newest = beats.last_key_value().map(|(stream, _)| stream.clone());
        match newest.filter(|newest| newest.as_str() > stream) {
            None => Ok(()),
            Some(rival) => Err(fenced(database, &rival)),
        }
    }

    /// The id of the newest capture of a database that left any trace.
    async fn newest_capture(&self, database: &str) -> Result<Option<String>> {
        let segments = self.store.list(&names::streams(database)).await?;
        let streams = segments.iter().filter_map(|o| names::segment_of(&o.key).map(|(s, _)| s));
        let beating = self.newest_beats(database).await?.into_keys();
        Ok(streams.chain(beating).max())
    }

    /// The newest sign of life of each capture of a database, by stream.
    pub(super) async fn newest_beats(&self, database: &str) -> Result<BTreeMap<String, Key>> {
        let listed = self.store.list(&names::all_beats(database)).await?;
        let mut beats: Vec<_> = listed
            .into_iter()
            .filter_map(|object| Some((names::beat_of(&object.key)?, object.key)))
            .collect();
        beats.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(beats.into_iter().map(|((stream, _), key)| (stream, key)).collect())
    }

    /// The newest sign of life of any capture of a database.
    pub async fn newest_beat(&self, database: &str) -> Result<Option<Beat>> {
        match self.newest_beats(database).await?.last_key_value() {
            Some((_, key)) => self.read_beat(key).await,
            None => Ok(None),
        }
    }

    /// Reads a sign of life; `None` when a newer one has replaced it meanwhile.
    pub(super) async fn read_beat(&self, key: &Key) -> Result<Option<Beat>> {
        let Some(bytes) = self.store.read(key, BEAT_BYTES_MAX).await? else {
            return Ok(None);
        };
        let (domain, name) = (self.domain()?, key.to_string());
        let open = self.world.cpu.run(move |scratch| {
            let limit = BEAT_BYTES_MAX as usize;
            envelope::open(&domain, ObjectKind::Checkpoint, &name, &bytes, limit, scratch)
        });
        let plain = open.await??;
        serde_json::from_slice(&plain).map(Some).map_err(|e| {
            Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {key}")).caused_by(e)
        })
    }

    /// A capture of the database that is running now, as far as its signs of life tell.
    pub async fn running_capture(&self, database: &str) -> Result<Option<Beat>> {
        let beat = match self.newest_beat(database).await {
            // Nobody is kept waiting by a sign that says nothing.
            Err(error) if is_unreadable(&error) => None,
            read => read?,
        };
        let now = self.world.clock.now();
        let is_recent = |beat: &Beat| beat.age(now).num_seconds() < BEAT_SECONDS_MAX;
        Ok(beat.filter(|beat| !beat.is_last && is_recent(beat)))
    }
}

fn fenced(database: &str, rival: &str) -> Error {
    Error::new(ErrorKind::Fenced, code::FENCED, format!("capture the log of {database}"))
        .with("taken over by", rival)
        .why("one capture of a database is enough; the one that began last goes on")
        .next("stop one of the two")
}
