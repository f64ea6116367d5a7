//! Building an index run in memory.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;
use stillpoint_contract::{Entropy, Error, Result};

use super::format::{
    BASE_BYTES, ENTRIES_MAX, ENTRY_BYTES, FAN_OUT_BYTES, HEADER_BYTES, Header, Located,
    PACK_ROW_BYTES, PACKS_MAX, PackRow, Row, RunName,
};
use crate::{
    pipeline::id::{ChunkId, RepositoryId},
    repository::pack::FinishedPack,
};

/// Collects entries in any order. Holds at most [`ENTRIES_MAX`] of them, about 40 MiB.
#[derive(Debug)]
pub struct IndexRunBuilder {
    repository: RepositoryId,
    rows: Vec<Row>,
    packs: Numbering<PackRow>,
    bases: Numbering<ChunkId>,
}

/// A run ready to be stored.
#[derive(Clone, Debug)]
pub struct FinishedRun {
    /// Its name.
    pub name: RunName,
    /// The whole file.
    pub bytes: Bytes,
    /// How many entries it has.
    pub entries: usize,
}

impl IndexRunBuilder {
    /// Begins an empty run.
    pub fn new(repository: RepositoryId) -> Self {
        Self { repository, rows: Vec::new(), packs: Numbering::new(), bases: Numbering::new() }
    }

    /// Adds one entry. A chunk may be added once for each pack that has it.
    ///
    /// # Errors
    ///
    /// [`Bug`](stillpoint_contract::ErrorKind::Bug) when the run is full, or the entry makes no
    /// sense.
    pub fn add(&mut self, located: &Located) -> Result<()> {
        let Located { pack, pack_bytes, entry } = located;
        let bug = || Error::bug("add an entry to an index run").with("chunk", entry.label.id);
        if !self.has_room(1) {
            return Err(bug().with("entries", self.rows.len()));
        }
        let pack_row = PackRow { name: *pack, pack_bytes: *pack_bytes };
        let base_no = entry.label.base.map(|base| self.bases.number(base));
        let row = Row::new(entry, self.packs.number(pack_row), base_no);
        if row.locate(&pack_row, entry.label.base).is_none() {
            return Err(bug().with("entry", format!("{located:?}")));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Adds all entries of a pack.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_pack(&mut self, pack: &FinishedPack) -> Result<()> {
        let pack_bytes = pack.bytes.len() as u32;
        pack.entries
            .iter()
            .try_for_each(|&entry| self.add(&Located { pack: pack.name, pack_bytes, entry }))
    }

    /// Whether so many more entries, all of one pack, fit.
    pub fn has_room(&self, entries: usize) -> bool {
        self.rows.len() + entries <= ENTRIES_MAX && self.packs.ordered.len() < PACKS_MAX
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sorts, writes and names the run. Work for a CPU thread.
    pub fn finish(mut self, entropy: &dyn Entropy) -> FinishedRun {
        self.rows.sort_unstable();
        self.rows.dedup();
        let mut random = [0; 16];
        entropy.fill(&mut random);
        let header = Header {
            repository: self.repository,
            random,
            entries: self.rows.len() as u32,
            packs: self.packs.ordered.len() as u32,
            bases: self.bases.ordered.len() as u32,
        };
        let mut bytes = Vec::with_capacity(
            HEADER_BYTES
                + FAN_OUT_BYTES
                + self.rows.len() * ENTRY_BYTES
                + self.packs.ordered.len() * PACK_ROW_BYTES
                + self.bases.ordered.len() * BASE_BYTES,
        );
        bytes.extend_from_slice(&header.encode());
        for up_to in fan_out(&self.rows) {
            bytes.extend_from_slice(&up_to.to_le_bytes());
        }
        self.rows.iter().for_each(|row| row.encode(&mut bytes));
        self.packs.ordered.iter().for_each(|pack| pack.encode(&mut bytes));
        self.bases.ordered.iter().for_each(|base| bytes.extend_from_slice(base.as_bytes()));
        let name = RunName::new(*blake3::hash(&bytes).as_bytes());
        FinishedRun { name, bytes: bytes.into(), entries: self.rows.len() }
    }
}

/// For every first byte of an id, how many rows have that or a smaller one.
fn fan_out(rows: &[Row]) -> [u32; 256] {
    let mut counts = [0; 256];
    for row in rows {
        counts[usize::from(row.id.as_bytes()[0])] += 1;
    }
    let mut sum = 0;
    counts.map(|count| {
        sum += count;
        sum
    })
}

/// Gives equal values one number, in order of first appearance.
#[derive(Debug)]
struct Numbering<T> {
    ordered: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Copy + Eq + std::hash::Hash> Numbering<T> {
    fn new() -> Self {
        Self { ordered: Vec::new(), numbers: HashMap::new() }
    }

    fn number(&mut self, value: T) -> u32 {
        match self.numbers.entry(value) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(free) => {
                self.ordered.push(value);
                *free.insert((self.ordered.len() - 1) as u32)
            }
        }
    }
}
