//! `stillpoint archive`: rows moved out of live tables, and what became of them.

mod command;
mod control;
mod erase;
mod erasure;
mod event;
mod expire;
mod hold;
mod kept;
mod place;
mod plan;
mod publish;
mod read;
mod reattach;
mod reclaim;
mod reconcile;
mod restore;
mod run;
mod show;
mod tend;
mod until;
mod verify;

pub(crate) use command::{Command, run};
pub(crate) use tend::tend;
