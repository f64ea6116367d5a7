//! What is due is settled: each due time becomes a job in the queue, or is left out for a reason.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    fleet::{Fleet, Member},
    run::{Coordinator, spaced},
    standing::Standing,
};
use crate::{
    coordinator::state::{
        self, Filter, Mark, Marked, Phase, Settling, Skipped, Stage, State, Task, Tried,
    },
    policy::{
        Attempt, Decision, Facts, Fate, Kind, Need, Outcome, Pause, Reach, Schedule, Step, Why,
        rank,
    },
};

/// The newest jobs of a database that decisions rest on.
const JOBS_MAX: u32 = 32;

/// Until when every due time of each database and kind is settled, as this coordinator knows.
pub(super) type Looked = BTreeMap<(String, String), DateTime<Utc>>;

/// What people said of databases.
pub(super) struct Said(BTreeMap<String, Vec<Pause>>);

impl Said {
    pub(super) fn new(marks: &[Marked]) -> Self {
        let mut pauses: BTreeMap<String, Vec<Pause>> = BTreeMap::new();
        for marked in marks.iter().filter(|marked| matches!(marked.mark, Mark::Paused { .. })) {
            let pause = Pause { since: marked.since, until: marked.until };
            pauses.entry(marked.database.clone()).or_default().push(pause);
        }
        Self(pauses)
    }

