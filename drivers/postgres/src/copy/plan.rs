//! Which stretches of a relation's file are read, and which are kept from the base.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use stillpoint_contract::EXTENT_BYTES;

use super::names::{Fork, Relation};

/// How much is read at once.
const READ_BYTES: u64 = 2 * EXTENT_BYTES;

/// How many stretches are read at once.
const READS_MAX: usize = 512;

/// Which blocks changed since the base began, from WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    forks: HashMap<(u32, u32, u32, u8), Blocks>,
    /// Databases that were made or copied as a whole, by tablespace and database.
    recreated: HashSet<(u32, u32)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Blocks {
    changed: BTreeSet<u32>,
    /// Blocks from here on were cut off at some time, or the fork was made anew.
    limit: Option<u32>,
}

impl Changes {
    /// Notes a changed block. Returns whether it was news.
    pub(crate) fn block(&mut self, fork: (u32, u32, u32, u8), block: u32) -> bool {
        self.forks.entry(fork).or_default().changed.insert(block)
    }

    /// Notes that a fork was cut to `length` blocks, or made anew.
    pub(crate) fn cut(&mut self, fork: (u32, u32, u32, u8), length: u32) {
        let limit = &mut self.forks.entry(fork).or_default().limit;
        *limit = Some(limit.map_or(length, |limit| limit.min(length)));
    }

    /// Notes that a database was made or copied as a whole.
    pub(crate) fn recreate(&mut self, tablespace: u32, database: u32) {
        self.recreated.insert((tablespace, database));
    }

    /// The pages of a segment that must be read, ascending; `None` for all of them.
    pub(crate) fn pages(
        &self,
        relation: Relation,
        pages: u32,
        base_pages: u32,
        segment_pages: u32,
    ) -> Option<Vec<u32>> {
        // Neither map is logged as a whole: records that clear a bit of the visibility map name
        // the block of the table only.
        if matches!(relation.fork, Fork::FreeSpace | Fork::Visibility)
            || self.recreated.contains(&(relation.tablespace, relation.database))
        {
            return None;
        }
        let first = relation.segment.checked_mul(segment_pages)?;
        let key = (relation.tablespace, relation.database, relation.number, relation.fork as u8);
        let mut known = base_pages.min(pages);
        let mut read = Vec::new();
        if let Some(blocks) = self.forks.get(&key) {
            if let Some(limit) = blocks.limit {
                known = known.min(limit.saturating_sub(first));
            }
            let inside = blocks.changed.range(first..first.saturating_add(known));
            read.extend(inside.map(|block| block - first));
        }
        if known == 0 && pages > 0 {
            return None;
        }
        read.extend(known..pages);
        Some(read)
    }
}

/// A stretch of a file, of which some is read and the rest is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) range: Range<u64>,
    /// Ascending stretches within.
    pub(crate) reads: Vec<Range<u64>>,
}

impl Extent {
    /// Everything of a file is read.
    pub(crate) fn whole(length_bytes: u64) -> Vec<Self> {
        let starts = (0..length_bytes).step_by(READ_BYTES as usize);
        let ranges = starts.map(|start| start..(start + READ_BYTES).min(length_bytes));
        ranges.map(|range| Self { reads: vec![range.clone()], range }).collect()
    }

    /// Some pages of a file are read. Cuts lie at multiples of what passes through a sink whole.
    pub(crate) fn some(length_bytes: u64, pages: &[u32], page_bytes: u32) -> Vec<Self> {
        let mut extents: Vec<Self> = Vec::new();
        let page_bytes = u64::from(page_bytes);
        let mut done = 0;
        for page in pages {
            let at = u64::from(*page) * page_bytes;
            let read = at..at + page_bytes;
            let cut = at / EXTENT_BYTES * EXTENT_BYTES;
            let end = (cut + EXTENT_BYTES).min(length_bytes);
            let last = extents.last_mut().filter(|last| {
                let bytes: u64 = last.reads.iter().map(|read| read.end - read.start).sum();
                at < last.range.end || bytes < READ_BYTES && last.reads.len() < READS_MAX
            });
            if let Some(last) = last {
                last.range.end = last.range.end.max(end);
                match last.reads.last_mut().filter(|read| read.end == at) {
                    Some(before) => before.end = read.end,
                    None => last.reads.push(read),
                }
            } else {
                extents.push(Self { range: done..end, reads: vec![read] });
            }
            done = end;
        }
        if done < length_bytes {
            extents.push(Self { range: done..length_bytes, reads: Vec::new() });
        }
        extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELATION: Relation =
        Relation { tablespace: 1663, database: 5, number: 7, fork: Fork::Main, segment: 1 };
    const FORK: (u32, u32, u32, u8) = (1663, 5, 7, 0);

    #[test]
    fn only_what_changed_and_what_is_new_is_read() {
        let mut changes = Changes::default();
        assert_eq!(changes.pages(RELATION, 10, 8, 100), Some(vec![8, 9]));
        for block in [99, 100, 103, 107, 108, 200] {
            changes.block(FORK, block);
        }
        assert_eq!(changes.pages(RELATION, 10, 8, 100), Some(vec![0, 3, 7, 8, 9]));
        changes.cut(FORK, 104);
        changes.cut(FORK, 150);
        assert_eq!(changes.pages(RELATION, 10, 8, 100), Some(vec![0, 3, 4, 5, 6, 7, 8, 9]));
        changes.cut(FORK, 100);
        assert_eq!(changes.pages(RELATION, 10, 8, 100), None);
        let free = Relation { fork: Fork::FreeSpace, ..RELATION };
        assert_eq!(changes.pages(free, 10, 10, 100), None);
        let visible = Relation { fork: Fork::Visibility, ..RELATION };
        assert_eq!(changes.pages(visible, 10, 10, 100), None);
        let other = Relation { number: 8, ..RELATION };
        assert_eq!(changes.pages(other, 10, 10, 100), Some(vec![]));
        changes.recreate(1663, 5);
        assert_eq!(changes.pages(other, 10, 10, 100), None);
    }

    #[test]
    fn extents_cover_a_file_without_overlap_and_hold_every_read() {
        let length = 40 * EXTENT_BYTES + 3 * 8192;
        for pages in [vec![], vec![0], vec![5, 6, 7, 127, 128, 4000, 5122], (0..5123).collect()] {
            let extents = Extent::some(length, &pages, 8192);
            let mut at = 0;
            let mut read = Vec::new();
            for extent in &extents {
                assert_eq!(extent.range.start, at);
                at = extent.range.end;
                for piece in &extent.reads {
                    assert!(extent.range.start <= piece.start && piece.end <= extent.range.end);
                    read.extend((piece.start / 8192..piece.end / 8192).map(|page| page as u32));
                }
            }
            assert_eq!((at, read), (length, pages));
        }
        assert_eq!(Extent::whole(0), []);
        assert_eq!(Extent::whole(5).len(), 1);
    }
}
