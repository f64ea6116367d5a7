//! The names of a mounted backup: directories, files and links, in memory, as a file system has
//! them.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    path::{Component, Path},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use rustix::io::Errno;

use super::overlay::Body;

type Result<T> = std::result::Result<T, Errno>;

/// The root.
pub(super) const ROOT: u64 = 1;

/// The longest name, in bytes. Source: `NAME_MAX` of Linux.
const NAME_BYTES_MAX: usize = 255;

/// Everything by number; a number is never used twice.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    newest: u64,
}

/// A file, a directory or a link.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) own: Own,
    /// How many names it has.
    pub(super) names: u32,
    /// How many have it open.
    pub(super) opens: u32,
}

/// Whose it is, and since when it is as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) mode: u16,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) changed_at: SystemTime,
}

#[derive(Debug)]
pub(super) enum Kind {
    Directory { parent: u64, entries: BTreeMap<OsString, u64> },
    File(Arc<Mutex<Body>>),
    Link(Box<Path>),
}

impl Node {
    fn new(kind: Kind, own: Own) -> Self {
        Self { kind, own, names: 1, opens: 0 }
    }
}

impl Tree {
    /// One with an empty root.
    pub(super) fn new(own: Own) -> Self {
        let root = Kind::Directory { parent: ROOT, entries: BTreeMap::new() };
        Self { nodes: HashMap::from([(ROOT, Node::new(root, own))]), newest: ROOT }
    }

    /// Makes a user and a group the owner of everything but the root.
    pub(super) fn give_to(&mut self, (user, group): (u32, u32)) {
        for (_, node) in self.nodes.iter_mut().filter(|(number, _)| **number != ROOT) {
            (node.own.user, node.own.group) = (user, group);
        }
    }

    /// Gives everything but the root the permission bits of directories and of files.
    pub(super) fn set_modes(&mut self, (directory, file): (u16, u16)) {
        for (_, node) in self.nodes.iter_mut().filter(|(number, _)| **number != ROOT) {
            let is_directory = matches!(node.kind, Kind::Directory { .. });
            node.own.mode = if is_directory { directory } else { file };
        }
    }

    pub(super) fn node(&self, number: u64) -> Result<&Node> {
        self.nodes.get(&number).ok_or(Errno::NOENT)
    }

