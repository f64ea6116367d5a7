//! The statements that make a live table like the copy.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs::File,
    io::{self, Seek as _, Write as _},
    iter,
};

use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, Script, code};

use super::{
    rows::{Row, is_null, plain},
    unique::{Meetings, Unique},
};
use crate::tally::quoted;

/// A column that both tables have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type in the copy, without a domain.
    pub(super) base: String,
    /// Its live type, without a domain.
    pub(super) live: String,
    /// Whether that is a type of rows, of which a literal cannot be compared.
    pub(super) is_row: bool,
    /// Its live type, without a domain and limits of length, to which values are cast.
    pub(super) cast: String,
    /// Whether only `OVERRIDING SYSTEM VALUE` sets it, and no update.
    pub(super) is_always: bool,
    /// Whether the server makes it of others: it only tells rows apart.
    pub(super) is_generated: bool,
}

/// A sequence that gives a column its values.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Its name as statements have it.
    pub(super) name: String,
    pub(super) column: String,
    /// Whether it counts up.
    pub(super) is_up: bool,
}

/// What statements are about.
#[derive(Debug)]
pub(super) struct Target {
    /// The name of the table as statements have it.
    pub(super) table: String,
    /// Whether other tables may inherit from it, whose rows are not meant.
    pub(super) has_heirs: bool,
    pub(super) columns: Vec<Column>,
    /// Which of the columns are its key.
    pub(super) key: Vec<usize>,
    /// In what rows that come back may meet others and then stay away, if the server cannot say
    /// so.
    pub(super) unique: Option<Vec<Unique>>,
    pub(super) sequences: Vec<Sequence>,
    /// Which columns refer to rows of the same table.
    pub(super) own_references: Vec<usize>,
}

/// A table whose statements are written.
#[derive(Debug)]
pub(super) struct Merge<'a, 's> {
    target: Target,
    later: Later,
    script: Out<'a, 's>,
    is_open: bool,
    has_missing: bool,
}

/// What of a table's statements waits for others.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// Rows that are missing, which come behind those that differ: one of these may have what has
    /// to be unique in one of those.
    pub(super) missing: Option<File>,
    /// What refers to rows of its own table, which may be among those that are missing. These come
    /// back together then.
    pub(super) references: Option<File>,
}

/// Where it goes.
pub(super) struct Out<'a, 's>(pub(super) &'a mut Script<'s>);

impl std::fmt::Debug for Out<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Out")
    }
}

impl Out<'_, '_> {
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        self.write(text)?;
        self.write("\n")
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes()).map_err(unwritten)
    }
}

pub(super) fn unwritten(cause: io::Error) -> Error {
    let is_full = cause.kind() == io::ErrorKind::StorageFull;
    let kind = if is_full { ErrorKind::Exhausted } else { ErrorKind::Config };
    Error::new(kind, code::FILE, "write the merge script").caused_by(cause)
}

/// A statement that is only proposed. Line breaks would let its rest be run.
fn proposal(text: &str) -> String {
    if text.contains(['\n', '\r']) {
        return "-- a row that is extra, in a table whose names have line breaks".to_owned();
    }
    format!("-- {text}")
}

impl<'a, 's> Merge<'a, 's> {
    pub(super) fn new(target: Target, later: Later, script: &'a mut Script<'s>) -> Self {
        Self { target, later, script: Out(script), is_open: false, has_missing: false }
    }

    /// A row comes back.
    pub(super) fn missing(&mut self, row: &Row) -> Result<()> {
        self.has_missing = true;
        let Target { table, columns, unique, .. } = &self.target;
        let is_cast = unique.is_some() && !self.is_open;
        let value = |(column, value): (&Column, &Bytes)| {
            let cast = if is_cast { format!("::{}", column.cast) } else { String::new() };
            format!("{}{cast}", literal(value))
        };
        let values = columns.iter().zip(&row.values).filter(|(column, _)| !column.is_generated);
        let values: Vec<_> = values.map(value).collect();
        let values = values.join(", ");
        if self.is_open {
            return self.missing_text(&format!(",\n  ({values})"));
        }
        let names = self.written();
        let overrides = columns.iter().any(|column| column.is_always);
        let overrides = if overrides { " OVERRIDING SYSTEM VALUE" } else { "" };
        let from = if is_cast { " SELECT r.* FROM (VALUES" } else { " VALUES" };
        let head = format!("INSERT INTO {table} ({}){overrides}{from}", names.join(", "));
        if self.later.references.is_some() {
            self.is_open = true;
            return self.missing_text(&format!("{head}\n  ({values})"));
        }
        let statement = if names.is_empty() {
            format!("INSERT INTO {table} DEFAULT VALUES;")
        } else {
            format!("{head} ({values}){};", self.unless_there())
        };
        self.missing_text(&format!("{statement}\n"))
    }

