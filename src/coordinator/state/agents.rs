//! What agents say: that they live, and where the databases stand that only they can ask for.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::{database::Value, store::State};

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
