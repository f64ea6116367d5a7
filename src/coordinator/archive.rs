//! Log that a server hands over file by file, and asks for in the same way.

use std::collections::BTreeMap;

use bytes::Bytes;
use stillpoint_contract::{
    ArchivedFile, Engine, Error, ErrorKind, LogArchive, LogFile, LogRange, Result, WantedFile, code,
};

use crate::{
    repository::{Repository, Timeline, history::Committed},
    world::World,
};

/// What became of a file that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is stored, in so many bytes.
    Stored(u64),
    /// All of it was stored before, and is the same.
    Known,
    /// It need not be kept by itself: why.
    Beside(&'static str),
}

/// The archive that an engine knows.
fn archive(engine: &dyn Engine) -> Result<&dyn LogArchive> {
    engine.archive().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::USAGE, "archive log file by file")
            .with("engine", engine.name())
            .why("servers of this engine hand over no files of log")
    })
}

/// Whose log it is: the database of the newest backup of that incarnation.
async fn owner(repository: &Repository, incarnation: &str) -> Result<Option<Committed>> {
    let history = repository.history().await?;
    let live = history.live();
    Ok(live.into_iter().rev().find(|c| c.commit.incarnation == incarnation).cloned())
}

/// Stores a file that the server's archiver hands over. `origin` reads the file of that name that
/// lies beside it. When this returns, the server may remove the file.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) for log of another database, or other log of the same place;
/// [`Transient`](ErrorKind::Transient) while a running capture has not stored it yet.
pub async fn push(
    world: &World,
    repository: &Repository,
    engine: &dyn Engine,
    database: Option<&str>,
    (name, bytes): (&str, Bytes),
    origin: impl FnOnce(&str) -> Result<Option<Bytes>>,
) -> Result<Pushed> {
    let archive = archive(engine)?;
    let (incarnation, range) = match archive.recognise(name, &bytes)? {
        ArchivedFile::Beside(why) => return Ok(Pushed::Beside(why)),
        ArchivedFile::Log { incarnation, range } => (incarnation, range),
    };
    let owner = owner(repository, &incarnation).await?;
    let owned = owner.as_ref().map(|owner| owner.commit.database.as_str());
    let database = match (database, owned) {
        (Some(asked), None) => return Err(foreign(name, &incarnation).with("database", asked)),
        (Some(asked), Some(owned)) if asked != owned => {
            return Err(foreign(name, &incarnation).with("database", asked).with("is of", owned));
        }
        (_, Some(owned)) => owned.to_owned(),
        (None, None) => return Err(foreign(name, &incarnation)),
    };
    let timeline = repository.timeline(&database).await?;
    let known = repository.captured_bytes(&timeline, &range).await?;
    if !bytes.starts_with(&known) {
        return Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "archive a log file")
            .with("file", name)
            .why("the repository has other log of this name: two servers write the same lineage")
            .next("let only one of them archive, or give one a lineage of its own: promote it"));
    }
    if known.len() == bytes.len() {
        return Ok(Pushed::Known);
    }
    let last = repository.last_segment(&database).await?;
    let last = last.filter(|last| last.incarnation == incarnation);
    if repository.running_capture(&database).await?.is_some() {
        return Err(Error::new(ErrorKind::Transient, code::DATABASE_BUSY, "archive a log file")
            .with("file", name)
            .why("a capture is running, and has not stored all of it yet")
            .next("the server asks again by itself"));
    }
    let origin = archive.origin_name(name).map(|name| origin(&name)).transpose()?.flatten();
    let before = before(&range);
    let before = match &before {
        Some(before) => Some(repository.captured_bytes(&timeline, before).await?),
        None => None,
    };
    let file = LogFile { name, bytes, before, origin };
    let since = last.as_ref().map(|last| last.head.range.end().clone());
    if since.as_ref().is_some_and(|since| range.end() <= since) {
        return Ok(Pushed::Beside("what was captured begins behind it"));
    }
    let (segments, gap) = match archive.cut(file.clone(), since.as_ref()) {
        Err(error) if error.kind() == ErrorKind::Gap => {
            (archive.cut(LogFile { before: None, ..file }, None)?, Some(error.to_string()))
        }
        segments => (segments?, None),
    };
    let writer = repository.append_after(&database, &incarnation, last.as_ref(), gap);
    let (mut writer, mut stored_bytes) = (writer.await?, 0);
    for segment in segments {
        stored_bytes += writer.append(segment, world.clock.now()).await?;
    }
    Ok(Pushed::Stored(stored_bytes))
}

/// The stretch before one, as long as it.
fn before(range: &LogRange) -> Option<LogRange> {
    let (start, length) = (range.start(), range.end().offset - range.start().offset);
    LogRange::new(start.at(start.offset.checked_sub(length)?), start.clone())
}

fn foreign(name: &str, incarnation: &str) -> Error {
    Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, "archive a log file")
        .with("file", name)
        .with("system identifier", incarnation)
        .why("no backup of the database that wrote it is in the repository under this name")
        .next("take a backup first: stillpoint backup URL")
}

/// Files for a server that replays.
#[derive(Debug)]
pub struct Fetcher<'a> {
    repository: &'a Repository,
    archive: &'a dyn LogArchive,
    timeline: Timeline,
    incarnation: String,
    settings: BTreeMap<String, String>,
}

/// A file for a server that replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// All of it, with zeros where nothing was captured.
    pub bytes: Vec<u8>,
    /// Whether all of it was captured.
    pub is_whole: bool,
}

impl<'a> Fetcher<'a> {
    /// Files of a database.
    pub async fn new(
        repository: &'a Repository,
        engine: &'a dyn Engine,
        database: &str,
    ) -> Result<Self> {
        let archive = archive(engine)?;
        let timeline = repository.timeline(database).await?;
        let newest = timeline.backups.last().ok_or_else(|| {
            Error::new(ErrorKind::Config, code::NO_SUCH_BACKUP, "fetch log")
                .with("database", database)
                .why("it has no backup that log could be replayed onto")
        })?;
        let incarnation = newest.commit.incarnation.clone();
        let settings = repository.manifest(newest).await?.settings;
        Ok(Self { repository, archive, timeline, incarnation, settings })
    }

    /// The file of that name; `None` when nothing of it was captured.
    pub async fn fetch(&self, name: &str) -> Result<Option<Fetched>> {
        match self.archive.wanted(name, &self.incarnation, &self.settings) {
            None => Ok(None),
            Some(WantedFile::Origin(position)) => {
                let head = self.repository.lineage_begin(&self.timeline, &position).await?;
                let text = head.and_then(|head| self.archive.origin(&head.index));
                Ok(text.map(|text| Fetched { bytes: text.to_vec(), is_whole: true }))
            }
            Some(WantedFile::Log(range)) => {
                let mut bytes =
                    self.repository.captured_bytes(&self.timeline, &range).await?.to_vec();
                if bytes.is_empty() {
                    return Ok(None);
                }
                let length = range.end().offset - range.start().offset;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let is_whole = bytes.len() == length;
                bytes.resize(length, 0);
                Ok(Some(Fetched { bytes, is_whole }))
            }
        }
    }

    /// The name of the file that is asked for after this one.
    pub fn name_after(&self, name: &str) -> Option<String> {
        self.archive.name_after(name, &self.settings)
    }
}
