//! Encrypted files, and the objects that hold their keys, as bytes; `FORMAT.md` in `repository`
//! describes both.
//!
//! A file is sealed in pages under a key of its own. That key lies in another object, wrapped by
//! the repository's secret: whoever destroys that object destroys the file, wherever copies of the
//! file are.

use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, code};

use crate::pipeline::{
    file_key::{FileKey, FileKeyId, WRAPPED_BYTES},
    id::RepositoryId,
    keys::Domain,
    seal::{Salt, TAG_BYTES},
};

const FILE_MAGIC: [u8; 8] = *b"STLPROWS";
const KEY_MAGIC: [u8; 8] = *b"STLPFKEY";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;

/// How long a page is that is written; the last one may be shorter.
const PAGE_BYTES: usize = 1 << 20;

/// Length of an object that holds a key.
pub(super) const KEY_OBJECT_BYTES: usize = HEADER_BYTES + WRAPPED_BYTES;

/// What a file is sealed with, and as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal<'a> {
    pub(super) key: &'a FileKey,
    pub(super) id: FileKeyId,
    /// The name of the file in its store.
    pub(super) name: &'a str,
}

/// Encrypts a file that is written for a repository. Work for a CPU thread.
pub(super) fn encrypt(seal: &Seal<'_>, repository: RepositoryId, plain: &[u8]) -> Result<Bytes> {
    let header = FileHeader {
        repository,
        id: seal.id,
        page_bytes: PAGE_BYTES as u32,
        plain_bytes: plain.len() as u64,
    };
    let header = header.encode();
    let binding = [&header, seal.name.as_bytes()].concat();
    let pages = plain.len().div_ceil(PAGE_BYTES);
    let mut stored = Vec::with_capacity(HEADER_BYTES + plain.len() + pages * TAG_BYTES);
    stored.extend_from_slice(&header);
    let cipher = seal.key.cipher();
    for (number, page) in (0..).zip(plain.chunks(PAGE_BYTES)) {
        cipher.seal(number, &binding, page, &mut stored)?;
    }
    Ok(stored.into())
}

/// Decrypts a file, whole and unchanged. Work for a CPU thread.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) when anything differs from what was sealed under that name.
pub(super) fn decrypt(seal: &Seal<'_>, stored: &[u8]) -> Result<Bytes> {
    let damaged = |why| corrupt("decrypt a file of archived rows", why).with("file", seal.name);
    let (raw, sealed) = stored
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| damaged("it does not begin like an encrypted file"))?;
    let header = FileHeader::decode(raw)?;
    if header.id != seal.id {
        return Err(damaged("it was encrypted with another key than its own"));
    }
    // What is empty has no page that could be checked, and nobody writes it.
    if header.plain_bytes == 0 {
        return Err(damaged("it is empty"));
    }
    let page_bytes = header.page_bytes as usize;
    // Nothing is set aside for what the file claims to be before its length bears it out.
    let pages = header.plain_bytes.div_ceil(u64::from(header.page_bytes));
    let length =
        pages.checked_mul(TAG_BYTES as u64).and_then(|n| n.checked_add(header.plain_bytes));
    if length != Some(sealed.len() as u64) {
        return Err(damaged("its length differs"));
    }
    let binding = [raw, seal.name.as_bytes()].concat();
    let cipher = seal.key.cipher();
    let mut plain = Vec::with_capacity(header.plain_bytes as usize);
    for (number, page) in (0..).zip(sealed.chunks(page_bytes + TAG_BYTES)) {
        let page = cipher.open(number, &binding, page);
        plain.extend(page.ok_or_else(|| damaged("its seal is broken"))?);
    }
    Ok(plain.into())
}

/// Wraps the key of a file by the secret of the repository in which it is kept.
pub(super) fn wrap(domain: &Domain, seal: &Seal<'_>, salt: Salt) -> Result<Bytes> {
    let header =
        KeyHeader { epoch: domain.epoch(), repository: domain.repository(), id: seal.id, salt };
    let header = header.encode();
    let binding = [&header, seal.name.as_bytes()].concat();
    let wrapped = domain.wrap_file_key(seal.key, &salt, &binding)?;
    Ok([header.as_slice(), &wrapped].concat().into())
}

