//! Who was told what, and what is still to be told. Both change in one transaction: killed in
//! between, nothing is forgotten and nothing begins anew.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    audit::{Deed, note},
    database::{Row, Transaction, Value},
    store::State,
    tables::{number, set_number},
};
use crate::policy::{AlertKey, Board, Class, Told, Urgency};

/// Messages that wait to be sent: when nobody takes them, the oldest go.
pub const MESSAGES_MAX: usize = 1_000;

/// What was told, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBoard {
    /// What was told and is not over.
    pub board: Board,
    /// How often it was changed.
    version: i64,
}

/// A message that is to be sent. Sent twice, it has the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Its id.
    pub id: String,
    /// Since when it waits.
    pub at: DateTime<Utc>,
    /// What it says, as whoever wrote it chose.
    pub body: String,
}

/// An alert, as it is kept.
#[derive(Deserialize, Serialize)]
struct Wire {
    class: String,
    database: String,
    since: DateTime<Utc>,
    urgency: String,
    cause: Option<String>,
}

impl State {
    /// What was told and is not over.
    ///
    /// # Errors
    ///
    /// What keeps the state database from being used; so everywhere here.
    pub async fn board(&self) -> Result<KeptBoard> {
        self.board_since(None).await
    }

    /// The same, where one was read before: it is read again only if somebody has changed it.
    pub async fn board_since(&self, kept: Option<KeptBoard>) -> Result<KeptBoard> {
        let mut open = self.database.begin().await?;
        let version = number(&mut *open, "board").await?.unwrap_or_default();
        if let Some(kept) = kept.filter(|kept| kept.version == version) {
            return Ok(kept);
        }
        let rows = open.run("SELECT key, body FROM alert", &[]).await?;
        let alerts = rows.iter().map(|row| unwire(row.text(1)?)).collect::<Result<Vec<_>>>()?;
        Ok(KeptBoard { board: Board::new(alerts), version })
    }

    /// Keeps what was told, and what is to be sent because of it, unless somebody else has changed
    /// it meanwhile. What to go on from, then; otherwise the board has to be read again.
    pub async fn set_board(
        &self,
        kept: &KeptBoard,
        messages: &[String],
    ) -> Result<Option<KeptBoard>> {
        let mut open = self.database.begin().await?;
        if number(&mut *open, "board").await?.unwrap_or_default() != kept.version {
            return Ok(None);
        }
        let version = kept.version + 1;
        set_number(&mut *open, "board", version).await?;
        let rows = open.run("SELECT key, body FROM alert", &[]).await?;
        let mut stored = std::collections::BTreeMap::new();
        for row in &rows {
            stored.insert(row.text(0)?, row.text(1)?);
        }
        for (key, told) in kept.board.open() {
            let (key, body) = (name(key), wire(key, told)?);
            let before = stored.remove(key.as_str());
            if before.is_none() {
                let since = told.since.to_rfc3339_opts(SecondsFormat::Micros, true);
                tell(&mut *open, "alert.raised", &key, &format!(" since {since}")).await?;
            }
            if before != Some(body.as_str()) {
                let set = "INSERT INTO alert (key, body) VALUES ($1, $2)
                     ON CONFLICT (key) DO UPDATE SET body = excluded.body";
                open.run(set, &[Value::from(key.as_str()), Value::from(body.as_str())]).await?;
            }
        }
        for over in stored.into_keys() {
            tell(&mut *open, "alert.over", over, "").await?;
            open.run("DELETE FROM alert WHERE key = $1", &[Value::from(over)]).await?;
        }
        for body in messages {
            let (id, now) = (self.new_id(open.now()), Value::from(open.now()));
            let insert = "INSERT INTO message (id, at, body) VALUES ($1, $2, $3)";
            let values = [Value::from(id.as_str()), now, Value::from(body.as_str())];
            open.run(insert, &values).await?;
        }
        if !messages.is_empty() {
            let forget = "DELETE FROM message WHERE id < (SELECT min(id) FROM (
                 SELECT id FROM message ORDER BY id DESC LIMIT $1) AS newest)";
            let most = i64::try_from(MESSAGES_MAX).unwrap_or(i64::MAX);
            open.run(forget, &[Value::from(most)]).await?;
        }
        open.commit().await?;
        Ok(Some(KeptBoard { board: kept.board.clone(), version }))
    }

    /// What is still to be sent, the oldest first.
    pub async fn unsent(&self) -> Result<Vec<Unsent>> {
        let mut open = self.database.begin().await?;
        let rows = open.run("SELECT id, at, body FROM message ORDER BY id", &[]).await?;
        let read = |row: &Row| {
            let (id, body) = (row.text(0)?.to_owned(), row.text(2)?.to_owned());
            Ok(Unsent { id, at: row.time(1)?, body })
        };
        rows.iter().map(read).collect()
    }

    /// Notes that a message was sent.
    pub async fn sent(&self, id: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        open.run("DELETE FROM message WHERE id = $1", &[Value::from(id)]).await?;
        open.commit().await
    }
}

/// Notes what becomes of an alert: what is told and over is remembered nowhere else.
async fn tell(open: &mut dyn Transaction, action: &str, key: &str, more: &str) -> Result<()> {
    let (class, database) = key.split_once(' ').unwrap_or((key, ""));
    let detail = format!("{class}{more}");
    let deed = Deed { who: "coordinator", action, subject: database, detail: &detail };
    note(open, deed).await
}

fn name((class, database): &AlertKey) -> String {
    format!("{} {database}", class.name())
}

fn wire((class, database): &AlertKey, told: &Told) -> Result<String> {
    let wire = Wire {
        class: class.name().to_owned(),
        database: database.clone(),
        since: told.since,
        urgency: told.urgency.name().to_owned(),
        cause: told.cause.clone(),
    };
    serde_json::to_string(&wire).map_err(|cause| Error::bug("keep an alert").caused_by(cause))
}

fn unwire(body: &str) -> Result<(AlertKey, Told)> {
    let unknown = || {
        Error::new(ErrorKind::Unsupported, code::STATE, "read what was told")
            .with("alert", body)
            .why("a newer version of this program wrote it")
            .next("run the newer version")
    };
    let wire: Wire = serde_json::from_str(body).map_err(|cause| unknown().caused_by(cause))?;
    let class = Class::ALL.into_iter().find(|class| class.name() == wire.class);
    let urgency = Urgency::ALL.into_iter().find(|urgency| urgency.name() == wire.urgency);
    let (class, urgency) = class.zip(urgency).ok_or_else(unknown)?;
    let told = Told { since: wire.since, urgency, cause: wire.cause };
    Ok(((class, wire.database), told))
}
