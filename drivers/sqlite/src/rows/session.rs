//! A session that moves rows of one database.

use std::{fs, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    ArchiveSet, Burden, Compared, Cutoff, Error, ErrorKind, Estimate, Exporting, Finding, Keeping,
    KeyRange, Lag, LedgerEntry, LogUsed, Measure, Named, Outlook, Pruning, PutBack, Referrer,
    Result, RowSink, Rows, Space, Table, Weight, code,
};

use super::{
    compared::compared,
    examine::{deletion_triggers, examine},
    keep::{self, Keep},
    outlook::outlook,
    predicate,
    prune::{self, Prune},
    put_back::Return,
    schema::{self, own_name, quoted},
    select::{Condition, condition, count_to, hand_over, prepare, terms, tuple},
    text::checked_columns,
    worker::{Batches, Desk, Transaction, Worker},
};
use crate::{
    config::Config,
    connect::{Database, Journal},
    generation::{LogState, observe},
    snapshot::blocking,
    version,
    wal::Salts,
};

/// Settings of a connection that moves rows. References hold, and triggers fire, as they do for
/// applications that say so; written means synced; the log is copied back as anybody's is.
/// Sources: <https://www.sqlite.org/foreignkeys.html>, 2, "Enabling Foreign Key Support";
/// <https://www.sqlite.org/pragma.html#pragma_recursive_triggers>.
const SETTINGS: &str = "
    PRAGMA query_only = OFF; PRAGMA foreign_keys = ON; PRAGMA recursive_triggers = ON;
    PRAGMA ignore_check_constraints = OFF; PRAGMA case_sensitive_like = OFF;
    PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 1000";

/// Opens a session.
pub(crate) async fn open(database: &Database) -> Result<Box<dyn Rows>> {
    let database = database.clone();
    blocking(move || {
        database.check_identity()?;
        let connection = database.open_writable()?;
        version::check()?;
        database.sql(connection.execute_batch(SETTINGS), "open the database")?;
        if database.sql(connection.is_readonly("main"), "open the database")? {
            return Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "move rows")
                .with("file", database.path.display())
                .why("the file, or the disk that it is on, cannot be written to"));
        }
        let worker = Worker::start(connection, database.clone())?;
        Ok(Box::new(Session { worker, database, written: Written::default() }) as Box<dyn Rows>)
    })
    .await
}

#[derive(Debug)]
struct Session {
    worker: Worker,
    database: Database,
    written: Written,
}

#[async_trait]
impl Rows for Session {
    async fn now(&mut self) -> Result<DateTime<Utc>> {
        // SQLite asks the machine that it runs on, as we do.
        Ok(self.database.clock.now())
    }

    async fn table(&mut self, name: &str) -> Result<Table> {
        let name = name.to_owned();
        self.worker.run(move |desk| schema::table(desk, &name)).await
    }

    async fn table_by(&mut self, name: &str, index: &str) -> Result<Table> {
        let (name, index) = (name.to_owned(), index.to_owned());
        self.worker.run(move |desk| schema::table_by(desk, &name, &index)).await
    }

    async fn named(&mut self, name: &str) -> Result<Named> {
        let name = name.to_owned();
        self.worker.run(move |desk| schema::named(desk, &name)).await
    }

    async fn referrers(&mut self, table: &Table) -> Result<Vec<Referrer>> {
        let own = own_name(&table.name)?;
        let look = move |desk: &mut Desk| {
            let found = schema::referrers(desk.connection(), &own);
            desk.sql(found, "ask which tables refer to the table")
        };
        self.worker.run(look).await
    }

    async fn bind(
        &mut self,
        table: &Table,
        predicate: &str,
        cutoff: Option<&Cutoff>,
    ) -> Result<String> {
        let (table, predicate, cutoff) = (table.clone(), predicate.to_owned(), cutoff.copied());
        let bind =
            move |desk: &mut Desk| predicate::bind(desk, &table, &predicate, cutoff.as_ref());
        self.worker.run(bind).await
    }

    async fn examine(&mut self, set: &ArchiveSet) -> Result<Vec<Finding>> {
        let set = set.clone();
        self.worker.run(move |desk| examine(desk, &set)).await
    }

    async fn deletion_triggers(&mut self, set: &ArchiveSet) -> Result<Vec<String>> {
        let set = set.clone();
        self.worker.run(move |desk| deletion_triggers(desk, &set)).await
    }

    async fn estimate(&mut self, set: &ArchiveSet) -> Result<Estimate> {
        let set = set.clone();
        self.worker.run(move |desk| estimate(desk, &set)).await
    }

    async fn outlook(
        &mut self,
        set: &ArchiveSet,
        rows: u64,
        estimate: Estimate,
    ) -> Result<Outlook> {
        let set = set.clone();
        self.worker.run(move |desk| outlook(desk, &set, (rows, estimate))).await
    }

