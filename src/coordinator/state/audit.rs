//! What was decided and done, in a chain of hashes: whoever changes a line breaks all that follow.

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    database::{Row, Transaction, Value},
    store::instant,
};

/// What the first line follows.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The key under which lines are hashed, so that they are nothing else's hashes.
const CONTEXT: &str = "stillpoint 2026-11 line of the audit log";

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who: a worker, or a person.
    pub who: String,
    /// What was done, such as `job.claimed`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More about it.
    pub detail: String,
    /// The hash of this line and the one before.
    pub hash: String,
}

/// What is added to the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deed<'a> {
    pub(super) who: &'a str,
    pub(super) action: &'a str,
    pub(super) subject: &'a str,
    pub(super) detail: &'a str,
}

/// Adds a line within the transaction that does what it tells.
pub(super) async fn note(open: &mut dyn Transaction, deed: Deed<'_>) -> Result<()> {
    let last = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
    let last = open.run(last, &[]).await?;
    let (seq, before) = match last.first() {
        Some(row) => (row.number(0)? + 1, row.text(1)?.to_owned()),
        None => (1, NOTHING.to_owned()),
    };
    let at = open.now().await?;
    let hash = hash(&before, (seq, at), &deed);
    let values = [
        Value::from(seq),
        Value::from(at),
        Value::from(deed.who),
        Value::from(deed.action),
        Value::from(deed.subject),
        Value::from(deed.detail),
        Value::from(hash),
    ];
    let insert = "INSERT INTO audit (seq, at, who, action, subject, detail, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7)";
    open.run(insert, &values).await.map(drop)
}

/// The lines after one, at most so many.
pub(super) async fn lines(open: &mut dyn Transaction, after: i64, most: i64) -> Result<Vec<Line>> {
    let select = "SELECT seq, at, who, action, subject, detail, hash FROM audit
         WHERE seq > $1 ORDER BY seq LIMIT $2";
    let rows = open.run(select, &[Value::from(after), Value::from(most)]).await?;
    rows.iter().map(line).collect()
}

fn line(row: &Row) -> Result<Line> {
    Ok(Line {
        seq: row.number(0)?,
        at: instant(row.number(1)?)?,
        who: row.text(2)?.to_owned(),
        action: row.text(3)?.to_owned(),
        subject: row.text(4)?.to_owned(),
        detail: row.text(5)?.to_owned(),
        hash: row.text(6)?.to_owned(),
    })
}

/// Proves a stretch of lines that follows one with the hash `before`; none for the first.
/// Returns the hash of the last one.
///
/// # Errors
///
/// The first line that is not what was written, or that is missing.
pub fn verify(before: Option<&Line>, lines: &[Line]) -> Result<()> {
    let (mut seq, mut hash_before) = match before {
        Some(line) => (line.seq, line.hash.as_str()),
        None => (0, NOTHING),
    };
    for line in lines {
        let deed = Deed {
            who: &line.who,
            action: &line.action,
            subject: &line.subject,
            detail: &line.detail,
        };
        let expected = hash(hash_before, (line.seq, line.at.timestamp_micros()), &deed);
        if line.seq != seq + 1 || line.hash != expected {
            return Err(Error::new(ErrorKind::Corrupt, code::AUDIT, "prove the audit log")
                .with("line", seq + 1)
                .why("this line, or the one before, is not what was written"));
        }
        (seq, hash_before) = (line.seq, &line.hash);
    }
    Ok(())
}

fn hash(before: &str, (seq, at): (i64, i64), deed: &Deed<'_>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&seq.to_le_bytes()).update(&at.to_le_bytes());
    for text in [before, deed.who, deed.action, deed.subject, deed.detail] {
        // With its length, so that no text can pretend to be two.
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
