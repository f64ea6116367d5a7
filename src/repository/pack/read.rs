//! Reading what a pack holds: from its table of contents, or blob by blob.

use stillpoint_contract::Result;

use super::{PackEntry, PackHeader, SealedBlob, blob::Header, header::PACK_BYTES_MAX};
use crate::repository::wire::corrupt;

/// Length of what follows the table: its length and the checksum of both, in bytes.
pub(super) const FOOTER_BYTES: usize = 8;

/// What the last bytes of a pack told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// The whole table of contents, in order of offset.
    Whole(Vec<PackEntry>),
    /// The table is longer than the bytes given: read so many from the end.
    Needs {
        /// The bytes to read.
        tail_bytes: usize,
    },
}

/// What a walk over the blobs found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The blobs, in order of offset.
    pub entries: Vec<PackEntry>,
    /// Where the walk ended: at the table of contents, unless something is damaged.
    pub end: usize,
}

/// Writes the table of contents behind the blobs.
pub(super) fn seal_table(entries: &[PackEntry], output: &mut Vec<u8>) {
    let begin = output.len();
    for entry in entries {
        entry.encode(output);
    }
    let table_bytes = (output.len() - begin) as u32;
    output.extend_from_slice(&table_bytes.to_le_bytes());
    let checksum = crc32fast::hash(&output[begin..]);
    output.extend_from_slice(&checksum.to_le_bytes());
}

/// Reads the table of contents from the last bytes of a pack that is `pack_bytes` long.
///
/// 64 KiB hold the table of 800 blobs. The blobs of a table fill the pack without a gap.
///
/// # Errors
///
/// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when the table is damaged; [`scan`] may
/// still find the blobs.
pub fn read_trailer(tail: &[u8], pack_bytes: u64) -> Result<Trailer> {
    let damaged = |problem| corrupt("read the table of contents of a pack", problem);
    let body_bytes = usize::try_from(pack_bytes)
        .ok()
        .filter(|&bytes| bytes <= PACK_BYTES_MAX && bytes >= tail.len())
        .and_then(|bytes| bytes.checked_sub(PackHeader::LENGTH_BYTES + FOOTER_BYTES))
        .ok_or_else(|| damaged("the file is too short or too long"))?;
    let (rest, &checksum) =
        tail.split_last_chunk::<4>().ok_or_else(|| damaged("its end is missing"))?;
    let (rest, &length) =
        rest.split_last_chunk::<4>().ok_or_else(|| damaged("its end is missing"))?;
    let table_bytes = u32::from_le_bytes(length) as usize;
    if table_bytes > body_bytes || !table_bytes.is_multiple_of(PackEntry::LENGTH_BYTES) {
        return Err(damaged("its length is wrong"));
    }
    let Some(begin) = rest.len().checked_sub(table_bytes) else {
        return Ok(Trailer::Needs { tail_bytes: table_bytes + FOOTER_BYTES });
    };
    if crc32fast::hash(&tail[begin..tail.len() - 4]) != u32::from_le_bytes(checksum) {
        return Err(damaged("its checksum is wrong"));
    }
    let entries = decode_table(&rest[begin..], PackHeader::LENGTH_BYTES + body_bytes - table_bytes)
        .ok_or_else(|| damaged("its entries do not fit the file"))?;
    Ok(Trailer::Whole(entries))
}

/// Reads entries that must cover the stretch between header and table exactly.
fn decode_table(table: &[u8], blobs_end: usize) -> Option<Vec<PackEntry>> {
    let mut next = PackHeader::LENGTH_BYTES as u64;
    let mut entries = Vec::with_capacity(table.len() / PackEntry::LENGTH_BYTES);
    for row in table.chunks_exact(PackEntry::LENGTH_BYTES) {
        let entry = PackEntry::decode(row).filter(|entry| entry.range().start == next)?;
        next = entry.range().end;
        entries.push(entry);
    }
    (next == blobs_end as u64).then_some(entries)
}

/// Walks over the blobs of a whole pack, without its table of contents and without a key.
///
/// Stops at the first bytes that are no blob.
pub fn scan(pack: &[u8]) -> Scan {
    let mut entries = Vec::new();
    let mut end = PackHeader::LENGTH_BYTES;
    while let Some(rest) = pack.get(end..).filter(|_| end <= PACK_BYTES_MAX)
        && let Some(header) = Header::decode(rest)
        && header.stored_bytes() <= rest.len()
    {
        let stored_bytes = header.stored_bytes();
        let entry = PackEntry {
            label: header.label,
            offset: end as u32,
            stored_bytes: stored_bytes as u32,
        };
        entries.push(entry);
        end += stored_bytes;
    }
    Scan { entries, end }
}

const _: () = assert!(SealedBlob::HEADER_BYTES + PackHeader::LENGTH_BYTES < PACK_BYTES_MAX);
