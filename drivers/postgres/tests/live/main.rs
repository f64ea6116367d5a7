//! The driver against real servers of several versions.

mod incremental;
mod leave;
mod login;
mod restore;
mod stage;
mod ways;
