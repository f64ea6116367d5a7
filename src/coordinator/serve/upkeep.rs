//! Once a day, each repository gives up what no promise keeps, and frees the space.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    evaluate::Looked,
    fleet::{Fleet, Member},
    run::Coordinator,
};
use crate::{
    coordinator::state::{Settling, Task},
    pipeline::Meter,
    policy::Rules,
    repository::{CollectOptions, Holdings, Repository, history::Committed},
};

/// What such a job is called in the queue, under the name of its repository.
pub(super) const UPKEEP: &str = "upkeep";

/// How often a repository is looked after.
const PERIOD: TimeDelta = TimeDelta::days(1);

/// So many days of ended jobs are remembered.
const HISTORY_DAYS: i32 = 30;

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

impl Coordinator {
    /// Puts the upkeep of each repository into the queue, once a period.
    pub(super) async fn settle_upkeep(&self, fleet: &Fleet, looked: &mut Looked) -> Result<()> {
        let now = self.world.clock.now();
        for name in fleet.repositories.keys() {
            let key = (name.clone(), UPKEEP.to_owned());
            let from = looked.get(&key).copied();
            if from.is_some_and(|from| now < from + PERIOD) {
                continue;
            }
            let task = Task {
                database: name.clone(),
                kind: UPKEEP.to_owned(),
                due: now,
                why: "calendar".to_owned(),
                repository: name.clone(),
                host: String::new(),
                rank: 0,
            };
            let one = Settling {
                database: name.clone(),
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

    /// Looks after one repository. Says what was done.
    pub(super) async fn upkeep(
        &self,
        fleet: &Fleet,
        name: &str,
        meter: &Arc<Meter>,
    ) -> Result<String> {
        let repository = fleet.repositories.get(name);
        let repository = repository.ok_or_else(|| Error::bug("find the repository of a job"))?;
        let mut expired = 0;
        for member in fleet.members.values().filter(|member| member.repository == name) {
            meter.begin("expire", 0);
            let forgotten = expire(repository, member, self.world.clock.now()).await?;
            for committed in &forgotten {
                let (database, backup) = (&member.name, &committed.commit.backup);
                tracing::info!(event = "backup.expired", database, backup);
                let detail = format!("{backup} is not kept by policy {}", member.policy.name);
                self.state.note(&self.worker, "backup.expired", database, &detail).await?;
            }
            expired += forgotten.len();
            if !forgotten.is_empty() {
                self.shared.change(&member.name);
            }
        }
        let freed = repository.collect(CollectOptions::default(), meter).await?;
        let pruned = self.state.prune(self.world.clock.now() - PERIOD * HISTORY_DAYS).await?;
        Ok(format!(
            "{expired} backups expired, {} bytes freed, {pruned} old jobs forgotten",
            freed.swept.1
        ))
    }
}
