//! A second process that looks after a mount whose files this process reads itself.
//!
//! Killed, such a process would never be gone: the kernel lets a thread wait for the answer to a
//! request that was taken, even when nobody is left to give it, and that thread keeps the mount's
//! end open. The guard sees that the process is dying, and ends the mount, which frees the thread.
//! Source: `request_wait_answer` in `fs/fuse/dev.c` of Linux: "Either request is already in
//! userspace, or it was forced. Wait it out."

use std::{
    io,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::dead::{is_living, started, unmount};

/// How often the guard looks.
const PERIOD: Duration = Duration::from_millis(50);

/// Where the kernel lets whoever mounted something free what waits for it; and what it calls that.
/// Source: `include/uapi/linux/magic.h` of Linux, `FUSE_CTL_SUPER_MAGIC`.
const CONTROL: &str = "/sys/fs/fuse/connections";
const CONTROL_KIND: u64 = 0x6573_5543;

/// Why a guard could not free a process here; `None` when it can.
pub(crate) fn no_guard() -> Option<String> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let kind = rustix::fs::statfs(CONTROL).map(|found| found.f_type.cast_unsigned());
    let told = || format!("without root, a process that is killed needs {CONTROL} to be mounted");
    (kind != Ok(CONTROL_KIND)).then(told)
}

/// The hidden command of the program that [`stand_guard`] is.
pub(crate) const COMMAND: &str = "mount-guard";

/// A guard at work; dropped, it goes.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Lets `program` look after what is mounted at `point`.
    pub(crate) fn post(program: &Path, point: &Path) -> io::Result<Self> {
        let process = std::process::id();
        let began = started(process).ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.arg(COMMAND).arg(process.to_string()).arg(began.to_string()).arg(point);
        // It works nowhere that anybody may want to remove.
        command.current_dir("/").env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // At the end of its input it ends.
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// Looks after a mount until the input ends, or the process that reads there is dying: then the
/// mount is ended.
pub fn stand_guard(process: u32, began: u64, point: &Path) -> io::Result<()> {
    let input = io::stdin();
    let period = Timespec { tv_sec: 0, tv_nsec: i64::from(PERIOD.subsec_nanos()) };
    while is_living(process, began) {
        let mut wanted = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut wanted, Some(&period)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    unmount(point);
    Ok(())
}
