//! Who is told of each step, as it is about to be relied on.

use std::{fmt, time::Duration};

use crate::policy::Verification;

/// A step of a run that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A plan was written down, or found.
    Planned {
        /// How many rows of the root it selects.
        rows: u64,
        /// How many bytes they take in their table.
        bytes: u64,
    },
    /// Rows of a batch were read into memory.
    Read {
        /// How many, of all tables.
        rows: u64,
    },
    /// A batch's files are durable, were read back, and are written down.
    Shelved {
        /// The batch.
        batch: u32,
        /// How many rows, of all tables.
        rows: u64,
        /// How many bytes its files have.
        bytes: u64,
    },
    /// A batch is about to be copied into destination tables.
    Copying {
        /// The batch.
        batch: u32,
    },
    /// They have it; it is about to be read back there.
    Copied {
        /// The batch.
        batch: u32,
        /// How many rows, of all tables.
        rows: u64,
    },
    /// A transaction that deletes has begun.
    Begun,
    /// A slice's rows are deleted in a transaction, and are what the file holds.
    Compared {
        /// The slice.
        slice: u32,
        /// What was compared.
        by: Verification,
    },
    /// A slice's ledger entry is in that transaction.
    Noted {
        /// The slice.
        slice: u32,
    },
    /// The transaction is about to be committed.
    Committing,
    /// It is committed.
    Committed {
        /// How many rows are gone, of all tables.
        rows: u64,
        /// How many slices.
        slices: u64,
    },
    /// Slices were left where they are for now.
    Deferred {
        /// The first one.
        slice: u32,
        /// Why.
        why: String,
    },
    /// The work rests.
    Resting {
        /// Why.
        why: String,
        /// For how long.
        length: Duration,
    },
    /// A batch is done with.
    Sealed {
        /// The batch.
        batch: u32,
    },
    /// A partition is about to be taken out of its table.
    Detaching {
        /// Which.
        partition: String,
    },
    /// It is a table of its own.
    Detached {
        /// Which.
        partition: String,
    },
    /// It is about to be dropped, and holds what the files hold.
    Dropping {
        /// Which.
        partition: String,
    },
    /// It is dropped.
    Dropped {
        /// Which.
        partition: String,
    },
    /// It is a partition again.
    Attached {
        /// Which.
        partition: String,
    },
    /// Files that count for nothing were removed.
    Removed {
        /// How many.
        files: u64,
    },
}

/// Who is told of steps.
pub trait Witness: fmt::Debug + Send + Sync {
    /// A step was taken.
    fn see(&self, step: &Step);
}

/// Nobody.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Witness for Nobody {
    fn see(&self, _step: &Step) {}
}
