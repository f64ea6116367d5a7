//! How a chunk's bytes become smaller: zstd, alone or as a delta against one full chunk.
//!
//! A delta is an ordinary zstd frame whose window begins with the base's plaintext ("reference
//! prefix"). A base is always stored in full, so reading a chunk needs at most two blobs.

use std::fmt;

use stillpoint_contract::{Buffer, BufferPool, Error, ErrorKind, Result, code};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

/// How the stored bytes of a chunk become its plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// They are the plaintext.
    Raw = 0,
    /// They are one zstd frame (RFC 8878).
    Zstd = 1,
    /// They are one zstd frame that refers to the plaintext of a base as a raw-content prefix.
    Delta = 2,
}

impl Encoding {
    /// Reads the number used in stored bytes; `None` when this version does not know it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Delta),
            _ => None,
        }
    }

    /// The number used in stored bytes.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// A zstd level, from -5 (fastest) to 9 (smallest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i8);

impl Level {
    /// The knee for database pages: levels above 3 gain under 3 % for four times the work.
    pub const DEFAULT: Self = Self(1);
    /// The fastest.
    pub const FASTEST: Self = Self(-5);
    /// The strongest that adapts by itself.
    pub const STRONGEST: Self = Self(6);
    /// The strongest at all, for archives.
    pub const ARCHIVE: Self = Self(9);

    /// Takes the nearest level that is allowed.
    pub fn clamped(level: i32) -> Self {
        Self(level.clamp(-5, 9) as i8)
    }

    /// The level as zstd numbers it.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// The level of full chunks; deltas are always made at level 1, which no other beats.
    pub level: Level,
    /// Whether every result is decoded and compared before it is trusted. Costs about a fifth of
    /// the work and finds broken compressors and broken memory before the source is gone.
    pub verify: bool,
}

impl Default for Effort {
    fn default() -> Self {
        Self { level: Level::DEFAULT, verify: true }
    }
}

/// The chunk that a delta may refer to: the last full copy of the same place.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// Its plaintext.
    pub plain: &'a [u8],
    /// The bytes that its full blob occupies: the estimate of what the new chunk would cost.
    pub stored_bytes: usize,
}

impl fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("plain_bytes", &self.plain.len())
            .field("stored_bytes", &self.stored_bytes)
            .finish()
    }
}

/// What [`Scratch::encode`] made of a chunk.
#[derive(PartialEq, Eq)]
pub struct Encoded {
    /// How to read it.
    pub encoding: Encoding,
    /// The bytes, with room for a tag behind them.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("encoding", &self.encoding)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// The most plaintext that one call encodes or decodes, in bytes.
pub const PLAIN_BYTES_MAX: usize = 64 << 20;

/// Shorter plaintext is not worth a delta.
const DELTA_BYTES_MIN: usize = 1024;
/// Longer plaintext, or a longer base, is not worth the memory that a delta would need.
const DELTA_BYTES_MAX: usize = 8 << 20;
/// A prefix that begins so would be taken for a trained dictionary.
/// Source: zstd.h 1.5.7, `ZSTD_MAGIC_DICTIONARY`.
const DICTIONARY_MAGIC: [u8; 4] = 0xEC30_A437_u32.to_le_bytes();
/// Room that is kept behind encoded bytes, so that sealing them does not move them.
pub(super) const TAG_ROOM_BYTES: usize = 32;
/// The piece of a chunk, taken twice, that tells whether compressing it is worth a try.
const PROBE_BYTES: usize = 4096;

/// What one worker thread keeps between chunks: zstd contexts and buffers.
///
/// Results never depend on what was encoded or decoded before.
pub struct Scratch {
    compressor: CCtx<'static>,
    level: Option<Level>,
    prober: CCtx<'static>,
    decompressor: DCtx<'static>,
    output: Vec<u8>,
    proof: Vec<u8>,
    buffers: BufferPool,
    /// Deciphered bytes between two stages of reading.
    pub(super) opened: Vec<u8>,
}

impl Scratch {
    /// Allocates the contexts, about 1.5 MiB once used with chunks of 256 KiB.
    pub fn new() -> Self {
        Self::sharing(BufferPool::default())
    }

    /// The same, with buffers that several threads take turns to use.
    pub(super) fn sharing(buffers: BufferPool) -> Self {
        Self {
            compressor: CCtx::create(),
            level: None,
            prober: CCtx::create(),
            decompressor: DCtx::create(),
            output: Vec::new(),
            proof: Vec::new(),
            buffers,
            opened: Vec::new(),
        }
    }

