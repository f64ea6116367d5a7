//! `stillpoint event`: what happened to whom, from which retention counts.

use chrono::NaiveDate;
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::Result;

use super::super::{
    answer::{Answer, Stamp},
    choice::{Labels, each},
    config::reach,
    exit,
    page::{Page, Table, printable},
    serve,
    session::Session,
};
use crate::repository::custody::{Event, Recorded};

/// What to do with events.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record that something happened to somebody on some day.
    ///
    /// A policy that keeps backups for so long after this event counts from that day; as long as
    /// no day is known, they are kept. What was recorded of the same before is replaced.
    Record(RecordOptions),
    /// List the events that stand.
    List(ListOptions),
    /// Take an event back: the day is not known any more, and what depends on it is kept.
    Withdraw(WithdrawOptions),
}

/// What `event record` is told.
#[derive(Debug, Args)]
pub(crate) struct RecordOptions {
    /// What happened, as the policy calls it, such as `relationship_end`.
    name: String,
    /// To whom; `database` for a database as a whole.
    #[arg(long, value_name = "SUBJECT")]
    subject: String,
    /// On which day, such as 2028-02-29.
    #[arg(long, value_name = "DATE")]
    on: NaiveDate,
    /// Only in this database [default: in every one].
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

/// What `event list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Only those that concern this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

/// What `event withdraw` is told.
#[derive(Debug, Args)]
pub(crate) struct WithdrawOptions {
    /// The event, or how its id begins.
    event: String,
    /// Why, for those who read the repository's log later.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

/// An event on the wire.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    name: String,
    subject: String,
    on: NaiveDate,
    database: Option<String>,
    by: String,
}

#[derive(Debug, Serialize)]
struct EventAnswer {
    event: Shown,
    withdrawn: bool,
}

#[derive(Debug, Serialize)]
struct EventsAnswer {
    events: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    event: Shown,
    recorded_at: Stamp,
}

impl Shown {
    fn of(recorded: Recorded) -> Self {
        let Recorded { event: id, database, name, subject, on, by } = recorded;
        Self { id, name, subject, on, database, by }
    }

    fn place(&self) -> &str {
        self.database.as_deref().unwrap_or("every database")
    }
}

impl Answer for EventAnswer {
    const SCHEMA: &'static str = "event/1";

    fn write(&self, page: &mut Page<'_>) {
        let Shown { id, name, subject, on, .. } = &self.event;
        let word = if self.withdrawn { "Withdrawn" } else { "Recorded" };
        let (name, subject) = (printable(name), printable(subject));
        let place = printable(self.event.place());
        page.line(format!("{word}: {name} of {subject} on {on}, in {place}"));
        page.facts(2, &[("Event", id)]);
    }
}

impl Answer for EventsAnswer {
    const SCHEMA: &'static str = "events/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.events.is_empty() {
            page.line("No event is recorded.");
            return;
        }
        let mut table = Table::new(&["EVENT", "NAME", "SUBJECT", "ON", "IN", "RECORDED", "BY"]);
        for Listed { event, recorded_at } in &self.events {
            table.row(vec![
                event.id.clone(),
                event.name.clone(),
                event.subject.clone(),
                event.on.to_string(),
                event.place().to_owned(),
                page.time(recorded_at.0),
                event.by.clone(),
            ]);
        }
        page.table(&table);
    }
}

/// Does what is to be done with events.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Record(options) => return record(session, options).await,
        Command::List(options) => list(session, options).await?,
        Command::Withdraw(WithdrawOptions { event, reason }) => {
            let repository = reach::either(session, None).await?;
            let withdrawn = repository.withdraw(&event, &reason, &session.user()).await?;
            repository.remember().await?;
            session.answer(&EventAnswer { event: Shown::of(withdrawn), withdrawn: true })?;
        }
    }
    Ok(exit::OK)
}

async fn list(session: &Session, options: ListOptions) -> Result<()> {
    let databases = match (options.database, &options.labels.labels) {
        (None, Some(_)) => {
            let names = options.labels.names(&serve::found(session).await?.config)?;
            names.into_iter().map(Some).collect()
        }
        (database, _) => vec![database],
    };
    let mut listed: Vec<Listed> = Vec::new();
    for database in &databases {
        let database = database.as_deref();
        let events = reach::either(session, database).await?.events(database).await?;
        for Event { at, recorded, .. } in events {
            // What happened in every database of a repository concerns each of them.
            if listed.iter().all(|known| known.event.id != recorded.event) {
                listed.push(Listed { event: Shown::of(recorded), recorded_at: Stamp(at) });
            }
        }
    }
    session.answer(&EventsAnswer { events: listed })
}

async fn record(session: &Session, options: RecordOptions) -> Result<u8> {
    if options.labels.labels.is_none() {
        return record_in(session, &options, options.database.as_deref()).await;
    }
    let names = options.labels.names(&serve::found(session).await?.config)?;
    let work = async |name: &str| Box::pin(record_in(session, &options, Some(name))).await;
    Ok(each(session, &names, work).await)
}

async fn record_in(
    session: &Session,
    options: &RecordOptions,
    database: Option<&str>,
) -> Result<u8> {
    let repository = reach::either(session, database).await?;
    let about = (options.name.as_str(), options.subject.as_str());
    let made = repository.record_event(database, about, options.on, &session.user()).await?;
    repository.remember().await?;
    session.answer(&EventAnswer { event: Shown::of(made), withdrawn: false })?;
    Ok(exit::OK)
}
