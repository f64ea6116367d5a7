//! What people said: which databases are paused or retired, and which configuration holds.

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    audit::{Deed, note},
    database::{Row, Transaction, Value, told},
    model::Outcome,
    store::State,
};

/// Marks of a database that are remembered, those that are over included: the newest.
pub const MARKS_MAX: usize = 8;

/// Why a mark was set, for people.
const REASON_BYTES_MAX: usize = 4 << 10;

/// What was said of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing is started.
    Paused {
        /// Until then; else until somebody says otherwise.
        until: Option<DateTime<Utc>>,
    },
    /// It is protected no more; what there is of it is kept.
    Retired,
}

/// A mark, and who set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The database.
    pub database: String,
    /// What was said.
    pub mark: Mark,
    /// Since when it holds.
    pub since: DateTime<Utc>,
    /// Since when it does not any more, if that is known.
    pub until: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub who: String,
}

/// A configuration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What tells it from others.
    pub digest: String,
    /// Its text.
    pub text: String,
    /// Who applied it.
    pub who: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl Mark {
    fn word(self) -> &'static str {
        match self {
            Self::Paused { .. } => "paused",
            Self::Retired => "retired",
        }
    }

    fn until(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Paused { until } => until,
            Self::Retired => None,
        }
    }
}

impl Marked {
    /// Whether it holds at an instant.
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        self.since <= at && self.until.is_none_or(|until| at < until)
    }
}

impl State {
    /// Marks a database in place of what was said before, or ends that. What waits for its turn is
    /// cancelled; what runs goes on. Said twice, it is said once. Returns how many jobs were
    /// cancelled.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when its end has passed; what keeps the state database from
    /// being used, as everywhere here.
    pub async fn set_mark(
        &self,
        database: &str,
        mark: Option<Mark>,
        reason: &str,
        who: &str,
    ) -> Result<usize> {
        let mut open = self.database.begin().await?;
        if mark.and_then(Mark::until).is_some_and(|until| until.timestamp_micros() <= open.now()) {
            return Err(Error::new(ErrorKind::Invalid, code::BAD_POINT, "pause a database")
                .with("database", database)
                .why("the end of the pause has passed"));
        }
        let reason = told(reason, REASON_BYTES_MAX);
        let (name, now) = (Value::from(database), Value::from(open.now()));
        let held = "SELECT name, since, until, what, reason, who FROM mark
             WHERE name = $1 AND (until IS NULL OR until > $2) ORDER BY since DESC LIMIT 1";
        let held = open.run(held, &[name.clone(), now.clone()]).await?;
        let held = held.first().map(marked).transpose()?;
        let is_said = match (&held, mark) {
            (Some(held), Some(mark)) => held.mark == mark && held.reason == reason,
            (held, mark) => held.is_none() && mark.is_none(),
        };
        if is_said {
            return Ok(0);
        }
        let end = "UPDATE mark SET until = $1
             WHERE name = $2 AND since < $1 AND (until IS NULL OR until > $1)";
        open.run(end, &[now.clone(), name.clone()]).await?;
        // What held for no time at all.
        open.run("DELETE FROM mark WHERE name = $1 AND since >= $2", &[name.clone(), now.clone()])
            .await?;
        let mut cancelled = 0;
        if let Some(mark) = mark {
            let values = [
                name.clone(),
                now.clone(),
                Value::from(mark.until()),
                Value::from(mark.word()),
                Value::from(reason.as_str()),
                Value::from(who),
            ];
            let insert = "INSERT INTO mark (name, since, until, what, reason, who)
                 VALUES ($1, $2, $3, $4, $5, $6)";
            open.run(insert, &values).await?;
            cancelled = cancel_waiting(&mut *open, (database, mark.word()), who).await?;
        }
        let forget = "DELETE FROM mark WHERE name = $1 AND since < (SELECT min(since) FROM (
             SELECT since FROM mark WHERE name = $1 ORDER BY since DESC LIMIT $2) AS newest)";
        let most = i64::try_from(MARKS_MAX).unwrap_or(i64::MAX);
        open.run(forget, &[name, Value::from(most)]).await?;
        let (action, detail) = match mark {
            Some(Mark::Paused { until: Some(until) }) => {
                ("database.paused", format!("until {until}: {reason}"))
            }
            Some(Mark::Paused { until: None }) => ("database.paused", reason),
            Some(Mark::Retired) => ("database.retired", reason),
            None => ("database.resumed", reason),
        };
        note(&mut *open, Deed { who, action, subject: database, detail: &detail }).await?;
        open.commit().await?;
        Ok(cancelled)
    }

    /// All marks that are remembered, by database, the newest first.
    pub async fn marks(&self) -> Result<Vec<Marked>> {
        let mut open = self.database.begin().await?;
        let select = "SELECT name, since, until, what, reason, who FROM mark
             ORDER BY name, since DESC";
        open.run(select, &[]).await?.iter().map(marked).collect()
    }

    /// The configuration that holds.
    pub async fn applied(&self) -> Result<Option<Applied>> {
        let mut open = self.database.begin().await?;
        applied(&mut *open).await
    }

    /// Makes a configuration the one that holds, if the one with the digest `before` still is.
    /// Whether it holds now.
    pub async fn set_applied(
        &self,
        before: Option<&str>,
        digest: &str,
        text: &str,
        who: &str,
    ) -> Result<bool> {
        let mut open = self.database.begin().await?;
        let held = applied(&mut *open).await?.map(|applied| applied.digest);
        if held.as_deref() == Some(digest) {
            return Ok(true);
        }
        if held.as_deref() != before {
            return Ok(false);
        }
        let values = [
            Value::from(1),
            Value::from(digest),
            Value::from(text),
            Value::from(who),
            Value::from(open.now()),
        ];
        let set = "INSERT INTO applied (id, digest, text, who, at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, text = excluded.text,
                 who = excluded.who, at = excluded.at";
        open.run(set, &values).await?;
        let detail = format!("in place of {}", before.unwrap_or("none"));
        let deed = Deed { who, action: "config.applied", subject: digest, detail: &detail };
        note(&mut *open, deed).await?;
        open.commit().await?;
        Ok(true)
    }
}

