//! Laying a backup out as files: in the order of the repository, in parallel, verified.

use std::{
    collections::HashMap,
    fs::{DirBuilder, File},
    io,
    ops::Range,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, PartName, RecoveryTarget, Result, code};
use tokio::task::JoinHandle;

use super::{
    Repository,
    blobs::{FETCH_CHUNKS_MAX, Wanted},
    heads::Heads,
    history::Committed,
    manifest::PartEntry,
    names,
    reader::{BackupReader, BasePart},
    timeline::Timeline,
};
use crate::pipeline::Meter;

/// Stretches under way at once, what each may hold of plaintext in bytes, and of how many files.
pub(super) const STRETCHES_MAX: usize = 3;
const STRETCH_BYTES_MAX: u64 = 8 << 20;
const STRETCH_FILES_MAX: usize = 64;

/// After so many bytes the disk is told to begin, so that it does not wait for the last chunk.
const WRITE_BACK_BYTES: u64 = 32 << 20;

/// How many files stay open until the disk has got to them.
const DIRTY_FILES_MAX: usize = 64;

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
            RecoveryTarget::Time(at) => Some(heads.passing(all, *at).await?),
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

/// What is laid out in one go: neighbouring chunks, of one large part or of many small ones.
pub(super) struct Stretch(pub(super) Vec<Piece>);

/// Chunks of one part.
pub(super) struct Piece {
    pub(super) target: Arc<Target>,
    pub(super) chunks: Range<u64>,
}

/// A part and the file that it becomes.
pub(super) struct Target {
    pub(super) part: BasePart,
    pub(super) path: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    /// Held while it is written: the kernel lets one write at a time, and the others would spin.
    turn: Mutex<()>,
}

impl Target {
    pub(super) fn new(part: BasePart, path: PathBuf) -> Arc<Self> {
        Arc::new(Self { part, path, file: Mutex::default(), turn: Mutex::default() })
    }

    /// The file, opened by whoever comes first.
    pub(super) fn file(
        &self,
        open: impl FnOnce(&Path, u64) -> io::Result<File>,
    ) -> Result<Arc<File>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let opened = open(&self.path, self.part.length_bytes());
        let opened = Arc::new(opened.map_err(|cause| failed(&self.path, cause))?);
        *file = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Waits until nobody else writes to the file.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts targets into stretches of up to `chunks_max` chunks, one at a time.
pub(super) fn stretches(
    targets: Vec<Arc<Target>>,
    chunks_max: u64,
) -> impl Iterator<Item = Stretch> {
    let mut targets = targets.into_iter();
    let mut current: Option<(Arc<Target>, u64)> = None;
    std::iter::from_fn(move || {
        let (mut pieces, mut chunks) = (Vec::new(), 0);
        while chunks < chunks_max && pieces.len() < STRETCH_FILES_MAX {
            let next = current.take().or_else(|| targets.next().map(|target| (target, 0)));
            let Some((target, at)) = next else { break };
            let end = target.part.chunks();
            let stop = end.min(at + chunks_max - chunks);
            chunks += stop - at;
            pieces.push(Piece { target: Arc::clone(&target), chunks: at..stop });
            current = (stop < end).then_some((target, stop));
        }
        (!pieces.is_empty()).then_some(Stretch(pieces))
    })
}

impl BackupReader {
    /// How many chunks a stretch has at most.
    pub(super) fn stretch_chunks(&self) -> u64 {
        let chunks = STRETCH_BYTES_MAX / u64::from(self.manifest().chunk_bytes);
        chunks.clamp(1, FETCH_CHUNKS_MAX as u64)
    }

