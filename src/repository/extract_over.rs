//! Laying a backup out over files of an earlier state: only chunks that differ are fetched, and of
//! them only blocks that differ are written.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io,
    ops::Range,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::StreamExt as _;
use stillpoint_contract::{Buffer, BufferPool, PartName, Result};

use super::{
    extract::{
        EndsWithMe, Going, Piece, STRETCHES_MAX, Stretch, Target, blocking, failed, stretches,
    },
    manifest::PartEntry,
    reader::{BackupReader, BasePart},
};
use crate::pipeline::{
    Meter,
    id::{ChunkId, is_all_zero},
};

/// What is compared and written as one, in bytes: the smallest page of any engine, or several.
const BLOCK_BYTES: usize = 4096;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Bytes of the backup.
    pub length_bytes: u64,
    /// Of those, what differed and was written; the rest was there already.
    pub written_bytes: u64,
}

impl BackupReader {
    /// Makes the files that `place` names what the backup has, and removes every file below
    /// `directory` that it does not have, and directories that are empty then. The part `last` is
    /// removed first, and written when everything else is done and `settle` has made it durable.
    ///
    /// Repeating it after it was interrupted finishes the work. Whoever uses the files makes them
    /// durable first.
    ///
    /// # Errors
    ///
    /// As [`extract`](Self::extract).
    pub async fn extract_over(
        &self,
        directory: &Path,
        last: &str,
        place: impl Fn(&PartName) -> Option<PathBuf>,
        settle: impl AsyncFnOnce() -> Result<()>,
        meter: &Meter,
    ) -> Result<Rewritten> {
        let final_path = PartName::new(last).ok().and_then(|name| place(&name));
        let going = Going::default();
        let _end = EndsWithMe(&going);
        let (root, its) = (directory.to_owned(), going.clone());
        let prepare = move || {
            let _leave = its.leave()?;
            if let Some(path) = final_path {
                remove_durably(&path).map_err(|cause| failed(&path, cause))?;
            }
            remove_where(&root, &|_, is_link| is_link).map_err(|cause| failed(&root, cause))
        };
        blocking(prepare).await?;

        let (mut known, mut held_back) = (HashSet::new(), None);
        let mut done = Rewritten::default();
        let target = |entry: &PartEntry| {
            let path = place(&entry.name)?;
            known.insert(hash_of(&path));
            done.length_bytes += entry.length_bytes;
            let part = BasePart::new(entry.clone(), self.manifest().chunk_bytes);
            let target = Target::new(part, path);
            if entry.name.as_str() == last {
                held_back = Some(target);
                return None;
            }
            Some(target)
        };
        let wanted = self.laid_out(target).take_while(|_| futures::future::ready(going.is_so()));
        let pool = BufferPool::default();
        let written =
            wanted.map(|stretch| async { self.rewrite(stretch?, &going, &pool, meter).await });
        let mut written_bytes = 0;
        let count = async |bytes: u64| {
            written_bytes += bytes;
            Ok(())
        };
        going.gather(written.buffer_unordered(STRETCHES_MAX), count).await?;
        done.written_bytes += written_bytes;

        let (root, its) = (directory.to_owned(), going.clone());
        let remove_strays = move || {
            let _leave = its.leave()?;
            let is_stray = |path: &Path, _| !known.contains(&hash_of(path));
            remove_where(&root, &is_stray).map_err(|cause| failed(&root, cause))
        };
        blocking(remove_strays).await?;
        if let Some(target) = held_back {
            settle().await?;
            for stretch in stretches(vec![target], self.stretch_chunks()) {
                done.written_bytes += self.rewrite(stretch, &going, &pool, meter).await?;
            }
        }
        Ok(done)
    }

