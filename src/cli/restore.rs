//! `stillpoint restore`: brings a database back as it was at any captured moment.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{
    Error, ErrorKind, Lineage, LogPosition, LogSource as _, Overwrite, RecoveryTarget, Result, code,
};

use super::{
    advice::{command_line, repeated_options, with_options},
    answer::{Answer, Stamp},
    exit,
    moment::{FORMS, Moment},
    open::{self, Need, Opened},
    page::{Page, Tone, printable},
    session::Session,
    units,
    wire::{Backup, milliseconds},
};
use crate::{
    coordinator::{self, ResolvedRestore, RestoreJob, RestoreReport, Wanted},
    pipeline::Meter,
};

/// What `restore` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, by the name that `list` shows.
    database: String,
    /// The moment: latest; 2026-11-21T13:20:05Z; "2026-11-21 13:20:05" in your zone, or with one,
    /// such as Europe/Berlin or +02:00, behind it; "today 13:20"; "yesterday 13:20:05"; 13:20;
    /// -10m, -1h30m, -2d; a position that `timeline` prints; or another form that the database's
    /// engine has for points, which are listed when one cannot be understood.
    #[arg(
        long,
        value_name = "POINT",
        default_value = "latest",
        allow_hyphen_values = true,
        conflicts_with = "backup"
    )]
    at: String,
    /// Restore the state of this backup alone, without log; its id, or how it begins.
    #[arg(long, value_name = "BACKUP")]
    backup: Option<String>,
    /// Where the restored database shall be: a file, or a directory for a server.
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    to: PathBuf,
    /// Replace what is there, unless somebody is using it.
    #[arg(long)]
    force: bool,
    /// Put the database in its place even when the engine's check finds damage in it, as one that
    /// was damaged before it was backed up; says what was found and ends with status 9.
    #[arg(long)]
    accept_damage: bool,
    /// Only tell how it would be done; change nothing.
    #[arg(long)]
    plan: bool,
}

#[derive(Debug, Serialize)]
struct PlanAnswer {
    database: String,
    backup: Backup,
    engine_version: String,
    until: String,
    replays_log: bool,
    restored_bytes: u64,
    target: String,
    replaces: bool,
    proof: String,
    command: String,
}

impl Answer for PlanAnswer {
    const SCHEMA: &'static str = "restore.plan/1";

    fn write(&self, page: &mut Page<'_>) {
        let backup = &self.backup;
        let log = if self.replays_log { "from the backup on" } else { "none" };
        let target = if self.replaces { "replaced, if it exists" } else { "must not exist" };
        page.facts(
            0,
            &[
                ("Backup", format!("{} of {}", backup.id, page.time(backup.at.0))),
                ("Engine", format!("{} {}", backup.engine, self.engine_version)),
                ("Copies", units::bytes(self.restored_bytes)),
                ("Log", log.to_owned()),
                ("Stops at", self.until.clone()),
                ("Target", format!("{} ({target})", self.target)),
                ("Proof", self.proof.clone()),
            ],
        );
        page.line("Nothing was changed. Run it:");
        page.line(format!("  {}", printable(&self.command)));
    }
}

#[derive(Debug, Serialize)]
struct RestoreAnswer {
    database: String,
    target: String,
    backup: Backup,
    reached_position: Option<String>,
    reached_engine_position: Option<String>,
    last_commit_at: Option<Stamp>,
    transactions_replayed: u64,
    check: String,
    damage: Vec<String>,
    restored_bytes: u64,
    log_bytes: u64,
    copy_ms: u64,
    replay_ms: u64,
    elapsed_ms: u64,
}

impl Answer for RestoreAnswer {
    const SCHEMA: &'static str = "restore/1";

