//! Copies are made: whoever leads looks what each lacks, has backups copied as jobs of the queue,
//! and copies log itself, bit by bit. Those that are bound to a site are looked after there.
//!
//! Nothing is queued that could be lost: what lacks is found again by the next look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, Result};
use tokio::sync::watch;

use super::{
    fleet::{Fleet, Member},
    hands::Ending,
    run::{Coordinator, Wakes, is_true},
    sites::{Charge, CopySaid},
    standing::{Drills, Standing},
    work::told,
};
use crate::{
    coordinator::{
        CopyReport, CopyStanding, Copying, Delivery, HandOff, Outbox, Terms,
        state::{Filter, Outcome, Phase, Site, Stage, Task},
    },
    pipeline::Meter,
    policy::{BACKOFF_FIRST, BACKOFF_MAX, CopyRule, CopyState, Reach, rank},
    repository::{Holdings, Pace, Repository, history::Committed},
    world::World,
};

/// What such a job is called in the queue, before the name of the copy.
pub(super) const COPY: &str = "copy ";

/// Copies that are looked at, or get log, at once.
const TOGETHER: usize = 4;

/// A copy is looked at, and gets the log that it lacks, so often at least.
pub(in crate::coordinator) const LOOK_AGAIN: TimeDelta = TimeDelta::minutes(1);

/// After something about it has changed, this long after the last look.
const LOOK_AFTER_CHANGE: TimeDelta = TimeDelta::seconds(5);

/// One that cannot be looked at is tried again after so long.
const LOOK_AFTER_ERROR: TimeDelta = TimeDelta::seconds(30);

/// Newest jobs of a copy that are asked how they ended.
const JOBS_MAX: u32 = 16;

/// What is known of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyKnown {
    /// Its name in the policy.
    pub name: String,
    /// Since when the oldest of what it lacks waits, if it lacks anything.
    pub waiting_since: Option<DateTime<Utc>>,
    /// From when on it could have been copied, by every window, if that is known.
    pub could_since: Option<DateTime<Utc>>,
    /// Backups that it has.
    pub backups: usize,
    /// What they take, in bytes, if that is known.
    pub stored_bytes: Option<u64>,
    /// Backups that it lacks.
    pub lacking_backups: usize,
    /// Segments of log that it lacks.
    pub lacking_segments: usize,
    /// The newest point that can be restored from it.
    pub newest: Option<DateTime<Utc>>,
    /// Backups that were handed over and that nobody has acknowledged; nothing of a repository.
    pub unacknowledged: Option<usize>,
    /// Why it could not be looked at the last time.
    pub problem: Option<String>,
}

impl CopyKnown {
    /// Nothing.
    pub(super) fn blank(rule: &CopyRule) -> Self {
        Self {
            name: rule.name.clone(),
            waiting_since: None,
            could_since: None,
            backups: 0,
            stored_bytes: None,
            lacking_backups: 0,
            lacking_segments: 0,
            newest: None,
            unacknowledged: None,
            problem: None,
        }
    }

    /// What was found out about a copy.
    pub fn of(rule: &CopyRule, looked: Result<CopyStanding>) -> Self {
        let blank = Self::blank(rule);
        match looked {
            Ok(standing) => Self {
                waiting_since: standing.waiting_since,
                could_since: standing.could_since,
                backups: standing.backups,
                stored_bytes: standing.stored_bytes,
                lacking_backups: standing.lacking.len(),
                lacking_segments: standing.log.segments.len(),
                newest: standing.newest,
                unacknowledged: standing.unacknowledged,
                ..blank
            },
            Err(error) => Self { problem: Some(told(&error)), ..blank },
        }
    }

    /// The same for whoever decides what somebody has to know.
    pub fn state(&self) -> CopyState<'_> {
        let Self { name, waiting_since, could_since, problem, .. } = self;
        let (waiting_since, could_since) = (*waiting_since, *could_since);
        CopyState { name, waiting_since, could_since, problem: problem.as_deref() }
    }
}

