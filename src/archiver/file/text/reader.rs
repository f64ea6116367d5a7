//! Reads rows from compressed text.

use std::{
    io::{Cursor, Read},
    ops::Range,
};

use bytes::Bytes;
use stillpoint_contract::{Column, Error, Result, RowWriter};

use super::{
    super::{
        layout::Format,
        seal::{Seal, corrupt},
    },
    csv,
    json::{self, Names},
    writer::{RECORD_BYTES_MAX, SEAL_FRAME},
};

/// How much is decompressed at once.
const STEP_BYTES: usize = 1 << 17;

/// The largest window that is believed, as a power of two: far more than is ever written.
const WINDOW_LOG_MAX: u32 = 27;

/// Reads rows from text.
pub(in super::super) struct Reader {
    text: zstd::Decoder<'static, Cursor<Bytes>>,
    names: Option<Names>,
    columns: Vec<Column>,
    seal: Seal,
    /// What was decompressed and not read yet begins with `begin`, and was looked at to `seen`.
    window: Vec<u8>,
    begin: usize,
    seen: usize,
    is_in_quotes: bool,
    field: Vec<u8>,
    scratch: Vec<u8>,
    value: Vec<u8>,
}

impl Reader {
    pub(in super::super) fn new(bytes: &Bytes, columns: &[Column], format: Format) -> Result<Self> {
        let (text, frame) = bytes
            .len()
            .checked_sub(SEAL_FRAME.len() + size_of::<[u8; 40]>())
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or_else(|| corrupt("it is too short"))?;
        let seal = frame.strip_prefix(&SEAL_FRAME).and_then(|seal| seal.try_into().ok());
        let seal = seal.ok_or_else(|| corrupt("its end is missing"))?;
        let text = Cursor::new(bytes.slice(..text.len()));
        let open = || -> std::io::Result<_> {
            let mut text = zstd::Decoder::with_buffer(text)?.single_frame();
            text.window_log_max(WINDOW_LOG_MAX)?;
            Ok(text)
        };
        let mut reader = Self {
            text: open().map_err(|error| broken().caused_by(error))?,
            names: (format == Format::Jsonl).then(|| Names::new(columns)),
            columns: columns.to_vec(),
            seal: Seal::of_bytes(seal),
            window: Vec::new(),
            begin: 0,
            seen: 0,
            is_in_quotes: false,
            field: Vec::new(),
            scratch: Vec::new(),
            value: Vec::new(),
        };
        if reader.names.is_none() {
            let mut header = Vec::new();
            csv::write_header(columns, &mut header);
            let first = reader.next_record()?.ok_or_else(|| corrupt("its columns are missing"))?;
            if reader.window[first] != header[..header.len() - csv::LINE_END.len()] {
                return Err(corrupt("its columns are other ones"));
            }
        }
        Ok(reader)
    }

    /// What the file says of its rows.
    pub(in super::super) const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Reads a row; `false` when there is none left.
    pub(in super::super) fn read(&mut self, row: &mut RowWriter) -> Result<bool> {
        let Some(record) = self.next_record()? else { return Ok(false) };
        let record = &self.window[record];
        let (scratch, value) = (&mut self.scratch, &mut self.value);
        let read = if let Some(names) = &self.names {
            json::read_line(record, (names, &self.columns), (scratch, value), row)
        } else {
            csv::read_record(record, &self.columns, (&mut self.field, scratch, value), row)
        };
        read.ok_or_else(|| corrupt("a row of it is not written as rows are"))?;
        Ok(true)
    }

    /// Where the next record is, without the end of its line.
    fn next_record(&mut self) -> Result<Option<Range<usize>>> {
        loop {
            if let Some(end) = self.find_line_end() {
                let line_end = if self.names.is_some() { b"\n" } else { csv::LINE_END };
                let record = self.window[self.begin..end].strip_suffix(line_end);
                let record = record.ok_or_else(|| corrupt("a line of it ends in another way"))?;
                let record = self.begin..self.begin + record.len();
                self.begin = end;
                self.seen = end;
                return Ok(Some(record));
            }
            self.window.drain(..self.begin);
            self.begin = 0;
            self.seen = self.window.len();
            if self.seen > RECORD_BYTES_MAX {
                return Err(corrupt("a line of it is longer than any row"));
            }
            self.window.resize(self.seen + STEP_BYTES, 0);
            let read = self.text.read(&mut self.window[self.seen..]);
            let read = read.map_err(|error| broken().caused_by(error))?;
            self.window.truncate(self.seen + read);
            if read == 0 {
                return self.end();
            }
        }
    }

    /// Behind the end of a line, if there is one in the window.
    fn find_line_end(&mut self) -> Option<usize> {
        let unseen = &self.window[self.seen..];
        if self.names.is_some() {
            return Some(self.seen + unseen.iter().position(|byte| *byte == b'\n')? + 1);
        }
        for (at, byte) in unseen.iter().enumerate() {
            match byte {
                b'"' => self.is_in_quotes = !self.is_in_quotes,
                b'\n' if !self.is_in_quotes => return Some(self.seen + at + 1),
                _ => {}
            }
        }
        None
    }

    fn end(&self) -> Result<Option<Range<usize>>> {
        if !self.window.is_empty() {
            return Err(corrupt("it ends amid a row"));
        }
        let input = self.text.get_ref();
        if input.position() < input.get_ref().len() as u64 {
            return Err(corrupt("something stands behind its rows"));
        }
        Ok(None)
    }
}

fn broken() -> Error {
    corrupt("it cannot be decompressed")
}
