//! What a repository holds, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use stillpoint_contract::Result;

use super::{
    handle::Repository,
    history::History,
    index_run::RunName,
    names,
    pack::PackName,
    store::{Key, Listed},
    stream::BEAT_SECONDS_MAX,
};

/// What a repository holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Databases with backups.
    pub databases: u64,
    /// Backups that exist.
    pub backups: u64,
    /// The sum of their sizes as databases, in bytes.
    pub protected_bytes: u64,
    /// Objects and bytes by the first part of their names, such as `packs`.
    pub stored: BTreeMap<String, (u64, u64)>,
    /// Packs that no backup needs and log of databases without backups, and their bytes: what
    /// garbage collection could free.
    pub unneeded: (u64, u64),
    /// Objects that are doomed and wait to be swept, and their bytes.
    pub doomed: (u64, u64),
    /// Entries of the log.
    pub log_entries: u64,
}

/// What lies in a repository, as one listing tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Objects and bytes by the first part of their names, such as `packs`.
    pub stored: BTreeMap<String, (u64, u64)>,
    /// Of each database, when every segment of its captured log was stored, and its bytes.
    pub segments: BTreeMap<String, Vec<(DateTime<Utc>, u64)>>,
}

impl Repository {
    /// Lists everything. Needs no key.
    pub async fn inventory(&self) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        for object in self.store.list("").await? {
            let mut parts = object.key.as_str().split('/');
            let kind = parts.next().unwrap_or_default();
            let entry = inventory.stored.entry(kind.to_owned()).or_default();
            entry.0 += 1;
            entry.1 += object.size_bytes;
            let database = parts.next().and_then(names::decode);
            let is_segment = names::segment_of(&object.key).is_some();
            if let Some(database) = database.filter(|_| is_segment) {
                let stored = (object.modified, object.size_bytes);
                inventory.segments.entry(database).or_default().push(stored);
            }
        }
        Ok(inventory)
    }

    /// Counts. Needs no key and reads no pack.
    pub async fn stats(&self) -> Result<Stats> {
        let history = self.history().await?;
        let live = history.live();
        let mut stats = Stats {
            backups: live.len() as u64,
            protected_bytes: live.iter().map(|c| c.commit.size_bytes).sum(),
            log_entries: history.head().seq,
            ..Stats::default()
        };
        let databases: BTreeSet<_> = live.iter().map(|c| c.commit.database.as_str()).collect();
        stats.databases = databases.len() as u64;
        let mut needed = BTreeSet::new();
        for committed in live {
            let packs = history.resolve(self.pack_list(committed).await?);
            needed.extend(packs.into_keys());
        }
        let mut abandoned = Vec::new();
        for database in self.databases().await? {
            if !history.protects(&database) && !self.beats_lately(&database).await? {
                abandoned.push(names::streams(&database));
            }
        }
        for object in self.store.list("").await? {
            let kind = object.key.as_str().split('/').next().unwrap_or_default();
            let entry = stats.stored.entry(kind.to_owned()).or_default();
            entry.0 += 1;
            entry.1 += object.size_bytes;
            let place = if is_doomed(&history, &object.key) {
                &mut stats.doomed
            } else if is_unneeded(&object.key, &needed, &abandoned) {
                &mut stats.unneeded
            } else {
                continue;
            };
            place.0 += 1;
            place.1 += object.size_bytes;
        }
        Ok(stats)
    }

    /// Whether a capture gave a sign of life just now. Needs no key.
    async fn beats_lately(&self, database: &str) -> Result<bool> {
        let now = self.world.clock.now();
        let is_recent =
            |beat: &Listed| (now - beat.modified).abs().num_seconds() < BEAT_SECONDS_MAX;
        Ok(self.store.list(&names::all_beats(database)).await?.iter().any(is_recent))
    }
}

fn is_doomed(history: &History, key: &Key) -> bool {
    PackName::from_key(key).is_some_and(|pack| history.is_doomed_pack(&pack))
        || RunName::from_key(key).is_some_and(|run| history.is_doomed_index(&run))
        || history.is_doomed_object(key.as_str())
}

fn is_unneeded(key: &Key, needed: &BTreeSet<PackName>, abandoned: &[String]) -> bool {
    PackName::from_key(key).is_some_and(|pack| !needed.contains(&pack))
        || abandoned.iter().any(|prefix| key.as_str().starts_with(prefix))
}
