//! Pick-up: files that an application left in a folder, taken into the repository as backups of the
//! database that they are of.
//!
//! The folder is asked, and nothing else: on a shared drive there are neither locks nor notices to
//! rely on. A file is taken when its marker says that it is complete, when it stood still between
//! two looks and while it was copied, and when the copy is what the marker says and a complete
//! database. Nothing that the application left is changed or removed.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, SubsecRound as _, Utc};
use stillpoint_contract::{Endpoint, Engine, Error, ErrorKind, Identity, Result, code};

use super::{
    backup::{BackupJob, StandsFor, back_up_as},
    outbox::{HandedFile, copy_file, failed, patiently, settle},
    owner::Successor,
    scratch::{Scratch, ScratchPlace},
};
use crate::{
    pipeline::Meter,
    repository::{Repository, WriteOptions, history::Committed},
    world::World,
};

/// How an endpoint begins that is a folder in which files are left.
pub const PICKUP_SCHEME: &str = "pickup:";

/// What is put beside a file that is complete.
const READY: &str = ".ready";
/// What is put there by us once it was taken.
const DONE: &str = ".done";

/// How long a file stands still before it is taken.
const STILL: Duration = Duration::from_secs(1);

/// The longest marker that is read; of a longer one, the beginning.
const MARKER_BYTES_MAX: u64 = 4 << 10;

/// Files that are taken in one run, the oldest first.
const FILES_MAX: usize = 1_000;

/// Where files are left, and for which database.
#[derive(Debug)]
pub struct PickUp<'a> {
    /// The engine whose databases they are.
    pub engine: &'a dyn Engine,
    /// The folder.
    pub folder: &'a Path,
    /// The database's name.
    pub database: &'a str,
    /// Which other folder may give it from now on.
    pub successor: Successor<'a>,
    /// Where copies are made.
    pub scratch: &'a ScratchPlace,
    /// The digest of the configuration by which they are taken.
    pub configuration: Option<&'a str>,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Its name.
    pub name: String,
    /// The backup, if it was taken.
    pub backup: Option<String>,
    /// Why it was not.
    pub problem: Option<String>,
}

/// What tells whether a file is the same and as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

impl Look {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = patiently(|| fs::symlink_metadata(path))?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let inode = (metadata.dev(), metadata.ino());
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { inode, bytes: metadata.len(), changed })
    }

    /// When it was last written to.
    fn time(&self) -> DateTime<Utc> {
        let nanoseconds = u32::try_from(self.changed.1).unwrap_or_default();
        DateTime::from_timestamp(self.changed.0, nanoseconds).unwrap_or_default().trunc_subsecs(6)
    }
}

/// A file that its marker says is complete.
#[derive(Clone, Debug)]
struct Left {
    name: String,
    path: PathBuf,
    dump: Look,
    marker: Look,
}

/// Takes every file that is complete and was not taken yet, the oldest first. A file that cannot be
/// taken keeps no other from it.
///
/// # Errors
///
/// What keeps the folder or the repository from being used.
pub async fn pick_up(
    world: &World,
    repository: &Repository,
    job: &PickUp<'_>,
    meter: &Arc<Meter>,
) -> Result<Vec<Dump>> {
    let before = look(job.folder).await?;
    if before.is_empty() {
        return Ok(Vec::new());
    }
    world.clock.sleep(STILL).await;
    let after = look(job.folder).await?;
    let mut dumps = Vec::new();
    for left in after.into_iter().take(FILES_MAX) {
        let stood = before
            .iter()
            .any(|one| one.name == left.name && (one.dump, one.marker) == (left.dump, left.marker));
        let mut dump = Dump { name: left.name.clone(), backup: None, problem: None };
        if !stood {
            dump.problem = Some("it was still written to; the next run looks again".to_owned());
            dumps.push(dump);
            continue;
        }
        match Box::pin(take(world, repository, job, &left, meter)).await {
            Ok(backup) => dump.backup = Some(backup),
            Err(error) if is_about_file(&error) => dump.problem = Some(told(&error)),
            Err(error) => return Err(error.with("file", left.path.display())),
        }
        dumps.push(dump);
    }
    Ok(dumps)
}

