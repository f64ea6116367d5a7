//! `stillpoint restore`: brings a database back.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `restore` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, by the name that `list` shows.
    database: String,
    /// The moment.
    #[arg(long, value_name = "POINT", default_value = "latest", allow_hyphen_values = true)]
    at: String,
    /// Where the restored database shall be.
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    to: std::path::PathBuf,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<()> {
    Err(Error::bug("do this"))
}
