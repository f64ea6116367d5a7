//! `stillpoint archive restore`: archived rows, put back into a table.

use clap::{ArgGroup, Args, ValueEnum, builder::ArgPredicate};
use serde::Serialize;
use stillpoint_contract::{Conflict, Error, ErrorKind, PutBackTally, Result, TablePattern, code};

use super::{place::Set, read::ledger};
use crate::{
    archiver::{Returned, Returning, Wanted, put_back},
    cli::{
        answer::Answer,
        exit,
        page::{Page, Table, printable},
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
    /// Which rows, such as: customer_id = 42 and created_at < 2024-01-01.
    ///
    /// A column is compared with a value by =, !=, <, <=, > or >=, or it is in (7, 8), not in
    /// ('a', 'b'), is null, or is not null. All that and joins has to be so; there is no or. What
    /// has spaces in it stands in quotes. A file without the column has NULL there.
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// Only rows of this table [default: rows of the root, and those of other tables that hang on
    /// them].
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only rows of this run, also where a newer one has rows with their keys [default: of rows
    /// with one key, the one that was archived last].
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Where they are put.
    #[arg(
        long,
        value_name = "PLACE",
        default_value = "table",
        default_value_if("staging", ArgPredicate::IsPresent, "staging")
    )]
    into: Into,
    /// The name of that new table; rows of the root's children go into tables NAME_CHILD [default:
    /// that of the table, and _restored].
    #[arg(long, value_name = "NAME")]
    staging: Option<String>,
    /// What happens where a row with the same key is there: fail, skip, overwrite, or
    /// newer:COLUMN, which overwrites where the archived row is newer by that column. Rows of
    /// another table that lacks it come back, and overwrite, with those that they hang on.
    #[arg(long, value_name = "HOW", default_value = "fail")]
    on_conflict: String,
}

/// Where rows are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Into {
    /// The table that they come from.
    Table,
    /// A new table beside it.
    Staging,
}

#[derive(Debug, Serialize)]
struct RestoreAnswer {
    set: String,
    table: Option<String>,
    staging: Option<String>,
    inserted: u64,
    replaced: u64,
    skipped: u64,
    /// Rows that were left in the files, since newer ones have rows with their keys.
    older_versions: u64,
    /// The same of each table that has rows now.
    tables: Vec<TableRow>,
}

#[derive(Debug, Serialize)]
struct TableRow {
    table: String,
    inserted: u64,
    replaced: u64,
    skipped: u64,
    older_versions: u64,
}

impl TableRow {
    fn of(returned: Returned) -> Self {
        let Returned { table, tally, older } = returned;
        let PutBackTally { inserted, replaced, skipped } = tally;
        Self { table, inserted, replaced, skipped, older_versions: older }
    }
}

impl Answer for RestoreAnswer {
    const SCHEMA: &'static str = "archive-restore/1";

    fn write(&self, page: &mut Page<'_>) {
        page.line(format!("Rows of archive set {} are back", printable(&self.set)));
        let mut table = Table::new(&["TABLE", ">NEW", ">REPLACED", ">LEFT AS THEY WERE"]);
        for row in &self.tables {
            table.row(vec![
                row.table.clone(),
                units::grouped(row.inserted),
                units::grouped(row.replaced),
                units::grouped(row.skipped),
            ]);
        }
        page.table(&table);
        if self.older_versions > 0 {
            let were = if self.older_versions == 1 { "was" } else { "were" };
            page.line(format!(
                "{} {were} left in the files: newer ones have rows with their keys. --run RUN puts \
                 back those of a run.",
                units::count(self.older_versions, "older version", "older versions")
            ));
        }
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

/// The name of the new table, where there is to be one.
fn staging(options: &Options, root: &str) -> Result<Option<String>> {
    match (options.into, &options.staging) {
        (Into::Table, None) => Ok(None),
        (Into::Staging, Some(name)) => Ok(Some(name.clone())),
        (Into::Staging, None) => {
            let pattern = TablePattern::new(options.table.as_deref().unwrap_or(root))?;
            Ok(pattern.names().last().map(|own| format!("{own}_restored")))
        }
        (Into::Table, Some(name)) => {
            Err(Error::new(ErrorKind::Invalid, code::USAGE, "choose where rows are put")
                .with("--staging", name)
                .why("--into table puts them into the table that they come from")
                .next("--into staging"))
        }
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
    let place = set.place_to_read(session).await?;
    // Says which rows it could not find out about.
    ledger(session, &set, &place).await?;
    let driver = set.driver(session).await?;
    let staging = staging(&options, &set.rule.root)?;
    let Options { table, run, .. } = options;
    let wanted = Wanted { table: table.clone(), terms, run, rows_max: None };
    let returning = Returning { wanted, conflict, staging: staging.clone() };
    let returned = Box::pin(put_back(&place, &session.world, &*driver, &returning)).await?;
    if returned.is_empty() {
        return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, "find rows to put back")
            .with("set", &options.set)
            .why("no archived row is as the condition says; such rows may still be in their table")
            .next(format!("stillpoint archive ls {}", options.set)));
    }
    let sum = |of: fn(&PutBackTally) -> u64| returned.iter().map(|one| of(&one.tally)).sum();
    session.answer(&RestoreAnswer {
        set: options.set,
        table,
        staging,
        inserted: sum(|tally| tally.inserted),
        replaced: sum(|tally| tally.replaced),
        skipped: sum(|tally| tally.skipped),
        older_versions: returned.iter().map(|one| one.older).sum(),
        tables: returned.into_iter().map(TableRow::of).collect(),
    })?;
    Ok(exit::OK)
}
