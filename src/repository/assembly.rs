//! From writes at any offset to whole chunks: what arrives in pieces waits here until it is whole.
//!
//! Pure bookkeeping. It also holds the driver to its word: every byte exactly once.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use stillpoint_contract::{
    Buffer, BufferPool, EXTENT_BYTES, EXTENTS_OPEN_MAX, Error, ErrorKind, Result, code,
};

/// The longest part, in bytes: 64 TiB.
pub(super) const PART_BYTES_MAX: u64 = 1 << 46;

/// What became complete.
#[derive(Debug)]
pub(super) enum Piece {
    /// Neighbouring chunks that were written whole; only the last of a part may be short.
    Run {
        /// Number of the first.
        first: u64,
        /// Their bytes.
        bytes: Bytes,
    },
    /// Chunks that stay as they are in the base.
    Kept(Range<u64>),
    /// A chunk of which some ranges stay as they are in the base.
    Patched {
        /// Its number.
        chunk: u64,
        /// Its bytes; anything where they are kept.
        bytes: Buffer,
        /// What is kept, within the chunk.
        kept: Vec<Range<usize>>,
    },
}

/// The chunks of one part, while it is being written.
#[derive(Debug)]
pub(super) struct Assembly {
    chunk_bytes: u64,
    base_bytes: Option<u64>,
    done: Ranges,
    open: BTreeMap<u64, Open>,
    pool: BufferPool,
}

#[derive(Debug, Default)]
struct Open {
    /// Of the chunk's length from the second write on.
    bytes: Option<Buffer>,
    written: Ranges,
    kept: Ranges,
}

impl Assembly {
    /// Begins a part. `base_bytes` is the length of the same part in the base backup.
    pub(super) fn new(chunk_bytes: u32, base_bytes: Option<u64>, pool: BufferPool) -> Self {
        let chunk_bytes = u64::from(chunk_bytes);
        Self { chunk_bytes, base_bytes, done: Ranges::default(), open: BTreeMap::new(), pool }
    }

