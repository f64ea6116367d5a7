//! The commands below `stillpoint config`.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, print},
        exit,
        page::Page,
        session::Session,
    },
    check, explain, import,
};
use crate::config::{EXAMPLE, schema};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write the shortest configuration that makes a scheduled backup.
    Init(InitOptions),
    /// Tell everything that is wrong with the configuration, at once.
    ///
    /// Ends with 3 where something is an error; warnings alone end with 0.
    Check,
    /// Print the JSON schema of configurations, for editors and generators.
    Schema,
    /// Show what the configuration means, with everything that it leaves to others.
    Show,
    /// Show where each setting of a database or of a policy comes from.
    Explain(explain::Options),
    /// Write a configuration from that of another tool, and tell what has no equivalent.
    ///
    /// No secret is repeated: where one was, the file says from where it is to come.
    Import(import::Options),
}

/// What `config init` is told.
#[derive(Debug, Args)]
pub(crate) struct InitOptions {
    /// The file to write; it must not be there yet [default: print it].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct InitAnswer {
    path: Option<String>,
    text: &'static str,
}

impl Answer for InitAnswer {
    const SCHEMA: &'static str = "config-init/1";

    fn write(&self, page: &mut Page<'_>) {
        match &self.path {
            Some(path) => {
                page.line(format!("Wrote {path}. Next: stillpoint config check -c {path}"));
            }
            None => page.line(self.text.trim_end()),
        }
    }
}

/// Runs one.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Init(options) => init(session, options)?,
        Command::Check => return check::run(session),
        Command::Schema => {
            let text = serde_json::to_string_pretty(&schema());
            let text = text.map_err(|cause| Error::bug("write the schema").caused_by(cause))?;
            print(&(text + "\n"))?;
        }
        Command::Show => explain::show(session)?,
        Command::Explain(options) => return explain::run(session, options).await,
        Command::Import(options) => import::run(session, options)?,
    }
    Ok(exit::OK)
}

fn init(session: &Session, options: InitOptions) -> Result<()> {
    options.out.as_deref().map_or(Ok(()), |path| write_new(path, EXAMPLE))?;
    let path = options.out.map(|path| path.display().to_string());
    session.answer(&InitAnswer { path, text: EXAMPLE })
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    let failed = |cause: std::io::Error| {
        let is_there = cause.kind() == std::io::ErrorKind::AlreadyExists;
        let kind = if is_there { ErrorKind::Refused } else { ErrorKind::Exhausted };
        Error::new(kind, code::FILE, "write the configuration")
            .with("file", path.display())
            .caused_by(cause)
    };
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