    /// How a statement ends that brings rows back which are missing.
    fn unless_there(&self) -> String {
        let Some(unique) = &self.target.unique else {
            return " ON CONFLICT DO NOTHING".to_owned();
        };
        let names = self.written();
        let mut meetings = Meetings::default();
        for unique in unique {
            meetings.add(unique, &self.only());
        }
        format!(") r ({}){}", names.join(", "), meetings.clauses())
    }

    /// The columns that rows which come back are written with.
    fn written(&self) -> Vec<String> {
        let written = self.target.columns.iter().filter(|column| !column.is_generated);
        written.map(|column| quoted(&column.name)).collect()
    }

    /// The table without what inherits from it.
    fn only(&self) -> String {
        let only = if self.target.has_heirs { "ONLY " } else { "" };
        format!("{only}{}", self.target.table)
    }

    /// A row gets its values back, unless it was changed meanwhile.
    pub(super) fn different(&mut self, copy: &Row, live: &Row) -> Result<()> {
        let differing = |place: &usize| copy.values[*place] != live.values[*place];
        let columns = &self.target.columns;
        let differing: Vec<_> = (0..columns.len()).filter(differing).collect();
        let settable = differing.iter().copied().filter(|place| {
            let Column { is_always, is_generated, .. } = columns[*place];
            !is_always && !is_generated
        });
        let is_late = |place: &usize| {
            self.later.references.is_some() && self.target.own_references.contains(place)
        };
        let (late, soon): (Vec<_>, Vec<_>) = settable.partition(is_late);
        if late.is_empty() && soon.is_empty() {
            return self.script.line("-- a row that differs only in what the server alone gives");
        }
        if !soon.is_empty() {
            let update = self.update((copy, live), &soon, |_| live);
            self.script.line(&update)?;
        }
        if !late.is_empty() {
            // What came before has changed some of the row.
            let now = |place| if soon.contains(&place) { copy } else { live };
            let update = self.update((copy, live), &late, now);
            if let Some(file) = &mut self.later.references {
                writeln!(file, "{update}").map_err(unwritten)?;
            }
        }
        Ok(())
    }

