//! A disk in memory that fails and loses power on demand.
//!
//! It is stricter than real disks: whatever was not synced is lost, names apart from bytes, each
//! for itself. What survives here survives everywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io,
    ops::Range,
    path::{Component, Path},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rustix::io::Errno;

use super::{Dice, Entry, Fs, Node};

/// A simulated file system. Clones share one disk.
///
/// Every call is one operation, or three for `write_new` (make the file, write its bytes, sync
/// them), and operations are numbered from 0. Paths are absolute; symbolic links do not exist.
#[derive(Clone, Debug)]
pub struct SimFs(Arc<Mutex<Disk>>);

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsFault {
    /// It fails and does nothing, except that a write leaves half of its bytes behind.
    Fail(Errno),
    /// It is done, and reported as failed.
    FailAfter(Errno),
    /// The power goes: neither this nor any later operation happens, until [`SimFs::crash`].
    PowerOff,
}

/// What a crash does with whatever was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// It is lost.
    Lost,
    /// Each name survives or not, and each file keeps nothing, a torn part, a part followed by
    /// zeros, or everything, as the seed has it.
    Torn,
}

#[derive(Debug)]
struct Disk {
    nodes: Vec<Inode>,
    operations: u64,
    once: BTreeMap<u64, FsFault>,
    from: Option<(u64, FsFault)>,
    is_off: bool,
    has_links: bool,
    has_rename_new: bool,
    dice: Dice,
    now: DateTime<Utc>,
}

#[derive(Debug)]
enum Inode {
    File { bytes: Bytes, synced: Option<Bytes>, modified: DateTime<Utc> },
    Directory { names: Names, synced: Names },
}

type Names = BTreeMap<OsString, usize>;

const ROOT: usize = 0;

impl SimFs {
    /// An empty disk whose accidents are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let root = Inode::Directory { names: Names::new(), synced: Names::new() };
        Self(Arc::new(Mutex::new(Disk {
            nodes: vec![root],
            operations: 0,
            once: BTreeMap::new(),
            from: None,
            is_off: false,
            has_links: true,
            has_rename_new: true,
            dice: Dice::new(seed),
            now: DateTime::UNIX_EPOCH,
        })))
    }

    /// Takes hard links away, as on FAT.
    pub fn without_links(self) -> Self {
        self.disk().has_links = false;
        self
    }

    /// Takes `RENAME_NOREPLACE` away, as on NFS.
    pub fn without_rename_new(self) -> Self {
        self.disk().has_rename_new = false;
        self
    }

    /// Sets the time with which files are stamped from now on; 1970 before the first call.
    pub fn set_time(&self, now: DateTime<Utc>) {
        self.disk().now = now;
    }

    /// How many operations were begun so far, which is the number of the next one.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Plans a fault for one operation.
    pub fn fault_at(&self, operation: u64, fault: FsFault) {
        self.disk().once.insert(operation, fault);
    }

    /// Plans a fault for every operation from one on, such as a full disk.
    pub fn fault_from(&self, operation: u64, fault: FsFault) {
        self.disk().from = Some((operation, fault));
    }

    /// Forgets all planned faults.
    pub fn heal(&self) {
        let mut disk = self.disk();
        disk.once.clear();
        disk.from = None;
    }

    /// Cuts the power and starts again, without faults, with what the disk remembers.
    pub fn crash(&self, unsynced: Unsynced) {
        self.heal();
        let disk = &mut *self.disk();
        disk.is_off = false;
        for node in &mut disk.nodes {
            node.crash(unsynced, &disk.dice);
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// Runs one operation, or its fault.
    fn act<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk();
        match disk.next_fault() {
            None => act(&mut disk),
            Some(FsFault::Fail(errno)) => Err(errno.into()),
            Some(FsFault::FailAfter(errno)) => act(&mut disk).and(Err(errno.into())),
            Some(FsFault::PowerOff) => {
                disk.is_off = true;
                Err(Errno::IO.into())
            }
        }
    }
}

impl Inode {
    fn crash(&mut self, unsynced: Unsynced, dice: &Dice) {
        match self {
            Self::File { bytes, synced, .. } if synced.as_ref() != Some(bytes) => {
                let torn = dice.below(bytes.len() + 1);
                let kept = match (unsynced, dice.below(4)) {
                    (Unsynced::Lost, _) | (_, 0) => synced.take().unwrap_or_default(),
                    (_, 1) => bytes.slice(..torn),
                    (_, 2) => {
                        let mut zeroed = bytes[..torn].to_vec();
                        zeroed.resize(bytes.len(), 0);
                        zeroed.into()
                    }
                    _ => bytes.clone(),
                };
                *synced = Some(kept.clone());
                *bytes = kept;
            }
            Self::File { .. } => {}
            Self::Directory { names, synced } => {
                let touched: BTreeSet<_> = names.keys().chain(synced.keys()).cloned().collect();
                for name in touched {
                    if unsynced == Unsynced::Torn && dice.happens(128) {
                        continue;
                    }
                    match synced.get(&name) {
                        Some(node) => names.insert(name, *node),
                        None => names.remove(&name),
                    };
                }
                synced.clone_from(names);
            }
        }
    }
}

