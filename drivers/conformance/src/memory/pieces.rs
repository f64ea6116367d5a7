//! The bytes of one part as the pieces they were written in.

use std::{collections::BTreeMap, ops::Range};

use bytes::{Bytes, BytesMut};

/// Pieces that never overlap, by offset. Taking a range copies nothing that lies in one piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces(BTreeMap<u64, Bytes>);

impl Pieces {
    /// Adds `bytes` at `offset`; returns `false` and adds nothing where something lies already.
    pub(crate) fn add(&mut self, offset: u64, bytes: Bytes) -> bool {
        let range = offset..offset + bytes.len() as u64;
        if bytes.is_empty() {
            return true;
        }
        let free = self
            .0
            .range(..range.end)
            .next_back()
            .is_none_or(|(at, piece)| at + piece.len() as u64 <= range.start);
        if free {
            self.0.insert(offset, bytes);
        }
        free
    }

    /// The first stretch of `0..length` that no piece covers.
    pub(crate) fn hole(&self, length: u64) -> Option<Range<u64>> {
        let mut covered = 0;
        for (&offset, piece) in &self.0 {
            if offset > covered {
                return Some(covered..offset.min(length));
            }
            covered = offset + piece.len() as u64;
        }
        (covered < length).then_some(covered..length)
    }

    /// Where the last piece ends.
    pub(crate) fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(offset, piece)| offset + piece.len() as u64)
    }

    /// The pieces inside `range`, cut to it, with their offsets.
    pub(crate) fn cut(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let first = self.0.range(..=range.start).next_back().map_or(range.start, |(at, _)| *at);
        let inside = self.0.range(first..range.end.max(first)).map(|(&offset, piece)| {
            let start = range.start.max(offset);
            let end = range.end.min(offset + piece.len() as u64);
            let cut = start.saturating_sub(offset) as usize..end.saturating_sub(offset) as usize;
            (start, if cut.is_empty() { Bytes::new() } else { piece.slice(cut) })
        });
        inside.filter(|(_, piece)| !piece.is_empty()).collect()
    }

    /// The bytes of `range`, shorter where the pieces end earlier.
    pub(crate) fn read(&self, range: Range<u64>) -> Bytes {
        let mut inside = self.cut(range);
        if inside.len() == 1 {
            return inside.remove(0).1;
        }
        let mut joined = BytesMut::with_capacity(inside.iter().map(|(_, piece)| piece.len()).sum());
        for (_, piece) in &inside {
            joined.extend_from_slice(piece);
        }
        joined.freeze()
    }
}
