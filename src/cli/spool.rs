//! What the calls of one server's archiver or recovery leave for the ones after them.
//!
//! Everything here may be lost, torn or stale at any time: what does not prove itself is not
//! believed, and is asked of the repository again.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use chrono::{DateTime, TimeDelta, Utc};

/// How long the word of another process counts that a file is stored. It is asked for within
/// seconds; later, the repository is asked.
const RECEIPT_AGE_MAX: TimeDelta = TimeDelta::minutes(5);

/// The longest receipt or request, in bytes.
const NOTE_BYTES_MAX: u64 = 4096;

/// How much of a file is read at once.
const PIECE_BYTES: usize = 256 << 10;

const RECEIPT: &str = "stored";
const LOCK: &str = "lock";
const REQUEST: &str = "asked";
const ANNOUNCEMENT: &str = "coming";
const UNFINISHED: &str = "new";
const KEPT: &str = "kept";

/// Which file it is, and in which state: another one, or the same after a write, differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState([i64; 7]);

impl FileState {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self([
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.len().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ])
    }
}

/// Behind which file the next ones are wanted, and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) length_bytes: u64,
}

impl Request {
    pub(super) fn new(name: &str, length: usize) -> Self {
        Self { name: name.to_owned(), length_bytes: length as u64 }
    }
}

/// The one process that works ahead holds it for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it lets go")] File);

/// A folder beside the files of a server, of one repository and database.
#[derive(Clone, Debug)]
pub(super) struct Spool(PathBuf);

impl Spool {
    /// The part of `folder` for calls with the same `purpose`.
    pub(super) fn new(folder: &Path, purpose: &[&str]) -> Self {
        let purpose = blake3::hash(purpose.join("\0").as_bytes()).to_hex();
        Self(folder.join(&purpose[..16]))
    }

    fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    pub(super) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Becomes the one that works ahead; `None` while another one does.
    pub(super) fn lock(&self) -> io::Result<Option<Lock>> {
        self.make()?;
        let file = File::options().create(true).append(true).open(self.0.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Notes that a file in this state is durable in the repository.
    pub(super) fn write_receipt(
        &self,
        name: &str,
        state: FileState,
        now: DateTime<Utc>,
    ) -> io::Result<()> {
        let FileState(numbers) = state;
        self.write_note(&format!("{name}.{RECEIPT}"), &format!("{name} {now:?} {numbers:?}"))
    }

    /// Whether a file in this state was noted as durable. The note is gone afterwards.
    pub(super) fn take_receipt(&self, name: &str, state: FileState, now: DateTime<Utc>) -> bool {
        let file = format!("{name}.{RECEIPT}");
        let Some(note) = self.read_note(&file) else { return false };
        // Used or not, it has had its time.
        let _ = fs::remove_file(self.0.join(file));
        let mut fields = note.splitn(3, ' ');
        let is_its = fields.next() == Some(name);
        let at = fields.next().and_then(|at| at.parse::<DateTime<Utc>>().ok());
        let is_recent = at.is_some_and(|at| (now - at).abs() <= RECEIPT_AGE_MAX);
        let FileState(numbers) = state;
        is_its && is_recent && fields.next() == Some(format!("{numbers:?}").as_str())
    }

    /// Asks whoever works ahead to go on behind a file.
    pub(super) fn write_request(&self, request: &Request) -> io::Result<()> {
        self.write_note(REQUEST, &format!("{} {}", request.name, request.length_bytes))
    }

    /// Behind which file somebody wants us to go on.
    pub(super) fn read_request(&self) -> Option<Request> {
        let note = self.read_note(REQUEST)?;
        let (name, length) = note.split_once(' ')?;
        Some(Request { name: name.to_owned(), length_bytes: length.parse().ok()? })
    }

    /// Says which files will be here in a moment.
    pub(super) fn announce(&self, names: &[String]) -> io::Result<()> {
        self.write_note(ANNOUNCEMENT, &names.join(" "))
    }

    pub(super) fn is_announced(&self, name: &str) -> bool {
        self.read_note(ANNOUNCEMENT).is_some_and(|names| names.split(' ').any(|n| n == name))
    }

    /// A note carries its own hash: what a crash tore is none.
    fn write_note(&self, file: &str, text: &str) -> io::Result<()> {
        self.make()?;
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let new = self.0.join(format!("{file}.{}.{UNFINISHED}", std::process::id()));
        fs::write(&new, format!("{hash} {text}"))?;
        fs::rename(new, self.0.join(file))
    }

    fn read_note(&self, file: &str) -> Option<String> {
        let mut note = String::new();
        let file = File::open(self.0.join(file)).ok()?;
        file.take(NOTE_BYTES_MAX).read_to_string(&mut note).ok()?;
        let (hash, text) = note.split_once(' ')?;
        (blake3::hash(text.as_bytes()).to_hex().as_str() == hash).then(|| text.to_owned())
    }

    /// Keeps a file until it is asked for. Its name says how it was left: what a crash of the
    /// system, or another program, made of it does not fit. Against anything worse there is the
    /// server's own, which also guards it where it is moved to.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make()?;
        let new = self.0.join(format!("{name}.{}.{UNFINISHED}", std::process::id()));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        let mark = untouched_mark(&file.metadata()?).unwrap_or_default();
        let checksum = crc32fast::hash(bytes);
        fs::rename(new, self.0.join(format!("{name}.{checksum:08x}.{mark}.{KEPT}")))
    }

    fn files(&self) -> impl Iterator<Item = KeptFile> {
        let paths = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.filter_map(KeptFile::at)
    }

    fn find(&self, name: &str) -> Option<KeptFile> {
        self.files().find(|kept| kept.name == name)
    }

    /// The names of all files that are kept.
    pub(super) fn names(&self) -> HashSet<String> {
        self.files().map(|kept| kept.name).collect()
    }

    /// Forgets a file.
    pub(super) fn remove(&self, name: &str) {
        if let Some(kept) = self.find(name) {
            let _ = fs::remove_file(kept.path);
        }
    }

    /// Moves a kept file to where a server wants it, if it is as it was written.
    pub(super) fn take(&self, name: &str, target: &Path) -> bool {
        let Some(kept) = self.find(name) else { return false };
        if kept.is_sound() && fs::rename(&kept.path, target).is_ok() {
            return true;
        }
        let _ = fs::remove_file(kept.path);
        false
    }

    /// Removes every kept file and every half of one.
    pub(super) fn clear_files(&self) {
        self.files().for_each(|kept| drop(fs::remove_file(kept.path)));
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == UNFINISHED) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A file that waits to be asked for.
struct KeptFile {
    name: String,
    checksum: String,
    mark: String,
    path: PathBuf,
}

impl KeptFile {
    /// What the name of a file in the spool says, if it is a kept one.
    fn at(path: PathBuf) -> Option<Self> {
        let rest = path.file_name()?.to_str()?.strip_suffix(KEPT)?.strip_suffix('.')?;
        let (rest, mark) = rest.rsplit_once('.')?;
        let (name, checksum) = rest.rsplit_once('.')?;
        let [name, checksum, mark] = [name, checksum, mark].map(str::to_owned);
        Some(Self { name, checksum, mark, path })
    }

    /// Whether it is as it was written. A server waits for the answer, so that a file which nobody
    /// touched since is not read.
    fn is_sound(&self) -> bool {
        let mark = fs::metadata(&self.path).ok().and_then(|metadata| untouched_mark(&metadata));
        mark.is_some_and(|mark| mark == self.mark)
            || checksum_of(&self.path).is_ok_and(|found| format!("{found:08x}") == self.checksum)
    }
}

/// Stands for a file that no program has written to, and no start of the system has come between.
/// Source: random(4), `/proc/sys/kernel/random/boot_id`.
fn untouched_mark(metadata: &Metadata) -> Option<String> {
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // Giving it its name changes the time of the last change, but not that of the last write.
    let FileState([device, inode, length, written, written_nsec, ..]) = FileState::of(metadata);
    let text = format!("{start} {device} {inode} {length} {written} {written_nsec}");
    Some(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())
}

fn checksum_of(path: &Path) -> io::Result<u32> {
    let (mut file, mut hasher) = (File::open(path)?, crc32fast::Hasher::new());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finalize()),
            length => hasher.update(&piece[..length]),
        }
    }
}

