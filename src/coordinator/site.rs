//! Where a restore works: directories that vanish with it, and one that stays until it is done.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FlockOperation;
use stillpoint_contract::{Error, ErrorKind, RestorePlan, Result, code};

use super::restore::failed;

/// The file systems that a restore writes to. They are opened before it does: only then do they
/// tell of every write that failed. Where they do not tell, or forward nothing, each file is synced
/// by itself.
/// Source: syncfs(2): errors are told since Linux 5.8.
#[derive(Clone, Debug)]
pub(super) struct Disks(Arc<Vec<(PathBuf, File)>>);

impl Disks {
    /// Opens those of the plan's directories, which exist, and of what is mounted below them: in a
    /// directory that is rewritten, as `pg_wal` on a disk of its own.
    pub(super) fn open(plan: &RestorePlan) -> Result<Self> {
        let mut disks = Vec::new();
        for path in std::iter::once(&plan.staging).chain(&plan.relocated) {
            open_below(path, None, &mut disks).map_err(|cause| failed(path, cause))?;
        }
        Ok(Self(Arc::new(disks)))
    }

    /// Makes everything durable that was written.
    pub(super) async fn settle(&self) -> Result<()> {
        let disks = Arc::clone(&self.0);
        let settle = move || {
            disks.iter().try_for_each(|(path, directory)| {
                let settled = rustix::fs::syncfs(directory).map_err(io::Error::from);
                let settled = settled.and_then(|()| {
                    if tells_of_failures(directory)? { Ok(()) } else { sync_below(path, &sync) }
                });
                settled.map_err(|cause| failed(path, cause))
            })
        };
        let settled = tokio::task::spawn_blocking(settle).await;
        settled.map_err(|cause| Error::bug("wait for disks").caused_by(cause))?
    }
}

/// File systems that pass other file systems' bytes on, by their magic numbers: overlayfs and FUSE.
/// Source: statfs(2).
const LAYERED: [u64; 2] = [0x794c_7630, 0x6573_5546];

/// The first kernel whose `syncfs` tells of failed writes.
const TELLING_KERNEL: (u32, u32) = (5, 8);

fn tells_of_failures(directory: &File) -> io::Result<bool> {
    let name = rustix::system::uname();
    let release = name.release().to_str().unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    Ok(kernel >= TELLING_KERNEL
        && !LAYERED.iter().any(|layered| i128::from(*layered) == i128::from(kind)))
}

/// Opens a directory unless it is of the same file system as the one around it, and so on below it.
/// Follows no link.
fn open_below(
    directory: &Path,
    around: Option<u64>,
    disks: &mut Vec<(PathBuf, File)>,
) -> io::Result<()> {
    let device = fs::symlink_metadata(directory)?.dev();
    if around != Some(device) {
        disks.push((directory.to_owned(), File::open(directory)?));
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_below(&entry.path(), Some(device), disks)?;
        }
    }
    Ok(())
}

/// Calls `sync` for everything below a directory, each directory after what is in it. Follows no
/// link.
fn sync_below(directory: &Path, sync: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_below(&entry.path(), sync)?;
        } else if kind.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(directory)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Directories outside of the staging directory that a restore fills. They are emptied again when
/// it fails or is dropped.
#[derive(Debug)]
pub(super) struct Outside {
    paths: Vec<PathBuf>,
}

impl Outside {
    pub(super) fn create(plan: &RestorePlan) -> Result<Self> {
        let mut outside = Self { paths: Vec::new() };
        for path in &plan.relocated {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|cause| failed(path, cause))?;
            let is_empty = fs::read_dir(path).map(|mut entries| entries.next().is_none());
            if !is_empty.map_err(|cause| failed(path, cause))? {
                return Err(Error::new(
                    ErrorKind::Refused,
                    code::TARGET_EXISTS,
                    "fill a directory",
                )
                .with("directory", path.display())
                .why("something was put there just now"));
            }
            outside.paths.push(path.clone());
        }
        Ok(outside)
    }

    /// Keeps what is there.
    pub(super) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(cause) = fs::remove_dir_all(path) {
                tracing::warn!(path = %path.display(), "a directory stays behind: {cause}");
            }
        }
    }
}

/// Says in a directory under rewriting of which database it is.
const OWNER_FILE: &str = "stillpoint-rewrites";

/// A directory in which what stood at a target is rewritten. It stays when the work is interrupted,
/// so that the same restore can go on. Its lock stays as well, for as long as the process lives,
/// when the work was dropped: what an engine does on other threads may outlive it, and must not
/// meet the restore that goes on.
#[derive(Debug)]
pub(super) struct Rewriting {
    path: PathBuf,
    lock: Option<File>,
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        std::mem::forget(self.lock.take());
    }
}

