//! A small pack, read back every way there is, and damaged at every byte.

use bytes::Bytes;
use proptest::prelude::{prop_assert, proptest};
use stillpoint_contract::ErrorKind;
use zeroize::Zeroizing;

use super::{
    FinishedPack, PACK_BYTES_MAX, PackBuilder, PackEntry, PackHeader, PackKind, PackName,
    SealedBlob, Trailer, inspect, read::seal_table, read_trailer, scan,
};
use crate::{
    pipeline::{
        compress::{Base, Effort, Encoding, Scratch},
        id::{ChunkId, RepositoryId},
        keys::{Domain, RepositoryKey},
        seal::BlobKind,
        testing::Seeded,
    },
    repository::store::Key,
};

fn encrypted(byte: u8) -> Domain {
    let key = RepositoryKey::new(Zeroizing::new([byte; 32]));
    Domain::encrypted(RepositoryId::new([1; 16]), Domain::EPOCH_FIRST, &key)
}

fn plain() -> Domain {
    Domain::plain(RepositoryId::new([1; 16]))
}

fn text(salt: u32) -> Vec<u8> {
    (0..1500).flat_map(|n: u32| (n / 3 * salt).to_le_bytes()).collect()
}

fn blob(domain: &Domain, content: &[u8], base: Option<&[u8]>) -> SealedBlob {
    let sealer = domain.sealer(&Seeded::new(content.len() as u64));
    let base =
        base.map(|plain| (domain.chunk_id(plain), Base { plain, stored_bytes: plain.len() }));
    let chunk = (BlobKind::Data, domain.chunk_id(content), content);
    SealedBlob::make(chunk, base, Effort::default(), &sealer, &mut Scratch::new()).unwrap()
}

/// The contents of the example pack; the last one is stored as a delta against the base.
fn contents() -> (Vec<Vec<u8>>, Vec<u8>) {
    let base = text(9);
    let mut changed = base.clone();
    changed[77] ^= 1;
    let noise = Seeded::new(5).bytes(300);
    (vec![text(1), noise, b"short".to_vec(), changed], base)
}

fn pack(domain: &Domain, seed: u64) -> FinishedPack {
    let (contents, base) = contents();
    let mut builder = PackBuilder::new(PackKind::Data, domain, &Seeded::new(seed));
    for (number, content) in contents.iter().enumerate() {
        let base = (number == 3).then_some(base.as_slice());
        builder.push(&blob(domain, content, base)).unwrap();
    }
    let announced = builder.file_bytes();
    let pack = builder.finish();
    assert_eq!(pack.bytes.len(), announced);
    pack
}

fn read(pack: &FinishedPack, entry: &PackEntry, domain: &Domain) -> Option<Vec<u8>> {
    let range = entry.range().start as usize..entry.range().end as usize;
    let blob = SealedBlob::decode(&pack.bytes.get(range)?.to_vec().into()).ok()?;
    let (_, base) = contents();
    let base = blob.label().base.map(|_| base.as_slice());
    let opened = blob.open(&entry.label.id, base, domain, &mut Scratch::new()).ok();
    opened.map(Vec::from)
}

#[test]
fn a_pack_gives_back_what_was_put_in() {
    for domain in [encrypted(7), plain()] {
        let pack = pack(&domain, 1);
        let encodings: Vec<_> = pack.entries.iter().map(|entry| entry.label.encoding).collect();
        assert_eq!(encodings, [Encoding::Zstd, Encoding::Raw, Encoding::Raw, Encoding::Delta]);
        for (entry, content) in pack.entries.iter().zip(contents().0) {
            assert_eq!(read(&pack, entry, &domain).unwrap(), content);
        }
        let (header, entries) = inspect(&pack.name, &pack.bytes).unwrap();
        assert_eq!(entries, pack.entries);
        assert_eq!((header.kind, header.epoch), (PackKind::Data, domain.epoch()));
        assert_eq!(header.repository, domain.repository());
        assert_eq!(scan(&pack.bytes).entries, pack.entries);
    }
}

#[test]
fn the_same_blobs_never_make_a_pack_of_the_same_name() {
    assert_ne!(pack(&plain(), 1).name, pack(&plain(), 2).name);
    assert_eq!(pack(&plain(), 1).name, pack(&plain(), 1).name);
}