    async fn compared(
        &mut self,
        set: &ArchiveSet,
        predicate: &str,
        cutoff: &Cutoff,
    ) -> Result<Option<Compared>> {
        let (set, predicate, cutoff) = (set.clone(), predicate.to_owned(), *cutoff);
        self.worker.run(move |desk| compared(desk, &set, &predicate, &cutoff)).await
    }

    async fn lock(&mut self, set: &str, patience: Duration) -> Result<()> {
        self.worker.lock(set, patience).await
    }

    async fn open_ledger(&mut self) -> Result<()> {
        self.worker.run(prune::open_ledger).await
    }

    async fn ledger(&mut self, set: &str) -> Result<Vec<LedgerEntry>> {
        let set = set.to_owned();
        self.worker.run(move |desk| prune::read(desk, &set)).await
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Exporting + '_>> {
        let begin = |desk: &mut Desk| {
            // The state is that of the first read.
            let begun = desk.connection().execute_batch("BEGIN; PRAGMA main.schema_version");
            desk.sql(begun, "begin to read rows")
        };
        Ok(Box::new(Export(self.worker.begin(begin).await?)))
    }

    async fn prune(&mut self) -> Result<Box<dyn Pruning + '_>> {
        Ok(Box::new(Prune(self.worker.begin(prune::begin).await?)))
    }

    async fn put_back(&mut self) -> Result<Box<dyn PutBack + '_>> {
        Ok(Box::new(Return::new(self.worker.begin(|_| Ok(())).await?)))
    }

    async fn whose(&mut self) -> Result<String> {
        Ok(self.database.identity.id.clone())
    }

    async fn twin(&mut self, of: &Table, schema: Option<&str>) -> Result<Option<Table>> {
        keep::without_schema(schema)?;
        let name = of.name.clone();
        self.worker.run(move |desk| keep::twin(desk, &name)).await
    }

    async fn keep(&mut self) -> Result<Box<dyn Keeping + '_>> {
        Ok(Box::new(Keep(self.worker.begin(prune::begin).await?)))
    }

    async fn burden(&mut self, _: &ArchiveSet) -> Result<Burden> {
        let log = self.worker.run(|desk| log_state(desk)).await?;
        let log_used = log.and_then(|log| log_used(&self.database, &log));
        let log_bytes = log.map(|log| self.written.count(&log));
        Ok(Burden { lag: Lag::NoReplica, log_bytes, dead_rows: None, active: None, log_used })
    }

    async fn untold(&mut self, measure: Measure) -> Result<Option<Finding>> {
        self.worker.run(move |desk| untold(desk, measure)).await
    }

    async fn space(&mut self, table: &Table) -> Result<Space> {
        let table = table.clone();
        self.worker.run(move |desk| space(desk, &table)).await
    }

    async fn file_space(&mut self) -> Result<Option<Space>> {
        self.worker.run(|desk| file_space(desk).map(Some)).await
    }

    async fn reclaim(&mut self, _: &Table, method: &str) -> Result<String> {
        let method = method.to_owned();
        self.worker.run(move |desk| reclaim(desk, &method)).await
    }
}

/// How much log was written, as far as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    bytes: u128,
    /// How long the log was, and which generation.
    last: Option<(Salts, u64)>,
}

impl Written {
    /// Counts what was written since the last look. Of a generation that another one has followed
    /// meanwhile, what came after the look is not known.
    fn count(&mut self, log: &LogState) -> u128 {
        if let Some((generation, _)) = log.live {
            let (salts, now) = (generation.salts, log.bytes());
            let last = self.last.filter(|(last, _)| *last == salts);
            self.bytes += u128::from(now.saturating_sub(last.map_or(0, |(_, bytes)| bytes)));
            self.last = Some((salts, now));
        }
        self.bytes
    }
}

/// The WAL now; `None` also where there is a rollback journal instead.
fn log_state(desk: &Desk) -> Result<Option<LogState>> {
    let (database, connection) = (&desk.database, desk.connection());
    if database.journal(connection)? == Journal::Rollback {
        return Ok(None);
    }
    match observe(database, connection, &database.wal()?) {
        // Nobody can tell while writers are that busy.
        Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
        log => log.map(Some),
    }
}

/// What of the WAL has to be kept: what a reader, or nobody yet, let be copied back. It grows into
/// what the file has, and the disk has left; the file itself never becomes shorter.
fn log_used(database: &Database, log: &LogState) -> Option<LogUsed> {
    let file = fs::metadata(Config::beside(&database.path, "-wal")).map_or(0, |file| file.len());
    let disk = rustix::fs::statvfs(&database.path).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Some(LogUsed { bytes: log.kept_bytes(), room: file.saturating_add(free) })
}

