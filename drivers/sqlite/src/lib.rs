#![doc = include_str!("../README.md")]

mod capture;
mod changes;
mod config;
mod connect;
mod copy;
mod driver;
mod dump;
mod error;
mod first_page;
mod frames;
mod generation;
mod hold;
mod log;
mod pages;
mod permissions;
mod position;
mod recover;
mod restore;
mod resume;
mod rows;
mod sandbox;
mod segment;
mod share;
mod snapshot;
mod tally;
mod throttle;
mod version;
mod wal;

pub use driver::SqliteEngine;
pub use segment::{fuzz_segment, fuzz_wal};

/// The one part of a backup: the database file.
const PART: &str = "main";
