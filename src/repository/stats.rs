//! What a repository holds, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_contract::Result;

use super::{handle::Repository, names, pack::PackName};

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
    /// Packs that no backup needs, and their bytes: what garbage collection could free.
    pub unneeded: (u64, u64),
    /// Packs that are doomed and wait to be swept, and their bytes.
    pub doomed: (u64, u64),
    /// Entries of the log.
    pub log_entries: u64,
}

impl Repository {
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
        for object in self.store.list("").await? {
            let kind = object.key.as_str().split('/').next().unwrap_or_default();
            let entry = stats.stored.entry(kind.to_owned()).or_default();
            entry.0 += 1;
            entry.1 += object.size_bytes;
            if !object.key.as_str().starts_with(names::PACKS) {
                continue;
            }
            let Some(pack) = PackName::from_key(&object.key) else { continue };
            let place = match pack {
                _ if history.is_doomed_pack(&pack) => &mut stats.doomed,
                _ if !needed.contains(&pack) => &mut stats.unneeded,
                _ => continue,
            };
            place.0 += 1;
            place.1 += object.size_bytes;
        }
        Ok(stats)
    }
}
