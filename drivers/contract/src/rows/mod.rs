//! Rows of live tables, on their way into files and back.
//!
//! Nothing here decides that rows are deleted: a driver carries out one step after the other, and
//! says what each one saw.

mod alike;
mod batch;
mod column;
mod keeping;
mod outlook;
mod session;
mod set;

pub use alike::{Alike, Likeness, UNTOLD_REFERENCE};
pub use batch::{ROW_BYTES_MAX, RowBatch, RowWriter, values};
pub use column::{Class, Column, Kind};
pub use keeping::Keeping;
pub use outlook::{Explained, Held, LockTaken, Outlook, is_named, sought};
pub use session::{
    Burden, Compared, Estimate, Exporting, Lag, LedgerEntry, LogUsed, Measure, Pruning, PutBack,
    Referrer, RowSink, Rows, Space,
};
pub use set::{
    ArchiveSet, Conflict, Cutoff, CutoffForm, Followed, Key, KeyRange, Link, Member, Named,
    Partition, Partitioned, PutBackTally, Table, say_derived,
};
