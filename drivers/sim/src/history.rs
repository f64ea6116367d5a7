//! Everything that was ever committed, as the log describes it.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Error, ErrorKind, Lineage, LogEvent, LogEventKind, LogPosition, LogRange, Result,
    SEGMENT_BODY_BYTES_MAX, SEGMENT_INDEX_BYTES_MAX, code,
};

use crate::table::{Table, page_of};

/// One cell being set. A log offset is a number of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which cell.
    pub cell: u32,
    /// What it holds from then on.
    pub value: i64,
}

/// Length of a write in the body of a segment: the cell, then the value, little-endian.
pub(crate) const WRITE_BYTES: usize = 12;

/// How many writes a segment holds at most.
const WRITES_MAX: usize = SEGMENT_BODY_BYTES_MAX / WRITE_BYTES;

impl Write {
    fn encode(self) -> [u8; WRITE_BYTES] {
        let mut bytes = [0; WRITE_BYTES];
        bytes[..4].copy_from_slice(&self.cell.to_le_bytes());
        bytes[4..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    /// Reads the writes of a body.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when `body` ends inside one.
    pub(crate) fn decode_all(body: &[u8]) -> Result<impl Iterator<Item = Self> + '_> {
        let (whole, rest) = body.as_chunks::<WRITE_BYTES>();
        if !rest.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "read a write"));
        }
        Ok(whole.iter().map(|[a, b, c, d, value @ ..]| Self {
            cell: u32::from_le_bytes([*a, *b, *c, *d]),
            value: i64::from_le_bytes(*value),
        }))
    }
}

/// A committed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    /// What it writes covers `start..start + writes.len()` of its lineage.
    pub(crate) start: LogPosition,
    /// Where the lineage before was left, if this is the first commit of a new one.
    pub(crate) succeeds: Option<LogPosition>,
    pub(crate) at: DateTime<Utc>,
    pub(crate) writes: Vec<Write>,
}

impl Commit {
    pub(crate) fn end(&self) -> LogPosition {
        self.start.at(self.start.offset + self.writes.len() as u128)
    }
}

/// A place between two writes: some commit, and how many of its writes lie before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) commit: usize,
    pub(crate) written: usize,
}

/// A stretch of log as a segment holds it.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) range: LogRange,
    pub(crate) succeeds: Option<LogPosition>,
    pub(crate) events: Vec<LogEvent>,
    pub(crate) body: Bytes,
    pub(crate) index: Bytes,
}

/// The history of one incarnation.
#[derive(Debug)]
pub(crate) struct History {
    genesis: (LogPosition, Table),
    pub(crate) commits: Vec<Commit>,
    /// Where the next commit will start, and what it succeeds.
    next: (LogPosition, Option<LogPosition>),
    /// Commits before this one are no longer in the server's log.
    pub(crate) retained: usize,
    lineages: u64,
}

impl History {
    /// A history that begins with `table`, in a lineage named after `identity`.
    pub(crate) fn new(identity: &str, table: Table) -> Result<Self> {
        let start = LogPosition { lineage: Lineage::new(format!("{identity}-1"))?, offset: 0 };
        let next = (start.clone(), None);
        Ok(Self { genesis: (start, table), commits: Vec::new(), next, retained: 0, lineages: 1 })
    }

    /// The state after the last commit. A lineage begins with its first commit.
    pub(crate) fn position(&self) -> LogPosition {
        self.commits.last().map_or_else(|| self.genesis.0.clone(), Commit::end)
    }

    /// Where the server's log begins.
    pub(crate) fn oldest(&self) -> LogPosition {
        let first = self.commits.get(self.retained);
        first.map_or_else(|| self.position(), |commit| commit.start.clone())
    }

    pub(crate) fn commit(&mut self, at: DateTime<Utc>, writes: Vec<Write>) -> LogPosition {
        let (start, succeeds) = (self.next.0.clone(), self.next.1.take());
        let commit = Commit { start, succeeds, at, writes };
        let end = commit.end();
        self.next.0 = end.clone();
        self.commits.push(commit);
        end
    }

