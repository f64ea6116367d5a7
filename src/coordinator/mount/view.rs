//! Answers of a mounted backup to the kernel.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::io::Errno;

use super::{
    files::{Files, MODE_BITS, errno, held},
    overlay::Body,
    tree::{Kind, Node, Own},
};

/// How long the kernel may believe what it was told: nobody else changes anything.
const BELIEVED: Duration = Duration::from_hours(1);

/// The longest write in one request, in bytes; a read may be as long.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests under way that nobody waits for, such as reading ahead.
const BACKGROUND_MAX: u16 = 64;

const UNIT_BYTES: u64 = 512;

type Answer<T> = Result<T, Errno>;

/// A directory as it was when it was opened.
type Listing = Arc<Vec<(OsString, u64)>>;

/// A part of what is mounted, as one mount shows it.
#[derive(Debug)]
pub(super) struct View {
    files: Arc<Files>,
    /// What the mount's root is.
    root: u64,
    listings: Mutex<HashMap<u64, Listing>>,
    handles: AtomicU64,
}

fn told(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

impl View {
    pub(super) fn new(files: Arc<Files>, root: u64) -> Self {
        Self { files, root, listings: Mutex::default(), handles: AtomicU64::new(1) }
    }

    fn number(&self, ino: INodeNo) -> u64 {
        if ino == INodeNo::ROOT { self.root } else { ino.0 }
    }

    fn ino(&self, number: u64) -> INodeNo {
        if number == self.root { INodeNo::ROOT } else { INodeNo(number) }
    }

    fn listings(&self) -> MutexGuard<'_, HashMap<u64, Listing>> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, number: u64, node: &Node) -> FileAttr {
        let (kind, size, links) = match &node.kind {
            Kind::Directory { .. } => (FileType::Directory, 0, 2),
            Kind::File(body) => (FileType::RegularFile, held(body).length(), node.names),
            Kind::Link(target) => (FileType::Symlink, target.as_os_str().len() as u64, 1),
        };
        let Own { mode, user, group, changed_at } = node.own;
        FileAttr {
            ino: self.ino(number),
            size,
            blocks: size.div_ceil(UNIT_BYTES),
            atime: changed_at,
            mtime: changed_at,
            ctime: changed_at,
            crtime: changed_at,
            kind,
            perm: mode,
            nlink: links,
            uid: user,
            gid: group,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn entry(&self, number: Answer<u64>, reply: ReplyEntry) {
        let tree = self.files.tree();
        let found = number.and_then(|number| Ok((number, tree.node(number)?)));
        match found {
            Ok((number, node)) => {
                reply.entry(&BELIEVED, &self.attributes(number, node), Generation(0));
            }
            Err(errno) => reply.error(told(errno)),
        }
    }

    /// May anything be changed, and do we still answer?
    fn may_write(&self) -> Answer<()> {
        match (&self.files.overlay, self.files.has_ended()) {
            (_, true) => Err(Errno::IO),
            (None, _) => Err(Errno::ROFS),
            (Some(_), false) => Ok(()),
        }
    }

    fn own(&self, request: &Request, mode: u32) -> Own {
        Own {
            mode: (mode & MODE_BITS) as u16,
            user: request.uid(),
            group: request.gid(),
            changed_at: self.files.now(),
        }
    }

    fn touch(&self, directory: u64) {
        let now = self.files.now();
        if let Ok(node) = self.files.tree_mut().node_mut(directory) {
            node.own.changed_at = now;
        }
    }

    fn add(&self, parent: INodeNo, name: &OsStr, kind: Kind, own: Own) -> Answer<u64> {
        self.may_write()?;
        let parent = self.number(parent);
        let added = self.files.tree_mut().add(parent, name, kind, own)?;
        self.touch(parent);
        Ok(added)
    }

    fn set(
        &self,
        number: u64,
        (mode, user, group): (Option<u32>, Option<u32>, Option<u32>),
        size: Option<u64>,
        changed_at: Option<TimeOrNow>,
    ) -> Answer<()> {
        self.may_write()?;
        if let (Some(size), Some(overlay)) = (size, &self.files.overlay) {
            let body = self.files.tree().body(number)?;
            held(&body).resize((overlay, number), size).map_err(|error| errno(&error))?;
        }
        let now = self.files.now();
        let mut tree = self.files.tree_mut();
        let own = &mut tree.node_mut(number)?.own;
        if let Some(mode) = mode {
            own.mode = (mode & MODE_BITS) as u16;
        }
        own.user = user.unwrap_or(own.user);
        own.group = group.unwrap_or(own.group);
        match changed_at {
            Some(TimeOrNow::SpecificTime(at)) => own.changed_at = at,
            Some(TimeOrNow::Now) => own.changed_at = now,
            None if size.is_some() => own.changed_at = now,
            None => {}
        }
        Ok(())
    }

    fn written(files: &Files, number: u64, at: SystemTime) {
        if let Ok(node) = files.tree_mut().node_mut(number) {
            node.own.changed_at = at;
        }
    }

    fn list(&self, ino: INodeNo) -> Answer<u64> {
        let number = self.number(ino);
        let listing = {
            let tree = self.files.tree();
            let entries = tree.entries(number)?;
            let parent = if number == self.root { number } else { tree.parent(number) };
            let dots = [(OsString::from("."), number), (OsString::from(".."), parent)];
            let entries = entries.iter().map(|(name, number)| (name.clone(), *number));
            dots.into_iter().chain(entries).collect()
        };
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        self.listings().insert(handle, Arc::new(listing));
        Ok(handle)
    }

    /// What of a listing still has its name, from an entry on: the kernel believes every name that
    /// it is told.
    fn listed(
        &self,
        (ino, handle): (INodeNo, FileHandle),
        offset: u64,
    ) -> Vec<(u64, OsString, FileAttr)> {
        let listing = self.listings().get(&handle.0).map(Arc::clone).unwrap_or_default();
        let tree = self.files.tree();
        let entries = (1_u64..).zip(listing.iter()).skip(offset as usize);
        let Ok(now) = tree.entries(self.number(ino)) else { return Vec::new() };
        let is_there = |name: &OsString, number: u64| {
            name == "." || name == ".." || now.get(name) == Some(&number)
        };
        let entry = |(next, (name, number)): (u64, &(OsString, u64))| {
            if !is_there(name, *number) {
                return None;
            }
            let node = tree.node(*number).ok()?;
            Some((next, name.clone(), self.attributes(*number, node)))
        };
        entries.filter_map(entry).take(LISTED_MAX).collect()
    }
}

/// Entries of a directory that are put together for one answer, of which as many as fit are given.
const LISTED_MAX: usize = 1024;

fn empty(done: Answer<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(told(errno)),
    }
}

impl Filesystem for View {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
        ] {
            // An older kernel does without.
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_readahead(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.tree().find(self.number(parent), name);
        self.entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let number = self.number(ino);
        match self.files.tree().node(number) {
            Ok(node) => reply.attr(&BELIEVED, &self.attributes(number, node)),
            Err(errno) => reply.error(told(errno)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.set(self.number(ino), (mode, uid, gid), size, mtime) {
            Ok(()) => self.getattr(request, ino, fh, reply),
            Err(errno) => reply.error(told(errno)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.files.tree().node(self.number(ino)).map(|node| &node.kind) {
            Ok(Kind::Link(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            Ok(_) => reply.error(fuser::Errno::EINVAL),
            Err(errno) => reply.error(told(errno)),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let around = self.number(parent);
        let kind = Kind::Directory { parent: around, entries: std::collections::BTreeMap::new() };
        self.entry(self.add(parent, name, kind, self.own(request, mode)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = self.number(parent);
        let done = self.may_write().and_then(|()| {
            let gone = self.files.tree_mut().unlink(parent, name)?;
            self.files.gone(gone);
            self.touch(parent);
            Ok(())
        });
        empty(done, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = self.number(parent);
        let done = self.may_write().and_then(|()| {
            self.files.tree_mut().remove_directory(parent, name)?;
            self.touch(parent);
            Ok(())
        });
        empty(done, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let own = self.own(request, 0o777);
        self.entry(self.add(parent, name, Kind::Link(target.into()), own), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (self.number(parent), self.number(newparent));
        let done = self.may_write().and_then(|()| {
            let mut tree = self.files.tree_mut();
            if flags.contains(RenameFlags::RENAME_EXCHANGE) {
                tree.exchange((from, name), (to, newname))?;
                return Ok(());
            }
            let may_replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
            let gone = tree.rename((from, name), (to, newname), may_replace)?;
            drop(tree);
            self.files.gone(gone);
            self.touch(from);
            self.touch(to);
            Ok(())
        });
        empty(done, reply);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (number, directory) = (self.number(ino), self.number(newparent));
        let linked = self.may_write().and_then(|()| {
            self.files.tree_mut().link(number, directory, newname)?;
            self.touch(directory);
            Ok(number)
        });
        self.entry(linked, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.files.overlay.is_none() {
            // Nothing goes away: the kernel need not tell who has what open, nor ask again.
            return reply.error(fuser::Errno::ENOSYS);
        }
        match self.files.tree_mut().open(self.number(ino)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(told(errno)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let kind = Kind::File(Arc::new(Mutex::new(Body::empty())));
        let made = self.add(parent, name, kind, self.own(request, mode)).and_then(|number| {
            let mut tree = self.files.tree_mut();
            tree.open(number)?;
            Ok(self.attributes(number, tree.node(number)?))
        });
        let flags = FopenFlags::FOPEN_KEEP_CACHE;
        match made {
            Ok(made) => reply.created(&BELIEVED, &made, Generation(0), FileHandle(0), flags),
            Err(errno) => reply.error(told(errno)),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let gone = self.files.tree_mut().close(self.number(ino));
        self.files.gone(gone);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let number = self.number(ino);
        let body = match self.files.tree().body(number) {
            Ok(_) if self.files.has_ended() => return reply.error(fuser::Errno::EIO),
            Ok(body) => body,
            Err(errno) => return reply.error(told(errno)),
        };
        let pieces = held(&body).pieces(offset..offset + u64::from(size));
        match self.files.at_hand(number, &pieces, &body) {
            Some(Ok(bytes)) => return reply.data(&bytes),
            Some(Err(error)) => return reply.error(told(errno(&error))),
            None => {}
        }
        // The answer is given from another thread, so that others need not wait for it.
        let files = Arc::clone(&self.files);
        self.files.runtime.spawn(async move {
            match files.read(number, pieces, &body).await {
                Ok(bytes) => reply.data(&bytes),
                Err(errno) => reply.error(told(errno)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let number = self.number(ino);
        let body = match self.may_write().and_then(|()| self.files.tree().body(number)) {
            Ok(body) => body,
            Err(errno) => return reply.error(told(errno)),
        };
        let (length, now) = (data.len() as u32, self.files.now());
        let Some(overlay) = &self.files.overlay else { return };
        let needed = held(&body).needed_for(offset, u64::from(length));
        if needed.is_empty() {
            let written = held(&body).write((overlay, number), offset, data, &[]);
            return match written {
                Ok(()) => {
                    Self::written(&self.files, number, now);
                    reply.written(length);
                }
                Err(error) => reply.error(told(errno(&error))),
            };
        }
        let (files, data) = (Arc::clone(&self.files), data.to_vec());
        self.files.runtime.spawn(async move {
            let mut under = Vec::with_capacity(needed.len());
            for (block, part, range) in needed {
                match files.part(part, range).await {
                    Ok(bytes) => under.push((block, bytes)),
                    Err(errno) => return reply.error(told(errno)),
                }
            }
            let Some(overlay) = &files.overlay else { return };
            let written = held(&body).write((overlay, number), offset, &data, &under);
            match written {
                Ok(()) => {
                    Self::written(&files, number, now);
                    reply.written(length);
                }
                Err(error) => reply.error(told(errno(&error))),
            }
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let number = self.number(ino);
        let longer = self.files.tree().body(number).map(|body| {
            Some(offset.saturating_add(length)).filter(|end| held(&body).length() < *end)
        });
        let done = longer.and_then(|longer| match longer {
            Some(_) => self.set(number, (None, None, None), longer, None),
            None => self.may_write(),
        });
        empty(done, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(ino) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(told(errno)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (next, name, attributes) in self.listed((ino, fh), offset) {
            if reply.add(attributes.ino, next, attributes.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (next, name, attributes) in self.listed((ino, fh), offset) {
            let ino = attributes.ino;
            if reply.add(ino, next, name, &BELIEVED, &attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let files = self.files.tree().count();
        let room = self.files.overlay.as_ref();
        let room = room.and_then(|overlay| rustix::fs::statvfs(overlay.directory()).ok());
        match room {
            Some(room) => reply.statfs(
                room.f_blocks,
                room.f_bfree,
                room.f_bavail,
                files + room.f_ffree,
                room.f_ffree,
                room.f_bsize as u32,
                255,
                room.f_frsize as u32,
            ),
            None => reply.statfs(0, 0, 0, files, 0, 4096, 255, 4096),
        }
    }

    // What is thrown away need not be durable. This answer means: no need to ask again.

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    // There is none of these here, and the kernel need not ask again.

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
