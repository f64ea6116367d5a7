//! What a file looks like, and what it is about.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use stillpoint_contract::{Column, Error, ErrorKind, Kind, Result, code};

pub use crate::policy::FileFormat as Format;

/// Where the rows of a file come from. Parquet files hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name of the set.
    pub set: String,
    /// The name of the table.
    pub table: String,
    /// Who that table is.
    pub identity: String,
    /// A hash of its schema.
    pub fingerprint: String,
    /// The run.
    pub run: String,
    /// The batch of the run.
    pub batch: u32,
    /// Before what rows are old enough, where the set says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<String>,
}

/// What a file is to look like.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The columns of its rows.
    pub columns: &'a [Column],
    /// The columns of the key, by their places.
    pub key: &'a [usize],
    /// Whether the rows come in the order of the key, as the engine compares it.
    pub is_sorted: bool,
    /// The names of further columns by which rows are looked up.
    pub lookup: &'a [String],
    /// How it is written.
    pub format: Format,
    /// What it is about.
    pub origin: &'a Origin,
}

impl Layout<'_> {
    /// The columns by which rows are looked up, by their places.
    #[cfg(feature = "parquet")]
    pub(super) fn sought(&self) -> Vec<usize> {
        let is_sought =
            |at: usize, name: &String| self.key.contains(&at) || self.lookup.contains(name);
        let columns = self.columns.iter().enumerate();
        columns.filter(|(at, column)| is_sought(*at, &column.name)).map(|(at, _)| at).collect()
    }
}

/// A file's columns are counted by an `i16` in its rows.
const COLUMNS_MAX: usize = i16::MAX as usize;

/// The most digits of a decimal number in a file. Source: Apache Parquet, Logical Types, DECIMAL,
/// and Apache Arrow, `Decimal128`.
pub(super) const DIGITS_MAX: u8 = 38;

/// Identifiers of columns are below this, so that there are some left for what is within columns.
pub(super) const IDS_MAX: i32 = 1 << 27;

/// Whether files can have such columns.
pub(super) fn check(columns: &[Column]) -> Result<()> {
    let refused = |column: &str, why: &'static str| {
        Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "lay out a file of rows")
            .with("column", column)
            .why(why)
    };
    if columns.is_empty() || columns.len() > COLUMNS_MAX {
        return Err(refused(&columns.len().to_string(), "a table has 1 to 32767 columns"));
    }
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    for column in columns {
        if !names.insert(column.name.as_str()) {
            return Err(refused(&column.name, "another column has that name"));
        }
        if !(0..IDS_MAX).contains(&column.id) || !ids.insert(column.id) {
            return Err(refused(&column.name, "its number is out of range, or another one's"));
        }
        if !is_possible(&column.kind, false) {
            return Err(refused(&column.name, "no file holds values of that kind"));
        }
    }
    Ok(())
}

fn is_possible(kind: &Kind, is_element: bool) -> bool {
    match kind {
        Kind::Decimal { precision, scale } => {
            (1..=DIGITS_MAX).contains(precision) && *scale <= DIGITS_MAX
        }
        Kind::List { element, .. } => !is_element && is_possible(element, true),
        _ => true,
    }
}

/// What a program without Parquet says.
#[cfg(not(feature = "parquet"))]
pub(super) fn no_parquet() -> Error {
    Error::new(ErrorKind::Unsupported, code::USAGE, "use a Parquet file")
        .why("this program was built without the feature `parquet`")
        .next("choose the format csv or jsonl")
}