/// Nobody but the processes themselves knows who works with a file, and pages of deleted rows are
/// free at once.
/// Source: <https://www.sqlite.org/fileformat2.html>, 1.5, "The Freelist".
fn untold(desk: &Desk, measure: Measure) -> Result<Option<Finding>> {
    let lacking = |found: &str, statement: Option<&str>| {
        let (found, statement) = (found.to_owned(), statement.map(str::to_owned));
        Some(Finding { subject: "throttle", found, weight: Weight::Lacking, statement })
    };
    Ok(match measure {
        Measure::Sessions => lacking("SQLite cannot tell how many sessions are working", None),
        Measure::DeadRows => lacking("SQLite has no dead rows that wait for vacuum", None),
        Measure::LogWritten | Measure::LogUsed => {
            if desk.database.journal(desk.connection())? == Journal::Wal {
                return Ok(None);
            }
            let found = "SQLite has no log where the database has a rollback journal";
            lacking(found, Some("PRAGMA journal_mode = WAL"))
        }
    })
}

/// A read of one state.
#[derive(Debug)]
struct Export<'a>(Transaction<'a>);

#[async_trait]
impl Exporting for Export<'_> {
    async fn position(&mut self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn root(
        &mut self,
        set: &ArchiveSet,
        range: &KeyRange,
        rows_max: u64,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let (set, range) = (set.clone(), range.clone());
        let work = move |desk: &mut Desk, batches: &mut Batches| {
            let order = tuple(&terms(desk, &set.root().table)?);
            select(desk, &set, 0, &range, &format!("ORDER BY {order} LIMIT {rows_max}"), batches)
        };
        self.0.hand_over(work, into).await
    }

    async fn member(
        &mut self,
        set: &ArchiveSet,
        member: usize,
        range: &KeyRange,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let (set, range) = (set.clone(), range.clone());
        let work = move |desk: &mut Desk, batches: &mut Batches| {
            select(desk, &set, member, &range, "", batches)
        };
        self.0.hand_over(work, into).await
    }
}

fn select(
    desk: &Desk,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
    order: &str,
    batches: &mut Batches,
) -> Result<u64> {
    let condition = condition(desk, set, member, range)?;
    let table = &set.members[member].table;
    let (columns, checked) = checked_columns(desk, table)?;
    let sql = format!(
        "SELECT {columns} FROM main.{} WHERE {} {order}",
        quoted(&own_name(&table.name)?),
        condition.sql,
    );
    let mut statement = prepare(desk, desk.connection(), &sql)?;
    condition.give(desk, &mut statement)?;
    hand_over(desk, &mut statement, checked, batches)
}

fn estimate(desk: &Desk, set: &ArchiveSet) -> Result<Estimate> {
    let table = &set.root().table;
    let condition = condition(desk, set, 0, &KeyRange::default())?;
    let mut rows = count_to(desk, table, &condition, COUNTED_MAX + 1)?;
    let is_estimated = rows > COUNTED_MAX;
    if is_estimated {
        rows = rows.max(analyzed(desk, table)?.unwrap_or(0));
    }
    let (some, bytes) = weigh(desk, table, &condition)?;
    let bytes = u128::from(bytes) * u128::from(rows) / u128::from(some.max(1));
    Ok(Estimate { rows, bytes: u64::try_from(bytes).unwrap_or(u64::MAX), is_estimated })
}

/// How many rows are counted; whether there are many more does not change what is done.
const COUNTED_MAX: u64 = 1_000_000;

/// How many rows `ANALYZE` counted in a table, selected or not.
/// Source: <https://www.sqlite.org/fileformat2.html#stat1tab>.
fn analyzed(desk: &Desk, table: &Table) -> Result<Option<u64>> {
    const STEP: &str = "ask how many rows the table has";
    let connection = desk.connection();
    if !desk.sql(connection.table_exists(Some("main"), "sqlite_stat1"), STEP)? {
        return Ok(None);
    }
    let query = "SELECT max(CAST(stat AS INTEGER)) FROM main.sqlite_stat1 \
                 WHERE tbl = ?1 COLLATE NOCASE";
    let own = own_name(&table.name)?;
    let found = connection.query_row(query, [own], |row| row.get::<_, Option<i64>>(0));
    Ok(desk.sql(found, STEP)?.and_then(|rows| u64::try_from(rows).ok()))
}

/// How many rows stand for the others when their length is estimated.
const WEIGHED_MAX: u64 = 1000;

