//! What an engine must be able to do so that rows can be moved out of its tables, and back.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    alike::Likeness,
    batch::RowBatch,
    keeping::Keeping,
    outlook::{LockTaken, Outlook},
    set::{
        ArchiveSet, Conflict, Cutoff, Followed, Key, KeyRange, Named, Partition, Partitioned,
        PutBackTally, Table,
    },
};
use crate::{Error, ErrorKind, Finding, Result, code};

/// A session that moves rows.
///
/// # Contract
///
/// Checked by `stillpoint-conformance` for every engine:
///
/// - A row has the same bytes each time it is read, by whatever method, unless it was changed.
/// - What [`Pruning::delete`] hands over are the rows that are gone once it commits, and no others,
///   of whatever table: what triggers delete besides is refused, save of tables of which the set
///   says that their rows only derive from others.
/// - A ledger entry is there exactly when its transaction committed.
/// - Dropping any of these, or any future of theirs, leaves the database as it was: no open
///   transaction, no lock.
/// - Times and numbers look the same whatever the session's, role's or server's settings are.
#[async_trait]
pub trait Rows: fmt::Debug + Send {
    /// The time by the database's clock.
    async fn now(&mut self) -> Result<DateTime<Utc>>;

    /// Looks at a table.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none of that name;
    /// [`Unsupported`](ErrorKind::Unsupported) when its rows cannot be moved, such as those of a
    /// view.
    async fn table(&mut self, name: &str) -> Result<Table>;

    /// Looks at a table, and takes the columns of one of its unique indexes for its key.
    ///
    /// # Errors
    ///
    /// As [`table`](Self::table); [`Missing`](ErrorKind::Missing) when it has no index of that name
    /// that holds all rows and no NULLs.
    async fn table_by(&mut self, name: &str, index: &str) -> Result<Table>;

    /// The names of a table, also of one whose rows cannot be moved, or are in its partitions.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is none of that name;
    /// [`Unsupported`](ErrorKind::Unsupported) when it has no rows at all, such as a view.
    async fn named(&mut self, name: &str) -> Result<Named> {
        let name = self.table(name).await?.name;
        Ok(Named { whole: name.clone(), name })
    }

    /// Looks at the partitions of a table; `None` when it is not partitioned.
    ///
    /// # Errors
    ///
    /// [`Missing`](ErrorKind::Missing) when there is no table of that name.
    async fn partitions(&mut self, _name: &str) -> Result<Option<Partitioned>> {
        Ok(None)
    }

    /// Why a partition is better not taken out of its table as a whole, `None` when it may be: new
    /// rows must not want to go there, and nobody must miss that its rows were not deleted.
    ///
    /// The root of the set is the partition. Whether it holds rows that are not selected is
    /// another question: [`strays`](Self::strays).
    async fn why_not_whole(
        &mut self,
        _set: &ArchiveSet,
        _partition: &Partition,
    ) -> Result<Option<String>> {
        Ok(Some("this engine takes no partitions out".to_owned()))
    }

    /// How many rows of the root are not selected, also since the predicate is unknown of them;
    /// counted, not guessed.
    async fn strays(&mut self, _set: &ArchiveSet) -> Result<u64> {
        Err(unsupported("count rows that are not selected"))
    }

    /// Takes a partition out of its table, so that it is a table of its own, and returns that;
    /// `None` when there is none any more. Goes on with what was begun, and does nothing where
    /// everything is done.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when others work with the table for longer than we may wait:
    /// then it is a partition, or on its way out.
    async fn detach(&mut self, _partition: &Partition) -> Result<Option<Table>> {
        Err(unsupported("take a partition out"))
    }

    /// What is locked until a partition is gone that leaves its table as a whole: while it is taken
    /// out, read, compared and dropped, as far as that was not done yet. Changes nothing.
    async fn leaving(&mut self, _partition: &Partition) -> Result<Vec<LockTaken>> {
        Err(unsupported("say what is locked while a partition leaves"))
    }

