//! A bank on PostgreSQL: money that is moved, and everything else that goes on in a cluster, while
//! backups, captures, connections and the server itself are killed; and its past brought back.
//!
//! `STILLPOINT_BANK_SECONDS`, `STILLPOINT_BANK_TARGETS` and `STILLPOINT_BANK_WAYS` (a list of ways
//! of capture, or `every`) make it longer.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_wrap,
    reason = "a test that panics has failed, and says what it tried"
)]

mod branch;
mod clerk;
mod havoc;
mod ledger;
mod points;
mod staff;
mod versions;
