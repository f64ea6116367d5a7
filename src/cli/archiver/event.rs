//! `stillpoint archive event`: what happened to whom, from which it counts how long rows are kept.

use chrono::NaiveDate;
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::place::Set;
use crate::{
    archiver::{ArchiveEvent, events, record, withdraw},
    cli::{
        answer::{Answer, Stamp},
        exit,
        page::{Page, Table, printable},
        session::Session,
    },
    policy::ArchiveRule,
};

/// What to do with events that concern archived rows.
#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Record that something happened to somebody on some day.
    ///
    /// Where the set's retention counts from this event, the rows of whom it happened to are kept
    /// for so long after that day; as long as no day is known, they are kept. What was recorded of
    /// the same before is replaced.
    Add(AddOptions),
    /// List the events that stand.
    Ls(ListOptions),
    /// Take an event back: the day is not known any more, and the rows are kept.
    Withdraw(WithdrawOptions),
}

/// What `archive event add` is told.
#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    /// The archive set.
    set: String,
    /// To whom it happened, as COLUMN=VALUE.
    #[arg(long, value_name = "COLUMN=VALUE")]
    subject: String,
    /// On which day, such as 2028-02-29.
    #[arg(long, value_name = "DATE")]
    at: NaiveDate,
    /// What happened [default: what the retention of the set counts from].
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Why, for those who ask later.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

/// What `archive event ls` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// The archive set.
    set: String,
}

/// What `archive event withdraw` is told.
#[derive(Debug, Args)]
pub(crate) struct WithdrawOptions {
    /// The archive set.
    set: String,
    /// The event, or how its id begins.
    event: String,
    /// Why.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct EventsAnswer {
    set: String,
    /// What was recorded or withdrawn, or all that there are.
    events: Vec<EventRow>,
}

#[derive(Debug, Serialize)]
struct EventRow {
    id: String,
    event: String,
    column: String,
    /// The salted hash of the subject.
    subject: String,
    on: NaiveDate,
    reason: String,
    by: String,
    recorded_at: Stamp,
}

impl EventRow {
    fn of(event: ArchiveEvent) -> Self {
        let ArchiveEvent { id, event, column, subject, on, reason, by, at, .. } = event;
        Self { id, event, column, subject, on, reason, by, recorded_at: Stamp(at) }
    }
}

impl Answer for EventsAnswer {
    const SCHEMA: &'static str = "archive-events/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.events.is_empty() {
            page.line(format!("No event is recorded of archive set {}.", printable(&self.set)));
            return;
        }
        let heading = ["EVENT", "WHAT", "OF", "ON", "RECORDED", "BY", "REASON"];
        let mut table = Table::new(&heading);
        for event in &self.events {
            table.row(vec![
                event.id.clone(),
                event.event.clone(),
                format!("{} {}", event.column, event.subject.get(..12).unwrap_or_default()),
                event.on.to_string(),
                page.time(event.recorded_at.0),
                event.by.clone(),
                event.reason.clone(),
            ]);
        }
        page.table(&table);
    }
}

/// Does it.
pub(super) async fn run(session: &Session, command: EventCommand) -> Result<u8> {
    let (set, events) = match command {
        EventCommand::Add(options) => {
            let event = add(session, &options).await?;
            (options.set, vec![event])
        }
        EventCommand::Ls(options) => {
            let place = Set::of(session, &options.set).await?.place(session).await?;
            (options.set, events(&place).await?)
        }
        EventCommand::Withdraw(options) => {
            let place = Set::of(session, &options.set).await?.place(session).await?;
            let (id, reason, user) = (&options.event, &options.reason, session.user());
            let event = withdraw(&place, &session.world, id, reason, &user).await?;
            (options.set, vec![event])
        }
    };
    let events = events.into_iter().map(EventRow::of).collect();
    session.answer(&EventsAnswer { set, events })?;
    Ok(exit::OK)
}

async fn add(session: &Session, options: &AddOptions) -> Result<ArchiveEvent> {
    let subject = options.subject.split_once('=').filter(|(column, _)| !column.trim().is_empty());
    let Some((column, value)) = subject else {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand --subject")
            .with("given", &options.subject)
            .with("form", "COLUMN=VALUE, such as customer_id=42"));
    };
    let set = Set::of(session, &options.set).await?;
    let column = column.trim();
    let event = event_of(&set.rule, column, options.event.as_deref())?;
    let place = set.place(session).await?;
    let user = session.user();
    let (about, why) = ((event, column, value), (&*options.reason, &*user));
    record(&place, &session.world, about, options.at, why).await
}

/// What happened, and whether anything can follow from it.
fn event_of<'a>(rule: &'a ArchiveRule, column: &str, given: Option<&'a str>) -> Result<&'a str> {
    let retention = rule.retention.as_ref();
    if let Some(retention) = retention.filter(|retention| retention.subject != column) {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "understand --subject")
            .with("column", column)
            .with("retention counts by", &retention.subject));
    }
    given.or_else(|| retention.map(|retention| &*retention.event)).ok_or_else(|| {
        let step = "record an event";
        let retention = "retention = { basis = \"subject.closed_at\", keep = \"7y\", subject = \
                         \"customer_id\" }";
        Error::new(ErrorKind::Config, code::CONFIG_LACKS, step)
            .with("set", &rule.name)
            .why("its retention counts from no event")
            .next(format!("[archive.{}]  {retention}", rule.name))
            .next("or say what happened: --event NAME")
    })
}
