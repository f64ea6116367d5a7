//! `stillpoint restore`: brings a database back as it was at any captured moment.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use stillpoint_contract::{
    Error, ErrorKind, Lineage, LogPosition, LogSource as _, Overwrite, RecoveryTarget, Relocation,
    RestoreExtras, Result, code,
};

use super::{group, standby};
use crate::{
    cli::{
        advice::{command_line, repeated_options, with_options},
        answer::{Answer, Stamp},
        choice::Labels,
        exit,
        forecast::Outlook,
        moment::{FORMS, Moment},
        open::{Need, Opened},
        page::{Page, Tone, printable},
        partial,
        session::Session,
        source::{Source, SourceOptions, Sources},
        units,
        wire::{Backup, Event, Point, milliseconds},
    },
    coordinator::{self, ResolvedRestore, RestoreJob, RestoreReport, Wanted},
    pipeline::Meter,
};

/// What `restore` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The database, by the name that `list` shows.
    #[arg(required_unless_present = "labels")]
    database: Option<String>,
    #[command(flatten)]
    pub(super) labels: Labels,
    /// The moment: latest; 2026-11-21T13:20:05Z; "2026-11-21 13:20:05" in your zone, or with one,
    /// such as Europe/Berlin or +02:00, behind it; "today 13:20"; "yesterday 13:20:05"; 13:20;
    /// -10m, -1h30m, -2d; a position that `timeline` prints; or another form that the database's
    /// engine has for points, which are listed when one cannot be understood.
    #[arg(
        long,
        value_name = "POINT",
        default_value = "latest",
        allow_hyphen_values = true,
        conflicts_with_all = ["backup", "before_drop"]
    )]
    pub(super) at: String,
    /// Restore the state of this backup alone, without log; its id, or how it begins.
    #[arg(long, value_name = "BACKUP", conflicts_with = "labels")]
    backup: Option<String>,
    /// Just before this table or database was dropped the last time, or else lost its contents:
    /// its name, as `timeline` shows it, or the end of it. Without --to only the point is told.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["backup", "labels"])]
    before_drop: Option<String>,
    /// Where the restored database shall be: a file, or a directory for a server. Of several: the
    /// directory in which each gets one of its own, by its name.
    #[arg(
        long,
        value_name = "PATH",
        value_hint = clap::ValueHint::AnyPath,
        required_unless_present_any = ["before_drop", "into", "table", "inside"]
    )]
    pub(super) to: Option<PathBuf>,
    /// Replace what is there, unless somebody is using it.
    #[arg(long)]
    pub(super) force: bool,
    /// Put the database in its place even when the engine's check finds damage in it, as one that
    /// was damaged before it was backed up; says what was found and ends with status 9.
    #[arg(long)]
    pub(super) accept_damage: bool,
    /// Put what lived outside of the database's directory into this one, which is empty or not
    /// there yet: WHAT is its name, its number, or its old place. May be given several times;
    /// otherwise it comes to lie inside.
    #[arg(long, value_name = "WHAT=DIR", conflicts_with = "labels")]
    tablespace: Vec<String>,
    /// Turn the stopped server's directory that is there into the restored one: only blocks that
    /// differ are fetched and written, and files that do not belong to it are removed. When it is
    /// interrupted, the same command goes on.
    #[arg(long, conflicts_with_all = ["force", "labels"])]
    delta: bool,
    /// Start a server on the restored directory, and wait until it accepts connections.
    #[arg(long, conflicts_with = "labels")]
    start: bool,
    /// The server that the restored one follows, with --as standby: what PostgreSQL takes for
    /// `primary_conninfo`, such as "host=db1 user=replicator". Its password is in a password file.
    #[arg(
        long,
        value_name = "CONNINFO",
        requires = "to",
        conflicts_with_all = ["into", "before_drop", "labels"]
    )]
    primary: Option<String>,
    /// Only tell what would be read, from where, how long it takes by past drills, and what is
    /// lost after the point; change nothing.
    #[arg(long)]
    pub(super) plan: bool,
    #[command(flatten)]
    pub(super) source: SourceOptions,
    #[command(flatten)]
    pub(crate) partial: partial::PartialOptions,
}

