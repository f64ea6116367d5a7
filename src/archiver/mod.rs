//! Rows of live tables, moved into files that are verified before anything is deleted.
//!
//! At every moment each row that there was is in its table, or in a slice that the ledger in the
//! database names and a durable file holds; never in neither, and never in both. What makes it so:
//! a file is read back before it is relied on, a deletion returns what it deleted, that is compared
//! row by row with what was read back, and the entry in the ledger is in the same transaction.

mod again;
mod anew;
mod behind;
mod bounds;
mod came_back;
mod condition;
mod control;
mod copy;
mod cut_off;
mod destination;
mod document;
mod encryption;
mod erase;
mod event;
mod expire;
mod export;
pub mod file;
mod forecast;
mod form;
pub mod fuzz;
mod garbage;
mod gate;
mod give_up;
mod hold;
mod homes;
#[cfg(feature = "parquet")]
mod iceberg;
mod identity;
mod keyring;
mod likeness;
mod load;
mod meaning;
mod mend;
mod names;
mod newest;
mod newest_view;
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
mod rest;
mod rewrite;
mod run;
mod second;
mod shelf;
mod shelve;
mod subject;
mod twins;
mod unnamed;
mod untold;
mod whole;
mod withdraw;
mod witness;
mod word;
mod work;

pub use again::Left;
pub use came_back::CameBack;
pub use condition::{Compares, Term};
pub use control::{Control, Since, control, tell};
pub use destination::{Copies, Destination};
pub use document::{
    Batch, BatchMember, DOCUMENT_FORMAT, End, Expired, File, FileEncryption, Noted, Plan,
    PlannedLink, PlannedMember, PlannedPart, Sealed, Slice, Tally, Void, key_text,
};
pub use erase::{Erased, Erasing, Erasure, ErasureRevoked, erase, erasures, heed_erasures, revoke};
pub use event::{ArchiveEvent, ArchiveWithdrawal, events, record, withdraw};
pub use expire::{Expiring, Expiry, expire};
pub use forecast::{gone_rows, measured_rate};
pub use garbage::{KeptFile, Removed};
pub use gate::{Aged, BackedUp, Gate, SecondCopy};
pub use hold::{ArchiveHold, ArchiveRelease, Holding, Holds, held, hold, look_up, release};
#[cfg(feature = "parquet")]
pub use iceberg::{PublishedTable, iceberg_tables};
pub use identity::{Adopted, ledger_of};
pub use keyring::Keyring;
pub use load::{InTable, verify_copies};
pub use names::Told;
pub use pace::{Cause, Said};
pub use parts::{PreparedPart, prepare_part};
pub use place::Place;
pub use prepare::{Prepared, prepare};
pub use prune::Difference;
pub use publish::{duckdb_views, hive_tables, refuse_encrypted};
pub use put_back::{Returned, Returning, put_back};
pub use read::{Damage, FoundRows, Verified, Wanted, columns_of, find, unsettled_rows, verify};
pub use reattach::{Reattached, Standing, standing};
pub use reconcile::{
    Hidden, LiveSlice, Overlap, Reconciled, Reconciling, compare, hidden, reconcile,
};
pub use run::{Archiving, Limits, Quit, RunReport};
pub use second::verify_second;
pub use shelf::{Shelf, Shelved, ShelvedBatch};
pub use subject::MarkedSubject;
pub use witness::{Nobody, Step, Witness};
pub use word::{LastWord, last_word};