/// Unwraps the key of a file.
///
/// # Errors
///
/// [`Denied`](ErrorKind::Denied) when another secret wrapped it; [`Corrupt`](ErrorKind::Corrupt)
/// when it is the key of another file, or is not what was written.
pub(super) fn unwrap(domain: &Domain, id: FileKeyId, name: &str, bytes: &[u8]) -> Result<FileKey> {
    const STEP: &str = "unwrap the key of a file of archived rows";
    let damaged =
        |why| Error::new(ErrorKind::Corrupt, code::ARCHIVE_KEY, STEP).with("file", name).why(why);
    let bytes: &[u8; KEY_OBJECT_BYTES] =
        bytes.try_into().map_err(|_| damaged("its length differs"))?;
    let (raw, wrapped) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| damaged("it does not begin like a key"))?;
    let header = KeyHeader::decode(raw)?;
    if header.id != id {
        return Err(damaged("it is the key of another file"));
    }
    if header.repository != domain.repository() || header.epoch != domain.epoch() {
        return Err(Error::new(ErrorKind::Denied, code::WRONG_KEY, STEP)
            .with("file", name)
            .with("repository of the key", header.repository)
            .with("repository at hand", domain.repository())
            .why("it was wrapped with the secret of another repository"));
    }
    let binding = [raw, name.as_bytes()].concat();
    let wrapped = wrapped.try_into().map_err(|_| damaged("its length differs"))?;
    domain
        .unwrap_file_key(&header.salt, &binding, wrapped)
        .ok_or_else(|| damaged("its seal is broken, or it was wrapped with another secret"))
}

/// The beginning of an encrypted file. Bound to each of its pages.
struct FileHeader {
    /// The one that it was written for.
    repository: RepositoryId,
    id: FileKeyId,
    page_bytes: u32,
    plain_bytes: u64,
}

impl FileHeader {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&FILE_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.page_bytes.to_le_bytes());
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[32..48].copy_from_slice(self.id.as_bytes());
        bytes[48..56].copy_from_slice(&self.plain_bytes.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        const STEP: &str = "read an encrypted file of archived rows";
        check_version(bytes, FILE_MAGIC, STEP)?;
        let page_bytes = u32::from_le_bytes(array(bytes, 12));
        let is_sound = bytes[10..12] == [0; 2]
            && bytes[56..] == [0; 8]
            && page_bytes.is_power_of_two()
            && (1 << 16..=PAGE_BYTES).contains(&(page_bytes as usize));
        if !is_sound {
            return Err(corrupt(STEP, "a field has no meaning"));
        }
        Ok(Self {
            repository: RepositoryId::new(array(bytes, 16)),
            id: FileKeyId::new(array(bytes, 32)),
            page_bytes,
            plain_bytes: u64::from_le_bytes(array(bytes, 48)),
        })
    }
}

/// The beginning of an object that holds a key. Bound to it.
struct KeyHeader {
    epoch: u32,
    /// The one whose secret wraps it.
    repository: RepositoryId,
    id: FileKeyId,
    salt: Salt,
}

impl KeyHeader {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&KEY_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[32..48].copy_from_slice(self.id.as_bytes());
        bytes[48..64].copy_from_slice(&self.salt);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        const STEP: &str = "read the key of a file of archived rows";
        check_version(bytes, KEY_MAGIC, STEP)?;
        if bytes[10..12] != [0; 2] {
            return Err(corrupt(STEP, "a field has no meaning"));
        }
        Ok(Self {
            epoch: u32::from_le_bytes(array(bytes, 12)),
            repository: RepositoryId::new(array(bytes, 16)),
            id: FileKeyId::new(array(bytes, 32)),
            salt: array(bytes, 48),
        })
    }
}

/// The bytes from a place within a header on.
fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], from: usize) -> [u8; N] {
    bytes[from..from + N].try_into().expect("a header is longer than where its fields end")
}

fn check_version(bytes: &[u8; HEADER_BYTES], magic: [u8; 8], step: &'static str) -> Result<()> {
    if !bytes.starts_with(&magic) {
        return Err(corrupt(step, "it does not begin like one"));
    }
    match u16::from_le_bytes(array(bytes, 8)) {
        VERSION => Ok(()),
        version if version > VERSION => {
            Err(Error::new(ErrorKind::Unsupported, code::NEWER_FORMAT, step)
                .with("format version", version)
                .why("it was written by a newer version of Stillpoint")
                .next("use the version of Stillpoint that wrote it, or a later one"))
        }
        _ => Err(corrupt(step, "its version does not exist")),
    }
}

fn corrupt(step: &'static str, why: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::ARCHIVE_FILE, step).why(why)
}
