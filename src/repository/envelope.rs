//! Sealed small objects: manifests, log segments and the like, each in a file of its own.

use bytes::Bytes;
use stillpoint_contract::{Entropy, Error, ErrorKind, Result, code};

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
}

impl ObjectKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::LogSegment => "log segment",
            Self::LogEntry => "log entry",
            Self::Checkpoint => "checkpoint",
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
) -> Result<Vec<u8>> {
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
