//! Which rows a step is about, as SQL, and rows as bytes.

use std::fmt;

use rusqlite::{
    Connection, ErrorCode, Statement, ToSql,
    types::{ToSqlOutput, ValueRef},
};
use stillpoint_contract::{
    ArchiveSet, Class, Error, ErrorKind, Key, KeyRange, Member, Result, RowWriter, Table, code,
    values,
};

use super::{
    reference::{Pair, hanging},
    schema::{Term, key_of, listed, own_name, quoted},
    text::check,
    worker::{Batches, Desk},
};
use crate::error;

/// A condition, and the values of its parameters.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) sql: String,
    keys: Vec<Key>,
}

/// Which rows of a member hang on rows of the root in a range.
pub(super) fn condition(
    desk: &Desk,
    set: &ArchiveSet,
    member: usize,
    range: &KeyRange,
) -> Result<Condition> {
    let sql = chain(desk, set, member, range)?;
    let keys = [&range.after, &range.from, &range.to].into_iter().flatten().cloned().collect();
    Ok(Condition { sql, keys })
}

fn chain(desk: &Desk, set: &ArchiveSet, member: usize, range: &KeyRange) -> Result<String> {
    let own = set.members.get(member).ok_or_else(unknown)?;
    let Some(link) = &own.link else { return root(desk, set, range) };
    if link.parent >= member || link.columns.len() != link.parent_columns.len() {
        return Err(unknown());
    }
    let parent = own_name(&set.members[link.parent].table.name)?;
    let above = chain(desk, set, link.parent, range)?;
    // Found by an index of the columns that refer, which `EXISTS` would not do.
    Ok(hanging(&pairs(desk, set, own)?, &parent, &above))
}

/// The columns by which a table of the set refers to its parent; none for the root.
pub(super) fn pairs(desk: &Desk, set: &ArchiveSet, member: &Member) -> Result<Vec<Pair>> {
    let Some(link) = &member.link else { return Ok(Vec::new()) };
    let parent = set.members.get(link.parent).ok_or_else(unknown)?;
    let (own, parent) = (own_name(&member.table.name)?, own_name(&parent.table.name)?);
    let (refers, referred) = ((&*own, &*link.columns), (&*parent, &*link.parent_columns));
    desk.sql(Pair::all(desk.connection(), refers, referred), "look at a reference")
}

fn root(desk: &Desk, set: &ArchiveSet, range: &KeyRange) -> Result<String> {
    let mut parts = Vec::new();
    // All rows are counted also where there is no key, so that this is told by whoever examines.
    let bounds = [(">", &range.after), (">=", &range.from), ("<=", &range.to)];
    let is_bounded = bounds.iter().any(|(_, key)| key.is_some());
    let terms = if is_bounded { terms(desk, &set.root().table)? } else { Vec::new() };
    let names = tuple(&terms);
    let mut next = 1;
    for (sign, key) in bounds {
        if key.is_some() {
            let marks: Vec<_> = (next..).take(terms.len()).map(|n| format!("?{n}")).collect();
            next += terms.len();
            parts.push(format!("({names}) {sign} ({})", marks.join(", ")));
        }
    }
    parts.push(format!("({})", set.predicate));
    Ok(parts.join(" AND "))
}

/// The columns of a table's key as they are compared; they have to be those that it had.
pub(super) fn terms(desk: &Desk, table: &Table) -> Result<Vec<Term>> {
    let terms = key_of(desk.connection(), &own_name(&table.name)?, table);
    let terms = desk.sql(terms, "look at the table's key")?;
    if terms.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "use the table's key")
            .with("table", &table.name)
            .why("it has no key without NULLs, or another one than when it was looked at"));
    }
    Ok(terms)
}

/// Columns of a key, to be compared or ordered by.
pub(super) fn tuple(terms: &[Term]) -> String {
    terms.iter().map(Term::sql).collect::<Vec<_>>().join(", ")
}

fn unknown() -> Error {
    Error::bug("find the table in the set")
}

impl Condition {
    /// Gives a statement the values of its parameters.
    pub(super) fn give(&self, desk: &Desk, statement: &mut Statement<'_>) -> Result<()> {
        let mut place = 1;
        for key in &self.keys {
            for value in values(&key.0) {
                let value = Dynamic::read(value?)?;
                desk.sql(statement.raw_bind_parameter(place, value), "say which rows are meant")?;
                place += 1;
            }
        }
        if place == statement.parameter_count() + 1 {
            Ok(())
        } else {
            Err(Error::bug("say which rows are meant").with("values", place - 1))
        }
    }
}

/// A value that says itself what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dynamic<'a>(ValueRef<'a>);

impl<'a> Dynamic<'a> {
    /// Takes the bytes of a row's value.
    pub(super) fn read(value: Option<&'a [u8]>) -> Result<Self> {
        let Some(value) = value else { return Ok(Self(ValueRef::Null)) };
        let (class, rest) = value.split_first().ok_or_else(malformed)?;
        let number = || rest.try_into().map_err(|_| malformed());
        Ok(Self(match Class::of(*class).ok_or_else(malformed)? {
            Class::Integer => ValueRef::Integer(i64::from_be_bytes(number()?)),
            Class::Real => ValueRef::Real(f64::from_be_bytes(number()?)),
            Class::Text => ValueRef::Text(rest),
            Class::Blob => ValueRef::Blob(rest),
            Class::Any => return Err(malformed()),
        }))
    }
}

