//! The keys of encrypted files: one small object each, beside the manifests, and the only thing
//! that is ever destroyed to make rows unreadable.
//!
//! A key is durable, and was read back, before its file is written. Nothing of it is in the file
//! or in a manifest, so that neither has to be deleted, where that is not possible.

use std::{fmt, sync::Arc};

use stillpoint_contract::{Entropy, Error, ErrorKind, Result, code};

use super::{
    document::{File, FileEncryption},
    encryption::{KEY_OBJECT_BYTES, Seal, unwrap, wrap},
    place::Place,
};
use crate::{
    pipeline::{
        file_key::{FileKey, FileKeyId},
        id::RepositoryId,
        keys::Domain,
    },
    repository::store::{Deleted, Key, Put},
};

/// The folder in which they are.
pub(super) const KEYS: &str = "keys";

/// What wraps and unwraps the keys of files: the secret of the repository in which they are kept.
#[derive(Clone)]
pub struct Keyring {
    domain: Domain,
    entropy: Arc<dyn Entropy>,
    encrypts: bool,
}

impl Keyring {
    /// Of an encrypted repository; with `encrypts`, files that are written are encrypted.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when it is not encrypted.
    pub fn new(domain: Domain, entropy: Arc<dyn Entropy>, encrypts: bool) -> Result<Self> {
        if domain.is_encrypted() {
            return Ok(Self { domain, entropy, encrypts });
        }
        Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, "encrypt files of archived rows")
            .why("the repository is not encrypted, and has no secret to wrap their keys with"))
    }

    /// The repository whose secret it is.
    pub(super) fn repository(&self) -> RepositoryId {
        self.domain.repository()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Keyring");
        shown.field("domain", &self.domain).field("encrypts", &self.encrypts);
        shown.finish_non_exhaustive()
    }
}

/// Whose key it is, as the name of its object says: of a file that was written as part of one
/// writing of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyOf {
    pub(super) run: String,
    pub(super) batch: u32,
    pub(super) generation: u32,
    pub(super) id: FileKeyId,
}

impl KeyOf {
    fn name(&self) -> String {
        let Self { run, batch, generation, id } = self;
        format!("{run}-{batch:06}-{generation:04}-{id}.key")
    }

    fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".key")?.rsplitn(4, '-');
        let id = parts.next()?.parse().ok()?;
        let generation = parts.next()?.parse().ok()?;
        let batch = parts.next()?.parse().ok()?;
        Some(Self { run: parts.next()?.to_owned(), batch, generation, id })
    }

    /// Whether a file has the name that the file of this key has.
    pub(super) fn is_of(&self, file: &Key) -> bool {
        let id = self.id.to_string();
        let Self { run, batch, generation, .. } = self;
        let stem = format!("{run}-{batch:06}-{generation:04}-{}.", &id[..8]);
        file.as_str().rsplit('/').next().is_some_and(|name| name.starts_with(&stem))
    }
}

impl Place {
    /// The secret with which files are encrypted that are written; none where they are not.
    pub(super) fn encrypts(&self) -> Option<&Keyring> {
        self.keyring.as_ref().filter(|keyring| keyring.encrypts)
    }

    fn key_folder(&self) -> String {
        format!("{}_{KEYS}/", self.documents())
    }

    /// The keys of all files, whether documents name them or not.
    pub(super) async fn keys(&self) -> Result<Vec<(Key, KeyOf)>> {
        let folder = self.key_folder();
        let listed = self.store.list(&folder).await?;
        let key = |name: Key| {
            let of = KeyOf::of_name(name.as_str().strip_prefix(&folder)?)?;
            Some((name, of))
        };
        Ok(listed.into_iter().filter_map(|listed| key(listed.key)).collect())
    }

    /// Makes an id for a key of its own; the name of its file, which has the id in it, comes next.
    pub(super) fn new_key_id(keyring: &Keyring) -> FileKeyId {
        FileKeyId::generate(&*keyring.entropy)
    }

    /// Makes the key of a file, durable and read back, before there is anything that it encrypts.
    pub(super) async fn make_key(
        &self,
        keyring: &Keyring,
        of: &KeyOf,
        file: &Key,
    ) -> Result<(Key, FileKey)> {
        let object = Key::new(format!("{}{}", self.key_folder(), of.name()))?;
        let key = FileKey::generate(&*keyring.entropy);
        self.keep_key(&object, Seal { key: &key, id: of.id, name: file.as_str() }).await?;
        Ok((object, key))
    }

