//! Opening a repository, and what everything else needs of it.

use std::sync::Arc;

use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};
use tokio::sync::Mutex;

use super::{
    descriptor::{DESCRIPTOR_BYTES_MAX, Descriptor, Encryption},
    entry::{Action, hash_of},
    envelope::{self, ObjectKind},
    history::{Committed, Head, History, PackList},
    keys::{KeySlot, NewSlot, PassphraseCost, Secret, unwrap},
    known::Known,
    log::{Appended, Log},
    manifest::{MANIFEST_BYTES_MAX, Manifest, PACK_LIST_BYTES_MAX, decode_pack_list},
    names,
    notary::KeyNotary,
    packer::persist,
    reader::BackupReader,
    store::{Key, Store},
};
use crate::{
    pipeline::{
        id::RepositoryId,
        keys::{Domain, RepositoryKey},
        sign::PublicKey,
    },
    world::World,
};

/// The longest index run, in bytes.
pub(super) const INDEX_RUN_BYTES_MAX: u64 = 64 << 20;

/// The longest key slot, in bytes.
pub(super) const KEY_SLOT_BYTES_MAX: u64 = 64 << 10;

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    pub(super) store: Arc<dyn Store>,
    pub(super) world: World,
    pub(super) log: Log,
    descriptor: Descriptor,
    domain: Option<Arc<Domain>>,
    master: Option<RepositoryKey>,
    history: Mutex<Arc<History>>,
    pub(super) known: Mutex<Known>,
}

