//! What agents say: that they live, and where the databases stand that only they can ask for.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    audit::{Deed, note},
    database::Value,
    store::State,
};

/// What is said of one database at most.
const REPORT_BYTES_MAX: usize = 256 << 10;

impl State {
    /// When each agent was last heard of.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn agents(&self) -> Result<BTreeMap<String, DateTime<Utc>>> {
        let mut open = self.database.begin().await?;
        let rows = open.run("SELECT name, seen FROM agent", &[]).await?;
        rows.iter().map(|row| Ok((row.text(0)?.to_owned(), row.time(1)?))).collect()
    }

    /// Has what waits done by whoever is to do it now, by database and kind; nothing where that is
    /// not known. Returns how many jobs go to somebody else.
    pub async fn reassign(
        &self,
        agent_of: impl Fn(&str, &str) -> Option<String>,
        who: &str,
    ) -> Result<usize> {
        let mut open = self.database.begin().await?;
        let select = "SELECT id, name, kind, agent FROM job WHERE state = 'waiting'";
        let mut count = 0;
        for row in open.run(select, &[]).await? {
            let (id, name, kind, before) = (row.text(0)?, row.text(1)?, row.text(2)?, row.text(3)?);
            let Some(agent) = agent_of(name, kind).filter(|agent| agent != before) else {
                continue;
            };
            let update = "UPDATE job SET agent = $1 WHERE id = $2";
            open.run(update, &[Value::from(agent.as_str()), Value::from(id)]).await?;
            let named = |agent: &str| match agent {
                "" => "whoever serves".to_owned(),
                agent => format!("agent {agent}"),
            };
            let detail = format!("{} does it, and not {}", named(&agent), named(before));
            let deed = Deed { who, action: "job.reassigned", subject: id, detail: &detail };
            note(&mut *open, deed).await?;
            count += 1;
        }
        open.commit().await?;
        Ok(count)
    }

    /// Says where a database stands.
    pub async fn report(&self, database: &str, body: &str) -> Result<()> {
        if body.len() > REPORT_BYTES_MAX {
            return Err(Error::bug("say where a database stands").with("bytes", body.len()));
        }
        let mut open = self.database.begin().await?;
        let values = [Value::from(database), Value::from(open.now()), Value::from(body)];
        let report = "INSERT INTO report (name, at, body) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET at = excluded.at, body = excluded.body";
        open.run(report, &values).await?;
        open.commit().await
    }

    /// What an agent last said of a database.
    pub async fn reported(&self, database: &str) -> Result<Option<String>> {
        let mut open = self.database.begin().await?;
        let select = "SELECT body FROM report WHERE name = $1";
        let rows = open.run(select, &[Value::from(database)]).await?;
        rows.first().map(|row| row.text(0).map(str::to_owned)).transpose()
    }

    /// Of which databases something else was said since, and up to when.
    pub async fn reported_since(&self, since: i64) -> Result<(Vec<String>, i64)> {
        let mut open = self.database.begin().await?;
        let select = "SELECT name, at FROM report WHERE at > $1";
        let rows = open.run(select, &[Value::from(since)]).await?;
        let mut newest = since;
        let mut names = Vec::new();
        for row in &rows {
            names.push(row.text(0)?.to_owned());
            newest = newest.max(row.number(1)?);
        }
        Ok((names, newest))
    }
}