/// How many rows were weighed, and how many bytes their values have.
fn weigh(desk: &Desk, table: &Table, condition: &Condition) -> Result<(u64, u64)> {
    const STEP: &str = "estimate how long rows are";
    let lengths = table
        .columns
        .iter()
        .map(|column| format!("coalesce(octet_length({}), 0)", quoted(&column.name)));
    let sql = format!(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM (SELECT {} AS bytes FROM main.{} WHERE {} \
         LIMIT {WEIGHED_MAX})",
        lengths.collect::<Vec<_>>().join(" + "),
        quoted(&own_name(&table.name)?),
        condition.sql
    );
    let mut query = prepare(desk, desk.connection(), &sql)?;
    condition.give(desk, &mut query)?;
    let mut rows = query.raw_query();
    let Some(row) = desk.sql(rows.next(), STEP)? else { return Ok((0, 0)) };
    let found = row.get(0).and_then(|some: i64| Ok((some, row.get::<_, i64>(1)?)));
    let (some, bytes) = desk.sql(found, STEP)?;
    Ok((some.cast_unsigned(), bytes.cast_unsigned()))
}

/// Pages of a table and its indexes. Pages that became empty belong to nobody.
/// Source: <https://www.sqlite.org/dbstat.html>.
fn space(desk: &Desk, table: &Table) -> Result<Space> {
    let query = "SELECT coalesce(sum(d.pgsize), 0), coalesce(sum(d.unused), 0) \
                 FROM main.sqlite_schema AS s, dbstat AS d \
                 WHERE s.tbl_name = ?1 COLLATE NOCASE AND s.rootpage > 0 \
                 AND d.schema = 'main' AND d.aggregate = TRUE AND d.name = s.name";
    let own = own_name(&table.name)?;
    let found = desk
        .connection()
        .query_row(query, [own], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    let (total, unused) = desk.sql(found, "ask for the table's pages")?;
    Ok(Space { total_bytes: total.cast_unsigned(), reusable_bytes: unused.cast_unsigned() })
}

/// The file, as long as it is, or will be once the WAL is copied back. Pages that became empty are
/// for new rows of any table.
/// Source: <https://www.sqlite.org/pragma.html#pragma_freelist_count>.
fn file_space(desk: &Desk) -> Result<Space> {
    const STEP: &str = "ask how long the file is";
    let (connection, database) = (desk.connection(), &desk.database);
    let page = u64::from(database.page_bytes(connection)?);
    let pages = u64::from(database.page_count(connection)?);
    let free = connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
    let free = desk.sql(free, STEP)?.cast_unsigned();
    let file = fs::metadata(&database.path).map_err(|e| {
        Error::new(ErrorKind::Transient, code::FILE, STEP)
            .with("file", database.path.display())
            .caused_by(e)
    })?;
    Ok(Space { total_bytes: file.len().max(pages * page), reusable_bytes: free * page })
}

/// What `auto_vacuum` says where free pages can be moved to the end and cut off.
/// Source: <https://www.sqlite.org/pragma.html#pragma_auto_vacuum>.
const INCREMENTAL: i64 = 2;

/// How many pages are given back in one transaction.
const PAGES_AT_ONCE: u32 = 1000;

fn reclaim(desk: &Desk, method: &str) -> Result<String> {
    const STEP: &str = "give free pages back";
    let number = |pragma: &str| -> Result<i64> {
        let value = desk.connection().pragma_query_value(None, pragma, |row| row.get(0));
        desk.sql(value, STEP)
    };
    if method != "vacuum" {
        return Err(Error::new(ErrorKind::Unsupported, code::USAGE, STEP)
            .with("method", method)
            .with("methods of SQLite", "vacuum"));
    }
    let before = number("freelist_count")?;
    if number("auto_vacuum")? != INCREMENTAL {
        return Ok(format!(
            "{before} pages are free for new rows; the file keeps its length, since its \
             auto_vacuum is not incremental"
        ));
    }
    let mut left = before;
    while left > 0 {
        let step = format!("PRAGMA main.incremental_vacuum({PAGES_AT_ONCE})");
        let mut step = prepare(desk, desk.connection(), &step)?;
        let mut pages = step.raw_query();
        // Each page is a row of its own, and those that are not asked for are not moved.
        while desk.sql(pages.next(), STEP)?.is_some() {}
        drop(pages);
        drop(step);
        let now = number("freelist_count")?;
        if now >= left {
            break;
        }
        left = now;
    }
    let then = if left == before || is_copied_back(desk, STEP)? {
        ""
    } else {
        "; the file becomes shorter once others let the WAL be copied back"
    };
    Ok(format!("{} of {before} free pages were given back{then}", before - left))
}

/// Copies the WAL back as far as others let that happen now; the file becomes shorter when all of
/// it is. Source: <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>.
fn is_copied_back(desk: &Desk, step: &'static str) -> Result<bool> {
    let copy = "PRAGMA main.wal_checkpoint(PASSIVE)";
    let copied = desk.connection().query_row(copy, [], |row| {
        Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
    });
    desk.sql(copied, step)
}
