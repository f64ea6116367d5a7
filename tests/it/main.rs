//! What needs more than one module.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the whole crate is tests")]

mod bank;
mod cli;
mod company;
mod disk_full;
mod full_store;
mod kills;
mod round_trip;
mod site;
mod stores;
