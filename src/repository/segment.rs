//! One stored stretch of captured log: a head that can be read without the body, chained by hash.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{
    Buffer, Error, ErrorKind, LogEvent, LogEventKind, LogPosition, LogRange, LogSegment, Result,
    SEGMENT_BODY_BYTES_MAX, SEGMENT_INDEX_BYTES_MAX, SegmentHead, code,
};

use super::{
    descriptor::newer,
    envelope::{self, ObjectKind},
    store::Key,
};
use crate::{
    pipeline::{compress::Scratch, keys::Domain},
    world::World,
};

/// The newest version of segments that this program writes and reads.
pub(super) const SEGMENT_FORMAT: u32 = 1;

/// The longest head, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 24 << 20;

/// The longest segment, in bytes.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Length of what stands in clear before the head, in bytes.
pub(super) const PREFIX_BYTES: usize = 48;

const MAGIC: [u8; 8] = *b"STLPSEGM";
const EVENTS_MAX: usize = 1 << 20;
const CURSOR_BYTES_MAX: usize = 4 << 10;

/// A segment's head and its place in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHead {
    /// The stream, a ULID.
    pub stream: String,
    /// Its number in the stream: 1, 2, 3, ...
    pub seq: u64,
    /// BLAKE3 of the segment before, in hex; zeros in the first of a stream.
    pub previous: String,
    /// When it was captured, by the clock of who captured it.
    pub captured_at: DateTime<Utc>,
    /// The incarnation it was captured from.
    pub incarnation: String,
    /// In the first segment of a stream: the stream and segment that it continues.
    pub continues: Option<(String, u64)>,
    /// In the first segment of a stream that continues none: why.
    pub gap: Option<String>,
    /// BLAKE3 of the body, in hex.
    pub body_hash: String,
    /// What the driver says of it.
    pub head: SegmentHead,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    stream: String,
    seq: u64,
    previous: String,
    captured_at: DateTime<Utc>,
    incarnation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    continues: Option<(String, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<String>,
    body_hash: String,
    range: LogRange,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    succeeds: Option<LogPosition>,
    /// Offsets of commits as text, and their times in microseconds since 1970.
    commits: Vec<(String, i64)>,
    /// Microseconds since 1970; absent where times are the engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    /// Other events, by offset.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    events: BTreeMap<String, Vec<LogEvent>>,
    cursor: String,
    index: String,
}

impl StoredHead {
    /// Writes the stored form of a segment whose body was sealed for the same key.
    pub(super) fn seal(
        &self,
        sealed_body: &[u8],
        key: &Key,
        domain: &Domain,
        world: &World,
        scratch: &mut Scratch,
    ) -> Result<Bytes> {
        let wire = self.encode()?;
        if wire.len() > HEAD_BYTES_MAX {
            return Err(too_long());
        }
        let (kind, name) = (ObjectKind::LogSegment, format!("{key}#head"));
        let head = envelope::seal(domain, kind, &name, &wire, scratch, &*world.entropy)?;
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + head.len() + sealed_body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        let previous = data_encoding::HEXLOWER.decode(self.previous.as_bytes());
        bytes.extend_from_slice(&previous.map_err(|_| Error::bug("chain a segment"))?);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(sealed_body);
        Ok(bytes.into())
    }

    /// Reads the head from the front of a segment.
    pub(super) fn open(
        bytes: &[u8],
        key: &Key,
        domain: &Domain,
        scratch: &mut Scratch,
    ) -> Result<Self> {
        let prefix = Prefix::read(bytes, key)?;
        let sealed = bytes.get(PREFIX_BYTES..prefix.head_end).ok_or_else(|| broken(key))?;
        let name = format!("{key}#head");
        let plain =
            envelope::open(domain, ObjectKind::LogSegment, &name, sealed, HEAD_BYTES_MAX, scratch)?;
        let head = Self::decode(&plain, key)?;
        if head.previous == prefix.previous { Ok(head) } else { Err(broken(key)) }
    }

