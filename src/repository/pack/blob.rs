//! One sealed chunk as it lies in a pack.

use bytes::Bytes;
use stillpoint_contract::{Buffer, Result};

use super::entry::is_plausible_length;
use crate::{
    pipeline::{
        compress::{Base, Effort, Encoding, Scratch},
        id::ChunkId,
        keys::Domain,
        seal::{BlobKind, Label, Salt, Sealer},
    },
    repository::wire::{Fields, corrupt},
};

const MAGIC: [u8; 4] = *b"SPB1";

/// A blob: a header in clear and a sealed payload.
///
/// It does not depend on its pack: the same bytes may be copied into another one without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBlob {
    label: Label,
    salt: Salt,
    counter: u64,
    payload: Bytes,
}

impl SealedBlob {
    /// Length of a blob's header, in bytes.
    pub const HEADER_BYTES: usize = 104;

    /// Compresses and seals one chunk whose id is known and not [`ChunkId::ZERO`]. Work for a CPU
    /// thread.
    ///
    /// # Errors
    ///
    /// As [`Scratch::encode`] and [`Sealer::seal`].
    pub fn make(
        chunk: (BlobKind, ChunkId, &[u8]),
        base: Option<(ChunkId, Base<'_>)>,
        effort: Effort,
        sealer: &Sealer,
        scratch: &mut Scratch,
    ) -> Result<Self> {
        let (kind, id, plain) = chunk;
        let encoded = scratch.encode(plain, base.map(|(_, base)| base), effort)?;
        let base = base.map(|(id, _)| id).filter(|_| encoded.encoding == Encoding::Delta);
        let plain_bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        let label = Label { kind, encoding: encoded.encoding, id, base, plain_bytes };
        let sealed = sealer.seal(&label, encoded.bytes)?;
        let payload = sealed.payload.into();
        Ok(Self { label, salt: sealed.salt, counter: sealed.counter, payload })
    }

    /// Reads one whole blob: exactly the bytes that an entry's range names.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when they are no blob, or more or less
    /// than one.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        let header = Header::decode(bytes)
            .ok_or_else(|| corrupt("read a blob", "it does not begin like a blob"))?;
        if header.stored_bytes() != bytes.len() {
            return Err(corrupt("read a blob", "its length differs"));
        }
        let payload = bytes.slice(Self::HEADER_BYTES..);
        let Header { label, salt, counter, .. } = header;
        Ok(Self { label, salt, counter, payload })
    }

    /// Deciphers, decompresses and checks the blob, and returns the plaintext of `id`.
    ///
    /// `base` is the plaintext of the base that [`label`](Self::label) names. Work for a CPU
    /// thread.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](stillpoint_contract::ErrorKind::Corrupt) when it is another chunk, or was
    /// changed in any way.
    pub fn open(
        &self,
        id: &ChunkId,
        base: Option<&[u8]>,
        domain: &Domain,
        scratch: &mut Scratch,
    ) -> Result<Buffer> {
        if self.label.id != *id {
            return Err(corrupt(format!("read chunk {id}"), "another chunk is in its place"));
        }
        domain.open_blob(&self.label, (&self.salt, self.counter), &self.payload, base, scratch)
    }

    /// What the blob is.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Length of header and payload, in bytes.
    pub fn stored_bytes(&self) -> usize {
        Self::HEADER_BYTES + self.payload.len()
    }

    pub(super) fn write_to(&self, output: &mut Vec<u8>) {
        let label = &self.label;
        output.extend_from_slice(&MAGIC);
        output.extend_from_slice(&[label.encoding.byte(), label.kind.byte(), 0, 0]);
        output.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        output.extend_from_slice(&label.plain_bytes.to_le_bytes());
        output.extend_from_slice(label.id.as_bytes());
        output.extend_from_slice(label.base.unwrap_or(ChunkId::ZERO).as_bytes());
        output.extend_from_slice(&self.salt);
        output.extend_from_slice(&self.counter.to_le_bytes());
        output.extend_from_slice(&self.payload);
    }
}

/// The fixed part of a blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) label: Label,
    payload_bytes: u32,
    salt: Salt,
    counter: u64,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` when there is none that makes sense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        (fields.array()? == MAGIC).then_some(())?;
        let encoding = Encoding::from_byte(fields.u8()?)?;
        let kind = BlobKind::from_byte(fields.u8()?)?;
        fields.zeros::<2>()?;
        let (payload_bytes, plain_bytes) = (fields.u32()?, fields.u32()?);
        let id = ChunkId::new(fields.array()?);
        let base = Some(ChunkId::new(fields.array()?)).filter(|base| !base.is_zero());
        let (salt, counter) = (fields.array()?, fields.u64()?);
        let label = Label { kind, encoding, id, base, plain_bytes };
        let header = Self { label, payload_bytes, salt, counter };
        let sound = label.is_sound() && is_plausible_length(&label, header.stored_bytes());
        sound.then_some(header)
    }

    /// Length of the whole blob, in bytes.
    pub(super) fn stored_bytes(&self) -> usize {
        SealedBlob::HEADER_BYTES + self.payload_bytes as usize
    }
}
