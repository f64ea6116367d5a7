//! How long a run will take, by what the last one of the set did.

use std::time::Duration;

use stillpoint_contract::LedgerEntry;

use super::shelf::{Shelf, Shelved};

/// Between two transactions that are further apart than this, the run was not at work.
const APART_MAX: Duration = Duration::from_mins(10);

/// How many rows of the root went in a second when a run of the set last deleted some, rests
/// included; `None` where that is not known.
pub fn measured_rate(shelf: &Shelf, ledger: &[LedgerEntry]) -> Option<f64> {
    let last = ledger.iter().filter(|entry| entry.at.is_some()).max_by_key(|entry| entry.at)?;
    let mut own: Vec<_> = ledger.iter().filter(|entry| entry.run == last.run).collect();
    own.sort_by_key(|entry| entry.at);
    let run = shelf.runs.iter().find(|run| run.plan.run == last.run)?;
    let (mut rows, mut worked) = (0, Duration::ZERO);
    for two in own.windows(2) {
        let took = (two[1].at? - two[0].at?).to_std().ok()?;
        if took > APART_MAX {
            continue;
        }
        worked += took;
        rows += root_rows(run, two[1]);
    }
    (!worked.is_zero() && rows > 0).then(|| rows as f64 / worked.as_secs_f64())
}

/// How many rows of the root are gone from their table because of a run, as a ledger says.
pub fn gone_rows(run: &Shelved, ledger: &[LedgerEntry]) -> u64 {
    let own = ledger.iter().filter(|entry| entry.run == run.plan.run);
    own.map(|entry| root_rows(run, entry)).sum()
}

/// How many rows of the root a slice has that a ledger notes.
fn root_rows(run: &Shelved, entry: &LedgerEntry) -> u64 {
    let batch = run.batches.get(&entry.batch).map(|one| &one.batch);
    let mut slices = batch.into_iter().flat_map(|batch| &batch.slices);
    let slice = slices.find(|slice| slice.number == entry.slice);
    slice.map_or(0, |slice| slice.members[0].rows)
}
