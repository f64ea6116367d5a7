//! Which tables may have the rows of a run by now: partitions leave their table and are dropped,
//! and a restore of the database brings them back as they were before.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{ArchiveSet, ErrorKind, Partition, Result, Rows};

use super::{
    document::{Batch, Plan},
    shelf::{Shelf, Shelved},
};

/// Where the partition of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In its table.
    Within,
    /// It is a table of its own.
    Alone,
    /// Nowhere: what has its name is another table.
    Gone,
}

/// Where the partitions of a set's runs are.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// What the table is called, and which partitions it has.
    root: String,
    partitions: Vec<Partition>,
    /// By run.
    of_run: BTreeMap<String, Home>,
}

impl Homes {
    /// Looks where they are.
    pub(super) async fn look(rows: &mut dyn Rows, shelf: &Shelf) -> Result<Self> {
        let mut homes = Self::default();
        let Some(root) = shelf.runs.last().and_then(|run| run.plan.members.first()) else {
            return Ok(homes);
        };
        homes.root.clone_from(&root.table.name);
        let whole = rows.partitions(&root.table.name).await?;
        homes.partitions = whole.map(|whole| whole.partitions).unwrap_or_default();
        for run in &shelf.runs {
            if let Some(part) = &run.plan.part {
                let home = homes.home(rows, &part.partition).await?;
                homes.of_run.insert(run.plan.run.clone(), home);
            }
        }
        Ok(homes)
    }

    async fn home(&self, rows: &mut dyn Rows, partition: &Partition) -> Result<Home> {
        if self.partitions.iter().any(|one| one.identity == partition.identity) {
            return Ok(Home::Within);
        }
        match rows.table(&partition.name).await {
            Ok(table) if table.identity == partition.identity => Ok(Home::Alone),
            Ok(_) => Ok(Home::Gone),
            // What is none of our tables, such as a view, is not that one either.
            Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Unsupported) => {
                Ok(Home::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the partition of a run is gone.
    pub(super) fn is_gone(&self, plan: &Plan) -> bool {
        self.of_run.get(&plan.run) == Some(&Home::Gone)
    }

    /// The set of a batch, once for each table that may have its rows: of a partition that is gone,
    /// others may have taken them.
    pub(super) fn sets(&self, plan: &Plan, batch: &Batch) -> Vec<ArchiveSet> {
        let set = batch.set_of(plan);
        if !self.is_gone(plan) {
            return vec![set];
        }
        let others: Vec<&String> = match self.partitions.as_slice() {
            [] => vec![&self.root],
            partitions => partitions.iter().map(|one| &one.name).collect(),
        };
        let of = |name: &String| {
            let mut set = set.clone();
            set.members[0].table.name.clone_from(name);
            set
        };
        others.into_iter().map(of).collect()
    }

    /// The runs that ended, and whose partitions stand beside their table all the same: the
    /// database went back to before they were dropped. Of several runs of one partition, the last.
    pub(super) fn alone<'a>(&self, shelf: &'a Shelf) -> Vec<(&'a Shelved, &'a Partition)> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for run in shelf.runs.iter().rev() {
            let counts = run.batches.values().any(|one| one.void.is_none());
            let Some(partition) = run.plan.whole().filter(|_| counts || run.end.is_none()) else {
                continue;
            };
            let is_alone = self.of_run.get(&run.plan.run) == Some(&Home::Alone);
            if seen.insert(&*partition.identity) && is_alone && run.end.is_some() {
                found.push((run, partition));
            }
        }
        found.reverse();
        found
    }
}
