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

    /// Has what waits done by whoever is to do it now, by database and kind: an agent, or workers
    /// of a site; nothing where that is not known. Returns how many jobs go to somebody else.
    pub async fn reassign(
        &self,
        doer_of: impl Fn(&str, &str) -> Option<(String, String)>,
        who: &str,
    ) -> Result<usize> {
        let mut open = self.database.begin().await?;
        let select = "SELECT id, name, kind, agent, site FROM job WHERE state = 'waiting'";
        let mut count = 0;
        for row in open.run(select, &[]).await? {
            let (id, name, kind) = (row.text(0)?, row.text(1)?, row.text(2)?);
            let before = (row.text(3)?, row.text(4)?);
            let Some((agent, site)) = doer_of(name, kind) else { continue };
            let next = (agent.as_str(), site.as_str());
            if next == before {
                continue;
            }
            let update = "UPDATE job SET agent = $1, site = $2 WHERE id = $3";
            let values = [Value::from(next.0), Value::from(next.1), Value::from(id)];
            open.run(update, &values).await?;
            let named = |doer: (&str, &str)| match doer {
                ("", "") => "whoever serves".to_owned(),
                ("", site) => format!("whoever works at site {site}"),
                (agent, _) => format!("agent {agent}"),
            };
            let detail = format!("{} does it, and not {}", named(next), named(before));
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
