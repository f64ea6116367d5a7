//! What makes archived rows tables of a query engine.

use std::fmt::Write as _;

use stillpoint_contract::{Class, Column, Error, ErrorKind, Kind, Result, code};

use super::{document::Plan, file::Format, place::Place, shelf::Shelf};

/// Refuses a set of which files are encrypted that count: no query engine could read them.
///
/// # Errors
///
/// [`Refused`](ErrorKind::Refused) with what reads them instead.
pub fn refuse_encrypted(place: &Place, shelf: &Shelf) -> Result<()> {
    let files = shelf.sealed().flat_map(|(_, batch)| batch.files());
    let encrypted = files.filter(|file| file.encryption.is_some()).count();
    if encrypted == 0 {
        return Ok(());
    }
    let set = place.set();
    Err(Error::new(ErrorKind::Refused, code::ARCHIVE_KEY, "publish an archive set")
        .with("set", set)
        .with("encrypted files", encrypted)
        .why("query engines cannot read files that the repository's key encrypts")
        .next(format!("stillpoint archive scan {set} --format csv > {set}.csv"))
        .next(format!("for runs to come: [archive.{set}]  encryption = \"none\"")))
}

/// Views for DuckDB, one for each table of a set, over the files of sealed batches and no others.
/// Source: DuckDB documentation, Reading and Writing Parquet Files, and CSV, and JSON.
pub fn duckdb_views(place: &Place, shelf: &Shelf) -> String {
    let mut sql = String::new();
    let tables = shelf.runs.last().map(|run| &run.plan);
    for (number, member) in tables.into_iter().flat_map(|plan| plan.members.iter().enumerate()) {
        let files = files(place, shelf, &member.table.name);
        let Some((format, _)) = files.first() else { continue };
        let list: Vec<String> = files
            .iter()
            .filter(|(of, _)| of == format)
            .map(|(_, file)| format!("    '{}'", file.replace('\'', "''")))
            .collect();
        let list = list.join(",\n");
        let (function, options) = match format {
            // The directory's `expire=` is no column of the table, which may have one of that name.
            Format::Parquet => {
                ("read_parquet", "union_by_name = true, hive_partitioning = false".to_owned())
            }
            Format::Csv => (
                "read_csv",
                "union_by_name = true, hive_partitioning = false, header = true, all_varchar = \
                 true, allow_quoted_nulls = false, compression = 'zstd'"
                    .to_owned(),
            ),
            Format::Jsonl => {
                let columns = json_columns(shelf, *format, &member.table.name);
                let options = format!(
                    "columns = {{{columns}}}, hive_partitioning = false, format = \
                     'newline_delimited', compression = 'zstd'"
                );
                ("read_json", options)
            }
        };
        let name = view_name(place.set(), number, &member.table.name);
        let _ = writeln!(
            sql,
            "CREATE OR REPLACE VIEW {name} AS SELECT * FROM {function}([\n{list}\n], {options});"
        );
    }
    sql
}

/// The columns of all files of a table, by name, with their types. DuckDB would guess them, and
/// take text that looks like a time for one, and not show it as it was.
/// Source: DuckDB documentation, Loading JSON, "Parameters".
fn json_columns(shelf: &Shelf, format: Format, table: &str) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    for (plan, batch) in shelf.sealed().filter(|(plan, _)| plan.format == format) {
        let members = batch.members.iter().zip(&plan.members);
        let of_table = members.filter(|(_, planned)| planned.table.name == table);
        for column in of_table.flat_map(|(member, _)| &member.columns) {
            let of = json_type(&column.kind);
            match columns.iter_mut().find(|(name, _)| *name == column.name) {
                Some((_, known)) if *known != of => *known = "VARCHAR",
                Some(_) => {}
                None => columns.push((&column.name, of)),
            }
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

/// External tables for Hive and Trino, over the directories of Parquet files.
/// Source: Apache Hive, Language Manual, DDL, External Tables.
pub fn hive_tables(place: &Place, shelf: &Shelf) -> String {
    let mut sql = String::from(
        "-- Hive reads whole directories: files of batches that are not sealed yet would count, \
         too.\n",
    );
    let Some(plan) = shelf.runs.last().map(|run| &run.plan) else { return sql };
    for (number, member) in plan.members.iter().enumerate() {
        let files = files(place, shelf, &member.table.name);
        let Some((Format::Parquet, file)) = files.first() else { continue };
        // The directory above `expire=...`.
        let directory = file.rsplitn(3, '/').last().unwrap_or(file);
        let columns: Vec<String> = newest(shelf, plan, number).iter().map(hive_column).collect();
        let name = view_name(place.set(), number, &member.table.name).replace('"', "`");
        let _ = writeln!(
            sql,
            "CREATE EXTERNAL TABLE IF NOT EXISTS {name} (\n{}\n)\nPARTITIONED BY (expire \
             string)\nSTORED AS PARQUET\nLOCATION '{directory}';\nMSCK REPAIR TABLE {name};",
            columns.join(",\n")
        );
    }
    sql
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

/// The set's name for the root; with the table's behind it for the others.
fn view_name(set: &str, number: usize, table: &str) -> String {
    let last = table.rsplit('.').next().unwrap_or(table).trim_matches('"');
    let name = if number == 0 { set.to_owned() } else { format!("{set}_{last}") };
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The files of a table that count, and their formats.
fn files(place: &Place, shelf: &Shelf, table: &str) -> Vec<(Format, String)> {
    let root = place.location();
    let root = root.strip_prefix("file://").unwrap_or(&root).trim_end_matches('/').to_owned();
    let mut files = Vec::new();
    for (plan, batch) in shelf.sealed() {
        let members = batch.members.iter().zip(&plan.members);
        let of_table = members.filter(|(_, planned)| planned.table.name == table);
        let found = of_table.filter_map(|(member, _)| member.file.as_ref());
        files.extend(found.map(|file| (plan.format, format!("{root}/{}", file.key))));
    }
    files
}
