//! What counts for nothing any more: keys are destroyed, files are removed where that is possible.
//!
//! A writing of a batch counts once its manifest is there. Since a manifest is written once, other
//! writings of the same generation have lost as soon as there is one, and so have all before it:
//! their keys can be destroyed at any time, whoever else is at work. A later generation may still
//! be on its way, and is left alone.

use std::collections::BTreeSet;

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    document::{Batch, File},
    keyring::KeyOf,
    place::{Place, Sheet},
    shelf::{Shelf, Shelved, ShelvedBatch},
};
use crate::repository::store::{Deleted, Key};

/// What was removed, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many keys were destroyed.
    pub keys: u64,
    /// How many files were removed.
    pub files: u64,
    /// Files that the store keeps.
    pub kept: Vec<KeptFile>,
}

/// A file that counts for nothing, and that the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// Its name.
    pub file: String,
    /// Where it is.
    pub place: String,
    /// Whether nobody can read it any more, since its key was destroyed.
    pub is_unreadable: bool,
    /// Why it is there.
    pub why: String,
}

impl Removed {
    /// Adds what was removed elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        self.keys += other.keys;
        self.files += other.files;
        // What is kept is met again by whoever looks for garbage next.
        for kept in other.kept {
            if !self.kept.contains(&kept) {
                self.kept.push(kept);
            }
        }
    }
}

/// Removes the files of a batch that a newer generation of it does not have: first their keys. Its
/// manifest says no more between which keys its rows were.
pub(super) async fn discard(place: &Place, old: &Batch, new: Option<&Batch>) -> Result<Removed> {
    let mut removed = Removed::default();
    let is_kept = |file: &File| new.is_some_and(|new| new.files().any(|one| one.key == file.key));
    for file in old.files().filter(|file| !is_kept(file)) {
        if let Some(encryption) = &file.encryption {
            place.destroy_key(&Key::new(&*encryption.key)?).await?;
            removed.keys += 1;
        }
        let is_unreadable = file.encryption.is_some();
        remove(place, &Key::new(&*file.key)?, is_unreadable, &mut removed).await?;
    }
    removed.add(place.forget_bounds(old, new.is_some()).await?);
    Ok(removed)
}

/// Removes a file. That a store refuses to is no error where nobody can read the file.
pub(super) async fn remove(
    place: &Place,
    file: &Key,
    is_unreadable: bool,
    removed: &mut Removed,
) -> Result<()> {
    let why = match place.store.delete(file).await {
        Ok(Deleted::Gone) => {
            removed.files += 1;
            return Ok(());
        }
        Ok(Deleted::Retained) => "the store retains it".to_owned(),
        Err(error) if is_unreadable => error.to_string(),
        Err(error) => return Err(error),
    };
    let (file, place) = (file.as_str().to_owned(), place.location());
    tracing::warn!(file, place, is_unreadable, why, "a file that counts for nothing stays");
    removed.kept.push(KeptFile { file, place, is_unreadable, why });
    Ok(())
}

/// Everything that lies at a place, whether documents name it or not.
#[derive(Debug)]
pub(super) struct Listing {
    files: Vec<Key>,
    keys: Vec<(Key, KeyOf)>,
}

impl Listing {
    pub(super) async fn of(place: &Place) -> Result<Self> {
        // A file has a key before it is there: whoever looks for keys last finds its key, too.
        let files = place.files().await?;
        Ok(Self { files, keys: place.keys().await? })
    }

    fn files_of<'a>(&'a self, run: &'a str) -> impl Iterator<Item = &'a Key> {
        self.files.iter().filter(move |file| {
            let name = file.as_str().rsplit('/').next().unwrap_or_default();
            name.strip_prefix(run).is_some_and(|rest| rest.starts_with('-'))
        })
    }

    fn keys_of<'a>(&'a self, run: &'a str) -> impl Iterator<Item = &'a (Key, KeyOf)> {
        self.keys.iter().filter(move |(_, of)| of.run == run)
    }
}

