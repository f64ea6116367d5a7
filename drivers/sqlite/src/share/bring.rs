//! Tables from a restored file into one that an application uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, params_from_iter, types::ToSqlOutput};
use stillpoint_contract::{
    Brought, BroughtTable, Clock, Error, ErrorKind, Progress, Result, Share, ShareRequest,
    TablePattern, chosen_name, code,
};

use super::{
    admit::{chosen, is_taken, open, refuse_databases, taken, transaction},
    choose::{Found, choose},
    definition::{named, quoted, untied},
    events::{Teller, told},
    remains::{passing, remove},
    values::Value,
};
use crate::{config::Config, connect::Database, error};

const STEP: &str = "make the restored tables ready";
const WRITE: &str = "write into the live database";

/// The most that one transaction writes.
const BATCH_ROWS: Range<usize> = 1000..32_000;
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// How long a batch should take, with what is left to others behind it: about twice as long as
/// nobody else can write.
const BATCH_TIME: Range<Duration> = Duration::from_millis(60)..Duration::from_millis(240);

/// Names by which a row id goes, if no column has them.
pub(super) const ROW_IDS: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A table on its way.
#[derive(Debug)]
struct Moving {
    from: String,
    passing: String,
    to: String,
    has_row_ids: bool,
    /// Its definition and those of its indexes, under its passing name.
    definitions: Vec<String>,
    /// Definitions of its triggers, under its new name.
    triggers: Vec<String>,
    size: u64,
}

/// What is wanted, without borrowing it.
struct Wanted {
    path: PathBuf,
    patterns: Vec<TablePattern>,
    name: Option<String>,
    suffix: String,
}

/// Brings tables into a live file.
pub(crate) async fn bring(
    path: &Path,
    clock: &Arc<dyn Clock>,
    request: &ShareRequest<'_>,
    progress: &dyn Progress,
) -> Result<Brought> {
    refuse_databases(request)?;
    let Share::Tables(patterns) = request.share else { return Err(Error::bug(STEP)) };
    let wanted = Wanted {
        path: path.to_owned(),
        patterns: patterns.clone(),
        name: request.name.map(chosen).transpose()?,
        suffix: request.suffix.to_owned(),
    };
    let database = Database::locate(Config::new(request.into)?, Arc::clone(clock))?;
    told(progress, None, move |teller| work(&wanted, &database, teller)).await
}

fn work(wanted: &Wanted, database: &Database, teller: &Teller) -> Result<Brought> {
    teller.begin("prepare", 0)?;
    let failed = |e| error::sqlite(e, STEP, &wanted.path);
    let copy = crate::sandbox::connect(&wanted.path)?;
    let settings = "PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = OFF";
    copy.execute_batch(settings).map_err(failed)?;
    let (chosen, mut notes) = choose(&copy, &wanted.path, &wanted.patterns)?;
    if let (Some(name), [one, other, ..]) = (&wanted.name, chosen.as_slice()) {
        return Err(Error::new(ErrorKind::Invalid, code::USAGE, "give tables a new name")
            .with("--as", name)
            .with("tables", format!("{}, {}", one.name, other.name))
            .why("one name cannot be that of several tables")
            .next("leave --as out, or name one table"));
    }
    let live = open(database)?;
    let mut tables = plan(&copy, &live, (wanted, database), &chosen)?;
    let mut names =
        Names::of(&live, &tables).map_err(|e| error::sqlite(e, STEP, &database.path))?;
    rewrite(&copy, &mut tables, &mut names, wanted, &mut notes).map_err(failed)?;
    let legacy = rehearse(&live, database, &tables)?;

    let done = fill(&copy, &live, (wanted, database), &tables, teller).and_then(|rows| {
        teller.begin("commit", 0)?;
        let publish = || publish(&copy, &live, (wanted, database), &tables, legacy);
        publish().map(|more| (rows, more))
    });
    let (rows, more) = match done {
        Ok(done) => done,
        Err(error) => {
            // If that fails as well, the next one of the kind finds them.
            for table in &tables {
                if remove(&live, &table.passing).is_err() {
                    teller.leave();
                }
            }
            return Err(error);
        }
    };
    Database::close(live);
    notes.extend(more);
    let brought = tables.into_iter().zip(rows);
    let brought = brought.map(|(t, rows)| BroughtTable { from: t.from, to: t.to, rows });
    Ok(Brought { database: None, tables: brought.collect(), notes, left_out: Vec::new() })
}

