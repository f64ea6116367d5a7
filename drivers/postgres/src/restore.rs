//! Laying a cluster out, checking it and putting it in its place.

use std::{
    fs::{self, File},
    io,
    num::NonZero,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread::{self, available_parallelism},
    time::Duration,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    process::{Pid, test_kill_process},
};
use stillpoint_contract::{
    Clock, Error, ErrorKind, GeneratedFile, Lineage, Overwrite, Placement, RecoveryTarget,
    RestorePlan, RestoreRequest, Result, Rewrite, SandboxUse, code,
};

use crate::{
    checksum::bad_pages,
    copy::control::{self, CONTROL_FILE},
    error,
    layout::Layout,
    notes,
    recover::{PENDING_FILE, PRIMARY_FILE, SPACES, STANDBY_FILE, Server, TAKEN_FILE, blocking},
    share, spaces,
    version::MAJORS,
};

/// The length of a file of a relation, after which another one begins.
const RELATION_FILE_BYTES: u64 = 1 << 30;

/// Pages that are read at once, and that one thread checks before it looks for others.
const PAGES_AT_ONCE: u32 = 128;
const STRETCH_PAGES: u32 = 8 * PAGES_AT_ONCE;

/// Threads that check pages, and stretches that wait for one. More would wait for the disk.
const CHECKS_AT_ONCE_MAX: usize = 4;
const STRETCHES_QUEUED_MAX: usize = 16;

/// How often it is looked whether a server that replayed for us is gone, and after what time.
const DYING_LOOKS_MAX: u32 = 100;
const DYING_PAUSE: Duration = Duration::from_millis(50);

/// What proves that the point was reached.
const PROOF: &str = "replay by a server ends exactly there; then every page's checksum";
const PROOF_OF_STANDBY: &str = "the standby itself, which replays all WAL and then asks for more";

/// How many damaged pages are named.
const FINDINGS_MAX: usize = 8;

/// Decides what goes where. Changes nothing.
pub(crate) async fn plan(
    request: &RestoreRequest<'_>,
    programs: &[PathBuf],
    clock: &dyn Clock,
) -> Result<RestorePlan> {
    let layout = Layout::read(request.parts).await?;
    let target = absolute(request.target)?;
    let extras = request.extras;
    let overwrite = if extras.rewrites { Overwrite::Replace } else { request.overwrite };
    let found = check_target(&target, overwrite)?;
    if extras.rewrites && found == Found::Cluster {
        check_same(&target, &layout)?;
    }
    let follows = extras.follows.as_ref();
    if follows.is_some()
        && matches!(request.until, RecoveryTarget::Time(_) | RecoveryTarget::Position(_))
    {
        return Err(Error::new(
            ErrorKind::Invalid,
            code::USAGE,
            "make a standby of another moment",
        )
        .why("a standby goes wherever its primary is")
        .next("leave --at out"));
    }
    let major = layout.server_version_num / 10_000;
    let server = Server::find(programs, major).await;
    if (extras.starts || extras.sandbox != SandboxUse::None) && server.is_none() {
        return Err(no_server(&layout, programs).await);
    }
    if let (SandboxUse::Bring, Some(server)) = (extras.sandbox, &server) {
        share::find_dump(server, major).await?;
    }
    let staged = staged(request.staging);
    // The server that replayed for a restore that was killed dies with it, but not at once.
    let mut looks = 0;
    while extras.rewrites && is_in_use(&staged) && looks < DYING_LOOKS_MAX {
        clock.sleep(DYING_PAUSE).await;
        looks += 1;
    }
    if extras.rewrites && is_in_use(&staged) {
        let step = "go on with a restore that was interrupted";
        return Err(Error::new(ErrorKind::Refused, code::TARGET_IN_USE, step)
            .with("directory", staged.display())
            .why("the server that replayed for it is still at work there")
            .next("wait until it has ended, then run the same command again"));
    }
    let rule = |prefix: &str, path| Placement { prefix: prefix.to_owned(), path };
    let moved = spaces::place(&layout, &extras.relocations, &target)?;
    let mut placements = vec![rule("stillpoint/", request.staging.join("stillpoint"))];
    placements.extend(moved.iter().map(|(oid, path)| rule(&spaces::prefix(*oid), path.clone())));
    placements.push(rule("", staged.clone()));
    let rewrite = Rewrite { directory: staged.clone(), last: CONTROL_FILE.to_owned() };
    let mut notes = notes::differences(&layout, server.as_ref());
    let (files, proof) = match follows {
        None => (taken(request, &layout), PROOF),
        Some(primary) => {
            notes.push(format!("once a server is started on it, it follows {primary}"));
            (vec![generated(request, PRIMARY_FILE, primary.clone())], PROOF_OF_STANDBY)
        }
    };
    Ok(RestorePlan {
        placements,
        relocated: moved.into_iter().map(|(_, path)| path).collect(),
        rewrite: extras.rewrites.then_some(rewrite),
        notes,
        owner: server.as_ref().and_then(|server| server.owner),
        modes: Some((layout.directory_mode, layout.file_mode)),
        target,
        staging: request.staging.to_owned(),
        database: staged,
        files,
        replays_log: !matches!(request.until, RecoveryTarget::Consistent),
        until: request.until.clone(),
        overwrite,
        proof: proof.to_owned(),
    })
}

