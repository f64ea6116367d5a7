//! Transactions that delete.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use stillpoint_contract::{
    ArchiveSet, Error, ErrorKind, KeyRange, LedgerEntry, Member, Partition, Pruning, Result,
    RowSink, Table, code, say_derived,
};
use tokio_postgres::{Client, Row};

use super::{
    conditions::{VERSION, columns, columns_amid, condition},
    copy::copy_out,
    export::all,
    failure::failed,
    ledger,
    members::Members,
    partition,
    table::fingerprint,
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
    /// What there was before the first deletion.
    before: Option<Before>,
}

/// Rows that were deleted by one statement.
#[derive(Debug)]
struct Deleted {
    table: Table,
    /// The number of the table.
    number: u32,
    /// Which rows.
    condition: String,
    rows: u64,
    has_triggers: bool,
}

impl<'a> Prune<'a> {
    pub(super) fn new(transaction: Transaction<'a>) -> Self {
        Self { transaction, deleted: Vec::new(), before: None }
    }

    /// Deletes rows, and hands over something of each; all columns where that is not said.
    async fn returning(
        &mut self,
        what: Option<&str>,
        (set, member): (&ArchiveSet, usize),
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        if self.before.is_none() {
            let step = self.transaction.step()?;
            let done = Before::look(step.client()?, set).await;
            self.before = Some(step.end(done)?);
        }
        let members = self.before.as_ref().map(|before| &before.members);
        let members = members.ok_or_else(|| Error::bug("look at the tables of the set"))?;
        let number = members.number(set, member)?;
        let names = members
            .have_triggers
            .then(|| (self.transaction.usual_names(), self.transaction.set_usual_path()));
        let of = (set, member, number);
        let step = self.transaction.step()?;
        let done = delete(step.client()?, names.as_ref(), what, of, range, into).await;
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
        let (before, found) = step.end(done)?;
        if self.before.is_none() {
            self.before = Some(before);
        }
        Ok(found)
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
        let Self { mut transaction, deleted, before } = *self;
        let names = transaction.usual_names();
        let step = transaction.step()?;
        let done = conclude(step.client()?, &names, &deleted, before.as_ref()).await;
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

async fn fingerprints(client: &Client, set: &ArchiveSet) -> Result<(Before, Vec<String>)> {
    let before = Before::look(client, set).await?;
    let mut found = Vec::new();
    for number in &before.members.numbers {
        found.push(fingerprint(client, *number).await?);
    }
    Ok((before, found))
}

/// Locks the tables of a set, and looks at them.
///
/// What changes a table's columns, references, triggers or rules needs a lock that this one
/// excludes: who is at it is waited for. Each statement of the transaction sees what was committed
/// before it, and so the one behind the lock finds what others have made meanwhile, and what stays
/// until the end. Only functions of triggers that it finds could add to that, in this transaction.
/// Source: PostgreSQL 18 documentation, 13.3.1, "Table-Level Locks", and 13.2.1, "Read Committed
/// Isolation Level".
async fn locked(client: &Client, set: &ArchiveSet) -> Result<Members> {
    let tables: Vec<_> = set.members.iter().map(|m| format!("ONLY {}", m.table.name)).collect();
    let lock = format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", tables.join(", "));
    client.batch_execute(&lock).await.map_err(|e| failed(e, STEP))?;
    Members::look(client, set).await
}

async fn delete(
    client: &Client,
    names: Option<&(String, String)>,
    what: Option<&str>,
    (set, member, number): (&ArchiveSet, usize, u32),
    range: &KeyRange,
    into: &mut dyn RowSink,
) -> Result<Deleted> {
    let condition = condition(client, set, member, range).await?;
    let table = &set.members[member].table;
    let name = &table.name;
    let returned = match (what, names) {
        (Some(what), _) => what.to_owned(),
        (None, Some((_, set_names))) => columns_amid(table, set_names),
        (None, None) => columns(table),
    };
    let usual = names.map(|(usual, _)| format!("{usual} AND ")).unwrap_or_default();
    let sql = format!("DELETE FROM ONLY {name} WHERE {usual}{condition} RETURNING {returned}");
    let rows = copy_out(client, &sql, into, STEP).await?;
    let has_triggers = names.is_some();
    if has_triggers {
        client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
        check(client, table, &condition).await?;
    }
    Ok(Deleted { table: table.clone(), number, condition, rows, has_triggers })
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
async fn conclude(
    client: &Client,
    names: &str,
    deleted: &[Deleted],
    before: Option<&Before>,
) -> Result<()> {
    let Some(before) = before.filter(|_| !deleted.is_empty()) else { return Ok(()) };
    let set_names = format!("SELECT WHERE {names}");
    client.batch_execute(&set_names).await.map_err(|e| failed(e, STEP))?;
    let fired = client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await;
    fired.map_err(|e| failed(e, "let deferred triggers and constraints act"))?;
    client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
    for one in deleted.iter().filter(|one| one.has_triggers) {
        check(client, &one.table, &one.condition).await?;
    }
    before.check(client).await?;
    if !tracks(client).await? {
        return Ok(());
    }
    let mut handed_over: BTreeMap<u32, u64> = BTreeMap::new();
    for one in deleted {
        *handed_over.entry(one.number).or_default() += one.rows;
    }
    let members = &before.members;
    let counted = counted(client, &members.numbers).await?;
    let gone = before.of_set.iter().zip(counted).map(|(then, now)| now - then);
    for ((number, name), gone) in members.numbers.iter().zip(&members.names).zip(gone) {
        let rows = handed_over.get(number).copied().unwrap_or(0);
        if u64::try_from(gone).ok() != Some(rows) {
            return Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
                .with("table", name)
                .with("handed over", rows)
                .with("deleted", gone)
                .why(
                    "other rows would be gone, too: a trigger, or a reference, deletes them; what \
                     is rolled back in a block with EXCEPTION counts as well",
                ));
        }
    }
    Ok(())
}

/// Whether the server counts what is deleted.
pub(super) async fn tracks(client: &Client) -> Result<bool> {
    let tracks = client.query_one("SELECT current_setting('track_counts') = 'on'", &[]).await;
    tracks.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))
}

