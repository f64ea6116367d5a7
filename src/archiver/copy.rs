//! Second copies of files: brought, read back, and kept what the first ones are.

use std::collections::BTreeSet;

use serde::{Serialize, de::DeserializeOwned};
use stillpoint_contract::Result;

use super::{
    cut_off::{Outline, bring_manifest, complete},
    document::{Batch, Expired, Plan, Sealed, Void},
    encryption::Seal,
    erase::REPLAYED,
    garbage::{Removed, discard, sweep},
    hold::{Holds, held},
    keyring::KEYS,
    names::Names,
    place::{DOCUMENT_BYTES_MAX, Place, Sheet},
    read::Damage,
    shelf::{Shelf, ShelvedBatch},
    shelve::{read_back, stored},
    subject::Searched,
    word::WORDS,
};
use crate::{pipeline::cpu::CpuPool, repository::store::Key, world::World};

/// Brings the files of a batch to another place, and reads them back there. They are not encrypted
/// anew; their keys are wrapped by the secret of the repository there, so that they can be read
/// when the first place is lost.
pub(super) async fn bring(
    from: &Place,
    to: &Place,
    cpu: &CpuPool,
    plan: &Plan,
    batch: &Batch,
) -> Result<()> {
    // Whose files those are is known before they are there.
    bring_document(to, &plan.run, Sheet::Plan, plan).await?;
    bring_files(from, to, cpu, plan, batch).await?;
    let sheet = Sheet::Batch { batch: batch.number, generation: batch.generation };
    bring_document(to, &plan.run, sheet, batch).await
}

/// Brings its files, which count for nothing there as long as no manifest names them.
async fn bring_files(
    from: &Place,
    to: &Place,
    cpu: &CpuPool,
    plan: &Plan,
    batch: &Batch,
) -> Result<()> {
    for file in batch.files() {
        let bytes = stored(from, cpu, file).await?;
        if let Some(encryption) = &file.encryption {
            let key = from.file_key(file, encryption).await?;
            let seal = Seal { key: &key, id: encryption.id, name: &file.key };
            to.keep_key(&Key::new(&*encryption.key)?, seal).await?;
        }
        to.put(&Key::new(&*file.key)?, bytes).await?;
    }
    read_back(to, cpu, plan, batch).await
}

/// Writes a document. One that is there and says the same is as good, in whatever form an older
/// version wrote it.
pub(super) async fn bring_document<T>(
    to: &Place,
    run: &str,
    sheet: Sheet,
    document: &T,
) -> Result<()>
where
    T: Serialize + DeserializeOwned + PartialEq,
{
    let there: Option<T> = to.read(run, sheet).await?;
    if there.is_some_and(|there| there == *document) {
        return Ok(());
    }
    to.write(run, sheet, document).await
}

/// What following the first place did.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// How many rows are not at the second place any more.
    pub(super) rows: u64,
    /// How many batches were brought anew.
    pub(super) batches: u64,
    pub(super) removed: Removed,
}

/// Lets a second place have what the first one has: batches that were written anew, and none that
/// are gone there. What is held stays. What it lacks is brought, also of runs from before there was
/// a second place.
///
/// # Errors
///
/// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt), or
/// [`Refused`](stillpoint_contract::ErrorKind::Refused), when something there is not what was
/// written: it stays as it is, and all the rest was done.
pub(super) async fn follow(
    from: &Place,
    to: &Place,
    world: &World,
    holds: &Holds,
) -> Result<Followed> {
    let mut followed = Followed::default();
    let first = Shelf::load(from).await?;
    let second = Box::pin(complete(from, to, &world.cpu, &first, holds)).await?;
    let (names, mut kept) = (Names::of(&first), BTreeSet::new());
    for run in second.shelf.runs.iter().filter(|run| !holds.of_run(&run.plan.run)) {
        let Some(of) = first.runs.iter().find(|one| one.plan.run == run.plan.run) else { continue };
        for one in run.batches.values().filter(|one| one.is_there()) {
            let Some(now) = of.batches.get(&one.batch.number) else { continue };
            let number = one.batch.number;
            let is_as_there = now.expired.is_none()
                && now.void.is_none()
                && now.batch.generation <= one.batch.generation;
            if is_as_there {
                continue;
            }
            let of_second =
                Searched { place: to, world, names: &names, plan: &run.plan, batch: &one.batch };
            if Box::pin(has_only_held(&of_second, from, now)).await? {
                kept.insert((run.plan.run.clone(), number));
                continue;
            }
            if let Some(Expired { rows, at }) = now.expired {
                to.mark(&run.plan.run, Sheet::Expired { batch: number }, &Expired { rows, at })
                    .await?;
            } else if let Some(Void { reason, at }) = now.void.clone() {
                to.mark(&run.plan.run, Sheet::Void { batch: number }, &Void { reason, at }).await?;
            } else if now.batch.generation > one.batch.generation {
                bring_files(from, to, &world.cpu, &of.plan, &now.batch).await?;
                if Box::pin(has_only_held(&of_second, from, now)).await? {
                    kept.insert((run.plan.run.clone(), number));
                    continue;
                }
                let sheet = Sheet::Batch { batch: number, generation: now.batch.generation };
                bring_document(to, &run.plan.run, sheet, &now.batch).await?;
                followed.rows += one.batch.rows().saturating_sub(now.batch.rows());
                followed.batches += 1;
                followed.removed.add(discard(to, &one.batch, Some(&now.batch)).await?);
                continue;
            } else {
                continue;
            }
            if second.behind.contains(&(run.plan.run.clone(), number)) {
                bring_manifest(from, to, &of.plan, now).await?;
            }
            followed.removed.add(discard(to, &one.batch, None).await?);
        }
    }
    if let Some(error) = second.told {
        return Err(error);
    }
    if second.was_damaged {
        // What is held stays behind.
        let is_kept = |damage: &Damage| {
            let one = (damage.run.clone(), damage.batch);
            kept.contains(&one) || second.behind.contains(&one) && holds.of_run(&damage.run)
        };
        let (_, damages) = Shelf::look(to).await?;
        if let Some(damage) = damages.into_iter().find(|damage| !is_kept(damage)) {
            return Err(damage.error);
        }
    }
    Ok(followed)
}

