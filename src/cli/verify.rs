//! `stillpoint verify`: reads backups back and proves that they are intact.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `verify` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backups, or how their ids begin; all if none is given.
    #[arg(value_name = "BACKUP")]
    backups: Vec<String>,
    /// All backups of this database.
    #[arg(long, value_name = "NAME", conflicts_with = "backups")]
    database: Option<String>,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<u8> {
    Err(Error::bug("do this"))
}
