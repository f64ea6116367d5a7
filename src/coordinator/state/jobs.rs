//! The queue: what waits, what runs, and who has it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    audit::{Deed, note},
    database::{Row, Transaction, Value},
    store::{State, instant},
};

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The database.
    pub database: String,
    /// What to do with it, in a word such as `full`.
    pub kind: String,
    /// The due time that it is for. With database and kind it names the work.
    pub due: DateTime<Utc>,
    /// Why, in a word.
    pub why: String,
    /// The repository that it writes to or reads from.
    pub repository: String,
    /// The host that it burdens.
    pub host: String,
    /// Who goes first when not all can: the larger number.
    pub rank: u64,
}

/// An attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id, which sorts by when it was put into the queue.
    pub id: String,
    /// The task.
    pub task: Task,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// What has become of it.
    pub phase: Phase,
    /// Bytes that were done when last heard of.
    pub bytes: u64,
}

/// What has become of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for its turn.
    Waiting,
    /// Somebody is at it.
    Running {
        /// Who.
        worker: String,
        /// Since when.
        started: DateTime<Utc>,
        /// When it last got on.
        moved: DateTime<Utc>,
    },
    /// It is over.
    Ended {
        /// When it began, if it did.
        started: Option<DateTime<Utc>>,
        /// When it ended.
        at: DateTime<Utc>,
        /// How.
        outcome: Outcome,
        /// Why, for people.
        reason: String,
    },
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// Its endpoint went away, and another one takes over.
    Superseded,
    /// Somebody ended it.
    Cancelled,
    /// Nobody has heard of its worker.
    Lost,
}

/// The right to work on a job. It ends when the worker is not heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job: String,
    /// The task.
    pub task: Task,
    /// Which attempt it is.
    pub attempt: u32,
    worker: String,
    epoch: i64,
}

