//! Transactions that put rows back.

use async_trait::async_trait;
use rusqlite::{ErrorCode, Statement, ffi};
use stillpoint_contract::{
    Class, Column, Conflict, Error, ErrorKind, Followed, Kind, PutBack, PutBackTally, Result,
    RowBatch, Table, code, values,
};

use super::{
    schema::{Term, listed, own_name, quoted, table as look},
    select::{Dynamic, prepare, terms, tuple},
    watch::{Follows, Kept, Watch, has_triggers, with_triggers},
    worker::{Desk, Transaction},
};

const STEP: &str = "put rows back";

/// What takes rows as they were.
const AS_THEN: &str =
    "--into staging puts all of them into a table of their own, with the columns of then";

/// How rows of a table are put back.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    table: String,
    insert: String,
    /// Finds the row that is there, and whether it is replaced. What else its parameters are,
    /// besides the key, is the place in a row.
    find: Option<(String, Option<usize>)>,
    /// The places of those columns in a row that are inserted.
    given: Vec<usize>,
    /// The columns that the insertion returns, to be compared with the row.
    returned: Vec<Returned>,
    /// The places of the key's columns; of all that are inserted, where there is none.
    key: Vec<usize>,
    columns: usize,
    /// What of the key is told to people.
    shown: String,
    /// Where rows are kept until the end, to be compared.
    kept: Option<Kept>,
    /// What says which rows come back, where that hangs on others.
    follows: Option<Follows>,
}

/// A column, as the table has it once a row is there.
#[derive(Clone, Debug)]
struct Returned {
    name: String,
    /// The place of its value in a row.
    at: usize,
    /// Whether every number becomes a floating-point one.
    is_real: bool,
}

/// Begins with rows of a table, and makes it if it is a new one.
fn begin(
    desk: &Desk,
    watch: &mut Watch,
    table: &Table,
    (conflict, is_made): (&Conflict, bool),
    staging: Option<&str>,
) -> Result<Plan> {
    let connection = desk.connection();
    // Nobody else writes from then on: not before there is a row to put back.
    if connection.is_autocommit() {
        desk.sql(connection.execute_batch("BEGIN IMMEDIATE"), STEP)?;
        // References hold at the end.
        desk.sql(connection.execute_batch("PRAGMA defer_foreign_keys = ON"), STEP)?;
    }
    let Some(name) = staging else {
        let now = look(desk, &table.name)?;
        let conflict = if is_made { in_new(&now, conflict) } else { conflict };
        let mut plan = plan(desk, table, &now, conflict)?;
        // What comes back with them asks which they are.
        if has_triggers(desk)? || matches!(conflict, Conflict::Newer(_)) {
            plan.kept = Some(watch.keep(desk, table, &now, &plan.given)?);
        }
        return Ok(plan);
    };
    let own = own_name(name)?;
    let made = connection.execute_batch(&definition(&own, table));
    if let Err(e) = made {
        let is_there = desk.sql(connection.table_exists(Some("main"), own.as_str()), STEP)?;
        if is_there {
            return Err(Error::new(ErrorKind::Refused, code::TARGET_EXISTS, STEP)
                .with("table", name)
                .why("there is a table of that name")
                .next("choose a name that is free"));
        }
        return desk.sql(Err(e), "make a table for the rows");
    }
    let now = look(desk, &quoted(&own))?;
    plan(desk, table, &now, in_new(&now, conflict))
}

/// What happens to rows that are put into a new table: without a key, no row is there.
fn in_new<'a>(now: &Table, conflict: &'a Conflict) -> &'a Conflict {
    if now.key.is_empty() { &Conflict::Absent } else { conflict }
}

/// A table that holds the same values: of the same types, save where another kind of table would
/// turn values into others. Source: <https://www.sqlite.org/stricttables.html>, 3.
pub(super) fn definition(own: &str, table: &Table) -> String {
    let mut parts: Vec<_> = table.columns.iter().map(column).collect();
    // Without that, a key of text could hold NULLs.
    for at in &table.key {
        parts[*at].push_str(" NOT NULL");
    }
    let key = table.key.iter().filter_map(|at| table.columns.get(*at));
    let key: Vec<_> = key.map(|column| column.name.as_str()).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", listed(key)));
    }
    // It would be another name of the row id, which is a number, and whatever was archived need not
    // be one: the key of a table WITHOUT ROWID, or of an index, holds anything.
    // Source: <https://www.sqlite.org/lang_createtable.html>, 5.
    let is_row_id = match table.key.as_slice() {
        [only] => table.columns[*only].engine_type.eq_ignore_ascii_case("INTEGER"),
        _ => false,
    };
    let options = if is_row_id { " WITHOUT ROWID" } else { "" };
    format!("CREATE TABLE main.{} ({}){options}", quoted(own), parts.join(", "))
}

