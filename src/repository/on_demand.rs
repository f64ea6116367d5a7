//! Any stretch of any part, when somebody wants it: verified, kept for a while, and read ahead of
//! whoever reads in order.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use stillpoint_contract::{Error, Result};
use tokio::{runtime::Handle, sync::Notify};

use super::{
    blobs::FETCH_CHUNKS_MAX,
    reader::{BackupReader, BasePart},
};

/// Plaintext that is kept, in bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// How far is read ahead of a reader in order, in bytes; and how much of it in one go.
const AHEAD_BYTES_MAX: u64 = 8 << 20;
const AHEAD_STEP_BYTES: u64 = 2 << 20;

/// How many small parts are read ahead of a reader of one after the other; and how many may be
/// left out before it is another reader.
const PARTS_AHEAD_MAX: u32 = 64;
const PARTS_SKIPPED_MAX: u32 = 16;

/// Parts whose chunks are known by their ids.
const PARTS_OPEN_MAX: usize = 4096;

/// How often somebody waits for what others read and what was given up again, before reading
/// alone.
const WAITS_MAX: usize = 8;

/// Where a part is in the table of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartPlace {
    /// The page of the table.
    pub page: u32,
    /// The part's number in it.
    pub index: u32,
}

/// A chunk of a part.
type ChunkPlace = (PartPlace, u64);

/// Reads parts of one backup in any order.
#[derive(Debug)]
pub struct OnDemand {
    reader: BackupReader,
    /// Where reading ahead runs.
    runtime: Handle,
    kept: Mutex<Kept>,
}

/// What was read, and what is being read.
#[derive(Debug, Default)]
struct Kept {
    chunks: HashMap<ChunkPlace, (Bytes, u64)>,
    /// Chunks by when they were used last.
    by_age: BTreeMap<u64, ChunkPlace>,
    bytes: usize,
    age: u64,
    reading: HashMap<ChunkPlace, Arc<Notify>>,
    parts: HashMap<PartPlace, Open>,
    /// The part that was read to its end last, and the one up to which parts are read ahead.
    finished: PartPlace,
    parts_ahead: PartPlace,
}

#[derive(Debug)]
struct Open {
    part: Arc<BasePart>,
    age: u64,
    /// The chunk after the last one that was asked for.
    next: u64,
    /// How many chunks are read ahead: twice as many each time it proves right.
    window: u64,
}

impl Kept {
    fn chunk(&mut self, place: ChunkPlace) -> Option<Bytes> {
        self.age += 1;
        let age = self.age;
        let (bytes, used) = self.chunks.get_mut(&place)?;
        self.by_age.remove(used);
        *used = age;
        self.by_age.insert(age, place);
        Some(bytes.clone())
    }

    fn keep(&mut self, place: ChunkPlace, bytes: Bytes) {
        if self.chunks.contains_key(&place) {
            return;
        }
        self.age += 1;
        self.bytes += bytes.len();
        self.by_age.insert(self.age, place);
        self.chunks.insert(place, (bytes, self.age));
        while self.bytes > KEPT_BYTES_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            let length = self.chunks.remove(&oldest).map_or(0, |(bytes, _)| bytes.len());
            self.bytes -= length;
        }
    }

    /// Chunks that nobody has read and nobody is reading, as far as they have no hole; whoever
    /// asked reads them.
    fn claim(&mut self, part: PartPlace, chunks: Range<u64>) -> Range<u64> {
        let is_there = |kept: &Self, place| {
            kept.chunks.contains_key(&place) || kept.reading.contains_key(&place)
        };
        let mut chunks = chunks;
        let first = chunks.find(|chunk| !is_there(self, (part, *chunk)));
        let Some(first) = first else { return 0..0 };
        let last = chunks.find(|chunk| is_there(self, (part, *chunk))).unwrap_or(chunks.end);
        for chunk in first..last {
            self.reading.insert((part, chunk), Arc::default());
        }
        first..last
    }

    /// Notes that a part was read to its end. The parts of its page that are to be read ahead, if
    /// whoever reads takes one after the other.
    fn finish(&mut self, part: PartPlace) -> Option<Range<u32>> {
        let before = std::mem::replace(&mut self.finished, part);
        let index = part.index;
        if before.page != part.page
            || !(before.index + 1..=before.index + PARTS_SKIPPED_MAX).contains(&index)
        {
            return None;
        }
        let mut from = index + 1;
        let PartPlace { page, index: ahead } = self.parts_ahead;
        if page == part.page && (from..=index + PARTS_AHEAD_MAX).contains(&ahead) {
            from = ahead;
        }
        if from > index + PARTS_AHEAD_MAX / 2 {
            return None;
        }
        self.parts_ahead = PartPlace { index: from + PARTS_AHEAD_MAX / 2, ..part };
        Some(from..self.parts_ahead.index)
    }

    fn open(&mut self, place: PartPlace) -> Option<&mut Open> {
        self.age += 1;
        let age = self.age;
        let open = self.parts.get_mut(&place)?;
        open.age = age;
        Some(open)
    }
}

