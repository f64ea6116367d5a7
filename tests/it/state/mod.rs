//! What the state of coordinators promises, on every kind of database that keeps it.

#![expect(clippy::unwrap_used, reason = "all of it is for tests")]

mod audit;
mod bench;
mod due;
mod endpoints;
mod faults;
mod history;
mod outage;
mod queue;
mod said;
mod storm;
mod suite;
mod workers;
