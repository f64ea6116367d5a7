//! Looking chunks up in an index run without loading it.

use std::{fmt, ops::Range};

use stillpoint_contract::Result;

use super::{
    format::{
        BASE_BYTES, ENTRY_BYTES, FAN_OUT_BYTES, HEADER_BYTES, Header, Located, PACK_ROW_BYTES,
        PackRow, Row, RunName,
    },
    source::ReadAt,
};
use crate::{
    pipeline::id::{ChunkId, RepositoryId},
    repository::{pack::PackName, wire::corrupt},
};

/// Rows read at once while searching: 3.5 KiB, which the first guess misses once in a while.
const BLOCK_ROWS: u32 = 64;
/// Rows read at once while walking through all of them.
const STRIDE_ROWS: u32 = 1024;
/// Guesses before the search halves the range instead: ids are hashes, so guesses are good unless
/// somebody made them bad.
const GUESSES_MAX: u32 = 8;
/// Bytes read at once while hashing.
const HASHED_BYTES: usize = 1 << 20;
/// Places of one chunk that a lookup returns at most. More would need as many equal packs.
const PLACES_MAX: usize = 16;

/// An opened run. Keeps the fan-out and the pack table in memory (at most 3 MiB), and reads the
/// rest where it is needed.
pub struct IndexRun<R> {
    source: R,
    header: Header,
    fan_out: Vec<u32>,
    packs: Vec<PackRow>,
}

impl<R: ReadAt> IndexRun<R> {
    /// Opens a run whose bytes are known to have their name, or do not need to.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when header, fan-out, pack table and
    /// length contradict each other; [`Unsupported`](stillpoint_contract::ErrorKind::Unsupported)
    /// when a newer version wrote it.
    pub fn open(source: R) -> Result<Self> {
        let mut header = [0; HEADER_BYTES];
        source.read_exact_at(0, &mut header)?;
        let header = Header::decode(&header, source.size_bytes())?;

        let mut bytes = [0; FAN_OUT_BYTES];
        source.read_exact_at(HEADER_BYTES as u64, &mut bytes)?;
        let fan_out: Vec<u32> =
            bytes.as_chunks::<4>().0.iter().copied().map(u32::from_le_bytes).collect();
        if !fan_out.is_sorted() || fan_out.last() != Some(&header.entries) {
            return Err(damaged("its fan-out does not fit its entries"));
        }

        let mut bytes = vec![0; header.packs as usize * PACK_ROW_BYTES];
        source.read_exact_at(header.packs_offset(), &mut bytes)?;
        let packs = bytes
            .chunks_exact(PACK_ROW_BYTES)
            .map(|row| PackRow::decode(row).ok_or_else(|| damaged("a pack makes no sense")))
            .collect::<Result<_>>()?;
        Ok(Self { source, header, fan_out, packs })
    }

