//! Reading rows of one state.

use async_trait::async_trait;
use stillpoint_contract::{ArchiveSet, Exporting, Key, KeyRange, Result, RowSink, Table};
use tokio_postgres::Client;

use super::{
    conditions::{VERSION, columns, condition, key_order},
    copy::copy_out,
    failure::failed,
    literal,
    transaction::Transaction,
};

const STEP: &str = "read rows";

/// How such a transaction begins. It sees the state of its first statement.
/// Source: PostgreSQL 18 documentation, 13.2.2, "Repeatable Read Isolation Level".
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                                SELECT pg_catalog.pg_current_snapshot()";

/// A read of one state.
#[derive(Debug)]
pub(super) struct Export<'a>(pub(super) Transaction<'a>);

#[async_trait]
impl Exporting for Export<'_> {
    async fn position(&mut self) -> Result<Option<String>> {
        let step = self.0.step()?;
        let query = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";
        let row = step.client()?.query_one(query, &[]).await;
        step.end(row.and_then(|row| row.try_get(0)).map(Some).map_err(|e| failed(e, STEP)))
    }

    async fn root(
        &mut self,
        set: &ArchiveSet,
        range: &KeyRange,
        rows_max: u64,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let step = self.0.step()?;
        let done = root(step.client()?, set, range, rows_max, into).await;
        step.end(done)
    }

    async fn convert(&mut self, from: &Table, to: &Table, key: &Key) -> Result<Key> {
        let step = self.0.step()?;
        let done = literal::convert(step.client()?, from, to, key).await;
        step.end(done)
    }

    async fn member(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let step = self.0.step()?;
        let done = all(step.client()?, set, member, range, into).await;
        step.end(done)
    }

    async fn versions(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let step = self.0.step()?;
        let done = select(step.client()?, VERSION, (set, member), range, into).await;
        step.end(done)
    }
}

async fn root(
    client: &Client,
    set: &ArchiveSet,
    range: &KeyRange,
    rows_max: u64,
    into: &mut dyn RowSink,
) -> Result<u64> {
    let table = &set.root().table;
    let condition = condition(client, set, 0, range).await?;
    let query = format!(
        "SELECT {} FROM ONLY {} WHERE {condition} ORDER BY {} LIMIT {rows_max}",
        columns(table),
        table.name,
        key_order(table)?,
    );
    copy_out(client, &query, into, STEP).await
}

/// Hands over rows of a member that hang on rows of the root in a range.
pub(super) async fn all(
    client: &Client,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
    into: &mut dyn RowSink,
) -> Result<u64> {
    let columns = columns(&set.members[member].table);
    select(client, &columns, (set, member), range, into).await
}

async fn select(
    client: &Client,
    what: &str,
    (set, member): (&ArchiveSet, usize),
    range: &KeyRange,
    into: &mut dyn RowSink,
) -> Result<u64> {
    let condition = condition(client, set, member, range).await?;
    let name = &set.members[member].table.name;
    let query = format!("SELECT {what} FROM ONLY {name} WHERE {condition}");
    copy_out(client, &query, into, STEP).await
}
