//! `stillpoint grants`: the least that a role needs, as statements to run.

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{answer::Answer, page::Page, session::Session};

/// What `grants` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The engine, such as postgres.
    engine: String,
    /// The role to make.
    #[arg(long, value_name = "NAME", default_value = "stillpoint")]
    role: String,
    /// The server's major version [default: the newest that is supported].
    #[arg(long, value_name = "NUMBER")]
    server_version: Option<u32>,
}

#[derive(Debug, Serialize)]
struct GrantsAnswer {
    engine: String,
    role: String,
    statements: String,
}

impl Answer for GrantsAnswer {
    const SCHEMA: &'static str = "grants/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(self.statements.trim_end());
    }
}

/// Prints the statements.
pub(crate) fn run(session: &Session, options: Options) -> Result<()> {
    let Options { engine: name, role, server_version } = options;
    let engine = session.engines.iter().find(|engine| engine.name() == name).ok_or_else(|| {
        let known: Vec<_> = session.engines.iter().map(|engine| engine.name()).collect();
        Error::new(ErrorKind::Invalid, code::UNKNOWN_SCHEME, "find the engine")
            .with("given", &name)
            .with("known", known.join(", "))
    })?;
    let statements = engine.grants(&role, server_version)?.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, code::USAGE, format!("make a role of {name}"))
            .why("this engine has no roles: whoever may read the file may back it up")
    })?;
    session.answer(&GrantsAnswer { engine: name, role, statements })
}
