//! What a state database has to be able to do: short transactions, one after the other.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Error, Result};

/// A value of a statement. Times are microseconds since 1970 in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

/// The values of a row, in the order of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub Vec<Value>);

/// A database that keeps state. Its statements are written so that every kind understands them:
/// parameters are `$1`, `$2`, ..., and first appear in that order.
#[async_trait]
pub trait Database: Debug + Send + Sync {
    /// Begins a transaction that sees and changes everything alone: of all that use the database,
    /// one at a time has one. It is short, and nobody waits for anything else within.
    ///
    /// # Errors
    ///
    /// [`Busy`](stillpoint_contract::ErrorKind::Busy) when others take too long; what keeps the
    /// database from being used.
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>>;
}

/// A transaction; dropped, it changed nothing.
#[async_trait]
pub trait Transaction: Send {
    /// When it began, by the database's clock, which is the same for everybody who uses it.
    fn now(&self) -> i64;

    /// Runs one statement, and returns its rows.
    async fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>>;

    /// Makes everything durable.
    ///
    /// # Errors
    ///
    /// [`Transient`](stillpoint_contract::ErrorKind::Transient) when the answer was lost: it may be
    /// durable or not, and whoever repeats what was done has to be safe in either case.
    async fn commit(self: Box<Self>) -> Result<()>;
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(told(text, usize::MAX))
    }
}

impl From<DateTime<Utc>> for Value {
    fn from(at: DateTime<Utc>) -> Self {
        Self::Number(at.timestamp_micros())
    }
}

/// A text that every database can keep, cut to a length in bytes.
pub(super) fn told(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max.min(text.len()));
    text[..end].replace('\0', "\u{fffd}")
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Row {
    /// The number in a column.
    pub(super) fn number(&self, column: usize) -> Result<i64> {
        self.maybe_number(column)?.ok_or_else(|| unexpected(column))
    }

    /// The number in a column, if there is one.
    pub(super) fn maybe_number(&self, column: usize) -> Result<Option<i64>> {
        match self.0.get(column) {
            Some(Value::Number(number)) => Ok(Some(*number)),
            Some(Value::Null) => Ok(None),
            _ => Err(unexpected(column)),
        }
    }

    /// The time in a column.
    pub(super) fn time(&self, column: usize) -> Result<DateTime<Utc>> {
        self.maybe_time(column)?.ok_or_else(|| unexpected(column))
    }

    /// The time in a column, if there is one.
    pub(super) fn maybe_time(&self, column: usize) -> Result<Option<DateTime<Utc>>> {
        let Some(microseconds) = self.maybe_number(column)? else { return Ok(None) };
        let time = DateTime::from_timestamp_micros(microseconds);
        time.map(Some).ok_or_else(|| unexpected(column))
    }

    /// The text in a column.
    pub(super) fn text(&self, column: usize) -> Result<&str> {
        self.maybe_text(column)?.ok_or_else(|| unexpected(column))
    }

    /// The text in a column, if there is one.
    pub(super) fn maybe_text(&self, column: usize) -> Result<Option<&str>> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(unexpected(column)),
        }
    }
}

fn unexpected(column: usize) -> Error {
    Error::bug(format!("read column {column} of the state database"))
}
