//! Taking backups out of the list. Their bytes go later, by garbage collection.

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    entry::Action,
    handle::Repository,
    history::{Committed, History},
};

impl Repository {
    /// Finds a backup by its id or a unique beginning of it.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when none or several match.
    pub async fn find_backup(&self, id: &str) -> Result<Committed> {
        find(&self.history().await?, id)
    }

    /// Forgets backups: from now on they are not listed and not restored.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when one does not exist; then none is forgotten.
    pub async fn forget(&self, ids: &[String], reason: &str) -> Result<Vec<Committed>> {
        let mut forgotten = Vec::new();
        self.append(async |history| {
            forgotten = ids.iter().map(|id| find(history, id)).collect::<Result<Vec<_>>>()?;
            forgotten.sort_by_key(|committed| committed.seq);
            forgotten.dedup();
            let backups = forgotten.iter().map(|c| c.commit.backup.clone()).collect();
            Ok(Some(Action::Forget { backups, reason: reason.to_owned() }))
        })
        .await?;
        Ok(forgotten)
    }
}

fn find(history: &History, id: &str) -> Result<Committed> {
    let live = history.live();
    let matching: Vec<_> = live.iter().filter(|c| c.commit.backup.starts_with(id)).collect();
    match matching.as_slice() {
        [backup] if !id.is_empty() => Ok((**backup).clone()),
        found => Err(Error::new(ErrorKind::Missing, code::NO_SUCH_BACKUP, "find the backup")
            .with("asked", id)
            .with("matching", found.len())
            .next("stillpoint list")),
    }
}
