//! What must be true of a fleet of real parts once everything has ended: whatever a repository
//! holds is what some server was, whatever a job is said to have made is there, and whatever a
//! promise keeps was kept.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use stillpoint::{
    coordinator::{
        Member, NoticeKind, RestoreJob, Wanted, plan, run, staging_beside,
        state::{Database, Filter, Outcome, Phase, Stage, State},
        windows,
    },
    pipeline::Meter,
    policy::Logs,
    repository::{
        Repository,
        history::{Committed, History},
        store::Dice,
    },
    world::World,
};
use stillpoint_contract::{Overwrite, RestoreExtras};
use stillpoint_sim::Table;

use super::{
    ledger::Line,
    whole::{Remains, Told},
};
use crate::support::{
    ledger::tell,
    session::restore,
    world::{TestClock, world_at},
};

/// A backup of a server that does not say the time has that of a clock that may be so wrong.
const SKEW: TimeDelta = TimeDelta::minutes(5);

/// Restores of moments between backups, of each database from each repository.
const MOMENTS: usize = 4;

/// Judges everything.
pub(super) async fn judge(remains: &Remains, told: &mut Told) -> Result<(), String> {
    let judged = judged(remains, told).await;
    judged.map_err(|wrong| {
        let lines = remains.told.iter().map(|(at, what)| format!("\n  {at} {what}"));
        format!("{wrong}{}", lines.collect::<String>())
    })
}

async fn judged(remains: &Remains, told: &mut Told) -> Result<(), String> {
    remains.ledger.look_at_all();
    if let Some(wrong) = remains.ledger.wrong() {
        return Err(wrong);
    }
    let line: Arc<dyn Database> = Line::to(&remains.ledger, 0, 0);
    let state = State::open(line, Arc::new(Dice::new(1))).await.map_err(|error| tell(&error))?;
    state.prove_audit().await.map_err(|error| format!("{error:?}"))?;
    everybody_heard(remains)?;
    let world = world_at(TestClock::new(), 1);
    let scratch = tempfile::tempdir().unwrap();
    for (name, store) in remains.yard.stores() {
        let opened = Repository::open(world.clone(), store, None, None).await;
        let repository = opened.map_err(|error| format!("{name}: {}", tell(&error)))?;
        let history = repository.history().await.map_err(|error| tell(&error))?;
        for member in remains.fleet.members.values() {
            let place = format!("{} in {name}", member.name);
            let is_own = member.repository == *name;
            let copy = member.policy.copies.iter().find(|rule| rule.to == *name);
            if is_own {
                once_each(&history, member)?;
                made(&state, &history, member).await?;
                kept(&history, member, member.policy.keep.last.max(member.policy.floor))?;
                fresh(&history, member, remains.end)?;
            } else if let Some(rule) = copy {
                told.copies += history.live_of(&member.name).count();
                kept(&history, member, rule.keep.last).map_err(|wrong| format!("copy: {wrong}"))?;
                fresh(&history, member, remains.end).map_err(|wrong| format!("copy: {wrong}"))?;
            }
            let own: Vec<Committed> = history.live_of(&member.name).cloned().collect();
            for committed in &own {
                let read = true_to_life(remains, &repository, committed).await;
                read.map_err(|wrong| format!("{place}: {wrong}"))?;
            }
            told.backups += if is_own { history.commits_of(&member.name).count() } else { 0 };
            told.expired += history.commits_of(&member.name).filter(|one| one.forgotten).count();
            if !own.is_empty() {
                let moments = moments(remains, (&world, &repository), member, scratch.path());
                let moments = moments.await.map_err(|wrong| format!("{place}: {wrong}"))?;
                told.restores += own.len() + moments;
            }
        }
    }
    Ok(())
}

/// Whoever was told of something was told once, and once more that it is over.
fn everybody_heard(remains: &Remains) -> Result<(), String> {
    let mut open: BTreeMap<(String, String), DateTime<Utc>> = BTreeMap::new();
    for one in remains.people.heard() {
        let key = (one.database.clone(), one.class.clone());
        let before = match one.kind {
            NoticeKind::Raised => open.insert(key, one.at),
            NoticeKind::Resolved => open.remove(&key).map_or(Some(one.at), |_| None),
        };
        let near = |(at, what): &(DateTime<Utc>, String)| {
            what.contains("fails over") && (one.at - *at).abs() < TimeDelta::minutes(12)
        };
        if before.is_some() && !remains.told.iter().any(near) {
            return Err(format!("{:?} {} of {} is not new", one.kind, one.class, one.database));
        }
    }
    match open.pop_first() {
        Some(((database, class), at)) => {
            Err(format!("{class} of {database}, told at {at}, is not over in the end"))
        }
        None => Ok(()),
    }
}

/// For one due time there is one backup.
fn once_each(history: &History, member: &Member) -> Result<(), String> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for committed in history.commits_of(&member.name) {
        let Some(task) = committed.commit.task.as_deref() else { continue };
        if let Some(other) = seen.insert(task, &committed.commit.backup) {
            let backup = &committed.commit.backup;
            return Err(format!("{}: {other} and {backup} are both for {task}", member.name));
        }
    }
    Ok(())
}

