//! What this user last saw of each repository, so that a repository that was set back is noticed.
//!
//! One small file per repository below the user's state folder. It is a witness, not a cache:
//! losing it loses only the ability to notice a rollback that happened before.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::environment::Environment;
use crate::repository::history::Head;

/// The longest such file, in bytes.
const MEMORY_BYTES_MAX: u64 = 4096;

/// The memory of one repository.
#[derive(Debug)]
pub(crate) struct Memory {
    /// `None` where the user has no home.
    path: Option<PathBuf>,
}

impl Memory {
    /// The memory of the repository with this id at this place. A copy elsewhere may well be older.
    pub(crate) fn of(environment: &Environment, repository: &str, place: &str) -> Self {
        let place = blake3::hash(place.as_bytes()).to_hex();
        let name = repository.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(repository);
        let file = name.map(|name| format!("{name}-{}.json", &place[..16]));
        Self { path: environment.state_folder().zip(file).map(|(f, n)| f.join("heads").join(n)) }
    }

    /// The newest entry that was seen. An unreadable file is an error and not ignored: whoever
    /// sets a repository back might break the memory of it, too.
    pub(crate) fn recall(&self) -> Result<Option<Head>> {
        let Some(path) = &self.path else { return Ok(None) };
        match read(path) {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(
                ErrorKind::Config,
                code::FILE,
                "recall the newest state seen of the repository",
            )
            .with("file", path.display())
            .caused_by(error)
            .why("it would show whether the repository was set back to an older state")
            .next(format!("rm {}", path.display()))),
        }
    }

    /// Remembers the newest entry, unless it is remembered already. A failure costs only the
    /// memory, so it is told and the work goes on.
    pub(crate) fn remember(&self, head: &Head) {
        let Some(path) = &self.path else { return };
        let known = read(path).ok();
        if known.is_some_and(|known| known.seq >= head.seq) {
            return;
        }
        if let Err(error) = write(path, head) {
            tracing::warn!(file = %path.display(), %error, "cannot remember the log's end");
        }
    }

    /// Says in an error about a rollback how to accept it.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match &self.path {
            Some(path) if error.code() == code::ROLLED_BACK => error
                .during("compare the repository with what was seen of it before")
                .next("find out who changed it; look into another copy of the repository")
                .next(format!("if it was set back on purpose: rm {}", path.display())),
            _ => error,
        }
    }
}

fn read(path: &Path) -> io::Result<Head> {
    if fs::metadata(path)?.len() > MEMORY_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(path: &Path, head: &Head) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(head)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: u64) -> Head {
        Head { seq, hash: format!("{seq:064}") }
    }

    #[test]
    fn the_newest_state_is_remembered_and_never_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_str().unwrap();
        let environment = Environment::of(&[("XDG_STATE_HOME", state)]);
        let memory = Memory::of(&environment, "00ff", "/a");
        assert_eq!(memory.recall().unwrap(), None);
        for seq in [3, 2, 7] {
            memory.remember(&head(seq));
        }
        assert_eq!(memory.recall().unwrap(), Some(head(7)));
        assert_eq!(Memory::of(&environment, "01ff", "/a").recall().unwrap(), None);
        assert_eq!(Memory::of(&environment, "00ff", "/b").recall().unwrap(), None);

        fs::write(memory.path.as_ref().unwrap(), "{").unwrap();
        assert_eq!(memory.recall().unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn without_a_home_nothing_is_remembered() {
        let memory = Memory::of(&Environment::default(), "00ff", "/a");
        memory.remember(&head(1));
        assert_eq!(memory.recall().unwrap(), None);
    }

    #[test]
    fn no_repository_can_name_a_file_elsewhere() {
        let environment = Environment::of(&[("HOME", "/h")]);
        assert!(Memory::of(&environment, "../../etc/passwd", "/a").path.is_none());
    }
}
