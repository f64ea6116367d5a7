//! Bytes at rest: immutable objects and one totally ordered commit log.

pub mod store;
