//! A server from its start to its end.

use std::{
    collections::BTreeMap, error, fmt, fs::File, io, net::TcpListener, thread, time::Duration,
};

use tempfile::TempDir;

use crate::{Service, http, process::Process, service::tail};

/// A running server with an empty bucket. Dropping it ends the server and removes its files.
#[derive(Debug)]
pub struct Server {
    service: Service,
    port: u16,
    // Before the directory, so that nobody writes there while it is removed.
    _process: Process,
    _directory: TempDir,
}

/// A server did not start.
#[derive(Debug)]
pub struct StartError {
    service: Service,
    why: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {:?}: {}", self.service, self.why)
    }
}

impl error::Error for StartError {}

/// Somebody else may take the free port that was found; then another is tried.
const ATTEMPTS: usize = 3;

const PAUSE: Duration = Duration::from_millis(50);
/// A minute: a loaded machine starts an interpreter slowly.
const PAUSES_MAX: usize = 1200;

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not answer within a minute, with the end of its log.
    pub fn start(service: Service) -> Result<Self, StartError> {
        let failed = |why: &dyn fmt::Display| StartError { service, why: why.to_string() };
        service.available().map_err(|missing| failed(&missing))?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::attempt(service) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| failed(&"nothing was tried"), |error| failed(&error)))
    }

    /// Where its bucket is, as a repository URL. Append `/prefix` to share the server.
    pub fn url(&self) -> String {
        self.service.url()
    }

    /// Endpoint and credentials, named as in the environment.
    pub fn options(&self) -> BTreeMap<String, String> {
        self.service.options(self.port)
    }

    fn attempt(service: Service) -> io::Result<Self> {
        let directory = TempDir::with_prefix("stillpoint-")?;
        let log = directory.path().join("log");
        let output = File::create(&log)?;
        let errors = output.try_clone()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut process = Process::start(&service.program(), |command| {
            service.prepare(command, port, directory.path());
            command.current_dir(directory.path()).stdout(output).stderr(errors);
        })?;
        let ready = wait(&mut process, port).and_then(|()| service.furnish(port));
        ready.map_err(|error| io::Error::other(format!("{error}\n{}", tail(&log))))?;
        Ok(Self { service, port, _process: process, _directory: directory })
    }
}

fn wait(process: &mut Process, port: u16) -> io::Result<()> {
    for _ in 0..PAUSES_MAX {
        if let Some(status) = process.ended()? {
            return Err(io::Error::other(format!("it ended: {status}")));
        }
        if http::request(port, "GET", "/").is_ok() {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer within a minute"))
}