impl Repository {
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
        let (domain, master) = unlock(&world, &*store, &descriptor, secret).await?;
        check_signing_key(&descriptor, domain.as_ref())?;
        let repository = Self::assemble(world, store, descriptor, domain, master)?;
        repository.follow_all(&bytes, witness).await?;
        Ok(repository)
    }

    pub(super) fn assemble(
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
            repository: descriptor.log_id().to_owned(),
            clock: Arc::clone(&world.clock),
            entropy: Arc::clone(&world.entropy),
        };
        let domain = domain.map(Arc::new);
        let (history, known) = (Mutex::default(), Mutex::default());
        Ok(Self { store, world, log, descriptor, domain, master, history, known })
    }

    /// Appends an entry, unless somebody else appends one first.
    pub(super) async fn try_append(&self, action: Action) -> Result<Appended> {
        self.log.try_append(&mut *self.history.lock().await, action).await
    }

    /// Reads the whole log, and makes sure that it has no hole and fits the descriptor.
    async fn follow_all(&self, descriptor: &Bytes, witness: Option<&Head>) -> Result<()> {
        let mut history = self.history.lock().await;
        let followed = self.log.follow(&mut history, witness).await;
        // A hole explains why what was seen before is not found; nothing explains another error.
        if followed.as_ref().is_err_and(|error| error.code() != code::ROLLED_BACK) {
            return followed;
        }
        let listed = self.store.list(names::LOG).await?;
        let newest = listed.iter().filter_map(|object| names::log_seq(&object.key)).max();
        if newest.is_some_and(|newest| newest > history.head().seq) {
            // Others may have appended between reading and listing; a hole stays one.
            let seen = history.head().seq;
            self.log.follow(&mut history, None).await?;
            let missing = names::log_entry(history.head().seq + 1);
            if newest.is_some_and(|newest| newest > history.head().seq) {
                return Err(incomplete(&*self.store, "its log has a hole", missing.as_str()));
            }
            debug_assert!(history.head().seq >= seen, "a log never shrinks");
        }
        followed?;
        match history.descriptor() {
            None => {
                let first = names::log_entry(1);
                Err(incomplete(&*self.store, "it has no log (log/)", first.as_str()))
            }
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

    /// What seals what lies beside its content; none where its key is not at hand.
    pub fn key_domain(&self) -> Option<&Domain> {
        self.domain.as_deref()
    }

    /// The log up to now.
    pub async fn history(&self) -> Result<Arc<History>> {
        let mut history = self.history.lock().await;
        self.log.follow(&mut history, None).await?;
        Ok(Arc::clone(&history))
    }

    /// Appends what `decide` says, as often as others get in between.
    pub(super) async fn append(
        &self,
        mut decide: impl AsyncFnMut(&History) -> Result<Option<Action>>,
    ) -> Result<Arc<History>> {
        let mut history = self.history().await?;
        while let Some(action) = decide(&history).await? {
            if self.log.try_append(&mut history, action).await? == Appended::Won {
                *self.history.lock().await = Arc::clone(&history);
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
        Ok(BackupReader::new(manifest, self.blobs_of(&history, &packs).await?))
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

/// Finds the keys of a repository by one of its secrets. Without a secret there are none where it
/// is encrypted.
pub(super) async fn unlock(
    world: &World,
    store: &dyn Store,
    descriptor: &Descriptor,
    secret: Option<Secret>,
) -> Result<(Option<Domain>, Option<RepositoryKey>)> {
    let id = RepositoryId::new(descriptor.id()?);
    let secret = match (descriptor.encryption, secret) {
        (Encryption::None, None) => return Ok((Some(Domain::plain(id)), None)),
        (Encryption::None, Some(secret)) => return Err(not_encrypted(store, &secret)),
        (Encryption::Aes256Gcm, None) => return Ok((None, None)),
        (Encryption::Aes256Gcm, Some(secret)) => secret,
    };
    let slots = read_slots(store, id).await?;
    let slots: Vec<_> = slots.into_iter().map(|(slot, _)| slot).collect();
    if slots.is_empty() {
        return Err(incomplete(store, "it has no key slots (keys/)", names::KEYS));
    }
    let job = move |_: &mut _| {
        let (master, own) = unwrap(&slots, id, &secret)?;
        // Only the slot that the secret opens is known to say the truth.
        let slot = slots.iter().find(|slot| slot.id() == own);
        let epoch = slot.map_or(Domain::EPOCH_FIRST, KeySlot::epoch);
        Ok::<_, Error>((master, epoch))
    };
    let (master, epoch) = world.cpu.run(job).await??;
    Ok((Some(Domain::encrypted(id, epoch, &master)), Some(master)))
}

/// Whoever can write to the store could put an unencrypted repository in the place of ours, and
/// would be sent the next backup in the clear.
fn not_encrypted(store: &dyn Store, secret: &Secret) -> Error {
    let step = format!("open the repository with this {}", secret.kind());
    Error::new(ErrorKind::Refused, code::WRONG_KEY, step)
        .with("place", store.location())
        .why("it is not encrypted; if it should be, somebody replaced it")
        .next("if it never was, give no passphrase and no key, also not in the environment")
}

/// Reads every key slot of a repository, with its bytes.
pub(super) async fn read_slots(
    store: &dyn Store,
    repository: RepositoryId,
) -> Result<Vec<(KeySlot, Bytes)>> {
    let (mut slots, mut newer) = (Vec::new(), None);
    for object in store.list(names::KEYS).await? {
        let Some(bytes) = store.read(&object.key, KEY_SLOT_BYTES_MAX).await? else { continue };
        match KeySlot::decode(&bytes) {
            Ok(slot) if slot.repository() == repository => slots.push((slot, bytes)),
            Ok(_) => tracing::debug!(slot = %object.key, "a key slot of another repository"),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                newer = Some(error.with("slot", &object.key));
            }
            // One damaged slot must not lock out the holders of the others.
            Err(error) => tracing::warn!(slot = %object.key, "unreadable key slot: {error}"),
        }
    }
    match newer {
        Some(error) if slots.is_empty() => Err(error),
        _ => Ok(slots),
    }
}

/// Makes sure that the log is checked against the repository's own key. Whoever can write to the
/// store could put a descriptor there that names another one, and a log that it signs.
pub(super) fn check_signing_key(descriptor: &Descriptor, domain: Option<&Domain>) -> Result<()> {
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

async fn no_repository(store: &dyn Store) -> Result<Error> {
    let there = store.list("").await?;
    let location = store.location();
    let step = "open the repository";
    if there.iter().any(|object| object.key.as_str().starts_with(names::LOG)) {
        return Ok(incomplete(store, "it has no stillpoint-repo.json", names::DESCRIPTOR));
    }
    let foreign = there.iter().map(|object| object.key.as_str());
    let foreign = foreign.filter(|name| !name.starts_with("tmp/") && !name.starts_with('.'));
    let top = store.top().await?;
    let foreign = foreign.chain(top.iter().map(String::as_str).filter(|n| names::is_foreign(n)));
    Ok(match foreign.min() {
        Some(name) => Error::new(ErrorKind::Refused, code::FOREIGN_REPOSITORY, step)
            .with("place", location)
            .with("found", name)
            .why("what is there is not a Stillpoint repository")
            .next("check the path; other programs' repositories cannot be used"),
        None => Error::new(ErrorKind::Missing, code::NO_REPOSITORY, step)
            .with("place", &location)
            .why("there is nothing")
            .next(format!("stillpoint init --repo {}", quoted(&location))),
    })
}

fn incomplete(store: &dyn Store, what: &'static str, missing: &str) -> Error {
    Error::new(ErrorKind::Refused, code::INCOMPLETE_REPOSITORY, "open the repository")
        .with("place", store.location())
        .with("problem", what)
        .with("missing", missing)
        .why("it was copied only in part, or objects were removed: nobody can tell what is whole")
        .next(format!("finish the copy: {missing} must come from where the others came from"))
}

fn damaged(name: &str, what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, format!("read {name}"))
        .with("problem", what)
        .next("restore the object from another copy of the repository: it never changes")
}
