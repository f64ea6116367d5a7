//! Rows on their way out of their tables: deleted only if what the deletion returned is, row by
//! row, what the file holds.

use std::{collections::HashMap, ops::Range, time::Duration};

use async_trait::async_trait;
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, LedgerEntry, Pruning, Result, RowBatch, RowSink, Rows, code,
};

use super::{
    behind::Behind,
    document::{Batch, Plan, Slice, Tally},
    file::SliceHash,
    witness::{Step, Witness},
};
use crate::{pipeline::cpu::CpuPool, policy::Verification};

/// The most slices that are deleted at once.
const SLICES_MAX: usize = 64;

/// What became of slices.
#[derive(Debug)]
pub(super) enum Pruned {
    /// Their rows are gone from their tables.
    Gone,
    /// Nothing was deleted, since what would have been deleted is not what the file holds.
    Differs(Difference),
}

/// How a slice differs from its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The slice.
    pub slice: u32,
    /// The table.
    pub table: String,
    /// How.
    pub how: String,
    /// Whether the table's columns or constraints are others now, so that no slice can be deleted.
    pub is_schema: bool,
}

/// Deletes the rows of some slices of a batch in one transaction.
///
/// The batch's files were read back: what its slices say is what the files hold.
pub(super) async fn prune(
    rows: &mut dyn Rows,
    cpu: &CpuPool,
    batch: &Batch,
    set: &ArchiveSet,
    (slices, versions): (&[Slice], &Versions),
    witness: &dyn Witness,
) -> Result<Pruned> {
    let mut transaction = rows.prune().await?;
    witness.see(&Step::Begun);
    match delete(&mut *transaction, cpu, batch, set, (slices, versions), witness).await {
        Ok(None) => {
            witness.see(&Step::Committing);
            if let Err(error) = transaction.commit().await {
                return interfered(error, set, slices);
            }
            witness.see(&Step::Committed {
                rows: slices.iter().map(Slice::rows).sum(),
                slices: slices.len() as u64,
            });
            Ok(Pruned::Gone)
        }
        Ok(Some(difference)) => {
            transaction.roll_back().await?;
            Ok(Pruned::Differs(difference))
        }
        Err(error) => {
            // The error counts; a transaction that is not committed never was.
            drop(transaction.roll_back().await);
            interfered(error, set, slices)
        }
    }
}

/// The engine noticed that something interferes with deletions.
fn interfered(error: Error, set: &ArchiveSet, slices: &[Slice]) -> Result<Pruned> {
    if error.code() != code::ROWS_DIFFER || error.kind() == ErrorKind::Bug {
        return Err(error);
    }
    Ok(Pruned::Differs(Difference {
        slice: slices.first().map_or(0, |slice| slice.number),
        table: set.root().table.name.clone(),
        how: error.reason().unwrap_or("deletions are interfered with").to_owned(),
        is_schema: false,
    }))
}

async fn delete(
    transaction: &mut dyn Pruning,
    cpu: &CpuPool,
    batch: &Batch,
    set: &ArchiveSet,
    (slices, versions): (&[Slice], &Versions),
    witness: &dyn Witness,
) -> Result<Option<Difference>> {
    let first = slices.first().map_or(0, |slice| slice.number);
    let fingerprints = transaction.fingerprints(set).await?;
    for ((now, then), member) in fingerprints.iter().zip(&batch.members).zip(&set.members) {
        if *now != then.fingerprint {
            return Ok(Some(Difference {
                slice: first,
                table: member.table.name.clone(),
                how: "its columns, keys, triggers or constraints are others now".to_owned(),
                is_schema: true,
            }));
        }
    }
    for slice in slices {
        let Some(range) = slice.range()? else {
            return Ok(Some(Difference {
                slice: slice.number,
                table: set.root().table.name.clone(),
                how: "nobody knows any more between which keys its rows were".to_owned(),
                is_schema: false,
            }));
        };
        if set.members.len() > 1 {
            transaction.hold(set, &range).await?;
        }
        let of_versions = versions.of(slice);
        for member in (0..set.members.len()).rev() {
            let mut hash = Hashing::new(cpu);
            let (told, wanted) = if let Some(wanted) = of_versions {
                let told = transaction.delete_versions(set, member, &range, &mut hash).await?;
                (told, &wanted[member])
            } else {
                let told = transaction.delete(set, member, &range, &mut hash).await?;
                (told, &slice.members[member])
            };
            let found = hash.tally().await?;
            if told != found.rows {
                return Err(Error::new(ErrorKind::Bug, code::ROWS_DIFFER, "count deleted rows")
                    .with("told", told)
                    .with("handed over", found.rows));
            }
            if found != *wanted {
                return Ok(Some(Difference {
                    slice: slice.number,
                    table: set.members[member].table.name.clone(),
                    how: how(&found, wanted),
                    is_schema: false,
                }));
            }
        }
        let by = of_versions.map_or(Verification::Row, |_| Verification::Tuple);
        witness.see(&Step::Compared { slice: slice.number, by });
        transaction.note(&entry(set, batch, slice)).await?;
        witness.see(&Step::Noted { slice: slice.number });
    }
    Ok(None)
}

