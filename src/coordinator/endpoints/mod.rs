//! Who knows which endpoints there are, asked again and again: directories, programs, names.

mod discovery;
#[cfg(feature = "dns")]
mod dns;
mod files;
mod program;
mod shape;

pub use discovery::{Ask, Discovery, Told, Whom};