    /// Forgets the last `lost` commits and goes on in another lineage; returns what is left.
    pub(crate) fn fork(&mut self, identity: &str, lost: usize) -> Result<Table> {
        self.commits.truncate(self.commits.len().saturating_sub(lost));
        self.retained = self.retained.min(self.commits.len());
        self.lineages += 1;
        let lineage = Lineage::new(format!("{identity}-{}", self.lineages))?;
        self.next = (LogPosition { lineage, offset: 0 }, Some(self.position()));
        self.replay(self.commits.len())
    }

    /// The state after the first `count` commits.
    pub(crate) fn replay(&self, count: usize) -> Result<Table> {
        let mut table = self.genesis.1.clone();
        for write in self.commits.iter().take(count).flat_map(|commit| &commit.writes) {
            table.set(write.cell, write.value)?;
        }
        Ok(table)
    }

    /// How many commits lie before `position`, which is the end of one.
    pub(crate) fn count_until(&self, position: &LogPosition) -> Option<usize> {
        self.locate(position).filter(|place| place.written == 0).map(|place| place.commit)
    }

    /// The place at `position`, if it lies on this history.
    pub(crate) fn locate(&self, position: &LogPosition) -> Option<Place> {
        if *position == self.genesis.0 {
            return Some(Place { commit: 0, written: 0 });
        }
        let commit = self.commits.iter().rposition(|commit| {
            commit.start.lineage == position.lineage && commit.start.offset <= position.offset
        })?;
        let written = usize::try_from(position.offset - self.commits[commit].start.offset).ok()?;
        match self.commits[commit].writes.len() {
            length if written < length => Some(Place { commit, written }),
            length if written == length => Some(Place { commit: commit + 1, written: 0 }),
            _ => None,
        }
    }

    /// The log from `place` on, as far as one segment goes; `None` at the end.
    pub(crate) fn stretch(&self, place: Place) -> Option<(Stretch, Place)> {
        let first = self.commits.get(place.commit)?;
        let start = first.start.at(first.start.offset + place.written as u128);
        let succeeds = first.succeeds.clone().filter(|_| place.written == 0);
        let (mut end, mut place) = (start.clone(), place);
        let (mut body, mut events, mut pages) = (Vec::new(), Vec::new(), BTreeSet::new());
        while let Some(commit) = self.commits.get(place.commit)
            && commit.start.lineage == start.lineage
            && body.len() < WRITES_MAX * WRITE_BYTES
        {
            let room = WRITES_MAX - body.len() / WRITE_BYTES;
            let taken: &[Write] = &commit.writes[place.written..];
            let taken = &taken[..taken.len().min(room)];
            body.extend(taken.iter().flat_map(|write| write.encode()));
            pages.extend(taken.iter().map(|write| page_of(write.cell)));
            place.written += taken.len();
            end.offset += taken.len() as u128;
            if place.written == commit.writes.len() {
                let what = LogEventKind::Commit;
                events.push(LogEvent { offset: end.offset, at: commit.at, what });
                place = Place { commit: place.commit + 1, written: 0 };
            }
        }
        let range = LogRange::new(start, end)?;
        let stretch = Stretch { range, succeeds, events, body: body.into(), index: index(&pages) };
        Some((stretch, place))
    }
}

/// Four bytes for each page that a segment changes; empty when there are too many to name.
fn index(pages: &BTreeSet<u32>) -> Bytes {
    if pages.len() * size_of::<u32>() > SEGMENT_INDEX_BYTES_MAX {
        return Bytes::new();
    }
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

/// The pages that a segment's index names, or `None` when it may have changed any.
pub(crate) fn changed_pages(index: &[u8]) -> Option<impl Iterator<Item = u32> + '_> {
    let (pages, rest) = index.as_chunks::<4>();
    let named = rest.is_empty() && !pages.is_empty();
    named.then(|| pages.iter().map(|page| u32::from_le_bytes(*page)))
}
