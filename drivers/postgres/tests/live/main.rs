//! The driver against real servers of several versions.

mod incremental;
mod leave;
mod login;
mod places;
mod stage;
mod ways;
