//! Rows, reports and numbers as they are sent in text.

use bytes::{Buf as _, Bytes};

use crate::error::Report;

/// The most fields of a row.
const FIELDS_MAX: usize = 1664;

/// The most rows of an answer that is held in memory.
pub(crate) const ROWS_MAX: usize = 100_000;

/// One answer to a command: rows of fields, `None` for null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResultSet {
    pub(crate) rows: Vec<Vec<Option<Bytes>>>,
}

impl ResultSet {
    /// A field as text.
    pub(crate) fn text(&self, row: usize, column: usize) -> Option<&str> {
        let field = self.rows.get(row)?.get(column)?.as_ref()?;
        std::str::from_utf8(field).ok()
    }
}

/// Decodes a row; `None` if it is malformed.
pub(crate) fn row(mut body: Bytes) -> Option<Vec<Option<Bytes>>> {
    let count = usize::from(body.try_get_u16().ok()?);
    if count > FIELDS_MAX {
        return None;
    }
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else {
            fields.push(None);
            continue;
        };
        if length > body.len() {
            return None;
        }
        fields.push(Some(body.split_to(length)));
    }
    body.is_empty().then_some(fields)
}

/// Decodes an error or a notice; unknown fields are skipped.
pub(crate) fn report(body: &[u8]) -> Report {
    let mut report = Report::default();
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'C' => report.state = text,
            b'M' => report.message = text,
            b'D' => report.detail = Some(text),
            b'H' => report.hint = Some(text),
            _ => {}
        }
    }
    report
}

/// Takes a string that ends with a zero byte.
pub(crate) fn text(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let text = body.split_to(end);
    body.advance(1);
    String::from_utf8(text.to_vec()).ok()
}

/// Reads a log sequence number such as `0/16B3748`.
pub(crate) fn lsn_from(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |digits: &str| {
        let is_hex = (1..=8).contains(&digits.len())
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some(half(high)? << 32 | half(low)?)
}

/// Writes a log sequence number.
pub(crate) fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}
