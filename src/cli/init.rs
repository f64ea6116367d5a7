//! `stillpoint init`: creates a repository.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `init` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Encrypt nothing: whoever can read the repository can read the databases.
    #[arg(long, conflicts_with_all = ["passphrase_file", "key_file", "recovery_key_file"])]
    no_encryption: bool,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
