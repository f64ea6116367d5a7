//! `stillpoint wal-get`: log as a server asks for it while it replays.
//!
//! After the first file, a process of its own fetches those that will be asked for next, so that
//! each call finds its file in the spool.

use std::{
    collections::VecDeque,
    iter::successors,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Engine, Error, ErrorKind, Result, code};

use super::{
    archive::{self, engine, failed},
    exit,
    open::{self, Need, Opened},
    session::Session,
    spool::{Request, Spool, place, start_ahead},
};
use crate::coordinator::Fetcher;

/// How many files are kept ahead of a server that replays, and how many bytes of them.
const AHEAD_FILES_MAX: usize = 16;
const AHEAD_BYTES_MAX: usize = 256 << 20;

/// Files that are fetched at once, and before it is looked again for what the server wants.
const AT_ONCE_MAX: usize = 2;
const ROUND_FILES_MAX: usize = 8;

/// How far the process that works ahead gives way to others.
const NICENESS: i32 = 10;

/// How often the process that works ahead looks whether files were taken.
const PAUSE: Duration = Duration::from_millis(5);

/// How long it waits for the server to take one before it ends.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// How long a call waits for a file that is being fetched ahead before it fetches it itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// The exit status that says to a server: there is no such file.
const NO_SUCH_FILE: u8 = 1;

/// The exit status that makes a server stop replaying, instead of taking the log for ended.
pub(crate) const GIVE_UP: u8 = 126;

/// What `wal-get` is told.
#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// The name of the file, %f in restore_command.
    #[arg(value_name = "FILE")]
    file: String,
    /// Where to put it, %p in restore_command.
    #[arg(value_name = "TARGET", value_hint = clap::ValueHint::FilePath)]
    target: PathBuf,
    /// The name of the database in the repository [default: the only one with such log].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where files wait that will be asked for next [default: stillpoint.spool beside TARGET].
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    spool: Option<PathBuf>,
    /// Fetch what follows, for other calls.
    #[arg(long, hide = true)]
    ahead: bool,
}

impl GetOptions {
    /// Where files wait for these calls.
    fn spool(&self, session: &Session) -> Result<Spool> {
        archive::spool(session, (self.spool.as_deref(), &self.target), self.name.as_deref())
    }
}

/// Takes the file, if it waits already.
pub(crate) fn take(session: &Session, options: &GetOptions) -> bool {
    let spool = options.spool(session);
    !options.ahead && spool.is_ok_and(|spool| spool.take(&options.file, &options.target))
}

/// Fetches one file, and lets those be fetched that will be asked for next. Returns the exit
/// status.
pub(crate) async fn run_get(session: &Session, options: GetOptions) -> Result<u8> {
    let spool = options.spool(session)?;
    let GetOptions { file, target, name, ahead, .. } = options;
    let is_name = !file.is_empty() && !file.contains(['/', '\0']);
    if !is_name {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "read the name of a log file")
            .with("given", file));
    }
    if ahead {
        return Ok(fetch_ahead(session, name.as_deref(), &spool).await);
    }
    if wait_for_file(session, &spool, &file, &target).await {
        return Ok(0);
    }
    let engine = engine(session)?;
    let repository = open::repository(session, Need::Content).await?;
    let fetcher = fetcher(&repository, &*engine, name.as_deref()).await?;
    let Some(fetched) = fetcher.fetch(&file).await? else { return Ok(NO_SUCH_FILE) };
    place(&target, &fetched.bytes).map_err(|cause| failed("write a log file", &target, cause))?;
    // Without a spool every file is fetched when it is asked for.
    if fetched.is_whole
        && fetcher.name_after(&file, &fetched).is_some()
        && spool.write_request(&Request::new(&file, fetched.bytes.len())).is_ok()
        && let Ok(Some(lock)) = spool.lock()
    {
        drop(lock);
        let _ = start_ahead();
    }
    Ok(0)
}

/// Waits a moment for a file that the process that works ahead has announced.
async fn wait_for_file(session: &Session, spool: &Spool, file: &str, target: &Path) -> bool {
    let clock = &session.world.clock;
    let until = clock.elapsed() + PATIENCE;
    while spool.is_announced(file) && matches!(spool.lock(), Ok(None)) && clock.elapsed() < until {
        if spool.take(file, target) {
            return true;
        }
        clock.sleep(Duration::from_millis(1)).await;
    }
    spool.take(file, target)
}

/// Reads files of the database that is meant.
async fn fetcher<'a>(
    repository: &'a Opened,
    engine: &'a dyn Engine,
    name: Option<&str>,
) -> Result<Fetcher<'a>> {
    let database = match name {
        Some(name) => name.to_owned(),
        None => only_database(repository, engine).await?,
    };
    Fetcher::new(repository, engine, &database).await
}

