//! Views that have, of each key, only the row that was archived last, as `newest` finds it.
//!
//! The name of a file says of which run it is, and which batch of that: a file whose name is the
//! greater one is the newer.

use std::collections::BTreeSet;

use stillpoint_contract::{Class, Column, Kind};

use super::{
    file::Format,
    meaning::Sense,
    names::Names,
    publish::{Counted, quoted, union_of},
};

/// Why a view is left out where the key has a collation of its own.
const FOLDS: &str = "texts of other bytes are one key to the database, and no query compares so";

/// How keys of the rows of a file are told apart.
struct Keyed<'a> {
    /// What the columns of the key are called now.
    called: Vec<String>,
    format: Format,
    /// In the same order: the columns as the file has them, and how they are read.
    columns: Vec<(&'a Column, Sense)>,
    /// Whether texts of other bytes may be the same.
    folds: bool,
}

impl<'a> Keyed<'a> {
    fn of(names: &Names, file: &Counted<'a>) -> Self {
        let (plan, number) = (file.plan, file.member);
        let table = &plan.members[number].table;
        let key = names.key(plan, number, file.columns).unwrap_or_default();
        let folds = key.iter().any(|one| !one.alike.is_same());
        let columns = key.iter().map(|one| &file.columns[one.place]);
        let sensed = |column: &'a Column| (column, Sense::of(column, &table.columns, None));
        let columns = columns.map(sensed).collect();
        let called = key.into_iter().map(|one| one.name).collect();
        Self { called, format: file.format, columns, folds }
    }

    /// Whether files have the same key, by the same names and in the same forms.
    fn is_like(&self, other: &Self) -> bool {
        let is_same = |((one, sense), (other, of)): (&(&Column, Sense), &(&Column, Sense))| {
            one.name == other.name && one.kind == other.kind && sense == of
        };
        self.called == other.called
            && self.format == other.format
            && self.columns.iter().zip(&other.columns).all(is_same)
    }

    /// Whether two keys are the same to SQL exactly where they are to the database.
    fn is_plain(&self) -> bool {
        self.columns.iter().all(|(column, sense)| match (&column.kind, sense) {
            (_, Sense::Padded | Sense::Folded)
            | (Kind::Text, Sense::Number)
            | (Kind::Dynamic { declared: Class::Any }, _) => false,
            // There, it is two columns.
            (Kind::TimeTz, _) => self.format != Format::Parquet,
            _ => true,
        })
    }
}

