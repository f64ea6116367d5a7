//! Write-ahead log as PostgreSQL 13 to 18 writes it: file names, pages, records, and what they
//! mean.
//!
//! Everything here is pure and bounded: bytes come from servers and repositories, and no bytes
//! make it panic.
//!
//! Sources: <https://www.postgresql.org/docs/current/wal-internals.html>, and the layout of
//! `xlogrecord.h` and `xlog_internal.h` of each version.

mod bytes;
pub mod changes;
#[cfg(test)]
pub(crate) mod forge;
mod fuzz;
pub mod meaning;
pub mod name;
pub mod reader;
pub mod record;
#[cfg(test)]
mod tests;

pub use changes::Changes;
pub use fuzz::fuzz_wal;
pub use meaning::{Event, EventKind, meaning};
pub use reader::{BadWal, PAGE_BYTES, Reader};
pub use record::{BlockRef, Record, RelationFork};
