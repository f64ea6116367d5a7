//! One restore: choose, plan, lay out, recover, check, publish. Nothing is visible before the end.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{fs::FlockOperation, io::Errno};
use stillpoint_contract::{
    Engine, Error, ErrorKind, LogEventKind, LogPosition, LogSource, Overwrite, PartName, Reached,
    Recovery, RecoveryTarget, RestoreExtras, RestorePlan, RestoreRequest, Result, Rewrite, Sandbox,
    SandboxRequest, SegmentHead, code,
};

use super::{
    point::{Chosen, Preference, SAME_COMMAND_AT, Wanted, choose, no_backup},
    scratch::Scratch,
    site::{Disks, Outside, Rewriting},
};
use crate::{
    pipeline::Meter,
    repository::{BackupReader, Repository, RepositoryLog, Timeline, manifest::Manifest},
    world::World,
};

/// What to restore, and where.
#[derive(Debug)]
pub struct RestoreJob<'a> {
    /// Every engine there is; the backup names its own.
    pub engines: &'a [Arc<dyn Engine>],
    /// The database's name in the repository.
    pub database: &'a str,
    /// Which state.
    pub wanted: Wanted,
    /// Where the database shall be.
    pub target: &'a Path,
    /// Whether an existing target may be replaced.
    pub overwrite: Overwrite,
    /// What is wanted beside the usual.
    pub extras: RestoreExtras,
}

/// A restore that can be done.
#[derive(Debug)]
pub struct ResolvedRestore {
    /// The backup and the target.
    pub chosen: Chosen,
    /// What the backup is.
    pub manifest: Manifest,
    /// How it becomes a database.
    pub plan: RestorePlan,
    /// Stored bytes of the log that will be replayed, as far as is known before.
    pub log_bytes: u64,
    /// Whether a database is put in its place in which the engine finds damage.
    pub accept_damage: bool,
    /// Whether a server is started afterwards.
    pub starts: bool,
    engine: Arc<dyn Engine>,
}

impl ResolvedRestore {
    /// Opens a sandbox on a database in a scratch directory.
    ///
    /// # Errors
    ///
    /// As [`Engine::sandbox`].
    pub(super) async fn open(
        &self,
        database: &Path,
        scratch: &Scratch,
    ) -> Result<Box<dyn Sandbox>> {
        let directory = scratch.directory();
        let request = SandboxRequest { database, directory: &directory, token: scratch.token() };
        self.engine.sandbox(request).await
    }

    /// Whether the engine checks what it reads by itself.
    pub(super) fn checks_as_it_reads(&self) -> bool {
        self.engine.checks_as_it_reads()
    }

    /// Runs the engine's check of the files where they were built. Returns what it said, and the
    /// damage that it found, where that is accepted.
    pub(super) async fn check(&self) -> Result<(String, Vec<String>)> {
        match self.engine.check(&self.plan).await {
            Ok(check) => Ok((check, Vec::new())),
            Err(error) => accepted(error, self.accept_damage),
        }
    }

    /// Replays log onto parts that are laid out, read by `reader`. Returns the point that was
    /// reached, and how many bytes of log were read.
    pub(super) async fn recover(
        &self,
        repository: &Repository,
        reader: &BackupReader,
        meter: &Meter,
    ) -> Result<(Reached, u64)> {
        write_files(&self.plan)?;
        meter.begin("replay", self.log_bytes);
        let evidence = self.manifest.evidence()?;
        let log = repository.log_from(&self.chosen.backup).await?;
        let mut log = MeteredLog { log, meter };
        let (plan, evidence) = (&self.plan, &evidence);
        let recovery = Recovery { plan, evidence, parts: reader, log: &mut log };
        let reached = self.engine.recover(recovery).await?;
        Ok((reached, log.log.bytes_read()))
    }

    /// How it is used by whoever has the engine and nothing of ours.
    pub(super) fn native_use(&self, file: &str) -> Vec<String> {
        self.engine.native_use(&self.manifest.version, file)
    }

    /// A position as the engine's own tools print it.
    pub fn render(&self, position: &LogPosition) -> String {
        self.engine.render(position)
    }
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// The point that was reached.
    pub reached: Reached,
    /// What the engine's own check said.
    pub check: String,
    /// The damage that the check found, where it was accepted.
    pub damage: Vec<String>,
    /// Bytes of the backup that were laid out.
    pub restored_bytes: u64,
    /// Of those, what was there already and did not have to be written.
    pub kept_bytes: u64,
    /// Where the server accepts connections that was started.
    pub started: Option<String>,
    /// Bytes of log that were read.
    pub log_bytes: u64,
    /// How long copying took.
    pub copy_took: Duration,
    /// How long replay took.
    pub replay_took: Duration,
    /// How long the engine's own check took.
    pub check_took: Duration,
    /// How long everything took.
    pub took: Duration,
}

