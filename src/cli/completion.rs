//! `stillpoint completion`: a script that completes commands in a shell.

use clap::{Args, CommandFactory};
use stillpoint_contract::Result;

use super::{answer, args::Typed};

/// What `completion` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Typed::command(), "stillpoint", &mut script);
    answer::print(&String::from_utf8_lossy(&script))
}
