//! Rows that are put back with those that they refer to.

use stillpoint_contract::{Error, Followed, Result, Table};

use super::passing::value;
use crate::tally::quoted;

/// What takes rows out that have passed, unless they refer to a row that this transaction put into
/// its table, a new one or in place of another: only those are of it.
/// Source: PostgreSQL 18 documentation, 5.6, "System Columns", xmin.
pub(super) fn leave(
    (table, now): (&Table, &Table),
    followed: &Followed,
    through: &str,
    is_parted: bool,
) -> Result<String> {
    let (mut values, mut same) = (Vec::new(), Vec::new());
    for (name, referred) in followed.columns.iter().zip(&followed.parent_columns) {
        let at = table.columns.iter().position(|column| column.name == *name);
        let target = now.columns.iter().find(|target| target.name == *name);
        let (Some(at), Some(target)) = (at, target) else {
            return Err(Error::bug("put rows back").with("table", &table.name));
        };
        let column = &table.columns[at];
        let mut put = value(at, column, &target.engine_type);
        if !column.is_cast && column.engine_type != target.engine_type {
            put = format!("{put}::{}", target.engine_type);
        }
        values.push(format!("{put} AS f{at}"));
        same.push(format!("there.{} = put.f{at}", quoted(referred)));
    }
    let only = if is_parted { "" } else { "ONLY " };
    Ok(format!(
        "DELETE FROM {through} WHERE NOT EXISTS (SELECT FROM (SELECT {}) AS put
            JOIN {only}{} AS there ON {} WHERE there.xmin = pg_current_xact_id()::xid)",
        values.join(", "),
        followed.parent,
        same.join(" AND ")
    ))
}
