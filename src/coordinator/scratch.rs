//! Directories for sandboxes: gone with the work that made them, or found by a later command.
//!
//! Two locks say that a sandbox is in use, one on its directory and one on the note of where that
//! is. Both go with our process, however it ends. Whoever gets them ends the processes that work
//! there, unmounts what is mounted there, and removes everything.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::FlockOperation,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use stillpoint_contract::{Error, Result};

use super::{
    mount::{end_below, end_dead, mounts_below},
    restore::failed,
};
use crate::world::World;

/// How the name of every sandbox begins.
const PREFIX: &str = "stillpoint-sandbox-";

const TOKEN_BYTES: usize = 6;

/// What is left elsewhere, in the directory of a sandbox.
const ELSEWHERE: &str = "elsewhere";

/// The longest note of a place.
const NOTE_BYTES_MAX: u64 = 8 << 10;

/// How often a directory is made that another command takes for an abandoned one. It can do so
/// only in the instant before the lock is ours.
const ATTEMPTS_MAX: u32 = 8;

/// How long ended processes may take to be gone: five seconds.
const LOOKS_MAX: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Where sandboxes are made.
#[derive(Clone, Debug)]
pub struct ScratchPlace {
    /// The directory in which they lie.
    pub root: PathBuf,
    /// Where it is noted in which directories sandboxes lie, so that they are found whichever was
    /// chosen; `None` where the user has no place for that.
    pub notes: Option<PathBuf>,
    /// This program, which looks after mounts in a second process; without it nothing is mounted
    /// there.
    pub program: Option<PathBuf>,
}

/// The directory of one sandbox. Dropping it ends what works there, and removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    token: String,
    note: Option<(PathBuf, File)>,
    program: Option<PathBuf>,
    _lock: File,
    is_there: bool,
}

impl ScratchPlace {
    /// Makes the directory of a sandbox.
    ///
    /// # Errors
    ///
    /// When it cannot be made there.
    pub fn create(&self, world: &World) -> Result<Scratch> {
        let mut random = [0; TOKEN_BYTES];
        world.entropy.fill(&mut random);
        let token = data_encoding::HEXLOWER.encode(&random);
        let name = format!("{PREFIX}{token}");
        let root = fs::canonicalize(&self.root).map_err(|cause| unusable(&self.root, cause))?;
        let path = root.join(&name);
        let note = match &self.notes {
            Some(notes) => {
                let note = notes.join(&name);
                let file = note_place(&note, &path).map_err(|cause| failed(&note, cause))?;
                Some((note, file))
            }
            None => None,
        };
        // Nobody else may look at a database that is restored.
        let make = || {
            DirBuilder::new().mode(0o700).create(&path)?;
            File::open(&path)
        };
        let lock = claim(&path, make).map_err(|cause| unusable(&self.root, cause))?;
        let program = self.program.clone();
        let scratch = Scratch { path, token, note, program, _lock: lock, is_there: true };
        let work = scratch.directory();
        DirBuilder::new().mode(0o700).create(&work).map_err(|cause| failed(&work, cause))?;
        Ok(scratch)
    }

    /// Removes what killed commands left behind: mounts, wherever they are, then processes, and
    /// then directories. Returns what was found, and what of it had to stay.
    pub fn sweep(&self) -> Vec<String> {
        let mut found = Vec::new();
        for point in end_dead() {
            let shown = point.display();
            found.push(format!("unmounted {shown}, which an earlier command left behind"));
        }
        for note in self.notes.iter().flat_map(|notes| entries(notes)) {
            let Some(lock) = File::open(&note).ok().filter(is_abandoned) else { continue };
            let place = read_note(&note);
            if place.as_deref().is_none_or(|place| clear(place, &mut found)) {
                drop(fs::remove_file(&note));
            }
            drop(lock);
        }
        for path in entries(&self.root) {
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            if is_directory && let Some(lock) = File::open(&path).ok().filter(is_abandoned) {
                clear(&path, &mut found);
                drop(lock);
            }
        }
        found
    }
}

impl Scratch {
    /// Where the database is restored to.
    pub fn database(&self) -> PathBuf {
        self.path.join("database")
    }

    /// Where files are mounted, once it was made.
    pub fn mount_point(&self) -> PathBuf {
        self.path.join("mount")
    }

    /// Where lies what is written to mounted files, once it was made.
    pub fn overlay(&self) -> PathBuf {
        self.path.join("written")
    }

