//! Live tables beside those of the restored file, row by row in the order of their keys.

use std::{
    cmp::Ordering, collections::BTreeSet, io::BufWriter, path::Path, sync::Arc, time::Duration,
};

use rusqlite::{
    Connection, Row, Rows, Statement,
    backup::{Backup, StepResult},
};
use stillpoint_contract::{
    Clock, Comparison, Difference, Error, ErrorKind, Progress, RUN_ONCE, Result, Script, Share,
    ShareRequest, TablePattern, Tallied, code, gone_table,
};

use super::{
    admit::{not_there, refuse_databases},
    choose::{Found, choose},
    definition::quoted,
    events::{Teller, told},
    merge::{Merge, is_apart},
    values::{Encoding, Value},
};
use crate::{
    config::Config,
    connect::{Database, Journal},
    error,
};

const STEP: &str = "compare tables";

const HEAD: &str = "\
-- Read this before you run it. It makes live tables like they were at the restored point:
-- rows that differ get their old values unless a column that they had then was changed since, rows
-- that are missing come back unless another row has by now what must be unique in them. Rows that
-- are extra stay: their removal is commented out.
-- Triggers fire as for every other statement. One may fail, as where rows exchanged or passed on
-- what must be unique: `sqlite3 -bail` then ends there, and nothing is changed.";

/// References are looked at when the script commits: whoever runs it may not have asked for that,
/// and a row that stayed away may be what others refer to.
/// Source: <https://www.sqlite.org/pragma.html#pragma_foreign_keys>, which has no effect within a
/// transaction, and `#pragma_defer_foreign_keys`.
const ENFORCED: &str = "PRAGMA foreign_keys = ON;";
const BEGIN: &str = "BEGIN IMMEDIATE;\nPRAGMA defer_foreign_keys = ON;";

/// How much of a live file with a rollback journal is copied while writers wait, and how often
/// they may make the copy begin again before the rest is copied at once.
const STEP_PAGES: i32 = 1024;
const PAUSE: Duration = Duration::from_millis(3);
const ROUNDS_MAX: u32 = 4;

/// Compares tables, and writes what would merge them.
pub(crate) async fn compare(
    (path, directory): (&Path, &Path),
    clock: &Arc<dyn Clock>,
    request: &ShareRequest<'_>,
    progress: &dyn Progress,
    script: &mut Script<'_>,
) -> Result<Comparison> {
    refuse_databases(request)?;
    let Share::Tables(patterns) = request.share else { return Err(Error::bug(STEP)) };
    let database = Database::locate(Config::new(request.into)?, Arc::clone(clock))?;
    let (path, beside) = (path.to_owned(), directory.join("live"));
    let patterns = patterns.clone();
    let work = move |teller: &Teller| work(&path, &beside, &patterns, &database, teller);
    told(progress, Some(script), work).await
}

