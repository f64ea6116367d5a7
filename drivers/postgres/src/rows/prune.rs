//! Transactions that delete.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, KeyRange, LedgerEntry, Member, Partition, Pruning, Result,
    RowSink, Table, code,
};
use tokio_postgres::Client;

use super::{
    conditions::{VERSION, columns, columns_amid, condition},
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
pub(super) struct Prune<'a> {
    transaction: Transaction<'a>,
    /// What was deleted.
    deleted: Vec<Deleted>,
}

/// Rows that were deleted by one statement.
#[derive(Debug)]
struct Deleted {
    table: Table,
    /// Which rows.
    condition: String,
    rows: u64,
    /// What the server had counted before.
    counted: i64,
    has_triggers: bool,
}

impl<'a> Prune<'a> {
    pub(super) fn new(transaction: Transaction<'a>) -> Self {
        Self { transaction, deleted: Vec::new() }
    }

    /// Deletes rows, and hands over something of each; all columns where that is not said.
    async fn returning(
        &mut self,
        what: Option<&str>,
        (set, member): (&ArchiveSet, usize),
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let names = (self.transaction.usual_names(), self.transaction.set_usual_path());
        let step = self.transaction.step()?;
        let done = delete(step.client()?, &names, what, (set, member), range, into).await;
        let deleted = step.end(done)?;
        let rows = deleted.rows;
        self.deleted.push(deleted);
        Ok(rows)
    }
}

#[async_trait]
impl Pruning for Prune<'_> {
    async fn fingerprints(&mut self, set: &ArchiveSet) -> Result<Vec<String>> {
        let step = self.transaction.step()?;
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
        self.returning(None, (set, member), range, into).await
    }

    async fn delete_versions(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        self.returning(Some(VERSION), (set, member), range, into).await
    }

    async fn hold(&mut self, set: &ArchiveSet, range: &KeyRange) -> Result<()> {
        let step = self.transaction.step()?;
        let done = hold(step.client()?, set, range).await;
        step.end(done)
    }

    async fn seize(&mut self, set: &ArchiveSet) -> Result<()> {
        let step = self.transaction.step()?;
        let done = partition::seize(step.client()?, set).await;
        step.end(done)
    }

    async fn look(
        &mut self,
        set: &ArchiveSet,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let step = self.transaction.step()?;
        let done = all(step.client()?, &everything(set), 0, range, into).await;
        step.end(done)
    }

    async fn discard(&mut self, set: &ArchiveSet) -> Result<()> {
        let step = self.transaction.step()?;
        let done = partition::discard(step.client()?, set).await;
        step.end(done)
    }

    async fn attach(&mut self, set: &ArchiveSet, of: &Partition) -> Result<()> {
        let step = self.transaction.step()?;
        let done = partition::attach(step.client()?, set, of).await;
        step.end(done)
    }

    async fn note(&mut self, entry: &LedgerEntry) -> Result<()> {
        let step = self.transaction.step()?;
        let done = ledger::note(step.client()?, entry).await;
        step.end(done)
    }

    async fn strike(&mut self, entry: &LedgerEntry) -> Result<()> {
        let step = self.transaction.step()?;
        let done = ledger::strike(step.client()?, entry).await;
        step.end(done)
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        let Self { mut transaction, deleted } = *self;
        let names = transaction.usual_names();
        let step = transaction.step()?;
        let done = conclude(step.client()?, &names, &deleted).await;
        if let Err(error) = step.end(done) {
            // The error counts; a transaction that is not committed never was.
            drop(transaction.roll_back().await);
            return Err(error);
        }
        transaction.commit().await
    }

    async fn roll_back(self: Box<Self>) -> Result<()> {
        self.transaction.roll_back().await
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
    (names, set_names): &(String, String),
    what: Option<&str>,
    (set, member): (&ArchiveSet, usize),
    range: &KeyRange,
    into: &mut dyn RowSink,
) -> Result<Deleted> {
    let condition = condition(client, set, member, range).await?;
    let table = &set.members[member].table;
    let name = &table.name;
    let has_triggers = has_triggers(client, table).await?;
    let returned = match what {
        Some(what) => what.to_owned(),
        None if has_triggers => columns_amid(table, set_names),
        None => columns(table),
    };
    let counted = counted(client, number_of(client, table).await?).await?;
    let names = if has_triggers { format!("{names} AND ") } else { String::new() };
    let sql = format!("DELETE FROM ONLY {name} WHERE {names}{condition} RETURNING {returned}");
    let rows = copy_out(client, &sql, into, STEP).await?;
    if has_triggers {
        client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
        check(client, table, &condition).await?;
    }
    Ok(Deleted { table: table.clone(), condition, rows, counted, has_triggers })
}

