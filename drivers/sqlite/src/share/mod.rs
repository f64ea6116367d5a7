//! Tables of a restored file, on their way into a file that an application uses.
//!
//! They are filled under passing names, in transactions that are as short as those of any writer,
//! and get their own in one more. Only SQLite itself rewrites definitions, in the restored file.

mod admit;
mod bring;
mod choose;
mod compare;
mod definition;
mod events;
mod merge;
mod remains;
mod values;

pub(crate) use admit::{admit, sweep};
pub(crate) use bring::bring;
pub(crate) use compare::compare;
pub(crate) use remains::remains;
