//! What makes archived rows tables of a query engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    ops::Range,
};

use stillpoint_contract::{Class, Column, Error, ErrorKind, Kind, Result, code};

use super::{
    document::{Batch, File, Plan},
    file::Format,
    names::Names,
    newest_view,
    place::Place,
    reconcile::{Hidden, hidden},
    shelf::Shelf,
};

const STEP: &str = "publish an archive set";

/// The column in which DuckDB numbers the rows of a Parquet file, from 0.
const ROW_NUMBER: &str = "file_row_number";

/// Refuses a set of which files are encrypted that count: no query engine could read them.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) with what reads them instead.
pub async fn refuse_encrypted(place: &Place, shelf: &Shelf) -> Result<()> {
    let hidden = hidden(place).await?;
    let counting = shelf.sealed().filter(|(_, batch)| hidden.shown(batch).next().is_some());
    let files = counting.flat_map(|(_, batch)| batch.files());
    let encrypted = files.filter(|file| file.encryption.is_some()).count();
    if encrypted == 0 {
        return Ok(());
    }
    let set = place.set();
    Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, STEP)
        .with("set", set)
        .with("encrypted files", encrypted)
        .why("query engines cannot read files that the repository's key encrypts")
        .next(format!("stillpoint archive scan {set} --format csv > {set}.csv"))
        .next(format!("for runs to come: [archive.{set}]  encryption = \"none\"")))
}

/// The plan of the newest run, which says what tables there are.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when nothing was archived yet.
pub(super) fn newest_plan<'a>(place: &Place, shelf: &'a Shelf) -> Result<&'a Plan> {
    shelf.runs.last().map(|run| &run.plan).ok_or_else(|| {
        Error::new(ErrorKind::Missing, code::NO_SUCH_ARCHIVE, STEP)
            .with("set", place.set())
            .with("place", place.location())
            .why("nothing was archived yet")
            .next(format!("stillpoint archive run {}", place.set()))
    })
}

/// Views for DuckDB, two for each table of a set, over the files of sealed batches and no others:
/// one has every version of a row, the other one the newest. Rows that readers pass over are in
/// none of them.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when nothing was archived yet;
/// [`Refused`](ErrorKind::Refused) when readers pass over some rows of a file of which DuckDB does
/// not number the rows.
/// Source: DuckDB documentation, Reading and Writing Parquet Files, and CSV, and JSON.
pub async fn duckdb_views(place: &Place, shelf: &Shelf) -> Result<String> {
    let plan = newest_plan(place, shelf)?;
    let hidden = hidden(place).await?;
    let (names, mut sql) = (Names::of(shelf), String::new());
    for (number, member) in plan.members.iter().enumerate() {
        let Files { counted: files, passed } = files(place, shelf, &hidden, &member.table.name);
        let name = view_name(place.set(), plan, number);
        name_passed(&mut sql, &name, &passed);
        if files.is_empty() {
            name_empty(&mut sql, &name, "file");
            continue;
        }
        if let Some(mixed) = files.iter().find(|file| file.is_mixed() && !file.has_row_numbers()) {
            let why = "some of its rows do not count, and DuckDB numbers the rows of Parquet files \
                       only, of which no column has that name";
            return Err(mixed.refused(place.set(), why));
        }
        let union = union_of(&files, &vec![String::new(); files.len()], None);
        let _ = writeln!(sql, "CREATE OR REPLACE VIEW {name} AS {union};");
        let newest = newest_name(place.set(), plan, number);
        sql.push_str(&newest_view::duckdb(&names, &files, (&name, &newest)));
    }
    Ok(sql)
}

/// Names files of which no row counts.
fn name_passed(sql: &mut String, name: &str, passed: &[Counted<'_>]) {
    for file in passed {
        let told = format!(
            "Not in {name}, as its rows live in their table again, or did until they were archived \
             anew: {}",
            file.path
        );
        let _ = writeln!(sql, "-- {}", told.replace(['\n', '\r'], " "));
    }
}

/// Says why a table is not there.
fn name_empty(sql: &mut String, name: &str, file: &str) {
    let name = name.replace(['\n', '\r'], " ");
    let _ = writeln!(sql, "-- {name} is left out: it has no {file} that counts yet");
}

/// Files that are read together.
struct Group<'a> {
    format: Format,
    casts: Vec<String>,
    more: &'a str,
    /// Rows that do not count; where there are any, the group has one file.
    passed: &'a [Range<u64>],
    paths: Vec<&'a str>,
}

