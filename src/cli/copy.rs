//! `stillpoint copy`: second copies of backups, made and looked at.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    answer::{Answer, Stamp},
    choice::Labels,
    config::reach,
    exit,
    open::Opened,
    page::{Page, Table, Tone, printable},
    serve::{Held, applied_already, found, outbox},
    session::Session,
    units,
};
use crate::{
    config::{Config, Database},
    coordinator::{CopyReport, CopyStanding, Copying, Delivery, HandOff, Outbox, Terms},
    pipeline::Meter,
    policy::{CopyKind, CopyRule, Policy, State},
    repository::Pace,
};

/// What to do with copies.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring to copies what they lack, now.
    ///
    /// Only backups that were proven go, each object hashed on its way and again once it is there.
    /// What is damaged is not copied, and ends it with 9; nothing that goes from the original goes
    /// from a copy. Outside of its windows it ends with 8. Killed, it goes on with what lacks.
    Run(RunOptions),
    /// List copies: what they have, what they lack, and since when.
    List(ListOptions),
}

/// What `copy run` is told.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// The database [default: all that are configured].
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
    /// Only the copy of this name.
    #[arg(long, value_name = "NAME")]
    copy: Option<String>,
    /// Where databases are restored before they are handed over [default: $TMPDIR, or /var/tmp].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Command {
    /// Where databases are restored, if somebody says so.
    pub(crate) fn scratch(&self) -> Option<&Path> {
        match self {
            Self::Run(options) => options.scratch.as_deref(),
            Self::List(_) => None,
        }
    }
}

/// What `copy list` is told.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// The database [default: all that are configured].
    database: Option<String>,
    #[command(flatten)]
    labels: Labels,
}

#[derive(Debug, Serialize)]
struct RunAnswer {
    copies: Vec<Ran>,
    warnings: Vec<String>,
}

/// What became of one copy.
#[derive(Debug, Serialize)]
struct Ran {
    database: String,
    copy: String,
    from: String,
    to: String,
    /// Ids of the backups that were copied.
    backups: Vec<String>,
    segments: u64,
    /// Ids of the backups that were handed over and are gone from there.
    expired: Vec<String>,
    sent_objects: u64,
    sent_bytes: u64,
    /// Objects of the copy that were damaged, and are good again.
    mended: Vec<String>,
    /// Objects that were damaged where it is copied from, and were brought back from it.
    repaired: Vec<String>,
    problems: Vec<Bad>,
    /// Why it stopped before its end.
    paused: Option<String>,
    lacking_backups: usize,
    lacking_segments: usize,
    waiting_since: Option<Stamp>,
    held_back: Vec<HeldBack>,
}

/// What is not as it was written.
#[derive(Debug, Serialize)]
struct Bad {
    object: String,
    what: String,
    backups: Vec<String>,
}

/// A backup that does not go.
#[derive(Debug, Serialize)]
struct HeldBack {
    backup: String,
    /// `unverified` or `suspect`.
    why: &'static str,
    /// What is wrong with it, where something is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl HeldBack {
    fn all(standing: &CopyStanding) -> Vec<Self> {
        let held = standing.held_back.iter();
        held.map(|held| Self {
            backup: held.backup.clone(),
            why: held.proof.name(),
            problem: held.problem.clone(),
        })
        .collect()
    }

    fn told(&self, page: &Page<'_>) -> String {
        let why = match &self.problem {
            Some(problem) => format!("it is damaged where it is copied from: {problem}"),
            None => "nobody has read it back yet; next: stillpoint verify".to_owned(),
        };
        let word = page.paint(Tone::Warning, "held back");
        format!("{word}: backup {}: {}", self.backup, printable(&why))
    }
}

impl Ran {
    fn new(copy: &OneCopy<'_>, report: CopyReport) -> Self {
        let CopyReport {
            copied,
            segments,
            mended,
            repaired,
            expired,
            problems,
            sent,
            paused,
            left,
        } = report;
        let bad = |problem: crate::repository::Problem| Bad {
            object: problem.object,
            what: problem.what,
            backups: problem.backups,
        };
        Self {
            database: copy.database.name.clone(),
            copy: copy.rule.name.clone(),
            from: copy.from.to_owned(),
            to: copy.rule.to.clone(),
            backups: copied.into_iter().map(|(committed, _)| committed.commit.backup).collect(),
            segments,
            expired,
            sent_objects: sent.0,
            sent_bytes: sent.1,
            mended,
            repaired,
            problems: problems.into_iter().map(bad).collect(),
            paused,
            lacking_backups: left.lacking.len(),
            lacking_segments: left.log.segments.len(),
            waiting_since: left.waiting_since.map(Stamp),
            held_back: HeldBack::all(&left),
        }
    }

