//! Transactions on tables that keep copies of archived rows of another database.

use async_trait::async_trait;
use futures::SinkExt as _;
use stillpoint_contract::{
    Column, Error, ErrorKind, Keeping, LedgerEntry, Result, RowBatch, RowSink, Table, TablePattern,
    code, values,
};
use tokio_postgres::{Client, error::SqlState};

use super::{
    conditions::{columns, key_columns, listed},
    copy::copy_out,
    failure::failed,
    ledger,
    passing::{Passing, checked_type, close, open, passing_type, value},
    prune::OWN_NAMES,
    table::table as look_at,
    transaction::Transaction,
};
use crate::tally::quoted;

const STEP: &str = "keep copies of rows";

/// An open transaction on such tables.
#[derive(Debug)]
pub(super) struct Keep<'a> {
    transaction: Transaction<'a>,
    passing: Passing,
}

impl<'a> Keep<'a> {
    pub(super) fn new(transaction: Transaction<'a>) -> Self {
        Self { transaction, passing: Passing::default() }
    }
}

/// The name of a table beside others of a schema, or of one of the same name as another one's.
fn name_of(of: &Table, schema: Option<&str>) -> Result<(String, String)> {
    let pattern = TablePattern::new(&of.name)?;
    match pattern.names().as_slice() {
        [own_schema, own] => {
            let schema = schema.unwrap_or(own_schema).to_owned();
            let name = format!("{}.{}", quoted(&schema), quoted(own));
            Ok((schema, name))
        }
        _ => Err(Error::bug("name a table").with("table", &of.name)),
    }
}

/// The table with the own name of another one, if it is there.
pub(super) async fn twin(
    client: &Client,
    of: &Table,
    schema: Option<&str>,
) -> Result<Option<Table>> {
    let (_, name) = name_of(of, schema)?;
    let query = "SELECT to_regclass($1) IS NOT NULL";
    let row = client.query_one(query, &[&name]).await.map_err(|e| failed(e, STEP))?;
    if !row.try_get::<_, bool>(0).map_err(|e| failed(e, STEP))? {
        return Ok(None);
    }
    look_at(client, &name).await.map(Some)
}

async fn make(client: &Client, of: &Table, schema: Option<&str>) -> Result<Table> {
    let (schema, name) = name_of(of, schema)?;
    let query = "SELECT FROM pg_namespace WHERE nspname = $1";
    let is_there = client.query_opt(query, &[&schema]).await.map_err(|e| failed(e, STEP))?;
    if is_there.is_none() {
        let statement = format!("CREATE SCHEMA {}", quoted(&schema));
        client.execute(&statement, &[]).await.map_err(|e| failed(e, "make a schema"))?;
    }
    let mut parts = Vec::new();
    for column in &of.columns {
        parts.push(format!("{} {}", quoted(&column.name), checked_type(column)?));
    }
    parts.push(format!("PRIMARY KEY ({})", key_columns(of)?));
    let statement = format!("CREATE TABLE {name} ({})", parts.join(", "));
    client.execute(&statement, &[]).await.map_err(|e| not_made(e, &name))?;
    look_at(client, &name).await
}

fn not_made(cause: tokio_postgres::Error, name: &str) -> Error {
    const STEP: &str = "make a table for rows";
    let message = cause.as_db_error().map(|db| db.message().to_owned()).unwrap_or_default();
    match cause.code() {
        Some(&SqlState::DUPLICATE_TABLE) => {
            Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
                .with("table", name)
                .why("there is a table of that name")
                .caused_by(cause)
        }
        Some(&SqlState::UNDEFINED_OBJECT | &SqlState::INVALID_SCHEMA_NAME) => {
            Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                .with("table", name)
                .with("server", message)
                .why("a column has a type that is not in the database that keeps the rows")
                .next("create that type, or its extension, there, as it is in the other database")
                .caused_by(cause)
        }
        _ => failed(cause, STEP),
    }
}

async fn widen(client: &Client, table: &Table) -> Result<()> {
    let now = look_at(client, &table.name).await?;
    for wanted in &table.columns {
        let engine_type = checked_type(wanted)?;
        match now.columns.iter().find(|one| one.name == wanted.name) {
            None => {
                let name = quoted(&wanted.name);
                let add = format!("ALTER TABLE {} ADD COLUMN {name} {engine_type}", table.name);
                client.execute(&add, &[]).await.map_err(|e| not_made(e, &table.name))?;
            }
            Some(found) if found.engine_type == engine_type => {}
            Some(found) => {
                let alter = format!(
                    "ALTER TABLE {} ALTER COLUMN {} TYPE {engine_type}",
                    table.name,
                    quoted(&wanted.name)
                );
                return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                    .with("table", &table.name)
                    .with("column", &wanted.name)
                    .with("type", engine_type)
                    .with("type there", &found.engine_type)
                    .why("the column is of another type there, in which values could be others")
                    .next(alter));
            }
        }
    }
    Ok(())
}

