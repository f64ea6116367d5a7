//! Endpoints that are registered by files in a directory, which may be one of a network.
//!
//! It is looked at, and nobody is notified by the kernel; no lock is taken and no link made there.
//! A file that is half-written, stale or vanishes while it is read leaves what was known of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::shape::{Answer, BYTES_MAX, Common, TARGETS_MAX, read, wrong};
use crate::policy::Sighting;

/// What cannot be understood for longer than so many looks is not about to be written.
const LOOKS_MAX: u32 = 5;

/// The most files of a directory that are looked at.
const FILES_MAX: usize = 10_000;

/// A file, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it holds.
    pub(super) bytes: Vec<u8>,
    /// When it was changed, in a form that only tells whether that is another time.
    pub(super) changed: String,
}

/// A directory that is read.
pub(super) trait Folder: fmt::Debug + Send + Sync {
    /// Which directory it is, so that one is noticed that was put in place of another.
    fn identity(&self) -> io::Result<String>;

    /// The names of what is in it.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A file of it, at most so many bytes and one.
    fn read(&self, name: &str, bytes_max: u64) -> io::Result<Entry>;
}

/// One of the file system.
#[derive(Debug)]
pub(super) struct RealFolder(pub(super) PathBuf);

impl Folder for RealFolder {
    fn identity(&self) -> io::Result<String> {
        let metadata = fs::metadata(&self.0)?;
        Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str, bytes_max: u64) -> io::Result<Entry> {
        let path: &Path = &self.0.join(name);
        // Whatever else may have that name, such as a pipe, would make us wait.
        if !fs::metadata(path)?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        let changed = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        Ok(Entry { bytes, changed })
    }
}

/// What was last known of a directory.
#[derive(Debug)]
pub(super) struct Files {
    folder: Arc<dyn Folder>,
    common: Common,
    identity: Option<String>,
    known: BTreeMap<String, Vec<Sighting>>,
    /// Whether anything was ever registered there, as far as this process knows: a share that is
    /// not mounted is an empty directory as well.
    has_known: bool,
    /// Ids that are registered twice, each told once.
    twice: BTreeSet<String>,
    /// What is wrong with files, so that it is told once, and in how many looks it was.
    wrong: BTreeMap<String, (String, u32)>,
}

impl Files {
    pub(super) fn new(folder: Arc<dyn Folder>, common: Common) -> Self {
        let (known, wrong) = (BTreeMap::new(), BTreeMap::new());
        let (has_known, twice) = (false, BTreeSet::new());
        Self { folder, common, identity: None, known, has_known, twice, wrong }
    }

    /// Looks. What could not be read is as it was when it could be.
    ///
    /// # Errors
    ///
    /// The directory is not there, or another empty one is in its place: then nothing is known.
    pub(super) fn look(&mut self) -> Result<Answer> {
        let mut is_complete = true;
        let identity = self.folder.identity().map_err(away)?;
        let mut names = self.folder.list().map_err(away)?;
        names.retain(|name| !name.starts_with('.') && is_registration(name));
        // A share that is not mounted any more leaves an empty directory behind.
        let is_other = self.identity.as_ref().is_some_and(|known| *known != identity);
        if is_other && names.is_empty() && !self.known.is_empty() {
            return Err(away(io::ErrorKind::NotFound.into()));
        }
        self.identity = Some(identity);
        names.sort_unstable();
        if FILES_MAX < names.len() {
            return Err(wrong("there are too many files"));
        }
        let mut known = BTreeMap::new();
        let listed: BTreeSet<String> = names.iter().cloned().collect();
        for name in names {
            let read = self.read(&name);
            match read {
                Ok(seen) => {
                    self.wrong.remove(&name);
                    known.insert(name, seen);
                }
                Err((why, may_pass)) => {
                    let told = self.wrong.remove(&name).filter(|(known, _)| *known == why);
                    if told.is_none() {
                        tracing::warn!(event = "endpoint.unreadable", file = name, why);
                    }
                    let looks = told.map_or(1, |(_, looks)| looks.saturating_add(1));
                    // What it registers is not known: it may be what is missed elsewhere.
                    let is_settled = !may_pass && LOOKS_MAX < looks;
                    is_complete &= is_settled || self.known.contains_key(&name);
                    self.wrong.insert(name.clone(), (why, looks));
                    if let Some(before) = self.known.get(&name) {
                        known.insert(name, before.clone());
                    }
                }
            }
        }
        self.wrong.retain(|name, _| listed.contains(name));
        self.known = known;
        self.has_known |= !self.known.is_empty();
        is_complete &= self.has_known;
        let mut all: BTreeMap<&str, &Sighting> = BTreeMap::new();
        for sighting in self.known.values().flatten() {
            // The first file that has an id keeps it.
            let first = all.entry(&sighting.id).or_insert(sighting);
            let is_other = first.labels != sighting.labels || first.target != sighting.target;
            if is_other && self.twice.insert(sighting.id.clone()) {
                let why = "another file has the same id with other labels or another target";
                tracing::warn!(event = "endpoint.unreadable", id = sighting.id, why);
            }
        }
        if TARGETS_MAX < all.len() {
            return Err(wrong("there are too many endpoints"));
        }
        Ok(Answer { seen: all.into_values().cloned().collect(), is_complete })
    }

