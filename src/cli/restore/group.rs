//! `stillpoint restore -l LABELS --at TIME --to DIR`: several databases as they were at one time.
//! All of them are planned before anything is written: if one cannot reach the time, none is
//! restored.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::run::{Options, resolve};
use crate::{
    cli::{
        advice::{command_line, repeated_options, with_options},
        answer::{Answer, Stamp},
        exit,
        forecast::Outlook,
        moment::Moment,
        open::{Need, Opened},
        page::{Page, Table, Tone, printable},
        session::Session,
        source::{Source, Sources},
        units,
        wire::{Backup, Point, milliseconds},
    },
    coordinator::{self, ResolvedRestore, RestoreReport, Stop, Wanted, told, windows},
    pipeline::Meter,
    repository::names,
};

/// The name of a database that is one file, in the directory that is its own.
const FILE: &str = "database";

#[derive(Debug, Serialize)]
struct PlanAnswer {
    asked: Stamp,
    directory: String,
    databases: Vec<Planned>,
    warnings: Vec<String>,
    command: String,
}

/// What would be done for one database.
#[derive(Debug, Serialize)]
struct Planned {
    database: String,
    source: String,
    target: String,
    backup: Backup,
    /// The state that the time really is; nothing where so much log lies before it that only the
    /// restore tells.
    stop: Option<StopPoint>,
    restored_bytes: u64,
    log_bytes: u64,
    #[serde(flatten)]
    outlook: Outlook,
    #[serde(skip)]
    warnings: Vec<String>,
}

/// Where a restore stops, or stopped: at what was committed last.
#[derive(Debug, Serialize)]
struct StopPoint {
    #[serde(flatten)]
    point: Point,
    /// `commit`, or `backup`: that is the newest state there was.
    after: &'static str,
    /// How long before the time that was asked for.
    before_ms: u64,
    #[serde(skip)]
    shown: String,
}

impl StopPoint {
    fn of(session: &Session, stop: &Stop, (engine, asked): (&str, DateTime<Utc>)) -> Self {
        let render = |position| session.native().render(engine, position);
        let point = Point {
            at: Stamp(stop.at),
            position: stop.position.as_ref().map(ToString::to_string),
            engine_position: stop.position.as_ref().map(render),
        };
        let after = if stop.is_commit { "commit" } else { "backup" };
        let before_ms = milliseconds((asked - stop.at).to_std().unwrap_or_default());
        let shown = format!("{after} of {}", session.zone.exact(stop.at));
        Self { point, after, before_ms, shown }
    }

    fn position(&self) -> String {
        self.point.shown().cloned().unwrap_or_else(|| "-".to_owned())
    }
}

impl Answer for PlanAnswer {
    const SCHEMA: &'static str = "restore.group-plan/1";

    fn write(&self, page: &mut Page<'_>) {
        let many = units::count(self.databases.len() as u64, "database", "databases");
        let (asked, directory) = (page.time(self.asked.0), printable(&self.directory));
        page.line(format!("Restores {many} to {asked}, below {directory}"));
        let heading = ["DATABASE", "STOPS AT", "POSITION", ">COPIES", ">LOG", "FROM", "TARGET"];
        let mut table = Table::new(&heading);
        for one in &self.databases {
            let stop = one.stop.as_ref();
            table.row(vec![
                one.database.clone(),
                stop.map_or_else(|| "not known before".to_owned(), |stop| stop.shown.clone()),
                stop.map_or_else(|| "-".to_owned(), StopPoint::position),
                units::bytes(one.restored_bytes),
                units::bytes(one.log_bytes),
                one.source.clone(),
                one.target.clone(),
            ]);
        }
        page.table(&table);
        for one in &self.databases {
            let facts = one.outlook.facts(page, "Loses");
            let told = facts.into_iter().map(|(name, value)| format!("{name}: {value}"));
            let told = told.collect::<Vec<_>>().join("; ");
            page.line(format!("{}: {}", printable(&one.database), printable(&told)));
        }
        page.line("Nothing was changed. Run it:");
        page.line(format!("  {}", printable(&self.command)));
    }
}

