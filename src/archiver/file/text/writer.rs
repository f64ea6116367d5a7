//! Writes rows as compressed text.

use std::io::{self, Write};

use stillpoint_contract::{Column, Error, ErrorKind, Kind, Result, code};

use super::{
    super::{cell::Cell, layout::Format, seal::Seal},
    csv,
    json::{self, Names},
};

/// A record that is longer is not read either: hexadecimal digits of a row of the largest size.
pub(super) const RECORD_BYTES_MAX: usize = (2 << 30) + (1 << 20);

/// How the text is compressed: higher levels gain little, and take several times as long.
const LEVEL: i32 = 1;

/// The frame behind the text: its magic number, the length of what is in it, and that. Source: RFC
/// 8878, 3.1.2, Skippable Frames.
pub(super) const SEAL_FRAME: [u8; 8] = [0x5a, 0x2a, 0x4d, 0x18, 40, 0, 0, 0];

/// How much the compressor keeps to itself, at most.
const HELD_BYTES: u64 = 1 << 17;

/// Writes rows as text.
pub(in super::super) struct Writer {
    out: zstd::Encoder<'static, Vec<u8>>,
    names: Option<Names>,
    record: Vec<u8>,
    text: Vec<u8>,
    scratch: Vec<u8>,
    bytes: u64,
}

impl Writer {
    pub(in super::super) fn new(columns: &[Column], format: Format) -> Result<Self> {
        let make = || -> io::Result<_> {
            let mut out = zstd::Encoder::new(Vec::new(), LEVEL)?;
            out.include_checksum(true)?;
            Ok(out)
        };
        let mut record = Vec::new();
        let names = if format == Format::Jsonl {
            Some(Names::new(columns))
        } else {
            csv::write_header(columns, &mut record);
            None
        };
        let (text, scratch) = (Vec::new(), Vec::new());
        let out = make().map_err(failed)?;
        let mut writer = Self { out, names, record, text, scratch, bytes: 0 };
        writer.flush()?;
        Ok(writer)
    }

    /// Adds the next value of a row, `None` for NULL.
    pub(in super::super) fn append(&mut self, at: usize, kind: &Kind, cell: Option<&Cell<'_>>) {
        if let Some(names) = &self.names {
            self.record.extend_from_slice(names.before(at));
            return json::write_value(kind, cell, &mut self.scratch, &mut self.record);
        }
        csv::write_separator(at, &mut self.record);
        let Some(cell) = cell else { return };
        if let Cell::Text(text) = cell
            && !json::is_composite(kind)
        {
            return csv::write_field(text.as_bytes(), &mut self.record);
        }
        self.text.clear();
        json::write_plain(kind, cell, &mut self.scratch, &mut self.text);
        csv::write_field(&self.text, &mut self.record);
    }

    /// Ends a row.
    pub(in super::super) fn end_row(&mut self) -> Result<()> {
        self.record.extend_from_slice(if self.names.is_some() { b"}\n" } else { csv::LINE_END });
        if self.record.len() > RECORD_BYTES_MAX {
            return Err(Error::new(ErrorKind::Unsupported, code::ROWS_REFUSED, "write a row")
                .with("limit", format!("{RECORD_BYTES_MAX} bytes of text"))
                .next("choose the format parquet"));
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_all(&self.record).map_err(failed)?;
        self.bytes += self.record.len() as u64;
        self.record.clear();
        Ok(())
    }

    /// About how long the file is, with what the compressor holds.
    pub(in super::super) fn len_bytes(&self) -> u64 {
        self.out.get_ref().len() as u64 + self.bytes.min(HELD_BYTES) / 4
    }

    pub(in super::super) fn finish(self, seal: &Seal) -> Result<Vec<u8>> {
        let mut bytes = self.out.finish().map_err(failed)?;
        bytes.extend_from_slice(&SEAL_FRAME);
        bytes.extend_from_slice(&seal.bytes());
        Ok(bytes)
    }
}

fn failed(error: io::Error) -> Error {
    Error::bug("compress rows").caused_by(error)
}
