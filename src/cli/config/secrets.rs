//! Secrets that a configuration refers to, read whenever they are needed.

use std::{fs::File, io::Read as _, path::Path, process::Stdio, time::Duration};

use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::{io::AsyncReadExt as _, process::Command};
use zeroize::Zeroizing;

use super::super::environment::Environment;
use crate::{config::Secret, world::World};

/// The longest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// How long a program may take to print one.
const PROGRAM_MAX: Duration = Duration::from_secs(20);

const STEP: &str = "read a secret";

/// Reads a secret from where it is. What was read is in no error.
pub(crate) async fn reveal(
    secret: &Secret,
    world: &World,
    environment: &Environment,
) -> Result<Zeroizing<String>> {
    match secret {
        Secret::Literal(text) => Ok(text.clone()),
        Secret::Variable(name) => {
            let value = environment.get(name).map(str::to_owned).map(Zeroizing::new);
            value.ok_or_else(|| denied().with("variable", name).why("it is not set"))
        }
        Secret::File(path) => of_file(path),
        Secret::Program(words) => {
            tokio::select! {
                printed = of_program(words) => printed,
                () = world.clock.sleep(PROGRAM_MAX) => Err(denied()
                    .with("program", words.first().map(String::as_str).unwrap_or_default())
                    .with("seconds", PROGRAM_MAX.as_secs())
                    .why("it did not end in time")),
            }
        }
    }
}

fn denied() -> Error {
    Error::new(ErrorKind::Denied, code::NO_KEY, STEP)
}

fn of_file(path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read =
        File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text));
    let read = read.map_err(|cause| denied().with("file", path.display()).caused_by(cause))?;
    if read as u64 > SECRET_BYTES_MAX {
        return Err(denied().with("file", path.display()).with("bytes at most", SECRET_BYTES_MAX));
    }
    Ok(text)
}

async fn of_program(words: &[String]) -> Result<Zeroizing<String>> {
    let (program, words) = words.split_first().ok_or_else(|| denied().why("it has no name"))?;
    let failed = |cause: std::io::Error| denied().with("program", program).caused_by(cause);
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    if let Some(output) = child.stdout.take() {
        output.take(SECRET_BYTES_MAX).read_to_string(&mut text).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        return Err(denied().with("program", program).with("status", status));
    }
    Ok(text)
}