    /// Every part in the order of the repository, in stretches; `plan` says which have a target.
    pub(super) fn laid_out<'a>(
        &'a self,
        mut plan: impl FnMut(&PartEntry) -> Option<Arc<Target>> + 'a,
    ) -> impl Stream<Item = Result<Stretch>> + 'a {
        let pages = stream::iter(0..).then(|page| self.page(page));
        let pages = pages.try_take_while(|parts| futures::future::ok(!parts.is_empty()));
        let stretches = pages.map_ok(move |parts| {
            let targets = parts.iter().filter_map(&mut plan).collect();
            stream::iter(stretches(targets, self.stretch_chunks()).map(Ok))
        });
        stretches.try_flatten()
    }

    /// Writes every part to the file that `place` names; parts without a place are left out. Holes
    /// stay holes. Files and directories are open to their owner only: who else may read them, the
    /// engine knows. Whoever uses the files makes them durable first.
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
        let chunk_bytes = self.manifest().chunk_bytes;
        let target = |entry: &PartEntry| {
            let path = place(&entry.name)?;
            Some(Target::new(BasePart::new(entry.clone(), chunk_bytes), path))
        };
        let going = Going::default();
        let _end = EndsWithMe(&going);
        let stretches = self.laid_out(target).take_while(|_| futures::future::ready(going.is_so()));
        let written = stretches.map(|stretch| async {
            let written = self.lay_out(stretch?, going.clone()).await?;
            meter.advance(written.iter().map(|(_, bytes)| bytes).sum());
            Ok::<_, Error>(written)
        });
        let (mut written_bytes, mut write_back) = (0, WriteBack::default());
        let keep = async |files: Vec<(Arc<Target>, u64)>| {
            for (target, bytes) in files {
                written_bytes += bytes;
                write_back.add(target, bytes).await?;
            }
            Ok(())
        };
        going.gather(written.buffer_unordered(STRETCHES_MAX), keep).await?;
        write_back.settle().await?;
        Ok(written_bytes)
    }

    /// Reads every byte of every part, and throws it away. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Missing`](ErrorKind::Missing) for what cannot be read.
    pub async fn read_back(&self, meter: &Meter) -> Result<u64> {
        let chunk_bytes = self.manifest().chunk_bytes;
        let target = |entry: &PartEntry| {
            let part = BasePart::new(entry.clone(), chunk_bytes);
            Some(Target::new(part, PathBuf::new()))
        };
        let read = self.laid_out(target).map(|stretch| async {
            let bytes = self.fetch_stretch(&stretch?).await?.1.iter().map(Bytes::len).sum();
            meter.advance(bytes as u64);
            Ok::<usize, Error>(bytes)
        });
        let read = read.buffer_unordered(STRETCHES_MAX);
        read.try_fold(0, |sum, bytes| futures::future::ok(sum + bytes as u64)).await
    }

    /// The chunks of a stretch: their ids and lengths, and their bytes.
    async fn fetch_stretch(&self, stretch: &Stretch) -> Result<(Vec<Wanted>, Vec<Bytes>)> {
        let mut wanted = Vec::new();
        for Piece { target, chunks } in &stretch.0 {
            let ids = target.part.ids(self.blobs(), chunks.clone()).await?;
            let chunks = chunks.clone().zip(ids);
            wanted.extend(chunks.map(|(chunk, id)| (id, target.part.chunk_length(chunk))));
        }
        let plain = self.blobs().fetch(&wanted).await?;
        Ok((wanted, plain))
    }

    /// Fetches a stretch and writes it. Returns how much of which file that was.
    async fn lay_out(&self, stretch: Stretch, going: Going) -> Result<Vec<(Arc<Target>, u64)>> {
        let (wanted, plain) = self.fetch_stretch(&stretch).await?;
        let Stretch(pieces) = stretch;
        let chunk_bytes = u64::from(self.manifest().chunk_bytes);
        let write = move || {
            let mut plain = wanted.into_iter().zip(plain);
            let mut written = Vec::with_capacity(pieces.len());
            for Piece { target, chunks } in pieces {
                let _leave = going.leave()?;
                let (file, mut bytes) = (target.file(create)?, 0);
                let turn = target.turn();
                for (chunk, ((id, _), plain)) in chunks.zip(plain.by_ref()) {
                    bytes += plain.len() as u64;
                    if !id.is_zero() {
                        let at = chunk * chunk_bytes;
                        let done = file.write_all_at(&plain, at);
                        done.map_err(|cause| failed(&target.path, cause))?;
                    }
                }
                drop(turn);
                written.push((target, bytes));
            }
            Ok(written)
        };
        blocking(write).await
    }
}

/// Whether a restore still wants its files: work on other threads outlives a future.
#[derive(Clone, Debug)]
pub(super) struct Going(Arc<RwLock<bool>>);

impl Default for Going {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(true)))
    }
}

impl Going {
    pub(super) fn is_so(&self) -> bool {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to change files for as long as it is held; none once the restore has ended.
    pub(super) fn leave(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let leave = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if *leave { Ok(leave) } else { Err(Error::bug("write for a restore that has ended")) }
    }

    /// Waits for whoever has leave, which takes as long as one stretch; nobody gets it afterwards.
    fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Takes what `work` brings. After a failure nothing new begins, and what is under way comes to
    /// its end before anybody tidies up.
    pub(super) async fn gather<T>(
        &self,
        work: impl Stream<Item = Result<T>>,
        mut take: impl AsyncFnMut(T) -> Result<()>,
    ) -> Result<()> {
        let (mut work, mut outcome) = (std::pin::pin!(work), Ok(()));
        while let Some(done) = work.next().await {
            if outcome.is_err() {
                continue;
            }
            outcome = async { take(done?).await }.await;
            if outcome.is_err() {
                self.end();
            }
        }
        outcome
    }
}

/// Ends it when it is dropped.
pub(super) struct EndsWithMe<'a>(pub(super) &'a Going);

