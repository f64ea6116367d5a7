//! Policies, run by the real program.

mod alerts;
mod channels;
mod everyday;
mod fence;
mod plans;
mod trouble;
mod ward;
