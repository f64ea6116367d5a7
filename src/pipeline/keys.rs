//! Everything secret that a repository is made of, derived from one master secret.

use std::{fmt, sync::Arc};

use stillpoint_contract::Entropy;
use zeroize::Zeroizing;

use super::{
    id::{ChunkId, RepositoryId, hex_name, is_all_zero},
    sign::Signer,
};

// The contexts separate the uses of the master secret; changing one orphans every repository.
const CONTEXT_ID: &str = "stillpoint 2026-11 v1 chunk id";
const CONTEXT_BLOB: &str = "stillpoint 2026-11 v1 blob encryption";
const CONTEXT_OBJECT: &str = "stillpoint 2026-11 v1 object encryption";
const CONTEXT_FILE: &str = "stillpoint 2026-11 v1 archived file key wrapping";
const CONTEXT_SIGN: &str = "stillpoint 2026-11 v1 log signature seed";
const CONTEXT_FINGERPRINT: &str = "stillpoint 2026-11 v1 master fingerprint";

/// The master secret of a repository. Wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct RepositoryKey(Zeroizing<[u8; 32]>);

impl RepositoryKey {
    /// Makes a new secret.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(&mut *secret);
        Self(secret)
    }

    /// Takes a secret that was kept elsewhere.
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    /// The secret itself, to be wrapped for a key slot.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A public name of this secret: tells whether two key slots wrap the same one, and whether
    /// an unwrapped one is the right one, without revealing anything about it.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = self.derive(CONTEXT_FINGERPRINT);
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Fingerprint(short)
    }

    fn derive(&self, context: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, &*self.0))
    }
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepositoryKey(***)")
    }
}

/// The public name of a master secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

hex_name!(Fingerprint, 16, "key fingerprint");

/// What names, seals and signs the content of one repository.
///
/// Chunks are shared within a domain and never across domains. Cloning is cheap and shares the
/// secrets, which are wiped when the last clone is dropped.
#[derive(Clone)]
pub struct Domain {
    repository: RepositoryId,
    epoch: u32,
    secrets: Option<Arc<Secrets>>,
}

pub(super) struct Secrets {
    id: Zeroizing<[u8; 32]>,
    pub(super) blob: Zeroizing<[u8; 32]>,
    pub(super) object: Zeroizing<[u8; 32]>,
    pub(super) file: Zeroizing<[u8; 32]>,
    sign: Zeroizing<[u8; 32]>,
}

impl Domain {
    /// The key epoch of a new encrypted repository.
    pub const EPOCH_FIRST: u32 = 1;
    /// The key epoch of an unencrypted repository.
    pub const EPOCH_PLAIN: u32 = 0;

    /// The domain of an encrypted repository.
    pub fn encrypted(repository: RepositoryId, epoch: u32, key: &RepositoryKey) -> Self {
        let secrets = Secrets {
            id: key.derive(CONTEXT_ID),
            blob: key.derive(CONTEXT_BLOB),
            object: key.derive(CONTEXT_OBJECT),
            file: key.derive(CONTEXT_FILE),
            sign: key.derive(CONTEXT_SIGN),
        };
        Self { repository, epoch, secrets: Some(Arc::new(secrets)) }
    }

    /// The domain of an unencrypted repository: ids are plain BLAKE3 hashes, nothing is secret,
    /// damage is still found.
    pub fn plain(repository: RepositoryId) -> Self {
        Self { repository, epoch: Self::EPOCH_PLAIN, secrets: None }
    }

    /// The repository that this domain belongs to.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The key epoch, as packs and sealed objects name it.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether content is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.secrets.is_some()
    }

    /// Names a chunk. Every chunk of zeros, of any length, is [`ChunkId::ZERO`].
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        if is_all_zero(plain) {
            return ChunkId::ZERO;
        }
        let digest = match &self.secrets {
            Some(secrets) => blake3::keyed_hash(&secrets.id, plain),
            None => blake3::hash(plain),
        };
        ChunkId::new(*digest.as_bytes())
    }

    /// What signs log entries, or `None` in an unencrypted repository, which has no secret.
    pub fn signer(&self) -> Option<Signer> {
        self.secrets.as_ref().map(|secrets| Signer::from_seed(&secrets.sign))
    }

    pub(super) fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_deref()
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("repository", &self.repository)
            .field("epoch", &self.epoch)
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> RepositoryKey {
        RepositoryKey::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn secrets_are_never_printed() {
        let domain = Domain::encrypted(RepositoryId::new([1; 16]), 1, &key(0xAB));
        let shown = format!("{:?} {domain:?} {:?}", key(0xAB), domain.signer());
        assert!(!shown.to_lowercase().contains("abab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn ids_depend_on_the_key_and_on_nothing_else_of_the_repository() {
        let of = |repository, byte| {
            Domain::encrypted(RepositoryId::new([repository; 16]), 1, &key(byte)).chunk_id(b"page")
        };
        assert_eq!(of(1, 1), of(2, 1));
        assert_ne!(of(1, 1), of(1, 2));
        let plain = Domain::plain(RepositoryId::new([1; 16])).chunk_id(b"page");
        assert_eq!(plain.as_bytes(), blake3::hash(b"page").as_bytes());
        assert_ne!(plain, of(1, 1));
    }

    #[test]
    fn zeros_have_one_id_in_every_domain() {
        for domain in [
            Domain::plain(RepositoryId::new([1; 16])),
            Domain::encrypted(RepositoryId::new([1; 16]), 1, &key(1)),
        ] {
            assert_eq!(domain.chunk_id(&[]), ChunkId::ZERO);
            assert_eq!(domain.chunk_id(&[0; 5000]), ChunkId::ZERO);
            assert_ne!(domain.chunk_id(&[1]), ChunkId::ZERO);
        }
    }
}