    /// The tables that refer to a table, by their names, and the links: all of them, whatever
    /// happens to their rows when rows of the table are deleted.
    async fn referrers(&mut self, table: &Table) -> Result<Vec<Referrer>>;

    /// Puts the cutoff into a predicate, where it says `:cutoff`, as what is compared there.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the predicate is none, selects other rows at other
    /// times, looks at other tables, or compares the cutoff with something that is no time.
    async fn bind(
        &mut self,
        table: &Table,
        predicate: &str,
        cutoff: Option<&Cutoff>,
    ) -> Result<String>;

    /// What a predicate compares with the cutoff, as the selected rows of a set have it, and what
    /// speaks against that; `None` where types settle it.
    async fn compared(
        &mut self,
        _set: &ArchiveSet,
        _predicate: &str,
        _cutoff: &Cutoff,
    ) -> Result<Option<Compared>> {
        Ok(None)
    }

    /// Everything that speaks against moving a set, and what would change it. Changes nothing.
    ///
    /// That files do not tell which rows hang on which ([`Likeness::is_untold`]) is advice about an
    /// [`UNTOLD_REFERENCE`](super::UNTOLD_REFERENCE): whoever has to know that by files refuses it.
    /// What the engine itself does not tell for certain is lacking.
    async fn examine(&mut self, set: &ArchiveSet) -> Result<Vec<Finding>>;

    /// The triggers of a set's tables that fire when rows of them are deleted, as people name them.
    async fn deletion_triggers(&mut self, _set: &ArchiveSet) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// How many rows of the root are selected; counted, not guessed.
    async fn estimate(&mut self, set: &ArchiveSet) -> Result<Estimate>;

    /// What moving a set will do to the server, where so many rows of the root are read at once.
    /// Changes nothing.
    async fn outlook(&mut self, set: &ArchiveSet, rows: u64, estimate: Estimate)
    -> Result<Outlook>;

    /// Waits until nobody else moves rows of a set, and not even a transaction of somebody who is
    /// gone can commit any more; keeps others out as long as the session lives.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when somebody else is at it for longer than `patience`.
    async fn lock(&mut self, set: &str, patience: Duration) -> Result<()>;

    /// Makes the ledger if there is none: the table `archive_ledger`, in a schema `stillpoint`
    /// where the engine has schemas, else with that as its prefix.
    async fn open_ledger(&mut self) -> Result<()>;

    /// What the ledger says of a set, in the order of runs, batches and slices; nothing where
    /// there is no ledger.
    async fn ledger(&mut self, set: &str) -> Result<Vec<LedgerEntry>>;

    /// Why versions of a set's rows cannot stand for the rows themselves, where what was read is
    /// compared with what is deleted; `None` where they can: a version never changes, and as long
    /// as the sessions that read and delete live, no other one can be taken for it.
    async fn why_no_versions(&mut self, _set: &ArchiveSet) -> Result<Option<String>> {
        Ok(Some("this engine does not tell versions of rows apart".to_owned()))
    }

    /// Opens a read of one state of the database.
    async fn snapshot(&mut self) -> Result<Box<dyn Exporting + '_>>;

    /// Opens a transaction that deletes, after [`lock`](Self::lock).
    async fn prune(&mut self) -> Result<Box<dyn Pruning + '_>>;

    /// Opens a transaction that puts rows back.
    async fn put_back(&mut self) -> Result<Box<dyn PutBack + '_>>;

    /// What tells the database from all others: what the identities of its tables begin with.
    async fn whose(&mut self) -> Result<String> {
        Err(keeps_none("tell the database from others"))
    }

    /// The table that [`Keeping::make`] would make, if it is there.
    async fn twin(&mut self, _of: &Table, _schema: Option<&str>) -> Result<Option<Table>> {
        Err(keeps_none("look for a table"))
    }

