//! The name of a pack: the hash of its bytes.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stillpoint_contract::{Error, Result};

use crate::{pipeline::id::not_hexadecimal, repository::store::Key};

/// What a pack holds. Metadata stands apart because every restore reads it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Chunks of parts.
    Data = 0,
    /// Leaves and small files.
    Meta = 1,
}

impl PackKind {
    pub(in crate::repository) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Meta),
            _ => None,
        }
    }

    pub(in crate::repository) fn byte(self) -> u8 {
        self as u8
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Data => "pack",
            Self::Meta => "mpack",
        }
    }
}

/// The file name of a pack: the plain BLAKE3-256 hash of all its bytes and its kind, written
/// `9f86….pack` or `9f86….mpack`. `b3sum` checks it without a key.
///
/// Random bytes in each pack's header keep a name from ever coming back once its pack is deleted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// The hash of the file.
    pub hash: [u8; 32],
    /// The kind of the pack.
    pub kind: PackKind,
}

impl PackName {
    /// Names the bytes of a whole pack.
    pub fn of(kind: PackKind, bytes: &[u8]) -> Self {
        Self { hash: *blake3::hash(bytes).as_bytes(), kind }
    }

    /// The object that holds the pack, such as `packs/9f/9f86….pack`.
    pub fn key(&self) -> Key {
        let name = self.to_string();
        Key::new(format!("packs/{}/{name}", &name[..2])).expect("it is short and hexadecimal")
    }

    /// The pack that an object holds, or `None` when it is named like no pack.
    pub fn from_key(key: &Key) -> Option<Self> {
        let (fan_out, name) = key.as_str().strip_prefix("packs/")?.split_once('/')?;
        if name.starts_with(fan_out) && fan_out.len() == 2 { name.parse().ok() } else { None }
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", HEXLOWER.encode(&self.hash), self.kind.extension())
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PackName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (hash, extension) = text.split_once('.')?;
            let kind = [PackKind::Data, PackKind::Meta]
                .into_iter()
                .find(|kind| kind.extension() == extension)?;
            let hash = HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
            Some(Self { hash, kind })
        };
        read().ok_or_else(|| not_hexadecimal("pack name", text))
    }
}

impl Serialize for PackName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PackName {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(source)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