/// Whether a batch of a second place has rows that somebody holds by now, and that the first place
/// has not: they stay where they still are. Holds are read anew each time, since whoever records
/// one is told that it counts.
async fn has_only_held(of_second: &Searched<'_>, from: &Place, now: &ShelvedBatch) -> Result<bool> {
    let holds = held(from).await?;
    if holds.of_run(&of_second.plan.run) {
        return Ok(true);
    }
    let there = holds.rows_in(of_second).await?.rows;
    if there == 0 || !now.is_there() {
        return Ok(there > 0);
    }
    let Searched { world, names, plan, .. } = *of_second;
    let of_first = Searched { place: from, world, names, plan, batch: &now.batch };
    Ok(holds.rows_in(&of_first).await?.rows < there)
}

/// Lets a second place follow where it is behind: whoever wrote batches anew, or let them go, was
/// killed before it had the same; or it lacks something.
pub(super) async fn catch_up(
    from: &Place,
    to: &Place,
    world: &World,
    holds: &Holds,
) -> Result<Followed> {
    let (first, second) = (Outline::of(from).await?, Outline::of(to).await?);
    if !second.is_behind(&first) {
        return Ok(Followed::default());
    }
    // These are as long as all that was ever archived.
    drop((first, second));
    let mut followed = follow(from, to, world, holds).await?;
    let (shelf, _) = Shelf::look(to).await?;
    followed.removed.add(sweep(to, &shelf).await?);
    Ok(followed)
}

/// Lets a second place know what became of the batches that it has, and of what was said about the
/// set, so that it can be read when the first place is lost.
pub(super) async fn mirror(from: &Place, to: &Place) -> Result<()> {
    let folder = from.documents();
    let listed = to.store.list(&folder).await?;
    let there: BTreeSet<&str> = listed.iter().map(|one| one.key.as_str()).collect();
    // What is sealed is a generation, or what comes of it; one before has other rows.
    let has_sealed = |run: &str, batch: &str, generation: u32| {
        let manifests = format!("{folder}{run}/{batch}.0");
        let least = format!("{folder}{run}/{batch}.{generation:04}.json");
        there.range(&*least..).next().is_some_and(|key| key.starts_with(&manifests))
    };
    for listed in from.store.list(&folder).await? {
        let key = listed.key;
        if there.contains(key.as_str()) {
            continue;
        }
        let Some((run, name)) =
            key.as_str().strip_prefix(&folder).and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        let is_wanted = match (run.strip_prefix('_'), name.split_once('.')) {
            (Some(kind), _) => ![KEYS, REPLAYED, WORDS].contains(&kind),
            (None, Some(("end", _))) => there.contains(&*format!("{folder}{run}/plan.json")),
            (None, Some((batch, "sealed.json"))) if has_sealed(run, batch, 0) => {
                let sealed: Option<Sealed> = from.read_at(&key).await?;
                sealed.is_some_and(|sealed| has_sealed(run, batch, sealed.generation))
            }
            // Manifests come with their files.
            (None, _) => false,
        };
        if is_wanted && let Some(bytes) = from.store.read(&key, DOCUMENT_BYTES_MAX).await? {
            to.store.create(&key, bytes).await?;
        }
    }
    Ok(())
}