/// What reads files: each with more columns behind its own, and with its name in a column, where
/// that is wanted.
pub(super) fn union_of(files: &[Counted<'_>], more: &[String], name: Option<&str>) -> String {
    let common = Common::of(files);
    // Files that need the same words, in the order of the first of each.
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (file, more) in files.iter().zip(more) {
        let casts = common.casts(file);
        let is_like = |of: &&mut Group<'_>| {
            of.format == file.format
                && of.casts == casts
                && of.more == more
                && of.passed.is_empty()
                && file.passed.is_empty()
        };
        if let Some(group) = groups.iter_mut().find(is_like) {
            group.paths.push(&file.path);
        } else {
            let (format, passed, paths) = (file.format, &*file.passed, vec![&*file.path]);
            groups.push(Group { format, casts, more, passed, paths });
        }
    }
    let selects: Vec<String> = groups.iter().map(|group| select(files, group, name)).collect();
    selects.join("\nUNION ALL BY NAME ")
}

/// What reads some files of one format, with columns in another form.
fn select(files: &[Counted<'_>], group: &Group<'_>, name: Option<&str>) -> String {
    let Group { format, casts, more, passed, paths } = group;
    let list: Vec<String> =
        paths.iter().map(|file| format!("    '{}'", file.replace('\'', "''"))).collect();
    let list = list.join(",\n");
    let (function, mut options) = match format {
        // The directory's `expire=` is no column of the table, which may have one of that name.
        Format::Parquet => {
            ("read_parquet", "union_by_name = true, hive_partitioning = false".to_owned())
        }
        Format::Csv => (
            "read_csv",
            "union_by_name = true, hive_partitioning = false, header = true, all_varchar = true, \
             allow_quoted_nulls = false, compression = 'zstd'"
                .to_owned(),
        ),
        Format::Jsonl => {
            let columns = json_columns(files);
            let options = format!(
                "columns = {{{columns}}}, hive_partitioning = false, format = \
                 'newline_delimited', compression = 'zstd'"
            );
            ("read_json", options)
        }
    };
    let mut columns = "*".to_owned();
    let mut which = String::new();
    if !passed.is_empty() {
        let _ = write!(options, ", {ROW_NUMBER} = true");
        let _ = write!(columns, " EXCLUDE ({ROW_NUMBER})");
        let stretch =
            |of: &Range<u64>| format!("{ROW_NUMBER} BETWEEN {} AND {}", of.start, of.end - 1);
        let stretches: Vec<String> = passed.iter().map(stretch).collect();
        let _ = write!(which, " WHERE NOT ({})", stretches.join(" OR "));
    }
    if !casts.is_empty() {
        let _ = write!(columns, " REPLACE ({})", casts.join(", "));
    }
    if let Some(name) = name {
        let _ = write!(options, ", filename = '{name}'");
    }
    format!("SELECT {columns}{more} FROM {function}([\n{list}\n], {options}){which}")
}

/// Columns that some Parquet files have in another form than others, since a value did not fit.
struct Common<'a> {
    /// Each with whether it has to be bytes everywhere; else it is text.
    columns: BTreeMap<&'a str, bool>,
}

