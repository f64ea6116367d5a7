//! Sites: when their workers were last heard of, and what these say of copies that nobody else
//! makes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

use super::{
    database::{Row, Value},
    store::State,
};

/// What is said of one copy at most.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What is known of the workers of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Since when somebody works there, or something waits for that.
    pub since: DateTime<Utc>,
    /// When a worker was last heard of, if one ever was.
    pub seen: Option<DateTime<Utc>>,
}

impl State {
    /// What is known of every site. For those of which nobody knew yet, it begins now.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn sites(
        &self,
        names: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, Site>> {
        let mut open = self.database.begin().await?;
        let now = Value::from(open.now());
        let rows = open.run("SELECT name, since, seen FROM site", &[]).await?;
        let mut known: BTreeMap<_, _> = rows.iter().map(site).collect::<Result<_>>()?;
        let before = known.len();
        for name in names {
            if !known.contains_key(name) {
                let insert = "INSERT INTO site (name, since) VALUES ($1, $2)
                     RETURNING name, since, seen";
                let rows = open.run(insert, &[Value::from(name), now.clone()]).await?;
                known.extend(rows.iter().map(site).collect::<Result<Vec<_>>>()?);
            }
        }
        if known.len() > before {
            open.commit().await?;
        }
        Ok(known)
    }

    /// Says how far a copy is.
    pub async fn say_copied(&self, database: &str, copy: &str, body: &str) -> Result<()> {
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::bug("say how far a copy is").with("bytes", body.len()));
        }
        let mut open = self.database.begin().await?;
        let now = Value::from(open.now());
        let values = [Value::from(database), Value::from(copy), now, Value::from(body)];
        let say = "INSERT INTO copied (name, copy, at, body) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name, copy) DO UPDATE SET at = excluded.at, body = excluded.body";
        open.run(say, &values).await?;
        open.commit().await
    }

    /// What was last said of the copies of a database, by their names.
    pub async fn copied(&self, database: &str) -> Result<BTreeMap<String, String>> {
        let mut open = self.database.begin().await?;
        let select = "SELECT copy, body FROM copied WHERE name = $1";
        let rows = open.run(select, &[Value::from(database)]).await?;
        let text = |row: &Row, column| row.text(column).map(str::to_owned);
        rows.iter().map(|row| Ok((text(row, 0)?, text(row, 1)?))).collect()
    }

    /// Of which copies something was said since, by database and name, what it was, and up to when.
    pub async fn copied_since(
        &self,
        since: i64,
    ) -> Result<(BTreeMap<(String, String), String>, i64)> {
        let mut open = self.database.begin().await?;
        let select = "SELECT name, copy, body, at FROM copied WHERE at > $1";
        let rows = open.run(select, &[Value::from(since)]).await?;
        let mut newest = since;
        let mut said = BTreeMap::new();
        for row in &rows {
            let text = |column| row.text(column).map(str::to_owned);
            said.insert((text(0)?, text(1)?), text(2)?);
            newest = newest.max(row.number(3)?);
        }
        Ok((said, newest))
    }
}

fn site(row: &Row) -> Result<(String, Site)> {
    Ok((row.text(0)?.to_owned(), Site { since: row.time(1)?, seen: row.maybe_time(2)? }))
}
