//! Jobs are done: whatever a claim says, until it is done, fails, stalls or is somebody else's.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use stillpoint_contract::{Error, ErrorKind, Result};

use super::{
    copies::COPY,
    fleet::{Fleet, Member},
    run::Coordinator,
    upkeep::UPKEEP,
};
use crate::{
    coordinator::{
        BackupJob, DrillJob, Expectation, Wanted, back_up, draw, drill, engine_of,
        state::{Claim, Outcome},
    },
    pipeline::Meter,
    policy::{DrillPoint, Kind},
    repository::{Repository, WriteOptions},
};

/// How often a job says how far it is.
const REPORT_PERIOD: Duration = Duration::from_secs(5);

/// What a drill does between two signs of progress, such as replaying log, may take so much longer
/// than the steps of a backup.
const DRILL_PATIENCE: u32 = 16;

/// How a job ended.
pub(super) struct Ending {
    pub outcome: Outcome,
    pub reason: String,
}

impl Ending {
    pub(super) fn succeeded(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Succeeded, reason: reason.into() }
    }

    pub(super) fn failed(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, reason: reason.into() }
    }

    pub(super) fn superseded(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Superseded, reason: reason.into() }
    }

    fn of(error: &Error) -> Self {
        Self::failed(told(error))
    }
}

