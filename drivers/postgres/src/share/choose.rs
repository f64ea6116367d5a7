//! Which tables of a restored database are meant.

use std::collections::BTreeSet;

use stillpoint_contract::{Error, ErrorKind, Result, TablePattern, code, some_of};
use tokio_postgres::Row;

use crate::{connect::Sql, error, tally::quoted};

const STEP: &str = "find the tables";

const RELATIONS: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u',
        EXISTS (
            SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'
                AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_'
        AND n.nspname <> 'information_schema' AND ($1::oid[] IS NULL OR c.oid = ANY ($1))
    ORDER BY 2, 3";

/// Partitions and heirs with their nearest parents, each after its parent.
const HEIRS: &str = "
    WITH RECURSIVE heir(id, parent, depth) AS (
        SELECT i.inhrelid, i.inhparent, 1 FROM pg_catalog.pg_inherits i WHERE i.inhparent = ANY ($1)
        UNION SELECT i.inhrelid, i.inhparent, h.depth + 1
        FROM pg_catalog.pg_inherits i JOIN heir h ON h.id = i.inhparent)
    SELECT id, parent FROM heir ORDER BY depth, id";

/// Columns that may name large objects.
const NUMBERS: &str = "
    SELECT a.attrelid, a.attname::text FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = ANY ($1) AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
        AND 'pg_catalog.oid'::pg_catalog.regtype IN (t.oid, t.typbasetype)
    ORDER BY 1, a.attnum";

/// A table of the restored copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) id: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// The table that was asked for, of which this is a partition or heir.
    pub(super) of: Option<u32>,
    kind: String,
    is_unlogged: bool,
    is_of_extension: bool,
}

impl Table {
    /// Its name as statements have it.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// Its name for people.
    pub(super) fn shown(&self) -> String {
        shown(&self.schema, &self.name)
    }

    fn of_row(row: &Row) -> std::result::Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            of: None,
            kind: row.try_get(3)?,
            is_unlogged: row.try_get(4)?,
            is_of_extension: row.try_get(5)?,
        })
    }

    /// Whether all of its rows are those of its partitions.
    pub(super) fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }

    /// Whether no backup has rows of it.
    pub(super) fn is_unlogged(&self) -> bool {
        self.is_unlogged
    }

    /// Why its rows cannot be brought back; `None` when they can.
    fn obstacle(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "v" => Some("it is a view, which has no rows of its own; restore the tables below it"),
            "m" => Some("it is a materialized view; restore the tables below it and refresh it"),
            "f" => Some("it is a foreign table, whose rows lie on another server"),
            "S" => Some("it is a sequence; it comes along with the table that uses it"),
            _ if self.is_of_extension => Some("it belongs to an extension, which brings it"),
            _ => None,
        }
    }
}

/// A qualified name for people: quotes only where they are needed.
pub(super) fn shown(schema: &str, name: &str) -> String {
    format!("{}.{}", shown_name(schema), shown_name(name))
}

fn shown_name(name: &str) -> String {
    let mut letters = name.chars();
    let is_plain = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { quoted(name) }
}

/// The tables of a database that fit, in the order of their names; with what a person should know.
/// They may be named as timelines and drills name them, with the database.
pub(super) async fn choose(
    sql: &Sql,
    database: &str,
    patterns: &[TablePattern],
) -> Result<(Vec<Table>, Vec<String>)> {
    let all = list(sql, None).await?;
    let (mut chosen, mut notes) = (BTreeSet::new(), Vec::new());
    for pattern in patterns {
        let fits = |table: &&Table| pattern.fits(&[database, &table.schema, &table.name]);
        let fitting: Vec<&Table> = all.iter().filter(fits).collect();
        let (good, bad): (Vec<_>, Vec<_>) =
            fitting.into_iter().partition(|table| table.obstacle().is_none());
        if good.is_empty() {
            return Err(match bad.first() {
                Some(table) => Error::new(ErrorKind::Unsupported, code::NO_TABLE, STEP)
                    .with("asked", pattern)
                    .with("found", table.shown())
                    .why(table.obstacle().unwrap_or_default())
                    .next("name a table, or restore the whole database: restore DB --to PATH"),
                None => none_fits(pattern, &all),
            });
        }
        notes.extend(bad.iter().filter(|table| table.kind != "S").map(|table| {
            format!("{} is left out: {}", table.shown(), table.obstacle().unwrap_or_default())
        }));
        chosen.extend(good.iter().map(|table| table.id));
    }
    let chosen: Vec<Table> = all.into_iter().filter(|table| chosen.contains(&table.id)).collect();
    Ok((chosen, notes))
}

