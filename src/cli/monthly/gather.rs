//! What becomes of a month is gathered from the repositories and from the state database.

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    breaches::Known,
    record::{Anchor, BackedUp, Breaches, Copied, Jobs, Month, Promise, Rehearsal},
};
use crate::{
    cli::{
        answer::Stamp,
        open::Opened,
        retention::report::{Kept, Shelf, kept},
        serve::Promises,
    },
    config::Database,
    coordinator::told,
    policy::{Policy, Proof},
    repository::{entry::Drilled, proof_of},
};

/// Everything that was found out.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) known: Known,
    pub(super) databases: Vec<Month>,
    pub(super) repositories: Vec<Anchor>,
    pub(super) problems: Vec<String>,
    /// The first of what could not be looked into.
    pub(super) failure: Option<Error>,
}

/// Gathers it. The month has come to `to`.
pub(super) async fn gather(
    shelf: &mut Shelf<'_>,
    promises: &Promises,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Gathered> {
    let mut gathered = Gathered::default();
    if let Some(state) = &promises.state {
        match Known::read(state, (from, to), shelf.now).await {
            Ok(known) => gathered.known = known,
            Err(error) => gathered.fail(error),
        }
    }
    let (kept, failures) = kept(shelf, promises).await;
    for error in failures {
        gathered.fail(error);
    }
    for (config, database, _) in promises.held.databases(&promises.marks, shelf.now) {
        let Some(policy) = config.policies.get(&database.policy) else { continue };
        let of = |one: &&Kept| one.database == database.name;
        let retention: Vec<Kept> = kept.iter().filter(of).cloned().collect();
        let state = retention.first().map_or("active", |one| one.state);
        let mut month = Month {
            database: database.name.clone(),
            state,
            policy: policy.name.clone(),
            repository: database.repository.clone(),
            promise: Promise {
                rpo_seconds: policy.rpo.as_secs(),
                rto_seconds: policy.rto.map(|rto| rto.as_secs()),
            },
            breaches: gathered.known.breaches(&database.name),
            jobs: gathered.known.jobs(&database.name),
            backups: None,
            drills: None,
            copies: Vec::new(),
            retention,
        };
        month.look(shelf, (database, policy), (from, to)).await?;
        gathered.databases.push(month);
    }
    for (name, repository) in &shelf.open {
        let history = repository.history().await?;
        gathered.repositories.push(Anchor {
            name: name.clone(),
            id: repository.id().to_owned(),
            entries: history.head().seq,
            head: history.head().hash.clone(),
        });
    }
    Ok(gathered)
}

impl Gathered {
    fn fail(&mut self, error: Error) {
        self.problems.push(told(&error));
        self.failure.get_or_insert(error);
    }
}

impl Known {
    fn breaches(&self, database: &str) -> Option<Breaches> {
        let known_from = Stamp(self.alerts_from?);
        let alerts = self.alerts.get(database).cloned().unwrap_or_default();
        Some(Breaches { known_from, alerts })
    }

    fn jobs(&self, database: &str) -> Option<Jobs> {
        let known_from = Stamp(self.jobs_from?);
        let none = || Jobs { known_from, ended: std::collections::BTreeMap::new() };
        Some(self.jobs.get(database).cloned().unwrap_or_else(none))
    }
}

impl Month {
    /// What the repositories say, as far as they could be opened.
    async fn look(
        &mut self,
        shelf: &Shelf<'_>,
        (database, policy): (&Database, &Policy),
        month: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<()> {
        let (from, to) = month;
        let is_in = |at: DateTime<Utc>| from <= at && at < to;
        let own = shelf.open.get(&database.repository);
        if let Some(own) = own {
            let history = own.history().await?;
            let mut made = BackedUp::default();
            for one in history.commits_of(&database.name) {
                let commit = &one.commit;
                if !is_in(commit.finished_at) {
                    continue;
                }
                let proof = proof_of(&history, &commit.backup);
                made.made += 1;
                made.incremental += u64::from(commit.incremental);
                made.full += u64::from(!commit.incremental);
                made.verified += u64::from(proof == Proof::Verified);
                made.suspect += u64::from(proof == Proof::Suspect);
                made.gone += u64::from(one.forgotten);
                made.stored_bytes += commit.stored_bytes;
                made.first = made.first.or(Some(Stamp(commit.consistent_time)));
                made.last = Some(Stamp(commit.consistent_time));
            }
            self.backups = Some(made);
        }
        let mut drills: Vec<Rehearsal> = Vec::new();
        let rehearsed = policy.drill.as_ref().and_then(|drill| drill.from.as_ref());
        let rehearsed = rehearsed.and_then(|name| {
            policy.copies.iter().find(|copy| copy.name == *name).map(|copy| &copy.to)
        });
        let places = std::iter::once(&database.repository).chain(rehearsed);
        let mut is_known = true;
        for place in places {
            let Some(repository) = shelf.open.get(place) else {
                is_known = false;
                continue;
            };
            for drilled in repository.drills(Some(&database.name)).await? {
                // A copy knows of those of the original that found damage in what it has.
                let is_new = drills.iter().all(|known| known.drill != drilled.drill);
                if is_new && is_in(drilled.finished_at) {
                    drills.push(drill(repository, place, drilled, policy).await?);
                }
            }
        }
        self.drills = is_known.then_some(drills);
        for copy in &policy.copies {
            let backups = match shelf.open.get(&copy.to) {
                None => None,
                Some(there) => {
                    let history = there.history().await?;
                    let own = history.live_of(&database.name);
                    Some(own.filter(|one| is_in(one.commit.finished_at)).count() as u64)
                }
            };
            let (name, repository) = (copy.name.clone(), copy.to.clone());
            self.copies.push(Copied { copy: name, repository, backups });
        }
        Ok(())
    }
}

async fn drill(
    repository: &Opened,
    place: &str,
    drilled: Drilled,
    policy: &Policy,
) -> Result<Rehearsal> {
    let (measured, problem) = match repository.drill_record(&drilled).await {
        Ok(record) => ((record.rto_ms, record.rpo_ms), None),
        Err(error) => ((None, None), Some(told(&error))),
    };
    let (rto_ms, rpo_ms) = measured;
    let promised = policy.rto.map(|rto| rto.as_millis());
    Ok(Rehearsal {
        drill: drilled.drill,
        from: place.to_owned(),
        finished_at: Stamp(drilled.finished_at),
        passed: drilled.passed,
        rto_ms,
        in_time: rto_ms.zip(promised).map(|(took, promised)| u128::from(took) <= promised),
        rpo_ms,
        problem,
    })
}