    /// Sets values of a row as long as all of it is what `now` says of each place.
    fn update<'r>(
        &self,
        (copy, live): (&'r Row, &'r Row),
        set: &[usize],
        now: impl Fn(usize) -> &'r Row,
    ) -> String {
        let set = set.iter().map(|place| {
            let name = quoted(&self.target.columns[*place].name);
            format!("{name} = {}", literal(&copy.values[*place]))
        });
        let set = set.collect::<Vec<_>>().join(", ");
        let is_told = |place: &usize| {
            self.target.key.contains(place)
                && !is_null(&live.values[*place])
                && has_equality(&self.target.columns[*place].cast)
        };
        let places = (0..self.target.columns.len()).filter(|place| !is_told(place));
        let guard = places.map(|place| self.is_still(place, now(place)));
        let guard = iter::once(self.where_key(live)).chain(guard).collect::<Vec<_>>().join(" AND ");
        format!("UPDATE {} SET {set} WHERE {guard};", self.only())
    }

    /// A row is only proposed for removal.
    pub(super) fn extra(&mut self, row: &Row) -> Result<()> {
        let table = self.only();
        let statement = if self.is_apart(row) {
            let same = (0..row.values.len()).map(|place| self.is_still(place, row));
            let same = same.chain(iter::once("true".to_owned())).collect::<Vec<_>>().join(" AND ");
            format!(
                "DELETE FROM {table} WHERE ctid = (SELECT ctid FROM {table} WHERE {same} LIMIT 1);"
            )
        } else {
            format!("DELETE FROM {table} WHERE {};", self.where_key(row))
        };
        self.script.line(&proposal(&statement))
    }

    fn missing_text(&mut self, text: &str) -> Result<()> {
        match &mut self.later.missing {
            Some(later) => later.write_all(text.as_bytes()).map_err(unwritten),
            None => self.script.write(text),
        }
    }

    /// The end of what was begun.
    pub(super) fn close(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_open) {
            let end = format!("\n{};\n", self.unless_there().trim_start());
            self.missing_text(&end)?;
        }
        let Later { missing, references } = std::mem::take(&mut self.later);
        for mut later in [missing, references].into_iter().flatten() {
            later.rewind().and_then(|()| io::copy(&mut later, self.script.0)).map_err(unwritten)?;
        }
        // What begins anew would give out values that rows have which came back.
        for sequence in self.target.sequences.iter().filter(|_| self.has_missing) {
            let Sequence { name, column, is_up } = sequence;
            let (far, near, of_all, end) = if *is_up {
                ("greatest", "least", "max", "seqmax")
            } else {
                ("least", "greatest", "min", "seqmin")
            };
            let text = name.replace('\'', "''");
            let (column, table) = (quoted(column), &self.target.table);
            self.script.line(&format!(
                "SELECT pg_catalog.setval('{text}', {near}({far}(last_value, (SELECT \
                 {of_all}({column}) FROM {table})), (SELECT {end} FROM pg_catalog.pg_sequence \
                 WHERE seqrelid = '{text}'::pg_catalog.regclass))) FROM {name};"
            ))?;
        }
        Ok(())
    }

    /// The key of a row, for people.
    pub(super) fn shown(&self, row: &Row) -> String {
        let all: Vec<_> = (0..row.values.len()).collect();
        let places = if self.is_apart(row) { &all } else { &self.target.key };
        let value = |place: &usize| {
            let field = &row.values[*place];
            if is_null(field) {
                return "NULL".to_owned();
            }
            let is_text = is_text(&self.target.columns[*place].base);
            stillpoint_contract::shown_value(&String::from_utf8_lossy(&plain(field)), is_text)
        };
        places.iter().map(value).collect::<Vec<_>>().join(", ")
    }

    /// Whether a row is told apart by all of its columns: a key with a NULL may be there twice.
    pub(super) fn is_apart(&self, row: &Row) -> bool {
        let key = &self.target.key;
        key.is_empty() || key.iter().any(|place| is_null(&row.values[*place]))
    }

    fn where_key(&self, row: &Row) -> String {
        let one = |place: &usize| {
            let name = quoted(&self.target.columns[*place].name);
            let column = &self.target.columns[*place];
            // Texts of other types are taken for what the operator is about.
            let cast = if has_equality(&column.cast) || is_text(&column.cast) {
                String::new()
            } else {
                format!("::{}", column.cast)
            };
            format!("{name} = {}{cast}", literal(&row.values[*place]))
        };
        let told = self.target.key.iter().filter(|place| !is_null(&row.values[**place]));
        let told = told.map(one).collect::<Vec<_>>();
        if told.is_empty() { "true".to_owned() } else { told.join(" AND ") }
    }

    fn is_named(&self, place: usize, row: &Row) -> String {
        let column = &self.target.columns[place];
        match literal(&row.values[place]).as_ref() {
            "NULL" => format!("{} IS NULL", quoted(&column.name)),
            value => format!("{} = {value}::{}", quoted(&column.name), column.cast),
        }
    }

    fn is_still(&self, place: usize, row: &Row) -> String {
        let column = &self.target.columns[place];
        // Some types cannot tell whether two values are equal, and others take different ones for
        // equal.
        let cast = match column.live.as_str() {
            // As a text it would lack its blanks.
            "character" => " COLLATE \"C\"",
            live if names_something(live) => return self.is_named(place, row),
            live if !column.is_row && has_equality(live) && !has_loose_equality(live) => "",
            _ => "::text COLLATE \"C\"",
        };
        let value = literal(&row.values[place]);
        match value.as_ref() {
            "NULL" => format!("{} IS NULL", quoted(&column.name)),
            value => format!("{}{cast} = {value}", quoted(&column.name)),
        }
    }
}

