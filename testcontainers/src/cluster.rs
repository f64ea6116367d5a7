//! New PostgreSQL clusters, in a fraction of the time that `initdb` takes: each is a copy of one
//! that it made once, with an identity of its own.

use std::{
    collections::hash_map::RandomState,
    env,
    fs::{self, File},
    hash::{BuildHasher as _, Hasher as _},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{Mutex, Once, PoisonError},
};

use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};
use tempfile::TempDir;

use crate::postgres::{POSTGRES_USER, Postgres, PostgresOptions, give_away, unprivileged};

/// Files that live in memory, where every Linux has them.
const MEMORY: &str = "/dev/shm";

/// So much of it must be free for servers to use it: that of a dozen at once, several times.
const MEMORY_BYTES_MIN: u64 = 8 << 30;

/// How names of our directories begin; the process that made them follows.
const PREFIX: &str = "stillpoint-pg-";

static SWEPT: Once = Once::new();

/// Offset of the identity in the header of a segment's first page.
const SEGMENT_IDENTITY_OFFSET: u64 = 24;

/// `pg_control` holds fewer bytes than this, and zeros after them.
const CONTROL_BYTES_MAX: usize = 512;

/// Only one at a time is made; the others wait for it.
static TEMPLATES: Mutex<()> = Mutex::new(());

/// A directory that the server's user owns, for one cluster.
pub(crate) fn private_directory() -> io::Result<TempDir> {
    let directory = directory_for_clusters()?;
    give_away(directory.path())?;
    Ok(directory)
}

/// A directory for clusters of a thousand small files that live for seconds: in memory where there
/// is enough, programs may be started from there, and `TMPDIR` does not say otherwise.
///
/// A file system on a disk looks long for room for a new file where as many were removed just now:
/// that took two fifths of the processor time of a whole run of the tests.
///
/// # Errors
///
/// It cannot be made.
pub fn directory_for_clusters() -> io::Result<TempDir> {
    SWEPT.call_once(sweep);
    let is_fit = |memory: StatVfs| {
        memory.f_bavail * memory.f_frsize >= MEMORY_BYTES_MIN
            && !memory.f_flag.contains(StatVfsMountFlags::NOEXEC)
    };
    let is_taken = env::var_os("TMPDIR").is_none()
        && statvfs(MEMORY).is_ok_and(is_fit)
        && available_bytes().is_some_and(|bytes| bytes >= MEMORY_BYTES_MIN);
    let place = if is_taken { PathBuf::from(MEMORY) } else { env::temp_dir() };
    TempDir::with_prefix_in(format!("{PREFIX}{}-", process::id()), place)
}

/// What the system can give. Source: proc_meminfo(5), `MemAvailable`.
fn available_bytes() -> Option<u64> {
    let all = fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// Frees the memory that tests hold which were killed.
fn sweep() {
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        if process.is_some_and(|(id, _)| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes a cluster at `data` as `initdb` does.
pub(crate) fn initialise(major: u32, data: &Path, options: &PostgresOptions) -> io::Result<()> {
    copy(&template(major, options)?, data)?;
    identify(data)
}

/// Copies a cluster whose server is not running.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).output()?;
    if copied.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&copied.stderr).into_owned()))
}

/// A cluster on which no server ever ran. It stays for later runs.
fn template(major: u32, options: &PostgresOptions) -> io::Result<PathBuf> {
    let places = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools/clusters");
    let pages = if options.checksums { "checksums" } else { "plain" };
    let place = places.join(format!("{major}-{}-{pages}", options.wal_segment_mib));
    let _one = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    if !place.exists() {
        fs::create_dir_all(&places)?;
        let unfinished = TempDir::new_in(&places)?;
        give_away(unfinished.path())?;
        let data = unfinished.path().join("data");
        initdb(major, &data, options)?;
        // Of two processes that make the same one, either is right.
        let renamed = fs::rename(&data, &place);
        renamed.or_else(|error| if place.exists() { Ok(()) } else { Err(error) })?;
    }
    Ok(place)
}

fn initdb(major: u32, data: &Path, options: &PostgresOptions) -> io::Result<()> {
    let programs = Postgres::programs(major).map_err(io::Error::other)?;
    let (program, arguments) = unprivileged(&programs.join("initdb"));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["--no-sync", "-A", "trust", "-U", POSTGRES_USER, "-E", "UTF8", "--locale=C"])
        .arg(format!("--wal-segsize={}", options.wal_segment_mib))
        .arg("-D")
        .arg(data)
        .env("LC_ALL", "C")
        .current_dir("/");
    if options.checksums {
        command.arg("--data-checksums");
    } else if major >= 18 {
        command.arg("--no-data-checksums");
    }
    let made = command.output()?;
    if made.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()))
}

/// Gives a cluster a system identifier that no other has: where the control file has it, under its
/// checksum, and where each WAL segment has.
fn identify(data: &Path) -> io::Result<()> {
    let path = data.join("global/pg_control");
    let mut control = fs::read(&path)?;
    let at = checksum_offset(&control).ok_or_else(|| io::Error::other("no pg_control"))?;
    // The first half is the second in which the cluster was made.
    let (identity, random) = (&control[..8], RandomState::new().build_hasher().finish());
    let identity = u64::from_ne_bytes(identity.try_into().map_err(io::Error::other)?);
    let identity = (identity >> 32 << 32 | random >> 32).to_ne_bytes();
    control[..identity.len()].copy_from_slice(&identity);
    let checksum = crc32c::crc32c(&control[..at]).to_ne_bytes();
    control[at..][..checksum.len()].copy_from_slice(&checksum);
    fs::write(&path, control)?;
    for segment in fs::read_dir(data.join("pg_wal"))? {
        let segment = segment?.path();
        if segment.is_file() {
            let segment = File::options().write(true).open(segment)?;
            segment.write_all_at(&identity, SEGMENT_IDENTITY_OFFSET)?;
        }
    }
    Ok(())
}

/// Where the checksum of a control file is, which every version puts behind all else.
fn checksum_offset(control: &[u8]) -> Option<usize> {
    let is_checksum = |&at: &usize| {
        control.get(at..at + 4) == Some(&crc32c::crc32c(&control[..at]).to_ne_bytes()[..])
    };
    (8..CONTROL_BYTES_MAX.min(control.len())).step_by(4).find(is_checksum)
}
