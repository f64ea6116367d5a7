//! Workers that read files side by side and write them as parts.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join_all;
use stillpoint_contract::{
    Clock, EXTENT_BYTES, Error, ErrorKind, PartName, PartSpec, PartWriter, Result, Shape, Sink,
    code,
};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, mpsc};

use super::{
    local::blocking,
    names::{Relation, relation},
    pages::{Check, Pages},
    plan::{Changes, Extent},
    reader::Files,
};
use crate::{
    checksum,
    layout::{CORRUPT_PAGES_MAX, CorruptPage, write_part},
};

/// Files up to here are read many at a time.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// How many small files are read at a time, and how many bytes of them.
const BATCH_FILES_MAX: usize = 128;
const BATCH_BYTES_MAX: u64 = EXTENT_BYTES;

/// A file that is no relation's may have grown since it was listed: so much more is asked for.
const GROWTH_BYTES: u64 = 64 << 10;

/// How often a page with a wrong checksum is looked at again, and after what time.
const LOOKS_MAX: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A file as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) length_bytes: u64,
}

/// What an earlier backup has, and what changed since.
#[derive(Debug, Default)]
pub(crate) struct BaseFiles {
    /// Lengths of its parts in pages.
    pub(crate) pages: HashMap<String, u32>,
    pub(crate) changes: Changes,
    /// Pages that were corrupt there; they are read again.
    pub(crate) corrupt: BTreeMap<String, Vec<u32>>,
}

/// Everything that copying files needs.
#[derive(Debug)]
pub(crate) struct Crew<'a> {
    pub(crate) files: &'a Files,
    pub(crate) sink: &'a dyn Sink,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) workers: usize,
    pub(crate) page_bytes: u32,
    /// How many pages a relation's file holds before the next begins.
    pub(crate) segment_pages: u32,
    pub(crate) verifies: bool,
    pub(crate) file_mode: u32,
    pub(crate) base: Option<&'a BaseFiles>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) corrupt: Vec<CorruptPage>,
    pub(crate) corrupt_count: u64,
}

impl Copied {
    /// What the server's own checksums say against it.
    pub(crate) fn damage(&self) -> Option<String> {
        let CorruptPage { part, page } = self.corrupt.first()?;
        Some(match self.corrupt_count {
            0 | 1 => format!("page {page} of {part} differed from its checksum when it was copied"),
            count => format!(
                "{count} pages differed from their checksums when they were copied; the first is \
                 page {page} of {part}"
            ),
        })
    }
}

/// What one worker does in one go.
#[derive(Debug)]
enum Work {
    /// Small files, whole.
    Batch(Vec<Entry>),
    /// A stretch of a relation's file.
    Stretch(Arc<Open>, Extent),
    /// A large file that is no relation's.
    Long(Entry),
}

/// A relation's file of which some stretches are done.
#[derive(Debug)]
struct Open {
    entry: Entry,
    relation: Relation,
    part: OnceCell<Box<dyn PartWriter>>,
    /// Stretches that had vanished.
    missing: Mutex<Vec<Range<u64>>>,
}

#[derive(Debug, Default)]
struct Tally {
    corrupt: Mutex<Vec<CorruptPage>>,
    count: AtomicU64,
}

