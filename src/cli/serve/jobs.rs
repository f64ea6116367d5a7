//! `stillpoint jobs`: what waits, what runs and what has ended.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    super::{
        answer::{Answer, Stamp},
        choice::Labels,
        exit,
        page::{Page, Table, printable},
        session::Session,
        units,
    },
    desk::Desk,
};
use crate::coordinator::{
    state::{Filter, Job, Outcome, Phase, Stage},
    unheard,
};

/// How often `jobs watch` looks.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List jobs, the newest first.
    List(ListOptions),
    /// Show one job.
    Show(One),
    /// Follow a job until it ends; with its end, this ends: with 0 if it succeeded, else with 8.
    Watch(One),
    /// End a job that waits or runs.
    Cancel(CancelOptions),
    /// Put a job that did not succeed into the queue again.
    Retry(One),
}

/// What `jobs list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Only those of this database.
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Only those that have come so far.
    #[arg(long, value_name = "STATE")]
    state: Option<How>,
    /// How many.
    #[arg(long, value_name = "NUMBER", default_value = "20")]
    count: u32,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// It waits for its turn.
    Waiting,
    /// Somebody is at it.
    Running,
    /// It is over.
    Ended,
}

/// Which job.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The job, by its id.
    job: String,
}

/// What `jobs cancel` is told.
#[derive(Debug, Args)]
pub(crate) struct CancelOptions {
    /// The job, by its id.
    job: String,
    /// Why, for those who read about it later.
    #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
    reason: String,
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    jobs: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct OneAnswer {
    job: Row,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    database: String,
    kind: String,
    due: Stamp,
    why: String,
    attempt: u32,
    repository: String,
    host: String,
    /// The agent that is to do it, if whoever serves does not.
    agent: Option<String>,
    /// The site whose workers are to do it, if not any may.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    state: &'static str,
    /// Why nobody does it, where it waits: whoever is to do it is not heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
    worker: Option<String>,
    started_at: Option<Stamp>,
    moved_at: Option<Stamp>,
    ended_at: Option<Stamp>,
    outcome: Option<&'static str>,
    reason: Option<String>,
    bytes: u64,
}

impl Row {
    fn of(job: Job) -> Self {
        let blank = Self {
            id: job.id,
            database: job.task.database,
            kind: job.task.kind,
            due: Stamp(job.task.due),
            why: job.task.why,
            attempt: job.attempt,
            repository: job.task.repository,
            host: job.task.host,
            agent: Some(job.task.agent).filter(|agent| !agent.is_empty()),
            site: Some(job.task.site).filter(|site| !site.is_empty()),
            state: "waiting",
            waits: None,
            worker: None,
            started_at: None,
            moved_at: None,
            ended_at: None,
            outcome: None,
            reason: None,
            bytes: job.bytes,
        };
        match job.phase {
            Phase::Waiting => blank,
            Phase::Running { worker, started, moved } => Self {
                state: "running",
                worker: Some(worker),
                started_at: Some(Stamp(started)),
                moved_at: Some(Stamp(moved)),
                ..blank
            },
            Phase::Ended { started, at, outcome, reason } => Self {
                state: "ended",
                started_at: started.map(Stamp),
                ended_at: Some(Stamp(at)),
                outcome: Some(outcome.word()),
                reason: Some(reason),
                ..blank
            },
        }
    }
}

impl Answer for ListAnswer {
    const SCHEMA: &'static str = "jobs/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.jobs.is_empty() {
            page.line("There is no such job.");
            return;
        }
        let mut table = Table::new(&["JOB", "DATABASE", "KIND", "DUE", "WHY", ">TRY", "STATE"]);
        for job in &self.jobs {
            table.row(vec![
                job.id.clone(),
                job.database.clone(),
                job.kind.clone(),
                page.time(job.due.0),
                job.why.clone(),
                job.attempt.to_string(),
                job.outcome.unwrap_or(job.state).to_owned(),
            ]);
        }
        page.table(&table);
        for job in self.jobs.iter().filter(|job| job.outcome == Some("failed")) {
            let reason = job.reason.as_deref().unwrap_or_default();
            page.line(format!("{}: {}", job.id, printable(reason)));
        }
    }
}

impl Answer for OneAnswer {
    const SCHEMA: &'static str = "job/1";

