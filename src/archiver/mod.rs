//! Rows of live tables, moved into files and back.

pub mod file;