/// Finds out whether and how the point can be had. Changes nothing.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) with the nearest points, [`Refused`](ErrorKind::Refused) when
/// the target exists. A point at which no transaction ends is found here where the captured log
/// lists its commits, and by [`run`] where only the engine can tell.
pub async fn plan(
    repository: &Repository,
    job: &RestoreJob<'_>,
    staging: &Path,
) -> Result<ResolvedRestore> {
    plan_from(repository, job, staging, Preference::Sound).await
}

/// The same, from the backup that is preferred.
pub(super) async fn plan_from(
    repository: &Repository,
    job: &RestoreJob<'_>,
    staging: &Path,
    preference: Preference,
) -> Result<ResolvedRestore> {
    let timeline = repository.timeline(job.database).await?;
    let engine = engine_of(job.engines, &timeline)?;
    let chosen = choose(repository, &timeline, &*engine, &job.wanted, preference).await?;
    check_commit(repository, &timeline, &*engine, &chosen).await?;
    let manifest = repository.manifest(&chosen.backup).await?;
    let engine = engine_named(job.engines, &manifest.engine)?;
    let evidence = manifest.evidence()?;
    let reader = repository.reader(&chosen.backup).await?;
    let lineages = timeline.lineages().into_iter().collect();
    let extras = RestoreExtras { lineages, ..job.extras.clone() };
    let request = RestoreRequest {
        evidence: &evidence,
        version: &manifest.version,
        settings: &manifest.settings,
        parts: &reader,
        extras: &extras,
        target: job.target,
        staging,
        until: &chosen.until,
        overwrite: job.overwrite,
    };
    let plan = engine.plan_restore(&request).await?;
    let log_bytes = if plan.replays_log {
        repository.log_bytes(&timeline, &chosen.backup, &chosen.until).await?
    } else {
        0
    };
    let starts = job.extras.starts;
    Ok(ResolvedRestore { chosen, manifest, plan, log_bytes, accept_damage: false, starts, engine })
}

/// Refuses a position at which no transaction ends, before anything is copied.
async fn check_commit(
    repository: &Repository,
    timeline: &Timeline,
    engine: &dyn Engine,
    chosen: &Chosen,
) -> Result<()> {
    let RecoveryTarget::Position(target) = &chosen.until else { return Ok(()) };
    let Some(own) = chosen.backup.commit.consistent_at.clone() else { return Ok(()) };
    let mut log = repository.log_in(timeline, &chosen.backup).await?;
    let (mut before, mut is_passed, mut lists_commits) = (own.clone(), false, false);
    while let Some(head) = log.next().await? {
        let start = head.range.start();
        if head.succeeds.is_some() && own.lineage != start.lineage {
            if start == target {
                return Ok(());
            }
            before = if is_passed { before } else { start.clone() };
        }
        is_passed |= head.range.touches(target);
        for event in &head.events {
            let position = start.at(event.offset);
            lists_commits |= event.what == LogEventKind::Commit;
            if position == *target {
                return Ok(());
            }
            if *target < position || (is_passed && position.lineage != target.lineage) {
                return Err(no_commit(engine, target, &before, Some(&position)));
            }
            if before < position || before.lineage != position.lineage {
                before = position;
            }
        }
    }
    if !lists_commits {
        return Ok(());
    }
    Err(no_commit(engine, target, &before, None))
}

fn no_commit(
    engine: &dyn Engine,
    target: &LogPosition,
    before: &LogPosition,
    after: Option<&LogPosition>,
) -> Error {
    let mut error =
        Error::new(ErrorKind::Missing, code::UNREACHABLE_POINT, "reach the chosen position")
            .with("asked", engine.render(target))
            .why("no transaction ends at this position: it lies inside one")
            .with("nearest before", engine.render(before));
    if let Some(after) = after {
        error = error.with("nearest after", engine.render(after));
    }
    error.next(format!("{SAME_COMMAND_AT}{before}"))
}

/// The engine of a database: that of its newest backup.
pub fn engine_of(engines: &[Arc<dyn Engine>], timeline: &Timeline) -> Result<Arc<dyn Engine>> {
    match timeline.backups.last() {
        Some(newest) => engine_named(engines, &newest.commit.engine),
        None => Err(no_backup(&timeline.database)),
    }
}

fn engine_named(engines: &[Arc<dyn Engine>], name: &str) -> Result<Arc<dyn Engine>> {
    engines.iter().find(|engine| engine.name() == name).cloned().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::UNKNOWN_SCHEME, "find the engine of the backup")
            .with("engine", name)
            .next("install a version of stillpoint that knows it")
    })
}

