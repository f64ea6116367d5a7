//! One entry of the repository log: what happened, chained to what happened before, and signed.
//!
//! An entry is two lines of JSON. The first says what happened; the second seals the first, by a
//! signature where the repository has a key and by a hash where it has none. The next entry names
//! the hash of both lines. Stored bytes are hashed, never re-serialised.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, LogPosition, Result, code};

use super::{
    custody::{Ended, Held, Recorded, Trimmed, Verified},
    index_run::RunName,
    pack::PackName,
};

/// The newest version of entries that this program writes and reads.
pub const ENTRY_FORMAT: u32 = 1;

/// The longest entry, in bytes.
pub const ENTRY_BYTES_MAX: u64 = 16 << 20;

/// One event in the life of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Version of this structure.
    pub format: u32,
    /// The repository.
    pub repository: String,
    /// Its place: 1, 2, 3, ...
    pub seq: u64,
    /// BLAKE3 of the stored bytes of the entry before, in hex; zeros in the first.
    pub previous: String,
    /// When its writer believes that it happened. For people: nothing is decided by it.
    pub at: DateTime<Utc>,
    /// Random, so that a writer that lost an answer recognises its own entry.
    pub nonce: String,
    /// What happened.
    pub action: Action,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The repository was created.
    Init {
        /// BLAKE3 of the descriptor's bytes, in hex.
        descriptor: String,
    },
    /// A backup came into being.
    Commit(Box<Commit>),
    /// Backups are no longer wanted.
    Forget {
        /// Their ids.
        backups: Vec<String>,
        /// Why, in the words of whoever asked.
        reason: String,
    },
    /// Objects are no longer referenced and may be deleted once readers had time to finish.
    Doom(Box<Doom>),
    /// The objects of a doom entry are deleted.
    Swept {
        /// The doom entry's number.
        doom: u64,
    },
    /// A backup was restored for proof, and what came of it is recorded.
    Drill(Box<Drilled>),
    /// What became of the promises of a month is recorded.
    Report(Box<Reported>),
    /// A backup was read back.
    Verified(Box<Verified>),
    /// Somebody forbade to remove something.
    Held(Box<Held>),
    /// It may be removed again, as far as that hold goes.
    Released(Box<Ended>),
    /// Log of a database from before some time is needed no more.
    Trim(Box<Trimmed>),
    /// Something happened from which retention counts.
    Event(Box<Recorded>),
    /// It did not happen, or not on that day.
    Withdrawn(Box<Ended>),
    /// A key slot was added.
    KeyAdded {
        /// Its id.
        slot: String,
        /// BLAKE3 of its bytes, in hex.
        hash: String,
    },
    /// A key slot was removed.
    KeyRemoved {
        /// Its id.
        slot: String,
    },
}

/// A backup, as the log knows it. Everything else is in its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The backup's id, a ULID.
    pub backup: String,
    /// The database's name.
    pub database: String,
    /// The name of its engine.
    pub engine: String,
    /// The database's identity.
    pub incarnation: String,
    /// Where that was found.
    pub location: String,
    /// When the backup began.
    pub started_at: DateTime<Utc>,
    /// When its last byte was stored.
    pub finished_at: DateTime<Utc>,
    /// The instant, by our clock, of the state it holds.
    pub consistent_time: DateTime<Utc>,
    /// The position of the state it holds, where the engine has positions.
    pub consistent_at: Option<LogPosition>,
    /// Whether unchanged pages were kept without reading them.
    pub incremental: bool,
    /// The database's size, in bytes.
    pub size_bytes: u64,
    /// What it added to the repository, in bytes.
    pub stored_bytes: u64,
    /// Object name of the manifest.
    pub manifest: String,
    /// BLAKE3 of the manifest's bytes, in hex.
    pub manifest_hash: String,
    /// Object name of the pack list.
    pub packs: String,
    /// BLAKE3 of the pack list's bytes, in hex.
    pub packs_hash: String,
    /// What it was made for, if a policy asked for it. One backup at most is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// What the engine's checksums said against pages that were copied: it can be restored as
    /// they were, and stands for no other backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// In the log of a copy: the number of the entry that made it in the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<u64>,
}

/// A drill, as the log knows it. Everything else is in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// Its id, a ULID.
    pub drill: String,
    /// The database's name.
    pub database: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When its sandbox was gone.
    pub finished_at: DateTime<Utc>,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// The backup that was restored; none where there was none, or a version wrote it that did
    /// not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The damage that the engine found in it: not what lacks in its rows, or on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// How long it took until the restored database answered, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// How much of what was committed was not there, as time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// Object name of the record.
    pub record: String,
    /// BLAKE3 of the record's bytes, in hex.
    pub record_hash: String,
    /// Object name of the page that shows it.
    pub page: String,
    /// BLAKE3 of the page's bytes, in hex.
    pub page_hash: String,
}

