//! Laying a backup out as files: in the order of the repository, in parallel, verified.

use std::{
    collections::HashMap,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, PartName, RecoveryTarget, Result, code};
use tokio::task::JoinHandle;

use super::{
    Repository,
    blobs::FETCH_CHUNKS_MAX,
    heads::Heads,
    history::Committed,
    names,
    reader::{BackupReader, BasePart},
    timeline::Timeline,
};
use crate::pipeline::Meter;

/// Fetches under way at once, and what each may hold of plaintext, in bytes.
const FETCHES_MAX: usize = 3;
const FETCH_BYTES_MAX: u64 = 8 << 20;

/// After so many bytes the disk is told to begin, so that it does not wait for the last chunk.
const WRITE_BACK_BYTES: u64 = 32 << 20;

impl Repository {
    /// Stored bytes of the captured log that lies between a backup and a target, for progress:
    /// where the target's segment is not found at once, all that follows counts.
    pub async fn log_bytes(
        &self,
        timeline: &Timeline,
        backup: &Committed,
        until: &RecoveryTarget,
    ) -> Result<u64> {
        let coverage = timeline.coverage_of(backup);
        let Some((coverage, own)) = coverage.zip(backup.commit.consistent_at.as_ref()) else {
            return Ok(0);
        };
        let (heads, all) = (Heads::new(self, &timeline.database), &coverage.segments);
        let first = heads.anchor(all, own, backup.commit.consistent_time).await?.unwrap_or(0);
        let last = match until {
            RecoveryTarget::Consistent => return Ok(0),
            RecoveryTarget::Latest => None,
            RecoveryTarget::Time(at) => Some(heads.at_time(all, *at).await?),
            RecoveryTarget::Position(at) => heads.anchor(all, at, coverage.end.at).await?,
        };
        let last = last.unwrap_or(all.len().saturating_sub(1));
        let listed = self.store.list(&names::streams(&timeline.database)).await?;
        let sizes: HashMap<_, _> = listed
            .iter()
            .filter_map(|object| Some((names::segment_of(&object.key)?, object.size_bytes)))
            .collect();
        let needed = all.iter().take(last + 1).skip(first);
        Ok(needed.filter_map(|id| sizes.get(&(id.stream.clone(), id.seq))).sum())
    }
}

impl BackupReader {
    /// Writes every part to the file that `place` names, durably; parts without a place are left
    /// out. Holes stay holes. Files and directories are open to their owner only: who else may read
    /// them, the engine knows.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Missing`](ErrorKind::Missing) for what cannot be read;
    /// the files are then incomplete and must not be used.
    pub async fn extract(
        &self,
        place: impl Fn(&PartName) -> Option<PathBuf>,
        meter: &Meter,
    ) -> Result<u64> {
        let mut written = 0;
        for page in 0.. {
            let parts = self.page(page).await?;
            if parts.is_empty() {
                break;
            }
            for entry in parts.iter() {
                let Some(path) = place(&entry.name) else { continue };
                let part = BasePart::new(entry.clone(), self.manifest().chunk_bytes);
                self.extract_part(&part, &path, meter).await?;
                written += entry.length_bytes;
            }
        }
        Ok(written)
    }

    async fn extract_part(&self, part: &BasePart, path: &Path, meter: &Meter) -> Result<()> {
        let file = Arc::new(create(path, part.length_bytes()).await?);
        let chunk_bytes = u64::from(self.manifest().chunk_bytes);
        let step = (FETCH_BYTES_MAX / chunk_bytes).clamp(1, FETCH_CHUNKS_MAX as u64);
        let firsts: Vec<u64> = (0..part.chunks()).step_by(step as usize).collect();
        let mut fetches = stream::iter(firsts)
            .map(|first| {
                let (file, path) = (Arc::clone(&file), path.to_owned());
                async move {
                    let last = (first + step).min(part.chunks());
                    let ids = part.ids(self.blobs(), first..last).await?;
                    let chunks = part.fetch(self.blobs(), first..last).await?;
                    let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
                    let job = move || {
                        for ((chunk, plain), id) in (first..).zip(&chunks).zip(ids) {
                            if !id.is_zero() {
                                file.write_all_at(plain, chunk * chunk_bytes)?;
                            }
                        }
                        Ok(())
                    };
                    blocking(&path, job).await?;
                    meter.advance(bytes);
                    Ok::<_, Error>(bytes)
                }
            })
            .buffer_unordered(FETCHES_MAX);
        let mut write_back = WriteBack { file: Arc::clone(&file), dirty_bytes: 0, running: None };
        while let Some(bytes) = fetches.try_next().await? {
            write_back.add(bytes, path).await?;
        }
        write_back.finish(path).await
    }
}

/// Makes a file durable while it is being written, one stretch at a time.
struct WriteBack {
    file: Arc<File>,
    dirty_bytes: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl WriteBack {
    async fn add(&mut self, bytes: u64, path: &Path) -> Result<()> {
        self.dirty_bytes += bytes;
        let is_free = self.running.as_ref().is_none_or(JoinHandle::is_finished);
        if self.dirty_bytes < WRITE_BACK_BYTES || !is_free {
            return Ok(());
        }
        self.settle(path).await?;
        let file = Arc::clone(&self.file);
        self.running = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        self.dirty_bytes = 0;
        Ok(())
    }

    async fn finish(mut self, path: &Path) -> Result<()> {
        self.settle(path).await?;
        blocking(path, move || self.file.sync_all()).await
    }

    /// The system tells of a failed write only once, so every answer counts.
    async fn settle(&mut self, path: &Path) -> Result<()> {
        match self.running.take() {
            Some(running) => joined(path, running).await,
            None => Ok(()),
        }
    }
}

async fn create(path: &Path, length_bytes: u64) -> Result<File> {
    let target = path.to_owned();
    blocking(path, move || {
        if let Some(parent) = target.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&target)?;
        file.set_len(length_bytes)?;
        Ok(file)
    })
    .await
}

pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    joined(path, tokio::task::spawn_blocking(job)).await
}

async fn joined<T>(path: &Path, job: JoinHandle<io::Result<T>>) -> Result<T> {
    let done = job.await;
    let done = done.map_err(|e| Error::bug("write a file").caused_by(e))?;
    done.map_err(|cause| {
        let full =
            matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (kind, code) = match cause.kind() {
            _ if full => (ErrorKind::Exhausted, code::FILE_FULL),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                (ErrorKind::Denied, code::FILE)
            }
            _ => (ErrorKind::Transient, code::FILE),
        };
        let error = Error::new(kind, code, format!("write {}", path.display())).caused_by(cause);
        if full { error.next("choose a target where there is more room") } else { error }
    })
}
