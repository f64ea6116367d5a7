//! A query engine that reads files by itself.

use std::{io, path::PathBuf};

use crate::python;

/// DuckDB, as Python has it.
#[derive(Debug)]
pub struct DuckDb {
    python: PathBuf,
}

impl DuckDb {
    /// Finds it for a test, or says on standard error that it is not installed.
    ///
    /// # Panics
    ///
    /// Where `CI` is set, when it is missing.
    pub fn required() -> Option<Self> {
        Some(Self { python: python::required("duckdb")? })
    }

    /// What a query returns: for each row a line with the texts of its values, as a JSON array.
    ///
    /// # Errors
    ///
    /// What it says when the query fails.
    pub fn query(&self, sql: &str) -> io::Result<String> {
        python::run(&self.python, include_str!("duckdb.py"), sql)
    }
}
