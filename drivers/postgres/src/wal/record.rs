//! One WAL record: its header, the blocks it changes, its own data.

use super::bytes::Cursor;

/// The length of a record's header.
pub const HEADER_BYTES: usize = 24;

/// The magic number of PostgreSQL 15, from which on images of pages have other flags.
const MAGIC_15: u16 = 0xD110;

/// Servers refuse to write longer ones.
pub(super) const RECORD_BYTES_MAX: usize = 1020 << 20;

/// No record may refer to more.
const BLOCKS_MAX: usize = 33;

/// A fork of the file of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFork {
    /// The tablespace.
    pub tablespace: u32,
    /// The database; 0 for what all databases share.
    pub database: u32,
    /// The number in the name of the file.
    pub file: u32,
    /// 0 the data, 1 free space, 2 visibility, 3 the initial state of an unlogged relation.
    pub fork: u8,
}

/// A block that a record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// Of what.
    pub relation: RelationFork,
    /// Which.
    pub block: u32,
    /// Whether the record holds all of it.
    pub has_image: bool,
}

/// A record whose checksum fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub start: u64,
    /// Where the next one may begin.
    pub end: u64,
    /// Its transaction, or 0.
    pub xid: u32,
    /// What kind of record it is, within its manager.
    pub info: u8,
    /// Which resource manager wrote it.
    pub manager: u8,
    /// Its checksum.
    pub checksum: u32,
    /// The blocks that it changes.
    pub blocks: Vec<BlockRef>,
    /// What is neither header, reference nor page.
    pub data: Vec<u8>,
}

/// The header of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) total_bytes: usize,
    pub(super) xid: u32,
    pub(super) previous: u64,
    pub(super) info: u8,
    pub(super) manager: u8,
    pub(super) checksum: u32,
}

impl Header {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let total_bytes = usize::try_from(cursor.u32()?).ok()?;
        let (xid, previous) = (cursor.u32()?, cursor.u64()?);
        let (info, manager, _padding) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
        let checksum = cursor.u32()?;
        let fits = (HEADER_BYTES..=RECORD_BYTES_MAX).contains(&total_bytes);
        fits.then_some(Self { total_bytes, xid, previous, info, manager, checksum })
    }
}

/// Whether the checksum of a whole record fits.
pub(super) fn is_sound(record: &[u8], checksum: u32) -> bool {
    let (Some(header), Some(rest)) = (record.get(..20), record.get(HEADER_BYTES..)) else {
        return false;
    };
    crc32c::crc32c_append(crc32c::crc32c(rest), header) == checksum
}

/// The blocks and the data of a whole record, as servers with pages of that magic number write
/// it; `None` when it is malformed.
pub(super) fn body(record: &[u8], magic: u16) -> Option<(Vec<BlockRef>, Vec<u8>)> {
    let mut cursor = Cursor(record.get(HEADER_BYTES..)?);
    let mut blocks = Vec::new();
    let mut last: Option<RelationFork> = None;
    let (mut payload_bytes, mut data_bytes) = (0_usize, 0_usize);
    while cursor.0.len() > payload_bytes {
        let id = cursor.u8()?;
        match id {
            0..=32 => {
                let (block, bytes) = block(&mut cursor, magic, last)?;
                last = Some(block.relation);
                payload_bytes = payload_bytes.checked_add(bytes)?;
                blocks.push(block);
                if blocks.len() > BLOCKS_MAX {
                    return None;
                }
            }
            // Where a replicated transaction came from, and whose part it is.
            253 => drop(cursor.u16()?),
            252 => drop(cursor.u32()?),
            254 | 255 => {
                data_bytes = match id {
                    254 => usize::try_from(cursor.u32()?).ok()?,
                    _ => usize::from(cursor.u8()?),
                };
                payload_bytes = payload_bytes.checked_add(data_bytes)?;
                break;
            }
            _ => return None,
        }
    }
    if cursor.0.len() != payload_bytes {
        return None;
    }
    let data = cursor.0.get(payload_bytes - data_bytes..)?;
    Some((blocks, data.to_vec()))
}

/// A reference to a block, and how many bytes belong to it further on.
fn block(
    cursor: &mut Cursor<'_>,
    magic: u16,
    last: Option<RelationFork>,
) -> Option<(BlockRef, usize)> {
    let flags = cursor.u8()?;
    let mut bytes = usize::from(cursor.u16()?);
    let has_image = flags & 0x10 != 0;
    if has_image {
        let image_bytes = cursor.u16()?;
        let _hole_at = cursor.u16()?;
        let image = cursor.u8()?;
        let compression = if magic >= MAGIC_15 { 0x1C } else { 0x02 };
        if image & 0x01 != 0 && image & compression != 0 {
            let _hole_bytes = cursor.u16()?;
        }
        bytes = bytes.checked_add(usize::from(image_bytes))?;
    }
    let fork = flags & 0x0F;
    let relation = if flags & 0x80 == 0 {
        let (tablespace, database, file) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        RelationFork { tablespace, database, file, fork }
    } else {
        RelationFork { fork, ..last? }
    };
    let block = cursor.u32()?;
    Some((BlockRef { relation, block, has_image }, bytes))
}
