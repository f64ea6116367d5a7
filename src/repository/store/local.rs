//! Objects as files below one directory, on a local disk or a network share.
//!
//! An object is written under `tmp/` with a name that no [`Key`] can have, synced, and only then
//! given its final name, so nobody ever sees half of it.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::HEXLOWER;
use rustix::io::Errno;
use stillpoint_contract::{Clock, Entropy, Error, ErrorKind, Result, code};
use tokio::sync::Semaphore;

use super::{
    Deleted, Fs, Key, Listed, Node, Put, RealFs, Store, Writers,
    fs::is_absence,
    object::{Listing, longer_than},
};

/// File operations under way at once; each holds one object in memory and one thread.
const OPERATIONS_MAX: usize = 16;

/// Directories remembered as durable. Forgetting them costs a few syncs, nothing else.
const ESTABLISHED_MAX: usize = 4096;

/// How long an unfinished file is left alone: no write of one object takes that long.
const UNFINISHED_AGE_MAX: TimeDelta = TimeDelta::days(1);

/// Where unfinished files live.
const UNFINISHED: &str = "tmp";

/// Not allowed in a [`Key`], so unfinished files can be neither listed nor read nor named.
const UNFINISHED_MARK: char = '+';

/// A store in a directory.
///
/// `create` publishes with a hard link, or with `RENAME_NOREPLACE` where the file system has no
/// hard links: both are atomic and fail when the name is taken. Where it has neither, `create` is
/// refused with [`SINGLE_WRITER`](code::SINGLE_WRITER), unless the store was opened for
/// [`Writers::Single`].
#[derive(Debug)]
pub struct LocalStore<F = RealFs> {
    files: Arc<Files<F>>,
    permits: Arc<Semaphore>,
}