pub(super) fn column(column: &Column) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '(' | ')' | ',');
    let engine_type = column.engine_type.as_str();
    let is_known = engine_type.chars().all(is_plain) && !engine_type.eq_ignore_ascii_case("ANY");
    let engine_type = if is_known { engine_type } else { "" };
    format!("{} {engine_type}", quoted(&column.name))
}

pub(super) fn plan(desk: &Desk, table: &Table, now: &Table, conflict: &Conflict) -> Result<Plan> {
    let place_now = |name: &str| now.columns.iter().find(|column| column.name == name);
    let (mut given, mut returned) = (Vec::new(), Vec::new());
    for (at, column) in table.columns.iter().enumerate() {
        match place_now(&column.name) {
            None if column.is_generated => {}
            None => {
                let add = format!(
                    "ALTER TABLE {} ADD COLUMN {} {}",
                    now.name,
                    quoted(&column.name),
                    column.engine_type
                );
                return Err(unfit(table, "the table has no such column any more")
                    .with("column", &column.name)
                    .next(add)
                    .next(AS_THEN));
            }
            // What was computed is computed again.
            Some(target) if target.is_generated && column.is_generated => {}
            Some(target) => {
                let is_real = target.kind == Kind::Dynamic { declared: Class::Real };
                returned.push(Returned { name: target.name.clone(), at, is_real });
                if !target.is_generated {
                    given.push(at);
                }
            }
        }
    }
    let names = |places: &[usize]| -> Vec<String> {
        places.iter().map(|at| table.columns[*at].name.clone()).collect()
    };
    let given_names = names(&given);
    let own = quoted(&own_name(&now.name)?);
    let marks: Vec<_> = (1..=given.len()).map(|n| format!("?{n}")).collect();
    // `OR ABORT`: what the table says of conflicts does not count here.
    let mut insert = format!(
        "INSERT OR ABORT INTO main.{own} ({}) VALUES ({})",
        listed(given_names.iter().map(String::as_str)),
        marks.join(", ")
    );
    let key_terms = if now.key.is_empty() { Vec::new() } else { terms(desk, now)? };
    let key: Vec<_> = key_terms.iter().filter_map(|term| place(table, &term.name)).collect();
    let has_key = !key.is_empty() && key.len() == key_terms.len();
    if !has_key && *conflict != Conflict::Absent {
        return Err(table.without_key(STEP));
    }
    // By all of its values, people find such a row.
    let key = if has_key { key } else { given.clone() };
    if let Some(policy) = on_conflict(table, &own, &key_terms, &given_names, conflict)? {
        insert.push_str(&policy);
    }
    insert.push_str(" RETURNING ");
    insert.push_str(&listed(returned.iter().map(|one| one.name.as_str())));
    let marks: Vec<_> = (1..=key.len()).map(|n| format!("?{n}")).collect();
    let by = match conflict {
        Conflict::Newer(by) => place(table, by),
        _ => None,
    };
    let is_replaced = match conflict {
        Conflict::Fail | Conflict::Absent => None,
        Conflict::Skip => Some("0".to_owned()),
        Conflict::Overwrite => Some("1".to_owned()),
        Conflict::Newer(by) => Some(format!("coalesce(?{} > {}, 0)", key.len() + 1, quoted(by))),
    };
    let find = is_replaced.map(|is_replaced| {
        let (names, marks) = (tuple(&key_terms), marks.join(", "));
        (format!("SELECT {is_replaced} FROM main.{own} WHERE ({names}) = ({marks})"), by)
    });
    Ok(Plan {
        table: now.name.clone(),
        insert,
        find,
        given,
        returned,
        shown: names(&key).join(", "),
        key,
        columns: table.columns.len(),
        kept: None,
        follows: None,
    })
}

fn place(table: &Table, name: &str) -> Option<usize> {
    table.columns.iter().position(|column| column.name == name)
}

fn on_conflict(
    table: &Table,
    own: &str,
    key: &[Term],
    given: &[String],
    conflict: &Conflict,
) -> Result<Option<String>> {
    let target = tuple(key);
    let sets: Vec<_> = given.iter().map(|n| format!("{0} = excluded.{0}", quoted(n))).collect();
    let replace = format!(" ON CONFLICT ({target}) DO UPDATE SET {}", sets.join(", "));
    Ok(match conflict {
        Conflict::Fail | Conflict::Absent => None,
        Conflict::Skip => Some(format!(" ON CONFLICT ({target}) DO NOTHING")),
        Conflict::Overwrite => Some(replace),
        Conflict::Newer(by) if given.contains(by) => {
            Some(format!("{replace} WHERE excluded.{0} > {own}.{0}", quoted(by)))
        }
        Conflict::Newer(by) => {
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, "compare rows")
                .with("table", &table.name)
                .with("column", by)
                .why("it has no such column"));
        }
    })
}

