//! Policies, run by the real program.

mod alerts;
mod everyday;
mod plans;
mod ward;
