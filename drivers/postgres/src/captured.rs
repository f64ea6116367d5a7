//! Which blocks changed, by WAL that we hold: that of the base itself, what was captured since, and
//! what the server wrote after that and still has.
//!
//! Nothing is taken on trust: the three stretches must join without a hole, and the server's own
//! WAL must be the one that was captured.

use std::ops::Range;

use bytes::Bytes;
use stillpoint_contract::{Base, Error, ErrorKind, LogPosition, PartName, Result, Source};

use crate::{
    copy::{plan, reader::Files},
    facts::Facts,
    index::Index,
    log::decode_cursor,
    wal::{Changes, PAGE_BYTES, Reader, Record, meaning, name},
    wire::lsn_text,
};

/// How much is read at once.
const READ_BYTES: u64 = 1 << 20;

/// The most WAL that is read from the server because it was not captured yet.
const TAIL_BYTES_MAX: u64 = 1 << 30;

/// The most changed blocks that are held: 64 GiB of them. Beyond, everything is read.
const BLOCKS_MAX: usize = 8 << 20;

/// Why nobody knows what changed.
type Unknown = String;

/// A question for what changed since a base began.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) files: &'a Files,
    /// The timeline of the new backup.
    pub(crate) timeline: u32,
    /// Where the base began and where it ended, and the timeline of both.
    pub(crate) base: Range<u64>,
    pub(crate) base_timeline: u32,
    /// Where the new backup begins.
    pub(crate) until: u64,
}

/// What records change, and the last one.
#[derive(Debug, Default)]
struct Seen {
    changes: Changes,
    last: Option<(u64, u32)>,
}

impl Seen {
    /// Takes note of a record that ends behind `after`.
    fn note(&mut self, record: &Record, after: u64, major: u32) {
        if record.end > after {
            self.changes.add(record, &meaning(record, major));
        }
        self.last = Some((record.end, record.checksum));
    }
}

