//! The change log between backups: segments in a chain, captured under a lease, replayed in order.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{LogPosition, LogRange, Result};

/// A point of the log from which capture can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// The point.
    pub position: LogPosition,
    /// What the driver needs to find it again in the engine, such as a checksum. At most 4 KiB.
    pub cursor: Bytes,
}

/// Something at a position that a person may want to go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEvent {
    /// The offset, in the segment's lineage, of the state that includes it.
    pub offset: u128,
    /// When it happened, as exactly as the engine or the capture knows; never later than it was
    /// seen. Microseconds count.
    pub at: DateTime<Utc>,
    /// What it was.
    pub what: LogEventKind,
}

/// What happened at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEventKind {
    /// A transaction committed.
    Commit,
    /// Somebody named this point.
    RestorePoint(String),
    /// A table or database was dropped or emptied. The text is its name from the outermost level
    /// on, such as `shop.public.orders`; behind [`CONTENTS_OF`](Self::CONTENTS_OF) when only what
    /// it held is gone; or, behind [`FILE`](Self::FILE), what else is known of it, such as
    /// `file 16385 of shop`.
    Dropped(String),
}

impl LogEventKind {
    /// Stands before the name of what was emptied, not dropped.
    pub const CONTENTS_OF: &str = "contents of ";

    /// Stands before the number of what was lost where its name is not known.
    pub const FILE: &str = "file ";

    /// Whether this is the loss of what a person calls `name`: all of its name, or the end of it.
    /// Names are compared as they are written.
    pub fn is_loss_of(&self, name: &str) -> bool {
        let Self::Dropped(what) = self else { return false };
        let what = what.strip_prefix(Self::CONTENTS_OF).unwrap_or(what);
        let before = what.strip_suffix(name);
        !name.is_empty() && before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    /// Whether something lost its contents and stayed.
    pub fn is_emptied(&self) -> bool {
        matches!(self, Self::Dropped(what) if what.starts_with(Self::CONTENTS_OF))
    }

    /// Whether something was lost of which only a number is known. It may be an index as well as a
    /// table, and a table that was rewritten as well as one that was dropped.
    pub fn is_unnamed(&self) -> bool {
        matches!(self, Self::Dropped(what) if what.starts_with(Self::FILE))
    }
}

/// What is known of a segment without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// The stretch of history it covers. Starts exactly where its predecessor ends.
    pub range: LogRange,
    /// Where the predecessor's lineage was left, when this segment begins another: the state at
    /// `range.start()` is the state at this position. `None` within a lineage, and in the first
    /// segment after a gap.
    pub succeeds: Option<LogPosition>,
    /// Commits and other events that end inside the segment, in order. A large transaction may
    /// span segments that hold no event.
    pub events: Vec<LogEvent>,
    /// Where the engine keeps no times and events have those at which the capture saw them: when
    /// it last saw the end of the log, before which nothing in this segment was committed. 1970
    /// when this capture had not looked before. `None` where the engine's own times are exact.
    pub not_before: Option<DateTime<Utc>>,
    /// From where capture goes on after this segment.
    pub cursor: Bytes,
    /// The driver's summary of what the segment changes (such as page numbers), so that an
    /// incremental backup need not read bodies. At most [`SEGMENT_INDEX_BYTES_MAX`].
    pub index: Bytes,
}

/// A stretch of captured log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSegment {
    /// What is known of it without the body.
    pub head: SegmentHead,
    /// The engine's own records. At most [`SEGMENT_BODY_BYTES_MAX`].
    pub body: Bytes,
}

/// The longest body of a segment, in bytes.
pub const SEGMENT_BODY_BYTES_MAX: usize = 16 << 20;

/// The longest index of a segment, in bytes.
pub const SEGMENT_INDEX_BYTES_MAX: usize = 1 << 20;

/// How a capture begins.
#[derive(Debug)]
pub struct OpenedLog {
    /// The running capture.
    pub capture: Box<dyn LogCapture>,
    /// Where the first segment will start.
    pub start: LogPosition,
    /// Set when the engine no longer has everything since the mark: why. The capture then starts
    /// at what the engine still has, and its first segment succeeds nothing.
    pub gap: Option<String>,
}

/// A running capture: log that the engine keeps for us until we confirm it.
///
/// # Behaviour
///
/// - Segments follow each other without a hole for as long as the capture lives.
/// - The engine may forget log only after [`confirm`](Self::confirm); whoever drives the capture
///   confirms only what the repository holds durably.
/// - Dropping the capture, at any await, releases everything it holds in the engine.
#[async_trait]
pub trait LogCapture: fmt::Debug + Send {
    /// Returns the next stretch, or `None` when nothing was committed since the last call.
    ///
    /// Returns at once where the engine is polled; waits for at most a second where it streams.
    ///
    /// # Errors
    ///
    /// [`Gap`](crate::ErrorKind::Gap) when the engine discarded log that was not confirmed,
    /// [`Departed`](crate::ErrorKind::Departed) when the database is gone or was replaced.
    async fn next(&mut self) -> Result<Option<LogSegment>>;

    /// Tells the engine that everything before `position` is durable.
    async fn confirm(&mut self, position: &LogPosition) -> Result<()>;
}

/// Captured log, read back in order from one anchor: the state of a backup.
#[async_trait]
pub trait LogSource: fmt::Debug + Send {
    /// Returns the head of the next segment, or `None` at the end of what was captured without a
    /// gap. The first segment touches the anchor: it may begin before it.
    async fn next(&mut self) -> Result<Option<SegmentHead>>;

    /// Returns the body of the segment whose head was returned last, verified.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when the stored bytes are not those that were
    /// written.
    async fn body(&mut self) -> Result<Bytes>;

    /// Whether the captured log reaches `position` without a gap. May wait a few seconds for a
    /// capture that is running elsewhere; does not move the cursor.
    async fn reaches(&mut self, position: &LogPosition) -> Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_found_by_the_end_of_its_name() {
        let dropped = |what: &str| LogEventKind::Dropped(what.to_owned());
        for name in ["shop.public.orders", "public.orders", "orders"] {
            assert!(dropped("shop.public.orders").is_loss_of(name), "{name}");
            assert!(dropped("contents of shop.public.orders").is_loss_of(name), "{name}");
        }
        for name in ["", "rders", ".orders", "shop", "Orders"] {
            assert!(!dropped("shop.public.orders").is_loss_of(name), "{name}");
        }
        assert!(!LogEventKind::Commit.is_loss_of("orders"));
        assert!(dropped("contents of a").is_emptied() && !dropped("a").is_emptied());
    }
}