    fn is_damaged(&self) -> bool {
        !self.problems.is_empty() || self.held_back.iter().any(|held| held.problem.is_some())
    }
}

impl Answer for RunAnswer {
    const SCHEMA: &'static str = "copy.run/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.copies.is_empty() {
            page.line("No copy is configured.");
        }
        for ran in &self.copies {
            page.line(format!(
                "{} -> {}: copied {}, {} of log; sent {} in {}",
                printable(&ran.database),
                printable(&ran.copy),
                units::count(ran.backups.len() as u64, "backup", "backups"),
                units::count(ran.segments, "segment", "segments"),
                units::bytes(ran.sent_bytes),
                units::count(ran.sent_objects, "object", "objects"),
            ));
            if !ran.expired.is_empty() {
                let count = units::count(ran.expired.len() as u64, "backup", "backups");
                page.line(format!("  {count} handed over earlier: not kept any more"));
            }
            for object in &ran.mended {
                page.line(format!("  {}: {}", page.paint(Tone::Good, "mended"), printable(object)));
            }
            for object in &ran.repaired {
                let word = page.paint(Tone::Good, "repaired where it is copied from");
                page.line(format!("  {word}: {}", printable(object)));
            }
            for bad in &ran.problems {
                page.line(format!(
                    "  {}: {}: {}",
                    page.paint(Tone::Bad, "not copied"),
                    printable(&bad.object),
                    printable(&bad.what)
                ));
            }
            for held in &ran.held_back {
                page.line(format!("  {}", held.told(page)));
            }
            if let Some(paused) = &ran.paused {
                let word = page.paint(Tone::Warning, "paused");
                page.line(format!("  {word}: could not {}", printable(paused)));
            }
            if ran.lacking_backups + ran.lacking_segments > 0 {
                page.line(format!(
                    "  lacks {} and {} of log",
                    units::count(ran.lacking_backups as u64, "backup", "backups"),
                    units::count(ran.lacking_segments as u64, "segment", "segments"),
                ));
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct ListAnswer {
    now: Stamp,
    copies: Vec<Listed>,
}

/// How far one copy has come.
#[derive(Debug, Serialize)]
struct Listed {
    database: String,
    copy: String,
    from: String,
    to: String,
    place: String,
    classes: Vec<&'static str>,
    backups: usize,
    /// Backups that were handed over and that nobody has acknowledged; `null` of a repository.
    unacknowledged: Option<usize>,
    newest: Option<Stamp>,
    lacking_backups: usize,
    lacking_segments: usize,
    waiting_since: Option<Stamp>,
    /// How long the oldest of what it lacks waits; 0 if it lacks nothing, and `null` if nobody
    /// knows.
    lag_seconds: Option<u64>,
    held_back: Vec<HeldBack>,
    /// Why nothing is known.
    problem: Option<String>,
}

impl Answer for ListAnswer {
    const SCHEMA: &'static str = "copy.list/1";

    fn write(&self, page: &mut Page<'_>) {
        if self.copies.is_empty() {
            page.line("No copy is configured.");
            return;
        }
        let heading = [
            "DATABASE",
            "COPY",
            "FROM",
            "TO",
            "CLASSES",
            ">BACKUPS",
            "NEWEST POINT",
            "LACKS",
            "LAG",
        ];
        let mut table = Table::new(&heading);
        for one in &self.copies {
            let lacks = match (one.lacking_backups, one.lacking_segments) {
                _ if one.problem.is_some() => "?".to_owned(),
                (0, 0) => "nothing".to_owned(),
                (backups, 0) => units::count(backups as u64, "backup", "backups"),
                (0, segments) => units::count(segments as u64, "segment", "segments"),
                (backups, segments) => format!("{backups} backups, {segments} segments"),
            };
            table.row(vec![
                one.database.clone(),
                one.copy.clone(),
                one.from.clone(),
                one.to.clone(),
                one.classes.join(","),
                units::grouped(one.backups as u64),
                one.newest.map_or_else(|| "-".to_owned(), |at| page.time(at.0)),
                lacks,
                one.lag_seconds.map_or_else(|| "?".to_owned(), told_lag),
            ]);
        }
        page.table(&table);
        for one in &self.copies {
            if let Some(count) = one.unacknowledged.filter(|count| *count > 0) {
                let count = units::count(count as u64, "backup", "backups");
                let (database, copy) = (printable(&one.database), printable(&one.copy));
                page.line(format!("{database} -> {copy}: {count} not acknowledged yet"));
            }
            for held in one.held_back.iter().filter(|held| held.problem.is_some()) {
                let (database, copy) = (printable(&one.database), printable(&one.copy));
                page.line(format!("{database} -> {copy}: {}", held.told(page)));
            }
            if let Some(problem) = &one.problem {
                let line = format!("{} -> {}: {problem}", one.database, one.copy);
                page.line(page.paint(Tone::Bad, &printable(&line)));
            }
        }
    }
}

/// How far a copy is behind, in a word.
pub(crate) fn told_lag(seconds: u64) -> String {
    format!("+{}", units::duration(std::time::Duration::from_secs(seconds)))
}

/// How long something waits, in seconds; 0 if nothing does.
pub(crate) fn lag(waiting_since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> u64 {
    let waited = waiting_since.map(|since| (now - since).num_seconds().max(0));
    waited.unwrap_or_default().unsigned_abs()
}

/// A copy of a database, by the configuration.
#[derive(Clone, Copy)]
struct OneCopy<'a> {
    database: &'a Database,
    policy: &'a Policy,
    rule: &'a CopyRule,
    /// The repository that it is made of.
    from: &'a str,
}

impl<'a> OneCopy<'a> {
    fn all(config: &'a Config, labels: &Labels, database: Option<&str>) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for database in labels.of(&config.databases, database)? {
            let Some(policy) = config.policies.get(&database.policy) else { continue };
            for rule in policy.copies_in_order() {
                let from = policy.source_of(rule, &database.repository);
                all.push(Self { database, policy, rule, from });
            }
        }
        Ok(all)
    }

    fn delivery<'b>(
        &'b self,
        config: &'b Config,
        source: &'b Opened,
        target: &'b Target,
        may_expire: bool,
    ) -> Delivery<'b> {
        let repository = config.repositories.get(&self.rule.to);
        let windows = repository.map(|r| r.windows.as_slice()).unwrap_or_default();
        let Self { database: Database { name: database, labels, .. }, policy, rule, .. } = self;
        let state = State::Active;
        let terms = Terms { database, policy, rule, state, labels, source, windows };
        match target {
            Target::Repository(target) => Delivery::Replica(Copying { terms, target }),
            Target::Outbox(outbox) => Delivery::HandOff(HandOff { terms, outbox, may_expire }),
        }
    }
}

