//! Endpoints that were registered, for every coordinator and every command to agree on; and which
//! databases may begin another incarnation.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    audit::{Deed, note},
    database::{Row, Transaction, Value, told},
    store::State,
};
use crate::policy::{Change, Drain, End, Registration, Registry, Wanted};

/// What an endpoint said when it was asked, for people.
const TROUBLE_BYTES_MAX: usize = 4 << 10;

const SELECT: &str = "SELECT id, source, target, labels, wanted, ttl, sign, since, renewed, active,
     identity, silent, trouble, drain_since, drain_until, drained, ended, how FROM endpoint";

/// That a database may begin another incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// In place of this one.
    pub incarnation: String,
    /// Since when.
    pub at: DateTime<Utc>,
}

impl State {
    /// All endpoints that are remembered.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn endpoints(&self) -> Result<Registry> {
        let mut open = self.database.begin().await?;
        registry(&mut *open).await
    }

    /// Changes what is remembered of endpoints, in one transaction: `change` gets all of them and
    /// the time, and may be called more than once. Returns what it says has changed, which is in
    /// the audit log then.
    pub async fn change_endpoints(
        &self,
        who: &str,
        mut change: impl FnMut(&mut Registry, DateTime<Utc>) -> Vec<Change> + Send,
    ) -> Result<Vec<Change>> {
        let mut open = self.database.begin().await?;
        let before = registry(&mut *open).await?;
        let now = DateTime::from_timestamp_micros(open.now())
            .ok_or_else(|| Error::bug("read the time of the state database"))?;
        let mut after = before.clone();
        let changes = change(&mut after, now);
        if after == before && changes.is_empty() {
            return Ok(changes);
        }
        for id in before.keys().filter(|id| !after.contains_key(*id)) {
            let delete = "DELETE FROM endpoint WHERE id = $1";
            open.run(delete, &[Value::from(id.as_str())]).await?;
        }
        for one in after.values().filter(|one| before.get(&one.id) != Some(one)) {
            put(&mut *open, one).await?;
        }
        for Change { id, what, detail } in &changes {
            note(&mut *open, Deed { who, action: what, subject: id, detail }).await?;
        }
        open.commit().await?;
        Ok(changes)
    }

    /// Lets a database begin another incarnation in place of this one.
    pub async fn adopt(&self, database: &str, incarnation: &str, who: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        let values = [
            Value::from(database),
            Value::from(incarnation),
            Value::from(open.now()),
            Value::from(who),
        ];
        let set = "INSERT INTO adoption (name, incarnation, at, who) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET incarnation = excluded.incarnation,
                 at = excluded.at, who = excluded.who";
        open.run(set, &values).await?;
        let detail = format!("another incarnation may follow {incarnation}");
        let deed = Deed { who, action: "database.adopted", subject: database, detail: &detail };
        note(&mut *open, deed).await?;
        open.commit().await
    }

    /// Databases that may begin another incarnation.
    pub async fn adoptions(&self) -> Result<BTreeMap<String, Adoption>> {
        let mut open = self.database.begin().await?;
        let rows = open.run("SELECT name, incarnation, at FROM adoption", &[]).await?;
        let read = |row: &Row| {
            let adoption = Adoption { incarnation: row.text(1)?.to_owned(), at: row.time(2)? };
            Ok((row.text(0)?.to_owned(), adoption))
        };
        rows.iter().map(read).collect()
    }

    /// Forgets what is known of a database beside its jobs and the audit log.
    pub async fn forget_database(&self, database: &str, detail: &str, who: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        for delete in [
            "DELETE FROM member WHERE name = $1",
            "DELETE FROM looked WHERE name = $1",
            "DELETE FROM skipped WHERE name = $1",
            "DELETE FROM adoption WHERE name = $1",
            "DELETE FROM report WHERE name = $1",
            "DELETE FROM copied WHERE name = $1",
        ] {
            open.run(delete, &[Value::from(database)]).await?;
        }
        let deed = Deed { who, action: "database.forgotten", subject: database, detail };
        note(&mut *open, deed).await?;
        open.commit().await
    }
}

async fn registry(open: &mut dyn Transaction) -> Result<Registry> {
    let rows = open.run(SELECT, &[]).await?;
    rows.iter().map(|row| read(row).map(|one| (one.id.clone(), one))).collect()
}

async fn put(open: &mut dyn Transaction, one: &Registration) -> Result<()> {
    let labels = serde_json::to_string(&one.labels)
        .map_err(|cause| Error::bug("write the labels of an endpoint").caused_by(cause))?;
    let ttl = one.ttl.map(|ttl| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX));
    let trouble = one.trouble.as_ref().map(|trouble| told(trouble, TROUBLE_BYTES_MAX));
    let values = [
        Value::from(one.id.as_str()),
        Value::from(one.source.as_str()),
        Value::from(one.target.as_str()),
        Value::from(labels.as_str()),
        Value::from(one.wanted.name()),
        Value::from(ttl),
        Value::from(one.sign.as_str()),
        Value::from(one.since),
        Value::from(one.renewed),
        Value::from(one.active),
        Value::from(one.identity.as_deref()),
        Value::from(one.silent),
        Value::from(trouble.as_deref()),
        Value::from(one.drain.map(|drain| drain.since)),
        Value::from(one.drain.map(|drain| drain.until)),
        Value::from(one.drain.and_then(|drain| drain.done)),
        Value::from(one.end.map(|(at, _)| at)),
        Value::from(one.end.map(|(_, end)| end.name())),
    ];
    let set = "INSERT INTO endpoint (id, source, target, labels, wanted, ttl, sign, since, renewed,
             active, identity, silent, trouble, drain_since, drain_until, drained, ended, how)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         ON CONFLICT (id) DO UPDATE SET source = excluded.source, target = excluded.target,
             labels = excluded.labels, wanted = excluded.wanted, ttl = excluded.ttl,
             sign = excluded.sign, since = excluded.since, renewed = excluded.renewed,
             active = excluded.active, identity = excluded.identity, silent = excluded.silent,
             trouble = excluded.trouble, drain_since = excluded.drain_since,
             drain_until = excluded.drain_until, drained = excluded.drained,
             ended = excluded.ended, how = excluded.how";
    open.run(set, &values).await.map(drop)
}

fn read(row: &Row) -> Result<Registration> {
    let text = |column| row.text(column).map(str::to_owned);
    let maybe_text = |column| Ok::<_, Error>(row.maybe_text(column)?.map(str::to_owned));
    let labels: BTreeMap<String, String> = serde_json::from_str(row.text(3)?)
        .map_err(|cause| Error::bug("read the labels of an endpoint").caused_by(cause))?;
    let ttl = row.maybe_number(5)?.map(i64::unsigned_abs).map(Duration::from_micros);
    let drain = match (row.maybe_time(13)?, row.maybe_time(14)?) {
        (Some(since), Some(until)) => Some(Drain { since, until, done: row.maybe_time(15)? }),
        _ => None,
    };
    let how = if row.maybe_text(17)? == Some(End::Lost.name()) { End::Lost } else { End::Expected };
    Ok(Registration {
        id: text(0)?,
        source: text(1)?,
        target: text(2)?,
        labels,
        wanted: Wanted::named(row.text(4)?).unwrap_or_default(),
        ttl,
        sign: text(6)?,
        since: row.time(7)?,
        renewed: row.time(8)?,
        active: row.maybe_time(9)?,
        identity: maybe_text(10)?,
        silent: row.maybe_time(11)?,
        trouble: maybe_text(12)?,
        drain,
        end: row.maybe_time(16)?.map(|at| (at, how)),
    })
}
