//! `stillpoint check`: whether every backup is complete and every database recent enough.

use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use serde::Serialize;
use stillpoint_contract::{ErrorKind, Result};

use super::{
    answer::{Answer, Stamp},
    choice::Labels,
    config::{self, files},
    examine, exit,
    native::Native,
    open::{self, Need, Opened},
    page::{Page, Table, Tone, printable},
    reach::Reach,
    serve,
    session::{Session, length},
    source::{SourceOptions, Sources},
    units,
    wire::Backup,
};
use crate::repository::{Completeness, LogCompleteness};

/// How far a clock that dated a moment may be ahead of ours.
const CLOCK_AHEAD_MAX: TimeDelta = TimeDelta::minutes(5);

/// What `check` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The repository, or a copy of it that may be incomplete [default: --repo]; or a database,
    /// such as postgres://host, to see what its server lacks.
    #[arg(id = "database", value_name = "DIR|URL", value_hint = clap::ValueHint::DirPath)]
    pub place: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Only look whether every object is there, by name and size. Needs no key.
    #[arg(long)]
    files_only: bool,
    /// Fail when the newest restorable moment of a database is older than this, such as 1h.
    #[arg(long, value_name = "LENGTH", conflicts_with = "files_only")]
    max_age: Option<String>,
}

/// What `repo check` is told.
#[derive(Debug, Args)]
pub(crate) struct RepositoryOptions {
    /// The repository, or a copy of it that may be incomplete [default: --repo].
    #[arg(value_name = "DIR|URL", value_hint = clap::ValueHint::DirPath)]
    pub place: Option<String>,
}

#[derive(Debug, Serialize)]
struct CheckAnswer {
    place: String,
    complete: bool,
    recent: bool,
    backups: Vec<Completion>,
    logs: Vec<CapturedLog>,
    databases: Vec<Database>,
    unprotected: Vec<Unprotected>,
}

/// What was discovered and belongs to no database.
#[derive(Debug, Serialize)]
struct Unprotected {
    name: String,
    why: String,
}

/// How much of a backup is there.
#[derive(Debug, Serialize)]
struct Completion {
    backup: Backup,
    complete: bool,
    objects: usize,
    missing: Vec<String>,
}

/// How much of the captured log of a database is there, by the numbers of its segments.
#[derive(Debug, Serialize)]
struct CapturedLog {
    database: String,
    complete: bool,
    segments: usize,
    missing: Vec<String>,
}

/// How well a database is protected.
#[derive(Debug, Serialize)]
struct Database {
    name: String,
    restorable_to: Option<Stamp>,
    age_ms: Option<i64>,
    recent: bool,
    problems: Vec<String>,
}

impl Completion {
    fn of(found: Completeness, native: Native<'_>) -> Self {
        Self {
            backup: Backup::of(&found.backup.commit, native),
            complete: found.missing.is_empty(),
            objects: found.needed,
            missing: found.missing,
        }
    }
}

impl From<LogCompleteness> for CapturedLog {
    fn from(found: LogCompleteness) -> Self {
        let LogCompleteness { database, segments, missing } = found;
        Self { database, complete: missing.is_empty(), segments, missing }
    }
}

impl Answer for CheckAnswer {
    const SCHEMA: &'static str = "check/1";