/// Does it.
pub(crate) async fn run(session: &Session, command: Command) -> Result<u8> {
    let configured = found(session).await?.config;
    // Where a coordinator serves, what was applied holds, and not what a file says by now.
    let held = applied_already(session, &configured.coordinator).await?;
    let config = held.as_ref().map_or(&configured, |held| held.config());
    // Nor does anything go before somebody has said by what.
    let may_expire = held.as_ref().is_none_or(Held::may_expire);
    match command {
        Command::Run(options) => Box::pin(make(session, (config, may_expire), options)).await,
        Command::List(options) => list(session, config, options).await,
    }
}

/// What a copy goes to.
enum Target {
    Repository(Arc<Opened>),
    Outbox(Box<Outbox>),
}

/// Repositories that are open, by name.
#[derive(Default)]
struct Shelf {
    open: BTreeMap<String, Arc<Opened>>,
    paces: BTreeMap<String, Arc<Pace>>,
    scratch: Option<PathBuf>,
}

impl Shelf {
    async fn source(
        &mut self,
        session: &Session,
        config: &Config,
        name: &str,
    ) -> Result<Arc<Opened>> {
        if let Some(known) = self.open.get(name) {
            return Ok(Arc::clone(known));
        }
        let opened = Arc::new(reach::repository(session, config, name).await?);
        self.open.insert(name.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }

    async fn target(
        &mut self,
        session: &Session,
        config: &Config,
        name: &str,
        source: &Opened,
    ) -> Result<Target> {
        if let Some(outbox) = outbox(session, config, name, self.scratch.as_deref()) {
            return Ok(Target::Outbox(Box::new(outbox)));
        }
        if let Some(known) = self.open.get(name) {
            return Ok(Target::Repository(Arc::clone(known)));
        }
        let opened = Arc::new(reach::replica(session, config, name, source).await?);
        self.open.insert(name.to_owned(), Arc::clone(&opened));
        Ok(Target::Repository(opened))
    }

    /// The same, where it is there already.
    async fn seen(&mut self, session: &Session, config: &Config, name: &str) -> Result<Target> {
        match outbox(session, config, name, None) {
            Some(outbox) => Ok(Target::Outbox(Box::new(outbox))),
            None => self.source(session, config, name).await.map(Target::Repository),
        }
    }

    fn pace(&mut self, session: &Session, config: &Config, name: &str) -> Arc<Pace> {
        let rate = config.repositories.get(name).and_then(|repository| repository.upload);
        let clock = || Arc::clone(&session.world.clock);
        let made = || Arc::new(Pace::new(clock(), rate));
        Arc::clone(self.paces.entry(name.to_owned()).or_insert_with(made))
    }
}

async fn make(
    session: &Session,
    (config, may_expire): (&Config, bool),
    options: RunOptions,
) -> Result<u8> {
    let mut copies = OneCopy::all(config, &options.labels, options.database.as_deref())?;
    // What is only watched is copied where a person names it.
    copies.retain(|copy| options.database.is_some() || !config.is_observed(copy.database));
    if let Some(name) = &options.copy {
        let known: Vec<String> = copies.iter().map(|copy| copy.rule.name.clone()).collect();
        copies.retain(|copy| copy.rule.name == *name);
        if copies.is_empty() {
            return Err(Error::new(ErrorKind::Missing, code::CONFIG_NAME, "find the copy")
                .with("given", name)
                .with("configured", known.join(", "))
                .next("stillpoint copy list"));
        }
    }
    let mut shelf = Shelf { scratch: options.scratch, ..Shelf::default() };
    let mut answer = RunAnswer { copies: Vec::new(), warnings: Vec::new() };
    let mut failures: Vec<Error> = Vec::new();
    for copy in copies {
        match Box::pin(one(session, (config, may_expire), &mut shelf, &copy)).await {
            Ok(ran) => answer.copies.push(ran),
            Err(error) => {
                let error = error.with("copy", &copy.rule.name);
                failures.push(error.with("database", &copy.database.name));
            }
        }
    }
    let is_damaged = answer.copies.iter().any(Ran::is_damaged);
    let is_paused = answer.copies.iter().any(|ran| ran.paused.is_some());
    answer.warnings = failures.iter().skip(1).map(ToString::to_string).collect();
    answer.warnings.iter().for_each(|warning| session.warn(warning));
    // Where nothing was reached, the error is the answer.
    if !answer.copies.is_empty() || failures.is_empty() {
        session.answer(&answer)?;
    }
    match failures.into_iter().next() {
        Some(first) => Err(first),
        None if is_damaged => Ok(exit::status(ErrorKind::Corrupt)),
        None if is_paused => Ok(exit::status(ErrorKind::TimedOut)),
        None => Ok(exit::OK),
    }
}

async fn one(
    session: &Session,
    (config, may_expire): (&Config, bool),
    shelf: &mut Shelf,
    copy: &OneCopy<'_>,
) -> Result<Ran> {
    let source = shelf.source(session, config, copy.from).await?;
    let target = shelf.target(session, config, &copy.rule.to, &source).await?;
    let pace = shelf.pace(session, config, &copy.rule.to);
    let meter = Arc::new(Meter::default());
    let delivery = copy.delivery(config, &source, &target, may_expire);
    let work = Box::pin(delivery.run(&session.world, &pace, &meter));
    let subject = format!("{} -> {}", copy.database.name, copy.rule.name);
    let report = session.watch(&subject, &meter, work).await;
    if let Target::Repository(target) = &target {
        target.remember().await?;
    }
    source.remember().await?;
    Ok(Ran::new(copy, report?))
}

async fn list(session: &Session, config: &Config, options: ListOptions) -> Result<u8> {
    let mut shelf = Shelf::default();
    let now = session.world.clock.now();
    let mut answer = ListAnswer { now: Stamp(now), copies: Vec::new() };
    for copy in OneCopy::all(config, &options.labels, options.database.as_deref())? {
        let looked = async {
            let source = shelf.source(session, config, copy.from).await?;
            let target = shelf.seen(session, config, &copy.rule.to).await?;
            copy.delivery(config, &source, &target, false).look(now).await
        };
        let (standing, problem) = match looked.await {
            Ok(standing) => (Some(standing), None),
            Err(error) => (None, Some(format!("{}: could not {error}", error.code()))),
        };
        let repository = config.repositories.get(&copy.rule.to);
        let known = standing.unwrap_or_default();
        answer.copies.push(Listed {
            database: copy.database.name.clone(),
            copy: copy.rule.name.clone(),
            from: copy.from.to_owned(),
            to: copy.rule.to.clone(),
            place: repository.map(|repository| repository.url.clone()).unwrap_or_default(),
            classes: copy.rule.kinds.iter().map(|kind| class(*kind)).collect(),
            backups: known.backups,
            unacknowledged: known.unacknowledged,
            newest: known.newest.map(Stamp),
            lacking_backups: known.lacking.len(),
            lacking_segments: known.log.segments.len(),
            waiting_since: known.waiting_since.map(Stamp),
            lag_seconds: problem.is_none().then(|| lag(known.waiting_since, now)),
            held_back: HeldBack::all(&known),
            problem,
        });
    }
    session.answer(&answer)?;
    Ok(exit::OK)
}

fn class(kind: CopyKind) -> &'static str {
    match kind {
        CopyKind::Full => "full",
        CopyKind::Incremental => "incremental",
        CopyKind::Logs => "logs",
    }
}