/// Keeps files in the spool for as long as somebody takes them. Whatever goes wrong is found
/// again, and told, by who asks for the file.
async fn fetch_ahead(session: &Session, name: Option<&str>, spool: &Spool) -> u8 {
    let Ok(Some(lock)) = spool.lock() else { return exit::OK };
    // The server that replays, and the call that it waits for, come first.
    let _ = rustix::process::nice(NICENESS);
    spool.clear_files();
    if let Err(error) = follow(session, name, spool).await {
        tracing::debug!(%error, "nothing more is fetched ahead");
    }
    spool.clear_files();
    drop(lock);
    exit::OK
}

async fn follow(session: &Session, name: Option<&str>, spool: &Spool) -> Result<()> {
    let clock = &session.world.clock;
    let engine = engine(session)?;
    let repository = open::repository(session, Need::Content).await?;
    let mut fetcher = None;
    let mut ahead = Ahead::default();
    let mut used_at = clock.elapsed();
    while clock.elapsed() < used_at + IDLE_MAX && spool.exists() {
        let request = spool.read_request();
        if request != ahead.request {
            // What was stored since we looked is meant as well.
            fetcher = Some(self::fetcher(&repository, &*engine, name).await?);
            ahead.begin(request, &*engine, spool);
            used_at = clock.elapsed();
        }
        if ahead.forget_taken(spool) {
            used_at = clock.elapsed();
        }
        let (wanted, Some(fetcher)) = (ahead.wanted(&*engine), &fetcher) else { return Ok(()) };
        if wanted.is_empty() {
            if ahead.is_over() {
                return Ok(());
            }
            clock.sleep(PAUSE).await;
            continue;
        }
        // Who finds no announcement fetches for itself.
        let _ = spool.announce(&wanted);
        let kept = stream::iter(wanted).map(|name| keep(fetcher, spool, name));
        let mut kept = kept.buffered(AT_ONCE_MAX);
        while let Some((name, length, next)) = kept.try_next().await? {
            ahead.next = next;
            if length == 0 {
                break;
            }
            ahead.kept.push_back((name, length));
        }
    }
    Ok(())
}

/// Fetches a file into the spool. Returns its name and length, 0 if all of it is not there yet, and
/// which follows.
async fn keep(
    fetcher: &Fetcher<'_>,
    spool: &Spool,
    name: String,
) -> Result<(String, usize, Option<String>)> {
    let Some(file) = fetcher.fetch(&name).await?.filter(|file| file.is_whole) else {
        return Ok((name, 0, None));
    };
    let (length, next) = (file.bytes.len(), fetcher.name_after(&name, &file));
    let (spool, kept) = (spool.clone(), name.clone());
    let put = tokio::task::spawn_blocking(move || spool.put(&kept, &file.bytes)).await;
    put.map_err(|cause| Error::bug("fill the spool").caused_by(cause))?
        .map_err(|cause| failed("fill the spool", Path::new(&name), cause))?;
    Ok((name, length, next))
}

/// How far the files in the spool reach.
#[derive(Debug, Default)]
struct Ahead {
    request: Option<Request>,
    next: Option<String>,
    length_bytes: u64,
    kept: VecDeque<(String, usize)>,
}

impl Ahead {
    /// Goes on behind another file.
    fn begin(&mut self, request: Option<Request>, engine: &dyn Engine, spool: &Spool) {
        self.kept.drain(..).for_each(|(name, _)| spool.remove(&name));
        self.length_bytes = request.as_ref().map_or(0, |request| request.length_bytes);
        self.next = request.as_ref().and_then(|request| self.after(engine, &request.name));
        self.request = request;
    }

    fn after(&self, engine: &dyn Engine, name: &str) -> Option<String> {
        engine.archive()?.name_after(name, self.length_bytes)
    }

    /// Forgets what was taken, and what the server did not take before that.
    fn forget_taken(&mut self, spool: &Spool) -> bool {
        let names = spool.names();
        let taken = self.kept.iter().rposition(|(name, _)| !names.contains(name));
        let count = taken.map_or(0, |index| index + 1);
        self.kept.drain(..count).for_each(|(name, _)| spool.remove(&name));
        count > 0
    }

    /// What is fetched next, as far as there is room for it.
    fn wanted(&self, engine: &dyn Engine) -> Vec<String> {
        let kept_bytes: usize = self.kept.iter().map(|(_, length)| length).sum();
        let length = usize::try_from(self.length_bytes).unwrap_or(usize::MAX).max(1);
        let room = AHEAD_BYTES_MAX.saturating_sub(kept_bytes) / length;
        let room = room.min(AHEAD_FILES_MAX.saturating_sub(self.kept.len())).min(ROUND_FILES_MAX);
        let names = successors(self.next.clone(), |name| self.after(engine, name));
        names.take(room).collect()
    }

    fn is_over(&self) -> bool {
        self.next.is_none() && self.kept.is_empty()
    }
}

async fn only_database(repository: &Opened, engine: &dyn Engine) -> Result<String> {
    let history = repository.history().await?;
    let ours = history.live().into_iter().filter(|c| c.commit.engine == engine.name());
    let mut names: Vec<String> = ours.map(|c| c.commit.database.clone()).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => Err(Error::new(ErrorKind::Invalid, code::USAGE, "tell whose log is meant")
            .with("known", names.join(", "))
            .next("give --name NAME")),
    }
}
