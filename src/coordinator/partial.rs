//! One partial restore: the point is restored into a sandbox, and a share of it brought into a
//! server that lives, or compared with it. The sandbox is gone at the end, whatever came of it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Brought, Difference, Endpoint, Engine, Error, ErrorKind, Overwrite, RecoveryTarget,
    RestoreExtras, Result, Sandbox, Script, Share, ShareRequest, code,
};

use super::{
    point::Wanted,
    restore::{ResolvedRestore, RestoreJob, RestoreReport, engine_of, plan, run, staging_beside},
    scratch::{Scratch, ScratchPlace},
};
use crate::{pipeline::Meter, repository::Repository, world::World};

/// What to bring back, from which state, into what.
#[derive(Debug)]
pub struct PartialJob<'a> {
    /// Every engine there is; the backup names its own.
    pub engines: &'a [Arc<dyn Engine>],
    /// The database's name in the repository.
    pub database: &'a str,
    /// Which state.
    pub wanted: Wanted,
    /// What of it.
    pub share: &'a Share,
    /// Which of a server's databases it is, or is in.
    pub inside: Option<&'a str>,
    /// The engine of the server that lives.
    pub engine: &'a dyn Engine,
    /// The server that lives.
    pub into: &'a Endpoint,
    /// The new name, if one was chosen.
    pub name: Option<&'a str>,
    /// Whether it is only compared with what lives.
    pub compares: bool,
    /// Whether a copy is used in which the engine finds damage.
    pub accept_damage: bool,
    /// Where the sandbox is made.
    pub scratch: &'a ScratchPlace,
}

/// What a partial restore did.
#[derive(Debug)]
pub struct PartialReport<T> {
    /// What was asked for.
    pub outcome: T,
    /// How the copy was made.
    pub resolved: ResolvedRestore,
    /// What came of that.
    pub restored: RestoreReport,
    /// What killed commands had left in the live server.
    pub removed: Vec<String>,
    /// How long everything took.
    pub took: Duration,
}

/// Brings a share back under new names.
///
/// # Errors
///
/// Those of a restore, and of [`Sandbox::bring`]. The live server is as it was then.
pub async fn bring(
    world: &World,
    repository: &Repository,
    job: &PartialJob<'_>,
    meter: &Arc<Meter>,
) -> Result<PartialReport<Brought>> {
    let start = world.clock.elapsed();
    let removed = admit(repository, job).await?;
    let copy = open_copy(world, repository, job, meter).await?;
    let (suffix, token) = (copy.suffix(&job.wanted), copy.scratch.token().to_owned());
    let request = request(job, &suffix, &token);
    let outcome = copy.sandbox.bring(&request, &**meter).await;
    copy.close(outcome, (world, start), removed, meter).await
}

/// Compares live tables with those of the point.
///
/// # Errors
///
/// Those of a restore, and of [`Sandbox::compare`].
pub async fn compare(
    world: &World,
    repository: &Repository,
    job: &PartialJob<'_>,
    meter: &Arc<Meter>,
    script: &mut Script<'_>,
) -> Result<PartialReport<Vec<Difference>>> {
    let start = world.clock.elapsed();
    let removed = admit(repository, job).await?;
    let copy = open_copy(world, repository, job, meter).await?;
    let token = copy.scratch.token().to_owned();
    let outcome = copy.sandbox.compare(&request(job, "", &token), &**meter, script).await;
    copy.close(outcome, (world, start), removed, meter).await
}

fn request<'a>(job: &'a PartialJob<'_>, suffix: &'a str, token: &'a str) -> ShareRequest<'a> {
    let PartialJob { share, inside, into, name, compares, .. } = *job;
    ShareRequest { share, database: inside, into, name, suffix, compares, token }
}

/// Refuses what cannot work before anything is restored.
async fn admit(repository: &Repository, job: &PartialJob<'_>) -> Result<Vec<String>> {
    let timeline = repository.timeline(job.database).await?;
    let own = engine_of(job.engines, &timeline)?;
    if own.name() != job.engine.name() {
        let step = "bring a part of a database into another one";
        return Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, step)
            .with("database", format!("{} ({})", job.database, own.name()))
            .with("--into", format!("a database of {}", job.engine.name()))
            .why("tables are only brought back into a server of their own engine")
            .next(format!("--into {}:…", own.schemes().first().unwrap_or(&""))));
    }
    job.engine.admit_share(&request(job, "", "")).await
}

/// A state of the database, open in a sandbox.
#[derive(Debug)]
struct OpenCopy {
    scratch: Scratch,
    sandbox: Box<dyn Sandbox>,
    resolved: ResolvedRestore,
    restored: RestoreReport,
}

/// The one way in which a partial restore gets at the state of a point.
async fn open_copy(
    world: &World,
    repository: &Repository,
    job: &PartialJob<'_>,
    meter: &Arc<Meter>,
) -> Result<OpenCopy> {
    meter.begin("choose", 0);
    let scratch = job.scratch.create(world)?;
    let target = scratch.database();
    let restore = RestoreJob {
        engines: job.engines,
        database: job.database,
        wanted: job.wanted.clone(),
        target: &target,
        overwrite: Overwrite::Never,
        extras: RestoreExtras { opens: true, ..RestoreExtras::default() },
    };
    let staging = staging_beside(world, &target)?;
    let mut resolved = plan(repository, &restore, &staging).await?;
    resolved.accept_damage = job.accept_damage;
    let restored = run(world, repository, &resolved, meter).await?;
    meter.begin("open", 0);
    let sandbox = resolved.open(&scratch).await?;
    Ok(OpenCopy { scratch, sandbox, resolved, restored })
}

impl OpenCopy {
    /// What names get that nobody chose: they tell the instant of the state.
    fn suffix(&self, wanted: &Wanted) -> String {
        let own = self.resolved.manifest.consistent_time;
        let at: DateTime<Utc> = match (wanted, &self.resolved.chosen.until) {
            (Wanted::Time(at), _) | (_, RecoveryTarget::Time(at)) => *at,
            _ => self.restored.reached.committed_at.unwrap_or(own),
        };
        format!("_restored_{}", at.format("%Y%m%d_%H%M%S"))
    }

    /// Removes the copy, whatever came of the work.
    async fn close<T>(
        self,
        outcome: Result<T>,
        (world, start): (&World, Duration),
        removed: Vec<String>,
        meter: &Meter,
    ) -> Result<PartialReport<T>> {
        let Self { scratch, sandbox, resolved, restored } = self;
        meter.begin("remove", 0);
        let stopped = sandbox.stop().await;
        let gone = tokio::task::spawn_blocking(move || scratch.remove()).await;
        let gone = gone.unwrap_or_else(|e| Err(Error::bug("remove a sandbox").caused_by(e)));
        let outcome = outcome?;
        stopped.and(gone.map(drop))?;
        let took = world.clock.elapsed().saturating_sub(start);
        Ok(PartialReport { outcome, resolved, restored, removed, took })
    }
}