/// Timelines are numbers, and a server takes the next one that it does not know: it must know of
/// all that are kept, or two histories would have one name.
fn taken(request: &RestoreRequest<'_>, layout: &Layout) -> Vec<GeneratedFile> {
    let number = |lineage: &Lineage| {
        let (system, timeline) = lineage.as_str().split_once('/')?;
        timeline.parse::<u32>().ok().filter(|_| system == layout.system_identifier)
    };
    let newest = request.extras.lineages.iter().filter_map(number).max();
    let file = |timeline: u32| generated(request, TAKEN_FILE, timeline.to_string());
    newest.map(file).into_iter().collect()
}

/// A file for whoever replays the WAL.
fn generated(request: &RestoreRequest<'_>, name: &str, text: String) -> GeneratedFile {
    GeneratedFile { path: request.staging.join(name), bytes: text.into(), mode: 0o600 }
}

async fn no_server(layout: &Layout, programs: &[PathBuf]) -> Error {
    let major = layout.server_version_num / 10_000;
    let mut found = Vec::new();
    for other in MAJORS.filter(|other| *other != major) {
        found.extend(Server::find(programs, other).await.map(|_| other.to_string()));
    }
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "start a server afterwards")
        .with("version of the backup", &layout.server_version)
        .with("versions installed here", found)
        .why("only a server of the same major version can use the restored files")
        .next(format!("install PostgreSQL {major}, and run the same command again"))
        .next("without --start, files and WAL are laid out for a server to be started elsewhere")
}

/// Only a directory of the same cluster is worth comparing, and only it may be rewritten.
fn check_same(target: &Path, layout: &Layout) -> Result<()> {
    let refuse = |what, there: String, wanted: String| {
        let step = "rewrite the directory that is there";
        Err(Error::new(ErrorKind::Refused, code::FOREIGN_DATABASE, step)
            .with("target", target.display())
            .with("there", format!("{what} {there}"))
            .with("in the backup", format!("{what} {wanted}"))
            .why("it is the directory of another cluster")
            .next("the same command with --force, and without --delta, replaces it"))
    };
    let major = (layout.server_version_num / 10_000).to_string();
    let version = fs::read_to_string(target.join("PG_VERSION")).unwrap_or_default();
    if version.trim() != major {
        return refuse("version", version.trim().to_owned(), major);
    }
    let control = fs::read(target.join(CONTROL_FILE)).ok();
    let control = control.as_deref().and_then(control::decode);
    let system =
        control.map_or_else(|| "unreadable".to_owned(), |c| c.system_identifier.to_string());
    if system != layout.system_identifier {
        return refuse("system identifier", system, layout.system_identifier.clone());
    }
    Ok(())
}

/// Where the data directory is built.
pub(crate) fn staged(staging: &Path) -> PathBuf {
    staging.join("data")
}

fn absolute(target: &Path) -> Result<PathBuf> {
    if let Ok(real) = fs::canonicalize(target) {
        return Ok(real);
    }
    let invalid = |why: &'static str| {
        Error::new(ErrorKind::Invalid, code::FILE, "find the target's directory")
            .with("target", target.display())
            .why(why)
    };
    let name = target.file_name().ok_or_else(|| invalid("it names no directory"))?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).map_err(|cause| {
        invalid("the directory around it does not exist or cannot be entered").caused_by(cause)
    })?;
    Ok(parent.join(name))
}

/// What stands at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Empty,
    Cluster,
    Other,
}

fn look(target: &Path) -> Found {
    match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
        Err(_) if fs::symlink_metadata(target).is_err() => Found::Nothing,
        Ok(true) => Found::Empty,
        Ok(false) if target.join("PG_VERSION").is_file() => Found::Cluster,
        Ok(false) | Err(_) => Found::Other,
    }
}

