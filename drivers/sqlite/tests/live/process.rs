//! Processes that write to a database, which are this test binary again.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const TASK: &str = "STILLPOINT_TEST_WRITER";

/// What a writer does, where, and until when.
pub(crate) struct Task {
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
    pub(crate) until: Instant,
}

/// What this process shall do, if it is a writer.
pub(crate) fn task() -> Option<Task> {
    let task = env::var_os(TASK)?.into_string().unwrap();
    let (kind, rest) = task.split_once(' ').unwrap();
    let (seconds, path) = rest.split_once(' ').unwrap();
    let until = now() + Duration::from_secs(seconds.parse().unwrap());
    Some(Task { kind: kind.to_owned(), path: path.into(), until })
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Starts a writer, whose main function is the test of that name.
pub(crate) fn spawn(test: &str, kind: &str, seconds: u64, path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(TASK, format!("{kind} {seconds} {}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
