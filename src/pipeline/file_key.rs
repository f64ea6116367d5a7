//! Keys of single files: what each one seals, and how it is wrapped by a repository's secret.
//!
//! A file whose key is destroyed cannot be read any more, wherever copies of it are.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey};
use stillpoint_contract::{Entropy, Error, Result};
use zeroize::Zeroizing;

use super::{
    id::hex_name,
    keys::Domain,
    seal::{Salt, TAG_BYTES, aead_key, derived_key, nonce, open_gather},
};

const CONTEXT_WRAPPING_KEY: &str = "stillpoint 2026-11 v1 wrapping key of one salt";
const CONTEXT_BOUNDS_KEY: &str = "stillpoint 2026-11 v1 bounds of slices";

/// Length of a wrapped key, in bytes.
pub const WRAPPED_BYTES: usize = 32 + TAG_BYTES;

/// The name of a key: random, and never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKeyId([u8; 16]);

hex_name!(FileKeyId, 16, "file key id");

impl FileKeyId {
    /// Makes a new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        Self(bytes)
    }
}

/// The key of one file. Wiped from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct FileKey(Zeroizing<[u8; 32]>);

impl FileKey {
    /// Makes a new one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(&mut *secret);
        Self(secret)
    }

    /// What seals and opens the pages of its file.
    pub fn cipher(&self) -> FileCipher {
        FileCipher(aead_key(&self.0))
    }

    /// What seals and opens, in the manifest of its file, between which keys slices are; the number
    /// of a slice is its nonce.
    pub fn bounds_cipher(&self) -> FileCipher {
        let key = Zeroizing::new(blake3::derive_key(CONTEXT_BOUNDS_KEY, &*self.0));
        FileCipher(aead_key(&key))
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey(***)")
    }
}

/// Seals and opens pages of one file; the number of a page is its nonce.
pub struct FileCipher(LessSafeKey);

impl FileCipher {
    /// Seals a page behind what is in `out`. No number may be used twice.
    ///
    /// # Errors
    ///
    /// [`Bug`](stillpoint_contract::ErrorKind::Bug) when the page is longer than AES-GCM allows.
    pub fn seal(&self, page: u64, binding: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let begin = out.len();
        out.extend_from_slice(plain);
        let aad = Aad::from(binding);
        let sealed = self.0.seal_in_place_separate_tag(nonce(page), aad, &mut out[begin..]);
        let tag = sealed.map_err(|_| Error::bug("encrypt a page of a file"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a page; `None` when anything differs from what was sealed.
    pub fn open(&self, page: u64, binding: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        open_gather(&self.0, nonce(page), binding, sealed, &mut plain)?;
        Some(plain)
    }
}

impl fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileCipher(***)")
    }
}

impl Domain {
    /// Wraps the key of a file; opening it must know the same `binding`.
    ///
    /// `salt` must be random and never be used twice.
    ///
    /// # Errors
    ///
    /// [`Bug`](stillpoint_contract::ErrorKind::Bug) in an unencrypted repository.
    pub fn wrap_file_key(
        &self,
        key: &FileKey,
        salt: &Salt,
        binding: &[u8],
    ) -> Result<[u8; WRAPPED_BYTES]> {
        let secrets = self.secrets().ok_or_else(|| Error::bug("wrap a key without a secret"))?;
        let wrapping = FileCipher(derived_key(CONTEXT_WRAPPING_KEY, &secrets.file, salt));
        let mut wrapped = Vec::with_capacity(WRAPPED_BYTES);
        wrapping.seal(0, binding, &*key.0, &mut wrapped)?;
        wrapped.try_into().map_err(|_| Error::bug("wrap a key"))
    }

    /// Unwraps the key of a file; `None` when anything differs from what was wrapped.
    pub fn unwrap_file_key(
        &self,
        salt: &Salt,
        binding: &[u8],
        wrapped: &[u8; WRAPPED_BYTES],
    ) -> Option<FileKey> {
        let secrets = self.secrets()?;
        let wrapping = FileCipher(derived_key(CONTEXT_WRAPPING_KEY, &secrets.file, salt));
        let plain = Zeroizing::new(wrapping.open(0, binding, wrapped)?);
        Some(FileKey(Zeroizing::new(plain.as_slice().try_into().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{id::RepositoryId, keys::RepositoryKey, testing::Seeded};

    fn domain(byte: u8) -> Domain {
        let master = RepositoryKey::new(Zeroizing::new([byte; 32]));
        Domain::encrypted(RepositoryId::new([1; 16]), 1, &master)
    }

    #[test]
    fn a_key_is_unwrapped_only_by_its_repository_and_as_itself() {
        let key = FileKey::generate(&Seeded::new(1));
        let wrapped = domain(7).wrap_file_key(&key, &[2; 16], b"one").unwrap();
        assert_eq!(domain(7).unwrap_file_key(&[2; 16], b"one", &wrapped), Some(key));
        assert_eq!(domain(8).unwrap_file_key(&[2; 16], b"one", &wrapped), None);
        assert_eq!(domain(7).unwrap_file_key(&[3; 16], b"one", &wrapped), None);
        assert_eq!(domain(7).unwrap_file_key(&[2; 16], b"two", &wrapped), None);
        let plain = Domain::plain(RepositoryId::new([1; 16]));
        assert_eq!(plain.unwrap_file_key(&[2; 16], b"one", &wrapped), None);
        for place in 0..wrapped.len() * 8 {
            let mut changed = wrapped;
            changed[place / 8] ^= 1 << (place % 8);
            assert_eq!(domain(7).unwrap_file_key(&[2; 16], b"one", &changed), None);
        }
        // Archived files are read for ever: what was wrapped once stays what it is.
        assert_eq!(blake3::hash(&wrapped).to_hex()[..16], *"b6c9e86c074c1379");
    }

    #[test]
    fn keys_are_never_printed() {
        let key = FileKey::generate(&Seeded::new(1));
        assert_eq!(format!("{key:?} {:?}", key.cipher()), "FileKey(***) FileCipher(***)");
    }
}