impl Rewriting {
    /// Moves what stands at the plan's target to where it is rewritten, or finds it there.
    pub(super) fn begin(plan: &RestorePlan, directory: &Path, owner: &str) -> Result<Self> {
        let path = plan.staging.clone();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let open = made.and_then(|()| File::open(&path));
        let lock = open.map_err(|cause| failed(&path, cause))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::new(ErrorKind::Busy, code::TARGET_IN_USE, "rewrite the target")
                .with("target", plan.target.display())
                .why("another restore is rewriting it"));
        }
        own(&path, owner)?;
        let moved = || -> io::Result<()> {
            if !directory.exists() && plan.target.exists() {
                fs::rename(&plan.target, directory)?;
            }
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            File::open(plan.target.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            File::open(&path)?.sync_all()
        };
        moved().map_err(|cause| failed(&plan.target, cause))?;
        Ok(Self { path, lock: Some(lock) })
    }

    /// Removes what is left of the work.
    pub(super) fn end(mut self) -> Result<()> {
        let _lock = self.lock.take();
        fs::remove_dir_all(&self.path).map_err(|cause| failed(&self.path, cause))
    }

    /// Says where everything lies, to whoever has to go on after work that came to its end.
    pub(super) fn explain(mut self, error: Error) -> Error {
        drop(self.lock.take());
        let step = "rewrite the directory that is there";
        error
            .during(step)
            .with("what was there lies in", self.path.display())
            .why("it is half rewritten, and no server can be started on it")
            .next("run the same command again: it goes on where it was interrupted")
    }
}

/// What is left there must be of the same database.
fn own(directory: &Path, owner: &str) -> Result<()> {
    let file = directory.join(OWNER_FILE);
    match fs::read_to_string(&file) {
        Ok(found) if found == owner => return Ok(()),
        Ok(found) if !found.is_empty() => {
            let step = "go on with a restore that was interrupted";
            return Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, step)
                .with("directory", directory.display())
                .with("there", found)
                .with("wanted", owner)
                .why("it holds what was left of another database")
                .next("move it away, then run the same command again"));
        }
        _ => {}
    }
    let write = || -> io::Result<()> {
        let mut options = File::options();
        let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(&file)?;
        open.write_all(owner.as_bytes())?;
        open.sync_all()?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|cause| failed(&file, cause))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, os::unix::fs::symlink};

    use stillpoint_contract::{Overwrite, RecoveryTarget};

    use super::*;

    #[test]
    fn what_is_written_is_synced_to_the_last_file_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        for directory in [inside.join("a/b"), inside.join("empty"), outside.clone()] {
            fs::create_dir_all(directory).unwrap();
        }
        for file in [inside.join("1"), inside.join("a/2"), inside.join("a/b/3"), outside.join("4")]
        {
            fs::write(file, "x").unwrap();
        }
        symlink(&outside, inside.join("a/link")).unwrap();
        symlink(outside.join("4"), inside.join("link")).unwrap();
        let synced = RefCell::new(Vec::new());
        let note = |path: &Path| {
            let name = path.strip_prefix(&inside).unwrap().to_str().unwrap().to_owned();
            synced.borrow_mut().push(name);
            Ok(())
        };
        sync_below(&inside, &note).unwrap();
        let place = |name: &str| synced.borrow().iter().position(|n| n == name).unwrap();
        for (first, then) in [("a/b/3", "a/b"), ("a/b", "a"), ("a/2", "a"), ("empty", "")] {
            assert!(place(first) < place(then), "{synced:?}");
        }
        assert_eq!(place(""), 6, "{synced:?}");
        assert_eq!(synced.borrow().len(), 7, "{synced:?}");

        // One that cannot be synced is told: whatever stands before it, and behind it.
        for bad in ["1", "a/b/3", "a", ""] {
            let failing = |path: &Path| {
                let is_bad = path == inside.join(bad);
                if is_bad { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            };
            assert!(sync_below(&inside, &failing).is_err(), "{bad}");
        }
    }

    /// Files of procfs can be read and not synced.
    #[test]
    fn a_disk_that_refuses_is_heard() {
        let refusing = Path::new("/proc/self/fdinfo");
        assert!(fs::read_dir(refusing).unwrap().next().is_some());
        assert!(sync_below(refusing, &sync).is_err());
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1"), "x").unwrap();
        sync_below(folder.path(), &sync).unwrap();
    }

    fn plan(staging: &Path) -> RestorePlan {
        RestorePlan {
            placements: Vec::new(),
            relocated: Vec::new(),
            rewrite: None,
            notes: Vec::new(),
            owner: None,
            modes: None,
            target: staging.with_file_name("target"),
            staging: staging.to_owned(),
            database: staging.join("data"),
            files: Vec::new(),
            replays_log: false,
            until: RecoveryTarget::Consistent,
            overwrite: Overwrite::Replace,
            proof: String::new(),
        }
    }

    /// Below `/dev` there are other file systems on every Linux.
    #[test]
    fn what_is_mounted_below_a_directory_is_a_disk_of_its_own() {
        let disks = Disks::open(&plan(Path::new("/dev"))).unwrap();
        let opened: Vec<_> = disks.0.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert!(opened.contains(&"/dev") && opened.contains(&"/dev/pts"), "{opened:?}");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("staging/a/b")).unwrap();
        let disks = Disks::open(&plan(&folder.path().join("staging"))).unwrap();
        assert_eq!(disks.0.len(), 1, "{disks:?}");
    }

    #[test]
    fn nobody_goes_on_beside_what_may_still_be_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let (staging, data) = (folder.path().join("staging"), folder.path().join("staging/data"));
        let begin = || Rewriting::begin(&plan(&staging), &data, "shop");
        // Refused before any work, or failed: the next one goes on.
        begin().unwrap().explain(Error::bug("fail"));
        assert_eq!(
            Rewriting::begin(&plan(&staging), &data, "mail").unwrap_err().code(),
            code::FOREIGN_DATABASE
        );
        drop(begin().unwrap());
        // Dropped.
        assert_eq!(begin().unwrap_err().code(), code::TARGET_IN_USE);
    }
}
