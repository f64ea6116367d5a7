//! Tests of files as a whole: what goes in comes out, or is refused.

mod damage;
mod misfits;
#[cfg(feature = "parquet")]
mod parquet;
mod print;
mod round_trip;
mod support;

pub(super) use support::edges;
