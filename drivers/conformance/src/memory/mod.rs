//! Both ends of the contract in memory: strict about its rules, for the suite and for the tests
//! that drivers write themselves.

mod backup;
mod log;
mod pieces;
pub mod rows;
mod sink;
#[cfg(test)]
mod tests;
mod world;

pub use backup::{MemoryBackup, READ_BYTES_MAX};
pub use log::{CURSOR_BYTES_MAX, MemoryLog, MemoryLogSource};
pub use sink::{ATTRIBUTES_BYTES_MAX, MemorySink};
pub use world::{RealClock, SeededEntropy, TestClock};
