//! `stillpoint db`: what people say of databases: paused, resumed, retired.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::{
    super::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, printable},
        session::Session,
    },
    desk::Desk,
};
use crate::coordinator::state::Mark;

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
}

/// What `db pause` is told.
#[derive(Debug, Args)]
pub(crate) struct PauseOptions {
    /// The database.
    database: String,
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
    database: String,
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
    }
}

/// Says it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let (database, reason, mark, said) = match command {
        Command::Pause(PauseOptions { database, until, reason }) => {
            let until = until.map(|text| end(session, &text)).transpose()?;
            (database, reason, Some(Mark::Paused { until }), "paused")
        }
        Command::Resume(Said { database, reason }) => (database, reason, None, "active"),
        Command::Retire(Said { database, reason }) => {
            (database, reason, Some(Mark::Retired), "retired")
        }
    };
    let desk = Desk::open(session).await?;
    let held = desk.held(session).await?;
    if !held.loaded.config.databases.contains_key(&database) {
        return Err(Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the database")
            .with("given", &database)
            .next("stillpoint status")
            .next(format!("stillpoint config explain {}", quoted(&database))));
    }
    let who = session.user();
    let cancelled = desk.state.set_mark(&database, mark, &reason, &who).await?;
    let until = match mark {
        Some(Mark::Paused { until }) => until.map(Stamp),
        _ => None,
    };
    session.answer(&DbAnswer { database, said, until, cancelled })?;
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
