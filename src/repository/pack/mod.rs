//! Packs: many sealed blobs in one immutable file that is named by its content.

mod blob;
mod build;
mod entry;
mod header;
mod inspect;
mod name;
mod read;
#[cfg(test)]
mod tests;

pub use blob::SealedBlob;
pub use build::{FinishedPack, PackBuilder};
pub use entry::PackEntry;
pub use header::{PACK_BYTES_MAX, PackHeader};
pub use inspect::{Inspection, inspect};
pub use name::{PackKind, PackName};
pub use read::{Scan, Trailer, read_trailer, scan};
