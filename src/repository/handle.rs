//! Creating and opening a repository, and what everything else needs of it.

use std::sync::{Arc, atomic::AtomicU64};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::Mutex;

use super::{
    blobs::Blobs,
    descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor, Encryption, REPOSITORY_FORMAT, Writers},
    entry::{Action, hash_of},
    envelope::{self, ObjectKind},
    history::{Committed, Head, History, PackList},
    index_run::RunName,
    index_set::IndexSet,
    keys::{KeySlot, NewSlot, PassphraseCost, Secret, unwrap},
    log::{Appended, Log},
    manifest::{MANIFEST_BYTES_MAX, Manifest, PACK_LIST_BYTES_MAX, decode_pack_list},
    names,
    notary::KeyNotary,
    pack::PackName,
    packer::persist,
    reader::BackupReader,
    store::{Key, Put, Store},
};
use crate::{
    pipeline::{
        id::{ChunkSize, RepositoryId},
        keys::{Domain, RepositoryKey},
        sign::PublicKey,
    },
    world::World,
};

/// The longest index run, in bytes.
pub(super) const INDEX_RUN_BYTES_MAX: u64 = 64 << 20;

/// The longest key slot, in bytes.
pub(super) const KEY_SLOT_BYTES_MAX: u64 = 64 << 10;

/// Index runs that are read at once.
const INDEX_READS_MAX: usize = 4;

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

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    pub(super) store: Arc<dyn Store>,
    pub(super) world: World,
    pub(super) log: Log,
    descriptor: Descriptor,
    domain: Option<Arc<Domain>>,
    master: Option<RepositoryKey>,
    history: Mutex<History>,
}

