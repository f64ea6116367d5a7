//! Checking a whole pack as far as that is possible without a key, a few MiB at a time: its name,
//! its header, and that its table of contents is what its blobs say of themselves.

use std::ops::Range;

use stillpoint_contract::{Error, Result};

use super::{PackEntry, PackHeader, PackName, Trailer, blob::Header, read_trailer};
use crate::repository::wire::corrupt;

/// About so much is looked at together, in bytes; one blob is never cut.
const STRETCH_BYTES: u64 = 4 << 20;

/// A pack being checked, from its beginning to its end.
#[derive(Debug)]
pub struct Inspection {
    name: PackName,
    pack_bytes: u64,
    entries: Vec<PackEntry>,
    looked_at: usize,
    at: u64,
    hasher: blake3::Hasher,
    finding: Option<Error>,
}

impl Inspection {
    /// Begins with what the pack's table of contents says.
    pub fn new(name: PackName, pack_bytes: u64, table: Result<Vec<PackEntry>>) -> Self {
        let (entries, finding) = match table {
            Ok(entries) => (entries, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let hasher = blake3::Hasher::new();
        Self { name, pack_bytes, entries, looked_at: 0, at: 0, hasher, finding }
    }

    /// What to look at next; `None` at the end.
    pub fn next(&self) -> Option<Range<u64>> {
        let rest = &self.entries[self.looked_at..];
        let mut ends = rest.iter().map(|entry| entry.range().end);
        let far = |end: &u64| *end >= self.at + STRETCH_BYTES;
        let end = ends.clone().find(far).or_else(|| ends.next_back());
        let end = end.unwrap_or_else(|| self.pack_bytes.min(self.at + STRETCH_BYTES));
        (self.at < self.pack_bytes).then_some(self.at..end)
    }

    /// Looks at the bytes that [`next`](Self::next) named. Hashes them: work for a CPU thread.
    pub fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let start = self.at;
        if start == 0 {
            self.check_header(bytes);
        }
        self.at += bytes.len() as u64;
        while let Some(entry) = self.entries.get(self.looked_at)
            && entry.range().end <= self.at
        {
            let blob = bytes.get((entry.range().start - start) as usize..).and_then(Header::decode);
            let agrees = blob.is_some_and(|blob| {
                blob.label == entry.label && blob.stored_bytes() == entry.stored_bytes as usize
            });
            self.looked_at += 1;
            if !agrees {
                self.find("its table of contents disagrees with its blobs");
            }
        }
    }

    /// Says what was found.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when anything disagrees. The hash comes
    /// first: a damaged version number is damage, and not a newer program's work.
    pub fn end(self) -> Result<()> {
        if *self.hasher.finalize().as_bytes() != self.name.hash {
            let step = format!("check pack {}", self.name);
            return Err(corrupt(step, "its content does not have its name"));
        }
        self.finding.map_or(Ok(()), Err)
    }

    fn check_header(&mut self, bytes: &[u8]) {
        match PackHeader::decode(bytes) {
            Ok(header) if header.kind == self.name.kind => {}
            Ok(_) => self.find("it is of another kind than its name says"),
            Err(error) => drop(self.finding.get_or_insert(error)),
        }
    }

    fn find(&mut self, problem: &'static str) {
        let step = format!("check pack {}", self.name);
        self.finding.get_or_insert_with(|| corrupt(step, problem));
    }
}

/// Checks a pack that is in memory.
///
/// # Errors
///
/// As [`Inspection::end`].
pub fn inspect(name: &PackName, pack: &[u8]) -> Result<(PackHeader, Vec<PackEntry>)> {
    let table = match read_trailer(pack, pack.len() as u64) {
        Ok(Trailer::Whole(entries)) => Ok(entries),
        Ok(Trailer::Needs { .. }) => Err(corrupt("check a pack", "its table is too long")),
        Err(error) => Err(error),
    };
    let entries = table.as_ref().map(Clone::clone).unwrap_or_default();
    let mut inspection = Inspection::new(*name, pack.len() as u64, table);
    while let Some(stretch) = inspection.next() {
        inspection.take(&pack[stretch.start as usize..stretch.end as usize]);
    }
    inspection.end()?;
    Ok((PackHeader::decode(pack)?, entries))
}