async fn cancel_waiting(
    open: &mut dyn Transaction,
    (database, word): (&str, &str),
    who: &str,
) -> Result<usize> {
    let reason = format!("the database is {word}");
    let values = [
        Value::from(open.now()),
        Value::from(Outcome::Cancelled.word()),
        Value::from(reason.as_str()),
        Value::from(database),
    ];
    let update = "UPDATE job SET state = 'ended', ended = $1, outcome = $2, reason = $3
         WHERE name = $4 AND state = 'waiting' RETURNING id";
    let cancelled = open.run(update, &values).await?;
    for row in &cancelled {
        let deed = Deed { who, action: "job.cancelled", subject: row.text(0)?, detail: &reason };
        note(open, deed).await?;
    }
    Ok(cancelled.len())
}

async fn applied(open: &mut dyn Transaction) -> Result<Option<Applied>> {
    let rows = open.run("SELECT digest, text, who, at FROM applied", &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let text = |column| row.text(column).map(str::to_owned);
    Ok(Some(Applied { digest: text(0)?, text: text(1)?, who: text(2)?, at: row.time(3)? }))
}

fn marked(row: &Row) -> Result<Marked> {
    let text = |column| row.text(column).map(str::to_owned);
    let until = row.maybe_time(2)?;
    let mark = match row.text(3)? {
        "paused" => Mark::Paused { until },
        "retired" => Mark::Retired,
        _ => return Err(Error::bug("read what was said of a database")),
    };
    let (database, since) = (text(0)?, row.time(1)?);
    Ok(Marked { database, mark, since, until, reason: text(4)?, who: text(5)? })
}
