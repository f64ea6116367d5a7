//! `stillpoint backup`: of one database by its URL, or of those of the configuration.

mod configured;
mod run;

pub(super) use run::{Options, run};
