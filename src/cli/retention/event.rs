//! `stillpoint event`: what happened to whom, from which retention counts.

use chrono::NaiveDate;
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::Result;

use super::super::{
    answer::{Answer, Stamp},
    config::reach,
    page::{Page, Table, printable},
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
}

/// What `event list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Only those that concern this database.
    database: Option<String>,
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
pub(crate) async fn run(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::Record(options) => record(session, options).await,
        Command::List(options) => {
            let database = options.database.as_deref();
            let events = reach::either(session, database).await?.events(database).await?;
            let listed = events.into_iter().map(|Event { at, recorded, .. }| Listed {
                event: Shown::of(recorded),
                recorded_at: Stamp(at),
            });
            session.answer(&EventsAnswer { events: listed.collect() })
        }
        Command::Withdraw(WithdrawOptions { event, reason }) => {
            let repository = reach::either(session, None).await?;
            let withdrawn = repository.withdraw(&event, &reason, &session.user()).await?;
            repository.remember().await?;
            session.answer(&EventAnswer { event: Shown::of(withdrawn), withdrawn: true })
        }
    }
}

async fn record(session: &Session, options: RecordOptions) -> Result<()> {
    let RecordOptions { name, subject, on, database } = options;
    let repository = reach::either(session, database.as_deref()).await?;
    let about = (name.as_str(), subject.as_str());
    let made = repository.record_event(database.as_deref(), about, on, &session.user()).await?;
    repository.remember().await?;
    session.answer(&EventAnswer { event: Shown::of(made), withdrawn: false })
}
