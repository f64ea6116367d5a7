//! Bytes at rest: immutable objects and one totally ordered commit log.
#![doc = include_str!("FORMAT.md")]

pub mod envelope;
pub mod fuzz;
pub mod index_run;
pub mod keys;
pub mod pack;
pub mod store;
mod wire;