#[derive(Debug, Serialize)]
struct GroupAnswer {
    asked: Stamp,
    directory: String,
    databases: Vec<Restored>,
    warnings: Vec<String>,
}

/// What became of one database.
#[derive(Debug, Serialize)]
struct Restored {
    database: String,
    /// `restored`, `damaged` or `failed`.
    outcome: &'static str,
    /// Why it failed.
    why: Option<String>,
    target: String,
    done: Option<Done>,
}

#[derive(Debug, Serialize)]
struct Done {
    source: String,
    backup: Backup,
    stop: StopPoint,
    transactions_replayed: u64,
    check: String,
    damage: Vec<String>,
    restored_bytes: u64,
    log_bytes: u64,
    elapsed_ms: u64,
    #[serde(skip)]
    warnings: Vec<String>,
}

impl Answer for GroupAnswer {
    const SCHEMA: &'static str = "restore.group/1";

    fn write(&self, page: &mut Page<'_>) {
        let many = self.databases.iter().filter(|one| one.outcome == RESTORED).count();
        let (all, asked) = (self.databases.len(), page.time(self.asked.0));
        let directory = printable(&self.directory);
        page.line(format!("Restored {many} of {all} databases to {asked}, below {directory}"));
        let heading = ["DATABASE", "RESULT", "STOPPED AT", "POSITION", "CHECK", "TARGET"];
        let mut table = Table::new(&heading);
        for one in &self.databases {
            let of =
                |cell: fn(&Done) -> String| one.done.as_ref().map_or_else(|| "-".to_owned(), cell);
            table.row(vec![
                one.database.clone(),
                one.outcome.to_owned(),
                of(|done| done.stop.shown.clone()),
                of(|done| done.stop.position()),
                of(|done| done.check.clone()),
                one.target.clone(),
            ]);
        }
        page.table(&table);
        for one in &self.databases {
            let damage = one.done.iter().flat_map(|done| &done.damage);
            for what in one.why.iter().chain(damage) {
                let word = page.paint(Tone::Bad, one.outcome);
                page.line(format!("{}: {word}: {}", printable(&one.database), printable(what)));
            }
        }
    }
}

const RESTORED: &str = "restored";
const DAMAGED: &str = "damaged";
const FAILED: &str = "failed";

/// Restores all, or plans to.
pub(super) async fn run(session: &Session, options: &Options, moment: &Moment) -> Result<u8> {
    let Moment::Time(at) = *moment else {
        return Err(Error::new(
            ErrorKind::Invalid,
            code::USAGE,
            "restore several databases at once",
        )
        .with("--at", &options.at)
        .why("each has positions and a newest state of its own: only a time is the same for all")
        .next("--at \"2026-11-21 13:20:05\", or --at -10m"));
    };
    let directory = match options.to.as_deref().map(std::path::absolute) {
        Some(Ok(directory)) => directory,
        Some(Err(cause)) => return Err(failed(Path::new("."), cause)),
        None => return Err(Error::bug("restore several databases without a directory")),
    };
    let directory = directory.as_path();
    let of = (&options.labels, Need::Content);
    let groups = Sources::labelled(session, &options.source, of).await?;
    let all = || groups.iter().flat_map(|(of, names)| names.iter().map(move |name| (of, name)));
    let group = Group { session, options, directory, at };
    let (mut plans, mut failures) = (Vec::new(), Vec::new());
    for (sources, name) in all() {
        let work = async |source: &Source| Box::pin(group.plan(name, source)).await;
        match Box::pin(sources.serve(session, name, work)).await {
            Ok(planned) => plans.push(planned),
            Err(error) => failures.push((name.as_str(), error)),
        }
    }
    if !failures.is_empty() {
        let common = common(session, all(), at).await;
        return Err(group.refused(&plans, failures, common));
    }
    let warnings: Vec<String> = plans.iter().flat_map(|one| one.warnings.clone()).collect();
    for warning in &warnings {
        session.warn(warning);
    }
    let (asked, shown) = (Stamp(at), directory.display().to_string());
    if options.plan {
        let needed = plans.iter().map(|one| one.restored_bytes).sum();
        if plans.iter().any(|one| one.outlook.is_too_small(needed)) {
            session.warn("there is not enough free space for all databases");
        }
        let command = group.command(at);
        let databases = plans;
        let answer = PlanAnswer { asked, directory: shown, databases, warnings, command };
        session.answer(&answer)?;
        return Ok(exit::OK);
    }
    let mut answer = GroupAnswer { asked, directory: shown, databases: Vec::new(), warnings };
    let mut worst = exit::OK;
    for (sources, name) in all() {
        let work = async |source: &Source| Box::pin(group.restore(name, source)).await;
        let done = Box::pin(sources.serve(session, name, work)).await;
        let planned = plans.iter().find(|planned| planned.database == *name);
        let target = planned.map(|planned| planned.target.clone()).unwrap_or_default();
        let (outcome, why, done) = match done {
            Ok(done) if done.damage.is_empty() => (RESTORED, None, Some(done)),
            Ok(done) => {
                worst = worst.max(exit::status(ErrorKind::Corrupt));
                (DAMAGED, None, Some(done))
            }
            Err(error) => {
                worst = worst.max(exit::status(error.kind()));
                (FAILED, Some(told(&error)), None)
            }
        };
        answer.warnings.extend(done.iter().flat_map(|done| done.warnings.clone()));
        let database = name.clone();
        answer.databases.push(Restored { database, outcome, why, target, done });
    }
    session.answer(&answer)?;
    Ok(worst)
}

