//! The object that makes a place a repository: created once, never changed.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::entry::hash_of;

/// The newest repository format that this program writes and reads.
pub const REPOSITORY_FORMAT: u32 = 1;

/// The longest descriptor, in bytes.
pub const DESCRIPTOR_BYTES_MAX: u64 = 64 << 10;

/// What everybody must know before reading anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Version of the whole repository.
    pub format: u32,
    /// Random id, 32 hex digits.
    pub repository: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// What wrote it, for people.
    pub program: String,
    /// How objects are encrypted.
    pub encryption: Encryption,
    /// Length of a chunk in bytes.
    pub chunk_bytes: u32,
    /// Public Ed25519 key that checks log entries, in hex; `None` without encryption.
    pub signing_key: Option<String>,
    /// How many writers the store can stand.
    pub writers: Writers,
    /// In a copy of a repository: its own random id, 32 hex digits. `repository` and keys are those
    /// of the original, so that objects travel as they are stored; the log is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
}

/// How objects are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// AES-256-GCM under keys derived from the repository's master secret.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// Not at all.
    #[serde(rename = "none")]
    None,
}

/// How many writers the store can stand, as a probe found out when the repository was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// The store honours create-if-absent: any number.
    Many,
    /// The store ignores it: one at a time, which nobody but the user can ensure.
    Single,
}

impl Descriptor {
    /// The id as bytes.
    pub fn id(&self) -> Result<[u8; 16]> {
        data_encoding::HEXLOWER
            .decode(self.repository.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(damaged)
    }

    /// Whose log it is: no entry of a repository's log passes for one of a copy's, or of another's.
    pub fn log_id(&self) -> &str {
        self.replica.as_deref().unwrap_or(&self.repository)
    }

    /// Whether it is a copy, to which only copying writes.
    pub fn is_replica(&self) -> bool {
        self.replica.is_some()
    }

    /// Writes the stored form: a line of JSON, and a line with its hash.
    pub fn encode(&self) -> Result<Bytes> {
        let line =
            serde_json::to_string(self).map_err(|e| Error::bug("write JSON").caused_by(e))?;
        Ok(format!("{line}\n{}\n", hash_of(line.as_bytes())).into())
    }

    /// Reads and checks the stored form.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when it is not ours or a newer version wrote it,
    /// [`Corrupt`](ErrorKind::Corrupt) when it is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let (line, hash) =
            text.strip_suffix('\n').and_then(|t| t.split_once('\n')).ok_or_else(damaged)?;
        // The version first: a newer one may seal its bytes in another way.
        let version: Version = serde_json::from_str(line).map_err(|_| damaged())?;
        if version.format > REPOSITORY_FORMAT {
            return Err(newer("the repository", version.format));
        }
        if hash_of(line.as_bytes()) != hash {
            return Err(damaged());
        }
        let descriptor: Self = serde_json::from_str(line).map_err(|e| damaged().caused_by(e))?;
        let chunk_bytes = descriptor.chunk_bytes;
        if !chunk_bytes.is_power_of_two() || !(65_536..=1 << 20).contains(&chunk_bytes) {
            return Err(damaged());
        }
        Ok(descriptor)
    }
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// The error for anything that a newer program wrote.
pub fn newer(what: &str, format: u32) -> Error {
    Error::new(ErrorKind::Refused, code::NEWER_FORMAT, format!("read {what}"))
        .with("format", format)
        .with("known here", format!("up to {REPOSITORY_FORMAT}"))
        .why("an older program that writes to it could damage what it does not understand")
        .next("install the version of stillpoint that wrote it, or a newer one")
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read stillpoint-repo.json")
        .why("without it nothing in the repository can be trusted")
        .next("copy the object from another copy of the repository: it never changes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_and_newer_formats_are_told_apart() {
        let mut descriptor = Descriptor {
            format: 1,
            repository: "00112233445566778899aabbccddeeff".to_owned(),
            created_at: DateTime::UNIX_EPOCH,
            program: "stillpoint 0.1.0".to_owned(),
            encryption: Encryption::None,
            chunk_bytes: 262_144,
            signing_key: None,
            writers: Writers::Many,
            replica: None,
        };
        let bytes = descriptor.encode().unwrap();
        assert_eq!(Descriptor::decode(&bytes).unwrap(), descriptor);
        for index in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[index] ^= 1;
            assert!(Descriptor::decode(&flipped).is_err(), "byte {index}");
        }
        descriptor.format = 2;
        let error = Descriptor::decode(&descriptor.encode().unwrap()).unwrap_err();
        assert_eq!(error.code(), code::NEWER_FORMAT);
    }
}
