//! A backup as a file system: names in memory, bytes from the repository when somebody reads them,
//! and what is written in an overlay.

use std::{
    ffi::OsStr,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use rustix::io::Errno;
use stillpoint_contract::{Clock, Error, PartName, Result, Source as _, code};
use tokio::runtime::Handle;

use super::{
    overlay::{Body, Overlay, Piece},
    tree::{Kind, Own, ROOT, Tree},
};
use crate::repository::{BackupReader, OnDemand, PartPlace};

/// Modes of files and directories of which nothing is known yet: open to their owner only.
const FILE_MODE: u16 = 0o600;
const DIRECTORY_MODE: u16 = 0o700;

/// The permission bits of a mode.
pub(super) const MODE_BITS: u32 = 0o7777;

/// The mode of directories that lead to a database: its user may pass, and whoever else could get
/// there is kept out by the directory around them.
const WAY_MODE: u16 = 0o711;

/// The directory that is made for a database of one file, and its mode: who may read the file, its
/// own mode says.
const SHOWN: &str = "shown";
const SHOWN_MODE: u16 = 0o755;

/// How much damage is remembered.
const DAMAGE_MAX: usize = 16;

/// What is mounted, once or several times.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tree: RwLock<Tree>,
    pub(super) overlay: Option<Overlay>,
    pub(super) runtime: Handle,
    source: Arc<OnDemand>,
    clock: Arc<dyn Clock>,
    damage: Mutex<Vec<String>>,
    outage: Mutex<Option<Error>>,
    /// Nobody is answered any more, so that whoever waits gives up.
    has_ended: AtomicBool,
}

impl Files {
    /// Lays the parts of a backup out: `place` says where, below `base`.
    pub(super) async fn lay_out(
        source: Arc<OnDemand>,
        overlay: Option<PathBuf>,
        (runtime, clock): (Handle, Arc<dyn Clock>),
        base: &Path,
        place: impl Fn(&PartName) -> Option<PathBuf>,
    ) -> Result<Arc<Self>> {
        let manifest = source.reader().manifest();
        let own = |mode| Own {
            mode,
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            changed_at: SystemTime::from(manifest.consistent_time),
        };
        let mut tree = Tree::new(own(WAY_MODE));
        for page in 0_u32.. {
            let parts = source.reader().parts(page).await?;
            if parts.is_empty() {
                break;
            }
            for (index, part) in (0_u32..).zip(parts) {
                let name = &part.spec.name;
                let Some(path) = place(name) else { continue };
                let path = path
                    .strip_prefix(base)
                    .map_err(|cause| Error::bug("place a part below a mount").caused_by(cause))?;
                let body = Body::of_part(PartPlace { page, index }, part.length_bytes);
                let kind = Kind::File(Arc::new(Mutex::new(body)));
                let laid = tree.lay_out(path, kind, own(FILE_MODE), own(DIRECTORY_MODE));
                laid.map_err(|errno| {
                    Error::bug("lay a part out").with("part", name).caused_by(errno)
                })?;
            }
        }
        Ok(Arc::new(Self {
            tree: RwLock::new(tree),
            overlay: overlay.map(Overlay::new),
            runtime,
            source,
            clock,
            damage: Mutex::default(),
            outage: Mutex::default(),
            has_ended: AtomicBool::new(false),
        }))
    }

    /// Makes a user and a group the owner of everything but the root.
    pub(super) fn give_to(&self, owner: (u32, u32)) {
        self.tree_mut().give_to(owner);
    }

    /// Gives everything but the root the permission bits of directories and of files.
    pub(super) fn set_modes(&self, (directory, file): (u32, u32)) {
        let bits = |mode| (mode & MODE_BITS) as u16;
        self.tree_mut().set_modes((bits(directory), bits(file)));
    }

