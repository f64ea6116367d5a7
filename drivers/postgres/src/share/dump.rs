//! `pg_dump`, which knows how every kind of object is defined; run on a sandbox.
//!
//! Source: <https://www.postgresql.org/docs/current/app-pgdump.html>: it reads servers of its own
//! major version and of older ones.

use std::{fs::File, path::PathBuf, process::Stdio};

use bytes::{Bytes, BytesMut};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStdout, Command},
};

use crate::{
    recover::{Server, tail, version_of},
    version::MAJORS,
};

const STEP: &str = "read definitions with pg_dump";

const NAME: &str = "pg_dump";

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// What is never asked for: what reaches other servers, or needs more than the server has.
const ALWAYS: [&str; 5] = [
    "--no-password",
    "--quote-all-identifiers",
    "--no-subscriptions",
    "--no-security-labels",
    "--encoding=UTF8",
];

/// The program, and where the sandbox is.
#[derive(Clone, Debug)]
pub(super) struct Dumper {
    pub(super) program: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) role: String,
    pub(super) options: Option<String>,
}

/// A dump that runs. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Dump {
    child: Child,
    out: ChildStdout,
    buffer: BytesMut,
    log: PathBuf,
}

/// Finds a program that reads servers of a major version.
pub(crate) async fn find(server: &Server, major: u32) -> Result<PathBuf> {
    let mut places = vec![server.program.with_file_name(NAME)];
    for newer in major..=*MAJORS.end() {
        places.push(PathBuf::from(format!("/usr/lib/postgresql/{newer}/bin/{NAME}")));
        places.push(PathBuf::from(format!("/usr/pgsql-{newer}/bin/{NAME}")));
    }
    places.extend(crate::recover::by_shell(NAME).await);
    for place in places.into_iter().filter(|place| place.is_file()) {
        let version = version_of(&place).await.unwrap_or_default();
        let found = version.split('.').next().and_then(|number| number.parse::<u32>().ok());
        if found.is_some_and(|found| found >= major) {
            return Ok(place);
        }
    }
    Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "find pg_dump")
        .with("needed", format!("pg_dump of PostgreSQL {major} or newer"))
        .why("it knows how tables are defined, and is not installed here")
        .next(format!(
            "apt-get install postgresql-client-{major}, or dnf install postgresql{major}"
        ))
        .next("or put its directory on PATH, and run the same command again"))
}

impl Dumper {
    /// Starts to dump a database.
    pub(super) fn start(&self, database: &str, arguments: &[String]) -> Result<Dump> {
        let log = self.directory.join("pg_dump.log");
        let failed = |cause: std::io::Error| {
            Error::new(ErrorKind::Config, code::FILE, STEP)
                .with("program", self.program.display())
                .caused_by(cause)
        };
        let mut command = Command::new(&self.program);
        command.args(ALWAYS).args(arguments);
        // The directory is that of the sandbox: whoever removes it ends the program as well.
        command.current_dir(&self.directory).env_clear().env("LC_ALL", "C");
        command.env("PGHOST", &self.directory).env("PGPORT", crate::sandbox::PORT.to_string());
        command.env("PGUSER", &self.role).env("PGDATABASE", database);
        if let Some(options) = &self.options {
            command.env("PGOPTIONS", options);
        }
        let errors = File::create(&log).map_err(failed)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let out = child.stdout.take().ok_or_else(|| Error::bug(STEP))?;
        Ok(Dump { child, out, buffer: BytesMut::new(), log })
    }
}

impl Dump {
    /// Reads more; returns whether there was any.
    async fn fill(&mut self) -> Result<bool> {
        self.buffer.reserve(READ_BYTES);
        let read = self.out.read_buf(&mut self.buffer).await;
        let read =
            read.map_err(|e| Error::new(ErrorKind::Transient, code::FILE, STEP).caused_by(e))?;
        Ok(read > 0)
    }

    /// The next line with its line feed; `None` at the end.
    pub(super) async fn line(&mut self) -> Result<Option<Bytes>> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.split_to(looked + end + 1).freeze()));
            }
            looked = self.buffer.len();
            if !self.fill().await? {
                let rest = self.buffer.split().freeze();
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
        }
    }

    /// The next rows of a table, as `COPY` takes them; `None` after the last. `is_start` says
    /// whether a line begins, and is kept up to date.
    pub(super) async fn rows(&mut self, is_start: &mut bool) -> Result<Option<Bytes>> {
        const END: &[u8] = b"\\.\n";
        while self.buffer.len() < END.len() {
            if !self.fill().await? {
                return Err(Error::new(ErrorKind::Transient, code::SANDBOX_SERVER, STEP)
                    .why("its output ends amid the rows of a table"));
            }
        }
        if *is_start && self.buffer.starts_with(END) {
            drop(self.buffer.split_to(END.len()));
            return Ok(None);
        }
        // Up to the line that ends them, which is the only one that begins with `\.`.
        let mut from = 0;
        let length = loop {
            match self.buffer[from..].iter().position(|byte| *byte == b'\n') {
                None => {
                    *is_start = false;
                    break self.buffer.len();
                }
                Some(end) => {
                    from += end + 1;
                    let rest = &self.buffer[from..];
                    if rest.is_empty() || END.starts_with(&rest[..rest.len().min(END.len())]) {
                        *is_start = true;
                        break from;
                    }
                }
            }
        };
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// With what it said, unless it read everything.
    pub(super) async fn finish(mut self) -> Result<()> {
        let status = self.child.wait().await;
        let status =
            status.map_err(|e| Error::new(ErrorKind::Config, code::FILE, STEP).caused_by(e))?;
        if status.success() {
            return Ok(());
        }
        Err(self.failure(status.to_string()))
    }

    fn failure(&self, status: String) -> Error {
        let error = Error::new(ErrorKind::Unsupported, code::SANDBOX_SERVER, STEP)
            .with("it ended", status)
            .why("the restored copy could not be read as a whole");
        tail(&self.log).iter().fold(error, |error, line| error.with("pg_dump", line))
    }
}

/// An argument that means one relation and no other.
pub(super) fn only(name: &str) -> String {
    format!("--table={name}")
}
