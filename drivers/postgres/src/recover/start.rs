//! A server on what was restored.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, process::Stdio};

use rustix::process::geteuid;
use stillpoint_contract::{Error, ErrorKind, RestorePlan, Result, code, quoted};

use super::server::{Server, tail};
use crate::error;

/// How long a server may take until it accepts connections, in seconds.
const START_SECONDS_MAX: u32 = 600;

/// What the server says while it starts, in its directory.
const LOG_FILE: &str = "stillpoint-start.log";

const STEP: &str = "start a server on the restored cluster";

/// Starts it and waits until it accepts connections. Says where.
pub(crate) async fn start(plan: &RestorePlan, places: &[PathBuf]) -> Result<String> {
    let data = &plan.target;
    let version = data.join("PG_VERSION");
    let read = fs::read_to_string(&version).map_err(|cause| error::file(cause, STEP, &version));
    let major = read?.trim().parse().unwrap_or(0);
    let server = Server::find(places, major).await.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, STEP)
            .with("needed", format!("PostgreSQL {major}"))
    })?;
    let metadata = fs::metadata(data).map_err(|cause| error::file(cause, STEP, data))?;
    let owner = geteuid().is_root().then(|| (metadata.uid(), metadata.gid()));
    let log = data.join(LOG_FILE);
    let mut command = server.beside("pg_ctl", owner);
    command.args(["start", "--wait", "--silent"]);
    command.arg(format!("--timeout={START_SECONDS_MAX}"));
    command.arg("-D").arg(data).arg("-l").arg(&log);
    command.current_dir("/").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().await;
    let failed = |error: Error| {
        error
            .with("restored to", data.display())
            .next(format!("pg_ctl start -D {}", quoted(&data.display().to_string())))
    };
    let status = status.map_err(|cause| {
        failed(Error::new(ErrorKind::Config, code::FILE, STEP)).caused_by(cause)
    })?;
    if !status.success() {
        let error = Error::new(ErrorKind::Config, code::UNSUITABLE_DATABASE, STEP)
            .why("the database is restored and in its place; its server did not start");
        let error = failed(error);
        return Err(tail(&log).iter().fold(error, |error, line| error.with("server", line)));
    }
    let lock = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let line = |number: usize| lock.lines().nth(number).unwrap_or_default().trim().to_owned();
    let (process, port, socket) = (line(0), line(3), line(4));
    let version = server.version();
    Ok(format!(
        "PostgreSQL {version} accepts connections on port {port}, socket {socket}, \
         process {process}"
    ))
}
