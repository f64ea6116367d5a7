//! `stillpoint logs`: capture of a database's log.

use clap::{Args, Subcommand};
use stillpoint_contract::{Error, Result};

use super::session::Session;

/// What to do with logs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Capture a database's log as it is written, until stopped.
    Stream(StreamOptions),
    /// Show how far each database's log is captured.
    Status(StatusOptions),
}

/// What `logs stream` is told.
#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// The database, as an engine and an address, such as sqlite:app.db.
    #[arg(value_name = "URL")]
    database: String,
    /// The name of the database in the repository [default: its file name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Stop, cleanly, when standard input ends.
    #[arg(long)]
    stop_at_eof: bool,
}

/// What `logs status` is told.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Only this database.
    database: Option<String>,
}

/// Does it.
pub(crate) async fn run(_: &Session, _: Command) -> Result<()> {
    Err(Error::bug("do this"))
}
