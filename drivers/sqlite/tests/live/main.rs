//! The driver against real files, real writers in other processes, and real kills.

mod bench;
mod capture;
mod doubles;
mod restore;
mod snapshot;
