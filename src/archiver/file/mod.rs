//! Rows in files: Parquet, CSV and JSON lines, each of them without loss.
//!
//! A row goes in as the bytes that the engine sent, and comes out as the same bytes. A value that
//! the form of its column cannot hold makes the column a misfit; nothing is ever rounded, cut or
//! clamped. Between bytes and files stand [`cell`]s.

mod cell;
mod decimal;
mod decode;
mod encode;
pub mod fuzz;
mod layout;
mod list;
#[cfg(feature = "parquet")]
mod parquet;
mod print;
mod seal;
mod slice_hash;
#[cfg(test)]
mod tests;
mod text;

pub use decode::{Decoder, ROWS_MAX};
pub use encode::{Encoded, Encoder};
pub use layout::{Format, Layout, Origin};
#[cfg(feature = "parquet")]
pub use parquet::may_hold;
#[cfg(feature = "parquet")]
pub(super) use parquet::parquet_schema;
pub use print::{csv_header, csv_record, json_line, value_text};
pub use slice_hash::SliceHash;