impl Repository {
    /// Makes a new repository.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when anything is there already.
    pub async fn init(world: World, store: Arc<dyn Store>, options: InitOptions) -> Result<Self> {
        refuse_occupied(&*store).await?;
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
        };
        let bytes = descriptor.encode()?;
        let repository = Self::assemble(world, store, descriptor, Some(domain), master)?;
        // The key slot first: a repository that nobody can open must never look finished.
        let slot = match &options.secret {
            Some((secret, label)) => Some(repository.put_slot(secret, label, options.cost).await?),
            None => None,
        };
        let key = names::descriptor();
        match persist(&*repository.store, &*repository.world.clock, &key, bytes.clone()).await? {
            Put::Created => {}
            Put::Existed => return Err(occupied(&*repository.store, &[key])),
        }
        let init = Action::Init { descriptor: hash_of(&bytes) };
        let mut history = repository.history.lock().await;
        match repository.log.try_append(&mut history, init).await? {
            Appended::Won => {}
            Appended::Lost => return Err(occupied(&*repository.store, &[names::log_entry(1)])),
        }
        drop(history);
        if let Some((slot, bytes)) = slot {
            repository.log_slot(&slot, &bytes).await?;
        }
        Ok(repository)
    }

    /// Opens a repository. Without a secret an encrypted one can be listed and checked by names,
    /// but neither read nor written.
    ///
    /// # Errors
    ///
    /// Says whether there is no repository, a foreign or incomplete or newer one, or the wrong
    /// key; with `witness`, also whether the log was rolled back since it was seen.
    pub async fn open(
        world: World,
        store: Arc<dyn Store>,
        secret: Option<Secret>,
        witness: Option<&Head>,
    ) -> Result<Self> {
        let Some(bytes) = store.read(&names::descriptor(), DESCRIPTOR_BYTES_MAX).await? else {
            return Err(no_repository(&*store).await?);
        };
        let descriptor = Descriptor::decode(&bytes)?;
        let id = RepositoryId::new(descriptor.id()?);
        let (domain, master) = match (descriptor.encryption, secret) {
            (Encryption::None, _) => (Some(Domain::plain(id)), None),
            (Encryption::Aes256Gcm, None) => (None, None),
            (Encryption::Aes256Gcm, Some(secret)) => {
                let slots = read_slots(&*store).await?;
                if slots.is_empty() {
                    return Err(incomplete(&*store, "it has no key slots (keys/)"));
                }
                let job = move |_: &mut _| {
                    let (master, own) = unwrap(&slots, id, &secret)?;
                    // Only the slot that the secret opens is known to say the truth.
                    let slot = slots.iter().find(|slot| slot.id() == own);
                    let epoch = slot.map_or(Domain::EPOCH_FIRST, KeySlot::epoch);
                    Ok::<_, Error>((master, epoch))
                };
                let (master, epoch) = world.cpu.run(job).await??;
                (Some(Domain::encrypted(id, epoch, &master)), Some(master))
            }
        };
        check_signing_key(&descriptor, domain.as_ref())?;
        let repository = Self::assemble(world, store, descriptor, domain, master)?;
        repository.follow_all(&bytes, witness).await?;
        Ok(repository)
    }

    fn assemble(
        world: World,
        store: Arc<dyn Store>,
        descriptor: Descriptor,
        domain: Option<Domain>,
        master: Option<RepositoryKey>,
    ) -> Result<Self> {
        let public = descriptor.signing_key.as_deref().map(str::parse::<PublicKey>).transpose()?;
        let notary = KeyNotary::new(domain.as_ref().and_then(Domain::signer), public);
        let log = Log {
            store: Arc::clone(&store),
            notary: Arc::new(notary),
            repository: descriptor.repository.clone(),
            clock: Arc::clone(&world.clock),
            entropy: Arc::clone(&world.entropy),
        };
        let domain = domain.map(Arc::new);
        Ok(Self { store, world, log, descriptor, domain, master, history: Mutex::default() })
    }

    /// Reads the whole log, and makes sure that it has no hole and fits the descriptor.
    async fn follow_all(&self, descriptor: &Bytes, witness: Option<&Head>) -> Result<()> {
        let mut history = self.history.lock().await;
        self.log.follow(&mut history, witness).await?;
        let listed = self.store.list(names::LOG).await?;
        let newest = listed.iter().filter_map(|object| names::log_seq(&object.key)).max();
        if newest.is_some_and(|newest| newest > history.head().seq) {
            // Others may have appended between reading and listing; a hole stays one.
            self.log.follow(&mut history, witness).await?;
            if newest.is_some_and(|newest| newest > history.head().seq) {
                let missing = history.head().seq + 1;
                return Err(incomplete(&*self.store, "its log has a hole")
                    .with("missing", names::log_entry(missing)));
            }
        }
        match history.descriptor() {
            None => Err(incomplete(&*self.store, "it has no log (log/)")),
            Some(known) if known != hash_of(descriptor) => Err(Error::new(
                ErrorKind::Corrupt,
                code::CORRUPT_OBJECT,
                "compare the descriptor with the log",
            )
            .why("stillpoint-repo.json was replaced, or two repositories were mixed")),
            Some(_) => Ok(()),
        }
    }

    /// What the repository is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its id, 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.descriptor.repository
    }

    /// Where it is, without secrets.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// Whether its content can be read: it is not encrypted, or the key is at hand.
    pub fn is_unlocked(&self) -> bool {
        self.domain.is_some()
    }

    /// The log up to now.
    pub async fn history(&self) -> Result<History> {
        let mut history = self.history.lock().await;
        self.log.follow(&mut history, None).await?;
        Ok(history.clone())
    }

    /// Appends what `decide` says, as often as others get in between.
    pub(super) async fn append(
        &self,
        mut decide: impl AsyncFnMut(&History) -> Result<Option<Action>>,
    ) -> Result<History> {
        let mut history = self.history().await?;
        while let Some(action) = decide(&history).await? {
            if self.log.try_append(&mut history, action).await? == Appended::Won {
                *self.history.lock().await = history.clone();
                break;
            }
        }
        Ok(history)
    }

    pub(super) fn domain(&self) -> Result<Arc<Domain>> {
        self.domain.clone().ok_or_else(|| {
            Error::new(ErrorKind::Denied, code::NO_KEY, "read an encrypted repository")
                .with("repository", self.location())
                .next("give the passphrase: --passphrase-file FILE")
                .next("or a key file: --key-file FILE")
        })
    }

    pub(super) fn master(&self) -> Result<&RepositoryKey> {
        self.master.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, code::NO_KEY, "use the keys of the repository")
                .why("it is not encrypted, or it was opened without a key")
        })
    }

    /// Wraps the master secret once more and stores the slot.
    pub(super) async fn put_slot(
        &self,
        secret: &Secret,
        label: &str,
        cost: PassphraseCost,
    ) -> Result<(KeySlot, Bytes)> {
        let domain = self.domain()?;
        let (secret, label) = (secret.clone(), label.to_owned());
        let master = RepositoryKey::new(zeroize::Zeroizing::new(*self.master()?.expose()));
        let (entropy, created_at) = (Arc::clone(&self.world.entropy), self.world.clock.now());
        let wrap = self.world.cpu.run(move |_| {
            let (repository, epoch) = (domain.repository(), domain.epoch());
            let about = NewSlot { repository, epoch, label: &label, created_at, cost };
            KeySlot::wrap(&master, &secret, &about, &*entropy)
        });
        let slot = wrap.await??;
        let bytes = slot.encode()?;
        let key = slot.id().key();
        persist(&*self.store, &*self.world.clock, &key, bytes.clone()).await?;
        Ok((slot, bytes))
    }

    /// Everything that may be referred to now: packs that exist and are not doomed.
    pub(super) async fn usable_packs(&self, history: &History) -> Result<PackList> {
        let listed = self.store.list(names::PACKS).await?;
        Ok(listed
            .into_iter()
            .filter_map(|object| Some((PackName::from_key(&object.key)?, object.size_bytes)))
            .filter(|(pack, _)| !history.is_doomed_pack(pack))
            .collect())
    }

    /// Blobs in `usable` packs, by every index run that can be read.
    pub(super) async fn blobs(&self, history: &History, usable: PackList) -> Result<Blobs> {
        let domain = self.domain()?;
        let index = Arc::new(IndexSet::new(domain.repository(), usable));
        let listed = self.store.list(names::INDEX).await?;
        let runs = listed
            .into_iter()
            .filter_map(|object| RunName::from_key(&object.key))
            .filter(|run| !history.is_doomed_index(run));
        let mut reads = stream::iter(runs.collect::<Vec<_>>())
            .map(|run| async move { (run, self.store.read(&run.key(), INDEX_RUN_BYTES_MAX).await) })
            .buffered(INDEX_READS_MAX);
        while let Some((run, read)) = reads.next().await {
            let index = Arc::clone(&index);
            let added = match read {
                Ok(Some(bytes)) => {
                    let job = move |_: &mut _| {
                        if blake3::hash(&bytes).as_bytes() == run.as_bytes() {
                            index.add_run(bytes)
                        } else {
                            Err(unreadable(run))
                        }
                    };
                    self.world.cpu.run(job).await?
                }
                Ok(None) => Ok(()),
                Err(error) if error.kind() == ErrorKind::Corrupt => Err(error),
                Err(error) => return Err(error),
            };
            if let Err(error) = added {
                tracing::warn!(%run, "an index run is unreadable and is not used: {error}");
            }
        }
        let (store, cpu) = (Arc::clone(&self.store), self.world.cpu.clone());
        Ok(Blobs { store, domain, cpu, index, opened: Arc::new(AtomicU64::new(0)) })
    }

    /// Reads the manifest of a backup.
    pub async fn manifest(&self, committed: &Committed) -> Result<Manifest> {
        let domain = self.domain()?;
        let commit = &committed.commit;
        let bytes =
            self.hashed(&commit.manifest, &commit.manifest_hash, MANIFEST_BYTES_MAX).await?;
        let name = commit.manifest.clone();
        let open = self.world.cpu.run(move |scratch| {
            let limit = MANIFEST_BYTES_MAX as usize;
            envelope::open(&domain, ObjectKind::Manifest, &name, &bytes, limit, scratch)
        });
        let manifest = Manifest::decode(&open.await??)?;
        if manifest.backup == commit.backup && manifest.database == commit.database {
            Ok(manifest)
        } else {
            Err(damaged(&commit.manifest, "it is the manifest of another backup"))
        }
    }

    /// Reads the list of the packs that a backup needs, as it was written with the backup.
    pub(super) async fn pack_list(&self, committed: &Committed) -> Result<PackList> {
        let commit = &committed.commit;
        let bytes = self.hashed(&commit.packs, &commit.packs_hash, PACK_LIST_BYTES_MAX).await?;
        decode_pack_list(&bytes)
    }

    /// Opens a backup for reading. Looks at no other backup.
    pub async fn reader(&self, committed: &Committed) -> Result<BackupReader> {
        let history = self.history().await?;
        let manifest = self.manifest(committed).await?;
        let packs = history.resolve(self.pack_list(committed).await?);
        let blobs = self.blobs(&history, packs.clone()).await?;
        blobs.cover(&packs).await?;
        Ok(BackupReader::new(manifest, blobs))
    }

    pub(super) async fn hashed(&self, name: &str, hash: &str, limit_bytes: u64) -> Result<Bytes> {
        let bytes = self.store.read(&Key::new(name)?, limit_bytes).await?.ok_or_else(|| {
            Error::new(ErrorKind::Missing, code::MISSING_OBJECT, format!("read {name}"))
                .why("the log names it, so it was there")
                .next("restore the object from another copy of the repository")
        })?;
        if hash_of(&bytes) == hash { Ok(bytes) } else { Err(damaged(name, "its hash differs")) }
    }
}

