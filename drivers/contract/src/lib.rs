//! The types and traits that drivers, pipeline and repository agree on.
//!
//! This crate depends on no other crate of ours, and it is the only one that the author of a
//! driver must read. It holds no policy, does no input or output, and knows no storage.

mod error;
mod world;

pub use error::{Code, Error, ErrorKind, Result, code};
pub use world::{Clock, Entropy};
