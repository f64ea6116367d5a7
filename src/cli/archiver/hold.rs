//! `stillpoint archive hold`: what nobody may remove or erase.

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{ArchiveHold, Holding, Place, Shelf, held, hold, look_up, release},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, Tone, printable},
        session::Session,
    },
    coordinator::told,
};

/// What to do with holds on archived rows.
#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// Forbid to remove or erase rows of a set, of one run of it, or of somebody.
    Add(AddOptions),
    /// List holds.
    Ls(ListOptions),
    /// Release a hold.
    Release(ReleaseOptions),
}

/// What `archive hold add` is told.
#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    /// The archive set.
    set: String,
    /// In which case, such as LEG-2231.
    #[arg(long, value_name = "CASE")]
    case: String,
    /// Only this run.
    #[arg(long, value_name = "RUN", conflicts_with = "subject")]
    run: Option<String>,
    /// Only rows of this subject, and what hangs on them; files that hold such rows stay. It may
    /// be said before anything is archived.
    #[arg(long, value_name = "COLUMN=VALUE")]
    subject: Option<String>,
    /// The table that has the column [default: the root].
    #[arg(long, value_name = "TABLE", requires = "subject")]
    table: Option<String>,
}

/// What `archive hold ls` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// The archive set.
    set: String,
}

/// What `archive hold release` is told.
#[derive(Debug, Args)]
pub(crate) struct ReleaseOptions {
    /// The archive set.
    set: String,
    /// The hold, or how its id begins.
    hold: String,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct HoldsAnswer {
    set: String,
    /// What was added or released, or all that there are.
    holds: Vec<HoldRow>,
    /// Why the database could not be asked for a column of which nothing is archived yet; `null`
    /// where it could, or need not.
    unchecked: Option<String>,
}

#[derive(Debug, Serialize)]
struct HoldRow {
    id: String,
    run: Option<String>,
    /// The column that says whose rows are held, or `null`; whose, is not written down.
    subject: Option<String>,
    case: String,
    by: String,
    since: Stamp,
}

impl HoldRow {
    fn of(hold: ArchiveHold) -> Self {
        let ArchiveHold { id, run, subject, case, by, at } = hold;
        let subject = subject.map(|held| match held.table {
            Some(table) => format!("{table}.{}", held.column),
            None => held.column,
        });
        Self { id, run, subject, case, by, since: Stamp(at) }
    }
}

impl Answer for HoldsAnswer {
    const SCHEMA: &'static str = "archive-holds/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.holds.is_empty() {
            page.line(format!("Nobody holds rows of archive set {}.", printable(&self.set)));
            return;
        }
        let mut table = Table::new(&["HOLD", "CASE", "RUN", "ROWS", "SINCE", "BY"]);
        for hold in &self.holds {
            table.row(vec![
                hold.id.clone(),
                hold.case.clone(),
                hold.run.clone().unwrap_or_else(|| "all".to_owned()),
                hold.subject.as_ref().map_or_else(|| "all".to_owned(), |of| format!("one {of}")),
                page.time(hold.since.0),
                hold.by.clone(),
            ]);
        }
        page.table(&table);
        if let Some(why) = &self.unchecked {
            let told = "The database could not be asked whether it has such a column:";
            page.line(format!("  {} {}", page.paint(Tone::Warning, told), printable(why)));
            page.line("  Where it has none, every row of the set is kept.");
        }
    }
}

/// Asks the database for the column of a subject of whose set nothing is archived yet. Why it
/// could not be asked, which keeps nobody from being held.
async fn unchecked(
    session: &Session,
    set: &Set,
    place: &Place,
    what: Holding<'_>,
) -> Result<Option<String>> {
    let is_early =
        matches!(what, Holding::Subject(..)) && Shelf::load(place).await?.runs.is_empty();
    if !is_early {
        return Ok(None);
    }
    let looked = match set.driver(session).await {
        Ok(driver) => look_up(&*driver, &set.rule.root, what).await,
        Err(error) => Err(error),
    };
    let is_answer = |error: &Error| {
        let said = [code::NO_SUCH_TABLE, code::NO_SUCH_ARCHIVE, code::BAD_NAME, code::USAGE];
        said.contains(&error.code())
    };
    match looked {
        Ok(()) => Ok(None),
        Err(error) if is_answer(&error) => Err(error),
        Err(error) => Ok(Some(told(&error))),
    }
}

/// Does it.
pub(super) async fn run(session: &Session, command: HoldCommand) -> Result<u8> {
    let mut not_asked = None;
    let (set, holds) = match command {
        HoldCommand::Add(options) => {
            if options.case.trim().is_empty() {
                return Err(Error::new(ErrorKind::Invalid, code::USAGE, "hold rows")
                    .why("the case is empty, and nobody could tell later what the hold is for")
                    .next("--case LEG-2231"));
            }
            let set = Set::of(session, &options.set).await?;
            let place = set.place(session).await?;
            let what = match (&options.run, &options.subject) {
                (Some(run), _) => Holding::Run(run),
                (None, None) => Holding::Set,
                (None, Some(subject)) => {
                    let (column, value) = subject.split_once('=').ok_or_else(|| {
                        Error::new(ErrorKind::Invalid, code::USAGE, "find out whose rows are held")
                            .with("given", subject)
                            .with("forms", "--subject customer_id=42")
                    })?;
                    Holding::Subject(options.table.as_deref(), column.trim(), value)
                }
            };
            not_asked = unchecked(session, &set, &place, what).await?;
            let user = session.user();
            let made = hold(&place, &session.world, what, &options.case, &user).await?;
            (options.set, vec![made])
        }
        HoldCommand::Ls(options) => {
            let place = Set::of(session, &options.set).await?.place(session).await?;
            (options.set, held(&place).await?.0)
        }
        HoldCommand::Release(options) => {
            let place = Set::of(session, &options.set).await?.place(session).await?;
            let (id, reason, user) = (&options.hold, &options.reason, session.user());
            let ended = release(&place, &session.world, id, reason, &user).await?;
            (options.set, vec![ended])
        }
    };
    let holds = holds.into_iter().map(HoldRow::of).collect();
    session.answer(&HoldsAnswer { set, holds, unchecked: not_asked })?;
    Ok(exit::OK)
}
