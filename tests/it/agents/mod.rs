//! Agents: what only another host reaches is backed up from there.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod everyday;
mod postgres;
mod sites;
