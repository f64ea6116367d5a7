//! The folder itself: which points lie there, which were fetched, and what killed work left.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use stillpoint_contract::{Engine, Error, ErrorKind, Result, code};

use super::manifest::{HANDOFF_SCHEMA, PointManifest};
use crate::{coordinator::ScratchPlace, repository::names, world::World};

/// The last file of a point: the others are complete.
pub(super) const READY: &str = ".ready";
/// The same, before it has its name.
pub(super) const READY_SOON: &str = ".ready.soon";
/// Whoever fetched a point puts this beside [`READY`].
const ACKNOWLEDGED: &str = ".ack";
/// What is said of a point.
pub(super) const MANIFEST: &str = "manifest.json";
/// The folder of a database that remembers what was handed over and is gone.
const GONE: &str = ".gone";
/// Who works in a folder that has no name yet.
pub(super) const OWNER: &str = ".owner";

/// How names of folders end that are written, and that are removed.
const WRITING: &str = ".publishing";
const REMOVING: &str = ".removing";

const RANDOM_BYTES: usize = 6;

/// The longest manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// The longest name of a process.
const OWNER_BYTES_MAX: u64 = 4 << 10;

/// Work of which nobody can tell whether it goes on, such as that of another machine, is given up
/// when it has not changed for so long.
const ABANDONED_AFTER: TimeDelta = TimeDelta::hours(24);

/// How often what is there is asked for when a shared drive says that it has moved.
const LOOKS_MAX: u32 = 4;

/// How the time of a point is written in the name of its folder.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// A folder in which complete native files are left for others.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Where it is. It is never created: it may be a drive that is not mounted.
    pub path: PathBuf,
    /// How many bytes it may hold.
    pub quota: Option<u64>,
    /// Every engine there is.
    pub engines: Vec<Arc<dyn Engine>>,
    /// Where databases are restored before they are handed over.
    pub scratch: ScratchPlace,
    /// A name of this process, where it can have one, and whether the process of a name has ended.
    pub process: (Option<String>, fn(&str) -> bool),
}

/// A point that was handed over completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What is said of it.
    pub manifest: PointManifest,
    /// Whether whoever fetches it has confirmed to have it.
    pub is_acknowledged: bool,
    /// Its folder.
    pub folder: PathBuf,
}

/// What lies in the folder of one database.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// Points, in the order of their times.
    pub(super) points: Vec<Point>,
    /// Folders that have their name, and are not said to be complete.
    pub(super) unready: Vec<PathBuf>,
    /// Backups that were handed over, and are gone from here.
    pub(super) gone: Vec<(String, DateTime<Utc>)>,
}

/// Asks again when a shared drive says that what was open there is another file by now.
///
/// Source: nfs(5): ESTALE comes when a handle was replaced at the server; a new look finds the new
/// one.
pub(in crate::coordinator) fn patiently<T>(
    mut ask: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    for _ in 1..LOOKS_MAX {
        match ask() {
            Err(cause) if cause.raw_os_error() == Some(rustix::io::Errno::STALE.raw_os_error()) => {
            }
            asked => return asked,
        }
    }
    ask()
}

pub(in crate::coordinator) fn failed(step: &str, path: &Path, cause: io::Error) -> Error {
    let (kind, code) = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Exhausted, code::FILE_FULL)
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, code::FILE)
        }
        _ => (ErrorKind::Transient, code::FILE),
    };
    Error::new(kind, code, format!("{step} {}", path.display())).caused_by(cause)
}

/// Makes what a folder lists durable.
pub(in crate::coordinator) fn settle(folder: &Path) -> Result<()> {
    let done = patiently(|| File::open(folder)?.sync_all());
    done.map_err(|cause| failed("sync the folder", folder, cause))
}

/// A file with these bytes, durable; its folder is not synced. Others read it as the folder lets
/// them.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| failed("write", path, cause))
}

