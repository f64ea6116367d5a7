//! What moving a set will do to its server, for people who decide whether it is to begin.

use super::set::Member;
use crate::Finding;

/// What a run will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The statements that select rows, and how the engine carries them out.
    pub steps: Vec<Explained>,
    /// The key of the first row that is selected, as people read it; `None` where there is none,
    /// or it would take long to find.
    pub first: Option<String>,
    /// That of the last one.
    pub last: Option<String>,
    /// What is locked.
    pub locks: Vec<LockTaken>,
    /// At least so many bytes of log.
    pub log_least: u64,
    /// And about so many at most.
    pub log_most: u64,
}

/// A statement, and how it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The table.
    pub table: String,
    /// The statement.
    pub statement: String,
    /// What the engine says of it, line by line.
    pub plan: Vec<String>,
    /// What would make it cheaper.
    pub advice: Option<Finding>,
}

/// The columns by which the rows of a table are found: those that refer to its parent, or those of
/// the root that a predicate names.
pub fn sought(member: &Member, is_named: impl Fn(&str) -> bool) -> Vec<&str> {
    if let Some(link) = &member.link {
        return link.columns.iter().map(String::as_str).collect();
    }
    let all = member.table.columns.iter().map(|column| column.name.as_str());
    all.filter(|name| is_named(name)).collect()
}

/// Whether a predicate names a column, as a whole word.
pub fn is_named(predicate: &str, column: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    predicate.match_indices(column).any(|(at, _)| {
        !predicate[..at].ends_with(is_part) && !predicate[at + column.len()..].starts_with(is_part)
    })
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockTaken {
    /// What is locked.
    pub on: String,
    /// How, in the engine's words.
    pub mode: String,
    /// While what is done.
    pub during: &'static str,
    /// Who waits meanwhile.
    pub blocks: &'static str,
    /// For how long at a time.
    pub held: Held,
}

/// For how long a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// As long as a change of the schema takes.
    Moment,
    /// As long as a transaction that deletes.
    Transaction,
    /// As long as a file takes to be read.
    File,
    /// As long as all rows of the table take to be read.
    Table,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_predicate_are_found_as_whole_words() {
        assert!(is_named("created_at < '2024-01-01' AND id > 5", "created_at"));
        assert!(is_named("(\"state\" = 'closed')", "state"));
        assert!(!is_named("created_at < '2024-01-01'", "created"));
        assert!(!is_named("order_id = 5", "id"));
    }
}