fn check_target(target: &Path, overwrite: Overwrite) -> Result<Found> {
    let found = look(target);
    let refuse = |code, why: &'static str| {
        Error::new(ErrorKind::Refused, code, "restore beside existing files")
            .with("target", target.display())
            .why(why)
    };
    match (found, overwrite) {
        (Found::Other, _) => {
            Err(refuse(code::TARGET_EXISTS, "something else than a cluster is there")
                .next("choose a place where nothing is: --to PATH"))
        }
        (Found::Cluster, Overwrite::Never) => {
            Err(refuse(code::TARGET_EXISTS, "a cluster is there already")
                .next("the same command with --force replaces it"))
        }
        (Found::Cluster, Overwrite::Replace) if is_in_use(target) => {
            Err(refuse(code::TARGET_IN_USE, "a server is running on it")
                .next(format!("pg_ctl stop -D {}", target.display())))
        }
        (Found::Nothing | Found::Empty, _) | (Found::Cluster, Overwrite::Replace) => Ok(found),
    }
}

/// Whether the server that last locked a cluster still lives.
fn is_in_use(target: &Path) -> bool {
    let lock = fs::read_to_string(target.join("postmaster.pid")).unwrap_or_default();
    // In single-user mode the number is negative.
    let number = lock.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    let process = number.and_then(|number| Pid::from_raw(number.checked_abs()?));
    process.is_some_and(|process| match test_kill_process(process) {
        Ok(()) => true,
        Err(errno) => errno == rustix::io::Errno::PERM,
    })
}

/// Verifies the checksum of every page.
pub(crate) async fn check(plan: &RestorePlan) -> Result<String> {
    let data = staged(&plan.staging);
    if data.join(STANDBY_FILE).exists() {
        let told =
            "a standby: a server that is started on it replays the WAL, and follows its primary";
        return Ok(told.to_owned());
    }
    if data.join(PENDING_FILE).exists() {
        return Ok("no server of this version is installed here: its files and WAL are in place, \
                   and it replays them when it is started"
            .to_owned());
    }
    let layout = plan.staging.join("stillpoint/layout.json");
    let (path, relocated) = (data.clone(), plan.relocated.clone());
    let checked = blocking(&data, move || {
        let layout: Layout = serde_json::from_slice(&fs::read(layout)?)?;
        if !layout.data_checksums {
            return Ok(None);
        }
        Check { layout: &layout, root: &path }.run(&relocated).map(Some)
    });
    match checked.await? {
        None => Ok("replayed by a server; this cluster has no page checksums".to_owned()),
        Some((pages, bad)) if bad.is_empty() => {
            Ok(format!("replayed by a server; checksums of {pages} pages: ok"))
        }
        Some((pages, bad)) => {
            let step = "check the restored cluster";
            let error = Error::new(ErrorKind::Corrupt, code::RESTORE_CHECK_FAILED, step)
                .why(format!("{} of {pages} pages differ from their checksums", bad.len()));
            Err(bad.iter().take(FINDINGS_MAX).fold(error, |error, page| error.with("found", page)))
        }
    }
}

/// A walk over all pages.
struct Check<'a> {
    layout: &'a Layout,
    root: &'a Path,
}

/// Neighbouring pages of a file, which one thread reads.
struct Stretch {
    path: PathBuf,
    /// Which file of its relation it is.
    segment: u32,
    first_page: u32,
}

