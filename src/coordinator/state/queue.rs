//! The queue: what waits, what runs, and who has it.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    audit::{Deed, note},
    database::{Row, Transaction, Value, told},
    model::{Claim, Outcome, Scope, Task, task},
    store::State,
    workers::{alive, micros},
};
use crate::policy::RANK_PER_RPO;

/// Why a job ended, for people.
const REASON_BYTES_MAX: usize = 4 << 10;

/// No rank is larger when it is queued, so that it can grow.
const RANK_MAX: i64 = 1 << 60;

impl State {
    /// Puts an attempt at a task into the queue, unless one waits or runs, or one succeeded.
    /// Returns its id.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here. After one that is
    /// transient the same call may be made again, whatever became of the first.
    pub async fn enqueue(&self, task: &Task, who: &str) -> Result<Option<String>> {
        let mut open = self.database.begin().await?;
        let id = self.put(&mut *open, task, who).await?;
        open.commit().await?;
        Ok(id)
    }

    /// As [`enqueue`](Self::enqueue), in a transaction that does more.
    pub(super) async fn put(
        &self,
        open: &mut dyn Transaction,
        task: &Task,
        who: &str,
    ) -> Result<Option<String>> {
        let same = "SELECT attempt, state, outcome FROM job
             WHERE name = $1 AND kind = $2 AND due = $3 ORDER BY attempt DESC LIMIT 1";
        let key = [
            Value::from(task.database.as_str()),
            Value::from(task.kind.as_str()),
            Value::from(task.due),
        ];
        let attempt = match open.run(same, &key).await?.first() {
            None => 1,
            Some(row) if row.text(1)? != "ended" => return Ok(None),
            Some(row) if row.maybe_text(2)? == Some(Outcome::Succeeded.word()) => return Ok(None),
            Some(row) => row.number(0)? + 1,
        };
        let id = self.new_id(open.now());
        let [name, kind, due] = key;
        let values = [
            Value::from(id.as_str()),
            name,
            kind,
            due,
            Value::from(attempt),
            Value::from(task.why.as_str()),
            Value::from(task.repository.as_str()),
            Value::from(task.host.as_str()),
            Value::from(i64::try_from(task.rank).unwrap_or(RANK_MAX).min(RANK_MAX)),
            Value::from(i64::try_from(task.rpo.as_millis()).unwrap_or(i64::MAX)),
            Value::from(open.now()),
            Value::from(task.agent.as_str()),
            Value::from(task.site.as_str()),
        ];
        let insert = "INSERT INTO job (id, name, kind, due, attempt, why, repository, host, rank,
                 rpo, ranked, agent, site, state, epoch, bytes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'waiting', 0, 0)";
        open.run(insert, &values).await?;
        let detail = format!("{} of {} because of {}", task.kind, task.database, task.why);
        note(open, Deed { who, action: "job.queued", subject: &id, detail: &detail }).await?;
        Ok(Some(id))
    }

    /// Takes the job that comes first of those that may run now: no other job of its kind runs for
    /// its database, no cap is reached, and it is not bound to another site. Which one that is, the
    /// caps, the claim and the line in the audit log are one transaction.
    ///
    /// A claim of which nobody knows whether it was made, because the answer was lost or nobody
    /// waited for it, is found again by the next one of that worker.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced) when the worker was not heard of in time.
    pub async fn claim(&self, worker: &str) -> Result<Option<Claim>> {
        let known = locked(&self.unsure).get_mut(worker).and_then(Vec::pop);
        let mut ticket =
            Ticket { number: known.clone(), worker: worker.to_owned(), unsure: &self.unsure };
        let mut open = self.database.begin().await?;
        let now = open.now();
        alive(&mut *open, worker).await?;
        if let Some(number) = &known {
            let made =
                "SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent,
                 site, epoch
                 FROM job WHERE state = 'running' AND ticket = $1 AND worker = $2";
            let values = [Value::from(number.as_str()), Value::from(worker)];
            if let Some(row) = open.run(made, &values).await?.first() {
                ticket.number = None;
                let (task, attempt) = task(row)?;
                let (job, epoch) = (row.text(0)?.to_owned(), row.number(12)?);
                return Ok(Some(Claim { job, task, attempt, worker: worker.to_owned(), epoch }));
            }
        }
        let own = (&*self.agent, &*self.site);
        let Some(row) = first_that_may(&mut *open, own).await? else {
            ticket.number = None;
            return Ok(None);
        };
        let (task, attempt) = task(&row)?;
        let (id, epoch) = (row.text(0)?.to_owned(), row.number(12)? + 1);
        let number = known.unwrap_or_else(|| self.new_id(now));
        ticket.number = Some(number.clone());
        let values = [
            Value::from(worker),
            Value::from(epoch),
            Value::from(now),
            Value::from(number.as_str()),
            Value::from(id.as_str()),
        ];
        let take = "UPDATE job SET state = 'running', worker = $1, epoch = $2, started = $3,
                 moved = $3, ticket = $4 WHERE id = $5";
        open.run(take, &values).await?;
        let detail = format!("{} of {}, attempt {attempt}", task.kind, task.database);
        let deed = Deed { who: worker, action: "job.claimed", subject: &id, detail: &detail };
        note(&mut *open, deed).await?;
        open.commit().await?;
        ticket.number = None;
        Ok(Some(Claim { job: id, task, attempt, worker: worker.to_owned(), epoch }))
    }

    /// Lets the ranks of what has waited grow, if that was not done for so long.
    pub async fn let_ranks_grow(&self, unless_within: Duration) -> Result<()> {
        let mut open = self.database.begin().await?;
        let now = open.now();
        let ranked = now.saturating_sub(micros(unless_within));
        let find = "SELECT id FROM job
             WHERE state = 'waiting' AND rpo > 0 AND ranked <= $1 LIMIT 1";
        if open.run(find, &[Value::from(ranked)]).await?.is_empty() {
            return Ok(());
        }
        let factor = i64::from(RANK_PER_RPO);
        let values = [Value::from(now), Value::from(factor), Value::from(ranked)];
        let grow = "UPDATE job SET rank = rank + ($1 - ranked) / 1000 * $2 / rpo, ranked = $1
             WHERE state = 'waiting' AND rpo > 0 AND ranked <= $3";
        open.run(grow, &values).await?;
        open.commit().await
    }

    /// Notes how far a job has got.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced) when it is somebody else's by now, or over.
    pub async fn progress(&self, claim: &Claim, bytes: u64) -> Result<()> {
        let mut open = self.database.begin().await?;
        let values = [
            Value::from(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Value::from(open.now()),
            Value::from(claim.job.as_str()),
            Value::from(claim.epoch),
            Value::from(claim.worker.as_str()),
        ];
        let update =
            "UPDATE job SET moved = CASE WHEN bytes < $1 THEN $2 ELSE moved END, bytes = $1
             WHERE id = $3 AND epoch = $4 AND worker = $5 AND state = 'running' RETURNING id";
        if open.run(update, &values).await?.is_empty() {
            return Err(fenced(claim));
        }
        open.commit().await
    }

    /// Ends a job. Said twice, it is said once.
    ///
    /// # Errors
    ///
    /// As [`progress`](Self::progress).
    pub async fn finish(&self, claim: &Claim, outcome: Outcome, reason: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        let reason = told(reason, REASON_BYTES_MAX);
        let values = [
            Value::from(open.now()),
            Value::from(outcome.word()),
            Value::from(reason.as_str()),
            Value::from(claim.job.as_str()),
            Value::from(claim.epoch),
            Value::from(claim.worker.as_str()),
        ];
        let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2, reason = $3
             WHERE id = $4 AND epoch = $5 AND worker = $6 AND state = 'running' RETURNING id";
        if open.run(update, &values).await?.is_empty() {
            // Whoever else ends a job counts its epoch on.
            let said = "SELECT id FROM job WHERE outcome = $1 AND id = $2 AND epoch = $3
                     AND worker = $4 AND state = 'ended'";
            let [_, outcome, _, id, epoch, worker] = values;
            let is_said = !open.run(said, &[outcome, id, epoch, worker]).await?.is_empty();
            return if is_said { Ok(()) } else { Err(fenced(claim)) };
        }
        let detail = format!("{}: {reason}", outcome.word());
        let subject = &claim.job;
        let deed = Deed { who: &claim.worker, action: "job.ended", subject, detail: &detail };
        note(&mut *open, deed).await?;
        open.commit().await
    }

    /// Ends a job that waits or runs; its worker hears of it when it next says something.
    /// Whether there was one.
    pub async fn cancel(&self, job: &str, who: &str, reason: &str) -> Result<bool> {
        let mut open = self.database.begin().await?;
        let reason = told(reason, REASON_BYTES_MAX);
        let values = [
            Value::from(open.now()),
            Value::from(Outcome::Cancelled.word()),
            Value::from(reason.as_str()),
            Value::from(job),
        ];
        let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2, reason = $3,
                 epoch = epoch + 1 WHERE id = $4 AND state <> 'ended' RETURNING id";
        let is_there = !open.run(update, &values).await?.is_empty();
        if is_there {
            let deed = Deed { who, action: "job.cancelled", subject: job, detail: &reason };
            note(&mut *open, deed).await?;
        }
        open.commit().await?;
        Ok(is_there)
    }

    /// Puts another attempt into the queue because somebody says so, if this was the last one and
    /// did not succeed. Returns its id.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is no such job.
    pub async fn retry(&self, job: &str, who: &str) -> Result<Option<String>> {
        let mut open = self.database.begin().await?;
        let select =
            "SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent, site,
                 state, (SELECT max(o.attempt) FROM job AS o
                     WHERE o.name = j.name AND o.kind = j.kind AND o.due = j.due)
             FROM job AS j WHERE id = $1";
        let rows = open.run(select, &[Value::from(job)]).await?;
        let Some(row) = rows.first() else {
            return Err(Error::new(ErrorKind::Missing, code::NO_SUCH_JOB, "try a job again")
                .with("job", job)
                .next("stillpoint jobs list"));
        };
        let (task, attempt) = task(row)?;
        if row.number(13)? > i64::from(attempt) {
            return Ok(None);
        }
        let id = self.put(&mut *open, &task, who).await?;
        if id.is_some() {
            let detail = format!("after attempt {attempt}");
            let deed = Deed { who, action: "job.retried", subject: job, detail: &detail };
            note(&mut *open, deed).await?;
        }
        open.commit().await?;
        Ok(id)
    }

    /// Whether a job of whoever serves waits for room that jobs of this part of the queue take, and
    /// for nothing else of its own: nor for a site of which no worker is heard.
    pub async fn is_in_the_way(&self) -> Result<bool> {
        let mut open = self.database.begin().await?;
        let find = "SELECT c.scope FROM cap AS c WHERE most > 0
                 AND most <= (SELECT count(*) FROM job AS r WHERE r.state = 'running'
                     AND (c.scope = 'all' OR c.scope = 'repository' AND r.repository = c.name
                         OR c.scope = 'host' AND r.host = c.name))
                 AND EXISTS (SELECT 1 FROM job AS o WHERE o.state = 'running' AND o.agent = $1
                     AND (c.scope = 'all' OR c.scope = 'repository' AND o.repository = c.name
                         OR c.scope = 'host' AND o.host = c.name))
                 AND EXISTS (SELECT 1 FROM job AS w WHERE w.state = 'waiting' AND w.agent = ''
                     AND (w.site = '' OR EXISTS (SELECT 1 FROM worker AS k
                         WHERE k.site = w.site AND k.until > $2))
                     AND NOT EXISTS (SELECT 1 FROM job AS s WHERE s.state = 'running'
                         AND s.name = w.name AND s.kind = w.kind)
                     AND (c.scope = 'all' OR c.scope = 'repository' AND w.repository = c.name
                         OR c.scope = 'host' AND w.host = c.name))
             LIMIT 1";
        let values = [Value::from(&*self.agent), Value::from(open.now())];
        Ok(!open.run(find, &values).await?.is_empty())
    }

    /// Sets how many jobs may run at once: of everything, of repositories, of hosts.
    pub async fn set_caps(&self, all: u32, of: &[(Scope, &str, u32)]) -> Result<()> {
        let mut open = self.database.begin().await?;
        open.run("DELETE FROM cap", &[]).await?;
        let all = [("all", "", all)];
        let of = of.iter().map(|(scope, name, most)| (scope.word(), *name, *most));
        for (scope, name, most) in all.into_iter().chain(of) {
            let values = [Value::from(scope), Value::from(name), Value::from(i64::from(most))];
            let insert = "INSERT INTO cap (scope, name, most) VALUES ($1, $2, $3)";
            open.run(insert, &values).await?;
        }
        open.commit().await
    }
}

