#![doc = include_str!("../README.md")]

mod archive;
mod checksum;
mod config;
mod connect;
mod copy;
mod driver;
mod error;
mod layout;
mod log;
mod passfile;
mod position;
mod recover;
mod restore;
mod snapshot;
mod tls;
mod version;
pub mod wal;
mod wire;
