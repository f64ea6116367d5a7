//! One wrapped copy of the master secret.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::Aad;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Entropy, Error, ErrorKind, Result, code};
use zeroize::Zeroizing;

use super::Secret;
use crate::{
    pipeline::{
        id::{RepositoryId, hex_name},
        keys::{Fingerprint, RepositoryKey},
        seal::{TAG_BYTES, aead_key, nonce},
    },
    repository::{
        store::Key,
        wire::{corrupt, newer},
    },
};

/// The most slots that one repository has. Each may cost a second to try.
pub const SLOTS_MAX: usize = 64;

const FORMAT: u16 = 1;
/// A key slot longer than this is none.
const SLOT_BYTES_MAX: usize = 16 << 10;
const LABEL_BYTES_MAX: usize = 256;
const CONTEXT_KEY_FILE: &str = "stillpoint 2026-11 v1 key slot of a key file";
const CONTEXT_RECOVERY: &str = "stillpoint 2026-11 v1 key slot of a recovery key";

/// The name of one key slot, random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId([u8; 8]);

hex_name!(SlotId, 8, "key slot id");

impl SlotId {
    /// The object that holds the slot, such as `keys/0123456789abcdef.json`.
    pub fn key(self) -> Key {
        Key::new(format!("keys/{self}.json")).expect("it is short and hexadecimal")
    }
}

/// What guessing one passphrase costs: the parameters of Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes that could be computed in parallel.
    pub lanes: u32,
}

impl PassphraseCost {
    /// What a new slot costs: 64 MiB and three passes, the second recommendation of RFC 9106,
    /// section 4, with one lane.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 1 };
    /// A slot that asks for more is refused: it was made to exhaust whoever opens it.
    pub const MAX: Self = Self { memory_kib: 512 << 10, passes: 16, lanes: 16 };

    fn params(self) -> Option<Params> {
        let Self { memory_kib, passes, lanes } = self;
        let bounded = memory_kib <= Self::MAX.memory_kib
            && passes <= Self::MAX.passes
            && lanes <= Self::MAX.lanes;
        Params::new(memory_kib, passes, lanes, Some(32)).ok().filter(|_| bounded)
    }
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which kind of secret opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Method {
    /// A passphrase, through Argon2id.
    Passphrase {
        /// What one guess costs.
        argon2id: PassphraseCost,
    },
    /// A key file.
    KeyFile,
    /// A recovery key.
    Recovery,
}

impl Method {
    fn fits(self, secret: &Secret) -> bool {
        matches!(
            (self, secret),
            (Self::Passphrase { .. }, Secret::Passphrase(_))
                | (Self::KeyFile, Secret::KeyFile(_))
                | (Self::Recovery, Secret::Recovery(_))
        )
    }
}

/// What is written into a new slot beside the wrapped secret.
#[derive(Clone, Copy, Debug)]
pub struct NewSlot<'a> {
    /// The repository that the slot opens.
    pub repository: RepositoryId,
    /// The key epoch that the secret belongs to.
    pub epoch: u32,
    /// What its owner calls it; at most 256 bytes.
    pub label: &'a str,
    /// When it was made, for display only.
    pub created_at: DateTime<Utc>,
    /// What guessing costs, if the slot is for a passphrase.
    pub cost: PassphraseCost,
}

/// One wrapped copy of the master secret, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlot {
    format: u16,
    id: SlotId,
    repository: RepositoryId,
    epoch: u32,
    label: String,
    created_at: DateTime<Utc>,
    fingerprint: Fingerprint,
    #[serde(flatten)]
    method: Method,
    salt: Hex<16>,
    wrapped: Hex<{ 32 + TAG_BYTES }>,
}

