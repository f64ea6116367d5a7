//! What a configuration says of secrets, turned into them: from files, variables and programs.
//!
//! None is shown, whatever goes wrong: errors name where it should have come from.

use std::path::{Path, PathBuf};

use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};
use zeroize::Zeroizing;

use super::super::{environment::Environment, secret};
use crate::{
    config::Secret,
    coordinator::{Unprinted, printed},
};

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

/// What a program prints.
async fn print(words: &[String], clock: &dyn Clock) -> Result<Zeroizing<String>> {
    let failed = |why: &'static str| {
        Error::new(ErrorKind::Config, code::NO_KEY, "have a program print a secret")
            .with("program", words.first().cloned().unwrap_or_default())
            .why(why)
    };
    let bytes = match printed(words, SECRET_BYTES_MAX, clock).await {
        Ok(bytes) => bytes,
        Err(Unprinted::TooMuch) => return Err(failed("it printed more than 4,096 bytes")),
        Err(unprinted) => {
            let (why, cause) = unprinted.told();
            let error = failed(why);
            return Err(match cause {
                Some(cause) => error.caused_by(cause),
                None => error,
            });
        }
    };
    let text = str::from_utf8(&bytes).map_err(|_| failed("what it printed is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(failed("it printed nothing"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::SystemClock;

    fn program(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn run(script: &str) -> Result<String> {
        let clock = SystemClock::new();
        print(&program(script), &clock).await.map(|text| text.to_string())
    }

    #[tokio::test]
    async fn a_program_prints_a_secret_or_says_why_not() {
        assert_eq!(run("echo 'correct horse'").await.unwrap(), "correct horse\n");
        for (script, why) in [
            ("echo hunter2; exit 3", "a failure"),
            ("head -c 9000 /dev/zero | tr '\\0' x", "more than 4,096"),
            ("printf '\\377\\376'", "not UTF-8"),
            ("echo", "printed nothing"),
            ("exec nonsense-that-is-nowhere", "a failure"),
        ] {
            let error = run(script).await.unwrap_err();
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
