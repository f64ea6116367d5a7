//! The program as people and scripts use it: the real binary, real files, real signals.

mod answers;
mod bench;
mod demo;
mod everyday;
mod golden;
mod refusals;
mod stopping;
