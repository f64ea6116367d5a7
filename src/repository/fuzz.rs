//! One entry per decoder of stored bytes, for fuzzers: none may panic or use memory out of
//! proportion, and what is decoded must agree with itself.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    envelope::{self, ObjectKind},
    index_run::{IndexRun, Located},
    keys::{KeySlot, Secret},
    pack::{PackHeader, SealedBlob, Trailer, read_trailer, scan},
};
use crate::pipeline::{
    compress::{Encoding, Scratch},
    id::{ChunkId, RepositoryId},
    keys::Domain,
};

/// The most that a decoder may produce from fuzzed bytes, in bytes.
const LIMIT_BYTES: usize = 1 << 20;

/// The table of contents of a pack, and its blobs.
pub fn fuzz_pack(bytes: &[u8]) {
    let _ = PackHeader::decode(bytes);
    if let Ok(Trailer::Whole(entries)) = read_trailer(bytes, bytes.len() as u64) {
        let end = entries.last().map_or(0, |entry| entry.range().end);
        assert!(end <= bytes.len() as u64, "an entry lies outside its pack");
    }
    let scan = scan(bytes);
    assert!(scan.entries.is_empty() || scan.end <= bytes.len(), "a blob lies outside its pack");
}

/// One blob, in an unencrypted repository, with a base that begins with what follows it.
pub fn fuzz_blob(bytes: &[u8]) {
    let domain = Domain::plain(RepositoryId::new([0; 16]));
    let mut scratch = Scratch::new();
    let base = bytes.iter().rev().copied().cycle().take(4096 * usize::from(!bytes.is_empty()));
    let base: Vec<u8> = base.collect();
    if let Ok(blob) = SealedBlob::decode(&Bytes::copy_from_slice(bytes)) {
        let label = *blob.label();
        let base = label.base.map(|_| base.as_slice());
        if let Ok(plain) = blob.open(&label.id, base, &domain, &mut scratch) {
            assert_eq!(domain.chunk_id(&plain), label.id, "a blob opened to other bytes");
        }
    }
    for encoding in [Encoding::Raw, Encoding::Zstd, Encoding::Delta] {
        let base = (encoding == Encoding::Delta).then_some(base.as_slice());
        if let Ok(plain) = scratch.decode(encoding, bytes, base, LIMIT_BYTES) {
            assert_eq!(plain.len(), LIMIT_BYTES, "a chunk decoded to another length");
        }
    }
}

/// An index run: opened, walked through, and searched.
pub fn fuzz_index_run(bytes: &[u8]) {
    let Ok(run) = IndexRun::open(Bytes::copy_from_slice(bytes)) else { return };
    let found: BTreeSet<ChunkId> =
        run.iter().map_while(Result::ok).map(|Located { entry, .. }| entry.label.id).collect();
    for id in found.into_iter().chain([ChunkId::ZERO]) {
        for located in run.find(&id).unwrap_or_default() {
            assert_eq!(located.entry.label.id, id, "another chunk was found");
        }
    }
}

/// A sealed object of an unencrypted repository.
pub fn fuzz_envelope(bytes: &[u8]) {
    let domain = Domain::plain(RepositoryId::new([0; 16]));
    let mut scratch = Scratch::new();
    let opened =
        envelope::open(&domain, ObjectKind::Manifest, "m", bytes, LIMIT_BYTES, &mut scratch);
    assert!(opened.is_ok_and(|plain| plain.len() <= LIMIT_BYTES) || !bytes.is_empty());
}

/// A key slot, a key file and a recovery key.
pub fn fuzz_key_slot(bytes: &[u8]) {
    if let Ok(slot) = KeySlot::decode(bytes) {
        let again = slot.encode().and_then(|bytes| KeySlot::decode(&bytes));
        assert_eq!(again.ok(), Some(slot), "a key slot changed when it was written");
    }
    let text = String::from_utf8_lossy(bytes);
    for secret in [Secret::from_key_file(&text), Secret::from_recovery(&text)].into_iter().flatten()
    {
        let again = match &secret {
            Secret::KeyFile(_) => Secret::from_key_file(&secret.text()),
            _ => Secret::from_recovery(&secret.text()),
        };
        assert_eq!(again.map(|secret| secret.text()).ok(), Some(secret.text()));
    }
}
