//! Transactions on tables that keep copies of archived rows of another database.

use async_trait::async_trait;
use stillpoint_contract::{
    Conflict, Error, ErrorKind, Keeping, LedgerEntry, Result, RowBatch, RowSink, Table, code,
    values,
};

use super::{
    prune::{note, strike},
    put_back::{column, definition, plan, put},
    schema::{own_name, quoted, table as look_at},
    select::{Dynamic, columns, hand_over, prepare, terms, tuple},
    worker::{Batches, Desk, Transaction},
};

const STEP: &str = "keep copies of rows";

/// An open transaction on such tables.
#[derive(Debug)]
pub(super) struct Keep<'a>(pub(super) Transaction<'a>);

/// The table with the own name of another one, if it is there.
pub(super) fn twin(desk: &Desk, name: &str) -> Result<Option<Table>> {
    let own = own_name(name)?;
    match look_at(desk, &quoted(&own)) {
        Ok(table) => Ok(Some(table)),
        Err(error) if error.kind() == ErrorKind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses schemas, which a file of SQLite does not have.
pub(super) fn without_schema(schema: Option<&str>) -> Result<()> {
    let Some(schema) = schema else { return Ok(()) };
    Err(Error::new(ErrorKind::Config, code::CONFIG_VALUE, STEP)
        .with("schema", schema)
        .why("a database of SQLite has no schemas")
        .next("leave `schema` out"))
}

fn make(desk: &Desk, of: &Table) -> Result<Table> {
    let own = own_name(&of.name)?;
    if twin(desk, &of.name)?.is_some() {
        return Err(Error::new(ErrorKind::Refused, code::TARGET_EXISTS, "make a table for rows")
            .with("table", &of.name)
            .why("there is a table of that name"));
    }
    desk.sql(desk.connection().execute_batch(&definition(&own, of)), "make a table for rows")?;
    look_at(desk, &quoted(&own))
}

fn widen(desk: &Desk, table: &Table) -> Result<()> {
    let own = own_name(&table.name)?;
    let now = look_at(desk, &quoted(&own))?;
    for wanted in &table.columns {
        let definition = column(wanted);
        match now.columns.iter().find(|one| one.name == wanted.name) {
            None => {
                let add = format!("ALTER TABLE main.{} ADD COLUMN {definition}", quoted(&own));
                desk.sql(desk.connection().execute_batch(&add), "add a column")?;
            }
            Some(found) if column(found) == definition => {}
            Some(found) => {
                return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP)
                    .with("table", &table.name)
                    .with("column", &wanted.name)
                    .with("type", &wanted.engine_type)
                    .with("type there", &found.engine_type)
                    .why("the column is of another type there, in which values could be others")
                    .next("make the table that keeps the rows anew with that type"));
            }
        }
    }
    Ok(())
}

/// Carries out a statement for each key, and hands over the rows that it returns.
fn each(
    desk: &Desk,
    table: &Table,
    keys: &RowBatch,
    sql: impl FnOnce(&str, &str, &str) -> String,
    batches: &mut Batches,
) -> Result<u64> {
    let key = terms(desk, table)?;
    let marks: Vec<_> = (1..=key.len()).map(|n| format!("?{n}")).collect();
    let own = quoted(&own_name(&table.name)?);
    let condition = format!("({}) = ({})", tuple(&key), marks.join(", "));
    let sql = sql(&own, &condition, &columns(table));
    let mut statement = prepare(desk, desk.connection(), &sql)?;
    let mut count = 0;
    for key_row in keys.rows() {
        let mut marks = 0;
        for value in values(key_row) {
            marks += 1;
            let value = Dynamic::read(value?)?;
            desk.sql(statement.raw_bind_parameter(marks, value), STEP)?;
        }
        if marks != key.len() {
            return Err(Error::bug(STEP).with("values of a key", marks));
        }
        count += hand_over(desk, &mut statement, None, batches)?;
    }
    Ok(count)
}

#[async_trait]
impl Keeping for Keep<'_> {
    async fn make(&mut self, of: &Table, schema: Option<&str>) -> Result<Table> {
        without_schema(schema)?;
        let of = of.clone();
        self.0.run(move |desk| make(desk, &of)).await
    }

    async fn widen(&mut self, table: &Table) -> Result<()> {
        let table = table.clone();
        self.0.run(move |desk| widen(desk, &table)).await
    }

    async fn put(&mut self, table: &Table, rows: RowBatch) -> Result<()> {
        let table = table.clone();
        let work = move |desk: &mut Desk| {
            let plan = plan(desk, &table, &look_at(desk, &table.name)?, &Conflict::Fail)?;
            put(desk, &plan, &rows).map(drop)
        };
        self.0.run(work).await
    }

    async fn look(&mut self, table: &Table, keys: RowBatch, into: &mut dyn RowSink) -> Result<u64> {
        let table = table.clone();
        let work = move |desk: &mut Desk, batches: &mut Batches| {
            let sql = |own: &str, condition: &str, columns: &str| {
                format!("SELECT {columns} FROM main.{own} WHERE {condition}")
            };
            each(desk, &table, &keys, sql, batches)
        };
        self.0.hand_over(work, into).await
    }

    async fn remove(
        &mut self,
        table: &Table,
        keys: RowBatch,
        into: &mut dyn RowSink,
    ) -> Result<u64> {
        let table = table.clone();
        let work = move |desk: &mut Desk, batches: &mut Batches| {
            let sql = |own: &str, condition: &str, columns: &str| {
                format!("DELETE FROM main.{own} WHERE {condition} RETURNING {columns}")
            };
            each(desk, &table, &keys, sql, batches)
        };
        self.0.hand_over(work, into).await
    }

    async fn note(&mut self, entry: &LedgerEntry) -> Result<()> {
        let entry = entry.clone();
        self.0.run(move |desk| note(desk, &entry)).await
    }

    async fn strike(&mut self, entry: &LedgerEntry) -> Result<()> {
        let entry = entry.clone();
        self.0.run(move |desk| strike(desk, &entry)).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        self.0.commit().await
    }

    async fn roll_back(self: Box<Self>) -> Result<()> {
        self.0.roll_back().await
    }
}
