//! `stillpoint repo`: the repository itself.

use clap::{Args, Subcommand};
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What to do with the repository.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much is stored, and for what.
    Stats,
    /// Delete what no backup needs any more.
    Gc(GcOptions),
}

/// What `repo gc` is told.
#[derive(Debug, Args)]
pub(crate) struct GcOptions {
    /// Only tell what would be deleted.
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Command) -> Result<u8> {
    Err(Error::bug("do this"))
}