/// A new file that the group of its folder may read, whatever usual files are like.
pub(super) fn create(path: &Path) -> io::Result<File> {
    const SHARED: u32 = 0o640;
    let file = OpenOptions::new().write(true).create_new(true).mode(SHARED).open(path)?;
    let mode = file.metadata()?.mode();
    if mode & SHARED != SHARED {
        file.set_permissions(Permissions::from_mode(mode | SHARED))?;
    }
    Ok(file)
}

/// A folder whose files its group may fetch, and acknowledge.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    const SHARED: u32 = 0o770;
    let make = || {
        DirBuilder::new().mode(SHARED).create(path)?;
        let mode = fs::metadata(path)?.mode();
        // What the folder above hands down stays as it is.
        if mode & SHARED == SHARED {
            return Ok(());
        }
        fs::set_permissions(path, Permissions::from_mode(mode | SHARED))
    };
    make().map_err(|cause| failed("make the folder", path, cause))
}

fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    patiently(|| {
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
        }
        Ok(bytes)
    })
}

fn is_there(path: &Path) -> io::Result<bool> {
    patiently(|| path.try_exists())
}

/// The names in a folder, in order; none, if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let listed = patiently(|| {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Ok(names) => {
            // What is not ours may have any name.
            let mut names: Vec<String> = names.into_iter().flatten().collect();
            names.sort();
            Ok(names)
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(failed("list", folder, cause)),
    }
}

/// The name of the folder of a point.
pub(super) fn point_name(at: DateTime<Utc>, backup: &str) -> String {
    format!("{}-{backup}", at.format(TIME))
}

/// The backup that a folder is named after.
fn backup_of(name: &str) -> Option<&str> {
    let (time, backup) = name.split_once('-')?;
    NaiveDateTime::parse_from_str(time, TIME).ok()?;
    let is_id = backup.len() == 26 && backup.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then_some(backup)
}

/// The point that a passing name of ours was made for, and how that name ends.
fn passing(name: &str) -> Option<(&str, &'static str)> {
    let ending = [WRITING, REMOVING].into_iter().find(|ending| name.ends_with(ending))?;
    let (point, random) = name.strip_prefix('.')?.strip_suffix(ending)?.rsplit_once('.')?;
    let is_random =
        random.len() == 2 * RANDOM_BYTES && random.bytes().all(|b| b.is_ascii_hexdigit());
    (is_random && backup_of(point).is_some()).then_some((point, ending))
}

fn passing_name(world: &World, point: &str, ending: &str) -> String {
    let mut random = [0; RANDOM_BYTES];
    world.entropy.fill(&mut random);
    format!(".{point}.{}{ending}", data_encoding::HEXLOWER.encode(&random))
}

/// Reads what is said of a point, if it is of this form and of this point.
pub(super) fn manifest_in(folder: &Path, database: &str) -> Result<PointManifest> {
    let path = folder.join(MANIFEST);
    let bytes = read(&path, MANIFEST_BYTES_MAX).map_err(|cause| failed("read", &path, cause))?;
    let foreign = |why: String| {
        Error::new(ErrorKind::Refused, code::FOREIGN_REPOSITORY, "use what lies in the outbox")
            .with("folder", folder.display())
            .why(why)
            .next("move the folder away: it has a name of ours, and holds something else")
    };
    let manifest: PointManifest =
        serde_json::from_slice(&bytes).map_err(|cause| foreign(cause.to_string()))?;
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_own = manifest.schema == HANDOFF_SCHEMA
        && manifest.database == database
        && name == point_name(manifest.point, &manifest.backup);
    if is_own { Ok(manifest) } else { Err(foreign("it is of another point".to_owned())) }
}

impl Outbox {
    /// The folder of a database.
    pub(super) fn of(&self, database: &str) -> PathBuf {
        self.path.join(names::encode(database))
    }