#[test]
fn a_trailer_says_how_much_of_the_end_it_needs() {
    let pack = pack(&plain(), 1);
    let size = pack.bytes.len();
    let tail = |length: usize| read_trailer(&pack.bytes[size - length..], size as u64);
    let needed = pack.entries.len() * 80 + 8;
    for length in 8..needed {
        assert_eq!(tail(length).unwrap(), Trailer::Needs { tail_bytes: needed });
    }
    for length in needed..=size {
        assert_eq!(tail(length).unwrap(), Trailer::Whole(pack.entries.clone()));
    }
    for length in 0..8 {
        assert_eq!(tail(length).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert!(read_trailer(&pack.bytes, size as u64 + 1).is_err());
    assert!(read_trailer(&pack.bytes, PACK_BYTES_MAX as u64 + 1).is_err());
    assert!(read_trailer(&pack.bytes, u64::MAX).is_err());
}

#[test]
fn a_pack_that_lost_its_end_still_gives_up_its_blobs() {
    let pack = pack(&encrypted(7), 1);
    let last = pack.entries.last().unwrap().range();
    assert_eq!(scan(&pack.bytes[..last.end as usize + 30]).entries, pack.entries);
    assert_eq!(scan(&pack.bytes[..last.end as usize - 1]).entries, pack.entries[..3]);
    assert_eq!(scan(&[]).entries, []);
}

#[test]
fn a_sealed_blob_moves_to_another_pack_without_the_key() {
    let domain = encrypted(7);
    let old = pack(&domain, 1);
    let mut builder = PackBuilder::new(PackKind::Data, &domain, &Seeded::new(2));
    for entry in old.entries.iter().skip(1) {
        let range = entry.range().start as usize..entry.range().end as usize;
        builder.push(&SealedBlob::decode(&old.bytes.slice(range)).unwrap()).unwrap();
    }
    let new = builder.finish();
    for (entry, content) in new.entries.iter().zip(contents().0.into_iter().skip(1)) {
        assert_eq!(read(&new, entry, &domain).unwrap(), content);
    }
}

#[test]
fn a_delta_and_its_base_never_share_a_pack() {
    let domain = plain();
    let (contents, base) = contents();
    let (delta, base) = (blob(&domain, &contents[3], Some(&base)), blob(&domain, &base, None));
    for pair in [[&delta, &base], [&base, &delta]] {
        let mut builder = PackBuilder::new(PackKind::Data, &domain, &Seeded::new(1));
        builder.push(pair[0]).unwrap();
        assert!(!builder.accepts(pair[1]));
        assert_eq!(builder.push(pair[1]).unwrap_err().kind(), ErrorKind::Bug);
    }
}

#[test]
fn a_pack_ends_at_its_target_but_takes_one_blob_of_any_size() {
    let domain = plain();
    let mut builder = PackBuilder::with_target(PackKind::Data, 2000, &domain, &Seeded::new(1));
    let large = blob(&domain, &Seeded::new(2).bytes(5000), None);
    assert!(builder.is_empty() && builder.accepts(&large));
    builder.push(&large).unwrap();
    assert!(!builder.accepts(&blob(&domain, b"more", None)));
}

#[test]
fn a_stranger_opens_nothing() {
    let pack = pack(&encrypted(7), 1);
    let elsewhere = Domain::encrypted(
        RepositoryId::new([2; 16]),
        1,
        &RepositoryKey::new(Zeroizing::new([7; 32])),
    );
    for stranger in [encrypted(8), plain(), elsewhere] {
        assert!(pack.entries.iter().all(|entry| read(&pack, entry, &stranger).is_none()));
    }
}

#[test]
fn swapped_blobs_are_noticed() {
    let (domain, other) = (encrypted(7), ChunkId::new([9; 32]));
    let pack = pack(&domain, 1);
    for entry in &pack.entries {
        let range = entry.range().start as usize..entry.range().end as usize;
        let blob = SealedBlob::decode(&pack.bytes.slice(range)).unwrap();
        let error = blob.open(&other, None, &domain, &mut Scratch::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.to_string(), format!("read chunk {other}"));
    }
}

/// Invariant I4 at the level of one pack: the name betrays every change; and below the name,
/// changed bytes never read as other content.
#[test]
fn every_flipped_bit_is_noticed_and_never_read() {
    for domain in [encrypted(7), plain()] {
        let pack = pack(&domain, 1);
        let (contents, _) = contents();
        for place in 0..pack.bytes.len() * 8 {
            let mut bytes = pack.bytes.to_vec();
            bytes[place / 8] ^= 1 << (place % 8);
            assert!(inspect(&pack.name, &bytes).is_err(), "bit {place}");
            let damaged = FinishedPack { bytes: bytes.into(), ..pack.clone() };
            if place % 5 == 0 {
                for (entry, content) in pack.entries.iter().zip(&contents) {
                    let bytes = read(&damaged, entry, &domain);
                    assert!(bytes.is_none_or(|bytes| bytes == *content), "bit {place}");
                }
            }
            let _ = scan(&damaged.bytes);
            if let Ok(Trailer::Whole(entries)) =
                read_trailer(&damaged.bytes, damaged.bytes.len() as u64)
            {
                assert_eq!(entries, pack.entries, "bit {place} changed the table unnoticed");
            }
        }
    }
}

/// A table of contents with a valid checksum, in a file with a valid name, may still be wrong: a
/// writer with a fault made it.
#[test]
fn a_table_that_disagrees_with_the_blobs_is_noticed() {
    let pack = pack(&plain(), 1);
    let end = pack.entries.last().unwrap().range().end as usize;
    let with_table = |entries: &[PackEntry]| {
        let mut bytes = pack.bytes[..end].to_vec();
        seal_table(entries, &mut bytes);
        inspect(&PackName::of(PackKind::Data, &bytes), &bytes)
    };
    assert!(with_table(&pack.entries).is_ok());

    let mut renamed = pack.entries.clone();
    renamed[1].label.id = ChunkId::new([9; 32]);
    let mut swapped = pack.entries.clone();
    swapped.swap(0, 1);
    let mut overlapping = pack.entries.clone();
    overlapping[2].offset -= 1;
    assert!(with_table(&renamed).is_err());
    for wrong in [swapped, overlapping, pack.entries[..3].to_vec(), Vec::new()] {
        assert!(with_table(&wrong).is_err(), "{wrong:?}");
        let mut bytes = pack.bytes[..end].to_vec();
        seal_table(&wrong, &mut bytes);
        let trailer = read_trailer(&bytes, bytes.len() as u64);
        assert!(trailer.is_err(), "the table alone shows it: {wrong:?}");
    }
}

#[test]
fn every_cut_and_every_zeroed_stretch_is_noticed() {
    let pack = pack(&encrypted(7), 1);
    for length in 0..pack.bytes.len() {
        assert!(inspect(&pack.name, &pack.bytes[..length]).is_err(), "cut to {length}");
    }
    for begin in (0..pack.bytes.len()).step_by(64) {
        let mut bytes = pack.bytes.to_vec();
        let end = (begin + 64).min(bytes.len());
        if bytes[begin..end].iter().any(|&byte| byte != 0) {
            bytes[begin..end].fill(0);
            assert!(inspect(&pack.name, &bytes).is_err(), "zeros from {begin}");
        }
    }
}

#[test]
fn a_pack_of_a_newer_version_says_so() {
    let mut bytes = pack(&plain(), 1).bytes.to_vec();
    bytes[8] = 2;
    let error = PackHeader::decode(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.advice()[0].contains("version"), "{:?}", error.advice());
}

#[test]
fn names_and_objects_correspond() {
    let name = PackName::of(PackKind::Meta, b"x");
    assert_eq!(name.to_string().parse::<PackName>().unwrap(), name);
    assert_eq!(PackName::from_key(&name.key()), Some(name));
    assert_eq!(name.key().as_str().split_once('.').map(|(_, end)| end), Some("mpack"));
    let data = PackName { kind: PackKind::Data, ..name };
    for bad in [
        format!("packs/00/{name}"),
        format!("packs/{data}"),
        format!("packs/{}/{data}/x", &name.to_string()[..2]),
        format!("index/{}/{data}", &name.to_string()[..2]),
        format!("packs/{}/{data}.par", &name.to_string()[..2]),
    ] {
        assert_eq!(PackName::from_key(&Key::new(bad.clone()).unwrap()), None, "{bad}");
    }
}

/// The layout is for ever: this pack must keep its name.
#[test]
fn the_bytes_of_a_pack_stay_what_they_are() {
    let domain = plain();
    let mut builder = PackBuilder::new(PackKind::Data, &domain, &Seeded::new(1));
    builder.push(&blob(&domain, b"page", None)).unwrap();
    assert_eq!(
        builder.finish().name.to_string(),
        "e8215a2d7019a032518befea54821e289272379e7981f3a31715e98d0fb908aa.pack"
    );
    let domain = encrypted(7);
    let mut builder = PackBuilder::new(PackKind::Meta, &domain, &Seeded::new(1));
    builder.push(&blob(&domain, b"page", None)).unwrap();
    assert_eq!(
        builder.finish().name.to_string(),
        "4d50cc676fe26dd3c42492055bf67248af6c0e7e081e7e1971f7f6fb0163fb26.mpack"
    );
}

proptest! {
    #[test]
    fn foreign_bytes_never_read_as_a_pack(bytes: Vec<u8>, size: u64) {
        prop_assert!(PackHeader::decode(&bytes).is_err());
        prop_assert!(SealedBlob::decode(&Bytes::copy_from_slice(&bytes)).is_err());
        let _ = read_trailer(&bytes, size);
        let _ = scan(&bytes);
        prop_assert!(inspect(&PackName::of(PackKind::Data, &bytes), &bytes).is_err());
    }
}
