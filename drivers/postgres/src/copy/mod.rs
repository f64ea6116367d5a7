//! The three ways in which the files of a cluster become parts.

pub(crate) mod control;
pub(crate) mod crew;
pub(crate) mod local;
pub(crate) mod names;
pub(crate) mod pages;
pub(crate) mod plan;
pub(crate) mod reader;
pub(crate) mod sql;
pub(crate) mod stream;
mod tar;
pub(crate) mod wal;