    /// Takes bytes in, and returns what they completed.
    pub(super) fn write(&mut self, offset: u64, bytes: &Bytes) -> Result<Vec<Piece>> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > PART_BYTES_MAX {
            return Err(misuse("wrote past the longest part").with("limit", PART_BYTES_MAX));
        }
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let chunk = at / self.chunk_bytes;
            let whole = (end / self.chunk_bytes).saturating_sub(chunk);
            let stop = if at.is_multiple_of(self.chunk_bytes) && whole > 0 {
                at + whole * self.chunk_bytes
            } else {
                end.min((chunk + 1) * self.chunk_bytes)
            };
            let slice = bytes.slice((at - offset) as usize..(stop - offset) as usize);
            if stop - at >= self.chunk_bytes {
                self.close(chunk..chunk + whole)?;
                pieces.push(Piece::Run { first: chunk, bytes: slice });
            } else {
                let within = at - chunk * self.chunk_bytes;
                pieces.extend(self.fill(chunk, within, Fill::Bytes(&slice))?);
            }
            at = stop;
        }
        Ok(pieces)
    }

    /// Keeps a range of the base, and returns what that completed.
    pub(super) fn keep(&mut self, range: Range<u64>) -> Result<Vec<Piece>> {
        if self.base_bytes.is_none_or(|base| range.end > base) {
            return Err(misuse("kept a range that the base does not have"));
        }
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let chunk = at / self.chunk_bytes;
            let whole = (range.end / self.chunk_bytes).saturating_sub(chunk);
            if at.is_multiple_of(self.chunk_bytes) && whole > 0 {
                self.close(chunk..chunk + whole)?;
                pieces.push(Piece::Kept(chunk..chunk + whole));
                at += whole * self.chunk_bytes;
            } else {
                let stop = range.end.min((chunk + 1) * self.chunk_bytes);
                let within = at - chunk * self.chunk_bytes;
                pieces.extend(self.fill(chunk, within, Fill::Keep(stop - at))?);
                at = stop;
            }
        }
        Ok(pieces)
    }

    /// Ends the part, and returns its last chunk if that was still open.
    pub(super) fn finish(&mut self, length_bytes: u64) -> Result<Option<Piece>> {
        let last = length_bytes / self.chunk_bytes;
        let rest = length_bytes % self.chunk_bytes;
        let piece = match self.open.remove(&last) {
            Some(open) if rest > 0 && open.covers(rest) => {
                self.close(last..last + 1)?;
                Some(self.complete(last, rest, open))
            }
            Some(_) => return Err(misuse("ended a part with a hole in its last chunk")),
            None => None,
        };
        let chunks = length_bytes.div_ceil(self.chunk_bytes);
        if !self.open.is_empty() || !self.done.is_exactly(chunks) {
            return Err(misuse("ended a part that is not whole"));
        }
        Ok(piece)
    }

    fn fill(&mut self, chunk: u64, within: u64, fill: Fill<'_>) -> Result<Option<Piece>> {
        if self.done.contains(chunk) {
            return Err(misuse("wrote a byte twice"));
        }
        let open_max = EXTENTS_OPEN_MAX * (EXTENT_BYTES / self.chunk_bytes).max(1) as usize;
        if self.open.len() >= open_max && !self.open.contains_key(&chunk) {
            return Err(misuse("left too many extents half written").with("limit", open_max));
        }
        let length = self.chunk_bytes;
        let open = self.open.entry(chunk).or_default();
        match fill {
            Fill::Bytes(bytes) => {
                open.claim(within..within + bytes.len() as u64)?;
                open.written.insert(within..within + bytes.len() as u64);
                open.place(within as usize, bytes, length as usize, &self.pool);
            }
            Fill::Keep(bytes) => {
                open.claim(within..within + bytes)?;
                open.kept.insert(within..within + bytes);
            }
        }
        if !open.covers(length) {
            return Ok(None);
        }
        let open = self.open.remove(&chunk).ok_or_else(|| misuse("lost a chunk"))?;
        self.close(chunk..chunk + 1)?;
        Ok(Some(self.complete(chunk, length, open)))
    }

    fn complete(&self, chunk: u64, length: u64, mut open: Open) -> Piece {
        let start = chunk * self.chunk_bytes;
        let base_length = self.base_bytes.unwrap_or(0).saturating_sub(start).min(self.chunk_bytes);
        if open.written.is_empty() && base_length == length {
            return Piece::Kept(chunk..chunk + 1);
        }
        let mut bytes = open.whole(length as usize, &self.pool);
        bytes.truncate(length as usize);
        if open.kept.is_empty() {
            return Piece::Run { first: chunk, bytes: bytes.into() };
        }
        let kept = open.kept.0.iter().map(|(from, to)| *from as usize..*to as usize).collect();
        Piece::Patched { chunk, bytes, kept }
    }

    fn close(&mut self, chunks: Range<u64>) -> Result<()> {
        let half_written = self.open.range(chunks.clone()).next().is_some();
        if half_written || self.done.touches(&chunks) {
            return Err(misuse("wrote a byte twice"));
        }
        self.done.insert(chunks);
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Fill<'a> {
    Bytes(&'a [u8]),
    Keep(u64),
}

impl Open {
    /// Puts bytes where they belong. The first write of a small part may be all there is.
    fn place(&mut self, at: usize, bytes: &[u8], length: usize, pool: &BufferPool) {
        if self.bytes.is_none() && at == 0 {
            self.bytes = Some(bytes.to_vec().into());
            return;
        }
        let mut whole = self.whole(length, pool);
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        self.bytes = Some(whole);
    }

    /// Takes the bytes, in a buffer that is long enough.
    fn whole(&mut self, length: usize, pool: &BufferPool) -> Buffer {
        match self.bytes.take() {
            Some(bytes) if length <= bytes.len() => bytes,
            shorter => {
                let mut whole = pool.take(length);
                if let Some(bytes) = shorter {
                    whole[..bytes.len()].copy_from_slice(&bytes);
                }
                whole
            }
        }
    }

    fn claim(&self, range: Range<u64>) -> Result<()> {
        if self.written.touches(&range) || self.kept.touches(&range) {
            return Err(misuse("wrote a byte twice"));
        }
        Ok(())
    }

    fn covers(&self, length: u64) -> bool {
        self.written.total() + self.kept.total() == length
            && self.written.end().max(self.kept.end()) == length
    }
}

/// Disjoint, merged ranges: start to end.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((from, to)) = self.0.range(..=start).next_back().map(|(f, t)| (*f, *t))
            && to == start
        {
            self.0.remove(&from);
            start = from;
        }
        if let Some(to) = self.0.remove(&end) {
            end = to;
        }
        self.0.insert(start, end);
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        self.0.range(..range.end).next_back().is_some_and(|(_, to)| *to > range.start)
    }

    fn contains(&self, point: u64) -> bool {
        self.touches(&(point..point + 1))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }

    fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, to)| *to)
    }

    /// Whether this is `0..length` and nothing else.
    fn is_exactly(&self, length: u64) -> bool {
        if length == 0 {
            return self.0.is_empty();
        }
        self.0.len() == 1 && self.0.get(&0) == Some(&length)
    }
}