/// Lets rows pass into a temporary table of columns of some types, and returns its name.
async fn pass(
    client: &Client,
    passing: &mut Passing,
    types: &[&str],
    rows: &RowBatch,
) -> Result<String> {
    if let Some(row) = rows.rows().find(|row| values(row).count() != types.len()) {
        return Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, STEP)
            .with("columns of the table", types.len())
            .with("columns of the row", values(row).count()));
    }
    let name = passing.ready(client, types).await?;
    let mut sink = open(client, &name).await?;
    sink.send(rows.bytes().clone()).await.map_err(|e| failed(e, STEP))?;
    close(sink).await?;
    Ok(name)
}

async fn put(
    client: &Client,
    passing: &mut Passing,
    usual_names: &str,
    table: &Table,
    rows: &RowBatch,
) -> Result<()> {
    let types: Vec<&str> = table.columns.iter().map(passing_type).collect::<Result<_>>()?;
    let through = pass(client, passing, &types, rows).await?;
    let taken = table.columns.iter().enumerate();
    let taken: Vec<_> = taken.map(|(at, one)| value(at, one, &one.engine_type)).collect();
    let insert = format!(
        "INSERT INTO {} ({}) SELECT {} FROM {through} WHERE {usual_names}",
        table.name,
        listed(table.columns.iter().map(|column| column.name.as_str())),
        taken.join(", "),
    );
    let put = client.execute(&insert, &[]).await.map_err(|e| not_put(e, table))?;
    client.batch_execute(OWN_NAMES).await.map_err(|e| failed(e, STEP))?;
    if put == rows.len() as u64 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
        .with("table", &table.name)
        .with("rows", rows.len())
        .with("inserted", put)
        .why("a trigger keeps rows from being inserted"))
}

fn not_put(cause: tokio_postgres::Error, table: &Table) -> Error {
    let db = cause.as_db_error();
    let message = db.map(|db| db.message().to_owned()).unwrap_or_default();
    match cause.code() {
        Some(&SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION) => {
            let detail = db.and_then(|db| db.detail()).unwrap_or_default().to_owned();
            Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
                .with("table", &table.name)
                .with("key", detail)
                .why("a row that has the same key, or the same unique values, is there")
                .caused_by(cause)
        }
        Some(code) if code.code().starts_with("22") || code.code().starts_with("23") => {
            Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                .with("table", &table.name)
                .with("server", message)
                .why("the table as it is now does not admit the rows")
                .caused_by(cause)
        }
        _ => failed(cause, STEP),
    }
}

/// Says which rows have some keys.
async fn having(
    client: &Client,
    passing: &mut Passing,
    table: &Table,
    keys: &RowBatch,
) -> Result<String> {
    let key: Vec<&Column> = table.key.iter().filter_map(|at| table.columns.get(*at)).collect();
    let types: Vec<&str> = key.iter().map(|one| passing_type(one)).collect::<Result<_>>()?;
    let through = pass(client, passing, &types, keys).await?;
    let taken = key.iter().enumerate().map(|(at, one)| value(at, one, &one.engine_type));
    let taken = taken.collect::<Vec<_>>().join(", ");
    Ok(format!("({}) IN (SELECT {taken} FROM {through})", key_columns(table)?))
}

#[async_trait]
impl Keeping for Keep<'_> {
    async fn make(&mut self, of: &Table, schema: Option<&str>) -> Result<Table> {
        let step = self.transaction.step()?;
        let done = make(step.client()?, of, schema).await;
        step.end(done)
    }

    async fn widen(&mut self, table: &Table) -> Result<()> {
        let step = self.transaction.step()?;
        let done = widen(step.client()?, table).await;
        step.end(done)
    }

    async fn put(&mut self, table: &Table, rows: RowBatch) -> Result<()> {
        let names = self.transaction.usual_names();
        let step = self.transaction.step()?;
        let done = put(step.client()?, &mut self.passing, &names, table, &rows).await;
        step.end(done)
    }

    async fn look(&mut self, table: &Table, keys: RowBatch, into: &mut dyn RowSink) -> Result<u64> {
        let step = self.transaction.step()?;
        let done = async {
            let client = step.client()?;
            let condition = having(client, &mut self.passing, table, &keys).await?;
            let columns = columns(table);
            let query = format!("SELECT {columns} FROM ONLY {} WHERE {condition}", table.name);
            copy_out(client, &query, into, STEP).await
        };
        let done = done.await;
        step.end(done)
    }

    async fn remove(
        &mut self,
        table: &Table,
        keys: RowBatch,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let step = self.transaction.step()?;
        let done = async {
            let client = step.client()?;
            let condition = having(client, &mut self.passing, table, &keys).await?;
            let columns = columns(table);
            let name = &table.name;
            let delete = format!("DELETE FROM ONLY {name} WHERE {condition} RETURNING {columns}");
            copy_out(client, &delete, into, STEP).await
        };
        let done = done.await;
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
        self.transaction.commit().await
    }

    async fn roll_back(self: Box<Self>) -> Result<()> {
        self.transaction.roll_back().await
    }
}