fn plan(
    copy: &Connection,
    live: &Connection,
    (wanted, database): (&Wanted, &Database),
    chosen: &[Found],
) -> Result<Vec<Moving>> {
    let mut tables = Vec::new();
    for (number, found) in chosen.iter().enumerate() {
        let to = wanted.name.clone().unwrap_or_else(|| chosen_name(&found.name, &wanted.suffix));
        if is_taken(live, &to).map_err(|e| error::sqlite(e, STEP, &database.path))? {
            return Err(taken(&to));
        }
        tables.push(Moving {
            from: found.name.clone(),
            passing: passing(number),
            to,
            has_row_ids: found.has_row_ids,
            definitions: Vec::new(),
            triggers: Vec::new(),
            size: size(copy, &found.name),
        });
    }
    Ok(tables)
}

/// About how many bytes its rows have; 0 where this library cannot tell.
fn size(copy: &Connection, table: &str) -> u64 {
    let query = "SELECT sum(payload) FROM dbstat WHERE name = ?1 AND aggregate = 1";
    let size = copy.query_row(query, [table], |row| row.get::<_, Option<i64>>(0));
    size.ok().flatten().unwrap_or_default().unsigned_abs()
}

/// Names that are taken in the live file, in small letters.
struct Names(BTreeSet<String>);

impl Names {
    fn of(live: &Connection, tables: &[Moving]) -> rusqlite::Result<Self> {
        let mut query = live.prepare("SELECT name FROM sqlite_schema")?;
        let names = query.query_map([], |row| row.get::<_, String>(0))?;
        let mut names = names.collect::<rusqlite::Result<BTreeSet<_>>>()?;
        names = names.into_iter().map(|name| name.to_lowercase()).collect();
        names.extend(tables.iter().map(|table| table.to.to_lowercase()));
        Ok(Self(names))
    }

    /// A free name for what belongs to a table.
    fn take(&mut self, name: &str, table: &Moving, wanted: &Wanted) -> String {
        let inherited = match name.strip_prefix(table.from.as_str()) {
            Some(rest) => format!("{}{rest}", table.to),
            None => chosen_name(name, &wanted.suffix),
        };
        let own = wanted.name.is_some().then(|| name.to_owned());
        let first = own.into_iter().chain([inherited.clone()]);
        let names = first.chain((2..).map(|number| format!("{inherited}_{number}")));
        let mut free = names.filter(|name| !self.0.contains(&name.to_lowercase()));
        let name = free.next().unwrap_or(inherited);
        self.0.insert(name.to_lowercase());
        name
    }
}

const BELONGINGS: &str = "
    SELECT name, sql FROM sqlite_schema
    WHERE type = ?1 AND tbl_name = ?2 COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid";

/// Gives tables of the copy their passing names and then their new ones, and takes down how SQLite
/// defines them under each.
fn rewrite(
    copy: &Connection,
    tables: &mut [Moving],
    names: &mut Names,
    wanted: &Wanted,
    notes: &mut Vec<String>,
) -> rusqlite::Result<()> {
    let own: BTreeSet<String> = tables.iter().map(|table| table.passing.clone()).collect();
    let names_of = |table: &Moving| [table.from.clone(), table.passing.clone(), table.to.clone()];
    let ours: BTreeSet<String> =
        tables.iter().flat_map(names_of).map(|name| name.to_lowercase()).collect();
    for table in tables.iter() {
        rename(copy, (&table.from, &table.passing), &ours, notes)?;
    }
    for table in tables.iter_mut() {
        let query = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        let sql: String = copy.query_row(query, [&table.passing], |row| row.get(0))?;
        let (sql, removed) = untied(&sql, |name| !own.contains(&name.to_lowercase()));
        notes.extend(removed.iter().map(|parent| {
            format!(
                "the foreign key of {} to {parent} is left out: it would bind a table in use",
                table.from
            )
        }));
        table.definitions.push(sql);
        for (name, sql) in belongings(copy, "index", &table.passing)? {
            let free = names.take(&name, table, wanted);
            match named(&sql, &free) {
                Some(sql) => table.definitions.push(sql),
                None => notes.push(format!("index {name} is left out: {sql}")),
            }
        }
    }
    for table in tables.iter() {
        make_way(copy, &table.to, &ours, notes)?;
        rename(copy, (&table.passing, &table.to), &ours, notes)?;
    }
    for table in tables {
        for (name, sql) in belongings(copy, "trigger", &table.to)? {
            let free = names.take(&name, table, wanted);
            match renamed_trigger(&sql, &name, &free) {
                Some(sql) => table.triggers.push(sql),
                None => notes.push(format!("trigger {name} is left out: {sql}")),
            }
        }
    }
    Ok(())
}

