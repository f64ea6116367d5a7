//! A backup being written: nobody sees it before its log entry, and everybody after it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    BufferPool, Error, ErrorKind, Evidence, Identity, PartSpec, PartWriter, Result, Sink, code,
};
use tokio::sync::{Mutex, Semaphore};

use super::{
    chunk_writer::{ChunkWriter, WriteOptions},
    closure::places,
    custody::shortened,
    entry::{Action, Commit, hash_of},
    envelope::{self, ObjectKind},
    handle::Repository,
    history::{Committed, History, PackList},
    manifest::{
        MANIFEST_FORMAT, Manifest, PAGE_BYTES_MAX, PAGE_PARTS_MAX, PartEntry, encode_pack_list,
        encode_page,
    },
    names,
    pack::PackName,
    packer::persist,
    part_writer::{DraftPart, Shared},
    reader::{BackupReader, name_hash},
    store::Key,
    verify::is_finding,
};
use crate::pipeline::{Meter, id::ChunkId};

/// Runs of chunks in the pipeline at once; each is at most a MiB or four chunks.
const RUNS_MAX: usize = 16;

/// The longest attributes of a part, in bytes.
const ATTRIBUTES_BYTES_MAX: usize = 4 << 10;

/// What a backup will be of.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The database's name.
    pub database: String,
    /// The name of its engine.
    pub engine: String,
    /// The engine's version.
    pub version: String,
    /// Which incarnation of the database.
    pub identity: Identity,
    /// Settings to record for the restore.
    pub settings: BTreeMap<String, String>,
    /// The digest of the configuration by which it is made.
    pub configuration: Option<String>,
    /// The instant of the state, as exactly as it is known before the copy.
    pub started_at: DateTime<Utc>,
    /// What it is made for, if a policy asked for it: no other backup of the database may have
    /// been made for the same.
    pub task: Option<String>,
}

/// A backup being written.
#[derive(Debug)]
pub struct Draft<'a> {
    repository: &'a Repository,
    backup: String,
    intent: Intent,
    parent: Option<Committed>,
    base: Option<BackupReader>,
    shared: Arc<Shared>,
}

/// The part table, gathering.
#[derive(Debug, Default)]
pub(super) struct Table {
    pages: Vec<ChunkId>,
    page: Vec<PartEntry>,
    page_bytes: usize,
    names: Names,
    open: usize,
    parts: u64,
    size_bytes: u64,
    pub(super) written_bytes: u64,
}

/// Hashes of the names of parts: 16 bytes for each, and an eighth more for those that came last.
#[derive(Debug, Default)]
struct Names {
    sorted: Vec<u128>,
    recent: HashSet<u128>,
}

impl Names {
    /// How many are recent at least before they are sorted in.
    const RECENT_MIN: usize = 4096;

    /// Whether the name was new.
    fn insert(&mut self, name: u128) -> bool {
        if self.sorted.binary_search(&name).is_ok() || !self.recent.insert(name) {
            return false;
        }
        if self.recent.len() >= Self::RECENT_MIN.max(self.sorted.len() / 8) {
            self.sorted.reserve_exact(self.recent.len());
            self.sorted.extend(self.recent.drain());
            self.sorted.sort_unstable();
        }
        true
    }
}

impl Table {
    pub(super) async fn finish(&mut self, part: PartEntry, writer: &ChunkWriter) -> Result<()> {
        self.open -= 1;
        self.parts += 1;
        self.size_bytes += part.length_bytes;
        let part_bytes = encode_page(std::slice::from_ref(&part))?.len();
        if self.page.len() == PAGE_PARTS_MAX || self.page_bytes + part_bytes > PAGE_BYTES_MAX {
            self.flush(writer).await?;
        }
        self.page_bytes += part_bytes;
        self.page.push(part);
        Ok(())
    }

    async fn flush(&mut self, writer: &ChunkWriter) -> Result<()> {
        if !self.page.is_empty() {
            let page = std::mem::take(&mut self.page);
            self.page_bytes = 0;
            self.pages.push(writer.store_metadata(encode_page(&page)?.into()).await?);
        }
        Ok(())
    }
}

