//! `stillpoint check`: whether everything is as protected as it should be.

use clap::Args;
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What `check` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only look whether every object is there, with the size and name it must have. Needs no
    /// key, and works on a copy of the repository that may be incomplete.
    #[arg(long)]
    files_only: bool,
    /// Fail when the newest restorable moment of a database is older than this, such as 1h.
    #[arg(long, value_name = "LENGTH", conflicts_with = "files_only")]
    max_age: Option<String>,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Options) -> Result<u8> {
    Err(Error::bug("do this"))
}