    /// Writes the plaintext of the head.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.wire())
            .map_err(|e| Error::bug("write a segment's head").caused_by(e))
    }

    /// Reads the plaintext of the head.
    pub(super) fn decode(plain: &[u8], key: &Key) -> Result<Self> {
        let wire: Wire = serde_json::from_slice(plain).map_err(|e| broken(key).caused_by(e))?;
        Self::from_wire(wire).ok_or_else(|| broken(key))
    }

    /// Reads the body from a whole segment.
    pub(super) fn open_body(
        &self,
        bytes: &[u8],
        key: &Key,
        domain: &Domain,
        scratch: &mut Scratch,
    ) -> Result<Buffer> {
        let prefix = Prefix::read(bytes, key)?;
        let sealed = bytes.get(prefix.head_end..).ok_or_else(|| broken(key))?;
        let (name, limit) = (format!("{key}#body"), SEGMENT_BODY_BYTES_MAX);
        let body = envelope::open(domain, ObjectKind::LogSegment, &name, sealed, limit, scratch)?;
        let is_ours = blake3::hash(&body).to_hex().as_str() == self.body_hash;
        if is_ours { Ok(body) } else { Err(broken(key)) }
    }

    fn wire(&self) -> Wire {
        let commits = self.head.events.iter().filter(|e| e.what == LogEventKind::Commit);
        let commits = commits.map(|e| (e.offset.to_string(), e.at.timestamp_micros())).collect();
        let mut events: BTreeMap<String, Vec<LogEvent>> = BTreeMap::new();
        for event in self.head.events.iter().filter(|e| e.what != LogEventKind::Commit) {
            events.entry(event.offset.to_string()).or_default().push(event.clone());
        }
        Wire {
            format: SEGMENT_FORMAT,
            stream: self.stream.clone(),
            seq: self.seq,
            previous: self.previous.clone(),
            captured_at: self.captured_at,
            incarnation: self.incarnation.clone(),
            continues: self.continues.clone(),
            gap: self.gap.clone(),
            body_hash: self.body_hash.clone(),
            range: self.head.range.clone(),
            succeeds: self.head.succeeds.clone(),
            commits,
            not_before: self.head.not_before.map(|at| at.timestamp_micros()),
            events,
            cursor: data_encoding::HEXLOWER.encode(&self.head.cursor),
            index: data_encoding::BASE64.encode(&self.head.index),
        }
    }

    fn from_wire(wire: Wire) -> Option<Self> {
        let mut events = Vec::with_capacity(wire.commits.len());
        for (offset, micros) in &wire.commits {
            let at = DateTime::from_timestamp_micros(*micros)?;
            events.push(LogEvent { offset: offset.parse().ok()?, at, what: LogEventKind::Commit });
        }
        events.extend(wire.events.into_values().flatten());
        events.sort_by_key(|event| event.offset);
        let not_before = match wire.not_before {
            Some(micros) => Some(DateTime::from_timestamp_micros(micros)?),
            None => None,
        };
        let cursor = data_encoding::HEXLOWER.decode(wire.cursor.as_bytes()).ok()?;
        let index = data_encoding::BASE64.decode(wire.index.as_bytes()).ok()?;
        let within = cursor.len() <= CURSOR_BYTES_MAX
            && index.len() <= SEGMENT_INDEX_BYTES_MAX
            && events.len() <= EVENTS_MAX;
        within.then(|| Self {
            stream: wire.stream,
            seq: wire.seq,
            previous: wire.previous,
            captured_at: wire.captured_at,
            incarnation: wire.incarnation,
            continues: wire.continues,
            gap: wire.gap,
            body_hash: wire.body_hash,
            head: SegmentHead {
                range: wire.range,
                succeeds: wire.succeeds,
                events,
                not_before,
                cursor: cursor.into(),
                index: index.into(),
            },
        })
    }
}

/// What stands in clear: the length of the head and the hash of the segment before.
pub(super) struct Prefix {
    pub(super) head_end: usize,
    pub(super) previous: String,
}

impl Prefix {
    pub(super) fn read(bytes: &[u8], key: &Key) -> Result<Self> {
        let (prefix, _) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or_else(|| broken(key))?;
        let word = |at: usize| {
            u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]])
        };
        if !prefix.starts_with(&MAGIC) {
            return Err(broken(key));
        }
        if word(8) > SEGMENT_FORMAT {
            return Err(newer("a log segment", word(8)));
        }
        let head_bytes = word(12) as usize;
        if word(8) == 0 || head_bytes > HEAD_BYTES_MAX {
            return Err(broken(key));
        }
        let previous = data_encoding::HEXLOWER.encode(&prefix[16..]);
        Ok(Self { head_end: PREFIX_BYTES + head_bytes, previous })
    }
}

/// A segment whose body is compressed and sealed, without its place in the chain yet.
#[derive(Debug)]
pub struct SealedSegment {
    pub(super) head: SegmentHead,
    /// Its number in the stream, which the seal of the body includes.
    pub(super) seq: u64,
    pub(super) body_hash: String,
    pub(super) body: Bytes,
}

impl SealedSegment {
    /// Seals the body of the segment that will have this key. Most of the work of storing it, and
    /// independent of the segments before.
    pub(super) fn new(
        segment: LogSegment,
        (key, seq): (&Key, u64),
        domain: &Domain,
        world: &World,
        scratch: &mut Scratch,
    ) -> Result<Self> {
        let LogSegment { head, body } = segment;
        if body.len() > SEGMENT_BODY_BYTES_MAX {
            return Err(too_long());
        }
        let body_hash = blake3::hash(&body).to_hex().to_string();
        let (kind, name) = (ObjectKind::LogSegment, format!("{key}#body"));
        let body = envelope::seal(domain, kind, &name, &body, scratch, &*world.entropy)?;
        Ok(Self { head, seq, body_hash, body })
    }
}

fn too_long() -> Error {
    Error::bug("write a segment longer than readers accept")
}

pub(super) fn broken(key: &Key) -> Error {
    Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, format!("read log segment {key}"))
        .why("recovery cannot go past it")
        .next("restore the object from another copy of the repository: it never changes")
}
