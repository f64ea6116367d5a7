//! Programs for Python, with what `install.sh` puts beside it.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Finds Python with a module for a test, or says on standard error that it is not installed.
///
/// # Panics
///
/// Where `CI` is set, when it is missing.
pub(crate) fn required(module: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools");
    let python = tools.join("python/bin/python");
    let imported = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if !imported.is_ok_and(|output| output.status.success()) {
        let missing = format!("{module} is missing: sh testcontainers/install.sh");
        assert!(env::var_os("CI").is_none(), "{missing}");
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("SKIPPED: {missing}");
        }
        return None;
    }
    Some(python)
}

/// What a program prints that is given some text.
///
/// # Errors
///
/// What it says when it fails.
pub(crate) fn run(python: &Path, program: &str, input: &str) -> io::Result<String> {
    let mut child = Command::new(python)
        .args(["-c", program])
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Reads nothing more before it writes.
    child.stdin.take().expect("it is piped").write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}
