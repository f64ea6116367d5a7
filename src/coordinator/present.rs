//! A backup that somebody wants to see as files, at a place of their choice.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_contract::{
    Engine, Error, ErrorKind, Overwrite, Reached, RestoreExtras, Result, SandboxUse, code, quoted,
};

use super::{
    mount::{Mount, MountedFiles, obstacle},
    point::{Preference, Wanted, no_backup},
    restore::{ResolvedRestore, RestoreJob, plan, staging_beside},
    scratch::Scratch,
    scratch_copy::{CopyJob, Presented, Way, plan_copy},
};
use crate::{
    pipeline::Meter,
    repository::{Repository, Timeline, history::Committed},
    world::World,
};

const STEP: &str = "mount a backup";

/// What to show, and where.
#[derive(Debug)]
pub struct PresentJob<'a> {
    /// Every engine there is; the backup names its own.
    pub engines: &'a [Arc<dyn Engine>],
    /// The database's name in the repository.
    pub database: &'a str,
    /// Which state.
    pub wanted: &'a Wanted,
    /// An empty directory.
    pub point: &'a Path,
}

/// What is shown, for as long as this lives.
#[derive(Debug)]
pub struct Shown {
    /// The backup, and how it became a database.
    pub resolved: ResolvedRestore,
    /// The point that was reached; `None` where the backup is shown as it was copied.
    pub reached: Option<Reached>,
    mount: Mount,
    files: MountedFiles,
}

impl Shown {
    /// Waits until somebody unmounts it.
    pub async fn ended(&self) {
        self.mount.ended().await;
    }

    /// Where it is.
    pub fn point(&self) -> &Path {
        self.mount.point()
    }

    /// What could not be read so far, as far as it is remembered.
    pub fn damage(&self) -> Vec<String> {
        self.files.damage()
    }
}

/// Refuses what cannot be mounted on, and systems that cannot mount. Looks, and changes nothing.
///
/// # Errors
///
/// [`Unsupported`](ErrorKind::Unsupported) without FUSE, [`Refused`](ErrorKind::Refused) for a
/// directory that holds something.
pub fn check_point(database: &str, point: &Path) -> Result<()> {
    if let Some(why) = obstacle() {
        let restore = format!("stillpoint restore {} --to PATH", quoted(database));
        return Err(Error::new(ErrorKind::Unsupported, code::NO_MOUNT, STEP)
            .with("system", why)
            .why("a backup is shown as files through FUSE, which this system does not offer us")
            .next(restore)
            .next("load the kernel's module: modprobe fuse; in a container, hand /dev/fuse in"));
    }
    let refuse = |why: &'static str| {
        Err(Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
            .with("directory", point.display())
            .why(why)
            .next("name an empty directory"))
    };
    let metadata = match fs::metadata(point) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return refuse("it is no directory"),
        Err(cause) => {
            return Err(Error::new(ErrorKind::Missing, code::FILE, STEP)
                .with("directory", point.display())
                .caused_by(cause)
                .next("make it first: mkdir -p DIR"));
        }
    };
    let around = fs::canonicalize(point).ok().and_then(|real| fs::metadata(real.parent()?).ok());
    if around.is_some_and(|around| around.dev() != metadata.dev()) {
        return refuse("something is mounted there already");
    }
    let may_write = rustix::fs::access(point, rustix::fs::Access::WRITE_OK).is_ok();
    if !rustix::process::geteuid().is_root() && !may_write {
        return refuse("you may not write in it, and so not mount anything there");
    }
    match fs::read_dir(point).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => refuse("it is not empty, and what it holds would be hidden"),
        Err(_) => refuse("it cannot be read"),
    }
}

