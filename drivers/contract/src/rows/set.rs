//! What is moved: tables, how they hang together, and stretches of them.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    alike::{Alike, Likeness},
    column::Column,
};
use crate::{Error, ErrorKind, code};

/// A table as the server has it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name, complete and quoted where that is needed, as the engine's users write it.
    pub name: String,
    /// Who it is: two tables of one name in different databases, schemas or times differ.
    pub identity: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The columns of its key, by their places in `columns`: a primary key, or another unique one
    /// without NULLs. Empty when it has none.
    pub key: Vec<usize>,
    /// Which texts those take for one, in the same order; empty where all of them compare bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alike: Vec<Alike>,
    /// A hash of everything that a change of the schema would change: columns, types, keys,
    /// triggers and constraints that see deletions.
    pub fingerprint: String,
}

impl Table {
    /// The places of its key's columns, each with which texts it takes for one.
    pub fn compared_key(&self) -> impl Iterator<Item = (usize, Alike)> {
        let alike = self.alike.iter().copied().chain(std::iter::repeat(Alike::Same));
        self.key.iter().copied().zip(alike)
    }

    /// Refuses to put rows back of which nobody could see whether they are there.
    pub fn without_key(&self, step: &'static str) -> Error {
        Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, step)
            .with("table", &self.name)
            .why(
                "it has no key of columns that were archived, by which it could be seen whether \
                 such rows are there",
            )
            .next("--staging NAME puts all of them into a table of their own")
            .next(
                "without --table and --on-conflict, they come back with rows that they hang on, \
                 where none of those is there",
            )
            .next("--table TABLE puts back rows of another table of the set alone")
    }
}

/// Rows that are moved together: those of one table that a predicate selects, and those of other
/// tables that refer to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveSet {
    /// Its name.
    pub name: String,
    /// Its tables; the first one is the root, and each other one follows the one that it refers
    /// to.
    pub members: Vec<Member>,
    /// Which rows of the root, in the engine's SQL, without `:cutoff`. It is immutable: it selects
    /// the same of the same rows at any time.
    pub predicate: String,
    /// Tables outside the set whose rows only derive from others, by their names as [`Table`] has
    /// them: what triggers delete of them while rows are moved is in no file, and is no loss.
    pub derived: Vec<String>,
}

impl ArchiveSet {
    /// The table whose rows the predicate selects.
    pub fn root(&self) -> &Member {
        self.members.first().expect("a set has a root")
    }
}

/// What a policy says of a table whose rows only derive from others, for whoever is refused.
pub fn say_derived(table: &str) -> String {
    format!("if its rows only derive from others, say so: derived = [{table:?}]")
}

/// One table of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The table, with its columns in the forms in which they are moved.
    pub table: Table,
    /// What it refers to; `None` for the root.
    pub link: Option<Link>,
}

impl Member {
    /// What will become of the rows of a table that hangs on others and has no key; `None` where it
    /// has one.
    pub fn without_key(&self) -> Option<String> {
        self.table.key.is_empty().then(|| {
            format!(
                "{}: no unique columns that are all NOT NULL: archive restore puts its rows back \
                 with rows that they hang on, as long as none of those is there, or into a new \
                 table (--staging); nobody can tell versions of them apart",
                self.table.name
            )
        })
    }
}

/// How rows of one table of a set refer to another one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The place of the table that is referred to, in [`ArchiveSet::members`].
    pub parent: usize,
    /// The columns that refer, by name.
    pub columns: Vec<String>,
    /// The columns that are referred to, by name, in the same order.
    pub parent_columns: Vec<String>,
    /// How the engine compares them, in the same order; where nothing is said, values that are
    /// written the same are one.
    pub likeness: Vec<Likeness>,
}

/// Where rows are old enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// Rows before this instant are.
    pub at: DateTime<Utc>,
    /// What the clock showed then that wrote times without a zone; must be known where there are
    /// such.
    pub local: Option<NaiveDateTime>,
    /// How the database writes times, where its columns do not say it.
    pub form: Option<CutoffForm>,
}

/// How a database without types for times writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutoffForm {
    /// As text, `2024-11-27 21:14:31`.
    Datetime,
    /// As text, `2024-11-27T21:14:31`.
    Iso8601,
    /// As text, `2024-11-27`.
    Date,
    /// As seconds since 1970.
    Unix,
    /// As milliseconds since 1970.
    UnixMs,
    /// As the days and their fractions since noon in Greenwich on November 24, 4714 B.C.
    JulianDay,
}

/// The values of a row's key: a row of only those columns, in the form of [`RowBatch`].
///
/// [`RowBatch`]: super::RowBatch
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(pub Bytes);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// A stretch of a set's root, in the order of its key as the engine compares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// It begins behind this key; `None` for the beginning.
    pub after: Option<Key>,
    /// It begins with this key, where nobody knows one before it.
    pub from: Option<Key>,
    /// It ends with this key; `None` for the end.
    pub to: Option<Key>,
}

/// The names of a table, whether its rows can be moved or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its own, complete, as [`Table`] has it.
    pub name: String,
    /// That of the whole table of which it is a partition, at any depth; its own where it is none.
    pub whole: String,
}

/// A table whose rows are in others: its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitioned {
    /// Its name, complete, as [`Table`] has it.
    pub name: String,
    /// Who it is.
    pub identity: String,
    /// Those of its partitions that have rows themselves, in an order of the engine's.
    pub partitions: Vec<Partition>,
}

/// A partition that has rows itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its name, complete, as [`Table`] has it.
    pub name: String,
    /// Who it is, whatever its name, and whether it is a partition or a table of its own.
    pub identity: String,
    /// The partitioned table of which it is a partition: the whole one, or a partition of that.
    pub parent: String,
    /// Which rows belong there, as the engine's users write it.
    pub bounds: String,
}

/// What happens where a row that is put back has the key of one that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// No row of the transaction is put back.
    Fail,
    /// The same, of rows that cannot be there, since each of them hangs on one that the transaction
    /// puts back as a new one: their table needs no key.
    Absent,
    /// The one that is there stays.
    Skip,
    /// It is replaced.
    Overwrite,
    /// It is replaced where the other one is newer by this column.
    Newer(String),
}

/// Which rows of a table come back with rows of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The columns that refer, by their names.
    pub columns: Vec<String>,
    /// The other table, as [`PutBack::begin`](super::PutBack::begin) named it.
    pub parent: String,
    /// Its columns that they refer to, in the same order.
    pub parent_columns: Vec<String>,
}

/// What became of rows that were put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutBackTally {
    /// New ones.
    pub inserted: u64,
    /// Those that replaced another one.
    pub replaced: u64,
    /// Those that did not, since another one was there.
    pub skipped: u64,
}
