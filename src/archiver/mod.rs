//! Rows of live tables, moved into files that are verified before anything is deleted.
//!
//! At every moment each row that there was is in its table, or in a slice that the ledger in the
//! database names and a durable file holds; never in neither, and never in both. What makes it so:
//! a file is read back before it is relied on, a deletion returns what it deleted, that is compared
//! row by row with what was read back, and the entry in the ledger is in the same transaction.

mod behind;
mod control;
mod document;
mod erase;
mod expire;
mod export;
pub mod file;
mod gate;
mod hold;
mod pace;
mod parts;
mod place;
mod prepare;
mod prune;
mod publish;
mod put_back;
mod read;
mod reattach;
mod reconcile;
mod rewrite;
mod run;
mod shelf;
mod shelve;
mod whole;
mod witness;
mod work;

pub use control::{Control, control, tell};
pub use document::{
    Batch, BatchMember, DOCUMENT_FORMAT, End, Expired, File, Noted, Plan, PlannedLink,
    PlannedMember, PlannedPart, Sealed, Slice, Tally, Void, key_text,
};
pub use erase::{Erased, Erasure, erase};
pub use expire::{Expiring, expire};
pub use gate::{Aged, Gate, SecondCopy};
pub use hold::{ArchiveHold, ArchiveRelease, Holds, held, hold, release};
pub use parts::{PreparedPart, prepare_part};
pub use place::Place;
pub use prepare::{Prepared, prepare};
pub use prune::Difference;
pub use publish::{duckdb_views, hive_tables};
pub use put_back::put_back;
pub use read::{Compares, Damage, FoundRows, Term, Verified, Wanted, find, verify};
pub use reattach::{Reattached, Standing, standing};
pub use reconcile::{LiveSlice, Overlap, Reconciled, compare, reconcile};
pub use run::{Archiving, Limits, Quit, RunReport};
pub use shelf::{Shelf, Shelved, ShelvedBatch};
pub use witness::{Nobody, Step, Witness};