#[derive(Debug, Serialize)]
struct PlanAnswer {
    source: String,
    database: String,
    backup: Backup,
    engine_version: String,
    until: String,
    replays_log: bool,
    restored_bytes: u64,
    log_bytes: u64,
    #[serde(flatten)]
    outlook: Outlook,
    target: String,
    replaces: bool,
    proof: String,
    warnings: Vec<String>,
    notes: Vec<String>,
    command: String,
}

#[derive(Debug, Serialize)]
struct BeforeDropAnswer {
    database: String,
    loss: Event,
    command: String,
}

impl BeforeDropAnswer {
    fn sentence(&self, session: &Session) -> String {
        let time = |at: Stamp| session.zone.exact(at.0);
        let (loss, before) = (&self.loss, &self.loss.before);
        let position = before.shown().cloned().unwrap_or_default();
        format!(
            "{} at {}; the newest state before that is {position}, of {}",
            loss.words(),
            time(loss.point.at),
            time(before.at),
        )
    }
}

impl Answer for BeforeDropAnswer {
    const SCHEMA: &'static str = "restore.before-drop/1";

    fn write(&self, page: &mut Page<'_>) {
        let shown = |point: &Point| {
            let position = point.shown().cloned().unwrap_or_default();
            format!("{position}, {}", page.time(point.at.0))
        };
        let facts = [
            ("Event", self.loss.words()),
            ("At", shown(&self.loss.point)),
            ("Before", shown(&self.loss.before)),
        ];
        page.facts(0, &facts);
        page.line("Nothing was changed. Restore the newest state before it:");
        page.line(format!("  {}", printable(&self.command)));
    }
}

impl Answer for PlanAnswer {
    const SCHEMA: &'static str = "restore.plan/1";

    fn write(&self, page: &mut Page<'_>) {
        let backup = &self.backup;
        let log = if self.replays_log {
            format!("{} from the backup on", units::bytes(self.log_bytes))
        } else {
            "none".to_owned()
        };
        let target = if self.replaces { "replaced, if it exists" } else { "must not exist" };
        let mut facts = vec![
            ("Source", self.source.clone()),
            ("Backup", format!("{} of {}", backup.id, page.time(backup.at.0))),
            ("Engine", format!("{} {}", backup.engine, self.engine_version)),
            ("Copies", units::bytes(self.restored_bytes)),
            ("Log", log),
            ("Stops at", self.until.clone()),
            ("Target", format!("{} ({target})", self.target)),
        ];
        facts.extend(self.outlook.facts(page, "Loses"));
        facts.push(("Proof", self.proof.clone()));
        page.facts(0, &facts);
        write_notes(page, &self.notes);
        page.line("Nothing was changed. Run it:");
        page.line(format!("  {}", printable(&self.command)));
    }
}

fn write_notes(page: &mut Page<'_>, notes: &[String]) {
    for note in notes {
        page.line(format!("note: {}", printable(note)));
    }
}

#[derive(Debug, Serialize)]
struct RestoreAnswer {
    source: String,
    /// Whether a configuration names the source.
    #[serde(skip)]
    is_named: bool,
    database: String,
    target: String,
    backup: Backup,
    reached_position: Option<String>,
    reached_engine_position: Option<String>,
    last_commit_at: Option<Stamp>,
    transactions_replayed: u64,
    check: String,
    damage: Vec<String>,
    warnings: Vec<String>,
    notes: Vec<String>,
    started: Option<String>,
    restored_bytes: u64,
    kept_bytes: u64,
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
        facts.extend(self.is_named.then(|| ("from", self.source.clone())));
        facts.extend(self.reached_engine_position.clone().map(|position| ("position", position)));
        let backup = format!("{}, {}", self.backup.id, units::bytes(self.restored_bytes));
        facts.push(("backup", backup));
        if self.log_bytes > 0 {
            let commits = units::count(self.transactions_replayed, "commit", "commits");
            facts.push(("log", format!("{commits} in {}", units::bytes(self.log_bytes))));
        }
        if self.kept_bytes > 0 {
            facts.push(("kept", format!("{} that did not differ", units::bytes(self.kept_bytes))));
        }
        facts.push(("check", self.check.clone()));
        facts.extend(self.started.clone().map(|started| ("server", started)));
        page.facts(2, &facts);
        write_notes(page, &self.notes);
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
    partial::refuse_without_target(&options.partial)?;
    let moment = session.moment(&options.at)?;
    let Some(database) = options.database.as_deref() else {
        return Box::pin(group::run(session, &options, &moment)).await;
    };
    let of = (Some(database), Need::Content);
    let sources = Sources::of(session, &options.source, of).await?;
    let work = async |source: &Source| {
        Box::pin(attempt(session, &options, (database, &moment), source)).await
    };
    Box::pin(sources.serve(session, database, work)).await
}

