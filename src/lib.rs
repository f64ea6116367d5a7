//! Stillpoint: an online-backup coordinator for databases.
//!
//! Read `ARCHITECTURE.md` first. The modules, in the order in which a byte meets them:

pub mod archiver;
pub mod cli;
pub mod config;
pub mod coordinator;
pub mod pipeline;
pub mod policy;
pub mod registry;
pub mod repository;
pub mod world;
