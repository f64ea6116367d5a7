//! Making a repository. A crash on the way leaves a place where `init` can be repeated.

use std::sync::Arc;

use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor, Encryption, REPOSITORY_FORMAT, Writers},
    entry::{Action, hash_of},
    handle::{Repository, check_signing_key, read_slots, unlock},
    keys::{KeySlot, PassphraseCost, Secret},
    log::Appended,
    names,
    packer::persist,
    store::{Key, Put, Store},
};
use crate::{
    pipeline::{
        id::{ChunkSize, RepositoryId},
        keys::{Domain, RepositoryKey},
    },
    world::World,
};

/// How a new repository is made.
#[derive(Debug)]
pub struct InitOptions {
    /// The first key and its label; `None` for no encryption at all.
    pub secret: Option<(Secret, String)>,
    /// What a guess at a passphrase costs.
    pub cost: PassphraseCost,
    /// Length of chunks.
    pub chunk_size: ChunkSize,
    /// What the probe of the store found.
    pub writers: Writers,
}

/// A repository that lacks nothing but its log.
struct Unborn {
    repository: Repository,
    descriptor: Bytes,
    slots: Vec<(KeySlot, Bytes)>,
}

impl Repository {
    /// Makes a new repository, or goes on where an earlier attempt with the same secret stopped.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when anything else is there already.
    pub async fn init(world: World, store: Arc<dyn Store>, options: InitOptions) -> Result<Self> {
        refuse_occupied(&*store).await?;
        let Unborn { repository, descriptor, slots } =
            match store.read(&names::descriptor(), DESCRIPTOR_BYTES_MAX).await? {
                None => begin(world, store, options).await?,
                Some(descriptor) => resume(world, store, options, descriptor).await?,
            };
        let init = Action::Init { descriptor: hash_of(&descriptor) };
        if repository.try_append(init).await? == Appended::Lost {
            return Err(occupied(&*repository.store, &[names::log_entry(1)]));
        }
        for (slot, bytes) in slots {
            repository.log_slot(&slot, &bytes).await?;
        }
        Ok(repository)
    }
}

async fn begin(world: World, store: Arc<dyn Store>, options: InitOptions) -> Result<Unborn> {
    let mut id = [0; 16];
    world.entropy.fill(&mut id);
    let id = RepositoryId::new(id);
    let master = options.secret.is_some().then(|| RepositoryKey::generate(&*world.entropy));
    let domain = match &master {
        Some(master) => Domain::encrypted(id, Domain::EPOCH_FIRST, master),
        None => Domain::plain(id),
    };
    let descriptor = Descriptor {
        format: REPOSITORY_FORMAT,
        repository: id.to_string(),
        created_at: world.clock.now(),
        program: concat!("stillpoint ", env!("CARGO_PKG_VERSION")).to_owned(),
        encryption: if master.is_some() { Encryption::Aes256Gcm } else { Encryption::None },
        chunk_bytes: options.chunk_size.into(),
        signing_key: domain.signer().map(|signer| signer.public_key().to_string()),
        writers: options.writers,
        replica: None,
    };
    let bytes = descriptor.encode()?;
    let repository = Repository::assemble(world, store, descriptor, Some(domain), master)?;
    // The key slot first: a repository that nobody can open must never look finished.
    let mut slots = Vec::new();
    if let Some((secret, label)) = &options.secret {
        slots.push(repository.put_slot(secret, label, options.cost).await?);
    }
    let key = names::descriptor();
    let put = persist(&*repository.store, &*repository.world.clock, &key, bytes.clone()).await?;
    match put {
        Put::Created => Ok(Unborn { repository, descriptor: bytes, slots }),
        Put::Existed => Err(occupied(&*repository.store, &[key])),
    }
}

/// A descriptor without a log is what a crash left: nobody has ever opened that repository.
async fn resume(
    world: World,
    store: Arc<dyn Store>,
    options: InitOptions,
    bytes: Bytes,
) -> Result<Unborn> {
    let descriptor = Descriptor::decode(&bytes)?;
    if options.secret.is_none() && descriptor.encryption != Encryption::None {
        return Err(occupied(&*store, &[names::descriptor()]));
    }
    let secret = options.secret.map(|(secret, _)| secret);
    let (domain, master) = unlock(&world, &*store, &descriptor, secret).await?;
    check_signing_key(&descriptor, domain.as_ref())?;
    let slots = read_slots(&*store, RepositoryId::new(descriptor.id()?)).await?;
    let repository = Repository::assemble(world, store, descriptor, domain, master)?;
    Ok(Unborn { repository, descriptor: bytes, slots })
}

/// Refuses a place where anything is that is not ours to use. Writes nothing.
pub async fn refuse_occupied(store: &dyn Store) -> Result<()> {
    if let Some(name) = store.top().await?.iter().find(|name| names::is_foreign(name)) {
        return Err(inhabited(store, name));
    }
    let there: Vec<Key> = store.list("").await?.into_iter().map(|object| object.key).collect();
    // A crashed attempt leaves a key slot, which opens nothing else, and perhaps the descriptor.
    let is_usable = |key: &Key| {
        let key = key.as_str();
        key == names::DESCRIPTOR
            || key.starts_with(names::KEYS)
            || key.starts_with("tmp/")
            || key.starts_with('.')
    };
    if there.iter().all(is_usable) { Ok(()) } else { Err(occupied(store, &there)) }
}

fn inhabited(store: &dyn Store, name: &str) -> Error {
    Error::new(ErrorKind::Refused, code::REPOSITORY_EXISTS, "create a repository")
        .with("place", store.location())
        .with("found", name)
        .why("something else is there, and a repository needs a place of its own")
        .next("choose an empty directory or prefix")
}

fn occupied(store: &dyn Store, there: &[Key]) -> Error {
    let has = |name: &str| there.iter().any(|key| key.as_str().starts_with(name));
    if !has(names::DESCRIPTOR) && !has(names::LOG) {
        return inhabited(store, there.first().map_or("", Key::as_str));
    }
    Error::new(ErrorKind::Refused, code::REPOSITORY_EXISTS, "create a repository")
        .with("place", store.location())
        .with("found", there.iter().take(3).map(Key::as_str).collect::<Vec<_>>().join(", "))
        .why("there is a repository already")
        .next("use it, or choose another place")
}
