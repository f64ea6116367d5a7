//! What was done: jobs of all times, and how long they are remembered.

use chrono::{DateTime, Utc};
use stillpoint_contract::Result;

use super::{
    database::Value,
    model::{Filter, Job, Stage, Tried, job, tried},
    store::State,
};

/// Jobs that are forgotten in one transaction.
const FORGOTTEN_MAX: i64 = 2_000;

/// Something that was tried, and is not done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// When it was due first, or put into the queue if that was later.
    pub since: DateTime<Utc>,
    /// How the newest attempt ended, for people.
    pub ended: Option<String>,
}

impl State {
    /// Jobs, the newest first.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn jobs(&self, filter: &Filter) -> Result<Vec<Job>> {
        let text = |text: Option<&String>| Value::from(text.map_or("", String::as_str));
        let values = [
            text(filter.database.as_ref()),
            text(filter.kind.as_ref()),
            Value::from(filter.stage.map_or("", Stage::word)),
            text(filter.before.as_ref()),
            Value::from(i64::from(filter.most)),
        ];
        let select =
            "SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent, site,
             state, worker,
                 started, moved, ended, outcome, reason, bytes
             FROM job WHERE (name = $1 OR $1 = '') AND (kind = $2 OR $2 = '')
                 AND (state = $3 OR $3 = '') AND (id < $4 OR $4 = '')
             ORDER BY id DESC LIMIT $5";
        let of_database =
            "SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent, site,
             state, worker,
                 started, moved, ended, outcome, reason, bytes
             FROM job WHERE name = $1 AND (kind = $2 OR $2 = '')
                 AND (state = $3 OR $3 = '') AND (id < $4 OR $4 = '')
             ORDER BY id DESC LIMIT $5";
        let select = if filter.database.is_some() { of_database } else { select };
        let mut open = self.database.begin().await?;
        open.run(select, &values).await?.iter().map(job).collect()
    }

    /// The newest attempts at anything for a database but its copies and what is archived of it,
    /// the newest first: what decisions about the original rest on.
    pub async fn attempts(&self, database: &str, most: u32) -> Result<Vec<Tried>> {
        let select = "SELECT kind, due, state, started, ended, outcome FROM job
             WHERE name = $1 AND kind NOT LIKE 'copy %' AND kind NOT LIKE 'archive %'
             ORDER BY id DESC LIMIT $2";
        let mut open = self.database.begin().await?;
        let values = [Value::from(database), Value::from(i64::from(most))];
        open.run(select, &values).await?.iter().map(tried).collect()
    }

    /// What waits to be done for a database since more than the last time that it was: from when
    /// on, and how the newest attempt ended. Nothing does of what was never tried.
    pub async fn overdue(&self, database: &str, kind: &str) -> Result<Option<Overdue>> {
        let select = "SELECT due, id, state, reason FROM job AS j
             WHERE name = $1 AND kind = $2 AND NOT EXISTS (
                 SELECT 1 FROM job AS done WHERE done.name = $1 AND done.kind = $2
                     AND done.outcome IN ('succeeded', 'cancelled') AND done.due >= j.due)
             ORDER BY id";
        let mut open = self.database.begin().await?;
        let rows = open.run(select, &[Value::from(database), Value::from(kind)]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut ended = None;
        for row in rows.iter().rev() {
            if row.text(2)? == "ended" {
                ended = Some(row.text(3)?.to_owned());
                break;
            }
        }
        // Whoever comes later than it was due knows of it since then.
        let queued = ulid::Ulid::from_string(first.text(1)?).ok();
        let queued =
            queued.and_then(|id| DateTime::from_timestamp_millis(id.timestamp_ms().cast_signed()));
        let due = first.time(0)?;
        let since = queued.map_or(due, |queued| due.max(queued));
        Ok(Some(Overdue { since, ended }))
    }

    /// One job.
    pub async fn job(&self, id: &str) -> Result<Option<Job>> {
        let select =
            "SELECT id, name, kind, due, why, repository, host, rank, attempt, rpo, agent, site,
             state, worker,
                 started, moved, ended, outcome, reason, bytes
             FROM job WHERE id = $1";
        let mut open = self.database.begin().await?;
        open.run(select, &[Value::from(id)]).await?.first().map(job).transpose()
    }

    /// Forgets jobs that ended before, save the newest of each kind of each database. Returns how
    /// many.
    pub async fn prune(&self, before: DateTime<Utc>) -> Result<usize> {
        let mut forgotten = 0;
        loop {
            let mut open = self.database.begin().await?;
            let delete = "DELETE FROM job WHERE id IN (
                     SELECT id FROM job AS j WHERE state = 'ended' AND ended < $1
                         AND EXISTS (SELECT 1 FROM job AS newer WHERE newer.name = j.name
                             AND newer.kind = j.kind AND newer.id > j.id)
                     LIMIT $2)
                 RETURNING id";
            let values = [Value::from(before), Value::from(FORGOTTEN_MAX)];
            let gone = open.run(delete, &values).await?.len();
            open.commit().await?;
            forgotten += gone;
            if gone < FORGOTTEN_MAX as usize {
                return Ok(forgotten);
            }
        }
    }
}