impl<'a> Common<'a> {
    fn of(files: &[Counted<'a>]) -> Self {
        let mut kinds: BTreeMap<&str, Vec<&Kind>> = BTreeMap::new();
        for file in files.iter().filter(|file| file.format == Format::Parquet) {
            for column in file.columns {
                let known = kinds.entry(&column.name).or_default();
                if !known.iter().any(|kind| is_alike(kind, &column.kind)) {
                    known.push(&column.kind);
                }
            }
        }
        let differing = kinds.into_iter().filter(|(_, kinds)| kinds.len() > 1);
        let with = |(name, kinds): (&'a str, Vec<&Kind>)| {
            (name, kinds.iter().any(|kind| matches!(kind, Kind::Bytes)))
        };
        Self { columns: differing.map(with).collect() }
    }

    /// What brings the columns of a file into the form that holds the values of all files.
    fn casts(&self, file: &Counted<'_>) -> Vec<String> {
        if file.format != Format::Parquet {
            return Vec::new();
        }
        let differing = file.columns.iter().filter_map(|column| {
            let is_bytes = *self.columns.get(&*column.name)?;
            let name = quoted(&column.name);
            let text = match &column.kind {
                Kind::Bytes => return None,
                // Which of them is there says of what class the value is.
                Kind::Dynamic { declared: Class::Any } => format!(
                    "coalesce(CAST({name}.integer AS VARCHAR), CAST({name}.real AS VARCHAR), \
                     {name}.text, CAST({name}.blob AS VARCHAR), CAST({name}.raw_text AS VARCHAR))"
                ),
                _ => format!("CAST({name} AS VARCHAR)"),
            };
            let value = if is_bytes { format!("encode({text})") } else { text };
            Some(format!("{value} AS {name}"))
        });
        differing.collect()
    }
}

/// Whether values of two kinds are of one type to a query engine, or of two that it unites.
fn is_alike(one: &Kind, other: &Kind) -> bool {
    let is_text = |kind: &Kind| {
        matches!(kind, Kind::Text | Kind::Enum { .. } | Kind::Json | Kind::Jsonb)
            || matches!(kind, Kind::Dynamic { declared: Class::Text })
    };
    one == other || is_text(one) && is_text(other)
}

/// The columns of all files of a table, by name, with their types. DuckDB would guess them, and
/// take text that looks like a time for one, and not show it as it was.
/// Source: DuckDB documentation, Loading JSON, "Parameters".
fn json_columns(files: &[Counted<'_>]) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for column in files.iter().filter(|one| one.format == Format::Jsonl).flat_map(|one| one.columns)
    {
        let of = json_type(&column.kind);
        match columns.iter_mut().find(|(name, _)| *name == column.name) {
            Some((_, known)) if *known != of => *known = "VARCHAR",
            Some(_) => {}
            None => columns.push((&column.name, of)),
        }
    }
    let listed = columns.iter().map(|(name, of)| format!("'{}': '{of}'", name.replace('\'', "''")));
    listed.collect::<Vec<_>>().join(", ")
}

/// What holds every value of a kind exactly.
fn json_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "BOOLEAN",
        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Dynamic { declared: Class::Integer } => {
            "BIGINT"
        }
        Kind::List { .. } | Kind::Dynamic { declared: Class::Any } => "JSON",
        _ => "VARCHAR",
    }
}

