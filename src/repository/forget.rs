//! Taking backups out of the list. Their bytes go later, by garbage collection.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    custody::{Held, Trimmed},
    entry::Action,
    handle::Repository,
    history::{Committed, History},
    stock::Holdings,
};

impl Repository {
    /// Finds a backup by its id or a unique beginning of it.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when none or several match.
    pub async fn find_backup(&self, id: &str) -> Result<Committed> {
        let history = self.history().await?;
        find(&history, id)
    }

    /// Forgets backups: from now on they are not listed and not restored.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when one does not exist, [`Refused`](ErrorKind::Refused)
    /// when one is held; then none is forgotten.
    pub async fn forget(&self, ids: &[String], reason: &str) -> Result<Vec<Committed>> {
        let mut forgotten = Vec::new();
        self.append(async |history| {
            forgotten = ids.iter().map(|id| find(history, id)).collect::<Result<Vec<_>>>()?;
            forgotten.sort_by_key(|committed| committed.seq);
            forgotten.dedup();
            refuse_held(history, &forgotten)?;
            Ok(Some(forget(&forgotten, reason)))
        })
        .await?;
        Ok(forgotten)
    }

    /// Makes sure that nobody holds any of these backups.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when one is held.
    pub async fn refuse_held(&self, backups: &[Committed]) -> Result<()> {
        let history = self.history().await?;
        refuse_held(&history, backups)
    }

    /// Forgets the backups of a database that `choose` names, by id. It is asked again, with what
    /// is then true, when anything was written in between: what was held, or is the last one that
    /// was verified by now, is not forgotten because it was not a moment ago.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when it names one that is held; then none is forgotten.
    pub async fn expire(
        &self,
        database: &str,
        reason: &str,
        mut choose: impl FnMut(&Holdings) -> Vec<String>,
    ) -> Result<Vec<Committed>> {
        let mut forgotten = Vec::new();
        self.append(async |history| {
            let chosen = choose(&Holdings::of(history, database));
            let own = history.live_of(database).filter(|c| chosen.contains(&c.commit.backup));
            forgotten = own.cloned().collect();
            refuse_held(history, &forgotten)?;
            Ok((!forgotten.is_empty()).then(|| forget(&forgotten, reason)))
        })
        .await?;
        Ok(forgotten)
    }
}

impl Repository {
    /// Says from when on log of a database is needed, by what `choose` answers: older log goes
    /// with the next collection of garbage, although backups are left that lead into it. What is
    /// held keeps its log all the same. Says whether that is new.
    pub async fn trim(
        &self,
        database: &str,
        reason: &str,
        mut choose: impl FnMut(&Holdings) -> Option<DateTime<Utc>>,
    ) -> Result<bool> {
        let mut is_new = false;
        self.append(async |history| {
            let before = choose(&Holdings::of(history, database));
            let before = before.filter(|before| history.trimmed(database) != Some(*before));
            is_new = before.is_some();
            let (database, reason) = (database.to_owned(), reason.to_owned());
            Ok(before.map(|before| Action::Trim(Box::new(Trimmed { database, before, reason }))))
        })
        .await?;
        Ok(is_new)
    }
}

fn forget(backups: &[Committed], reason: &str) -> Action {
    let backups = backups.iter().map(|committed| committed.commit.backup.clone()).collect();
    Action::Forget { backups, reason: reason.to_owned() }
}

fn refuse_held(history: &History, backups: &[Committed]) -> Result<()> {
    let databases: BTreeSet<&str> = backups.iter().map(|c| c.commit.database.as_str()).collect();
    for database in databases {
        let holdings = Holdings::of(history, database);
        for (backup, holds) in holdings.held() {
            if backups.iter().any(|c| c.commit.backup == backup) {
                return Err(held(&backup, &holds));
            }
        }
    }
    Ok(())
}

fn held(backup: &str, holds: &[&Held]) -> Error {
    let error = Error::new(ErrorKind::Refused, code::HELD, "forget a backup that is held")
        .with("backup", backup);
    let error = holds.iter().fold(error, |error, held| error.with("case", &held.case));
    let error = error.why("it is kept until every hold on it is released, whoever asks");
    holds.iter().fold(error, |error, held| {
        error.next(format!("stillpoint hold release {} --reason TEXT", held.hold))
    })
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
