//! A folder with a repository that a key file opens, and the program to run in it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, and says what it tried"
)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use rusqlite::Connection;
use serde_json::Value;
use stillpoint::{
    repository::{
        Repository,
        keys::Secret,
        store::{LocalStore, RealFs, Writers},
    },
    world::World,
};
use stillpoint_testcontainers::directory_for_clusters;
use tempfile::TempDir;

/// A folder that is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Site {
    folder: TempDir,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Site {
    /// A folder without a repository. A key file opens faster than a passphrase, as it must where
    /// the program is started hundreds of times.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::Builder::new().prefix("site-").tempdir().unwrap() }
    }

    /// A folder with an empty, encrypted repository in `repo`.
    pub(crate) fn new() -> Self {
        let site = Self::empty();
        site.ok(&["init"]);
        site
    }

    /// The same, where whole clusters are restored.
    pub(crate) fn of_clusters() -> Self {
        let site = Self { folder: directory_for_clusters().unwrap() };
        site.ok(&["init"]);
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, about to run here. Its environment holds nothing but what this names.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command
            .args(words)
            .current_dir(self.folder.path())
            .env_clear()
            .env("TZ", "UTC")
            .env("XDG_STATE_HOME", self.path("state"))
            .env("STILLPOINT_REPO", "repo")
            .stdin(Stdio::null());
        if !words.contains(&"--no-encryption") {
            command.args(["--key-file", "key"]);
        }
        command
    }

    /// The program in the background; what it says goes to the file `NAME.log`, after what was
    /// said there before.
    pub(crate) fn spawn(&self, words: &[&str], name: &str) -> Running {
        let log = self.path(&format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let output = self.command(words).output().unwrap();
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs what must succeed.
    pub(crate) fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.status, 0, "stillpoint {}\n{}{}", words.join(" "), ran.out, ran.err);
        ran
    }

    /// Runs what must fail with this status and say all of `words`.
    pub(crate) fn fails(&self, words: &[&str], status: i32, said: &[&str]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.status, status, "stillpoint {}\n{}{}", words.join(" "), ran.out, ran.err);
        for word in said {
            assert!(ran.err.contains(word), "{word}\n{}", ran.err);
        }
        ran
    }

    /// Runs what must succeed and answer in JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let ran = self.ok(&[words, &["--output", "json"]].concat());
        serde_json::from_str(&ran.out).unwrap()
    }

    /// The repository, opened by this process.
    pub(crate) async fn open(&self, world: &World) -> Repository {
        let (clock, entropy) = (&*world.clock, Arc::clone(&world.entropy));
        let root = self.path("repo");
        let store = LocalStore::open(RealFs, &root, Writers::Several, clock, entropy);
        let store = Arc::new(store.await.unwrap());
        let key = std::fs::read_to_string(self.path("key")).unwrap();
        let key = Secret::from_key_file(&key).unwrap();
        Repository::open(world.clone(), store, Some(key), None).await.unwrap()
    }

    /// Makes a database in WAL mode with `rows` rows of 1,000 random bytes.
    pub(crate) fn create(&self, name: &str, rows: u32) -> Connection {
        let connection = Connection::open(self.path(name)).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, v BLOB)").unwrap();
        add(&connection, rows);
        connection
    }
}

/// Adds rows of 1,000 random bytes, in one transaction.
pub(crate) fn add(connection: &Connection, rows: u32) {
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
        INSERT INTO t (v) SELECT randomblob(1000) FROM n";
    connection.execute(insert, [rows]).unwrap();
}

/// How many rows a database has, once its integrity is checked.
pub(crate) fn rows(path: &Path) -> u32 {
    assert!(path.exists(), "{}", path.display());
    let connection = Connection::open(path).unwrap();
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok", "{}", path.display());
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// SIGKILL, and the end of it.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Lets it end by itself, or once its standard input has; returns its exit status.
    pub(crate) fn end(mut self) -> i32 {
        drop(self.0.stdin.take());
        self.0.wait().unwrap().code().unwrap_or(-1)
    }

    /// Its exit status, if it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match env::var_os(name) {
        Some(value) => value.to_str().and_then(|value| value.parse().ok()).unwrap(),
        None => default,
    }
}

/// The seed of everything random here. Kills strike when they strike, so one seed repeats a plan,
/// not a run.
pub(crate) fn seed() -> u64 {
    let seed = setting("STILLPOINT_SEED", 1);
    println!("STILLPOINT_SEED={seed}");
    seed
}
