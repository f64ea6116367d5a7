//! Who works, who was not heard of, and who has what only one may have.

use std::time::Duration;

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    audit::{Deed, note},
    database::{Transaction, Value},
    model::Outcome,
    store::State,
    tables::{number, set_number},
};

/// When nobody looked for so long who was not heard of, then the database was away, or everybody
/// was: all get as long again to be heard.
pub const AWAY: Duration = Duration::from_secs(30);

/// How long whoever decides what is due leads, unless it says so again.
pub const LEAD: Duration = Duration::from_secs(30);

impl State {
    /// Says that a worker lives, and will for so long. Names are drawn anew by each process.
    ///
    /// Whoever comes back late, and before anybody looked, keeps what it has.
    pub async fn renew(&self, worker: &str, place: &str, lease: Duration) -> Result<()> {
        let mut open = self.database.begin().await?;
        let until = open.now().saturating_add(micros(lease));
        let site = Value::from(self.site.as_str());
        let values = [Value::from(worker), Value::from(place), Value::from(until), site.clone()];
        let renew = "INSERT INTO worker (name, place, until, site) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET until = excluded.until, site = excluded.site";
        open.run(renew, &values).await?;
        if !self.site.is_empty() {
            let seen = "INSERT INTO site (name, since, seen) VALUES ($1, $2, $2)
                 ON CONFLICT (name) DO UPDATE SET seen = excluded.seen";
            let now = open.now();
            open.run(seen, &[site, Value::from(now)]).await?;
        }
        if !self.agent.is_empty() {
            let seen = "INSERT INTO agent (name, seen) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET seen = excluded.seen";
            let now = open.now();
            open.run(seen, &[Value::from(self.agent.as_str()), Value::from(now)]).await?;
        }
        open.commit().await
    }

    /// Ends what workers had that were not heard of in time, and what has not got on for so long
    /// though its worker lives. Returns how many jobs that are, of either. Somebody has to look
    /// several times in [`AWAY`].
    pub async fn reap(&self, limit: Duration, who: &str) -> Result<[usize; 2]> {
        let mut open = self.database.begin().await?;
        let there = there_for(&mut *open, self.away).await?;
        let mut reaped = [0, 0];
        if micros(self.away) <= there {
            reaped[0] = reap_lost(&mut *open, who).await?;
        }
        if micros(limit) <= there {
            reaped[1] = reap_stalled(&mut *open, limit, who).await?;
        }
        open.commit().await?;
        Ok(reaped)
    }

    /// Takes or keeps what one worker at a time may have; `None` when it is another's. The number
    /// grows with each change of hands, so that what a former holder does late can be told apart.
    ///
    /// Without a term it lasts for as long as the worker is heard of.
    ///
    /// # Errors
    ///
    /// [`Fenced`](ErrorKind::Fenced) when the worker was not heard of in time.
    pub async fn lease(
        &self,
        name: &str,
        worker: &str,
        term: Option<Duration>,
    ) -> Result<Option<u64>> {
        self.take(name, worker, (term, None)).await
    }

    /// As [`lease`](Self::lease). What lasts for long `enough` is kept without a word.
    async fn take(
        &self,
        name: &str,
        worker: &str,
        (term, enough): (Option<Duration>, Option<Duration>),
    ) -> Result<Option<u64>> {
        let mut open = self.database.begin().await?;
        let now = open.now();
        if term.is_none() {
            alive(&mut *open, worker).await?;
        }
        let select = "SELECT l.worker, l.epoch, COALESCE(l.until, w.until, 0) FROM lease AS l
             LEFT JOIN worker AS w ON w.name = l.worker WHERE l.name = $1";
        let rows = open.run(select, &[Value::from(name)]).await?;
        let mut epoch = 1;
        if let Some(row) = rows.first() {
            let left = row.number(2)?.saturating_sub(now);
            match row.maybe_text(0)?.filter(|_| left > 0) {
                Some(holder) if holder == worker => {
                    epoch = row.number(1)?;
                    if enough.is_some_and(|enough| micros(enough) <= left) {
                        return Ok(Some(epoch.unsigned_abs()));
                    }
                }
                Some(_) => return Ok(None),
                None => epoch = row.number(1)? + 1,
            }
        }
        let until = term.map(|term| now.saturating_add(micros(term)));
        let values =
            [Value::from(name), Value::from(worker), Value::from(epoch), Value::from(until)];
        let take = "INSERT INTO lease (name, worker, epoch, until) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET worker = excluded.worker, epoch = excluded.epoch,
                 until = excluded.until";
        open.run(take, &values).await?;
        open.commit().await?;
        Ok(Some(epoch.unsigned_abs()))
    }

