//! Which backups a partial copy of a repository holds whole: told from names and sizes alone.

use std::collections::HashMap;

use stillpoint_contract::Result;

use super::{handle::Repository, history::Committed, names, pack::PackName};

/// What a partial copy has of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completeness {
    /// The backup.
    pub backup: Committed,
    /// Objects that are missing or have another size; empty when the backup is whole.
    pub missing: Vec<String>,
    /// How many objects it needs.
    pub needed: usize,
}

impl Repository {
    /// Looks at every backup that the log knows. Needs no key and reads no pack.
    pub async fn files_only(&self) -> Result<Vec<Completeness>> {
        let history = self.history().await?;
        let present: HashMap<String, u64> = self
            .store
            .list("")
            .await?
            .into_iter()
            .map(|object| (object.key.as_str().to_owned(), object.size_bytes))
            .collect();
        let has_key = present.keys().any(|name| name.starts_with(names::KEYS));
        let mut found = Vec::new();
        for committed in history.live() {
            let commit = &committed.commit;
            let mut missing = Vec::new();
            let mut needed = 2;
            if !has_key && self.descriptor().signing_key.is_some() {
                missing.push(names::KEYS.to_owned());
            }
            missing.extend(
                [&commit.manifest, &commit.packs]
                    .into_iter()
                    .filter(|name| !present.contains_key(*name))
                    .cloned(),
            );
            if present.contains_key(&commit.packs) {
                let packs = history.resolve(self.pack_list(committed).await?);
                needed += packs.len();
                let is_absent = |(pack, size_bytes): &(PackName, u64)| {
                    present.get(pack.key().as_str()) != Some(size_bytes)
                };
                missing
                    .extend(packs.into_iter().filter(is_absent).map(|(p, _)| p.key().to_string()));
            }
            found.push(Completeness { backup: committed.clone(), missing, needed });
        }
        Ok(found)
    }
}
