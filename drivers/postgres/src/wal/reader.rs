//! From bytes, cut anywhere, to records.

use std::fmt;

use super::{
    bytes::Cursor,
    record::{self, HEADER_BYTES, Header, Record},
};

/// The length of a WAL page. A server may be built with another one; such servers are refused.
pub const PAGE_BYTES: u64 = 8192;

/// Flags of a page: it begins with the rest of a record, …
const CONTINUES: u16 = 1;
/// … it begins a segment, …
const LONG: u16 = 2;
/// … the record that ran into it was given up.
const OVERWRITES: u16 = 8;
/// All that a page may bear.
const KNOWN_FLAGS: u16 = 0x0F;

const SHORT_HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;

/// The magic numbers of PostgreSQL 13 to 18.
const MAGICS: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];

/// The record that ends a segment early.
const MANAGER_XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;

/// Bytes that are no WAL, or not the WAL that should follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadWal {
    /// Where.
    pub at: u64,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for BadWal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:X}/{:X}", self.what, self.at >> 32, self.at & 0xFFFF_FFFF)
    }
}

impl std::error::Error for BadWal {}

/// What the first page of a WAL file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The major version of the server.
    pub major: u32,
    /// The timeline on which the page was written.
    pub timeline: u32,
    /// The position of the file.
    pub address: u64,
    /// The identifier of the cluster.
    pub system: u64,
    /// The length of the file.
    pub segment_bytes: u32,
}

/// Reads the first page of a WAL file; `None` when it is none.
pub fn header(bytes: &[u8]) -> Option<FileHeader> {
    let mut cursor = Cursor(bytes);
    let (magic, flags, timeline) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
    let (address, _rest, _padding) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
    let (system, segment_bytes, page_bytes) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
    let newer = MAGICS.iter().position(|known| *known == magic)?;
    let major = u32::try_from(newer).ok()?.checked_add(13)?;
    let is_one = flags & LONG != 0
        && u64::from(page_bytes) == PAGE_BYTES
        && segment_bytes.is_power_of_two()
        && (1 << 20..=1 << 30).contains(&segment_bytes);
    is_one.then_some(FileHeader { major, timeline, address, system, segment_bytes })
}

/// Reads WAL that begins at the start of a page and arrives in pieces.
///
/// A record that began before the first page is passed over. After an error it reads no more.
#[derive(Clone, Debug)]
pub struct Reader {
    segment_bytes: u64,
    /// The identifier that every segment must bear, if it is known.
    system: Option<u64>,
    /// Where the next byte lies.
    next: u64,
    header: Vec<u8>,
    magic: Option<u16>,
    /// The record that is being gathered and where it began.
    record: Vec<u8>,
    record_start: u64,
    /// How much of a record that began earlier is still to pass over.
    passing: u64,
    /// Where it ended.
    passed: u64,
    /// Whether nothing was read yet.
    is_fresh: bool,
    /// Where the rest of a segment that ended early is over.
    resumes_at: u64,
    /// Where the last record began; `None` where it cannot be known.
    previous: Option<u64>,
    failed: Option<BadWal>,
}

impl Reader {
    /// A reader of WAL that begins at `start`, rounded down to a page.
    pub fn new(start: u64, segment_bytes: u32, system: Option<u64>) -> Self {
        let far = BadWal { at: start, what: "a position beyond all WAL" };
        Self {
            segment_bytes: u64::from(segment_bytes.clamp(1 << 20, 1 << 30)),
            system,
            next: start - start % PAGE_BYTES,
            header: Vec::with_capacity(LONG_HEADER_BYTES),
            magic: None,
            record: Vec::new(),
            record_start: 0,
            passing: 0,
            passed: 0,
            is_fresh: true,
            resumes_at: 0,
            previous: None,
            // Below this, no sum of a position and a length overflows.
            failed: (start > u64::MAX / 2).then_some(far),
        }
    }

    /// Where the next byte lies.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Where the record ends that began before what was read, if that is known by now.
    pub fn passed_until(&self) -> u64 {
        if self.passing > 0 { u64::MAX } else { self.passed }
    }

