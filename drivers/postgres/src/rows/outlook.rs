//! What moving a set will do to the server.

use stillpoint_contract::{
    ArchiveSet, Estimate, Explained, Finding, Held, KeyRange, LockTaken, Member, Outlook, Result,
    Weight, is_named, sought,
};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{
    conditions::{columns, condition, key_columns, key_order, listed},
    examine::index,
    failure::failed,
};

/// How a look begins that may be given up. Nothing is changed.
pub(super) const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '5s'";

/// What a deleted row takes in the log at least: the record, and where the row is. Its columns are
/// not in it unless the table's identity is `FULL`.
/// Source: PostgreSQL 18, `src/include/access/heapam_xlog.h`, `xl_heap_delete`.
const DELETION_BYTES: u64 = 64;

/// While what is done, and who waits for whoever reads a table.
pub(super) const READING: &str = "rows are read";
pub(super) const READING_BLOCKS: &str = "DROP, TRUNCATE, most of ALTER TABLE";

/// Looks at everything but the keys.
pub(super) async fn outlook(
    client: &Client,
    set: &ArchiveSet,
    (rows, estimate): (u64, Estimate),
) -> Result<Outlook> {
    let mut outlook = Outlook::default();
    // Without a key nothing is begun, and that is told elsewhere.
    let has_key = !set.root().table.key.is_empty();
    for (number, member) in set.members.iter().enumerate().filter(|_| has_key) {
        outlook.steps.push(explained(client, set, number, rows).await?);
        outlook.locks.extend(locks(set, number, member));
    }
    let least = estimate.rows.saturating_mul(DELETION_BYTES);
    (outlook.log_least, outlook.log_most) = (least, least.saturating_add(estimate.bytes));
    Ok(outlook)
}

/// The keys of the first and the last row that is selected.
pub(super) async fn ends(client: &Client, set: &ArchiveSet) -> Result<[Option<String>; 2]> {
    const STEP: &str = "find the first and the last row";
    let table = &set.root().table;
    if table.key.is_empty() {
        return Ok([None, None]);
    }
    let names = key_columns(table)?;
    let order = key_order(table)?;
    let mut ends = [None, None];
    for (end, way) in ends.iter_mut().zip(["", " DESC"]) {
        let order = order.split(", ").map(|one| format!("{one}{way}")).collect::<Vec<_>>();
        let query = format!(
            "SELECT concat_ws(', ', {names}) FROM ONLY {} WHERE ({}) ORDER BY {} LIMIT 1",
            table.name,
            set.predicate,
            order.join(", ")
        );
        let row = client.query_opt(&query, &[]).await.map_err(|e| failed(e, STEP))?;
        *end = row.map(|row| row.try_get(0)).transpose().map_err(|e| failed(e, STEP))?;
    }
    Ok(ends)
}

async fn explained(
    client: &Client,
    set: &ArchiveSet,
    number: usize,
    rows: u64,
) -> Result<Explained> {
    const STEP: &str = "ask how rows are selected";
    let member = &set.members[number];
    let table = &member.table;
    let condition = condition(client, set, number, &KeyRange::default()).await?;
    let order = match number {
        0 if !table.key.is_empty() => format!(" ORDER BY {} LIMIT {rows}", key_order(table)?),
        _ => String::new(),
    };
    let from = format!("FROM ONLY {} WHERE {condition}{order}", table.name);
    let query = format!("EXPLAIN SELECT {} {from}", columns(table));
    let said = client.simple_query(&query).await.map_err(|e| failed(e, STEP))?;
    let lines = said.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    let plan: Vec<String> = lines.collect();
    let is_scanned = plan.iter().any(|line| scans(line, &table.name));
    let advice = if is_scanned { advice(client, set, member).await? } else { None };
    Ok(Explained {
        table: table.name.clone(), statement: format!("SELECT … {from}"), advice, plan
    })
}

/// Whether a line of a plan says that all of a table is read.
fn scans(line: &str, table: &str) -> bool {
    let own = table.rsplit('.').next().unwrap_or(table);
    let Some((_, of)) = line.split_once("Seq Scan on ") else { return false };
    of.split_whitespace().next().is_some_and(|name| name == own || name == table)
}

/// The index that would find the rows, unless it is there: a small table is read from end to end
/// all the same.
async fn advice(client: &Client, set: &ArchiveSet, member: &Member) -> Result<Option<Finding>> {
    let table = &member.table;
    let names = sought(member, |column| is_named(&set.predicate, column));
    let columns: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    if !columns.is_empty() && index(client, &table.name, &columns).await?.is_none() {
        return Ok(None);
    }
    let on = if names.is_empty() { "…".to_owned() } else { listed(names) };
    Ok(Some(Finding {
        subject: "sequential scan",
        found: format!("{}: all of it is read to find the rows", table.name),
        weight: Weight::Advice,
        statement: Some(format!("CREATE INDEX CONCURRENTLY ON {} ({on})", table.name)),
    }))
}

/// Sources: PostgreSQL 18 documentation, 13.3.1, "Table-Level Locks", 13.3.2, "Row-Level Locks".
fn locks(set: &ArchiveSet, number: usize, member: &Member) -> Vec<LockTaken> {
    let lock = |mode: &str, during, blocks, held| LockTaken {
        on: member.table.name.clone(),
        mode: mode.to_owned(),
        during,
        blocks,
        held,
    };
    let mut locks = vec![
        lock("ACCESS SHARE", READING, READING_BLOCKS, Held::File),
        lock("ROW EXCLUSIVE", "rows are deleted", "changes of the schema", Held::Transaction),
    ];
    let is_parent = |one: &Member| one.link.as_ref().is_some_and(|link| link.parent == number);
    if set.members.iter().any(is_parent) {
        let blocks = "whoever changes those rows, or refers to them";
        let mode = "FOR UPDATE, of the rows";
        locks.push(lock(mode, "rows are deleted", blocks, Held::Transaction));
    }
    locks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_of_all_of_a_table_is_seen() {
        for (line, is_scan) in [
            ("Seq Scan on orders  (cost=0.00..1.20 rows=1 width=4)", true),
            ("        ->  Parallel Seq Scan on orders  (cost=0.00..1.20 rows=1 width=4)", true),
            ("  ->  Seq Scan on orders_old  (cost=0.00..1.20 rows=1 width=4)", false),
            ("  ->  Index Scan using orders_pkey on orders  (cost=0.15..8 rows=1)", false),
        ] {
            assert_eq!(scans(line, "public.orders"), is_scan, "{line}");
        }
    }
}
