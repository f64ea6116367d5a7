//! Log that a server hands over file by file, through a command of its own, instead of a stream.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;

use crate::{LogPosition, LogRange, LogSegment, Result};

/// What an engine knows of the files that its archiver names.
///
/// Pure: it reads no file and asks no server.
pub trait LogArchive: fmt::Debug + Send + Sync {
    /// Recognises a file that the server hands over.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when it is not what its name says.
    fn recognise(&self, name: &str, bytes: &Bytes) -> Result<ArchivedFile>;

    /// Begins to cut files into segments that follow `since`, or with the first file without it.
    fn cutter(&self, since: Option<&LogPosition>) -> Result<Box<dyn LogCutter>>;

    /// The file that must be beside another one of this name, because it says where its lineage
    /// comes from.
    fn origin_name(&self, name: &str) -> Option<String>;

    /// The file that exists, relative to the folder of the one of this name, while that one is
    /// whole and waits to be handed over; `None` for what cannot be told so.
    fn waiting_name(&self, name: &str) -> Option<String>;

    /// What a server asks for by a name, in a database of this incarnation with these settings;
    /// `None` for what never is in an archive.
    fn wanted(
        &self,
        name: &str,
        incarnation: &str,
        settings: &BTreeMap<String, String>,
    ) -> Option<WantedFile>;

    /// The name of the file of the same lineage that follows one of this name and length.
    fn name_after(&self, name: &str, length_bytes: u64) -> Option<String>;

    /// The file that says where a segment's lineage comes from, by the segment's index.
    fn origin(&self, index: &Bytes) -> Option<Bytes>;
}

/// Cuts files into segments, one after the other. Work for a CPU thread.
pub trait LogCutter: fmt::Debug + Send {
    /// Whether the file before is needed to read one that begins there.
    fn needs_before(&self, start: &LogPosition) -> bool;

    /// Cuts what lies behind the segments that were cut so far.
    ///
    /// # Errors
    ///
    /// [`Gap`](crate::ErrorKind::Gap) when it does not follow,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when it does not decode. Afterwards the cutter is of
    /// no more use.
    fn cut(&mut self, file: LogFile<'_>) -> Result<Vec<LogSegment>>;
}

/// A file that a server hands over, recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchivedFile {
    /// A stretch of log, all of it.
    Log {
        /// The identity of the database that wrote it.
        incarnation: String,
        /// What it holds.
        range: LogRange,
    },
    /// Nothing that has to be kept by itself: why.
    Beside(&'static str),
}

/// A file of log, and what is needed to read it.
#[derive(Clone, Debug)]
pub struct LogFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// All of it.
    pub bytes: Bytes,
    /// The file before it, as far as it is known: a record may run on from there.
    pub before: Option<Bytes>,
    /// What [`LogArchive::origin_name`] asked for, if it was there.
    pub origin: Option<Bytes>,
}

/// What a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedFile {
    /// A stretch of log.
    Log(LogRange),
    /// Where the lineage of this position comes from.
    Origin(LogPosition),
}
