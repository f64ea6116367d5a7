//! The state database, opened.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stillpoint_contract::{Entropy, Error, Result};

use super::{
    audit::{Line, lines},
    database::Database,
    tables,
};

/// What coordinators share.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) database: Arc<dyn Database>,
    entropy: Arc<dyn Entropy>,
}

/// Lines of the audit log that are read in one go.
const LINES_MAX: i64 = 1_000;

impl State {
    /// Makes the tables where there are none.
    ///
    /// # Errors
    ///
    /// What keeps the database from being used; a newer program made it.
    pub async fn open(database: Arc<dyn Database>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        tables::prepare(&*database).await?;
        Ok(Self { database, entropy })
    }

    /// The lines of the audit log after one, a thousand at most.
    ///
    /// # Errors
    ///
    /// What keeps the database from being used.
    pub async fn audit(&self, after: i64) -> Result<Vec<Line>> {
        let mut open = self.database.begin().await?;
        lines(&mut *open, after, LINES_MAX).await
    }

    /// A new id, which sorts by the time.
    pub(super) fn new_id(&self, now: i64) -> String {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let milliseconds = u64::try_from(now / 1_000).unwrap_or_default();
        ulid::Ulid::from_parts(milliseconds, u128::from_le_bytes(random)).to_string()
    }
}

/// A time of the database.
pub(super) fn instant(microseconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(microseconds).ok_or_else(|| Error::bug("read a time"))
}
