//! Which pages changed since an earlier backup, learnt from the log alone.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

use stillpoint_contract::{Base, LogPosition, PartRecord, Result, SegmentHead, Shape, Source};

use crate::{
    PART,
    generation::LogState,
    position::{self, Cursor},
    segment::Index,
    snapshot::blocking,
    wal::{FRAME_HEADER_BYTES, Generation, Salts, WalFile, be32},
};

/// Pages in one block of the set; a block takes 4 KiB.
const BLOCK_PAGES: u32 = 1 << 15;

/// Unchanged pages between two changed ones that are read rather than skipped.
const GAP_PAGES_MAX: u32 = 16;

/// How many segments are looked at; a longer log is not worth it.
const SEGMENTS_MAX: usize = 1 << 20;

/// A set of pages. Takes memory in proportion to the pages in it, at most a bit for each page.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    blocks: BTreeMap<u32, Box<[u64]>>,
    /// Pages past this one changed, whatever the set says.
    pages_kept: u32,
}

impl Changes {
    /// No change in a database of `pages` pages.
    fn none(pages: u32) -> Self {
        Self { blocks: BTreeMap::new(), pages_kept: pages }
    }

    fn insert(&mut self, page: u32) {
        let (block, bit) = ((page - 1) / BLOCK_PAGES, (page - 1) % BLOCK_PAGES);
        let empty = || vec![0; (BLOCK_PAGES / 64) as usize].into_boxed_slice();
        let words = self.blocks.entry(block).or_insert_with(empty);
        words[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// The database was this long once: what lies beyond was written anew.
    fn shrink(&mut self, pages: u32) {
        self.pages_kept = self.pages_kept.min(pages);
    }

    fn merge(&mut self, other: Self) {
        self.shrink(other.pages_kept);
        for (block, theirs) in other.blocks {
            match self.blocks.entry(block) {
                Entry::Vacant(vacant) => drop(vacant.insert(theirs)),
                Entry::Occupied(mut ours) => {
                    ours.get_mut().iter_mut().zip(&theirs).for_each(|(our, their)| *our |= their);
                }
            }
        }
    }

    fn absorb(&mut self, index: &Index) {
        index.pages.iter().for_each(|page| self.insert(*page));
        self.shrink(index.db_pages_min);
    }

    fn pages(&self) -> impl Iterator<Item = u32> {
        self.blocks.iter().flat_map(|(block, words)| {
            (0_u32..).zip(words.iter()).flat_map(move |(index, word)| {
                (0..64)
                    .filter(move |bit| word >> bit & 1 == 1)
                    .map(move |bit| block * BLOCK_PAGES + index * 64 + bit + 1)
            })
        })
    }

    /// Ascending runs of page numbers to read in a database of `count` pages. Runs that are close
    /// to each other are joined.
    pub(crate) fn runs(&self, count: u32) -> Vec<Range<u32>> {
        let kept = self.pages_kept.min(count);
        let mut runs: Vec<Range<u32>> = Vec::new();
        let singles = self.pages().take_while(|page| *page <= kept).map(|page| page..page + 1);
        for run in singles.chain((kept < count).then_some(kept + 1..count + 1)) {
            match runs.last_mut() {
                Some(last) if run.start <= last.end.saturating_add(GAP_PAGES_MAX) => {
                    last.end = run.end;
                }
                _ => runs.push(run),
            }
        }
        runs
    }
}

/// What changed, or why nobody knows.
pub(crate) enum Verdict {
    /// These pages, if the file is still the one of which the mark was made that was met last.
    Known(Changes, Option<Cursor>),
    Unknown(&'static str),
}

/// Finds what changed between the base and the pinned `state` at `position`, and names that as the
/// captured log does when it goes on after the file was written over.
pub(crate) async fn since(
    base: &mut Base<'_>,
    wal: &WalFile,
    state: &LogState,
    position: &mut LogPosition,
    page_bytes: u32,
) -> Result<Verdict> {
    let Some(start) = base.evidence.consistent_at.clone() else {
        return Ok(Verdict::Unknown("the earlier backup has no position"));
    };
    let Some(pages) = base_pages(base.parts, page_bytes).await? else {
        return Ok(Verdict::Unknown("the earlier backup has another page size"));
    };
    let mut walk = Walk { changes: Changes::none(pages), at: start, cursor: None, page_bytes };
    walk.cursor = Cursor::decode(&base.evidence.cursor);
    if walk.arrive(wal, state, position).await? {
        return Ok(Verdict::Known(walk.changes, walk.cursor));
    }
    for is_last_try in [false, true] {
        for _ in 0..SEGMENTS_MAX {
            let Some(head) = base.log.next().await? else { break };
            if !walk.step(&head)? {
                return Ok(Verdict::Unknown("the captured log does not join the earlier backup"));
            }
            if walk.arrive(wal, state, position).await? {
                return Ok(Verdict::Known(walk.changes, walk.cursor));
            }
        }
        if is_last_try || !base.log.reaches(position).await? {
            break;
        }
    }
    Ok(Verdict::Unknown("the captured log does not reach this backup"))
}

/// The length of the base's part in pages, unless its pages are of another size.
async fn base_pages(parts: &dyn Source, page_bytes: u32) -> Result<Option<u32>> {
    for page in 0..u32::MAX {
        let records: Vec<PartRecord> = parts.parts(page).await?;
        if records.is_empty() {
            break;
        }
        if let Some(record) = records.iter().find(|record| record.spec.name.as_str() == PART) {
            let pages = record.length_bytes / u64::from(page_bytes);
            let is_same = record.spec.shape == Shape::Paged { page_bytes };
            return Ok(u32::try_from(pages).ok().filter(|_| is_same));
        }
    }
    Ok(None)
}

/// A walk along the log from the base towards the state of the new backup.
struct Walk {
    changes: Changes,
    at: LogPosition,
    /// Where in the log file `at` is, when that is known.
    cursor: Option<Cursor>,
    page_bytes: u32,
}

impl Walk {
    /// Takes one segment; false when it does not continue the walk.
    fn step(&mut self, head: &SegmentHead) -> Result<bool> {
        let (start, end) = (head.range.start(), head.range.end());
        if start.lineage == self.at.lineage {
            if *end <= self.at {
                return Ok(true);
            }
            if self.at < *start {
                return Ok(false);
            }
        } else if head.succeeds.as_ref() != Some(&self.at) {
            return Ok(false);
        }
        if !head.index.is_empty() {
            let index = Index::decode(&head.index)?;
            if index.page_bytes != self.page_bytes {
                return Ok(false);
            }
            self.changes.absorb(&index);
        }
        self.at = end.clone();
        self.cursor = Cursor::decode(&head.cursor);
        Ok(true)
    }

    /// Whether the walk has reached the new backup, or reaches it through frames that are still
    /// in the log file.
    async fn arrive(
        &mut self,
        wal: &WalFile,
        state: &LogState,
        position: &mut LogPosition,
    ) -> Result<bool> {
        let is_same = |(live, _): (Generation, u32)| {
            self.cursor.is_some_and(|cursor| {
                cursor.salts == live.salts && u128::from(cursor.frame) == self.at.offset
            }) && position::is_over(&self.at.lineage)
        };
        if state.live.is_some_and(is_same) {
            position.lineage = self.at.lineage.clone();
        }
        if self.at.lineage != position.lineage {
            return Ok(false);
        }
        if *position <= self.at {
            // A segment that was cut after the position only names a few pages too many.
            return Ok(true);
        }
        let Some(cursor) = self.cursor.filter(|c| u128::from(c.frame) == self.at.offset) else {
            return Ok(false);
        };
        let (wal, state) = (wal.clone(), *state);
        let pages = blocking(move || live_changes(&wal, &state, &cursor)).await?;
        let Some(pages) = pages else { return Ok(false) };
        self.changes.merge(pages);
        self.at = position.clone();
        Ok(true)
    }
}

/// What the frames after `cursor` change; `None` when the log file no longer holds them.
fn live_changes(wal: &WalFile, state: &LogState, cursor: &Cursor) -> Result<Option<Changes>> {
    let Some((live, frames)) = state.live else { return Ok(None) };
    let is_there = live.salts == cursor.salts
        && wal.checksum_after(&live, cursor.frame)? == Some(cursor.checksum);
    if !is_there {
        return Ok(None);
    }
    let mut changes = Changes::none(u32::MAX);
    for number in cursor.frame + 1..=frames {
        let header: Option<[u8; FRAME_HEADER_BYTES]> = wal.frame_header(&live, number)?;
        let Some(header) = header.filter(|h| Salts::of_frame(h) == live.salts) else {
            return Ok(None);
        };
        let (page, db_pages) = (be32(&header, 0), be32(&header, 4));
        if page == 0 {
            return Ok(None);
        }
        changes.insert(page);
        if db_pages != 0 {
            changes.shrink(db_pages);
        }
    }
    Ok(Some(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_neighbours_and_cover_what_grew() {
        let mut changes = Changes::none(100_000);
        for page in [1, 3, 18, 40_000, 70_001] {
            changes.insert(page);
        }
        assert_eq!(changes.runs(100_000), [1..19, 40_000..40_001, 70_001..70_002]);
        assert_eq!(changes.runs(50_000), [1..19, 40_000..40_001]);
        changes.shrink(39_000);
        assert_eq!(changes.runs(60_000), [1..19, 39_001..60_001]);
        assert_eq!(changes.runs(0), []);
    }
}
