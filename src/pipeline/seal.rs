//! How content is sealed: authenticated encryption where there is a key, plain framing where not.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use stillpoint_contract::{Buffer, Entropy, Error, ErrorKind, Result, code};
use zeroize::Zeroizing;

use super::{
    compress::{Encoding, Scratch},
    id::{ChunkId, RepositoryId},
    keys::Domain,
};

/// Length of the tag behind an encrypted payload, in bytes.
pub const TAG_BYTES: usize = 16;
/// Length of the checksum behind an unencrypted object, in bytes.
pub const CHECKSUM_BYTES: usize = 32;
/// Blobs sealed under one salt. Far below every limit of AES-GCM with a counter as nonce.
const BLOBS_PER_SALT_MAX: u64 = 1 << 32;
/// The version of the layout that the associated data of a blob describes.
const BLOB_VERSION: u16 = 1;

const CONTEXT_BLOB_KEY: &str = "stillpoint 2026-11 v1 blob key of one salt";
const CONTEXT_OBJECT_KEY: &str = "stillpoint 2026-11 v1 object key of one salt";
const CONTEXT_CHECKSUM: &str = "stillpoint 2026-11 v1 object checksum";

/// What a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// A chunk of a part.
    Data = 0,
    /// A page of chunk ids.
    Leaf = 1,
    /// Several small files.
    Small = 2,
}

impl BlobKind {
    /// Reads the number used in stored bytes; `None` when this version does not know it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Leaf),
            2 => Some(Self::Small),
            _ => None,
        }
    }

    /// The number used in stored bytes.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The most plaintext of one blob of this kind, in bytes.
    pub const fn plain_bytes_max(self) -> usize {
        match self {
            Self::Data => 1 << 20,
            Self::Leaf | Self::Small => 8 << 20,
        }
    }
}

/// What is bound to a sealed blob beside its bytes, and stands in clear before it.
///
/// The pack is not part of it, so sealed blobs can move between packs without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// What the blob holds.
    pub kind: BlobKind,
    /// How its bytes become plaintext.
    pub encoding: Encoding,
    /// The name of its plaintext.
    pub id: ChunkId,
    /// The chunk that a delta refers to. Present exactly for [`Encoding::Delta`].
    pub base: Option<ChunkId>,
    /// Length of its plaintext, in bytes.
    pub plain_bytes: u32,
}

impl Label {
    /// Whether this can be the label of a blob: a stored chunk has a name, a delta and only a
    /// delta has a base, nothing is its own base, and the length is within the kind's limit.
    pub fn is_sound(&self) -> bool {
        let base_fits = match self.base {
            Some(base) => self.encoding == Encoding::Delta && !base.is_zero() && base != self.id,
            None => self.encoding != Encoding::Delta,
        };
        base_fits && !self.id.is_zero() && self.plain_bytes as usize <= self.kind.plain_bytes_max()
    }

    fn associated_data(&self, repository: RepositoryId) -> [u8; 88] {
        let mut bytes = [0; 88];
        bytes[..16].copy_from_slice(repository.as_bytes());
        bytes[16..18].copy_from_slice(&BLOB_VERSION.to_le_bytes());
        bytes[18] = self.kind.byte();
        bytes[19] = self.encoding.byte();
        bytes[20..52].copy_from_slice(self.id.as_bytes());
        bytes[52..84].copy_from_slice(self.base.unwrap_or(ChunkId::ZERO).as_bytes());
        bytes[84..].copy_from_slice(&self.plain_bytes.to_le_bytes());
        bytes
    }
}

/// Sixteen random bytes from which the key of a blob or an object is derived.
pub type Salt = [u8; 16];

/// Payload of a blob as it is stored, and what its key and nonce were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Zero in an unencrypted repository.
    pub salt: Salt,
    /// Zero in an unencrypted repository.
    pub counter: u64,
    /// Ciphertext and tag, or the encoded bytes as they are.
    pub payload: Vec<u8>,
}

/// Seals blobs under one random salt. Shared by all workers of one writer.
pub struct Sealer {
    repository: RepositoryId,
    salt: Salt,
    key: Option<LessSafeKey>,
    counter: AtomicU64,
}

