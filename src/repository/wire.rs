//! Reading stored bytes: little-endian, bounded, and never trusted.

use stillpoint_contract::{Error, ErrorKind, code};

/// Reads fixed-width fields from the front of a slice; `None` when the bytes run out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Passes over `N` bytes that this version writes as zeros; anything else is damage.
    pub(super) fn zeros<const N: usize>(&mut self) -> Option<()> {
        (self.array::<N>()? == [0; N]).then_some(())
    }
}

/// Stored bytes are not what was written.
pub(super) fn corrupt(step: impl Into<String>, problem: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, step.into())
        .with("problem", problem)
        .why("the stored bytes are not the ones that were written")
}

/// Stored bytes were written by a version that knows more than this one.
pub(super) fn newer(step: impl Into<String>, version: u16) -> Error {
    Error::new(ErrorKind::Unsupported, code::NEWER_FORMAT, step.into())
        .with("format version", version)
        .why("it was written by a newer version of Stillpoint")
        .next("use the version of Stillpoint that wrote it, or a later one")
}