impl<F: Fs> LocalStore<F> {
    /// A store below `root`, which the first `create` makes.
    ///
    /// Files that killed writers left unfinished more than a day ago are removed on the way, as
    /// far as that is possible.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when `root` is no path.
    pub async fn open(
        fs: F,
        root: &Path,
        writers: Writers,
        clock: &dyn Clock,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|cause| {
            Error::new(ErrorKind::Invalid, code::USAGE, "find the directory of a store")
                .with("path", root.display())
                .caused_by(cause)
        })?;
        let files = Files { fs, root, writers, entropy, established: Mutex::default() };
        let permits = Arc::new(Semaphore::new(OPERATIONS_MAX));
        let store = Self { files: Arc::new(files), permits };
        let now = clock.now();
        store
            .run(move |files| {
                files.sweep_unfinished(now);
                Ok(())
            })
            .await?;
        Ok(store)
    }

    /// Runs file work off the runtime. Once begun it runs to its end even if the caller goes away.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files<F>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("nobody closes this semaphore");
        let files = Arc::clone(&self.files);
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&files)
        });
        running.await.unwrap_or_else(|cause| {
            let (kind, code) = if cause.is_cancelled() {
                (ErrorKind::Interrupted, code::INTERRUPTED)
            } else {
                (ErrorKind::Bug, code::BUG)
            };
            Err(Error::new(kind, code, "finish a file operation").caused_by(cause))
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<F: Fs> Store for LocalStore<F> {
    fn location(&self) -> String {
        self.files.root.display().to_string()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        let key = key.clone();
        self.run(move |files| files.create(&key, &bytes)).await
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        let key = key.clone();
        self.run(move |files| {
            let bytes = files.read(&key, 0..limit_bytes.saturating_add(1))?;
            match bytes {
                Some(bytes) if bytes.len() as u64 > limit_bytes => {
                    Err(longer_than(&key, limit_bytes))
                }
                found => Ok(found),
            }
        })
        .await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let key = key.clone();
        self.run(move |files| files.read(&key, range)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let prefix = prefix.to_owned();
        self.run(move |files| files.list(&prefix)).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.run(Files::top).await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        let key = key.clone();
        self.run(move |files| files.delete(&key)).await
    }
}

/// The blocking half of the store.
#[derive(Debug)]
struct Files<F> {
    fs: F,
    root: PathBuf,
    writers: Writers,
    entropy: Arc<dyn Entropy>,
    /// Directories whose whole chain of names, up to the root's, is known to be durable.
    established: Mutex<HashSet<PathBuf>>,
}

impl<F: Fs> Files<F> {
    fn create(&self, key: &Key, bytes: &[u8]) -> Result<Put> {
        let path = self.path(key);
        let draft = self.draft();
        let put = self.write(&draft, bytes).and_then(|()| self.publish(&draft, &path));
        // Whatever happened, the draft has done its work; should it stay, a later sweep finds it.
        let _ = self.fs.unlink(&draft);
        let failed = |cause| failure(cause, format!("write {key}"), &path, &self.root);
        let put = put.map_err(failed)?;
        // Also when the name was taken: whoever took it may have died before this step, and our
        // caller relies on the object all the same.
        self.fs.sync_directory(directory(&path)).map_err(failed)?;
        let is_object = put == Put::Created || self.read(key, 0..0)?.is_some();
        if !is_object && self.fs.entries(&path).is_ok() {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, format!("write {key}"))
                .with("path", path.display())
                .why("a directory has that name"));
        }
        Ok(put)
    }

    fn write(&self, draft: &Path, bytes: &[u8]) -> io::Result<()> {
        self.establish(directory(draft))?;
        self.fs.write_new(draft, bytes)
    }

    /// Gives the finished file its name, unless that is taken.
    fn publish(&self, draft: &Path, path: &Path) -> io::Result<Put> {
        self.establish(directory(path))?;
        match self.link_or_rename(draft, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody removed a directory that we had made; make it again, once.
                self.established().clear();
                self.establish(directory(path))?;
                self.link_or_rename(draft, path)
            }
            done => done,
        }
    }

    fn link_or_rename(&self, draft: &Path, path: &Path) -> io::Result<Put> {
        match self.fs.link(draft, path) {
            Ok(()) => Ok(Put::Created),
            // A network file system may repeat a request whose answer was lost.
            // Source: open(2), `O_EXCL`: on NFS, look at the file, whatever link(2) returned.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(if self.fs.is_same(draft, path).unwrap_or(false) {
                    Put::Created
                } else {
                    Put::Existed
                })
            }
            Err(error) if lacks_links(&error) => self.rename(draft, path),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, draft: &Path, path: &Path) -> io::Result<Put> {
        match self.fs.rename_new(draft, path) {
            Ok(()) => Ok(Put::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Existed),
            Err(error) if lacks_exclusive_rename(&error) => match self.writers {
                Writers::Single => self.fs.rename_over(draft, path).map(|()| Put::Created),
                Writers::Several => Err(io::ErrorKind::Unsupported.into()),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes a directory at or below the root, with every name that leads to it durable.
    ///
    /// The chain is synced even where it exists: another process may have made a directory and
    /// not have synced its parent yet.
    fn establish(&self, directory: &Path) -> io::Result<()> {
        if self.established().contains(directory) {
            return Ok(());
        }
        self.establish_root()?;
        let mut path = self.root.clone();
        for segment in directory.strip_prefix(&self.root).into_iter().flatten() {
            let parent = path.clone();
            path.push(segment);
            self.make_directory(&path)?;
            self.fs.sync_directory(&parent)?;
        }
        let mut established = self.established();
        if established.len() >= ESTABLISHED_MAX {
            established.clear();
        }
        established.insert(path);
        Ok(())
    }

    fn establish_root(&self) -> io::Result<()> {
        let chain: Vec<_> = self.root.ancestors().collect();
        for made in chain.into_iter().rev() {
            self.make_directory(made)?;
            match self.fs.sync_directory(directory(made)) {
                // We may enter directories above the root that we may not read.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match self.fs.make_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }

    fn established(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.established.lock().expect("no holder of this lock can panic")
    }

    fn read(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let path = self.path(key);
        match self.fs.read(&path, range) {
            Ok(bytes) => Ok(bytes.map(Bytes::from)),
            Err(cause) => Err(failure(cause, format!("read {key}"), &path, &self.root)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut listing = Listing::default();
        let top = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
        if !top.is_empty() && Key::new(top).is_err() {
            return Ok(listing.sorted());
        }
        let mut pending = vec![top.to_owned()];
        while let Some(directory) = pending.pop() {
            let path = self.root.join(&directory);
            let entries = match self.fs.entries(&path) {
                Ok(entries) => entries,
                Err(error) if is_absence(&error) => continue,
                Err(cause) => {
                    return Err(failure(cause, format!("list {prefix}*"), &path, &self.root));
                }
            };
            for entry in entries {
                let Some(name) = entry.name.to_str() else { continue };
                let separator = if directory.is_empty() { "" } else { "/" };
                // Files of others, such as `lost+found`, are none of ours.
                let Ok(key) = Key::new(format!("{directory}{separator}{name}")) else { continue };
                match entry.node {
                    _ if !key.as_str().starts_with(prefix) => {}
                    Node::Directory => pending.push(key.as_str().to_owned()),
                    Node::File { size_bytes, modified } => {
                        listing.add(Listed { key, size_bytes, modified })?;
                    }
                    Node::Other => {}
                }
            }
        }
        Ok(listing.sorted())
    }

    fn top(&self) -> Result<Vec<String>> {
        match self.fs.entries(&self.root) {
            Ok(entries) => {
                let names = entries.iter().map(|entry| entry.name.to_string_lossy().into_owned());
                Ok(names.collect())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(cause) => {
                let step = "look at the directory of a store".to_owned();
                Err(failure(cause, step, &self.root, &self.root))
            }
        }
    }

    fn delete(&self, key: &Key) -> Result<Deleted> {
        let path = self.path(key);
        let removed = self.fs.unlink(&path).and_then(|()| self.fs.sync_directory(directory(&path)));
        match removed {
            Ok(()) => Ok(Deleted::Gone),
            Err(error) if is_absence(&error) => Ok(Deleted::Gone),
            Err(error) if is_denial(&error) || error.kind() == io::ErrorKind::IsADirectory => {
                let kept = self.read(key, 0..0)?.is_some();
                Ok(if kept { Deleted::Retained } else { Deleted::Gone })
            }
            Err(cause) => Err(failure(cause, format!("delete {key}"), &path, &self.root)),
        }
    }

    /// Removes what killed writers left. Nobody waits for it, so failures do not matter.
    fn sweep_unfinished(&self, now: DateTime<Utc>) {
        let directory = self.root.join(UNFINISHED);
        for entry in self.fs.entries(&directory).unwrap_or_default() {
            let ours = entry.name.to_str().is_some_and(|name| name.starts_with(UNFINISHED_MARK));
            if let Node::File { modified, .. } = entry.node
                && ours
                && now - modified > UNFINISHED_AGE_MAX
            {
                let _ = self.fs.unlink(&directory.join(entry.name));
            }
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn draft(&self) -> PathBuf {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        self.root.join(UNFINISHED).join(format!("{UNFINISHED_MARK}{}", HEXLOWER.encode(&random)))
    }
}

/// The directory that holds a name; `/` holds itself.
fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Source: link(2), EPERM: "The filesystem does not support the creation of hard links."
fn lacks_links(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Source: rename(2), EINVAL: "The filesystem does not support one of the flags in flags."
fn lacks_exclusive_rename(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

fn is_denial(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn failure(cause: io::Error, step: String, path: &Path, root: &Path) -> Error {
    use io::ErrorKind as Io;

    let shown = path.display();
    let quoted = quoted(root);
    let error = match cause.kind() {
        Io::StorageFull => Error::new(ErrorKind::Exhausted, code::STORE_FULL, step)
            .why("the disk is full; nothing that was stored before is affected")
            .next(format!("df -h {quoted}")),
        Io::QuotaExceeded => Error::new(ErrorKind::Exhausted, code::STORE_FULL, step)
            .why("the quota is used up; nothing that was stored before is affected")
            .next("raise the quota or free some space, then repeat the command"),
        Io::PermissionDenied => {
            Error::new(ErrorKind::Denied, code::STORE_DENIED, step).next(format!("ls -ld {quoted}"))
        }
        Io::ReadOnlyFilesystem => Error::new(ErrorKind::Denied, code::STORE_DENIED, step)
            .why("the file system is mounted read-only")
            .next(format!("findmnt -T {quoted}")),
        Io::Unsupported => Error::new(ErrorKind::Unsupported, code::SINGLE_WRITER, step)
            .why("the file system has neither hard links nor a rename that keeps what exists"),
        Io::NotADirectory => Error::new(ErrorKind::Invalid, code::FILE, step)
            .why("a file stands where a directory is needed")
            .next("name the directory of a repository, or one that is empty or not there yet"),
        Io::FileTooLarge => Error::new(ErrorKind::Exhausted, code::STORE_FULL, step)
            .why("the file system or a limit does not allow a file that large"),
        Io::InvalidFilename => Error::new(ErrorKind::Invalid, code::BAD_NAME, step)
            .why("the file system does not allow a name that long"),
        _ => Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, step),
    };
    error.with("path", shown).caused_by(cause)
}

/// A path as a shell reads it back.
fn quoted(path: &Path) -> String {
    stillpoint_contract::quoted(&path.display().to_string())
}
