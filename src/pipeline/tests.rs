//! From plaintext to sealed payload and back, and everything that must not get through.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
use stillpoint_contract::ErrorKind;
use zeroize::Zeroizing;

use super::{
    compress::{Base, Effort, Encoded, Encoding, Level, Scratch},
    id::{ChunkId, ChunkSize, RepositoryId},
    keys::{Domain, RepositoryKey},
    seal::{BlobKind, Label, Sealed},
    testing::{Seeded, Shop},
};

fn encrypted() -> Domain {
    let key = RepositoryKey::new(Zeroizing::new([7; 32]));
    Domain::encrypted(RepositoryId::new([1; 16]), Domain::EPOCH_FIRST, &key)
}

fn plain() -> Domain {
    Domain::plain(RepositoryId::new([1; 16]))
}

fn full(scratch: &mut Scratch, bytes: &[u8]) -> Encoded {
    scratch.encode(bytes, None, Effort::default()).unwrap()
}

#[test]
fn database_pages_become_zstd_and_noise_stays_raw() {
    let mut scratch = Scratch::new();
    let noise = Seeded::new(1).bytes(ChunkSize::DEFAULT.bytes());
    assert_eq!(full(&mut scratch, &noise).encoding, Encoding::Raw);

    let pages = Shop::new(5_000, 1).pages();
    let encoded = full(&mut scratch, &pages);
    assert_eq!(encoded.encoding, Encoding::Zstd);
    assert!(encoded.bytes.len() * 2 < pages.len(), "{encoded:?}");

    let mut half = noise;
    half.resize(half.len() + 300_000, 0);
    assert_eq!(full(&mut scratch, &half).encoding, Encoding::Zstd, "the middle is looked at");
    assert_eq!(full(&mut scratch, &[]).encoding, Encoding::Raw);
    assert_eq!(full(&mut scratch, b"abc").encoding, Encoding::Raw);
}

#[test]
fn levels_change_without_leaving_a_trace() {
    let pages = Shop::new(3_000, 2).pages();
    let at = |scratch: &mut Scratch, level| {
        let effort = Effort { level: Level::clamped(level), verify: true };
        scratch.encode(&pages, None, effort).unwrap().bytes
    };
    let mut reused = Scratch::new();
    for level in [1, 6, -5, 1, 9, -1, 1] {
        assert_eq!(at(&mut reused, level), at(&mut Scratch::new(), level), "level {level}");
    }
    assert!(at(&mut reused, 6).len() < at(&mut reused, -5).len());
    assert_eq!((Level::clamped(99), Level::clamped(-99)), (Level::ARCHIVE, Level::FASTEST));
}

/// Guards the trap of `ref_prefix`: with the tables of level 1, deltas silently stop finding
/// anything once chunks are 256 KiB or larger.
#[test]
fn a_delta_of_a_changed_chunk_is_a_small_part_of_the_full_one_at_every_chunk_size() {
    let mut shop = Shop::new(40_000, 3);
    let before = shop.pages();
    shop.update(80);
    let after = shop.pages();
    let mut scratch = Scratch::new();
    for size in [65_536, 131_072, 262_144, 524_288, 1_048_576] {
        let (mut full_bytes, mut stored_bytes, mut deltas) = (0, 0, 0);
        let chunks = before.chunks_exact(size).zip(after.chunks_exact(size));
        for (old, new) in chunks.filter(|(old, new)| old != new) {
            let stored = full(&mut scratch, old).bytes.len();
            let base = Base { plain: old, stored_bytes: stored };
            let delta = scratch.encode(new, Some(base), Effort::default()).unwrap();
            deltas += usize::from(delta.encoding == Encoding::Delta);
            full_bytes += stored;
            stored_bytes += delta.bytes.len();
        }
        assert!(deltas > 3, "{deltas} deltas of {size} bytes");
        assert!(stored_bytes * 20 < full_bytes, "{size}: {stored_bytes} of {full_bytes}");
    }
}

#[test]
fn a_delta_is_kept_only_below_half_of_the_full_chunk() {
    let mut scratch = Scratch::new();
    let random = Seeded::new(4);
    let old = random.bytes(262_144);
    for (changed, expected) in [(100_000, Encoding::Delta), (170_000, Encoding::Raw)] {
        let mut new = old.clone();
        new[..changed].copy_from_slice(&random.bytes(changed));
        let base = Base { plain: &old, stored_bytes: old.len() };
        let encoded = scratch.encode(&new, Some(base), Effort::default()).unwrap();
        assert_eq!(encoded.encoding, expected);
        if expected == Encoding::Delta {
            assert!(encoded.bytes.len() * 2 < old.len());
        }
    }
}

