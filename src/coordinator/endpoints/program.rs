//! Endpoints that a program prints.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

use super::shape::BYTES_MAX;

/// How long a program may take.
const TIME_MAX: Duration = Duration::from_secs(30);

/// What a program prints, if it ends well. It is ended with whatever it started otherwise.
pub(super) async fn print(words: &[String], clock: &dyn Clock) -> Result<Vec<u8>> {
    let failed = |why: &'static str| {
        Error::new(ErrorKind::Transient, code::FILE, "have a program print endpoints")
            .with("program", words.first().cloned().unwrap_or_default())
            .with("problem", why)
    };
    let (program, arguments) = words.split_first().ok_or_else(|| failed("none is named"))?;
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let spawned = command.spawn();
    let spawned = spawned.map_err(|cause| failed("it cannot be started").caused_by(cause))?;
    let mut running = Group(spawned);
    let printed = tokio::select! {
        biased;
        printed = hear(&mut running.0) => printed,
        () = clock.sleep(TIME_MAX) => {
            return Err(failed("it did not end within 30 seconds, and was ended"));
        }
    };
    match printed.map_err(|cause| failed("it broke off").caused_by(cause))? {
        (bytes, _) if BYTES_MAX < bytes.len() as u64 => Err(failed("it printed too much")),
        (_, false) => Err(failed("it ended with a failure")),
        (bytes, true) => Ok(bytes),
    }
}

/// All that a program prints, and whether it ended well.
async fn hear(child: &mut Child) -> std::io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    }
    let is_good = child.wait().await?.success();
    Ok((bytes, is_good))
}

/// A program and what it started: none of it outlives this.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Its number is its own as long as it was not waited for.
        let number = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = number.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