/// External tables for Hive and Trino, over the directories of Parquet files. A table whose files
/// are in several directories, as one that was renamed, is a view of a table for each; so is one
/// with files of which no row counts, which only a view leaves out.
///
/// # Errors
///
/// [`Missing`](ErrorKind::Missing) when nothing was archived yet;
/// [`Refused`](ErrorKind::Refused) when readers pass over some rows of a file, and not over others.
/// Source: Apache Hive, Language Manual, DDL, External Tables, and Create View.
pub async fn hive_tables(place: &Place, shelf: &Shelf) -> Result<String> {
    let plan = newest_plan(place, shelf)?;
    let hidden = hidden(place).await?;
    let mut sql = String::from(
        "-- Hive reads whole directories: files of batches that are not sealed yet would count, \
         too.\n",
    );
    let names = Names::of(shelf);
    let users = users(shelf);
    for (number, member) in plan.members.iter().enumerate() {
        let files = files(place, shelf, &hidden, &member.table.name);
        let parquet = files.counted.iter().filter(|file| file.format == Format::Parquet);
        let parquet: Vec<&Counted<'_>> = parquet.collect();
        if let Some(mixed) = parquet.iter().find(|file| file.is_mixed()) {
            let why = "some of its rows do not count, and Hive reads whole files";
            return Err(mixed.refused(place.set(), why).next(for_duckdb(place.set())));
        }
        let mut directories: Vec<(&str, &str)> = Vec::new();
        for file in &parquet {
            let one = (directory_of(&file.file.key), directory_of(&file.path));
            if !directories.contains(&one) {
                directories.push(one);
            }
        }
        let is_shared = |key: &str| users.get(key).is_some_and(|tables| tables.len() > 1);
        let (shared, own): (Vec<_>, Vec<_>) =
            directories.into_iter().partition(|&(key, _)| is_shared(key));
        let name = table_name(place.set(), plan, number);
        let quoted = hive_name(&name);
        name_passed(&mut sql, &quoted, &files.passed);
        for (_, path) in shared {
            let _ = writeln!(
                sql,
                "-- Not in {quoted}, as other tables have files there, too, and Hive would read \
                 them: {path}; see --for duckdb"
            );
        }
        if parquet.is_empty() {
            name_empty(&mut sql, &quoted, "Parquet file");
        }
        if own.is_empty() {
            continue;
        }
        let newest = newest(shelf, plan, number);
        if newest.iter().any(|column| column.name.eq_ignore_ascii_case("expire")) {
            // Its name is that of the directories.
            let _ = writeln!(
                sql,
                "-- {quoted} has a column named expire, as the directories have, and Hive cannot \
                 have both: see --for duckdb"
            );
            continue;
        }
        let view = newest_name(place.set(), plan, number);
        let table = view_name(place.set(), plan, number);
        let passed = files.passed.iter().filter(|file| {
            let directory = directory_of(&file.file.key);
            file.format == Format::Parquet && own.iter().any(|(key, _)| *key == directory)
        });
        let passed: Vec<&str> = passed.map(|file| file_name(&file.file.key)).collect();
        if let ([(_, path)], true) = (&*own, passed.is_empty()) {
            hive_table(&mut sql, &quoted, newest, path);
            sql.push_str(&newest_view::hive(&names, &parquet, newest, (&table, &view)));
        } else {
            hive_union(&mut sql, &name, newest, (&*own, &*passed));
            let why = if passed.is_empty() {
                "files are in several directories, and a view does not name them"
            } else {
                "some files do not count, and a view does not name them"
            };
            sql.push_str(&newest_view::left_out(&view, why));
        }
    }
    Ok(sql)
}

/// A view of a table for each directory, without files of which no row counts.
/// Source: Apache Hive, Language Manual, Virtual Columns; Trino documentation, Hive connector,
/// "Special columns".
fn hive_union(
    sql: &mut String,
    name: &str,
    columns: &[Column],
    (directories, passed): (&[(&str, &str)], &[&str]),
) {
    let (mut selects, mut which) = (Vec::new(), String::new());
    let mut why = "Its files are in several directories.";
    if !passed.is_empty() {
        why = "Some files in its directories do not count.";
        let passed: Vec<String> = passed.iter().map(|name| hive_text(name)).collect();
        let passed = passed.join(", ");
        let _ = writeln!(
            sql,
            "-- For Trino, each table's rows below are those WHERE regexp_extract(\"$path\", \
             '[^/]+$') NOT IN ({passed})"
        );
        which = format!(" WHERE regexp_extract(INPUT__FILE__NAME, '[^/]+$', 0) NOT IN ({passed})");
    }
    for (key, path) in directories {
        // The same one each time, whichever directories there are by then.
        let hash = blake3::hash(key.as_bytes()).to_hex();
        let part = hive_name(&format!("{name}__{}", &hash[..8]));
        hive_table(sql, &part, columns, path);
        selects.push(format!("SELECT * FROM {part}{which}"));
    }
    let (quoted, selects) = (hive_name(name), selects.join("\nUNION ALL "));
    let _ = writeln!(
        sql,
        "-- {why} A table of that name from before goes first: DROP TABLE {quoted}\n\
         CREATE OR REPLACE VIEW {quoted} AS {selects};"
    );
}

