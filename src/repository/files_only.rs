//! Which backups a partial copy of a repository holds whole: told from names, sizes, and the hashes
//! that the log has of small objects.

use std::collections::HashMap;

use bytes::Bytes;
use stillpoint_contract::Result;

use super::{
    entry::{Commit, hash_of},
    handle::{Repository, read_slots},
    history::{Committed, History, PackList},
    keys::KeySlot,
    manifest::MANIFEST_BYTES_MAX,
    names,
    pack::PackName,
    verify::is_finding,
};
use crate::pipeline::id::RepositoryId;

/// What a partial copy has of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completeness {
    /// The backup.
    pub backup: Committed,
    /// Objects that are missing or only half there; empty when the backup is whole.
    pub missing: Vec<String>,
    /// How many objects it needs.
    pub needed: usize,
}

/// What a partial copy has of the captured log of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCompleteness {
    /// The database.
    pub database: String,
    /// Its segments that are there.
    pub segments: usize,
    /// Of each hole in their numbers, the last segment; empty when there is none.
    pub missing: Vec<String>,
}

impl Repository {
    /// Looks at every backup that the log knows. Needs no key and reads no pack.
    ///
    /// # Errors
    ///
    /// Only what keeps it from looking, such as an unreachable store.
    pub async fn files_only(&self) -> Result<Vec<Completeness>> {
        let history = self.history().await?;
        let present: HashMap<String, u64> = self
            .store
            .list("")
            .await?
            .into_iter()
            .map(|object| (object.key.as_str().to_owned(), object.size_bytes))
            .collect();
        let locked_out = self.locked_out(&history).await?;
        let mut found = Vec::new();
        for committed in history.live() {
            let mut missing = locked_out.clone();
            let commit = &committed.commit;
            missing.extend(half_there(self.manifest_bytes(commit).await, &commit.manifest)?);
            let packs = self.pack_list(committed).await;
            let packs = match packs {
                Err(error) if is_finding(&error) => {
                    missing.push(commit.packs.clone());
                    PackList::new()
                }
                packs => history.resolve(packs?),
            };
            let needed = 2 + packs.len();
            let is_absent = |(pack, size_bytes): &(PackName, u64)| {
                present.get(pack.key().as_str()) != Some(size_bytes)
            };
            missing.extend(packs.into_iter().filter(is_absent).map(|(p, _)| p.key().to_string()));
            found.push(Completeness { backup: committed.clone(), missing, needed });
        }
        Ok(found)
    }

    /// Looks at the numbers of captured segments. Needs no key and reads none.
    pub async fn logs_by_name(&self) -> Result<Vec<LogCompleteness>> {
        let history = self.history().await?;
        let mut found = Vec::new();
        for database in self.databases().await? {
            let stored = self.stored(&database, &history).await?;
            let (segments, missing) = (stored.newest_first().count(), stored.missing);
            let missing = missing.iter().map(ToString::to_string).collect();
            found.push(LogCompleteness { database, segments, missing });
        }
        found.retain(|log| log.segments > 0 || !log.missing.is_empty());
        Ok(found)
    }

    async fn manifest_bytes(&self, commit: &Commit) -> Result<()> {
        let hash = &commit.manifest_hash;
        self.hashed(&commit.manifest, hash, MANIFEST_BYTES_MAX).await.map(drop)
    }

    /// The key slots of a repository that none of them opens any more.
    async fn locked_out(&self, history: &History) -> Result<Vec<String>> {
        if self.descriptor().signing_key.is_none() {
            return Ok(Vec::new());
        }
        let id = RepositoryId::new(self.descriptor().id()?);
        let known = history.key_slots();
        let is_whole = |(slot, bytes): &(KeySlot, Bytes)| {
            known.get(&slot.id().to_string()).is_none_or(|hash| *hash == hash_of(bytes))
        };
        if read_slots(&*self.store, id).await?.iter().any(is_whole) {
            return Ok(Vec::new());
        }
        let named = known.keys().map(|slot| format!("{}{slot}.json", names::KEYS));
        let named: Vec<String> = named.collect();
        Ok(if named.is_empty() { vec![names::KEYS.to_owned()] } else { named })
    }
}

/// The object's name if reading it found that it is not as it was written.
fn half_there(read: Result<()>, name: &str) -> Result<Option<String>> {
    match read {
        Ok(()) => Ok(None),
        Err(error) if is_finding(&error) => Ok(Some(name.to_owned())),
        Err(error) => Err(error),
    }
}