    pub(super) fn node_mut(&mut self, number: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&number).ok_or(Errno::NOENT)
    }

    pub(super) fn body(&self, number: u64) -> Result<Arc<Mutex<Body>>> {
        match &self.node(number)?.kind {
            Kind::File(body) => Ok(Arc::clone(body)),
            Kind::Directory { .. } => Err(Errno::ISDIR),
            Kind::Link(_) => Err(Errno::INVAL),
        }
    }

    pub(super) fn entries(&self, directory: u64) -> Result<&BTreeMap<OsString, u64>> {
        match &self.node(directory)?.kind {
            Kind::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn entries_mut(&mut self, directory: u64) -> Result<&mut BTreeMap<OsString, u64>> {
        match &mut self.node_mut(directory)?.kind {
            Kind::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn find(&self, directory: u64, name: &OsStr) -> Result<u64> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.entries(directory)?.get(name).copied().ok_or(Errno::NOENT)
    }

    /// The node at a path below a directory.
    pub(super) fn walk(&self, directory: u64, path: &Path) -> Result<u64> {
        path.components().try_fold(directory, |at, part| match part {
            Component::Normal(name) => self.find(at, name),
            Component::CurDir => Ok(at),
            _ => Err(Errno::INVAL),
        })
    }

    /// Puts something new into a directory.
    pub(super) fn add(
        &mut self,
        directory: u64,
        name: &OsStr,
        kind: Kind,
        own: Own,
    ) -> Result<u64> {
        match self.find(directory, name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.newest += 1;
        let number = self.newest;
        self.entries_mut(directory)?.insert(name.to_owned(), number);
        self.nodes.insert(number, Node::new(kind, own));
        Ok(number)
    }

    pub(super) fn make_directory(&mut self, parent: u64, name: &OsStr, own: Own) -> Result<u64> {
        let kind = Kind::Directory { parent, entries: BTreeMap::new() };
        self.add(parent, name, kind, own)
    }

    /// Puts something at a path, and makes the directories on the way.
    pub(super) fn lay_out(
        &mut self,
        path: &Path,
        kind: Kind,
        file: Own,
        around: Own,
    ) -> Result<u64> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
        let mut at = ROOT;
        for part in parent.components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL) };
            at = match self.find(at, name) {
                Err(Errno::NOENT) => self.make_directory(at, name, around)?,
                found => found?,
            };
        }
        self.add(at, name.ok_or(Errno::INVAL)?, kind, file)
    }

    /// Gives a file another name.
    pub(super) fn link(&mut self, number: u64, directory: u64, name: &OsStr) -> Result<()> {
        if let Kind::Directory { .. } = self.node(number)?.kind {
            return Err(Errno::PERM);
        }
        if self.find(directory, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.entries_mut(directory)?.insert(name.to_owned(), number);
        self.node_mut(number)?.names += 1;
        Ok(())
    }

    /// Takes a name from a file or link. Returns the file when nothing is left of it.
    pub(super) fn unlink(&mut self, directory: u64, name: &OsStr) -> Result<Option<u64>> {
        let number = self.find(directory, name)?;
        if let Kind::Directory { .. } = self.node(number)?.kind {
            return Err(Errno::ISDIR);
        }
        self.entries_mut(directory)?.remove(name);
        self.node_mut(number)?.names -= 1;
        Ok(self.end(number))
    }

    pub(super) fn remove_directory(&mut self, parent: u64, name: &OsStr) -> Result<()> {
        let number = self.find(parent, name)?;
        if !self.entries(number)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.entries_mut(parent)?.remove(name);
        self.nodes.remove(&number);
        Ok(())
    }

    pub(super) fn open(&mut self, number: u64) -> Result<()> {
        self.node_mut(number)?.opens += 1;
        Ok(())
    }

    /// Somebody has closed it. Returns the file when nothing is left of it.
    pub(super) fn close(&mut self, number: u64) -> Option<u64> {
        let node = self.nodes.get_mut(&number)?;
        node.opens = node.opens.saturating_sub(1);
        self.end(number)
    }

    /// Forgets what has no name and is not open.
    fn end(&mut self, number: u64) -> Option<u64> {
        let node = self.nodes.get(&number)?;
        (node.names == 0 && node.opens == 0).then(|| {
            self.nodes.remove(&number);
            number
        })
    }

    /// Moves a name. What had the new name before is gone, unless that is not wanted; returns it
    /// when nothing is left of it.
    pub(super) fn rename(
        &mut self,
        (from, old): (u64, &OsStr),
        (to, new): (u64, &OsStr),
        may_replace: bool,
    ) -> Result<Option<u64>> {
        let number = self.find(from, old)?;
        let there = match self.find(to, new) {
            Ok(there) if there == number => return Ok(None),
            Ok(_) if !may_replace => return Err(Errno::EXIST),
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        self.entries(to)?;
        let is_directory = |number| Ok(matches!(self.node(number)?.kind, Kind::Directory { .. }));
        let mut gone = None;
        if let Some(there) = there {
            match (is_directory(number)?, is_directory(there)?) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) => self.remove_directory(to, new)?,
                (false, false) => gone = self.unlink(to, new)?,
            }
        }
        self.entries_mut(from)?.remove(old);
        self.entries_mut(to)?.insert(new.to_owned(), number);
        self.set_parent(number, to);
        Ok(gone)
    }

    /// Lets two names change places.
    pub(super) fn exchange(&mut self, one: (u64, &OsStr), other: (u64, &OsStr)) -> Result<()> {
        let (first, second) = (self.find(one.0, one.1)?, self.find(other.0, other.1)?);
        self.entries_mut(one.0)?.insert(one.1.to_owned(), second);
        self.entries_mut(other.0)?.insert(other.1.to_owned(), first);
        self.set_parent(first, other.0);
        self.set_parent(second, one.0);
        Ok(())
    }

    fn set_parent(&mut self, number: u64, to: u64) {
        if let Some(Node { kind: Kind::Directory { parent, .. }, .. }) = self.nodes.get_mut(&number)
        {
            *parent = to;
        }
    }

    pub(super) fn parent(&self, directory: u64) -> u64 {
        match self.nodes.get(&directory).map(|node| &node.kind) {
            Some(Kind::Directory { parent, .. }) => *parent,
            _ => ROOT,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.nodes.len() as u64
    }
}
