//! Rows as Apache Parquet.
//!
//! Each column has the type that query engines know it by. What a file says of its origin, its
//! columns and its rows stands in its key-value metadata.

mod grow;
mod look;
mod reader;
mod schema;
mod source;
mod writer;

pub use look::may_hold;
pub(super) use reader::Reader;
pub(in super::super) use schema::schema as parquet_schema;
pub(super) use writer::Writer;
