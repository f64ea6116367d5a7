//! `stillpoint archive restore`: archived rows, put back into a table.

use clap::{ArgGroup, Args};
use serde::Serialize;
use stillpoint_contract::{Conflict, Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{Wanted, put_back},
    cli::{
        answer::Answer,
        exit,
        page::{Page, printable},
        session::Session,
        units,
    },
};

/// What `archive restore` is told.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["condition", "all"]))]
pub(crate) struct Options {
    /// The archive set.
    set: String,
    /// Which rows, such as: customer_id = 42 and created_at < 2024-01-01
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// The table [default: the root].
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only rows of this run.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Put them into a new table of this name, beside the table.
    #[arg(long, value_name = "NAME")]
    staging: Option<String>,
    /// What happens where a row with the same key is there: fail, skip, overwrite, or
    /// newer:COLUMN, which overwrites where the archived row is newer by that column.
    #[arg(long, value_name = "HOW", default_value = "fail")]
    on_conflict: String,
}

#[derive(Debug, Serialize)]
struct RestoreAnswer {
    set: String,
    table: Option<String>,
    staging: Option<String>,
    inserted: u64,
    replaced: u64,
    skipped: u64,
}

impl Answer for RestoreAnswer {
    const SCHEMA: &'static str = "archive-restore/1";

    fn write(&self, page: &mut Page<'_>) {
        let into = match &self.staging {
            Some(staging) => format!("the new table {}", printable(staging)),
            None => "their table".to_owned(),
        };
        page.line(format!("Rows of archive set {} are in {into}", printable(&self.set)));
        let rows = |count| units::grouped(count);
        page.facts(
            2,
            &[
                ("new", rows(self.inserted)),
                ("replaced", rows(self.replaced)),
                ("left as they were", rows(self.skipped)),
            ],
        );
        page.line("They stay in the archive, too; the next run archives them again.");
    }
}

fn conflict_of(text: &str) -> Result<Conflict> {
    match (text, text.split_once(':')) {
        ("fail", _) => Ok(Conflict::Fail),
        ("skip", _) => Ok(Conflict::Skip),
        ("overwrite", _) => Ok(Conflict::Overwrite),
        (_, Some(("newer", column))) if !column.is_empty() => {
            Ok(Conflict::Newer(column.to_owned()))
        }
        _ => Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand --on-conflict")
            .with("given", text)
            .with("forms", "fail, skip, overwrite, newer:COLUMN")),
    }
}

/// Puts them back.
pub(super) async fn run(session: &Session, options: Options) -> Result<u8> {
    let terms = Wanted::terms_of(options.condition.as_deref().unwrap_or_default())?;
    if terms.is_empty() && !options.all {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "choose rows")
            .why("the condition is empty")
            .next("say --all to put every row back"));
    }
    let conflict = conflict_of(&options.on_conflict)?;
    let set = Set::of(session, &options.set).await?;
    let place = set.place(session).await?;
    let driver = set.driver(session).await?;
    let Options { table, run, staging, .. } = options;
    let wanted = Wanted { table: table.clone(), terms, run, rows_max: None };
    let tally =
        put_back(&place, &session.world, &*driver, &wanted, &conflict, staging.as_deref()).await?;
    session.answer(&RestoreAnswer {
        set: options.set,
        table,
        staging,
        inserted: tally.inserted,
        replaced: tally.replaced,
        skipped: tally.skipped,
    })?;
    Ok(exit::OK)
}
