//! Index runs against a plain map, and damaged at every byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use proptest::prelude::{prop_assert_eq, proptest};
use stillpoint_contract::{ErrorKind, Result};

use super::{
    ENTRIES_MAX, FinishedRun, IndexRun, IndexRunBuilder, Located, Merge, ReadAt, RunName,
    SpooledFile,
};
use crate::{
    pipeline::{
        compress::Encoding,
        id::{ChunkId, RepositoryId},
        seal::{BlobKind, Label},
        testing::Seeded,
    },
    repository::{
        pack::{PackEntry, PackKind, PackName},
        store::Key,
    },
};

const REPOSITORY: RepositoryId = RepositoryId::new([1; 16]);

fn id(number: u32) -> ChunkId {
    ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn located(number: u32, pack: u32) -> Located {
    let base = number.is_multiple_of(3).then(|| id(number + 1_000_000));
    let label = Label {
        kind: if number.is_multiple_of(2) { BlobKind::Data } else { BlobKind::Leaf },
        encoding: if base.is_some() { Encoding::Delta } else { Encoding::Zstd },
        id: id(number),
        base,
        plain_bytes: 262_144,
    };
    let entry = PackEntry { label, offset: 64 + number % 1000, stored_bytes: 200 + number % 7 };
    let name = PackName::of(PackKind::Data, &pack.to_le_bytes());
    Located { pack: name, pack_bytes: 1_000_000 + pack, entry }
}

fn run(entries: impl IntoIterator<Item = Located>, seed: u64) -> FinishedRun {
    let mut builder = IndexRunBuilder::new(REPOSITORY);
    for entry in entries {
        builder.add(&entry).unwrap();
    }
    builder.finish(&Seeded::new(seed))
}

fn everything<R: ReadAt>(run: &IndexRun<R>) -> Vec<Located> {
    run.iter().collect::<Result<_>>().unwrap()
}

fn as_map(entries: impl IntoIterator<Item = Located>) -> BTreeMap<ChunkId, Vec<Located>> {
    let mut map: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in entries {
        map.entry(entry.entry.label.id).or_default().push(entry);
    }
    map
}

#[test]
fn a_run_finds_what_it_holds_and_nothing_else() {
    for count in [0, 1, 2, 63, 64, 65, 1000, 30_000] {
        let entries = || (0..count).map(|n| located(n, n / 130));
        let run = run(entries(), 1);
        let run = IndexRun::open_verified(run.bytes, &run.name).unwrap();
        assert_eq!((run.len(), run.is_empty()), (count as usize, count == 0));
        assert_eq!(run.repository(), REPOSITORY);
        for number in 0..count {
            assert_eq!(run.find(&id(number)).unwrap(), [located(number, number / 130)]);
        }
        for number in count..count + 300 {
            assert_eq!(run.find(&id(number)).unwrap(), []);
        }
        for edge in [[0; 32], [255; 32]] {
            assert_eq!(run.find(&ChunkId::new(edge)).unwrap(), []);
        }
        let expected: Vec<_> = as_map(entries()).into_values().flatten().collect();
        assert_eq!(everything(&run), expected);
    }
}

#[test]
fn a_chunk_in_several_packs_is_found_in_all_of_them() {
    let entries = (0..200).flat_map(|n| (0..3).map(move |pack| located(n, pack)));
    let run = run(entries.clone().chain(entries), 1);
    assert_eq!(run.entries, 600, "equal entries are kept once");
    let run = IndexRun::open(run.bytes).unwrap();
    let packs: Vec<_> = run.find(&id(7)).unwrap().iter().map(|found| found.pack).collect();
    assert_eq!(packs, [0, 1, 2].map(|pack| located(7, pack).pack));
}

/// Counts how often it is read.
struct Counted(Bytes, AtomicU32);

impl ReadAt for Counted {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(offset, buffer)
    }
}

#[test]
fn a_lookup_reads_a_few_blocks_however_long_the_run() {
    let count = 300_000;
    let run = run((0..count).map(|n| located(n, n / 130)), 1);
    let run = IndexRun::open(Counted(run.bytes, AtomicU32::new(0))).unwrap();
    let reads = || run.source_for_tests().1.load(Ordering::Relaxed);
    let before = reads();
    for number in 0..1000 {
        assert_eq!(run.find(&id(count + number)).unwrap(), []);
    }
    let per_miss = f64::from(reads() - before) / 1000.0;
    assert!(per_miss < 3.0, "{per_miss} reads per lookup");
}

#[test]
fn a_spooled_file_answers_as_memory_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run idx");
    let finished = run((0..5000).map(|n| located(n, n / 130)), 1);
    std::fs::write(&path, &finished.bytes).unwrap();
    let spooled = SpooledFile::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let spooled = IndexRun::open_verified(spooled, &finished.name).unwrap();
    assert_eq!(everything(&spooled), everything(&IndexRun::open(finished.bytes).unwrap()));
    assert_eq!(spooled.find(&id(17)).unwrap(), [located(17, 0)]);
    assert_eq!(SpooledFile::open(&path).unwrap_err().kind(), ErrorKind::Transient);
}

