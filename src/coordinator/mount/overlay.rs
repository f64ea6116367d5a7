//! What is written to a mounted backup: blocks in files of a scratch directory, beside the parts
//! that they hide. A block that nobody wrote is never copied.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::repository::PartPlace;

/// What is written at once; the length of a page of memory, so that the kernel writes whole ones.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Files of the overlay that stay open.
const OPEN_MAX: usize = 128;

/// The directory in which written blocks lie: a file for each file that was written to.
#[derive(Debug)]
pub(super) struct Overlay {
    directory: PathBuf,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

impl Overlay {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, open: Mutex::default() }
    }

    pub(super) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, node: u64) -> PathBuf {
        self.directory.join(node.to_string())
    }

    fn file(&self, node: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.open().get(&node) {
            return Ok(Arc::clone(file));
        }
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = Arc::new(options.open(self.path(node))?);
        let mut open = self.open();
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(node, Arc::clone(&file));
        Ok(file)
    }

    /// Reads what was written to a file.
    pub(super) fn read(&self, node: u64, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        let file = self.file(node)?;
        let (start, mut at) = (into.len(), 0);
        into.resize(start + (range.end - range.start) as usize, 0);
        let buffer = &mut into[start..];
        // What lies past the end of the overlay's file was never written: zeros.
        while at < buffer.len() {
            match file.read_at(&mut buffer[at..], range.start + at as u64)? {
                0 => break,
                read => at += read,
            }
        }
        Ok(())
    }

    /// Forgets what was written to a file that is gone.
    pub(super) fn remove(&self, node: u64) {
        self.open().remove(&node);
        // It goes with its directory at the latest.
        drop(fs::remove_file(self.path(node)));
    }
}

/// The bytes of one file: those of a part, under those that were written.
#[derive(Debug)]
pub(super) struct Body {
    /// The part, and how much of it still shows.
    part: Option<(PartPlace, u64)>,
    length: u64,
    /// Which blocks were written of those of the part, one bit each.
    written: Vec<u64>,
    has_file: bool,
}

/// Where a stretch of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// From the part.
    Part(PartPlace, Range<u64>),
    /// From the overlay.
    Written(Range<u64>),
    /// Nobody wrote it.
    Zeros(u64),
}

/// A block, and what of the part shows there.
pub(super) type Under = (u64, PartPlace, Range<u64>);

impl Body {
    /// That of a part.
    pub(super) fn of_part(part: PartPlace, length: u64) -> Self {
        Self { part: Some((part, length)), length, written: Vec::new(), has_file: false }
    }

    /// That of a new file.
    pub(super) fn empty() -> Self {
        Self { part: None, length: 0, written: Vec::new(), has_file: false }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Blocks of which the part shows something: of the others, all that there is was written.
    fn shown_blocks(&self) -> u64 {
        self.part.map_or(0, |(_, shown)| shown.div_ceil(BLOCK_BYTES))
    }

    fn is_written(&self, block: u64) -> bool {
        if block >= self.shown_blocks() {
            return self.has_file;
        }
        let word = self.written.get((block / 64) as usize).copied().unwrap_or(0);
        word >> (block % 64) & 1 == 1
    }

    fn note_written(&mut self, blocks: Range<u64>) {
        let blocks = blocks.start..blocks.end.min(self.shown_blocks());
        let words = blocks.end.div_ceil(64) as usize;
        if self.written.len() < words {
            self.written.resize(words, 0);
        }
        for block in blocks {
            self.written[(block / 64) as usize] |= 1 << (block % 64);
        }
    }

    /// Where a range comes from, in order; cut at the end of the file.
    pub(super) fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let end = range.end.min(self.length);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = range.start;
        while at < end {
            let block = at / BLOCK_BYTES;
            let mut stop = ((block + 1) * BLOCK_BYTES).min(end);
            let (part, shown) = self.part.unzip();
            let shown = shown.unwrap_or(0);
            let piece = if self.is_written(block) {
                Piece::Written(at..stop)
            } else if let Some(part) = part.filter(|_| at < shown) {
                stop = stop.min(shown);
                Piece::Part(part, at..stop)
            } else {
                Piece::Zeros(stop - at)
            };
            match (pieces.last_mut(), piece) {
                (Some(Piece::Written(last)), Piece::Written(next))
                | (Some(Piece::Part(_, last)), Piece::Part(_, next)) => last.end = next.end,
                (Some(Piece::Zeros(last)), Piece::Zeros(next)) => *last += next,
                (_, piece) => pieces.push(piece),
            }
            at = stop;
        }
        pieces
    }

