//! `stillpoint report monthly`: what was promised for a month, and what became of it.

mod breaches;
mod gather;
mod html;
mod record;
mod run;

pub(super) use run::{Options, run};