    /// Encodes one chunk: as a delta where that takes less than half of what the base takes in
    /// full, else compressed where that gains anything, else raw.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for more than [`PLAIN_BYTES_MAX`];
    /// [`Corrupt`](ErrorKind::Corrupt) when the result does not decode to what went in, which
    /// means that this machine's memory or processor cannot be trusted.
    pub fn encode(
        &mut self,
        plain: &[u8],
        base: Option<Base<'_>>,
        effort: Effort,
    ) -> Result<Encoded> {
        if plain.len() > PLAIN_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, code::BUG, "encode a chunk")
                .with("size", format!("{} B", plain.len())));
        }
        if let Some(base) = base
            && let Some(length) = self.try_delta(plain, base)
        {
            return self.prove(plain, Encoding::Delta, length, Some(base.plain), effort);
        }
        if self.is_compressible(plain)
            && let Some(length) = self.try_zstd(plain, effort.level)
        {
            return self.prove(plain, Encoding::Zstd, length, None, effort);
        }
        Ok(Encoded { encoding: Encoding::Raw, bytes: with_tag_room(plain) })
    }

    /// Decodes one chunk into exactly `plain_bytes` bytes; what the frame itself claims is not
    /// trusted. The caller has bounded `plain_bytes` and checks the chunk's id afterwards.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](ErrorKind::Corrupt) when the bytes do not decode to that length.
    pub fn decode(
        &mut self,
        encoding: Encoding,
        stored: &[u8],
        base: Option<&[u8]>,
        plain_bytes: usize,
    ) -> Result<Buffer> {
        if plain_bytes > PLAIN_BYTES_MAX {
            return Err(undecodable("it claims to be larger than any chunk"));
        }
        if encoding == Encoding::Raw {
            let whole = stored.len() == plain_bytes && base.is_none();
            return if whole {
                Ok(stored.to_vec().into())
            } else {
                Err(undecodable("its length differs"))
            };
        }
        let mut plain = self.buffers.take(plain_bytes);
        let length = decompress(&mut self.decompressor, &mut *plain, encoding, stored, base)?;
        if length == plain_bytes { Ok(plain) } else { Err(undecodable("its length differs")) }
    }

    /// Decodes what was sealed and has just been opened into the scratch buffer.
    pub(super) fn decode_opened(
        &mut self,
        encoding: Encoding,
        base: Option<&[u8]>,
        plain_bytes: usize,
    ) -> Result<Buffer> {
        let opened = std::mem::take(&mut self.opened);
        let plain = self.decode(encoding, &opened, base, plain_bytes);
        self.opened = opened;
        plain
    }

    /// The length of the delta in the output buffer, if it is short enough to be kept.
    fn try_delta(&mut self, plain: &[u8], base: Base<'_>) -> Option<usize> {
        let sizes = DELTA_BYTES_MIN..=DELTA_BYTES_MAX;
        if !sizes.contains(&plain.len())
            || !sizes.contains(&base.plain.len())
            || base.plain.starts_with(&DICTIONARY_MAGIC)
        {
            return None;
        }
        let limit = (base.stored_bytes.saturating_sub(1) / 2).min(plain.len() / 2);
        let output = room(&mut self.output, limit);
        // A context borrows its prefix for as long as it lives, so each delta has its own.
        let mut context = CCtx::create();
        set_delta_parameters(&mut context, plain.len(), base.plain.len()).ok()?;
        context.ref_prefix(base.plain).ok()?;
        context.compress2(output, plain).ok()
    }

    /// The length of the frame in the output buffer, if compression gained anything.
    fn try_zstd(&mut self, plain: &[u8], level: Level) -> Option<usize> {
        if self.level != Some(level) {
            self.level = None;
            self.compressor.set_parameter(CParameter::CompressionLevel(level.number())).ok()?;
            self.level = Some(level);
        }
        let output = room(&mut self.output, worthwhile(plain.len()));
        self.compressor.compress2(output, plain).ok()
    }

    /// Looks at two pages, the first and the middle one. Encrypted and compressed content shows
    /// there, and trying all of it would cost most of what compressing costs.
    fn is_compressible(&mut self, plain: &[u8]) -> bool {
        if plain.len() <= 2 * PROBE_BYTES {
            return !plain.is_empty();
        }
        let mut sample = [0; 2 * PROBE_BYTES];
        let middle = plain.len() / 2;
        sample[..PROBE_BYTES].copy_from_slice(&plain[..PROBE_BYTES]);
        sample[PROBE_BYTES..].copy_from_slice(&plain[middle..][..PROBE_BYTES]);
        if !looks_random(&sample) {
            return true;
        }
        let output = room(&mut self.output, worthwhile(sample.len()));
        self.prober.compress(output, &sample, 1).is_ok()
    }

    /// Copies the first `length` bytes of the output buffer out, having shown that they decode to
    /// what they were made from.
    fn prove(
        &mut self,
        plain: &[u8],
        encoding: Encoding,
        length: usize,
        base: Option<&[u8]>,
        effort: Effort,
    ) -> Result<Encoded> {
        let stored = &self.output[..length];
        if effort.verify {
            let proof = room(&mut self.proof, plain.len());
            let decoded = decompress(&mut self.decompressor, proof, encoding, stored, base);
            if !decoded.is_ok_and(|length| proof[..length] == *plain) {
                return Err(miscomputed());
            }
        }
        Ok(Encoded { encoding, bytes: with_tag_room(stored) })
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("level", &self.level).finish_non_exhaustive()
    }
}

