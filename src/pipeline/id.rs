//! How content is named: repositories, chunks, and the size of a chunk.

use serde::{Deserialize, Serialize};
use stillpoint_contract::{Error, ErrorKind, Result, code};

/// Gives a newtype over `[u8; N]` its one text form, lower-case hexadecimal: `Display`, `Debug`,
/// `FromStr` and serde.
macro_rules! hex_name {
    ($name:ident, $length:literal, $what:literal) => {
        impl $name {
            /// Length of the name in bytes.
            pub const LENGTH_BYTES: usize = $length;

            /// Takes the bytes of a name.
            pub const fn new(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes of the name.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = stillpoint_contract::Error;

            fn from_str(text: &str) -> stillpoint_contract::Result<Self> {
                data_encoding::HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| $crate::pipeline::id::not_hexadecimal($what, text))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(source)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use hex_name;

/// Text longer than this is cut off when it is quoted in an error.
const QUOTED_CHARS_MAX: usize = 80;

pub(crate) fn not_hexadecimal(what: &'static str, text: &str) -> Error {
    let quoted: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    Error::new(ErrorKind::Invalid, code::BAD_NAME, format!("read a {what}"))
        .with("text", quoted)
        .why("it is written as lower-case hexadecimal digits of a fixed number")
}

/// The identity of one repository, random, given once at its creation.
///
/// It is bound into everything that is sealed, so that nothing can be carried from one repository
/// into another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryId([u8; 16]);

hex_name!(RepositoryId, 16, "repository id");

/// The name of a chunk: the BLAKE3-256 hash of its plaintext, keyed in encrypted repositories.
///
/// Equal plaintext has equal ids within one repository, whatever encoding or pack holds it. Without
/// the key nobody can test whether a repository holds a known text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; 32]);

hex_name!(ChunkId, 32, "chunk id");

impl ChunkId {
    /// Stands for any chunk that consists of zero bytes only, and for the empty chunk.
    ///
    /// Such a chunk is never stored; its length follows from its place in the part. As a hash this
    /// value cannot be met in practice, so it is free to mean "no chunk" where a stored chunk is
    /// named, as in the base of a blob.
    pub const ZERO: Self = Self([0; 32]);

    /// Whether this is the mark of a chunk of zeros.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

/// Whether `bytes` holds nothing but zeros. Looks at the first non-zero byte at the latest.
pub fn is_all_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| piece == &ZEROS[..piece.len()])
}

/// How many plaintext bytes one chunk covers; the last chunk of a part may be shorter.
///
/// Invariant: a power of two from 64 KiB to 1 MiB, so that it is a multiple of every engine's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// The default: smaller chunks cost more metadata, larger ones more read amplification, and
    /// the bytes stored hardly depend on it because changed chunks are stored as deltas.
    pub const DEFAULT: Self = Self(262_144);
    /// The smallest chunk.
    pub const MIN: Self = Self(65_536);
    /// The largest chunk.
    pub const MAX: Self = Self(1_048_576);

    /// Checks a size in bytes.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the invariant does not hold.
    pub fn new(bytes: u32) -> Result<Self> {
        if bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            return Ok(Self(bytes));
        }
        Err(Error::new(ErrorKind::Invalid, code::USAGE, "choose the size of chunks")
            .with("size", format!("{bytes} B"))
            .next("choose 65536, 131072, 262144, 524288 or 1048576 bytes"))
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

impl Default for ChunkSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for ChunkSize {
    type Error = Error;

    fn try_from(bytes: u32) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<ChunkSize> for u32 {
    fn from(size: ChunkSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text_and_from_nothing_else() {
        let id = ChunkId::new(*blake3::hash(b"page").as_bytes());
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<ChunkId>(&format!("\"{id}\"")).unwrap(), id);
        for bad in ["", "00", &id.to_string()[1..], &id.to_string().to_uppercase(), "zz"] {
            assert!(bad.parse::<ChunkId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_set_bit_anywhere_is_not_zero() {
        for length in [0, 1, 4095, 4096, 4097, 65_536] {
            let mut bytes = vec![0; length];
            assert!(is_all_zero(&bytes));
            for place in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = 1;
                    assert!(!is_all_zero(&bytes), "{length} {place}");
                    bytes[place] = 0;
                }
            }
        }
    }

    #[test]
    fn a_chunk_size_is_a_power_of_two_within_limits() {
        for good in [65_536, 131_072, 262_144, 524_288, 1_048_576] {
            assert_eq!(ChunkSize::new(good).unwrap().bytes(), good as usize);
        }
        for bad in [0, 1, 32_768, 65_537, 2_097_152, u32::MAX] {
            assert!(ChunkSize::new(bad).is_err(), "{bad}");
        }
    }
}