/// What the loops of a coordinator know of copies.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Of each database, by the copy's name.
    pub known: BTreeMap<String, BTreeMap<String, CopyKnown>>,
    /// Databases that something happened to.
    pub changed: BTreeSet<String>,
    /// How fast each repository may be written to.
    pub paces: BTreeMap<String, Arc<Pace>>,
    /// The drills of each database where a copy is what is drilled.
    pub drills: BTreeMap<String, Drills>,
    /// What workers of their sites say of copies, by database and name.
    pub said: BTreeMap<(String, String), CopySaid>,
    /// What this worker said of copies of its own site, and when.
    pub told: BTreeMap<(String, String), (Duration, CopySaid)>,
    /// The sites that anything is bound to.
    pub sites: BTreeMap<String, Site>,
    /// Whether this worker looks after copies of its own site.
    pub keeps: bool,
}

impl Fleet {
    /// A copy of a member, if both of its ends are open.
    ///
    /// # Errors
    ///
    /// [`Transient`](stillpoint_contract::ErrorKind::Transient) when one is not.
    pub fn delivery<'a>(&'a self, member: &'a Member, rule: &'a CopyRule) -> Result<Delivery<'a>> {
        let Some(outbox) = self.outboxes.get(&rule.to) else {
            return self.copying(member, rule).map(Delivery::Replica);
        };
        let (terms, may_expire) = (self.terms(member, rule)?, self.may_expire);
        Ok(Delivery::HandOff(HandOff { terms, outbox, may_expire }))
    }

    fn terms<'a>(&'a self, member: &'a Member, rule: &'a CopyRule) -> Result<Terms<'a>> {
        Ok(Terms {
            database: &member.name,
            policy: &member.policy,
            rule,
            state: member.state,
            labels: &member.labels,
            source: self.opened(member.policy.source_of(rule, &member.repository))?,
            windows: self.links.get(&rule.to).map_or(&[], |link| &link.windows),
        })
    }

    /// The same, of one in a repository.
    ///
    /// # Errors
    ///
    /// As [`delivery`](Self::delivery).
    pub fn copying<'a>(&'a self, member: &'a Member, rule: &'a CopyRule) -> Result<Copying<'a>> {
        Ok(Copying { terms: self.terms(member, rule)?, target: self.opened(&rule.to)? })
    }

    /// The repository from which restoring a member is rehearsed.
    ///
    /// # Errors
    ///
    /// As [`copying`](Self::copying).
    pub fn drilled(&self, member: &Member) -> Result<&Arc<Repository>> {
        let from = member.policy.drill.as_ref().and_then(|drill| drill.from.as_ref());
        let rule = from.and_then(|from| member.policy.copies.iter().find(|c| c.name == *from));
        match rule {
            Some(rule) => self.opened(&rule.to),
            None => self.repository(member),
        }
    }
}

/// Adds the drills that a copy knows of, where a copy is what is drilled.
///
/// # Errors
///
/// What keeps the copy from being read.
pub async fn add_drills(fleet: &Fleet, member: &Member, standing: &mut Standing) -> Result<()> {
    let is_copy = member.policy.drill.as_ref().is_some_and(|drill| drill.from.is_some());
    if is_copy {
        let history = fleet.drilled(member)?.history().await?;
        standing.add(Drills::of(&history, &member.name));
    }
    Ok(())
}

/// The wake of one copy: no name of a database has a line feed.
pub(super) fn key(database: &str, copy: &str) -> String {
    format!("{database}\n{copy}")
}

impl Coordinator {
    /// What was last found out about the copies of a database.
    pub fn copies_of(&self, database: &str) -> Vec<CopyKnown> {
        let shelf = self.shared.copies();
        shelf.known.get(database).map(|of| of.values().cloned().collect()).unwrap_or_default()
    }