/// Reads every key slot.
pub(super) async fn read_slots(store: &dyn Store) -> Result<Vec<KeySlot>> {
    let mut slots = Vec::new();
    for object in store.list(names::KEYS).await? {
        let Some(bytes) = store.read(&object.key, KEY_SLOT_BYTES_MAX).await? else { continue };
        match KeySlot::decode(&bytes) {
            Ok(slot) => slots.push(slot),
            // One damaged slot must not lock out the holders of the others.
            Err(error) => tracing::warn!(slot = %object.key, "unreadable key slot: {error}"),
        }
    }
    Ok(slots)
}

/// Makes sure that the log is checked against the repository's own key. Whoever can write to the
/// store could put a descriptor there that names another one, and a log that it signs.
fn check_signing_key(descriptor: &Descriptor, domain: Option<&Domain>) -> Result<()> {
    let named = descriptor.signing_key.as_deref();
    let own = domain.and_then(Domain::signer).map(|signer| signer.public_key().to_string());
    let is_own = match domain {
        Some(_) => named == own.as_deref(),
        None => named.is_some(),
    };
    if is_own {
        return Ok(());
    }
    let step = "compare the descriptor with the key";
    Err(Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, step)
        .why("stillpoint-repo.json names another signing key: it was replaced")
        .next("copy the object from another copy of the repository: it never changes"))
}

