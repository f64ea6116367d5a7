//! A server that takes mail and prints it.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread::sleep,
    time::Duration,
};

use crate::process::Process;

/// How often it is asked whether it has started, and after which pauses.
const TRIES_MAX: u32 = 1_200;
const PAUSE: Duration = Duration::from_millis(50);

/// A running mail server, `aiosmtpd`. Stopped when dropped.
#[derive(Debug)]
pub struct Mail {
    _process: Process,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Mail {
    /// Starts it for a test, or says on standard error that it is not installed.
    ///
    /// # Panics
    ///
    /// When it is installed and does not start, and, where `CI` is set, when it is missing.
    pub fn required() -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR"))
            .with_file_name(".tools")
            .join("python/bin/aiosmtpd");
        if !program.is_file() {
            let missing = "aiosmtpd is missing: sh testcontainers/install.sh";
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED: {missing}");
            }
            return None;
        }
        Some(Self::start(&program).unwrap_or_else(|error| panic!("{error}")))
    }

    fn start(program: &Path) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let out = File::create(folder.path().join("mail"))?;
        let process = Process::start(program, |command| {
            let listen = address.to_string();
            let words = ["-n", "-l", &listen, "-c", "aiosmtpd.handlers.Debugging", "stdout"];
            command.args(words).env("PYTHONUNBUFFERED", "1").stdout(out);
        })?;
        let mail = Self { _process: process, folder, address };
        for _ in 0..TRIES_MAX {
            if TcpStream::connect(address).is_ok() {
                return Ok(mail);
            }
            sleep(PAUSE);
        }
        Err(io::Error::other("aiosmtpd did not start"))
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Every message that it took, as they came.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("mail")).unwrap_or_default()
    }
}
