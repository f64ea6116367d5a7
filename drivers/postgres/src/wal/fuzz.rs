//! One entry for fuzzers: none of these decoders may panic or use memory out of proportion, and
//! what is decoded must agree with itself.

use bytes::Bytes;

use super::{
    Changes, Reader, Record, meaning,
    reader::{FileHeader, header},
    record,
};
use crate::{index::Index, position::Ancestry};

/// A place that bytes without a header lie at, and magic numbers of both kinds of images.
const START: u64 = 5 << 24;
const SEGMENT_BYTES: u32 = 16 << 20;
const MAGICS: [u16; 2] = [0xD10D, 0xD118];

/// Decodes arbitrary bytes as WAL, as the body of a record, and as what a repository holds of it.
pub fn fuzz_wal(bytes: &[u8]) {
    let known = header(bytes);
    let (start, length) = known.map_or((START, SEGMENT_BYTES), |FileHeader { address, .. }| {
        (address, known.map_or(SEGMENT_BYTES, |known| known.segment_bytes))
    });
    let at_once = read(start, length, bytes, usize::MAX);
    assert_eq!(at_once, read(start, length, bytes, 61), "where WAL is cut changes what it says");
    for magic in MAGICS {
        if let Some((blocks, data)) = record::body(bytes, magic) {
            for manager in 0..5 {
                for info in (0..=u8::MAX).step_by(16) {
                    let (blocks, data) = (blocks.clone(), data.clone());
                    let (end, xid, checksum) = (8, 1, 0);
                    let record =
                        Record { start: 0, end, xid, info, manager, checksum, blocks, data };
                    for major in [13, 18] {
                        Changes::default().add(&record, &meaning(&record, major));
                    }
                }
            }
        }
    }
    if let Some(changes) = Changes::decode(bytes) {
        check(&changes);
    }
    if let Some(index) = Index::decode(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(Index::decode(&index.encode()), Some(index));
    }
    let _ = Ancestry::parse(bytes);
}

fn check(changes: &Changes) {
    let again = changes.encode(usize::MAX).map(|bytes| Changes::decode(&bytes));
    assert!(changes.is_partial() || again == Some(Some(changes.clone())), "changes were changed");
}

/// What is found in WAL that arrives in pieces, and whether all of it was WAL.
fn read(start: u64, length: u32, bytes: &[u8], piece: usize) -> (Vec<Record>, bool) {
    let mut reader = Reader::new(start, length, None);
    let (mut records, mut changes) = (Vec::new(), Changes::default());
    let is_wal = bytes.chunks(piece.min(bytes.len()).max(1)).all(|bytes| {
        let pushed = reader.push(bytes, |record| {
            changes.add(&record, &meaning(&record, 15));
            records.push(record);
        });
        pushed.is_ok()
    });
    check(&changes);
    (records, is_wal)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn no_bytes_of_the_corpus_make_a_decoder_panic_nor_do_their_neighbours() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let corpus = root.join("../../tests/fuzz/corpus/postgres_wal");
        let mut records = 0;
        for entry in fs::read_dir(corpus).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            fuzz_wal(&bytes);
            let known = header(&bytes).unwrap();
            records += read(known.address, known.segment_bytes, &bytes, 100).0.len();
            for at in (0..bytes.len()).step_by(97) {
                let mut near = bytes.clone();
                near[at] ^= 1 << (at % 8);
                fuzz_wal(near.get(..near.len() - at % 300).unwrap());
            }
        }
        assert!(records > 40, "the corpus holds {records} records only");
    }
}
