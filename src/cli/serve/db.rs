//! `stillpoint db`: what people say of databases: paused, resumed, retired, adopted, forgotten.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::{Labels, each},
        exit,
        page::{Page, printable},
        session::Session,
    },
    desk::Desk,
};
use crate::{
    coordinator::{Fleet, state::Mark},
    policy::State,
};

/// What to say of a database.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start nothing for it. Log is captured all the same.
    ///
    /// With an end, alerts about its age are quiet until then; without one, they are not, since a
    /// pause may be forgotten. Its end starts nothing that was due before.
    Pause(PauseOptions),
    /// End a pause or a retirement.
    Resume(Said),
    /// Back it up no more, and tell nobody of its age. What there is of it is kept, and restored,
    /// as its policy says; the last of it stays until somebody says otherwise.
    Retire(Said),
    /// Let another server be the database from now on: another incarnation, which begins with a
    /// full backup. Without this, a server that says that it is another one is refused.
    Adopt(AdoptOptions),
    /// Forget every backup of a database that is retired, or not configured any more. Refused as
    /// long as one of them is held.
    Forget(ForgetOptions),
}

/// What `db adopt` is told.
#[derive(Debug, Args)]
pub(crate) struct AdoptOptions {
    /// The database.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Begin another incarnation of it.
    #[arg(long, required = true)]
    new_incarnation: bool,
}

/// What `db forget` is told.
#[derive(Debug, Args)]
pub(crate) struct ForgetOptions {
    /// The database.
    database: String,
    /// The same name again: nothing brings its backups back.
    #[arg(long, value_name = "DATABASE")]
    confirm: String,
    /// Why, for those who read the repository's log later.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

/// What `db pause` is told.
#[derive(Debug, Args)]
pub(crate) struct PauseOptions {
    /// The database.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Until when, such as "2026-12-01 06:00".
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why, for those who wonder.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

/// What the others are told.
#[derive(Debug, Args)]
pub(crate) struct Said {
    /// The database.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Why, for those who wonder.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct DbAnswer {
    database: String,
    said: &'static str,
    until: Option<Stamp>,
    /// How many jobs that waited were cancelled.
    cancelled: usize,
    /// How many backups were forgotten.
    forgotten: Option<usize>,
}

impl Answer for DbAnswer {
    const SCHEMA: &'static str = "db/1";

    fn write(&self, page: &mut Page<'_>) {
        let until = self.until.map(|at| format!(" until {}", page.time(at.0)));
        let said = self.said;
        page.line(format!("{} is {said}{}", printable(&self.database), until.unwrap_or_default()));
        if self.cancelled > 0 {
            page.line(format!("  cancelled jobs: {}", self.cancelled));
        }
        if let Some(forgotten) = self.forgotten {
            page.line(format!("  forgotten backups: {forgotten}"));
        }
    }
}

/// Says it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let (whom, reason, mark, said) = match command {
        Command::Pause(PauseOptions { database, labels, until, reason }) => {
            let until = until.map(|text| end(session, &text)).transpose()?;
            ((database, labels), reason, Some(Mark::Paused { until }), "paused")
        }
        Command::Resume(Said { database, labels, reason }) => {
            ((database, labels), reason, None, "active")
        }
        Command::Retire(Said { database, labels, reason }) => {
            ((database, labels), reason, Some(Mark::Retired), "retired")
        }
        Command::Adopt(options) => return adopt(session, &options).await,
        Command::Forget(options) => return forget(session, &options).await,
    };
    let desk = Desk::open(session).await?;
    let held = desk.held(session).await?;
    let names = match whom {
        (Some(name), _) if held.config.databases.contains_key(&name) => vec![name],
        (Some(name), _) => return Err(missing(&name)),
        (None, labels) => labels.names(&held.config)?,
    };
    let who = session.user();
    let until = match mark {
        Some(Mark::Paused { until }) => until.map(Stamp),
        _ => None,
    };
    for database in names {
        let cancelled = desk.state.set_mark(&database, mark, &reason, &who).await?;
        session.answer(&DbAnswer { database, said, until, cancelled, forgotten: None })?;
    }
    Ok(exit::OK)
}

