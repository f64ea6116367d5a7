//! `stillpoint completion`: a script that completes commands in a shell.

use clap::{Args, CommandFactory};
use serde::Serialize;
use stillpoint_contract::Result;

use super::{answer::Answer, args::Typed, page::Page, session::Session};

/// What `completion` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The shell.
    shell: clap_complete::Shell,
}

#[derive(Debug, Serialize)]
struct CompletionAnswer {
    shell: String,
    script: String,
}

impl Answer for CompletionAnswer {
    const SCHEMA: &'static str = "completion/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(self.script.trim_end());
    }
}

/// Prints the script.
pub(crate) fn run(session: &Session, options: &Options) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Typed::command(), "stillpoint", &mut script);
    session.answer(&CompletionAnswer {
        shell: options.shell.to_string(),
        script: String::from_utf8_lossy(&script).into_owned(),
    })
}
