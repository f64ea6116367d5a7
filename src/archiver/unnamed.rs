//! Files that no document names: left by whoever was killed, or by a document that is gone.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::{Error, ErrorKind, LedgerEntry, Result, code};

use super::{
    document::{Batch, Plan},
    place::{Place, Sheet},
    read::Damage,
    shelf::{Shelf, Shelved},
};
use crate::repository::store::Key;

/// Files of a set that no document names.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    /// How many nobody misses: they are on their way, or count for nothing.
    pub(super) files: u64,
    /// Runs, and batches, whose documents are gone.
    pub(super) damages: Vec<Damage>,
}

/// Looks for them among files that were listed before documents were read: one that counts has its
/// manifest by now. What was told of documents is not told of their files again.
///
/// A run that has not ended, and whoever writes a batch anew, leave such files when they are
/// killed. A run that has ended left none, unless its store kept one; that no row was deleted
/// because of it, the ledger knows.
pub(super) async fn unnamed(
    place: &Place,
    shelf: &Shelf,
    files: &[Key],
    ledger: Option<&[LedgerEntry]>,
    told: &[Damage],
) -> Result<Unnamed> {
    let runs: BTreeMap<&str, &Shelved> =
        shelf.runs.iter().map(|run| (&*run.plan.run, run)).collect();
    let live = shelf.runs.iter().flat_map(|run| run.batches.values()).filter(|one| one.is_there());
    let named: BTreeSet<&str> =
        live.flat_map(|one| one.batch.files()).map(|file| &*file.key).collect();
    let mut found = Unnamed::default();
    let mut lost: BTreeMap<(&str, Option<u32>), Lost<'_>> = BTreeMap::new();
    for file in files.iter().filter(|file| !named.contains(file.as_str())) {
        let Some((run, batch, generation)) = writing_of(file) else { continue };
        if told.iter().any(|one| one.run == run && (one.batch == 0 || one.batch == batch)) {
            continue;
        }
        let lacks = match runs.get(run) {
            None => None,
            Some(known) if known.end.is_some() && !known.batches.contains_key(&batch) => {
                Some(batch)
            }
            Some(_) => {
                found.files += 1;
                continue;
            }
        };
        let of = lost.entry((run, lacks)).or_insert(Lost { file, generation, count: 0 });
        of.count += 1;
    }
    for ((run, batch), of) in lost {
        // A listing may be behind; reads never are.
        let is_there = match batch {
            None => place.read::<Plan>(run, Sheet::Plan).await?.is_some(),
            Some(batch) => {
                let sheet = Sheet::Batch { batch, generation: of.generation };
                place.read::<Batch>(run, sheet).await?.is_some()
            }
        };
        let is_noted = |entry: &LedgerEntry| {
            entry.run == run && batch.is_none_or(|batch| entry.batch == batch)
        };
        if is_there {
            continue;
        }
        if ledger.is_some_and(|ledger| !ledger.iter().any(is_noted)) {
            found.files += of.count;
            continue;
        }
        let error = of.damage(place, run, batch, ledger.is_some());
        let batch = batch.unwrap_or_default();
        found.damages.push(Damage { run: run.to_owned(), batch, error });
    }
    Ok(found)
}

/// Files whose document is gone.
struct Lost<'a> {
    /// One of them, and which writing of its batch it is of.
    file: &'a Key,
    generation: u32,
    count: u64,
}

impl Lost<'_> {
    fn damage(&self, place: &Place, run: &str, batch: Option<u32>, is_compared: bool) -> Error {
        let set = place.set();
        let why = if batch.is_some() {
            "no manifest names them, and their run has ended"
        } else {
            "nothing that was written down of their run is there"
        };
        let error = Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "find what names files")
            .with("file", self.file)
            .with("files", self.count)
            .with("place", place.location())
            .why(why)
            .next(format!(
                "put archive/{set}/_stillpoint/{run}/ back from a second copy of the set, or a \
                 copy of the place"
            ));
        if is_compared {
            return error;
        }
        error.next(format!(
            "stillpoint archive verify {set} --against-ledger   tells whether rows were deleted \
             that only they have"
        ))
    }
}

/// The run that a file says to be of, the batch, and which writing of that.
pub(super) fn writing_of(file: &Key) -> Option<(&str, u32, u32)> {
    let name = file.as_str().rsplit('/').next()?;
    let mut parts = name.splitn(4, '-');
    let run = parts.next()?;
    let (batch, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().map(|_| (run, batch, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_whose_they_are() {
        let of = |name: &str| {
            let key = Key::new(format!("archive/o/t/expire=open/{name}")).unwrap();
            writing_of(&key).map(|(run, batch, generation)| (run.to_owned(), batch, generation))
        };
        let run = "01KB3Q".to_owned();
        assert_eq!(of("01KB3Q-000007-0012-abababab.parquet"), Some((run, 7, 12)));
        for other in ["rows.parquet", "a-b-c-d.csv", "01KB3Q-000007-0012"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
