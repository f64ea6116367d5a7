//! Mounts of ours that outlived the process that answered for them.
//!
//! The name of each says which process that is: its number, and when it began, since numbers are
//! used again.

use std::{
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{io::Errno, mount::UnmountFlags};

/// What the names of our mounts begin with.
pub(super) const KIND: &str = "stillpoint";

/// How long a process that is dead may take to be gone: five seconds.
const LOOKS_MAX: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// A mount of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// The number that no other mount has.
    id: u64,
    /// The kernel's number of its connection.
    connection: u32,
    point: PathBuf,
    process: u32,
    started: u64,
}

/// What a mount of this process is called.
#[cfg(feature = "mount")]
pub(super) fn mark() -> String {
    let process = std::process::id();
    format!("{KIND}-{process}-{}", started(process).unwrap_or(0))
}

/// When a process began, in the kernel's own measure.
#[cfg(feature = "mount")]
pub(super) fn started(process: u32) -> Option<u64> {
    life(process).map(|life| life.started)
}

/// Whether a process lives, and is not dying.
#[cfg(feature = "mount")]
pub(super) fn is_living(process: u32, began: u64) -> bool {
    life(process).is_some_and(|life| life.started == began && !life.is_dying)
}

struct Life {
    started: u64,
    /// It was killed, and may not be able to end: its threads wait for answers that nobody gives.
    is_dying: bool,
}

/// The signal that nobody can refuse, in the mask of those that are pending.
const KILLED: u64 = 1 << 8;

/// The flag of a thread that is ending, and perhaps waits amid that.
const EXITING: u32 = 4;

/// Source: proc(5), `/proc/pid/stat`: field 3 is the state, field 9 the flags, of which
/// `include/linux/sched.h` names `PF_EXITING`, field 22 the time it began; `/proc/pid/status`:
/// `SigPnd` are the signals that wait for the first thread. Each thread of a process that is killed
/// has SIGKILL pending until it sees it, and ends then.
fn life(process: u32) -> Option<Life> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may hold anything, also parentheses.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    let is_dying = has_ended || flags & EXITING != 0 || is_killed(process);
    Some(Life { started, is_dying })
}

fn is_killed(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mut masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:"));
    masks.any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & KILLED != 0))
}

/// Source: proc(5), `/proc/pid/mountinfo`: the first field is the mount's number, the third its
/// device, the fifth its point; behind a lone hyphen are kind, name and options. A mount of another
/// user is none of ours, whatever it is called.
fn parse(line: &str, user: u32) -> Option<Found> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    if kind != "fuse" && kind.strip_prefix("fuse.") != Some(KIND) {
        return None;
    }
    let mark = after.next()?.strip_prefix(KIND)?.strip_prefix('-')?;
    let (process, started) = mark.split_once('-')?;
    let is_own = |option: &str| option.strip_prefix("user_id=") == Some(&user.to_string());
    if !after.next()?.split(',').any(is_own) {
        return None;
    }
    let mut before = before.split(' ');
    Some(Found {
        id: before.next()?.parse().ok()?,
        connection: before.nth(1)?.strip_prefix("0:")?.parse().ok()?,
        point: unescaped(before.nth(1)?),
        process: process.parse().ok()?,
        started: started.parse().ok()?,
    })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn mounts() -> Vec<u8> {
    fs::read("/proc/self/mountinfo").unwrap_or_default()
}

/// Whether nothing was mounted over it since, and it is still there.
fn is_uppermost(found: &Found) -> bool {
    let text = mounts();
    let text = String::from_utf8_lossy(&text);
    let place = |line: &str| {
        let mut fields = line.split(' ');
        Some((fields.next()?.parse::<u64>().ok()?, unescaped(fields.nth(3)?)))
    };
    let mut at = text.lines().filter_map(place).filter(|(_, point)| *point == found.point);
    at.next_back().is_some_and(|(id, _)| id == found.id)
}

fn all() -> Vec<Found> {
    let text = mounts();
    let user = rustix::process::geteuid().as_raw();
    String::from_utf8_lossy(&text).lines().filter_map(|line| parse(line, user)).collect()
}

/// The kernel's number of what is mounted at a place by us.
#[cfg(feature = "mount")]
pub(super) fn connection(point: &Path) -> Option<u32> {
    all().into_iter().rfind(|found| found.point == point).map(|found| found.connection)
}

/// Whether nobody answers for a mount. A process that cannot be seen may live in another
/// namespace: then the mount itself is asked, which takes no answer from a dead one.
fn is_dead(found: &Found) -> bool {
    match life(found.process).filter(|life| life.started == found.started) {
        Some(life) => life.is_dying,
        None => matches!(
            rustix::fs::statfs(&found.point).err(),
            Some(Errno::NOTCONN | Errno::CONNABORTED)
        ),
    }
}