impl Check<'_> {
    /// Checks everything: how many pages there are, and which are bad.
    fn run(&self, relocated: &[PathBuf]) -> io::Result<(u64, Vec<String>)> {
        let (sender, receiver) = mpsc::sync_channel(STRETCHES_QUEUED_MAX);
        let receiver = Mutex::new(receiver);
        let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let work = || {
            let (mut pages, mut bad, mut outcome) = (0, Vec::new(), Ok(()));
            // Who failed goes on taking what is found, so that the walk comes to its end.
            while let Ok(stretch) = next() {
                outcome = outcome.and_then(|()| self.stretch(&stretch, &mut pages, &mut bad));
            }
            outcome.map(|()| (pages, bad))
        };
        let threads = available_parallelism().map_or(1, NonZero::get).min(CHECKS_AT_ONCE_MAX);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let walked = self.walk(relocated, &sender);
            drop(sender);
            let (mut pages, mut bad) = (0, Vec::new());
            for worker in workers {
                let found = worker.join().map_err(|_| io::Error::other("a check panicked"))?;
                let (its_pages, its_bad) = found?;
                pages += its_pages;
                bad.extend(its_bad);
            }
            bad.sort_unstable();
            walked.map(|()| (pages, bad))
        })
    }

    fn walk(&self, relocated: &[PathBuf], found: &SyncSender<Stretch>) -> io::Result<()> {
        self.directory(&self.root.join("global"), found)?;
        self.below(&self.root.join("base"), found)?;
        self.below(&self.root.join(SPACES), found)?;
        self.below(&self.root.join("pg_tblspc"), found)?;
        relocated.iter().try_for_each(|space| self.below(space, found))
    }

    fn below(&self, path: &Path, found: &SyncSender<Stretch>) -> io::Result<()> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.below(&entry.path(), found)?;
            }
        }
        self.directory(path, found)
    }

    fn directory(&self, path: &Path, found: &SyncSender<Stretch>) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(segment) = relation_segment(name)
                && path.is_file()
            {
                let pages = fs::metadata(&path)?.len() / u64::from(self.page_bytes());
                let pages = u32::try_from(pages).map_err(io::Error::other)?;
                for first_page in (0..pages).step_by(STRETCH_PAGES as usize) {
                    let stretch = Stretch { path: path.clone(), segment, first_page };
                    found.send(stretch).map_err(io::Error::other)?;
                }
            }
        }
        Ok(())
    }

    fn page_bytes(&self) -> u32 {
        self.layout.page_bytes.max(512)
    }

    /// Adds the pages of a stretch, and which of them are bad.
    fn stretch(
        &self,
        Stretch { path, segment, first_page }: &Stretch,
        pages: &mut u64,
        bad: &mut Vec<String>,
    ) -> io::Result<()> {
        let page_bytes = self.page_bytes();
        let per_file = u32::try_from(RELATION_FILE_BYTES / u64::from(page_bytes)).unwrap_or(1);
        let first = segment.wrapping_mul(per_file);
        let part = path.strip_prefix(self.root).unwrap_or(path).display().to_string();
        let file = File::open(path)?;
        let mut buffer = vec![0; (PAGES_AT_ONCE * page_bytes) as usize];
        for at in
            (*first_page..first_page.saturating_add(STRETCH_PAGES)).step_by(PAGES_AT_ONCE as usize)
        {
            let length = fill(&file, &mut buffer, u64::from(at) * u64::from(page_bytes))?;
            let bytes = &buffer[..length];
            *pages += bytes.chunks_exact(page_bytes as usize).len() as u64;
            let found = bad_pages(bytes, page_bytes as usize, first.wrapping_add(at));
            bad.extend(found.into_iter().map(|page| {
                let page = at + page;
                let mut known = self.layout.corrupt_pages.iter();
                let is_known = known.any(|known| known.part == part && known.page == page);
                let when = if is_known { ", as it was when it was backed up" } else { "" };
                format!("page {page} of {part} differs from its checksum{when}")
            }));
            if length < buffer.len() {
                break;
            }
        }
        Ok(())
    }
}

/// Reads up to as much as the buffer holds.
fn fill(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// The number of a relation's file, such as 2 for `16384.2` or `16384_vm.2`; `None` for others.
fn relation_segment(name: &str) -> Option<u32> {
    let (relation, segment) = match name.split_once('.') {
        Some((relation, segment)) => (relation, segment.parse().ok()?),
        None => (name, 0),
    };
    let digits = relation.trim_end_matches("_fsm").trim_end_matches("_vm");
    let digits = digits.trim_end_matches("_init");
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(segment)
}

/// Puts the cluster at the target in one step: the name leads to the old directory or to the new
/// one at every moment. What stood there lies in the staging directory afterwards.
pub(crate) async fn publish(plan: &RestorePlan) -> Result<()> {
    let (from, target, overwrite) = (staged(&plan.staging), plan.target.clone(), plan.overwrite);
    let found = check_target(&target, overwrite)?;
    // Not on another thread, which would outlive a restore that is dropped here, and put in its
    // place what is being removed.
    let renamed = match found {
        Found::Cluster => exchange(&from, &target),
        // Replaces an empty directory, and nothing else.
        Found::Empty => fs::rename(&from, &target),
        _ => rename_to_new(&from, &target),
    };
    let path = target.clone();
    let sync = move || File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all();
    let published = match renamed {
        Ok(()) => tokio::task::spawn_blocking(sync)
            .await
            .map_err(|cause| Error::bug("publish").caused_by(cause))?,
        Err(cause) => Err(cause),
    };
    published.map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
            Error::new(ErrorKind::Refused, code::TARGET_EXISTS, "restore beside existing files")
                .with("target", target.display())
                .why("it was made just now")
        }
        _ => error::file(cause, "put the cluster in its place", &target),
    })
}

fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        // A file system without it: the old cluster is set aside first.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::rename(other, one.with_file_name("replaced"))?;
            fs::rename(one, other)
        }
        exchanged => Ok(exchanged?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_relations_are_told_from_others() {
        for (name, segment) in
            [("16384", 0), ("16384.2", 2), ("1259_fsm", 0), ("16384_vm.1", 1), ("16384_init", 0)]
        {
            assert_eq!(relation_segment(name), Some(segment), "{name}");
        }
        for name in ["pg_control", "PG_VERSION", "pg_filenode.map", "", "_vm", "t3_16384", "1.a"] {
            assert_eq!(relation_segment(name), None, "{name}");
        }
    }
}