impl<'a> Dynamic<'a> {
    /// A value as SQLite has it.
    pub(super) fn of(value: ValueRef<'a>) -> Self {
        Self(value)
    }

    /// The value, as a column for floating-point numbers has it.
    /// Source: <https://www.sqlite.org/datatype3.html>, 3.
    pub(super) fn real(self) -> Self {
        match self.0 {
            ValueRef::Integer(number) => Self(ValueRef::Real(number as f64)),
            _ => self,
        }
    }

    /// Whether it is of the same class, and has the same bytes.
    pub(super) fn is_same(self, other: Self) -> bool {
        match (self.0, other.0) {
            (ValueRef::Real(one), ValueRef::Real(other)) => one.to_bits() == other.to_bits(),
            (one, other) => one == other,
        }
    }
}

impl ToSql for Dynamic<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

fn malformed() -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "understand a value of a row")
}

/// The columns of a table, as they stand in rows.
pub(super) fn columns(table: &Table) -> String {
    listed(table.columns.iter().map(|column| column.name.as_str()))
}

/// Runs a statement and hands over the rows that it returns. With a table, they are its columns as
/// [`checked_columns`](super::text::checked_columns) has them.
pub(super) fn hand_over(
    desk: &Desk,
    statement: &mut Statement<'_>,
    checked: Option<&Table>,
    batches: &mut Batches,
) -> Result<u64> {
    let columns = checked.map_or_else(|| statement.column_count(), |table| table.columns.len());
    let (mut rows, mut count) = (statement.raw_query(), 0);
    while let Some(row) = desk.sql(rows.next(), "read rows")? {
        if let Some(table) = checked {
            check(desk, table, row)?;
        }
        batches.rows.begin(columns);
        for column in 0..columns {
            let value = row.get_ref(column);
            write(desk.sql(value, "read rows")?, &mut batches.rows);
        }
        batches.end_row()?;
        count += 1;
    }
    Ok(count)
}

fn write(value: ValueRef<'_>, rows: &mut RowWriter) {
    match value {
        ValueRef::Null => rows.null(),
        ValueRef::Integer(number) => rows.value(&[&[Class::Integer as u8], &number.to_be_bytes()]),
        ValueRef::Real(number) => rows.value(&[&[Class::Real as u8], &number.to_be_bytes()]),
        ValueRef::Text(text) => rows.value(&[&[Class::Text as u8], text]),
        ValueRef::Blob(bytes) => rows.value(&[&[Class::Blob as u8], bytes]),
    }
}

/// Counts rows of a table.
pub(super) fn count(desk: &Desk, table: &Table, condition: &Condition) -> Result<u64> {
    // More than SQLite counts.
    count_to(desk, table, condition, i64::MAX as u64)
}

/// Counts rows of a table, up to so many.
pub(super) fn count_to(
    desk: &Desk,
    table: &Table,
    condition: &Condition,
    most: u64,
) -> Result<u64> {
    let table = quoted(&own_name(&table.name)?);
    let rows = format!("SELECT 1 FROM main.{table} WHERE {} LIMIT {most}", condition.sql);
    let query = format!("SELECT count(*) FROM ({rows})");
    let mut query = prepare(desk, desk.connection(), &query)?;
    condition.give(desk, &mut query)?;
    let mut rows = query.raw_query();
    let row = desk.sql(rows.next(), "count rows")?;
    let count = row.map_or(Ok(0), |row| row.get::<_, i64>(0));
    Ok(desk.sql(count, "count rows")?.cast_unsigned())
}

/// A statement, of those that were prepared before if it is among them.
pub(super) fn prepare<'a>(
    desk: &Desk,
    connection: &'a Connection,
    sql: &str,
) -> Result<rusqlite::CachedStatement<'a>> {
    connection.prepare_cached(sql).map_err(|e| match e.sqlite_error_code() {
        Some(ErrorCode::Unknown) | None => {
            // A statement that we made names tables and columns as they were.
            Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "say which rows are meant")
                .with("file", desk.database.path.display())
                .caused_by(e)
        }
        Some(_) => error::sqlite(e, "say which rows are meant", &desk.database.path),
    })
}

impl fmt::Display for Dynamic<'_> {
    /// As people read it, cut short where it is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LENGTH_MAX: usize = 80;
        match self.0 {
            ValueRef::Null => f.write_str("NULL"),
            ValueRef::Integer(number) => write!(f, "{number}"),
            ValueRef::Real(number) => write!(f, "{number:?}"),
            ValueRef::Text(text) => {
                let text = &text[..text.len().min(LENGTH_MAX)];
                write!(f, "'{}'", String::from_utf8_lossy(text).replace('\'', "''"))
            }
            ValueRef::Blob(bytes) => {
                f.write_str("x'")?;
                bytes.iter().take(LENGTH_MAX / 2).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}