impl Disk {
    fn next_fault(&mut self) -> Option<FsFault> {
        let operation = self.operations;
        self.operations += 1;
        let lasting = self.from.filter(|(from, _)| operation >= *from).map(|(_, fault)| fault);
        let once = self.once.remove(&operation);
        if self.is_off { Some(FsFault::PowerOff) } else { once.or(lasting) }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut node = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                node = *self.names(node)?.get(name).ok_or(Errno::NOENT)?;
            }
        }
        Ok(node)
    }

    fn find_file(&self, path: &Path) -> io::Result<usize> {
        let node = self.find(path)?;
        match self.nodes[node] {
            Inode::File { .. } => Ok(node),
            Inode::Directory { .. } => Err(Errno::ISDIR.into()),
        }
    }

    fn names(&self, node: usize) -> io::Result<&Names> {
        match &self.nodes[node] {
            Inode::Directory { names, .. } => Ok(names),
            Inode::File { .. } => Err(Errno::NOTDIR.into()),
        }
    }

    /// The names in the directory that holds `path`, and the name of `path` in it.
    fn slot<'p>(&mut self, path: &'p Path) -> io::Result<(&mut Names, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::EXIST)?;
        let parent = self.find(path.parent().ok_or(Errno::EXIST)?)?;
        match &mut self.nodes[parent] {
            Inode::Directory { names, .. } => Ok((names, name)),
            Inode::File { .. } => Err(Errno::NOTDIR.into()),
        }
    }

    /// Adds a name unless it is taken.
    fn add(&mut self, path: &Path, node: usize) -> io::Result<()> {
        let (names, name) = self.slot(path)?;
        if names.contains_key(name) {
            return Err(Errno::EXIST.into());
        }
        names.insert(name.to_owned(), node);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find_file(path)?;
        let (names, name) = self.slot(path)?;
        names.remove(name);
        Ok(())
    }

    fn make(&mut self, path: &Path, node: Inode) -> io::Result<usize> {
        let id = self.nodes.len();
        self.add(path, id)?;
        self.nodes.push(node);
        Ok(id)
    }

    fn fill(&mut self, node: usize, filled: &[u8]) {
        if let Inode::File { bytes, .. } = &mut self.nodes[node] {
            *bytes = Bytes::copy_from_slice(filled);
        }
    }
}

impl Fs for SimFs {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let node = self.act(|disk| {
            let modified = disk.now;
            disk.make(path, Inode::File { bytes: Bytes::new(), synced: None, modified })
        })?;
        // The half that a failing write leaves.
        self.disk().fill(node, &bytes[..bytes.len() / 2]);
        self.act(|disk| {
            disk.fill(node, bytes);
            Ok(())
        })?;
        self.act(|disk| {
            if let Inode::File { bytes, synced, .. } = &mut disk.nodes[node] {
                *synced = Some(bytes.clone());
            }
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(|disk| {
            if !disk.has_links {
                return Err(Errno::PERM.into());
            }
            let node = disk.find_file(from)?;
            disk.add(to, node)
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(|disk| {
            if !disk.has_rename_new {
                return Err(Errno::INVAL.into());
            }
            let node = disk.find_file(from)?;
            disk.add(to, node)?;
            disk.remove(from)
        })
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(|disk| {
            let node = disk.find_file(from)?;
            disk.remove(from)?;
            let (names, name) = disk.slot(to)?;
            names.insert(name.to_owned(), node);
            Ok(())
        })
    }

    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        self.act(|disk| Ok(disk.find(one)? == disk.find(other)?))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.act(|disk| disk.remove(path))
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.act(|disk| {
            let made = Inode::Directory { names: Names::new(), synced: Names::new() };
            disk.make(path, made).map(drop)
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.act(|disk| {
            let node = disk.find(path)?;
            match &mut disk.nodes[node] {
                Inode::Directory { names, synced } => synced.clone_from(names),
                Inode::File { .. } => return Err(Errno::NOTDIR.into()),
            }
            Ok(())
        })
    }

    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        self.act(|disk| match disk.find(path).map(|node| &disk.nodes[node]) {
            Ok(Inode::File { bytes, .. }) => {
                let end = range.end.min(bytes.len() as u64);
                Ok(Some(bytes[range.start.min(end) as usize..end as usize].to_vec()))
            }
            Ok(Inode::Directory { .. }) => Ok(None),
            Err(error) if super::fs::is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn entries(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.act(|disk| {
            let names = disk.names(disk.find(directory)?)?;
            let entry = |(name, node): (&OsString, &usize)| Entry {
                name: name.clone(),
                node: match &disk.nodes[*node] {
                    Inode::Directory { .. } => Node::Directory,
                    Inode::File { bytes, modified, .. } => {
                        Node::File { size_bytes: bytes.len() as u64, modified: *modified }
                    }
                },
            };
            Ok(names.iter().map(entry).collect())
        })
    }
}
