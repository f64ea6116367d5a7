//! What was due, and what became of it: each due time becomes one thing, whoever is killed when.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    database::{Row, Transaction, Value},
    model::Task,
    store::State,
};

/// Due times of a database that were left out and are remembered: the newest.
pub const SKIPPED_MAX: usize = 100;

/// What becomes of the due times of one kind of one database, up to an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settling {
    /// The database.
    pub database: String,
    /// The kind.
    pub kind: String,
    /// Until when they were settled when this was decided. By now, somebody else may have gone on.
    pub from: Option<DateTime<Utc>>,
    /// Until when they are settled by this.
    pub until: DateTime<Utc>,
    /// What is run.
    pub tasks: Vec<Task>,
    /// What is not.
    pub skipped: Vec<Skipped>,
}

/// A due time that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What would have been done.
    pub kind: String,
    /// When.
    pub due: DateTime<Utc>,
    /// Why it was not.
    pub reason: String,
}

impl State {
    /// Until when every due time of a kind is settled.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn looked(&self, database: &str, kind: &str) -> Result<Option<DateTime<Utc>>> {
        let mut open = self.database.begin().await?;
        looked(&mut *open, database, kind).await
    }

    /// The same of everything, by database and kind.
    pub async fn all_looked(&self) -> Result<BTreeMap<(String, String), DateTime<Utc>>> {
        let mut open = self.database.begin().await?;
        let rows = open.run("SELECT name, kind, until FROM looked", &[]).await?;
        let read =
            |row: &Row| Ok(((row.text(0)?.to_owned(), row.text(1)?.to_owned()), row.time(2)?));
        rows.iter().map(read).collect()
    }

    /// Settles due times, in one transaction: what is run is in the queue, what is not is noted,
    /// and nobody settles them again. For each, whether that was done; it was not where somebody
    /// else has gone on meanwhile, so that what was decided does not hold any more.
    pub async fn settle(&self, all: &[Settling], who: &str) -> Result<Vec<bool>> {
        let mut open = self.database.begin().await?;
        let mut done = Vec::with_capacity(all.len());
        for one in all {
            done.push(self.settle_one(&mut *open, one, who).await?);
        }
        open.commit().await?;
        Ok(done)
    }

    async fn settle_one(
        &self,
        open: &mut dyn Transaction,
        one: &Settling,
        who: &str,
    ) -> Result<bool> {
        let is_foreign = |task: &Task| (&task.database, &task.kind) != (&one.database, &one.kind);
        if one.from.is_some_and(|from| one.until < from) || one.tasks.iter().any(is_foreign) {
            return Err(Error::bug("settle what was due").with("database", &one.database));
        }
        if !go_on(open, one).await? {
            return Ok(false);
        }
        for task in &one.tasks {
            self.put(open, task, who).await?;
        }
        let mut skipped: Vec<_> = one.skipped.iter().collect();
        skipped.sort_by_key(|skipped| std::cmp::Reverse(skipped.due));
        skipped.truncate(SKIPPED_MAX);
        for skipped in &skipped {
            let values = [
                Value::from(one.database.as_str()),
                Value::from(skipped.kind.as_str()),
                Value::from(skipped.due),
                Value::from(skipped.reason.as_str()),
            ];
            let insert = "INSERT INTO skipped (name, kind, due, reason) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (name, due, kind) DO NOTHING";
            open.run(insert, &values).await?;
        }
        if !skipped.is_empty() {
            let forget = "DELETE FROM skipped WHERE name = $1 AND due < (SELECT min(due) FROM (
                 SELECT due FROM skipped WHERE name = $1 ORDER BY due DESC LIMIT $2) AS newest)";
            let most = i64::try_from(SKIPPED_MAX).unwrap_or(i64::MAX);
            let values = [Value::from(one.database.as_str()), Value::from(most)];
            open.run(forget, &values).await?;
        }
        Ok(true)
    }

    /// What of a database was left out, the newest first, at most [`SKIPPED_MAX`].
    pub async fn skipped(&self, database: &str) -> Result<Vec<Skipped>> {
        let mut open = self.database.begin().await?;
        let select = "SELECT kind, due, reason FROM skipped WHERE name = $1
             ORDER BY due DESC, kind LIMIT $2";
        let most = i64::try_from(SKIPPED_MAX).unwrap_or(i64::MAX);
        let rows = open.run(select, &[Value::from(database), Value::from(most)]).await?;
        let read = |row: &Row| {
            let (kind, reason) = (row.text(0)?.to_owned(), row.text(2)?.to_owned());
            Ok(Skipped { kind, due: row.time(1)?, reason })
        };
        rows.iter().map(read).collect()
    }
}

/// Notes until when due times are settled, unless somebody else has gone on meanwhile.
async fn go_on(open: &mut dyn Transaction, one: &Settling) -> Result<bool> {
    let Settling { database, kind, from, until, .. } = one;
    let (database, kind) = (Value::from(database.as_str()), Value::from(kind.as_str()));
    let noted = if from.is_some() {
        let update = "UPDATE looked SET until = $1 WHERE name = $2 AND kind = $3 AND until = $4
             RETURNING until";
        open.run(update, &[Value::from(*until), database, kind, Value::from(*from)]).await?
    } else {
        let insert = "INSERT INTO looked (name, kind, until) VALUES ($1, $2, $3)
             ON CONFLICT (name, kind) DO NOTHING RETURNING until";
        open.run(insert, &[database, kind, Value::from(*until)]).await?
    };
    Ok(!noted.is_empty())
}

async fn looked(
    open: &mut dyn Transaction,
    database: &str,
    kind: &str,
) -> Result<Option<DateTime<Utc>>> {
    let select = "SELECT until FROM looked WHERE name = $1 AND kind = $2";
    let rows = open.run(select, &[Value::from(database), Value::from(kind)]).await?;
    rows.first().map(|row| row.time(0)).transpose()
}