/// An error in one line: its code, what it is about, and why.
pub fn told(error: &Error) -> String {
    let mut text = format!("{}: {error}", error.code());
    for (label, value) in error.facts() {
        text = format!("{text}, {label} {value}");
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Coordinator {
    /// Does one job, and notes how it ended.
    pub(super) async fn work(&self, fleet: &Fleet, claim: &Claim) {
        let meter = Arc::new(Meter::default());
        let patience = fleet.members.get(&claim.task.database).map(|member| {
            let is_drill = claim.task.kind == Kind::Drill.name();
            member.policy.stall * if is_drill { DRILL_PATIENCE } else { 1 }
        });
        let ending = tokio::select! {
            biased;
            done = Box::pin(self.perform(fleet, claim, &meter)) => {
                done.unwrap_or_else(|error| Ending::of(&error))
            }
            ending = self.attend(claim, &meter, patience) => ending,
            () = self.dropped() => Ending::superseded("the coordinator ends"),
        };
        let Ending { outcome, reason } = ending;
        let (job, database, kind) = (&claim.job, &claim.task.database, &claim.task.kind);
        let word = outcome.word();
        if outcome == Outcome::Failed {
            tracing::warn!(event = "job.ended", job, database, kind, word, reason);
        } else {
            tracing::info!(event = "job.ended", job, database, kind, word, reason);
        }
        // As long as that is not noted, nothing else is begun for the database.
        while let Err(error) = self.state.finish(claim, outcome, &reason).await {
            tracing::warn!(event = "job.unheard", job, "could not note how a job ended: {error}");
            if error.kind() == ErrorKind::Fenced {
                // Whoever took it over notes what becomes of it.
                return;
            }
            tokio::select! {
                () = self.world.clock.sleep(REPORT_PERIOD) => {}
                () = self.dropped() => return,
            }
        }
    }

    /// Says how far the job is. Ends when it is to be given up.
    async fn attend(&self, claim: &Claim, meter: &Meter, patience: Option<Duration>) -> Ending {
        let clock = &self.world.clock;
        let mut last = meter.read();
        let mut moved_at = clock.elapsed();
        loop {
            clock.sleep(REPORT_PERIOD).await;
            let reading = meter.read();
            if reading != last {
                (last, moved_at) = (reading, clock.elapsed());
            }
            let idle = clock.elapsed().saturating_sub(moved_at);
            if let Some(patience) = patience.filter(|patience| *patience <= idle) {
                let minutes = patience.as_secs() / 60;
                let phase = if last.phase.is_empty() { "connect" } else { last.phase };
                return Ending::failed(format!("no progress in {minutes} min ({phase})"));
            }
            match self.state.progress(claim, reading.done_bytes.max(reading.stored_bytes)).await {
                Err(error) if error.kind() == ErrorKind::Fenced => {
                    return Ending::failed(told(&error));
                }
                // What is made of it is fenced by the repository.
                Err(error) => tracing::warn!(event = "state.unreachable", "{error}"),
                Ok(()) => {}
            }
        }
    }

    async fn perform(&self, fleet: &Fleet, claim: &Claim, meter: &Arc<Meter>) -> Result<Ending> {
        let task = &claim.task;
        if task.kind == UPKEEP {
            return self.upkeep(fleet, &task.repository, meter).await;
        }
        let Some(member) = fleet.members.get(&task.database) else {
            // Another coordinator may know it already.
            return Ok(Ending::superseded("it is not configured here"));
        };
        if let Some(end) = member.policy.closed_until(self.world.clock.now()) {
            return Ok(Ending::superseded(format!("a blackout lasts until {}", stamp(end))));
        }
        if let Some(copy) = task.kind.strip_prefix(COPY) {
            return Box::pin(self.copy(fleet, member, copy, meter)).await;
        }
        match Kind::ALL.into_iter().find(|kind| kind.name() == task.kind) {
            Some(Kind::Drill) => self.rehearse(member, fleet.drilled(member)?, meter).await,
            Some(kind) => {
                let repository = fleet.repository(member)?;
                let task = format!("{} {}", task.kind, stamp(task.due));
                self.back_up(member, repository, (kind, &task), meter).await
            }
            None => Err(Error::bug("do a job of an unknown kind").with("kind", &task.kind)),
        }
    }

    /// Backs up, reads back what was stored, and writes down whether it is as it was.
    async fn back_up(
        &self,
        member: &Member,
        repository: &Repository,
        (kind, task): (Kind, &str),
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let place = member.place()?;
        // An attempt that was lost may have come to its end all the same.
        let made = {
            let history = repository.history().await?;
            history.made_for(&member.name, Some(task)).cloned()
        };
        let (committed, told) = if let Some(made) = made {
            let told = format!("backup {}, by an earlier attempt", made.commit.backup);
            (made, told)
        } else {
            let job = BackupJob {
                engine: &*place.engine,
                endpoint: &place.endpoint,
                database: &member.name,
                full: kind == Kind::Full,
                new_incarnation: false,
                streams_max: place.streams_max,
                options: WriteOptions::default(),
                task: Some(task),
            };
            let report = back_up(&self.world, repository, job, meter).await?;
            let commit = &report.committed.commit;
            let told = format!("backup {}, {} bytes stored", commit.backup, commit.stored_bytes);
            (report.committed, told)
        };
        meter.begin("verify", committed.commit.size_bytes);
        let report = repository.verify_backup(&committed, meter).await?;
        repository.prove(&committed, &report).await?;
        Ok(match report.problems.first() {
            None => Ending::succeeded(told),
            Some(first) => {
                let count = report.problems.len();
                let problem = format!("{}: {}", first.object, first.what);
                Ending::failed(format!("{told}, which is damaged in {count} places: {problem}"))
            }
        })
    }

    /// Rehearses a restore, and keeps the evidence.
    async fn rehearse(
        &self,
        member: &Member,
        repository: &Repository,
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let rehearsal = &self.rehearsal;
        let rule = member.policy.drill.as_ref();
        let is_random = rule.is_none_or(|rule| rule.point == DrillPoint::Random);
        let (wanted, asked) = if is_random {
            let timeline = repository.timeline(&member.name).await?;
            let engine = engine_of(&rehearsal.engines, &timeline)?;
            let at = draw(repository, &timeline, &*engine, &*self.world.entropy).await?;
            (Wanted::Time(at), stamp(at))
        } else {
            (Wanted::Latest, "latest".to_owned())
        };
        let checks = rule.map(|rule| rule.checks.as_slice()).unwrap_or_default();
        let expectation = |(sql, expected): &(String, String)| Expectation {
            sql: sql.clone(),
            expected: expected.clone(),
        };
        let expectations: Vec<_> = checks.iter().map(expectation).collect();
        let job = DrillJob {
            engines: &rehearsal.engines,
            database: &member.name,
            wanted,
            asked: &asked,
            is_random,
            expectations: &expectations,
            inside: None,
            scratch: &rehearsal.scratch,
            way: rehearsal.way,
            started_by: &self.place,
        };
        let mut record = Box::pin(drill(&self.world, repository, &job, meter)).await?;
        if let Some(from) = rule.and_then(|rule| rule.from.as_ref()) {
            let place = repository.location();
            record.notes.push(format!("restored from copy {from} ({place})"));
        }
        let page = (rehearsal.page)(&record);
        repository.keep_drill(&record, &page).await?;
        let told = format!("drill {} of {asked}", record.drill);
        Ok(if record.passed {
            Ending::succeeded(told)
        } else {
            Ending::failed(format!("{told}: {}", record.causes.join("; ")))
        })
    }
}

/// A time, exactly.
pub(super) fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
