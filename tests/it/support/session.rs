//! What a driver and the coordinator do, by hand: repositories, backups, restores.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use stillpoint::{
    pipeline::{Meter, id::ChunkSize},
    repository::{
        BackupReader, Draft, InitOptions, Intent, Repository, WriteOptions,
        descriptor::Writers,
        history::Committed,
        keys::{PassphraseCost, Secret},
        names,
        store::Store,
    },
    world::World,
};
use stillpoint_contract::{
    Error, Evidence, Identity, Lineage, LogPosition, PartName, PartSpec, PartWriter, Result, Shape,
    Sink as _, Source as _,
};

use super::{
    data::{Content, PAGE_BYTES},
    ledger::Ledger,
};

/// A passphrase that costs nothing to try.
pub(crate) const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };

/// The shortest chunks.
const CHUNK_BYTES: u32 = 65_536;

/// A new repository without encryption.
pub(crate) async fn init(world: World, store: Arc<dyn Store>) -> Result<Repository> {
    init_with(world, store, None).await
}

/// A new repository.
pub(crate) async fn init_with(
    world: World,
    store: Arc<dyn Store>,
    secret: Option<Secret>,
) -> Result<Repository> {
    let options = InitOptions {
        secret: secret.map(|secret| (secret, "first".to_owned())),
        cost: CHEAP,
        chunk_size: ChunkSize::new(CHUNK_BYTES)?,
        writers: Writers::Many,
    };
    Repository::init(world, store, options).await
}

pub(crate) fn passphrase(text: &str) -> Secret {
    Secret::passphrase(text).unwrap()
}

/// How the driver finds what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// It does not know and writes everything.
    Whole,
    /// It keeps the pages that the base backup has.
    Incremental,
}

pub(crate) fn intent(world: &World, database: &str) -> Intent {
    Intent {
        database: database.to_owned(),
        engine: "sim".to_owned(),
        version: "1".to_owned(),
        identity: Identity { id: format!("{database}-1"), location: format!("/data/{database}") },
        settings: BTreeMap::new(),
        configuration: None,
        started_at: world.clock.now(),
        task: None,
    }
}

/// Where a database's log is.
pub(crate) fn position(database: &str, offset: u128) -> LogPosition {
    LogPosition { lineage: Lineage::new(format!("{}-1", names::encode(database))).unwrap(), offset }
}

/// One database, as one process protects it.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    pub(crate) world: World,
    pub(crate) database: String,
    pub(crate) ledger: Ledger,
}

impl Driver {
    pub(crate) fn new(world: &World, database: &str, ledger: &Ledger) -> Self {
        let (world, ledger) = (world.clone(), ledger.clone());
        Self { world, database: database.to_owned(), ledger }
    }

    /// Backs `content` up, and tells the ledger before and after.
    pub(crate) async fn back_up(
        &self,
        repository: &Repository,
        content: &Content,
        method: Method,
    ) -> Result<Committed> {
        self.back_up_at(repository, content, method, 0).await
    }

    /// The same, at a position of the log.
    pub(crate) async fn back_up_at(
        &self,
        repository: &Repository,
        content: &Content,
        method: Method,
        offset: u128,
    ) -> Result<Committed> {
        let draft = self.begin(repository).await?;
        self.complete(draft, content, method, offset).await
    }

    /// The first half: what the repository has is looked up, and nothing is written.
    pub(crate) async fn begin<'r>(&self, repository: &'r Repository) -> Result<Draft<'r>> {
        let intent = intent(&self.world, &self.database);
        repository.begin(intent, WriteOptions::default(), Arc::new(Meter::default())).await
    }

    /// The second half.
    pub(crate) async fn complete(
        &self,
        draft: Draft<'_>,
        content: &Content,
        method: Method,
        offset: u128,
    ) -> Result<Committed> {
        let consistent_time = self.world.clock.now();
        for (name, bytes) in content {
            write_part(&draft, name, bytes, method).await?;
        }
        self.ledger.attempt(draft.id(), content);
        let evidence = Evidence {
            consistent_at: Some(position(&self.database, offset)),
            consistent_time,
            cursor: Bytes::new(),
            replay: None,
            incremental: method == Method::Incremental,
            method: "simulation".to_owned(),
            tallies: Vec::new(),
            extensions: BTreeMap::new(),
            damage: None,
        };
        let committed = draft.commit(&evidence, consistent_time).await?;
        self.ledger.acknowledge(&committed.commit.backup);
        Ok(committed)
    }
}

async fn write_part(draft: &Draft<'_>, name: &str, bytes: &[u8], method: Method) -> Result<()> {
    let spec = PartSpec {
        name: PartName::new(name)?,
        shape: Shape::Paged { page_bytes: PAGE_BYTES as u32 },
        attributes: BTreeMap::new(),
    };
    let old = match draft.base() {
        Some((_, base)) if method == Method::Incremental => read_part(base, name).await?,
        _ => Vec::new(),
    };
    let part = draft.create(spec).await?;
    write_pages(&*part, bytes, &old).await?;
    part.finish(bytes.len() as u64).await
}

/// Keeps the pages that are in `old`, and writes the others.
async fn write_pages(part: &dyn PartWriter, bytes: &[u8], old: &[u8]) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let is_old = |at: usize| {
            let end = (at + PAGE_BYTES).min(bytes.len());
            old.get(at..end) == Some(&bytes[at..end])
        };
        let kept = is_old(at);
        let mut end = at;
        while end < bytes.len() && is_old(end) == kept {
            end = (end + PAGE_BYTES).min(bytes.len());
        }
        if kept {
            part.keep(at as u64..end as u64).await?;
        } else {
            part.write(at as u64, Bytes::copy_from_slice(&bytes[at..end])).await?;
        }
        at = end;
    }
    Ok(())
}

/// A part of a backup; empty when there is none of that name.
async fn read_part(reader: &BackupReader, name: &str) -> Result<Vec<u8>> {
    let name = PartName::new(name)?;
    for page in 0.. {
        let parts = reader.parts(page).await?;
        if parts.is_empty() {
            break;
        }
        if let Some(part) = parts.iter().find(|part| part.spec.name == name) {
            return Ok(reader.read(&name, 0..part.length_bytes).await?.to_vec());
        }
    }
    Ok(Vec::new())
}

/// Restores a backup, verified.
pub(crate) async fn restore(repository: &Repository, committed: &Committed) -> Result<Content> {
    read_all(&repository.reader(committed).await?).await
}

/// Reads every part of a backup.
pub(crate) async fn read_all(reader: &BackupReader) -> Result<Content> {
    let mut content = Content::new();
    for page in 0.. {
        let parts = reader.parts(page).await?;
        if parts.is_empty() {
            break;
        }
        for part in parts {
            let bytes = reader.read(&part.spec.name, 0..part.length_bytes).await?;
            if bytes.len() as u64 != part.length_bytes {
                return Err(Error::bug("read a part that is shorter than its record says"));
            }
            content.insert(part.spec.name.to_string(), bytes.to_vec());
        }
    }
    Ok(content)
}