    /// How fast a repository may be written to, shared by all that write there.
    fn pace(&self, fleet: &Fleet, name: &str) -> Arc<Pace> {
        let rate = fleet.links.get(name).and_then(|link| link.bytes_per_second);
        let mut shelf = self.shared.copies();
        match shelf.paces.get(name) {
            Some(known) if known.bytes_per_second() == rate => Arc::clone(known),
            _ => {
                let pace = Arc::new(Pace::new(Arc::clone(&self.world.clock), rate));
                shelf.paces.insert(name.to_owned(), Arc::clone(&pace));
                pace
            }
        }
    }

    /// Looks at every copy that it is in charge of: those of its site as long as it looks after
    /// that, all others as long as it leads.
    pub(super) async fn make_copies(
        &self,
        fleets: watch::Receiver<Arc<Fleet>>,
        stop: watch::Receiver<bool>,
    ) {
        // Whoever looks may have the turn in the state database that is waited for.
        tokio::join!(
            self.hear_of_copies(fleets.clone(), stop.clone()),
            self.look_after_copies(fleets, stop),
        );
    }

    async fn look_after_copies(
        &self,
        mut fleets: watch::Receiver<Arc<Fleet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut fleet = Arc::clone(&fleets.borrow_and_update());
        let mut wakes = self.wakes_of_copies(&fleet);
        let mut running = FuturesUnordered::new();
        let (mut busy, mut changed) = (BTreeSet::<String>::new(), BTreeSet::<String>::new());
        let mut looked: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
        let mut charge = Charge::default();
        loop {
            tokio::select! {
                biased;
                // What is under way can be dropped at any time.
                () = is_true(&mut stop) => return,
                Some((key, again)) = running.next(), if !running.is_empty() => {
                    let key: String = key;
                    busy.remove(&key);
                    looked.insert(key.clone(), self.world.clock.now());
                    wakes.set(key, again);
                }
                () = self.world.clock.sleep(self.rhythm.tick) => {}
            }
            if fleets.has_changed().unwrap_or(false) {
                fleet = Arc::clone(&fleets.borrow_and_update());
                wakes = self.wakes_of_copies(&fleet);
            }
            let next = Charge { leads: self.shared.leads(), keeps: self.shared.copies().keeps };
            if next != charge {
                charge = next;
                wakes = self.wakes_of_copies(&fleet);
            }
            if charge == Charge::default() {
                continue;
            }
            let names = std::mem::take(&mut self.shared.copies().changed);
            for member in names.iter().filter_map(|name| fleet.members.get(name)) {
                let rules = member.policy.copies.iter();
                changed.extend(rules.map(|rule| key(&member.name, &rule.name)));
            }
            // What changes while it is looked at is seen by the next look.
            let settled: Vec<String> = changed.difference(&busy).cloned().collect();
            for key in settled {
                changed.remove(&key);
                let now = self.world.clock.now();
                let soonest = looked.get(&key).map_or(now, |looked| *looked + LOOK_AFTER_CHANGE);
                wakes.set(key, now.max(soonest));
            }
            while running.len() < TOGETHER {
                let Some(key) = wakes.due(self.world.clock.now()) else { break };
                if busy.contains(&key) {
                    wakes.set(key, self.world.clock.now() + LOOK_AFTER_ERROR);
                    continue;
                }
                busy.insert(key.clone());
                let fleet = Arc::clone(&fleet);
                running.push(Box::pin(async move {
                    let again = self.look_after_copy(&fleet, &key, charge).await;
                    (key, again)
                }));
            }
        }
    }

    fn wakes_of_copies(&self, fleet: &Fleet) -> Wakes {
        let mut wakes = Wakes::default();
        for member in fleet.members.values() {
            for rule in &member.policy.copies {
                wakes.set(key(&member.name, &rule.name), self.world.clock.now());
            }
        }
        self.shared.copies().known.retain(|name, _| fleet.members.contains_key(name));
        wakes
    }

