//! Tables, their keys, and who refers to them.

use rusqlite::{Connection, OptionalExtension as _};
use stillpoint_contract::{
    Alike, Class, Column, Error, ErrorKind, Kind, Named, Referrer, Result, Table, TablePattern,
    code,
};

use super::{
    reference::{Pair, alike},
    worker::Desk,
};

const STEP: &str = "look at the table";

/// A name in a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names in a statement, one after the other.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// A table's own name, of a complete one.
pub(super) fn own_name(name: &str) -> Result<String> {
    let pattern = TablePattern::new(name)?;
    match pattern.names().as_slice() {
        [own] | ["main", own] if pattern.is_exact() => Ok((*own).to_owned()),
        _ => Err(missing(name)),
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Missing, code::NO_SUCH_TABLE, STEP)
        .with("table", name)
        .next("sqlite3 FILE .tables lists those that are there")
}

fn refused(name: &str, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, STEP).with("table", name).why(why.into())
}

/// One column of a key or an index, and how the index compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) name: String,
    /// None where it is the column's own, or text is not compared, as that of a row id.
    pub(super) collation: Option<String>,
}

impl Term {
    /// Which texts are the same; those of the same bytes where only the application knows.
    fn folds(&self) -> Alike {
        self.collation.as_deref().and_then(alike).unwrap_or_default()
    }

    /// The column in an expression.
    pub(super) fn sql(&self) -> String {
        let name = quoted(&self.name);
        match &self.collation {
            Some(collation) => format!("{name} COLLATE {}", quoted(collation)),
            None => name,
        }
    }
}

/// The own name of what bears a name, and what it is.
fn find(desk: &Desk, name: &str) -> Result<(String, String)> {
    let own = own_name(name)?;
    let found = "SELECT name, type FROM pragma_table_list \
                 WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    let found = desk
        .connection()
        .query_row(found, [&own], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .optional();
    let (own, kind) = desk.sql(found, STEP)?.ok_or_else(|| missing(name))?;
    let lower = own.to_lowercase();
    if lower.starts_with("sqlite_") || lower.starts_with("stillpoint_") {
        return Err(refused(name, "it belongs to SQLite or to Stillpoint"));
    }
    Ok((own, kind))
}

fn elsewhere(name: &str, kind: &str) -> Error {
    refused(name, format!("it is a {kind} table or view: it has no rows itself"))
        .next("name the tables in which the rows are")
}

/// The names of a table, also of a virtual one.
pub(super) fn named(desk: &Desk, name: &str) -> Result<Named> {
    let (own, kind) = find(desk, name)?;
    if kind == "view" {
        return Err(elsewhere(name, &kind));
    }
    let name = shown(desk.connection(), &own);
    Ok(Named { whole: name.clone(), name })
}

/// Looks at a table.
pub(super) fn table(desk: &Desk, name: &str) -> Result<Table> {
    let (own, kind) = find(desk, name)?;
    if kind != "table" {
        return Err(elsewhere(name, &kind));
    }
    let connection = desk.connection();
    let columns = desk.sql(columns(connection, &own), STEP)?;
    let terms = desk.sql(key(connection, &own), STEP)?;
    let (key, alike) = places(&columns, &terms);
    let fingerprint = desk.sql(fingerprint(connection, &own), STEP)?;
    let identity = format!("{}/{own}", desk.database.identity.id);
    Ok(Table { name: shown(connection, &own), identity, columns, key, alike, fingerprint })
}

/// A name as people write it: without quotes where SQLite needs none.
pub(super) fn shown(connection: &Connection, own: &str) -> String {
    let is_plain = own.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_enough = is_plain && connection.prepare(&format!("SELECT 1 FROM main.{own}")).is_ok();
    if is_enough { own.to_owned() } else { quoted(own) }
}

/// Columns that `SELECT *` does not show are those of virtual tables only, save generated ones.
/// Source: <https://www.sqlite.org/pragma.html#pragma_table_xinfo>.
fn columns(connection: &Connection, own: &str) -> rusqlite::Result<Vec<Column>> {
    let is_strict = is_strict(connection, own)?;
    let query = "SELECT cid, name, type, \"notnull\", hidden FROM pragma_table_xinfo(?1, 'main')";
    let mut query = connection.prepare(query)?;
    let columns = query.query_map([own], |row| {
        let engine_type: String = row.get(2)?;
        Ok(Column {
            name: row.get(1)?,
            id: row.get::<_, i32>(0)? + 1,
            kind: Kind::Dynamic { declared: declared(&engine_type, is_strict) },
            engine_type,
            is_cast: false,
            is_nullable: row.get::<_, i64>(3)? == 0,
            is_generated: matches!(row.get::<_, i64>(4)?, 2 | 3),
        })
    })?;
    columns.collect()
}

/// Whether every value has the type that its column is declared for.
pub(super) fn is_strict(connection: &Connection, own: &str) -> rusqlite::Result<bool> {
    let query = "SELECT strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1";
    connection.query_row(query, [own], |row| row.get(0))
}

/// Whether the rows of a table have no row id.
pub(super) fn is_without_rowid(connection: &Connection, own: &str) -> rusqlite::Result<bool> {
    let query =
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
    connection.query_row(query, [own], |row| row.get(0))
}

/// What a column is declared for. Source: <https://www.sqlite.org/datatype3.html>, 3.1,
/// "Determination Of Column Affinity"; <https://www.sqlite.org/stricttables.html>, 2.
pub(super) fn declared(engine_type: &str, is_strict: bool) -> Class {
    let upper = engine_type.to_uppercase();
    let has = |part: &str| upper.contains(part);
    if is_strict && upper == "ANY" {
        Class::Any
    } else if has("INT") {
        Class::Integer
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Class::Text
    } else if upper.is_empty() || has("BLOB") {
        Class::Blob
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        Class::Real
    } else {
        Class::Any
    }
}

/// Looks at a table, the key of which is that of a unique index.
pub(super) fn table_by(desk: &Desk, name: &str, index: &str) -> Result<Table> {
    let mut table = table(desk, name)?;
    let own = own_name(&table.name)?;
    let keys = desk.sql(keys(desk.connection(), &own), STEP)?;
    let is_it = |of: &Option<String>| of.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(index));
    let Some((_, terms)) = keys.into_iter().find(|(of, _)| is_it(of)) else {
        return Err(Error::new(ErrorKind::Missing, code::BAD_NAME, "choose the key of a table")
            .with("table", &table.name)
            .with("index", index)
            .why("it has no unique index of that name that holds all rows and no NULLs")
            .next("key = \"primary\""));
    };
    (table.key, table.alike) = places(&table.columns, &terms);
    Ok(table)
}