    /// Reads what follows, and calls `found` for every record that ends in it.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Record)) -> Result<(), BadWal> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let outcome = self.read(bytes, &mut found);
        self.failed = outcome.clone().err();
        outcome
    }

    fn read(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Record)) -> Result<(), BadWal> {
        while !bytes.is_empty() {
            let in_page = self.next % PAGE_BYTES;
            let used = if self.next < self.resumes_at {
                self.resumes_at - self.next
            } else if in_page < self.header_bytes() as u64 {
                let wanted = self.header_bytes() - self.header.len();
                let piece = bytes.get(..wanted).unwrap_or(bytes);
                self.header.extend_from_slice(piece);
                if self.header.len() == self.header_bytes() {
                    self.begin_page()?;
                    self.header.clear();
                }
                piece.len() as u64
            } else {
                let left = usize::try_from(PAGE_BYTES - in_page).unwrap_or(usize::MAX);
                let piece = bytes.get(..left).unwrap_or(bytes);
                self.payload(piece, found)?
            };
            let used = usize::try_from(used).unwrap_or(usize::MAX).min(bytes.len());
            self.next += used as u64;
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn header_bytes(&self) -> usize {
        let page = self.next - self.next % PAGE_BYTES;
        if page.is_multiple_of(self.segment_bytes) { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
    }

    /// Checks a whole page header.
    fn begin_page(&mut self) -> Result<(), BadWal> {
        let page = self.next - self.next % PAGE_BYTES;
        let bad = |what| BadWal { at: page, what };
        let mut cursor = Cursor(&self.header);
        let mut parsed = || {
            let (magic, flags, _timeline) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
            let (address, rest, _padding) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
            let long = match flags & LONG {
                0 => None,
                _ => Some((cursor.u64()?, cursor.u32()?, cursor.u32()?)),
            };
            Some((magic, flags, address, rest, long))
        };
        let (magic, flags, address, rest, long) = parsed().ok_or_else(|| bad("half a header"))?;
        if !MAGICS.contains(&magic) || self.magic.is_some_and(|known| known != magic) {
            return Err(bad("no WAL page of this version"));
        }
        let is_first = page.is_multiple_of(self.segment_bytes);
        if address != page || flags & !KNOWN_FLAGS != 0 || long.is_some() != is_first {
            return Err(bad("a page from elsewhere"));
        }
        if let Some((system, segment_bytes, page_bytes)) = long {
            if self.system.is_some_and(|known| known != system) {
                return Err(bad("WAL of another cluster"));
            }
            let lengths = (u64::from(segment_bytes), u64::from(page_bytes));
            if lengths != (self.segment_bytes, PAGE_BYTES) {
                return Err(bad("segments or pages of another length"));
            }
        }
        self.magic = Some(magic);
        self.join(flags, u64::from(rest)).map_err(bad)
    }

    /// Relates a page to the record that ran into it.
    fn join(&mut self, flags: u16, rest: u64) -> Result<(), &'static str> {
        let is_fresh = std::mem::replace(&mut self.is_fresh, false);
        let continues = flags & CONTINUES != 0;
        if flags & OVERWRITES != 0 {
            // The server crashed while it wrote the record, and gave it up.
            self.record.clear();
            self.passing = 0;
            self.previous = None;
        }
        let pending = match Cursor(&self.record).u32() {
            Some(total) => u64::from(total).saturating_sub(self.record.len() as u64),
            None => self.passing,
        };
        match (continues, pending) {
            (true, 0) if is_fresh => self.passing = rest,
            (true, pending) if pending == rest && rest > 0 => {}
            (false, 0) if self.record.is_empty() => {}
            _ => return Err("a record that does not go on"),
        }
        Ok(())
    }

    /// Reads from within a page; returns how much was used.
    fn payload(&mut self, bytes: &[u8], found: &mut impl FnMut(Record)) -> Result<u64, BadWal> {
        let available = bytes.len() as u64;
        if self.passing > 0 {
            let used = self.passing.min(available);
            self.passing -= used;
            self.passed = self.next + used;
            return Ok(used);
        }
        if self.record.is_empty() {
            if !self.next.is_multiple_of(8) {
                return Ok((8 - self.next % 8).min(available));
            }
            self.record_start = self.next;
        }
        let before = self.record.len();
        if before < HEADER_BYTES {
            let piece = bytes.get(..HEADER_BYTES - before).unwrap_or(bytes);
            self.record.extend_from_slice(piece);
            if self.record.len() == HEADER_BYTES {
                self.check_header()?;
            }
            let used = piece.len() as u64;
            return self.finish_if_whole(used, found).map(|()| used);
        }
        let total = Header::read(&self.record).map_or(0, |header| header.total_bytes);
        let piece = bytes.get(..total.saturating_sub(before)).unwrap_or(bytes);
        self.record.extend_from_slice(piece);
        let used = piece.len() as u64;
        self.finish_if_whole(used, found).map(|()| used)
    }

    fn check_header(&self) -> Result<(), BadWal> {
        let bad = |what| BadWal { at: self.record_start, what };
        let header = Header::read(&self.record).ok_or_else(|| bad("no record"))?;
        if self.previous.is_some_and(|previous| previous != header.previous)
            || header.previous >= self.record_start
        {
            return Err(bad("a record that does not follow the one before"));
        }
        Ok(())
    }

    /// Hands over the record if it ends `used` bytes further on.
    fn finish_if_whole(&mut self, used: u64, found: &mut impl FnMut(Record)) -> Result<(), BadWal> {
        let Some(header) = Header::read(&self.record) else { return Ok(()) };
        if self.record.len() < header.total_bytes {
            return Ok(());
        }
        let bad = |what| BadWal { at: self.record_start, what };
        if !record::is_sound(&self.record, header.checksum) {
            return Err(bad("a record whose checksum does not fit"));
        }
        let body = record::body(&self.record, self.magic.unwrap_or_default());
        let (blocks, data) = body.ok_or_else(|| bad("a malformed record"))?;
        let mut end = (self.next + used).next_multiple_of(8);
        if header.manager == MANAGER_XLOG && header.info & 0xF0 == XLOG_SWITCH {
            end = end.next_multiple_of(self.segment_bytes);
            self.resumes_at = end;
        }
        self.previous = Some(self.record_start);
        self.record.clear();
        self.record.shrink_to(1 << 20);
        found(Record {
            start: self.record_start,
            end,
            xid: header.xid,
            info: header.info,
            manager: header.manager,
            checksum: header.checksum,
            blocks,
            data,
        });
        Ok(())
    }
}