    /// Looks at one copy, or at what is said of it. Says when to look again.
    pub(super) async fn look_after_copy(
        &self,
        fleet: &Fleet,
        key: &str,
        charge: Charge,
    ) -> DateTime<Utc> {
        let found = key.split_once('\n').and_then(|(database, copy)| {
            let member = fleet.members.get(database)?;
            Some((member, member.policy.copies.iter().find(|rule| rule.name == copy)?))
        });
        let Some((member, rule)) = found else { return self.world.clock.now() + LOOK_AGAIN };
        let site = rule.site.as_deref();
        let is_own = site.map_or(charge.leads, |_| charge.keeps && self.state.site() == site);
        if !is_own {
            if let Some(site) = site.filter(|_| charge.leads) {
                self.note_said(member, rule, site);
            }
            return self.world.clock.now() + LOOK_AGAIN;
        }
        let again = match self.attend_copy(fleet, member, rule).await {
            Ok(again) => again,
            Err(error) => {
                let (database, copy) = (&member.name, &rule.name);
                tracing::warn!(event = "copy.failed", database, copy, "{}", told(&error));
                self.note_copy(member, CopyKnown::of(rule, Err(error)));
                self.world.clock.now() + LOOK_AFTER_ERROR
            }
        };
        if site.is_some() {
            self.say_copy(member, rule).await;
        }
        again
    }

    /// Remembers what was found out about a copy. One that cannot be looked at is as late as it
    /// was, or begins to be.
    fn note_copy(&self, member: &Member, found: CopyKnown) {
        let mut shelf = self.shared.copies();
        let of = shelf.known.entry(member.name.clone()).or_default();
        let known = match (found.problem.clone(), of.get(&found.name)) {
            (Some(problem), known) => {
                let mut known = known.cloned().unwrap_or(found);
                known.waiting_since = known.waiting_since.or(Some(self.world.clock.now()));
                known.problem = Some(problem);
                known
            }
            (None, _) => found,
        };
        of.insert(known.name.clone(), known);
    }

    async fn attend_copy(
        &self,
        fleet: &Fleet,
        member: &Member,
        rule: &CopyRule,
    ) -> Result<DateTime<Utc>> {
        let delivery = fleet.delivery(member, rule)?;
        let now = self.world.clock.now();
        if let Delivery::HandOff(hand_off) = &delivery
            && !member.is_observed
        {
            self.note_handed(member, rule, &hand_off.expire(&self.world).await?).await?;
        }
        let standing = delivery.look(now).await?;
        let needs_job = standing.needs_job();
        self.note_copy(member, CopyKnown::of(rule, Ok(standing)));
        let is_drilled = member.policy.drill.as_ref().and_then(|drill| drill.from.as_ref());
        if let Some(copying) = delivery.replica().filter(|_| is_drilled == Some(&rule.name)) {
            let history = copying.target.history().await?;
            let drills = Drills::of(&history, &member.name);
            self.shared.copies().drills.insert(member.name.clone(), drills);
        }
        let again = now + LOOK_AGAIN;
        if member.is_observed {
            return Ok(again);
        }
        if !delivery.hours().are_open(now) {
            // What people said, and what is in doubt, waits for no window.
            if let Some(copying) = delivery.replica() {
                copying.learn(&self.world).await?;
            }
            return Ok(delivery.hours().next_open(now).map_or(again, |opens| again.min(opens)));
        }
        if needs_job {
            return self.queue_copy(fleet, member, rule, now).await;
        }
        let Some(copying) = delivery.replica() else { return Ok(again) };
        let pace = self.pace(fleet, &rule.to);
        let meter = Arc::new(Meter::default());
        let report = copying.run_log(&self.world, &pace, &meter).await?;
        if let Some(first) = report.problems.first() {
            let (database, copy, object) = (&member.name, &rule.name, &first.object);
            tracing::warn!(event = "copy.damaged", database, copy, object, what = first.what);
        }
        if report.segments > 0 {
            let found = copying.look(self.world.clock.now()).await;
            self.note_copy(member, CopyKnown::of(rule, found));
        }
        Ok(again)
    }

