//! One entry per decoder of encrypted files and their keys, for fuzzers: none may panic or use
//! memory out of proportion, and what opens must be what was sealed.

use zeroize::Zeroizing;

use super::encryption::{Seal, decrypt, encrypt, unwrap};
use crate::pipeline::{
    file_key::{FileKey, FileKeyId},
    id::RepositoryId,
    keys::{Domain, RepositoryKey},
};

const NAME: &str = "archive/orders/orders/expire=open/RUN-000001-03030303.parquet";
const ID: FileKeyId = FileKeyId::new([3; 16]);

fn domain() -> Domain {
    let master = RepositoryKey::new(Zeroizing::new([7; 32]));
    Domain::encrypted(RepositoryId::new([1; 16]), Domain::EPOCH_FIRST, &master)
}

/// What gives the same bytes each time.
#[derive(Debug)]
struct Same;

impl stillpoint_contract::Entropy for Same {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(5);
    }
}

/// The key of a file, wrapped by a repository's secret.
pub fn fuzz_key(bytes: &[u8]) {
    drop(unwrap(&domain(), ID, NAME, bytes));
}

/// An encrypted file: what opens, is sealed into the very same bytes again.
pub fn fuzz_encrypted_file(bytes: &[u8]) {
    let key = FileKey::generate(&Same);
    let seal = Seal { key: &key, id: ID, name: NAME };
    let Ok(plain) = decrypt(&seal, bytes) else { return };
    let again = encrypt(&seal, RepositoryId::new([1; 16]), &plain);
    assert!(again.is_ok_and(|again| again == bytes), "it was sealed as something else");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use bytes::Bytes;
    use proptest::prelude::{Strategy, any, proptest};

    use super::{
        super::encryption::{KEY_OBJECT_BYTES, wrap},
        *,
    };

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 2] =
        [("archive_key", fuzz_key), ("archive_encrypted_file", fuzz_encrypted_file)];

    fn seal(key: &FileKey) -> Seal<'_> {
        Seal { key, id: ID, name: NAME }
    }

    /// What this version writes: a key, and a file.
    fn seeds() -> [(&'static str, Bytes); 2] {
        let key = FileKey::generate(&Same);
        let wrapped = wrap(&domain(), &seal(&key), [9; 16]).unwrap();
        let file = encrypt(&seal(&key), RepositoryId::new([1; 16]), &b"some rows".repeat(9));
        [("archive_key", wrapped), ("archive_encrypted_file", file.unwrap())]
    }

    fn corpus(target: &str) -> PathBuf {
        let root = env!("CARGO_MANIFEST_DIR");
        [root, "tests", "fuzz", "corpus", target, "first"].iter().collect()
    }

    /// The files that are checked in were written by the first version, and are read for ever.
    /// With `STILLPOINT_BLESS=1` in the environment they are written.
    #[test]
    fn keys_and_files_of_the_first_version_are_read() {
        let key = FileKey::generate(&Same);
        for (target, bytes) in seeds() {
            let file = corpus(target);
            if std::env::var_os("STILLPOINT_BLESS").is_some() {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, &bytes).unwrap();
            }
            let stored = fs::read(&file).unwrap_or_default();
            assert!(stored == bytes, "{} differs: the format moved", file.display());
        }
        let [(_, wrapped), (_, file)] = seeds();
        assert_eq!(wrapped.len(), KEY_OBJECT_BYTES);
        assert_eq!(unwrap(&domain(), ID, NAME, &wrapped).unwrap(), key);
        assert_eq!(decrypt(&seal(&key), &file).unwrap(), b"some rows".repeat(9));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = FileKey::generate(&Same);
        let [(_, wrapped), (_, file)] = seeds();
        for place in 0..wrapped.len() * 8 {
            let mut changed = wrapped.to_vec();
            changed[place / 8] ^= 1 << (place % 8);
            assert!(unwrap(&domain(), ID, NAME, &changed).is_err(), "bit {place} of the key");
        }
        for place in 0..file.len() * 8 {
            let mut changed = file.to_vec();
            changed[place / 8] ^= 1 << (place % 8);
            assert!(decrypt(&seal(&key), &changed).is_err(), "bit {place} of the file");
        }
        for length in 0..file.len() {
            assert!(decrypt(&seal(&key), &file[..length]).is_err(), "cut to {length}");
            let cut = unwrap(&domain(), ID, NAME, &wrapped[..length.min(wrapped.len() - 1)]);
            assert!(cut.is_err(), "cut to {length}");
        }
        assert!(decrypt(&seal(&key), &[&file[..], &[0]].concat()).is_err());
        assert!(unwrap(&domain(), ID, NAME, &[&wrapped[..], &[0]].concat()).is_err());
    }

    #[test]
    fn nothing_opens_under_another_name_or_with_another_key() {
        let (key, other) = (FileKey::generate(&Same), seeds());
        let other_name = Seal { name: "archive/orders/orders/expire=open/other", ..seal(&key) };
        assert!(decrypt(&other_name, &other[1].1).is_err());
        assert!(unwrap(&domain(), ID, other_name.name, &other[0].1).is_err());
        let other_id = FileKeyId::new([4; 16]);
        assert!(decrypt(&Seal { id: other_id, ..seal(&key) }, &other[1].1).is_err());
        assert!(unwrap(&domain(), other_id, NAME, &other[0].1).is_err());
        // One repository with another secret, and another one with the same.
        let master = RepositoryKey::new(Zeroizing::new([8; 32]));
        let secret = Domain::encrypted(RepositoryId::new([1; 16]), 1, &master);
        assert!(unwrap(&secret, ID, NAME, &other[0].1).is_err());
        let master = RepositoryKey::new(Zeroizing::new([7; 32]));
        let repository = Domain::encrypted(RepositoryId::new([2; 16]), 1, &master);
        assert!(unwrap(&repository, ID, NAME, &other[0].1).is_err());
    }

    #[test]
    fn pages_cannot_change_places() {
        let key = FileKey::generate(&Same);
        let plain: Vec<u8> = (0..(3_u32 << 20) - 5).map(|byte| (byte / 7) as u8).collect();
        let file = encrypt(&seal(&key), RepositoryId::new([1; 16]), &plain).unwrap();
        assert_eq!(decrypt(&seal(&key), &file).unwrap(), plain);
        let page = (1 << 20) + 16;
        let (first, second) = (&file[64..64 + page], &file[64 + page..64 + 2 * page]);
        let swapped = [&file[..64], second, first, &file[64 + 2 * page..]].concat();
        assert!(decrypt(&seal(&key), &swapped).is_err());
    }

    /// A few changes to a good input reach further than noise does.
    fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
        proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)
    }

    proptest! {
        #[test]
        fn decoders_survive_noise(bytes: Vec<u8>) {
            for (_, fuzz) in TARGETS {
                fuzz(&bytes);
            }
        }

        #[test]
        fn decoders_survive_damage(changes in changes(), cut: usize) {
            for (target, fuzz) in TARGETS {
                let mut bytes = fs::read(corpus(target)).unwrap();
                for (at, byte) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = *byte;
                }
                fuzz(&bytes);
                fuzz(&bytes[..cut % bytes.len()]);
            }
        }
    }
}
