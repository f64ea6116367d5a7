//! What a program prints: secrets, endpoints. It is told nothing, heard out up to a limit, and
//! ended with whatever it started when it takes too long.

use std::{io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use stillpoint_contract::Clock;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};
use zeroize::Zeroizing;

/// How long a program may take.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(30);

/// Why nothing can be made of what a program prints.
#[derive(Debug)]
pub enum Unprinted {
    /// There is no program.
    Nameless,
    /// It cannot be started.
    Unstarted(io::Error),
    /// It broke off.
    Broken(io::Error),
    /// It did not end in 30 seconds.
    Late,
    /// It ended with a failure.
    Failed,
    /// It printed more than it may.
    TooMuch,
}

impl Unprinted {
    /// Why, for people, and what lies behind it.
    pub fn told(self) -> (&'static str, Option<io::Error>) {
        match self {
            Self::Nameless => ("none is named", None),
            Self::Unstarted(cause) => ("it cannot be started", Some(cause)),
            Self::Broken(cause) => ("it broke off", Some(cause)),
            Self::Late => ("it printed nothing complete within 30 seconds, and was ended", None),
            Self::Failed => ("it ended with a failure; run it by hand to see what it says", None),
            Self::TooMuch => ("it printed too much", None),
        }
    }
}

/// All that a program prints, if it ends well; it may be a secret.
///
/// # Errors
///
/// Why not.
pub async fn printed(
    words: &[String],
    bytes_max: u64,
    clock: &dyn Clock,
) -> Result<Zeroizing<Vec<u8>>, Unprinted> {
    let (program, arguments) = words.split_first().ok_or(Unprinted::Nameless)?;
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Group(command.spawn().map_err(Unprinted::Unstarted)?);
    let heard = tokio::select! {
        biased;
        heard = hear(&mut running.0, bytes_max) => heard,
        () = clock.sleep(PROGRAM_TIME_MAX) => return Err(Unprinted::Late),
    };
    match heard.map_err(Unprinted::Broken)? {
        (bytes, _) if bytes_max < bytes.len() as u64 => Err(Unprinted::TooMuch),
        (_, false) => Err(Unprinted::Failed),
        (bytes, true) => Ok(bytes),
    }
}

/// All that a program prints, and whether it ended well.
async fn hear(child: &mut Child, bytes_max: u64) -> io::Result<(Zeroizing<Vec<u8>>, bool)> {
    // As large as it may become, so that no copy is left behind where it was smaller.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max as usize + 2));
    if let Some(out) = child.stdout.take() {
        out.take(bytes_max + 1).read_to_end(&mut bytes).await?;
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