/// The tables of the set and others, as they were: what a trigger deletes of others is in no file.
#[derive(Debug)]
struct Before {
    members: Members,
    /// Tables whose rows only derive from others, and their partitions.
    derived: Vec<u32>,
    /// How many rows of each of the set's tables were deleted before. Triggers of one may delete
    /// rows of another that is yet to come.
    of_set: Vec<i64>,
    /// How many rows of other tables were deleted before.
    counted: BTreeMap<u32, i64>,
    /// The tables that there were, where a trigger could drop one.
    tables: BTreeSet<u32>,
}

impl Before {
    async fn look(client: &Client, set: &ArchiveSet) -> Result<Self> {
        let members = locked(client, set).await?;
        let derived = derived(client, set).await?;
        let of_set = counted(client, &members.numbers).await?;
        let apart = [&members.numbers[..], &derived].concat();
        let counted = deleted_of_others(client, &apart).await?.into_iter();
        let counted = counted.map(|(number, rows, _)| (number, rows)).collect();
        let may_drop = !members.deletion_triggers.is_empty();
        let tables = if may_drop { tables(client).await? } else { BTreeSet::new() };
        Ok(Self { members, derived, of_set, counted, tables })
    }

    /// Makes sure that no row of another table is gone.
    async fn check(&self, client: &Client) -> Result<()> {
        if !self.members.deletion_triggers.is_empty() && !tracks(client).await? {
            return Err(self.refused(
                "track_counts is off: nobody can tell whether triggers \
                 delete rows of tables that are not in the set",
            ));
        }
        let apart = [&self.members.numbers[..], &self.derived].concat();
        for (number, rows, table) in deleted_of_others(client, &apart).await? {
            let gone = rows - self.counted.get(&number).copied().unwrap_or(0);
            if gone != 0 {
                return Err(counted_too(self.lost(COUNTED, number, &table)).with("rows", gone));
            }
        }
        if let Some((number, table)) = emptied(client, &self.derived).await? {
            return Err(self.lost(LOST, number, &table).with("rows", "all of them"));
        }
        if self.tables.is_empty() {
            return Ok(());
        }
        let dropped = gone(client).await?.into_iter().find(|number| self.tables.contains(number));
        let Some(number) = dropped else { return Ok(()) };
        // Rolled back, it has its name again.
        let table = format!("{number}::regclass");
        Err(self.refused(LOST).with("table", table).with("rows", "all of them: it is dropped"))
    }

    fn lost(&self, why: &'static str, number: u32, table: &str) -> Error {
        let error = self.refused(why).with("table", table);
        let may_derive = number >= FIRST_OF_USERS && !self.members.numbers.contains(&number);
        if may_derive { error.next(say_derived(table)) } else { error }
    }

    fn refused(&self, why: &'static str) -> Error {
        let mut error = Error::new(ErrorKind::Refused, code::ROWS_REFUSED, STEP).why(why);
        for trigger in &self.members.deletion_triggers {
            error = error.with("trigger that fires", trigger);
        }
        error.next("add that table to the set, or ALTER TABLE … DISABLE TRIGGER …")
    }
}

/// Objects of the server itself have lesser numbers.
/// Source: PostgreSQL 18, `src/include/access/transam.h`, `FirstNormalObjectId`.
const FIRST_OF_USERS: u32 = 16384;

const LOST: &str = "rows that are not of the set would be deleted without being archived";
const COUNTED: &str = "the server counts deletions of rows that are not of the set: those would be \
                       gone without being archived, unless all of it was taken back";

/// Says what else may be counted. To try again at once would help against a lost race alone, and a
/// later run hardly loses that again; a block of a trigger that is rolled back is so each time.
fn counted_too(error: Error) -> Error {
    error
        .next(
            "what a trigger deletes and rolls back, in a block with EXCEPTION, is counted as well, \
             each time: let it check before it deletes",
        )
        .next(
            "so is an INSERT … ON CONFLICT that another session overtook: where a trigger has \
             one, and deletes nothing, run the same command again",
        )
}

