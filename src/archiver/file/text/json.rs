//! JSON lines, as narrow as they are written here: one object, the columns in their order, no
//! spaces.

use stillpoint_contract::{Class, Column, Kind, ROW_BYTES_MAX, RowWriter};

use super::{
    super::{cell::Cell, list::ListWriter},
    scalar,
};

/// What stands before each value that says itself what it is.
const INTEGER: &str = "integer";
const REAL: &str = "real";
const TEXT: &str = "text";
const BLOB: &str = "blob";
const RAW_TEXT: &str = "raw_text";

/// Writes a value, `None` for NULL. What `scratch` holds is lost.
pub(in super::super) fn write_value(
    kind: &Kind,
    cell: Option<&Cell<'_>>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let Some(cell) = cell else { return out.extend_from_slice(b"null") };
    match (kind, cell) {
        (Kind::List { element, .. }, Cell::List(elements)) => {
            out.push(b'[');
            for (at, value) in elements.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(element, value.as_ref(), scratch, out);
            }
            out.push(b']');
        }
        (Kind::Dynamic { declared: Class::Any }, cell) => {
            let class = match cell {
                Cell::Int64(_) => INTEGER,
                Cell::Float64(_) => REAL,
                Cell::Text(_) => TEXT,
                Cell::RawText(_) => RAW_TEXT,
                _ => BLOB,
            };
            out.extend_from_slice(b"{\"");
            out.extend_from_slice(class.as_bytes());
            out.extend_from_slice(b"\":");
            write_scalar(kind, cell, scratch, out);
            out.push(b'}');
        }
        _ => write_scalar(kind, cell, scratch, out),
    }
}

fn write_scalar(kind: &Kind, cell: &Cell<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    match cell {
        Cell::Text(text) => write_text(text.as_bytes(), out),
        _ if is_bare(cell) => scalar::write(kind, cell, out),
        _ => {
            scratch.clear();
            scalar::write(kind, cell, scratch);
            write_text(scratch, out);
        }
    }
}

/// Whether its text is JSON itself. Decimal numbers are not: readers make floating ones of them.
fn is_bare(cell: &Cell<'_>) -> bool {
    match cell {
        Cell::Bool(_) | Cell::Int16(_) | Cell::Int32(_) | Cell::Int64(_) => true,
        Cell::Float32(bits) => f32::from_bits(*bits).is_finite(),
        Cell::Float64(bits) => f64::from_bits(*bits).is_finite(),
        _ => false,
    }
}

