//! Copies: what goes, what does not, and what is left when the original is gone.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod chain;
mod damage;
mod doomed;
mod everyday;
mod pace;
mod postgres;
mod repacked;
mod serving;
pub(crate) mod yard;
