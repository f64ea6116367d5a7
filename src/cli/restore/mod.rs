//! `stillpoint restore`: of one database, or of several to the same time.

mod group;
mod run;

pub(super) use run::{Options, run, wanted};
