//! Policies, run by the real program.

#![expect(clippy::unwrap_used, reason = "all of it is tests")]

mod alerts;
mod channels;
mod draining;
mod everyday;
mod explains;
mod fence;
mod monthly;
mod new_machine;
mod observe;
mod oddities;
mod plans;
mod secrets;
mod several;
mod supervised;
mod trouble;
pub(crate) mod ward;
