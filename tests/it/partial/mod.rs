//! Partial restores: what comes back, what stays as it was, and what is left behind.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod kills;
mod merges;
mod postgres;
pub(crate) mod shop;
pub(crate) mod sqlite;
mod whole;
