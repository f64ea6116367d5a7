//! What is known of each database beside its jobs: since when somebody looks after it, up to when
//! it could last be restored, and what stands in the way.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use stillpoint_contract::Result;

use super::{
    database::{Row, Value, told},
    store::State,
};

/// What stands in the way, for people.
const TROUBLE_BYTES_MAX: usize = 4 << 10;

/// What is known of a database, or of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Since when somebody looks after it.
    pub since: DateTime<Utc>,
    /// The newest point that could be restored when the repository was last asked.
    pub newest: Option<DateTime<Utc>>,
    /// What stands in the way of capturing its log, if anything does.
    pub trouble: Option<String>,
}

impl State {
    /// What is known of everything that somebody looks after. For what nobody did yet, that begins
    /// now.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn look_after(
        &self,
        names: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, Known>> {
        let mut open = self.database.begin().await?;
        let now = Value::from(open.now());
        let rows = open.run("SELECT name, since, newest, trouble FROM member", &[]).await?;
        let mut known: BTreeMap<_, _> = rows.iter().map(read).collect::<Result<_>>()?;
        for name in names {
            if !known.contains_key(name) {
                let insert = "INSERT INTO member (name, since) VALUES ($1, $2)
                     RETURNING name, since, newest, trouble";
                let rows = open.run(insert, &[Value::from(name), now.clone()]).await?;
                known.extend(rows.iter().map(read).collect::<Result<Vec<_>>>()?);
            }
        }
        open.commit().await?;
        Ok(known)
    }

    /// What is known of one, if anything is.
    pub async fn known(&self, name: &str) -> Result<Option<Known>> {
        let mut open = self.database.begin().await?;
        let select = "SELECT name, since, newest, trouble FROM member WHERE name = $1";
        let rows = open.run(select, &[Value::from(name)]).await?;
        rows.first().map(|row| Ok(read(row)?.1)).transpose()
    }

    /// Notes up to when a database could be restored just now.
    pub async fn saw(&self, name: &str, newest: DateTime<Utc>) -> Result<()> {
        let mut open = self.database.begin().await?;
        let update = "UPDATE member SET newest = $1 WHERE name = $2";
        open.run(update, &[Value::from(newest), Value::from(name)]).await?;
        open.commit().await
    }

    /// Notes what stands in the way of capturing a database's log, or that nothing does.
    pub async fn set_trouble(&self, name: &str, trouble: Option<&str>) -> Result<()> {
        let mut open = self.database.begin().await?;
        let trouble = trouble.map(|trouble| told(trouble, TROUBLE_BYTES_MAX));
        let update = "UPDATE member SET trouble = $1 WHERE name = $2";
        open.run(update, &[Value::from(trouble.as_deref()), Value::from(name)]).await?;
        open.commit().await
    }
}

fn read(row: &Row) -> Result<(String, Known)> {
    let trouble = row.maybe_text(3)?.map(str::to_owned);
    Ok((
        row.text(0)?.to_owned(),
        Known { since: row.time(1)?, newest: row.maybe_time(2)?, trouble },
    ))
}