/// Ends every mount of ours whose process has ended, and frees what waits for its answers. Returns
/// where those were that are gone.
///
/// A process that was killed while one of its own threads waited for such an answer is gone only
/// then; what it held locked is free afterwards.
pub(crate) fn end_dead() -> Vec<PathBuf> {
    let mut ended = Vec::new();
    for found in all().into_iter().filter(is_dead) {
        if !is_uppermost(&found) {
            continue;
        }
        unmount(&found.point);
        for _ in 0..LOOKS_MAX {
            match life(found.process) {
                Some(life) if life.started == found.started => std::thread::sleep(PAUSE),
                _ => break,
            }
        }
        if all().contains(&found) {
            tracing::warn!(point = %found.point.display(), "a mount of a dead process stays");
            continue;
        }
        ended.push(found.point);
    }
    ended
}

/// Whether mounts of ours are at a directory or below it; whoever answers for them.
pub(crate) fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let points = all().into_iter().map(|found| found.point);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// Ends mounts of ours at a directory and below it, the innermost first.
pub(crate) fn end_below(directory: &Path) {
    mounts_below(directory).iter().rev().for_each(|point| unmount(point));
}

/// Ends a mount that is answered for, and what nobody uses without harm to anybody.
#[cfg(feature = "mount")]
pub(super) fn unmount_served(point: &Path) {
    if rustix::mount::unmount(point, UnmountFlags::empty()).is_err() {
        unmount(point);
    }
}

/// Ends a mount, in use or not: whoever waits for an answer is told of an error, and what is open
/// stays open until it is closed.
pub(super) fn unmount(point: &Path) {
    // The first frees what waits, and may find the mount in use; the second takes the name away.
    let forced = rustix::mount::unmount(point, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
    if forced.is_ok() {
        return;
    }
    match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => {
            abort(point);
            let program = fusermount().unwrap_or_else(|| "fusermount3".into());
            let mut command = Command::new(program);
            command.args(["-u", "-q", "-z", "--"]).arg(point);
            let command = command.stdin(Stdio::null()).stdout(Stdio::null());
            drop(command.stderr(Stdio::null()).status());
        }
        Err(errno) if errno != Errno::INVAL => {
            tracing::warn!(point = %point.display(), "a mount stays: {errno}");
        }
        _ => {}
    }
}

/// The program that mounts for those who may not, and unmounts, wherever `PATH` leads.
pub(super) fn fusermount() -> Option<PathBuf> {
    let places = ["/usr/bin", "/bin", "/sbin", "/usr/local/bin", "/run/wrappers/bin"];
    let programs = places.iter().map(|place| Path::new(place).join("fusermount3"));
    programs.into_iter().find(|program| program.exists())
}

/// Frees what waits for answers of a mount, without the right to force it.
/// Source: `Documentation/filesystems/fuse.rst` of Linux, the control filesystem.
fn abort(point: &Path) {
    for found in all().iter().filter(|found| found.point == point) {
        let control = format!("/sys/fs/fuse/connections/{}/abort", found.connection);
        if let Err(cause) = fs::write(&control, "1") {
            tracing::debug!("{control} cannot be written: {cause}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_ours_are_known_by_their_kind_and_name() {
        let line = "36 35 0:40 / /srv/a\\040b\\134c rw,nosuid shared:1 - fuse.stillpoint \
                    stillpoint-7-99 rw,user_id=0";
        let point = "/srv/a b\\c".into();
        let found = Found { id: 36, connection: 40, point, process: 7, started: 99 };
        assert_eq!(parse(line, 0), Some(found.clone()));
        assert_eq!(parse(line, 1000), None);
        // As it is where the kernel was not told the kind.
        assert_eq!(parse(&line.replace("fuse.stillpoint", "fuse"), 0), Some(found));
        for other in [
            line.replace("fuse.stillpoint", "fuse.sshfs"),
            line.replace("fuse.stillpoint", "fuseblk"),
            line.replace("stillpoint-7-99", "stillpoint"),
            line.replace("fuse.stillpoint", "ext4"),
            String::new(),
        ] {
            assert_eq!(parse(&other, 0), None, "{other}");
        }
    }

    #[test]
    fn a_process_that_was_killed_is_dying() {
        let mut process = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!life(process.id()).unwrap().is_dying);
        process.kill().unwrap();
        // Nobody has asked how it ended: it is still known.
        while !life(process.id()).unwrap().is_dying {
            std::thread::sleep(PAUSE);
        }
        process.wait().unwrap();
    }

    #[test]
    fn this_process_lives_and_another_of_its_number_does_not() {
        let own = life(std::process::id()).unwrap();
        assert!(!own.is_dying && own.started > 0);
        let found = |started| Found {
            id: 1,
            connection: 1,
            point: "/".into(),
            process: std::process::id(),
            started,
        };
        assert!(!is_dead(&found(own.started)));
        // The root answers.
        assert!(!is_dead(&found(own.started + 1)));
    }
}
