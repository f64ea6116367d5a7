//! The keys of a repository: who can open it.

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    entry::{Action, hash_of},
    handle::{Repository, read_slots},
    history::History,
    keys::{KeySlot, PassphraseCost, Secret},
    store::Deleted,
};
use crate::pipeline::id::RepositoryId;

impl Repository {
    /// Every key slot that can be read.
    pub async fn key_slots(&self) -> Result<Vec<KeySlot>> {
        let id = RepositoryId::new(self.descriptor().id()?);
        let slots = read_slots(&*self.store, id).await?;
        Ok(slots.into_iter().map(|(slot, _)| slot).collect())
    }

    /// Lets another secret open the repository.
    pub async fn add_key(
        &self,
        secret: &Secret,
        label: &str,
        cost: PassphraseCost,
    ) -> Result<KeySlot> {
        let (slot, bytes) = self.put_slot(secret, label, cost).await?;
        self.log_slot(&slot, &bytes).await?;
        Ok(slot)
    }

    /// Says in the log what a slot holds, so that everybody can verify it without its secret.
    pub(super) async fn log_slot(&self, slot: &KeySlot, bytes: &[u8]) -> Result<()> {
        let (id, hash) = (slot.id().to_string(), hash_of(bytes));
        let added = Action::KeyAdded { slot: id, hash };
        self.append(async |_| Ok(Some(added.clone()))).await.map(drop)
    }

    /// Takes a key slot away, by its id or a unique beginning of it. What the secret has opened
    /// before stays known to its holder: this keeps it from opening the repository again.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) for the last slot, [`Missing`](ErrorKind::Missing) when none
    /// or several match.
    pub async fn remove_key(&self, id: &str) -> Result<KeySlot> {
        self.master()?;
        let slots = self.key_slots().await?;
        let matching: Vec<_> =
            slots.iter().filter(|slot| slot.id().to_string().starts_with(id)).collect();
        let [slot] = matching.as_slice() else {
            return Err(Error::new(ErrorKind::Missing, code::KEY_SLOT, "find the key slot")
                .with("asked", id)
                .with("matching", matching.len())
                .next("stillpoint repo key list"));
        };
        // First said, then done: a slot that the log expects must not be missing after a crash.
        let name = slot.id().to_string();
        self.append(async |history| {
            if history.is_removed_slot(&name) {
                return Ok(None);
            }
            if self.is_last_slot(history, &name).await? {
                return Err(last_key());
            }
            Ok(Some(Action::KeyRemoved { slot: name.clone() }))
        })
        .await?;
        if self.store.delete(&slot.id().key()).await? == Deleted::Retained {
            return Err(Error::new(ErrorKind::Refused, code::KEY_SLOT, "remove a key")
                .why("the store keeps the object under a lock until it expires")
                .next("repeat the command then: until then the key still opens the repository"));
        }
        Ok((*slot).clone())
    }

    /// Whether no other slot opens the repository. Somebody may have removed another one in the log
    /// and not yet from the store; and the log may not know the first one, if `init` was cut short.
    async fn is_last_slot(&self, history: &History, name: &str) -> Result<bool> {
        let id = RepositoryId::new(self.descriptor().id()?);
        let stored = read_slots(&*self.store, id).await?;
        Ok(!stored.iter().any(|(slot, bytes)| {
            let other = slot.id().to_string();
            let known = history.key_slots().get(&other);
            other != name
                && !history.is_removed_slot(&other)
                && known.is_none_or(|hash| *hash == hash_of(bytes))
        }))
    }
}

fn last_key() -> Error {
    Error::new(ErrorKind::Refused, code::KEY_SLOT, "remove the last key")
        .why("nobody could open the repository any more")
        .next("add another key first: stillpoint repo key add")
}