    /// Keeps a key, durable and read back.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) where there is no secret that could wrap it.
    pub(super) async fn keep_key(&self, object: &Key, seal: Seal<'_>) -> Result<()> {
        let Some(Keyring { domain, entropy, .. }) = &self.keyring else {
            let step = format!("keep the key of {}", seal.name);
            return Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, step)
                .with("place", self.location())
                .why("the repository there is not encrypted, and has no secret to wrap keys with")
                .next("name a repository that is encrypted, or say: encryption = \"none\""));
        };
        let mut salt = [0; 16];
        entropy.fill(&mut salt);
        let wrapped = wrap(domain, &seal, salt)?;
        // Wrapped twice, a key has two forms: what is there may be from somebody who was killed.
        let _: Put = self.store.create(object, wrapped).await?;
        if self.read_key(object, seal.id, seal.name).await? == *seal.key {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, format!("keep {object}"))
            .why("another key has that name; nothing is ever overwritten"))
    }

    /// The key of a file.
    ///
    /// # Errors
    ///
    /// [`Denied`](ErrorKind::Denied) without the repository's secret;
    /// [`Corrupt`](ErrorKind::Corrupt) when it is gone, or is not the key of that file.
    pub(super) async fn file_key(
        &self,
        file: &File,
        encryption: &FileEncryption,
    ) -> Result<FileKey> {
        self.read_key(&Key::new(&*encryption.key)?, encryption.id, &file.key).await
    }

    async fn read_key(&self, object: &Key, id: FileKeyId, file: &str) -> Result<FileKey> {
        let step = || format!("read the key of {file}");
        let Some(keyring) = &self.keyring else {
            return Err(Error::new(ErrorKind::Denied, code::NO_KEY, step())
                .with("place", self.location())
                .why("the file is encrypted, and the repository's key is not at hand"));
        };
        match self.store.read(object, KEY_OBJECT_BYTES as u64).await? {
            Some(bytes) => unwrap(&keyring.domain, id, file, &bytes)
                .map_err(|error| error.with("place", self.location()).with("key", object)),
            None => Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_KEY, step())
                .with("place", self.location())
                .with("key", object)
                .why("the key is gone: the file is there, and nobody can read it")
                .next("put the key back from a second copy of the set, or a copy of the place")),
        }
    }

    /// Destroys a key, and makes sure that it is gone.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when the store keeps it.
    pub(super) async fn destroy_key(&self, object: &Key) -> Result<()> {
        let outcome = self.store.delete(object).await?;
        // A listing may be behind; a read never is.
        let is_there = self.store.read_range(object, 0..1).await?.is_some();
        if outcome == Deleted::Gone && !is_there {
            return Ok(());
        }
        let step = "destroy the key of a file of archived rows";
        Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, step)
            .with("key", object)
            .with("place", self.location())
            .why("the store keeps it, and what it encrypts can still be read")
            .next("exempt archive/SET/_stillpoint/_keys/ from object lock and versioning"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keys_say_whose_they_are() {
        let of = KeyOf {
            run: "01KB3Q".to_owned(),
            batch: 7,
            generation: 12,
            id: FileKeyId::new([0xab; 16]),
        };
        assert_eq!(of.name(), format!("01KB3Q-000007-0012-{}.key", "ab".repeat(16)));
        assert_eq!(KeyOf::of_name(&of.name()), Some(of.clone()));
        for wrong in ["", ".key", "a-1-2-3.key", "01KB3Q-000007-0012.key"] {
            assert_eq!(KeyOf::of_name(wrong), None, "{wrong}");
        }
        let file = |name: &str| Key::new(format!("archive/o/t/expire=open/{name}")).unwrap();
        assert!(of.is_of(&file("01KB3Q-000007-0012-abababab.parquet")));
        assert!(!of.is_of(&file("01KB3Q-000008-0012-abababab.parquet")));
        assert!(!of.is_of(&file("01KB3Q-000007-0011-abababab.parquet")));
        assert!(!of.is_of(&file("01KB3Q-000007-0012-abababac.parquet")));
    }
}