    /// Opens a run after comparing all its bytes with its name. Work for a CPU thread.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_verified(source: R, name: &RunName) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; HASHED_BYTES];
        let mut offset = 0;
        while offset < source.size_bytes() {
            let length = (source.size_bytes() - offset).min(HASHED_BYTES as u64);
            let piece = &mut buffer[..length as usize];
            source.read_exact_at(offset, piece)?;
            hasher.update(piece);
            offset += length;
        }
        if hasher.finalize().as_bytes() != name.as_bytes() {
            return Err(damaged("its content does not have its name"));
        }
        Self::open(source)
    }

    /// The repository that the run belongs to.
    pub fn repository(&self) -> RepositoryId {
        self.header.repository
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.header.entries as usize
    }

    /// How long it is.
    pub fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.header.entries == 0
    }

    /// The packs that it names.
    pub fn packs(&self) -> impl Iterator<Item = PackName> {
        self.packs.iter().map(|row| row.name)
    }

    /// All places where this run says that the chunk is stored; none when it does not know.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when what it says makes no sense.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Located>> {
        let bucket = self.bucket(id);
        let end = bucket.end;
        let mut next = self.lower_bound(id, bucket)?;
        let mut places = Vec::new();
        while next < end && places.len() < PLACES_MAX {
            let row = self.rows(next..next + 1)?.remove(0);
            if row.id != *id {
                break;
            }
            places.push(self.locate(&row)?);
            next += 1;
        }
        Ok(places)
    }

    /// Walks through all entries in ascending order of id.
    pub fn iter(&self) -> Entries<'_, R> {
        Entries { run: self, next: 0, previous: None, block: Vec::new().into_iter() }
    }

    #[cfg(test)]
    pub(super) fn source_for_tests(&self) -> &R {
        &self.source
    }

    /// The rows whose ids share the first byte with `id`.
    fn bucket(&self, id: &ChunkId) -> Range<u32> {
        let first = usize::from(id.as_bytes()[0]);
        let begin = first.checked_sub(1).map_or(0, |before| self.fan_out[before]);
        begin..self.fan_out[first]
    }

    /// The first row of the range whose id is not below `id`, or the range's end.
    fn lower_bound(&self, id: &ChunkId, range: Range<u32>) -> Result<u32> {
        let first = u64::from(id.as_bytes()[0]);
        let mut low = Bound { row: range.start, key: first << 56 };
        let mut high = Bound { row: range.end, key: (first << 56) | (u64::MAX >> 8) };
        let mut guesses = 0;
        while high.row - low.row > BLOCK_ROWS {
            let guess = if guesses < GUESSES_MAX {
                low.interpolate(&high, key(id))
            } else {
                low.row + (high.row - low.row) / 2
            };
            guesses += 1;
            let begin = guess.saturating_sub(BLOCK_ROWS / 2).clamp(low.row, high.row - BLOCK_ROWS);
            let block = self.rows(begin..begin + BLOCK_ROWS)?;
            let below = block.partition_point(|row| row.id < *id);
            match (below as u32, block.first(), block.last()) {
                (0, Some(row), _) => high = Bound { row: begin, key: key(&row.id) },
                (BLOCK_ROWS, _, Some(row)) => {
                    low = Bound { row: begin + BLOCK_ROWS, key: key(&row.id) };
                }
                (below, _, _) => return Ok(begin + below),
            }
        }
        let block = self.rows(low.row..high.row)?;
        Ok(low.row + block.partition_point(|row| row.id < *id) as u32)
    }

    fn rows(&self, numbers: Range<u32>) -> Result<Vec<Row>> {
        let mut bytes = vec![0; numbers.len() * ENTRY_BYTES];
        self.source.read_exact_at(Header::entry_offset(numbers.start), &mut bytes)?;
        bytes
            .chunks_exact(ENTRY_BYTES)
            .map(|row| Row::decode(row).ok_or_else(|| damaged("an entry makes no sense")))
            .collect()
    }

    fn locate(&self, row: &Row) -> Result<Located> {
        let base = row.base_no.map(|number| self.base(number)).transpose()?;
        self.packs
            .get(row.pack_no as usize)
            .and_then(|pack| row.locate(pack, base))
            .ok_or_else(|| damaged("an entry makes no sense"))
    }

    fn base(&self, number: u32) -> Result<ChunkId> {
        if number >= self.header.bases {
            return Err(damaged("a base is missing"));
        }
        let mut id = [0; BASE_BYTES];
        self.source.read_exact_at(self.header.base_offset(number), &mut id)?;
        Ok(ChunkId::new(id))
    }
}

impl<R> fmt::Debug for IndexRun<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexRun").field("header", &self.header).finish_non_exhaustive()
    }
}

impl<'a, R: ReadAt> IntoIterator for &'a IndexRun<R> {
    type Item = Result<Located>;
    type IntoIter = Entries<'a, R>;

    fn into_iter(self) -> Entries<'a, R> {
        self.iter()
    }
}

/// Walks through a run. Ends after the first error.
pub struct Entries<'a, R> {
    run: &'a IndexRun<R>,
    next: u32,
    previous: Option<ChunkId>,
    block: std::vec::IntoIter<Row>,
}

impl<R: ReadAt> Entries<'_, R> {
    fn step(&mut self) -> Result<Option<Located>> {
        let row = match self.block.next() {
            Some(row) => row,
            None if self.next < self.run.header.entries => {
                let end = (self.next + STRIDE_ROWS).min(self.run.header.entries);
                self.block = self.run.rows(self.next..end)?.into_iter();
                self.next = end;
                return self.step();
            }
            None => return Ok(None),
        };
        if self.previous.is_some_and(|previous| previous > row.id) {
            return Err(damaged("its entries are out of order"));
        }
        self.previous = Some(row.id);
        self.run.locate(&row).map(Some)
    }
}

impl<R: ReadAt> Iterator for Entries<'_, R> {
    type Item = Result<Located>;

    fn next(&mut self) -> Option<Result<Located>> {
        let item = self.step().transpose();
        if matches!(item, Some(Err(_))) {
            self.next = u32::MAX;
            self.block = Vec::new().into_iter();
        }
        item
    }
}

impl<R> fmt::Debug for Entries<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A place in a bucket and the beginning of the id at that place.
struct Bound {
    row: u32,
    key: u64,
}

impl Bound {
    /// Where `key` lies between two bounds if ids are spread evenly.
    fn interpolate(&self, high: &Self, key: u64) -> u32 {
        let rows = u128::from(high.row - self.row);
        let span = u128::from(high.key.saturating_sub(self.key).max(1));
        let into = u128::from(key.saturating_sub(self.key)).min(span);
        self.row + (into * rows / span) as u32
    }
}

/// The beginning of an id as a number that sorts as the id does.
fn key(id: &ChunkId) -> u64 {
    let first = id.as_bytes().first_chunk().expect("an id has more than eight bytes");
    u64::from_be_bytes(*first)
}

fn damaged(problem: &'static str) -> stillpoint_contract::Error {
    corrupt("read an index run", problem)
}