/// Chunks that are being read; dropped, nobody waits for them any more.
struct Claim<'a> {
    source: &'a OnDemand,
    part: PartPlace,
    chunks: Range<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut kept = self.source.kept();
        for chunk in self.chunks.clone() {
            if let Some(waiting) = kept.reading.remove(&(self.part, chunk)) {
                waiting.notify_waiters();
            }
        }
    }
}

impl OnDemand {
    /// Reads from a backup; reads ahead on `runtime`.
    pub fn new(reader: BackupReader, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { reader, runtime, kept: Mutex::default() })
    }

    /// The backup.
    pub fn reader(&self) -> &BackupReader {
        &self.reader
    }

    fn chunk_bytes(&self) -> u64 {
        u64::from(self.reader.manifest().chunk_bytes)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept already of a range that lies in one chunk. Never waits.
    pub fn at_hand(self: &Arc<Self>, part: PartPlace, range: &Range<u64>) -> Option<Bytes> {
        let chunk_bytes = self.chunk_bytes();
        let chunk = range.start / chunk_bytes;
        if range.end > (chunk + 1) * chunk_bytes {
            return None;
        }
        let bytes = self.kept().chunk((part, chunk))?;
        self.read_ahead(part, chunk..chunk + 1);
        let at = |offset: u64| ((offset - chunk * chunk_bytes) as usize).min(bytes.len());
        Some(bytes.slice(at(range.start)..at(range.end)))
    }

    /// A range of a part, shorter where the part ends earlier.
    ///
    /// # Errors
    ///
    /// As [`Source::read`](stillpoint_contract::Source::read); never wrong bytes.
    pub async fn read(self: &Arc<Self>, place: PartPlace, range: Range<u64>) -> Result<Vec<u8>> {
        let part = self.part(place).await?;
        let chunk_bytes = self.chunk_bytes();
        let end = range.end.min(part.length_bytes());
        if range.start >= end {
            return Ok(Vec::new());
        }
        let chunks = range.start / chunk_bytes..end.div_ceil(chunk_bytes);
        self.read_ahead(place, chunks.clone());
        let mut bytes = Vec::with_capacity((end - range.start) as usize);
        for chunk in chunks.clone() {
            let plain = self.chunk(place, &part, chunk..chunks.end).await;
            let plain = plain.map_err(|error| {
                error.with("part", part.name()).with("offset", chunk * chunk_bytes)
            })?;
            let start = chunk * chunk_bytes;
            let from = range.start.saturating_sub(start).min(plain.len() as u64);
            let to = (end - start).min(plain.len() as u64);
            bytes.extend_from_slice(&plain[from as usize..to as usize]);
        }
        Ok(bytes)
    }

    /// The first of some chunks; with it the others are read, unless they are there.
    async fn chunk(&self, place: PartPlace, part: &BasePart, chunks: Range<u64>) -> Result<Bytes> {
        let first = (place, chunks.start);
        for _ in 0..WAITS_MAX {
            let (claimed, reading) = {
                let mut kept = self.kept();
                if let Some(bytes) = kept.chunk(first) {
                    return Ok(bytes);
                }
                let reading = kept.reading.get(&first).map(Arc::clone);
                // Waits from before anybody else can be told.
                let reading = reading.map(Notify::notified_owned);
                let claimed =
                    if reading.is_none() { kept.claim(place, chunks.clone()) } else { 0..0 };
                (claimed, reading)
            };
            if let Some(reading) = reading {
                reading.await;
            } else {
                let read = self.fetch(place, part, claimed).await?;
                return read.into_iter().next().ok_or_else(|| Error::bug("read a chunk"));
            }
        }
        let mut read = part.fetch(self.reader.blobs(), chunks.start..chunks.start + 1).await?;
        read.pop().ok_or_else(|| Error::bug("read a chunk"))
    }

    /// Reads claimed chunks and keeps them.
    async fn fetch(
        &self,
        place: PartPlace,
        part: &BasePart,
        chunks: Range<u64>,
    ) -> Result<Vec<Bytes>> {
        let claim = Claim { source: self, part: place, chunks: chunks.clone() };
        let read = part.fetch(self.reader.blobs(), chunks.clone()).await?;
        {
            let mut kept = self.kept();
            for (chunk, bytes) in chunks.zip(&read) {
                kept.keep((place, chunk), bytes.clone());
            }
        }
        drop(claim);
        Ok(read)
    }

    /// Notes what somebody asks for, and begins to read what comes next if that is likely.
    fn read_ahead(self: &Arc<Self>, place: PartPlace, asked: Range<u64>) {
        let chunk_bytes = self.chunk_bytes();
        let (window_max, step) =
            ((AHEAD_BYTES_MAX / chunk_bytes).max(1), (AHEAD_STEP_BYTES / chunk_bytes).max(1));
        let mut jobs = Vec::new();
        {
            let mut kept = self.kept();
            let Some(open) = kept.open(place) else { return };
            if (open.next.saturating_sub(1)..=open.next).contains(&asked.start) {
                if asked.end > open.next {
                    open.window = (open.window * 2).clamp(2, window_max);
                }
            } else {
                open.window = 0;
            }
            open.next = asked.end;
            let (part, window) = (Arc::clone(&open.part), open.window);
            let ahead = asked.end..(asked.end + open.window).min(part.chunks());
            let mut at = ahead.start;
            while at < ahead.end {
                let stop = (at - at % step + step).min(part.chunks());
                // In large pieces: neighbours are read in one request, by all processors.
                if stop <= ahead.end || window < step {
                    let claimed = kept.claim(place, at..stop.min(ahead.end));
                    if !claimed.is_empty() {
                        jobs.push((Arc::clone(&part), claimed));
                    }
                }
                at = stop;
            }
            if asked.end >= part.chunks()
                && let Some(parts) = kept.finish(place)
            {
                let source = Arc::clone(self);
                self.runtime.spawn(async move {
                    drop(source.read_parts(place.page, parts).await);
                });
            }
        }
        for (part, chunks) in jobs {
            let source = Arc::clone(self);
            self.runtime.spawn(async move {
                // Whoever needs it reads it again, and hears why it cannot be read.
                drop(source.fetch(place, &part, chunks).await);
            });
        }
    }

    /// Reads small parts of a page and keeps them, as far as nobody has or does: in one request.
    async fn read_parts(&self, page: u32, parts: Range<u32>) -> Result<()> {
        let (mut claims, mut wanted, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let end = parts.end.min(self.reader.page(page).await?.len() as u32);
        for index in parts.start..end {
            let place = PartPlace { page, index };
            let part = self.part(place).await?;
            if wanted.len() as u64 + part.chunks() > FETCH_CHUNKS_MAX as u64 {
                continue;
            }
            let chunks = self.kept().claim(place, 0..part.chunks());
            claims.push(Claim { source: self, part: place, chunks: chunks.clone() });
            let ids = part.ids(self.reader.blobs(), chunks.clone()).await?;
            wanted
                .extend(ids.into_iter().zip(chunks.clone().map(|chunk| part.chunk_length(chunk))));
            places.extend(chunks.map(|chunk| (place, chunk)));
        }
        let read = self.reader.blobs().fetch(&wanted).await?;
        let mut kept = self.kept();
        for (place, bytes) in places.into_iter().zip(read) {
            kept.keep(place, bytes);
        }
        // Whoever waits is told after that.
        drop(kept);
        drop(claims);
        Ok(())
    }

    async fn part(&self, place: PartPlace) -> Result<Arc<BasePart>> {
        if let Some(open) = self.kept().open(place) {
            return Ok(Arc::clone(&open.part));
        }
        let parts = self.reader.page(place.page).await?;
        let entry = parts.get(place.index as usize).ok_or_else(|| Error::bug("find a part"))?;
        let part = BasePart::new(entry.clone(), self.reader.manifest().chunk_bytes);
        let part = Arc::new(part);
        let mut kept = self.kept();
        if kept.parts.len() >= PARTS_OPEN_MAX {
            // The older half.
            let mut ages: Vec<_> = kept.parts.values().map(|open| open.age).collect();
            let (_, median, _) = ages.select_nth_unstable(PARTS_OPEN_MAX / 2);
            let median = *median;
            kept.parts.retain(|_, open| open.age > median);
        }
        kept.age += 1;
        let open = Open { part: Arc::clone(&part), age: kept.age, next: 0, window: 0 };
        kept.parts.entry(place).or_insert(open);
        Ok(part)
    }
}
