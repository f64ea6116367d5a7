//! A query engine that reads files by itself.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

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
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".tools");
        let duckdb = Self { python: tools.join("python/bin/python") };
        let imported = Command::new(&duckdb.python).args(["-c", "import duckdb"]).output();
        if !imported.is_ok_and(|output| output.status.success()) {
            let missing = "DuckDB is missing: sh testcontainers/install.sh";
            assert!(env::var_os("CI").is_none(), "{missing}");
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED: {missing}");
            }
            return None;
        }
        Some(duckdb)
    }

    /// What a query returns: for each row a line with the texts of its values, as a JSON array.
    ///
    /// # Errors
    ///
    /// What it says when the query fails.
    pub fn query(&self, sql: &str) -> io::Result<String> {
        let mut child = Command::new(&self.python)
            .args(["-c", include_str!("duckdb.py")])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Reads nothing more before it writes.
        child.stdin.take().expect("it is piped").write_all(sql.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