/// What the name of a staging directory has between the target's name and random digits.
const STAGING_MARK: &str = ".restoring-";
const STAGING_RANDOM_BYTES: usize = 6;

/// How the name of a directory ends in which a target is rewritten.
const REWRITING_MARK: &str = ".stillpoint-rewriting";

/// How many symbolic links in a row are followed, as the system does.
const LINKS_MAX: usize = 40;

/// What the target leads to, even when nothing is there yet.
fn behind_links(target: &Path) -> PathBuf {
    let mut target = target.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&target) {
            Ok(link) => target = target.parent().unwrap_or(Path::new("")).join(link),
            Err(_) => break,
        }
    }
    target
}

/// The one directory in which what stands at a target is rewritten, so that a restore that goes on
/// finds it.
pub fn rewriting_beside(target: &Path) -> Result<PathBuf> {
    let target = behind_links(target);
    let name = target.file_name().ok_or_else(|| no_name(&target))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(REWRITING_MARK);
    Ok(target.with_file_name(hidden))
}

fn no_name(target: &Path) -> Error {
    Error::new(ErrorKind::Invalid, code::USAGE, "find a name for the restored database")
        .with("target", target.display())
        .next("name a file: --to restored.db")
}

/// A new directory for a restore to work in: beside the target, or beside what a link at the target
/// leads to, so that the database can be renamed into its place.
pub fn staging_beside(world: &World, target: &Path) -> Result<PathBuf> {
    let target = behind_links(target);
    let name = target.file_name().ok_or_else(|| no_name(&target))?;
    let mut random = [0; STAGING_RANDOM_BYTES];
    world.entropy.fill(&mut random);
    let suffix = data_encoding::HEXLOWER.encode(&random);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!("{STAGING_MARK}{suffix}"));
    Ok(target.with_file_name(hidden))
}

/// Carries a plan out. Whatever goes wrong, the target is as it was before, and the staging
/// directory is removed.
pub async fn run(
    world: &World,
    repository: &Repository,
    resolved: &ResolvedRestore,
    meter: &Arc<Meter>,
) -> Result<RestoreReport> {
    let plan = &resolved.plan;
    let mut report = match &plan.rewrite {
        None => {
            let staging = Staging::create(&plan.staging)?;
            let outside = Outside::create(plan)?;
            let report = carry_out(world, repository, resolved, meter).await?;
            outside.keep();
            staging.remove()?;
            report
        }
        Some(rewrite) => {
            let owner = &resolved.manifest.identity.id;
            let rewriting = Rewriting::begin(plan, &rewrite.directory, owner)?;
            let report = async {
                let outside = Outside::create(plan)?;
                let report = carry_out(world, repository, resolved, meter).await?;
                outside.keep();
                Ok(report)
            };
            match report.await {
                Ok(report) => {
                    rewriting.end()?;
                    report
                }
                Err(error) => return Err(rewriting.explain(error)),
            }
        }
    };
    if resolved.starts {
        meter.begin("start", 0);
        report.started = Some(resolved.engine.start(plan).await?);
    }
    Ok(report)
}

async fn carry_out(
    world: &World,
    repository: &Repository,
    resolved: &ResolvedRestore,
    meter: &Arc<Meter>,
) -> Result<RestoreReport> {
    let ResolvedRestore { chosen, manifest, plan, engine, .. } = resolved;
    let start = world.clock.elapsed();
    let disks = Disks::open(plan)?;
    meter.begin("copy", manifest.size_bytes);
    let reader = repository.reader(&chosen.backup).await?;
    let place = |part: &PartName| plan.place(part);
    let (restored_bytes, kept_bytes) = match &plan.rewrite {
        None => (reader.extract(place, meter).await?, 0),
        Some(Rewrite { directory, last }) => {
            let settle = async || disks.settle().await;
            let done = reader.extract_over(directory, last, place, settle, meter).await?;
            (done.length_bytes, done.length_bytes - done.written_bytes)
        }
    };
    let copied = world.clock.elapsed();

    let (reached, log_bytes) = resolved.recover(repository, &reader, meter).await?;
    let replayed = world.clock.elapsed();

    meter.begin("check", 0);
    let (check, damage) = resolved.check().await?;
    let checked = world.clock.elapsed();
    disks.settle().await?;
    engine.publish(plan).await?;
    Ok(RestoreReport {
        reached,
        check,
        damage,
        restored_bytes,
        kept_bytes,
        started: None,
        log_bytes,
        copy_took: copied.saturating_sub(start),
        replay_took: replayed.saturating_sub(copied),
        check_took: checked.saturating_sub(replayed),
        took: world.clock.elapsed().saturating_sub(start),
    })
}

