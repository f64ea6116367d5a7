//! What state the log is in, as SQLite publishes it, and reads that are pinned to one such state.
//!
//! The log file alone does not tell: a writer that died between writing frames and publishing
//! them leaves a tail that looks committed and is overwritten later. `PRAGMA
//! wal_checkpoint(NOOP)` answers from the wal-index, which is what every reader goes by.
//! Source: SQLite 3.54 `sqlite3WalCheckpoint` and `walIndexReadHdr` in wal.c.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use stillpoint_contract::{Error, ErrorKind, LogPosition, Result, code};

use crate::{
    connect::{Database, checkpoint, schema_version},
    first_page,
    position::{self, Cursor},
    wal::{Generation, WalFile},
};

/// How often an observation is repeated while writers get in between.
const ATTEMPTS_MAX: u32 = 64;

/// How long to wait for a writer that is just publishing its frames.
const PUBLISHING: Duration = Duration::from_micros(200);

/// How long the write lock is waited for when that does not help.
const WRITE_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the write lock is tried.
const LOCK_POLL: Duration = Duration::from_micros(100);

/// The log at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    /// The generation and its number of published frames; `None` while the log is empty.
    pub(crate) live: Option<(Generation, u32)>,
    /// How many of the frames were copied into the database file.
    pub(crate) backfilled: u32,
}

impl LogState {
    /// Whether the database file alone holds everything.
    pub(crate) fn is_backfilled(&self) -> bool {
        self.live.is_none_or(|(_, frames)| frames == self.backfilled)
    }

    /// Whether both are the same committed state.
    pub(crate) fn same_commit(&self, other: &Self) -> bool {
        self.live == other.live
    }

    /// How much of the log's file is in use.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |(live, frames): (Generation, u32)| u64::from(frames) * live.frame_bytes() as u64;
        self.live.map_or(0, of)
    }

    /// How much of it is not in the database file yet, and has to be kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let of = |(live, frames): (Generation, u32)| {
            u64::from(frames.saturating_sub(self.backfilled)) * live.frame_bytes() as u64
        };
        self.live.map_or(0, of)
    }

    /// Number of frames.
    pub(crate) fn frames(&self) -> u32 {
        self.live.map_or(0, |(_, frames)| frames)
    }
}

/// A connection that asks about the log and is never in a transaction.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) database: Database,
    pub(crate) connection: Connection,
    pub(crate) wal: WalFile,
}

impl Observer {
    /// Opens the connection and the log.
    pub(crate) fn open(database: &Database) -> Result<Self> {
        let connection = database.open()?;
        let wal = database.wal()?;
        Ok(Self { database: database.clone(), connection, wal })
    }

    /// The log's state now.
    pub(crate) fn observe(&self) -> Result<LogState> {
        observe(&self.database, &self.connection, &self.wal)
    }

    /// Runs a checkpoint of the given mode.
    pub(crate) fn checkpoint(&self, mode: &str) -> Result<Option<(u32, u32)>> {
        self.database.sql(checkpoint(&self.connection, mode), ASK)
    }

    /// Begins a read transaction on `reader` and returns the exact state that it sees, with an
    /// instant at which it was the newest.
    pub(crate) fn pin(&self, reader: &Connection) -> Result<(LogState, DateTime<Utc>)> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(pinned) = self.try_pin(reader)? {
                return Ok(pinned);
            }
            self.database.sql(reader.execute_batch("ROLLBACK"), "end a read")?;
        }
        // Writers are too busy: keep them out for the microseconds that one attempt takes.
        let mut writer = self.database.open_writable()?;
        let pinned = write_lock(&self.database, &mut writer, WRITE_LOCK_TIMEOUT)
            .and_then(|()| self.try_pin(reader));
        drop(writer);
        pinned?.ok_or_else(|| unsettled(&self.database))
    }

    fn try_pin(&self, reader: &Connection) -> Result<Option<(LogState, DateTime<Utc>)>> {
        let before = self.observe()?;
        let at = self.database.clock.now();
        begin_read(&self.database, reader)?;
        let after = self.observe()?;
        Ok(before.same_commit(&after).then_some((after, at)))
    }

    /// Names a pinned state and gives what capture needs to find it again. The read that pins it
    /// is still open.
    pub(crate) fn mark(&self, state: &LogState) -> Result<(LogPosition, bytes::Bytes)> {
        let id = &self.database.identity.id;
        let Some((generation, frames)) = state.live else {
            let path = &self.database.path;
            let rest = position::at_rest(id, path, self.database.clock.as_ref())?;
            return Ok((rest, bytes::Bytes::new()));
        };
        let checksum = self.wal.checksum_after(&generation, frames)?;
        let pages = first_page::at(&self.database, &self.wal, state.live)?;
        let cursor = checksum.map(|sum| Cursor::new(&generation, frames, sum, pages).encode());
        let position = position::at_frame(id, generation.salts, frames)?;
        // The log may have been restarted over frames that were all copied back: the position is
        // still right, only nobody will find it in the log again.
        Ok((position, cursor.unwrap_or_default()))
    }
}

const ASK: &str = "ask for the log's length";

/// The log's state now, by a connection that is not in a transaction.
///
/// A writer that restarts the log first publishes zero frames, then rewrites the header, then
/// publishes its frames. So when the header is the same before and after a count above zero,
/// it is the header of the frames that were counted.
pub(crate) fn observe(
    database: &Database,
    connection: &Connection,
    wal: &WalFile,
) -> Result<LogState> {
    for _ in 0..ATTEMPTS_MAX {
        let before = wal.generation()?;
        let Some((frames, backfilled)) = database.sql(checkpoint(connection, "NOOP"), ASK)? else {
            std::thread::sleep(PUBLISHING);
            continue;
        };
        if frames == 0 {
            return Ok(LogState { live: None, backfilled: 0 });
        }
        let after = wal.generation()?;
        if let Some(generation) = before.filter(|_| before == after) {
            return Ok(LogState { live: Some((generation, frames)), backfilled });
        }
    }
    Err(unsettled(database))
}

/// Begins a read transaction and reads, so that its state is fixed.
pub(crate) fn begin_read(database: &Database, reader: &Connection) -> Result<()> {
    database.sql(reader.execute_batch("BEGIN"), "begin to read")?;
    database.sql(schema_version(reader), "begin to read").map(drop)
}

/// Takes the write lock, or gives up after `timeout`. Dropping or rolling back releases it;
/// nothing is written.
pub(crate) fn write_lock(
    database: &Database,
    writer: &mut Connection,
    timeout: Duration,
) -> Result<()> {
    // SQLite's own handler sleeps longer each time, and starves where writers hardly pause.
    let tries = timeout.as_micros() / LOCK_POLL.as_micros();
    let mut take = || -> rusqlite::Result<()> {
        writer.busy_handler(Some(move |tried: i32| {
            std::thread::sleep(LOCK_POLL);
            u128::from(tried.unsigned_abs()) < tries
        }))?;
        writer.execute_batch("BEGIN IMMEDIATE")
    };
    database.sql(take(), "take the write lock")
}

fn unsettled(database: &Database) -> Error {
    Error::new(ErrorKind::Busy, code::DATABASE_BUSY, "observe the write-ahead log")
        .with("file", database.path.display())
        .why("writers changed it faster than it could be looked at")
        .next("run the same command again")
}
