//! Archives as `BASE_BACKUP` sends them: POSIX tar, read piece by piece.
//!
//! Source: <https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html>, "ustar
//! Interchange Format"; sizes of 8 GiB and more are in base 256, as GNU tar has them.

use bytes::{Bytes, BytesMut};
use stillpoint_contract::{Error, ErrorKind, Result, code};

const BLOCK_BYTES: usize = 512;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) length_bytes: u64,
    pub(crate) kind: MemberKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File,
    Directory,
    Link,
}

/// What an archive consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A member begins.
    Member(Member),
    /// Bytes of it.
    Bytes(Bytes),
    /// It is complete.
    End,
}

/// An archive that arrives.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    input: BytesMut,
    /// Bytes of the current member that are still to come, and of what fills its last block.
    left: Option<(u64, u64)>,
}

impl Archive {
    /// Adds what arrived.
    pub(crate) fn feed(&mut self, bytes: &Bytes) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether nothing is half read.
    pub(crate) fn is_whole(&self) -> bool {
        self.left.is_none() && self.input.is_empty()
    }

    /// The next piece, if it has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            match self.left {
                None => match self.header()? {
                    Some(member) => return Ok(Some(Piece::Member(member))),
                    None if self.input.len() < BLOCK_BYTES => return Ok(None),
                    None => {}
                },
                Some((0, padding)) => {
                    let padding = padding as usize;
                    if self.input.len() < padding {
                        return Ok(None);
                    }
                    let _ = self.input.split_to(padding);
                    self.left = None;
                    return Ok(Some(Piece::End));
                }
                Some((content, padding)) => {
                    if self.input.is_empty() {
                        return Ok(None);
                    }
                    let length = content.min(self.input.len() as u64);
                    let bytes = self.input.split_to(length as usize).freeze();
                    self.left = Some((content - length, padding));
                    return Ok(Some(Piece::Bytes(bytes)));
                }
            }
        }
    }

    /// Reads a header; `None` for a block of zeros, of which the archive ends with two, and while
    /// it has not arrived.
    fn header(&mut self) -> Result<Option<Member>> {
        if self.input.len() < BLOCK_BYTES {
            return Ok(None);
        }
        let header = self.input.split_to(BLOCK_BYTES);
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let member = decode(&header).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, code::BUG, "read a header of an archive")
        })?;
        let padding = member.length_bytes.next_multiple_of(BLOCK_BYTES as u64);
        self.left = Some((member.length_bytes, padding - member.length_bytes));
        Ok(Some(member))
    }
}

fn decode(header: &[u8]) -> Option<Member> {
    let field = |at: usize, length: usize| header.get(at..at + length);
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    let stored: u64 = field(148, 8)?.iter().map(|byte| u64::from(*byte)).sum();
    if number(field(148, 8)?)? != sum - stored + 8 * u64::from(b' ') {
        return None;
    }
    let kind = match field(156, 1)? {
        b"0" | b"\0" => MemberKind::File,
        b"5" => MemberKind::Directory,
        b"2" => MemberKind::Link,
        _ => return None,
    };
    let length_bytes = if kind == MemberKind::File { number(field(124, 12)?)? } else { 0 };
    // Whoever means more than that means something else.
    if length_bytes > 1 << 50 {
        return None;
    }
    let (name, prefix) = (text(field(0, 100)?)?, text(field(345, 155)?)?);
    let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    let path = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/').to_owned();
    let mode = u32::try_from(number(field(100, 8)?)?).ok()? & 0o7777;
    Some(Member { path, mode, length_bytes, kind })
}

fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8(field.get(..end)?.to_vec()).ok()
}

/// A number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        return rest.iter().try_fold(u64::from(first & 0x7f), |sum, byte| {
            Some(sum.checked_mul(256)? | u64::from(*byte))
        });
    }
    let digits: String = text(field)?;
    let digits = digits.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK_BYTES];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000600");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = if name.ends_with('/') { b'5' } else { b'0' };
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let padding = content.len().next_multiple_of(BLOCK_BYTES) - content.len();
        [header, content.to_vec(), vec![0; padding]].concat()
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let (mut archive, mut found) = (Archive::default(), Vec::new());
        for piece in bytes.chunks(step) {
            archive.feed(&Bytes::copy_from_slice(piece));
            while let Some(piece) = archive.next()? {
                match piece {
                    Piece::Member(member) => found.push((member.path, Vec::new())),
                    Piece::Bytes(bytes) => found.last_mut().unwrap().1.extend(bytes),
                    Piece::End => {}
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn members_arrive_whole_however_they_are_cut() {
        let long = vec![7; 1500];
        let bytes = [
            member("a", b"hello"),
            member("./b/", b""),
            member("empty", b""),
            member("long", &long),
            vec![0; 1024],
        ];
        let bytes = bytes.concat();
        for step in [1, 7, 511, 512, 513, 100_000] {
            let found = read(&bytes, step).unwrap();
            assert_eq!(found[0], ("a".to_owned(), b"hello".to_vec()));
            assert_eq!(found[1].0, "b");
            assert_eq!(found[2], ("empty".to_owned(), Vec::new()));
            assert_eq!(found[3], ("long".to_owned(), long.clone()));
            assert_eq!(found.len(), 4);
        }
    }

    #[test]
    fn numbers_have_two_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(2 << 32));
        assert_eq!(number(&[0xff; 12]), None);
        assert_eq!(number(b"9"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_harm(bytes: Vec<u8>, at in 0_usize..1024, to: u8) {
            let _ = read(&bytes, 100);
            let mut damaged = [member("a", b"hello"), vec![0; 1024]].concat();
            damaged[at] = to;
            let _ = read(&damaged, 100);
        }
    }
}
