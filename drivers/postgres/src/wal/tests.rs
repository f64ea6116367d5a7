//! Made-up WAL, cut and damaged in every way.

use proptest::prelude::*;

use super::{
    forge::{Forge, SYSTEM},
    *,
};

const SEGMENT_BYTES: u32 = 1 << 20;
const START: u64 = 5 << 20;
const MAGIC: u16 = 0xD110;

fn relation(file: u32) -> RelationFork {
    RelationFork { tablespace: 1663, database: 5, file, fork: 0 }
}

/// Records of many lengths over a few segments, and where they lie.
fn sample(records: u32) -> (Forge, Vec<(u64, u64)>) {
    let mut forge = Forge::new(START, SEGMENT_BYTES, MAGIC);
    let ends = (0..records).map(|number| {
        let length = (number as usize * 977) % 30_000;
        let payload = vec![number as u8; length];
        let block = Some((relation(16_384 + number % 3), number * 7, payload.as_slice()));
        match number % 4 {
            0 => forge.commit(number, 1_700_000_000_000_000 + i64::from(number)),
            1 => forge.record((10, 0, number), block, &[1; 300]),
            2 => forge.record((10, 0, number), block, &[]),
            _ if number % 40 == 3 => forge.record((0, 0x40, 0), None, &[]),
            _ => forge.record((10, 0, number), None, &[2; 9]),
        }
    });
    let ends = ends.collect();
    (forge, ends)
}

fn read(start: u64, bytes: &[u8], cut: usize) -> (Vec<Record>, Result<(), BadWal>) {
    let mut reader = Reader::new(start, SEGMENT_BYTES, Some(SYSTEM));
    let mut records = Vec::new();
    let outcome =
        bytes.chunks(cut.max(1)).try_for_each(|piece| reader.push(piece, |r| records.push(r)));
    (records, outcome)
}

#[test]
fn records_are_found_however_the_bytes_are_cut() {
    let (forge, ends) = sample(200);
    let (whole, outcome) = read(START, &forge.bytes, usize::MAX);
    assert_eq!(outcome, Ok(()));
    assert_eq!(whole.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), ends);
    for cut in [1, 7, 8191, 8192, 8193, 100_000] {
        let (records, outcome) = read(START, &forge.bytes, cut);
        assert_eq!(outcome, Ok(()));
        assert_eq!(records, whole, "in pieces of {cut}");
    }
}

