#![doc = include_str!("../README.md")]

mod config;
mod connect;
mod error;
mod history;
mod log;
mod restore;
mod server;
mod session;
mod snapshot;
mod table;

pub use config::{Layout, Mode};
pub use connect::SimEngine;
pub use history::Write;
pub use server::SimServer;
pub use table::{CELLS_MAX, CELLS_PER_PAGE, PAGE_BYTES, Table};