fn work(
    path: &Path,
    beside: &Path,
    patterns: &[TablePattern],
    database: &Database,
    teller: &Teller,
) -> Result<Comparison> {
    teller.begin("prepare", 0)?;
    let copy = crate::sandbox::connect(path)?;
    let (tables, notes) = choose(&copy, path, patterns)?;
    let live = state_of(database, beside)?;
    let failed = |e| error::sqlite(e, STEP, &database.path);
    let encoding = encoding(&copy).map_err(failed)?;
    if encoding != self::encoding(&live).map_err(failed)? {
        return Err(Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, STEP)
            .why("the two databases keep text in different encodings, and sort it differently")
            .next("bring the tables back beside the live ones: the same without --compare"));
    }
    live.execute_batch("BEGIN").map_err(failed)?;
    let tables = parents_first(&copy, tables).map_err(failed)?;
    let (mut shapes, mut dropped) = (Vec::new(), Vec::new());
    for table in &tables {
        match Shape::find(&copy, &live, &table.name, database) {
            Ok(shape) => shapes.push(shape),
            // What is known of the others is worth having.
            Err(error) if tables.len() > 1 && error.code() == code::NO_SUCH_TABLE => {
                dropped.push(table.name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    let is_there = |table: &Found| !dropped.contains(&table.name);
    let tables: Vec<Found> = tables.into_iter().filter(is_there).collect();
    teller.begin("compare", shapes.iter().map(|shape| shape.size).sum())?;
    teller.line(HEAD.to_owned())?;
    for note in &notes {
        teller.line(format!("-- {}", note.replace(['\n', '\r'], " ")))?;
    }
    match unenforced(&[&copy, &live], &tables) {
        Some(why) => teller.line(format!("-- {why}: what refers to missing rows comes back"))?,
        None => teller.line(ENFORCED.to_owned())?,
    }
    teller.line(BEGIN.to_owned())?;
    let mut found = Vec::new();
    for shape in shapes {
        let scratch = beside.parent().unwrap_or(beside);
        let places = (path, database, scratch);
        let compared = one((&copy, &live), shape, encoding, places, teller)?;
        teller.line(format!(
            "-- {}: {} missing, {} different, {} extra",
            compared.table.replace(['\n', '\r'], " "),
            compared.missing.rows,
            compared.different.rows,
            compared.extra.rows
        ))?;
        found.push(compared);
    }
    for table in dropped {
        let whole = missing_table(&copy, &table).map_err(|e| error::sqlite(e, STEP, path))?;
        teller.line(format!(
            "-- {}: all {} rows are missing, since the table is gone",
            whole.table.replace(['\n', '\r'], " "),
            whole.missing.rows
        ))?;
        found.push(whole);
    }
    teller.line("COMMIT;".to_owned())?;
    live.execute_batch("COMMIT").map_err(failed)?;
    Database::close(live);
    Ok(Comparison { tables: found, notes })
}

/// What is said of a table that only the copy has.
fn missing_table(copy: &Connection, table: &str) -> rusqlite::Result<Difference> {
    let count = format!("SELECT count(*) FROM main.{}", quoted(table));
    let rows: i64 = copy.query_row(&count, [], |row| row.get(0))?;
    let columns = columns(copy, table)?;
    let columns = columns.iter().map(|c| format!("{} {}", c.name, c.kind).trim_end().to_owned());
    Ok(Difference {
        table: table.to_owned(),
        key: unique(copy, table)?.into_iter().next().unwrap_or_default(),
        missing: Tallied { rows: rows.unsigned_abs(), examples: Vec::new() },
        columns_missing: columns.collect(),
        notes: vec![gone_table(table)],
        ..Difference::default()
    })
}

/// Why references cannot be enforced while tables are merged: rows that break them are there
/// already, or were at the point.
fn unenforced(databases: &[&Connection], tables: &[Found]) -> Option<String> {
    let broken = "SELECT EXISTS (SELECT 1 FROM pragma_foreign_key_check(?1))";
    tables.iter().find_map(|table| {
        let name = table.name.replace(['\n', '\r'], " ");
        databases.iter().find_map(|database| {
            match database.query_row(broken, [&table.name], |row| row.get::<_, bool>(0)) {
                Ok(false) => None,
                Ok(true) => Some(format!("references of {name} were broken already")),
                Err(e) => Some(format!("references of {name} cannot be looked at ({e})")),
            }
        })
    })
}

/// A connection to one state of the live file. Where readers keep writers waiting, that of a copy.
fn state_of(database: &Database, beside: &Path) -> Result<Connection> {
    let live = database.open()?;
    if database.journal(&live)? == Journal::Wal {
        return Ok(live);
    }
    let failed = |e| error::sqlite(e, "copy the live database", &database.path);
    let mut copied = Connection::open(beside).map_err(failed)?;
    let rounds = database.page_count(&live)?.div_ceil(STEP_PAGES.unsigned_abs());
    {
        let backup = Backup::new(&live, &mut copied).map_err(failed)?;
        for _ in 0..rounds.saturating_mul(ROUNDS_MAX).saturating_add(64) {
            if backup.step(STEP_PAGES).map_err(failed)? == StepResult::Done {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        while backup.step(-1).map_err(failed)? != StepResult::Done {
            std::thread::sleep(PAUSE);
        }
    }
    Database::close(live);
    Ok(copied)
}

fn encoding(connection: &Connection) -> rusqlite::Result<Encoding> {
    let name: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    Ok(Encoding::of(&name))
}

/// What both tables have.
struct Shape {
    table: String,
    columns: Vec<String>,
    key: Vec<usize>,
    /// Whether rows may have NULLs in their key: those are told apart as a whole.
    has_nulls: bool,
    columns_missing: Vec<String>,
    columns_extra: Vec<String>,
    /// What a person should know before the statements are run.
    notes: Vec<String>,
    size: u64,
}

/// A column of a table.
struct Column {
    name: String,
    kind: String,
    is_generated: bool,
    /// Whether it needs a value that nobody gives it.
    is_needed: bool,
}

impl Shape {
    fn find(
        copy: &Connection,
        live: &Connection,
        table: &str,
        database: &Database,
    ) -> Result<Self> {
        let failed = |e| error::sqlite(e, STEP, &database.path);
        let (ours, theirs) =
            (columns(copy, table).map_err(failed)?, columns(live, table).map_err(failed)?);
        let is_table = "SELECT EXISTS (SELECT 1 FROM sqlite_schema
            WHERE type = 'table' AND name = ?1 COLLATE NOCASE)";
        let is_table: bool = live.query_row(is_table, [table], |row| row.get(0)).map_err(failed)?;
        if theirs.is_empty() || !is_table {
            return Err(not_there(table));
        }
        let only_in = |these: &[Column], those: &[Column]| -> Vec<String> {
            let is_there = |c: &&Column| {
                those.iter().any(|d| {
                    d.name.eq_ignore_ascii_case(&c.name) && d.kind.eq_ignore_ascii_case(&c.kind)
                })
            };
            let lacking = these.iter().filter(|column| !is_there(column));
            lacking.map(|c| format!("{} {}", c.name, c.kind).trim_end().to_owned()).collect()
        };
        let (columns_missing, columns_extra) = (only_in(&ours, &theirs), only_in(&theirs, &ours));
        let both = ours.iter().filter(|column| {
            let other = theirs.iter().find(|other| other.name.eq_ignore_ascii_case(&column.name));
            !column.is_generated && other.is_some_and(|other| !other.is_generated)
        });
        let both: Vec<String> = both.map(|column| column.name.clone()).collect();
        let (key, has_nulls) = key_of(copy, live, table, &both).map_err(failed)?;
        let size = "SELECT sum(payload) FROM dbstat WHERE name = ?1 AND aggregate = 1";
        let size = copy.query_row(size, [table], |row| row.get::<_, Option<i64>>(0));
        let size = size.ok().flatten().unwrap_or_default().unsigned_abs();
        let is_needed = |c: &&Column| {
            c.is_needed && !both.iter().any(|name| name.eq_ignore_ascii_case(&c.name))
        };
        let needed = theirs.iter().filter(is_needed).map(|column| {
            format!(
                "{} must have a value, has no default, and was not there: a row that is missing \
                 ends the script",
                column.name
            )
        });
        let notes = needed.collect();
        let (table, columns) = (table.to_owned(), both);
        Ok(Self { table, columns, key, has_nulls, columns_missing, columns_extra, notes, size })
    }

    /// The columns that are not part of the key.
    fn rest(&self) -> Vec<usize> {
        (0..self.columns.len()).filter(|place| !self.key.contains(place)).collect()
    }

    fn query(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|name| quoted(name)).collect();
        let value = |place: &usize| format!("{} COLLATE BINARY", columns[*place]);
        let kind = |place: &usize| format!("typeof({})", columns[*place]);
        let mut sort: Vec<_> = self.key.iter().map(value).collect();
        if self.has_nulls {
            // Whole rows are told apart also by how a number is stored.
            sort.extend(self.rest().iter().flat_map(|place| [value(place), kind(place)]));
            sort.extend(self.key.iter().map(kind));
        }
        let (all, sort) = (columns.join(", "), sort.join(", "));
        format!("SELECT {all} FROM {} ORDER BY {sort}", quoted(&self.table))
    }
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let query = "SELECT name, type, hidden, \"notnull\" AND dflt_value IS NULL AND pk = 0
        FROM pragma_table_xinfo(?1)";
    let mut query = connection.prepare(query)?;
    let found = query.query_map([table], |row| {
        Ok(Column {
            name: row.get(0)?,
            kind: row.get(1)?,
            is_generated: row.get::<_, i64>(2)? != 0,
            is_needed: row.get::<_, bool>(3)? && row.get::<_, i64>(2)? == 0,
        })
    })?;
    found.collect()
}

/// The first set of columns that is unique in both tables, and whether rows have NULLs there, which
/// one is preferred that has none. Without a key, any row may be there more than once.
fn key_of(
    copy: &Connection,
    live: &Connection,
    table: &str,
    both: &[String],
) -> rusqlite::Result<(Vec<usize>, bool)> {
    let theirs = unique(live, table)?;
    let mut with_nulls = None;
    for key in unique(copy, table)? {
        let small = |key: &[String]| key.iter().map(|c| c.to_lowercase()).collect::<BTreeSet<_>>();
        let place = |name: &String| both.iter().position(|c| c.eq_ignore_ascii_case(name));
        let places: Option<Vec<usize>> = key.iter().map(place).collect();
        let is_shared = theirs.iter().any(|other| small(other) == small(&key));
        if let Some(places) = places.filter(|places| is_shared && !places.is_empty()) {
            if !has_null(copy, table, &key)? && !has_null(live, table, &key)? {
                return Ok((places, false));
            }
            with_nulls.get_or_insert(places);
        }
    }
    Ok((with_nulls.unwrap_or_default(), true))
}

/// Sets of columns that are unique, the primary key first.
fn unique(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut keys = Vec::new();
    let primary = "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk";
    keys.extend(names(connection, primary, table)?.into_iter().collect::<Option<Vec<_>>>());
    let indexes = "SELECT name FROM pragma_index_list(?1)
        WHERE \"unique\" = 1 AND partial = 0 AND origin <> 'pk' ORDER BY name";
    for index in names(connection, indexes, table)?.into_iter().flatten() {
        let columns = "SELECT name FROM pragma_index_info(?1) ORDER BY seqno";
        // An expression has no name.
        keys.extend(names(connection, columns, &index)?.into_iter().collect::<Option<Vec<_>>>());
    }
    keys.retain(|key| !key.is_empty());
    Ok(keys)
}

/// Whether anything but the key is unique in a table, or the key by a collation.
fn has_more(
    live: &Connection,
    table: &str,
    key: &[usize],
    columns: &[String],
) -> rusqlite::Result<bool> {
    let key: BTreeSet<_> = key.iter().map(|place| columns[*place].to_lowercase()).collect();
    let indexes = "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" = 1";
    for index in names(live, indexes, table)?.into_iter().flatten() {
        let columns = names(live, "SELECT lower(name) FROM pragma_index_info(?1)", &index)?;
        // An expression has no name. A partial index of the key is unique wherever the key is.
        let is_key = columns.into_iter().collect::<Option<BTreeSet<_>>>().as_ref() == Some(&key);
        let is_by_bytes = "SELECT coll FROM pragma_index_xinfo(?1) WHERE key = 1";
        let is_by_bytes = names(live, is_by_bytes, &index)?
            .iter()
            .flatten()
            .all(|collation| collation.eq_ignore_ascii_case("BINARY"));
        if !is_key || !is_by_bytes {
            return Ok(true);
        }
    }
    Ok(false)
}

fn names(connection: &Connection, query: &str, of: &str) -> rusqlite::Result<Vec<Option<String>>> {
    let mut query = connection.prepare(query)?;
    query.query_map([of], |row| row.get(0))?.collect()
}

fn has_null(connection: &Connection, table: &str, key: &[String]) -> rusqlite::Result<bool> {
    let is_null: Vec<_> = key.iter().map(|name| format!("{} IS NULL", quoted(name))).collect();
    let table = quoted(table);
    let query = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {})", is_null.join(" OR "));
    connection.query_row(&query, [], |row| row.get(0))
}

/// Puts tables behind those that they refer to.
fn parents_first(copy: &Connection, tables: Vec<Found>) -> rusqlite::Result<Vec<Found>> {
    let mut waiting = Vec::new();
    for table in tables {
        let mut query = copy.prepare("SELECT \"table\" FROM pragma_foreign_key_list(?1)")?;
        let parents = query.query_map([&table.name], |row| row.get::<_, String>(0))?;
        let parents = parents.collect::<rusqlite::Result<Vec<_>>>()?;
        waiting.push((table, parents));
    }
    let mut sorted = Vec::new();
    while !waiting.is_empty() {
        let waits = |(table, parents): &(Found, Vec<String>)| {
            let is_other = |parent: &String| !parent.eq_ignore_ascii_case(&table.name);
            let waits_for = |parent: &String| {
                waiting.iter().any(|(other, _)| other.name.eq_ignore_ascii_case(parent))
            };
            parents.iter().any(|parent| is_other(parent) && waits_for(parent))
        };
        // Where all wait for each other, any order is as good.
        let next = waiting.iter().position(|one| !waits(one)).unwrap_or(0);
        sorted.push(waiting.remove(next).0);
    }
    Ok(sorted)
}

fn read(row: Option<&Row<'_>>, count: usize) -> rusqlite::Result<Option<Vec<Value>>> {
    let Some(row) = row else { return Ok(None) };
    (0..count).map(|place| row.get_ref(place).map(Value::from)).collect::<Result<_, _>>().map(Some)
}

fn one(
    (copy, live): (&Connection, &Connection),
    shape: Shape,
    encoding: Encoding,
    (path, database, scratch): (&Path, &Database, &Path),
    teller: &Teller,
) -> Result<Difference> {
    let failed = |e| error::sqlite(e, STEP, &database.path);
    let copied = |e| error::sqlite(e, STEP, path);
    let (query, rest, count) = (shape.query(), shape.rest(), shape.columns.len());
    let mut found = Difference {
        table: shape.table.clone(),
        key: shape.key.iter().map(|place| shape.columns[*place].clone()).collect(),
        columns_missing: shape.columns_missing,
        columns_extra: shape.columns_extra,
        notes: shape.notes,
        ..Difference::default()
    };
    for note in &found.notes {
        teller.line(format!("-- {}", note.replace(['\n', '\r'], " ")))?;
    }
    let (columns, key, table) = (shape.columns, shape.key, shape.table);
    let own_key = key.clone();
    let compare = |one: &[Value], other: &[Value]| {
        let value = |place: &usize| one[*place].compare(&other[*place], encoding);
        let kind = |place: &usize| one[*place].kind().cmp(other[*place].kind());
        let by_key = own_key.iter().map(value).fold(Ordering::Equal, Ordering::then);
        if by_key.is_ne() || !is_apart(&own_key, one) {
            return by_key;
        }
        let whole = rest.iter().map(|place| value(place).then_with(|| kind(place)));
        whole.chain(own_key.iter().map(kind)).fold(Ordering::Equal, Ordering::then)
    };
    let later = has_more(live, &table, &key, &columns).map_err(failed)?;
    let later = later.then(|| tempfile::tempfile_in(scratch)).transpose().map_err(|cause| {
        Error::new(ErrorKind::Exhausted, code::FILE, STEP)
            .with("directory", scratch.display())
            .caused_by(cause)
    })?;
    let later = later.map(BufWriter::new);
    let mut merge = Merge { table, columns, key, teller, later };
    let mut ours: Statement<'_> = copy.prepare(&query).map_err(copied)?;
    let mut theirs: Statement<'_> = live.prepare(&query).map_err(failed)?;
    let mut ours: Rows<'_> = ours.query([]).map_err(copied)?;
    let mut theirs: Rows<'_> = theirs.query([]).map_err(failed)?;
    let mut next_copy = || read(ours.next().map_err(copied)?, count).map_err(copied);
    let mut next_live = || read(theirs.next().map_err(failed)?, count).map_err(failed);
    let (mut row, mut other) = (next_copy()?, next_live()?);
    let (mut told, mut untold, mut comes_again) = (0, 0, false);
    loop {
        let order = match (&row, &other) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => compare(one, other),
        };
        match (order, &row, &other) {
            (Ordering::Less, Some(row), _) => {
                merge.missing(row)?;
                comes_again |= is_apart(&own_key, row);
                found.missing.add(|| merge.shown(row));
            }
            (Ordering::Greater, _, Some(row)) => {
                merge.extra(row)?;
                found.extra.add(|| merge.shown(row));
            }
            (_, Some(row), Some(other)) if row == other => found.equal += 1,
            (_, Some(row), Some(other)) => {
                merge.different(row, other)?;
                found.different.add(|| merge.shown(row));
            }
            _ => return Err(Error::bug(STEP)),
        }
        if order != Ordering::Greater {
            untold += row.iter().flatten().map(Value::length).sum::<u64>();
            if untold > 1 << 20 {
                let more = untold.min(shape.size - told);
                teller.advance(more)?;
                (told, untold) = (told + more, 0);
            }
            row = next_copy()?;
        }
        if order != Ordering::Less {
            other = next_live()?;
        }
    }
    teller.advance(shape.size - told)?;
    merge.close()?;
    if comes_again {
        teller.line(format!("-- {RUN_ONCE}"))?;
        found.notes.push(RUN_ONCE.to_owned());
    }
    Ok(found)
}
