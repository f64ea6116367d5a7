//! One drill, from the choice of a backup to the removal of its sandbox.

use std::{iter, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Clock, Engine, Error, ErrorKind, Result, Sandbox, SandboxUse, Tally, Verdict, code,
};

use super::rows::{Basis, compare};
use crate::{
    coordinator::{
        point::{Preference, Wanted},
        restore::ResolvedRestore,
        scratch::{Scratch, ScratchPlace},
        scratch_copy::{CopyJob, Presented, ScratchCopy, Way, plan_copy},
    },
    pipeline::Meter,
    repository::{
        Repository,
        drill::{
            Assertion, DrillRecord, EngineCheck, Phase, RECORD_FORMAT, ReachedPoint,
            RestoredBackup, RowCheck,
        },
    },
    world::World,
};

/// How long a fact is at least that is not told when it was told before.
const REPEATED_BYTES_MIN: usize = 16;

/// How many lines of a failed check its cause has; the check itself has all.
const CAUSE_LINES_MAX: usize = 5;

/// What to prove, and where.
#[derive(Debug)]
pub struct DrillJob<'a> {
    /// Every engine there is; the backup names its own.
    pub engines: &'a [Arc<dyn Engine>],
    /// The database's name in the repository.
    pub database: &'a str,
    /// Which state.
    pub wanted: Wanted,
    /// The same, as a person repeats it.
    pub asked: &'a str,
    /// Whether it was drawn.
    pub is_random: bool,
    /// What statements should answer.
    pub expectations: &'a [Expectation],
    /// In which of a server's databases they run, if not in the usual one.
    pub inside: Option<&'a str>,
    /// Where the sandbox is made.
    pub scratch: &'a ScratchPlace,
    /// Whether the backup may be mounted.
    pub way: Way,
    /// Who started it, and where.
    pub started_by: &'a str,
    /// When it is given up, on the world's clock.
    pub ends_at: Option<Duration>,
}

/// What a statement should answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The statement.
    pub sql: String,
    /// The answer, as [`Sandbox::query`] writes it.
    pub expected: String,
}

/// Restores the point into a sandbox, looks at it, removes the sandbox, and tells what was found.
/// The record is not kept yet.
///
/// # Errors
///
/// What is no proof of anything: a mistake in what was asked, or a store that cannot be reached.
/// Whatever else goes wrong is a drill that failed.
pub async fn drill(
    world: &World,
    repository: &Repository,
    job: &DrillJob<'_>,
    meter: &Arc<Meter>,
) -> Result<DrillRecord> {
    let mut phases = Phases::begin(Arc::clone(&world.clock), Arc::clone(meter));
    let mut record = blank(world, repository, job);
    let scratch = job.scratch.create(world)?;
    let work = Box::pin(attempt((world, repository), job, &scratch, &mut phases, &mut record));
    let attempted = tokio::select! {
        biased;
        attempted = work => Some(attempted),
        () = until(world, job.ends_at) => None,
    };
    let cause = match attempted {
        Some(Ok(())) => None,
        Some(Err(error)) if !is_finding(&error) => return Err(error),
        Some(Err(error)) => Some(tell(&error)),
        // That a database does not come back in time is what a drill is there to tell.
        None => {
            Some(format!("not finished within --timeout, but still at: {}", meter.read().phase))
        }
    };
    if let Some(cause) = cause {
        phases.end_broken();
        record.causes.push(cause);
    }
    meter.begin("remove", 0);
    let removed = tokio::task::spawn_blocking(move || scratch.remove()).await;
    match removed.unwrap_or_else(|cause| Err(Error::bug("remove a sandbox").caused_by(cause))) {
        Ok(proof) => record.teardown = proof,
        Err(error) => {
            record.teardown = tell(&error);
            record.causes.push(format!("the sandbox stays behind: {}", tell(&error)));
        }
    }
    phases.end("remove", None);
    record.phases = phases.done;
    record.causes.extend(causes(&record));
    record.passed = record.causes.is_empty();
    record.finished_at = world.clock.now();
    Ok(record)
}

async fn until(world: &World, end: Option<Duration>) {
    match end {
        Some(end) => world.clock.sleep(end.saturating_sub(world.clock.elapsed())).await,
        None => std::future::pending().await,
    }
}

