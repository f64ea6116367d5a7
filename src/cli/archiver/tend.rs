//! Archive sets whose time has come, carried out by whoever serves.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, stream::FuturesUnordered};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::watch;

use super::{place::Set, run::Watcher};
use crate::{
    archiver::{Archiving, Limits, RunReport, Shelf},
    cli::{serve::Held, session::Session},
    config::Config,
    coordinator::{state::State, told},
    pipeline::Meter,
    policy::{ArchiveRule, Calendar, Timing},
};

/// How often it is looked whether a set's time has come.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Archives what is due, as long as it is polled. `leads` says whether this process decides.
///
/// The lock of a set keeps two of them from moving the same rows; what one of them leaves, the
/// next one goes on with.
pub(crate) async fn tend(
    session: &Session,
    state: &State,
    leads: impl Fn() -> bool,
    helds: watch::Receiver<Arc<Held>>,
) {
    let mut begun: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    let mut names: Vec<String> = Vec::new();
    loop {
        tokio::select! {
            Some(name) = running.next() => names.retain(|one| *one != name),
            () = session.world.clock.sleep(LOOK_EVERY) => {}
        }
        if !leads() {
            continue;
        }
        let held = Arc::clone(&helds.borrow());
        let config = held.config();
        let now = session.world.clock.now();
        for rule in config.archives.values().filter(|rule| rule.schedule.is_some()) {
            if names.contains(&rule.name) {
                continue;
            }
            match is_due(session, config, rule, begun.get(&rule.name).copied(), now).await {
                Ok(true) => {
                    begun.insert(rule.name.clone(), now);
                    names.push(rule.name.clone());
                    let set = Set { config: config.clone(), rule: rule.clone() };
                    running.push(Box::pin(one(session, state, set)));
                }
                Ok(false) => {}
                Err(error) => {
                    // Told once for each time that is due.
                    begun.insert(rule.name.clone(), now);
                    failed(session, state, &rule.name, &error).await;
                }
            }
        }
    }
}

/// Whether the newest time of a set's calendar came after its newest run.
async fn is_due(
    session: &Session,
    config: &Config,
    rule: &ArchiveRule,
    begun: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<bool> {
    let Some(pattern) = &rule.schedule else { return Ok(false) };
    let timing = Timing { pattern: pattern.clone(), spread: Duration::ZERO };
    let calendar = Calendar::new(&timing, rule.zone.unwrap_or(config.zone)).map_err(|bad| {
        Error::new(ErrorKind::Config, code::CONFIG_VALUE, "read a schedule").caused_by(bad.why)
    })?;
    let Some(due) = calendar.turns(&rule.name).last(now) else { return Ok(false) };
    if begun.is_some_and(|begun| begun >= due) {
        return Ok(false);
    }
    // Another process may have been at it, or this one before it was started anew.
    let set = Set { config: config.clone(), rule: rule.clone() };
    let shelf = Shelf::load(&set.place(session).await?).await?;
    let newest = shelf.runs.last().filter(|run| run.end.is_some());
    Ok(newest.is_none_or(|run| run.end.as_ref().is_none_or(|end| end.at < due)))
}

/// Carries one out, and says how it went; returns its name.
async fn one(session: &Session, state: &State, set: Set) -> String {
    let name = set.rule.name.clone();
    tracing::info!(event = "archive.started", set = name);
    match Box::pin(carry_out(session, &set)).await {
        Ok(report) => {
            let why = report.words();
            let (exported, pruned) = (report.exported_rows, report.pruned_rows);
            let left = report.left_rows;
            tracing::info!(event = "archive.ended", set = name, exported, pruned, left, why);
            let detail = format!("{pruned} rows deleted, {left} left: {why}");
            drop(state.note(&session.user(), "archive.ended", &name, &detail).await);
        }
        Err(error) if error.code() == code::ROWS_LOCKED => {
            tracing::info!(event = "archive.busy", set = name);
        }
        Err(error) => failed(session, state, &name, &error).await,
    }
    name
}

async fn failed(session: &Session, state: &State, name: &str, error: &Error) {
    let why = told(error);
    tracing::error!(event = "archive.failed", set = name, code = %error.code(), why);
    drop(state.note(&session.user(), "archive.failed", name, &why).await);
}

async fn carry_out(session: &Session, set: &Set) -> Result<RunReport> {
    let place = set.place(session).await?;
    let driver = set.driver(session).await?;
    let gates = set.gates(session, &place).await?;
    let witness = Watcher::new(Arc::new(Meter::default()));
    let archiving = Archiving {
        driver: &*driver,
        place: &place,
        world: &session.world,
        rule: &set.rule,
        gates: &gates,
        limits: Limits::default(),
        witness: &witness,
    };
    Box::pin(archiving.run()).await
}
