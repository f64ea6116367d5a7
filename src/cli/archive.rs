//! `stillpoint wal-push`: log as a server's own archiver hands it over.
//!
//! Where more than one file waits, a process of its own stores them all, and each call returns
//! once the file that it was asked for is durable.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Clock, Engine, Error, ErrorKind, Result, code};

use super::{
    answer::Answer,
    open::{self, Need},
    page::{Page, printable},
    session::Session,
    spool::{FileState, Spool, start_ahead},
    units,
};
use crate::coordinator::{Files, Pushed, push};

/// The longest file of log that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// How often a call looks whether another process has stored its file.
const PAUSE: Duration = Duration::from_millis(2);

/// What `wal-push` is told.
#[derive(Debug, Args)]
pub(crate) struct PushOptions {
    /// The file to archive, %p in archive_command.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The name of the database in the repository [default: that of the backups of its cluster].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where calls leave notes for the ones after them [default: stillpoint.spool beside FILE].
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    spool: Option<PathBuf>,
    /// Store this file and all that wait behind it, for other calls.
    #[arg(long, hide = true)]
    ahead: bool,
}

#[derive(Debug, Serialize)]
struct PushAnswer {
    file: String,
    outcome: &'static str,
    stored_bytes: u64,
    why: Option<&'static str>,
}

impl Answer for PushAnswer {
    const SCHEMA: &'static str = "logs.push/1";

    fn write(&self, page: &mut Page<'_>) {
        let file = printable(&self.file);
        match self.why {
            Some(why) => page.line(format!("{file} need not be stored: {why}")),
            None => page.line(format!("{file}: {} stored", units::bytes(self.stored_bytes))),
        }
    }
}

pub(super) fn failed(step: &'static str, path: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        _ => ErrorKind::Missing,
    };
    Error::new(kind, code::FILE, step).with("file", path.display()).caused_by(cause)
}

/// The engine whose servers hand over files of log.
pub(super) fn engine(session: &Session) -> Result<Arc<dyn Engine>> {
    let found = session.engines.iter().find(|engine| engine.archive().is_some());
    found.cloned().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::USAGE, "archive log file by file")
            .why("this program was built without an engine that does so")
    })
}

/// The files beside the one that was asked for.
struct Beside {
    folder: PathBuf,
    spool: Spool,
    clock: Arc<dyn Clock>,
    states: Mutex<HashMap<String, FileState>>,
    /// Whether other files are looked for.
    is_ahead: bool,
}

