//! Reads that overlap each other, so that nobody can throw log away between two of them.
//!
//! Source: SQLite 3.54 wal.c, `walTryBeginRead`, `walRestartLog`, `walCheckpoint`:
//!
//! - A reader that began at frame `m` while some frame was not yet copied back holds a mark: the
//!   log is not restarted while it lives, and nothing past `m` is copied back.
//! - A reader that began when every frame was copied back holds lock 0 and no mark: the next
//!   writer may restart the log, once. Nothing of the generation that then begins can be copied
//!   back while the reader lives, so that one cannot end.
//!
//! Hence whoever has every frame up to the moment when lock 0 was taken loses nothing.

use rusqlite::Connection;
use stillpoint_contract::Result;

use crate::{
    connect::Database,
    generation::{LogState, Observer, begin_read},
};

/// By how much a mark may lie below what we know of it, and what was copied back below that:
/// writers go on between the beginning of a read and our look at the log.
const MARK_LAG_FRAMES_MAX: u32 = 1000;

/// The read that keeps log from being lost.
#[derive(Debug)]
pub(crate) struct Hold {
    readers: [Connection; 2],
    /// Which of the readers is in its transaction.
    current: usize,
    kept: Kept,
}

/// What the reader keeps from being lost.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// The whole generation; the number is an upper limit of the frame at which the reader began.
    Generation(u32),
    /// Everything after this state, in which every frame was copied back.
    After(LogState),
}

impl Kept {
    fn since(state: LogState) -> Self {
        if state.is_backfilled() { Self::After(state) } else { Self::Generation(state.frames()) }
    }
}

impl Hold {
    /// Takes hold of the log as it is, and returns that state.
    pub(crate) fn take(observer: &Observer) -> Result<(Self, LogState)> {
        let readers = [observer.database.open()?, observer.database.open()?];
        let (state, _) = observer.pin(&readers[0])?;
        Ok((Self { readers, current: 0, kept: Kept::since(state) }, state))
    }

    /// The state from which on nothing is lost, when the next writer may restart the log.
    pub(crate) fn let_go_at(&self) -> Option<LogState> {
        match self.kept {
            Kept::After(state) => Some(state),
            Kept::Generation(_) => None,
        }
    }

    /// How many frames the hold is known to keep from being copied back.
    ///
    /// Above zero, moving forward is safe even when not every frame is captured: frames past our
    /// mark cannot have been copied back, so the newer read gets a mark as well.
    pub(crate) fn lag(&self, state: &LogState) -> u32 {
        match self.kept {
            Kept::Generation(mark) => state.frames().saturating_sub(mark),
            // What was copied back stays so: a look that says otherwise met a restart half-way.
            Kept::After(at) if at.same_commit(state) => 0,
            Kept::After(_) => state.frames().saturating_sub(state.backfilled),
        }
    }

    /// Whether this hold keeps what follows `copied` frames from being copied back, but for what a
    /// writer may have been at when it began.
    pub(crate) fn keeps(&self, copied: u32) -> bool {
        match self.kept {
            Kept::Generation(mark) => mark.saturating_sub(copied) <= MARK_LAG_FRAMES_MAX,
            Kept::After(_) => true,
        }
    }

    /// Ends the read: from now on nothing is kept.
    pub(crate) fn end(&self, observer: &Observer) -> Result<()> {
        self.readers.iter().try_for_each(|reader| end_read(&observer.database, reader))
    }

    /// Begins a newer read, then ends the older one.
    ///
    /// The caller either has every frame of the log, or [`lag`](Self::lag) is above zero.
    pub(crate) fn advance(&mut self, observer: &Observer) -> Result<()> {
        let newer = 1 - self.current;
        let begun = begin_read(&observer.database, &self.readers[newer]);
        let after = begun.and_then(|()| observer.observe());
        let keep = if after.is_ok() { newer } else { self.current };
        end_read(&observer.database, &self.readers[1 - keep])?;
        let after = after?;
        self.current = keep;
        // The older read kept the log, so when all of it is copied back now, the newer one began
        // at this very state; otherwise it has a mark, at or below the frames there are now.
        self.kept = Kept::since(after);
        Ok(())
    }

    /// Ends the read and closes the connections.
    pub(crate) fn release(self) {
        for reader in self.readers {
            // Closing ends a transaction as well; ending it here lets an empty log be tidied up.
            drop(reader.execute_batch("ROLLBACK"));
            Database::close(reader);
        }
    }
}

/// Ends a read, if one was begun.
fn end_read(database: &Database, reader: &Connection) -> Result<()> {
    if reader.is_autocommit() {
        return Ok(());
    }
    database.sql(reader.execute_batch("ROLLBACK"), "end a read")
}
