//! Half-empty packs are emptied: what is still needed moves to new packs, as it is stored.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use stillpoint_contract::{Error, ErrorKind, Result};

use super::{
    blobs::{Blobs, read_table},
    closure::places,
    handle::{INDEX_RUN_BYTES_MAX, Repository},
    history::{History, PackList},
    index_run::{IndexRun, Located, Merge, RunName, SpooledFile},
    index_set::{IndexSet, spool},
    names,
    pack::{PackName, SealedBlob},
    packer::{Packer, persist},
    reader::BackupReader,
};
use crate::pipeline::Meter;

/// A pack is emptied when less than this share of it is needed.
const NEEDED_SHARE_MIN: f64 = 0.5;

/// Runs are merged when there are more than so many.
const INDEX_RUNS_MAX: usize = 8;

/// What moved.
#[derive(Debug, Default)]
pub(super) struct Repacked {
    /// Emptied packs, and where what they held is now.
    pub(super) moved: BTreeMap<PackName, Vec<(PackName, u64)>>,
    /// Index runs that new ones replace.
    pub(super) superseded: Vec<RunName>,
    /// Bytes copied.
    pub(super) copied_bytes: u64,
}

impl Repository {
    /// Empties the emptiest of `needed` packs, up to a share of all stored bytes.
    pub(super) async fn repack(
        &self,
        history: &History,
        needed: &BTreeSet<PackName>,
        share_max: f64,
        meter: &Arc<Meter>,
    ) -> Result<Repacked> {
        let (usable, blobs) = self.usable(history).await?;
        let total_bytes: u64 = usable.values().sum();
        let mut live = self.live_blobs(history, &blobs).await?;
        let mut candidates: Vec<(u64, PackName)> = live
            .iter()
            .filter(|(pack, _)| needed.contains(pack))
            .map(|(pack, spots)| (spots.iter().map(|spot| u64::from(spot.1)).sum(), *pack))
            .filter(|(live_bytes, pack)| {
                let size_bytes = usable.get(pack).copied().unwrap_or(0);
                (*live_bytes as f64) < size_bytes as f64 * NEEDED_SHARE_MIN
            })
            .collect();
        candidates.sort_unstable();
        let mut repacked = Repacked::default();
        let mut budget = (total_bytes as f64 * share_max) as u64;
        let target = Arc::new(IndexSet::new(blobs.domain.repository(), PackList::new()));
        let packer = Packer::new(
            Arc::clone(&self.store),
            Arc::clone(&blobs.domain),
            self.world.clone(),
            Arc::clone(&target),
            Arc::clone(meter),
        );
        let mut moving: Vec<(PackName, Vec<Located>)> = Vec::new();
        for (live_bytes, pack) in candidates {
            if live_bytes > budget {
                break;
            }
            let spots = live.remove(&pack).unwrap_or_default();
            let size_bytes = usable.get(&pack).copied().unwrap_or(0);
            let needed = match still_needed(&blobs, (pack, size_bytes), &spots).await {
                // What is damaged stays where everybody can see that it is, and where a good copy
                // of the pack repairs it.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
                    tracing::warn!(%pack, "a damaged pack is left as it is: {error}");
                    continue;
                }
                needed => needed?,
            };
            budget -= live_bytes;
            repacked.copied_bytes += live_bytes;
            for (_, blob) in &needed {
                packer.add(blob).await?;
            }
            moving.push((pack, needed.into_iter().map(|(place, _)| place).collect()));
        }
        packer.flush().await?;
        for (pack, moved) in moving {
            let mut homes = PackList::new();
            for blob in moved {
                let places = target.find(&blob.entry.label.id)?;
                let home = places.iter().find(|place| place.entry.label == blob.entry.label);
                let home = home.ok_or_else(|| Error::bug("find a blob that was moved"))?;
                homes.insert(home.pack, u64::from(home.pack_bytes));
            }
            repacked.moved.insert(pack, homes.into_iter().collect());
        }
        self.store_run_of(&target).await?;
        repacked.superseded = self.merge_runs(history, &repacked.moved).await?;
        Ok(repacked)
    }

    /// The blobs that live backups need, by pack.
    async fn live_blobs(
        &self,
        history: &History,
        blobs: &Blobs,
    ) -> Result<BTreeMap<PackName, HashSet<Spot>>> {
        let mut live: BTreeMap<PackName, HashSet<Spot>> = BTreeMap::new();
        for committed in history.live() {
            let manifest = self.manifest(committed).await?;
            let packs = history.resolve(self.pack_list(committed).await?);
            // Another pack may hold the same chunk, but only a listed one answers for the backup.
            let blobs = blobs.narrowed(packs.clone());
            blobs.cover(&packs).await?;
            let reader = BackupReader::new(manifest, blobs);
            places(&reader, |place| {
                let spot = (place.entry.offset, place.entry.stored_bytes);
                live.entry(place.pack).or_default().insert(spot);
            })
            .await?;
        }
        Ok(live)
    }

    pub(super) async fn store_run_of(&self, index: &Arc<IndexSet>) -> Result<()> {
        let (index, entropy) = (Arc::clone(index), Arc::clone(&self.world.entropy));
        if let Some(run) = self.world.cpu.run(move |_| index.cut_run(&*entropy)).await?? {
            persist(&*self.store, &*self.world.clock, &run.name.key(), run.bytes).await?;
        }
        Ok(())
    }

    /// Merges index runs into few, without what lay in packs that are gone. Returns the old ones.
    async fn merge_runs(
        &self,
        history: &History,
        moved: &BTreeMap<PackName, Vec<(PackName, u64)>>,
    ) -> Result<Vec<RunName>> {
        let mut names = Vec::new();
        let mut runs = Vec::new();
        for object in self.store.list(names::INDEX).await? {
            let Some(name) = RunName::from_key(&object.key) else { continue };
            if history.is_doomed_index(&name) {
                continue;
            }
            let Some(bytes) = self.store.read(&object.key, INDEX_RUN_BYTES_MAX).await? else {
                continue;
            };
            if blake3::hash(&bytes).as_bytes() == name.as_bytes() {
                runs.push(IndexRun::<SpooledFile>::open(spool(&bytes)?)?);
                names.push(name);
            }
        }
        if names.len() <= INDEX_RUNS_MAX {
            return Ok(Vec::new());
        }
        let mut dropped: BTreeSet<PackName> = moved.keys().copied().collect();
        for doomed in history.dooms().values() {
            dropped.extend(&doomed.doom.packs);
        }
        let (repository, entropy) = (self.domain()?.repository(), Arc::clone(&self.world.entropy));
        let merge = self.world.cpu.run(move |_| {
            let mut merge = Merge::new(repository, &runs, &dropped)?;
            let mut merged = Vec::new();
            while let Some(run) = merge.next_run(&*entropy)? {
                merged.push(run);
            }
            Ok::<_, Error>(merged)
        });
        for run in merge.await?? {
            persist(&*self.store, &*self.world.clock, &run.name.key(), run.bytes).await?;
        }
        Ok(names)
    }
}

/// Reads what lies at `spots` of a pack, as it is stored, and makes sure that it is intact. Less
/// than half a pack is needed of one that is emptied, so this is bounded.
async fn still_needed(
    blobs: &Blobs,
    (pack, size_bytes): (PackName, u64),
    spots: &HashSet<Spot>,
) -> Result<Vec<(Located, SealedBlob)>> {
    let mut needed = Vec::new();
    let table = read_table(&*blobs.store, pack, size_bytes).await?;
    for entry in table.into_iter().filter(|e| spots.contains(&(e.offset, e.stored_bytes))) {
        let place = Located { pack, pack_bytes: 0, entry };
        needed.push((place, blobs.intact(place).await?));
    }
    Ok(needed)
}

/// A blob within its pack: where it begins, and how long it is.
type Spot = (u32, u32);