impl KeySlot {
    /// Wraps `master` so that `secret` opens it. Takes as long as one guess is meant to: work for
    /// a thread that may block.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the label is too long or the cost too high.
    pub fn wrap(
        master: &RepositoryKey,
        secret: &Secret,
        about: &NewSlot<'_>,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        if about.label.len() > LABEL_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "label a key slot")
                .with("bytes at most", LABEL_BYTES_MAX));
        }
        let (mut id, mut salt) = ([0; 8], Hex([0; 16]));
        entropy.fill(&mut id);
        entropy.fill(&mut salt.0);
        let mut slot = Self {
            format: FORMAT,
            id: SlotId(id),
            repository: about.repository,
            epoch: about.epoch,
            label: about.label.to_owned(),
            created_at: about.created_at,
            fingerprint: master.fingerprint(),
            method: match secret {
                Secret::Passphrase(_) => Method::Passphrase { argon2id: about.cost },
                Secret::KeyFile(_) => Method::KeyFile,
                Secret::Recovery(_) => Method::Recovery,
            },
            salt,
            wrapped: Hex([0; 32 + TAG_BYTES]),
        };
        let wrapping = slot.wrapping_key(secret).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::USAGE, "derive a key from a passphrase")
                .with("cost", format!("{:?}", about.cost))
        })?;
        let mut wrapped = Zeroizing::new(master.expose().to_vec());
        aead_key(&wrapping)
            .seal_in_place_append_tag(nonce(0), Aad::from(slot.binding()), &mut *wrapped)
            .map_err(|_| Error::bug("wrap a key"))?;
        slot.wrapped.0.copy_from_slice(&wrapped);
        Ok(slot)
    }

    /// The bytes to store.
    ///
    /// # Errors
    ///
    /// [`Bug`](ErrorKind::Bug): a slot can always be written as JSON.
    pub fn encode(&self) -> Result<Bytes> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|cause| Error::bug("write a key slot").caused_by(cause))?;
        bytes.push(b'\n');
        Ok(bytes.into())
    }

    /// Reads a stored slot. Whether it is genuine shows when a secret opens it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when it is none or asks for absurd work;
    /// [`Unsupported`](ErrorKind::Unsupported) when a newer version wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u16,
        }

        let step = "read a key slot";
        if bytes.len() > SLOT_BYTES_MAX {
            return Err(corrupt(step, "it is longer than any key slot"));
        }
        let unreadable = |cause| corrupt(step, "it is no key slot").caused_by(cause);
        let version: Versioned = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version.format > FORMAT {
            return Err(newer(step, version.format));
        }
        let slot: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        let absurd = match slot.method {
            Method::Passphrase { argon2id } => argon2id.params().is_none(),
            Method::KeyFile | Method::Recovery => false,
        };
        if slot.format != FORMAT || absurd || slot.label.len() > LABEL_BYTES_MAX {
            return Err(corrupt(step, "a field is beyond its limits"));
        }
        Ok(slot)
    }

    /// Its name.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// The repository that it belongs to, as it says itself.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// What its owner calls it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Which kind of secret opens it.
    pub fn method(&self) -> Method {
        self.method
    }

    /// When it was made, as its maker's clock said.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    /// The key epoch of the wrapped secret.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The public name of the wrapped secret.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The master secret, if `secret` opens this slot and the slot is genuine.
    fn open(&self, secret: &Secret) -> Option<RepositoryKey> {
        let wrapping = self.wrapping_key(secret)?;
        let mut unwrapped = Zeroizing::new(self.wrapped.0);
        let plain = aead_key(&wrapping)
            .open_in_place(nonce(0), Aad::from(self.binding()), &mut *unwrapped)
            .ok()?;
        let master = RepositoryKey::new(Zeroizing::new((&*plain).try_into().ok()?));
        // AES-GCM does not commit to its key; the fingerprint does.
        (master.fingerprint() == self.fingerprint).then_some(master)
    }

    fn wrapping_key(&self, secret: &Secret) -> Option<Zeroizing<[u8; 32]>> {
        let salt = &self.salt.0;
        let from_random = |context, bytes: &[u8]| {
            let material = Zeroizing::new([bytes, salt.as_slice()].concat());
            Zeroizing::new(blake3::derive_key(context, &material))
        };
        match (self.method, secret) {
            (Method::Passphrase { argon2id }, Secret::Passphrase(text)) => {
                let mut key = Zeroizing::new([0; 32]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, argon2id.params()?)
                    .hash_password_into(text.as_bytes(), salt, &mut *key)
                    .ok()?;
                Some(key)
            }
            (Method::KeyFile, Secret::KeyFile(key)) => Some(from_random(CONTEXT_KEY_FILE, &**key)),
            (Method::Recovery, Secret::Recovery(key)) => {
                Some(from_random(CONTEXT_RECOVERY, &**key))
            }
            _ => None,
        }
    }

    /// Everything in the slot that is not the wrapped secret, so that none of it can be changed.
    fn binding(&self) -> Vec<u8> {
        let (method, cost) = match self.method {
            Method::Passphrase { argon2id } => (0_u8, argon2id),
            Method::KeyFile => (1, PassphraseCost { memory_kib: 0, passes: 0, lanes: 0 }),
            Method::Recovery => (2, PassphraseCost { memory_kib: 0, passes: 0, lanes: 0 }),
        };
        [
            b"stillpoint key slot".as_slice(),
            &self.format.to_le_bytes(),
            self.id.as_bytes(),
            self.repository.as_bytes(),
            &self.epoch.to_le_bytes(),
            self.fingerprint.as_bytes(),
            &[method],
            &cost.memory_kib.to_le_bytes(),
            &cost.passes.to_le_bytes(),
            &cost.lanes.to_le_bytes(),
            &self.salt.0,
            &self.created_at.timestamp().to_le_bytes(),
            &self.created_at.timestamp_subsec_nanos().to_le_bytes(),
            self.label.as_bytes(),
        ]
        .concat()
    }
}

/// Opens the first slot of `repository` that `secret` opens, and returns the master secret and the
/// slot's name. Tries every slot made for that kind of secret: work for a thread that may block.
///
/// # Errors
///
/// [`Denied`](ErrorKind::Denied) when it opens none of them.
pub fn unwrap(
    slots: &[KeySlot],
    repository: RepositoryId,
    secret: &Secret,
) -> Result<(RepositoryKey, SlotId)> {
    let fitting: Vec<_> = slots
        .iter()
        .take(SLOTS_MAX)
        .filter(|slot| slot.repository == repository && slot.method.fits(secret))
        .collect();
    fitting
        .iter()
        .find_map(|slot| Some((slot.open(secret)?, slot.id)))
        .ok_or_else(|| wrong_key(secret, fitting.len(), slots.len()))
}

fn wrong_key(secret: &Secret, tried: usize, slots: usize) -> Error {
    let kind = secret.kind();
    let error = Error::new(ErrorKind::Denied, code::WRONG_KEY, format!("open with this {kind}"))
        .with("tried", format!("{tried} of {slots} key slots"));
    if tried == 0 {
        error.why(format!("no key slot of this repository is made for a {kind}"))
    } else {
        error.why(format!("it is not the {kind} of any key slot, or the slot is damaged"))
    }
}

/// Bytes that JSON shows as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> From<Hex<N>> for String {
    fn from(bytes: Hex<N>) -> Self {
        HEXLOWER.encode(&bytes.0)
    }
}

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| "it is not hexadecimal")?;
        bytes.try_into().map(Self).map_err(|_| "its length is wrong")
    }
}
