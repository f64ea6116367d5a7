//! How SQLite compares a column that refers with the one that is referred to.
//!
//! Where a row is added, the other column decides: the value becomes what it would store, and texts
//! are compared by its collation. Where a row is deleted, both columns decide, as in any
//! comparison: numbers win.
//! Sources: <https://www.sqlite.org/foreignkeys.html>, 3; <https://www.sqlite.org/datatype3.html>,
//! 4.2; SQLite 3.54 fkey.c, `fkLookupParent` and `fkScanChildren`.

use std::ffi::CStr;

use rusqlite::{Connection, ErrorCode, Result};
use stillpoint_contract::{Alike, Class, Finding, Likeness, Weight};

use super::schema::{Term, collation, declared, is_strict, quoted, row_id};

/// Collations that are SQLite's own. Source: <https://www.sqlite.org/datatype3.html>, 7.
const COLLATIONS: [(&str, Alike); 3] =
    [("BINARY", Alike::Same), ("NOCASE", Alike::Case), ("RTRIM", Alike::Spaces)];

/// Which texts are one by a collation; none where only the application knows.
pub(super) fn alike(collation: &str) -> Option<Alike> {
    let known = COLLATIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(collation));
    known.map(|(_, alike)| *alike)
}

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
    fn of(connection: &Connection, table: &str, column: &str) -> Result<Self> {
        let metadata = connection.column_metadata(Some("main"), table, column)?;
        let text = |text: &CStr| text.to_string_lossy().into_owned();
        let declared_type = metadata.0.map(text).unwrap_or_default();
        let affinity = match declared(&declared_type, false) {
            Class::Text => Affinity::Text,
            Class::Blob => Affinity::None,
            Class::Any if declared_type.eq_ignore_ascii_case("ANY") => {
                if is_strict(connection, table)? { Affinity::None } else { Affinity::Number }
            }
            _ => Affinity::Number,
        };
        let collation = collation(connection, table, column)?;
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
    /// Whether the other one is a row id, which no text is like.
    is_row_id: bool,
}

impl Pair {
    /// Those of a reference: the own name of each table, and its columns in the same order.
    pub(super) fn all(
        connection: &Connection,
        (table, columns): (&str, &[String]),
        (parent, parent_columns): (&str, &[String]),
    ) -> Result<Vec<Self>> {
        let (mut pairs, id) = (Vec::new(), row_id(connection, parent)?);
        for (own, other) in columns.iter().zip(parent_columns) {
            let is_row_id = id.as_ref().is_some_and(|id| id.eq_ignore_ascii_case(other));
            let own = Side::of(connection, table, own)?;
            pairs.push(Self { own, other: Side::of(connection, parent, other)?, is_row_id });
        }
        Ok(pairs)
    }

