//! Transactions that delete.

use async_trait::async_trait;
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, KeyRange, LedgerEntry, Partition, Pruning, Result, RowSink,
    Table, code,
};
use tokio_postgres::Client;

use super::{
    conditions::{columns, condition},
    copy::copy_out,
    export::all,
    failure::failed,
    ledger, partition,
    table::{fingerprint, number_of},
    transaction::Transaction,
};

const STEP: &str = "delete rows";

/// Each statement sees what was committed before it, and rows that somebody else changed meanwhile
/// are looked at anew. Source: PostgreSQL 18 documentation, 13.2.1, "Read Committed Isolation
/// Level".
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// An open transaction that deletes.
#[derive(Debug)]
pub(super) struct Prune<'a>(pub(super) Transaction<'a>);

#[async_trait]
impl Pruning for Prune<'_> {
    async fn fingerprints(&mut self, set: &ArchiveSet) -> Result<Vec<String>> {
        let step = self.0.step()?;
        let done = fingerprints(step.client()?, set).await;
        step.end(done)
    }

    async fn delete(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let names = self.0.usual_names();
        let step = self.0.step()?;
        let done = delete(step.client()?, &names, (set, member), range, into).await;
        step.end(done)
    }

    async fn seize(&mut self, set: &ArchiveSet) -> Result<()> {
        let step = self.0.step()?;
        let done = partition::seize(step.client()?, set).await;
        step.end(done)
    }

    async fn look(
        &mut self,
        set: &ArchiveSet,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let step = self.0.step()?;
        let done = all(step.client()?, &everything(set), 0, range, into).await;
        step.end(done)
    }

    async fn discard(&mut self, set: &ArchiveSet) -> Result<()> {
        let step = self.0.step()?;
        let done = partition::discard(step.client()?, set).await;
        step.end(done)
    }

    async fn attach(&mut self, set: &ArchiveSet, of: &Partition) -> Result<()> {
        let step = self.0.step()?;
        let done = partition::attach(step.client()?, set, of).await;
        step.end(done)
    }

    async fn note(&mut self, entry: &LedgerEntry) -> Result<()> {
        let step = self.0.step()?;
        let done = ledger::note(step.client()?, entry).await;
        step.end(done)
    }

    async fn strike(&mut self, entry: &LedgerEntry) -> Result<()> {
        let step = self.0.step()?;
        let done = ledger::strike(step.client()?, entry).await;
        step.end(done)
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit().await
    }

    async fn roll_back(self: Box<Self>) -> Result<()> {
        self.0.roll_back().await
    }
}

/// The same set, of which every row of the root is selected.
fn everything(set: &ArchiveSet) -> ArchiveSet {
    ArchiveSet { predicate: "true".to_owned(), ..set.clone() }
}

async fn fingerprints(client: &Client, set: &ArchiveSet) -> Result<Vec<String>> {
    let tables: Vec<_> = set.members.iter().map(|m| format!("ONLY {}", m.table.name)).collect();
    // What changes a table's columns, references, triggers or rules needs a lock that this one
    // excludes. Source: PostgreSQL 18 documentation, 13.3.1, "Table-Level Locks".
    let lock = format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", tables.join(", "));
    client.batch_execute(&lock).await.map_err(|e| failed(e, STEP))?;
    let mut found = Vec::new();
    for member in &set.members {
        let number = number_of(client, &member.table).await?;
        found.push(fingerprint(client, number).await?);
    }
    Ok(found)
}

async fn delete(
    client: &Client,
    names: &str,
    (set, member): (&ArchiveSet, usize),
    range: &KeyRange,
    into: &mut dyn RowSink,
) -> Result<u64> {
    let condition = condition(client, set, member, range).await?;
    let table = &set.members[member].table;
    let (name, columns) = (&table.name, columns(table));
    if !has_triggers(client, table).await? {
        let sql = format!("DELETE FROM ONLY {name} WHERE {condition} RETURNING {columns}");
        return copy_out(client, &sql, into, STEP).await;
    }
    let sql = format!("DELETE FROM ONLY {name} WHERE {names} AND {condition} RETURNING {columns}");
    let count = copy_out(client, &sql, into, STEP).await?;
    client.batch_execute("SET LOCAL search_path = ''").await.map_err(|e| failed(e, STEP))?;
    check(client, table, &condition).await?;
    Ok(count)
}

async fn has_triggers(client: &Client, table: &Table) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT FROM pg_trigger
        WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled <> 'D')";
    let number = number_of(client, table).await?;
    let row = client.query_one(query, &[&number]).await.map_err(|e| failed(e, STEP))?;
    row.try_get(0).map_err(|e| failed(e, STEP))
}

/// A trigger may put back what was deleted, in place of the row that was returned.
async fn check(client: &Client, table: &Table, condition: &str) -> Result<()> {
    let query = format!("SELECT FROM ONLY {} WHERE {condition} LIMIT 1", table.name);
    let left = client.query_opt(&query, &[]).await.map_err(|e| failed(e, STEP))?;
    if left.is_none() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
        .with("table", &table.name)
        .why("rows are still there: a trigger keeps them or puts them back, or others add some"))
}