    /// Makes a stretch of files what the parts are. Returns how many bytes were written.
    async fn rewrite(
        &self,
        Stretch(pieces): Stretch,
        going: &Going,
        pool: &BufferPool,
        meter: &Meter,
    ) -> Result<u64> {
        let chunk_bytes = u64::from(self.manifest().chunk_bytes);
        let mut wanted = Vec::new();
        for Piece { target, chunks } in &pieces {
            let ids = target.part.ids(self.blobs(), chunks.clone()).await?;
            let chunks = chunks.clone().zip(ids);
            wanted.extend(chunks.map(|(chunk, id)| Wanted {
                target: Arc::clone(target),
                at: chunk * chunk_bytes,
                id,
                length: target.part.chunk_length(chunk),
            }));
        }
        let bytes: usize = wanted.iter().map(|chunk| chunk.length).sum();
        let domain = Arc::clone(&self.blobs().domain);
        let (its, pool) = (going.clone(), pool.clone());
        let compare = move || {
            let _leave = its.leave()?;
            // Empty files and those that are too long have no chunk that differs.
            for piece in &pieces {
                piece.target.file(open)?;
            }
            let mut different: Vec<(Wanted, Option<Buffer>)> = Vec::new();
            for chunk in wanted {
                let mut local = pool.take(chunk.length);
                if chunk.target.file(open)?.read_exact_at(&mut local, chunk.at).is_err() {
                    // A disk that cannot give it back may still take it.
                    different.push((chunk, None));
                    continue;
                }
                let is_same = if chunk.id.is_zero() {
                    is_all_zero(&local)
                } else {
                    domain.chunk_id(&local) == chunk.id
                };
                if !is_same {
                    different.push((chunk, Some(local)));
                }
            }
            Ok(different)
        };
        let different = blocking(compare).await?;
        let asked: Vec<_> = different.iter().map(|(chunk, _)| (chunk.id, chunk.length)).collect();
        let chunks: Vec<Bytes> = self.blobs().fetch(&asked).await?;
        let its = going.clone();
        let write = move || {
            let _leave = its.leave()?;
            let mut written = 0;
            for ((chunk, local), plain) in different.iter().zip(&chunks) {
                let file = chunk.target.file(open)?;
                for blocks in differing(local.as_deref().unwrap_or_default(), plain) {
                    let at = chunk.at + blocks.start as u64;
                    let done = file.write_all_at(&plain[blocks.clone()], at);
                    done.map_err(|cause| failed(&chunk.target.path, cause))?;
                    written += blocks.len() as u64;
                }
            }
            Ok(written)
        };
        let written = if asked.is_empty() { 0 } else { blocking(write).await? };
        meter.advance(bytes as u64);
        Ok(written)
    }
}

/// What a file shall have at one place.
struct Wanted {
    target: Arc<Target>,
    at: u64,
    id: ChunkId,
    length: usize,
}

/// Where two chunks differ, in whole blocks: everywhere, if they are not of the same length.
fn differing(local: &[u8], plain: &[u8]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    if local.len() != plain.len() {
        ranges.push(0..plain.len());
        return ranges;
    }
    let pairs = local.chunks(BLOCK_BYTES).zip(plain.chunks(BLOCK_BYTES));
    for (number, (local, plain)) in pairs.enumerate().filter(|(_, (local, plain))| local != plain) {
        let start = number * BLOCK_BYTES;
        let end = start + plain.len().min(local.len());
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
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
        // Who removed it may have been killed before that was durable.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    match File::open(path.parent().unwrap_or(Path::new("/"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        directory => directory?.sync_all(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_differ_are_written_and_all_of_them() {
        let plain: Vec<u8> = (0..10 * BLOCK_BYTES + 100).map(|i| (i % 251) as u8).collect();
        let ends = |ranges: Vec<Range<usize>>| -> Vec<(usize, usize)> {
            ranges.into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert!(differing(&plain, &plain).is_empty());
        assert_eq!(ends(differing(&[], &plain)), [(0, plain.len())]);
        let block = BLOCK_BYTES;
        for (touched, expected) in [
            (vec![0], vec![(0, block)]),
            (vec![block - 1, block], vec![(0, 2 * block)]),
            (vec![2 * block, 5 * block - 1], vec![(2 * block, 3 * block), (4 * block, 5 * block)]),
            (vec![10 * block + 99], vec![(10 * block, 10 * block + 100)]),
        ] {
            let mut local = plain.clone();
            for at in touched {
                local[at] ^= 1;
            }
            let ranges = differing(&local, &plain);
            assert_eq!(ends(ranges.clone()), expected);
            for range in ranges {
                local[range.clone()].copy_from_slice(&plain[range]);
            }
            assert!(local == plain);
        }
    }
}