    pub(super) fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tree_mut(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> SystemTime {
        SystemTime::from(self.clock.now())
    }

    /// Makes a directory one that leads to a database, if need be a new one.
    pub(super) fn open_way(&self, name: &OsStr) -> std::result::Result<(), Errno> {
        let mut tree = self.tree_mut();
        let own = tree.node(ROOT)?.own;
        let number = match tree.find(ROOT, name) {
            Ok(number) => number,
            Err(_) => tree.make_directory(ROOT, name, own)?,
        };
        tree.node_mut(number)?.own.mode = WAY_MODE;
        Ok(())
    }

    pub(super) fn reader(&self) -> &BackupReader {
        self.source.reader()
    }

    /// The directory that shows a database and nothing else.
    pub(super) fn alone(&self, path: &Path, name: &OsStr) -> std::result::Result<PathBuf, Errno> {
        let mut tree = self.tree_mut();
        let database = tree.walk(ROOT, path)?;
        if tree.entries(database).is_ok() {
            return Ok(path.to_owned());
        }
        let own = Own { mode: SHOWN_MODE, ..tree.node(ROOT)?.own };
        let shown = tree.make_directory(ROOT, OsStr::new(SHOWN), own)?;
        let around = tree.walk(ROOT, path.parent().unwrap_or(Path::new("")))?;
        let old = path.file_name().ok_or(Errno::INVAL)?;
        tree.rename((around, old), (shown, name), false)?;
        Ok(SHOWN.into())
    }

    /// What could not be read, as far as it is remembered.
    pub(super) fn damage(&self) -> Vec<String> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// What is at hand of a range, without waiting for the repository: `None` when it is not.
    pub(super) fn at_hand(
        &self,
        node: u64,
        pieces: &[Piece],
        body: &Mutex<Body>,
    ) -> Option<std::io::Result<bytes::Bytes>> {
        match pieces {
            [] => Some(Ok(bytes::Bytes::new())),
            [Piece::Part(part, range)] => self.source.at_hand(*part, range).map(Ok),
            pieces if pieces.iter().any(|piece| matches!(piece, Piece::Part(..))) => None,
            pieces => {
                let mut bytes = Vec::new();
                let read = pieces.iter().try_for_each(|piece| match piece {
                    Piece::Part(..) => Ok(()),
                    piece => self.local(node, piece, body, &mut bytes),
                });
                Some(read.map(|()| bytes.into()))
            }
        }
    }

    /// A range, from wherever its pieces are.
    pub(super) async fn read(
        &self,
        node: u64,
        pieces: Vec<Piece>,
        body: &Mutex<Body>,
    ) -> std::result::Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        for piece in &pieces {
            match piece {
                Piece::Part(part, range) => bytes.extend(self.part(*part, range.clone()).await?),
                piece => {
                    self.local(node, piece, body, &mut bytes).map_err(|error| errno(&error))?;
                }
            }
        }
        Ok(bytes)
    }

    /// A range of a part; never shorter.
    pub(super) async fn part(
        &self,
        part: PartPlace,
        range: Range<u64>,
    ) -> std::result::Result<Vec<u8>, Errno> {
        let length = range.end - range.start;
        match self.source.read(part, range).await {
            Ok(bytes) if bytes.len() as u64 == length => Ok(bytes),
            Ok(_) => Err(Errno::IO),
            Err(error) => {
                self.note(error);
                Err(Errno::IO)
            }
        }
    }

    fn local(
        &self,
        node: u64,
        piece: &Piece,
        body: &Mutex<Body>,
        bytes: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        match (piece, &self.overlay) {
            (Piece::Zeros(length), _) => {
                bytes.resize(bytes.len() + *length as usize, 0);
                Ok(())
            }
            (Piece::Written(range), Some(overlay)) => {
                // Nobody changes its length meanwhile.
                let _held = held(body);
                overlay.read(node, range.clone(), bytes)
            }
            _ => Err(std::io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Tells of bytes that cannot be had, once each: whoever reads them only sees an error.
    fn note(&self, error: Error) {
        let mut text = error.to_string();
        for (label, value) in error.facts() {
            text = format!("{text}; {label}: {value}");
        }
        let is_outage = [code::STORE_UNREACHABLE, code::STORE_DENIED].contains(&error.code());
        if is_outage {
            *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.len() < DAMAGE_MAX && !damage.contains(&text) {
            tracing::error!("could not {text}");
            damage.push(text);
        }
    }

    /// Why the store gave nothing, if it once did not: that proves nothing about the backup.
    pub(super) fn outage(&self) -> Option<Error> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Forgets what was written to a file of which nothing is left.
    pub(super) fn gone(&self, node: Option<u64>) {
        if let (Some(node), Some(overlay)) = (node, &self.overlay) {
            overlay.remove(node);
        }
    }
}

pub(super) fn held(body: &Mutex<Body>) -> MutexGuard<'_, Body> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