/// A view for DuckDB of the files of a table.
/// Source: DuckDB documentation, QUALIFY Clause, and Reading and Writing Parquet Files, "filename".
pub(super) fn duckdb(names: &Names, files: &[Counted<'_>], (all, newest): (&str, &str)) -> String {
    let keyed: Vec<Keyed<'_>> = files.iter().map(|file| Keyed::of(names, file)).collect();
    let create = format!("CREATE OR REPLACE VIEW {newest} AS SELECT *");
    if keyed.iter().all(|one| one.columns.is_empty()) {
        return format!("{create} FROM {all};\n");
    }
    if keyed.iter().any(|one| one.folds) {
        return left_out(newest, FOLDS);
    }
    let columns = files.iter().flat_map(|file| file.columns);
    let taken: BTreeSet<String> = columns.map(|column| column.name.to_lowercase()).collect();
    let file = free(&taken, "stillpoint_file");
    let first = &keyed[0];
    let is_plain = first.is_plain() && keyed.iter().all(|one| one.is_like(first));
    let (keys, more, hidden): (Vec<String>, Vec<String>, String) = if is_plain {
        let keys = first.columns.iter().map(|(column, _)| quoted(&column.name)).collect();
        (keys, vec![String::new(); files.len()], quoted(&file))
    } else {
        let Some(texts) = texts(&keyed) else {
            return left_out(newest, "files have keys in forms that no query compares");
        };
        let key = quoted(&free(&taken, "stillpoint_key"));
        let more = texts.iter().map(|text| format!(", {text} AS {key}")).collect();
        let hidden = format!("{}, {key}", quoted(&file));
        (vec![key], more, hidden)
    };
    let union = union_of(files, &more, Some(&file));
    // A key without a value is like no other one.
    let nothing: Vec<String> = keys.iter().map(|key| format!("{key} IS NULL")).collect();
    format!(
        "{create} EXCLUDE ({hidden}) FROM (\n{union}\n) QUALIFY {} OR row_number() OVER (PARTITION \
         BY {} ORDER BY parse_filename({}) DESC) = 1;\n",
        nothing.join(" OR "),
        keys.join(", "),
        quoted(&file)
    )
}

/// Says why there is no such view, and what there is instead.
pub(super) fn left_out(view: &str, why: &str) -> String {
    let view = view.replace(['\n', '\r'], " ");
    format!("-- {view} is left out: {why}; see stillpoint archive restore --staging\n")
}

/// A name that no column has.
fn free(taken: &BTreeSet<String>, name: &str) -> String {
    let mut name = name.to_owned();
    while taken.contains(&name) {
        name.push('_');
    }
    name
}

/// What makes one text of a key, of each file, so that those of the same key are the same, whatever
/// forms the files have; `None` where nothing does.
fn texts(keyed: &[Keyed<'_>]) -> Option<Vec<String>> {
    // What is only compared with its like.
    let mut others: Vec<(Format, &Kind)> = Vec::new();
    let mut texts = Vec::new();
    for one in keyed {
        let mut parts = Vec::new();
        for (column, sense) in &one.columns {
            let (is_other, part) = text(one.format, column, *sense)?;
            if is_other {
                others.push((one.format, &column.kind));
            }
            parts.push(part);
        }
        texts.push(if parts.is_empty() {
            "CAST(NULL AS VARCHAR[])".to_owned()
        } else {
            let has: Vec<String> = parts.iter().map(|part| format!("{part} IS NOT NULL")).collect();
            let of = format!("{:?}", one.called).replace('\'', "''");
            format!("CASE WHEN {} THEN ['{of}', {}] END", has.join(" AND "), parts.join(", "))
        });
    }
    others.iter().all(|one| *one == others[0]).then_some(texts)
}

/// A value of a key as a text, and whether it is compared only with others of the same kind. What
/// is no number does not look like one.
fn text(format: Format, column: &Column, sense: Sense) -> Option<(bool, String)> {
    let name = quoted(&column.name);
    let text = format!("CAST({name} AS VARCHAR)");
    let is_parquet = format == Format::Parquet;
    let is_other = |text: String| Some((true, format!("('o' || {text})")));
    let text = match (&column.kind, sense) {
        (Kind::Dynamic { declared: Class::Any }, _) => any(&name, is_parquet),
        (Kind::Dynamic { declared: Class::Text }, _) => format!("'t' || {text}"),
        (Kind::Dynamic { declared: Class::Blob }, _) if is_parquet => {
            format!("'b' || lower(hex({name}))")
        }
        (Kind::Dynamic { declared: Class::Blob }, _) => format!("'b' || substr({text}, 3)"),
        (Kind::Dynamic { declared: Class::Real }, _) => {
            return Some((true, format!("('n' || {})", number(&text))));
        }
        (Kind::Dynamic { .. }, _) | (_, Sense::Number) => format!("'n' || {}", number(&text)),
        (_, Sense::Padded) => format!("'t' || rtrim({text}, ' ')"),
        (_, Sense::Folded) => format!("'t' || lower({text})"),
        (Kind::Enum { .. }, _) | (_, Sense::Text | Sense::Uuid | Sense::Flag) => {
            format!("'t' || {text}")
        }
        (_, Sense::Local) => time(&name, "TIMESTAMP"),
        (_, Sense::Instant) => time(&name, "TIMESTAMP WITH TIME ZONE"),
        (Kind::TimeTz, _) if is_parquet => return None,
        (Kind::Bytes, _) if is_parquet => return is_other(format!("hex({name})")),
        _ => return is_other(text),
    };
    Some((false, format!("({text})")))
}

/// A number without zeros at its end.
fn number(text: &str) -> String {
    format!(
        "CASE WHEN contains({text}, '.') AND NOT contains({text}, 'e') THEN \
         rtrim(rtrim({text}, '0'), '.') ELSE {text} END"
    )
}

/// A time as a number, or as what it says where that is none.
fn time(name: &str, of: &str) -> String {
    let time = format!("TRY_CAST({name} AS {of})");
    format!(
        "'i' || CASE WHEN isfinite({time}) THEN CAST(epoch_us({time}) AS VARCHAR) ELSE \
         CAST({name} AS VARCHAR) END"
    )
}

/// A value that says itself of what class it is.
fn any(name: &str, is_parquet: bool) -> String {
    let part = |class: &str| {
        if is_parquet {
            format!("CAST({name}.{class} AS VARCHAR)")
        } else {
            format!("({name} ->> '{class}')")
        }
    };
    let bytes = |class: &str| {
        if is_parquet {
            format!("lower(hex({name}.{class}))")
        } else {
            format!("substr({}, 3)", part(class))
        }
    };
    format!(
        "coalesce('n' || {}, 'n' || {}, 't' || {}, 'b' || {}, 'r' || {})",
        part("integer"),
        number(&part("real")),
        part("text"),
        bytes("blob"),
        bytes("raw_text")
    )
}

/// A view for Hive over the table of Parquet files that has those columns, and the same for Trino,
/// which has other names for the file of a row, as a comment.
/// Source: Apache Hive, Language Manual, Virtual Columns; Trino documentation, Hive connector,
/// "Special columns".
pub(super) fn hive(
    names: &Names,
    files: &[&Counted<'_>],
    columns: &[Column],
    (all, newest): (&str, &str),
) -> String {
    let keyed: Vec<Keyed<'_>> = files.iter().map(|file| Keyed::of(names, file)).collect();
    let Some(first) = keyed.first() else { return String::new() };
    if keyed.iter().any(|one| one.folds) {
        return left_out(newest, FOLDS);
    }
    let has = |(column, _): &(&Column, Sense)| columns.iter().any(|one| one.name == column.name);
    let is_one = keyed.iter().all(|one| one.is_like(first)) && first.columns.iter().all(has);
    let keys: Option<Vec<Vec<Listed>>> =
        first.columns.iter().map(|(column, sense)| compared(column, *sense)).collect();
    let Some(keys) = keys.filter(|keys| is_one && !keys.is_empty()) else {
        let why = "files have no key, several, or one in forms that Hive does not compare";
        return left_out(newest, why);
    };
    let keys: Vec<Listed> = keys.into_iter().flatten().collect();
    let mut listed: Vec<String> = columns.iter().flat_map(columns_of).collect();
    // What the directories say.
    listed.push("expire".to_owned());
    let taken: BTreeSet<String> = listed.iter().map(|name| name.to_lowercase()).collect();
    let (file, number) = (free(&taken, "stillpoint_file"), free(&taken, "stillpoint_number"));
    let write = |quote: char, path: &str, pattern: &str| {
        let name = |name: &str| {
            let doubled = name.replace(quote, &format!("{quote}{quote}"));
            format!("{quote}{doubled}{quote}")
        };
        let shown: Vec<String> = listed.iter().map(|one| name(one)).collect();
        let shown = shown.join(", ");
        let keys: Vec<String> = keys
            .iter()
            .map(|Listed { column, function }| match function {
                Some(function) => format!("{function}({})", name(column)),
                None => name(column),
            })
            .collect();
        let (all, newest) =
            (all.replace('"', &quote.to_string()), newest.replace('"', &quote.to_string()));
        let (file, number) = (name(&file), name(&number));
        format!(
            "DROP VIEW IF EXISTS {newest};\nCREATE VIEW {newest} AS SELECT {shown} FROM (\n  \
             SELECT {shown}, row_number() OVER (PARTITION BY {} ORDER BY {pattern} DESC) AS \
             {number}\n  FROM (SELECT {shown}, {path} AS {file} FROM {all}) every_version\n) \
             numbered WHERE {number} = 1;\n",
            keys.join(", "),
        )
    };
    let of_hive = format!("regexp_extract(`{file}`, '[^/]+$', 0)");
    let of_trino = format!("regexp_extract(\"{file}\", '[^/]+$')");
    let hive = write('`', "INPUT__FILE__NAME", &of_hive);
    let trino = write('"', "\"$path\"", &of_trino);
    let trino = format!("--   {}\n", trino.trim_end_matches('\n').replace('\n', "\n--   "));
    format!("{hive}-- The same for Trino:\n{trino}")
}

/// A column of a key as SQL compares it.
struct Listed {
    column: String,
    function: Option<&'static str>,
}

/// What is compared of a column of a key; `None` where Hive has nothing for it.
fn compared(column: &Column, sense: Sense) -> Option<Vec<Listed>> {
    let function = match (&column.kind, sense) {
        (_, Sense::Padded) => Some("rtrim"),
        (_, Sense::Folded) => Some("lower"),
        (Kind::Text, Sense::Number)
        | (Kind::List { .. } | Kind::Interval | Kind::Dynamic { declared: Class::Any }, _) => {
            return None;
        }
        _ => None,
    };
    let listed = |column| Listed { column, function };
    Some(columns_of(column).into_iter().map(listed).collect())
}

/// The columns of a Parquet file that a column of the table is.
fn columns_of(column: &Column) -> Vec<String> {
    match &column.kind {
        Kind::TimeTz => vec![column.name.clone(), format!("{}__offset", column.name)],
        _ => vec![column.name.clone()],
    }
}
