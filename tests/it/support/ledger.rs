//! What must be in a repository, as those know it who put it there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use stillpoint::{
    repository::{
        Repository,
        entry::hash_of,
        history::{Committed, History},
        keys::Secret,
        manifest::decode_pack_list,
        pack::PackName,
        store::{Key, Store},
    },
    world::World,
};
use stillpoint_contract::Result;

use super::{data::Content, session::restore};

/// The truth. Clones share it, so that it survives whoever is killed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    /// What each backup holds, if it exists.
    attempted: BTreeMap<String, Content>,
    /// Those whose commit was reported as done.
    acknowledged: BTreeSet<String>,
    /// Those that somebody began to forget: they may be there or not.
    forgotten: BTreeSet<String>,
}

/// An object larger than this is none of a small repository.
const OBJECT_BYTES_MAX: u64 = 64 << 20;

impl Ledger {
    /// A copy that goes its own way from here on.
    pub(crate) fn fork(&self) -> Self {
        let Book { attempted, acknowledged, forgotten } = &*self.book();
        let (attempted, acknowledged) = (attempted.clone(), acknowledged.clone());
        let forgotten = forgotten.clone();
        Self(Arc::new(Mutex::new(Book { attempted, acknowledged, forgotten })))
    }

    pub(crate) fn attempt(&self, backup: &str, content: &Content) {
        self.book().attempted.insert(backup.to_owned(), content.clone());
    }

    pub(crate) fn acknowledge(&self, backup: &str) {
        self.book().acknowledged.insert(backup.to_owned());
    }

    /// Says before that a backup will be forgotten.
    pub(crate) fn forget(&self, backup: &str) {
        self.book().forgotten.insert(backup.to_owned());
    }

    pub(crate) fn content(&self, backup: &str) -> Option<Content> {
        self.book().attempted.get(backup).cloned()
    }

    /// Every backup that must be there.
    pub(crate) fn owed(&self) -> BTreeSet<String> {
        let book = self.book();
        book.acknowledged.difference(&book.forgotten).cloned().collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    /// Opens the repository anew and checks that everything owed is there, that every backup is
    /// what was backed up, and that its pack list is true and complete.
    ///
    /// Answers what is wrong.
    pub(crate) async fn audit(
        &self,
        world: &World,
        store: &Arc<dyn Store>,
        secret: Option<Secret>,
    ) -> std::result::Result<Vec<Committed>, String> {
        let opened = Repository::open(world.clone(), Arc::clone(store), secret, None).await;
        let repository = opened.map_err(|error| format!("it does not open: {}", tell(&error)))?;
        let history = repository.history().await.map_err(|error| tell(&error))?;
        for backup in self.owed() {
            if history.commit(&backup).is_none_or(|committed| committed.forgotten) {
                return Err(format!("backup {backup} was committed and is gone"));
            }
        }
        let live: Vec<Committed> = history.live().into_iter().cloned().collect();
        for committed in &live {
            let backup = &committed.commit.backup;
            check_packs(&**store, &history, committed)
                .await
                .map_err(|what| format!("backup {backup}: {what}"))?;
            let found = restore(&repository, committed).await;
            let found =
                found.map_err(|e| format!("backup {backup} is unreadable: {}", tell(&e)))?;
            if self.content(backup).as_ref() != Some(&found) {
                return Err(format!("backup {backup} has wrong bytes"));
            }
        }
        Ok(live)
    }
}

/// Every pack that the backup lists exists and has its name. That nothing else is needed follows
/// from restoring it, since a reader looks into listed packs only.
async fn check_packs(
    store: &dyn Store,
    history: &History,
    committed: &Committed,
) -> std::result::Result<(), String> {
    let commit = &committed.commit;
    let key = Key::new(commit.packs.as_str()).map_err(|error| tell(&error))?;
    let read = async |key: &Key| -> std::result::Result<_, String> {
        let found = store.read(key, OBJECT_BYTES_MAX).await.map_err(|error| tell(&error))?;
        found.ok_or_else(|| format!("{key} is gone"))
    };
    let list = read(&key).await?;
    if hash_of(&list) != commit.packs_hash {
        return Err(format!("{key} is another list"));
    }
    let packs = decode_pack_list(&list).map_err(|error| tell(&error))?;
    for (pack, size_bytes) in history.resolve(packs) {
        let bytes = read(&pack.key()).await?;
        if PackName::of(pack.kind, &bytes) != pack || bytes.len() as u64 != size_bytes {
            return Err(format!("pack {pack} is not what its name says"));
        }
    }
    Ok(())
}

/// An error with its causes and facts, on one line.
pub(crate) fn tell(error: &stillpoint_contract::Error) -> String {
    let mut told = format!("{:?} {error}", error.kind());
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    format!("{told} {:?}", error.facts())
}

/// Forgets a backup, and tells the ledger.
pub(crate) async fn forget(repository: &Repository, ledger: &Ledger, backup: &str) -> Result<()> {
    ledger.forget(backup);
    repository.forget(&[backup.to_owned()], "no longer wanted").await?;
    Ok(())
}