/// The places of a key's columns, and how they compare texts where one does not by their bytes. A
/// key by a collation that only the application has is refused.
fn places(columns: &[Column], terms: &[Term]) -> (Vec<usize>, Vec<Alike>) {
    let compared = |term: &Term| {
        let place = columns.iter().position(|column| column.name == term.name)?;
        Some((place, term.folds()))
    };
    let (key, alike): (Vec<usize>, Vec<Alike>) = terms.iter().filter_map(compared).unzip();
    let is_plain = alike.iter().all(|alike| *alike == Alike::Same);
    (key, if is_plain { Vec::new() } else { alike })
}

/// The key of a table: the first of its [`keys`].
pub(super) fn key(connection: &Connection, own: &str) -> rusqlite::Result<Vec<Term>> {
    Ok(keys(connection, own)?.into_iter().next().map(|(_, terms)| terms).unwrap_or_default())
}

/// The column that is the row id, where that is the key.
pub(super) fn row_id(connection: &Connection, own: &str) -> rusqlite::Result<Option<String>> {
    let first = keys(connection, own)?.into_iter().next();
    let terms = first.filter(|(index, _)| index.is_none()).map(|(_, terms)| terms);
    Ok(terms.and_then(|terms| terms.into_iter().next()).map(|term| term.name))
}

/// What a table has as its key, as it is compared; nothing where it has none such any more.
pub(super) fn key_of(
    connection: &Connection,
    own: &str,
    table: &Table,
) -> rusqlite::Result<Vec<Term>> {
    let names = || table.key.iter().filter_map(|at| table.columns.get(*at)).map(|c| &c.name);
    let is_it = |terms: &Vec<Term>| terms.iter().map(|term| &term.name).eq(names());
    let all = keys(connection, own)?.into_iter().map(|(_, terms)| terms);
    Ok(all.into_iter().find(is_it).unwrap_or_default())
}

