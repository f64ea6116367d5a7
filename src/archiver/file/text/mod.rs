//! Rows as compressed text: CSV and JSON lines.
//!
//! Behind the text stands a frame that decompressors skip, with the number of rows and their hash.

mod calendar;
pub(super) mod csv;
pub(super) mod json;
mod reader;
mod scalar;
mod writer;

pub(super) use reader::Reader;
pub(super) use writer::Writer;
