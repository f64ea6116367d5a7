//! One backup: probe, copy, compare identities, commit.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    BackupRequest, Base, Endpoint, Engine, Error, ErrorKind, Identity, Probe, Result, code,
};

use super::owner::{Owner, Successor};
use crate::{
    pipeline::Meter,
    repository::{Intent, Repository, WriteOptions, history::Committed},
    world::World,
};

/// What to back up, and how.
#[derive(Debug)]
pub struct BackupJob<'a> {
    /// The database's engine.
    pub engine: &'a dyn Engine,
    /// Where it is.
    pub endpoint: &'a Endpoint,
    /// Its name in the repository.
    pub database: &'a str,
    /// Read every page, whatever the log says.
    pub full: bool,
    /// Which other database may own the name from now on.
    pub successor: Successor<'a>,
    /// Connections, and parts written at once.
    pub streams_max: NonZeroUsize,
    /// How chunks are stored.
    pub options: WriteOptions,
    /// What it is made for, if a policy asked for it.
    pub task: Option<&'a str>,
    /// The digest of the configuration by which it is made.
    pub configuration: Option<&'a str>,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The backup, as the log has it.
    pub committed: Committed,
    /// How the copy was taken.
    pub method: String,
    /// What the driver wrote, in bytes; the rest was kept from the base.
    pub written_bytes: u64,
    /// Plaintext that was new to the repository, in bytes.
    pub new_bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether this is the first backup of an incarnation that replaced another.
    pub is_new_incarnation: bool,
}

/// A database of which there is a file that is not the database.
#[derive(Clone, Debug)]
pub(super) struct StandsFor {
    /// Who the database is.
    pub(super) identity: Identity,
    /// The instant of the state in the file.
    pub(super) at: DateTime<Utc>,
}

/// Takes one backup. Dropping the future at any point leaves no backup and an untouched server.
///
/// # Errors
///
/// Those of the engine and of the repository; [`Refused`](ErrorKind::Refused) when the name belongs
/// to another database.
pub async fn back_up(
    world: &World,
    repository: &Repository,
    job: BackupJob<'_>,
    meter: &Arc<Meter>,
) -> Result<BackupReport> {
    back_up_as(world, repository, (job, None), meter).await
}

/// The same, of a file that stands for a database. Nothing is taken from an earlier one of it.
pub(super) async fn back_up_as(
    world: &World,
    repository: &Repository,
    (job, stands_for): (BackupJob<'_>, Option<&StandsFor>),
    meter: &Arc<Meter>,
) -> Result<BackupReport> {
    let start = world.clock.elapsed();
    let driver = job.engine.connect(job.endpoint).await?;
    let found = driver.probe().await?;
    let identity = stands_for.map_or(&found.identity, |one| &one.identity).clone();
    let probe = Probe { identity, ..found.clone() };
    let owner = Owner::of(repository, job.database).await?;
    let is_new_incarnation = match &owner {
        Some(owner) => owner.admit(job.engine.name(), &probe.identity, job.successor)?,
        None => false,
    };
    meter.begin("copy", probe.size_bytes);
    let intent = intent(&job, &probe, world);
    let draft = repository.begin(intent, job.options, Arc::clone(meter)).await?;

    let is_free = job.full || stands_for.is_some();
    let same = |c: &Committed| c.commit.incarnation == probe.identity.id && !is_free;
    let base = draft.base().filter(|(committed, _)| same(committed));
    let mut evidence = if let Some((committed, reader)) = base {
        let evidence = reader.manifest().evidence()?;
        let mut log = repository.log_from(committed).await?;
        let base = Base { evidence: &evidence, parts: reader, log: &mut log };
        let request = BackupRequest { base: Some(base), streams_max: job.streams_max };
        driver.backup(request, &draft).await?
    } else {
        let request = BackupRequest { base: None, streams_max: job.streams_max };
        driver.backup(request, &draft).await?
    };
    let mut consistent_time = evidence.consistent_time;
    let now = driver.probe().await?.identity;
    if now.id != found.identity.id {
        return Err(replaced(&found.identity, &now));
    }
    if let Some(stands_for) = stands_for {
        // No log of the database leads on from the file.
        evidence.consistent_at = None;
        consistent_time = stands_for.at;
    }
    meter.begin("commit", 0);
    let committed = draft.commit(&evidence, consistent_time).await?;
    let manifest = repository.manifest(&committed).await?;
    Ok(BackupReport {
        committed,
        method: manifest.method,
        written_bytes: manifest.written_bytes,
        new_bytes: manifest.new_bytes,
        took: world.clock.elapsed().saturating_sub(start),
        is_new_incarnation,
    })
}

/// Refuses a server that is not the one that owns a name, before anything is done with it.
///
/// # Errors
///
/// As [`back_up`].
pub(super) async fn recognise(
    repository: &Repository,
    (engine, endpoint): (&dyn Engine, &Endpoint),
    database: &str,
    successor: Successor<'_>,
) -> Result<()> {
    let Some(owner) = Owner::of(repository, database).await? else { return Ok(()) };
    let identity = engine.connect(endpoint).await?.probe().await?.identity;
    owner.admit(engine.name(), &identity, successor).map(drop)
}

fn intent(job: &BackupJob<'_>, probe: &Probe, world: &World) -> Intent {
    Intent {
        database: job.database.to_owned(),
        engine: job.engine.name().to_owned(),
        version: probe.version.clone(),
        identity: probe.identity.clone(),
        settings: probe.settings.clone(),
        started_at: world.clock.now(),
        task: job.task.map(str::to_owned),
        configuration: job.configuration.map(str::to_owned),
    }
}

fn replaced(before: &Identity, after: &Identity) -> Error {
    Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, "copy one database from begin to end")
        .with("at the begin", format!("{} at {}", before.id, before.location))
        .with("at the end", format!("{} at {}", after.id, after.location))
        .why("the database was replaced during the backup; the copy was discarded")
        .next("run the backup again")
}
