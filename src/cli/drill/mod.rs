//! `stillpoint drill`: restores for proof, and what they proved.

pub(super) mod html;
mod run;
mod show;

pub(crate) use html::page;
pub(crate) use run::{Command, place, run, sweep, write_evidence};