impl Drop for EndsWithMe<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Has the disk begin with what was written, one stretch at a time.
#[derive(Default)]
struct WriteBack {
    dirty: Vec<Arc<Target>>,
    dirty_bytes: u64,
    running: Option<JoinHandle<Result<()>>>,
}

impl WriteBack {
    async fn add(&mut self, target: Arc<Target>, bytes: u64) -> Result<()> {
        self.dirty_bytes += bytes;
        // Of small files there may be many; the system gets to them by itself.
        if bytes >= STRETCH_BYTES_MAX / 8
            && self.dirty.last().is_none_or(|last| !Arc::ptr_eq(last, &target))
        {
            self.dirty.push(target);
        }
        let is_free = self.running.as_ref().is_none_or(JoinHandle::is_finished);
        let is_due = self.dirty_bytes >= WRITE_BACK_BYTES && is_free;
        if !is_due && self.dirty.len() < DIRTY_FILES_MAX {
            return Ok(());
        }
        self.settle().await?;
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty_bytes = 0;
        self.running = Some(tokio::task::spawn_blocking(move || {
            dirty.iter().try_for_each(|target| {
                let synced = target.file(create)?.sync_data();
                synced.map_err(|cause| failed(&target.path, cause))
            })
        }));
        Ok(())
    }

    /// The system tells of a failed write only once, so every answer counts.
    async fn settle(&mut self) -> Result<()> {
        match self.running.take() {
            Some(running) => joined(running).await,
            None => Ok(()),
        }
    }
}

fn create(path: &Path, length_bytes: u64) -> io::Result<File> {
    let mut options = File::options();
    let options = options.write(true).create_new(true).mode(0o600);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            options.open(path)?
        }
        opened => opened?,
    };
    file.set_len(length_bytes)?;
    Ok(file)
}

/// Runs work on files away from the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(job)).await
}

async fn joined<T>(job: JoinHandle<Result<T>>) -> Result<T> {
    job.await.map_err(|e| Error::bug("write a file").caused_by(e))?
}

pub(super) fn failed(path: &Path, cause: io::Error) -> Error {
    let full = matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let (kind, code) = match cause.kind() {
        _ if full => (ErrorKind::Exhausted, code::FILE_FULL),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, code::FILE)
        }
        _ => (ErrorKind::Transient, code::FILE),
    };
    let error = Error::new(kind, code, format!("write {}", path.display())).caused_by(cause);
    if full { error.next("choose a target where there is more room") } else { error }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stillpoint_contract::Shape;

    use super::*;
    use crate::repository::manifest::Content;

    #[test]
    fn stretches_hold_every_chunk_once_in_order_and_no_more_than_they_may() {
        let lengths = [0, 5, 64, 0, 130, 1, 63].into_iter().chain([1; 100]).chain([0; 70]);
        let targets: Vec<_> = lengths
            .clone()
            .enumerate()
            .map(|(number, chunks)| {
                let name = PartName::new(format!("{number}")).unwrap();
                let entry = PartEntry {
                    name,
                    shape: Shape::Stream,
                    attributes: BTreeMap::new(),
                    length_bytes: chunks * 65_536,
                    content: Content::Chunks(Vec::new()),
                };
                Target::new(BasePart::new(entry, 65_536), number.to_string().into())
            })
            .collect();
        let mut seen: Vec<(String, u64)> = Vec::new();
        for Stretch(pieces) in stretches(targets, 64) {
            let chunks: u64 =
                pieces.iter().map(|piece| piece.chunks.end - piece.chunks.start).sum();
            assert!(!pieces.is_empty() && chunks <= 64 && pieces.len() <= STRETCH_FILES_MAX);
            for Piece { target, chunks } in pieces {
                let path = target.path.display().to_string();
                let before = seen.last().filter(|(last, _)| *last == path).map(|(_, end)| *end);
                assert_eq!(before.unwrap_or(0), chunks.start);
                if before.is_some() {
                    seen.pop();
                }
                seen.push((path, chunks.end));
            }
        }
        let all: Vec<_> = lengths.enumerate().map(|(n, chunks)| (n.to_string(), chunks)).collect();
        assert_eq!(seen, all);
    }
}
