//! The driver against real files, real writers in other processes, and real kills.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]
#![expect(clippy::print_stdout, reason = "measurements")]

mod bank;
mod capture;
mod derived;
mod dice;
mod doubles;
mod kills;
mod large;
mod overwritten;
mod process;
mod references;
mod restore;
mod resume;
mod returned;
mod rows;
mod snapshot;
mod users;