impl Outcome {
    const ALL: [Self; 5] =
        [Self::Succeeded, Self::Failed, Self::Superseded, Self::Cancelled, Self::Lost];

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

impl State {
    /// Puts an attempt at a task into the queue, unless one waits or runs, or one succeeded.
    /// Returns its id.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn enqueue(&self, task: &Task, who: &str) -> Result<Option<String>> {
        let mut open = self.database.begin().await?;
        let same = "SELECT attempt, state, outcome FROM job
             WHERE name = $1 AND kind = $2 AND due = $3 ORDER BY attempt DESC LIMIT 1";
        let key = [
            Value::from(task.database.as_str()),
            Value::from(task.kind.as_str()),
            Value::from(task.due.timestamp_micros()),
        ];
        let attempt = match open.run(same, &key).await?.first() {
            None => 1,
            Some(row) if row.text(1)? != "ended" => return Ok(None),
            Some(row) if row.maybe_text(2)? == Some(Outcome::Succeeded.word()) => return Ok(None),
            Some(row) => row.number(0)? + 1,
        };
        let now = open.now().await?;
        let id = self.new_id(now);
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
            Value::from(i64::try_from(task.rank).unwrap_or(i64::MAX)),
        ];
        let insert = "INSERT INTO job (id, name, kind, due, attempt, why, repository, host, rank,
                 state, epoch, bytes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'waiting', 0, 0)";
        open.run(insert, &values).await?;
        let detail = format!("{} of {} because of {}", task.kind, task.database, task.why);
        note(&mut *open, Deed { who, action: "job.queued", subject: &id, detail: &detail }).await?;
        open.commit().await?;
        Ok(Some(id))
    }

    /// Says that a worker lives, and will for so long. One that was not heard of in time has lost
    /// everything that it worked on, and hears of that here.
    pub async fn renew(&self, worker: &str, place: &str, lease: Duration) -> Result<()> {
        let mut open = self.database.begin().await?;
        let until = open.now().await? + i64::try_from(lease.as_micros()).unwrap_or(i64::MAX / 2);
        let values = [Value::from(worker), Value::from(place), Value::from(until)];
        let renew = "INSERT INTO worker (name, place, until) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET until = excluded.until";
        open.run(renew, &values).await?;
        open.commit().await
    }

    /// Takes the job that comes first of those that may run now: no other job of its kind runs for
    /// its database, and no cap is reached. Which one that is, the caps, the claim and the line in
    /// the audit log are one transaction.
    pub async fn claim(&self, worker: &str) -> Result<Option<Claim>> {
        let mut open = self.database.begin().await?;
        let now = open.now().await?;
        self.alive(&mut *open, worker, now).await?;
        let first = "SELECT id, name, kind, due, why, repository, host, rank, attempt, epoch
             FROM job AS j WHERE state = 'waiting'
                 AND NOT EXISTS (SELECT 1 FROM job AS r WHERE r.state = 'running'
                     AND r.name = j.name AND r.kind = j.kind)
                 AND NOT EXISTS (SELECT 1 FROM cap AS c WHERE c.most <= (
                     SELECT count(*) FROM job AS r WHERE r.state = 'running' AND CASE c.scope
                         WHEN 'repository' THEN r.repository = c.name
                         WHEN 'host' THEN r.host = c.name
                         ELSE 1 = 1 END)
                     AND CASE c.scope
                         WHEN 'repository' THEN c.name = j.repository
                         WHEN 'host' THEN c.name = j.host
                         ELSE 1 = 1 END)
             ORDER BY rank DESC, due, id LIMIT 1";
        let found = open.run(first, &[]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let (task, attempt) = task(row)?;
        let (id, epoch) = (row.text(0)?.to_owned(), row.number(9)? + 1);
        let values =
            [Value::from(worker), Value::from(epoch), Value::from(now), Value::from(id.as_str())];
        let take = "UPDATE job SET state = 'running', worker = $1, epoch = $2, started = $3,
                 moved = $3 WHERE id = $4";
        open.run(take, &values).await?;
        let detail = format!("{} of {}, attempt {attempt}", task.kind, task.database);
        let deed = Deed { who: worker, action: "job.claimed", subject: &id, detail: &detail };
        note(&mut *open, deed).await?;
        open.commit().await?;
        Ok(Some(Claim { job: id, task, attempt, worker: worker.to_owned(), epoch }))
    }

    /// Notes how far a job has got.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced) when it is somebody else's by now, or over.
    pub async fn progress(&self, claim: &Claim, bytes: u64) -> Result<()> {
        let mut open = self.database.begin().await?;
        let now = open.now().await?;
        let values = [
            Value::from(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Value::from(now),
            Value::from(claim.job.as_str()),
            Value::from(claim.epoch),
        ];
        let update =
            "UPDATE job SET moved = CASE WHEN bytes < $1 THEN $2 ELSE moved END, bytes = $1
             WHERE id = $3 AND epoch = $4 AND state = 'running' RETURNING id";
        if open.run(update, &values).await?.is_empty() {
            return Err(fenced(claim));
        }
        open.commit().await
    }

    /// Ends a job.
    ///
    /// # Errors
    ///
    /// As [`progress`](Self::progress).
    pub async fn finish(&self, claim: &Claim, outcome: Outcome, reason: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        let now = open.now().await?;
        let values = [
            Value::from(now),
            Value::from(outcome.word()),
            Value::from(reason),
            Value::from(claim.job.as_str()),
            Value::from(claim.epoch),
        ];
        let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2, reason = $3
             WHERE id = $4 AND epoch = $5 AND state = 'running' RETURNING id";
        if open.run(update, &values).await?.is_empty() {
            return Err(fenced(claim));
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
        let now = open.now().await?;
        let values = [
            Value::from(now),
            Value::from(Outcome::Cancelled.word()),
            Value::from(reason),
            Value::from(job),
        ];
        let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2, reason = $3,
                 epoch = epoch + 1 WHERE id = $4 AND state <> 'ended' RETURNING id";
        let is_there = !open.run(update, &values).await?.is_empty();
        if is_there {
            let deed = Deed { who, action: "job.cancelled", subject: job, detail: reason };
            note(&mut *open, deed).await?;
        }
        open.commit().await?;
        Ok(is_there)
    }

    /// Ends what workers had that were not heard of in time. Returns how many jobs that are.
    pub async fn reap(&self, who: &str) -> Result<usize> {
        let mut open = self.database.begin().await?;
        let now = open.now().await?;
        let values = [Value::from(now), Value::from(Outcome::Lost.word())];
        let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2,
                 reason = 'its worker was not heard of', epoch = epoch + 1
             WHERE state = 'running'
                 AND NOT EXISTS (SELECT 1 FROM worker AS w WHERE w.name = job.worker AND w.until > $1)
             RETURNING id, worker";
        let lost = open.run(update, &values).await?;
        for row in &lost {
            let detail = format!("{} was not heard of", row.text(1)?);
            let deed = Deed { who, action: "job.lost", subject: row.text(0)?, detail: &detail };
            note(&mut *open, deed).await?;
        }
        open.run("DELETE FROM worker WHERE until <= $1", &[Value::from(now)]).await?;
        open.commit().await?;
        Ok(lost.len())
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

    /// The newest jobs, at most so many, the newest first.
    pub async fn jobs(&self, most: u32) -> Result<Vec<Job>> {
        let mut open = self.database.begin().await?;
        let select =
            "SELECT id, name, kind, due, why, repository, host, rank, attempt, state, worker,
                 started, moved, ended, outcome, reason, bytes
             FROM job ORDER BY id DESC LIMIT $1";
        let rows = open.run(select, &[Value::from(i64::from(most))]).await?;
        rows.iter().map(job).collect()
    }

    async fn alive(&self, open: &mut dyn Transaction, worker: &str, now: i64) -> Result<()> {
        let select = "SELECT until FROM worker WHERE name = $1";
        let found = open.run(select, &[Value::from(worker)]).await?;
        match found.first().map(|row| row.number(0)).transpose()? {
            Some(until) if until > now => Ok(()),
            _ => Err(Error::new(ErrorKind::Fenced, code::FENCED, "claim a job")
                .with("worker", worker)
                .why("it was not heard of in time, and what it had is others' by now")),
        }
    }
}

/// What a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Jobs of a repository.
    Repository,
    /// Jobs of a host.
    Host,
}

impl Scope {
    fn word(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Host => "host",
        }
    }
}

fn fenced(claim: &Claim) -> Error {
    Error::new(ErrorKind::Fenced, code::FENCED, "go on with a job")
        .with("job", &claim.job)
        .with("worker", &claim.worker)
        .why("it was ended, or given to somebody else, because this worker was not heard of")
}

fn task(row: &Row) -> Result<(Task, u32)> {
    let text = |column| row.text(column).map(str::to_owned);
    let task = Task {
        database: text(1)?,
        kind: text(2)?,
        due: instant(row.number(3)?)?,
        why: text(4)?,
        repository: text(5)?,
        host: text(6)?,
        rank: row.number(7)?.unsigned_abs(),
    };
    Ok((task, row.number(8)? as u32))
}

fn job(row: &Row) -> Result<Job> {
    let (task, attempt) = task(row)?;
    let at = |column| row.maybe_number(column)?.map(instant).transpose();
    let known = |column| -> Result<DateTime<Utc>> { instant(row.number(column)?) };
    let phase = match row.text(9)? {
        "waiting" => Phase::Waiting,
        "running" => Phase::Running {
            worker: row.text(10)?.to_owned(),
            started: known(11)?,
            moved: known(12)?,
        },
        _ => {
            let word = row.text(14)?;
            let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.word() == word);
            Phase::Ended {
                started: at(11)?,
                at: known(13)?,
                outcome: outcome.ok_or_else(|| Error::bug("read how a job ended"))?,
                reason: row.maybe_text(15)?.unwrap_or_default().to_owned(),
            }
        }
    };
    let bytes = row.number(16)?.unsigned_abs();
    Ok(Job { id: row.text(0)?.to_owned(), task, attempt, phase, bytes })
}