/// What may be the key of a table, each with the name of its index: its primary key where that
/// holds no NULLs, and each unique index without any. A primary key of several columns, or of
/// another type than INTEGER, may hold them.
/// Source: <https://www.sqlite.org/lang_createtable.html>, "The PRIMARY KEY".
fn keys(connection: &Connection, own: &str) -> rusqlite::Result<Vec<(Option<String>, Vec<Term>)>> {
    let query = "SELECT name, \"notnull\", pk FROM pragma_table_xinfo(?1, 'main')";
    let mut query = connection.prepare(query)?;
    let rows = query.query_map([own], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, i64>(2)?))
    })?;
    let columns: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let without_rowid = is_without_rowid(connection, own)?;

    let query = "SELECT name, origin FROM pragma_index_list(?1, 'main') \
                 WHERE \"unique\" AND NOT partial ORDER BY origin <> 'pk', seq DESC";
    let mut query = connection.prepare(query)?;
    let indexes =
        query.query_map([own], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let indexes: Vec<_> = indexes.collect::<rusqlite::Result<_>>()?;

    let primary: Vec<_> = columns.iter().filter(|(.., pk)| *pk > 0).collect();
    let is_row_id = !indexes.iter().any(|(_, origin)| origin == "pk");
    let mut keys = Vec::new();
    if let ([(name, ..)], true) = (primary.as_slice(), is_row_id) {
        keys.push((None, vec![Term { name: name.clone(), collation: None }]));
    }
    for (index, origin) in indexes {
        let terms = terms(connection, &index)?;
        let is_filled = |term: &Term| {
            let column = columns.iter().find(|(name, ..)| *name == term.name);
            column.is_some_and(|(_, is_filled, pk)| *is_filled || without_rowid && *pk > 0)
        };
        let is_whole = terms.len() == if origin == "pk" { primary.len() } else { terms.len() };
        if !terms.is_empty() && is_whole && terms.iter().all(is_filled) {
            keys.push((Some(index), terms));
        }
    }
    Ok(keys)
}

/// The columns of an index; none where it is on an expression.
fn terms(connection: &Connection, index: &str) -> rusqlite::Result<Vec<Term>> {
    let query = "SELECT name, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno";
    let mut query = connection.prepare(query)?;
    let rows = query.query_map([index], |row| {
        Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
    })?;
    let mut terms = Vec::new();
    for row in rows {
        match row? {
            (Some(name), collation) => terms.push(Term { name, collation }),
            (None, _) => return Ok(Vec::new()),
        }
    }
    Ok(terms)
}

/// By which collation a column compares, unless told otherwise.
pub(super) fn collation(
    connection: &Connection,
    own: &str,
    column: &str,
) -> rusqlite::Result<String> {
    let metadata = connection.column_metadata(Some("main"), own, column)?;
    let collation = metadata.1.map(|name| name.to_string_lossy().into_owned());
    Ok(collation.unwrap_or_else(|| "BINARY".to_owned()))
}

