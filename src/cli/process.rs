//! Names of processes that others on the same machine can check.

use std::{fs, path::Path};

/// A name of this process: the boot of the machine, the space of process numbers, the number and
/// when it started. `None` where the system does not tell.
pub(crate) fn own() -> Option<String> {
    let number = std::process::id();
    Some(format!("{}/{number}/{}", place()?, started_at(number)?))
}

/// Whether the process has certainly ended. One on another machine may live.
pub(crate) fn is_gone(name: &str) -> bool {
    let Some((rest, started)) = name.rsplit_once('/') else { return false };
    let Some((there, number)) = rest.rsplit_once('/') else { return false };
    let Ok(number) = number.parse() else { return false };
    place().is_some_and(|here| here == there) && started_at(number).as_deref() != Some(started)
}

/// Whether whoever started this process wants it to outlive its terminal, as nohup(1) does.
///
/// Source: proc_pid_status(5): `SigIgn` is a mask in hexadecimal, whose lowest bit is signal 1.
pub(crate) fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// Where process numbers mean the same.
fn place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), space.display()))
}

/// When a process started, in ticks since the boot; `None` when there is none, or only its remains.
///
/// Source: proc_pid_stat(5): the state is field 3 and the start field 22; the name before them is
/// in parentheses and may hold anything.
fn started_at(number: u32) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(number.to_string()).join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.to_owned();
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_it_ended_here() {
        let own = own().unwrap();
        assert!(!is_gone(&own));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (rest, started) = own.rsplit_once('/').unwrap();
        let (place, _) = rest.rsplit_once('/').unwrap();
        let other = format!("{place}/{}/{started}0", child.id());
        child.wait().unwrap();
        assert!(is_gone(&other));
        assert!(!is_gone(&format!("another-boot/pid:[1]/{}/{started}", child.id())));
        for damaged in ["", "/", "a/b", "a/b/c/d"] {
            assert!(!is_gone(damaged));
        }
    }
}
