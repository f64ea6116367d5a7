//! The first 64 bytes of a pack.

use stillpoint_contract::Result;

use super::PackKind;
use crate::{
    pipeline::id::RepositoryId,
    repository::wire::{Fields, corrupt, newer},
};

/// The most bytes that any pack has. Offsets are 32 bits wide, and one request writes a pack.
pub const PACK_BYTES_MAX: usize = 64 << 20;

const MAGIC: [u8; 8] = *b"STLPPACK";
const VERSION: u16 = 1;

/// What stands at the beginning of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// What the pack holds.
    pub kind: PackKind,
    /// The key epoch of all its blobs; 0 when they are not encrypted.
    pub epoch: u32,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Random bytes that make its name unique.
    pub random: [u8; 16],
}

impl PackHeader {
    /// Length of a header in bytes; the first blob follows.
    pub const LENGTH_BYTES: usize = 64;

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; Self::LENGTH_BYTES] {
        let mut bytes = [0; Self::LENGTH_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.kind.byte();
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[32..48].copy_from_slice(&self.random);
        bytes
    }

    /// Reads a header from the first bytes of a pack.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when it is none;
    /// [`Unsupported`](stillpoint_contract::ErrorKind::Unsupported) when a newer version wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let step = "read the header of a pack";
        let mut fields = Fields::of(bytes);
        if fields.array() != Some(MAGIC) {
            return Err(corrupt(step, "it does not begin like a pack"));
        }
        match fields.u16() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Err(newer(step, version)),
            _ => return Err(corrupt(step, "its version does not exist")),
        }
        Self::decode_rest(fields).ok_or_else(|| corrupt(step, "a field has no meaning"))
    }

    fn decode_rest(mut fields: Fields<'_>) -> Option<Self> {
        let kind = PackKind::from_byte(fields.u8()?)?;
        fields.zeros::<1>()?;
        let epoch = fields.u32()?;
        let repository = RepositoryId::new(fields.array()?);
        let random = fields.array()?;
        // Length of a wrapped pack key behind the header, and room for more: none in version 1.
        fields.zeros::<16>()?;
        Some(Self { kind, epoch, repository, random })
    }
}