/// Shows the newest backup at or before a point, as it was copied. Nothing can be written.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when there is none; what keeps it from being mounted.
pub async fn present_copied(
    world: &World,
    repository: &Repository,
    job: &PresentJob<'_>,
) -> Result<Shown> {
    let point = fs::canonicalize(job.point).map_err(|cause| {
        Error::new(ErrorKind::Config, code::FILE, STEP)
            .with("directory", job.point.display())
            .caused_by(cause)
    })?;
    let timeline = repository.timeline(job.database).await?;
    let wanted = match job.wanted {
        Wanted::Latest => Wanted::Backup(newest(&timeline, |_| true)?),
        Wanted::Time(at) => Wanted::Backup(newest(&timeline, |b| b.commit.consistent_time <= *at)?),
        other => other.clone(),
    };
    // Nothing is ever made there: it only names places.
    let target = point.join("database");
    let restore = RestoreJob {
        engines: job.engines,
        database: job.database,
        wanted,
        target: &target,
        overwrite: Overwrite::Never,
        extras: RestoreExtras::default(),
    };
    let resolved = plan(repository, &restore, &staging_beside(world, &target)?).await?;
    let reader = repository.reader(&resolved.chosen.backup).await?;
    let (clock, place) = (Arc::clone(&world.clock), |part: &_| resolved.plan.place(part));
    let files = MountedFiles::lay_out(reader, clock, None, &point, place).await?;
    let path = below(&resolved, &point)?;
    let shown = files.alone(&path, OsStr::new(&file_name(job.database)))?;
    let mount = files.mount(&shown, &point, false)?;
    Ok(Shown { resolved, reached: None, mount, files })
}

/// Brings a copy to the point, in a scratch directory, and shows it. What is written vanishes.
///
/// # Errors
///
/// As [`plan`] and [`Engine::recover`]; what keeps it from being mounted.
pub async fn present_at(
    world: &World,
    repository: &Repository,
    job: &PresentJob<'_>,
    scratch: &Scratch,
    meter: &Arc<Meter>,
) -> Result<Shown> {
    let copy = CopyJob {
        engines: job.engines,
        database: job.database,
        wanted: job.wanted,
        preference: Preference::Sound,
        way: Way::Mount,
        sandbox: SandboxUse::None,
    };
    let planned = plan_copy(world, repository, copy, scratch).await?;
    if let Presented::Restored { why } = &planned.presented {
        return Err(Error::new(ErrorKind::Unsupported, code::NO_MOUNT, STEP)
            .with("system", why)
            .next(format!("stillpoint restore {} --to PATH", quoted(job.database)))
            .next("without --read-write, the backup is shown as it was copied"));
    }
    let copy = planned.bring_up(world, repository, meter).await?;
    let path = below(&copy.resolved, &scratch.mount_point())?;
    let (resolved, reached, files) = copy.into_files()?;
    let shown = files.alone(&path, OsStr::new(&file_name(job.database)))?;
    let mount = files.mount(&shown, job.point, true)?;
    Ok(Shown { resolved, reached: Some(reached), mount, files })
}

fn newest(timeline: &Timeline, is_wanted: impl Fn(&Committed) -> bool) -> Result<String> {
    let found = timeline.backups.iter().filter(|backup| is_wanted(backup));
    match found.max_by_key(|backup| backup.commit.consistent_time) {
        Some(backup) => Ok(backup.commit.backup.clone()),
        None => match timeline.backups.first() {
            None => Err(no_backup(&timeline.database)),
            Some(first) => {
                Err(Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "find a backup")
                    .with("oldest backup", first.commit.consistent_time.to_rfc3339())
                    .why("every backup is of a later moment")
                    .next(format!("stillpoint timeline {}", quoted(&timeline.database))))
            }
        },
    }
}

fn below(resolved: &ResolvedRestore, base: &Path) -> Result<PathBuf> {
    let path = resolved.plan.database.strip_prefix(base);
    path.map(Path::to_owned).map_err(|cause| Error::bug(STEP).caused_by(cause))
}

/// The name of a database as that of a file.
fn file_name(database: &str) -> String {
    let name = database.replace(['/', '\0'], "_");
    if matches!(name.as_str(), "." | "..") { "database".to_owned() } else { name }
}