fn misuse(what: &'static str) -> Error {
    Error::new(ErrorKind::Bug, code::BUG, "assemble a part").with("driver", what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: u32 = 65_536;

    /// A pool whose buffers are full of something else.
    fn pool() -> BufferPool {
        let pool = BufferPool::default();
        let mut buffers: Vec<Buffer> = (0..4).map(|_| pool.take(CHUNK as usize)).collect();
        for buffer in &mut buffers {
            buffer.fill(0xEE);
        }
        pool
    }

    /// Lays pieces out again, taking kept bytes from `base`.
    fn lay_out(pieces: Vec<Piece>, base: &[u8], length: usize) -> Vec<u8> {
        let chunk = CHUNK as usize;
        let mut out = vec![0; length];
        for piece in pieces {
            match piece {
                Piece::Run { first, bytes } => {
                    let at = first as usize * chunk;
                    out[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Piece::Kept(chunks) => {
                    let range =
                        chunks.start as usize * chunk..(chunks.end as usize * chunk).min(length);
                    out[range.clone()].copy_from_slice(&base[range]);
                }
                Piece::Patched { chunk: number, mut bytes, kept } => {
                    let at = number as usize * chunk;
                    for range in kept {
                        bytes[range.clone()]
                            .copy_from_slice(&base[at + range.start..at + range.end]);
                    }
                    out[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_order_of_writes_and_keeps_yields_the_part(
            length in 1_u64..400_000,
            base_length in 0_u64..400_000,
            cuts in prop::collection::vec(0_u64..400_000, 0..12),
            choice in prop::collection::vec(any::<bool>(), 14),
            order in any::<prop::sample::Index>(),
        ) {
            let fresh: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let base: Vec<u8> = (0..base_length).map(|i| (i % 241) as u8 ^ 0x80).collect();
            let mut cuts: Vec<u64> = cuts.into_iter().filter(|c| *c < length).collect();
            cuts.extend([0, length]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut steps: Vec<(Range<u64>, bool)> = cuts
                .windows(2)
                .zip(&choice)
                .map(|(w, keep)| (w[0]..w[1], *keep && w[1] <= base_length))
                .collect();
            let middle = order.index(steps.len());
            steps.rotate_left(middle);

            let mut expected = fresh.clone();
            let mut assembly = Assembly::new(CHUNK, Some(base_length), pool());
            let mut pieces = Vec::new();
            for (range, keep) in steps {
                let span = range.start as usize..range.end as usize;
                if keep {
                    expected[span.clone()].copy_from_slice(&base[span]);
                    pieces.extend(assembly.keep(range).unwrap());
                } else {
                    let bytes = Bytes::copy_from_slice(&fresh[span]);
                    pieces.extend(assembly.write(range.start, &bytes).unwrap());
                }
            }
            pieces.extend(assembly.finish(length).unwrap());
            prop_assert_eq!(lay_out(pieces, &base, length as usize), expected);
        }
    }

    #[test]
    fn a_driver_is_held_to_its_word() {
        let page = Bytes::from(vec![1; 4096]);
        let mut twice = Assembly::new(CHUNK, None, pool());
        twice.write(0, &page).unwrap();
        assert!(twice.write(0, &page).is_err());
        assert!(twice.finish(8192).is_err(), "a hole at the end");

        let mut hole = Assembly::new(CHUNK, None, pool());
        hole.write(4096, &page).unwrap();
        assert!(hole.finish(8192).is_err(), "a hole at the start");

        let mut baseless = Assembly::new(CHUNK, None, pool());
        assert!(baseless.keep(0..1).is_err());

        let mut scattered = Assembly::new(CHUNK, None, pool());
        let refused = (0..2000).find_map(|i| scattered.write(i * 65_536, &page).err());
        assert!(refused.is_some(), "memory is bounded");
    }
}