    /// Gives back what a worker has, if it still has it.
    pub async fn release(&self, name: &str, worker: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        // The number stays, and is never used again.
        let update = "UPDATE lease SET worker = NULL WHERE name = $1 AND worker = $2";
        open.run(update, &[Value::from(name), Value::from(worker)]).await?;
        open.commit().await
    }

    /// Whether this worker looks after what only workers of its site do, for most of the next
    /// [`LEAD`]. One that is at no site never does.
    pub async fn lead_site(&self, worker: &str) -> Result<bool> {
        let Some(site) = self.site() else { return Ok(false) };
        let (term, enough) = (self.lead_term, self.lead_term / 4 * 3);
        let lease = format!("site {site}");
        Ok(self.take(&lease, worker, (Some(term), Some(enough))).await?.is_some())
    }

    /// Whether this worker decides what is due, for most of the next [`LEAD`]: asked every moment,
    /// it writes only now and then.
    pub async fn lead(&self, worker: &str) -> Result<bool> {
        let (term, enough) = (self.lead_term, self.lead_term / 4 * 3);
        Ok(self.take("leader", worker, (Some(term), Some(enough))).await?.is_some())
    }
}

/// Refuses a worker that was not heard of in time.
pub(super) async fn alive(open: &mut dyn Transaction, worker: &str) -> Result<()> {
    let select = "SELECT until FROM worker WHERE name = $1";
    let found = open.run(select, &[Value::from(worker)]).await?;
    match found.first().map(|row| row.number(0)).transpose()? {
        Some(until) if until > open.now() => Ok(()),
        _ => Err(Error::new(ErrorKind::Fenced, code::FENCED, "take work")
            .with("worker", worker)
            .why("it was not heard of in time, and what it had may be others' by now")),
    }
}

async fn reap_lost(open: &mut dyn Transaction, who: &str) -> Result<usize> {
    let now = open.now();
    let values = [Value::from(now), Value::from(Outcome::Lost.word())];
    let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2,
             reason = 'its worker was not heard of', epoch = epoch + 1
         WHERE state = 'running' AND NOT EXISTS (
             SELECT 1 FROM worker AS w WHERE w.name = job.worker AND w.until > $1)
         RETURNING id, worker";
    let lost = open.run(update, &values).await?;
    for row in &lost {
        let detail = format!("{} was not heard of", row.text(1)?);
        let deed = Deed { who, action: "job.lost", subject: row.text(0)?, detail: &detail };
        note(open, deed).await?;
    }
    open.run("DELETE FROM worker WHERE until <= $1", &[Value::from(now)]).await?;
    Ok(lost.len())
}

async fn reap_stalled(open: &mut dyn Transaction, limit: Duration, who: &str) -> Result<usize> {
    let now = open.now();
    let reason = format!("it did not get on for {} s", limit.as_secs());
    let values = [
        Value::from(now),
        Value::from(Outcome::Failed.word()),
        Value::from(reason.as_str()),
        Value::from(now.saturating_sub(micros(limit))),
    ];
    let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2, reason = $3,
             epoch = epoch + 1 WHERE state = 'running' AND moved <= $4 RETURNING id";
    let stalled = open.run(update, &values).await?;
    for row in &stalled {
        let deed = Deed { who, action: "job.stalled", subject: row.text(0)?, detail: &reason };
        note(open, deed).await?;
    }
    Ok(stalled.len())
}

/// Notes that somebody looks, and says for how many microseconds somebody did all the time.
async fn there_for(open: &mut dyn Transaction, away: Duration) -> Result<i64> {
    let now = open.now();
    let looked = number(open, "reaped").await?;
    let since = match (number(open, "there").await?, looked) {
        (Some(since), Some(looked)) if now.saturating_sub(looked) < micros(away) => since,
        _ => {
            set_number(open, "there", now).await?;
            now
        }
    };
    set_number(open, "reaped", now).await?;
    Ok(now.saturating_sub(since))
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}
