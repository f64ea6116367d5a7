//! Sealed small objects: manifests, log segments and the like, each in a file of its own.

use bytes::Bytes;
use stillpoint_contract::{Buffer, Entropy, Error, ErrorKind, Result, code};

use super::wire::{Fields, corrupt, newer};
use crate::pipeline::{
    compress::{Effort, Encoding, PLAIN_BYTES_MAX, Scratch},
    keys::Domain,
    seal::Salt,
};

const MAGIC: [u8; 8] = *b"STLPSEAL";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 48;
const FLAG_ZSTD: u8 = 1;

/// What an object is. Bound to its seal, so that none can stand in for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// The description of one backup.
    Manifest = 1,
    /// A stretch of a database's captured log.
    LogSegment = 2,
    /// An entry of the repository's commit log.
    LogEntry = 3,
    /// The folded state of the commit log.
    Checkpoint = 4,
    /// What a drill found out.
    Drill = 5,
}

impl ObjectKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::LogSegment => "log segment",
            Self::LogEntry => "log entry",
            Self::Checkpoint => "checkpoint",
            Self::Drill => "evidence of a drill",
        }
    }
}

/// Compresses and seals `plain` as the object `name`. Work for a CPU thread.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for more than [`PLAIN_BYTES_MAX`]; else as
/// [`Scratch::encode`].
pub fn seal(
    domain: &Domain,
    kind: ObjectKind,
    name: &str,
    plain: &[u8],
    scratch: &mut Scratch,
    entropy: &dyn Entropy,
) -> Result<Bytes> {
    let encoded = scratch.encode(plain, None, Effort::default())?;
    let mut salt = [0; 16];
    entropy.fill(&mut salt);
    let header = Header {
        kind: kind as u8,
        is_zstd: encoded.encoding == Encoding::Zstd,
        epoch: domain.epoch(),
        salt,
        plain_bytes: plain.len() as u32,
        stored_bytes: (encoded.bytes.len() + domain.object_overhead_bytes()) as u32,
    };
    let header = header.encode();
    let sealed = domain.seal_object(&salt, &binding(&header, name), encoded.bytes)?;
    Ok([&header, sealed.as_slice()].concat().into())
}

/// Opens the object `name` and returns what was sealed: whole, unchanged, and at most `limit_bytes`
/// long. Work for a CPU thread.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when anything differs from what was sealed under that name and
/// kind in this repository; [`Denied`](ErrorKind::Denied) when it was sealed with another key;
/// [`Unsupported`](ErrorKind::Unsupported) when a newer version sealed it.
pub fn open(
    domain: &Domain,
    kind: ObjectKind,
    name: &str,
    bytes: &[u8],
    limit_bytes: usize,
    scratch: &mut Scratch,
) -> Result<Buffer> {
    let step = || format!("open {} {name}", kind.name());
    let damaged = |problem| corrupt(step(), problem);
    let (raw_header, sealed) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .filter(|(header, _)| header.starts_with(&MAGIC))
        .ok_or_else(|| damaged("it does not begin like a sealed object"))?;
    let header = Header::decode(raw_header, step)?;
    if header.kind != kind as u8 {
        return Err(damaged("it is an object of another kind"));
    }
    if header.epoch != domain.epoch() {
        return Err(wrong_epoch(step(), header.epoch, domain.epoch()));
    }
    if header.plain_bytes as usize > limit_bytes.min(PLAIN_BYTES_MAX) {
        return Err(damaged("it claims to be longer than any such object"));
    }
    if header.stored_bytes as usize != sealed.len() {
        return Err(damaged("its length differs"));
    }
    let encoded = domain
        .open_object(&header.salt, &binding(raw_header, name), sealed)
        .ok_or_else(|| damaged("its seal is broken"))?;
    let encoding = if header.is_zstd { Encoding::Zstd } else { Encoding::Raw };
    scratch
        .decode(encoding, &encoded, None, header.plain_bytes as usize)
        .map_err(|cause| damaged("it does not decode").caused_by(cause))
}

fn wrong_epoch(step: String, found: u32, expected: u32) -> Error {
    Error::new(ErrorKind::Denied, code::WRONG_KEY, step)
        .with("key epoch of the object", found)
        .with("key epoch at hand", expected)
        .why("it was sealed with another key of the repository, or it is damaged")
}

/// Everything that must agree when the object is opened: all of the header, and the name.
fn binding(header: &[u8; HEADER_BYTES], name: &str) -> Vec<u8> {
    [header, name.as_bytes()].concat()
}

