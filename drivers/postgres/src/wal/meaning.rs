//! What a record means to somebody who looks for a point to go back to, and to somebody who wants
//! to know which files it touches without naming their blocks.

use chrono::{DateTime, Utc};

use super::{Record, bytes::Cursor, record::RelationFork};

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH_US: i64 = 946_684_800_000_000;

const XLOG: u8 = 0;
const XACT: u8 = 1;
const SMGR: u8 = 2;
const DBASE: u8 = 4;

/// The forks of a relation.
pub(super) const FORKS: std::ops::Range<u8> = 0..4;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, if the record says it.
    pub at: Option<DateTime<Utc>>,
    /// What.
    pub kind: EventKind,
}

/// What a record says besides blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A transaction ended.
    Ended {
        /// Which; for a prepared one, the one that was prepared.
        xid: u32,
        /// Whether its changes hold.
        is_commit: bool,
        /// The files of relations that go with it (without forks).
        dropped: Vec<RelationFork>,
    },
    /// From about here on, the server writes no more WAL than a crash needs.
    Minimal,
    /// Somebody named this point.
    RestorePoint(String),
    /// A file was made.
    Created(RelationFork),
    /// A file was cut to so many blocks.
    Truncated {
        /// Which.
        relation: RelationFork,
        /// How many are left.
        blocks: u32,
    },
    /// All files of a database in a tablespace were made or removed.
    Database {
        /// The tablespace.
        tablespace: u32,
        /// The database.
        database: u32,
        /// Whether it is gone.
        is_dropped: bool,
    },
}

/// What `record` means; empty for most. Major versions below 15 number some kinds differently.
pub fn meaning(record: &Record, major: u32) -> Vec<Event> {
    let cursor = Cursor(&record.data);
    let events = match (record.manager, record.info & 0xF0) {
        (XLOG, 0x60) => parameters(cursor).map(|event| vec![event]),
        (XLOG, 0x70) => restore_point(cursor).map(|event| vec![event]),
        (XACT, _) => ended(record, cursor, major).map(|event| vec![event]),
        (SMGR, 0x10) => created(cursor).map(|event| vec![event]),
        (SMGR, 0x20) => truncated(cursor),
        (DBASE, kind) => database(kind, cursor, major),
        _ => None,
    };
    events.unwrap_or_default()
}

/// The time of a record.
fn time(cursor: &mut Cursor<'_>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(cursor.i64()?.checked_add(EPOCH_US)?)
}

/// The server was started with other settings. Source: `xl_parameter_change`, in which `wal_level`
/// is the sixth number, and 0 is `minimal`.
fn parameters(mut cursor: Cursor<'_>) -> Option<Event> {
    cursor.take(20)?;
    let is_minimal = cursor.u32()? == 0;
    is_minimal.then_some(Event { at: None, kind: EventKind::Minimal })
}

fn restore_point(mut cursor: Cursor<'_>) -> Option<Event> {
    let at = time(&mut cursor)?;
    let name = cursor.0.split(|byte| *byte == 0).next()?;
    let name = String::from_utf8_lossy(name).into_owned();
    Some(Event { at: Some(at), kind: EventKind::RestorePoint(name) })
}

/// The end of a transaction. Source: `xact.h`, `xl_xact_parsed_commit`.
fn ended(record: &Record, mut cursor: Cursor<'_>, major: u32) -> Option<Event> {
    let (is_commit, is_prepared) = match record.info & 0x70 {
        0x00 => (true, false),
        0x20 => (false, false),
        0x30 => (true, true),
        0x40 => (false, true),
        _ => return None,
    };
    let at = time(&mut cursor)?;
    let has = if record.info & 0x80 == 0 { 0 } else { cursor.u32()? };
    let plain = Event {
        at: Some(at),
        kind: EventKind::Ended { xid: record.xid, is_commit, dropped: Vec::new() },
    };
    // What cannot be read is not there: the time of the transaction is what counts.
    let details = || -> Option<(u32, Vec<RelationFork>)> {
        let mut cursor = cursor;
        if has & 1 != 0 {
            cursor.take(8)?;
        }
        if has & 2 != 0 {
            let count = usize::try_from(cursor.u32()?).ok()?;
            cursor.take(count.checked_mul(4)?)?;
        }
        let mut dropped = Vec::new();
        if has & 4 != 0 {
            let count = cursor.u32()?;
            for _ in 0..count {
                dropped.push(relation(&mut cursor)?);
            }
        }
        if has & 1 << 8 != 0 {
            let count = usize::try_from(cursor.u32()?).ok()?;
            // Statistics that go with it: three numbers of four bytes each, from 18 on four.
            cursor.take(count.checked_mul(if major >= 18 { 16 } else { 12 })?)?;
        }
        if has & 8 != 0 {
            let count = usize::try_from(cursor.u32()?).ok()?;
            cursor.take(count.checked_mul(16)?)?;
        }
        let xid = if is_prepared && has & 16 != 0 { cursor.u32()? } else { record.xid };
        Some((xid, dropped))
    };
    Some(match details() {
        Some((xid, dropped)) => {
            Event { at: Some(at), kind: EventKind::Ended { xid, is_commit, dropped } }
        }
        None => plain,
    })
}

fn relation(cursor: &mut Cursor<'_>) -> Option<RelationFork> {
    let (tablespace, database, file) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    Some(RelationFork { tablespace, database, file, fork: 0 })
}

fn created(mut cursor: Cursor<'_>) -> Option<Event> {
    let relation = relation(&mut cursor)?;
    let fork = u8::try_from(cursor.u32()?).ok().filter(|fork| FORKS.contains(fork))?;
    let kind = EventKind::Created(RelationFork { fork, ..relation });
    Some(Event { at: None, kind })
}

fn truncated(mut cursor: Cursor<'_>) -> Option<Vec<Event>> {
    let blocks = cursor.u32()?;
    let relation = relation(&mut cursor)?;
    let flags = cursor.u32()?;
    // The length of the visibility map follows from that of the data: it is taken as changed.
    let forks = [(1, 0, blocks), (2, 2, 0)];
    let cut = forks.into_iter().filter(|(flag, ..)| flags & flag != 0).map(|(_, fork, blocks)| {
        let relation = RelationFork { fork, ..relation };
        Event { at: None, kind: EventKind::Truncated { relation, blocks } }
    });
    Some(cut.collect())
}

fn database(kind: u8, mut cursor: Cursor<'_>, major: u32) -> Option<Vec<Event>> {
    let drop_kind = if major >= 15 { 0x20 } else { 0x10 };
    let database = cursor.u32()?;
    let event = |tablespace, is_dropped| {
        let kind = EventKind::Database { tablespace, database, is_dropped };
        Event { at: None, kind }
    };
    if kind != drop_kind {
        return Some(vec![event(cursor.u32()?, false)]);
    }
    let count = cursor.u32()?;
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(event(cursor.u32()?, true));
    }
    Some(events)
}