    /// Blocks at the ends of a write that need the part's bytes around it; at most two.
    pub(super) fn needed_for(&self, offset: u64, length: u64) -> Vec<Under> {
        let Some((part, shown)) = self.part else { return Vec::new() };
        let end = offset + length;
        let blocks = [offset / BLOCK_BYTES, end.saturating_sub(1) / BLOCK_BYTES];
        let mut needed: Vec<Under> = Vec::new();
        for block in blocks {
            let whole = block * BLOCK_BYTES..((block + 1) * BLOCK_BYTES).min(shown);
            let is_covered = offset <= whole.start && whole.end <= end;
            let is_known = needed.iter().any(|(known, ..)| *known == block);
            if !whole.is_empty() && !is_covered && !self.is_written(block) && !is_known {
                needed.push((block, part, whole));
            }
        }
        needed
    }

    /// Writes bytes; `under` are the blocks that [`needed_for`](Self::needed_for) named.
    pub(super) fn write(
        &mut self,
        (overlay, node): (&Overlay, u64),
        offset: u64,
        bytes: &[u8],
        under: &[(u64, Vec<u8>)],
    ) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let file = overlay.file(node)?;
        self.has_file = true;
        let mut under = under.iter().filter(|(block, _)| !self.is_written(*block));
        let written = under
            .try_for_each(|(block, under)| file.write_all_at(under, block * BLOCK_BYTES))
            .and_then(|()| file.write_all_at(bytes, offset));
        if let Err(error) = written {
            // What came to lie behind the end must not show when it grows.
            drop(file.set_len(self.length));
            return Err(error);
        }
        self.note_written(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
        self.length = self.length.max(end);
        Ok(())
    }

    /// Makes it longer or shorter.
    pub(super) fn resize(
        &mut self,
        (overlay, node): (&Overlay, u64),
        length: u64,
    ) -> io::Result<()> {
        if length < self.length {
            if let Some((_, shown)) = &mut self.part {
                *shown = (*shown).min(length);
            }
            if self.has_file {
                // What is cut off must not come back when it grows again.
                overlay.file(node)?.set_len(length)?;
            }
        }
        self.length = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_and_cannot_be_read_is_an_error_and_no_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let overlay = Overlay::new(directory.path().to_owned());
        let mut body = Body::empty();
        body.write((&overlay, 7), 5, b"bytes", &[]).unwrap();
        let mut read = Vec::new();
        overlay.read(7, 0..10, &mut read).unwrap();
        assert_eq!(read, b"\0\0\0\0\0bytes");
        // Opened anew, it cannot be read any more.
        overlay.open().clear();
        fs::remove_file(overlay.path(7)).unwrap();
        fs::create_dir(overlay.path(7)).unwrap();
        overlay.read(7, 0..10, &mut Vec::new()).unwrap_err();
        let file = Arc::new(File::open(overlay.path(7)).unwrap());
        overlay.open().insert(7, file);
        overlay.read(7, 0..10, &mut Vec::new()).unwrap_err();
    }

    #[test]
    fn a_write_where_no_file_can_be_is_an_error_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let overlay = Overlay::new(directory.path().to_owned());
        let mut body = Body::empty();
        body.write((&overlay, 7), 0, b"here", &[]).unwrap();
        for offset in [u64::MAX, u64::MAX - 2, 1 << 63] {
            body.write((&overlay, 7), offset, b"x".repeat(4).as_slice(), &[]).unwrap_err();
            assert_eq!(body.length(), 4);
        }
        let mut read = Vec::new();
        overlay.read(7, 0..4, &mut read).unwrap();
        assert_eq!(read, b"here");
    }
}
