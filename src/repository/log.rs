//! The repository log in its store: reading it forward, and winning the next place in it.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use stillpoint_contract::{Clock, Entropy, Error, ErrorKind, Result, code};

use super::{
    entry::{Action, ENTRY_BYTES_MAX, ENTRY_FORMAT, Entry, Notary, hash_of},
    history::{Head, History},
    names,
    store::{Put, Store},
};

/// How many entries are read ahead.
const READ_AHEAD_MAX: u64 = 32;

/// How often an append is repeated while the store does not answer.
const ATTEMPTS_MAX: u32 = 6;

/// The log of one repository.
#[derive(Clone, Debug)]
pub struct Log {
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// Who signs it.
    pub notary: Arc<dyn Notary>,
    /// Whose it is.
    pub repository: String,
    /// For the times in entries, and for waiting between attempts.
    pub clock: Arc<dyn Clock>,
    /// For nonces.
    pub entropy: Arc<dyn Entropy>,
}

/// Whether an append took the place that it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lost append did not happen"]
pub enum Appended {
    /// The entry is in the log, durably.
    Won,
    /// Others were there before; their entries are folded now, and the decision behind ours may
    /// no longer hold.
    Lost,
}

impl Log {
    /// Folds every entry that is new since `history`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) for a damaged or discontinuous log; with `witness`, also
    /// [`Refused`](ErrorKind::Refused) when the log does not contain it (it was rolled back or
    /// forked since somebody saw it).
    pub async fn follow(&self, history: &mut Arc<History>, witness: Option<&Head>) -> Result<()> {
        let mut ahead = 1;
        loop {
            let first = history.head().seq + 1;
            let batch: Vec<_> =
                stream::iter(first..first + ahead)
                    .map(|seq| async move {
                        self.store.read(&names::log_entry(seq), ENTRY_BYTES_MAX).await
                    })
                    .buffered(READ_AHEAD_MAX as usize)
                    .try_collect()
                    .await?;
            for bytes in batch {
                let Some(bytes) = bytes else { return Self::compare(history, witness) };
                self.fold(history, &bytes)?;
                if witness.is_some_and(|w| w.seq == history.head().seq && w != history.head()) {
                    return Self::compare(history, witness);
                }
            }
            ahead = (ahead * 2).min(READ_AHEAD_MAX);
        }
    }

    /// Tries to append `action` right after `history`, and folds whatever is there afterwards.
    ///
    /// # Errors
    ///
    /// [`Transient`](ErrorKind::Transient) when the store does not say what became of the entry;
    /// it may appear later.
    pub async fn try_append(&self, history: &mut Arc<History>, action: Action) -> Result<Appended> {
        if self.notary.check(&[], &[]).is_some() && self.notary.sign(&[]).is_none() {
            return Err(Error::new(ErrorKind::Denied, code::NO_KEY, "sign a log entry")
                .next("give the passphrase: --passphrase-file FILE"));
        }
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce);
        let entry = Entry {
            format: ENTRY_FORMAT,
            repository: self.repository.clone(),
            seq: history.head().seq + 1,
            previous: history.head().hash.clone(),
            at: self.clock.now(),
            nonce: data_encoding::HEXLOWER.encode(&nonce),
            action,
        };
        let bytes = entry.encode(&*self.notary)?;
        let mut attempt = 0;
        loop {
            let key = names::log_entry(entry.seq);
            let unsure = match self.store.create(&key, bytes.clone()).await {
                Ok(Put::Created) => return self.won(history, &bytes),
                Ok(Put::Existed) => None,
                Err(error) if error.kind().is_transient() => Some(error),
                Err(error) => return Err(error),
            };
            // The store may have lost only its answer. The nonce tells our entry from a rival's.
            match self.store.read(&key, ENTRY_BYTES_MAX).await {
                Ok(Some(stored)) if stored == bytes => return self.won(history, &bytes),
                Ok(Some(_)) => {
                    self.follow(history, None).await?;
                    return Ok(Appended::Lost);
                }
                Ok(None) | Err(_) if attempt + 1 < ATTEMPTS_MAX => {}
                Ok(None) => return Err(unsure.unwrap_or_else(|| vanished(entry.seq))),
                Err(error) => return Err(error),
            }
            self.clock.sleep(Duration::from_millis(50 << attempt)).await;
            attempt += 1;
        }
    }

    fn won(&self, history: &mut Arc<History>, bytes: &[u8]) -> Result<Appended> {
        self.fold(history, bytes)?;
        Ok(Appended::Won)
    }

    fn fold(&self, history: &mut Arc<History>, bytes: &[u8]) -> Result<()> {
        let entry = Entry::decode(bytes, history.head().seq + 1, &*self.notary)?;
        if entry.repository != self.repository {
            return Err(foreign(entry.seq));
        }
        // Whoever looks at an older state keeps it.
        Arc::make_mut(history).fold(&entry, hash_of(bytes))
    }

    fn compare(history: &History, witness: Option<&Head>) -> Result<()> {
        match witness {
            Some(seen) if seen.seq > history.head().seq => Err(rolled_back(history, seen)),
            Some(seen) if seen.seq == history.head().seq && seen != history.head() => {
                Err(rolled_back(history, seen))
            }
            _ => Ok(()),
        }
    }
}

fn vanished(seq: u64) -> Error {
    Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, format!("append log entry {seq}"))
        .with("store", "it says that the entry exists, and then that it does not")
}

fn foreign(seq: u64) -> Error {
    Error::new(ErrorKind::Refused, code::FOREIGN_REPOSITORY, format!("read log entry {seq}"))
        .why("the entry belongs to another repository: two repositories were mixed in one place")
        .next("keep each repository in a directory or prefix of its own")
}

fn rolled_back(history: &History, seen: &Head) -> Error {
    Error::new(ErrorKind::Refused, code::ROLLED_BACK, "compare the log with what was seen before")
        .with("seen before", format!("entry {} {}", seen.seq, short(&seen.hash)))
        .with("now", format!("entry {} {}", history.head().seq, short(&history.head().hash)))
        .why(
            "the repository is older than, or differs from, what this machine saw before: \
              backups may have been removed behind your back",
        )
        .next("compare it with another copy of the repository")
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