fn unfit(table: &Table, why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP).with("table", &table.name).why(why)
}

/// An open transaction that puts rows back.
#[derive(Debug)]
pub(super) struct Return<'a> {
    transaction: Transaction<'a>,
    /// How rows of the table are put back that was begun, and what became of them.
    begun: Option<(Plan, PutBackTally)>,
    watch: Watch,
    /// The tables that it made.
    made: Vec<String>,
}

impl<'a> Return<'a> {
    pub(super) fn new(transaction: Transaction<'a>) -> Self {
        Self { transaction, begun: None, watch: Watch::default(), made: Vec::new() }
    }
}

#[async_trait]
impl PutBack for Return<'_> {
    async fn begin(
        &mut self,
        table: &Table,
        conflict: &Conflict,
        staging: Option<&str>,
    ) -> Result<String> {
        if self.begun.is_some() {
            return Err(Error::bug(STEP));
        }
        let (table, conflict) = (table.clone(), conflict.clone());
        let (is_made, makes) = (self.made.contains(&table.name), staging.is_some());
        let staging = staging.map(str::to_owned);
        let mut watch = std::mem::take(&mut self.watch);
        let begin = move |desk: &mut Desk| {
            let how = (&conflict, is_made);
            let plan = begin(desk, &mut watch, &table, how, staging.as_deref())?;
            Ok((plan, watch))
        };
        let (plan, watch) = self.transaction.run(begin).await?;
        self.watch = watch;
        let name = plan.table.clone();
        if makes {
            self.made.push(name.clone());
        }
        self.begun = Some((plan, PutBackTally::default()));
        Ok(name)
    }

    async fn follow(&mut self, table: &Table, followed: &Followed) -> Result<String> {
        let name = self.begin(table, &Conflict::Overwrite, None).await?;
        let (mut plan, tally) = self.begun.take().ok_or_else(|| Error::bug(STEP))?;
        let (table, followed) = (table.clone(), followed.clone());
        let mut watch = std::mem::take(&mut self.watch);
        let follow = move |desk: &mut Desk| {
            plan.follows = Some(watch.follows(desk, &table, &followed)?);
            if plan.kept.is_none() {
                let now = look(desk, &table.name)?;
                plan.kept = Some(watch.keep(desk, &table, &now, &plan.given)?);
            }
            Ok((plan, watch))
        };
        let (plan, watch) = self.transaction.run(follow).await?;
        self.watch = watch;
        self.begun = Some((plan, tally));
        Ok(name)
    }

    async fn rows(&mut self, rows: RowBatch) -> Result<()> {
        let (plan, tally) = self.begun.as_mut().ok_or_else(|| Error::bug(STEP))?;
        let plan = plan.clone();
        let put = self.transaction.run(move |desk| put(desk, &plan, &rows)).await?;
        tally.inserted += put.inserted;
        tally.replaced += put.replaced;
        tally.skipped += put.skipped;
        Ok(())
    }

    async fn end(&mut self) -> Result<PutBackTally> {
        let (_, tally) = self.begun.take().ok_or_else(|| Error::bug(STEP))?;
        Ok(tally)
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        let Self { mut transaction, begun, watch, .. } = *self;
        if begun.is_some() {
            return Err(Error::bug(STEP));
        }
        let conclude = move |desk: &mut Desk| {
            watch.compare(desk)?;
            Ok(desk.connection().is_autocommit())
        };
        if transaction.run(conclude).await? {
            // Nothing was begun.
            return transaction.roll_back().await;
        }
        transaction.commit().await.map_err(|error| match error.code() {
            code::ROWS_REFUSED => Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
                .why("they refer to rows that are not there")
                .next("put those back first")
                .caused_by(error),
            _ => error,
        })
    }
}