    /// Opens a transaction on tables that keep copies of rows, after [`lock`](Self::lock).
    async fn keep(&mut self) -> Result<Box<dyn Keeping + '_>> {
        Err(keeps_none("keep copies of rows"))
    }

    /// How the server fares, for those who slow down.
    async fn burden(&mut self, set: &ArchiveSet) -> Result<Burden>;

    /// Why [`burden`](Self::burden) does not tell what a limit is about; `None` where it does.
    /// [`Lacking`](crate::Weight::Lacking) where the engine has no such thing to tell of the
    /// database as it is, [`Advice`](crate::Weight::Advice) where the session may be let see it at
    /// any time.
    async fn untold(&mut self, _measure: Measure) -> Result<Option<Finding>> {
        Ok(None)
    }

    /// How much space a table takes.
    async fn space(&mut self, table: &Table) -> Result<Space>;

    /// How much space the file takes that all tables share, and what of it none of them has;
    /// `None` where each has files of its own.
    async fn file_space(&mut self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Lets the engine use the space of deleted rows again, and says what was done.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for a method that the engine does not have.
    async fn reclaim(&mut self, _table: &Table, method: &str) -> Result<String> {
        Err(Error::new(ErrorKind::Unsupported, code::USAGE, "reclaim space").with("method", method))
    }
}

fn unsupported(step: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, step)
        .why("this engine takes no partitions out of their tables")
}

fn tells_none(step: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, step)
        .why("this engine does not tell versions of rows apart")
}

fn keeps_none(step: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, step)
        .why("tables of this engine keep no copies of archived rows")
}

/// A table that refers to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its name.
    pub table: String,
    /// The name of the constraint, or what comes closest.
    pub constraint: String,
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The columns that are referred to, in the same order.
    pub parent_columns: Vec<String>,
    /// How the engine compares them, as [`Link`](super::Link) has it.
    pub likeness: Vec<Likeness>,
    /// Whether deleting a row deletes or changes those that refer to it; otherwise it fails.
    pub is_cascading: bool,
}

impl Referrer {
    /// What is found where it is none of a set's links to `parent`, and what a policy says so that
    /// it becomes one: a table hangs on one other, by one reference.
    pub fn outside(&self, set: &ArchiveSet, parent: &str) -> (String, Option<String>) {
        let Self { table, constraint, .. } = self;
        let then = if self.is_cascading {
            "its rows would be deleted or changed without having been copied"
        } else {
            "rows that it refers to cannot be deleted"
        };
        if set.members.iter().any(|member| member.table.name == *table) {
            let found = format!(
                "{table} refers to {parent} by {constraint}, too: {then}; rows that hang on two \
                 rows, or on one of their own table, are not moved as long as it is there"
            );
            return (found, None);
        }
        let found =
            format!("{table} refers to {parent} and is not in the set ({constraint}): {then}");
        let columns: Vec<String> = self.columns.iter().map(|one| text(one)).collect();
        let by = match columns.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        (found, Some(format!("children = [{{ table = {}, fk = {by} }}]", text(table))))
    }
}

/// Text of a policy. Names with quotes of one kind are between those of the other.
fn text(value: &str) -> String {
    if !value.contains('\'') {
        return format!("'{value}'");
    }
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}

/// Who takes rows.
#[async_trait]
pub trait RowSink: Send {
    /// Takes some.
    ///
    /// # Errors
    ///
    /// Whoever hands them over gives up, and returns this error.
    async fn put(&mut self, rows: RowBatch) -> Result<()>;
}

/// A read of one state of the database.
#[async_trait]
pub trait Exporting: fmt::Debug + Send {
    /// The position of that state in the log, as the engine prints it, where it has one.
    async fn position(&mut self) -> Result<Option<String>>;

    /// Hands over rows of the root, in the order of its key and at most so many. Returns how many.
    async fn root(
        &mut self,
        set: &ArchiveSet,
        range: &KeyRange,
        rows_max: u64,
        into: &mut dyn RowSink,
    ) -> Result<u64>;

    /// A key of a table as it is once columns are in other forms: those of `to`, instead of those
    /// of `from`. Nothing else differs between the two.
    async fn convert(&mut self, _from: &Table, _to: &Table, key: &Key) -> Result<Key> {
        Ok(key.clone())
    }