    /// Refuses to use a folder that is not there.
    pub(super) fn check(&self) -> Result<()> {
        match is_there(&self.path) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let step = format!("hand over to {}", self.path.display());
                Err(Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, step)
                    .why("it is not there: it is never created, for a drive may not be mounted")
                    .next(format!("mkdir {}", self.path.display())))
            }
            Err(cause) => Err(failed("look at", &self.path, cause)),
        }
    }

    /// What lies there of a database.
    pub(super) fn contents(&self, database: &str) -> Result<Contents> {
        self.check()?;
        let own = self.of(database);
        let mut contents = Contents::default();
        for name in entries(&own)?.iter().filter(|name| backup_of(name).is_some()) {
            let folder = own.join(name);
            let has = |file: &str| {
                let path = folder.join(file);
                is_there(&path).map_err(|cause| failed("look at", &path, cause))
            };
            if !has(READY)? {
                contents.unready.push(folder);
                continue;
            }
            let is_acknowledged = has(ACKNOWLEDGED)?;
            match manifest_in(&folder, database) {
                Ok(manifest) => contents.points.push(Point { manifest, is_acknowledged, folder }),
                // Whoever fetched it may take it away at any time.
                Err(_) if !has(READY)? => {}
                Err(error) => return Err(error),
            }
        }
        contents.points.sort_by_key(|point| (point.manifest.point, point.manifest.made));
        for name in entries(&own.join(GONE))? {
            let Some(backup) = backup_of(&name) else { continue };
            let time = name.split('-').next().unwrap_or_default();
            let Ok(at) = NaiveDateTime::parse_from_str(time, TIME) else { continue };
            contents.gone.push((backup.to_owned(), at.and_utc()));
        }
        Ok(contents)
    }

    /// A new folder without a name for a point, which says whose work it is.
    pub(super) fn begin(&self, world: &World, database: &str, point: &str) -> Result<PathBuf> {
        self.check()?;
        let own = self.of(database);
        if !is_there(&own).map_err(|cause| failed("look at", &own, cause))? {
            match make_folder(&own) {
                Err(error) if !own.is_dir() => return Err(error),
                _ => settle(&self.path)?,
            }
        }
        let folder = own.join(passing_name(world, point, WRITING));
        make_folder(&folder)?;
        write(&folder.join(OWNER), self.process.0.as_deref().unwrap_or_default().as_bytes())?;
        Ok(folder)
    }

    /// Removes what killed work left of a database. Returns how many folders.
    pub(super) fn sweep(&self, world: &World, database: &str) -> Result<usize> {
        let own = self.of(database);
        let mut count = 0;
        for name in entries(&own)? {
            let folder = own.join(&name);
            let is_over = match passing(&name) {
                None => false,
                Some((_, REMOVING)) => true,
                Some(_) => self.is_abandoned(world, &folder),
            };
            if is_over {
                remove(&folder)?;
                tracing::info!(event = "handoff.swept", folder = %folder.display());
                count += 1;
            }
        }
        if count > 0 {
            settle(&own)?;
        }
        Ok(count)
    }

    fn is_abandoned(&self, world: &World, folder: &Path) -> bool {
        let owner = read(&folder.join(OWNER), OWNER_BYTES_MAX).unwrap_or_default();
        if std::str::from_utf8(&owner).is_ok_and(|owner| (self.process.1)(owner)) {
            return true;
        }
        // Whoever works there adds to a file.
        let files = entries(folder).unwrap_or_default();
        let all = files.iter().map(|name| folder.join(name)).chain([folder.to_owned()]);
        let changed = all.filter_map(|path| fs::symlink_metadata(path).ok()).map(|m| m.mtime());
        let newest = changed.max().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        newest.is_some_and(|newest| ABANDONED_AFTER < world.clock.now() - newest)
    }

    /// Removes a point. What was handed over and is gone is remembered first, so that nobody
    /// hands it over again.
    pub(super) fn remove(&self, world: &World, database: &str, point: &Point) -> Result<()> {
        let own = self.of(database);
        let name = point_name(point.manifest.point, &point.manifest.backup);
        let gone = own.join(GONE);
        if !is_there(&gone).map_err(|cause| failed("look at", &gone, cause))? {
            make_folder(&gone)?;
            settle(&own)?;
        }
        let note = gone.join(&name);
        if !is_there(&note).map_err(|cause| failed("look at", &note, cause))? {
            write(&note, b"")?;
            settle(&gone)?;
        }
        self.discard(world, database, &point.folder)
    }

    /// Removes a folder of ours: first its name, so that nobody finds half of it.
    pub(super) fn discard(&self, world: &World, database: &str, folder: &Path) -> Result<()> {
        let own = self.of(database);
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let aside = own.join(passing_name(world, name, REMOVING));
        fs::rename(folder, &aside).map_err(|cause| failed("remove", folder, cause))?;
        settle(&own)?;
        remove(&aside)?;
        settle(&own)
    }

    /// Forgets that backups were handed over which nobody could hand over again.
    pub(super) fn forget_gone(
        &self,
        database: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let gone = self.of(database).join(GONE);
        for name in entries(&gone)? {
            if backup_of(&name).is_some_and(|backup| !is_known(backup)) {
                let path = gone.join(&name);
                fs::remove_file(&path).map_err(|cause| failed("remove", &path, cause))?;
            }
        }
        Ok(())
    }

    /// Refuses what does not fit beside what is there, whoever is about to publish that.
    pub(super) fn check_room(&self, bytes: u64) -> Result<()> {
        let Some(quota) = self.quota else { return Ok(()) };
        let held = size_of(&self.path).map_err(|cause| failed("measure", &self.path, cause))?;
        if held.saturating_add(bytes) <= quota {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Exhausted, code::OUTBOX_FULL, "hand over another point")
            .with("folder", self.path.display())
            .with("quota", quota)
            .with("held", held)
            .with("needed", bytes)
            .why("it would hold more than its quota; nothing of the point was left there")
            .next("fetch points, and put .ack beside their .ready, so that they may go")
            .next("raise the quota, or keep less"))
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", folder, cause))
        }
        _ => Ok(()),
    }
}

