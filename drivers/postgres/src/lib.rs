#![doc = include_str!("../README.md")]

mod archive;
mod capture;
mod captured;
mod checksum;
mod config;
mod connect;
mod copy;
mod driver;
mod earlier;
mod error;
mod facts;
mod grants;
mod index;
mod layout;
mod log;
mod names;
mod notes;
mod passfile;
mod points;
mod position;
mod recover;
mod restore;
mod sandbox;
mod sessions;
mod share;
mod snapshot;
mod spaces;
mod summaries;
mod tally;
mod tls;
mod version;
pub mod wal;
mod wire;

pub use config::settings_from;
pub use driver::PostgresEngine;
pub use sessions::Sessions;
