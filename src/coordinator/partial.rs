//! One partial restore: a sandbox is opened at the point, and a share of it brought into a server
//! that lives, or compared with it. The sandbox is gone at the end, whatever came of it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Brought, Comparison, Endpoint, Engine, Error, ErrorKind, Overwrite, Reached, RecoveryTarget,
    RestoreExtras, Result, Sandbox, SandboxUse, Script, Share, ShareRequest, code,
};

use super::{
    point::{Preference, Wanted},
    restore::{ResolvedRestore, RestoreJob, engine_of, plan},
    scratch::ScratchPlace,
    scratch_copy::{CopyJob, Presented, ScratchCopy, Way, plan_copy},
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
    /// Whether the backup may be mounted.
    pub way: Way,
}

/// What a partial restore did.
#[derive(Debug)]
pub struct PartialReport<T> {
    /// What was asked for.
    pub outcome: T,
    /// How the copy was made.
    pub resolved: ResolvedRestore,
    /// How it came to be there.
    pub presented: Presented,
    /// The point that it is at.
    pub reached: Reached,
    /// The damage that the engine's check found in it, and that was accepted.
    pub damage: Vec<String>,
    /// Bytes of log that were read.
    pub log_bytes: u64,
    /// How long it took until it was open.
    pub opened_after: Duration,
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
    at_point(world, repository, job, meter, async |sandbox, suffix, token| {
        sandbox.bring(&request(job, suffix, token), &**meter).await
    })
    .await
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
) -> Result<PartialReport<Comparison>> {
    at_point(world, repository, job, meter, async |sandbox, _, token| {
        sandbox.compare(&request(job, "", token), &**meter, script).await
    })
    .await
}

fn request<'a>(job: &'a PartialJob<'_>, suffix: &'a str, token: &'a str) -> ShareRequest<'a> {
    let PartialJob { share, inside, into, name, compares, .. } = *job;
    ShareRequest { share, database: inside, into, name, suffix, compares, token }
}

/// What a partial restore would use.
#[derive(Debug)]
pub struct PartialPlan {
    /// From what the point can be had.
    pub resolved: ResolvedRestore,
    /// How its copy would come to be there.
    pub presented: Presented,
    /// Why the live server could not be asked whether it takes the share.
    pub unasked: Option<Error>,
}

/// Finds out from what the point can be had, how its copy comes to be there, and whether the live
/// server takes what is asked for. Changes nothing.
///
/// # Errors
///
/// As [`plan`], and what the live server refuses. One that cannot be reached refuses nothing.
pub async fn plan_partial(repository: &Repository, job: &PartialJob<'_>) -> Result<PartialPlan> {
    own_engine(repository, job).await?;
    let unasked = match job.engine.admit_share(&request(job, "", "")).await {
        Ok(()) => None,
        Err(error) if error.kind().is_transient() => Some(error),
        Err(error) => return Err(error),
    };
    let target = job.scratch.root.join("stillpoint-sandbox");
    let restore = RestoreJob {
        engines: job.engines,
        database: job.database,
        wanted: job.wanted.clone(),
        target: &target,
        overwrite: Overwrite::Replace,
        extras: RestoreExtras { sandbox: sandbox_use(job), ..RestoreExtras::default() },
    };
    let resolved = plan(repository, &restore, &target.with_extension("staging")).await?;
    Ok(PartialPlan { resolved, presented: job.way.presented(), unasked })
}

fn sandbox_use(job: &PartialJob<'_>) -> SandboxUse {
    if job.compares { SandboxUse::Look } else { SandboxUse::Bring }
}

/// Refuses what cannot work before anything is restored.
async fn admit(repository: &Repository, job: &PartialJob<'_>) -> Result<Vec<String>> {
    own_engine(repository, job).await?;
    let request = request(job, "", "");
    job.engine.admit_share(&request).await?;
    job.engine.sweep_share(&request).await
}

async fn own_engine(repository: &Repository, job: &PartialJob<'_>) -> Result<()> {
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
    Ok(())
}