fn missing(database: &str) -> Error {
    Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the database")
        .with("given", database)
        .next("stillpoint status")
        .next(format!("stillpoint config explain {}", quoted(database)))
}

/// Lets another incarnation begin, of each that is meant.
async fn adopt(session: &Session, options: &AdoptOptions) -> Result<u8> {
    let desk = Desk::open(session).await?;
    let (fleet, _) = desk.fleet(session).await?;
    let at = (&desk, &fleet);
    if let Some(database) = &options.database {
        return adopt_one(session, at, database).await;
    }
    let names = options.labels.of(&fleet.members, None)?.into_iter();
    let names: Vec<String> = names.map(|member| member.name.clone()).collect();
    let work = async |name: &str| Box::pin(adopt_one(session, at, name)).await;
    Ok(each(session, &names, work).await)
}

/// Lets another incarnation begin; whoever serves makes its first backup at once.
async fn adopt_one(
    session: &Session,
    (desk, fleet): (&Desk, &Fleet),
    database: &str,
) -> Result<u8> {
    let member = fleet.members.get(database).filter(|one| one.state == State::Active);
    let member = member.ok_or_else(|| missing(database))?;
    let history = fleet.repository(member)?.history().await?;
    let newest = history.live_of(database).next_back();
    let newest = newest.ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::NO_SUCH_BACKUP, "adopt another server")
            .with("database", database)
            .why("there is no backup of it: whatever is backed up first has the name")
    })?;
    let who = session.user();
    desk.state.adopt(database, &newest.commit.incarnation, &who).await?;
    let database = database.to_owned();
    let said = "adopted; its next backup is a full one, at once";
    session.answer(&DbAnswer { database, said, until: None, cancelled: 0, forgotten: None })?;
    Ok(exit::OK)
}

/// Forgets every backup.
async fn forget(session: &Session, options: &ForgetOptions) -> Result<u8> {
    let database = &options.database;
    let refused = |why| {
        Error::new(ErrorKind::Refused, code::USAGE, "forget a database")
            .with("database", database)
            .why(why)
    };
    if options.confirm != *database {
        return Err(refused("another name was confirmed, and nothing brings its backups back")
            .with("confirmed", &options.confirm));
    }
    let desk = Desk::open(session).await?;
    let (fleet, _) = desk.fleet(session).await?;
    let member = fleet.members.get(database).ok_or_else(|| missing(database))?;
    if member.state == State::Active {
        return Err(refused("it is protected, and would be backed up again")
            .next(format!("stillpoint db retire {}", quoted(database))));
    }
    let repository = fleet.repository(member)?;
    let history = repository.history().await?;
    let own = history.live_of(database);
    let own: Vec<_> = own.cloned().collect();
    repository.refuse_held(&own).await?;
    let ids: Vec<String> = own.iter().map(|one| one.commit.backup.clone()).collect();
    if !ids.is_empty() {
        repository.forget(&ids, &options.reason).await?;
    }
    let detail = format!("{} backups: {}", ids.len(), options.reason);
    desk.state.forget_database(database, &detail, &session.user()).await?;
    let (database, forgotten) = (database.clone(), Some(ids.len()));
    let said = "forgotten";
    session.answer(&DbAnswer { database, said, until: None, cancelled: 0, forgotten })?;
    Ok(exit::OK)
}

fn end(session: &Session, text: &str) -> Result<DateTime<Utc>> {
    let at = session.instant(text)?;
    if session.world.clock.now() < at {
        return Ok(at);
    }
    Err(Error::new(ErrorKind::Invalid, code::BAD_POINT, "find the end of a pause")
        .with("given", text)
        .why("it is over already"))
}