fn belongings(
    copy: &Connection,
    kind: &str,
    table: &str,
) -> rusqlite::Result<Vec<(String, String)>> {
    let mut query = copy.prepare(BELONGINGS)?;
    let found = query.query_map([kind, table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    found.collect()
}

/// A trigger's definition begins with its name, in whatever quotes.
fn renamed_trigger(sql: &str, name: &str, free: &str) -> Option<String> {
    let rest = sql.strip_prefix("CREATE TRIGGER ")?.trim_start();
    let forms = [
        name.to_owned(),
        quoted(name),
        format!("[{name}]"),
        format!("`{}`", name.replace('`', "``")),
        format!("'{}'", name.replace('\'', "''")),
    ];
    let rest = forms.iter().find_map(|form| rest.strip_prefix(form.as_str()))?;
    Some(format!("CREATE TRIGGER {}{rest}", quoted(free)))
}

/// Renames a table of the copy. Views and triggers that keep SQLite from it, since they name what
/// is gone, are removed; triggers of the tables that are brought are told of.
fn rename(
    copy: &Connection,
    (from, to): (&str, &str),
    ours: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> rusqlite::Result<()> {
    let statement = format!("ALTER TABLE {} RENAME TO {}", quoted(from), quoted(to));
    if copy.execute_batch(&statement).is_ok() {
        return Ok(());
    }
    let query = "SELECT type, name, sql, tbl_name FROM sqlite_schema \
                 WHERE type IN ('view', 'trigger') ORDER BY type DESC, rowid";
    let mut broken = {
        let mut query = copy.prepare(query)?;
        let found =
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        found.collect::<rusqlite::Result<Vec<(String, String, String, String)>>>()?
    };
    for (kind, name, ..) in &broken {
        copy.execute_batch(&format!("DROP {kind} IF EXISTS {}", quoted(name)))?;
    }
    // One may need another, so all are tried until none comes back any more.
    let mut tried = usize::MAX;
    while broken.len() < tried {
        tried = broken.len();
        let mut left = Vec::new();
        for (kind, name, sql, of) in broken {
            if !add_sound(copy, &sql, &statement)? {
                left.push((kind, name, sql, of));
            }
        }
        broken = left;
    }
    let is_brought = |(kind, _, _, of): &(String, String, String, String)| {
        kind == "trigger" && ours.contains(&of.to_lowercase())
    };
    notes.extend(broken.into_iter().filter(is_brought).map(|(_, name, sql, _)| {
        let words = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("trigger {name} is left out, because it names what was not there: {words}")
    }));
    copy.execute_batch(&statement)
}

/// Adds a view or a trigger, unless a table could not be renamed beside it.
fn add_sound(copy: &Connection, sql: &str, renames: &str) -> rusqlite::Result<bool> {
    copy.execute_batch("SAVEPOINT added")?;
    let is_sound = copy.execute_batch(sql).is_ok() && {
        copy.execute_batch("SAVEPOINT renamed")?;
        let is_sound = copy.execute_batch(renames).is_ok();
        copy.execute_batch("ROLLBACK TO renamed; RELEASE renamed")?;
        is_sound
    };
    copy.execute_batch(if is_sound {
        "RELEASE added"
    } else {
        "ROLLBACK TO added; RELEASE added"
    })?;
    Ok(is_sound)
}

/// Lets nothing in the copy have a name that a table shall get.
fn make_way(
    copy: &Connection,
    name: &str,
    ours: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> rusqlite::Result<()> {
    // Names of triggers are their own.
    let query = "SELECT type, name FROM sqlite_schema \
                 WHERE name = ?1 COLLATE NOCASE AND type <> 'trigger'";
    let found = copy
        .query_row(query, [name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let Some((kind, name)) = found.optional()? else { return Ok(()) };
    if kind == "table" {
        let aside = format!("stillpoint aside {name}");
        return rename(copy, (&name, &aside), ours, notes);
    }
    copy.execute_batch(&format!("DROP {kind} {}", quoted(&name)))
}

/// Makes everything but rows, and takes it back, so that what lacks is known before any row moves.
/// Says whether SQLite renames tables there only in its older way, because the live schema is
/// broken somewhere.
fn rehearse(live: &Connection, database: &Database, tables: &[Moving]) -> Result<bool> {
    let mut last = None;
    for legacy in [false, true] {
        let settings = renaming(legacy);
        let failed = |e| error::sqlite(e, WRITE, &database.path);
        live.execute_batch(settings).map_err(failed)?;
        let tried = transaction((live, database), |live| {
            let run = || -> rusqlite::Result<()> {
                for table in tables {
                    define(live, table)?;
                }
                for table in tables {
                    give_name(live, table)?;
                }
                tables.iter().try_for_each(|table| can_write(live, &table.to))
            };
            // What went well is taken back as well.
            Err::<(), _>(match run() {
                Ok(()) => Error::new(ErrorKind::Interrupted, code::INTERRUPTED, "rehearse"),
                Err(e) => lacking(e, database),
            })
        });
        live.execute_batch(renaming(false)).map_err(failed)?;
        match tried {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(legacy),
            Err(error) => last = last.or(Some(error)),
            Ok(()) => return Err(Error::bug(WRITE)),
        }
    }
    Err(last.unwrap_or_else(|| Error::bug(WRITE)))
}

/// In the older way, references among tables follow only while they are enforced.
/// Source: <https://www.sqlite.org/lang_altertable.html#alter_table_rename>.
fn renaming(legacy: bool) -> &'static str {
    if legacy {
        "PRAGMA legacy_alter_table = ON; PRAGMA foreign_keys = ON"
    } else {
        "PRAGMA legacy_alter_table = OFF; PRAGMA foreign_keys = OFF"
    }
}

fn lacking(e: rusqlite::Error, database: &Database) -> Error {
    if matches!(e.sqlite_error_code(), None | Some(rusqlite::ErrorCode::Unknown)) {
        return Error::new(ErrorKind::Missing, code::LACKING_TARGET, "make the tables there")
            .with("file", database.path.display())
            .why("the live database lacks what they need, or is broken; nothing was changed")
            .next("repair there what SQLite names, and repeat")
            .next("or restore the whole database beside it: --to PATH")
            .caused_by(e);
    }
    error::sqlite(e, WRITE, &database.path)
}

fn define(live: &Connection, table: &Moving) -> rusqlite::Result<()> {
    table.definitions.iter().try_for_each(|sql| live.execute_batch(sql))
}

fn give_name(live: &Connection, table: &Moving) -> rusqlite::Result<()> {
    let (from, to) = (quoted(&table.passing), quoted(&table.to));
    live.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"))
}

/// Whether SQLite can prepare statements that fire every trigger of a table.
fn can_write(live: &Connection, table: &str) -> rusqlite::Result<()> {
    let column = "SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 LIMIT 1";
    let column: String = live.query_row(column, [table], |row| row.get(0))?;
    let (table, column) = (quoted(table), quoted(&column));
    for statement in [
        format!("INSERT INTO {table} DEFAULT VALUES"),
        format!("UPDATE {table} SET {column} = {column}"),
        format!("DELETE FROM {table}"),
    ] {
        drop(live.prepare(&statement)?);
    }
    Ok(())
}

/// Makes the tables, and copies rows in short transactions. Returns how many each has.
fn fill(
    copy: &Connection,
    live: &Connection,
    (wanted, database): (&Wanted, &Database),
    tables: &[Moving],
    teller: &Teller,
) -> Result<Vec<u64>> {
    teller.begin("rows", tables.iter().map(|table| table.size).sum())?;
    let failed = |e| error::sqlite(e, WRITE, &database.path);
    let read = |e| error::sqlite(e, STEP, &wanted.path);
    transaction((live, database), |live| {
        tables.iter().try_for_each(|table| define(live, table)).map_err(failed)
    })?;
    let mut counts = Vec::new();
    for table in tables {
        let columns = columns(copy, table).map_err(read)?;
        let shown = columns.join(", ");
        let from = format!("SELECT {shown} FROM {}", quoted(&table.to));
        let places = vec!["?"; columns.len()].join(", ");
        let into = format!("INSERT INTO {} ({shown}) VALUES ({places})", quoted(&table.passing));
        let mut source = copy.prepare(&from).map_err(read)?;
        let mut rows = source.query([]).map_err(read)?;
        let (mut count, mut told, mut is_done) = (0, 0, false);
        let mut rows_max = BATCH_ROWS.start;
        while !is_done {
            // A row is read only once, so it is kept until its transaction has ended.
            let mut batch: Vec<Vec<Value>> = Vec::new();
            let mut bytes = 0;
            while batch.len() < rows_max && bytes < BATCH_BYTES_MAX {
                let Some(row) = rows.next().map_err(read)? else {
                    is_done = true;
                    break;
                };
                let values = (0..columns.len()).map(|place| row.get_ref(place).map(Value::from));
                let values = values.collect::<rusqlite::Result<Vec<_>>>().map_err(read)?;
                bytes += values.iter().map(Value::length).sum::<u64>();
                batch.push(values);
            }
            let begun = database.clock.elapsed();
            transaction((live, database), |live| insert(live, &into, &batch).map_err(failed))?;
            let took = database.clock.elapsed().saturating_sub(begun);
            if took < BATCH_TIME.start {
                rows_max = (rows_max * 2).min(BATCH_ROWS.end);
            } else if took > BATCH_TIME.end {
                rows_max = (rows_max / 2).max(BATCH_ROWS.start);
            }
            count += batch.len() as u64;
            let more = bytes.min(table.size - told);
            told += more;
            teller.advance(more)?;
        }
        teller.advance(table.size - told)?;
        counts.push(count);
    }
    Ok(counts)
}

fn insert(live: &Connection, statement: &str, rows: &[Vec<Value>]) -> rusqlite::Result<()> {
    use rusqlite::types::ValueRef;

    let mut statement = live.prepare_cached(statement)?;
    for row in rows {
        let values = row.iter().map(|value| {
            ToSqlOutput::Borrowed(match value {
                Value::Null => ValueRef::Null,
                Value::Integer(number) => ValueRef::Integer(*number),
                Value::Real(number) => ValueRef::Real(*number),
                Value::Text(text) => ValueRef::Text(text),
                Value::Blob(bytes) => ValueRef::Blob(bytes),
            })
        });
        statement.execute(params_from_iter(values))?;
    }
    Ok(())
}

/// Columns that are written, and the row id where nothing hides it.
fn columns(copy: &Connection, table: &Moving) -> rusqlite::Result<Vec<String>> {
    let mut query = copy.prepare("SELECT name, hidden FROM pragma_table_xinfo(?1)")?;
    let all = query
        .query_map([&table.to], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let all = all.collect::<rusqlite::Result<Vec<_>>>()?;
    let is_hidden = |id: &&str| all.iter().any(|(name, _)| name.eq_ignore_ascii_case(id));
    let row_id = ROW_IDS.iter().find(|id| table.has_row_ids && !is_hidden(id));
    let written = all.iter().filter(|(_, hidden)| *hidden == 0).map(|(name, _)| quoted(name));
    Ok(row_id.map(|id| (*id).to_owned()).into_iter().chain(written).collect())
}

/// Gives the tables their names and triggers, in one transaction. Returns what was left out.
fn publish(
    copy: &Connection,
    live: &Connection,
    (wanted, database): (&Wanted, &Database),
    tables: &[Moving],
    legacy: bool,
) -> Result<Vec<String>> {
    let failed = |e| error::sqlite(e, WRITE, &database.path);
    let sequences = sequences(copy).map_err(|e| error::sqlite(e, STEP, &wanted.path))?;
    live.execute_batch(renaming(legacy)).map_err(failed)?;
    transaction((live, database), |live| {
        let mut notes = Vec::new();
        for table in tables {
            if is_taken(live, &table.to).map_err(failed)? {
                return Err(taken(&table.to));
            }
            give_name(live, table).map_err(failed)?;
        }
        for table in tables {
            if let Some(last) = sequences.get(&table.to) {
                count_on(live, &table.to, *last).map_err(failed)?;
            }
            for trigger in &table.triggers {
                notes.extend(add_trigger(live, table, trigger).map_err(failed)?);
            }
        }
        Ok(notes)
    })
}

/// The largest row ids that AUTOINCREMENT gave.
fn sequences(copy: &Connection) -> rusqlite::Result<BTreeMap<String, i64>> {
    if !is_taken(copy, "sqlite_sequence")? {
        return Ok(BTreeMap::new());
    }
    let mut query = copy.prepare("SELECT name, seq FROM sqlite_sequence")?;
    let found = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    found.collect()
}

fn count_on(live: &Connection, table: &str, last: i64) -> rusqlite::Result<()> {
    let update = "UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1";
    if live.execute(update, (table, last))? == 0 {
        live.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (table, last))?;
    }
    Ok(())
}

/// Adds a trigger, unless what it names is missing: then nobody could write into the table, or
/// rename any other.
fn add_trigger(
    live: &Connection,
    table: &Moving,
    trigger: &str,
) -> rusqlite::Result<Option<String>> {
    live.execute_batch("SAVEPOINT trigger")?;
    let made = live.execute_batch(trigger).and_then(|()| can_write(live, &table.to));
    match made {
        Ok(()) => live.execute_batch("RELEASE trigger").map(|()| None),
        Err(e) => {
            live.execute_batch("ROLLBACK TO trigger; RELEASE trigger")?;
            let words = trigger.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
            Ok(Some(format!("left out, because {e}: {words} …")))
        }
    }
}
