//! What moving a set will do to the file.

use stillpoint_contract::{
    ArchiveSet, Estimate, Explained, Finding, Held, KeyRange, LockTaken, Member, Outlook, Result,
    Table, Weight, is_named, sought,
};

use super::{
    reference::Pair,
    schema::{Term, is_indexed, own_name, quoted},
    select::{Condition, condition, pairs, prepare, terms, tuple},
    worker::Desk,
};
use crate::connect::Journal;

const STEP: &str = "ask how rows are selected";

/// Looks at all of it.
pub(super) fn outlook(
    desk: &Desk,
    set: &ArchiveSet,
    (rows, estimate): (u64, Estimate),
) -> Result<Outlook> {
    let mut outlook = Outlook::default();
    for (number, member) in set.members.iter().enumerate() {
        outlook.steps.push(explained(desk, set, number, member, rows)?);
    }
    outlook.first = end(desk, set, "")?;
    outlook.last = end(desk, set, " DESC")?;
    outlook.locks = locks(desk)?;
    // Pages are in the log as a whole: those of the rows, and where rows of others are between
    // them, as many as there are rows.
    let page: i64 = {
        let asked = desk.connection().pragma_query_value(None, "page_size", |row| row.get(0));
        desk.sql(asked, STEP)?
    };
    outlook.log_least = estimate.bytes;
    outlook.log_most = estimate.rows.saturating_mul(page.cast_unsigned()).max(estimate.bytes);
    Ok(outlook)
}

/// Source: <https://www.sqlite.org/eqp.html>.
fn explained(
    desk: &Desk,
    set: &ArchiveSet,
    number: usize,
    member: &Member,
    rows: u64,
) -> Result<Explained> {
    let table = &member.table;
    let condition = condition(desk, set, number, &KeyRange::default())?;
    let order = match number {
        0 if !table.key.is_empty() => {
            format!(" ORDER BY {} LIMIT {rows}", ordered(desk, table, "")?)
        }
        _ => String::new(),
    };
    let own = quoted(&own_name(&table.name)?);
    let from = format!("FROM main.{own} WHERE {}{order}", condition.sql);
    let query = format!("EXPLAIN QUERY PLAN SELECT * {from}");
    let mut query = prepare(desk, desk.connection(), &query)?;
    condition.give(desk, &mut query)?;
    let (mut lines, mut plan) = (query.raw_query(), Vec::new());
    while let Some(line) = desk.sql(lines.next(), STEP)? {
        plan.push(desk.sql(line.get::<_, String>(3), STEP)?);
    }
    let own = own_name(&table.name)?;
    let is_scanned = plan.iter().any(|line| scans(line, &own));
    let advice = if is_scanned { advice(desk, set, (member, &own))? } else { None };
    let statement = format!("SELECT … {from}");
    Ok(Explained { table: table.name.clone(), statement, plan, advice })
}

/// Whether a line of a plan says that all of a table is read, which has its schema's name in ours.
fn scans(line: &str, own: &str) -> bool {
    let behind = line.strip_prefix("SCAN main.").and_then(|of| of.strip_prefix(own));
    behind.is_some_and(|behind| behind.is_empty() || behind.starts_with(' '))
}

/// The index that would find the rows, unless it is there: where most of a table is selected, it is
/// read from end to end all the same.
fn advice(
    desk: &Desk,
    set: &ArchiveSet,
    (member, own): (&Member, &str),
) -> Result<Option<Finding>> {
    let table = &member.table;
    let predicate = set.predicate.to_lowercase();
    let mut terms: Vec<_> = pairs(desk, set, member)?.iter().map(Pair::term).collect();
    if terms.is_empty() {
        let names = sought(member, |column| is_named(&predicate, &column.to_lowercase()));
        let as_it_is = |name: &str| Term { name: name.to_owned(), collation: None };
        terms.extend(names.into_iter().map(as_it_is));
    }
    if terms.is_empty() || desk.sql(is_indexed(desk.connection(), own, &terms), STEP)? {
        return Ok(None);
    }
    Ok(Some(Finding {
        subject: "scan",
        found: format!("{}: all of it is read to find the rows", table.name),
        weight: Weight::Advice,
        statement: Some(format!("CREATE INDEX … ON {} ({})", table.name, tuple(&terms))),
    }))
}

fn ordered(desk: &Desk, table: &Table, way: &str) -> Result<String> {
    let terms = terms(desk, table)?;
    let ordered = terms.iter().map(|term| format!("{}{way}", term.sql()));
    Ok(ordered.collect::<Vec<_>>().join(", "))
}

/// The key of the first row in an order.
fn end(desk: &Desk, set: &ArchiveSet, way: &str) -> Result<Option<String>> {
    let table = &set.root().table;
    if table.key.is_empty() {
        return Ok(None);
    }
    let Condition { sql, .. } = condition(desk, set, 0, &KeyRange::default())?;
    let shown =
        terms(desk, table)?.into_iter().map(|term| format!("quote({})", quoted(&term.name)));
    let query = format!(
        "SELECT {} FROM main.{} WHERE {sql} ORDER BY {} LIMIT 1",
        shown.collect::<Vec<_>>().join(" || ', ' || "),
        quoted(&own_name(&table.name)?),
        ordered(desk, table, way)?,
    );
    let mut query = prepare(desk, desk.connection(), &query)?;
    let mut rows = query.raw_query();
    let row = desk.sql(rows.next(), STEP)?;
    row.map(|row| desk.sql(row.get(0), STEP)).transpose()
}

/// Sources: <https://www.sqlite.org/lang_transaction.html>, 2.2; <https://www.sqlite.org/wal.html>.
fn locks(desk: &Desk) -> Result<Vec<LockTaken>> {
    let is_wal = matches!(desk.database.journal(desk.connection())?, Journal::Wal);
    let lock = |mode: &str, during, blocks, held| LockTaken {
        on: "the database".to_owned(),
        mode: mode.to_owned(),
        during,
        blocks,
        held,
    };
    let [reading, deleting] = if is_wal {
        ["nobody; the log is not copied back meanwhile", "whoever else writes"]
    } else {
        ["whoever commits", "whoever else writes, and at the end who reads"]
    };
    Ok(vec![
        lock("SHARED", "rows are read", reading, Held::File),
        lock("RESERVED (BEGIN IMMEDIATE)", "rows are deleted", deleting, Held::Transaction),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_all_of_a_table_is_told_from_using_an_index_and_from_another_table() {
        for (line, own, expected) in [
            ("SCAN main.c", "c", true),
            ("SCAN main.c USING INDEX c_code", "c", true),
            ("SCAN main.od d", "od d", true),
            ("SCAN main.cc", "c", false),
            ("SCAN main.p", "c", false),
            ("SEARCH main.c USING INDEX c_code (code=?)", "c", false),
        ] {
            assert_eq!(scans(line, own), expected, "{line}");
        }
    }
}
