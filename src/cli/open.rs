//! From `--repo` to an open repository.

use std::{ops::Deref, path::Path, sync::Arc};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{memory::Memory, secret, session::Session};
use crate::repository::{
    Repository,
    descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor, Encryption, Writers},
    keys::Secret,
    names,
    store::{self, Store, StoreOptions},
};

/// What a command wants to do with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Look at names only. A key that is given is used; none is asked for.
    Names,
    /// Read or write what is encrypted.
    Content,
}

/// An open repository, and what is remembered of it.
#[derive(Debug)]
pub(crate) struct Opened {
    repository: Repository,
    memory: Memory,
}

impl Deref for Opened {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repository
    }
}

impl Opened {
    /// Without its memory, for whoever keeps it open.
    pub(crate) fn into_repository(self) -> Repository {
        self.repository
    }

    /// Remembers the newest entry of its log, after a command that added one.
    pub(crate) async fn remember(&self) -> Result<()> {
        self.memory.remember(self.repository.history().await?.head());
        Ok(())
    }
}

/// Reaches the store at a place.
pub(crate) async fn store(
    session: &Session,
    place: &str,
    writers: Writers,
) -> Result<Arc<dyn Store>> {
    let writers = match writers {
        Writers::Many => store::Writers::Several,
        Writers::Single => store::Writers::Single,
    };
    let options = StoreOptions {
        values: session.environment.cloud(),
        writers,
        requests: Some(Arc::clone(&session.requests)),
    };
    let world = &session.world;
    store::open(place, &options, &*world.clock, Arc::clone(&world.entropy)).await
}

/// Opens the repository, with the key that was given or, where one is needed, typed.
pub(crate) async fn repository(session: &Session, need: Need) -> Result<Opened> {
    open(session, session.place()?, given(session)?, need).await
}

/// Opens the repository at a place, with this key or with none: nobody is asked.
pub(crate) async fn at(session: &Session, place: &str, key: Option<Secret>) -> Result<Opened> {
    open(session, place, key, Need::Names).await
}

async fn open(
    session: &Session,
    place: &str,
    mut key: Option<Secret>,
    need: Need,
) -> Result<Opened> {
    let mut store = store(session, place, Writers::Many).await?;
    let mut memory = None;
    // Without a descriptor there is no repository; `Repository::open` knows what to say then.
    if let Some(bytes) = store.read(&names::descriptor(), DESCRIPTOR_BYTES_MAX).await? {
        let descriptor = Descriptor::decode(&bytes)?;
        if descriptor.writers == Writers::Single {
            store = self::store(session, place, Writers::Single).await?;
        }
        if key.is_none() && need == Need::Content && descriptor.encryption != Encryption::None {
            key = Some(asked().await?);
        }
        memory = Some(Memory::of(&session.environment, &descriptor.repository, &store.location()));
    }
    let witness = memory.as_ref().map(Memory::recall).transpose()?.flatten();
    let opened = Repository::open(session.world.clone(), store, key, witness.as_ref()).await;
    match (opened, memory) {
        (Ok(repository), Some(memory)) => {
            let opened = Opened { repository, memory };
            opened.remember().await?;
            Ok(opened)
        }
        (Ok(_), None) => Err(Error::bug("open a repository without a descriptor")),
        (Err(error), Some(memory)) => Err(memory.explain(error)),
        (Err(error), None) => Err(error),
    }
}

/// The secret that the command line or the environment names, if any.
pub(crate) fn given(session: &Session) -> Result<Option<Secret>> {
    let (global, environment) = (&session.global, &session.environment);
    let named = |name| environment.get(name).map(Path::new);
    if let Some(path) = &global.passphrase_file {
        return secret::passphrase_of_file(path).map(Some);
    }
    if let Some(path) = &global.key_file {
        return secret::key_of_file(path).map(Some);
    }
    if let Some(path) = &global.recovery_key_file {
        return secret::recovery_of_file(path).map(Some);
    }
    match (named("STILLPOINT_PASSPHRASE_FILE"), named("STILLPOINT_KEY_FILE")) {
        (Some(path), _) => secret::passphrase_of_file(path).map(Some),
        (None, Some(path)) => secret::key_of_file(path).map(Some),
        (None, None) => Ok(None),
    }
}

async fn asked() -> Result<Secret> {
    if secret::can_ask() {
        return secret::ask("Passphrase: ").await;
    }
    Err(Error::new(ErrorKind::Denied, code::NO_KEY, "open the repository without its key")
        .why("it is encrypted, and there is no terminal to ask on")
        .next("give --passphrase-file FILE, or set STILLPOINT_PASSPHRASE_FILE")
        .next("or give --key-file FILE, or set STILLPOINT_KEY_FILE"))
}