/// So many of those that were ever there still are.
fn kept(history: &History, member: &Member, least: u32) -> Result<(), String> {
    let committed = history.commits_of(&member.name).count();
    let live = history.live_of(&member.name).count();
    let least = (least as usize).min(committed);
    if live < least {
        return Err(format!("{}: {live} of {committed} backups, not {least}", member.name));
    }
    Ok(())
}

/// The newest backup is as new as its promise says, where there is no log to make up for it.
fn fresh(history: &History, member: &Member, end: DateTime<Utc>) -> Result<(), String> {
    let newest = history.live_of(&member.name).map(|one| one.commit.consistent_time).max();
    let rpo = TimeDelta::from_std(member.policy.rpo).unwrap();
    if member.policy.logs == Logs::Never && newest.is_none_or(|newest| newest + rpo < end) {
        return Err(format!("{}: in the end the newest backup is of {newest:?}", member.name));
    }
    Ok(())
}

/// A job that is said to have succeeded has made something.
async fn made(state: &State, history: &History, member: &Member) -> Result<(), String> {
    let filter = Filter {
        database: Some(member.name.clone()),
        stage: Some(Stage::Ended),
        most: 10_000,
        ..Filter::default()
    };
    for job in state.jobs(&filter).await.map_err(|error| tell(&error))? {
        let is_good = matches!(job.phase, Phase::Ended { outcome: Outcome::Succeeded, .. });
        let due = job.task.due.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let task = format!("{} {due}", job.task.kind);
        let is_backup = ["full", "incremental"].contains(&job.task.kind.as_str());
        if is_good && is_backup && history.made_for(&member.name, Some(&task)).is_none() {
            return Err(format!("{}: there is nothing for {task}", member.name));
        }
    }
    Ok(())
}

/// A backup is what the server was at its position.
async fn true_to_life(
    remains: &Remains,
    repository: &Repository,
    committed: &Committed,
) -> Result<(), String> {
    let backup = &committed.commit.backup;
    let content = restore(repository, committed).await.map_err(|error| tell(&error))?;
    let table = Table::decode(&content["table"]).map_err(|error| tell(&error))?;
    let at = committed.commit.consistent_at.as_ref().ok_or("a backup without a position")?;
    let truth = remains.yard.truth(at);
    let (truth, _) = truth.ok_or_else(|| format!("{backup} is of {at}, which never was"))?;
    if table == truth { Ok(()) } else { Err(format!("{backup} is not what was there at {at}")) }
}

/// The newest moment, and some in between, can be restored, and are what the server was.
async fn moments(
    remains: &Remains,
    (world, repository): (&World, &Repository),
    member: &Member,
    scratch: &Path,
) -> Result<usize, String> {
    let timeline = repository.timeline(&member.name).await.map_err(|error| tell(&error))?;
    let windows = windows(&timeline);
    let dice = Dice::new(remains.end.timestamp().cast_unsigned() ^ windows.len() as u64);
    let mut all = vec![Wanted::Latest];
    for _ in 0..MOMENTS {
        let window = &windows[dice.below(windows.len())];
        let long = (window.to.at - window.from.at).num_seconds().max(1);
        let into = TimeDelta::seconds(dice.below(long as usize).cast_signed() as i64);
        all.push(Wanted::Time(window.from.at + into));
    }
    let engine: Arc<dyn stillpoint_contract::Engine> =
        Arc::<stillpoint_sim::SimEngine>::clone(&remains.yard.engine);
    let engines = [engine];
    let count = all.len();
    for (number, wanted) in all.into_iter().enumerate() {
        let moment = format!("{wanted:?}");
        let target = scratch.join(format!("{}-{number}", member.name));
        let job = RestoreJob {
            engines: &engines,
            database: &member.name,
            wanted,
            target: &target,
            overwrite: Overwrite::Replace,
            extras: RestoreExtras::default(),
        };
        let done = async {
            let staging = staging_beside(world, &target)?;
            let resolved = plan(repository, &job, &staging).await?;
            run(world, repository, &resolved, &Arc::new(Meter::default())).await
        };
        let report = done.await.map_err(|error| format!("{moment}: {}", tell(&error)))?;
        let table = Table::decode(&std::fs::read(&target).unwrap()).map_err(|e| tell(&e))?;
        let at = report.reached.position.ok_or("a restore without a position")?;
        let truth = remains.yard.truth(&at);
        let (truth, since) = truth.ok_or_else(|| format!("{moment}: {at} never was"))?;
        if table != truth {
            return Err(format!("{moment}: the server was not that at {at}"));
        }
        if let Wanted::Time(asked) = job.wanted
            && asked + SKEW < since
        {
            return Err(format!("{moment}: {at} came later, at {since}"));
        }
    }
    Ok(count)
}
