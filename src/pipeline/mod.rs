//! Bytes in, sealed blobs out. No input or output of its own.

pub mod adaptive;
pub mod compress;
pub mod cpu;
pub mod file_key;
pub mod id;
pub mod keys;
mod meter;
pub mod seal;
pub mod sign;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use meter::{Meter, Reading};
