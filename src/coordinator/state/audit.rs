//! What was decided and done, in a chain of hashes: whoever changes a line breaks all that follow.

use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{
    database::{Row, Transaction, Value, told},
    store::State,
};

/// What the first line follows.
const NOTHING: &str = "";

/// The key under which lines are hashed, so that they are nothing else's hashes.
const CONTEXT: &str = "stillpoint 2026-11 line of the audit log";

/// Lines that are read in one go.
const LINES_MAX: i64 = 1_000;

/// What a line tells of one thing.
const DETAIL_BYTES_MAX: usize = 4 << 10;

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

impl State {
    /// The lines of the audit log after one, a thousand at most.
    ///
    /// # Errors
    ///
    /// What keeps the database from being used.
    pub async fn audit(&self, after: i64) -> Result<Vec<Line>> {
        let mut open = self.database.begin().await?;
        let select = "SELECT seq, at, who, action, subject, detail, hash FROM audit
             WHERE seq > $1 ORDER BY seq LIMIT $2";
        let rows = open.run(select, &[Value::from(after), Value::from(LINES_MAX)]).await?;
        rows.iter().map(line).collect()
    }

    /// Adds a line about something that was done elsewhere.
    pub async fn note(&self, who: &str, action: &str, subject: &str, detail: &str) -> Result<()> {
        let mut open = self.database.begin().await?;
        note(&mut *open, Deed { who, action, subject, detail }).await?;
        open.commit().await
    }

    /// Proves the whole log. Returns its last line, which somebody else may keep: nobody who can
    /// write the database can make another log with this line in it.
    ///
    /// # Errors
    ///
    /// The first line that is not what was written, or that is missing.
    pub async fn prove_audit(&self) -> Result<Option<Line>> {
        // Read first: what is added meanwhile follows it.
        let (seq, hash) = {
            let mut open = self.database.begin().await?;
            end(&mut *open).await?
        };
        let mut last: Option<Line> = None;
        loop {
            let lines = self.audit(last.as_ref().map_or(0, |line| line.seq)).await?;
            verify(last.as_ref(), &lines)?;
            let is_missing = |line: &Line| line.seq == seq && line.hash != hash;
            if let Some(line) = lines.iter().find(|line| is_missing(line)) {
                return Err(broken(line.seq));
            }
            match lines.into_iter().next_back() {
                Some(line) => last = Some(line),
                None => break,
            }
        }
        match &last {
            Some(line) if line.seq < seq => Err(broken(line.seq + 1)),
            None if seq > 0 => Err(broken(1)),
            _ => Ok(last),
        }
    }
}

/// Adds a line within the transaction that does what it tells.
pub(super) async fn note(open: &mut dyn Transaction, deed: Deed<'_>) -> Result<()> {
    let (seq, before) = end(open).await?;
    let (seq, at) = (seq + 1, open.now());
    let texts = [deed.who, deed.action, deed.subject, deed.detail];
    let [who, action, subject, detail] = texts.map(|text| told(text, DETAIL_BYTES_MAX));
    let deed = Deed { who: &who, action: &action, subject: &subject, detail: &detail };
    let hash = hash(&before, (seq, at), &deed);
    let values = [
        Value::from(seq),
        Value::from(at),
        Value::from(deed.who),
        Value::from(deed.action),
        Value::from(deed.subject),
        Value::from(deed.detail),
        Value::from(hash.as_str()),
    ];
    let insert = "INSERT INTO audit (seq, at, who, action, subject, detail, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7)";
    open.run(insert, &values).await?;
    let end = "UPDATE audit_end SET seq = $1, hash = $2";
    open.run(end, &[Value::from(seq), Value::from(hash.as_str())]).await.map(drop)
}

/// Number and hash of the last line.
async fn end(open: &mut dyn Transaction) -> Result<(i64, String)> {
    let rows = open.run("SELECT seq, hash FROM audit_end", &[]).await?;
    let row = rows.first().ok_or_else(|| broken(1))?;
    Ok((row.number(0)?, row.text(1)?.to_owned()))
}

fn line(row: &Row) -> Result<Line> {
    Ok(Line {
        seq: row.number(0)?,
        at: row.time(1)?,
        who: row.text(2)?.to_owned(),
        action: row.text(3)?.to_owned(),
        subject: row.text(4)?.to_owned(),
        detail: row.text(5)?.to_owned(),
        hash: row.text(6)?.to_owned(),
    })
}

/// Proves a stretch of lines that follows another one; none for the first.
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
            return Err(broken(seq + 1));
        }
        (seq, hash_before) = (line.seq, &line.hash);
    }
    Ok(())
}

fn broken(seq: i64) -> Error {
    Error::new(ErrorKind::Corrupt, code::AUDIT, "prove the audit log")
        .with("line", seq)
        .why("this line, or the one before, is not what was written")
        .next("compare with an export of the log, or with a backup of the state database")
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
