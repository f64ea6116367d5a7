//! What needs more than one module.

mod invariants;
mod support;