    /// The program that looks after mounts.
    pub(super) fn program(&self) -> Option<&Path> {
        self.program.as_deref()
    }

    /// Makes the directories for what is mounted and for what is written to it.
    ///
    /// # Errors
    ///
    /// When they are there already, or cannot be made.
    pub(super) fn make_for_mount(&self) -> Result<()> {
        [self.mount_point(), self.overlay()].iter().try_for_each(|directory| {
            let made = DirBuilder::new().mode(0o700).create(directory);
            made.map_err(|cause| failed(directory, cause))
        })
    }

    /// Where everything else of the sandbox lies.
    pub fn directory(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Letters and digits that no other sandbox has.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where all of it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes what may be left elsewhere if we are killed: whoever removes the directory tells it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn note_elsewhere(&self, what: &str) -> Result<()> {
        let path = self.path.join(ELSEWHERE);
        fs::write(&path, what).map_err(|cause| failed(&path, cause))
    }

    /// Removes it, and says what proves that nothing is left.
    ///
    /// # Errors
    ///
    /// When something stays behind.
    pub fn remove(mut self) -> Result<String> {
        let ended = remove_all(&self.path).map_err(|cause| failed(&self.path, cause))?;
        self.is_there = false;
        self.forget();
        let processes = match ended {
            0 => "no process was left".to_owned(),
            1 => "1 process was ended".to_owned(),
            _ => format!("{ended} processes were ended"),
        };
        Ok(format!("{} is removed; {processes}", self.path.display()))
    }

    fn forget(&mut self) {
        if let Some((note, _)) = self.note.take() {
            drop(fs::remove_file(note));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_there {
            match remove_all(&self.path) {
                Ok(_) => self.forget(),
                Err(cause) => {
                    let path = self.path.display();
                    tracing::warn!(%path, "a sandbox stays behind: {cause}");
                }
            }
        }
    }
}

fn unusable(root: &Path, cause: io::Error) -> Error {
    failed(root, cause)
        .during("make a directory for a sandbox")
        .next("choose another place: --scratch DIR")
}

/// Makes something and locks it, before anybody can take it for abandoned.
fn claim(path: &Path, make: impl Fn() -> io::Result<File>) -> io::Result<File> {
    for _ in 0..ATTEMPTS_MAX {
        let file = match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let is_locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let is_same = fs::metadata(path).ok().zip(file.metadata().ok());
        let is_same = is_same.is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()));
        // Where there are no locks, nobody removes what he cannot lock.
        if is_locked != Err(Errno::WOULDBLOCK) && is_same {
            return Ok(file);
        }
        drop(fs::remove_dir(path));
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn note_place(note: &Path, place: &Path) -> io::Result<File> {
    use std::os::unix::ffi::OsStrExt as _;

    let folder = note.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let make = || {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(note)
    };
    let mut file = claim(note, make)?;
    file.write_all(place.as_os_str().as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The place that a note names, if it can be that of a sandbox.
fn read_note(note: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;

    let place = PathBuf::from(std::ffi::OsString::from_vec(read_bounded(note)?));
    (place.is_absolute() && place.file_name() == note.file_name()).then_some(place)
}

fn read_bounded(note: &Path) -> Option<Vec<u8>> {
    let length = fs::symlink_metadata(note).ok().filter(fs::Metadata::is_file)?.len();
    (length <= NOTE_BYTES_MAX).then(|| fs::read(note).ok())?
}

/// What has the name of a sandbox in a directory.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let token = name.and_then(|name| name.strip_prefix(PREFIX));
        token
            .is_some_and(|t| t.len() == TOKEN_BYTES * 2 && t.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let found = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    found.filter(is_ours).collect()
}

fn is_abandoned(lock: &File) -> bool {
    rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Removes an abandoned directory; returns whether it is gone.
fn clear(path: &Path, found: &mut Vec<String>) -> bool {
    if fs::symlink_metadata(path).is_err() {
        return true;
    }
    let elsewhere = read_bounded(&path.join(ELSEWHERE));
    let cleared = remove_all(path);
    found.extend(elsewhere.and_then(|what| String::from_utf8(what).ok()));
    let shown = path.display();
    match cleared {
        Ok(0) => found.push(format!("removed {shown}, which an earlier command left behind")),
        Ok(n) => found.push(format!(
            "removed {shown}, which an earlier command left behind, and ended {n} of its processes"
        )),
        Err(cause) => {
            found.push(format!("{shown}, which an earlier command left behind, stays: {cause}"));
        }
    }
    fs::symlink_metadata(path).is_err()
}

/// Ends what works in a directory and what is mounted there, and removes it. Returns how many
/// processes were ended.
fn remove_all(path: &Path) -> io::Result<usize> {
    let ended = end_processes(path)?;
    end_below(path);
    // What is mounted is not ours to remove.
    if let Some(point) = mounts_below(path).first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    fs::remove_dir_all(path)?;
    Ok(ended)
}

/// Ends every process whose working directory lies below a directory, and waits until all are gone.
/// Returns how many there were.
fn end_processes(directory: &Path) -> io::Result<usize> {
    let mut ended = std::collections::BTreeSet::new();
    for _ in 0..LOOKS_MAX {
        let living = processes_in(directory);
        if living.is_empty() {
            return Ok(ended.len());
        }
        for process in living {
            // Held by its descriptor, the process cannot be another one by now.
            let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { continue };
            if works_in(process, directory) {
                pidfd_send_signal(&handle, Signal::KILL)?;
                ended.insert(process.as_raw_nonzero());
            }
        }
        std::thread::sleep(PAUSE);
    }
    Err(io::Error::other("processes that work there do not end"))
}

fn processes_in(directory: &Path) -> Vec<Pid> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    numbers.filter_map(process).filter(|process| works_in(*process, directory)).collect()
}

fn works_in(process: Pid, directory: &Path) -> bool {
    let place = fs::read_link(format!("/proc/{}/cwd", process.as_raw_nonzero()));
    place.is_ok_and(|place| place.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    fn place(directory: &TempDir) -> ScratchPlace {
        let root = directory.path().join("scratch");
        fs::create_dir_all(&root).unwrap();
        ScratchPlace { root, notes: Some(directory.path().join("notes")), program: None }
    }

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).map_or(0, Iterator::count)
    }

    #[test]
    fn a_sandbox_leaves_nothing_whether_removed_or_dropped() {
        let directory = TempDir::new().unwrap();
        let (world, place) = (World::real(1), place(&directory));
        let scratch = place.create(&world).unwrap();
        assert!(place.sweep().is_empty(), "it is in use");
        assert!(scratch.directory().is_dir());
        assert!(scratch.remove().unwrap().contains("no process was left"));
        drop(place.create(&world).unwrap());
        assert_eq!((names(&place.root), names(place.notes.as_ref().unwrap())), (0, 0));
    }

    #[test]
    fn what_was_left_behind_is_found_by_its_note_with_the_processes_in_it() {
        let directory = TempDir::new().unwrap();
        let (world, place) = (World::real(1), place(&directory));
        let elsewhere = TempDir::new().unwrap();
        let far = ScratchPlace { root: elsewhere.path().to_owned(), ..place.clone() };
        let mut scratch = far.create(&world).unwrap();
        let mut process =
            Command::new("sleep").arg("60").current_dir(scratch.directory()).spawn().unwrap();
        // As if we were killed: locks go, and nothing else.
        scratch.is_there = false;
        scratch.note = None;
        drop(scratch);
        // A process that has only just begun holds copies of our locks for a moment.
        let found = (0..LOOKS_MAX).map(|_| {
            std::thread::sleep(PAUSE);
            place.sweep()
        });
        let mut found = found;
        let found = found.find(|found| !found.is_empty()).unwrap_or_default();
        assert!(found.len() == 1 && found[0].contains("ended 1 of its processes"), "{found:?}");
        assert!(!process.wait().unwrap().success());
        assert_eq!((names(elsewhere.path()), names(place.notes.as_ref().unwrap())), (0, 0));
    }

    #[test]
    fn nothing_else_is_touched() {
        let directory = TempDir::new().unwrap();
        let place = place(&directory);
        let other = place.root.join("stillpoint-sandbox-0123456789ab.old");
        fs::create_dir(&other).unwrap();
        let notes = place.notes.clone().unwrap();
        fs::create_dir(&notes).unwrap();
        let forged = notes.join("stillpoint-sandbox-0123456789ab");
        fs::write(&forged, other.as_os_str().as_encoded_bytes()).unwrap();
        assert!(place.sweep().is_empty());
        assert!(other.is_dir() && !forged.exists());
    }
}