fn blank(world: &World, repository: &Repository, job: &DrillJob<'_>) -> DrillRecord {
    let now = world.clock.now();
    let assertion = |expectation: &Expectation| Assertion {
        sql: expectation.sql.clone(),
        expected: expectation.expected.clone(),
        answered: None,
        error: None,
        verdict: Verdict::Skipped,
    };
    DrillRecord {
        format: RECORD_FORMAT,
        program: concat!("stillpoint ", env!("CARGO_PKG_VERSION")).to_owned(),
        repository: repository.id().to_owned(),
        drill: repository.new_drill(),
        started_by: job.started_by.to_owned(),
        database: job.database.to_owned(),
        started_at: now,
        finished_at: now,
        asked: job.asked.to_owned(),
        is_random: job.is_random,
        backup: None,
        presented: None,
        reached: None,
        rpo_ms: None,
        rto_ms: None,
        phases: Vec::new(),
        restored_bytes: 0,
        log_bytes: 0,
        sandbox: None,
        checks: Vec::new(),
        rows: None,
        assertions: job.expectations.iter().map(assertion).collect(),
        teardown: String::new(),
        notes: Vec::new(),
        causes: Vec::new(),
        passed: false,
    }
}

/// Goes as far as it can, and writes everything down on the way.
async fn attempt(
    (world, repository): (&World, &Repository),
    job: &DrillJob<'_>,
    scratch: &Scratch,
    phases: &mut Phases,
    record: &mut DrillRecord,
) -> Result<()> {
    phases.meter.begin("choose", 0);
    let copy = CopyJob {
        engines: job.engines,
        database: job.database,
        wanted: &job.wanted,
        // What it finds, or does not, is known of the backup that is in doubt.
        preference: Preference::Newest,
        way: job.way,
        sandbox: SandboxUse::Look,
    };
    let mut planned = plan_copy(world, repository, copy, scratch).await?;
    // A drill goes on, to find more.
    planned.resolved.accept_damage = true;
    phases.end("choose", None);
    describe(record, &planned.resolved, &planned.presented);

    let copy = planned.bring_up(world, repository, &phases.meter).await?;
    brought_up(record, &copy, phases);
    record.rpo_ms = Some(rpo_ms(&job.wanted, &copy.resolved, record.started_at));
    let looked = look(repository, job, &copy, phases, record).await;
    let looked = match looked {
        Ok(()) if copy.presented == Presented::Mounted => prove(&copy, phases, record).await,
        looked => looked,
    };
    if let Some(outage) = copy.outage() {
        return Err(outage);
    }
    let unreadable = copy.damage();
    if !unreadable.is_empty() {
        // The engine takes for damage of its own what nobody could read of the backup.
        for check in &mut record.checks {
            check.is_damage = false;
        }
    }
    record.causes.extend(unreadable);
    looked
}

/// Opens a sandbox, looks, and ends the sandbox.
async fn look(
    repository: &Repository,
    job: &DrillJob<'_>,
    copy: &ScratchCopy<'_>,
    phases: &mut Phases,
    record: &mut DrillRecord,
) -> Result<()> {
    phases.meter.begin("open", 0);
    let sandbox = copy.open().await?;
    phases.end("open", None);
    record.sandbox = Some(sandbox.description().to_owned());
    if let Some(inside) = job.inside {
        is_there(inside, sandbox.databases())?;
    }
    let looked = ask(repository, job, (copy, &*sandbox), phases, record).await;
    let stopped = sandbox.stop().await;
    looked.and(stopped)
}

/// Whether statements can be asked of a database: that they cannot proves nothing of the backup.
fn is_there(inside: &str, databases: &[String]) -> Result<()> {
    if databases.iter().any(|name| name == inside) {
        return Ok(());
    }
    let error =
        Error::new(ErrorKind::Invalid, code::NO_SUCH_DATABASE, "find the database of --inside");
    let error = error.with("asked", inside);
    Err(match databases {
        [] => error.why("this engine keeps one database in a file").next("leave --inside out"),
        all => error
            .with("there are", all.join(", "))
            .why("the server had no database of this name at the chosen point")
            .next("name one of these: --inside DATABASE"),
    })
}

/// What a full restore does before anybody asks: the engine's check of the files, and every byte
/// of the backup.
async fn prove(
    copy: &ScratchCopy<'_>,
    phases: &mut Phases,
    record: &mut DrillRecord,
) -> Result<()> {
    phases.meter.begin("check files", 0);
    let (check, damage) = copy.check().await?;
    checked(record, check, &damage);
    phases.end("check files", None);
    phases.meter.begin("read back", copy.resolved.manifest.size_bytes);
    let bytes = copy.read_back(&phases.meter).await?;
    phases.end("read back", Some(bytes));
    Ok(())
}