/// What goes for every database of the group.
struct Group<'a> {
    session: &'a Session,
    options: &'a Options,
    directory: &'a Path,
    at: DateTime<Utc>,
}

impl Group<'_> {
    /// Where a database comes to lie: in a directory of its own, which is the database itself
    /// where that is no file.
    async fn target(&self, repository: &Opened, database: &str) -> Result<PathBuf> {
        let timeline = repository.timeline(database).await?;
        let engine = coordinator::engine_of(&self.session.engines, &timeline)?;
        let own = self.directory.join(names::encode(database));
        let file = || own.join(format!("{FILE}.{}", engine.name()));
        Ok(if engine.is_one_file() { file() } else { own })
    }

    async fn resolve(
        &self,
        (database, source): (&str, &Source),
        target: &Path,
    ) -> Result<ResolvedRestore> {
        let what = (database, Wanted::Time(self.at), target);
        resolve(self.session, self.options, &source.repository, what).await
    }

    /// What would be done. Changes nothing.
    async fn plan(&self, database: &str, source: &Source) -> Result<Planned> {
        let session = self.session;
        let target = self.target(&source.repository, database).await?;
        let above = target.parent().unwrap_or(self.directory);
        // Drivers plan for directories that are there. Where this one is not, neither is a target.
        let stands_for = match above.ancestors().find(|place| place.is_dir()) {
            Some(place) if place != above => {
                coordinator::staging_beside(&session.world, &place.join(FILE))?
            }
            _ => target.clone(),
        };
        let resolved = self.resolve((database, source), &stands_for).await?;
        let forecast = coordinator::forecast(&source.repository, &resolved).await?;
        let of = (&*resolved.manifest.engine, self.at);
        Ok(Planned {
            database: database.to_owned(),
            source: source.told.clone(),
            target: target.display().to_string(),
            backup: Backup::of(&resolved.chosen.backup.commit, session.native()),
            stop: forecast.stop.as_ref().map(|stop| StopPoint::of(session, stop, of)),
            restored_bytes: resolved.manifest.size_bytes,
            log_bytes: resolved.log_bytes,
            outlook: Outlook::of(&forecast, Some(&target)),
            warnings: resolved.chosen.warnings,
        })
    }

    async fn restore(&self, database: &str, source: &Source) -> Result<Done> {
        let session = self.session;
        let target = self.target(&source.repository, database).await?;
        let above = target.parent().unwrap_or(self.directory);
        fs::create_dir_all(above).map_err(|cause| failed(above, cause))?;
        let meter = Arc::new(Meter::default());
        let work = async {
            let resolved = self.resolve((database, source), &target).await?;
            let work = coordinator::run(&session.world, &source.repository, &resolved, &meter);
            let report = session.watch(database, &meter, work).await?;
            Ok(self.done(source, &resolved, report))
        };
        let done = work.await;
        if done.is_err() && above != self.directory {
            // What is not empty stays.
            drop(fs::remove_dir(above));
        }
        done
    }

    fn done(&self, source: &Source, resolved: &ResolvedRestore, report: RestoreReport) -> Done {
        let (session, commit) = (self.session, &resolved.chosen.backup.commit);
        let reached = report.reached;
        let stop = Stop {
            at: reached.committed_at.unwrap_or(commit.consistent_time),
            position: reached.position.or_else(|| commit.consistent_at.clone()),
            is_commit: reached.committed_at.is_some(),
        };
        Done {
            source: source.told.clone(),
            backup: Backup::of(commit, session.native()),
            stop: StopPoint::of(session, &stop, (&resolved.manifest.engine, self.at)),
            transactions_replayed: reached.transactions,
            check: report.check,
            damage: report.damage,
            restored_bytes: report.restored_bytes,
            log_bytes: report.log_bytes,
            elapsed_ms: milliseconds(report.took),
            warnings: source.repaired.clone(),
        }
    }

    /// The command that restores the same group to a time.
    fn command(&self, at: DateTime<Utc>) -> String {
        let (options, at) = (self.options, exact(at));
        let labels = options.labels.labels.as_deref().unwrap_or_default();
        let to = options.to.as_deref().unwrap_or(self.directory).display().to_string();
        let mut words = vec!["restore", "-l", labels, "--at", &at, "--to", &to];
        words.extend(options.force.then_some("--force"));
        words.extend(options.accept_damage.then_some("--accept-damage"));
        words.extend(options.source.from.iter().flat_map(|from| ["--from", from]));
        with_options(&command_line(&words), &repeated_options(&self.session.global))
    }

    /// Why none is restored.
    fn refused(
        &self,
        plans: &[Planned],
        failures: Vec<(&str, Error)>,
        common: Option<DateTime<Utc>>,
    ) -> Error {
        let kind = failures.first().map_or(ErrorKind::Bug, |(_, error)| error.kind());
        let code = failures.first().map_or(code::UNREACHABLE_POINT, |(_, error)| error.code());
        let mut error = Error::new(kind, code, "restore every database to the same time")
            .with("asked", self.session.zone.exact(self.at));
        for (name, failure) in failures {
            let reason = failure.reason().map(|why| format!("; {why}")).unwrap_or_default();
            error = error.with("cannot", format!("{name}: {}{reason}", told(&failure)));
        }
        if !plans.is_empty() {
            let names: Vec<&str> = plans.iter().map(|one| one.database.as_str()).collect();
            error = error.with("could", names.join(", "));
        }
        let error = error.why("nothing was restored: together they would be of different times");
        match common {
            Some(common) => error
                .with("newest time that all reach", self.session.zone.exact(common))
                .next(self.command(common)),
            None => error,
        }
    }
}

/// The newest time until then that every database can be restored to, as far as they can be asked.
async fn common(
    session: &Session,
    all: impl Iterator<Item = (&Sources, &String)>,
    until: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let mut reaches = Vec::new();
    for (sources, name) in all {
        let source = sources.first(session).await.ok()?;
        let timeline = source.repository.timeline(name).await.ok()?;
        let ends = |window: coordinator::Window| (window.from.at, window.to.at.min(until));
        reaches.push(windows(&timeline).into_iter().map(ends).collect::<Vec<_>>());
    }
    let holds = |at: DateTime<Utc>| {
        reaches.iter().all(|own| own.iter().any(|(from, to)| *from <= at && at <= *to))
    };
    let ends = reaches.iter().flatten().map(|(_, to)| *to);
    ends.filter(|end| *end < until && holds(*end)).max()
}

/// A time that reads back as itself.
fn exact(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn failed(directory: &Path, cause: io::Error) -> Error {
    Error::new(ErrorKind::Config, code::FILE, "make a directory for a restored database")
        .with("directory", directory.display())
        .caused_by(cause)
}
