//! How SQLite compares a column that refers with the one that is referred to.
//!
//! Where a row is added, the other column decides: the value becomes what it would store, and texts
//! are compared by its collation. Where a row is deleted, both columns decide, as in any
//! comparison: numbers win.
//! Sources: <https://www.sqlite.org/foreignkeys.html>, 3; <https://www.sqlite.org/datatype3.html>,
//! 4.2; SQLite 3.54 fkey.c, `fkLookupParent` and `fkScanChildren`.

use std::ffi::CStr;

use stillpoint_contract::{Class, Finding, Result, Weight};

use super::{
    schema::{declared, is_strict, quoted},
    worker::Desk,
};

const STEP: &str = "look at a reference";

/// What values become that a column stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affinity {
    /// Numbers, where they look like some.
    Number,
    /// Text, where they are numbers.
    Text,
    /// What they are.
    None,
}

/// A column of a table.
#[derive(Clone, Debug)]
struct Side {
    name: String,
    /// What it is declared for; empty for nothing.
    declared: String,
    affinity: Affinity,
    collation: String,
}

impl Side {
    fn of(desk: &Desk, table: &str, column: &str) -> Result<Self> {
        let connection = desk.connection();
        let metadata = desk.sql(connection.column_metadata(Some("main"), table, column), STEP)?;
        let text = |text: Option<&CStr>| text.map(|text| text.to_string_lossy().into_owned());
        let declared_type = text(metadata.0).unwrap_or_default();
        let collation = text(metadata.1).unwrap_or_else(|| "BINARY".to_owned());
        let affinity = match declared(&declared_type, false) {
            Class::Text => Affinity::Text,
            Class::Blob => Affinity::None,
            Class::Any if declared_type.eq_ignore_ascii_case("ANY") => {
                let is_strict = desk.sql(is_strict(connection, table), STEP)?;
                if is_strict { Affinity::None } else { Affinity::Number }
            }
            _ => Affinity::Number,
        };
        Ok(Self { name: column.to_owned(), declared: declared_type, affinity, collation })
    }

    /// What it is declared for, for people.
    fn shown(&self) -> &str {
        if self.declared.is_empty() { "nothing" } else { &self.declared }
    }
}

/// A column that refers, and the one that it refers to.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    own: Side,
    other: Side,
}

impl Pair {
    /// Those of a reference: the own name of each table, and its columns in the same order.
    pub(super) fn all(
        desk: &Desk,
        (table, columns): (&str, &[String]),
        (parent, parent_columns): (&str, &[String]),
    ) -> Result<Vec<Self>> {
        let mut pairs = Vec::new();
        for (own, other) in columns.iter().zip(parent_columns) {
            let (own, other) = (Side::of(desk, table, own)?, Side::of(desk, parent, other)?);
            pairs.push(Self { own, other });
        }
        Ok(pairs)
    }

    /// The column that refers, so that it compares with the other one as the reference does. A
    /// sign takes away what it is declared for, and with it every index of it: it stands only
    /// where the two columns by themselves would compare otherwise.
    pub(super) fn sql(&self) -> String {
        let sign = if self.is_converted() { "+" } else { "" };
        format!("{sign}{} COLLATE {}", quoted(&self.own.name), quoted(&self.other.collation))
    }

    fn is_converted(&self) -> bool {
        match self.other.affinity {
            Affinity::Number => false,
            Affinity::Text => self.own.affinity != Affinity::Text,
            Affinity::None => self.own.affinity == Affinity::Number,
        }
    }

    /// Whether no index finds the rows that refer to one.
    fn is_unindexed(&self) -> bool {
        let is_number = self.other.affinity == Affinity::Number;
        self.is_converted() || is_number && self.own.affinity != Affinity::Number
    }

    /// What speaks against it, by the names of the two tables.
    pub(super) fn finding(&self, table: &str, parent: &str) -> Option<Finding> {
        let Self { own, other } = self;
        let (why, weight) = if own.affinity == Affinity::Number && self.is_converted() {
            let what = "SQLite compares by the other column alone where a row is added, and as \
                        numbers where one is deleted: what hangs on '1' would go with '01', too";
            (what.to_owned(), Weight::Lacking)
        } else if self.is_unindexed() {
            let what = "no index finds the rows of one, so that each step reads all of";
            (format!("{what} {table}"), Weight::Advice)
        } else {
            return None;
        };
        Some(Finding {
            subject: "reference",
            found: format!(
                "{table}.{} is declared for {}, and {parent}.{}, which it refers to, for {}: {why}",
                own.name,
                own.shown(),
                other.name,
                other.shown()
            ),
            weight,
            statement: Some(format!(
                "make {table} anew with {} {} REFERENCES {parent}",
                quoted(&own.name),
                other.declared
            )),
        })
    }
}
