//! `stillpoint config`: policies as code.

mod check;
mod command;
mod explain;
pub(super) mod files;

pub(crate) use command::{Command, run};