/// Whether values of a type, or arrays of them, name something, in a text that depends on the
/// session that asks.
fn names_something(base: &str) -> bool {
    let kinds = ["class", "type", "proc", "procedure", "oper", "operator", "role", "namespace"];
    let kinds = kinds.into_iter().chain(["config", "dictionary", "collation"]);
    let base = base.trim_end_matches("[]").strip_prefix("reg");
    base.is_some_and(|base| kinds.into_iter().any(|kind| kind == base))
}

/// Whether values of a type, or arrays of them, are equal by an operator of the server's own that a
/// literal can be an operand of.
fn has_equality(base: &str) -> bool {
    let base = base.trim_end_matches("[]");
    let known = [
        "smallint",
        "integer",
        "bigint",
        "oid",
        "numeric",
        "real",
        "double precision",
        "money",
        "boolean",
        "date",
        "interval",
        "uuid",
        "bytea",
        "jsonb",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "bit",
        "bit varying",
        "pg_lsn",
        "tsvector",
        "tsquery",
    ];
    known.contains(&base) || base.starts_with("timestamp ") || base.starts_with("time ")
}

/// Whether values of a type, or arrays of them, may be equal and yet differ, as 1 and 1.00 do.
fn has_loose_equality(base: &str) -> bool {
    let known = ["numeric", "real", "double precision", "interval", "jsonb"];
    known.contains(&base.trim_end_matches("[]"))
}

fn is_text(base: &str) -> bool {
    ["text", "character varying", "character", "bpchar", "citext"].contains(&base)
}

/// A value as a statement has it, on one line.
fn literal(field: &[u8]) -> Cow<'static, str> {
    if is_null(field) {
        return Cow::Borrowed("NULL");
    }
    let value = plain(field);
    let Ok(text) = str::from_utf8(&value) else { return Cow::Owned(literal_of_bytes(&value)) };
    if !text.contains(['\n', '\r']) {
        return Cow::Owned(format!("'{}'", text.replace('\'', "''")));
    }
    let text = text.replace('\\', r"\\").replace('\'', "''");
    Cow::Owned(format!("E'{}'", text.replace('\n', r"\n").replace('\r', r"\r")))
}