fn how(found: &Tally, wanted: &Tally) -> String {
    match found.rows.cmp(&wanted.rows) {
        std::cmp::Ordering::Equal => {
            format!("some of its {} rows are others than in the file", wanted.rows)
        }
        _ => format!("there are {} rows now, and {} in the file", found.rows, wanted.rows),
    }
}

/// What the ledger says of a slice once it is deleted.
pub(super) fn entry(set: &ArchiveSet, batch: &Batch, slice: &Slice) -> LedgerEntry {
    let (rows, hash) = match &slice.noted {
        Some(noted) => (noted.rows, noted.hash.clone()),
        None => (slice.rows(), slice.hash()),
    };
    LedgerEntry {
        set: set.name.clone(),
        run: batch.run.clone(),
        batch: batch.number,
        slice: slice.number,
        rows,
        hash,
        at: None,
        position: None,
    }
}

/// What the ledger says of the slices of a batch: for each of them, whether it is deleted.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when it says something else of one than the batch does.
pub(super) fn ledgered(batch: &Batch, ledger: &[LedgerEntry], plan: &Plan) -> Result<Vec<bool>> {
    let set = plan.archive_set();
    let of_batch = ledger.iter().filter(|one| one.batch == batch.number && one.run == batch.run);
    let noted: HashMap<u32, &LedgerEntry> = of_batch.map(|one| (one.slice, one)).collect();
    let of_slice = |slice: &Slice| {
        let Some(found) = noted.get(&slice.number) else { return Ok(false) };
        let wanted = entry(&set, batch, slice);
        if found.hash == wanted.hash && found.rows == wanted.rows {
            return Ok(true);
        }
        let step = "compare the ledger with the manifest";
        Err(Error::new(ErrorKind::Corrupt, code::LEDGER, step)
            .with("batch", batch_name(batch))
            .with("slice", slice.number)
            .why("other rows were deleted than the manifest says"))
    };
    batch.slices.iter().map(of_slice).collect()
}

/// A batch, for people.
pub(super) fn batch_name(batch: &Batch) -> String {
    format!("{}-{:06}", batch.run, batch.number)
}

/// Of each slice of a batch, which versions of rows were read, of each table: those that the slice
/// was made of. They are worth nothing once a session that reads or deletes was opened anew, since
/// another server may have taken over: nobody writes them down.
#[derive(Debug, Default)]
pub(super) struct Versions(pub(super) Vec<Vec<Tally>>);

impl Versions {
    pub(super) fn are_known(&self) -> bool {
        !self.0.is_empty()
    }

    fn of(&self, slice: &Slice) -> Option<&Vec<Tally>> {
        self.0.get(slice.number as usize)
    }
}

/// Who hashes what is handed over.
pub(super) struct Hashing(Behind<SliceHash>);

impl Hashing {
    pub(super) fn new(cpu: &CpuPool) -> Self {
        Self(Behind::new(cpu, SliceHash::default()))
    }

    /// What it was.
    pub(super) async fn tally(mut self) -> Result<Tally> {
        Ok(Tally::of(&self.0.rest().await?))
    }
}

#[async_trait]
impl RowSink for Hashing {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        self.0
            .work(move |hash| {
                rows.rows().for_each(|row| hash.add(row));
                Ok(())
            })
            .await
    }
}

/// How many slices are deleted at once: as many as a transaction of the wanted length can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stride {
    slices: usize,
    target: Duration,
    /// What the policy wants.
    policy: Duration,
}

impl Stride {
    pub(super) fn new(target: Duration) -> Self {
        Self { slices: 1, target, policy: target }
    }

    /// The slices from the first one of some.
    pub(super) fn of(&self, slices: usize) -> Range<usize> {
        0..self.slices.min(slices)
    }

    /// Learns from a transaction: one more where there is room, half of them where it was long.
    pub(super) fn learn(&mut self, took: Duration) {
        if took > self.target {
            self.slices = (self.slices / 2).max(1);
        } else if took * 2 < self.target {
            self.slices = (self.slices + 1).min(SLICES_MAX);
        }
    }

    /// Wants transactions of another length, where somebody says so; else as the policy does.
    pub(super) fn aim_at(&mut self, target: Option<Duration>) {
        self.target = target.unwrap_or(self.policy);
    }

    /// Each slice by itself: one of them differs.
    pub(super) fn single(&mut self) {
        self.slices = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_as_the_policy_wants_them_once_nothing_else_is_said() {
        let mut stride = Stride::new(Duration::from_millis(250));
        stride.aim_at(Some(Duration::from_millis(10)));
        stride.learn(Duration::from_millis(20));
        assert_eq!(stride.of(100), 0..1);
        stride.aim_at(None);
        stride.learn(Duration::from_millis(20));
        assert_eq!(stride.of(100), 0..2);
    }

    #[test]
    fn transactions_grow_slowly_and_shrink_fast() {
        let mut stride = Stride::new(Duration::from_millis(250));
        for _ in 0..7 {
            stride.learn(Duration::from_millis(20));
        }
        assert_eq!(stride.of(100), 0..8);
        assert_eq!(stride.of(3), 0..3);
        stride.learn(Duration::from_millis(200));
        assert_eq!(stride.of(100), 0..8);
        stride.learn(Duration::from_millis(300));
        assert_eq!(stride.of(100), 0..4);
        for _ in 0..5 {
            stride.learn(Duration::from_secs(9));
        }
        assert_eq!(stride.of(100), 0..1);
    }
}