/// Whether an index begins with these columns, in any order. One by another collation finds no
/// rows. Source: <https://www.sqlite.org/datatype3.html>, 7.
pub(super) fn is_indexed(
    connection: &Connection,
    own: &str,
    wanted: &[Term],
) -> rusqlite::Result<bool> {
    if let [only] = wanted
        && row_id(connection, own)?.is_some_and(|id| id.eq_ignore_ascii_case(&only.name))
    {
        return Ok(true);
    }
    let mut sought = Vec::new();
    for term in wanted {
        let by = match &term.collation {
            Some(name) => name.clone(),
            None => collation(connection, own, &term.name)?,
        };
        sought.push((&term.name, by));
    }
    let query = "SELECT name FROM pragma_index_list(?1, 'main') WHERE NOT partial";
    let mut query = connection.prepare(query)?;
    let indexes: Vec<String> =
        query.query_map([own], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for index in indexes {
        let terms = terms(connection, &index)?;
        let first = terms.get(..wanted.len()).unwrap_or_default();
        let has = |(name, by): &(&String, String)| {
            first.iter().any(|term| {
                let is_by = term.collation.as_ref().is_some_and(|of| of.eq_ignore_ascii_case(by));
                is_by && term.name.eq_ignore_ascii_case(name)
            })
        };
        if sought.iter().all(has) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The tables that refer to a table.
pub(super) fn referrers(connection: &Connection, own: &str) -> rusqlite::Result<Vec<Referrer>> {
    let query = "SELECT m.name, f.id, f.\"from\", f.\"to\", f.on_delete \
                 FROM pragma_table_list AS m, pragma_foreign_key_list(m.name, 'main') AS f \
                 WHERE m.schema = 'main' AND m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE \
                 ORDER BY m.name, f.id, f.seq";
    let mut query = connection.prepare(query)?;
    let mut rows = query.query([own])?;
    let mut found: Vec<((String, i64), Referrer)> = Vec::new();
    while let Some(row) = rows.next()? {
        let at = (row.get::<_, String>(0)?, row.get::<_, i64>(1)?);
        let (from, to): (String, Option<String>) = (row.get(2)?, row.get(3)?);
        let action: String = row.get(4)?;
        if found.last().is_none_or(|(last, _)| *last != at) {
            let is_cascading = matches!(action.as_str(), "CASCADE" | "SET NULL" | "SET DEFAULT");
            let referrer = Referrer {
                table: shown(connection, &at.0),
                constraint: String::new(),
                columns: Vec::new(),
                parent_columns: Vec::new(),
                likeness: Vec::new(),
                is_cascading,
            };
            found.push((at, referrer));
        }
        if let Some((_, referrer)) = found.last_mut() {
            referrer.columns.push(from);
            referrer.parent_columns.extend(to);
        }
    }
    let names = connection
        .prepare("SELECT name FROM pragma_table_xinfo(?1, 'main')")?
        .query_map([own], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let mut primary = None;
    for ((name, _), referrer) in &mut found {
        if referrer.parent_columns.is_empty() {
            // A reference without columns is one to the primary key.
            if primary.is_none() {
                primary = Some(primary_key(connection, own)?);
            }
            referrer.parent_columns.clone_from(primary.as_ref().unwrap_or(&Vec::new()));
        }
        // As the table itself writes them: a reference may have other capital letters.
        for column in &mut referrer.parent_columns {
            let known = names.iter().find(|name| name.eq_ignore_ascii_case(column));
            if let Some(known) = known {
                column.clone_from(known);
            }
        }
        let Referrer { columns, parent_columns, .. } = &*referrer;
        let pairs = Pair::any(connection, (&*name, columns), (own, parent_columns))?;
        let columns = columns.join(", ");
        referrer.likeness = pairs.iter().map(Pair::likeness).collect();
        // Most foreign keys of SQLite have no names.
        referrer.constraint = format!("FOREIGN KEY ({columns}) of {name}");
    }
    Ok(found.into_iter().map(|(_, referrer)| referrer).collect())
}

fn primary_key(connection: &Connection, own: &str) -> rusqlite::Result<Vec<String>> {
    let query = "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE pk > 0 ORDER BY pk";
    let mut query = connection.prepare(query)?;
    query.query_map([own], |row| row.get(0))?.collect()
}

/// A hash of the statements that made a table, its indexes and triggers, and the tables that refer
/// to it. `ALTER TABLE` rewrites them.
pub(super) fn fingerprint(connection: &Connection, own: &str) -> rusqlite::Result<String> {
    let query = "SELECT type, name, coalesce(sql, '') FROM main.sqlite_schema \
                 WHERE tbl_name = ?1 COLLATE NOCASE ORDER BY type, name";
    let mut hash = blake3::Hasher::new();
    let mut add = |parts: [String; 3]| {
        for part in parts {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    };
    let mut query = connection.prepare(query)?;
    let mut rows = query.query([own])?;
    while let Some(row) = rows.next()? {
        add([row.get(0)?, row.get(1)?, row.get(2)?]);
    }
    let mut others = connection.prepare(
        "SELECT DISTINCT s.type, s.name, coalesce(s.sql, '') FROM main.sqlite_schema AS s, \
         pragma_foreign_key_list(s.name, 'main') AS f \
         WHERE s.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE ORDER BY s.name",
    )?;
    let mut rows = others.query([own])?;
    while let Some(row) = rows.next()? {
        add([row.get(0)?, row.get(1)?, row.get(2)?]);
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// The triggers on a table, with what they are.
pub(super) fn triggers(
    connection: &Connection,
    own: &str,
) -> rusqlite::Result<Vec<(String, String)>> {
    let query = "SELECT name, sql FROM main.sqlite_schema \
                 WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE ORDER BY name";
    let mut query = connection.prepare(query)?;
    query.query_map([own], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}
