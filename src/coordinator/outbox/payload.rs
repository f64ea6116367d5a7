//! What is handed over of a restored database: its file as it is, or its directory as one tar.
//!
//! The tar is of the form that every tar reads: headers of POSIX ustar, and nothing in it that only
//! some understand, but for sizes of 8 GiB and more.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format".

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Everything in a tar is so long, or filled up with zeros.
const BLOCK: u64 = 512;

/// The permission bits of a mode.
const MODE_BITS: u32 = 0o7777;

/// The bytes of a file that is handed over, piece by piece.
#[derive(Debug)]
pub(super) struct Payload {
    pieces: VecDeque<Piece>,
    open: Option<(File, u64)>,
    bytes: u64,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    File(PathBuf, u64),
}

impl Payload {
    /// A file as it is.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let bytes = fs::metadata(path)?.len();
        let pieces = VecDeque::from([Piece::File(path.to_owned(), bytes)]);
        Ok(Self { pieces, open: None, bytes })
    }

    /// A directory and everything in it, as a tar whose names begin with `./`.
    pub(super) fn tar(root: &Path) -> io::Result<Self> {
        let mut payload = Self { pieces: VecDeque::new(), open: None, bytes: 0 };
        payload.pack(root, "./")?;
        payload.add(vec![0; 2 * BLOCK as usize]);
        Ok(payload)
    }

    /// How many bytes there are.
    pub(super) fn length(&self) -> u64 {
        self.bytes
    }

    fn add(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        self.pieces.push_back(Piece::Bytes(bytes));
    }

    fn pack(&mut self, directory: &Path, name: &str) -> io::Result<()> {
        self.add(header(name, &fs::symlink_metadata(directory)?, (b'5', 0, ""))?);
        let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path)?;
            let own = entry.file_name().into_string();
            let own = own.map_err(|own| unfit(&format!("{name}{}", own.display())))?;
            let name = format!("{name}{own}");
            if metadata.is_dir() {
                self.pack(&path, &format!("{name}/"))?;
            } else if metadata.is_symlink() {
                let to = fs::read_link(&path)?;
                let to = to.to_str().ok_or_else(|| unfit(&name))?;
                self.add(header(&name, &metadata, (b'2', 0, to))?);
            } else if metadata.is_file() {
                let bytes = metadata.len();
                self.add(header(&name, &metadata, (b'0', bytes, ""))?);
                self.bytes += bytes;
                self.pieces.push_back(Piece::File(path, bytes));
                self.add(vec![0; (bytes.next_multiple_of(BLOCK) - bytes) as usize]);
            } else {
                return Err(unfit(&name));
            }
        }
        Ok(())
    }
}

impl Read for Payload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((file, left)) = &mut self.open {
                if *left == 0 {
                    self.open = None;
                    continue;
                }
                let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let read = file.read(&mut buffer[..most])?;
                if read == 0 {
                    let why = "a restored file became shorter";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
                *left -= read as u64;
                return Ok(read);
            }
            match self.pieces.front_mut() {
                None => return Ok(0),
                Some(Piece::Bytes(bytes)) if !bytes.is_empty() => {
                    let read = buffer.len().min(bytes.len());
                    buffer[..read].copy_from_slice(&bytes[..read]);
                    bytes.drain(..read);
                    return Ok(read);
                }
                Some(Piece::File(path, bytes)) => self.open = Some((File::open(path)?, *bytes)),
                Some(Piece::Bytes(_)) => {}
            }
            self.pieces.pop_front();
        }
    }
}

fn unfit(name: &str) -> io::Error {
    let why = format!("{name} cannot be put into a tar that every tar reads");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The header of one entry.
fn header(
    name: &str,
    metadata: &fs::Metadata,
    (kind, bytes, link): (u8, u64, &str),
) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK as usize];
    let (prefix, short) = split(name).ok_or_else(|| unfit(name))?;
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, short.as_bytes());
    put(100, &octal(u64::from(metadata.mode() & MODE_BITS), 8));
    put(108, &octal(u64::from(metadata.uid()), 8));
    put(116, &octal(u64::from(metadata.gid()), 8));
    put(124, &octal(bytes, 12));
    put(136, &octal(u64::try_from(metadata.mtime()).unwrap_or_default(), 12));
    put(148, b"        ");
    put(156, &[kind]);
    if link.len() > 100 {
        return Err(unfit(name));
    }
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// A name in the two fields that it has.
fn split(name: &str) -> Option<(&str, &str)> {
    const SHORT: usize = 100;
    const PREFIX: usize = 155;
    if name.len() <= SHORT {
        return Some(("", name));
    }
    let ends = name.match_indices('/').map(|(at, _)| at);
    ends.map(|at| (&name[..at], &name[at + 1..]))
        .find(|(prefix, short)| prefix.len() <= PREFIX && (1..=SHORT).contains(&short.len()))
}

/// A number in a field, in octal digits, or, where those are too few, in base 256 as all tars have
/// it by now.
fn octal(number: u64, width: usize) -> Vec<u8> {
    let digits = format!("{number:0width$o}\0", width = width - 1);
    if digits.len() == width {
        return digits.into_bytes();
    }
    let mut field = vec![0; width];
    let bytes = number.to_be_bytes();
    let fits = width.min(bytes.len());
    field[width - fits..].copy_from_slice(&bytes[bytes.len() - fits..]);
    field[0] |= 0x80;
    field
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;

    /// Row 19: what every tar unpacks, with names of both fields, links and modes.
    #[test]
    fn row_19_a_directory_becomes_a_tar_that_tar_reads() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        let deep = from.join("d".repeat(60)).join("e".repeat(60));
        fs::create_dir_all(&deep).unwrap();
        fs::write(from.join("empty"), b"").unwrap();
        fs::write(from.join("odd"), vec![7; 70_001]).unwrap();
        fs::write(deep.join("block"), vec![8; 1024]).unwrap();
        symlink("../odd", from.join("link")).unwrap();
        fs::set_permissions(from.join("odd"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o700)).unwrap();

        let mut payload = Payload::tar(&from).unwrap();
        let mut bytes = Vec::new();
        payload.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, payload.length());
        let tar = folder.path().join("data.tar");
        fs::write(&tar, &bytes).unwrap();
        let to = folder.path().join("to");
        fs::create_dir(&to).unwrap();
        let mut unpack = Command::new("tar");
        assert!(unpack.arg("-xpf").arg(&tar).arg("-C").arg(&to).status().unwrap().success());
        let mut compare = Command::new("diff");
        let same = compare.args(["-r", "--no-dereference"]).args([&from, &to]).status().unwrap();
        assert!(same.success());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & MODE_BITS;
        assert_eq!((mode(&to), mode(&to.join("odd"))), (0o700, 0o640));
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("../odd"));
    }

    #[test]
    fn numbers_that_octal_digits_cannot_hold_are_written_all_the_same() {
        assert_eq!(octal(8, 8), b"0000010\0");
        assert_eq!(octal((1 << 33) - 1, 12), b"77777777777\0");
        assert_eq!(octal(1 << 33, 12), [&[0x80, 0, 0, 0, 0, 0, 0][..], &[2, 0, 0, 0, 0]].concat());
        assert_eq!(octal(1 << 21, 8), [0x80, 0, 0, 0, 0, 0x20, 0, 0]);
    }
}