impl Sealer {
    /// Seals the encoded bytes of a blob.
    ///
    /// # Errors
    ///
    /// [`Bug`](ErrorKind::Bug) when the label is not sound, or after 2^32 blobs: take a new sealer
    /// per pack.
    pub fn seal(&self, label: &Label, mut encoded: Vec<u8>) -> Result<Sealed> {
        if !label.is_sound() {
            return Err(Error::bug("seal a blob").with("label", format!("{label:?}")));
        }
        let Some(key) = &self.key else {
            return Ok(Sealed { salt: [0; 16], counter: 0, payload: encoded });
        };
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= BLOBS_PER_SALT_MAX {
            return Err(Error::bug("seal more blobs than one salt allows"));
        }
        let aad = Aad::from(label.associated_data(self.repository));
        key.seal_in_place_append_tag(nonce(counter), aad, &mut encoded)
            .map_err(|_| Error::bug("encrypt a blob"))?;
        Ok(Sealed { salt: self.salt, counter, payload: encoded })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("repository", &self.repository)
            .field("encrypted", &self.key.is_some())
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

impl Domain {
    /// Starts sealing blobs under a new random salt.
    pub fn sealer(&self, entropy: &dyn Entropy) -> Sealer {
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        Sealer {
            repository: self.repository(),
            salt,
            key: self.secrets().map(|s| derived_key(CONTEXT_BLOB_KEY, &s.blob, &salt)),
            counter: AtomicU64::new(0),
        }
    }

    /// Opens a blob and returns its plaintext, whose id has been checked.
    ///
    /// `base` is the plaintext of the label's base, for a delta.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when anything differs from what was sealed.
    pub fn open_blob(
        &self,
        label: &Label,
        nonce_from: (&Salt, u64),
        payload: &[u8],
        base: Option<&[u8]>,
        scratch: &mut Scratch,
    ) -> Result<Buffer> {
        let damaged = |problem| damaged_blob(&label.id, problem);
        if !label.is_sound() {
            return Err(damaged("its header contradicts itself"));
        }
        let plain_bytes = label.plain_bytes as usize;
        let plain = if let Some(secrets) = self.secrets() {
            let (salt, counter) = nonce_from;
            let key = derived_key(CONTEXT_BLOB_KEY, &secrets.blob, salt);
            let aad = label.associated_data(self.repository());
            open_gather(&key, nonce(counter), &aad, payload, &mut scratch.opened)
                .ok_or_else(|| damaged("its seal is broken"))?;
            scratch.decode_opened(label.encoding, base, plain_bytes)
        } else if nonce_from == (&[0; 16], 0) {
            scratch.decode(label.encoding, payload, base, plain_bytes)
        } else {
            return Err(damaged("it is encrypted, but the repository is not"));
        };
        let plain = plain.map_err(|cause| damaged("it does not decode").caused_by(cause))?;
        if self.chunk_id(&plain) == label.id {
            Ok(plain)
        } else {
            Err(damaged("its content does not have its name"))
        }
    }

    /// Seals the bytes of a small object under a key of its own, which `salt` selects.
    ///
    /// Adds [`TAG_BYTES`] or, in an unencrypted repository, [`CHECKSUM_BYTES`]. `binding` is
    /// everything that opening must know to agree; the repository's id is added to it.
    ///
    /// `salt` must be random and never be used twice.
    pub(crate) fn seal_object(
        &self,
        salt: &Salt,
        binding: &[u8],
        mut plain: Vec<u8>,
    ) -> Result<Vec<u8>> {
        if let Some(secrets) = self.secrets() {
            let key = derived_key(CONTEXT_OBJECT_KEY, &secrets.object, salt);
            let aad = self.object_binding(binding);
            key.seal_in_place_append_tag(nonce(0), Aad::from(aad), &mut plain)
                .map_err(|_| Error::bug("encrypt an object"))?;
        } else {
            let checksum = self.checksum(salt, binding, &plain);
            plain.extend_from_slice(checksum.as_bytes());
        }
        Ok(plain)
    }

    /// Opens what [`seal_object`](Self::seal_object) sealed; `None` when anything differs.
    pub(crate) fn open_object(
        &self,
        salt: &Salt,
        binding: &[u8],
        sealed: &[u8],
    ) -> Option<Vec<u8>> {
        if let Some(secrets) = self.secrets() {
            let key = derived_key(CONTEXT_OBJECT_KEY, &secrets.object, salt);
            let mut plain = Vec::new();
            open_gather(&key, nonce(0), &self.object_binding(binding), sealed, &mut plain)?;
            return Some(plain);
        }
        let (plain, checksum) = sealed.split_last_chunk::<CHECKSUM_BYTES>()?;
        // Comparing with `blake3::Hash` takes constant time.
        (self.checksum(salt, binding, plain) == *checksum).then(|| plain.to_vec())
    }

    /// How many bytes sealing adds to an object.
    pub(crate) fn object_overhead_bytes(&self) -> usize {
        if self.is_encrypted() { TAG_BYTES } else { CHECKSUM_BYTES }
    }

    fn object_binding(&self, binding: &[u8]) -> Vec<u8> {
        [self.repository().as_bytes(), binding].concat()
    }

    fn checksum(&self, salt: &Salt, binding: &[u8], plain: &[u8]) -> blake3::Hash {
        let binding = self.object_binding(binding);
        blake3::Hasher::new_derive_key(CONTEXT_CHECKSUM)
            .update(salt)
            .update(&(binding.len() as u64).to_le_bytes())
            .update(&binding)
            .update(plain)
            .finalize()
    }
}

pub(super) fn derived_key(context: &str, secret: &[u8; 32], salt: &Salt) -> LessSafeKey {
    let mut material = Zeroizing::new([0; 48]);
    material[..32].copy_from_slice(secret);
    material[32..].copy_from_slice(salt);
    let key = Zeroizing::new(blake3::derive_key(context, &*material));
    aead_key(&key)
}

/// An AES-256-GCM key.
pub(crate) fn aead_key(key: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes every 32-byte key");
    LessSafeKey::new(key)
}

/// A 96-bit nonce: the counter, little-endian, then four zero bytes.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Decrypts ciphertext and tag into `plain`, without touching the input.
pub(super) fn open_gather(
    key: &LessSafeKey,
    nonce: Nonce,
    aad: &[u8],
    sealed: &[u8],
    plain: &mut Vec<u8>,
) -> Option<()> {
    let (ciphertext, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
    plain.resize(ciphertext.len(), 0);
    key.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, plain).ok()
}

fn damaged_blob(id: &ChunkId, problem: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read chunk {id}"))
        .with("problem", problem)
        .why("the stored bytes are not the ones that were written")
}
