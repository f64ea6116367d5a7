//! Log that a server hands over file by file, and asks for in the same way.

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{
    ArchivedFile, Engine, Error, ErrorKind, LogArchive, LogCutter, LogFile, LogRange, LogSegment,
    Result, code,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    pipeline::compress::Scratch,
    repository::{CapturedLog, Repository, SealedSegment, SegmentSealer, history::Committed},
    world::World,
};

/// The most files, and bytes of them, that one push stores.
const BATCH_FILES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 << 30;

/// Segments that wait for the one before to be stored.
const SEALED_AHEAD_MAX: usize = 1;

const STEP: &str = "archive a log file";

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
pub(super) fn archive(engine: &dyn Engine) -> Result<&dyn LogArchive> {
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

/// Files that a server has: where [`push`] finds what it is asked to store.
#[async_trait]
pub trait Files: Send + Sync {
    /// Reads a file; `None` when there is none.
    async fn read(&self, name: &str) -> Result<Option<Bytes>>;

    /// Whether there is such a file.
    fn exists(&self, name: &str) -> bool;

    /// Hears that a file as it was read is durable in the repository.
    fn stored(&self, name: &str);
}

/// Stores a file that the server's archiver hands over, and those behind it that wait as well.
/// Returns what became of each, in order. When this returns, the server may remove these files.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) for log of another database, or other log of the same place;
/// [`Transient`](ErrorKind::Transient) while a running capture has not stored it yet. What goes
/// wrong with a file that was not asked for is told when it is.
pub async fn push(
    world: &World,
    repository: &Repository,
    engine: &dyn Engine,
    database: Option<&str>,
    name: &str,
    files: &dyn Files,
) -> Result<Vec<(String, Pushed)>> {
    let archive = archive(engine)?;
    let missing = || Error::new(ErrorKind::Missing, code::FILE, STEP).with("file", name);
    let bytes = files.read(name).await?.ok_or_else(missing)?;
    let (incarnation, range) = match archive.recognise(name, &bytes)? {
        ArchivedFile::Beside(why) => return Ok(vec![(name.to_owned(), Pushed::Beside(why))]),
        ArchivedFile::Log { incarnation, range } => (incarnation, range),
    };
    let database = owned(repository, database, (name, &incarnation)).await?;
    let timeline = repository.timeline(&database).await?;
    let captured = repository.captured(&timeline);
    let known = captured.bytes(&range).await?;
    if !bytes.starts_with(&known) {
        return Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, STEP)
            .with("file", name)
            .why("the repository has other log of this name: two servers write the same lineage")
            .next("let only one of them archive, or give one a lineage of its own: promote it"));
    }
    if known.len() == bytes.len() {
        return Ok(vec![(name.to_owned(), Pushed::Known)]);
    }
    drop(known);
    let last = repository.last_segment(&database).await?;
    let last = last.filter(|last| last.incarnation == incarnation);
    if repository.running_capture(&database).await?.is_some() {
        return Err(Error::new(ErrorKind::Transient, code::DATABASE_BUSY, STEP)
            .with("file", name)
            .why("a capture is running, and has not stored all of it yet")
            .next("the server asks again by itself"));
    }
    let since = last.as_ref().map(|last| last.head.range.end().clone());
    if since.as_ref().is_some_and(|since| range.end() <= since) {
        let why = "what was captured begins behind it";
        return Ok(vec![(name.to_owned(), Pushed::Beside(why))]);
    }
    let origin = origin_of(archive, name, files).await?;
    let before = match before(&range) {
        Some(before) => captured.bytes(&before).await?,
        None => Bytes::new(),
    };
    let mut file = Waiting { name: name.to_owned(), range, bytes, before: Some(before), origin };
    let cutter = archive.cutter(since.as_ref())?;
    let (cutter, segments, gap) = match cut(world, cutter, &file).await? {
        (_, Err(error)) if error.kind() == ErrorKind::Gap => {
            file.before = None;
            let (cutter, segments) = cut(world, archive.cutter(None)?, &file).await?;
            (cutter, segments?, Some(reason(&error)))
        }
        (cutter, segments) => (cutter, segments?, None),
    };
    let mut writer = repository.append_after(&database, &incarnation, last.as_ref(), gap).await?;
    let (sender, mut receiver) = mpsc::channel(SEALED_AHEAD_MAX);
    // What was read is remembered there, and is not needed any more.
    drop(captured);
    file.before = None;
    let captured = repository.captured(&timeline);
    let read = None;
    let batch = Batch { world, archive, files, captured, incarnation, cutter, read, sender };
    let sealer = writer.sealer()?;
    let store = async move {
        let (mut pushed, mut stored_bytes) = (Vec::new(), 0);
        while let Some(Sealing { sealed, ends }) = receiver.recv().await {
            let sealed = sealed.await.map_err(|e| Error::bug("seal a segment").caused_by(e))??;
            stored_bytes += writer.append_sealed(sealed, world.clock.now()).await?;
            if let Some(name) = ends {
                // Whoever took over goes on from where it looked, not from what was just stored.
                writer.check_fence().await?;
                files.stored(&name);
                pushed.push((name, Pushed::Stored(std::mem::take(&mut stored_bytes))));
            }
        }
        Ok(pushed)
    };
    let ((), pushed) = futures::join!(batch.cut_all(file, segments, sealer), store);
    pushed
}