/// The numbers of tables whose rows only derive from others, and of their partitions. One that is
/// gone has no rows.
async fn derived(client: &Client, set: &ArchiveSet) -> Result<Vec<u32>> {
    if set.derived.is_empty() {
        return Ok(Vec::new());
    }
    let query = "WITH named AS (SELECT c.oid
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE format('%I.%I', n.nspname, c.relname) = ANY ($1::text[]))
        SELECT oid FROM named
        UNION SELECT t.relid::oid FROM named, pg_partition_tree(named.oid::regclass) AS t";
    let rows = client.query(query, &[&set.derived]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| row.try_get(0).map_err(|e| failed(e, STEP))).collect()
}

/// How many rows of tables that are not in a set were deleted through this connection lately.
/// Those of temporary tables are nobody's, and the ledger is ours; of large objects, files have the
/// numbers alone. What a subtransaction deleted that was rolled back counts, too, and so does a row
/// that was inserted speculatively and taken back, since one of the same key had come first.
/// Sources: PostgreSQL 18, `src/backend/utils/activity/pgstat_relation.c`,
/// `AtEOSubXact_PgStat_Relations`; `src/backend/access/heap/heapam.c`, `heap_abort_speculative`.
async fn deleted_of_others(client: &Client, members: &[u32]) -> Result<Vec<(u32, i64, String)>> {
    let query = "SELECT c.oid, pg_stat_get_xact_tuples_deleted(c.oid),
            format('%I.%I', n.nspname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence <> 't'
            AND (n.nspname NOT IN ('pg_catalog', 'information_schema')
                OR c.oid = 'pg_catalog.pg_largeobject_metadata'::regclass)
            AND c.oid <> ALL ($1::oid[]) AND c.oid IS DISTINCT FROM to_regclass($2)
            AND pg_stat_get_xact_tuples_deleted(c.oid) > 0";
    let rows = client.query(query, &[&members, &ledger::LEDGER]).await;
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let rows = rows.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| read(row).map_err(|e| failed(e, STEP))).collect()
}

/// The tables that there are, save temporary ones.
async fn tables(client: &Client) -> Result<BTreeSet<u32>> {
    let query = "SELECT oid FROM pg_class
        WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND oid >= 16384";
    numbers(client, query).await
}

/// What this transaction has locked that is no longer there: it dropped it. That may be something
/// that it made.
/// Source: PostgreSQL 18 documentation, DROP TABLE; 53.13, "pg_locks".
async fn gone(client: &Client) -> Result<BTreeSet<u32>> {
    let query = "SELECT l.relation FROM pg_locks AS l
            JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
            AND l.mode = 'AccessExclusiveLock'
            AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation)";
    numbers(client, query).await
}

async fn numbers(client: &Client, query: &str) -> Result<BTreeSet<u32>> {
    let rows = client.query(query, &[]).await.map_err(|e| failed(e, STEP))?;
    rows.iter().map(|row| row.try_get(0).map_err(|e| failed(e, STEP))).collect()
}

/// A table, of the set or not, that this transaction has emptied by `TRUNCATE`, which no counter
/// tells: it has other files then than before, and is locked. A table that the transaction made has
/// those that it began with.
/// Source: PostgreSQL 18 documentation, TRUNCATE; 13.3.1, "Table-Level Locks"; 52.11, "pg_class".
async fn emptied(client: &Client, derived: &[u32]) -> Result<Option<(u32, String)>> {
    let query = "SELECT c.oid, format('%I.%I', n.nspname, c.relname)
        FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
            JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
            AND l.mode = 'AccessExclusiveLock' AND c.relkind = 'r' AND c.relpersistence <> 't'
            AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND c.relfilenode <> c.oid AND c.oid <> ALL ($1::oid[])
            AND age(c.xmin) <= age(pg_current_xact_id()::xid)
        LIMIT 1";
    let row = client.query_opt(query, &[&derived]).await.map_err(|e| failed(e, STEP))?;
    let read = |row: Row| Ok((row.try_get(0)?, row.try_get(1)?));
    row.map(read).transpose().map_err(|e| failed(e, STEP))
}

/// How many rows of tables were deleted through this connection lately, whatever had it delete
/// them: the server forgets some of them between transactions, and none within one.
/// Source: PostgreSQL 18, `src/backend/utils/adt/pgstatfuncs.c`,
/// `pg_stat_get_xact_tuples_deleted`.
async fn counted(client: &Client, numbers: &[u32]) -> Result<Vec<i64>> {
    let query = "SELECT ARRAY(SELECT pg_stat_get_xact_tuples_deleted(n.number)
        FROM unnest($1::oid[]) WITH ORDINALITY AS n (number, at) ORDER BY n.at)";
    let row = client.query_one(query, &[&numbers]).await;
    row.and_then(|row| row.try_get(0)).map_err(|e| failed(e, STEP))
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