/// Sizes zstd's tables for a prefix as long as the chunk itself.
///
/// Level 1 gives a hash table of 2^14 entries. A prefix of 256 KiB or more overflows it, and the
/// delta silently becomes as large as the full chunk. A window that spans prefix and chunk, and one
/// entry per four bytes of the chunk, are enough: zstd enters every third position of a prefix, and
/// twice the table takes a seventh more time and makes deltas a hundredth smaller. The chain table
/// is not used at level 1.
/// Source: zstd.h 1.5.7, `ZSTD_CCtx_refPrefix`; clevels.h 1.5.7, strategy `ZSTD_fast`.
fn set_delta_parameters(
    context: &mut CCtx<'_>,
    plain_bytes: usize,
    base_bytes: usize,
) -> Result<usize, usize> {
    let chunk_log = log2_up(plain_bytes.max(base_bytes));
    context.set_parameter(CParameter::CompressionLevel(1))?;
    context.set_parameter(CParameter::WindowLog(log2_up(plain_bytes + base_bytes)))?;
    context.set_parameter(CParameter::HashLog((chunk_log - 2).max(12)))
}

/// The smallest power of two that is not below `bytes`, as an exponent; at least 10, which is
/// the smallest window (zstd.h 1.5.7, `ZSTD_WINDOWLOG_MIN`).
fn log2_up(bytes: usize) -> u32 {
    bytes.next_power_of_two().trailing_zeros().max(10)
}

/// The most bytes that a compressed form may have to be preferred to the raw one: 3 % are gained.
fn worthwhile(plain_bytes: usize) -> usize {
    plain_bytes - plain_bytes / 32 - usize::from(plain_bytes > 0)
}

/// Whether bytes are spread as evenly as those of encrypted or compressed content.
///
/// Counts how often two sampled bytes are equal. Costs a tenth of compressing the sample, and
/// settles the matter for nearly all pages.
fn looks_random(sample: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    let sampled = sample.iter().step_by(4);
    let total = sampled.len() as u64;
    sampled.for_each(|&byte| counts[usize::from(byte)] += 1);
    let equal_pairs: u64 = counts.iter().map(|&count| u64::from(count).pow(2)).sum();
    let expected = total + total * total / 256;
    equal_pairs * 4 < expected * 5
}

/// The first `length` bytes of a buffer that grows when needed and is never cleared.
fn room(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    &mut buffer[..length]
}

fn with_tag_room(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len() + TAG_ROOM_BYTES);
    copy.extend_from_slice(bytes);
    copy
}

fn decompress<W: zstd::zstd_safe::WriteBuf + ?Sized>(
    context: &mut DCtx<'_>,
    output: &mut W,
    encoding: Encoding,
    stored: &[u8],
    base: Option<&[u8]>,
) -> Result<usize> {
    let outcome = match (encoding, base) {
        (Encoding::Zstd, None) => context.decompress(output, stored),
        (Encoding::Delta, Some(base)) if !base.starts_with(&DICTIONARY_MAGIC) => {
            context.decompress_using_dict(output, stored, base)
        }
        _ => return Err(undecodable("encoding and base do not fit together")),
    };
    outcome.map_err(|number| undecodable(zstd::zstd_safe::get_error_name(number)))
}

fn miscomputed() -> Error {
    let step = "compress a chunk so that it decompresses to the same bytes";
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, step)
        .why("this machine's memory or processor gave a wrong result; nothing was stored")
        .next("test the memory of this machine before trusting it with backups")
}

fn undecodable(problem: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, code::CORRUPT_OBJECT, "decode a chunk").with("problem", problem)
}
