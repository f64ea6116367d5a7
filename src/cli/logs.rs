//! `stillpoint logs`: capture of a database's log.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::Result;

use super::{
    answer::{Answer, Stamp},
    archive,
    choice::Labels,
    exit, fetch,
    native::Native,
    open::{self, Need, Opened},
    page::{Page, Table},
    reach::Reach,
    session::Session,
    source::{SourceOptions, Sources},
    stream, units,
    wire::Gap,
};
use crate::repository::{BEAT_SECONDS_MAX, Timeline};

/// What to do with logs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Capture a database's log as it is written, until stopped.
    Stream(stream::Options),
    /// Show how far each database's log is captured.
    Status(StatusOptions),
    /// Archive a file of log that a server hands over; what archive_command calls.
    Push(archive::PushOptions),
    /// Fetch a file of log for a server that replays; what restore_command calls.
    Get(fetch::GetOptions),
    /// Let a server forget what it keeps for captures, such as a replication slot, for good.
    Retire(stream::RetireOptions),
}

/// What `logs status` is told.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Only this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct StatusAnswer {
    now: Stamp,
    databases: Vec<Status>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    name: String,
    capture: Capture,
    last_seen: Option<Stamp>,
    captured_to: Option<String>,
    captured_to_engine_position: Option<String>,
    restorable_to: Option<Stamp>,
    gaps: Vec<Gap>,
    open_gap: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Capture {
    /// A capture is at work.
    Running,
    /// The last capture said goodbye.
    Stopped,
    /// The last capture fell silent without a goodbye.
    Silent,
    /// There never was a capture.
    Never,
}

impl Capture {
    const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Silent => "SILENT",
            Self::Never => "never",
        }
    }
}

impl Status {
    fn of(timeline: &Timeline, now: Stamp, native: Native<'_>) -> Self {
        let reach = Reach::of(timeline, native);
        let newest = timeline.coverage.last();
        let capture = match &timeline.beat {
            None if newest.is_none() => Capture::Never,
            Some(beat) if beat.is_last => Capture::Stopped,
            Some(beat) if beat.age(now.0).num_seconds() < BEAT_SECONDS_MAX => Capture::Running,
            Some(_) | None => Capture::Silent,
        };
        Self {
            name: timeline.database.clone(),
            capture,
            last_seen: timeline.beat.as_ref().map(|b| Stamp(b.alive_at.unwrap_or(b.at))),
            captured_to: newest.map(|coverage| coverage.end.position.to_string()),
            captured_to_engine_position: newest
                .map(|coverage| native.render_of(timeline, &coverage.end.position)),
            restorable_to: reach.to(),
            gaps: reach.gaps,
            open_gap: reach.open_gap,
        }
    }
}

impl Answer for StatusAnswer {
    const SCHEMA: &'static str = "logs.status/1";

    fn write(&self, page: &mut Page<'_>) {
        let heading = ["DATABASE", "CAPTURE", "LAST SEEN", "CAPTURED TO", "RESTORABLE TO", "GAPS"];
        let mut table = Table::new(&heading);
        let dash = || "-".to_owned();
        for status in &self.databases {
            let age = |stamp: Stamp| {
                let age = (self.now.0 - stamp.0).to_std().unwrap_or(Duration::ZERO);
                format!("{} ago", units::duration(age))
            };
            table.row(vec![
                status.name.clone(),
                status.capture.word().to_owned(),
                status.last_seen.map_or_else(dash, age),
                status.captured_to_engine_position.clone().unwrap_or_else(dash),
                status.restorable_to.map_or_else(dash, |to| page.time(to.0)),
                match status.gaps.len() + usize::from(status.open_gap.is_some()) {
                    0 => "none".to_owned(),
                    gaps => gaps.to_string(),
                },
            ]);
        }
        page.table(&table);
    }
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    match command {
        Command::Stream(options) => stream::run(session, options).await?,
        Command::Status(options) => status(session, options).await?,
        Command::Push(options) => archive::run_push(session, options).await?,
        Command::Get(options) => return fetch::run_get(session, options).await,
        Command::Retire(options) => stream::retire(session, options).await?,
    }
    Ok(exit::OK)
}

impl StatusAnswer {
    /// Adds databases of one repository, of which there may be several.
    async fn add(
        &mut self,
        session: &Session,
        repository: &Opened,
        names: Vec<String>,
    ) -> Result<()> {
        let native = session.native();
        for name in names {
            let timeline = repository.timeline(&name).await?;
            self.warnings.extend(Reach::of(&timeline, native).warning(&name));
            self.warnings.extend(timeline.clock_doubt());
            self.databases.push(Status::of(&timeline, self.now, native));
            self.warnings.extend(timeline.problems);
        }
        Ok(())
    }
}

async fn status(session: &Session, options: StatusOptions) -> Result<()> {
    let now = Stamp(session.world.clock.now());
    let mut answer = StatusAnswer { now, databases: Vec::new(), warnings: Vec::new() };
    if options.labels.labels.is_some() {
        let of = (&options.labels, Need::Content);
        for (sources, names) in Sources::labelled(session, &SourceOptions::default(), of).await? {
            let repository = sources.first(session).await?.repository;
            let known = repository.databases().await?;
            let (known, unknown): (Vec<_>, _) = names.into_iter().partition(|n| known.contains(n));
            let lacks = |name: String| format!("nothing of {name} is backed up yet");
            answer.warnings.extend(unknown.into_iter().map(lacks));
            answer.add(session, &repository, known).await?;
        }
    } else {
        let repository = open::repository(session, Need::Content).await?;
        let names = match options.database {
            Some(name) => vec![name],
            None => repository.databases().await?,
        };
        answer.add(session, &repository, names).await?;
    }
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    session.answer(&answer)
}