    /// Tells what was handed over and is gone.
    async fn note_handed(&self, member: &Member, rule: &CopyRule, gone: &[String]) -> Result<()> {
        for backup in gone {
            let (database, copy) = (&member.name, &rule.name);
            tracing::info!(event = "backup.expired", database, copy, backup);
            let detail = format!("{backup} is not kept by copy {copy} any more");
            self.state.note(&self.worker, "backup.expired", database, &detail).await?;
        }
        Ok(())
    }

    /// Puts the copying of backups into the queue, unless it waits there or has just failed. Says
    /// when to look again.
    async fn queue_copy(
        &self,
        fleet: &Fleet,
        member: &Member,
        rule: &CopyRule,
        now: DateTime<Utc>,
    ) -> Result<DateTime<Utc>> {
        let again = now + LOOK_AGAIN;
        if let Some(end) = member.policy.closed_until(now) {
            return Ok(again.min(end));
        }
        let kind = format!("{COPY}{}", rule.name);
        let filter = Filter {
            database: Some(member.name.clone()),
            kind: Some(kind.clone()),
            most: JOBS_MAX,
            ..Filter::default()
        };
        let jobs = self.state.jobs(&filter).await?;
        let ended = jobs.iter().map_while(|job| match &job.phase {
            Phase::Ended { at, outcome, .. } => Some((*at, *outcome)),
            Phase::Waiting | Phase::Running { .. } => None,
        });
        let ended: Vec<_> = ended.collect();
        if !jobs.is_empty() && ended.is_empty() {
            return Ok(again);
        }
        // A job that was in vain is not repeated at once, whatever came of it.
        if let Some((at, outcome)) = ended.first()
            && *outcome != Outcome::Succeeded
            && now < *at + LOOK_AGAIN
        {
            return Ok(*at + LOOK_AGAIN);
        }
        let is_bad = |outcome: Outcome| matches!(outcome, Outcome::Failed | Outcome::Cancelled);
        let failures = ended.iter().take_while(|(_, outcome)| is_bad(*outcome)).count();
        if let Some((at, outcome)) = ended.first().filter(|_| failures > 0) {
            let doubled = 1 << failures.saturating_sub(1).min(10);
            let patience = match outcome {
                Outcome::Cancelled => BACKOFF_MAX,
                _ => (BACKOFF_FIRST * doubled).min(BACKOFF_MAX),
            };
            if now < *at + patience {
                return Ok((*at + patience).min(again));
            }
        }
        let site = rule.site.clone().unwrap_or_default();
        if self.copies_under_way(&site).await? >= (fleet.caps.all as usize / 2).max(1) {
            return Ok(now + LOOK_AFTER_CHANGE);
        }
        let known = self.shared.known(&member.name).map(|(_, standing)| standing);
        let coverage = known.map(|known| known.coverage).unwrap_or_default();
        let reach = Reach { state: member.state, since: member.since, coverage: &coverage };
        let fresh = reach.freshness(&member.policy, now);
        let task = Task {
            database: member.name.clone(),
            kind,
            due: now,
            why: "lacking".to_owned(),
            repository: rule.to.clone(),
            host: String::new(),
            rank: rank(&member.policy, fresh.map_or(TimeDelta::zero(), |fresh| fresh.age)),
            rpo: member.policy.rpo,
            agent: String::new(),
            site,
        };
        self.state.enqueue(&task, &self.worker).await?;
        Ok(again)
    }

    /// Copies that wait or run: they may take long, and leave room for backups. Those that wait for
    /// workers of another site take no room from any.
    async fn copies_under_way(&self, site: &str) -> Result<usize> {
        let mut count = 0;
        for stage in [Stage::Waiting, Stage::Running] {
            let filter = Filter { stage: Some(stage), ..Filter::default() };
            let jobs = self.state.jobs(&filter).await?;
            let copies = jobs.iter().filter(|job| job.task.kind.starts_with(COPY));
            let own = copies.filter(|job| stage == Stage::Running || job.task.site == site);
            count += own.count();
        }
        Ok(count)
    }

