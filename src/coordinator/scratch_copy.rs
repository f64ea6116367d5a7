//! A database at a point, in a scratch directory: mounted if that is possible, else restored.
//!
//! What is mounted is there at once, whatever its size; what is restored reads as fast as the disk.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use stillpoint_contract::{
    Engine, Error, ErrorKind, Overwrite, Reached, RestoreExtras, Result, Sandbox, SandboxUse, code,
};

use super::{
    mount::{Guard, Mount, MountedFiles, no_guard, obstacle},
    point::{Preference, Wanted},
    restore::{ResolvedRestore, RestoreJob, RestoreReport, plan_from, run, staging_beside},
    scratch::Scratch,
};
use crate::{
    pipeline::Meter,
    repository::{Repository, drill::PresentedBackup},
    world::World,
};

/// What the database is called in its directory.
const NAME: &str = "database";

/// Which state of which database.
#[derive(Clone, Copy, Debug)]
pub struct CopyJob<'a> {
    /// Every engine there is; the backup names its own.
    pub engines: &'a [Arc<dyn Engine>],
    /// The database's name in the repository.
    pub database: &'a str,
    /// Which state.
    pub wanted: &'a Wanted,
    /// From which backup, where several lead there.
    pub preference: Preference,
    /// Whether it may be mounted.
    pub way: Way,
    /// What a sandbox is opened on it for afterwards.
    pub sandbox: SandboxUse,
}

/// How a copy comes to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Mounted, where that is possible.
    Mount,
    /// Restored, since somebody asked for that.
    Restore,
}

/// How a copy came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// It is mounted.
    Mounted,
    /// It is restored, for a reason.
    Restored {
        /// Why it is not mounted.
        why: String,
    },
}

impl Way {
    /// How a copy will come to be there, unless mounting it fails. Whatever it is for, we read it
    /// ourselves when log is replayed: there must be a way to free us.
    pub(super) fn presented(self) -> Presented {
        let obstacle = match self {
            Self::Restore => Some("a full restore was asked for".to_owned()),
            Self::Mount => obstacle().or_else(no_guard),
        };
        obstacle.map_or(Presented::Mounted, |why| Presented::Restored { why })
    }
}

impl Presented {
    /// The same, as it is kept.
    pub fn recorded(&self) -> PresentedBackup {
        match self {
            Self::Mounted => PresentedBackup { mounted: true, why_not: None },
            Self::Restored { why } => {
                PresentedBackup { mounted: false, why_not: Some(why.clone()) }
            }
        }
    }
}

/// A copy of which everything is known, and none of whose bytes were read.
#[derive(Debug)]
pub struct PlannedCopy<'a> {
    /// The backup, and how it becomes a database.
    pub resolved: ResolvedRestore,
    /// How it comes to be there.
    pub presented: Presented,
    scratch: &'a Scratch,
    mounted: Option<Mounted>,
}

/// Fields are dropped in order: first nobody reads there any more.
#[derive(Debug)]
pub(super) struct Mounted {
    mount: Mount,
    files: MountedFiles,
    _guard: Guard,
}

/// A database at a point.
#[derive(Debug)]
pub struct ScratchCopy<'a> {
    /// The backup, and how it became a database.
    pub resolved: ResolvedRestore,
    /// How it came to be there.
    pub presented: Presented,
    /// The point that was reached.
    pub reached: Reached,
    /// Bytes of log that were read.
    pub log_bytes: u64,
    /// What restoring it told; nothing where it is mounted.
    pub restored: Option<RestoreReport>,
    /// How long replay took.
    pub replay_took: Duration,
    /// The file or directory.
    database: PathBuf,
    scratch: &'a Scratch,
    pub(super) mounted: Option<Mounted>,
}

/// Finds out how the point can be had, and mounts its backup where that is possible.
///
/// # Errors
///
/// As [`plan_from`]. What keeps it from being mounted is a reason to restore it.
pub async fn plan_copy<'a>(
    world: &World,
    repository: &Repository,
    job: CopyJob<'_>,
    scratch: &'a Scratch,
) -> Result<PlannedCopy<'a>> {
    let why = match job.way.presented() {
        Presented::Restored { why } => why,
        Presented::Mounted => match mount(world, repository, job, scratch).await {
            Ok((resolved, mounted)) => {
                let presented = Presented::Mounted;
                return Ok(PlannedCopy { resolved, presented, scratch, mounted: Some(mounted) });
            }
            Err(error) if error.code() == code::NO_MOUNT => told(&error),
            Err(error) => return Err(error),
        },
    };
    let resolved = resolve(world, repository, job, &scratch.database()).await?;
    let presented = Presented::Restored { why };
    Ok(PlannedCopy { resolved, presented, scratch, mounted: None })
}

async fn resolve(
    world: &World,
    repository: &Repository,
    job: CopyJob<'_>,
    target: &std::path::Path,
) -> Result<ResolvedRestore> {
    let restore = RestoreJob {
        engines: job.engines,
        database: job.database,
        wanted: job.wanted.clone(),
        target,
        overwrite: Overwrite::Never,
        extras: RestoreExtras { sandbox: job.sandbox, ..RestoreExtras::default() },
    };
    let staging = staging_beside(world, target)?;
    plan_from(repository, &restore, &staging, job.preference).await
}

