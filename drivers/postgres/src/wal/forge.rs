//! WAL made up for tests, laid out as a server does it.

use super::{PAGE_BYTES, record::RelationFork};

/// A WAL under construction.
#[derive(Debug)]
pub(crate) struct Forge {
    pub(crate) bytes: Vec<u8>,
    pub(crate) start: u64,
    segment_bytes: u64,
    magic: u16,
    previous: u64,
}

pub(crate) const SYSTEM: u64 = 7_388_120_011_467_391_044;

impl Forge {
    pub(crate) fn new(start: u64, segment_bytes: u32, magic: u16) -> Self {
        let segment_bytes = u64::from(segment_bytes);
        Self { bytes: Vec::new(), start, segment_bytes, magic, previous: start - 8 }
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn page(&mut self, rest: usize) {
        let at = self.end();
        let is_first = at.is_multiple_of(self.segment_bytes);
        let flags = u16::from(rest > 0) | if is_first { 2 } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend((rest as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((self.segment_bytes as u32).to_le_bytes());
            self.bytes.extend((PAGE_BYTES as u32).to_le_bytes());
        }
    }

    /// Appends a record with one reference to a block, which has `payload` behind it, and `data`.
    pub(crate) fn record(
        &mut self,
        (manager, info, xid): (u8, u8, u32),
        block: Option<(RelationFork, u32, &[u8])>,
        data: &[u8],
    ) -> (u64, u64) {
        let mut body = Vec::new();
        if let Some((relation, number, payload)) = block {
            body.extend([0, relation.fork | 0x20]);
            body.extend((payload.len() as u16).to_le_bytes());
            for word in [relation.tablespace, relation.database, relation.file, number] {
                body.extend(word.to_le_bytes());
            }
        }
        if data.len() > 255 {
            body.push(254);
            body.extend((data.len() as u32).to_le_bytes());
        } else if !data.is_empty() {
            body.extend([255, data.len() as u8]);
        }
        if let Some((.., payload)) = block {
            body.extend(payload);
        }
        body.extend(data);
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(sum.to_le_bytes());
        record.extend(body);
        if self.end().is_multiple_of(PAGE_BYTES) {
            self.page(0);
        }
        let start = self.end();
        self.previous = start;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.end().is_multiple_of(PAGE_BYTES) {
                self.page(rest.len());
            }
            let left = (PAGE_BYTES - self.end() % PAGE_BYTES) as usize;
            let (piece, after) = rest.split_at(left.min(rest.len()));
            self.bytes.extend(piece);
            rest = after;
        }
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        if (manager, info) == (0, 0x40) {
            while !self.end().is_multiple_of(self.segment_bytes) {
                self.bytes.push(0);
            }
        }
        (start, self.end())
    }

    /// Appends a commit.
    pub(crate) fn commit(&mut self, xid: u32, at_us: i64) -> (u64, u64) {
        self.record((1, 0, xid), None, &(at_us - 946_684_800_000_000).to_le_bytes())
    }
}