/// A report on a month, as the log knows it. Everything else is in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// Its id, a ULID.
    pub report: String,
    /// The month, such as `2026-10`.
    pub month: String,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// Object name of the record.
    pub record: String,
    /// BLAKE3 of the record's bytes, in hex.
    pub record_hash: String,
    /// Object name of the page that shows it.
    pub page: String,
    /// BLAKE3 of the page's bytes, in hex.
    pub page_hash: String,
}

/// What may be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// Packs.
    pub packs: Vec<PackName>,
    /// For each doomed pack that held something still needed: the packs that hold it now, with
    /// their sizes in bytes.
    pub moved: BTreeMap<PackName, Vec<(PackName, u64)>>,
    /// Index runs.
    pub indexes: Vec<RunName>,
    /// Object names of log segments, manifests and pack lists.
    pub objects: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Seal {
    Signature(String),
    Blake3(String),
}

/// Signs and checks entries.
pub trait Notary: std::fmt::Debug + Send + Sync {
    /// Signs, or returns `None` in a repository without keys.
    fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>>;

    /// Whether entries must be signed, and if so whether `signature` is good. A repository
    /// without keys answers `None`.
    fn check(&self, bytes: &[u8], signature: &[u8]) -> Option<bool>;
}

impl Entry {
    /// Writes the stored form.
    pub fn encode(&self, notary: &dyn Notary) -> Result<Bytes> {
        let mut line = to_json(self)?;
        let seal = notary.sign(&line).map_or_else(
            || Seal::Blake3(hash_of(&line)),
            |signature| Seal::Signature(data_encoding::HEXLOWER.encode(&signature)),
        );
        line.push(b'\n');
        line.extend(to_json(&seal)?);
        line.push(b'\n');
        if line.len() as u64 > ENTRY_BYTES_MAX {
            return Err(Error::bug("write a log entry longer than readers accept"));
        }
        Ok(line.into())
    }

    /// Reads and checks the stored form of entry `seq`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is not what was written,
    /// [`Unsupported`](ErrorKind::Unsupported) when a newer version wrote it.
    pub fn decode(bytes: &[u8], seq: u64, notary: &dyn Notary) -> Result<Self> {
        let (line, seal) = split(bytes).ok_or_else(|| damaged(seq))?;
        // The version first: a newer one may seal its entries in another way.
        let version: Version = serde_json::from_slice(line).map_err(|_| damaged(seq))?;
        if version.format > ENTRY_FORMAT {
            return Err(super::descriptor::newer("the repository log", version.format));
        }
        let seal = serde_json::from_slice(seal).map_err(|e| damaged(seq).caused_by(e))?;
        let sealed = match seal {
            Seal::Signature(text) => data_encoding::HEXLOWER
                .decode(text.as_bytes())
                .ok()
                .and_then(|signature| notary.check(line, &signature)),
            Seal::Blake3(text) => notary.check(line, &[]).is_none().then(|| text == hash_of(line)),
        };
        if sealed != Some(true) {
            return Err(damaged(seq));
        }
        let entry: Self = serde_json::from_slice(line).map_err(|e| damaged(seq).caused_by(e))?;
        if entry.seq == seq { Ok(entry) } else { Err(damaged(seq)) }
    }
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// BLAKE3 in hex, as names and entries carry it.
pub fn hash_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = bytes.strip_suffix(b"\n")?;
    let middle = text.iter().position(|b| *b == b'\n')?;
    let (line, seal) = text.split_at(middle);
    Some((line, seal.get(1..)?))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::bug("write JSON").caused_by(e))
}

fn damaged(seq: u64) -> Error {
    Error::new(ErrorKind::Corrupt, code::BROKEN_LOG, format!("read log entry {seq}"))
        .with("object", super::names::log_entry(seq))
        .why("the log says which backups exist; a damaged entry hides everything after it")
        .next("restore the entry from another copy of the repository")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A repository without keys.
    #[derive(Debug)]
    pub(crate) struct Unsigned;

    impl Notary for Unsigned {
        fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }

        fn check(&self, _: &[u8], _: &[u8]) -> Option<bool> {
            None
        }
    }

    #[test]
    fn every_changed_byte_of_an_entry_is_noticed() {
        let entry = Entry {
            format: ENTRY_FORMAT,
            repository: "r".to_owned(),
            seq: 3,
            previous: "0".repeat(64),
            at: DateTime::UNIX_EPOCH,
            nonce: "n".to_owned(),
            action: Action::Swept { doom: 2 },
        };
        let bytes = entry.encode(&Unsigned).unwrap();
        assert_eq!(Entry::decode(&bytes, 3, &Unsigned).unwrap(), entry);
        assert!(Entry::decode(&bytes, 4, &Unsigned).is_err(), "an entry in another's place");
        for index in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[index] ^= 1;
            assert!(Entry::decode(&flipped, 3, &Unsigned).is_err(), "byte {index}");
            assert!(Entry::decode(&bytes[..index], 3, &Unsigned).is_err(), "cut at {index}");
        }
    }
}
