//! Policies, run by the real program.

mod alerts;
mod channels;
mod everyday;
mod plans;
mod ward;