pub(super) const OWN_NAMES: &str = "SET LOCAL search_path = ''";

/// Locks the rows that others may be about to refer to, top-down. Whoever adds a row that refers to
/// one of them holds a lock until the end that this one waits for, and the row is seen by the
/// statement that follows.
/// Source: PostgreSQL 18 documentation, 13.3.2, "Row-Level Locks".
async fn hold(client: &Client, set: &ArchiveSet, range: &KeyRange) -> Result<()> {
    for (number, member) in set.members.iter().enumerate() {
        let is_parent = |one: &Member| one.link.as_ref().is_some_and(|link| link.parent == number);
        if !set.members.iter().any(is_parent) {
            continue;
        }
        let condition = condition(client, set, number, range).await?;
        let name = &member.table.name;
        let query = format!(
            "SELECT count(*) FROM (SELECT FROM ONLY {name} WHERE {condition} FOR UPDATE) AS held"
        );
        client.query_one(&query, &[]).await.map_err(|e| failed(e, STEP))?;
    }
    Ok(())
}

/// Lets happen now what was put off until the end, and makes sure that the rows that were handed
/// over are gone, and no others.
async fn conclude(client: &Client, names: &str, deleted: &[Deleted]) -> Result<()> {
    if deleted.is_empty() {
        return Ok(());
    }
    let set_names = format!("SELECT WHERE {names}");
    client.batch_execute(&set_names).await.map_err(|e| failed(e, STEP))?;
    let fired = client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
    fired.map_err(|e| failed(e, "let deferred triggers and constraints act"))?;
    client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
    for one in deleted.iter().filter(|one| one.has_triggers) {
        check(client, &one.table, &one.condition).await?;
    }
    let tracks = client.query_one("SELECT current_setting('track_counts') = 'on'", &[]).await;
    if !tracks.and_then(|row| row.try_get::<_, bool>(0)).map_err(|e| failed(e, STEP))? {
        return Ok(());
    }
    let mut tables: BTreeMap<u32, (&Deleted, u64)> = BTreeMap::new();
    for one in deleted {
        let number = number_of(client, &one.table).await?;
        tables.entry(number).or_insert((one, 0)).1 += one.rows;
    }
    for (number, (first, rows)) in tables {
        let gone = counted(client, number).await? - first.counted;
        if u64::try_from(gone).ok() != Some(rows) {
            return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
                .with("table", &first.table.name)
                .with("handed over", rows)
                .with("deleted", gone)
                .why("other rows would be gone, too: a trigger, or a reference, deletes them"));
        }
    }
    Ok(())
}

/// How many rows of a table were deleted through this connection lately, whatever had it delete
/// them: the server forgets some of them between transactions, and none within one.
/// Source: PostgreSQL 18, `src/backend/utils/adt/pgstatfuncs.c`,
/// `pg_stat_get_xact_tuples_deleted`.
async fn counted(client: &Client, number: u32) -> Result<i64> {
    let query = "SELECT pg_stat_get_xact_tuples_deleted($1)";
    let row = client.query_one(query, &[&number]).await;
    row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))
}

async fn has_triggers(client: &Client, table: &Table) -> Result<bool> {
    let query = "SELECT EXISTS (SELECT FROM pg_trigger
        WHERE tgrelid = $1 AND (NOT tgisinternal OR tgparentid <> 0 AND tgconstraint = 0)
            AND tgenabled <> 'D')";
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