/// Opens a sandbox at the point, works with it, and removes it whatever came of the work, which is
/// told what names get that nobody chose, and letters that no other sandbox has.
async fn at_point<T>(
    world: &World,
    repository: &Repository,
    job: &PartialJob<'_>,
    meter: &Arc<Meter>,
    work: impl AsyncFnOnce(&dyn Sandbox, &str, &str) -> Result<T>,
) -> Result<PartialReport<T>> {
    let start = world.clock.elapsed();
    let removed = admit(repository, job).await?;
    meter.begin("choose", 0);
    let scratch = job.scratch.create(world)?;
    let copy = CopyJob {
        engines: job.engines,
        database: job.database,
        wanted: &job.wanted,
        preference: Preference::Sound,
        way: job.way,
        sandbox: sandbox_use(job),
    };
    let mut planned = plan_copy(world, repository, copy, &scratch).await?;
    planned.resolved.accept_damage = job.accept_damage;
    let copy = planned.bring_up(world, repository, meter).await?;
    let mut damage = Vec::new();
    if copy.restored.is_none() && !copy.resolved.checks_as_it_reads() {
        // A restore has done so; and what is brought over is only as good as what it is read from.
        meter.begin("check", 0);
        let checked = copy.check().await;
        let unread = copy.damage();
        damage = match checked {
            Ok((_, damage)) if job.accept_damage || unread.is_empty() => damage,
            Ok(_) => return Err(salvage(copy.explain(Error::bug("check the copy")))),
            Err(error) if unread.is_empty() => return Err(copy.explain(error)),
            Err(error) => return Err(salvage(copy.explain(error))),
        };
        damage.extend(unread);
    }
    meter.begin("open", 0);
    let sandbox = copy.open().await?;
    let remains = (!job.compares).then(|| job.engine.remains_of_share(job.share, scratch.token()));
    if let Some(what) = remains.flatten() {
        scratch.note_elsewhere(&format!(
            "{what} may have been left unfinished where it was restored into: the next \
             `stillpoint restore … --into` there removes that"
        ))?;
    }
    let opened_after = world.clock.elapsed().saturating_sub(start);
    let outcome = work(&*sandbox, &suffix(&copy, &job.wanted), scratch.token()).await;
    meter.begin("remove", 0);
    let stopped = sandbox.stop().await;
    let outcome = outcome.map_err(|error| match copy.outage() {
        Some(outage) => outage,
        None if damage.is_empty() => copy.explain(error),
        None => error,
    });
    let ScratchCopy { resolved, presented, reached, log_bytes, restored, mounted, .. } = copy;
    let gone = tokio::task::spawn_blocking(move || {
        drop(mounted);
        scratch.remove()
    });
    let gone = gone.await.unwrap_or_else(|e| Err(Error::bug("remove a sandbox").caused_by(e)));
    let outcome = outcome?;
    stopped.and(gone.map(drop))?;
    damage.extend(restored.into_iter().flat_map(|report| report.damage));
    let took = world.clock.elapsed().saturating_sub(start);
    Ok(PartialReport {
        outcome,
        resolved,
        presented,
        reached,
        damage,
        log_bytes,
        opened_after,
        removed,
        took,
    })
}

/// Other parts of the copy may be read all the same.
fn salvage(error: Error) -> Error {
    error.next("bring back what can be read: the same command with --accept-damage")
}

/// What names get that nobody chose.
fn suffix(copy: &ScratchCopy<'_>, wanted: &Wanted) -> String {
    let own = copy.resolved.manifest.consistent_time;
    suffix_of(&copy.resolved, wanted, copy.reached.committed_at.unwrap_or(own))
}

/// The same, where the last commit of the state is of `last`: it tells the instant of the state.
pub fn suffix_of(resolved: &ResolvedRestore, wanted: &Wanted, last: DateTime<Utc>) -> String {
    let at = match (wanted, &resolved.chosen.until) {
        (Wanted::Time(at), _) | (_, RecoveryTarget::Time(at)) => *at,
        _ => last,
    };
    format!("_restored_{}", at.format("%Y%m%d_%H%M%S"))
}
