//! The bytes of an index run.

use std::ops::Range;

use stillpoint_contract::Result;

use crate::{
    pipeline::{
        compress::Encoding,
        id::{ChunkId, RepositoryId, hex_name},
        seal::{BlobKind, Label},
    },
    repository::{
        pack::{PACK_BYTES_MAX, PackEntry, PackHeader, PackKind, PackName},
        store::Key,
        wire::{Fields, corrupt, newer},
    },
};

/// The most entries of one run: 128 GiB of chunks of the default size, 29 MiB of table.
pub const ENTRIES_MAX: usize = 1 << 19;
/// The most packs that one run names.
pub const PACKS_MAX: usize = 1 << 16;

const MAGIC: [u8; 8] = *b"STLPINDX";
const VERSION: u16 = 1;
const NO_BASE: u32 = u32::MAX;

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const FAN_OUT_BYTES: usize = 256 * 4;
pub(super) const ENTRY_BYTES: usize = 56;
pub(super) const PACK_ROW_BYTES: usize = 40;
pub(super) const BASE_BYTES: usize = ChunkId::LENGTH_BYTES;

/// The name of an index run: the plain BLAKE3-256 hash of all its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunName([u8; 32]);

hex_name!(RunName, 32, "index run name");

impl RunName {
    /// The object that holds the run, such as `index/9f/9f86….idx`.
    pub fn key(&self) -> Key {
        let name = self.to_string();
        Key::new(format!("index/{}/{name}.idx", &name[..2])).expect("it is short and hexadecimal")
    }

    /// The run that an object holds, or `None` when it is named like no run.
    pub fn from_key(key: &Key) -> Option<Self> {
        let (fan_out, name) = key.as_str().strip_prefix("index/")?.split_once('/')?;
        let name = name.strip_suffix(".idx").filter(|name| name.starts_with(fan_out))?;
        if fan_out.len() == 2 { name.parse().ok() } else { None }
    }
}

/// Where a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The pack.
    pub pack: PackName,
    /// Length of the pack, in bytes.
    pub pack_bytes: u32,
    /// The chunk's place in it.
    pub entry: PackEntry,
}

/// The fixed part of a run, and with it the place of every table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) repository: RepositoryId,
    pub(super) random: [u8; 16],
    pub(super) entries: u32,
    pub(super) packs: u32,
    pub(super) bases: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.entries.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.packs.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.bases.to_le_bytes());
        bytes[24..40].copy_from_slice(self.repository.as_bytes());
        bytes[40..56].copy_from_slice(&self.random);
        bytes
    }

    /// Reads a header and checks that a file of `size_bytes` holds exactly what it announces.
    pub(super) fn decode(bytes: &[u8], size_bytes: u64) -> Result<Self> {
        let step = "read the header of an index run";
        let mut fields = Fields::of(bytes);
        if fields.array() != Some(MAGIC) {
            return Err(corrupt(step, "it does not begin like an index run"));
        }
        match fields.u16() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Err(newer(step, version)),
            _ => return Err(corrupt(step, "its version does not exist")),
        }
        Self::decode_rest(fields)
            .filter(|header| header.file_bytes() == size_bytes)
            .ok_or_else(|| corrupt(step, "its length does not fit its header"))
    }

    fn decode_rest(mut fields: Fields<'_>) -> Option<Self> {
        fields.zeros::<2>()?;
        let (entries, packs, bases) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (repository, random) = (RepositoryId::new(fields.array()?), fields.array()?);
        fields.zeros::<8>()?;
        let bounded = entries as usize <= ENTRIES_MAX
            && packs as usize <= PACKS_MAX
            && bases as usize <= ENTRIES_MAX;
        bounded.then_some(Self { repository, random, entries, packs, bases })
    }

    pub(super) fn entry_offset(number: u32) -> u64 {
        (HEADER_BYTES + FAN_OUT_BYTES) as u64 + u64::from(number) * ENTRY_BYTES as u64
    }

    pub(super) fn packs_offset(&self) -> u64 {
        Self::entry_offset(self.entries)
    }

    pub(super) fn base_offset(&self, number: u32) -> u64 {
        let packs_end = self.packs_offset() + u64::from(self.packs) * PACK_ROW_BYTES as u64;
        packs_end + u64::from(number) * BASE_BYTES as u64
    }

    fn file_bytes(&self) -> u64 {
        self.base_offset(self.bases)
    }
}

/// One pack that a run names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PackRow {
    pub(super) name: PackName,
    pub(super) pack_bytes: u32,
}

impl PackRow {
    pub(super) fn encode(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&self.name.hash);
        output.extend_from_slice(&self.pack_bytes.to_le_bytes());
        output.extend_from_slice(&[self.name.kind.byte(), 0, 0, 0]);
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        let (hash, pack_bytes) = (fields.array()?, fields.u32()?);
        let kind = PackKind::from_byte(fields.u8()?)?;
        fields.zeros::<3>()?;
        let sizes: Range<usize> = PackHeader::LENGTH_BYTES..PACK_BYTES_MAX + 1;
        let row = Self { name: PackName { hash, kind }, pack_bytes };
        sizes.contains(&(pack_bytes as usize)).then_some(row)
    }
}

/// One chunk of a run, with pack and base as numbers of their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) id: ChunkId,
    pub(super) pack_no: u32,
    pub(super) offset: u32,
    pub(super) stored_bytes: u32,
    pub(super) plain_bytes: u32,
    /// Encoding in the lowest byte, kind in the next.
    pub(super) flags: u32,
    pub(super) base_no: Option<u32>,
}

impl Row {
    pub(super) fn new(entry: &PackEntry, pack_no: u32, base_no: Option<u32>) -> Self {
        let PackEntry { label, offset, stored_bytes } = *entry;
        let flags = u32::from_le_bytes([label.encoding.byte(), label.kind.byte(), 0, 0]);
        let (id, plain_bytes) = (label.id, label.plain_bytes);
        Self { id, pack_no, offset, stored_bytes, plain_bytes, flags, base_no }
    }

    pub(super) fn encode(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(self.id.as_bytes());
        let base_no = self.base_no.unwrap_or(NO_BASE);
        for number in
            [self.pack_no, self.offset, self.stored_bytes, self.plain_bytes, self.flags, base_no]
        {
            output.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        Some(Self {
            id: ChunkId::new(fields.array()?),
            pack_no: fields.u32()?,
            offset: fields.u32()?,
            stored_bytes: fields.u32()?,
            plain_bytes: fields.u32()?,
            flags: fields.u32()?,
            base_no: Some(fields.u32()?).filter(|&number| number != NO_BASE),
        })
    }

    /// Puts pack and base in place of their numbers; `None` when the result makes no sense.
    pub(super) fn locate(&self, pack: &PackRow, base: Option<ChunkId>) -> Option<Located> {
        let [encoding, kind, 0, 0] = self.flags.to_le_bytes() else { return None };
        let label = Label {
            kind: BlobKind::from_byte(kind)?,
            encoding: Encoding::from_byte(encoding)?,
            id: self.id,
            base,
            plain_bytes: self.plain_bytes,
        };
        let entry = PackEntry { label, offset: self.offset, stored_bytes: self.stored_bytes };
        let inside = self.offset as usize >= PackHeader::LENGTH_BYTES
            && entry.range().end <= u64::from(pack.pack_bytes);
        let located = Located { pack: pack.name, pack_bytes: pack.pack_bytes, entry };
        (inside && entry.is_sound()).then_some(located)
    }
}