/// The bytes of all files below a folder. What vanishes meanwhile counts nothing.
fn size_of(folder: &Path) -> io::Result<u64> {
    let mut size = 0;
    let listed = match patiently(|| fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
        listed => listed?,
    };
    for entry in listed {
        size += match patiently(|| fs::symlink_metadata(entry.path())) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => 0,
            Err(cause) => return Err(cause),
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path())?,
            Ok(metadata) => metadata.len(),
        };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 18: a shared drive that says once that a handle is stale is asked again; one that goes
    /// on saying so is believed.
    #[test]
    fn row_18_a_stale_handle_is_asked_for_again() {
        let stale = || io::Error::from_raw_os_error(rustix::io::Errno::STALE.raw_os_error());
        let mut asked = 0;
        let answer = patiently(|| {
            asked += 1;
            if asked == 1 { Err(stale()) } else { Ok(asked) }
        });
        assert_eq!(answer.unwrap(), 2);
        let mut asked = 0;
        let answer: io::Result<()> = patiently(|| {
            asked += 1;
            Err(stale())
        });
        assert!(answer.is_err());
        assert_eq!(asked, LOOKS_MAX);
        let mut asked = 0;
        let answer: io::Result<()> = patiently(|| {
            asked += 1;
            Err(io::ErrorKind::NotFound.into())
        });
        assert!(answer.is_err());
        assert_eq!(asked, 1, "nothing else is asked twice");
    }

    #[test]
    fn only_names_of_ours_are_taken_for_ours() {
        let id = "01JD0000000000000000000000";
        let at = DateTime::from_timestamp(1_764_230_400, 0).unwrap();
        let point = point_name(at, id);
        assert_eq!(point, format!("20251127T080000Z-{id}"));
        assert_eq!(backup_of(&point), Some(id));
        assert_eq!(passing(&format!(".{point}.0123456789ab.publishing")), Some((&*point, WRITING)));
        assert_eq!(passing(&format!(".{point}.0123456789ab.removing")), Some((&*point, REMOVING)));
        for foreign in [
            point.clone(),
            format!("{point}.0123456789ab.publishing"),
            format!(".{point}.0123456789.publishing"),
            ".notes.0123456789ab.publishing".to_owned(),
            format!(".{point}.0123456789ab"),
        ] {
            assert_eq!(passing(&foreign), None, "{foreign}");
        }
    }
}