async fn mount(
    world: &World,
    repository: &Repository,
    job: CopyJob<'_>,
    scratch: &Scratch,
) -> Result<(ResolvedRestore, Mounted)> {
    let (point, overlay) = (scratch.mount_point(), scratch.overlay());
    scratch.make_for_mount()?;
    let resolved = resolve(world, repository, job, &point.join(NAME)).await?;
    let plan = &resolved.plan;
    let reader = repository.reader(&resolved.chosen.backup).await?;
    let (clock, place) = (Arc::clone(&world.clock), |part: &_| plan.place(part));
    let files = MountedFiles::lay_out(reader, clock, Some(overlay), &point, place).await?;
    if let Some(owner) = plan.owner {
        files.give_to(owner);
    }
    if let Some(modes) = plan.modes {
        files.set_modes(modes);
    }
    let name = plan.staging.file_name().ok_or_else(|| Error::bug("name a directory"))?;
    files.open_way(name)?;
    let unguarded = |cause: io::Error| {
        let step = "start the guard of a mount";
        Error::new(ErrorKind::Unsupported, code::NO_MOUNT, step).caused_by(cause)
    };
    let program = scratch.program().ok_or(io::ErrorKind::NotFound);
    // It is there before anybody can read.
    let guard = program.map_err(io::Error::from).and_then(|program| Guard::post(program, &point));
    let guard = guard.map_err(unguarded)?;
    let mount = files.mount("".as_ref(), &point, true)?;
    Ok((resolved, Mounted { mount, files, _guard: guard }))
}

/// Why something failed that read mounted files: the engine takes for its own damage what nobody
/// could read of the backup.
fn explain(error: Error, files: &MountedFiles) -> Error {
    let damage = files.damage();
    if let Some(outage) = files.outage() {
        return outage;
    }
    if damage.is_empty() {
        return error;
    }
    let unreadable = Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "read the backup")
        .caused_by(error)
        .why("what was backed up cannot be read; the database itself may be sound")
        .next("find out what else is damaged: stillpoint verify")
        .next("use another copy of the repository: --from NAME");
    damage.into_iter().fold(unreadable, |error, found| error.with("damaged", found))
}

/// An error and its causes, in a few words.
fn told(error: &Error) -> String {
    let mut text = format!("could not {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

impl<'a> PlannedCopy<'a> {
    /// Brings the database to its point.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub async fn bring_up(
        self,
        world: &World,
        repository: &Repository,
        meter: &Arc<Meter>,
    ) -> Result<ScratchCopy<'a>> {
        let Self { resolved, presented, scratch, mounted } = self;
        let start = world.clock.elapsed();
        match mounted {
            None => {
                let report = run(world, repository, &resolved, meter).await;
                let report = report.map_err(|error| match error.kind() {
                    ErrorKind::Exhausted => error.next("or where sandboxes lie: --scratch DIR"),
                    _ => error,
                })?;
                Ok(ScratchCopy {
                    resolved,
                    presented,
                    reached: report.reached.clone(),
                    log_bytes: report.log_bytes,
                    replay_took: report.replay_took,
                    restored: Some(report),
                    database: scratch.database(),
                    scratch,
                    mounted: None,
                })
            }
            Some(mounted) => {
                let reader = mounted.files.reader();
                let recovered = resolved.recover(repository, reader, meter).await;
                let (reached, log_bytes) = recovered.map_err(|e| explain(e, &mounted.files))?;
                Ok(ScratchCopy {
                    database: resolved.plan.database.clone(),
                    resolved,
                    presented,
                    reached,
                    log_bytes,
                    replay_took: world.clock.elapsed().saturating_sub(start),
                    restored: None,
                    scratch,
                    mounted: Some(mounted),
                })
            }
        }
    }
}

impl ScratchCopy<'_> {
    /// The mounted files, mounted no longer.
    pub(super) fn into_files(self) -> Result<(ResolvedRestore, Reached, MountedFiles)> {
        match self.mounted {
            Some(Mounted { mount, files, .. }) => {
                drop(mount);
                Ok((self.resolved, self.reached, files))
            }
            None => Err(Error::bug("mount a copy that was restored")),
        }
    }

    /// Opens a sandbox on it.
    ///
    /// # Errors
    ///
    /// As [`Engine::sandbox`].
    pub async fn open(&self) -> Result<Box<dyn Sandbox>> {
        self.resolved.open(&self.database, self.scratch).await
    }

    /// Runs the engine's check of files, where no restore has done so. Nobody may be writing.
    ///
    /// # Errors
    ///
    /// As [`Engine::check`].
    pub async fn check(&self) -> Result<(String, Vec<String>)> {
        match &self.restored {
            Some(report) => Ok((report.check.clone(), report.damage.clone())),
            None => self.resolved.check().await,
        }
    }

    /// Reads every byte of the backup and throws it away, where no restore has read it: what
    /// nobody looked at in a mounted backup is proven as well. Returns how many.
    ///
    /// # Errors
    ///
    /// The first that cannot be had.
    pub async fn read_back(&self, meter: &Meter) -> Result<u64> {
        match &self.mounted {
            Some(mounted) => mounted.files.reader().read_back(meter).await,
            None => Ok(0),
        }
    }

    /// Why something failed that read the copy: what the engine says of a read that failed is less
    /// than what we know.
    pub(super) fn explain(&self, error: Error) -> Error {
        match &self.mounted {
            Some(mounted) => explain(error, &mounted.files),
            None => error,
        }
    }

    /// An error of the store, if it once gave nothing: then what was found proves nothing.
    pub(super) fn outage(&self) -> Option<Error> {
        self.mounted.as_ref().and_then(|mounted| mounted.files.outage())
    }

    /// What could not be read of a mounted backup so far, as far as it is remembered.
    pub fn damage(&self) -> Vec<String> {
        self.mounted.as_ref().map(|mounted| mounted.files.damage()).unwrap_or_default()
    }
}
