//! Rows as people read them: in the same forms as files of text.

use std::ops::Range;

use stillpoint_contract::{Class, Column, Error, ErrorKind, Kind, Result, code, values};

use super::{
    cell::{self, Cell},
    text::{
        csv,
        json::{self, Names},
    },
};

/// The text of a value that is not NULL; `None` when a column of that kind does not hold it.
/// Bytes are hexadecimal digits, lists are JSON.
pub fn value_text(kind: &Kind, value: &[u8]) -> Option<String> {
    // Where each value says what it is, it is written as that; text may be no text, though.
    let of_value = match kind {
        Kind::Dynamic { .. } => Some(Kind::Dynamic { declared: Class::of(*value.first()?)? }),
        _ => None,
    };
    let mut kinds = of_value.iter().chain([kind]);
    let (kind, cell) = kinds.find_map(|kind| Some((kind, cell::take(kind, value)?)))?;
    let mut out = Vec::new();
    json::write_plain(kind, &cell, &mut Vec::new(), &mut out);
    String::from_utf8(out).ok()
}

/// Writes a row as a JSON object, on one line with an end.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when it is no row with such columns.
pub fn json_line(row: &[u8], columns: &[Column], out: &mut Vec<u8>) -> Result<()> {
    let (names, mut scratch) = (Names::new(columns), Vec::new());
    each(row, columns, |at, column, cell| {
        out.extend_from_slice(names.before(at));
        json::write_value(&column.kind, cell, &mut scratch, out);
    })?;
    out.extend_from_slice(b"}\n");
    Ok(())
}

/// Writes the names of columns as a record of CSV.
pub fn csv_header(columns: &[Column], out: &mut Vec<u8>) {
    csv::write_header(columns, out);
}

/// Writes a row as a record of CSV, in which NULL is nothing at all: the fields are those of the
/// columns at some places, and nothing where there is none.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when it is no row with such columns.
pub fn csv_record(
    row: &[u8],
    columns: &[Column],
    fields: &[Option<usize>],
    out: &mut Vec<u8>,
) -> Result<()> {
    let (mut text, mut scratch) = (Vec::new(), Vec::new());
    let mut ranges: Vec<Option<Range<usize>>> = vec![None; columns.len()];
    each(row, columns, |at, column, cell| {
        if let Some(cell) = cell {
            let begin = text.len();
            json::write_plain(&column.kind, cell, &mut scratch, &mut text);
            ranges[at] = Some(begin..text.len());
        }
    })?;
    for (number, place) in fields.iter().enumerate() {
        csv::write_separator(number, out);
        let range = place.and_then(|place| ranges.get(place)?.clone());
        if let Some(value) = range.and_then(|range| text.get(range)) {
            csv::write_field(value, out);
        }
    }
    out.extend_from_slice(csv::LINE_END);
    Ok(())
}

fn each(
    row: &[u8],
    columns: &[Column],
    mut see: impl FnMut(usize, &Column, Option<&Cell<'_>>),
) -> Result<()> {
    let other = || Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, "show a row");
    let mut values = values(row);
    for (at, column) in columns.iter().enumerate() {
        let cell = match values.next().ok_or_else(other)?? {
            None => None,
            Some(value) => Some(cell::take(&column.kind, value).ok_or_else(other)?),
        };
        see(at, column, cell.as_ref());
    }
    if values.next().is_some() { Err(other()) } else { Ok(()) }
}
