//! `stillpoint backup`: copies a database while it is in use.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `backup` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, as an engine and an address, such as sqlite:app.db.
    #[arg(value_name = "URL")]
    database: String,
    /// The name of the database in the repository [default: its file name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Read everything, also what is known not to have changed.
    #[arg(long)]
    full: bool,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