/// Refuses a place where anything is that is not ours to overwrite. Writes nothing.
pub async fn refuse_occupied(store: &dyn Store) -> Result<()> {
    let there: Vec<Key> = store.list("").await?.into_iter().map(|object| object.key).collect();
    let ours = |key: &&Key| !key.as_str().starts_with("tmp/");
    match there.iter().find(ours) {
        None => Ok(()),
        Some(_) => Err(occupied(store, &there)),
    }
}

fn occupied(store: &dyn Store, there: &[Key]) -> Error {
    let has = |name: &str| there.iter().any(|key| key.as_str() == name);
    let error = Error::new(ErrorKind::Refused, code::REPOSITORY_EXISTS, "create a repository")
        .with("place", store.location())
        .with("found", there.iter().take(3).map(Key::as_str).collect::<Vec<_>>().join(", "));
    if has(names::DESCRIPTOR) {
        error.why("there is a repository already").next("use it, or choose another place")
    } else {
        error
            .why("something else is there, and a repository needs a place of its own")
            .next("choose an empty directory or prefix")
    }
}

async fn no_repository(store: &dyn Store) -> Result<Error> {
    let there = store.list("").await?;
    let location = store.location();
    let step = "open the repository";
    if there.iter().any(|object| object.key.as_str().starts_with(names::LOG)) {
        return Ok(incomplete(store, "it has no stillpoint-repo.json"));
    }
    let foreign = there.iter().find(|object| !object.key.as_str().starts_with("tmp/"));
    Ok(match foreign {
        Some(object) => Error::new(ErrorKind::Refused, code::FOREIGN_REPOSITORY, step)
            .with("place", location)
            .with("found", &object.key)
            .why("what is there is not a Stillpoint repository")
            .next("check the path; other programs' repositories cannot be used"),
        None => Error::new(ErrorKind::Missing, code::NO_REPOSITORY, step)
            .with("place", &location)
            .why("there is nothing")
            .next(format!("stillpoint init --repo {location}")),
    })
}

fn incomplete(store: &dyn Store, what: &'static str) -> Error {
    Error::new(ErrorKind::Refused, code::INCOMPLETE_REPOSITORY, "open the repository")
        .with("place", store.location())
        .with("problem", what)
        .why("it was copied only in part, or objects were removed")
        .next("finish the copy; `stillpoint check --files-only DIR` says which backups are whole")
}

fn damaged(name: &str, what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {name}"))
        .with("problem", what)
        .next("restore the object from another copy of the repository: it never changes")
}

fn unreadable(run: RunName) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read index run {run}"))
}
