//! A lock for whoever moves rows of a set: a file beside the database, locked by the kernel.
//!
//! A lock in the database itself would have to outlive transactions, and so would outlive a process
//! that is killed. The kernel releases this one with the last handle, when the process has ended
//! and with it every transaction that it had: SQLite rolls back what its journal or log does not
//! say is committed. Source: flock(2); <https://www.sqlite.org/atomiccommit.html>.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use rustix::{fs::FlockOperation, io::Errno};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::{config::Config, connect::Database, error};

const STEP: &str = "keep others from moving rows of the set";

/// How often a lock that somebody else has is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The lock of a set. Dropped, it is free, and its file is gone.
#[derive(Debug)]
pub(super) struct SetLock {
    set: String,
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

impl SetLock {
    /// Whether it is that of a set.
    pub(super) fn is_of(&self, set: &str) -> bool {
        self.set == set
    }

    /// Waits for the lock of a set, at most for `patience`.
    pub(super) fn take(database: &Database, set: &str, patience: Duration) -> Result<Self> {
        let hash = blake3::hash(set.as_bytes()).to_hex();
        let path = Config::beside(&database.path, &format!("-stillpoint-archive-{}", &hash[..16]));
        let began = database.clock.elapsed();
        loop {
            let tried = Self::try_take(&path).map_err(|e| error::file(e, STEP, &path))?;
            if let Some(file) = tried {
                return Ok(Self { set: set.to_owned(), path, file });
            }
            if patience <= database.clock.elapsed().saturating_sub(began) {
                return Err(Error::new(ErrorKind::Busy, code::ROWS_LOCKED, STEP)
                    .with("set", set)
                    .with("file", path.display())
                    .why("another process moves rows of this set, and holds the lock of that file")
                    .next(format!("fuser {} names the process", error::quoted(&path)))
                    .next("wait for it, then run the same command again"));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Whoever had it before removes the file while it is locked: a lock of a file that has no name
    /// any more keeps nobody out.
    fn try_take(path: &PathBuf) -> io::Result<Option<File>> {
        // Reading is enough to lock, so that another user's file can be locked as well.
        let mut options = OpenOptions::new();
        let file = match options.read(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = options.write(true).create_new(true).mode(0o644).open(path);
                match made {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                    made => made?,
                }
            }
            opened => opened?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        let locked = file.metadata()?;
        let named = match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            named => named?,
        };
        let is_same = (locked.dev(), locked.ino()) == (named.dev(), named.ino());
        Ok(is_same.then_some(file))
    }
}

impl Drop for SetLock {
    fn drop(&mut self) {
        // Somebody else's file stays: the lock ends with the handle all the same.
        drop(fs::remove_file(&self.path));
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}