fn is_about_file(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported)
        || [code::NOT_A_DATABASE, code::SOURCE_VANISHED].contains(&error.code())
}

fn told(error: &Error) -> String {
    let mut text = format!("could not {error}");
    if let Some(why) = error.reason() {
        text = format!("{text}: {why}");
    }
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

/// Files with markers that were not taken since.
async fn look(folder: &Path) -> Result<Vec<Left>> {
    let folder = folder.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let names = patiently(|| {
            let names = fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name()));
            names.collect::<io::Result<Vec<_>>>()
        });
        let names = names.map_err(|cause| failed("list", &folder, cause))?;
        let mut left = Vec::new();
        for marker in names.into_iter().filter_map(|name| name.into_string().ok()) {
            let Some(name) = marker.strip_suffix(READY) else { continue };
            if name.is_empty() || name.starts_with('.') {
                continue;
            }
            let path = folder.join(name);
            // What goes meanwhile is not there.
            let Ok(marker) = Look::at(&folder.join(&marker)) else { continue };
            let Ok(dump) = Look::at(&path) else { continue };
            let done = Look::at(&folder.join(format!("{name}{DONE}")));
            let is_taken = done.is_ok_and(|done| marker.changed <= done.changed);
            // A marker is put there when the file is complete.
            if !is_taken && dump.changed <= marker.changed {
                left.push(Left { name: name.to_owned(), path, dump, marker });
            }
        }
        left.sort_by(|a, b| (a.dump.changed, &a.name).cmp(&(b.dump.changed, &b.name)));
        Ok(left)
    });
    looked.await.unwrap_or_else(|cause| Err(Error::bug("look into a folder").caused_by(cause)))
}

/// Takes one file. Returns the backup.
async fn take(
    world: &World,
    repository: &Repository,
    job: &PickUp<'_>,
    left: &Left,
    meter: &Arc<Meter>,
) -> Result<String> {
    let scratch = job.scratch.create(world)?;
    let taken = take_into(world, repository, (job, &scratch), left, meter).await;
    let removed = tokio::task::spawn_blocking(move || scratch.remove()).await;
    removed.unwrap_or_else(|cause| Err(Error::bug("remove a sandbox").caused_by(cause)))?;
    let committed = taken?;
    meter.begin("verify", committed.commit.size_bytes);
    let report = repository.verify_backup(&committed, meter).await?;
    repository.prove(&committed, &report).await?;
    let backup = committed.commit.backup;
    if let Some(first) = report.problems.first() {
        return Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read the backup back")
            .with("backup", &backup)
            .with("object", &first.object)
            .with("found", &first.what));
    }
    let (path, said) = (left.path.clone(), backup.clone());
    let mut random = [0; 6];
    world.entropy.fill(&mut random);
    let random = data_encoding::HEXLOWER.encode(&random);
    let marked = tokio::task::spawn_blocking(move || mark_done(&path, &said, &random));
    marked.await.unwrap_or_else(|cause| Err(Error::bug("mark a file").caused_by(cause)))?;
    tracing::info!(event = "pickup.taken", database = job.database, file = left.name, backup);
    Ok(backup)
}

