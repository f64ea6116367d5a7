//! Parts of a restored copy, on their way into a server that lives.

use std::io::Write;

use crate::{Endpoint, TablePattern, quoted};

/// How long a name may be that we choose, in bytes: what the strictest engine takes.
pub const CHOSEN_NAME_BYTES_MAX: usize = 63;

/// How many rows of each kind a comparison names.
pub const EXAMPLES_MAX: usize = 5;

/// What is brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// Tables, each with all that belongs to it.
    Tables(Vec<TablePattern>),
    /// One database of a server that has several.
    Database,
}

/// What is brought back, from where, into what.
#[derive(Clone, Copy, Debug)]
pub struct ShareRequest<'a> {
    /// What.
    pub share: &'a Share,
    /// Which database of the restored server it is, or is in; else the one that `into` names.
    pub database: Option<&'a str>,
    /// The server that lives.
    pub into: &'a Endpoint,
    /// The new name, if one was chosen.
    pub name: Option<&'a str>,
    /// What is appended to names, where none was chosen.
    pub suffix: &'a str,
    /// Whether it is only compared with what lives there.
    pub compares: bool,
    /// Letters and digits that nobody else has at this time.
    pub token: &'a str,
}

/// Who is told how far the work is.
pub trait Progress: std::fmt::Debug + Send + Sync {
    /// Something of so many bytes begins; 0 when nobody knows.
    fn begin(&self, phase: &'static str, total_bytes: u64);

    /// So many bytes more are done.
    fn advance(&self, bytes: u64);

    /// Something that was begun could not be taken back when the work was given up; said in a few
    /// words, with who removes it.
    fn leave(&self, what: String);
}

/// What was brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// The database that was made, if one was.
    pub database: Option<String>,
    /// Tables, with their rows.
    pub tables: Vec<BroughtTable>,
    /// What was left out or differs, for people.
    pub notes: Vec<String>,
    /// Statements that add what was left out because it would bind tables that are in use.
    pub left_out: Vec<String>,
}

/// A table that was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroughtTable {
    /// Its name in the restored copy.
    pub from: String,
    /// Its name now.
    pub to: String,
    /// Its rows, with those of its partitions.
    pub rows: u64,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Each table.
    pub tables: Vec<Difference>,
    /// What was left out, for people.
    pub notes: Vec<String>,
}

/// How a table that lives differs from the same in a restored copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub table: String,
    /// The columns that tell its rows apart; empty where none do, and whole rows are compared.
    pub key: Vec<String>,
    /// Rows that only the copy has.
    pub missing: Tallied,
    /// Rows that only the live table has.
    pub extra: Tallied,
    /// Rows of the same key that differ.
    pub different: Tallied,
    /// Rows that are the same.
    pub equal: u64,
    /// Columns that only the copy has.
    pub columns_missing: Vec<String>,
    /// Columns that only the live table has.
    pub columns_extra: Vec<String>,
    /// What a person should know before the statements are run.
    pub notes: Vec<String>,
}

/// Rows, counted, and the first few by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallied {
    /// How many.
    pub rows: u64,
    /// The keys of the first of them.
    pub examples: Vec<String>,
}

impl Tallied {
    /// Counts one more.
    pub fn add(&mut self, key: impl FnOnce() -> String) {
        self.rows += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(key());
        }
    }
}

/// Where statements are written that make live tables like the copy.
pub type Script<'a> = dyn Write + Send + 'a;

/// A name that ends with `end` and is as long as names may be.
pub fn chosen_name(begin: &str, end: &str) -> String {
    let mut length = begin.len().min(CHOSEN_NAME_BYTES_MAX.saturating_sub(end.len()));
    while !begin.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{end}", &begin[..length])
}

/// How many names are told where there may be many.
const NAMES_MAX: usize = 8;

/// Some names, and how many there are beside these.
pub fn some_of(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let told = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// How long a shown value may be, in letters.
const SHOWN_LETTERS_MAX: usize = 40;

/// A value for people. A text has quotes where it would be taken for another value without.
pub fn shown_value(text: &str, is_text: bool) -> String {
    let shown: String = if text.chars().count() <= SHOWN_LETTERS_MAX {
        text.to_owned()
    } else {
        text.chars().take(SHOWN_LETTERS_MAX - 1).chain(['…']).collect()
    };
    let is_like = text.is_empty() || text == "NULL" || text.parse::<f64>().is_ok();
    if is_text && is_like { format!("'{shown}'") } else { shown }
}

/// What is said of tables whose missing rows are not told apart by a key.
pub const RUN_ONCE: &str =
    "rows that no key tells apart come back each time that the script is run: run it once";

/// What a person does who compared a table that is gone.
pub fn without_compare(table: &str) -> String {
    format!("bring it back instead: --table {} without --compare", quoted(table))
}

/// What a comparison says of a table that only the copy has.
pub fn gone_table(table: &str) -> String {
    format!("the live database has no such table; {}", without_compare(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_values_are_what_they_look_like() {
        for (text, is_text, shown) in [
            ("1", true, "'1'"),
            ("1.0", false, "1.0"),
            ("NULL", true, "'NULL'"),
            ("", true, "''"),
            ("A-1", true, "A-1"),
        ] {
            assert_eq!(shown_value(text, is_text), shown);
        }
        assert_eq!(shown_value(&"x".repeat(41), true), format!("{}…", "x".repeat(39)));
        assert_eq!(shown_value(&"7".repeat(41), true), format!("'{}…'", "7".repeat(39)));
    }

    #[test]
    fn chosen_names_keep_their_end_and_whole_letters() {
        assert_eq!(
            chosen_name("orders", "_restored_20251119_031244"),
            "orders_restored_20251119_031244"
        );
        let long = chosen_name(&"ü".repeat(40), "_restored_20251119_031244");
        assert!(
            long.len() <= CHOSEN_NAME_BYTES_MAX && long.ends_with("ü_restored_20251119_031244")
        );
    }
}