    /// Brings to a copy what it lacks.
    pub(super) async fn copy(
        &self,
        fleet: &Fleet,
        member: &Member,
        name: &str,
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let Some(rule) = member.policy.copies.iter().find(|rule| rule.name == name) else {
            return Ok(Ending::superseded("no such copy is configured here"));
        };
        let mut delivery = fleet.delivery(member, rule)?;
        let own;
        if let (Delivery::HandOff(hand_off), Some(scratch)) = (&mut delivery, &self.scratch) {
            own = Outbox { scratch: scratch.clone(), ..hand_off.outbox.clone() };
            hand_off.outbox = &own;
        }
        let pace = self.pace(fleet, &rule.to);
        let report = delivery.run(&self.world, &pace, meter).await?;
        self.note_handed(member, rule, &report.expired).await?;
        let CopyReport { copied, segments, mended, repaired, problems, sent, paused, .. } = report;
        let told = format!(
            "{} backups and {segments} segments copied, {} bytes sent, {} objects mended, {} of \
             the original repaired",
            copied.len(),
            sent.1,
            mended.len(),
            repaired.len()
        );
        for (committed, bytes) in &copied {
            let (database, backup) = (&member.name, &committed.commit.backup);
            tracing::info!(event = "backup.copied", database, copy = name, backup, bytes);
            let detail = format!("{backup} to copy {name}, {bytes} bytes");
            self.state.note(&self.worker, "backup.copied", database, &detail).await?;
        }
        Ok(match (problems.first(), paused) {
            (Some(first), _) => {
                let count = problems.len();
                let what = format!("{}: {}", first.object, first.what);
                Ending::failed(format!("{told}; {count} not copied, for they are damaged: {what}"))
            }
            (None, Some(why)) => Ending::superseded(format!("{told}; paused: could not {why}")),
            (None, None) => Ending::succeeded(told),
        })
    }

    /// Forgets what a copy does not keep, for every database that is copied into a repository.
    pub(super) async fn expire_copies(
        &self,
        fleet: &Fleet,
        name: &str,
        failures: &mut Vec<String>,
    ) -> Result<usize> {
        let mut expired = 0;
        for member in fleet.members.values().filter(|member| !member.is_observed) {
            for rule in member.policy.copies.iter().filter(|rule| rule.to == name) {
                let expired_there = async {
                    let copying = fleet.copying(member, rule).map_err(blind)?;
                    expire_copy(&copying, &self.world).await
                };
                match expired_there.await {
                    Ok(forgotten) => {
                        expired += forgotten.len();
                        let ids = forgotten.into_iter().map(|one| one.commit.backup);
                        self.note_expired(member, &ids.collect::<Vec<_>>()).await?;
                    }
                    Err(error) => failures.push(format!("{}: {}", member.name, told(&error))),
                }
            }
        }
        Ok(expired)
    }
}

/// Forgets whatever of a database a copy does not keep, and lets go log that leads to no point that
/// is kept there. What people said at the source counts, whenever anything was copied last.
///
/// # Errors
///
/// What keeps the copy from being used, or what is held from being known: then nothing expires.
pub async fn expire_copy(copying: &Copying<'_>, world: &World) -> Result<Vec<Committed>> {
    copying.learn(world).await.map_err(blind)?;
    let (target, database, now) = (copying.target, copying.terms.database, world.clock.now());
    let of = format!("policy {}, copy {}", copying.terms.policy.name, copying.terms.rule.name);
    let gone = |holdings: &Holdings| copying.gone(holdings, now);
    let forgotten = target.expire(database, &format!("expired by {of}"), gone).await?;
    let needed = |holdings: &Holdings| copying.log_begin(holdings, now);
    target.trim(database, &format!("kept by {of}"), needed).await?;
    Ok(forgotten)
}

/// Says what follows from not knowing what is held.
fn blind(error: Error) -> Error {
    error.why(
        "what is held, and what happened, is known where the database is copied from: nothing of \
         it expires in the copy until that can be read",
    )
}