    /// Hands over the rows of a member that hang on rows of the root in a range, in any order.
    /// Returns how many.
    async fn member(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64>;

    /// Hands over what tells versions of rows from all others: of the rows of a member that hang on
    /// rows of the root in a range (for the root, of those rows), in any order. Returns how many.
    async fn versions(
        &mut self,
        _set: &ArchiveSet,
        _member: usize,
        _range: &KeyRange,
        _into: &mut dyn RowSink,
    ) -> Result<u64> {
        Err(tells_none("read versions of rows"))
    }
}

/// A transaction that deletes. Dropped, it is as if it had never been.
#[async_trait]
pub trait Pruning: fmt::Debug + Send {
    /// Makes sure that nobody changes the schema of the set's tables before the end, and returns
    /// their fingerprints, as [`Table`] has them.
    async fn fingerprints(&mut self, set: &ArchiveSet) -> Result<Vec<String>>;

    /// Keeps others from adding rows that hang on rows of the set in a range, until the end: what
    /// is not committed yet is waited for. Nothing where nobody else can write meanwhile.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when somebody else is at it for long.
    async fn hold(&mut self, _set: &ArchiveSet, _range: &KeyRange) -> Result<()> {
        Ok(())
    }

    /// Deletes rows of a member that hang on rows of the root in a range (for the root, those
    /// rows), and hands them over as they were. Returns how many.
    ///
    /// Members that refer to others go first.
    async fn delete(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64>;

    /// Deletes as [`delete`](Self::delete) does, and hands over what [`Exporting::versions`] does,
    /// instead of the rows.
    async fn delete_versions(
        &mut self,
        _set: &ArchiveSet,
        _member: usize,
        _range: &KeyRange,
        _into: &mut dyn RowSink,
    ) -> Result<u64> {
        Err(tells_none("delete versions of rows"))
    }

    /// Keeps everybody else from the root, which is a table that was a partition, until the end.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when others use it for longer than we may wait.
    async fn seize(&mut self, _set: &ArchiveSet) -> Result<()> {
        Err(unsupported("keep others from a table"))
    }

    /// Hands over rows of the root in a range as they are now, selected or not. Returns how many.
    async fn look(
        &mut self,
        _set: &ArchiveSet,
        _range: &KeyRange,
        _into: &mut dyn RowSink,
    ) -> Result<u64> {
        Err(unsupported("look at the rows of a table"))
    }

    /// Drops the root, after [`seize`](Self::seize).
    async fn discard(&mut self, _set: &ArchiveSet) -> Result<()> {
        Err(unsupported("drop a table"))
    }

    /// Makes the root the partition that it was, after [`seize`](Self::seize).
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when it holds rows that do not belong there.
    async fn attach(&mut self, _set: &ArchiveSet, _partition: &Partition) -> Result<()> {
        Err(unsupported("put a partition back"))
    }

    /// Adds an entry to the ledger.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when the slice has one already.
    async fn note(&mut self, entry: &LedgerEntry) -> Result<()>;

    /// Removes an entry from the ledger, since its rows are put back.
    async fn strike(&mut self, entry: &LedgerEntry) -> Result<()>;

    /// Makes it so, unless other rows of the tables would be gone, too, or deleted ones are back.
    ///
    /// # Errors
    ///
    /// [`Transient`](ErrorKind::Transient) also when the outcome is unknown: the ledger knows, once
    /// [`Rows::lock`] was taken anew. [`Refused`](ErrorKind::Refused) with
    /// [`ROWS_DIFFER`](code::ROWS_DIFFER) when something interferes, and with
    /// [`ROWS_REFUSED`](code::ROWS_REFUSED) when rows of tables that are not in the set would be
    /// gone; nothing is deleted then. An engine that knows it before says so when rows are deleted.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Leaves everything as it was.
    async fn roll_back(self: Box<Self>) -> Result<()>;
}

/// A slice whose rows are gone from the table: an entry of the ledger in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The set.
    pub set: String,
    /// The run.
    pub run: String,
    /// The batch of the run.
    pub batch: u32,
    /// The slice of the batch.
    pub slice: u32,
    /// How many rows, of all tables.
    pub rows: u64,
    /// The hash of them all, as hexadecimal text.
    pub hash: String,
    /// When, by the database's clock; whoever notes an entry leaves that to the database.
    pub at: Option<DateTime<Utc>>,
    /// The position in the log, as the engine prints it, where it has one; left to the database,
    /// too.
    pub position: Option<String>,
}

/// A transaction that puts rows of any number of tables back, those of one after those of another.
/// Dropped, it is as if it had never been.
#[async_trait]
pub trait PutBack: fmt::Debug + Send {
    /// Begins with rows of a table, and returns the name of the one that takes them, as
    /// [`Rows::table`] finds it. With `staging`, that is a new table of that name, which is made
    /// in the same schema, and in the same transaction.
    ///
    /// `table` is what rows look like; columns that the table has besides get what they have by
    /// default, generated ones are left to the engine. One that the transaction made takes all
    /// rows where it has no key.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) when the table as it is now cannot take the rows, or
    /// has no key, unless they are [`Absent`](Conflict::Absent).
    async fn begin(
        &mut self,
        table: &Table,
        conflict: &Conflict,
        staging: Option<&str>,
    ) -> Result<String>;

