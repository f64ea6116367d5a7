//! A configuration from that of another tool: what can be said here is said, and every setting that
//! cannot is named. Texts go in, a text and a report come out; no secret is repeated in either.

mod barman;
mod draft;
mod ini;
mod pgbackrest;
mod sheet;
#[cfg(test)]
mod tests;
mod translate;
mod walg;

pub use sheet::Left;
pub use translate::{IMPORT_BYTES_MAX, Imported, Peer, barman_directory, import};