/// Which tables, by the names that they have now, have files in each directory. Before tables had
/// directories of their own, two could share one.
fn users(shelf: &Shelf) -> BTreeMap<&str, BTreeSet<String>> {
    let names = Names::of(shelf);
    let mut users: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (plan, batch) in shelf.sealed() {
        for (number, member) in batch.members.iter().enumerate() {
            if let Some(file) = &member.file {
                let table = names.table_now(plan, number);
                users.entry(directory_of(&file.key)).or_default().insert(table);
            }
        }
    }
    users
}

/// The directory above `expire=...`.
fn directory_of(file: &str) -> &str {
    file.rsplitn(3, '/').last().unwrap_or(file)
}

/// The name of a file, without its directories.
fn file_name(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn hive_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

fn hive_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn hive_table(sql: &mut String, name: &str, columns: &[Column], directory: &str) {
    let columns: Vec<String> = columns.iter().map(hive_column).collect();
    let _ = writeln!(
        sql,
        "CREATE EXTERNAL TABLE IF NOT EXISTS {name} (\n{}\n)\nPARTITIONED BY (expire \
         string)\nSTORED AS PARQUET\nLOCATION {};\nMSCK REPAIR TABLE {name};",
        columns.join(",\n"),
        hive_text(directory)
    );
}

/// The columns of the newest file of a table.
fn newest<'a>(shelf: &'a Shelf, plan: &'a Plan, number: usize) -> &'a [Column] {
    let sealed = shelf.sealed().filter(|(of, _)| of.run == plan.run).last();
    let batch = sealed.and_then(|(_, batch)| batch.members.get(number));
    batch.map_or(&plan.members[number].table.columns, |member| &member.columns)
}

fn hive_column(column: &Column) -> String {
    let name = column.name.replace('`', "``");
    match &column.kind {
        Kind::TimeTz => format!("  `{name}` bigint,\n  `{name}__offset` int"),
        kind => format!("  `{name}` {}", hive_type(kind)),
    }
}

/// What a column of a Parquet file is to Hive, as `file/FORMAT.md` says what it is there.
fn hive_type(kind: &Kind) -> String {
    let name = match kind {
        Kind::Bool => "boolean",
        Kind::Int16 => "smallint",
        Kind::Int32 => "int",
        Kind::Int64 | Kind::Time | Kind::Dynamic { declared: Class::Integer } => "bigint",
        Kind::Float32 => "float",
        Kind::Float64 | Kind::Dynamic { declared: Class::Real } => "double",
        Kind::Decimal { precision, scale } => {
            return format!("decimal({},{scale})", precision.max(scale));
        }
        Kind::Date => "date",
        Kind::Timestamp | Kind::TimestampTz => "timestamp",
        Kind::Text
        | Kind::Enum { .. }
        | Kind::Json
        | Kind::Jsonb
        | Kind::Dynamic { declared: Class::Text } => "string",
        Kind::Bytes | Kind::Uuid | Kind::Dynamic { declared: Class::Blob } => "binary",
        // As an element; a column of them is two.
        Kind::TimeTz => "struct<time:bigint,offset:int>",
        Kind::Interval => "struct<months:int,days:int,microseconds:bigint>",
        Kind::List { element, .. } => return format!("array<{}>", hive_type(element)),
        Kind::Dynamic { declared: Class::Any } => {
            "struct<integer:bigint,real:double,text:string,blob:binary,raw_text:binary>"
        }
    };
    name.to_owned()
}

/// A name for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name of the view of all rows of a table.
fn view_name(set: &str, plan: &Plan, number: usize) -> String {
    quoted(&table_name(set, plan, number))
}

/// The name of that of the newest ones, which no other view has.
fn newest_name(set: &str, plan: &Plan, number: usize) -> String {
    let mut name = format!("{}_newest", table_name(set, plan, number));
    let numbers = 0..plan.members.len();
    let others: BTreeSet<String> = numbers.map(|of| table_name(set, plan, of)).collect();
    while others.contains(&name) {
        name.push('_');
    }
    quoted(&name)
}

/// The set's name for the root; with the table's behind it for the others, and with that of its
/// schema where there are several such tables.
pub(super) fn table_name(set: &str, plan: &Plan, number: usize) -> String {
    let last = |table: &str| table.rsplit('.').next().unwrap_or(table).trim_matches('"').to_owned();
    let table = &plan.members[number].table.name;
    let of = last(table);
    let others = plan.members.iter().skip(1);
    match others.filter(|other| last(&other.table.name) == of).count() {
        _ if number == 0 => set.to_owned(),
        1 => format!("{set}_{of}"),
        _ => format!("{set}_{table}"),
    }
}

/// The files of a table.
#[derive(Default)]
pub(super) struct Files<'a> {
    /// Those that count.
    pub(super) counted: Vec<Counted<'a>>,
    /// Those of which readers pass over every row.
    pub(super) passed: Vec<Counted<'a>>,
}

