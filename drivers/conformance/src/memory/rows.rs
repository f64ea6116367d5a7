//! Rows of tables, on their way out of those and back.

use std::time::Duration;

use async_trait::async_trait;
use stillpoint_contract::{
    ArchiveSet, Conflict, KeyRange, Link, Member, Result, RowBatch, RowSink, Rows, Table,
};

/// How long others who hold a lock are waited for.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// A [`RowSink`] that keeps what it takes.
#[derive(Debug, Default)]
pub struct MemoryRows(pub Vec<RowBatch>);

#[async_trait]
impl RowSink for MemoryRows {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        self.0.push(rows);
        Ok(())
    }
}

impl MemoryRows {
    /// All rows of a set's root that are selected.
    pub async fn read(rows: &mut dyn Rows, set: &ArchiveSet) -> Result<Self> {
        let mut all = Self::default();
        let mut snapshot = rows.snapshot().await?;
        snapshot.root(set, &KeyRange::default(), u64::MAX >> 1, &mut all).await?;
        drop(snapshot);
        Ok(all)
    }

    /// Puts them back, and says how many were inserted or replaced.
    pub async fn put_back(
        &self,
        rows: &mut dyn Rows,
        table: &Table,
        conflict: &Conflict,
        staging: Option<&str>,
    ) -> Result<u64> {
        let mut back = rows.put_back().await?;
        back.begin(table, conflict, staging).await?;
        for batch in &self.0 {
            back.rows(batch.clone()).await?;
        }
        let tally = back.end().await?;
        back.commit().await?;
        Ok(tally.inserted + tally.replaced)
    }
}

/// A set of one table.
pub fn set(table: Table, predicate: &str) -> ArchiveSet {
    let members = vec![Member { table, link: None }];
    let predicate = predicate.to_owned();
    ArchiveSet { name: "set".to_owned(), members, predicate, derived: Vec::new() }
}

/// Adds a table to a set, one column of which refers to one of the root.
pub fn hang(set: &mut ArchiveSet, table: Table, [column, of_root]: [&str; 2]) {
    let (columns, parent_columns) = (vec![column.to_owned()], vec![of_root.to_owned()]);
    let link = Some(Link { parent: 0, columns, parent_columns, likeness: Vec::new() });
    set.members.push(Member { table, link });
}

/// Deletes everything of a set that is selected, and says how many rows that was.
pub async fn delete(rows: &mut dyn Rows, set: &ArchiveSet) -> Result<u64> {
    rows.lock("set", PATIENCE).await?;
    let mut pruning = rows.prune().await?;
    pruning.fingerprints(set).await?;
    let (mut count, range) = (0, KeyRange::default());
    for member in (0..set.members.len()).rev() {
        count += pruning.delete(set, member, &range, &mut MemoryRows::default()).await?;
    }
    pruning.commit().await?;
    Ok(count)
}
