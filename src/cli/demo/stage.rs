//! Where the demo plays: a folder, and the processes in it, which all end with it.

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cli::{
    advice::command_line,
    answer::{self, Format},
    page::{Look, Tone},
    session::Session,
    units,
};

/// How long a process has to end after its standard input did.
const FAREWELL: Duration = Duration::from_secs(20);

/// A folder of our own, and what runs in it.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    session: &'a Session,
    program: PathBuf,
    folder: Folder,
    running: Vec<(String, Child)>,
    /// The commands so far and how long each took, in milliseconds.
    steps: Vec<(String, u64)>,
}

#[derive(Debug)]
enum Folder {
    Kept(PathBuf),
    Removed(TempDir),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Removed(folder) => folder.path(),
        }
    }
}

impl<'a> Stage<'a> {
    /// Makes a new folder: `dir/demo-1`, `dir/demo-2` and so on, or a temporary one.
    pub(super) fn build(session: &'a Session, dir: Option<&Path>) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Exhausted, code::FILE, "make a folder for the demo")
                .caused_by(error)
                .next("stillpoint demo --dir DIR")
        };
        let folder = match dir {
            Some(dir) => Folder::Kept(new_folder(dir).map_err(failed)?),
            None => Folder::Removed(
                tempfile::Builder::new().prefix("stillpoint-demo-").tempdir().map_err(failed)?,
            ),
        };
        let program = std::env::current_exe().map_err(failed)?;
        Ok(Self { session, program, folder, running: Vec::new(), steps: Vec::new() })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether the folder stays after the demo.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.folder, Folder::Kept(_))
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The commands so far and how long each took, in milliseconds.
    pub(super) fn steps(&self) -> &[(String, u64)] {
        &self.steps
    }

    /// Tells the audience something.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        match self.session.global.output {
            Format::Text => answer::print(&format!("{text}\n")),
            Format::Json => Ok(()),
        }
    }

    /// Begins a chapter.
    pub(super) fn title(&self, text: &str) -> Result<()> {
        self.say(&format!("\n{}", self.look().paint(Tone::Strong, text)))
    }

    /// Shows a command as a reader would type it.
    pub(super) fn show_command(&self, line: &str) -> Result<()> {
        self.say(&format!("  {} {}", self.look().paint(Tone::Faint, "$"), self.strong(line)))
    }

    /// A stretch of text in a tone.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        self.look().paint(tone, text)
    }

    fn strong(&self, text: &str) -> String {
        self.look().paint(Tone::Strong, text)
    }

    fn look(&self) -> &Look {
        &self.session.out
    }

    /// Runs `stillpoint` with these words, shows command, answer and time, returns the answer.
    pub(super) async fn run(&mut self, words: &[&str]) -> Result<String> {
        let line = command_line(words);
        self.show_command(&line)?;
        let start = self.session.world.clock.elapsed();
        let output = self.quietly(words).await?;
        let took = self.session.world.clock.elapsed().saturating_sub(start);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for row in text.lines() {
            self.say(&format!("    {row}"))?;
        }
        self.say(&self.look().paint(Tone::Faint, &format!("    ({})", units::duration(took))))?;
        self.steps.push((line, u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
        Ok(text)
    }

    /// Runs `stillpoint` with these words without showing anything.
    pub(super) async fn quietly(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| spawn_failed(words, error))?;
        let output = child.wait_with_output().await.map_err(|error| spawn_failed(words, error))?;
        if output.status.success() {
            return Ok(output);
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(Error::bug("finish a step of the demo")
            .with("step", command_line(words))
            .caused_by(told.trim().to_owned()))
    }

    /// Starts `stillpoint` with these words in the background. It ends when its standard input
    /// does: at [`Self::clear`], or when this process dies, in whatever way.
    pub(super) fn start(&mut self, words: &[&str], log: &str) -> Result<()> {
        let failed = |error| spawn_failed(words, error);
        let log = File::create(self.path(log)).map_err(failed)?;
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = command.spawn().map_err(failed)?;
        self.running.push((words.first().copied().unwrap_or_default().to_owned(), child));
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .current_dir(self.folder())
            .env("STILLPOINT_REPO", "repo")
            .env("STILLPOINT_PASSPHRASE_FILE", "passphrase.txt")
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("STILLPOINT_KEY_FILE")
            .env("COLUMNS", (self.look().width.saturating_sub(4)).to_string())
            .kill_on_drop(true);
        if let Some(zone) = &self.session.global.timezone {
            command.env("TZ", zone);
        }
        command
    }

    /// Fails if something that should still run has ended.
    pub(super) fn require_running(&mut self) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Error::bug("keep the demo's processes running")
                    .with("process", name)
                    .with("ended", status));
            }
        }
        Ok(())
    }

    /// Stops the processes of one command and waits for them.
    pub(super) async fn stop(&mut self, name: &str) {
        let (mut leaving, staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|(running, _)| running == name);
        self.running = staying;
        for (_, child) in &mut leaving {
            drop(child.stdin.take());
        }
        for (_, mut child) in leaving {
            let clock = &self.session.world.clock;
            tokio::select! {
                _ = child.wait() => {}
                () = clock.sleep(FAREWELL) => drop(child.kill().await),
            }
        }
    }

    /// Stops every process. Nothing is left running afterwards.
    pub(super) async fn clear(&mut self) {
        while let Some((name, _)) = self.running.first() {
            let name = name.clone();
            self.stop(&name).await;
        }
    }

    /// Writes a file that only its owner may read.
    pub(super) fn write_secret(&self, name: &str, bytes: &[u8]) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;

        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(name))
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| {
                Error::new(ErrorKind::Exhausted, code::FILE, "write a passphrase file")
                    .caused_by(error)
            })
    }
}

fn new_folder(dir: &Path) -> std::io::Result<PathBuf> {
    const FOLDERS_MAX: u32 = 10_000;
    std::fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    for number in 1..=FOLDERS_MAX {
        let path = dir.join(format!("demo-{number}"));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::Error::other("there are too many demos already"))
}

fn spawn_failed(words: &[&str], error: std::io::Error) -> Error {
    Error::new(ErrorKind::Transient, code::FILE, "run a step of the demo")
        .with("step", command_line(words))
        .caused_by(error)
}

/// Bytes in the files below a folder.
pub(super) fn size_bytes(path: &Path) -> u64 {
    let mut pending = vec![OsString::from(path)];
    let mut total = 0;
    while let Some(path) = pending.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(entries.map(|entry| entry.path().into_os_string()));
        } else {
            total += metadata.len();
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_takes_a_new_folder_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = new_folder(dir.path()).unwrap();
        std::fs::write(first.join("x"), "mine").unwrap();
        let second = new_folder(dir.path()).unwrap();
        assert!(first.ends_with("demo-1") && second.ends_with("demo-2"));
        assert_eq!(size_bytes(dir.path()), 4);
    }
}
