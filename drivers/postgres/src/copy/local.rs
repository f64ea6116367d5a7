//! Files of a cluster, read and listed from the disk beside the server.

use std::{
    collections::HashSet,
    fs, io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_contract::{BufferPool, Error, ErrorKind, Result, code};
use tokio::{sync::mpsc, task};

use super::{
    crew::Entry,
    names::{Skip, skip, stem},
    pages::{self, Check, Pages},
    sql::is_left_out,
};
use crate::error;

/// How deep directories may be nested.
const DEPTH_MAX: usize = 32;

/// A data directory that we may read.
#[derive(Clone, Debug)]
pub(crate) struct LocalFiles {
    root: Arc<PathBuf>,
    pool: BufferPool,
}

impl LocalFiles {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: Arc::new(root.to_owned()), pool: BufferPool::default() }
    }

    pub(crate) async fn read_pages(
        &self,
        path: &str,
        ranges: Vec<Range<u64>>,
        check: Option<Check>,
    ) -> Result<Option<Vec<Pages>>> {
        let (path, pool) = (self.root.join(path), self.pool.clone());
        blocking(move || {
            let Some(file) = open(&path)? else { return Ok(None) };
            let mut pieces = Vec::with_capacity(ranges.len());
            for range in ranges {
                let start = range.start;
                let bytes = pages::read(&pool, &file, range).map_err(|e| failed(e, &path))?;
                pieces.push(Pages::checked(start, bytes, check));
            }
            Ok(Some(pieces))
        })
        .await
    }

    pub(crate) async fn read(
        &self,
        path: &str,
        ranges: Vec<Range<u64>>,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let path = self.root.join(path);
        blocking(move || {
            let Some(file) = open(&path)? else { return Ok(None) };
            let mut pieces = Vec::with_capacity(ranges.len());
            for range in ranges {
                pieces.push(read_range(&file, range).map_err(|e| failed(e, &path))?);
            }
            Ok(Some(pieces))
        })
        .await
    }

    pub(crate) async fn read_small(
        &self,
        wanted: Vec<(String, u64)>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let root = Arc::clone(&self.root);
        blocking(move || {
            let read = |(path, length)| -> Result<_> {
                let path = root.join::<String>(path);
                let Some(file) = open(&path)? else { return Ok(None) };
                read_range(&file, 0..length).map(Some).map_err(|e| failed(e, &path))
            };
            wanted.into_iter().map(read).collect()
        })
        .await
    }

    /// Lists files into `entries`, and returns the directories.
    pub(crate) async fn list(
        &self,
        major: u32,
        skipped: Vec<String>,
        entries: mpsc::Sender<Result<Entry>>,
    ) -> Result<Vec<String>> {
        let root = Arc::clone(&self.root);
        blocking(move || {
            let mut walk = Walk { root: &root, major, skipped, entries, directories: Vec::new() };
            walk.descend("", 0)?;
            Ok(walk.directories)
        })
        .await
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    task::spawn_blocking(work).await.map_err(|e| Error::bug("read files").caused_by(e))?
}

fn failed(cause: io::Error, path: &Path) -> Error {
    error::file(cause, "read a file of the cluster", path)
}

/// Opens a file; `None` when it is gone.
fn open(path: &Path) -> Result<Option<fs::File>> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(failed(cause, path)),
    }
}

/// Reads a range, shorter where the file ends.
fn read_range(file: &fs::File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let there = file.metadata()?.len().saturating_sub(range.start);
    let mut bytes = vec![0; (range.end - range.start).min(there) as usize];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, range.start + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

struct Walk<'a> {
    root: &'a Path,
    major: u32,
    skipped: Vec<String>,
    entries: mpsc::Sender<Result<Entry>>,
    directories: Vec<String>,
}

impl Walk<'_> {
    fn descend(&mut self, directory: &str, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::Refused, code::FILE, "list the cluster's files")
                .with("directory", directory)
                .why("directories are nested too deeply"));
        }
        let names = self.names(directory)?;
        let unlogged: HashSet<String> = names
            .iter()
            .filter(|name| name.ends_with("_init"))
            .map(|name| stem(&joined(directory, name)).to_owned())
            .collect();
        for name in names {
            let path = joined(directory, &name);
            if is_left_out(&path, self.major, &unlogged, &self.skipped) {
                continue;
            }
            let full = self.root.join(&path);
            let metadata = match fs::metadata(&full) {
                Ok(metadata) => metadata,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(failed(cause, &full)),
            };
            if metadata.is_dir() {
                self.directories.push(path.clone());
                if skip(&path, self.major) != Skip::Contents {
                    self.descend(&path, depth + 1)?;
                }
            } else if metadata.is_file() {
                let entry = Entry { path, length_bytes: metadata.len() };
                if self.entries.blocking_send(Ok(entry)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn names(&self, directory: &str) -> Result<Vec<String>> {
        let path = self.root.join(directory);
        let listed = match fs::read_dir(&path) {
            Ok(listed) => listed,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(failed(cause, &path)),
        };
        let mut names = Vec::new();
        for entry in listed {
            let name = entry.map_err(|e| failed(e, &path))?.file_name();
            names.push(name.into_string().map_err(|name| {
                Error::new(ErrorKind::Refused, code::BAD_NAME, "read the name of a file")
                    .with("file", path.join(name).display())
                    .next("remove it: PostgreSQL itself makes no names that are not UTF-8")
            })?);
        }
        names.sort_unstable();
        Ok(names)
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}
