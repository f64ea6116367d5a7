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

    /// Cuts what lies behind `since` into segments that follow it; all of the file without it.
    ///
    /// # Errors
    ///
    /// [`Gap`](crate::ErrorKind::Gap) when it does not follow,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when it does not decode.
    fn cut(&self, file: LogFile<'_>, since: Option<&LogPosition>) -> Result<Vec<LogSegment>>;

    /// The file that must be beside another one of this name, because it says where its lineage
    /// comes from.
    fn origin_name(&self, name: &str) -> Option<String>;

    /// What a server asks for by a name, in a database of this incarnation with these settings;
    /// `None` for what never is in an archive.
    fn wanted(
        &self,
        name: &str,
        incarnation: &str,
        settings: &BTreeMap<String, String>,
    ) -> Option<WantedFile>;

    /// The name of the file that a server asks for after this one.
    fn name_after(&self, name: &str, settings: &BTreeMap<String, String>) -> Option<String>;

    /// The file that says where a segment's lineage comes from, by the segment's index.
    fn origin(&self, index: &Bytes) -> Option<Bytes>;
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