#[test]
fn reading_may_begin_at_any_page() {
    let (forge, ends) = sample(60);
    for page in 0..forge.bytes.len() as u64 / PAGE_BYTES {
        let from = page * PAGE_BYTES;
        let rest = &forge.bytes[from as usize..];
        if rest.iter().take(2).all(|byte| *byte == 0) {
            continue;
        }
        let (records, outcome) = read(START + from, rest, 5000);
        assert_eq!(outcome, Ok(()), "page {page}");
        let expected: Vec<_> = ends.iter().copied().filter(|(s, _)| *s >= START + from).collect();
        assert_eq!(records.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_record_that_was_given_up_is_dropped() {
    let mut forge = Forge::new(START, SEGMENT_BYTES, MAGIC);
    let kept = forge.commit(1, 0);
    forge.record((10, 0, 2), Some((relation(1), 1, &[7; 9000])), &[]);
    let page = PAGE_BYTES as usize;
    forge.bytes.truncate(page);
    // The next page says that what ran into it was given up.
    let mut after = Forge::new(START + PAGE_BYTES, SEGMENT_BYTES, MAGIC);
    let second = after.commit(3, 0);
    after.bytes[2] = 8;
    forge.bytes.extend(&after.bytes);
    let (records, outcome) = read(START, &forge.bytes, 100);
    assert_eq!(outcome, Ok(()));
    assert_eq!(records.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), [kept, second]);
}

#[test]
fn wal_of_another_cluster_is_refused() {
    let (forge, _) = sample(3);
    let mut reader = Reader::new(START, SEGMENT_BYTES, Some(1));
    let outcome = reader.push(&forge.bytes, |_| {});
    assert_eq!(outcome, Err(BadWal { at: START, what: "WAL of another cluster" }));
    assert!(reader.push(&[0], |_| {}).is_err(), "it went on after an error");
}

#[test]
fn images_have_the_flags_of_their_version() {
    // A block with a compressed image and a hole: from 15 on, flag 2 means something else.
    let image = |flags: u8, hole: bool| {
        let mut body = vec![0, 0x10, 0, 0];
        body.extend([4, 0, 100, 0, flags]);
        if hole {
            body.extend([50, 0]);
        }
        body.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
        body.extend([9; 4]);
        [vec![0; record::HEADER_BYTES], body].concat()
    };
    for (magic, flags, hole) in
        [(0xD10D, 3, true), (0xD10D, 5, false), (0xD110, 3, false), (0xD118, 9, true)]
    {
        let (blocks, data) = record::body(&image(flags, hole), magic).unwrap();
        assert!(data.is_empty());
        assert_eq!(blocks[0].block, 4);
        assert!(blocks[0].has_image);
        assert_eq!(record::body(&image(flags, !hole), magic), None);
    }
}

#[test]
fn the_end_of_a_transaction_tells_when_and_what_went() {
    let mut data = 1_000_000_i64.to_le_bytes().to_vec();
    data.extend(7_u32.to_le_bytes());
    data.extend([5, 0, 0, 0, 0x7F, 6, 0, 0]);
    data.extend([1, 0, 0, 0, 99, 0, 0, 0]);
    data.extend([1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    let mut record = Record {
        start: 0,
        end: 8,
        xid: 42,
        info: 0x80,
        manager: 1,
        checksum: 0,
        blocks: Vec::new(),
        data,
    };
    let events = meaning(&record, 15);
    let at = chrono::DateTime::from_timestamp(946_684_801, 0);
    let gone = RelationFork { tablespace: 1, database: 2, file: 3, fork: 0 };
    let kind = EventKind::Ended { xid: 42, is_commit: true, dropped: vec![gone] };
    assert_eq!(events, [Event { at, kind }]);
    let mut changes = Changes::default();
    changes.add(&record, &events);
    assert_eq!(changes.file(&gone).and_then(|file| file.limit), Some(0));
    // Half of it still tells when.
    record.data.truncate(15);
    let kind = EventKind::Ended { xid: 42, is_commit: true, dropped: Vec::new() };
    assert_eq!(meaning(&record, 15), [Event { at, kind }]);
}

/// The number of a prepared transaction comes last, behind parts whose lengths are the version's.
#[test]
fn a_prepared_transaction_is_known_whatever_goes_with_it() {
    for (major, item_bytes) in [(15, 12), (17, 12), (18, 16)] {
        for (items, messages) in [(1, 0), (1, 3), (3, 1), (5, 40)] {
            let mut data = 1_000_000_i64.to_le_bytes().to_vec();
            data.extend((1_u32 << 8 | 8 | 16).to_le_bytes());
            data.extend(u32::to_le_bytes(items));
            data.extend(vec![1; items as usize * item_bytes]);
            data.extend(u32::to_le_bytes(messages));
            data.extend(vec![2; messages as usize * 16]);
            data.extend(4711_u32.to_le_bytes());
            let record = Record {
                start: 0,
                end: 8,
                xid: 0,
                info: 0xB0,
                manager: 1,
                checksum: 0,
                blocks: Vec::new(),
                data,
            };
            let events = meaning(&record, major);
            let kind = EventKind::Ended { xid: 4711, is_commit: true, dropped: Vec::new() };
            assert_eq!(events[0].kind, kind, "{major}: {items} items, {messages} messages");
        }
    }
}

#[test]
fn changes_survive_their_bytes_and_their_sum_is_that_of_the_parts() {
    let (forge, _) = sample(120);
    let (records, _) = read(START, &forge.bytes, usize::MAX);
    let mut all = Changes::default();
    let mut halves = [Changes::default(), Changes::default()];
    for (number, record) in records.iter().enumerate() {
        all.add(record, &meaning(record, 15));
        halves[number % 2].add(record, &meaning(record, 15));
    }
    assert_eq!(all.files().count(), 3);
    assert!(
        all.file(&relation(16_385))
            .unwrap()
            .blocks()
            .eq((1..120).filter(|n| n % 3 == 1 && (n % 4 == 1 || n % 4 == 2)).map(|n| n * 7))
    );
    let [mut sum, other] = halves;
    sum.merge(other);
    assert_eq!(sum, all);
    let bytes = all.encode(1 << 20).unwrap();
    assert_eq!(Changes::decode(&bytes), Some(all.clone()));
    assert_eq!(all.encode(bytes.len() - 1), None);
    for length in 0..bytes.len() {
        assert_eq!(Changes::decode(&bytes[..length]), None);
    }
}

proptest! {
    #[test]
    fn damage_is_found_or_harmless(at in 0_usize..400_000, bit in 0..8, cut in 1_usize..9000) {
        let (mut forge, _) = sample(60);
        let (before, _) = read(START, &forge.bytes, usize::MAX);
        let at = at % forge.bytes.len();
        forge.bytes[at] ^= 1_u8 << bit;
        let (after, _) = read(START, &forge.bytes, cut);
        // No record is ever made up: what is read is what was written.
        prop_assert!(after.iter().zip(&before).all(|(a, b)| a == b));
        prop_assert!(after.len() <= before.len());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000), at: u64) {
        let mut reader = Reader::new(at, SEGMENT_BYTES, None);
        let _ = reader.push(&bytes, |_| {});
        let _ = Changes::decode(&bytes);
        let _ = record::body(&bytes, MAGIC);
        let record = Record {
            start: 0, end: 0, xid: 1, info: bytes.first().copied().unwrap_or(0),
            manager: bytes.get(1).copied().unwrap_or(0) % 5, checksum: 0,
            blocks: Vec::new(), data: bytes,
        };
        let _ = meaning(&record, 15);
    }
}
