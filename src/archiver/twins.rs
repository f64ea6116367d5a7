//! Rows of a batch that are in their tables exactly as they are in its files: they are taken out of
//! the files before these count, so that no row is in both.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use stillpoint_contract::{ArchiveSet, Error, Result, RowBatch, RowSink, Rows};

use super::{
    document::{Batch, Plan, Slice},
    place::Place,
    reconcile::ROWS_MAX,
    rewrite::{Keeps, rewrite},
    shelve::{keep_slices, verified},
};
use crate::{pipeline::cpu::CpuPool, world::World};

/// By the hash of a row of a file: how many such rows are in the table, and not taken out yet. A
/// table without a key may have several.
#[derive(Debug, Default)]
struct Twins(HashMap<[u8; 16], u64>);

impl Twins {
    /// Those of a table's rows in some slices of a batch, none of which was looked for yet.
    async fn of(
        (place, cpu): (&Place, &CpuPool),
        (plan, batch): (&Plan, &Batch),
        number: usize,
        numbers: &Arc<BTreeSet<u32>>,
    ) -> Result<Self> {
        let member = &batch.members[number];
        let Some(file) = &member.file else { return Ok(Self::default()) };
        let bytes = verified(place, cpu, file).await?;
        let (columns, format, all) = (member.columns.clone(), plan.format, batch.slices.clone());
        let numbers = Arc::clone(numbers);
        let work = move || {
            let mut twins = Self::default();
            keep_slices(&bytes, &columns, format, &all, number, |slice, row| {
                if numbers.contains(&slice.number) {
                    twins.0.insert(hash(row), 0);
                }
                Ok(())
            })?;
            Ok::<_, Error>(twins)
        };
        cpu.run(move |_| work()).await?
    }

    /// Whether a row of a file has one; the next one that is the same needs another.
    fn take(&mut self, row: &[u8]) -> bool {
        let left = self.0.get_mut(&hash(row)).filter(|left| **left > 0);
        let Some(left) = left else { return false };
        *left -= 1;
        true
    }
}

#[async_trait]
impl RowSink for Twins {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        for row in rows.rows() {
            if let Some(count) = self.0.get_mut(&hash(row)) {
                *count += 1;
            }
        }
        Ok(())
    }
}

/// Half of a BLAKE3 hash: as long as no two rows ever have the same one by chance.
fn hash(row: &[u8]) -> [u8; 16] {
    *blake3::hash(row).as_bytes().first_chunk().expect("there are 32")
}

/// Writes a batch anew without those rows of some slices that are in their tables as they are:
/// rows of the root, and of those that hang on them each that is there itself. Of an order whose
/// items are gone, these stay archived. `sets` select every row, each of another table.
pub(super) async fn take_out_living(
    rows: &mut dyn Rows,
    (place, world): (&Place, &World),
    (plan, batch): (&Plan, &Batch),
    (sets, slices): (&[ArchiveSet], &[Slice]),
) -> Result<()> {
    let numbers: BTreeSet<u32> = slices.iter().map(|slice| slice.number).collect();
    let numbers = Arc::new(numbers);
    let slices = place.open_bounds(batch, slices.to_vec()).await?;
    let mut all = Vec::new();
    for number in 0..batch.members.len() {
        let mut twins = Twins::of((place, &world.cpu), (plan, batch), number, &numbers).await?;
        for slice in slices.iter().filter(|slice| slice.members[number].rows > 0) {
            let Some(range) = slice.range()? else { continue };
            for set in sets {
                let mut snapshot = rows.snapshot().await?;
                if number == 0 {
                    snapshot.root(set, &range, ROWS_MAX, &mut twins).await?;
                } else {
                    snapshot.member(set, number, &range, &mut twins).await?;
                }
            }
        }
        twins.0.retain(|_, count| *count > 0);
        all.push(twins);
    }
    if all.iter().all(|twins| twins.0.is_empty()) {
        return Ok(());
    }
    let all = Mutex::new(all);
    let keeps: Keeps = Arc::new(move |slice: &Slice, member: usize, row: &[u8]| {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(!numbers.contains(&slice.number) || !all[member].take(row))
    });
    let reason = ("rows of it are in their table", world.clock.now());
    let slices = batch.slices.clone();
    rewrite(place, &world.cpu, plan, batch, slices, &keeps, reason).await?;
    Ok(())
}