/// Adds partitions and heirs behind those that they belong to, and says of each to which.
pub(super) async fn with_heirs(sql: &Sql, chosen: Vec<Table>) -> Result<Vec<Table>> {
    let failed = |e| error::sql(e, STEP);
    let mut tables = chosen;
    let ids: Vec<u32> = tables.iter().map(|table| table.id).collect();
    let links = sql.client.query(HEIRS, &[&ids]).await.map_err(failed)?;
    let links = links.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let links = links.collect::<std::result::Result<Vec<(u32, u32)>, _>>().map_err(failed)?;
    let heirs: Vec<u32> = links.iter().map(|(id, _)| *id).collect();
    let mut found = list(sql, Some(&heirs)).await?;
    if let Some(table) = found.iter().find(|table| table.obstacle().is_some()) {
        return Err(Error::new(ErrorKind::Unsupported, code::NO_TABLE, STEP)
            .with("partition", table.shown())
            .why(table.obstacle().unwrap_or_default())
            .next(
                "name its other partitions, or restore the whole database: restore DB --to PATH",
            ));
    }
    for (id, parent) in links {
        let of = tables.iter().find(|t| t.id == parent).map(|t| t.of.unwrap_or(t.id));
        if let Some(known) = tables.iter_mut().find(|table| table.id == id) {
            known.of = known.of.or(of);
        } else if let Some(place) = found.iter().position(|table| table.id == id) {
            tables.push(Table { of, ..found.swap_remove(place) });
        }
    }
    // A table is named after the one that it belongs to.
    tables.sort_by_key(|table| table.of.is_some());
    Ok(tables)
}

/// What a person should know of tables that are brought back.
pub(super) fn warnings(tables: &[Table]) -> Vec<String> {
    let unlogged = tables.iter().filter(|table| table.is_unlogged);
    unlogged
        .map(|t| format!("{} is unlogged: no backup has rows of such tables", t.shown()))
        .collect()
}

/// Which of the tables have large objects, which no table brings along: they belong to the
/// database.
/// Source: PostgreSQL 18 documentation, 33.2, Implementation Features, and `pg_dump`, `--table`.
pub(super) async fn large_objects(sql: &Sql, tables: &[Table]) -> Result<Vec<String>> {
    let failed = |e| error::sql(e, STEP);
    let any = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)";
    let any = sql.client.query_one(any, &[]).await.map_err(failed)?;
    if !any.try_get::<_, bool>(0).map_err(failed)? {
        return Ok(Vec::new());
    }
    let ids: Vec<u32> = tables.iter().map(|table| table.id).collect();
    let mut notes = Vec::new();
    for row in sql.client.query(NUMBERS, &[&ids]).await.map_err(failed)? {
        let (id, column): (u32, String) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let Some(table) = tables.iter().find(|table| table.id == id) else { continue };
        let query = format!(
            "SELECT EXISTS (SELECT FROM ONLY {} t JOIN pg_catalog.pg_largeobject_metadata m
                ON m.oid = t.{}::pg_catalog.oid)",
            table.quoted(),
            quoted(&column)
        );
        let found = sql.client.query_one(&query, &[]).await.map_err(failed)?;
        if found.try_get(0).map_err(failed)? {
            notes.push(format!(
                "{}.{} names large objects, which do not come along: they belong to the database, \
                 and --database NAME without --table brings them",
                table.shown(),
                shown_name(&column)
            ));
        }
    }
    Ok(notes)
}

async fn list(sql: &Sql, ids: Option<&[u32]>) -> Result<Vec<Table>> {
    let failed = |e| error::sql(e, STEP);
    let rows = sql.client.query(RELATIONS, &[&ids]).await.map_err(failed)?;
    rows.iter().map(|row| Table::of_row(row).map_err(failed)).collect()
}

fn none_fits(pattern: &TablePattern, all: &[Table]) -> Error {
    let wanted = pattern.names().last().copied().unwrap_or_default().to_lowercase();
    let is_like = |table: &&Table| {
        let name = table.name.to_lowercase();
        name.contains(&wanted) || wanted.contains(&name)
    };
    let tables = || all.iter().filter(|table| table.obstacle().is_none());
    let mut others: Vec<_> = tables().filter(is_like).map(Table::shown).collect();
    if others.is_empty() {
        others = tables().map(Table::shown).collect();
    }
    Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP)
        .with("asked", pattern)
        .with("there are", some_of(&others))
        .why("no table of this name was there at the chosen point")
        .next("name one that was, or choose another point: --at POINT")
        .next("the tables of another database: --database NAME")
}
