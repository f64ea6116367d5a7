//! Since when somebody looks after each database and repository.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use stillpoint_contract::Result;

use super::{
    database::{Row, Value},
    store::State,
};

impl State {
    /// Whether somebody looks after it already.
    pub async fn has_seen(&self, name: &str) -> Result<bool> {
        let mut open = self.database.begin().await?;
        let select = "SELECT name FROM member WHERE name = $1";
        Ok(!open.run(select, &[Value::from(name)]).await?.is_empty())
    }

    /// Since when somebody looks after each that somebody does.
    pub async fn looked_after(&self) -> Result<BTreeMap<String, DateTime<Utc>>> {
        self.look_after([]).await
    }

    /// Since when each of these databases is looked after: since now, if it was not yet.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used.
    pub async fn look_after(
        &self,
        names: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, DateTime<Utc>>> {
        let mut open = self.database.begin().await?;
        let now = Value::from(open.now());
        let read = |row: &Row| Ok((row.text(0)?.to_owned(), row.time(1)?));
        let rows = open.run("SELECT name, since FROM member", &[]).await?;
        let mut known: BTreeMap<_, _> = rows.iter().map(read).collect::<Result<_>>()?;
        for name in names {
            if !known.contains_key(name) {
                let insert =
                    "INSERT INTO member (name, since) VALUES ($1, $2) RETURNING name, since";
                let rows = open.run(insert, &[Value::from(name), now.clone()]).await?;
                known.extend(rows.iter().map(read).collect::<Result<Vec<_>>>()?);
            }
        }
        open.commit().await?;
        Ok(known)
    }
}
