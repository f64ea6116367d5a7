//! The process of a sandbox's server. It lives no longer than ours.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::oneshot;

use super::{cage, settings};
use crate::recover::{Server, tail};

const STEP: &str = "start the server of a sandbox";

/// A server that runs.
#[derive(Debug)]
pub(super) struct Process {
    id: Pid,
    /// What keeps it to itself.
    pub(super) cage: &'static str,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    log: PathBuf,
    has_ended: bool,
}

/// What the thread of a server begins with.
struct Start {
    role: Command,
    statement: String,
    server: Command,
    root: PathBuf,
}

impl Process {
    /// Makes a superuser named `role`, which every cluster lacks, and starts a server.
    pub(super) async fn start(
        server: &Server,
        (data, directory): (&Path, &Path),
        role: &str,
    ) -> Result<Self> {
        let log = directory.join("log");
        let root = directory.parent().ok_or_else(|| Error::bug(STEP))?.to_owned();
        let failed = |cause: io::Error| {
            Error::new(ErrorKind::Unsupported, code::SANDBOX_SERVER, STEP)
                .with("program", server.program.display())
                .caused_by(cause)
        };
        let command = |first: &[&str], last: &[&str]| -> io::Result<Command> {
            let mut command = unprivileged(server);
            command.args(first).arg("-D").arg(data).args(settings::arguments(directory));
            command.args(last).current_dir(directory).env_clear().env("LC_ALL", "C");
            command
                .stdout(Stdio::null())
                .stderr(File::options().create(true).append(true).open(&log)?);
            Ok(command)
        };
        let start = Start {
            role: command(&["--single"], &["template1"]).map_err(failed)?,
            // A backend of its own; nothing in the cluster is fired by it.
            statement: format!("CREATE ROLE {role} SUPERUSER LOGIN\n"),
            server: command(&[], &[]).map_err(failed)?,
            root,
        };
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        // The thread stays as long as the server: the death of a thread is what the server would
        // follow, and what it may not do holds for the thread as well.
        let thread = thread::Builder::new().name("sandbox".to_owned());
        thread.spawn(move || live(start, tell_started, tell_ended)).map_err(failed)?;
        let started = started.await.map_err(|cause| Error::bug(STEP).caused_by(cause))?;
        let (id, cage) = started.map_err(|cause| said(failed(cause), &log))?;
        Ok(Self { id, cage, ended, log, has_ended: false })
    }

    /// What the server said when it ended by itself; `None` while it runs.
    pub(super) fn failure(&mut self) -> Option<Error> {
        if !self.has_ended {
            let outcome = match self.ended.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return None,
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(cause)) => cause.to_string(),
                Err(oneshot::error::TryRecvError::Closed) => String::new(),
            };
            self.has_ended = true;
            let error = Error::new(ErrorKind::Unsupported, code::SANDBOX_SERVER, STEP);
            return Some(said(error.with("it ended", outcome), &self.log));
        }
        Some(said(Error::new(ErrorKind::Unsupported, code::SANDBOX_SERVER, STEP), &self.log))
    }

    /// Ends it at once; what it holds is thrown away.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.signal();
        let ended = (&mut self.ended).await;
        self.has_ended = true;
        ended.map(drop).map_err(|cause| Error::bug("wait for a server").caused_by(cause))
    }

    fn signal(&self) {
        if !self.has_ended {
            // What is gone already needs no signal.
            let _ = kill_process(self.id, Signal::QUIT);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal();
    }
}

/// With what the server said last.
fn said(error: Error, log: &Path) -> Error {
    tail(log).iter().fold(error, |error, line| error.with("server", line))
}

/// The server's program, as a user that it accepts; it is killed when our thread ends.
fn unprivileged(server: &Server) -> Command {
    let mut command = Command::new("setpriv");
    if let Some((user, group)) = server.owner {
        command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
        command.arg("--clear-groups");
    }
    command.args(["--pdeathsig", "KILL", "--"]).arg(&server.program);
    command
}

type Started = io::Result<(Pid, &'static str)>;

/// The life of a server's thread.
fn live(
    start: Start,
    tell_started: oneshot::Sender<Started>,
    tell_ended: oneshot::Sender<io::Result<ExitStatus>>,
) {
    match begin(start) {
        Err(error) => drop(tell_started.send(Err(error))),
        Ok((mut child, cage)) => {
            let id = Pid::from_child(&child);
            if tell_started.send(Ok((id, cage))).is_err() {
                // Nobody waits any more.
                drop(child.kill());
            }
            drop(tell_ended.send(child.wait()));
        }
    }
}

fn begin(mut start: Start) -> io::Result<(Child, &'static str)> {
    let cage = cage::enter(&start.root)?;
    let mut single = start.role.stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = single.stdin.take() {
        // Without a reader it has ended, and says why.
        drop(input.write_all(start.statement.as_bytes()));
    }
    let status = single.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("its first process ended: {status}")));
    }
    Ok((start.server.stdin(Stdio::null()).spawn()?, cage))
}