/// Writes text in quotes.
pub(in super::super) fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut begin = 0;
    for (at, byte) in text.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[begin..at]);
        begin = at + 1;
        match byte {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            _ => {
                let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
                out.extend_from_slice(br"\u00");
                out.extend([digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&text[begin..]);
    out.push(b'"');
}

/// Reads such JSON, and nothing else that is JSON.
#[derive(Debug)]
pub(super) struct Parser<'a> {
    rest: &'a [u8],
    scratch: &'a mut Vec<u8>,
}

impl<'a> Parser<'a> {
    /// What `scratch` holds is lost.
    pub(super) fn new(text: &'a [u8], scratch: &'a mut Vec<u8>) -> Self {
        Self { rest: text, scratch }
    }

    fn take(&mut self, expected: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }

    /// What stands before a comma or the end of what holds the value.
    fn bare(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']'));
        let (bare, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        bare
    }

    /// The text between quotes, in `scratch`.
    fn text(&mut self) -> Option<()> {
        self.take(b"\"")?;
        self.scratch.clear();
        loop {
            let end = self.rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            self.scratch.extend_from_slice(&self.rest[..end]);
            self.rest = &self.rest[end..];
            if self.take(b"\"").is_some() {
                return Some(());
            }
            let (escape, rest) = self.rest.split_first_chunk::<2>()?;
            self.rest = rest;
            let byte = match escape[1] {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                byte @ (b'"' | b'\\') => byte,
                b'u' => {
                    self.take(b"00")?;
                    let (digits, rest) = self.rest.split_first_chunk::<2>()?;
                    self.rest = rest;
                    u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?
                }
                _ => return None,
            };
            self.scratch.push(byte);
        }
    }

    /// Writes the bytes of a value; whether there is one that is not NULL.
    pub(super) fn value(&mut self, kind: &Kind, out: &mut Vec<u8>) -> Option<bool> {
        if self.take(b"null").is_some() {
            return Some(false);
        }
        match kind {
            Kind::List { element, element_type } => self.list(element, *element_type, out)?,
            Kind::Dynamic { declared: Class::Any } => self.dynamic(out)?,
            _ if self.rest.starts_with(b"\"") => {
                self.text()?;
                scalar::read(kind, self.scratch, out)?;
            }
            _ => scalar::read(kind, self.bare(), out)?,
        }
        Some(true)
    }

    fn list(&mut self, element: &Kind, element_type: u32, out: &mut Vec<u8>) -> Option<()> {
        self.take(b"[")?;
        let mut list = ListWriter::begin(element_type, out);
        if self.take(b"]").is_some() {
            return list.end();
        }
        loop {
            if self.rest.starts_with(b"null") {
                self.take(b"null")?;
                list.null();
            } else {
                list.value(|out| self.value(element, out)?.then_some(()))?;
            }
            if self.take(b",").is_none() {
                self.take(b"]")?;
                return list.end();
            }
        }
    }

    fn dynamic(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.take(b"{")?;
        self.text()?;
        let class = match self.scratch.as_slice() {
            name if name == INTEGER.as_bytes() => Class::Integer,
            name if name == REAL.as_bytes() => Class::Real,
            name if name == TEXT.as_bytes() => Class::Text,
            name if name == BLOB.as_bytes() => Class::Blob,
            name if name == RAW_TEXT.as_bytes() => {
                self.take(b":")?;
                self.text()?;
                out.push(Class::Text as u8);
                scalar::read_hex(self.scratch, out)?;
                return self.take(b"}");
            }
            _ => return None,
        };
        self.take(b":")?;
        self.value(&Kind::Dynamic { declared: class }, out)?.then_some(())?;
        self.take(b"}")
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }
}

/// What stands between the values of lines: names, brackets, commas.
#[derive(Debug)]
pub(in super::super) struct Names(Vec<Vec<u8>>);

impl Names {
    pub(in super::super) fn new(columns: &[Column]) -> Self {
        let name = |(at, column): (usize, &Column)| {
            let mut text = vec![if at == 0 { b'{' } else { b',' }];
            write_text(column.name.as_bytes(), &mut text);
            text.push(b':');
            text
        };
        Self(columns.iter().enumerate().map(name).collect())
    }

    /// What stands before the value of a column.
    pub(in super::super) fn before(&self, column: usize) -> &[u8] {
        self.0.get(column).map_or(&[], Vec::as_slice)
    }
}

/// Reads a line; `None` when it is not one as they are written here.
pub(super) fn read_line(
    line: &[u8],
    (names, columns): (&Names, &[Column]),
    (scratch, value): (&mut Vec<u8>, &mut Vec<u8>),
    row: &mut RowWriter,
) -> Option<()> {
    let mut parser = Parser::new(line, scratch);
    row.begin(columns.len());
    for (at, column) in columns.iter().enumerate() {
        parser.take(names.before(at))?;
        value.clear();
        if parser.value(&column.kind, value)? {
            (value.len() <= ROW_BYTES_MAX).then_some(())?;
            row.value(&[value]);
        } else {
            row.null();
        }
    }
    parser.take(b"}")?;
    parser.is_done().then_some(())?;
    row.end().ok()
}

/// Whether values of that kind are JSON even where others are plain text.
pub(super) const fn is_composite(kind: &Kind) -> bool {
    matches!(kind, Kind::List { .. } | Kind::Dynamic { declared: Class::Any })
}

/// Writes the text of a value, JSON where it is composite.
pub(in super::super) fn write_plain(
    kind: &Kind,
    cell: &Cell<'_>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    if is_composite(kind) {
        write_value(kind, Some(cell), scratch, out);
    } else {
        scalar::write(kind, cell, out);
    }
}

/// Writes the bytes of a value from such a text.
pub(in super::super) fn read_plain(
    kind: &Kind,
    text: &[u8],
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Option<()> {
    if is_composite(kind) {
        let mut parser = Parser::new(text, scratch);
        (parser.value(kind, out)? && parser.is_done()).then_some(())
    } else {
        scalar::read(kind, text, out)
    }
}
