//! Tables that keep copies of archived rows, in another database than the one that they come from.

use std::fmt;

use async_trait::async_trait;

use super::{
    batch::RowBatch,
    session::{LedgerEntry, RowSink},
    set::Table,
};
use crate::Result;

/// A transaction on such tables. Dropped, it is as if it had never been.
///
/// A table that is handed over has the name of the one that keeps rows, and columns and key as the
/// rows have them. Keys are rows of only the key's columns, as [`Key`](super::Key) is one.
#[async_trait]
pub trait Keeping: fmt::Debug + Send {
    /// Makes a table with the columns and the key of another one, and its own name, in a schema
    /// where the engine has those; in one of the same name as the other's where none is said. What
    /// the engine computes there are values here.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when there is one of that name;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the types of its columns are not there.
    async fn make(&mut self, of: &Table, schema: Option<&str>) -> Result<Table>;

    /// Lets a table take such rows: adds the columns that it does not have.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when a column is of another type, in which a
    /// value could be another one.
    async fn widen(&mut self, table: &Table) -> Result<()>;

    /// Adds rows, all of them.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when a row with such a key is there.
    async fn put(&mut self, table: &Table, rows: RowBatch) -> Result<()>;

    /// Hands over the rows that have some keys, in any order. Returns how many.
    async fn look(&mut self, table: &Table, keys: RowBatch, into: &mut dyn RowSink) -> Result<u64>;

    /// Deletes the rows that have some keys, and hands them over as they were. Returns how many.
    async fn remove(
        &mut self,
        table: &Table,
        keys: RowBatch,
        into: &mut dyn RowSink,
    ) -> Result<u64>;

    /// Adds an entry to the ledger.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::ErrorKind::Refused) when there is one of that set, run, batch and slice.
    async fn note(&mut self, entry: &LedgerEntry) -> Result<()>;

    /// Removes an entry from the ledger.
    async fn strike(&mut self, entry: &LedgerEntry) -> Result<()>;

    /// Makes it so, durably.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Leaves everything as it was.
    async fn roll_back(self: Box<Self>) -> Result<()>;
}
