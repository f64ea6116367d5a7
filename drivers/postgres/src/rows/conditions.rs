//! Which rows a step is about, as SQL.

use stillpoint_contract::{ArchiveSet, Column, Error, KeyRange, Member, Result, Table};
use tokio_postgres::Client;

use super::literal;
use crate::tally::quoted;

/// Columns of a table, one after the other.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// A table's key, to be compared or ordered by.
pub(super) fn key_columns(table: &Table) -> Result<String> {
    let columns = table.key.iter().filter_map(|at| table.columns.get(*at));
    let columns = listed(columns.map(|column| column.name.as_str()));
    if columns.is_empty() {
        return Err(Error::bug("use the key of a table that has none").with("table", &table.name));
    }
    Ok(columns)
}

/// A table's key, to order rows by that are selected as [`columns`] says. A bare name would be that
/// of a column of the result, and where that is text, so would be its order.
/// Source: PostgreSQL 18 documentation, SELECT, "ORDER BY Clause".
pub(super) fn key_order(table: &Table) -> Result<String> {
    key_columns(table)?;
    let columns = table.key.iter().filter_map(|at| table.columns.get(*at));
    let names = columns.map(|column| format!("{}.{}", table.name, quoted(&column.name)));
    Ok(names.collect::<Vec<_>>().join(", "))
}

/// A table's columns, as they stand in rows.
pub(super) fn columns(table: &Table) -> String {
    let shown = |column: &Column| {
        let name = quoted(&column.name);
        if column.is_cast { format!("{name}::text") } else { name }
    };
    table.columns.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Which rows of a member hang on rows of the root in a range.
pub(super) async fn condition(
    client: &Client,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
) -> Result<String> {
    let root = &set.root().table;
    let names = key_columns(root)?;
    let mut parts = Vec::new();
    for (sign, key) in [(">", &range.after), ("<=", &range.to)] {
        if let Some(key) = key {
            let values = literal::key(client, root, key).await?;
            parts.push(format!("({names}) {sign} ({})", values.join(", ")));
        }
    }
    parts.push(format!("({})", set.predicate));
    let mut condition = parts.join(" AND ");
    for (child, parent) in path(set, member)?.into_iter().rev() {
        let link = child.link.as_ref().ok_or_else(unknown)?;
        condition = format!(
            "({}) IN (SELECT {} FROM ONLY {} WHERE {condition})",
            listed(link.columns.iter().map(String::as_str)),
            listed(link.parent_columns.iter().map(String::as_str)),
            parent.table.name,
        );
    }
    Ok(condition)
}

/// From a member to the root, each with what it refers to.
fn path(set: &ArchiveSet, member: usize) -> Result<Vec<(&Member, &Member)>> {
    let (mut at, mut path) = (member, Vec::new());
    while let Some(link) = &set.members.get(at).ok_or_else(unknown)?.link {
        let is_fit = link.parent < at && link.columns.len() == link.parent_columns.len();
        if !is_fit || link.columns.is_empty() {
            return Err(unknown());
        }
        path.push((&set.members[at], &set.members[link.parent]));
        at = link.parent;
    }
    Ok(path)
}

fn unknown() -> Error {
    Error::bug("find the table in the set")
}
