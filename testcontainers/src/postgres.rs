//! PostgreSQL servers, each in a directory of its own.

use std::{
    env, fmt, fs,
    fs::File,
    io,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown, lchown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::{
    cluster::{copy, initialise, private_directory},
    process::Process,
    service::tail,
};

/// The major versions that can be started.
pub const POSTGRES_VERSIONS: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// The superuser of every server; there is no password.
pub const POSTGRES_USER: &str = "postgres";

/// PostgreSQL refuses to run as root; this is `nobody`.
const UNPRIVILEGED: u32 = 65534;

const PAUSE: Duration = Duration::from_millis(20);
/// A minute.
const PAUSES_MAX: usize = 3000;

/// A server with a cluster of its own. Dropping it ends the server and removes its files.
#[derive(Debug)]
pub struct Postgres {
    major: u32,
    port: u16,
    process: Option<Process>,
    data: PathBuf,
    directory: TempDir,
}

/// How a new cluster is made.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// The length of a WAL segment, in MiB.
    pub wal_segment_mib: u32,
    /// Lines of `postgresql.conf`.
    pub settings: Vec<String>,
    /// Lines of `pg_hba.conf`, in place of one that trusts everybody.
    pub hba: Vec<String>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { checksums: true, wal_segment_mib: 16, settings: Vec::new(), hba: Vec::new() }
    }
}

/// PostgreSQL of this major version cannot be started here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostgresMissing(u32);

impl fmt::Display for PostgresMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {} is not installed: run testcontainers/install.sh", self.0)
    }
}

impl std::error::Error for PostgresMissing {}

