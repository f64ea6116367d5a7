//! Pages on their way from a file into a part, in buffers that are used again.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _};

use stillpoint_contract::{Buffer, BufferPool};

use crate::checksum;

/// Reads a range of a file; what it does not have is zero.
pub(crate) fn read(pool: &BufferPool, file: &File, range: Range<u64>) -> io::Result<Buffer> {
    let mut buffer = pool.take((range.end - range.start) as usize);
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, range.start + done as u64) {
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer)
}

/// How pages are checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    pub(crate) page_bytes: u32,
    /// The number that the file's first page has within its relation.
    pub(crate) first_block: u32,
}

/// Neighbouring pages of a file.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Where they begin in the file.
    pub(crate) start: u64,
    pub(crate) bytes: Buffer,
    /// Those whose checksum does not fit, counted from `start`.
    pub(crate) bad: Vec<u32>,
}

impl Pages {
    /// Takes what was read of a range, with zeros for what is missing, and checks it.
    pub(crate) fn padded(range: Range<u64>, mut bytes: Vec<u8>, check: Option<Check>) -> Self {
        bytes.resize((range.end - range.start) as usize, 0);
        Self::checked(range.start, bytes.into(), check)
    }

    /// Checks what was read, if it is to be checked.
    pub(crate) fn checked(start: u64, bytes: Buffer, check: Option<Check>) -> Self {
        let bad = check.map_or_else(Vec::new, |Check { page_bytes, first_block }| {
            let block = first_block.wrapping_add((start / u64::from(page_bytes)) as u32);
            checksum::bad_pages(&bytes, page_bytes as usize, block)
        });
        Self { start, bytes, bad }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_a_file_does_not_have_is_zero_whatever_the_buffer_held_before() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 300 << 10]).unwrap();
        let pool = BufferPool::default();
        for range in [0..300 << 10, 100 << 10..400 << 10, 300 << 10..600 << 10, 5..9, 0..256 << 10]
        {
            let buffer = read(&pool, &file, range.clone()).unwrap();
            let there = (300_u64 << 10).saturating_sub(range.start) as usize;
            let expected: Vec<u8> = (0..(range.end - range.start) as usize)
                .map(|at| if at < there { 7 } else { 0 })
                .collect();
            assert!(*buffer == *expected, "{range:?}");
        }
    }
}
