//! What needs more than one module.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the whole crate is tests")]

mod cli;
mod round_trip;
mod stores;
