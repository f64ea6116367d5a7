//! The statements that make a live table like the copy.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Seek as _, Write as _},
    iter,
};

use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::{bring::ROW_IDS, definition::quoted, events::Teller, values::Value};

/// A table whose statements are written.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    pub(super) table: String,
    pub(super) columns: Vec<String>,
    /// Which of the columns are its key; empty where whole rows are compared.
    pub(super) key: Vec<usize>,
    pub(super) teller: &'a Teller,
    /// Where missing rows wait for those that differ, which may have what has to be unique in them.
    pub(super) later: Option<BufWriter<File>>,
}

fn unwritten(cause: io::Error) -> Error {
    Error::new(ErrorKind::Exhausted, code::FILE, "write the merge script").caused_by(cause)
}

/// Whether a row is told apart by all of its columns: a key with a NULL may be there twice.
pub(super) fn is_apart(key: &[usize], row: &[Value]) -> bool {
    key.is_empty() || key.iter().any(|place| matches!(row[*place], Value::Null))
}

impl Merge<'_> {
    /// A row comes back.
    pub(super) fn missing(&mut self, row: &[Value]) -> Result<()> {
        let columns: Vec<_> = self.columns.iter().map(|name| quoted(name)).collect();
        let values: Vec<_> = row.iter().map(Value::literal).collect();
        let insert = format!(
            "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING;",
            quoted(&self.table),
            columns.join(", "),
            values.join(", ")
        );
        match &mut self.later {
            Some(later) => writeln!(later, "{insert}").map_err(unwritten),
            None => self.teller.line(insert),
        }
    }

    /// The end of what is written of the table.
    pub(super) fn close(&mut self) -> Result<()> {
        let Some(later) = self.later.take() else { return Ok(()) };
        let mut later = later.into_inner().map_err(|e| unwritten(e.into_error()))?;
        later.rewind().map_err(unwritten)?;
        for line in BufReader::new(later).lines() {
            self.teller.line(line.map_err(unwritten)?)?;
        }
        Ok(())
    }

    /// A row gets its values back, unless it was changed meanwhile.
    pub(super) fn different(&self, copy: &[Value], live: &[Value]) -> Result<()> {
        let differing: Vec<_> =
            (0..copy.len()).filter(|place| copy[*place] != live[*place]).collect();
        let set = differing
            .iter()
            .map(|place| format!("{} = {}", quoted(&self.columns[*place]), copy[*place].literal()));
        let set = set.collect::<Vec<_>>().join(", ");
        if is_apart(&self.key, live) {
            let text = "-- rows that differ only in bytes that are no text, in a table without key";
            return self.teller.line(text.to_owned());
        }
        // The column's own collation would take what was changed meanwhile for the same.
        let guard = (0..live.len()).filter(|place| !self.key.contains(place)).map(|place| {
            let (name, value) = (quoted(&self.columns[place]), live[place].literal());
            // 5 is 5.0, and stored in another way.
            match &live[place] {
                number @ (Value::Integer(_) | Value::Real(_)) => {
                    format!("{name} IS {value} AND typeof({name}) = '{}'", number.kind())
                }
                _ => format!("{name} COLLATE BINARY IS {value}"),
            }
        });
        let key = self.are(self.key.iter(), live);
        let guard = iter::once(key).chain(guard).collect::<Vec<_>>().join(" AND ");
        let table = quoted(&self.table);
        // The table's own clause for conflicts may be to replace other rows.
        self.teller.line(format!("UPDATE OR ABORT {table} SET {set} WHERE {guard};"))
    }

    /// A row is only proposed for removal. Line breaks would let the rest be run.
    pub(super) fn extra(&self, row: &[Value]) -> Result<()> {
        let table = quoted(&self.table);
        let statement = if is_apart(&self.key, row) {
            let same = self.are((0..row.len()).collect::<Vec<_>>().iter(), row);
            let is_hidden =
                |id: &str| self.columns.iter().any(|name| name.eq_ignore_ascii_case(id));
            let Some(id) = ROW_IDS.into_iter().find(|id| !is_hidden(id)) else {
                let text = "-- a row that is extra, in a table whose columns hide what tells rows \
                            apart";
                return self.teller.line(text.to_owned());
            };
            let one = format!("SELECT {id} FROM {table} WHERE {same} LIMIT 1");
            format!("DELETE FROM {table} WHERE {id} = ({one});")
        } else {
            format!("DELETE FROM {table} WHERE {};", self.are(self.key.iter(), row))
        };
        if statement.contains(['\n', '\r']) {
            let text = "-- a row that is extra, in a table whose names have line breaks";
            return self.teller.line(text.to_owned());
        }
        self.teller.line(format!("-- {statement}"))
    }

    /// The key of a row, for people.
    pub(super) fn shown(&self, row: &[Value]) -> String {
        let all: Vec<_> = (0..row.len()).collect();
        let places = if is_apart(&self.key, row) { &all } else { &self.key };
        places.iter().map(|place| row[*place].shown()).collect::<Vec<_>>().join(", ")
    }

    /// The row and no other: a column's own collation, by which an index finds it, may take other
    /// texts for the same.
    fn are<'p>(&self, places: impl Iterator<Item = &'p usize>, row: &[Value]) -> String {
        let one = |place: &usize| {
            let (name, value) = (quoted(&self.columns[*place]), row[*place].literal());
            match row[*place] {
                Value::Text(_) => {
                    format!("{name} IS {value} AND {name} COLLATE BINARY IS {value}")
                }
                _ => format!("{name} IS {value}"),
            }
        };
        places.map(one).collect::<Vec<_>>().join(" AND ")
    }
}