    /// Those of a reference; none where it is to a column that is not there, since SQLite deletes
    /// no row then.
    pub(super) fn any(
        connection: &Connection,
        refers: (&str, &[String]),
        referred: (&str, &[String]),
    ) -> Result<Vec<Self>> {
        match Self::all(connection, refers, referred) {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::Unknown) => Ok(Vec::new()),
            pairs => pairs,
        }
    }

    /// The collation of the reference, where that is another one than the referring column's own.
    fn collation(&self) -> Option<&str> {
        let Self { own, other, is_row_id } = self;
        let is_own = *is_row_id || own.collation.eq_ignore_ascii_case(&other.collation);
        (!is_own).then_some(&*other.collation)
    }

    /// What an index begins with that finds the rows which refer to one, if any does.
    pub(super) fn term(&self) -> Term {
        let collation = self.collation().filter(|_| !self.is_unindexed());
        Term { name: self.own.name.clone(), collation: collation.map(str::to_owned) }
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

    /// How the reference compares.
    pub(super) fn likeness(&self) -> Likeness {
        let becomes = match self.other.affinity {
            Affinity::Number => Some(Class::Integer),
            Affinity::Text => Some(Class::Text),
            Affinity::None => None,
        };
        let alike = alike(&self.other.collation);
        Likeness { becomes, alike: alike.unwrap_or_default(), is_untold: alike.is_none() }
    }

    /// What speaks against it, by the names of the two tables.
    pub(super) fn finding(&self, table: &str, parent: &str) -> Option<Finding> {
        let Self { own, other, .. } = self;
        if alike(&other.collation).is_none() {
            let Side { name, declared, collation, .. } = other;
            return Some(Finding {
                subject: "reference",
                found: format!(
                    "{table}.{} refers to {parent}.{name}, and only the application can compare \
                     by {collation}: nobody could tell from files which rows hang on which",
                    own.name
                ),
                weight: Weight::Lacking,
                statement: Some(format!("make {parent} anew with {} {declared}", quoted(name))),
            });
        }
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

/// Which rows refer to one of a table that fulfils a condition: those that the reference means.
///
/// A sign takes away what a column is declared for, and with it every index of it: it stands only
/// where the two columns by themselves would compare otherwise. So does a collation. Among several
/// columns that refer, it would take the indexes away, too, and beside what they are compared with
/// it does not; of one column, it is the other way round.
/// Source: SQLite 3.54, `exprAnalyze` and `indexInAffinityOk`.
pub(super) fn hanging(pairs: &[Pair], parent: &str, above: &str) -> String {
    let is_alone = pairs.len() == 1;
    let (mut refer, mut referred) = (Vec::new(), Vec::new());
    for pair in pairs {
        let sign = if pair.is_converted() { "+" } else { "" };
        let collate = pair.collation().map(|name| format!(" COLLATE {}", quoted(name)));
        let collate = collate.unwrap_or_default();
        let [beside, behind] = if is_alone { [&*collate, ""] } else { ["", &*collate] };
        refer.push(format!("{sign}{}{beside}", quoted(&pair.own.name)));
        referred.push(format!("{}{behind}", quoted(&pair.other.name)));
    }
    let (refer, referred) = (refer.join(", "), referred.join(", "));
    format!("({refer}) IN (SELECT {referred} FROM main.{} WHERE {above})", quoted(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(name: &str, declared: &str, affinity: Affinity, collation: &str) -> Side {
        let (name, declared) = (name.to_owned(), declared.to_owned());
        Side { name, declared, affinity, collation: collation.to_owned() }
    }

    #[test]
    fn what_only_the_application_compares_is_refused() {
        let other = side("k", "TEXT", Affinity::Text, "german");
        let own = side("p", "TEXT", Affinity::Text, "BINARY");
        let pair = Pair { own, other, is_row_id: false };
        assert!(pair.likeness().is_untold);
        let finding = pair.finding("c", "p").unwrap();
        assert_eq!(finding.weight, Weight::Lacking);
        assert!(finding.found.contains("c.p refers to p.k"), "{finding:?}");
        assert!(finding.found.contains("by german"), "{finding:?}");
        assert_eq!(finding.statement.as_deref(), Some("make p anew with \"k\" TEXT"));
    }

    #[test]
    fn a_reference_compares_as_the_other_column_does() {
        for (affinity, collation, becomes, alike) in [
            (Affinity::Number, "BINARY", Some(Class::Integer), Alike::Same),
            (Affinity::Text, "nocase", Some(Class::Text), Alike::Case),
            (Affinity::None, "RTRIM", None, Alike::Spaces),
        ] {
            let own = side("p", "", Affinity::None, "NOCASE");
            let pair = Pair { own, other: side("k", "", affinity, collation), is_row_id: false };
            let expected = Likeness { becomes, alike, is_untold: false };
            assert_eq!(pair.likeness(), expected, "{affinity:?} {collation}");
        }
    }

    #[test]
    fn a_collation_is_said_where_a_column_has_another_one_and_an_index_can_be_used() {
        let pair = |name: &str, own: &str, other: &str, is_row_id| Pair {
            own: side(name, "TEXT", Affinity::Text, own),
            other: side("k", "TEXT", Affinity::Text, other),
            is_row_id,
        };
        for (pairs, expected) in [
            (vec![pair("a", "nocase", "NOCASE", false)], "(\"a\") IN (SELECT \"k\""),
            (vec![pair("a", "NOCASE", "BINARY", true)], "(\"a\") IN (SELECT \"k\""),
            (
                vec![pair("a", "RTRIM", "BINARY", false)],
                "(\"a\" COLLATE \"BINARY\") IN (SELECT \"k\"",
            ),
            (
                vec![pair("a", "BINARY", "RTRIM", false), pair("b", "NOCASE", "NOCASE", false)],
                "(\"a\", \"b\") IN (SELECT \"k\" COLLATE \"RTRIM\", \"k\"",
            ),
        ] {
            assert_eq!(hanging(&pairs, "p", "1"), format!("{expected} FROM main.\"p\" WHERE 1)"));
        }
    }
}