    fn write(&self, page: &mut Page<'_>) {
        let took = units::duration(Duration::from_millis(self.elapsed_ms));
        page.line(format!(
            "Restored {} to {} in {took}",
            printable(&self.database),
            printable(&self.target)
        ));
        let state = match self.last_commit_at {
            Some(at) => format!("after the commit of {}", page.time(at.0)),
            None => format!("of the backup, {}", page.time(self.backup.at.0)),
        };
        let mut facts = vec![("state", state)];
        facts.extend(self.reached_engine_position.clone().map(|position| ("position", position)));
        let backup = format!("{}, {}", self.backup.id, units::bytes(self.restored_bytes));
        facts.push(("backup", backup));
        if self.log_bytes > 0 {
            let commits = units::count(self.transactions_replayed, "commit", "commits");
            facts.push(("log", format!("{commits} in {}", units::bytes(self.log_bytes))));
        }
        facts.push(("check", self.check.clone()));
        page.facts(2, &facts);
        for found in &self.damage {
            page.line(format!("{}: {}", page.paint(Tone::Bad, "damaged"), printable(found)));
        }
        if !self.damage.is_empty() {
            page.line(
                "The restored database is damaged. Save what can be read of it; do not use it.",
            );
        }
    }
}

/// Restores, or plans to. The exit status says whether the restored database is sound.
pub(crate) async fn run(session: &Session, options: Options) -> Result<u8> {
    let moment = session.moment(&options.at)?;
    let repository = open::repository(session, Need::Content).await?;
    let wanted = match &options.backup {
        Some(backup) => Wanted::Backup(repository.find_backup(backup).await?.commit.backup),
        None => wanted(session, &repository, &options.database, moment).await?,
    };
    let job = RestoreJob {
        engines: &session.engines,
        database: &options.database,
        wanted,
        target: &options.to,
        overwrite: if options.force { Overwrite::Replace } else { Overwrite::Never },
    };
    let staging = coordinator::staging_beside(&session.world, &options.to)?;
    let mut resolved = coordinator::plan(&repository, &job, &staging).await?;
    resolved.accept_damage = options.accept_damage;
    if options.plan {
        session.answer(&planned(session, &options, &resolved))?;
        return Ok(exit::OK);
    }
    if let Some(why) = &resolved.chosen.open_gap {
        session.warn(&format!("log that was captured later cannot be restored: {why}"));
    }
    let meter = Arc::new(Meter::default());
    let work = coordinator::run(&session.world, &repository, &resolved, &meter);
    let report = session.watch(&options.database, &meter, work).await?;
    let is_sound = report.damage.is_empty();
    session.answer(&restored(session, &options, &resolved, report))?;
    Ok(if is_sound { exit::OK } else { exit::status(ErrorKind::Corrupt) })
}

fn planned(session: &Session, options: &Options, resolved: &ResolvedRestore) -> PlanAnswer {
    let until = &resolved.chosen.until;
    let at = match until {
        RecoveryTarget::Time(at) => Some(session.zone.exact(*at)),
        RecoveryTarget::Position(position) => Some(position.to_string()),
        RecoveryTarget::Consistent | RecoveryTarget::Latest => None,
    };
    let to = options.to.display().to_string();
    let mut words = vec!["restore", &options.database];
    match (&at, until) {
        (Some(at), _) => words.extend(["--at", at]),
        (None, RecoveryTarget::Consistent) => {
            words.extend(["--backup", &resolved.chosen.backup.commit.backup]);
        }
        (None, _) => {}
    }
    words.extend(["--to", &to]);
    words.extend(options.force.then_some("--force"));
    words.extend(options.accept_damage.then_some("--accept-damage"));
    PlanAnswer {
        database: options.database.clone(),
        backup: Backup::of(&resolved.chosen.backup.commit, session.native()),
        engine_version: resolved.manifest.version.clone(),
        until: match (until, &at) {
            (RecoveryTarget::Time(_), Some(at)) => format!("the last commit at or before {at}"),
            (RecoveryTarget::Latest, _) => "the end of the captured log".to_owned(),
            (RecoveryTarget::Consistent, _) => "the state of the backup".to_owned(),
            (RecoveryTarget::Position(position), _) => {
                session.native().render(&resolved.manifest.engine, position)
            }
            (_, at) => at.clone().unwrap_or_default(),
        },
        replays_log: resolved.chosen.replays_log,
        restored_bytes: resolved.manifest.size_bytes,
        replaces: options.force,
        proof: resolved.plan.proof.clone(),
        command: with_options(&command_line(&words), &repeated_options(&session.global)),
        target: to,
    }
}

