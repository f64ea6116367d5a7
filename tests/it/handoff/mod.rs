//! Files that are handed over, and taken by a script that knows nothing of us.
#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod consumer;
mod keeping;
mod kills;
mod pickup;
mod postgres;
mod sqlite;
