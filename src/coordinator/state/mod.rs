//! What coordinators remember: a queue and a cache. Losing it loses no backup.

mod audit;
mod database;
mod jobs;
mod sqlite;
mod store;
mod tables;
#[cfg(test)]
mod tests;

pub use audit::{Line, verify};
pub use database::{Database, Row, Transaction, Value};
pub use jobs::{Claim, Job, Outcome, Phase, Scope, Task};
pub use sqlite::SqliteState;
pub use store::State;