impl Postgres {
    /// The directory of the programs of a major version.
    ///
    /// # Errors
    ///
    /// When they are not installed.
    pub fn programs(major: u32) -> Result<PathBuf, PostgresMissing> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools/postgres");
        let places = [
            tools.join(major.to_string()).join("native/bin"),
            PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        ];
        let found = places.into_iter().find(|place| place.join("postgres").is_file());
        found.ok_or(PostgresMissing(major))
    }

    /// A program that comes with a major version beside the server, such as `pg_verifybackup`:
    /// there are all of them for 15 and 17, and for 18 all but that one.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub fn program(major: u32, name: &str) -> Result<PathBuf, PostgresMissing> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools/postgres");
        let places = [
            tools.join(format!("{major}-tools/usr/lib/postgresql/{major}/bin")),
            PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        ];
        let mut programs = places.into_iter().map(|place| place.join(name));
        programs.find(|program| program.is_file()).ok_or(PostgresMissing(major))
    }

    /// Starts a server for a test, or `None` when it is not installed, which is said on standard
    /// error.
    ///
    /// # Panics
    ///
    /// When it does not start, and, where `CI` is set, when it is missing.
    pub fn required(major: u32) -> Option<Self> {
        Self::required_with(major, &PostgresOptions::default())
    }

    /// Like [`required`](Self::required), with options.
    ///
    /// # Panics
    ///
    /// As [`required`](Self::required).
    pub fn required_with(major: u32, options: &PostgresOptions) -> Option<Self> {
        if let Err(missing) = Self::programs(major) {
            assert!(env::var_os("CI").is_none(), "{missing}");
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED: {missing}");
            }
            return None;
        }
        Some(Self::start(major, options).unwrap_or_else(|e| panic!("PostgreSQL {major}: {e}")))
    }

    /// Makes a cluster and starts a server on it.
    ///
    /// # Errors
    ///
    /// When it does not answer within a minute, with the end of its log.
    pub fn start(major: u32, options: &PostgresOptions) -> io::Result<Self> {
        let directory = private_directory()?;
        let data = directory.path().join("data");
        make_cluster(major, &data, options)?;
        Self::launch(major, data, directory)
    }

    /// Puts a new cluster in the place of this one: at the same address, with the same settings.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn replace(&mut self, options: &PostgresOptions) -> io::Result<()> {
        self.stop()?;
        fs::remove_dir_all(&self.data)?;
        make_cluster(self.major, &self.data, options)?;
        self.restart()
    }

    /// Begins a new timeline, as a fail-over does: the server starts again as a standby, and is
    /// promoted at once.
    ///
    /// # Errors
    ///
    /// When it does not end, start or promote itself within a minute.
    pub fn fail_over(&mut self) -> io::Result<()> {
        self.stop()?;
        let signal = self.data.join("standby.signal");
        File::create(&signal)?;
        give_away(&signal)?;
        self.restart()?;
        let programs = Self::programs(self.major).map_err(io::Error::other)?;
        let (program, arguments) = unprivileged(&programs.join("pg_ctl"));
        let promoted = Command::new(program)
            .args(arguments)
            .args(["promote", "--wait", "--silent", "-D"])
            .arg(&self.data)
            .env("LC_ALL", "C")
            .current_dir("/")
            .output()?;
        if promoted.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&promoted.stderr).into_owned()))
    }

    /// Starts a server on a directory that already holds a cluster, such as a restored one. The
    /// directory is left in place when the server is dropped.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); also when recovery fails.
    pub fn start_on(major: u32, data: &Path) -> io::Result<Self> {
        let directory = private_directory()?;
        give_away(data)?;
        fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
        Self::launch(major, data.to_owned(), directory)
    }

    /// Makes a standby of this server: a copy of its cluster (made while it is stopped) that
    /// streams from it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn standby(&mut self) -> io::Result<Self> {
        self.stop()?;
        let directory = private_directory()?;
        let data = directory.path().join("data");
        copy(&self.data, &data)?;
        self.restart()?;
        let upstream =
            format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'", self.port);
        append(&data.join("postgresql.conf"), &[upstream, "hot_standby = on".to_owned()])?;
        File::create(data.join("standby.signal"))?;
        give_away(&data)?;
        Self::launch(self.major, data, directory)
    }

    fn launch(major: u32, data: PathBuf, directory: TempDir) -> io::Result<Self> {
        let mut server = Self { major, port: 0, process: None, data, directory };
        server.port = free_port()?;
        server.restart()?;
        Ok(server)
    }

    /// Starts the server again after it was stopped or killed.
    ///
    /// # Errors
    ///
    /// When it does not answer within a minute, with the end of its log.
    pub fn restart(&mut self) -> io::Result<()> {
        let programs = Self::programs(self.major).map_err(io::Error::other)?;
        let mut last = None;
        // After a kill the children need a moment to notice, and hold the memory until then; and
        // somebody else may have taken the port.
        for attempt in 0..50 {
            let output = File::options().create(true).append(true).open(self.log_path())?;
            let errors = output.try_clone()?;
            let (program, arguments) = unprivileged(&programs.join("postgres"));
            // A killed server leaves its lock file behind.
            let stale = self.lock();
            let mut process = Process::start(&program, |command| {
                command
                    .args(arguments)
                    .arg("-D")
                    .arg(&self.data)
                    .args(["-p", &self.port.to_string(), "-k"])
                    .arg(self.directory.path())
                    .env("LC_ALL", "C")
                    .current_dir(self.directory.path())
                    .stdin(Stdio::null())
                    .stdout(output)
                    .stderr(errors);
            })?;
            match self.wait(&mut process, &stale) {
                Ok(()) => {
                    self.process = Some(process);
                    return Ok(());
                }
                Err(error) => {
                    drop(process);
                    let log = tail(&self.log_path());
                    let in_the_way = ["still in use", "already in use", "is in use", "running?"];
                    let is_passing =
                        in_the_way.iter().any(|words| tail_has(&log, words)) && attempt < 49;
                    last = Some(io::Error::other(format!("{error}\n{log}")));
                    if !is_passing {
                        break;
                    }
                    thread::sleep(5 * PAUSE);
                    if attempt > 10 && tail_has(&log, "Address already in use") {
                        self.port = free_port()?;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default()
    }

    fn wait(&self, process: &mut Process, stale: &str) -> io::Result<()> {
        for _ in 0..PAUSES_MAX {
            if let Some(status) = process.ended()? {
                return Err(io::Error::other(format!("it ended: {status}")));
            }
            // The eighth line of the lock file is the server's own word.
            let lock = self.lock();
            let is_ours = lock.lines().next() != stale.lines().next()
                && lock.lines().nth(3) == Some(self.port.to_string().as_str());
            let status = lock.lines().nth(7).unwrap_or_default().trim();
            if is_ours && (status == "ready" || status == "standby") {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it was not ready within a minute"))
    }

    /// Stops the server in an orderly way, disconnecting clients.
    ///
    /// # Errors
    ///
    /// When it does not end within a minute.
    pub fn stop(&mut self) -> io::Result<()> {
        self.end(Signal::INT)
    }

    /// Kills the server with all its processes, as a crash of the machine does.
    pub fn kill(&mut self) {
        let parent = self.process_id();
        // It must not make another one meanwhile. One that waits for a lock would not notice for
        // seconds that its parent is gone.
        let _ = parent.map(|parent| kill_process(parent, Signal::STOP));
        let children = parent.map(children).unwrap_or_default();
        self.process = None;
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// The server's first process.
    fn process_id(&self) -> Option<Pid> {
        self.lock().lines().next()?.parse().ok().and_then(Pid::from_raw)
    }

    fn end(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        if let Some(id) = self.process_id() {
            kill_process(id, signal)?;
        }
        for _ in 0..PAUSES_MAX {
            if process.ended()?.is_some() {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The port on 127.0.0.1, and of the socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of the socket; it is private to the server's and our user.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// The connection settings of the superuser over TCP, as libpq takes them.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user={POSTGRES_USER} dbname=postgres", self.port)
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Makes a directory that the server may use, such as for a tablespace.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn make_directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::create_dir(&path)?;
        give_away(&path)?;
        Ok(path)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, and with its children; if that does not work it is killed.
        let _ = self.end(Signal::QUIT);
    }
}

/// The processes that a process made.
fn children(parent: Pid) -> Vec<Pid> {
    let id = parent.as_raw_nonzero();
    let path = format!("/proc/{id}/task/{id}/children");
    let listed = fs::read_to_string(path).unwrap_or_default();
    listed.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

/// Makes a cluster with the settings that tests want.
fn make_cluster(major: u32, data: &Path, options: &PostgresOptions) -> io::Result<()> {
    initialise(major, data, options)?;
    let mut settings = vec![
        "listen_addresses = '127.0.0.1'".to_owned(),
        "fsync = off".to_owned(),
        "wal_level = replica".to_owned(),
        "max_wal_senders = 10".to_owned(),
        "max_replication_slots = 10".to_owned(),
        "shared_buffers = 32MB".to_owned(),
        "autovacuum_naptime = 5s".to_owned(),
        "log_line_prefix = '%m [%p] %a '".to_owned(),
    ];
    settings.extend_from_slice(&options.settings);
    append(&data.join("postgresql.conf"), &settings)?;
    if !options.hba.is_empty() {
        fs::write(data.join("pg_hba.conf"), options.hba.join("\n") + "\n")?;
    }
    Ok(())
}

/// What runs `program` without root's rights, and the arguments that come before its own.
pub(crate) fn unprivileged(program: &Path) -> (PathBuf, Vec<String>) {
    if !geteuid().is_root() {
        return (program.to_owned(), Vec::new());
    }
    // Changing the user clears the death signal, so it is set again.
    let mut arguments: Vec<String> = [
        &format!("--reuid={UNPRIVILEGED}"),
        &format!("--regid={UNPRIVILEGED}"),
        "--clear-groups",
        "--pdeathsig",
        "KILL",
        "--",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(program.display().to_string());
    (PathBuf::from("setpriv"), arguments)
}

/// Makes the server's user the owner of everything at `path`.
pub(crate) fn give_away(path: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        lchown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        return match fs::metadata(path) {
            Ok(_) => give_away(&fs::canonicalize(path)?),
            Err(_) => Ok(()),
        };
    }
    chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path())?;
        }
    }
    Ok(())
}

fn append(path: &Path, lines: &[String]) -> io::Result<()> {
    let text = fs::read_to_string(path)?;
    fs::write(path, format!("{text}\n{}\n", lines.join("\n")))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Whether the last lines of a log say something.
fn tail_has(log: &str, words: &str) -> bool {
    log.lines().rev().take(8).any(|line| line.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_starts_stops_crashes_and_starts_again() {
        for major in POSTGRES_VERSIONS {
            let Some(mut server) = Postgres::required(major) else { continue };
            assert!(server.data().join("PG_VERSION").is_file());
            server.stop().unwrap();
            server.restart().unwrap();
            server.kill();
            server.restart().unwrap();
            let directory = server.socket_directory().to_owned();
            drop(server);
            assert!(!directory.exists(), "{major} left files");
        }
    }
}