/// Restores from one source.
async fn attempt(
    session: &Session,
    options: &Options,
    (database, moment): (&str, &Moment),
    source: &Source,
) -> Result<u8> {
    let (repository, moment) = (&source.repository, moment.clone());
    let proposal = match &options.before_drop {
        Some(name) => Some(propose(session, repository, (database, name)).await?),
        None => None,
    };
    if options.partial.into.is_some() {
        let wanted = match (&options.backup, proposal) {
            (_, Some((wanted, proposal))) => {
                session.note(&proposal.sentence(session));
                wanted
            }
            (Some(backup), None) => backup_of(repository, backup).await?,
            (None, None) => wanted(session, repository, database, moment).await?,
        };
        let about = (database, options.accept_damage, options.plan);
        return partial::run(session, &options.partial, about, (repository, wanted)).await;
    }
    let Some(to) = options.to.clone() else {
        let Some((_, proposal)) = proposal else {
            return Err(Error::bug("restore without a target"));
        };
        session.answer(&proposal)?;
        return Ok(exit::OK);
    };
    if let Some((_, proposal)) = &proposal {
        session.note(&proposal.sentence(session));
    }
    let wanted = match (&options.backup, proposal) {
        (_, Some((wanted, _))) => wanted,
        (Some(backup), None) => backup_of(repository, backup).await?,
        (None, None) => wanted(session, repository, database, moment).await?,
    };
    let resolved = resolve(session, options, repository, (database, wanted, &to)).await?;
    resolved.chosen.warnings.iter().for_each(|warning| session.warn(warning));
    if options.plan {
        let forecast = coordinator::forecast(repository, &resolved).await?;
        let outlook = Outlook::of(&forecast, Some(&to));
        if !options.delta && outlook.is_too_small(resolved.manifest.size_bytes) {
            session.warn("the target's file system has not enough free space for the database");
        }
        session.answer(&planned(session, (options, database), &resolved, (source, outlook)))?;
        return Ok(exit::OK);
    }
    let meter = Arc::new(Meter::default());
    let work = coordinator::run(&session.world, repository, &resolved, &meter);
    let report = session.watch(database, &meter, work).await?;
    let is_sound = report.damage.is_empty();
    session.answer(&restored(session, (options, database), (source, &resolved), report))?;
    Ok(if is_sound { exit::OK } else { exit::status(ErrorKind::Corrupt) })
}

/// Finds out whether and how a point can be had at a place. Changes nothing.
pub(super) async fn resolve(
    session: &Session,
    options: &Options,
    repository: &Opened,
    (database, wanted, target): (&str, Wanted, &Path),
) -> Result<ResolvedRestore> {
    let job = RestoreJob {
        engines: &session.engines,
        database,
        wanted,
        target,
        overwrite: if options.force { Overwrite::Replace } else { Overwrite::Never },
        extras: extras(options)?,
    };
    let staging = if options.delta {
        coordinator::rewriting_beside(target)?
    } else {
        coordinator::staging_beside(&session.world, target)?
    };
    let mut resolved = coordinator::plan(repository, &job, &staging).await?;
    resolved.accept_damage = options.accept_damage;
    Ok(resolved)
}

async fn backup_of(repository: &Opened, id: &str) -> Result<Wanted> {
    Ok(Wanted::Backup(repository.find_backup(id).await?.commit.backup))
}

