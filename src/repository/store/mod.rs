//! The narrow waist: a flat space of immutable objects, written once.
//!
//! `local`, `memory` and `cloud` keep objects; `counted`, `faulty`, `gate` and `single_writer`
//! wrap a store; `fs` and `sim_fs` are what `local` stands on; `probe` and `conformance` ask a
//! store what it really does; `open` finds the store behind a URL.

#[cfg(feature = "cloud")]
mod cloud;
pub mod conformance;
mod counted;
mod dice;
mod faulty;
mod fs;
mod gate;
mod local;
mod memory;
mod object;
mod open;
mod probe;
mod schedule;
mod sim_fs;
mod single_writer;
#[cfg(test)]
mod tests;

#[cfg(feature = "cloud")]
pub use cloud::CloudStore;
pub use counted::Requests;
pub use dice::Dice;
pub use faulty::{Call, Fault, FaultyStore, Rates};
pub use fs::{Entry, Fs, Node, RealFs};
pub use gate::{Gate, GatedStore, Waiting};
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use object::{Deleted, Key, Listed, Put, Store};
pub use open::{StoreOptions, open};
pub use probe::{Conditional, probe};
pub use schedule::Schedule;
pub use sim_fs::{FsFault, SimFs, Unsynced};
pub use single_writer::{SingleWriter, Writers};
