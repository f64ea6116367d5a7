//! `stillpoint timeline`: which moments of a database can be restored.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `timeline` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database.
    database: String,
    /// Only this long before now, such as 14d.
    #[arg(long, value_name = "LENGTH")]
    last: Option<String>,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
