//! Apache Iceberg's own reader for Python.

use std::{io, path::PathBuf};

use crate::python;

/// PyIceberg, with Arrow.
#[derive(Debug)]
pub struct Iceberg {
    python: PathBuf,
}

impl Iceberg {
    /// Finds it for a test, or says on standard error that it is not installed.
    ///
    /// # Panics
    ///
    /// Where `CI` is set, when it is missing.
    pub fn required() -> Option<Self> {
        Some(Self { python: python::required("pyiceberg.table, pyarrow")? })
    }

    /// What a table holds, by its directory or by a version of its metadata: for each row a line
    /// with a JSON object, of which `iceberg.py` says how values look.
    ///
    /// # Errors
    ///
    /// What it says when it cannot read the table.
    pub fn rows(&self, table: &str) -> io::Result<String> {
        python::run(&self.python, include_str!("iceberg.py"), table)
    }
}
