//! Retention: what the repository knows of it, and what is done about it.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod commands;
mod facts;
mod forecast;
mod report;
mod trim;