pub(super) fn put(desk: &Desk, plan: &Plan, rows: &RowBatch) -> Result<PutBackTally> {
    let connection = desk.connection();
    let mut insert = prepare(desk, connection, &plan.insert)?;
    let find = plan.find.as_ref().map(|(sql, by)| Ok((prepare(desk, connection, sql)?, by)));
    let mut find = find.transpose()?;
    let mut keep = plan.kept.as_ref().map(|kept| kept.prepare(desk)).transpose()?;
    let mut follows = plan.follows.as_ref().map(|of| of.prepare(desk)).transpose()?;
    let mut tally = PutBackTally::default();
    for row in rows.rows() {
        let row: Vec<_> = values(row).collect::<Result<_>>()?;
        if row.len() != plan.columns {
            return Err(Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, STEP)
                .with("columns of the table", plan.columns)
                .with("columns of the row", row.len()));
        }
        let row: Vec<_> = row.into_iter().map(Dynamic::read).collect::<Result<_>>()?;
        if let Some(follows) = &mut follows
            && !follows.has(desk, &row)?
        {
            tally.skipped += 1;
            continue;
        }
        // Of the row that is there, whether it is replaced.
        let is_there: Option<bool> = match &mut find {
            None => None,
            Some((find, by)) => {
                for (mark, at) in (1..).zip(plan.key.iter().chain(by.iter())) {
                    desk.sql(find.raw_bind_parameter(mark, row[*at]), STEP)?;
                }
                let mut found = find.raw_query();
                let found = desk.sql(found.next(), STEP)?;
                desk.sql(found.map(|found| found.get(0)).transpose(), STEP)?
            }
        };
        for (mark, at) in (1..).zip(&plan.given) {
            desk.sql(insert.raw_bind_parameter(mark, row[*at]), STEP)?;
        }
        let is_put = insert_one(desk, &mut insert, plan, &row)?;
        match (is_there, is_put) {
            (None, true) => tally.inserted += 1,
            (Some(true), true) => tally.replaced += 1,
            (Some(false), false) => {
                tally.skipped += 1;
                continue;
            }
            _ => {
                let error = Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
                    .with("table", &plan.table)
                    .with("key", key_text(plan, &row))
                    .why("a trigger keeps the row out of its table");
                return Err(with_triggers(desk, error, [plan.table.as_str()])?);
            }
        }
        if let Some(keep) = &mut keep {
            keep.row(desk, &row)?;
        }
    }
    Ok(tally)
}

/// Inserts a row whose values were given, unless another one stays, and makes sure that the table
/// has made no other values of them. Returns whether it was put.
///
/// What is returned are the values after the affinities of the columns, before triggers saw them;
/// in a column for floating-point numbers, it may still say that a number is an integer.
/// Sources: <https://www.sqlite.org/lang_returning.html>, 3;
/// <https://www.sqlite.org/datatype3.html>, 3.
fn insert_one(
    desk: &Desk,
    insert: &mut Statement<'_>,
    plan: &Plan,
    row: &[Dynamic<'_>],
) -> Result<bool> {
    // The latter is what a row id says to what is no whole number.
    let refusals = [Some(ErrorCode::ConstraintViolation), Some(ErrorCode::TypeMismatch)];
    let step = |next: rusqlite::Result<bool>| match next {
        Err(e) if refusals.contains(&e.sqlite_error_code()) => Err(refused(e, plan, row)),
        done => desk.sql(done, STEP),
    };
    let mut rows = insert.raw_query();
    let is_put = match rows.next() {
        Ok(Some(there)) => {
            for (place, column) in plan.returned.iter().enumerate() {
                let there = Dynamic::of(desk.sql(there.get_ref(place), STEP)?);
                let there = if column.is_real { there.real() } else { there };
                let was = row[column.at];
                if !there.is_same(was) {
                    return Err(altered(plan, row, &column.name, (was, there)));
                }
            }
            true
        }
        Ok(None) => false,
        Err(e) => return step(Err(e)),
    };
    // Not done before it says so.
    step(rows.next().map(|more| more.is_some()))?;
    Ok(is_put)
}

fn altered(
    plan: &Plan,
    row: &[Dynamic<'_>],
    column: &str,
    (was, there): (Dynamic<'_>, Dynamic<'_>),
) -> Error {
    Error::new(ErrorKind::Refused, code::ROWS_DIFFER, STEP)
        .with("table", &plan.table)
        .with("key", key_text(plan, row))
        .with("column", column)
        .with("archived", was)
        .with("would become", there)
        .why("the column is declared otherwise than when the row was archived")
        .next(AS_THEN)
}

fn key_text(plan: &Plan, row: &[Dynamic<'_>]) -> String {
    let values: Vec<_> = plan.key.iter().map(|at| row[*at].to_string()).collect();
    format!("({}) = ({})", plan.shown, values.join(", "))
}

/// Source of the codes: <https://www.sqlite.org/rescode.html#extrc>.
fn refused(e: rusqlite::Error, plan: &Plan, row: &[Dynamic<'_>]) -> Error {
    let extended = e.sqlite_error().map(|error| error.extended_code);
    let is_key = matches!(
        extended,
        Some(
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_ROWID
        )
    );
    let error = Error::new(ErrorKind::Refused, code::ROWS_CONFLICT, STEP)
        .with("table", &plan.table)
        .with("key", key_text(plan, row))
        .caused_by(e);
    if is_key {
        error
            .why("a row that has the same key, or the same unique values, is there")
            .next("--on-conflict skip keeps those that are there, overwrite replaces them")
            .next("--staging NAME puts all of them into a table of their own")
    } else {
        error.why("the table does not admit the row as it is").next(AS_THEN)
    }
}
