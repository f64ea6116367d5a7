//! A server of the right version that replays WAL and stops, without ever listening.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::geteuid;
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::process::Command;

use crate::{error, layout::Layout};

/// The file of settings for the replay, beside the data.
const SETTINGS_FILE: &str = "stillpoint-replay.conf";

/// How much of the server's messages is read.
const LOG_BYTES_MAX: u64 = 16 << 10;

/// How many of its last lines are reported.
const LINES_MAX: usize = 6;

/// Settings that replay needs to be as large as they were.
const SIZES: [&str; 4] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_worker_processes",
];

/// `nobody`, where there is no user `postgres`.
const UNPRIVILEGED: (u32, u32) = (65534, 65534);

/// Where a process finds what its standard output is.
const OUTPUT: &str = "/proc/self/fd/1";

const STEP: &str = "replay WAL with a server";

/// A server's program, and who runs it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) program: PathBuf,
    /// Such as `15.18`.
    version: String,
    /// The user and group to run as: the server refuses to run as root.
    pub(crate) owner: Option<(u32, u32)>,
}

impl Server {
    /// Finds the program of a major version; `None` when it is not installed.
    pub(crate) async fn find(places: &[PathBuf], major: u32) -> Option<Self> {
        let usual = [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
            format!("/usr/local/opt/postgresql@{major}/bin"),
            format!("/opt/homebrew/opt/postgresql@{major}/bin"),
        ];
        let places = places.iter().cloned().chain(usual.map(PathBuf::from));
        let named = places.map(|place| place.join("postgres")).filter(|path| path.is_file());
        for program in named.chain(by_shell("postgres").await) {
            let Some(version) = version_of(&program).await else { continue };
            if version.split('.').next() == Some(major.to_string().as_str()) {
                let owner = geteuid().is_root().then(unprivileged);
                return Some(Self { program, version, owner });
            }
        }
        None
    }

    /// Its version, such as `15.18`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The extensions that are installed with it; `None` where they cannot be found.
    pub(crate) fn extensions(&self) -> Option<BTreeSet<String>> {
        let major = self.version.split('.').next()?;
        let root = self.program.canonicalize().ok()?.parent()?.parent()?.to_owned();
        let places = [
            root.join("share/extension"),
            root.join("share/postgresql/extension"),
            PathBuf::from(format!("/usr/share/postgresql/{major}/extension")),
        ];
        let entries = places.iter().find_map(|place| fs::read_dir(place).ok())?;
        let control = |entry: fs::DirEntry| {
            Some(entry.file_name().to_str()?.strip_suffix(".control")?.to_owned())
        };
        Some(entries.flatten().filter_map(control).collect())
    }

    /// A program that is installed beside it, to be run as the owner of a cluster.
    pub(crate) fn beside(&self, name: &str, owner: Option<(u32, u32)>) -> Command {
        let program = self.program.with_file_name(name);
        match owner {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Replays what is in `pg_wal` on `timeline`, and stops. Dropping the future kills the server.
    pub(super) async fn replay(&self, data: &Path, timeline: u32, layout: &Layout) -> Result<()> {
        let log_path = data.with_file_name("replay.log");
        let settings = data.join(SETTINGS_FILE);
        let failed = |cause| error::file(cause, STEP, &settings);
        fs::write(&settings, sizes(layout)).map_err(failed)?;
        let log = File::create(&log_path).map_err(|cause| error::file(cause, STEP, &log_path))?;
        let mut command = self.command(data, timeline);
        let out = match self.owner {
            // That user may enter the directory, but perhaps not the way there: it gets there
            // through a file that is open already. Nothing is ever read from its output.
            Some(_) => File::open(data).map_err(|cause| error::file(cause, STEP, data))?.into(),
            None => Stdio::null(),
        };
        command.current_dir("/").stdin(Stdio::null()).stdout(out).stderr(log);
        // The environment may hold secrets, and the server runs as another user.
        command.env_clear().env("LC_ALL", "C").kill_on_drop(true);
        let status = command.status().await.map_err(|cause| {
            Error::new(ErrorKind::Config, code::FILE, STEP)
                .with("program", self.program.display())
                .caused_by(cause)
        })?;
        fs::remove_file(&settings).map_err(failed)?;
        if status.success() { Ok(()) } else { Err(refused(&tail(&log_path))) }
    }

    /// One process without sessions: it recovers, finds no command on its input, and shuts down.
    fn command(&self, data: &Path, timeline: u32) -> Command {
        let mut command = match self.owner {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
                command.args(["--clear-groups", "--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let here = if self.owner.is_some() { Path::new(OUTPUT) } else { data };
        let settings = here.join(SETTINGS_FILE);
        command.args(["--single", "-F", "-D"]).arg(here);
        command.arg("-c").arg(format!("config_file={}", settings.display()));
        let timeline = format!("recovery_target_timeline={timeline}");
        for setting in [
            "restore_command=false",
            "recovery_target_action=promote",
            timeline.as_str(),
            "recovery_target=",
            "recovery_target_lsn=",
            "recovery_target_name=",
            "recovery_target_time=",
            "recovery_target_xid=",
            "archive_mode=off",
            "hot_standby=off",
            "logging_collector=off",
            "log_destination=stderr",
            "shared_preload_libraries=",
            "session_preload_libraries=",
            "local_preload_libraries=",
            "synchronous_standby_names=",
        ] {
            command.args(["-c", setting]);
        }
        command.arg("template1");
        command
    }
}

/// Wherever a shell would find a program if what is found before it were not there.
pub(crate) async fn by_shell(name: &str) -> Vec<PathBuf> {
    const LOOK: &str = "set -f; IFS=:; for place in $PATH; do \
        if [ -x \"$place/$1\" ]; then printf '%s\\n' \"$place/$1\"; fi; done";
    let mut command = Command::new("sh");
    command.args(["-c", LOOK, "sh", name]).stdin(Stdio::null());
    let Ok(output) = command.kill_on_drop(true).output().await else { return Vec::new() };
    let found = String::from_utf8_lossy(&output.stdout);
    found.lines().map(PathBuf::from).filter(|path| path.is_absolute()).collect()
}

pub(crate) async fn version_of(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.arg("--version").kill_on_drop(true).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    Some(number?.chars().take_while(|c| is_part(*c)).collect())
}

/// The user `postgres`, else `nobody`.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    found.unwrap_or(UNPRIVILEGED)
}

fn sizes(layout: &Layout) -> String {
    let number = |name: &&str| {
        let value: u64 = layout.settings.get(*name)?.parse().ok()?;
        Some(format!("{name} = {value}\n"))
    };
    SIZES.iter().filter_map(number).collect()
}

/// The last lines of what the server said.
pub(crate) fn tail(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().rev().take(LINES_MAX).rev().map(|line| (*line).to_owned()).collect()
}

fn refused(lines: &[String]) -> Error {
    let says = |words: &str| lines.iter().any(|line| line.contains(words));
    let kind = if says("could not locate required checkpoint") || says("WAL ends before") {
        ErrorKind::Gap
    } else if says("No space left") {
        ErrorKind::Exhausted
    } else if says("could not find") || says("not supported") || says("incompatible") {
        ErrorKind::Unsupported
    } else {
        ErrorKind::Corrupt
    };
    let error = Error::new(kind, code::RESTORE_CHECK_FAILED, STEP)
        .why("the server ended before it had replayed everything");
    lines.iter().fold(error, |error, line| error.with("server", line))
}