    fn write(&self, page: &mut Page<'_>) {
        let mut table = Table::new(&["BACKUP", "DATABASE", "STATE AT", ">OBJECTS", "COMPLETE"]);
        for found in &self.backups {
            table.row(vec![
                found.backup.id.clone(),
                found.backup.database.clone(),
                page.time(found.backup.at.0),
                units::grouped(found.objects as u64),
                if found.complete {
                    "yes".to_owned()
                } else {
                    format!("NO, {} missing", units::grouped(found.missing.len() as u64))
                },
            ]);
        }
        page.table(&table);
        for found in self.backups.iter().filter(|found| !found.complete) {
            write_missing(page, &found.backup.id, &found.missing);
        }
        self.write_logs(page);
        self.write_databases(page);
        for one in &self.unprotected {
            let word = page.paint(Tone::Bad, "UNPROTECTED");
            page.line(format!("{}: {word}: {}", printable(&one.name), printable(&one.why)));
        }
        page.blank();
        let verdict = match (self.complete, self.has_whole_logs(), self.recent) {
            (true, true, true) if !self.unprotected.is_empty() => {
                page.paint(Tone::Bad, "not everything is protected")
            }
            (true, true, true) => page.paint(Tone::Good, "ok"),
            (false, ..) => page.paint(Tone::Bad, "incomplete"),
            (true, false, _) => page.paint(Tone::Bad, "captured log is incomplete"),
            (true, true, false) => page.paint(Tone::Bad, "not recent enough"),
        };
        page.line(verdict);
    }
}

fn write_missing(page: &mut Page<'_>, whose: &str, missing: &[String]) {
    page.blank();
    page.line(format!("{whose} lacks, or has only a part of"));
    missing.iter().take(5).for_each(|name| page.line(format!("  {name}")));
    if missing.len() > 5 {
        page.line(format!("  and {} more (see --output json)", missing.len() - 5));
    }
}

impl CheckAnswer {
    /// Adds what is found in one repository, of some databases or of all.
    async fn add(
        &mut self,
        session: &Session,
        repository: &Opened,
        names: Option<&[String]>,
        (need, max_age): (Need, Option<Duration>),
    ) -> Result<()> {
        let is_meant = |name: &String| names.is_none_or(|names| names.contains(name));
        let place = repository.location();
        self.place = if self.place.is_empty() { place } else { format!("{}, {place}", self.place) };
        let found = repository.files_only().await?.into_iter();
        let found = found.filter(|found| is_meant(&found.backup.commit.database));
        self.backups.extend(found.map(|found| Completion::of(found, session.native())));
        let logs = repository.logs_by_name().await?.into_iter();
        self.logs.extend(logs.filter(|log| is_meant(&log.database)).map(CapturedLog::from));
        if need == Need::Content {
            self.databases.extend(protection(session, repository, (names, max_age)).await?);
        }
        self.complete = self.backups.iter().all(|found| found.complete);
        self.recent = self.databases.iter().all(|database| database.recent);
        Ok(())
    }

    fn has_whole_logs(&self) -> bool {
        self.logs.iter().all(|log| log.complete)
    }

    fn write_logs(&self, page: &mut Page<'_>) {
        if self.logs.is_empty() {
            return;
        }
        page.blank();
        let mut table = Table::new(&["CAPTURED LOG OF", ">SEGMENTS", "COMPLETE"]);
        for log in &self.logs {
            table.row(vec![
                log.database.clone(),
                units::grouped(log.segments as u64),
                if log.complete { "yes".to_owned() } else { "NO".to_owned() },
            ]);
        }
        page.table(&table);
        for log in self.logs.iter().filter(|log| !log.complete) {
            write_missing(page, &format!("the captured log of {}", log.database), &log.missing);
        }
    }

    fn write_databases(&self, page: &mut Page<'_>) {
        if self.databases.is_empty() {
            return;
        }
        page.blank();
        let mut table = Table::new(&["DATABASE", "RESTORABLE TO", ">AGE", "RECENT"]);
        for database in &self.databases {
            let age = database.age_ms.map(|ms| {
                let length = |ms: i64| units::duration(Duration::from_millis(ms.unsigned_abs()));
                if ms < -CLOCK_AHEAD_MAX.num_milliseconds() {
                    format!("{} in the future", length(ms))
                } else {
                    length(ms.max(0))
                }
            });
            table.row(vec![
                database.name.clone(),
                database.restorable_to.map_or_else(|| "never".to_owned(), |to| page.time(to.0)),
                age.unwrap_or_else(|| "-".to_owned()),
                if database.recent { "yes".to_owned() } else { "NO".to_owned() },
            ]);
        }
        page.table(&table);
        for database in &self.databases {
            database.problems.iter().for_each(|problem| {
                page.line(format!("{}: {problem}", page.paint(Tone::Bad, "problem")));
            });
        }
    }
}

