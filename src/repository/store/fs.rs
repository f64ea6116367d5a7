//! The few file-system operations that a durable store is made of.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use chrono::{DateTime, Utc};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

/// What [`LocalStore`](super::LocalStore) needs of a file system.
///
/// Small, so that a simulated disk that loses power can stand below the very same store. Paths are
/// absolute. Calls block. Names and bytes are durable only after the call that says so.
pub trait Fs: fmt::Debug + Send + Sync + 'static {
    /// Writes a new file and makes its bytes, not its name, durable.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) when the name is taken. Any other failure may
    /// leave a file with any part of the bytes behind.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Gives a file a second name, atomically, unless that name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames a file, atomically, unless the new name is taken.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames a file, atomically, replacing what has the new name.
    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Whether both names are the same file.
    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool>;

    /// Removes a name of a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory. Its parent must exist.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes every name in a directory, and the lack of removed ones, durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Reads a stretch of a regular file, clipped to its length; `None` when there is none.
    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Option<Vec<u8>>>;

    /// The entries of a directory, in any order. Entries that vanish meanwhile are left out.
    fn entries(&self, directory: &Path) -> io::Result<Vec<Entry>>;
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The last segment of its path.
    pub name: OsString,
    /// What has that name.
    pub node: Node,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes.
        size_bytes: u64,
        /// When its bytes were last written.
        modified: DateTime<Utc>,
    },
    /// A symbolic link, a socket or a device: nothing that a store makes.
    Other,
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// Objects never change, so their files cannot be written; the umask takes further bits away.
const FILE_MODE: u32 = 0o444;

impl Fs for RealFs {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn is_same(&self, one: &Path, other: &Path) -> io::Result<bool> {
        let (one, other) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match fs::File::open(path)?.sync_all() {
            // Some network file systems have nothing to sync in a directory.
            // Source: fsync(2), EINVAL: "a special file which does not support synchronization".
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            done => done,
        }
    }

    fn read(&self, path: &Path, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        // Without the flag, opening a pipe that somebody put there would wait for ever.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let end = range.end.min(metadata.len());
        let start = range.start.min(end);
        let mut bytes = Vec::with_capacity((end - start) as usize);
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn entries(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => {
                    entries.push(Entry { name: entry.file_name(), node: node(&metadata)? });
                }
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }
}

fn node(metadata: &fs::Metadata) -> io::Result<Node> {
    Ok(if metadata.is_dir() {
        Node::Directory
    } else if metadata.is_file() {
        Node::File { size_bytes: metadata.len(), modified: metadata.modified()?.into() }
    } else {
        Node::Other
    })
}

/// Whether an error says that there is no such file, and nothing worse.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
