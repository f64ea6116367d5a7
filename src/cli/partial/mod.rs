//! `stillpoint restore --into`: tables or a database of a point, in a server that lives.

mod answer;
mod plan;
mod run;

pub(crate) use run::{PartialOptions, refuse_without_target, run};