/// The database in whose name a file is stored.
async fn owned(
    repository: &Repository,
    asked: Option<&str>,
    (name, incarnation): (&str, &str),
) -> Result<String> {
    let owner = owner(repository, incarnation).await?;
    let owned = owner.as_ref().map(|owner| owner.commit.database.as_str());
    match (asked, owned) {
        (Some(asked), None) => Err(foreign(name, incarnation).with("database", asked)),
        (Some(asked), Some(owned)) if asked != owned => {
            Err(foreign(name, incarnation).with("database", asked).with("is of", owned))
        }
        (_, Some(owned)) => Ok(owned.to_owned()),
        (None, None) => Err(foreign(name, incarnation)),
    }
}

/// A file on its way into the repository.
struct Waiting {
    name: String,
    range: LogRange,
    bytes: Bytes,
    before: Option<Bytes>,
    origin: Option<Bytes>,
}

/// A segment that is being sealed, and the file that ends with it.
struct Sealing {
    sealed: JoinHandle<Result<SealedSegment>>,
    ends: Option<String>,
}

async fn origin_of(
    archive: &dyn LogArchive,
    name: &str,
    files: &dyn Files,
) -> Result<Option<Bytes>> {
    match archive.origin_name(name) {
        Some(name) => files.read(&name).await,
        None => Ok(None),
    }
}

/// Cuts a file on a CPU thread.
async fn cut(
    world: &World,
    mut cutter: Box<dyn LogCutter>,
    file: &Waiting,
) -> Result<(Box<dyn LogCutter>, Result<Vec<LogSegment>>)> {
    let (name, bytes) = (file.name.clone(), file.bytes.clone());
    let (before, origin) = (file.before.clone(), file.origin.clone());
    let job = move |_: &mut Scratch| {
        let segments = cutter.cut(LogFile { name: &name, bytes, before, origin });
        (cutter, segments)
    };
    world.cpu.run(job).await
}

/// What follows the file that was asked for.
struct Batch<'a> {
    world: &'a World,
    archive: &'a dyn LogArchive,
    files: &'a dyn Files,
    captured: CapturedLog<'a>,
    incarnation: String,
    cutter: Box<dyn LogCutter>,
    /// The file that was read while the one before was cut.
    read: Option<(String, Bytes)>,
    sender: mpsc::Sender<Sealing>,
}

impl Batch<'_> {
    /// Cuts and seals one file after the other, until none waits or the storing side is gone.
    async fn cut_all(
        mut self,
        mut file: Waiting,
        mut segments: Vec<LogSegment>,
        mut sealer: SegmentSealer,
    ) {
        let (mut count, mut left_bytes) = (1, BATCH_BYTES_MAX);
        loop {
            left_bytes = left_bytes.saturating_sub(file.bytes.len());
            let last = segments.len().saturating_sub(1);
            for (index, segment) in segments.into_iter().enumerate() {
                let sealed = tokio::spawn(sealer.seal(segment));
                let ends = (index == last).then(|| file.name.clone());
                if self.sender.send(Sealing { sealed, ends }).await.is_err() {
                    return;
                }
            }
            if count == BATCH_FILES_MAX || left_bytes < file.bytes.len() {
                return;
            }
            match self.next(&file).await {
                Ok(Some(next)) => (self, file, segments) = next,
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "the batch ends here"),
            }
            count += 1;
        }
    }

    /// The file behind one, if it waits and simply goes on from there.
    async fn next(mut self, file: &Waiting) -> Result<Option<(Self, Waiting, Vec<LogSegment>)>> {
        let length = file.bytes.len() as u64;
        let Some((name, bytes)) = (match self.read.take() {
            Some(read) => Some(read),
            None => self.read_after(&file.name, length).await?,
        }) else {
            return Ok(None);
        };
        let ArchivedFile::Log { incarnation, range } = self.archive.recognise(&name, &bytes)?
        else {
            return Ok(None);
        };
        let follows = range.start() == file.range.end() && incarnation == self.incarnation;
        if !follows || self.captured.may_hold(&range) || self.cutter.needs_before(range.start()) {
            return Ok(None);
        }
        let next = Waiting { name, range, bytes, before: None, origin: None };
        let cutter = std::mem::replace(&mut self.cutter, self.archive.cutter(None)?);
        let (cut, read) =
            futures::join!(cut(self.world, cutter, &next), self.read_after(&next.name, length));
        let (cutter, segments) = cut?;
        (self.cutter, self.read) = (cutter, read?);
        Ok(Some((self, next, segments?)))
    }

    async fn read_after(&self, name: &str, length_bytes: u64) -> Result<Option<(String, Bytes)>> {
        let Some(name) = self.archive.name_after(name, length_bytes) else { return Ok(None) };
        let marker = self.archive.waiting_name(&name);
        if !marker.is_some_and(|marker| self.files.exists(&marker)) {
            return Ok(None);
        }
        Ok(self.files.read(&name).await?.map(|bytes| (name, bytes)))
    }
}

/// The stretch before one, as long as it.
fn before(range: &LogRange) -> Option<LogRange> {
    let (start, length) = (range.start(), range.end().offset - range.start().offset);
    LogRange::new(start.at(start.offset.checked_sub(length)?), start.clone())
}

/// What a gap is recorded with.
fn reason(gap: &Error) -> String {
    let facts = gap.facts();
    let facts: Vec<_> = facts.iter().map(|(label, value)| format!("{label} {value}")).collect();
    let why = gap.reason().map_or_else(|| gap.to_string(), str::to_owned);
    if facts.is_empty() { why } else { format!("{why} ({})", facts.join(", ")) }
}

fn foreign(name: &str, incarnation: &str) -> Error {
    Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, STEP)
        .with("file", name)
        .with("system identifier", incarnation)
        .why("no backup of the database that wrote it is in the repository under this name")
        .next("take a backup first: stillpoint backup URL")
}