/// The job that comes first of all that wait for an agent, or for whoever serves: those that are
/// bound to no site, those bound to its own, and those that any worker of its site is to do.
async fn foremost(open: &mut dyn Transaction, (agent, site): (&str, &str)) -> Result<Option<Row>> {
    let find = "SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent, site,
             epoch
         FROM job WHERE state = 'waiting' AND agent = $1 AND site = $2
         ORDER BY rank DESC, due, id LIMIT 1";
    let mut doers = vec![(agent, "")];
    if !site.is_empty() {
        doers.push((agent, site));
        doers.extend((!agent.is_empty()).then_some(("", site)));
    }
    let mut found = Vec::new();
    for (agent, site) in doers {
        for row in open.run(find, &[Value::from(agent), Value::from(site)]).await? {
            let turn = (Reverse(row.number(7)?), row.number(3)?, row.text(0)?.to_owned());
            found.push((turn, row));
        }
    }
    let first = found.into_iter().min_by(|(one, _), (other, _)| one.cmp(other));
    Ok(first.map(|(_, row)| row))
}

/// The job of an agent, or of whoever serves, that comes first of those that may run now.
async fn first_that_may(open: &mut dyn Transaction, own: (&str, &str)) -> Result<Option<Row>> {
    let Some(row) = foremost(open, own).await? else { return Ok(None) };
    // Most often that one may: what stands against it alone is found soon.
    let against = "SELECT scope FROM cap WHERE scope = 'all'
             AND most <= (SELECT count(*) FROM job WHERE state = 'running')
         UNION ALL SELECT scope FROM cap WHERE scope = 'repository' AND name = $1
             AND most <= (SELECT count(*) FROM job WHERE state = 'running' AND repository = $1)
         UNION ALL SELECT scope FROM cap WHERE scope = 'host' AND name = $2
             AND most <= (SELECT count(*) FROM job WHERE state = 'running' AND host = $2)
         UNION ALL SELECT kind FROM job WHERE state = 'running' AND name = $3 AND kind = $4";
    let burdens = [5, 6, 1, 2].map(|column| row.text(column).map(Value::from));
    let burdens = burdens.into_iter().collect::<Result<Vec<_>>>()?;
    let against = open.run(against, &burdens).await?;
    if against.is_empty() {
        return Ok(Some(row));
    }
    for one in &against {
        if one.text(0)? == "all" {
            return Ok(None);
        }
    }
    // Counted once, and not for each job that waits.
    let first = "WITH burden AS MATERIALIZED (
             SELECT repository, host, count(*) AS jobs FROM job
                 WHERE state = 'running' GROUP BY repository, host
         ), running AS MATERIALIZED (
             SELECT 'repository' AS scope, repository AS name, sum(jobs) AS jobs FROM burden
                 GROUP BY repository
             UNION ALL SELECT 'host', host, sum(jobs) FROM burden GROUP BY host
         ), reached AS MATERIALIZED (
             SELECT c.scope, c.name FROM running AS r CROSS JOIN cap AS c
                 WHERE c.scope = r.scope AND c.name = r.name AND r.jobs >= c.most
             UNION SELECT scope, name FROM cap WHERE most = 0
         )
         SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent, site, epoch
         FROM job AS j WHERE state = 'waiting'
             AND (agent = $1 AND site IN ('', $2) OR agent = '' AND site <> '' AND site = $2)
             AND repository NOT IN (SELECT name FROM reached WHERE scope = 'repository')
             AND host NOT IN (SELECT name FROM reached WHERE scope = 'host')
             AND NOT EXISTS (SELECT 1 FROM job AS r WHERE r.state = 'running'
                 AND r.name = j.name AND r.kind = j.kind)
         ORDER BY rank DESC, due, id LIMIT 1";
    Ok(open.run(first, &[Value::from(own.0), Value::from(own.1)]).await?.pop())
}

/// A claim that is being made. Dropped with its number, nobody knows whether it was.
struct Ticket<'a> {
    number: Option<String>,
    worker: String,
    unsure: &'a Mutex<BTreeMap<String, Vec<String>>>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            let mut all = locked(self.unsure);
            all.entry(std::mem::take(&mut self.worker)).or_default().push(number);
        }
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fenced(claim: &Claim) -> Error {
    Error::new(ErrorKind::Fenced, code::FENCED, "go on with a job")
        .with("job", &claim.job)
        .with("worker", &claim.worker)
        .why("it was ended, or given to somebody else, because this worker was not heard of")
}