struct Header {
    kind: u8,
    is_zstd: bool,
    epoch: u32,
    salt: Salt,
    plain_bytes: u32,
    stored_bytes: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.kind;
        bytes[11] = if self.is_zstd { FLAG_ZSTD } else { 0 };
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.salt);
        bytes[32..36].copy_from_slice(&self.plain_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES], step: impl Fn() -> String) -> Result<Self> {
        let mut fields = Fields::of(&bytes[MAGIC.len()..]);
        match fields.u16() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Err(newer(step(), version)),
            _ => return Err(corrupt(step(), "its version does not exist")),
        }
        Self::decode_rest(fields).ok_or_else(|| corrupt(step(), "a field has no meaning"))
    }

    fn decode_rest(mut fields: Fields<'_>) -> Option<Self> {
        let kind = fields.u8()?;
        let is_zstd = match fields.u8()? {
            0 => false,
            FLAG_ZSTD => true,
            _ => return None,
        };
        let (epoch, salt) = (fields.u32()?, fields.array()?);
        let (plain_bytes, stored_bytes) = (fields.u32()?, fields.u32()?);
        fields.zeros::<8>()?;
        Some(Self { kind, is_zstd, epoch, salt, plain_bytes, stored_bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use zeroize::Zeroizing;

    use super::*;
    use crate::pipeline::{id::RepositoryId, keys::RepositoryKey, testing::Seeded};

    const LIMIT: usize = 1 << 20;

    fn domains() -> [Domain; 2] {
        let repository = RepositoryId::new([1; 16]);
        let key = RepositoryKey::new(Zeroizing::new([7; 32]));
        [Domain::encrypted(repository, Domain::EPOCH_FIRST, &key), Domain::plain(repository)]
    }

    fn sealed(domain: &Domain, plain: &[u8]) -> Bytes {
        let entropy = Seeded::new(1);
        seal(domain, ObjectKind::Manifest, "m/1", plain, &mut Scratch::new(), &entropy).unwrap()
    }

    fn opened(domain: &Domain, bytes: &[u8]) -> Result<Vec<u8>> {
        open(domain, ObjectKind::Manifest, "m/1", bytes, LIMIT, &mut Scratch::new()).map(Vec::from)
    }

    #[test]
    fn an_object_opens_only_as_itself() {
        let text = br#"{"database":"shop"}"#.repeat(20);
        let strangers = [
            Domain::plain(RepositoryId::new([2; 16])),
            Domain::encrypted(
                RepositoryId::new([1; 16]),
                1,
                &RepositoryKey::new(Zeroizing::new([8; 32])),
            ),
        ];
        for domain in domains() {
            let bytes = sealed(&domain, &text);
            assert!(bytes.len() < text.len());
            assert_eq!(opened(&domain, &bytes).unwrap(), text);
            let scratch = &mut Scratch::new();
            let kind = ObjectKind::Manifest;
            assert!(open(&domain, ObjectKind::LogEntry, "m/1", &bytes, LIMIT, scratch).is_err());
            assert!(open(&domain, kind, "m/2", &bytes, LIMIT, scratch).is_err());
            assert!(open(&domain, kind, "m/1", &bytes, text.len() - 1, scratch).is_err());
            assert!(strangers.iter().all(|stranger| opened(stranger, &bytes).is_err()));
        }
        let [encrypted, plain] = domains();
        let crossed = opened(&plain, &sealed(&encrypted, &text)).unwrap_err();
        assert_eq!(crossed.kind(), ErrorKind::Denied);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for domain in domains() {
            for plain in [b"{}".repeat(100), Seeded::new(2).bytes(40), Vec::new()] {
                let bytes = sealed(&domain, &plain);
                for place in 0..bytes.len() * 8 {
                    let mut changed = bytes.to_vec();
                    changed[place / 8] ^= 1 << (place % 8);
                    assert!(opened(&domain, &changed).is_err(), "bit {place}");
                }
                for length in 0..bytes.len() {
                    assert!(opened(&domain, &bytes[..length]).is_err(), "cut to {length}");
                }
                assert!(opened(&domain, &[&bytes[..], &[0]].concat()).is_err());
            }
        }
    }

    #[test]
    fn equal_objects_are_sealed_differently() {
        let [encrypted, _] = domains();
        let sealed = |seed| {
            let entropy = Seeded::new(seed);
            let scratch = &mut Scratch::new();
            seal(&encrypted, ObjectKind::Manifest, "m/1", b"{}", scratch, &entropy).unwrap()
        };
        assert_ne!(sealed(1)[48..], sealed(2)[48..]);
    }

    #[test]
    fn an_object_of_a_newer_version_says_so() {
        let [encrypted, _] = domains();
        let mut bytes = sealed(&encrypted, b"{}").to_vec();
        bytes[8] = 2;
        assert_eq!(opened(&encrypted, &bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    /// The layout is for ever: an object sealed by the first version opens in every later one.
    #[test]
    fn the_bytes_of_an_object_stay_what_they_are() {
        let names = domains().map(|domain| blake3::hash(&sealed(&domain, b"{}")).to_string());
        assert_eq!(
            names,
            [
                "5fbb418626e1bdfd809d61206d48811e48aa29d4390e8ab6d55d383d38abd2fa",
                "fdaf36b89b33c5e2d99001fa4c451e466339ec868595fac486cfa7e688faa33f",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_sealed_and_opened(bytes: Vec<u8>, repeat in 1_usize..50) {
            for domain in domains() {
                let plain = bytes.repeat(repeat);
                prop_assert_eq!(opened(&domain, &sealed(&domain, &plain)).unwrap(), plain);
            }
        }

        #[test]
        fn foreign_bytes_do_not_open(bytes: Vec<u8>) {
            prop_assert!(domains().iter().all(|domain| opened(domain, &bytes).is_err()));
        }
    }
}