impl Beside {
    fn state(&self, name: &str) -> Option<FileState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

/// A file's bytes, and its state if that was the same before and after.
fn read(path: &Path) -> io::Result<(Bytes, Option<FileState>)> {
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
    (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let (before, after) = (FileState::of(&before), FileState::of(&file.metadata()?));
    Ok((bytes.into(), (before == after).then_some(after)))
}

#[async_trait]
impl Files for Beside {
    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.folder.join(name);
        let reading = path.clone();
        let outcome = tokio::task::spawn_blocking(move || read(&reading)).await;
        match outcome.map_err(|cause| Error::bug("read a log file").caused_by(cause))? {
            Ok((bytes, state)) => {
                let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
                state.and_then(|state| states.insert(name.to_owned(), state));
                Ok(Some(bytes))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(failed("read a log file", &path, cause)),
        }
    }

    fn exists(&self, name: &str) -> bool {
        self.is_ahead && self.folder.join(name).exists()
    }

    fn stored(&self, name: &str) {
        if let Some(state) = self.state(name) {
            // Whoever finds no receipt asks the repository.
            let _ = self.spool.write_receipt(name, state, self.clock.now());
        }
    }
}

impl PushOptions {
    fn file_name(&self) -> &str {
        self.file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Where these calls leave notes for each other.
    fn spool(&self, session: &Session) -> Result<Spool> {
        spool(session, (self.spool.as_deref(), &self.file), self.name.as_deref())
    }
}

/// The spool for one repository and database: the one that was given, or beside a file.
pub(super) fn spool(
    session: &Session,
    (given, file): (Option<&Path>, &Path),
    name: Option<&str>,
) -> Result<Spool> {
    let beside = || file.with_file_name("stillpoint.spool");
    let folder = given.map_or_else(beside, Path::to_owned);
    Ok(Spool::new(&folder, &[session.place()?, name.unwrap_or_default()]))
}

/// Tells what became of a file; of one that another process stored, no more is known.
fn tell(session: &Session, file: &str, pushed: Option<&Pushed>) -> Result<()> {
    let (outcome, stored_bytes, why) = match pushed {
        None => ("stored", 0, Some("it was stored together with others")),
        Some(Pushed::Stored(bytes)) => ("stored", *bytes, None),
        Some(Pushed::Known) => ("known", 0, Some("it is stored already, and the same")),
        Some(Pushed::Beside(why)) => ("beside", 0, Some(*why)),
    };
    session.answer(&PushAnswer { file: file.to_owned(), outcome, stored_bytes, why })
}

/// Whether a note says that the file is stored; tells so.
pub(crate) fn is_noted(session: &Session, options: &PushOptions) -> bool {
    let name = options.file_name();
    let (false, Ok(spool), Ok(metadata)) =
        (options.ahead, options.spool(session), fs::metadata(&options.file))
    else {
        return false;
    };
    spool.take_receipt(name, FileState::of(&metadata), session.world.clock.now())
        && tell(session, name, None).is_ok()
}

/// Archives one file.
pub(crate) async fn run_push(session: &Session, options: PushOptions) -> Result<()> {
    let path = &options.file;
    let name = options.file_name();
    let folder = path.with_file_name("");
    let spool = options.spool(session)?;
    if options.ahead {
        return push_ahead(session, &options, (name, folder), spool).await;
    }
    if wait_for_receipt(session, (path, name), &spool).await? {
        return tell(session, name, None);
    }
    // Without a spool, as on a disk that is full, each call works for itself.
    let lock = loop {
        match spool.lock() {
            Ok(None) => session.world.clock.sleep(PAUSE).await,
            lock => break lock,
        }
    };
    let pushed = store(session, &options, (name, folder), spool).await;
    drop(lock);
    tell(session, name, Some(&pushed?))
}

/// Stores a file and those that wait behind it, while holding the spool's lock.
async fn store(
    session: &Session,
    options: &PushOptions,
    (name, folder): (&str, PathBuf),
    spool: Spool,
) -> Result<Pushed> {
    let clock = Arc::clone(&session.world.clock);
    let files = Beside {
        folder,
        spool: spool.clone(),
        clock,
        states: Mutex::default(),
        is_ahead: options.ahead,
    };
    let engine = engine(session)?;
    let repository = open::repository(session, Need::Content).await?;
    let database = options.name.as_deref();
    let pushed = push(&session.world, &repository, &*engine, database, name, &files).await?;
    let own = pushed.into_iter().find(|(pushed, _)| pushed == name);
    let (_, own) = own.ok_or_else(|| Error::bug("store a file that was asked for"))?;
    if !options.ahead {
        // It is answered at once and needs none.
        if let Some(state) = files.state(name) {
            spool.take_receipt(name, state, session.world.clock.now());
        }
    }
    Ok(own)
}

/// Works for the calls that wait. What goes wrong is found again, and told, by who asks for it.
async fn push_ahead(
    session: &Session,
    options: &PushOptions,
    (name, folder): (&str, PathBuf),
    spool: Spool,
) -> Result<()> {
    let Ok(Some(lock)) = spool.lock() else { return Ok(()) };
    if let Err(error) = store(session, options, (name, folder), spool).await {
        tracing::debug!(%error, "nothing was stored ahead");
    }
    drop(lock);
    Ok(())
}

/// Whether another process has stored the file, or does so while we wait. Starts one when more
/// files wait.
async fn wait_for_receipt(
    session: &Session,
    (path, name): (&Path, &str),
    spool: &Spool,
) -> Result<bool> {
    let metadata = fs::metadata(path).map_err(|cause| failed("read a log file", path, cause))?;
    let clock = &session.world.clock;
    let state = FileState::of(&metadata);
    let is_stored = || spool.take_receipt(name, state, clock.now());
    if is_stored() {
        return Ok(true);
    }
    let engine = engine(session)?;
    let archive = engine.archive();
    let next = archive.and_then(|a| a.waiting_name(&a.name_after(name, metadata.len())?));
    let more_wait = next.is_some_and(|marker| path.with_file_name(marker).exists());
    let mut child = match spool.lock() {
        Ok(Some(lock)) if more_wait => {
            drop(lock);
            start_ahead().ok()
        }
        _ => None,
    };
    loop {
        if is_stored() {
            return Ok(true);
        }
        let is_alive = match &mut child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => matches!(spool.lock(), Ok(None)),
        };
        if !is_alive {
            return Ok(is_stored());
        }
        clock.sleep(PAUSE).await;
    }
}