async fn ask(
    repository: &Repository,
    job: &DrillJob<'_>,
    (copy, sandbox): (&ScratchCopy<'_>, &dyn Sandbox),
    phases: &mut Phases,
    record: &mut DrillRecord,
) -> Result<()> {
    phases.meter.begin("first query", 0);
    sandbox.greet().await?;
    phases.end("first query", None);
    record.rto_ms = Some(phases.total_ms());

    phases.meter.begin("check", 0);
    let checks = sandbox.check().await?.into_iter().map(|found| EngineCheck {
        check: found.check,
        verdict: found.verdict,
        is_damage: found.is_damage,
        says: found.says,
    });
    record.checks.extend(checks);
    phases.end("check", None);

    phases.meter.begin("count", 0);
    let (recorded, basis) = recorded(repository, &copy.resolved, record).await?;
    record.rows = Some(match sandbox.tally().await {
        Ok(counted) => compare(recorded, counted, basis),
        Err(error) => {
            RowCheck { basis: tell(&error), verdict: Verdict::Failed, tables: Vec::new() }
        }
    });
    phases.end("count", None);

    phases.meter.begin("ask", 0);
    for assertion in &mut record.assertions {
        match sandbox.query(job.inside, &assertion.sql).await {
            Ok(answer) => {
                let is_right = answer == assertion.expected;
                assertion.verdict = if is_right { Verdict::Passed } else { Verdict::Failed };
                assertion.answered = Some(answer);
            }
            Err(error) => {
                assertion.verdict = Verdict::Failed;
                let told = iter::once(tell(&error));
                let told = told.chain(error.advice().into_iter().map(str::to_owned));
                assertion.error = Some(told.collect::<Vec<_>>().join("; "));
            }
        }
    }
    if !record.assertions.is_empty() {
        phases.end("ask", None);
    }
    Ok(())
}

fn describe(record: &mut DrillRecord, resolved: &ResolvedRestore, presented: &Presented) {
    let ResolvedRestore { chosen, manifest, plan, .. } = resolved;
    record.backup = Some(RestoredBackup {
        id: manifest.backup.clone(),
        at: manifest.consistent_time,
        engine: manifest.engine.clone(),
        engine_version: manifest.version.clone(),
    });
    record.presented = Some(presented.recorded());
    record.notes.extend(chosen.warnings.iter().chain(&plan.notes).cloned());
}

fn brought_up(record: &mut DrillRecord, copy: &ScratchCopy<'_>, phases: &mut Phases) {
    let log_bytes = Some(copy.log_bytes).filter(|bytes| *bytes > 0);
    if let Some(report) = &copy.restored {
        phases.add("fetch", report.copy_took, Some(report.restored_bytes));
        phases.add("replay", copy.replay_took, log_bytes);
        phases.add("check files", report.check_took, None);
        phases.end("make durable", None);
        checked(record, report.check.clone(), &report.damage);
    } else {
        phases.end("replay", log_bytes);
    }
    let size_bytes = copy.resolved.manifest.size_bytes;
    record.restored_bytes = copy.restored.as_ref().map_or(size_bytes, |r| r.restored_bytes);
    record.log_bytes = copy.log_bytes;
    let reached = &copy.reached;
    record.reached = Some(ReachedPoint {
        position: reached.position.as_ref().map(ToString::to_string),
        engine_position: reached.position.as_ref().map(|p| copy.resolved.render(p)),
        last_commit_at: reached.committed_at,
        transactions: reached.transactions,
    });
}

fn checked(record: &mut DrillRecord, check: String, damage: &[String]) {
    let is_sound = damage.is_empty();
    let lines = damage.iter().flat_map(|found| found.lines()).map(str::to_owned);
    let says = if is_sound { vec![check] } else { lines.collect() };
    let verdict = if is_sound { Verdict::Passed } else { Verdict::Failed };
    let check = "files".to_owned();
    record.checks.insert(0, EngineCheck { check, verdict, is_damage: !is_sound, says });
}

/// How much of what was committed before the point is missing. A point in the past is reached or
/// refused; of the latest state, what was committed since the log was last seen to its end.
fn rpo_ms(wanted: &Wanted, resolved: &ResolvedRestore, now: DateTime<Utc>) -> u64 {
    match wanted {
        Wanted::Latest => {
            let missing = now - resolved.chosen.complete_until;
            missing.num_milliseconds().max(0).unsigned_abs()
        }
        _ => 0,
    }
}

/// The rows that were recorded of the state that was reached, or else of the backup.
async fn recorded(
    repository: &Repository,
    resolved: &ResolvedRestore,
    record: &DrillRecord,
) -> Result<(Vec<Tally>, Basis)> {
    let own = &resolved.manifest;
    let Some(reached) = &record.reached else { return Ok((Vec::new(), Basis::Same)) };
    if reached.transactions == 0 {
        return Ok((own.tallies.clone(), Basis::Same));
    }
    let timeline = repository.timeline(&record.database).await?;
    for backup in timeline.backups.iter().rev() {
        let position = backup.commit.consistent_at.as_ref().map(ToString::to_string);
        if position.is_some() && position == reached.position {
            let tallies = repository.manifest(backup).await?.tallies;
            if !tallies.is_empty() {
                return Ok((tallies, Basis::Same));
            }
        }
    }
    Ok((own.tallies.clone(), Basis::Before(reached.transactions)))
}

/// Why a drill failed that came to its end.
fn causes(record: &DrillRecord) -> Vec<String> {
    let mut causes = Vec::new();
    for check in record.checks.iter().filter(|check| check.verdict == Verdict::Failed) {
        causes.push(format!("{}: {}", check.check, brief(&check.says)));
    }
    if let Some(rows) = record.rows.as_ref().filter(|rows| rows.verdict == Verdict::Failed) {
        let wrong = rows.tables.iter().filter(|table| table.verdict == Verdict::Failed);
        let number = |rows: Option<u64>| rows.map_or("no".to_owned(), |rows| rows.to_string());
        let mut told = wrong.map(|table| {
            let about = if table.exact { "" } else { "about " };
            let (recorded, counted) = (number(table.recorded), number(table.counted));
            format!("{} has {counted} rows, and had {about}{recorded}", table.table)
        });
        causes.push(match told.next() {
            None => format!("rows: {}", rows.basis),
            Some(first) => match told.count() {
                0 => format!("rows: {first}"),
                more => format!("rows: {first}; and {more} tables more"),
            },
        });
    }
    for assertion in record.assertions.iter().filter(|a| a.verdict == Verdict::Failed) {
        causes.push(match (&assertion.answered, &assertion.error) {
            (Some(answered), _) => format!(
                "{} answered {answered:?}, and {:?} was expected",
                assertion.sql, assertion.expected
            ),
            (None, error) => error.clone().unwrap_or_default(),
        });
    }
    causes
}

/// The first lines of what an engine said.
fn brief(says: &[String]) -> String {
    let shown = says.iter().take(CAUSE_LINES_MAX).map(String::as_str).collect::<Vec<_>>();
    match says.len().saturating_sub(CAUSE_LINES_MAX) {
        0 => shown.join("; "),
        more => format!("{}; and {more} lines more", shown.join("; ")),
    }
}

/// Whether an error proves something about the backup, or about this machine's ability to restore
/// it.
fn is_finding(error: &Error) -> bool {
    let elsewhere = [
        code::NO_SUCH_DATABASE,
        code::NO_SUCH_BACKUP,
        code::BAD_POINT,
        code::NO_KEY,
        code::WRONG_KEY,
        code::STORE_UNREACHABLE,
        code::STORE_DENIED,
        code::INTERRUPTED,
    ];
    !elsewhere.contains(&error.code()) && error.kind() != ErrorKind::Interrupted
}

/// An error and everything that it says, in one line.
fn tell(error: &Error) -> String {
    let mut text = format!("could not {error}");
    let mut cause = std::error::Error::source(error);
    // Libraries repeat what lies below, and drivers what a server said.
    while let Some(deeper) = cause {
        let told = deeper.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = deeper.source();
    }
    for (label, value) in error.facts() {
        if value.len() < REPEATED_BYTES_MIN || !text.contains(value) {
            text = format!("{text}; {label}: {value}");
        }
    }
    match error.reason() {
        Some(why) => format!("{text}; {why}"),
        None => text,
    }
}

/// What was done, and how long it took.
struct Phases {
    clock: Arc<dyn Clock>,
    meter: Arc<Meter>,
    start: Duration,
    last: Duration,
    done: Vec<Phase>,
}

impl Phases {
    fn begin(clock: Arc<dyn Clock>, meter: Arc<Meter>) -> Self {
        let start = clock.elapsed();
        Self { clock, meter, start, last: start, done: Vec::new() }
    }

    /// Ends what has been done since the last phase ended.
    fn end(&mut self, name: &str, bytes: Option<u64>) {
        let took = self.clock.elapsed().saturating_sub(self.last);
        self.add(name, took, bytes);
    }

    /// Ends what was being done when it went wrong.
    fn end_broken(&mut self) {
        let phase = self.meter.read().phase;
        self.end(phase, None);
    }

    /// Adds a phase that took so long.
    fn add(&mut self, name: &str, took: Duration, bytes: Option<u64>) {
        let from = self.last.saturating_sub(self.start);
        self.last += took;
        let milliseconds = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        // From its ends, so that phases add up to the whole.
        let (from_ms, to_ms) = (milliseconds(from), milliseconds(from + took));
        let took_ms = to_ms - from_ms;
        let bytes_per_second = bytes.map(|bytes| bytes.saturating_mul(1000) / took_ms.max(1));
        self.done.push(Phase { name: name.to_owned(), from_ms, took_ms, bytes, bytes_per_second });
    }

    fn total_ms(&self) -> u64 {
        self.done.last().map_or(0, |phase| phase.from_ms + phase.took_ms)
    }
}