async fn take_into(
    world: &World,
    repository: &Repository,
    (job, scratch): (&PickUp<'_>, &Scratch),
    left: &Left,
    meter: &Arc<Meter>,
) -> Result<Committed> {
    let copy = scratch.database();
    meter.begin("pick up", left.dump.bytes);
    let copied = copy_file(world, (&left.path, &copy), meter).await?;
    check_same(left, &copied)?;
    let check = job.engine.check_dump(&left.path, &copy).await?;
    tracing::debug!(event = "pickup.checked", file = left.name, check);
    // Whoever was killed before the file was marked has its backup already.
    let task = format!("pickup {} {} {}", left.dump.time(), left.name, copied.blake3);
    let task = task[..task.floor_char_boundary(TASK_BYTES_MAX)].to_owned();
    let history = repository.history().await?;
    if let Some(made) = history.made_for(job.database, Some(&task)) {
        return Ok(made.clone());
    }
    let scheme = job.engine.schemes().first().copied().unwrap_or(job.engine.name());
    let endpoint = Endpoint {
        scheme: scheme.to_owned(),
        address: copy.display().to_string(),
        settings: std::collections::BTreeMap::new(),
    };
    let stands_for = StandsFor {
        identity: Identity {
            id: format!("pickup:{}", job.database),
            location: job.folder.display().to_string(),
        },
        at: left.dump.time().min(world.clock.now()),
    };
    let job = BackupJob {
        engine: job.engine,
        endpoint: &endpoint,
        database: job.database,
        full: true,
        successor: job.successor,
        streams_max: std::num::NonZeroUsize::MIN,
        options: WriteOptions::default(),
        task: Some(&task),
        configuration: job.configuration,
    };
    let report = back_up_as(world, repository, (job, Some(&stands_for)), meter).await?;
    Ok(report.committed)
}

/// The longest word for what a backup was made for.
const TASK_BYTES_MAX: usize = 300;

/// Refuses what changed while it was copied, and what is not what its marker says.
fn check_same(left: &Left, copied: &HandedFile) -> Result<()> {
    let marker = {
        let mut path = left.path.clone().into_os_string();
        path.push(READY);
        PathBuf::from(path)
    };
    let refused = |why: String| {
        let step = format!("take {} as it was left", left.path.display());
        Err(Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, step).why(why))
    };
    let is_same = Look::at(&left.path).is_ok_and(|now| now == left.dump)
        && Look::at(&marker).is_ok_and(|now| now == left.marker)
        && copied.bytes == left.dump.bytes;
    if !is_same {
        return refused("it was written to while it was copied".to_owned());
    }
    let said = patiently(|| {
        let mut said = Vec::new();
        File::open(&marker)?.take(MARKER_BYTES_MAX).read_to_end(&mut said)?;
        Ok(said)
    });
    let said = said.map_err(|cause| failed("read", &marker, cause))?;
    match hash_in(&said) {
        Some(hash) if hash != copied.blake3 && hash != copied.sha256 => {
            refused(format!("its marker says {hash}, which is neither its SHA-256 nor its BLAKE3"))
        }
        _ => Ok(()),
    }
}

/// The hash that a marker begins with, as `sha256sum` and `b3sum` print it, if it does.
fn hash_in(said: &[u8]) -> Option<String> {
    let word = std::str::from_utf8(said).ok()?.split_whitespace().next()?;
    let is_hash = word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| word.to_ascii_lowercase())
}

/// Tells the application that a file was taken, and as which backup.
fn mark_done(path: &Path, backup: &str, random: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().display().to_string();
    let (soon, done) =
        (folder.join(format!(".{name}.{random}{DONE}")), folder.join(format!("{name}{DONE}")));
    let mark = || {
        let mut file = File::options().write(true).create_new(true).open(&soon)?;
        file.write_all(format!("{backup}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&soon, &done)
    };
    mark().map_err(|cause| failed("write", &done, cause))?;
    settle(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_may_say_a_hash() {
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(hash_in(format!("{hash}  app.db\n").as_bytes()), Some(hash.clone()));
        assert_eq!(hash_in(hash.to_uppercase().as_bytes()), Some(hash.clone()));
        assert_eq!(hash_in(b""), None);
        assert_eq!(hash_in(b"complete"), None);
        assert_eq!(hash_in(&hash.as_bytes()[1..]), None);
    }
}
