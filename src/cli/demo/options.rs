//! What `demo` is told.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// What `demo` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to play, in a new folder that is kept. Without it, a temporary folder is used and
    /// removed at the end.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// What the demo tells each customer.
#[derive(Debug, Args)]
pub(crate) struct CustomerOptions {
    /// The shop's database.
    #[arg(long)]
    pub database: PathBuf,
    /// Where the customer writes down what was confirmed.
    #[arg(long)]
    pub ledger: PathBuf,
    /// Makes this customer's choices.
    #[arg(long)]
    pub seed: u64,
}
