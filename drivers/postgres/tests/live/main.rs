//! The driver against real servers of several versions.

mod capture;
mod incremental;
mod leave;
mod login;
mod stage;
mod ways;
