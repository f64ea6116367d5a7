//! One entry per decoder of stored bytes, for fuzzers: none may panic or use memory out of
//! proportion, and what is decoded must agree with itself.

use std::collections::BTreeSet;

use bytes::Bytes;

pub use super::fuzz_documents::{
    fuzz_descriptor, fuzz_log_entry, fuzz_log_segment, fuzz_manifest, fuzz_pack_list,
};
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
    let kind = ObjectKind::Manifest;
    if let Ok(plain) = envelope::open(&domain, kind, "m", bytes, LIMIT_BYTES, &mut scratch) {
        assert!(plain.len() <= LIMIT_BYTES, "an object is longer than its reader allows");
    }
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

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use chrono::DateTime;
    use proptest::prelude::{Strategy, any, proptest};

    use super::*;
    use crate::{
        pipeline::{
            compress::{Base, Effort},
            keys::RepositoryKey,
            seal::BlobKind,
            testing::Seeded,
        },
        repository::{
            fuzz_documents,
            index_run::IndexRunBuilder,
            keys::{NewSlot, PassphraseCost},
            pack::{FinishedPack, PackBuilder, PackKind},
        },
    };

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 10] = [
        ("pack", fuzz_pack),
        ("blob", fuzz_blob),
        ("index_run", fuzz_index_run),
        ("envelope", fuzz_envelope),
        ("key_slot", fuzz_key_slot),
        ("descriptor", fuzz_descriptor),
        ("log_entry", fuzz_log_entry),
        ("manifest", fuzz_manifest),
        ("pack_list", fuzz_pack_list),
        ("log_segment", fuzz_log_segment),
    ];

    fn domain() -> Domain {
        Domain::plain(RepositoryId::new([0; 16]))
    }

    fn pack() -> FinishedPack {
        let (domain, entropy) = (domain(), Seeded::new(1));
        let mut pack = PackBuilder::new(PackKind::Data, &domain, &entropy);
        let page: Vec<u8> = (0..1000_u32).flat_map(|n| (n / 9).to_le_bytes()).collect();
        let mut base = page.clone();
        base[9] = 1;
        let based = Some((domain.chunk_id(&base), Base { plain: &base, stored_bytes: 4000 }));
        for (content, base) in [(&page, None), (&vec![7; 20], None), (&page, based)] {
            let chunk = (BlobKind::Data, domain.chunk_id(content), content.as_slice());
            let (sealer, scratch) = (domain.sealer(&entropy), &mut Scratch::new());
            let blob = SealedBlob::make(chunk, base, Effort::default(), &sealer, scratch);
            pack.push(&blob.unwrap()).unwrap();
        }
        pack.finish()
    }

    fn index_run() -> Bytes {
        let mut run = IndexRunBuilder::new(domain().repository());
        run.add_pack(&pack()).unwrap();
        run.finish(&Seeded::new(1)).bytes
    }

    fn envelope() -> Bytes {
        let (kind, plain) = (ObjectKind::Manifest, br#"{"parts":[]}"#.repeat(9));
        envelope::seal(&domain(), kind, "m", &plain, &mut Scratch::new(), &Seeded::new(1)).unwrap()
    }

    fn slot(secret: &Secret) -> Bytes {
        let about = NewSlot {
            repository: domain().repository(),
            epoch: 1,
            label: "example",
            created_at: DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
            cost: PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 },
        };
        let master = RepositoryKey::generate(&Seeded::new(1));
        let slot = KeySlot::wrap(&master, secret, &about, &Seeded::new(2)).unwrap();
        slot.encode().unwrap()
    }

    /// What this version writes, as seeds for fuzzers.
    fn seeds() -> Vec<(&'static str, &'static str, Bytes)> {
        let pack = pack();
        let blob = |number: usize| {
            let range = pack.entries[number].range();
            pack.bytes.slice(range.start as usize..range.end as usize)
        };
        let recovery = Secret::new_recovery(&Seeded::new(3));
        let key_file = Secret::new_key_file(&Seeded::new(4));
        vec![
            ("pack", "three-blobs", pack.bytes.clone()),
            ("blob", "zstd", blob(0)),
            ("blob", "raw", blob(1)),
            ("blob", "delta", blob(2)),
            ("index_run", "three-entries", index_run()),
            ("envelope", "manifest", envelope()),
            ("key_slot", "passphrase", slot(&Secret::passphrase("example").unwrap())),
            ("key_slot", "key-file", slot(&key_file)),
            ("key_slot", "key-file-text", key_file.text().as_bytes().to_vec().into()),
            ("key_slot", "recovery-text", recovery.text().as_bytes().to_vec().into()),
        ]
    }

    fn corpus(target: &str) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "tests", "fuzz", "corpus", target].iter().collect()
    }

    fn inputs(target: &str) -> Vec<Vec<u8>> {
        let files = fs::read_dir(corpus(target)).unwrap();
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }

    /// Also pins the formats: what is checked in was written by the first version. With
    /// `STILLPOINT_BLESS=1` in the environment the files are written.
    #[test]
    fn the_corpus_holds_what_this_version_writes() {
        for (target, name, bytes) in seeds().into_iter().chain(fuzz_documents::seeds()) {
            let file = corpus(target).join(name);
            if std::env::var_os("STILLPOINT_BLESS").is_some() {
                fs::create_dir_all(corpus(target)).unwrap();
                fs::write(&file, &bytes).unwrap();
            }
            let stored = fs::read(&file).unwrap_or_default();
            assert!(stored == bytes, "{} differs: the format moved", file.display());
        }
    }

    #[test]
    fn every_decoder_survives_its_corpus() {
        for (target, fuzz) in TARGETS {
            let inputs = inputs(target);
            assert!(!inputs.is_empty(), "{target}");
            for input in &inputs {
                fuzz(input);
            }
        }
    }

    /// A few changes to a good input reach further than noise does.
    fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
        proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)
    }

    proptest! {
        #[test]
        fn every_decoder_survives_noise(bytes: Vec<u8>) {
            for (_, fuzz) in TARGETS {
                fuzz(&bytes);
            }
        }

        #[test]
        fn every_decoder_survives_damage(
            which: usize, changes in changes(), cut: usize, other: usize,
        ) {
            for (target, fuzz) in TARGETS {
                let inputs = inputs(target);
                let mut bytes = inputs[which % inputs.len()].clone();
                for (place, byte) in &changes {
                    let place = place % bytes.len();
                    bytes[place] = *byte;
                }
                fuzz(&bytes);
                let other = &inputs[other % inputs.len()];
                let cut = cut % bytes.len().min(other.len());
                fuzz(&[&bytes[..cut], &other[cut..]].concat());
                fuzz(&bytes[..cut]);
            }
        }
    }
}