impl Search<'_> {
    /// The changed blocks; the inner error says why they cannot be known.
    pub(crate) async fn changes(&self, base: Base<'_>) -> Result<Result<plan::Changes, Unknown>> {
        let Base { parts, log, .. } = base;
        let mut changes = match self.of_base(parts).await {
            Err(error) if is_absence(&error) => {
                return Ok(Err(format!("the base's own WAL cannot be read: {error}")));
            }
            outcome => match outcome? {
                Ok(changes) => changes,
                Err(why) => return Ok(Err(why)),
            },
        };
        let (mut timeline, mut reached) = (self.base_timeline, self.base.end);
        let mut last = None;
        while timeline != self.timeline || reached < self.until {
            let head = match log.next().await {
                Err(error) if is_absence(&error) => {
                    return Ok(Err(format!("the captured log cannot be read: {error}")));
                }
                outcome => outcome?,
            };
            let Some(head) = head else { break };
            // What the base holds must be before the switch, and so must all that was captured.
            if let Some(left) = &head.succeeds
                && self.place(left) == Some((timeline, reached))
                && let Some((next, _)) = self.place(head.range.start())
            {
                timeline = next;
            }
            let ends = (self.place(head.range.start()), self.place(head.range.end()));
            let (Some((first, start)), Some((_, end))) = ends else {
                return Ok(Err("the captured log is of another cluster".to_owned()));
            };
            if first != timeline {
                return Ok(Err(format!("the captured log leads to timeline {first}")));
            }
            if start > reached {
                return Ok(Err(format!("the captured log has a hole at {}", lsn_text(reached))));
            }
            let Some(more) = Index::decode(&head.index).and_then(|index| index.changes) else {
                return Ok(Err("captured log does not say all that it changes".to_owned()));
            };
            changes.merge(more);
            reached = reached.max(end);
            last = Some((start, end, head.cursor));
        }
        let Some((start, end, cursor)) = last else {
            return Ok(Err("no captured log leads on from the base".to_owned()));
        };
        if timeline != self.timeline {
            return Ok(Err(format!("the captured log does not reach timeline {}", self.timeline)));
        }
        let is_proven = if end > self.until {
            self.is_same(log.body().await, start).await?
        } else {
            match decode_cursor(&cursor) {
                Ok(Some(checksum)) if self.reader(end)?.1 < end => {
                    self.tail(end, Some(checksum), &mut changes).await?
                }
                // It was cut off where no record ends, as behind the last one of a file, or the
                // record that ends there is in the file before.
                _ => match self.ends_alike(log.body().await, end).await? {
                    Ok(()) => self.tail(end, None, &mut changes).await?,
                    Err(why) => Err(why),
                },
            }
        };
        if let Err(why) = is_proven {
            return Ok(Err(why));
        }
        if changes.is_partial() {
            return Ok(Err("wal_level was minimal meanwhile".to_owned()));
        }
        let planned = planned(&changes);
        Ok(planned.ok_or_else(|| "too many blocks changed".to_owned()))
    }

    /// The timeline and LSN of a position in our cluster.
    fn place(&self, position: &LogPosition) -> Option<(u32, u64)> {
        let (system, timeline) = position.lineage.as_str().split_once('/')?;
        if system != self.facts.system_identifier {
            return None;
        }
        Some((timeline.parse().ok()?, u64::try_from(position.offset).ok()?))
    }

    fn reader(&self, start: u64) -> Result<(Reader, u64)> {
        let segment_bytes = self.facts.wal_segment_bytes()?;
        let start = start - start % u64::from(segment_bytes);
        let system = self.facts.system_identifier.parse().ok();
        Ok((Reader::new(start, segment_bytes, system), start))
    }

    /// The pieces of files that hold a stretch of a timeline's WAL: name and range within.
    fn pieces(
        &self,
        timeline: u32,
        stretch: Range<u64>,
    ) -> Result<impl Iterator<Item = (String, Range<u64>)>> {
        let segment_bytes = self.facts.wal_segment_bytes()?;
        let length = u64::from(segment_bytes);
        let mut at = stretch.start;
        Ok(std::iter::from_fn(move || {
            if at >= stretch.end {
                return None;
            }
            let within = at % length;
            let bytes = READ_BYTES.min(length - within).min(stretch.end - at);
            let path = format!("pg_wal/{}", name::segment(timeline, at, segment_bytes));
            at += bytes;
            Some((path, within..within + bytes))
        }))
    }

    /// What the WAL changes that belongs to the base.
    async fn of_base(&self, parts: &dyn Source) -> Result<Result<Changes, Unknown>> {
        let (mut reader, start) = self.reader(self.base.start)?;
        let major = self.facts.version.major();
        let mut seen = Seen::default();
        for (path, range) in self.pieces(self.base_timeline, start..self.base.end)? {
            let bytes = parts.read(&PartName::new(path)?, range).await?;
            let read = reader.push(&bytes, |record| seen.note(&record, self.base.start, major));
            if let Err(bad) = read {
                return Ok(Err(format!("the base's own WAL cannot be read: {bad}")));
            }
        }
        if reader.next() < self.base.end {
            return Ok(Err("the base's own WAL is too short".to_owned()));
        }
        Ok(Ok(seen.changes))
    }

    /// Whether the server's WAL where the backup begins is what was captured there.
    async fn is_same(&self, body: Result<Bytes>, start: u64) -> Result<Result<(), Unknown>> {
        let body = match body {
            Err(error) if is_absence(&error) => {
                return Ok(Err(format!("the captured log cannot be read: {error}")));
            }
            body => body?,
        };
        let from = usize::try_from(self.until - start).unwrap_or(usize::MAX);
        let captured = body.get(from..).unwrap_or_default();
        let stretch = self.until..self.until + PAGE_BYTES.min(captured.len() as u64);
        let Some((path, range)) = self.pieces(self.timeline, stretch)?.next() else {
            return Ok(Err("the captured log is shorter than it says".to_owned()));
        };
        let read = self.files.read_range(0, &path, range).await?.unwrap_or_default();
        let is_same = !read.is_empty() && captured.starts_with(&read);
        Ok(if is_same { Ok(()) } else { Err(other_log(self.until)) })
    }

    /// Whether the server's WAL before `end` is the end of what was captured.
    async fn ends_alike(&self, body: Result<Bytes>, end: u64) -> Result<Result<(), Unknown>> {
        let body = match body {
            Err(error) if is_absence(&error) => {
                return Ok(Err(format!("the captured log cannot be read: {error}")));
            }
            body => body?,
        };
        // Files before this one may be gone. What follows a switch of files is zeros.
        let (_, file) = self.reader(end.saturating_sub(1))?;
        let known = end.saturating_sub(body.len() as u64).max(file);
        let mut compared = 0;
        for (path, range) in self.pieces(self.timeline, known..end)? {
            let read = self.files.read_range(0, &path, range).await?.unwrap_or_default();
            let from = body.len().saturating_sub(usize::try_from(end - known).unwrap_or(0));
            let captured = body.get(from + compared..).unwrap_or_default();
            if read.is_empty() || !captured.starts_with(&read) {
                return Ok(Err(other_log(end)));
            }
            compared += read.len();
        }
        // Zeros are alike everywhere.
        let is_telling = body.iter().rev().take(compared).any(|byte| *byte != 0);
        Ok(if is_telling { Ok(()) } else { Err(other_log(end)) })
    }

    /// What the WAL changes that the server has behind `reached`, where a record with this checksum
    /// ended, if one did.
    async fn tail(
        &self,
        reached: u64,
        checksum: Option<u32>,
        changes: &mut Changes,
    ) -> Result<Result<(), Unknown>> {
        if self.until - reached > TAIL_BYTES_MAX {
            return Ok(Err(format!("the capture is behind: it ends at {}", lsn_text(reached))));
        }
        let (mut reader, start) = self.reader(reached)?;
        let (major, mut ended_with) = (self.facts.version.major(), None);
        let mut seen = Seen::default();
        for (path, range) in self.pieces(self.timeline, start..self.until)? {
            let wanted = range.end - range.start;
            let bytes = self.files.read_range(0, &path, range).await?.unwrap_or_default();
            let read = reader.push(&bytes, |record| {
                seen.note(&record, reached, major);
                if record.end == reached {
                    ended_with = Some(record.checksum);
                }
            });
            match read {
                Err(bad) => return Ok(Err(format!("the server's WAL cannot be read: {bad}"))),
                Ok(()) if (bytes.len() as u64) < wanted => {
                    return Ok(Err(format!("the server no longer has {path}")));
                }
                Ok(()) => {}
            }
        }
        if checksum.is_some() && ended_with != checksum {
            return Ok(Err(other_log(reached)));
        }
        changes.merge(seen.changes);
        Ok(Ok(()))
    }
}

/// Something that is not there, or not as it was written: then everything is read.
fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Missing | ErrorKind::Gap)
}

fn other_log(at: u64) -> Unknown {
    format!("the server's WAL at {} is not what was captured", lsn_text(at))
}

/// The same changes, as whoever plans reads wants them; `None` when they are too many.
fn planned(changes: &Changes) -> Option<plan::Changes> {
    let (mut planned, mut count) = (plan::Changes::default(), 0);
    for (relation, file) in changes.files() {
        if relation.file == 0 {
            planned.recreate(relation.tablespace, relation.database);
            continue;
        }
        let fork = (relation.tablespace, relation.database, relation.file, relation.fork);
        if let Some(limit) = file.limit {
            planned.cut(fork, limit);
        }
        for block in file.blocks() {
            count += usize::from(planned.block(fork, block));
            if count > BLOCKS_MAX {
                return None;
            }
        }
    }
    Some(planned)
}
