//! `stillpoint forget`: gives up backups.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `forget` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backups, or how their ids begin.
    #[arg(required = true, value_name = "BACKUP")]
    backups: Vec<String>,
    /// Only tell what would be forgotten.
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