/// A value that is no UTF-8, which only databases without an encoding have.
fn literal_of_bytes(value: &[u8]) -> String {
    let mut text = String::from("E'");
    for byte in value {
        match byte {
            b'\'' => text.push_str("''"),
            b'\\' | b'\n' | b'\r' | 0x80.. => {
                write!(text, "\\x{byte:02x}").expect("a String grows");
            }
            _ => text.push(char::from(*byte)),
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::{super::unique::Element, *};

    #[test]
    fn values_keep_to_their_line() {
        for (field, text) in [
            ("a'b", "'a''b'"),
            ("\\N", "NULL"),
            ("\\\\N", "'\\N'"),
            ("a\\nb'\\\\", "E'a\\nb''\\\\'"),
            ("a\\\\b", "'a\\b'"),
        ] {
            assert_eq!(literal(field.as_bytes()), text, "{field}");
        }
        assert_eq!(literal(b"a\xff'\\\\\\nb"), r"E'a\xff''\x5c\x0ab'");
    }

    #[test]
    fn statements_are_guarded_and_removals_only_proposed() {
        let column = |name: &str, base: &str| Column {
            name: name.to_owned(),
            base: base.to_owned(),
            live: base.to_owned(),
            is_row: false,
            cast: base.to_owned(),
            is_always: name == "id",
            is_generated: false,
        };
        let columns = vec![column("id", "bigint"), column("v", "json"), column("w", "text")];
        let row = |values: &[&'static str]| Row {
            sort: Vec::new(),
            values: values.iter().map(|v| Bytes::from_static(v.as_bytes())).collect(),
            length: 0,
        };
        let mut written = Vec::new();
        let script: &mut Script<'_> = &mut written;
        let target = |columns, unique, has_heirs| Target {
            table: "\"t\"".to_owned(),
            columns,
            key: vec![0],
            unique,
            sequences: vec![
                Sequence { name: "s.\"it's\"".to_owned(), column: "id".to_owned(), is_up: true },
                Sequence { name: "s.d".to_owned(), column: "id".to_owned(), is_up: false },
            ],
            own_references: Vec::new(),
            has_heirs,
        };
        let mut merge = Merge::new(target(columns.clone(), None, false), Later::default(), script);
        merge.missing(&row(&["1", "{}", "\\N"])).unwrap();
        merge.different(&row(&["2", "{}", "x"]), &row(&["2", "[]", "\\N"])).unwrap();
        merge.extra(&row(&["3\\nDROP", "{}", "x"])).unwrap();
        merge.different(&row(&["4", "{}", "x"]), &row(&["9", "{}", "x"])).unwrap();
        merge.close().unwrap();
        let expression = |text: &str| (Element::Expression(text.to_owned()), "=".to_owned());
        let (id, pair) = (["id".to_owned()], ["id".to_owned(), "w".to_owned()]);
        let unique = Some(vec![
            Unique::of(id),
            Unique { nulls_are_equal: true, ..Unique::of(pair) },
            Unique {
                partition: Some("\"t1\"".to_owned()),
                elements: vec![expression("lower(w)")],
                predicate: Some("(w > 'a'::text)".to_owned()),
                routed: Some("(id < 9)".to_owned()),
                ..Unique::default()
            },
        ]);
        let mut merge = Merge::new(target(columns, unique, true), Later::default(), script);
        merge.missing(&row(&["1", "{}", "\\N"])).unwrap();
        merge.different(&row(&["2", "{}", "x"]), &row(&["2", "[]", "x"])).unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "INSERT INTO \"t\" (\"id\", \"v\", \"w\") OVERRIDING SYSTEM VALUE VALUES \
             ('1', '{}', NULL) ON CONFLICT DO NOTHING;\n\
             UPDATE \"t\" SET \"v\" = '{}', \"w\" = 'x' WHERE \"id\" = '2' AND \
             \"v\"::text COLLATE \"C\" = '[]' AND \"w\" IS NULL;\n\
             -- DELETE FROM \"t\" WHERE \"id\" = E'3\\nDROP';\n\
             -- a row that differs only in what the server alone gives\n\
             SELECT pg_catalog.setval('s.\"it''s\"', least(greatest(last_value, (SELECT \
             max(\"id\") FROM \"t\")), (SELECT seqmax FROM pg_catalog.pg_sequence WHERE seqrelid = \
             's.\"it''s\"'::pg_catalog.regclass))) FROM s.\"it's\";\n\
             SELECT pg_catalog.setval('s.d', greatest(least(last_value, (SELECT \
             min(\"id\") FROM \"t\")), (SELECT seqmin FROM pg_catalog.pg_sequence WHERE seqrelid = \
             's.d'::pg_catalog.regclass))) FROM s.d;\n\
             INSERT INTO \"t\" (\"id\", \"v\", \"w\") OVERRIDING SYSTEM VALUE SELECT r.* FROM \
             (VALUES ('1'::bigint, '{}'::json, NULL::text)) r (\"id\", \"v\", \"w\") CROSS JOIN \
             LATERAL (SELECT lower(w), (w > 'a'::text), (id < 9)) u (\"1\", \"2\", \"3\") WHERE \
             NOT EXISTS (SELECT FROM ONLY \"t\" t WHERE t.\"id\" = r.\"id\") AND NOT EXISTS \
             (SELECT FROM ONLY \"t\" t WHERE (t.\"id\" = r.\"id\" OR t.\"id\" IS NULL AND r.\"id\" \
             IS NULL) AND (t.\"w\" = r.\"w\" OR t.\"w\" IS NULL AND r.\"w\" IS NULL)) AND \
             NOT EXISTS (SELECT FROM \"t1\" t WHERE lower(w) = u.\"1\" AND (w > 'a'::text) AND \
             u.\"2\" AND u.\"3\");\n\
             UPDATE ONLY \"t\" SET \"v\" = '{}' WHERE \"id\" = '2' AND \
             \"v\"::text COLLATE \"C\" = '[]' AND \"w\"::text COLLATE \"C\" = 'x';\n"
        );
    }
}
