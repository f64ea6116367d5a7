//! A restore for proof: a point is brought back into a sandbox, looked at in every way that is
//! known, and everything is written down.

mod draw;
mod rows;
mod run;

pub use draw::draw;
pub use run::{DrillJob, Expectation, drill};
