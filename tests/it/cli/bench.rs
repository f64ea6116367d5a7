//! A folder in which the program is run.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// The passphrase of every repository here. No output may ever hold it.
pub(super) const PASSPHRASE: &str = "correct horse battery staple";

/// A folder with a passphrase file. Its repository is `repo`.
#[derive(Debug)]
pub(super) struct Bench {
    folder: TempDir,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub(super) struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir().unwrap();
        std::fs::write(folder.path().join("pass.txt"), format!("{PASSPHRASE}\n")).unwrap();
        Self { folder }
    }

    /// A bench with a repository and the database `app.db`, which holds ten rows.
    pub(super) fn with_database() -> Self {
        let bench = Self::new();
        bench.ok(&["init"]);
        bench.create("app.db");
        bench
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, about to run here. Its environment holds nothing but what this names.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command
            .args(words)
            .current_dir(self.folder.path())
            .env_clear()
            .env("TZ", "Europe/Berlin")
            .env("XDG_STATE_HOME", self.path("state"))
            .env("STILLPOINT_REPO", "repo")
            .env("STILLPOINT_PASSPHRASE_FILE", "pass.txt")
            .stdin(Stdio::null());
        command
    }

    pub(super) fn run(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words))
    }

    /// Runs what must succeed.
    pub(super) fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.status, 0, "stillpoint {}\n{}{}", words.join(" "), ran.out, ran.err);
        ran
    }

    /// Runs what must succeed and answer in JSON.
    pub(super) fn json(&self, words: &[&str]) -> Value {
        let ran = self.ok(&[words, &["--output", "json"]].concat());
        assert_eq!(ran.err, "", "stillpoint {}", words.join(" "));
        assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
        serde_json::from_str(&ran.out).unwrap()
    }

    /// Runs what must be refused with this code and status, as text and as JSON.
    pub(super) fn refused(&self, words: &[&str], code: &str, status: i32) -> Ran {
        let ran = self.run(words);
        let told = format!("stillpoint {}\n{}{}", words.join(" "), ran.out, ran.err);
        assert_eq!(ran.status, status, "{told}");
        assert!(ran.err.starts_with(&format!("error[{code}]: could not ")), "{told}");
        assert!(ran.err.ends_with(&format!("(exit {status})\n")), "{told}");
        assert_eq!(ran.out, "", "{told}");

        let again = self.run(&[words, &["-o", "json"]].concat());
        let error: Value =
            serde_json::from_str(&again.err).unwrap_or_else(|e| panic!("{e} {again:?}"));
        assert_eq!(error["schema"], "stillpoint.error/1");
        assert_eq!((&error["code"], &error["exit"]), (&code.into(), &status.into()));
        assert_eq!((again.status, again.out.as_str()), (status, ""));
        ran
    }

    /// Makes a database in WAL mode with ten rows.
    pub(super) fn create(&self, name: &str) -> Connection {
        let connection = Connection::open(self.path(name)).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY);")
            .unwrap();
        for _ in 0..10 {
            connection.execute("INSERT INTO t DEFAULT VALUES", []).unwrap();
        }
        connection
    }

    /// How many rows a database made by [`Self::create`] has.
    pub(super) fn rows(&self, name: &str) -> i64 {
        let path = self.path(name);
        assert!(path.exists(), "{}", path.display());
        let connection = Connection::open(path).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    /// Captures the log of `app.db` in the background, from now until it is told to stop.
    pub(super) fn stream(&self) -> Streaming {
        self.stream_with(&[])
    }

    pub(super) fn stream_with(&self, words: &[&str]) -> Streaming {
        let words = [&["logs", "stream", "sqlite:app.db", "--stop-at-eof"], words].concat();
        let log = std::fs::File::create(self.path("stream.log")).unwrap();
        let mut command = self.command(&words);
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        Streaming { child: command.spawn().unwrap() }
    }

    /// Waits until a capture of `app.db` gives signs of life.
    pub(super) fn wait_until_capturing(&self) {
        self.wait_until("a capture", || {
            self.run(&["logs", "status", "-o", "json"]).out.contains("\"capture\":\"running\"")
        });
    }

    /// Asks again and again, for minutes where the machine is busy.
    pub(super) fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..3600 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.path("stream.log")).unwrap_or_default();
        panic!("{what} did not come true; the stream said: {log}");
    }
}

impl Ran {
    pub(super) fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A capture in the background. Stopped when dropped.
#[derive(Debug)]
pub(super) struct Streaming {
    child: Child,
}

impl Streaming {
    pub(super) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Lets it stop cleanly; returns its exit status.
    pub(super) fn stop(mut self) -> i32 {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits for an end that was caused elsewhere.
    pub(super) fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Every byte below a folder, in one heap.
pub(super) fn contents(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.extend(std::fs::read(&path).unwrap());
        }
    }
    all
}

/// Every file below a folder.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
