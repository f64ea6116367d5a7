//! One line of a pack's table of contents.

use std::ops::Range;

use super::{SealedBlob, header::PACK_BYTES_MAX};
use crate::{
    pipeline::{
        compress::Encoding,
        id::ChunkId,
        seal::{BlobKind, Label, TAG_BYTES},
    },
    repository::wire::Fields,
};

/// Where one blob lies in its pack, and everything its header says that a reader plans with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// What the blob is.
    pub label: Label,
    /// Where its header begins, in bytes from the beginning of the pack.
    pub offset: u32,
    /// Length of its header and payload, in bytes.
    pub stored_bytes: u32,
}

impl PackEntry {
    /// Length of an entry in a trailer, in bytes.
    pub(super) const LENGTH_BYTES: usize = 80;

    /// The stretch of the pack to read.
    pub fn range(&self) -> Range<u64> {
        let begin = u64::from(self.offset);
        begin..begin + u64::from(self.stored_bytes)
    }

    /// Whether these lengths can belong to a blob: no encoding is longer than its plaintext.
    pub(in crate::repository) fn is_sound(&self) -> bool {
        self.label.is_sound()
            && is_plausible_length(&self.label, self.stored_bytes as usize)
            && self.range().end <= PACK_BYTES_MAX as u64
    }

    pub(super) fn encode(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(self.label.id.as_bytes());
        output.extend_from_slice(self.label.base.unwrap_or(ChunkId::ZERO).as_bytes());
        output.extend_from_slice(&self.offset.to_le_bytes());
        output.extend_from_slice(&self.stored_bytes.to_le_bytes());
        output.extend_from_slice(&self.label.plain_bytes.to_le_bytes());
        output.extend_from_slice(&[self.label.encoding.byte(), self.label.kind.byte(), 0, 0]);
    }

    /// Reads an entry; `None` when it makes no sense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        let id = ChunkId::new(fields.array()?);
        let base = Some(ChunkId::new(fields.array()?)).filter(|base| !base.is_zero());
        let (offset, stored_bytes, plain_bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let encoding = Encoding::from_byte(fields.u8()?)?;
        let kind = BlobKind::from_byte(fields.u8()?)?;
        fields.zeros::<2>()?;
        let label = Label { kind, encoding, id, base, plain_bytes };
        Some(Self { label, offset, stored_bytes }).filter(Self::is_sound)
    }
}

/// Whether a blob with this label can occupy so many bytes, header included.
pub(super) fn is_plausible_length(label: &Label, stored_bytes: usize) -> bool {
    let longest = SealedBlob::HEADER_BYTES + label.plain_bytes as usize + TAG_BYTES;
    (SealedBlob::HEADER_BYTES..=longest).contains(&stored_bytes)
}
