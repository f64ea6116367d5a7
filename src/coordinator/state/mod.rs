//! What coordinators remember: a queue and a cache. Losing it loses no backup.

mod agents;
mod audit;
mod board;
mod database;
mod due;
mod endpoints;
mod history;
mod marks;
mod members;
mod model;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
mod sites;
mod sqlite;
mod store;
mod tables;
mod workers;

pub use audit::{Line, verify};
pub use board::{KeptBoard, MESSAGES_MAX, Unsent};
pub use database::{Database, Row, Transaction, Value};
pub use due::{SKIPPED_MAX, Settling, Skipped};
pub use endpoints::Adoption;
pub use history::Overdue;
pub use marks::{Applied, MARKS_MAX, Mark, Marked};
pub use members::Known;
pub use model::{ARCHIVE, Claim, Filter, Job, Outcome, Phase, Scope, Stage, Task, Tried};
#[cfg(feature = "postgres")]
pub use postgres::{Connect, PostgresState};
pub use sites::Site;
pub use sqlite::SqliteState;
pub use store::State;
pub use workers::{AWAY, LEAD};