#[test]
fn a_base_that_looks_like_a_dictionary_is_no_base() {
    let mut scratch = Scratch::new();
    let mut old = Shop::new(3_000, 5).pages();
    old[..4].copy_from_slice(&0xEC30_A437_u32.to_le_bytes());
    let base = Base { plain: &old, stored_bytes: old.len() };
    let encoded = scratch.encode(&old, Some(base), Effort::default()).unwrap();
    assert_eq!(encoded.encoding, Encoding::Zstd);
    assert!(scratch.decode(Encoding::Delta, &encoded.bytes, Some(&old), old.len()).is_err());
}

#[test]
fn a_frame_that_claims_to_be_huge_allocates_what_the_caller_expects() {
    let mut scratch = Scratch::new();
    let bomb = full(&mut scratch, &vec![1; 32 << 20]);
    assert!(bomb.bytes.len() < 8192);
    for expected in [0, 1, 65_536, (32 << 20) - 1] {
        let error = scratch.decode(Encoding::Zstd, &bomb.bytes, None, expected).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    assert!(scratch.decode(Encoding::Zstd, &bomb.bytes, None, usize::MAX).is_err());
    assert_eq!(
        scratch.decode(Encoding::Zstd, &bomb.bytes, None, 32 << 20).unwrap().len(),
        32 << 20
    );
}

/// One sealed blob and what it was made from.
struct Example {
    label: Label,
    sealed: Sealed,
    plain: Vec<u8>,
    base: Option<Vec<u8>>,
}

fn example(domain: &Domain, with_base: bool) -> Example {
    let plain: Vec<u8> = (0..6000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    let base = with_base.then(|| {
        let mut base = plain.clone();
        base[100] ^= 1;
        base
    });
    let encoded = Scratch::new()
        .encode(
            &plain,
            base.as_deref().map(|plain| Base { plain, stored_bytes: plain.len() }),
            Effort::default(),
        )
        .unwrap();
    let label = Label {
        kind: BlobKind::Data,
        encoding: encoded.encoding,
        id: domain.chunk_id(&plain),
        base: base.as_deref().map(|base| domain.chunk_id(base)),
        plain_bytes: plain.len() as u32,
    };
    let sealed = domain.sealer(&Seeded::new(9)).seal(&label, encoded.bytes).unwrap();
    Example { label, sealed, plain, base }
}

fn open(domain: &Domain, label: &Label, example: &Example) -> Option<Vec<u8>> {
    let Example { sealed, base, .. } = example;
    let from = (&sealed.salt, sealed.counter);
    let opened =
        domain.open_blob(label, from, &sealed.payload, base.as_deref(), &mut Scratch::new()).ok();
    opened.map(Vec::from)
}

#[test]
fn what_is_sealed_opens_to_the_same_bytes() {
    for domain in [encrypted(), plain()] {
        for with_base in [false, true] {
            let example = example(&domain, with_base);
            assert_eq!(open(&domain, &example.label, &example).unwrap(), example.plain);
        }
    }
}

#[test]
fn a_blob_opens_only_with_its_own_label_key_repository_and_base() {
    let domain = encrypted();
    let mut example = example(&domain, true);
    let label = example.label;
    let other_id = ChunkId::new([3; 32]);
    for forged in [
        Label { kind: BlobKind::Leaf, ..label },
        Label { encoding: Encoding::Zstd, base: None, ..label },
        Label { id: other_id, ..label },
        Label { base: Some(other_id), ..label },
        Label { plain_bytes: label.plain_bytes - 1, ..label },
    ] {
        assert!(open(&domain, &forged, &example).is_none(), "{forged:?}");
    }
    let other_key = RepositoryKey::new(Zeroizing::new([8; 32]));
    let key = RepositoryKey::new(Zeroizing::new([7; 32]));
    for stranger in [
        Domain::encrypted(domain.repository(), 1, &other_key),
        Domain::encrypted(RepositoryId::new([2; 16]), 1, &key),
        plain(),
    ] {
        assert!(open(&stranger, &label, &example).is_none(), "{stranger:?}");
    }
    example.base = Some(vec![5; example.plain.len()]);
    assert!(open(&domain, &label, &example).is_none(), "another base");
    example.base = None;
    assert!(open(&domain, &label, &example).is_none(), "no base");
}

#[test]
fn nothing_is_sealed_twice_under_one_nonce() {
    let sealer = encrypted().sealer(&Seeded::new(1));
    let label = example(&encrypted(), false).label;
    let counters: Vec<_> =
        (0..3).map(|_| sealer.seal(&label, vec![1; 10]).unwrap().counter).collect();
    assert_eq!(counters, [0, 1, 2]);
    let other = encrypted().sealer(&Seeded::new(2)).seal(&label, vec![1; 10]).unwrap();
    assert_ne!(other.salt, sealer.seal(&label, vec![1; 10]).unwrap().salt);
}

#[test]
fn unsound_labels_are_not_sealed() {
    let domain = encrypted();
    let label = example(&domain, false).label;
    for unsound in [
        Label { id: ChunkId::ZERO, ..label },
        Label { base: Some(label.id), encoding: Encoding::Delta, ..label },
        Label { base: Some(ChunkId::ZERO), encoding: Encoding::Delta, ..label },
        Label { encoding: Encoding::Delta, ..label },
        Label { plain_bytes: (1 << 20) + 1, ..label },
    ] {
        let error = domain.sealer(&Seeded::new(1)).seal(&unsound, Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
}

/// The format is for ever: other code, or another version of a library, must come to the same
/// bytes.
#[test]
fn derived_secrets_and_sealed_bytes_stay_what_they_are() {
    let domain = encrypted();
    let label = Label {
        kind: BlobKind::Data,
        encoding: Encoding::Raw,
        id: domain.chunk_id(b"page"),
        base: None,
        plain_bytes: 4,
    };
    let sealed = domain.sealer(&Seeded::new(1)).seal(&label, b"page".to_vec()).unwrap();
    let signer = domain.signer().unwrap();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let key = RepositoryKey::new(Zeroizing::new([7; 32]));
    assert_eq!(
        [
            key.fingerprint().to_string(),
            label.id.to_string(),
            signer.public_key().to_string(),
            hex(&sealed.salt),
            hex(&sealed.payload),
        ],
        [
            "98baf63ba071bce42d30982d019280d1",
            "e4978cdb5554a30b58f7a50997aed46b43b0759b63ba631618887ec75e12f80c",
            "66203c7497e9f7127f1ae6b02a42ac9f02fc5976b0468fa5a74463717dc526fe",
            "74500697761748e7dc0302d36778f89c",
            "3fff529fb3ad3375e2787e4e81abae33151096ae",
        ]
    );
}

proptest! {
    #[test]
    fn any_bytes_encode_and_decode(bytes: Vec<u8>, repeat in 1_usize..200, level in -5_i32..10) {
        let mut scratch = Scratch::new();
        let plain = bytes.repeat(repeat);
        let effort = Effort { level: Level::clamped(level), verify: true };
        let encoded = scratch.encode(&plain, None, effort).unwrap();
        prop_assert!(encoded.bytes.len() <= plain.len());
        let decoded = scratch.decode(encoded.encoding, &encoded.bytes, None, plain.len()).unwrap();
        prop_assert_eq!(Vec::from(decoded), plain);
    }

    #[test]
    fn any_change_of_any_bytes_encodes_and_decodes(
        seed: u64,
        length in 1_usize..300_000,
        base_length in 1_usize..300_000,
        changes in 0_u64..50,
    ) {
        let random = Seeded::new(seed);
        let base = random.bytes(base_length);
        let mut plain: Vec<u8> = base.iter().copied().cycle().take(length).collect();
        for _ in 0..changes {
            plain[random.below(length as u64) as usize] = random.below(256) as u8;
        }
        let mut scratch = Scratch::new();
        let given = Base { plain: &base, stored_bytes: base.len() };
        let encoded = scratch.encode(&plain, Some(given), Effort::default()).unwrap();
        let needed = (encoded.encoding == Encoding::Delta).then_some(base.as_slice());
        let decoded = scratch.decode(encoded.encoding, &encoded.bytes, needed, length).unwrap();
        prop_assert_eq!(Vec::from(decoded), plain);
    }

    #[test]
    fn one_wrong_bit_is_always_found(
        place: usize, bit in 0_u8..8, is_encrypted: bool, with_base: bool,
    ) {
        let domain = if is_encrypted { encrypted() } else { plain() };
        let mut example = example(&domain, with_base);
        let payload = &mut example.sealed.payload;
        let place = place % payload.len();
        payload[place] ^= 1 << bit;
        // Some bits of a zstd frame carry no meaning; what counts is that no wrong byte is read.
        if let Some(read) = open(&domain, &example.label, &example) {
            prop_assert!(!is_encrypted);
            prop_assert_eq!(read, example.plain);
        }
    }

    #[test]
    fn foreign_bytes_never_decode_to_a_wrong_length(
        bytes: Vec<u8>, length in 0_usize..70_000, with_base in any::<bool>(),
    ) {
        let base = vec![3; 2000];
        let base = with_base.then_some(base.as_slice());
        let encoding = if with_base { Encoding::Delta } else { Encoding::Zstd };
        if let Ok(plain) = Scratch::new().decode(encoding, &bytes, base, length) {
            prop_assert_eq!(plain.len(), length);
        }
    }
}
