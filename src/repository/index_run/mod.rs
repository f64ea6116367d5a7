//! Index runs: immutable sorted tables that tell in which pack a chunk lies.
//!
//! A run is a hint and never the truth: the packs' own tables of contents are. A lost or damaged
//! run costs time, never data.

mod build;
mod format;
mod merge;
mod read;
mod source;
#[cfg(test)]
mod tests;

pub use build::{FinishedRun, IndexRunBuilder};
pub use format::{ENTRIES_MAX, Located, PACKS_MAX, RunName};
pub use merge::Merge;
pub use read::{Entries, IndexRun};
pub use source::{ReadAt, SpooledFile};