/// A file that counts, or did.
pub(super) struct Counted<'a> {
    /// The plan of its run, and which of its tables it is about.
    pub(super) plan: &'a Plan,
    pub(super) member: usize,
    pub(super) format: Format,
    pub(super) columns: &'a [Column],
    pub(super) file: &'a File,
    /// The rows that readers pass over, from 0, in stretches that are as long as they can be.
    passed: Vec<Range<u64>>,
    path: String,
}

impl Counted<'_> {
    /// Whether some of its rows count, and others do not.
    pub(super) fn is_mixed(&self) -> bool {
        !self.passed.is_empty() && !self.is_passed()
    }

    fn is_passed(&self) -> bool {
        self.passed.first() == Some(&(0..self.file.rows))
    }

    /// Whether DuckDB can tell its rows from one another by their places.
    fn has_row_numbers(&self) -> bool {
        let is_taken = |column: &Column| column.name.eq_ignore_ascii_case(ROW_NUMBER);
        self.format == Format::Parquet && !self.columns.iter().any(is_taken)
    }

    /// Refuses a mixed one, and says how it becomes one whose rows all count, as far as that goes.
    pub(super) fn refused(&self, set: &str, why: &'static str) -> Error {
        let rows = self.passed.iter().map(|of| of.end - of.start).sum::<u64>();
        Error::new(ErrorKind::Refused, code::ARCHIVE_PUBLISH, STEP)
            .with("set", set)
            .with("file", &self.file.key)
            .with("rows that live again, or did", rows)
            .why(why)
            .next(format!("stillpoint archive reconcile {set} --prune"))
            .next(format!("stillpoint archive scan {set} --format csv > {set}.csv"))
    }
}

/// What shows more than others can.
pub(super) fn for_duckdb(set: &str) -> String {
    format!("stillpoint archive publish {set} --for duckdb")
}

/// The files of a table, by the name that it has now.
pub(super) fn files<'a>(
    place: &Place,
    shelf: &'a Shelf,
    hidden: &Hidden,
    table: &str,
) -> Files<'a> {
    let root = place.location();
    let root = root.strip_prefix("file://").unwrap_or(&root).trim_end_matches('/').to_owned();
    let names = Names::of(shelf);
    let mut files = Files::default();
    for (plan, batch) in shelf.sealed() {
        let Some(number) = names.table(plan, Some(table)) else { continue };
        let member = &batch.members[number];
        let Some(file) = &member.file else { continue };
        let one = Counted {
            plan,
            member: number,
            format: plan.format,
            columns: &member.columns,
            file,
            passed: passed_rows(hidden, batch, number),
            path: format!("{root}/{}", file.key),
        };
        if one.is_passed() { files.passed.push(one) } else { files.counted.push(one) }
    }
    files
}

/// The rows of a file that readers pass over: it has those of its slices one behind the other.
fn passed_rows(hidden: &Hidden, batch: &Batch, number: usize) -> Vec<Range<u64>> {
    let (mut stretches, mut end) = (Vec::<Range<u64>>::new(), 0);
    for slice in &batch.slices {
        let begin = end;
        end += slice.members[number].rows;
        if begin == end || !hidden.has_slice(batch, slice) {
            continue;
        }
        match stretches.last_mut() {
            Some(last) if last.end == begin => last.end = end,
            _ => stretches.push(begin..end),
        }
    }
    stretches
}
