//! The program as people and scripts use it: the real binary, real files, real signals.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod answers;
mod bench;
mod captures;
mod config;
mod demo;
mod doctor;
mod everyday;
pub(crate) mod golden;
mod imports;
mod refusals;
mod restores;
mod stopping;
