//! Jobs are done: whatever a claim says, until it is done, fails, stalls or is somebody else's.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use stillpoint_contract::{Error, ErrorKind, Result};
use tokio::sync::watch;

use super::{
    agent::Report,
    copies::COPY,
    fleet::Fleet,
    hands::{BackupTask, Ending},
    run::Coordinator,
    upkeep::UPKEEP,
};
use crate::{
    coordinator::state::{Claim, Outcome},
    pipeline::Meter,
    policy::Kind,
};

/// What a drill does between two signs of progress, such as replaying log, may take so much longer
/// than the steps of a backup.
const DRILL_PATIENCE: u32 = 16;

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
    pub(super) async fn work(
        &self,
        fleets: &watch::Receiver<Arc<Fleet>>,
        fleet: &Fleet,
        claim: &Claim,
    ) -> Outcome {
        let meter = Arc::new(Meter::default());
        let began_at = self.world.clock.elapsed();
        let place = fleet.members.get(&claim.task.database).and_then(|one| one.place.as_ref());
        let is_planned = Kind::ALL.iter().any(|kind| kind.name() == claim.task.kind);
        if is_planned && claim.attempt == 1 {
            let late = (self.world.clock.now() - claim.task.due).to_std().unwrap_or_default();
            self.shared.tally().lateness.add(late);
        }
        let patience = fleet.members.get(&claim.task.database).map(|member| {
            let is_drill = claim.task.kind == Kind::Drill.name();
            member.policy.stall * if is_drill { DRILL_PATIENCE } else { 1 }
        });
        let ending = tokio::select! {
            biased;
            done = Box::pin(self.perform(fleet, claim, &meter)) => match done {
                Ok(ending) => ending,
                Err(error) => self.broken_off(fleets, fleet, claim, &error).await,
            },
            why = fleet.is_displaced(fleets, claim) => Ending::superseded(why),
            ending = self.attend(claim, &meter, patience) => ending,
            () = self.dropped() => Ending::superseded("the coordinator ends"),
        };
        let Ending { outcome, reason, damaged } = ending;
        let engine = place.map_or("", |place| place.engine.name());
        let took = self.world.clock.elapsed().saturating_sub(began_at);
        self.shared.tally().damaged += damaged;
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
                return Outcome::Lost;
            }
            tokio::select! {
                biased;
                () = self.world.clock.sleep(self.rhythm.report) => {}
                () = self.dropped() => return outcome,
            }
        }
        // What somebody else took over is counted there.
        self.shared.tally().ended((kind, engine), outcome, took);
        outcome
    }

    /// Says how far the job is. Ends when it is to be given up.
    async fn attend(&self, claim: &Claim, meter: &Meter, patience: Option<Duration>) -> Ending {
        let clock = &self.world.clock;
        let mut last = meter.read();
        let mut moved_at = clock.elapsed();
        loop {
            clock.sleep(self.rhythm.report).await;
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
        if member.is_observed {
            return Ok(Ending::superseded("it is only observed"));
        }
        let is_backup = [Kind::Full, Kind::Incremental].iter().any(|kind| kind.name() == task.kind);
        if member.is_absent() && is_backup {
            return Ok(Ending::superseded("there is no endpoint; it is begun when there is one"));
        }
        if let Some(end) = member.policy.closed_until(self.world.clock.now()) {
            return Ok(Ending::superseded(format!("a blackout lasts until {}", stamp(end))));
        }
        if let Some(copy) = task.kind.strip_prefix(COPY) {
            return Box::pin(self.copy(fleet, member, copy, meter)).await;
        }
        match Kind::ALL.into_iter().find(|kind| kind.name() == task.kind) {
            Some(Kind::Drill) => self.hands.rehearse(fleet, member, meter).await,
            Some(kind) => {
                let task = BackupTask { kind, due: format!("{} {}", task.kind, stamp(task.due)) };
                let ending = self.hands.back_up(fleet, member, task, meter).await?;
                // Whoever cannot ask the repository later has to know of it.
                if let Ok(standing) = self.standing_now(fleet, member).await {
                    let remembered = self.remember(member, &standing).await;
                    let told = self.report(&member.name, &Report::of(member, standing)).await;
                    if let Err(error) = remembered.and(told) {
                        tracing::warn!(event = "state.unreachable", "{error}");
                    }
                }
                Ok(ending)
            }
            None => Err(Error::bug("do a job of an unknown kind").with("kind", &task.kind)),
        }
    }
}

/// A time, exactly.
pub(super) fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
