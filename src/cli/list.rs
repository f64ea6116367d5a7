//! `stillpoint list`: databases and backups on one screen.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `list` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this database.
    database: Option<String>,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
