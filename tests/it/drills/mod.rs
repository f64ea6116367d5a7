//! Drills: what they find, what they keep, and what they leave behind.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod evidence;
mod forecast;
mod load;
mod phases;
mod postgres;
mod reach;
pub(crate) mod remains;
mod sqlite;
