//! Passphrases and keys: from a file or typed blind, never from a command line.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use zeroize::Zeroizing;

use crate::repository::keys::Secret;

/// The longest passphrase or key file, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// Reads a passphrase from a file: everything up to a line feed at the end. `-` is standard input.
pub(crate) fn passphrase_of_file(path: &Path) -> Result<Secret> {
    of_file(path, Secret::passphrase)
}

/// Reads a key file.
pub(crate) fn key_of_file(path: &Path) -> Result<Secret> {
    of_file(path, Secret::from_key_file)
}

/// Reads a file with a recovery key as it was printed.
pub(crate) fn recovery_of_file(path: &Path) -> Result<Secret> {
    of_file(path, Secret::from_recovery)
}

/// Reads whatever secret is in a file.
pub(crate) fn text_of_file(path: &Path) -> Result<Zeroizing<String>> {
    let bytes = bytes_of_file(path)?;
    let text = str::from_utf8(&bytes).map_err(|_| unusable(path, "it is not text in UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn of_file(path: &Path, read: impl Fn(&str) -> Result<Secret>) -> Result<Secret> {
    let text = text_of_file(path)?;
    read(&text).map_err(|error| unusable(path, "it holds no such secret").caused_by(error))
}

fn bytes_of_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Config,
        };
        Error::new(kind, code::FILE, "read the file with the secret")
            .with("file", path.display())
            .caused_by(error)
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    reader.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(unusable(path, "it is longer than 4,096 bytes"));
    }
    Ok(bytes)
}

fn unusable(path: &Path, why: &'static str) -> Error {
    Error::new(ErrorKind::Config, code::NO_KEY, "use the secret in the file")
        .with("file", path.display())
        .with("because", why)
}

/// Writes a secret into a new file that only its owner may read, durably.
pub(crate) fn write_new_file(path: &Path, secret: &Secret) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(secret.text().as_bytes())?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        let kind = if exists { ErrorKind::Refused } else { ErrorKind::Config };
        Error::new(kind, code::FILE, "write a new key file")
            .with("file", path.display())
            .caused_by(error)
    })
}

/// Whether somebody can be asked.
pub(crate) fn can_ask() -> bool {
    open_terminal().is_ok()
}

/// Asks for a passphrase on the controlling terminal, without echo.
pub(crate) async fn ask(prompt: &'static str) -> Result<Secret> {
    Secret::passphrase(&ask_line(prompt).await?)
}

async fn ask_line(prompt: &'static str) -> Result<Zeroizing<String>> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Denied, code::NO_KEY, "ask for the passphrase")
            .caused_by(error)
            .next("give --passphrase-file FILE, or set STILLPOINT_PASSPHRASE_FILE")
    };
    // The guard lives here and not in the reading thread: when a signal drops this future, the
    // terminal gets its echo back although that thread still waits for a line.
    let silence = Silence::begin().map_err(failed)?;
    let terminal = silence.terminal.try_clone().map_err(failed)?;
    let line = tokio::task::spawn_blocking(move || read_line(&terminal, prompt))
        .await
        .map_err(|error| Error::bug("wait for the passphrase").caused_by(error))?
        .map_err(failed)?;
    silence.end();
    if line.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed")));
    }
    Ok(line)
}

/// Asks twice, so that a slip of the hand does not lock everybody out.
pub(crate) async fn ask_new() -> Result<Secret> {
    let first = ask_line("New passphrase: ").await?;
    let second = ask_line("The same again: ").await?;
    if *first == *second {
        return Secret::passphrase(&first);
    }
    Err(Error::new(ErrorKind::Invalid, code::NO_KEY, "take the passphrase")
        .with("because", "the two differ"))
}

fn open_terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

fn read_line(terminal: &File, prompt: &str) -> io::Result<Zeroizing<String>> {
    let mut out = terminal;
    out.write_all(prompt.as_bytes())?;
    let mut line = Zeroizing::new(String::new());
    BufReader::new(terminal).take(SECRET_BYTES_MAX).read_line(&mut line)?;
    let length = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(length);
    Ok(line)
}

/// A terminal that does not echo, until it is dropped.
struct Silence {
    terminal: File,
    before: Termios,
    answered: bool,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let terminal = open_terminal()?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before, answered: false })
    }

    /// Ends it after an answer, whose line feed moved the cursor already.
    fn end(mut self) {
        self.answered = true;
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.terminal.write_all(b"\n");
        }
        // If the terminal is gone, there is nothing to give back to it.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn secrets_come_from_files_and_go_to_files_of_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass phrase ü");
        for (content, expected) in [
            (&b"correct horse\n"[..], Some("correct horse")),
            (b"correct horse", Some("correct horse")),
            (b" spaces count \r\n", Some(" spaces count ")),
            (b"two\nlines\n", Some("two\nlines")),
            (b"", None),
            (b"\n", None),
            (b"\xff\xfe", None),
        ] {
            fs::write(&path, content).unwrap();
            let read = passphrase_of_file(&path).ok().map(|secret| secret.text());
            assert_eq!(read.as_ref().map(|text| text.as_str()), expected);
        }
        fs::write(&path, [b'x'; 4097]).unwrap();
        assert_eq!(passphrase_of_file(&path).unwrap_err().code(), code::NO_KEY);
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        assert_ne!(permissions.mode() & 0o777, 0o600);
        let key = folder.path().join("key");
        let secret = Secret::new_recovery(&crate::world::SystemEntropy);
        write_new_file(&key, &secret).unwrap();
        assert_eq!(*recovery_of_file(&key).unwrap().text(), *secret.text());
        permissions = fs::metadata(&key).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
        assert_eq!(write_new_file(&key, &secret).unwrap_err().kind(), ErrorKind::Refused);
        let missing = passphrase_of_file(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.code(), code::FILE);
    }
}