fn extras(options: &Options) -> Result<RestoreExtras> {
    let mut extras = RestoreExtras {
        starts: options.start,
        follows: standby::primary(&options.partial, options.primary.as_deref())?,
        rewrites: options.delta,
        ..RestoreExtras::default()
    };
    for text in &options.tablespace {
        // A place may hold an equals sign; the new directory is written last.
        let (from, to) = text
            .rsplit_once('=')
            .filter(|(f, t)| !f.is_empty() && !t.is_empty())
            .ok_or_else(|| {
                Error::new(ErrorKind::Invalid, code::USAGE, "understand where a tablespace goes")
                    .with("given", text)
                    .next("--tablespace NAME=/DIR")
            })?;
        extras.relocations.push(Relocation { from: from.to_owned(), to: PathBuf::from(to) });
    }
    Ok(extras)
}

fn target_of(options: &Options) -> String {
    options.to.as_ref().map(|to| to.display().to_string()).unwrap_or_default()
}

/// The newest point before the last drop of `name`.
async fn propose(
    session: &Session,
    repository: &Opened,
    (database, name): (&str, &str),
) -> Result<(Wanted, BeforeDropAnswer)> {
    let timeline = repository.timeline(database).await?;
    let loss = coordinator::last_loss(repository, &timeline, name).await?;
    let position = loss.before.position.clone();
    let at = position.to_string();
    let words = ["restore", database, "--at", &at, "--to", "PATH"];
    let render = |position: &LogPosition| session.native().render_of(&timeline, position);
    let answer = BeforeDropAnswer {
        database: database.to_owned(),
        loss: Event::of(loss, &render),
        command: with_options(&command_line(&words), &repeated_options(&session.global)),
    };
    Ok((Wanted::Position(position), answer))
}

fn planned(
    session: &Session,
    (options, database): (&Options, &str),
    resolved: &ResolvedRestore,
    (source, outlook): (&Source, Outlook),
) -> PlanAnswer {
    let until = &resolved.chosen.until;
    let at = match until {
        RecoveryTarget::Time(at) => Some(session.zone.exact(*at)),
        RecoveryTarget::Position(position) => Some(position.to_string()),
        RecoveryTarget::Consistent | RecoveryTarget::Latest => None,
    };
    let to = target_of(options);
    let mut words = vec!["restore", database];
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
    words.extend(options.delta.then_some("--delta"));
    words.extend(options.start.then_some("--start"));
    if let Some(primary) = &options.primary {
        words.extend(["--as", standby::STANDBY, "--primary", primary]);
    }
    if let Some(name) = &source.name {
        words.extend(["--from", name]);
    }
    for space in &options.tablespace {
        words.extend(["--tablespace", space]);
    }
    PlanAnswer {
        source: source.told.clone(),
        outlook,
        log_bytes: resolved.log_bytes,
        database: database.to_owned(),
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
        replaces: options.force || options.delta,
        notes: resolved.plan.notes.clone(),
        proof: resolved.plan.proof.clone(),
        warnings: resolved.chosen.warnings.clone(),
        command: with_options(&command_line(&words), &repeated_options(&session.global)),
        target: to,
    }
}

fn restored(
    session: &Session,
    (options, database): (&Options, &str),
    (source, resolved): (&Source, &ResolvedRestore),
    report: RestoreReport,
) -> RestoreAnswer {
    let engine = resolved.manifest.engine.as_str();
    let reached = report.reached.position.as_ref();
    RestoreAnswer {
        source: source.told.clone(),
        is_named: source.name.is_some(),
        database: database.to_owned(),
        target: target_of(options),
        backup: Backup::of(&resolved.chosen.backup.commit, session.native()),
        reached_position: reached.map(ToString::to_string),
        reached_engine_position: reached.map(|p| session.native().render(engine, p)),
        last_commit_at: report.reached.committed_at.map(Stamp),
        transactions_replayed: report.reached.transactions,
        check: report.check,
        damage: report.damage,
        warnings: [&resolved.chosen.warnings[..], &source.repaired].concat(),
        notes: resolved.plan.notes.clone(),
        started: report.started,
        kept_bytes: report.kept_bytes,
        restored_bytes: report.restored_bytes,
        log_bytes: report.log_bytes,
        copy_ms: milliseconds(report.copy_took),
        replay_ms: milliseconds(report.replay_took),
        elapsed_ms: milliseconds(report.took),
    }
}

/// What a moment means for a database.
pub(crate) async fn wanted(
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
        .next("stillpoint timeline DB tells which points there are")
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