    pub(super) fn pauses(&self, database: &str) -> &[Pause] {
        self.0.get(database).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Coordinator {
    /// A backup was made for the need, and it is there all the same: in another repository, or it
    /// is gone. Then it is a need of now, since for one due time one backup is made.
    async fn need_again(
        &self,
        fleet: &Fleet,
        member: &Member,
        standing: Standing,
    ) -> Result<Standing> {
        let filter = Filter {
            database: Some(member.name.clone()),
            kind: Some(Kind::Full.name().to_owned()),
            stage: Some(Stage::Ended),
            most: JOBS_MAX,
            ..Filter::default()
        };
        let jobs = self.state.jobs(&filter).await?;
        let is_done = |need: Need| {
            jobs.iter().any(|job| {
                let is_good =
                    matches!(job.phase, Phase::Ended { outcome: state::Outcome::Succeeded, .. });
                is_good && since(need) <= job.task.due
            })
        };
        if !standing.need.is_some_and(is_done) {
            return Ok(standing);
        }
        let mut standing = self.standing_now(fleet, member).await?;
        standing.need = member.need(&standing).or(standing.need);
        let now = self.world.clock.now();
        standing.need = standing.need.map(|need| match need {
            need if !is_done(need) => need,
            Need::First(_) => Need::First(now),
            Need::Gap(_) => Need::Gap(now),
        });
        Ok(standing)
    }

    /// Settles what is due for a database. Says when to look again.
    pub(super) async fn look(
        &self,
        fleet: &Fleet,
        member: &Member,
        (said, looked): (&Said, &mut Looked),
    ) -> Result<DateTime<Utc>> {
        if member.is_observed {
            return Ok(self.world.clock.now() + spaced(self.rhythm.look, fleet));
        }
        let tried = self.state.attempts(&member.name, JOBS_MAX).await?;
        let mut standing = self.standing(fleet, member).await?;
        standing.need = member.need(&standing).or(standing.need);
        if standing.need.is_some() {
            standing = self.need_again(fleet, member, standing).await?;
        }
        self.ask_about(member, &standing);
        let mut attempts = attempts(&tried);
        member.excuse(&mut attempts);
        let own = |kind: Kind| (member.name.clone(), kind.name().to_owned());
        let settled =
            Kind::ALL.into_iter().filter_map(|kind| Some((kind, *looked.get(&own(kind))?)));
        let facts = Facts {
            database: &member.name,
            state: member.state,
            since: member.since,
            looked: &settled.collect(),
            pauses: said.pauses(&member.name),
            attempts: &attempts,
            need: standing.need,
        };
        let schedule = Schedule::new(&member.policy)
            .map_err(|bad| Error::bug("use a schedule that was checked").caused_by(bad.why))?;
        let now = self.world.clock.now();
        let mut again = now + spaced(self.rhythm.look, fleet);
        let mut all = Vec::new();
        for (kind, decision) in schedule.decide(&facts, now) {
            let task = match decision.step {
                Step::Run { due, why } => {
                    let task = task(member, &standing, (kind, due, why), now);
                    let (agent, site) = fleet.doer(member, kind);
                    Some(Task { agent: agent.to_owned(), site: site.to_owned(), ..task })
                }
                Step::Wait { until, .. } => {
                    again = again.min(until.unwrap_or(again));
                    None
                }
            };
            // What is due while there is no endpoint stays so until there is one.
            if task.is_some() && member.is_absent() && kind != Kind::Drill {
                continue;
            }
            // An instant until which nothing was due need not be written down.
            if task.is_some() || !decision.settled.is_empty() {
                let from = looked.get(&own(kind)).copied();
                all.push(settling(member, kind, (from, &decision), task));
            }
        }
        if !all.is_empty() {
            let done = self.state.settle(&all, &self.worker).await?;
            for (one, done) in all.into_iter().zip(done) {
                if !done {
                    // Somebody else has gone on: what is known here does not hold any more.
                    *looked = self.state.all_looked().await?;
                    return Ok(now);
                }
                for skipped in one.skipped {
                    *self.shared.tally().missed.entry(skipped.reason).or_default() += 1;
                }
                looked.insert((one.database, one.kind), one.until);
            }
        }
        Ok(again.max(now))
    }
}

/// What is decided about one kind of one database.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The kind.
    pub kind: Kind,
    /// What is settled by it, and what comes next.
    pub decision: Decision,
    /// When something of this kind is due next by its calendar, whatever stands against it.
    pub next: Option<DateTime<Utc>>,
    /// How much later than its calendar says this database comes, by its place in the spread.
    pub offset_seconds: i64,
}

/// What would be decided about a database, for whoever asks why. Nothing is settled by it.
///
/// # Errors
///
/// What keeps the state database from being used.
pub async fn decided(
    state: &State,
    member: &Member,
    standing: &Standing,
    now: DateTime<Utc>,
) -> Result<Vec<Decided>> {
    let schedule = Schedule::new(&member.policy)
        .map_err(|bad| Error::bug("use a schedule that was checked").caused_by(bad.why))?;
    let said = Said::new(&state.marks().await?);
    let mut attempts = attempts(&state.attempts(&member.name, JOBS_MAX).await?);
    member.excuse(&mut attempts);
    let mut looked = BTreeMap::new();
    for kind in Kind::ALL {
        if let Some(until) = state.looked(&member.name, kind.name()).await? {
            looked.insert(kind, until);
        }
    }
    let facts = Facts {
        database: &member.name,
        state: member.state,
        since: member.since,
        looked: &looked,
        pauses: said.pauses(&member.name),
        attempts: &attempts,
        need: member.need(standing).or(standing.need),
    };
    let decided = schedule.decide(&facts, now).into_iter().map(|(kind, decision)| Decided {
        kind,
        decision,
        next: schedule.next(kind, &facts, now),
        offset_seconds: schedule.offset(kind, &member.name).num_seconds(),
    });
    Ok(decided.collect())
}

/// When a need is since.
fn since(need: Need) -> DateTime<Utc> {
    match need {
        Need::First(since) | Need::Gap(since) => since,
    }
}

fn settling(
    member: &Member,
    kind: Kind,
    (from, decision): (Option<DateTime<Utc>>, &Decision),
    task: Option<Task>,
) -> Settling {
    let skipped = decision.settled.iter().filter_map(|settled| match settled.fate {
        Fate::Skipped(skip) => Some(Skipped {
            kind: kind.name().to_owned(),
            due: settled.due,
            reason: skip.code().to_owned(),
        }),
        Fate::Run | Fate::Coalesced(_) => None,
    });
    Settling {
        database: member.name.clone(),
        kind: kind.name().to_owned(),
        from,
        until: decision.looked,
        skipped: skipped.collect(),
        tasks: task.into_iter().collect(),
    }
}

fn task(
    member: &Member,
    standing: &Standing,
    (kind, due, why): (Kind, DateTime<Utc>, Why),
    now: DateTime<Utc>,
) -> Task {
    let reach = Reach { state: member.state, since: member.since, coverage: &standing.coverage };
    let age = reach.freshness(&member.policy, now).map_or(TimeDelta::zero(), |fresh| fresh.age);
    Task {
        database: member.name.clone(),
        kind: kind.name().to_owned(),
        due,
        why: why.code().to_owned(),
        repository: member.repository.clone(),
        host: member.host().to_owned(),
        rank: rank(&member.policy, age),
        rpo: member.policy.rpo,
        agent: String::new(),
        site: String::new(),
    }
}

/// Attempts, the newest first, as decisions see them. A worker that goes away says nothing about
/// the database; a second one in a row may have been taken along by the job.
fn attempts(tried: &[Tried]) -> Vec<Attempt> {
    let is_lost = |one: &Tried| matches!(one.ended, Some((_, state::Outcome::Lost)));
    let attempt = |(place, one): (usize, &Tried)| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == one.kind)?;
        let before = tried[place + 1..].iter().find(|before| before.kind == one.kind);
        let ended = one.ended.map(|(at, outcome)| match outcome {
            _ if is_lost(one) && before.is_some_and(is_lost) => (at, Outcome::Failed),
            outcome => (at, outcome_of(outcome)),
        });
        let begun = one.started.or(ended.map(|(at, _)| at)).unwrap_or(one.due);
        Some(Attempt { kind, due: one.due, started_at: begun, ended })
    };
    tried.iter().enumerate().filter_map(attempt).collect()
}

fn outcome_of(outcome: state::Outcome) -> Outcome {
    match outcome {
        state::Outcome::Succeeded => Outcome::Succeeded,
        state::Outcome::Failed => Outcome::Failed,
        // Its worker went away, which says nothing about the database.
        state::Outcome::Superseded | state::Outcome::Deferred | state::Outcome::Lost => {
            Outcome::Superseded
        }
        state::Outcome::Cancelled => Outcome::Cancelled,
    }
}
