//! `stillpoint config`: policies as code.

mod check;
mod command;
mod explain;
pub(super) mod files;
mod import;
pub(super) mod reach;
pub(super) mod secret;

pub(crate) use command::{Command, run};