/// Checks. The exit status says what was found.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    if let Some(place) = options.place.as_deref().filter(|p| examine::is_database(session, p)) {
        return examine::run(session, place).await;
    }
    let max_age = options.max_age.as_deref().map(length).transpose()?;
    let need = if options.files_only { Need::Names } else { Need::Content };
    let is_fleet = options.place.is_none() && !options.files_only && files::are_there(session);
    let mut answer = CheckAnswer {
        place: String::new(),
        complete: true,
        recent: true,
        backups: Vec::new(),
        logs: Vec::new(),
        databases: Vec::new(),
        unprotected: Vec::new(),
    };
    if options.labels.labels.is_some() {
        let (of, source) = ((&options.labels, need), SourceOptions::default());
        for (sources, names) in Sources::labelled(session, &source, of).await? {
            let repository = sources.first(session).await?.repository;
            answer.add(session, &repository, Some(&names), (need, max_age)).await?;
        }
    } else {
        let repository = if is_fleet && !session.names_place() {
            config::reach::either(session, None).await?
        } else {
            open::repository(session, need).await?
        };
        let unprotected = if is_fleet { serve::unprotected(session).await? } else { Vec::new() };
        let unprotected = unprotected.into_iter().map(|(name, why)| Unprotected { name, why });
        answer.unprotected = unprotected.collect();
        answer.add(session, &repository, None, (need, max_age)).await?;
    }
    session.answer(&answer)?;
    let is_sound = answer.databases.iter().all(|database| database.problems.is_empty());
    Ok(match (answer.complete, is_sound, answer.has_whole_logs(), answer.recent) {
        (true, true, true, true) if answer.unprotected.is_empty() => exit::OK,
        (true, true, true, _) => exit::CHECK_FAILED,
        (true, false, ..) => exit::status(ErrorKind::Corrupt),
        (false, ..) | (true, true, false, _) => exit::status(ErrorKind::TimedOut),
    })
}

/// Checks the repository alone, by names and sizes.
pub(crate) async fn repository(session: &Session, options: RepositoryOptions) -> Result<u8> {
    let labels = Labels::default();
    run(session, Options { place: options.place, labels, files_only: true, max_age: None }).await
}

async fn protection(
    session: &Session,
    repository: &Opened,
    (names, max_age): (Option<&[String]>, Option<Duration>),
) -> Result<Vec<Database>> {
    let now = session.world.clock.now();
    let history = repository.history().await?;
    let mut databases = Vec::new();
    let known = repository.databases().await?;
    for name in names.unwrap_or(&known).iter().cloned() {
        if !known.contains(&name) {
            let (restorable_to, age_ms, problems) = (None, None, Vec::new());
            databases.push(Database { name, restorable_to, age_ms, recent: false, problems });
            continue;
        }
        // Nobody wants to restore a database whose every backup was forgotten.
        if history.has_given_up(&name) && repository.running_capture(&name).await?.is_none() {
            continue;
        }
        let timeline = repository.timeline(&name).await?;
        let restorable_to = Reach::of(&timeline, session.native()).to();
        let age = restorable_to.map(|to| now - to.0);
        // What lies in the future was dated by a wrong clock, and may be of any age.
        let is_recent = |age: TimeDelta| {
            max_age.is_none_or(|max_age| {
                age >= -CLOCK_AHEAD_MAX && age.to_std().unwrap_or_default() <= max_age
            })
        };
        databases.push(Database {
            name,
            restorable_to,
            age_ms: age.map(|age| age.num_milliseconds()),
            recent: age.is_some_and(is_recent),
            problems: timeline.problems,
        });
    }
    Ok(databases)
}
