//! Hand-off: complete native files of points, left in a folder for others to fetch.
//!
//! Whoever fetches them needs nothing of ours: names, sizes, hashes and a few words are beside the
//! files. The folder may be on a shared drive: nothing here rests on locks, on hard links, or on
//! being told of changes.

mod folder;
mod hand_off;
mod manifest;
mod payload;
mod publish;

pub use folder::{Outbox, Point};
pub(super) use folder::{failed, patiently, settle};
pub use hand_off::HandOff;
pub use manifest::{HANDOFF_SCHEMA, HandedFile, PointManifest};
pub(super) use publish::copy_file;
