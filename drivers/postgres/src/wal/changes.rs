//! Which blocks a stretch of WAL changes: what an incremental backup need read, and no more.

use std::collections::BTreeMap;

use super::{
    BlockRef, Record,
    bytes::{Cursor, put_varint},
    meaning::{Event, EventKind, FORKS},
    record::RelationFork,
};

/// The free space map, which is not logged in full and is always copied whole.
const FREE_SPACE: u8 = 1;

/// The version of the encoding.
const VERSION: u8 = 1;

/// The blocks that changed, file by file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    files: BTreeMap<RelationFork, FileChanges>,
    /// Whether the server wrote less than it did.
    is_partial: bool,
}

/// The blocks of one file that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileChanges {
    /// The fewest blocks that the file had meanwhile: whatever lies behind was written since.
    pub limit: Option<u32>,
    /// Sixty-four blocks at a time.
    blocks: BTreeMap<u32, u64>,
}

impl FileChanges {
    /// The changed blocks, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
    }

    fn cut(&mut self, blocks: u32) {
        self.limit = Some(self.limit.map_or(blocks, |limit| limit.min(blocks)));
    }
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.is_partial
    }

    /// Whether more may have changed than WAL says, since the server wrote the least it could.
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// The files that changed. A file number of 0 stands for all files of a database in a
    /// tablespace.
    pub fn files(&self) -> impl Iterator<Item = (&RelationFork, &FileChanges)> {
        self.files.iter()
    }

    /// What changed in one file.
    pub fn file(&self, relation: &RelationFork) -> Option<&FileChanges> {
        self.files.get(relation)
    }

    /// Takes note of a record and of what it means.
    pub fn add(&mut self, record: &Record, events: &[Event]) {
        for BlockRef { relation, block, .. } in &record.blocks {
            if relation.fork != FREE_SPACE {
                let file = self.files.entry(*relation).or_default();
                *file.blocks.entry(block / 64).or_default() |= 1 << (block % 64);
            }
        }
        for event in events {
            match &event.kind {
                EventKind::Ended { dropped, .. } => {
                    let forks = dropped
                        .iter()
                        .flat_map(|relation| FORKS.map(|fork| RelationFork { fork, ..*relation }));
                    forks.for_each(|relation| self.cut(relation, 0));
                }
                EventKind::Created(relation) => self.cut(*relation, 0),
                EventKind::Truncated { relation, blocks } => self.cut(*relation, *blocks),
                EventKind::Database { tablespace, database, .. } => {
                    let (tablespace, database) = (*tablespace, *database);
                    let all = RelationFork { tablespace, database, file: 0, fork: 0 };
                    self.cut(all, 0);
                }
                EventKind::Minimal => self.is_partial = true,
                EventKind::RestorePoint(_) => {}
            }
        }
    }

    fn cut(&mut self, relation: RelationFork, blocks: u32) {
        if relation.fork != FREE_SPACE {
            self.files.entry(relation).or_default().cut(blocks);
        }
    }

    /// Adds what changed elsewhere.
    pub fn merge(&mut self, other: Self) {
        self.is_partial |= other.is_partial;
        for (relation, changes) in other.files {
            let file = self.files.entry(relation).or_default();
            if let Some(limit) = changes.limit {
                file.cut(limit);
            }
            for (word, bits) in changes.blocks {
                *file.blocks.entry(word).or_default() |= bits;
            }
        }
    }

    /// Writes them, unless they take more than `bytes_max` or are not all.
    pub fn encode(&self, bytes_max: usize) -> Option<Vec<u8>> {
        if self.is_partial {
            return None;
        }
        let mut out = vec![VERSION];
        put_varint(&mut out, self.files.len() as u64);
        for (relation, changes) in &self.files {
            for number in [relation.tablespace, relation.database, relation.file] {
                put_varint(&mut out, number.into());
            }
            out.push(relation.fork);
            put_varint(&mut out, changes.limit.map_or(0, |limit| u64::from(limit) + 1));
            put_varint(&mut out, changes.blocks.len() as u64);
            let mut before = 0;
            for (word, bits) in &changes.blocks {
                put_varint(&mut out, u64::from(word - before));
                put_varint(&mut out, *bits);
                before = *word;
            }
            if out.len() > bytes_max {
                return None;
            }
        }
        Some(out).filter(|out| out.len() <= bytes_max)
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        if cursor.u8()? != VERSION {
            return None;
        }
        let mut changes = Self::default();
        for _ in 0..cursor.varint()? {
            let mut number = || u32::try_from(cursor.varint()?).ok();
            let (tablespace, database, file) = (number()?, number()?, number()?);
            let relation = RelationFork { tablespace, database, file, fork: cursor.u8()? };
            let limit = match cursor.varint()? {
                0 => None,
                limit => Some(u32::try_from(limit - 1).ok()?),
            };
            let mut blocks = BTreeMap::new();
            let mut word = 0_u32;
            for _ in 0..cursor.varint()? {
                word = word.checked_add(u32::try_from(cursor.varint()?).ok()?)?;
                if word > u32::MAX / 64 {
                    return None;
                }
                blocks.insert(word, cursor.varint()?);
            }
            changes.files.insert(relation, FileChanges { limit, blocks });
        }
        cursor.0.is_empty().then_some(changes)
    }
}
