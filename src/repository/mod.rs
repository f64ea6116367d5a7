//! Bytes at rest: immutable objects and one totally ordered commit log.
#![doc = include_str!("FORMAT.md")]

mod assembly;
mod blobs;
mod chunk_writer;
mod closure;
pub mod descriptor;
mod draft;
pub mod entry;
pub mod envelope;
mod extract;
pub mod fuzz;
mod handle;
pub mod history;
pub mod index_run;
mod index_set;
pub mod keys;
pub mod log;
pub mod manifest;
pub mod names;
mod notary;
pub mod pack;
mod packer;
mod part_writer;
mod reader;
mod replay;
mod segment;
pub mod store;
mod stream;
mod timeline;
mod wire;

pub use chunk_writer::WriteOptions;
pub use draft::{Draft, Intent};
pub use handle::{InitOptions, Repository};
pub use reader::BackupReader;
pub use segment::StoredHead;
pub use replay::RepositoryLog;
pub use stream::{BEAT_SECONDS_MAX, Beat, StreamWriter};
pub use timeline::{Coverage, Point, SegmentId, Timeline};
