//! Second copies, verified: what is damaged there, and what is not there.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    document::Batch,
    place::Place,
    read::{Damage, Verified, verify},
    shelf::{Shelf, Shelved, ShelvedBatch},
};
use crate::pipeline::cpu::CpuPool;

/// Verifies a second place as [`verify`] does the first one, and tells which batches it lacks of
/// those whose rows are in files and nowhere else.
///
/// # Errors
///
/// Only what keeps it from looking; damage is in what is returned.
pub async fn verify_second(
    first: &Place,
    second: &Place,
    cpu: &CpuPool,
    picks: impl FnMut(&Batch) -> bool,
) -> Result<Verified> {
    let mut verified = verify(second, cpu, None, picks).await?;
    // In this order: nothing is sealed before it is at the second place.
    let (wanted, _) = Shelf::look(first).await?;
    let (there, _) = Shelf::look(second).await?;
    let runs: BTreeMap<&str, &Shelved> =
        there.runs.iter().map(|run| (&*run.plan.run, run)).collect();
    let told: BTreeSet<(String, u32)> =
        verified.damages.iter().map(|one| (one.run.clone(), one.batch)).collect();
    for (plan, batch) in wanted.sealed() {
        let (run, number) = (plan.run.clone(), batch.number);
        let known = runs.get(&*run).and_then(|known| known.batches.get(&number));
        let is_told = |number: u32| told.contains(&(run.clone(), number));
        if known.is_some_and(ShelvedBatch::is_there) || is_told(0) || is_told(number) {
            continue;
        }
        let error = lacking(second, batch);
        verified.damages.push(Damage { run, batch: number, error });
    }
    let next = format!(
        "stillpoint archive run {}   brings what second copies lack; remove what is damaged there \
         before",
        second.set()
    );
    let advise = |one: Damage| {
        if one.error.kind() == ErrorKind::Corrupt {
            Damage { error: one.error.next(next.clone()), ..one }
        } else {
            one
        }
    };
    let damages = verified.damages.into_iter().map(advise).collect();
    Ok(Verified { damages, ..verified })
}

fn lacking(second: &Place, batch: &Batch) -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "find the second copy of a batch")
        .with("rows", batch.rows())
        .with("place", second.location())
        .why("it is not there; its rows are in the files of the first place, and nowhere else")
}
