//! `stillpoint config`: policies as code.

mod check;
mod command;
mod explain;
pub(super) mod files;
pub(super) mod secrets;

pub(crate) use command::{Command, run};
