//! The driver against real servers of several versions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod altered;
mod capture;
mod incremental;
mod leave;
mod login;
mod oracles;
mod own_index;
mod places;
mod restore;
mod rows;
mod rows_beside;
mod stage;
mod ways;
