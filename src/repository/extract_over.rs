//! Laying a backup out over files of an earlier state: only chunks that differ are fetched and
//! written.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Error, PartName, Result};

use super::{
    blobs::FETCH_CHUNKS_MAX,
    extract::blocking,
    reader::{BackupReader, BasePart},
};
use crate::pipeline::{
    Meter,
    id::{ChunkId, is_all_zero},
};

/// Stretches that are compared at once, and what each may hold of plaintext, in bytes.
const STRETCHES_MAX: usize = 3;
const STRETCH_BYTES_MAX: u64 = 8 << 20;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Bytes of the backup.
    pub length_bytes: u64,
    /// Of those, what was fetched and written; the rest was there already.
    pub written_bytes: u64,
}

impl BackupReader {
    /// Makes the files that `place` names what the backup has, durably, and removes every file
    /// below `directory` that it does not have, and directories that are empty then. The part
    /// `last` is removed first and written when everything else is done.
    ///
    /// Repeating it after it was interrupted finishes the work.
    ///
    /// # Errors
    ///
    /// As [`extract`](Self::extract).
    pub async fn extract_over(
        &self,
        directory: &Path,
        last: &str,
        place: impl Fn(&PartName) -> Option<PathBuf>,
        meter: &Meter,
    ) -> Result<Rewritten> {
        let (mut known, mut done, mut held_back) = (HashSet::new(), Rewritten::default(), None);
        let final_path = PartName::new(last).ok().and_then(|name| place(&name));
        if let Some(path) = final_path {
            blocking(&path.clone(), move || remove_durably(&path)).await?;
        }
        let root = directory.to_owned();
        blocking(directory, move || remove_where(&root, &|_, is_link| is_link)).await?;
        for page in 0.. {
            let parts = self.page(page).await?;
            if parts.is_empty() {
                break;
            }
            for entry in parts.iter() {
                let Some(path) = place(&entry.name) else { continue };
                known.insert(hash_of(&path));
                let part = BasePart::new(entry.clone(), self.manifest().chunk_bytes);
                done.length_bytes += entry.length_bytes;
                if entry.name.as_str() == last {
                    held_back = Some((part, path));
                } else {
                    done.written_bytes += self.rewrite(&part, &path, meter).await?;
                }
            }
        }
        let root = directory.to_owned();
        let is_stray = move |path: &Path, _| !known.contains(&hash_of(path));
        blocking(directory, move || remove_where(&root, &is_stray)).await?;
        if let Some((part, path)) = held_back {
            done.written_bytes += self.rewrite(&part, &path, meter).await?;
        }
        Ok(done)
    }

    /// Makes one file what the part is. Returns how many bytes were written.
    async fn rewrite(&self, part: &BasePart, path: &Path, meter: &Meter) -> Result<u64> {
        let (target, length) = (path.to_owned(), part.length_bytes());
        let file = Arc::new(blocking(path, move || open(&target, length)).await?);
        let chunk_bytes = u64::from(self.manifest().chunk_bytes);
        let step = (STRETCH_BYTES_MAX / chunk_bytes).clamp(1, FETCH_CHUNKS_MAX as u64);
        let firsts: Vec<u64> = (0..part.chunks()).step_by(step as usize).collect();
        let mut stretches = stream::iter(firsts)
            .map(|first| {
                let file = Arc::clone(&file);
                async move {
                    let chunks = first..(first + step).min(part.chunks());
                    let ids = part.ids(self.blobs(), chunks.clone()).await?;
                    let wanted: Vec<(u64, ChunkId, usize)> = chunks
                        .zip(ids)
                        .map(|(chunk, id)| (chunk * chunk_bytes, id, part.chunk_length(chunk)))
                        .collect();
                    let bytes: u64 = wanted.iter().map(|(_, _, length)| *length as u64).sum();
                    let (domain, there) = (Arc::clone(&self.blobs().domain), Arc::clone(&file));
                    let compare = move || {
                        let differs = |(at, id, length): &(u64, ChunkId, usize)| {
                            let mut local = vec![0; *length];
                            there.read_exact_at(&mut local, *at)?;
                            let is_same = if id.is_zero() {
                                is_all_zero(&local)
                            } else {
                                domain.chunk_id(&local) == *id
                            };
                            Ok::<_, io::Error>(!is_same)
                        };
                        let mut different = Vec::new();
                        for chunk in wanted {
                            if differs(&chunk)? {
                                different.push(chunk);
                            }
                        }
                        Ok(different)
                    };
                    let different = blocking(path, compare).await?;
                    let asked: Vec<_> = different.iter().map(|(_, id, n)| (*id, *n)).collect();
                    let chunks: Vec<Bytes> = self.blobs().fetch(&asked).await?;
                    let write = move || {
                        let mut written = 0;
                        for ((at, ..), plain) in different.iter().zip(&chunks) {
                            file.write_all_at(plain, *at)?;
                            written += plain.len() as u64;
                        }
                        Ok(written)
                    };
                    let written = blocking(path, write).await?;
                    meter.advance(bytes);
                    Ok::<u64, Error>(written)
                }
            })
            .buffer_unordered(STRETCHES_MAX);
        let mut written = 0;
        while let Some(bytes) = stretches.try_next().await? {
            written += bytes;
        }
        drop(stretches);
        blocking(path, move || file.sync_all()).await?;
        Ok(written)
    }
}

/// A file of this length to compare with; whatever else stands there is removed.
fn open(path: &Path, length: u64) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path)?,
        Ok(found) if !found.is_file() => fs::remove_file(path)?,
        _ => {}
    }
    let mut options = File::options();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_len(length)?;
    Ok(file)
}

fn remove_durably(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Removes files, by path and by whether they are links. Never follows a link.
fn remove_where(directory: &Path, is_unwanted: &dyn Fn(&Path, bool) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            remove_where(&path, is_unwanted)?;
            // Whoever needs an empty directory makes it again.
            let _ = fs::remove_dir(&path);
        } else if is_unwanted(&path, kind.is_symlink()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Enough to know a path again: 16 bytes for each of perhaps a million.
fn hash_of(path: &Path) -> u128 {
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
    let (half, _) = hash.as_bytes().split_at(16);
    half.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}