    /// What a file registers; or why that is not known, and whether it may pass.
    fn read(&self, name: &str) -> Result<Vec<Sighting>, (String, bool)> {
        let entry = self.folder.read(name, BYTES_MAX).map_err(|cause| {
            let lasts =
                matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput);
            (cause.to_string(), !lasts)
        })?;
        if BYTES_MAX < entry.bytes.len() as u64 {
            return Err(("it is too large".to_owned(), false));
        }
        let digest = blake3::hash(&entry.bytes).to_hex();
        let sign = format!("{} {}", entry.changed, &digest.as_str()[..16]);
        read(&entry.bytes, &self.common, Some(&sign))
            .map_err(|error| (crate::coordinator::told(&error), false))
    }
}

fn is_registration(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "json")
}

fn away(cause: io::Error) -> Error {
    Error::new(ErrorKind::Transient, code::FILE, "look into the directory of endpoints")
        .caused_by(cause)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustix::io::Errno;

    use super::*;

    /// A directory of which each name, and the listing, may fail.
    #[derive(Debug, Default)]
    struct Flaky {
        files: Mutex<BTreeMap<String, Result<Vec<u8>, Errno>>>,
        listing: Mutex<Option<Errno>>,
        identity: Mutex<u32>,
    }

    impl Folder for Arc<Flaky> {
        fn identity(&self) -> io::Result<String> {
            Ok(self.identity.lock().unwrap().to_string())
        }

        fn list(&self) -> io::Result<Vec<String>> {
            match *self.listing.lock().unwrap() {
                Some(errno) => Err(errno.into()),
                None => Ok(self.files.lock().unwrap().keys().cloned().collect()),
            }
        }

        fn read(&self, name: &str, bytes_max: u64) -> io::Result<Entry> {
            let files = self.files.lock().unwrap();
            let held = files.get(name).cloned().unwrap_or(Err(Errno::NOENT));
            let mut bytes = held.map_err(io::Error::from)?;
            bytes.truncate(bytes_max as usize + 1);
            Ok(Entry { bytes, changed: "1".to_owned() })
        }
    }

    impl Flaky {
        fn set(&self, name: &str, held: Result<&str, Errno>) {
            let held = held.map(|text| text.as_bytes().to_vec());
            self.files.lock().unwrap().insert(name.to_owned(), held);
        }
    }

    const BLUE: &str = r#"[{"id":"blue","targets":["b:1"]}]"#;
    const GREEN: &str = r#"{"id":"green","targets":["g:1"]}"#;

    fn ids(answer: &Answer) -> Vec<&str> {
        answer.seen.iter().map(|one| one.id.as_str()).collect()
    }

    /// Row 18: what a network's file system does at times takes nobody out.
    #[test]
    fn row_18_stale_half_written_and_vanishing_files_take_nobody_out() {
        let flaky = Arc::new(Flaky::default());
        let mut files = Files::new(Arc::new(Arc::clone(&flaky)), Common::default());
        flaky.set("blue.json", Ok(BLUE));
        flaky.set("green.json", Ok(GREEN));
        flaky.set(".blue.json.tmp", Ok("{"));
        flaky.set("notes.txt", Ok("{"));
        assert_eq!(ids(&files.look().unwrap()), ["blue", "green"]);
        for errno in [Errno::STALE, Errno::IO, Errno::NOENT, Errno::ACCESS] {
            flaky.set("blue.json", Err(errno));
            let answer = files.look().unwrap();
            assert_eq!((ids(&answer), answer.is_complete), (vec!["blue", "green"], true));
        }
        for half in ["", "[", &BLUE[..20], "null", "42"] {
            flaky.set("blue.json", Ok(half));
            assert_eq!(ids(&files.look().unwrap()), ["blue", "green"], "{half}");
        }
        *flaky.listing.lock().unwrap() = Some(Errno::STALE);
        assert!(files.look().is_err());
        *flaky.listing.lock().unwrap() = None;
        flaky.files.lock().unwrap().remove("blue.json");
        assert_eq!(ids(&files.look().unwrap()), ["green"]);
        // What it registers is not known, and may be what is missed; what stays broken is not.
        flaky.set("red.json", Err(Errno::STALE));
        for _ in 0..20 {
            assert!(!files.look().unwrap().is_complete);
        }
        flaky.set("red.json", Ok("{"));
        let looks = (0..10).map(|_| files.look().unwrap().is_complete);
        assert_eq!(looks.filter(|is_complete| *is_complete).count(), 5);
    }

    /// Row 18: a share that is not mounted leaves an empty directory behind.
    #[test]
    fn row_18_another_empty_directory_in_its_place_says_nothing() {
        let flaky = Arc::new(Flaky::default());
        let mut files = Files::new(Arc::new(Arc::clone(&flaky)), Common::default());
        flaky.set("blue.json", Ok(BLUE));
        assert_eq!(ids(&files.look().unwrap()), ["blue"]);
        let held = std::mem::take(&mut *flaky.files.lock().unwrap());
        *flaky.identity.lock().unwrap() = 1;
        assert!(files.look().is_err());
        *flaky.identity.lock().unwrap() = 0;
        *flaky.files.lock().unwrap() = held;
        assert_eq!(ids(&files.look().unwrap()), ["blue"]);
        flaky.files.lock().unwrap().clear();
        assert_eq!(ids(&files.look().unwrap()), Vec::<&str>::new());
    }

    /// Row 18: whoever begins to look while a share is not mounted ends nobody.
    #[test]
    fn row_18_an_empty_directory_says_nothing_to_whoever_saw_nothing_there_before() {
        let flaky = Arc::new(Flaky::default());
        let mut files = Files::new(Arc::new(Arc::clone(&flaky)), Common::default());
        for _ in 0..20 {
            assert!(!files.look().unwrap().is_complete);
        }
        flaky.set("blue.json", Ok(BLUE));
        assert!(files.look().unwrap().is_complete);
        flaky.files.lock().unwrap().clear();
        let answer = files.look().unwrap();
        assert_eq!((ids(&answer), answer.is_complete), (vec![], true));
        // A file that may not be read may register anybody.
        flaky.set("red.json", Err(Errno::ACCESS));
        for _ in 0..20 {
            assert!(!files.look().unwrap().is_complete);
        }
    }

    #[test]
    fn one_id_with_other_labels_is_no_second_database() {
        let twice = r#"[{"targets":["h:1"],"labels":{"app":"a"}},
            {"targets":["h:1"],"labels":{"app":"b"}}]"#;
        assert!(read(twice.as_bytes(), &Common::default(), None).is_err());
        let same = r#"[{"targets":["h:1","h:1"],"labels":{"app":"a"}}]"#;
        assert!(read(same.as_bytes(), &Common::default(), None).is_ok());
    }

    #[test]
    fn a_file_that_is_touched_gives_a_sign_and_what_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let real = RealFolder(folder.path().to_owned());
        let mut files = Files::new(Arc::new(real), Common::default());
        let path = folder.path().join("blue.json");
        fs::write(&path, BLUE).unwrap();
        let first = files.look().unwrap().seen;
        assert_eq!(files.look().unwrap().seen, first);
        let later =
            fs::metadata(&path).unwrap().modified().unwrap() + std::time::Duration::from_secs(3);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_ne!(files.look().unwrap().seen[0].sign, first[0].sign);
        let large = format!("{GREEN}{}", " ".repeat(BYTES_MAX as usize));
        fs::write(folder.path().join("green.json"), large).unwrap();
        fs::create_dir(folder.path().join("red.json")).unwrap();
        assert_eq!(ids(&files.look().unwrap()), ["blue"]);
    }
}