/// What the engine found, when that is accepted. Its bytes are those that were backed up: each was
/// verified when it was read.
fn accepted(error: Error, accept_damage: bool) -> Result<(String, Vec<String>)> {
    if error.code() != code::RESTORE_CHECK_FAILED {
        return Err(error);
    }
    if !accept_damage {
        return Err(error.next(
            "the same command with --accept-damage restores what was backed up, damage and all",
        ));
    }
    let mut damage: Vec<String> = error.facts().iter().map(|(_, found)| (*found).into()).collect();
    if damage.is_empty() {
        damage.push(error.to_string());
    }
    Ok(("failed: the engine found damage, which was accepted".to_owned(), damage))
}

/// Log whose bytes count as progress.
#[derive(Debug)]
struct MeteredLog<'a> {
    log: RepositoryLog<'a>,
    meter: &'a Meter,
}

#[async_trait]
impl LogSource for MeteredLog<'_> {
    async fn next(&mut self) -> Result<Option<SegmentHead>> {
        self.log.next().await
    }

    async fn body(&mut self) -> Result<Bytes> {
        let before = self.log.bytes_read();
        let body = self.log.body().await?;
        self.meter.advance(self.log.bytes_read() - before);
        Ok(body)
    }

    async fn reaches(&mut self, position: &LogPosition) -> Result<bool> {
        self.log.reaches(position).await
    }
}

fn write_files(plan: &RestorePlan) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};

    for file in &plan.files {
        let write = || {
            // One that was interrupted may have left it.
            let mut options = File::options();
            let options = options.write(true).create(true).truncate(true).mode(file.mode);
            let mut open = options.open(&file.path)?;
            open.write_all(&file.bytes)?;
            open.sync_all()
        };
        write().map_err(|cause| failed(&file.path, cause))?;
    }
    Ok(())
}

/// A directory that is removed with everything in it, also when the restore fails or is dropped.
/// Its lock says that its restore is alive, and goes with the process.
#[derive(Debug)]
struct Staging {
    path: Option<PathBuf>,
    _lock: File,
}

/// How often a directory is made that another restore takes for an abandoned one. It can do so
/// only in the instant before the lock is ours.
const STAGING_ATTEMPTS_MAX: u32 = 8;

impl Staging {
    fn create(path: &Path) -> Result<Self> {
        remove_abandoned(path);
        for _ in 0..STAGING_ATTEMPTS_MAX {
            // Nobody else may look at a database before its own permissions are known.
            let made = std::fs::DirBuilder::new().mode(0o700).create(path);
            made.map_err(|cause| failed(path, cause))?;
            let Ok(directory) = File::open(path) else { continue };
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => drop(std::fs::remove_dir(path)),
                // Where there are no locks, nobody removes what he cannot lock.
                _ if path.is_dir() => {
                    return Ok(Self { path: Some(path.to_owned()), _lock: directory });
                }
                _ => {}
            }
        }
        Err(failed(path, std::io::ErrorKind::ResourceBusy.into()))
    }

    fn remove(mut self) -> Result<()> {
        match self.path.take() {
            Some(path) => std::fs::remove_dir_all(&path).map_err(|cause| failed(&path, cause)),
            None => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(cause) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), "a staging directory stays behind: {cause}");
        }
    }
}

/// Removes what killed restores of the same target left behind, as far as that is possible.
fn remove_abandoned(staging: &Path) {
    let prefix = |name: &OsStr| {
        let (prefix, suffix) =
            name.as_bytes().split_at_checked(name.len().checked_sub(STAGING_RANDOM_BYTES * 2)?)?;
        let is_ours =
            prefix.ends_with(STAGING_MARK.as_bytes()) && suffix.iter().all(u8::is_ascii_hexdigit);
        is_ours.then(|| prefix.to_vec())
    };
    let Some(ours) = staging.file_name().and_then(prefix) else { return };
    let Some(parent) = staging.parent() else { return };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_directory || prefix(&entry.file_name()).as_ref() != Some(&ours) {
            continue;
        }
        let Ok(directory) = File::open(entry.path()) else { continue };
        if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(cause) = std::fs::remove_dir_all(entry.path())
        {
            let path = entry.path();
            tracing::warn!(path = %path.display(), "an abandoned restore stays behind: {cause}");
        }
    }
}

pub(super) fn failed(path: &Path, cause: std::io::Error) -> Error {
    let (kind, code) = match cause.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Exhausted, code::FILE_FULL)
        }
        std::io::ErrorKind::NotFound => (ErrorKind::Missing, code::FILE),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, code::FILE)
        }
        _ => (ErrorKind::Transient, code::FILE),
    };
    Error::new(kind, code, format!("write {}", path.display()))
        .caused_by(cause)
        .next("choose a target in a directory that exists, has room and can be written")
}
