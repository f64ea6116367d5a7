//! Once a day, each repository gives up what no promise keeps, and frees the space.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::Result;

use super::{
    evaluate::Looked,
    fleet::{Fleet, Member},
    hands::Ending,
    run::Coordinator,
    work::told,
};
use crate::{
    coordinator::state::{Filter, Outcome, Phase, Settling, Task},
    pipeline::Meter,
    policy::Rules,
    repository::{Holdings, Repository, history::Committed},
};

/// What such a job is called in the queue, under the name of its repository.
pub(super) const UPKEEP: &str = "upkeep";

/// How often a repository is looked after.
const PERIOD: TimeDelta = TimeDelta::days(1);

/// How long after a failure it is tried again.
const RETRY: TimeDelta = TimeDelta::hours(1);

/// It is short and rare, and must not starve.
const RANK: u64 = 1_000_000;

/// So many days of ended jobs are remembered.
pub const HISTORY_DAYS: i32 = 30;

/// Forgets whatever of a database's backups no promise keeps, and lets go log that leads to no
/// point that is kept. What is held, or has become the last that can be restored, is not among it,
/// whatever happens meanwhile.
///
/// # Errors
///
/// What keeps the repository from being used.
pub async fn expire(
    repository: &Repository,
    member: &Member,
    now: DateTime<Utc>,
) -> Result<Vec<Committed>> {
    let rules = Rules::of(&member.policy);
    let decide = |holdings: &Holdings| {
        rules.retain(&holdings.clone().about(&member.subjects).stock(member.state), now)
    };
    let policy = &member.policy.name;
    let gone = |holdings: &Holdings| {
        let gone = decide(holdings).verdicts.into_iter().filter(|verdict| !verdict.is_kept());
        gone.map(|verdict| verdict.id).collect()
    };
    let forgotten =
        repository.expire(&member.name, &format!("expired by policy {policy}"), gone).await?;
    let needed = |holdings: &Holdings| decide(holdings).log_begin();
    repository.trim(&member.name, &format!("kept by policy {policy}"), needed).await?;
    Ok(forgotten)
}

impl Fleet {
    /// The names of repositories that are looked after.
    pub(super) fn stores(&self) -> Vec<String> {
        let written = self.members.values().filter(|one| !one.is_observed);
        let names: BTreeSet<&String> = written
            .flat_map(|one| {
                let copies = one.policy.copies.iter().map(|rule| &rule.to);
                std::iter::once(&one.repository).chain(copies)
            })
            .collect();
        // What was handed over is looked after whenever somebody looks what lacks there.
        let is_open = |name: &&String| {
            let is_out_of_reach = self.unopened.contains_key(*name);
            let is_of_others = self.keeper(name).is_some() || self.site_of(name).is_some();
            (!is_out_of_reach || is_of_others) && !self.outboxes.contains_key(*name)
        };
        names.into_iter().filter(is_open).cloned().collect()
    }
}

impl Coordinator {
    /// Puts the upkeep of each repository into the queue, once a period.
    pub(super) async fn settle_upkeep(
        &self,
        fleet: &Fleet,
        stores: &[String],
        looked: &mut Looked,
    ) -> Result<()> {
        let now = self.world.clock.now();
        for name in stores {
            let own = format!("repository {name}");
            let key = (own.clone(), UPKEEP.to_owned());
            let from = looked.get(&key).copied();
            if !self.needs_upkeep(&own, from, now).await? {
                continue;
            }
            let task = Task {
                database: own.clone(),
                kind: UPKEEP.to_owned(),
                due: now,
                why: "calendar".to_owned(),
                repository: name.clone(),
                host: String::new(),
                rank: RANK,
                rpo: Duration::ZERO,
                agent: fleet.keeper(name).unwrap_or_default().to_owned(),
                site: fleet.site_of(name).unwrap_or_default().to_owned(),
            };
            let one = Settling {
                database: own,
                kind: UPKEEP.to_owned(),
                from,
                until: now,
                tasks: vec![task],
                skipped: Vec::new(),
            };
            match self.state.settle(&[one], &self.worker).await?.as_slice() {
                [true] => drop(looked.insert(key, now)),
                _ => *looked = self.state.all_looked().await?,
            }
        }
        Ok(())
    }

    /// Whether a period is over, or the last try failed a while ago.
    async fn needs_upkeep(
        &self,
        own: &str,
        from: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let Some(from) = from.filter(|from| now < *from + PERIOD) else { return Ok(true) };
        if now < from + RETRY {
            return Ok(false);
        }
        let database = Some(own.to_owned());
        let newest = self.state.jobs(&Filter { database, most: 1, ..Filter::default() }).await?;
        Ok(newest.iter().all(|job| match &job.phase {
            Phase::Ended { outcome, .. } => *outcome != Outcome::Succeeded,
            Phase::Waiting | Phase::Running { .. } => false,
        }))
    }

    /// Looks after one repository. Says what was done. What fails for one database keeps none of
    /// the others from it.
    pub(super) async fn upkeep(
        &self,
        fleet: &Fleet,
        name: &str,
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        let (mut expired, mut failures) = (0, Vec::new());
        let own = fleet.members.values().filter(|member| member.repository == name);
        for member in own.filter(|member| fleet.may_expire && !member.is_observed) {
            meter.begin("expire", 0);
            match self.hands.expire(fleet, member, self.world.clock.now()).await {
                Ok(forgotten) => {
                    expired += forgotten.len();
                    self.note_expired(member, &forgotten).await?;
                }
                Err(error) => failures.push(format!("{}: {}", member.name, told(&error))),
            }
        }
        if fleet.may_expire && fleet.repositories.contains_key(name) {
            expired += self.expire_copies(fleet, name, &mut failures).await?;
        }
        let freed = self.hands.collect(fleet, name, meter).await?;
        let pruned = self.state.prune(self.world.clock.now() - PERIOD * HISTORY_DAYS).await?;
        let told =
            format!("{expired} backups expired, {freed} bytes freed, {pruned} old jobs forgotten");
        let waits = if fleet.may_expire { "" } else { "; nothing expires before `apply`" };
        Ok(match failures.as_slice() {
            [] => Ending::succeeded(told + waits),
            [first, ..] => Ending::failed(format!("{told}; {} failed: {first}", failures.len())),
        })
    }

    pub(super) async fn note_expired(&self, member: &Member, forgotten: &[String]) -> Result<()> {
        for backup in forgotten {
            let database = &member.name;
            tracing::info!(event = "backup.expired", database, backup);
            let detail = format!("{backup} is not kept by policy {}", member.policy.name);
            self.state.note(&self.worker, "backup.expired", database, &detail).await?;
        }
        if !forgotten.is_empty() {
            self.shared.change(&member.name);
        }
        Ok(())
    }
}
