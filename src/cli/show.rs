//! `stillpoint show`: everything about one backup.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `show` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backup, or how its id begins.
    backup: String,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
