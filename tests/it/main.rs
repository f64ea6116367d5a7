//! What needs more than one module.

mod cli;
mod invariants;
mod round_trip;
mod stores;
mod support;