/// Puts a file in its place, whole or not at all. A server that crashes asks for it again, and
/// syncs what it keeps.
pub(super) fn place(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".stillpoint");
    let new = target.with_file_name(name);
    File::create(&new)?.write_all(bytes)?;
    fs::rename(&new, target)
}

/// Starts this program once more, with the same words and one more, to work on when this process
/// has ended. In a process group of its own, so that nobody who stops this one stops that.
pub(super) fn start_ahead() -> io::Result<Child> {
    let mut words: Vec<OsString> = env::args_os().skip(1).collect();
    // Behind two dashes nothing is an option any more.
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.insert(end, "--ahead".into());
    Command::new(env::current_exe()?)
        .args(words)
        // Files of log are long, and go from thread to thread: memory that each keeps for itself
        // is not used again.
        .env("MALLOC_ARENA_MAX", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_hands_over_what_it_was_given_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(&folder.path().join("spool"), &["repo", "shop"]);
        let target = folder.path().join("target");
        assert!(!spool.take("1", &target));
        spool.put("1", b"one").unwrap();
        assert!(spool.take("1", &target) && fs::read(&target).unwrap() == b"one");
        assert!(!spool.take("1", &target));
        for (bytes, is_sound) in [(b"two", true), (b"tw0", false)] {
            spool.put("2", b"two").unwrap();
            let mut kept = File::create(spool.find("2").unwrap().path).unwrap();
            kept.write_all(bytes).unwrap();
            // The clock of files may stand still for a moment.
            kept.set_modified(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(spool.take("2", &target), is_sound);
            assert!(spool.find("2").is_none());
        }
        assert_eq!(fs::read(&target).unwrap(), b"two");
        spool.put("3", b"three").unwrap();
        let other = Spool::new(&folder.path().join("spool"), &["repo", "sales"]);
        assert!(!other.take("3", &target), "it is another database's");
        assert_eq!(spool.names(), HashSet::from(["3".to_owned()]));
        spool.clear_files();
        assert_eq!(spool.names(), HashSet::new());
    }

    #[test]
    fn only_one_works_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path(), &[]);
        let lock = spool.lock().unwrap();
        assert!(lock.is_some() && spool.lock().unwrap().is_none());
        spool.clear_files();
        assert!(spool.lock().unwrap().is_none());
        drop(lock);
        assert!(spool.lock().unwrap().is_some());
    }

    #[test]
    fn a_receipt_counts_once_for_the_very_same_file_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path(), &[]);
        let path = folder.path().join("1");
        fs::write(&path, b"one").unwrap();
        let state = || FileState::of(&fs::metadata(&path).unwrap());
        let (before, now) = (state(), DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let write = || spool.write_receipt("1", before, now).unwrap();
        write();
        assert!(spool.take_receipt("1", before, now + TimeDelta::minutes(1)));
        assert!(!spool.take_receipt("1", before, now), "it was used");
        for late in [TimeDelta::minutes(6), -TimeDelta::minutes(6)] {
            write();
            assert!(!spool.take_receipt("1", before, now + late));
        }
        write();
        let (one, two) = (spool.0.join("1.stored"), spool.0.join("2.stored"));
        fs::copy(&one, &two).unwrap();
        assert!(!spool.take_receipt("2", before, now), "it is another file's");
        let text = fs::read_to_string(&one).unwrap();
        for torn in [&text[..text.len() - 1], "", &text[1..]] {
            fs::write(&one, torn).unwrap();
            assert!(!spool.take_receipt("1", before, now), "{torn}");
        }
        write();
        fs::write(&path, b"two").unwrap();
        assert_ne!(state(), before);
        assert!(!spool.take_receipt("1", state(), now), "it was written to");
        write();
        let elsewhere = Spool::new(folder.path(), &["another repository"]);
        assert!(!elsewhere.take_receipt("1", before, now));
    }
}
