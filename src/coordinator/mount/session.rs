//! A backup that is mounted, until it is unmounted or dropped.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use fuser::{Config, MountOption, Session, SessionACL};
use stillpoint_contract::{Clock, Error, ErrorKind, PartName, Result, code};
use tokio::{runtime, sync::watch};

use super::{
    dead::{KIND, connection, fusermount, mark, unmount, unmount_served},
    files::Files,
    tree::ROOT,
    view::View,
};
use crate::repository::{BackupReader, OnDemand};

/// What the kernel's side of every mount is.
const DEVICE: &str = "/dev/fuse";

/// Threads that hear the kernel, and threads that fetch what is not at hand.
const THREADS: usize = 4;
const FETCHERS: usize = 2;

/// How far the kernel reads ahead, in KiB.
const AHEAD_KIB: &str = "1024";

const STEP: &str = "mount a backup";

/// A backup laid out as files, of which nothing is copied before somebody reads it.
///
/// Its fetching has a runtime of its own: whoever waits for a file on a thread of another one must
/// not keep it from being read.
#[derive(Debug)]
pub(crate) struct MountedFiles {
    files: Arc<Files>,
    _fetching: Fetching,
}

/// The runtime that fetches. It may be dropped on a thread of another one, whether or not anything
/// was ever mounted: what is being fetched is answered with an error.
#[derive(Debug)]
struct Fetching(Option<runtime::Runtime>);

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One place where files are mounted. Dropped, they are unmounted: whoever still reads there is
/// told of an error.
#[derive(Debug)]
pub(crate) struct Mount {
    point: PathBuf,
    ended: watch::Receiver<bool>,
}

/// Why nothing can be mounted here; `None` when nothing is known against it.
pub(crate) fn obstacle() -> Option<String> {
    match File::options().read(true).write(true).open(DEVICE) {
        Err(cause) => Some(format!("{DEVICE} cannot be opened: {cause}")),
        Ok(_) if rustix::process::geteuid().is_root() => None,
        Ok(_) => {
            let why = "only root can mount without fusermount3, of the package fuse3";
            fusermount().is_none().then(|| why.to_owned())
        }
    }
}

impl MountedFiles {
    /// Lays out the parts of a backup: `place` says where, below `base`. What is written goes to a
    /// directory that is new and ours; without one, nothing can be written.
    pub(crate) async fn lay_out(
        reader: BackupReader,
        clock: Arc<dyn Clock>,
        overlay: Option<PathBuf>,
        base: &Path,
        place: impl Fn(&PartName) -> Option<PathBuf>,
    ) -> Result<Self> {
        let mut builder = runtime::Builder::new_multi_thread();
        let builder = builder.worker_threads(FETCHERS).thread_name("mount").enable_all();
        let runtime = builder.build().map_err(|cause| Error::bug(STEP).caused_by(cause))?;
        let handle = runtime.handle().clone();
        let fetching = Fetching(Some(runtime));
        let source = OnDemand::new(reader, handle.clone());
        let files = Files::lay_out(source, overlay, (handle, clock), base, place).await?;
        Ok(Self { files, _fetching: fetching })
    }

    /// Makes those who will use them the owner of all files, before somebody has to do so one by
    /// one.
    pub(crate) fn give_to(&self, owner: (u32, u32)) {
        self.files.give_to(owner);
    }

    /// Gives all files and directories the permission bits that they will have, as well.
    pub(crate) fn set_modes(&self, modes: (u32, u32)) {
        self.files.set_modes(modes);
    }

    /// Lets a server's user pass a directory of the root on the way to its files.
    pub(crate) fn open_way(&self, name: &OsStr) -> Result<()> {
        self.files.open_way(name).map_err(|errno| Error::bug(STEP).caused_by(errno))
    }

    /// What could not be read so far, as far as it is remembered.
    pub(crate) fn damage(&self) -> Vec<String> {
        self.files.damage()
    }

    /// Why the store gave nothing, if it once did not.
    pub(crate) fn outage(&self) -> Option<Error> {
        self.files.outage()
    }

    /// The directory that shows a database and nothing else: the one at `path`, or a new one in
    /// which the file at `path` is, as `name`.
    pub(crate) fn alone(&self, path: &Path, name: &OsStr) -> Result<PathBuf> {
        self.files.alone(path, name).map_err(|errno| Error::bug(STEP).caused_by(errno))
    }

    /// The backup.
    pub(crate) fn reader(&self) -> &BackupReader {
        self.files.reader()
    }

    /// Mounts what is at `path`, a directory, at `point`, an empty one. Without leave to write,
    /// nothing can be changed through this mount.
    pub(crate) fn mount(&self, path: &Path, point: &Path, may_write: bool) -> Result<Mount> {
        let failed = |cause: io::Error| {
            Error::new(ErrorKind::Unsupported, code::NO_MOUNT, STEP)
                .with("directory", point.display())
                .caused_by(cause)
        };
        let root = self.files.tree().walk(ROOT, path);
        let root = root.map_err(|errno| Error::bug(STEP).caused_by(errno))?;
        let point = std::fs::canonicalize(point).map_err(failed)?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(mark()),
            MountOption::Subtype(KIND.to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
            MountOption::NoDev,
            MountOption::NoSuid,
            if may_write { MountOption::RW } else { MountOption::RO },
        ];
        // A server has a user of its own; who else may read what, modes say.
        let is_root = rustix::process::geteuid().is_root();
        config.acl = if is_root { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let view = View::new(Arc::clone(&self.files), root);
        // What the helper program says has line feeds at its end.
        let brief = |cause: io::Error| io::Error::new(cause.kind(), cause.to_string().trim());
        let session = Session::new(view, &point, &config);
        let session = session.map_err(|cause| failed(brief(cause)))?;
        let (tell, ended) = watch::channel(false);
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::debug!("a mount ended: {error}");
            }
            tell.send_replace(true);
        };
        let thread = thread::Builder::new().name("mount".to_owned()).spawn(serve);
        if let Err(cause) = thread {
            unmount(&point);
            return Err(failed(cause));
        }
        read_far_ahead(&point);
        Ok(Mount { point, ended })
    }
}

/// Lets the kernel ask for more at once than the 128 KiB that it offers a new mount, where it lets
/// us. The mount itself is asked nothing: killed meanwhile, we would wait for our own answer.
/// Source: `Documentation/ABI/testing/sysfs-class-bdi` of Linux.
fn read_far_ahead(point: &Path) {
    let Some(connection) = connection(point) else { return };
    let setting = format!("/sys/class/bdi/0:{connection}/read_ahead_kb");
    if let Err(cause) = std::fs::write(&setting, AHEAD_KIB) {
        tracing::debug!("{setting} stays as it is: {cause}");
    }
}

impl Drop for MountedFiles {
    fn drop(&mut self) {
        self.files.end();
    }
}

impl Mount {
    /// Waits until somebody unmounts it.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // Without its sender it has ended as well.
        drop(ended.wait_for(|ended| *ended).await);
    }

    /// Where.
    pub(crate) fn point(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !*self.ended.borrow() {
            unmount_served(&self.point);
        }
    }
}