/// Removes what lost, of all runs: after erasures and expiries that were interrupted.
pub(super) async fn sweep(place: &Place, shelf: &Shelf) -> Result<Removed> {
    let mut removed = Removed::default();
    let listing = Listing::of(place).await?;
    for run in &shelf.runs {
        removed.add(place.forget_all_bounds(run).await?);
        let named = Named::of(run);
        for (object, of) in listing.keys_of(&run.plan.run) {
            let one = run.batches.get(&of.batch);
            let lost = one.is_some_and(|one| has_lost(one, of.generation));
            if lost && !named.keys.contains(object.as_str()) {
                place.destroy_key(object).await?;
                removed.keys += 1;
            }
        }
        for file in listing.files_of(&run.plan.run) {
            let Some((batch, generation)) = writing_of(run, file) else { continue };
            let lost = run.batches.get(&batch).is_some_and(|one| has_lost(one, generation));
            if lost && !named.files.contains(file.as_str()) {
                // Its key was destroyed, now or before.
                let sheet = Sheet::Batch { batch, generation };
                let old: Option<Batch> = place.read(&run.plan.run, sheet).await?;
                let known = old.as_ref().and_then(|old| {
                    old.files().find(|one| one.key == file.as_str()).map(|one| &one.encryption)
                });
                let had_key = || listing.keys.iter().any(|(_, of)| of.is_of(file));
                let is_unreadable = known.map_or_else(had_key, Option::is_some);
                remove(place, file, is_unreadable, &mut removed).await?;
            }
        }
    }
    Ok(removed)
}

/// Whether a writing of a batch does not count, and never will, unless it is named.
fn has_lost(one: &ShelvedBatch, generation: u32) -> bool {
    !one.is_there() || generation <= one.batch.generation
}

/// What the documents of a run name: files, and objects of their keys.
struct Named<'a> {
    files: BTreeSet<&'a str>,
    keys: BTreeSet<&'a str>,
}

impl<'a> Named<'a> {
    fn of(run: &'a Shelved) -> Self {
        let live = run.batches.values().filter(|one| one.is_there());
        let files: Vec<&File> = live.flat_map(|one| one.batch.files()).collect();
        let keys = files.iter().filter_map(|file| file.encryption.as_ref());
        Self { keys: keys.map(|one| &*one.key).collect(), files: names(&files) }
    }
}

fn names<'a>(files: &[&'a File]) -> BTreeSet<&'a str> {
    files.iter().map(|file| &*file.key).collect()
}

/// Removes what an earlier process left of a run: what no document names, and those that come
/// never will. Only for who has the set's lock, and goes on with the run.
pub(super) async fn settle(place: &Place, run: &Shelved) -> Result<Removed> {
    let mut removed = Removed::default();
    let listing = Listing::of(place).await?;
    let named = Named::of(run);
    // Of a batch that is there, a later writing may be on its way, whoever has the lock: somebody
    // is being erased.
    let may_come = |batch: u32, generation: u32| {
        run.batches.get(&batch).is_some_and(|one| !has_lost(one, generation))
    };
    for (object, of) in listing.keys_of(&run.plan.run) {
        if named.keys.contains(object.as_str()) || may_come(of.batch, of.generation) {
            continue;
        }
        refuse_stale(place, run, of.batch, object).await?;
        place.destroy_key(object).await?;
        removed.keys += 1;
    }
    for file in listing.files_of(&run.plan.run) {
        if named.files.contains(file.as_str()) {
            continue;
        }
        if let Some((batch, generation)) = writing_of(run, file) {
            if may_come(batch, generation) {
                continue;
            }
            refuse_stale(place, run, batch, file).await?;
        }
        let is_unreadable = listing.keys.iter().any(|(_, of)| of.is_of(file));
        remove(place, file, is_unreadable, &mut removed).await?;
    }
    Ok(removed)
}

/// The batch that a file says to be of, and which writing of it.
fn writing_of(run: &Shelved, file: &Key) -> Option<(u32, u32)> {
    let name = file.as_str().rsplit('/').next()?;
    let mut parts = name.strip_prefix(&*run.plan.run)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Refuses to take something for garbage because a listing, which may be stale, does not have its
/// manifest yet: reads are never stale.
async fn refuse_stale(place: &Place, run: &Shelved, batch: u32, what: &Key) -> Result<()> {
    let known = run.batches.get(&batch);
    if known.is_some_and(|one| !one.is_there()) {
        return Ok(());
    }
    let generation = known.map_or(0, |one| one.batch.generation + 1);
    let newer: Option<Batch> =
        place.read(&run.plan.run, Sheet::Batch { batch, generation }).await?;
    if newer.is_none() {
        return Ok(());
    }
    let step = "look for files that count for nothing";
    Err(Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, step)
        .with("object", what)
        .why("a listing of the store is behind what was written"))
}
