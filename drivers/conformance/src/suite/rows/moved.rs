//! Tables with rows, and a session that moves them.

use std::time::Duration;

use async_trait::async_trait;
use stillpoint_contract::{
    ArchiveSet, Clock as _, Key, KeyRange, LedgerEntry, Link, Member, Result, RowBatch, RowSink,
    RowWriter, Rows, values,
};

use crate::{
    memory::RealClock,
    stage::{Failure, Stage},
};

/// Rows of the table `orders`.
pub(super) const ORDERS: u32 = 60;

/// Those of them that are old and closed.
pub(super) const OLD: u64 = 20;

pub(super) const OLD_ONES: &str = "placed < '2020-01-01 00:00:00' AND status = 'closed'";

pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// What takes rows and keeps them.
#[derive(Debug, Default)]
pub(super) struct Kept(pub(super) Vec<Vec<u8>>);

#[async_trait]
impl RowSink for Kept {
    async fn put(&mut self, rows: RowBatch) -> Result<()> {
        self.0.extend(rows.rows().map(<[u8]>::to_vec));
        Ok(())
    }
}

impl Kept {
    /// In an order that does not depend on who handed them over.
    pub(super) fn sorted(mut self) -> Vec<Vec<u8>> {
        self.0.sort();
        self.0
    }
}

/// Makes the tables and fills them: orders, items of orders, and parts of items.
pub(super) async fn fill(stage: &Stage) -> Result<(), Failure> {
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    stage.server.execute(tables.create).await?;
    let mut sql = String::from("INSERT INTO orders (id, placed, status, total, note) VALUES ");
    let rows = (1..=ORDERS).map(|id| {
        let year = if id % 3 == 0 { "2024" } else { "2019" };
        let status = if id % 2 == 0 || id % 3 == 0 { "closed" } else { "open" };
        let note = if id % 5 == 0 {
            "NULL".to_owned()
        } else {
            format!("'n{}ä'", "x".repeat(id as usize))
        };
        format!("({id}, '{year}-03-10 02:30:00', '{status}', {id}.25, {note})")
    });
    sql.push_str(&rows.collect::<Vec<_>>().join(", "));
    sql.push_str("; INSERT INTO items (id, order_id, body) VALUES ");
    let rows = (1..=ORDERS * 2).map(|id| format!("({id}, {}, 'b{id}')", id.div_ceil(2)));
    sql.push_str(&rows.collect::<Vec<_>>().join(", "));
    sql.push_str("; INSERT INTO parts (id, item_id, label) VALUES ");
    let rows = (1..=ORDERS * 2).map(|id| format!("({id}, {id}, 'p{id}')"));
    sql.push_str(&rows.collect::<Vec<_>>().join(", "));
    stage.server.execute(&sql).await?;
    Ok(())
}

/// The name of a table as a set has it.
pub(super) fn name(stage: &Stage, table: &str) -> Result<String, Failure> {
    let tables = stage.fixture.row_tables().map_err(Failure::new)?;
    Ok(format!("{}{table}", tables.schema))
}

/// A set of one table.
pub(super) async fn alone(
    stage: &Stage,
    rows: &mut dyn Rows,
    table: &str,
    predicate: &str,
) -> Result<ArchiveSet, Failure> {
    let table = rows.table(&name(stage, table)?).await?;
    let predicate = rows.bind(&table, predicate, None).await?;
    let members = vec![Member { table, link: None }];
    Ok(ArchiveSet { name: "set".to_owned(), members, predicate, derived: Vec::new() })
}

/// Orders with what hangs on them.
pub(super) async fn family(stage: &Stage, rows: &mut dyn Rows) -> Result<ArchiveSet, Failure> {
    let mut set = alone(stage, rows, "orders", OLD_ONES).await?;
    for (parent, table, column) in [(0, "items", "order_id"), (1, "parts", "item_id")] {
        let table = rows.table(&name(stage, table)?).await?;
        let (columns, parent_columns) = (vec![column.to_owned()], vec!["id".to_owned()]);
        let link = Some(Link { parent, columns, parent_columns, likeness: Vec::new() });
        set.members.push(Member { table, link });
    }
    Ok(set)
}

/// The key of a row.
pub(super) fn key(set: &ArchiveSet, row: &[u8]) -> Result<Key, Failure> {
    let row: Vec<_> = values(row).collect::<Result<_>>()?;
    let mut writer = RowWriter::default();
    writer.begin(set.root().table.key.len());
    for at in &set.root().table.key {
        match row.get(*at).copied().flatten() {
            Some(value) => writer.value(&[value]),
            None => writer.null(),
        }
    }
    writer.end()?;
    Ok(Key(writer.take().bytes().clone()))
}

/// Every row of a table that is in a range, as an export sees them, in order.
pub(super) async fn exported(
    rows: &mut dyn Rows,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
) -> Result<Kept, Failure> {
    let mut kept = Kept::default();
    let mut snapshot = rows.snapshot().await?;
    let count = match member {
        0 => snapshot.root(set, range, u64::MAX >> 1, &mut kept).await?,
        _ => snapshot.member(set, member, range, &mut kept).await?,
    };
    if count == kept.0.len() as u64 {
        Ok(kept)
    } else {
        Err(Failure::new(format!("{count} rows, it says, and hands over {}", kept.0.len())))
    }
}

/// What one answer of the server says.
pub(super) async fn number(stage: &Stage, query: &str) -> Result<u64, Failure> {
    let answer = stage.server.ask(query).await?;
    let first = answer.first().and_then(|line| line.parse().ok());
    first.ok_or_else(|| Failure::new(format!("{query}: {answer:?}")))
}

/// Waits until a table has so many rows; and that others can write them then.
pub(super) async fn settles(stage: &Stage, table: &str, expected: u64) -> Result<(), Failure> {
    let clock = RealClock::new();
    let count = format!("SELECT count(*) FROM {table}");
    let mut found = number(stage, &count).await?;
    while found != expected && clock.elapsed() < Duration::from_secs(5) {
        clock.sleep(Duration::from_millis(5)).await;
        found = number(stage, &count).await?;
    }
    if found != expected {
        return Err(Failure::new(format!("{table} has {found} rows, and should have {expected}")));
    }
    // Waits for a lock that is about to be released, and fails for one that is not.
    stage.server.execute(&format!("UPDATE {table} SET id = id")).await?;
    Ok(())
}

/// An entry for the ledger.
pub(super) fn entry(slice: u32) -> LedgerEntry {
    LedgerEntry {
        set: "set".to_owned(),
        run: "run's \\ 1".to_owned(),
        batch: 1,
        slice,
        rows: 3,
        hash: "ab".repeat(32),
        at: None,
        position: None,
    }
}
