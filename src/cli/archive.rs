//! `stillpoint wal-push` and `wal-get`: log as a server's own archiver hands it over, and as a
//! server that replays asks for it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Engine, Error, ErrorKind, Result, code};

use super::{
    answer::Answer,
    open::{self, Need},
    page::{Page, printable},
    session::Session,
    units,
};
use crate::coordinator::{Fetcher, Pushed, push};

/// The longest file of log that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// How many files are fetched ahead of a server that replays, and how many bytes of them.
const AHEAD_FILES_MAX: usize = 8;
const AHEAD_BYTES_MAX: usize = 256 << 20;

/// The exit status that says to a server: there is no such file.
const NO_SUCH_FILE: u8 = 1;

/// The exit status that makes a server stop replaying, instead of taking the log for ended.
pub(crate) const GIVE_UP: u8 = 126;

/// What `wal-push` is told.
#[derive(Debug, Args)]
pub(crate) struct PushOptions {
    /// The file to archive, %p in archive_command.
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// The name of the database in the repository [default: that of the backups of its cluster].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

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

fn failed(step: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::new(ErrorKind::Missing, code::FILE, step).with("file", path.display()).caused_by(cause)
}

fn read(path: &Path) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// The engine whose servers hand over files of log.
fn engine(session: &Session) -> Result<Arc<dyn Engine>> {
    let found = session.engines.iter().find(|engine| engine.archive().is_some());
    found.cloned().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::USAGE, "archive log file by file")
            .why("this program was built without an engine that does so")
    })
}

/// Archives one file.
pub(crate) async fn run_push(session: &Session, options: PushOptions) -> Result<()> {
    let path = &options.file;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let bytes = read(path).map_err(|cause| failed("read a log file", path, cause))?;
    let beside = |name: &str| match read(&path.with_file_name(name)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|cause| failed("read a log file", path, cause)),
    };
    let engine = engine(session)?;
    let repository = open::repository(session, Need::Content).await?;
    let database = options.name.as_deref();
    let pushed = push(&session.world, &repository, &*engine, database, (&name, bytes), beside);
    let (outcome, stored_bytes, why) = match pushed.await? {
        Pushed::Stored(bytes) => ("stored", bytes, None),
        Pushed::Known => ("known", 0, Some("it is stored already, and the same")),
        Pushed::Beside(why) => ("beside", 0, Some(why)),
    };
    session.answer(&PushAnswer { file: name, outcome, stored_bytes, why })
}

/// Fetches one file, and those that will be asked for next. Returns the exit status.
pub(crate) async fn run_get(session: &Session, options: GetOptions) -> Result<u8> {
    let GetOptions { file, target, name, spool } = options;
    let is_name = !file.is_empty() && !file.contains(['/', '\0']);
    if !is_name {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "read the name of a log file")
            .with("given", file));
    }
    let spool = Spool(spool.unwrap_or_else(|| target.with_file_name("stillpoint.spool")));
    let put = |bytes: &[u8]| {
        place(&target, bytes).map_err(|cause| failed("write a log file", &target, cause))
    };
    if let Some(bytes) = spool.take(&file) {
        put(&bytes)?;
        return Ok(0);
    }
    spool.clean();
    let engine = engine(session)?;
    let repository = open::repository(session, Need::Content).await?;
    let database = match name {
        Some(name) => name,
        None => only_database(&repository, &*engine).await?,
    };
    let fetcher = Fetcher::new(&repository, &*engine, &database).await?;
    let Some(fetched) = fetcher.fetch(&file).await? else { return Ok(NO_SUCH_FILE) };
    put(&fetched.bytes)?;
    let (mut next, mut ahead_bytes) = (fetcher.name_after(&file), 0);
    for _ in 0..AHEAD_FILES_MAX {
        let Some(name) = next.filter(|_| fetched.is_whole) else { break };
        // What fails ahead of time is told when it is asked for.
        let Ok(Some(ahead)) = fetcher.fetch(&name).await else { break };
        ahead_bytes += ahead.bytes.len();
        let is_kept = ahead.is_whole && ahead_bytes <= AHEAD_BYTES_MAX;
        if !is_kept || spool.put(&name, &ahead.bytes).is_err() {
            break;
        }
        next = fetcher.name_after(&name);
    }
    Ok(0)
}

async fn only_database(
    repository: &crate::repository::Repository,
    engine: &dyn Engine,
) -> Result<String> {
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

/// Puts a file in its place, whole or not at all.
fn place(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".stillpoint");
    let new = target.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, target)?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Files that will be asked for next. Each bears the hash of its bytes in its name.
struct Spool(PathBuf);

impl Spool {
    fn path(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.0.join(format!("{name}.{}", blake3::hash(bytes).to_hex()))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        place(&self.path(name, bytes), bytes)
    }

    /// The file of that name, if it is there and as it was written; it is gone then.
    fn take(&self, name: &str) -> Option<Bytes> {
        for entry in fs::read_dir(&self.0).ok()?.flatten() {
            let path = entry.path();
            let is_it = path.file_stem().is_some_and(|stem| stem == name);
            if !is_it {
                continue;
            }
            let bytes = read(&path).ok();
            // What is lost here is fetched again.
            let _ = fs::remove_file(&path);
            if let Some(bytes) = bytes.filter(|bytes| self.path(name, bytes) == path) {
                return Some(bytes);
            }
        }
        None
    }

    /// Removes what was fetched for a server that went another way, and halves of files.
    fn clean(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_hands_over_what_it_was_given_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool(folder.path().join("spool"));
        assert_eq!(spool.take("1"), None);
        spool.put("1", b"one").unwrap();
        spool.put("2", b"two").unwrap();
        assert_eq!(spool.take("1").as_deref(), Some(&b"one"[..]));
        assert_eq!(spool.take("1"), None);
        fs::write(spool.path("2", b"two"), b"tw0").unwrap();
        assert_eq!(spool.take("2"), None);
        spool.put("3", b"three").unwrap();
        spool.clean();
        assert_eq!(fs::read_dir(&spool.0).unwrap().count(), 0);
    }
}