    fn write(&self, page: &mut Page<'_>) {
        let job = &self.job;
        let time = |at: Option<Stamp>| at.map(|at| page.time(at.0));
        let facts = [
            ("job", Some(job.id.clone())),
            ("database", Some(job.database.clone())),
            ("kind", Some(job.kind.clone())),
            ("due", Some(page.time(job.due.0))),
            ("why", Some(job.why.clone())),
            ("attempt", Some(job.attempt.to_string())),
            ("state", Some(job.outcome.unwrap_or(job.state).to_owned())),
            ("agent", job.agent.clone()),
            ("site", job.site.clone()),
            ("waits", job.waits.as_deref().map(printable)),
            ("worker", job.worker.clone()),
            ("began", time(job.started_at)),
            ("got on", time(job.moved_at)),
            ("ended", time(job.ended_at)),
            ("reason", job.reason.as_deref().map(printable)),
            ("done", Some(units::bytes(job.bytes))),
        ];
        let known: Vec<_> =
            facts.into_iter().filter_map(|(label, value)| Some((label, value?))).collect();
        page.facts(0, &known);
    }
}

/// Does what is to be done with jobs.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let desk = Desk::open(session).await?;
    let who = session.user();
    match command {
        Command::List(options) => list(session, &desk, options).await?,
        Command::Show(one) => {
            let job = find(&desk, &one.job).await?;
            let waits = if job.phase == Phase::Waiting {
                unheard(&desk.state, &job.task, session.world.clock.now()).await?
            } else {
                None
            };
            session.answer(&OneAnswer { job: Row { waits, ..Row::of(job) } })?;
        }
        Command::Watch(one) => return watch(session, &desk, &one.job).await,
        Command::Cancel(options) => {
            let job = find(&desk, &options.job).await?;
            if !desk.state.cancel(&job.id, &who, &options.reason).await? {
                return Err(Error::new(ErrorKind::Refused, code::NO_SUCH_JOB, "cancel the job")
                    .with("job", &job.id)
                    .why("it has ended already"));
            }
            let job = Row::of(find(&desk, &job.id).await?);
            session.answer(&OneAnswer { job })?;
        }
        Command::Retry(one) => {
            let job = find(&desk, &one.job).await?;
            let Some(again) = desk.state.retry(&job.id, &who).await? else {
                return Err(Error::new(ErrorKind::Refused, code::NO_SUCH_JOB, "try the job again")
                    .with("job", &job.id)
                    .why("it succeeded, or waits or runs already"));
            };
            let job = Row::of(find(&desk, &again).await?);
            session.answer(&OneAnswer { job })?;
        }
    }
    Ok(exit::OK)
}

async fn list(session: &Session, desk: &Desk, options: ListOptions) -> Result<()> {
    let stage = options.state.map(|state| match state {
        How::Waiting => Stage::Waiting,
        How::Running => Stage::Running,
        How::Ended => Stage::Ended,
    });
    let most = options.count;
    let databases = match (options.database, &options.labels.labels) {
        (None, Some(_)) => {
            let names = options.labels.names(desk.held(session).await?.config())?;
            names.into_iter().map(Some).collect()
        }
        (database, _) => vec![database],
    };
    let mut jobs = Vec::new();
    for database in databases {
        let filter = Filter { database, stage, most, ..Filter::default() };
        jobs.extend(desk.state.jobs(&filter).await?);
        // Their ids are in the order in which they were put into the queue.
        jobs.sort_by(|one: &Job, other| other.id.cmp(&one.id));
        jobs.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
    session.answer(&ListAnswer { jobs: jobs.into_iter().map(Row::of).collect() })
}

async fn find(desk: &Desk, id: &str) -> Result<Job> {
    let found = desk.state.job(&id.to_ascii_uppercase()).await?;
    found.ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::NO_SUCH_JOB, "find the job")
            .with("asked", id)
            .next("stillpoint jobs list")
    })
}

async fn watch(session: &Session, desk: &Desk, id: &str) -> Result<u8> {
    let mut told = String::new();
    loop {
        let job = find(desk, id).await?;
        if let Phase::Ended { outcome, .. } = job.phase {
            session.answer(&OneAnswer { job: Row::of(job) })?;
            let is_done = outcome == Outcome::Succeeded;
            return Ok(if is_done { exit::OK } else { exit::status(ErrorKind::TimedOut) });
        }
        let row = Row::of(job);
        let now = format!("{}: {} of {}, {}", row.id, row.kind, row.database, row.state);
        let now = match row.bytes {
            0 => now,
            bytes => format!("{now}, {}", units::bytes(bytes)),
        };
        if now != told {
            session.note(&now);
            told = now;
        }
        session.world.clock.sleep(WATCH_PERIOD).await;
    }
}
