//! The servers there are, and how each is run.

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Server, http};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Azure Blob Storage, as Microsoft's emulator has it. Keeps conditions.
    Azurite,
    /// S3, as the moto mock has it. Keeps conditions.
    Moto,
    /// S3, as the old mock s3rver has it. Ignores conditions: a second `If-None-Match: *`
    /// overwrites.
    S3rver,
}

/// A server cannot be started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    service: Service,
    program: PathBuf,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, program } = self;
        write!(f, "{service:?} is not installed (no {}): ", program.display())?;
        write!(f, "run testcontainers/install.sh")
    }
}

impl std::error::Error for Missing {}

/// The bucket or container that every server starts with.
const BUCKET: &str = "stillpoint";
const AZURE_ACCOUNT: &str = "stillpoint";
/// The account's key, in base64.
const AZURE_KEY: &str = "c3RpbGxwb2ludA==";
/// s3rver accepts no other.
const S3RVER_KEY: &str = "S3RVER";

impl Service {
    /// Every service.
    pub const ALL: [Self; 3] = [Self::Azurite, Self::Moto, Self::S3rver];

    /// Whether the server is installed.
    ///
    /// # Errors
    ///
    /// What is missing, and the command that installs it.
    pub fn available(self) -> Result<(), Missing> {
        let program = self.program();
        if program.is_file() { Ok(()) } else { Err(Missing { service: self, program }) }
    }

    pub(crate) fn program(self) -> PathBuf {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools");
        tools.join(match self {
            Self::Azurite => "node/node_modules/.bin/azurite-blob",
            Self::Moto => "python/bin/moto_server",
            Self::S3rver => "node/node_modules/.bin/s3rver",
        })
    }

    /// Adds what the server needs to listen on `port` and to keep its files in `directory`.
    pub(crate) fn prepare(self, command: &mut Command, port: u16, directory: &Path) {
        let port = port.to_string();
        match self {
            Self::Azurite => command
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port, "--silent"])
                .args(["--disableTelemetry", "--skipApiVersionCheck", "--location"])
                .arg(directory)
                .env("AZURITE_ACCOUNTS", format!("{AZURE_ACCOUNT}:{AZURE_KEY}")),
            Self::Moto => command.args(["-H", "127.0.0.1", "-p", &port]),
            Self::S3rver => command
                .args(["-a", "127.0.0.1", "-p", &port, "--silent", "--configure-bucket", BUCKET])
                .arg("-d")
                .arg(directory),
        };
    }

    /// Makes the bucket, once the server answers.
    pub(crate) fn furnish(self, port: u16) -> io::Result<()> {
        match self {
            Self::Azurite => make_container(port),
            Self::Moto => match http::request(port, "PUT", &format!("/{BUCKET}"))? {
                200 => Ok(()),
                status => Err(io::Error::other(format!("making a bucket answered {status}"))),
            },
            Self::S3rver => Ok(()),
        }
    }

    pub(crate) fn url(self) -> String {
        let scheme = match self {
            Self::Azurite => "az",
            Self::Moto | Self::S3rver => "s3",
        };
        format!("{scheme}://{BUCKET}")
    }

    pub(crate) fn options(self, port: u16) -> BTreeMap<String, String> {
        let endpoint = format!("http://127.0.0.1:{port}");
        let pairs = match self {
            Self::Azurite => vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
                ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/{AZURE_ACCOUNT}")),
            ],
            Self::Moto | Self::S3rver => vec![
                ("AWS_ACCESS_KEY_ID", S3RVER_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", S3RVER_KEY.to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ENDPOINT_URL", endpoint),
            ],
        };
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Makes a container, which needs a signed request; node, which Azurite needs anyway, signs it.
fn make_container(port: u16) -> io::Result<()> {
    let made = Command::new("node")
        .args(["-e", include_str!("make_container.js")])
        .args([AZURE_ACCOUNT, AZURE_KEY, BUCKET, &port.to_string()])
        .output()?;
    if made.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()))
}

/// Starts a server for a test, or `None` when it is not installed, which is said on standard
/// error.
///
/// # Panics
///
/// When the server is installed and does not start, and, where `CI` is set, when it is missing:
/// nothing is skipped there.
pub fn required(service: Service) -> Option<Server> {
    if let Err(missing) = service.available() {
        // The one thing that tests, which have no configuration, take from the environment.
        assert!(env::var_os("CI").is_none(), "{missing}");
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("SKIPPED: {missing}");
        }
        return None;
    }
    Some(Server::start(service).unwrap_or_else(|error| panic!("{error}")))
}

/// The end of a log, for messages.
pub(crate) fn tail(path: &Path) -> String {
    const TAIL_BYTES_MAX: usize = 4000;
    let log = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(TAIL_BYTES_MAX)..]).into_owned()
}
