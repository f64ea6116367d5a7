//! A folder with a configuration, and the program that runs it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How often it is looked whether something has come true that takes seconds on an idle machine.
const TRIES_MAX: u32 = 600;
const PAUSE: Duration = Duration::from_millis(200);

/// What every configuration here begins with.
pub(crate) const HEAD: &str = "version = 1\ntimezone = \"Europe/Berlin\"\n\
    repository.primary.url = \"repo\"\n";

/// A folder with `stillpoint.toml`, where databases lie.
#[derive(Debug)]
pub(crate) struct Ward {
    folder: TempDir,
}

/// The program, serving. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
}

impl Ward {
    pub(crate) fn new(configuration: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("ward-").tempdir().unwrap();
        let ward = Self { folder };
        ward.configure(configuration);
        ward
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn configure(&self, configuration: &str) {
        fs::write(self.path("stillpoint.toml"), configuration).unwrap();
    }

    /// Makes a database in WAL mode with a row.
    pub(crate) fn create(&self, name: &str) -> Connection {
        let connection = Connection::open(self.path(name)).unwrap();
        let make = "PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY);
            INSERT INTO t DEFAULT VALUES";
        connection.execute_batch(make).unwrap();
        connection
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillpoint"));
        command
            .args(words)
            .args(["-c", "stillpoint.toml"])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "Europe/Berlin")
            .env("TMPDIR", self.folder.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program; returns its exit status and what it said.
    pub(crate) fn run(&self, words: &[&str]) -> (i32, String) {
        let output = self.command(words).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8(told).unwrap())
    }

    /// Runs what must succeed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let (status, told) = self.run(words);
        assert_eq!(status, 0, "stillpoint {}\n{told}", words.join(" "));
        told
    }

    /// Runs what answers in JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let told = self.ok(&[words, &["-o", "json"]].concat());
        serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"))
    }

    /// What `status` says of a database.
    pub(crate) fn status(&self, name: &str) -> Value {
        self.json(&["status", name])["databases"][0].clone()
    }

    /// The jobs of a database, the newest first.
    pub(crate) fn jobs(&self, name: &str) -> Vec<Value> {
        let jobs = self.json(&["jobs", "list", name, "--count", "1000"]);
        jobs["jobs"].as_array().unwrap().clone()
    }

    pub(crate) fn serve(&self) -> Serving {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, variables: &[(&str, &str)]) -> Serving {
        self.start(&["serve"], variables)
    }

    /// Starts what goes on until it is told to end; what it says is kept with what others say.
    pub(crate) fn start(&self, words: &[&str], variables: &[(&str, &str)]) -> Serving {
        let log = File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        let mut command = self.command(words);
        command.envs(variables.iter().copied());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Serving { child: command.spawn().unwrap() }
    }

    /// What the serving program said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// Asks again and again.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..TRIES_MAX {
            if holds() {
                return;
            }
            sleep(PAUSE);
        }
        panic!("{what} did not come true; serve said:\n{}", self.said());
    }

    /// Waits until a database has so many backups.
    pub(crate) fn wait_for_backups(&self, name: &str, count: u64) {
        self.wait_until(&format!("{count} backups of {name}"), || {
            let (status, told) = self.run(&["status", name, "-o", "json"]);
            let told: Value = serde_json::from_str(&told).unwrap_or_default();
            status == 0 && count <= told["databases"][0]["backups"].as_u64().unwrap_or_default()
        });
    }

    /// How many rows the newest state of a database has, restored.
    pub(crate) fn restored_rows(&self, name: &str) -> i64 {
        let target = self.path("restored.db");
        drop(fs::remove_file(&target));
        let to = target.to_str().unwrap();
        self.ok(&["restore", name, "--repo", "repo", "--to", to]);
        rows(&Connection::open(&target).unwrap())
    }
}

/// Adds so many rows of a kilobyte that nothing makes smaller.
pub(crate) fn fill(connection: &Connection, count: u32) {
    let fill = format!(
        "CREATE TABLE big AS WITH RECURSIVE n(i) AS
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         SELECT i, randomblob(1000) FROM n"
    );
    connection.execute_batch(&fill).unwrap();
}

pub(crate) fn rows(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// Sockets of a process that listen on a port.
pub(crate) fn listening(process: u32) -> usize {
    let socket = |entry: std::io::Result<fs::DirEntry>| {
        let link = fs::read_link(entry.ok()?.path()).ok()?;
        let link = link.to_str()?;
        Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    let own: Vec<String> =
        fs::read_dir(format!("/proc/{process}/fd")).unwrap().filter_map(socket).collect();
    let all = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/net/{name}")));
    // Source: proc_net(5): field 4 is the state, in which 0A is LISTEN, and field 10 the inode.
    let lines = all.iter().flatten().flat_map(|text| text.lines());
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listens = fields.filter(|fields| fields.get(3) == Some(&"0A"));
    listens.filter(|fields| own.iter().any(|own| fields.get(9) == Some(&own.as_str()))).count()
}

impl Serving {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Tells it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Tells it to end, and waits; returns its exit status.
    pub(crate) fn stop(mut self) -> i32 {
        self.terminate();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Waits for an end that it chooses itself.
    pub(crate) fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