fn restored(
    session: &Session,
    options: &Options,
    resolved: &ResolvedRestore,
    report: RestoreReport,
) -> RestoreAnswer {
    let engine = resolved.manifest.engine.as_str();
    let reached = report.reached.position.as_ref();
    RestoreAnswer {
        database: options.database.clone(),
        target: options.to.display().to_string(),
        backup: Backup::of(&resolved.chosen.backup.commit, session.native()),
        reached_position: reached.map(ToString::to_string),
        reached_engine_position: reached.map(|p| session.native().render(engine, p)),
        last_commit_at: report.reached.committed_at.map(Stamp),
        transactions_replayed: report.reached.transactions,
        check: report.check,
        damage: report.damage,
        restored_bytes: report.restored_bytes,
        log_bytes: report.log_bytes,
        copy_ms: milliseconds(report.copy_took),
        replay_ms: milliseconds(report.replay_took),
        elapsed_ms: milliseconds(report.took),
    }
}

async fn wanted(
    session: &Session,
    repository: &Opened,
    database: &str,
    moment: Moment,
) -> Result<Wanted> {
    match moment {
        Moment::Latest => Ok(Wanted::Latest),
        Moment::Time(at) => Ok(Wanted::Time(at)),
        Moment::Native(text) => {
            let timeline = repository.timeline(database).await?;
            let engine = coordinator::engine_of(&session.engines, &timeline)?;
            let point = engine.read_point(&text)?.ok_or_else(|| foreign(&text, engine.name()))?;
            Ok(Wanted::Native(point))
        }
        Moment::Position { lineage, offset } => {
            let lineage = lineage_of(repository, database, &lineage).await?;
            Ok(Wanted::Position(LogPosition { lineage, offset }))
        }
    }
}

/// Another engine's notation.
fn foreign(text: &str, engine: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, code::BAD_POINT, "understand the point in time")
        .with("given", text)
        .with("engine", engine)
        .with("forms", FORMS)
        .why("the database's engine does not name points in this way")
}

/// The lineage that begins with `prefix`, if there is only one in the database's history.
async fn lineage_of(repository: &Opened, database: &str, prefix: &str) -> Result<Lineage> {
    let timeline = repository.timeline(database).await?;
    let mut found = BTreeSet::new();
    let mut keep = |position: &LogPosition| {
        if position.lineage.as_str().starts_with(prefix) {
            found.insert(position.lineage.clone());
        }
    };
    for backup in &timeline.backups {
        backup.commit.consistent_at.iter().for_each(&mut keep);
        let is_first = |coverage: &crate::repository::Coverage| {
            coverage.backups.first() == Some(&backup.commit.backup)
        };
        if timeline.coverage.iter().any(is_first) {
            let mut log = repository.log_from(backup).await?;
            while let Some(head) = log.next().await? {
                keep(head.range.start());
            }
        }
    }
    let exact = found.iter().find(|lineage| lineage.as_str() == prefix);
    match (exact, found.len()) {
        (Some(exact), _) => Ok(exact.clone()),
        (None, 1) => Ok(found.into_iter().next().expect("one was counted")),
        (None, 0) => Lineage::new(prefix),
        (None, _) => {
            let lineages = found.iter().take(5).map(Lineage::as_str).collect::<Vec<_>>();
            Err(Error::new(ErrorKind::Invalid, code::BAD_POINT, "tell which lineage is meant")
                .with("given", prefix)
                .with("fitting", lineages.join(", "))
                .next("give more of it"))
        }
    }
}