impl Crew<'_> {
    /// Copies every file that is listed.
    pub(crate) async fn copy(&self, entries: mpsc::Receiver<Result<Entry>>) -> Result<Copied> {
        let (sender, receiver) = mpsc::channel(self.workers);
        let (receiver, tally) = (AsyncMutex::new(receiver), Tally::default());
        let workers = (0..self.workers).map(|number| self.work(number, &receiver, &tally));
        let workers = try_join_all(workers);
        futures::future::try_join(self.plan(entries, sender), workers).await?;
        let mut corrupt = tally.corrupt.into_inner().unwrap_or_else(PoisonError::into_inner);
        corrupt.sort();
        Ok(Copied { corrupt, corrupt_count: tally.count.into_inner() })
    }

    async fn plan(
        &self,
        mut entries: mpsc::Receiver<Result<Entry>>,
        work: mpsc::Sender<Work>,
    ) -> Result<()> {
        let ended = |_| Error::bug("hand out work after the workers ended");
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        while let Some(entry) = entries.recv().await {
            let entry = entry?;
            let relation = self.paged(&entry);
            let extents = relation.and_then(|relation| self.changed(&entry, relation));
            if let (Some(relation), Some(extents)) = (relation, extents) {
                self.hand_out(entry, relation, extents, &work).await?;
            } else if entry.length_bytes <= SMALL_BYTES_MAX {
                batch_bytes += entry.length_bytes;
                batch.push(entry);
                if batch.len() >= BATCH_FILES_MAX || batch_bytes >= BATCH_BYTES_MAX {
                    batch_bytes = 0;
                    work.send(Work::Batch(std::mem::take(&mut batch))).await.map_err(ended)?;
                }
            } else if let Some(relation) = relation {
                let extents = Extent::whole(entry.length_bytes);
                self.hand_out(entry, relation, extents, &work).await?;
            } else {
                work.send(Work::Long(entry)).await.map_err(ended)?;
            }
        }
        if !batch.is_empty() {
            work.send(Work::Batch(batch)).await.map_err(ended)?;
        }
        Ok(())
    }

    async fn hand_out(
        &self,
        entry: Entry,
        relation: Relation,
        extents: Vec<Extent>,
        work: &mpsc::Sender<Work>,
    ) -> Result<()> {
        let (part, missing) = (OnceCell::new(), Mutex::default());
        let open = Arc::new(Open { entry, relation, part, missing });
        for extent in extents {
            let sent = work.send(Work::Stretch(Arc::clone(&open), extent)).await;
            sent.map_err(|_| Error::bug("hand out work after the workers ended"))?;
        }
        drop(open);
        Ok(())
    }

    /// The relation whose file this is, if it consists of pages.
    fn paged(&self, entry: &Entry) -> Option<Relation> {
        let is_whole = entry.length_bytes.is_multiple_of(u64::from(self.page_bytes));
        relation(&entry.path).filter(|_| is_whole && entry.length_bytes > 0)
    }

    /// What is read of a file that the base has; `None` when everything is.
    fn changed(&self, entry: &Entry, relation: Relation) -> Option<Vec<Extent>> {
        let base = self.base?;
        let known = *base.pages.get(&entry.path)?;
        let pages = u32::try_from(entry.length_bytes / u64::from(self.page_bytes)).ok()?;
        let mut read = base.changes.pages(relation, pages, known, self.segment_pages)?;
        if let Some(corrupt) = base.corrupt.get(&entry.path) {
            read.extend(corrupt.iter().filter(|page| **page < pages));
            read.sort_unstable();
            read.dedup();
        }
        Some(Extent::some(entry.length_bytes, &read, self.page_bytes))
    }

    async fn work(
        &self,
        number: usize,
        receiver: &AsyncMutex<mpsc::Receiver<Work>>,
        tally: &Tally,
    ) -> Result<()> {
        loop {
            let work = receiver.lock().await.recv().await;
            match work {
                None => return Ok(()),
                Some(Work::Batch(entries)) => self.batch(number, entries, tally).await?,
                Some(Work::Long(entry)) => self.long(number, &entry).await?,
                Some(Work::Stretch(open, extent)) => {
                    self.stretch(number, &open, extent, tally).await?;
                    if let Some(open) = Arc::into_inner(open) {
                        self.close(open).await?;
                    }
                }
            }
        }
    }

    async fn batch(&self, number: usize, entries: Vec<Entry>, tally: &Tally) -> Result<()> {
        let wanted: Vec<_> = entries
            .iter()
            .map(|entry| {
                let growth = if self.paged(entry).is_some() { 0 } else { GROWTH_BYTES };
                (entry.path.clone(), entry.length_bytes + growth)
            })
            .collect();
        let contents = self.files.read_small(number, wanted).await?;
        for (entry, bytes) in entries.iter().zip(contents) {
            // It may be gone since it was listed; then the log says so too.
            let Some(bytes) = bytes else { continue };
            let mut shape = Shape::Stream;
            let bytes: Bytes = if let Some(relation) = self.paged(entry) {
                shape = Shape::Paged { page_bytes: self.page_bytes };
                let (check, length) = (self.check(relation), entry.length_bytes);
                let check = move || Ok(Pages::padded(0..length, bytes, check));
                let mut pages = blocking(check).await?;
                self.settle(number, entry, relation, &mut pages, tally).await?;
                pages.bytes.into()
            } else {
                bytes.into()
            };
            let part = self.create(&entry.path, shape).await?;
            let length = bytes.len() as u64;
            if length > 0 {
                part.write(0, bytes).await?;
            }
            part.finish(length).await?;
        }
        Ok(())
    }

    async fn long(&self, number: usize, entry: &Entry) -> Result<()> {
        let mut part = None;
        let mut at = 0;
        while at < entry.length_bytes {
            let range = at..(at + 2 * EXTENT_BYTES).min(entry.length_bytes);
            let read = self.files.read_range(number, &entry.path, range.clone()).await?;
            let bytes = read.unwrap_or_default();
            if part.is_none() && bytes.is_empty() {
                return Ok(());
            }
            if part.is_none() {
                part = Some(self.create(&entry.path, Shape::Stream).await?);
            }
            let length = bytes.len() as u64;
            if let Some(part) = part.as_ref().filter(|_| length > 0) {
                part.write(at, bytes.into()).await?;
            }
            at += length;
            if length < range.end - range.start {
                break;
            }
        }
        match part {
            Some(part) => part.finish(at).await,
            None => Ok(()),
        }
    }

    async fn stretch(
        &self,
        number: usize,
        open: &Open,
        extent: Extent,
        tally: &Tally,
    ) -> Result<()> {
        let Extent { range, reads } = extent;
        let mut pieces = Vec::new();
        if !reads.is_empty() {
            let (path, check) = (&open.entry.path, self.check(open.relation));
            let Some(read) = self.files.read_pages(number, path, reads, check).await? else {
                open.missing.lock().unwrap_or_else(PoisonError::into_inner).push(range);
                return Ok(());
            };
            pieces = read;
            for pages in &mut pieces {
                self.settle(number, &open.entry, open.relation, pages, tally).await?;
            }
        }
        let shape = Shape::Paged { page_bytes: self.page_bytes };
        let part = open.part.get_or_try_init(|| self.create(&open.entry.path, shape)).await?;
        let mut at = range.start;
        for Pages { start, bytes, .. } in pieces {
            let bytes = Bytes::from(bytes);
            keep(part.as_ref(), at..start).await?;
            at = start + bytes.len() as u64;
            part.write(start, bytes).await?;
        }
        keep(part.as_ref(), at..range.end).await
    }

    /// Ends a file whose stretches are all done. What vanished in between is zero: the log drops
    /// the file, or cuts it.
    async fn close(&self, open: Open) -> Result<()> {
        let Some(part) = open.part.into_inner() else { return Ok(()) };
        let missing = open.missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        for range in missing {
            for at in (range.start..range.end).step_by(EXTENT_BYTES as usize) {
                let length = (range.end - at).min(EXTENT_BYTES) as usize;
                part.write(at, Bytes::from(vec![0; length])).await?;
            }
        }
        part.finish(open.entry.length_bytes).await
    }

    /// How the pages of a file are checked, if they are.
    fn check(&self, relation: Relation) -> Option<Check> {
        let first_block = relation.segment.wrapping_mul(self.segment_pages);
        self.verifies.then_some(Check { page_bytes: self.page_bytes, first_block })
    }

    /// Looks again at pages that do not fit, and notes those that never do.
    async fn settle(
        &self,
        number: usize,
        entry: &Entry,
        relation: Relation,
        pages: &mut Pages,
        tally: &Tally,
    ) -> Result<()> {
        let page_bytes = u64::from(self.page_bytes);
        let first = relation.segment.wrapping_mul(self.segment_pages);
        for page in std::mem::take(&mut pages.bad) {
            let from = page as usize * page_bytes as usize;
            let slot = pages.bytes.get_mut(from..from + page_bytes as usize);
            let Some(slot) = slot else { continue };
            let at = pages.start / page_bytes + u64::from(page);
            if !self.settles(number, &entry.path, at, first, slot).await? {
                tally.count.fetch_add(1, Ordering::Relaxed);
                let mut corrupt = tally.corrupt.lock().unwrap_or_else(PoisonError::into_inner);
                if corrupt.len() < CORRUPT_PAGES_MAX {
                    corrupt.push(CorruptPage { part: entry.path.clone(), page: at as u32 });
                }
            }
        }
        Ok(())
    }

    /// Looks again at a page whose checksum does not fit: it may be in the middle of being
    /// written, and then the log makes it whole. Only one that stays as it is is corrupt.
    async fn settles(
        &self,
        number: usize,
        path: &str,
        page: u64,
        first: u32,
        slot: &mut [u8],
    ) -> Result<bool> {
        let at = page * u64::from(self.page_bytes);
        let range = at..at + u64::from(self.page_bytes);
        let mut changed = false;
        for _ in 0..LOOKS_MAX {
            self.clock.sleep(LOOK_PAUSE).await;
            let read = self.files.read_range(number, path, range.clone()).await?;
            let bytes = read.unwrap_or_default();
            if bytes.len() != slot.len() {
                // The file was cut off here, which is in the log.
                return Ok(true);
            }
            changed |= bytes != slot;
            slot.copy_from_slice(&bytes);
            if changed || checksum::is_sound(slot, first.wrapping_add(page as u32)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn create(&self, path: &str, shape: Shape) -> Result<Box<dyn PartWriter>> {
        create(self.sink, path, shape, self.file_mode).await
    }
}

async fn keep(part: &dyn PartWriter, range: Range<u64>) -> Result<()> {
    if range.is_empty() { Ok(()) } else { part.keep(range).await }
}

/// Opens the part of a file.
pub(crate) async fn create(
    sink: &dyn Sink,
    path: &str,
    shape: Shape,
    mode: u32,
) -> Result<Box<dyn PartWriter>> {
    let name = part_name(path)?;
    sink.create(PartSpec { name, shape, attributes: attributes(mode) }).await
}

/// A file's permission bits, as attributes of its part.
pub(crate) fn attributes(mode: u32) -> BTreeMap<String, String> {
    BTreeMap::from([("mode".to_owned(), format!("{mode:o}"))])
}

/// The name of a file's part.
fn part_name(path: &str) -> Result<PartName> {
    PartName::new(path).map_err(|cause| {
        Error::new(ErrorKind::Refused, code::BAD_NAME, "name a file of the cluster")
            .caused_by(cause)
            .next("remove the file: PostgreSQL itself makes no such name")
    })
}

/// Writes a small file that was read already.
pub(crate) async fn write_file(sink: &dyn Sink, path: &str, bytes: Bytes, mode: u32) -> Result<()> {
    part_name(path)?;
    write_part(sink, path, attributes(mode), bytes).await
}