    /// The same for rows that come back with others, which were begun with
    /// [`Newer`](Conflict::Newer) or with this: those that refer to a row that the transaction put
    /// back, a new one or in place of another, are put back as well, and replace those with their
    /// keys. The others are skipped.
    ///
    /// # Errors
    ///
    /// As those of [`begin`](Self::begin).
    async fn follow(&mut self, table: &Table, followed: &Followed) -> Result<String>;

    /// Puts rows back.
    async fn rows(&mut self, rows: RowBatch) -> Result<()>;

    /// Ends what was begun.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) when rows with such keys are there, and that is not allowed.
    async fn end(&mut self) -> Result<PutBackTally>;

    /// Makes all of it so, if the rows are what was handed over, whatever triggers there are.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) with [`code::ROWS_DIFFER`] when a row is missing, or has
    /// another value than was handed over.
    async fn commit(self: Box<Self>) -> Result<()>;
}

/// What is to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// How many rows of the root: none only if there are none.
    pub rows: u64,
    /// How many bytes they take, about.
    pub bytes: u64,
    /// Whether there are so many rows that they were not counted.
    pub is_estimated: bool,
}

/// What selected rows have where the cutoff is compared. Not all of them may have been looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// What it is, in the engine's SQL.
    pub what: String,
    /// The least value, as text.
    pub oldest: Option<String>,
    /// The greatest value, as text.
    pub newest: Option<String>,
    /// Values that are none of the form in which the cutoff is written.
    pub misfit: Option<Finding>,
}

/// What a limit is about, for those who slow down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How many bytes of log are written.
    LogWritten,
    /// How much log has to be kept.
    LogUsed,
    /// How many dead rows there are.
    DeadRows,
    /// How many sessions are working.
    Sessions,
}

/// How a server fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burden {
    /// How far behind its replicas are.
    pub lag: Lag,
    /// How many bytes of log were written since an arbitrary beginning, which may be another one
    /// for each session; `None` where nobody can tell, as of the others.
    pub log_bytes: Option<u128>,
    /// How many dead rows its tables of the set have.
    pub dead_rows: Option<u64>,
    /// How many sessions are working.
    pub active: Option<u32>,
    /// How much log the server has to keep.
    pub log_used: Option<LogUsed>,
}

/// How much log a server has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogUsed {
    /// So many bytes, that cannot be written over yet.
    pub bytes: u64,
    /// Of so many that it is to have.
    pub room: u64,
}

/// How far behind replicas are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// There are none.
    NoReplica,
    /// The slowest one, so much.
    Behind(Duration),
    /// Nobody can tell.
    Unknown,
}

/// How much space a table takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// With its indexes.
    pub total_bytes: u64,
    /// What of that new rows can use, about.
    pub reusable_bytes: u64,
}
