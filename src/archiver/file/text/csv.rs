//! CSV as RFC 4180 has it, and narrower: every value is in quotes, NULL is nothing at all.

use stillpoint_contract::{Column, ROW_BYTES_MAX, RowWriter};

use super::json::read_plain;

/// Between records.
pub(in super::super) const LINE_END: &[u8] = b"\r\n";

/// Writes the line with the names of the columns.
pub(in super::super) fn write_header(columns: &[Column], out: &mut Vec<u8>) {
    for (at, column) in columns.iter().enumerate() {
        write_separator(at, out);
        write_field(column.name.as_bytes(), out);
    }
    out.extend_from_slice(LINE_END);
}

/// Writes what stands before the value of a column.
pub(in super::super) fn write_separator(column: usize, out: &mut Vec<u8>) {
    if column > 0 {
        out.push(b',');
    }
}

/// Writes a value that is not NULL.
pub(in super::super) fn write_field(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut begin = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'"' {
            out.extend_from_slice(&text[begin..=at]);
            begin = at;
        }
    }
    out.extend_from_slice(&text[begin..]);
    out.push(b'"');
}

/// Reads a record without the end of its line; `None` when it is not one as they are written here.
pub(super) fn read_record(
    mut record: &[u8],
    columns: &[Column],
    (field, scratch, value): (&mut Vec<u8>, &mut Vec<u8>, &mut Vec<u8>),
    row: &mut RowWriter,
) -> Option<()> {
    row.begin(columns.len());
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            record = record.strip_prefix(b",")?;
        }
        if !record.starts_with(b"\"") {
            row.null();
            continue;
        }
        record = take_field(record, field)?;
        value.clear();
        read_plain(&column.kind, field, scratch, value)?;
        (value.len() <= ROW_BYTES_MAX).then_some(())?;
        row.value(&[value]);
    }
    record.is_empty().then_some(())?;
    row.end().ok()
}

/// Takes what is between quotes off, and returns what is behind.
fn take_field<'a>(record: &'a [u8], field: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = record.strip_prefix(b"\"")?;
    field.clear();
    loop {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        field.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(behind) => {
                field.push(b'"');
                rest = behind;
            }
            None => return Some(rest),
        }
    }
}
