//! Shares of a restored cluster, on their way into a server that lives.
//!
//! Definitions are those that `pg_dump` writes of the sandbox, in which everything was given its
//! new name before; they and the rows are handed on to the live server statement by statement.

mod admit;
mod bring;
mod choose;
mod compare;
mod dump;
mod merge;
mod obstacle;
mod pour;
mod rename;
mod rows;
mod statements;
mod unfinished;
mod unique;

pub(crate) use admit::{admit, sweep, unfinished};
pub(crate) use bring::bring;
pub(crate) use compare::compare;
pub(crate) use dump::find as find_dump;