#[test]
fn a_merge_keeps_every_entry_once_and_drops_packs() {
    let dropped: BTreeSet<_> = [1, 4].map(|pack| located(0, pack).pack).into();
    let parts = [0..400, 200..700, 650..900];
    let all = || parts.iter().cloned().flatten().map(|n| located(n, n / 100));
    let runs: Vec<_> = parts
        .iter()
        .map(|part| run(part.clone().map(|n| located(n, n / 100)), 1))
        .map(|run| IndexRun::open(run.bytes).unwrap())
        .collect();
    let mut merge = Merge::new(REPOSITORY, &runs, &dropped).unwrap();
    let merged = merge.next_run(&Seeded::new(2)).unwrap().unwrap();
    assert!(merge.next_run(&Seeded::new(3)).unwrap().is_none());

    let mut expected: Vec<_> = all().filter(|e| !dropped.contains(&e.pack)).collect();
    expected.sort_by_key(|e| e.entry.label.id);
    expected.dedup();
    assert_eq!(everything(&IndexRun::open(merged.bytes).unwrap()), expected);
    let nothing: [&IndexRun<Bytes>; 0] = [];
    assert!(
        Merge::new(REPOSITORY, nothing, &dropped)
            .unwrap()
            .next_run(&Seeded::new(1))
            .unwrap()
            .is_none()
    );
}

#[test]
fn equal_runs_merge_into_one() {
    let count = ENTRIES_MAX as u32 * 3 / 5;
    let run = run((0..count).map(|n| located(n, n / 130)), 1);
    let runs = [(); 2].map(|()| IndexRun::open(run.bytes.clone()).unwrap());
    let nothing = BTreeSet::new();
    let mut merge = Merge::new(REPOSITORY, &runs, &nothing).unwrap();
    assert_eq!(merge.next_run(&Seeded::new(2)).unwrap().unwrap().entries, count as usize);
    assert!(merge.next_run(&Seeded::new(3)).unwrap().is_none());
}

#[test]
fn a_full_run_refuses_more() {
    let mut builder = IndexRunBuilder::new(REPOSITORY);
    let entry = located(1, 1);
    for _ in 0..ENTRIES_MAX {
        builder.add(&entry).unwrap();
    }
    assert!(!builder.has_room(1));
    assert_eq!(builder.add(&entry).unwrap_err().kind(), ErrorKind::Bug);
    let mut builder = IndexRunBuilder::new(REPOSITORY);
    let outside = Located { pack_bytes: 100, ..entry };
    assert_eq!(builder.add(&outside).unwrap_err().kind(), ErrorKind::Bug);
}

/// Invariant I4 at the level of one index run: the name betrays every change; and without looking
/// at the name, damage is an error or a chunk not found, never a panic or another chunk.
#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let finished = run((0..20).map(|n| located(n, n / 5)), 1);
    for place in 0..finished.bytes.len() * 8 {
        let mut bytes = finished.bytes.to_vec();
        bytes[place / 8] ^= 1 << (place % 8);
        let bytes = Bytes::from(bytes);
        assert!(IndexRun::open_verified(bytes.clone(), &finished.name).is_err(), "bit {place}");
        let Ok(run) = IndexRun::open(bytes) else { continue };
        let _ = run.iter().count();
        for number in 0..20 {
            for found in run.find(&id(number)).unwrap_or_default() {
                assert_eq!(found.entry.label.id, id(number));
            }
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let finished = run((0..20).map(|n| located(n, n / 5)), 1);
    for length in 0..finished.bytes.len() {
        assert!(IndexRun::open(finished.bytes.slice(..length)).is_err(), "cut to {length}");
    }
    let longer = [&finished.bytes[..], &[0]].concat();
    assert!(IndexRun::open(Bytes::from(longer)).is_err());
}

#[test]
fn a_run_of_a_newer_version_says_so() {
    let mut bytes = run([located(1, 1)], 1).bytes.to_vec();
    bytes[8] = 2;
    assert_eq!(IndexRun::open(Bytes::from(bytes)).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn names_and_objects_correspond() {
    let name = run([located(1, 1)], 1).name;
    assert_eq!(RunName::from_key(&name.key()), Some(name));
    for bad in [format!("index/00/{name}.idx"), format!("index/{name}.idx"), format!("x/{name}")] {
        assert_eq!(RunName::from_key(&Key::new(bad).unwrap()), None);
    }
}

/// The layout is for ever: this run must keep its name.
#[test]
fn the_bytes_of_a_run_stay_what_they_are() {
    let name = run((0..10).map(|n| located(n, n / 3)), 1).name;
    assert_eq!(
        name.to_string(),
        "71c0367e8c8116286182f4ec4c5c56331fdfab6e6b0c5be477dd76546447c435"
    );
}

proptest! {
    #[test]
    fn any_entries_are_found_again(
        numbers in proptest::collection::vec((0_u32..500, 0_u32..4), 0..300),
    ) {
        let entries = || numbers.iter().map(|&(number, pack)| located(number, pack));
        let run = IndexRun::open(run(entries(), 1).bytes).unwrap();
        let place = |located: &Located| (located.entry.label.id, located.pack);
        let expected: BTreeSet<_> = entries().map(|located| place(&located)).collect();
        let found: Vec<_> = everything(&run).iter().map(place).collect();
        prop_assert_eq!(found.len(), expected.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn foreign_bytes_are_no_run(bytes: Vec<u8>) {
        prop_assert_eq!(IndexRun::open(Bytes::from(bytes)).is_err(), true);
    }
}
