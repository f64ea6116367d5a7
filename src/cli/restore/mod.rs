//! `stillpoint restore`: of one database, or of several to the same time.

mod group;
mod run;
mod standby;

pub(super) use run::{Options, run, wanted};
pub(super) use standby::STANDBY;