impl Repository {
    /// Begins a backup. The newest backup of the same database lends its chunks.
    pub async fn begin(
        &self,
        intent: Intent,
        options: WriteOptions,
        meter: Arc<Meter>,
    ) -> Result<Draft<'_>> {
        self.refuse_replica()?;
        names::check_database(&intent.database)?;
        let history = self.history().await?;
        let live: Vec<_> = history.live_of(&intent.database).collect();
        let ordinal = live.len() as u64;
        // What cannot be restored lends nothing: its chunks are stored again. What is in doubt
        // keeps no page either: each is read once more.
        let is_good = |id: &str| !history.is_suspect(id) && history.doubt(id).is_none();
        let parent = live.into_iter().rfind(|c| is_good(&c.commit.backup)).cloned();
        let lent = match &parent {
            Some(parent) => Some(self.pack_list(parent).await.map(|list| history.resolve(list))),
            None => None,
        };
        let needed = lent.as_ref().and_then(|lent| lent.as_ref().ok()).cloned().unwrap_or_default();
        let suspects = self.packs_of_suspects(&history).await?;
        let blobs = self.lately(&history, &needed, &suspects).await?;
        let base = match (&parent, lent) {
            (Some(parent), Some(lent)) => self.base(parent, lent, &blobs).await,
            _ => None,
        };
        let writer = ChunkWriter::new(blobs, self.world.clone(), Arc::clone(&meter), options);
        let shared = Shared {
            writer,
            chunk_bytes: self.descriptor().chunk_bytes,
            pool: BufferPool::default(),
            runs: Arc::new(Semaphore::new(RUNS_MAX)),
            table: Mutex::default(),
            meter,
            ordinal,
        };
        let backup = self.new_id();
        Ok(Draft { repository: self, backup, intent, parent, base, shared: Arc::new(shared) })
    }

    /// The packs of backups whose stored bytes are known to be wrong: some of them are damaged.
    async fn packs_of_suspects(&self, history: &History) -> Result<BTreeSet<PackName>> {
        let mut packs = BTreeSet::new();
        for suspect in history.suspects() {
            match self.pack_list(suspect).await {
                Ok(list) => packs.extend(history.resolve(list).into_keys()),
                Err(error) if is_finding(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(packs)
    }

    /// The parent as a base, unless something of it is damaged: then the backup goes without.
    async fn base(
        &self,
        parent: &Committed,
        lent: Result<PackList>,
        blobs: &super::blobs::Blobs,
    ) -> Option<BackupReader> {
        let open = async {
            let manifest = self.manifest(parent).await?;
            if manifest.chunk_bytes != self.descriptor().chunk_bytes {
                return Err(Error::bug("build on a backup with other chunks"));
            }
            let packs = lent?;
            let gone = packs.keys().find(|pack| blobs.index.size_of(pack).is_none());
            if let Some(pack) = gone {
                return Err(Error::new(ErrorKind::Missing, code::MISSING_OBJECT, "read the base")
                    .with("pack", pack));
            }
            blobs.cover(&packs).await?;
            Ok(BackupReader::new(manifest, blobs.clone()))
        };
        let opened = open.await;
        let backup = &parent.commit.backup;
        opened.inspect_err(|e| tracing::warn!(backup, "not used as a base: {e}")).ok()
    }

    /// A new id, which sorts by the time.
    pub(super) fn new_id(&self) -> String {
        self.world.new_id()
    }
}

impl Draft<'_> {
    /// The id of the backup that this may become.
    pub fn id(&self) -> &str {
        &self.backup
    }

    /// The backup that lends its chunks, and a reader of it.
    pub fn base(&self) -> Option<(&Committed, &BackupReader)> {
        self.parent.as_ref().zip(self.base.as_ref())
    }

    /// Makes the backup exist: everything durable first, then one log entry.
    ///
    /// # Errors
    ///
    /// [`Bug`](ErrorKind::Bug) when a part was left unfinished,
    /// [`Gap`](ErrorKind::Gap) when garbage collection overtook a writer that slept for days.
    pub async fn commit(
        self,
        evidence: &Evidence,
        consistent_time: DateTime<Utc>,
    ) -> Result<Committed> {
        let writer = &self.shared.writer;
        let mut table = self.shared.table.lock().await;
        if table.open > 0 {
            return Err(Error::bug("commit a backup with unfinished parts"));
        }
        table.flush(writer).await?;
        let mut stored_bytes = writer.flush().await?;
        let manifest = self.manifest(&table, evidence, consistent_time);
        drop(table);
        let (name, hash, manifest_bytes) = self.store_manifest(&manifest).await?;
        stored_bytes += manifest_bytes;
        let reader = BackupReader::new(manifest.clone(), writer.blobs().clone());

        let mut commit = Self::describe(&manifest, stored_bytes);
        (commit.manifest, commit.manifest_hash) = (name, hash);
        commit.task.clone_from(&self.intent.task);
        let mut attempt = 0;
        let mut listed: Option<PackList> = None;
        let repository = self.repository;
        let (this, reader) = (&self, &reader);
        let history = repository
            .append(async |history| {
                if history.commit(&commit.backup).is_some() {
                    return Ok(None);
                }
                if let Some(done) = history.made_for(&commit.database, commit.task.as_deref()) {
                    return Err(outrun(done));
                }
                let packs = this.rescue(history, reader).await?;
                if listed.as_ref() != Some(&packs) {
                    let stored = this.store_pack_list(&packs, attempt).await?;
                    (commit.packs, commit.packs_hash) = stored;
                    listed = Some(packs);
                    attempt += 1;
                }
                Ok(Some(Action::Commit(Box::new(commit.clone()))))
            })
            .await?;
        let committed = history.commit(&self.backup).cloned();
        committed.ok_or_else(|| Error::bug("find the backup that was committed"))
    }

    /// The packs that the backup needs, none of which is doomed: what lies in a doomed one is
    /// copied out of it first.
    async fn rescue(&self, history: &History, reader: &BackupReader) -> Result<PackList> {
        let writer = &self.shared.writer;
        let index = &writer.blobs().index;
        loop {
            let mut packs = PackList::new();
            let mut doomed = BTreeSet::new();
            places(reader, |place| {
                if history.is_doomed_pack(&place.pack) {
                    doomed.insert((place.pack, place.entry.offset, place.entry.stored_bytes));
                } else {
                    packs.insert(place.pack, u64::from(place.pack_bytes));
                }
            })
            .await
            .map_err(overtaken)?;
            if doomed.is_empty() {
                return Ok(packs);
            }
            let mut copied = HashSet::new();
            let mut moving = Vec::new();
            places(reader, |place| {
                let spot = (place.pack, place.entry.offset, place.entry.stored_bytes);
                if doomed.contains(&spot) && copied.insert(spot) {
                    moving.push(place);
                }
            })
            .await
            .map_err(overtaken)?;
            for place in moving {
                writer.copy(place).await.map_err(overtaken)?;
            }
            writer.flush().await?;
            index.retire(|pack| history.is_doomed_pack(pack));
        }
    }

    fn manifest(
        &self,
        table: &Table,
        evidence: &Evidence,
        consistent_time: DateTime<Utc>,
    ) -> Manifest {
        let Intent {
            database, engine, version, identity, settings, configuration, started_at, ..
        } = self.intent.clone();
        Manifest {
            format: MANIFEST_FORMAT,
            program: concat!("stillpoint ", env!("CARGO_PKG_VERSION")).to_owned(),
            backup: self.backup.clone(),
            database,
            engine,
            version,
            identity,
            settings,
            configuration,
            started_at,
            finished_at: self.repository.world.clock.now(),
            consistent_time,
            consistent_at: evidence.consistent_at.clone(),
            cursor: data_encoding::HEXLOWER.encode(&evidence.cursor),
            replay: evidence.replay.clone(),
            incremental: evidence.incremental,
            method: evidence.method.clone(),
            tallies: evidence.tallies.clone(),
            extensions: evidence.extensions.clone(),
            damage: evidence.damage.as_deref().map(shortened),
            parent: self.parent.as_ref().map(|parent| parent.commit.backup.clone()),
            ordinal: self.shared.ordinal,
            chunk_bytes: self.shared.chunk_bytes,
            part_pages: table.pages.clone(),
            parts: table.parts,
            size_bytes: table.size_bytes,
            written_bytes: table.written_bytes,
            new_bytes: self.shared.writer.new_bytes(),
        }
    }

    fn describe(manifest: &Manifest, stored_bytes: u64) -> Commit {
        Commit {
            task: None,
            backup: manifest.backup.clone(),
            database: manifest.database.clone(),
            engine: manifest.engine.clone(),
            incarnation: manifest.identity.id.clone(),
            location: manifest.identity.location.clone(),
            started_at: manifest.started_at,
            finished_at: manifest.finished_at,
            consistent_time: manifest.consistent_time,
            consistent_at: manifest.consistent_at.clone(),
            incremental: manifest.incremental,
            size_bytes: manifest.size_bytes,
            stored_bytes,
            manifest: String::new(),
            manifest_hash: String::new(),
            packs: String::new(),
            packs_hash: String::new(),
            damage: manifest.damage.clone(),
            origin: None,
        }
    }

    async fn store_manifest(&self, manifest: &Manifest) -> Result<(String, String, u64)> {
        let Intent { started_at, database, .. } = &self.intent;
        let key = names::manifest(*started_at, database, &self.backup)?;
        let plain = manifest.encode()?;
        let (domain, entropy) =
            (self.repository.domain()?, Arc::clone(&self.repository.world.entropy));
        let name = key.to_string();
        let seal = self.repository.world.cpu.run(move |scratch| {
            envelope::seal(&domain, ObjectKind::Manifest, &name, &plain, scratch, &*entropy)
        });
        let bytes = seal.await??;
        let hash = self.store(&key, bytes.clone()).await?;
        Ok((key.to_string(), hash, bytes.len() as u64))
    }

    async fn store_pack_list(&self, packs: &PackList, attempt: u32) -> Result<(String, String)> {
        let Intent { started_at, database, .. } = &self.intent;
        let key = names::pack_list(*started_at, database, &self.backup, attempt)?;
        let hash = self.store(&key, encode_pack_list(packs).into()).await?;
        Ok((key.to_string(), hash))
    }

    async fn store(&self, key: &Key, bytes: Bytes) -> Result<String> {
        let hash = hash_of(&bytes);
        persist(&*self.repository.store, &*self.repository.world.clock, key, bytes).await?;
        Ok(hash)
    }
}

#[async_trait]
impl Sink for Draft<'_> {
    async fn create(&self, spec: PartSpec) -> Result<Box<dyn PartWriter>> {
        let attributes_bytes: usize = spec.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
        if attributes_bytes > ATTRIBUTES_BYTES_MAX {
            return Err(Error::bug("describe a part").with("attributes", attributes_bytes));
        }
        let base = match &self.base {
            Some(base) => base.find(&spec.name).await?,
            None => None,
        };
        let mut table = self.shared.table.lock().await;
        if !table.names.insert(name_hash(&spec.name)) {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_NAME, "name a part twice")
                .with("part", &spec.name));
        }
        table.open += 1;
        drop(table);
        Ok(Box::new(DraftPart::new(Arc::clone(&self.shared), spec, base)))
    }
}

/// What this writer stored or relied on is gone: only garbage collection takes anything away.
fn outrun(done: &Committed) -> Error {
    let Commit { backup, task, .. } = &done.commit;
    Error::new(ErrorKind::Fenced, code::FENCED, "commit a second backup for one due time")
        .with("task", task.as_deref().unwrap_or_default())
        .with("made by", backup)
        .why("another attempt was first; this one was discarded, and nothing is lost")
}

fn overtaken(error: Error) -> Error {
    if error.kind() != ErrorKind::Missing {
        return error;
    }
    Error::new(ErrorKind::Gap, code::BACKUP_DISCARDED, "save chunks from doomed packs")
        .caused_by(error)
        .why("the backup took longer than garbage collection waits; nothing was committed")
        .next("run the backup again")
}
