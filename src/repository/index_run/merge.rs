//! Merging index runs into fewer ones without loading them.

use std::{cmp::Reverse, collections::BTreeSet, collections::BinaryHeap, fmt};

use stillpoint_contract::{Entropy, Result};

use super::{
    build::{FinishedRun, IndexRunBuilder},
    format::Located,
    read::{Entries, IndexRun},
    source::ReadAt,
};
use crate::{
    pipeline::id::{ChunkId, RepositoryId},
    repository::pack::PackName,
};

/// A merge in progress. Holds one new run and a small block of every old one in memory.
///
/// The new runs together hold every entry of the old ones once, except those of dropped packs,
/// and no two of them overlap but in the chunk where one ends and the next begins.
pub struct Merge<'a, R> {
    repository: RepositoryId,
    dropped: &'a BTreeSet<PackName>,
    runs: Vec<Entries<'a, R>>,
    heads: BinaryHeap<Reverse<Head>>,
    last: Option<Located>,
}

/// The next entry of one run; the smallest id comes first, then the smallest pack.
#[derive(PartialEq, Eq)]
struct Head {
    located: Located,
    run: usize,
}

impl Head {
    fn order(&self) -> (ChunkId, PackName, u32, usize) {
        let Located { pack, entry, .. } = &self.located;
        (entry.label.id, *pack, entry.offset, self.run)
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a, R: ReadAt> Merge<'a, R> {
    /// Begins to merge `runs`, leaving out every entry that lies in one of `dropped`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when a run cannot be read.
    pub fn new(
        repository: RepositoryId,
        runs: impl IntoIterator<Item = &'a IndexRun<R>>,
        dropped: &'a BTreeSet<PackName>,
    ) -> Result<Self> {
        let runs: Vec<_> = runs.into_iter().map(IndexRun::iter).collect();
        let mut merge = Self { repository, dropped, runs, heads: BinaryHeap::new(), last: None };
        for run in 0..merge.runs.len() {
            merge.advance(run)?;
        }
        Ok(merge)
    }

    /// Builds the next run, or `None` when everything is merged. Work for a CPU thread.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when a run cannot be read.
    pub fn next_run(&mut self, entropy: &dyn Entropy) -> Result<Option<FinishedRun>> {
        let mut builder = IndexRunBuilder::new(self.repository);
        while builder.has_room(1)
            && let Some(located) = self.next_entry()?
        {
            builder.add(&located)?;
        }
        Ok((!builder.is_empty()).then(|| builder.finish(entropy)))
    }

    fn next_entry(&mut self) -> Result<Option<Located>> {
        while let Some(Reverse(Head { located, run })) = self.heads.pop() {
            self.advance(run)?;
            let is_new = self.last != Some(located) && !self.dropped.contains(&located.pack);
            self.last = Some(located);
            if is_new {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    fn advance(&mut self, run: usize) -> Result<()> {
        if let Some(located) = self.runs[run].next().transpose()? {
            self.heads.push(Reverse(Head { located, run }));
        }
        Ok(())
    }
}

impl<R> fmt::Debug for Merge<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}
