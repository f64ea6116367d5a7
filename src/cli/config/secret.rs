//! What a configuration says of secrets, turned into them: from files, variables and programs.
//!
//! None is shown, whatever goes wrong: errors name where it should have come from.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};
use zeroize::Zeroizing;

use super::super::{environment::Environment, secret};
use crate::config::Secret;

/// How long a program may take to print a secret.
const PROGRAM_TIME_MAX: Duration = Duration::from_secs(30);

/// The longest secret that a program prints, in bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// Fetches a secret, without the line break at its end. `of` says what it is for.
pub(crate) async fn fetch(
    (clock, environment): (&dyn Clock, &Environment),
    secret: &Secret,
    of: &str,
) -> Result<Zeroizing<String>> {
    let text = match secret {
        Secret::File(path) => read(path.clone()).await,
        Secret::Variable(name) => variable(environment, name),
        Secret::Program(words) => print(words, clock).await,
        Secret::Literal(text) => Ok(text.clone()),
    };
    let text = text.map_err(|error| error.with("secret", of))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

/// A file on a network may take its time, and nobody else shall wait for it.
async fn read(path: PathBuf) -> Result<Zeroizing<String>> {
    // `-` is a file here: there is nobody at the other end of standard input.
    let read = move || secret::text_of_file(&Path::new(".").join(path));
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|cause| Error::bug("read the file with the secret").caused_by(cause))?
}

fn variable(environment: &Environment, name: &str) -> Result<Zeroizing<String>> {
    let value = environment.get(name).map(str::to_owned);
    value.map(Zeroizing::new).ok_or_else(|| {
        Error::new(ErrorKind::Config, code::NO_KEY, "read a secret from the environment")
            .with("variable", name)
            .why("it is not set, or empty, or not UTF-8")
    })
}

/// What a program prints. It is told nothing, heard out up to a limit, and ended with whatever it
/// started when it takes too long.
async fn print(words: &[String], clock: &dyn Clock) -> Result<Zeroizing<String>> {
    let failed = |why: &'static str| {
        Error::new(ErrorKind::Config, code::NO_KEY, "have a program print a secret")
            .with("program", words.first().cloned().unwrap_or_default())
            .why(why)
    };
    let (program, arguments) = words.split_first().ok_or_else(|| failed("none is named"))?;
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let spawned = command.spawn();
    let mut running =
        Group(spawned.map_err(|cause| failed("it cannot be started").caused_by(cause))?);
    let printed = tokio::select! {
        biased;
        printed = hear(&mut running.0) => printed,
        () = clock.sleep(PROGRAM_TIME_MAX) => {
            return Err(failed("it printed nothing complete within 30 seconds, and was ended"));
        }
    };
    let (bytes, is_good) = printed.map_err(|cause| failed("it broke off").caused_by(cause))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(failed("it printed more than 4,096 bytes"));
    }
    if !is_good {
        return Err(failed("it ended with a failure; run it by hand to see what it says"));
    }
    let text = str::from_utf8(&bytes).map_err(|_| failed("what it printed is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(failed("it printed nothing"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// All that a program prints, and whether it ended well.
async fn hear(child: &mut Child) -> std::io::Result<(Zeroizing<Vec<u8>>, bool)> {
    // As large as it may become, so that no copy is left behind where it was smaller.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 2));
    if let Some(out) = child.stdout.take() {
        out.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemClock;

    fn program(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn printed(script: &str) -> Result<String> {
        let clock = SystemClock::new();
        print(&program(script), &clock).await.map(|text| text.to_string())
    }

    #[tokio::test]
    async fn a_program_prints_a_secret_or_says_why_not() {
        assert_eq!(printed("echo 'correct horse'").await.unwrap(), "correct horse\n");
        for (script, why) in [
            ("echo hunter2; exit 3", "a failure"),
            ("head -c 9000 /dev/zero | tr '\\0' x", "more than 4,096"),
            ("printf '\\377\\376'", "not UTF-8"),
            ("echo", "printed nothing"),
            ("exec nonsense-that-is-nowhere", "a failure"),
        ] {
            let error = printed(script).await.unwrap_err();
            assert!(error.reason().is_some_and(|told| told.contains(why)), "{script}: {error:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let absent = print(&["/nowhere/at/all".to_owned()], &SystemClock::new()).await;
        assert!(absent.unwrap_err().reason().unwrap().contains("cannot be started"));
    }

    /// Thirty seconds pass at once on this clock.
    #[derive(Debug)]
    struct Hasty(SystemClock);

    #[async_trait::async_trait]
    impl Clock for Hasty {
        fn now(&self) -> chrono::DateTime<chrono::Utc> {
            self.0.now()
        }

        fn elapsed(&self) -> Duration {
            self.0.elapsed()
        }

        async fn sleep(&self, _: Duration) {
            self.0.sleep(Duration::from_millis(200)).await;
        }
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", note.display());
        let clock = Hasty(SystemClock::new());
        let error = print(&program(&script), &clock).await.unwrap_err();
        assert!(error.reason().unwrap().contains("30 seconds"), "{error:?}");
        assert!(clock.elapsed() < Duration::from_secs(20));
        let number: u32 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
        let stat = format!("/proc/{number}/stat");
        let is_over = || {
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            text.is_empty() || text.contains(") Z ")
        };
        for _ in 0..100 {
            if is_over() {
                return;
            }
            clock.sleep(Duration::ZERO).await;
        }
        panic!("it lives");
    }
}
