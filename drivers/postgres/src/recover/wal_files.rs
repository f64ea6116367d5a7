//! WAL as a server finds it in `pg_wal`: files of one length, cut at exactly one position.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::wire::lsn_text;

/// The files of `pg_wal` while WAL is written into them.
#[derive(Debug)]
pub(super) struct WalFiles {
    directory: PathBuf,
    segment_bytes: u64,
    open: Option<((u32, u64), File)>,
}

impl WalFiles {
    pub(super) fn new(directory: PathBuf, segment_bytes: u32) -> Self {
        Self { directory, segment_bytes: u64::from(segment_bytes), open: None }
    }

    /// Writes WAL of a timeline at its position.
    pub(super) fn write(&mut self, timeline: u32, lsn: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut lsn = lsn;
        while !bytes.is_empty() {
            let (number, at) = (lsn / self.segment_bytes, lsn % self.segment_bytes);
            let left = usize::try_from(self.segment_bytes - at).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(bytes.len().min(left));
            self.file(timeline, number)?.write_all_at(piece, at)?;
            lsn = lsn.checked_add(piece.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
            bytes = rest;
        }
        Ok(())
    }

    fn file(&mut self, timeline: u32, number: u64) -> io::Result<&File> {
        let key = (timeline, number);
        if self.open.as_ref().is_none_or(|(open, _)| *open != key) {
            let path = self.path(timeline, number);
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false);
            let file = file.mode(0o600).open(path)?;
            if file.metadata()?.len() < self.segment_bytes {
                file.set_len(self.segment_bytes)?;
            }
            self.open = Some((key, file));
        }
        let open = self.open.as_ref().map(|(_, file)| file);
        open.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Begins a timeline that left `old` at `lsn`: its first file begins with the old one's WAL,
    /// and its history names the place.
    pub(super) fn switch(&mut self, old: u32, new: u32, lsn: u64) -> io::Result<()> {
        self.open = None;
        let (number, at) = (lsn / self.segment_bytes, lsn % self.segment_bytes);
        if at > 0 {
            let mut before = Vec::new();
            File::open(self.path(old, number))?.take(at).read_to_end(&mut before)?;
            self.write(new, lsn - at, &before)?;
        }
        let history = self.directory.join(history_name(new));
        if history.exists() {
            return Ok(());
        }
        let text = match fs::read_to_string(self.directory.join(history_name(old))) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let left = lsn_text(lsn);
        fs::write(history, format!("{text}{old}\t{left}\tno recovery target specified\n"))
    }

    /// Ends the WAL of a timeline at `lsn`: a server that replays it cannot go further.
    pub(super) fn cut(&mut self, timeline: u32, lsn: u64) -> io::Result<()> {
        self.open = None;
        let (last, at) = (lsn / self.segment_bytes, lsn % self.segment_bytes);
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some((of, number)) = name.and_then(|name| self.parse(name)) else { continue };
            if of > timeline || number > last || (number == last && at == 0) {
                fs::remove_file(path)?;
            } else if of == timeline && number == last {
                let file = File::options().write(true).open(path)?;
                file.set_len(at)?;
                file.set_len(self.segment_bytes)?;
            }
        }
        Ok(())
    }

    /// Takes the numbers of timelines from the one after `at` up to `newest`, with histories that
    /// nobody follows: a server that ends recovery looks for the first number without one. Returns
    /// what was made.
    pub(super) fn reserve(&self, at: (u32, u64), newest: u32) -> io::Result<Vec<PathBuf>> {
        let (timeline, lsn) = (at.0, lsn_text(at.1));
        let mut made = Vec::new();
        for number in timeline.saturating_add(1)..=newest {
            let path = self.directory.join(history_name(number));
            if !path.exists() {
                fs::write(&path, format!("{timeline}\t{lsn}\tthe number is taken\n"))?;
                made.push(path);
            }
        }
        Ok(made)
    }

    fn per_log(&self) -> u64 {
        (1 << 32) / self.segment_bytes
    }

    fn path(&self, timeline: u32, number: u64) -> PathBuf {
        let per_log = self.per_log();
        let name = format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log);
        self.directory.join(name)
    }

    fn parse(&self, name: &str) -> Option<(u32, u64)> {
        let is_name = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
        let (log, low) = (u64::from(part(8)?), u64::from(part(16)?));
        (is_name && low < self.per_log()).then_some((part(0)?, log * self.per_log() + low))
    }
}

/// The name of a timeline's history file.
pub(super) fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// Where the timeline whose history this is left its predecessor.
pub(super) fn left_at(history: &str) -> Option<(u32, u64)> {
    let last = history
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut words = last.split_whitespace();
    Some((words.next()?.parse().ok()?, crate::wire::lsn_from(words.next()?)?))
}

/// Whether a directory holds any WAL of a timeline.
pub(super) fn newest_history(directory: &Path, above: u32) -> io::Result<Option<(u32, String)>> {
    let mut newest: Option<(u32, PathBuf)> = None;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(number) = name.strip_suffix(".history") else { continue };
        let Ok(timeline) = u32::from_str_radix(number, 16) else { continue };
        if timeline > above && newest.as_ref().is_none_or(|(known, _)| *known < timeline) {
            newest = Some((timeline, path));
        }
    }
    newest.map(|(timeline, path)| Ok((timeline, fs::read_to_string(path)?))).transpose()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn wal_is_cut_at_exactly_one_byte() {
        let directory = TempDir::new().unwrap();
        let mut files = WalFiles::new(directory.path().to_owned(), MIB);
        let start = (5 << 32) - 10;
        files.write(1, start, &vec![7; 3 * MIB as usize]).unwrap();
        files.cut(1, (5 << 32) + 20).unwrap();
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["000000010000000400000FFF", "000000010000000500000000"]);
        let last = fs::read(directory.path().join(&names[1])).unwrap();
        assert_eq!(last.len(), MIB as usize);
        assert!(last[..20].iter().all(|byte| *byte == 7));
        assert!(last[20..].iter().all(|byte| *byte == 0));
        files.cut(1, 5 << 32).unwrap();
        assert!(!directory.path().join(&names[1]).exists());
    }

    #[test]
    fn another_timeline_begins_with_the_old_ones_wal() {
        let directory = TempDir::new().unwrap();
        let mut files = WalFiles::new(directory.path().to_owned(), MIB);
        let lsn = 3 * u64::from(MIB) + 100;
        files.write(1, 3 * u64::from(MIB), &[7; 100]).unwrap();
        files.switch(1, 2, lsn).unwrap();
        files.write(2, lsn, &[8; 50]).unwrap();
        let new = fs::read(directory.path().join("000000020000000000000003")).unwrap();
        assert!(new[..100] == [7; 100] && new[100..150] == [8; 50] && new[150] == 0);
        let history = fs::read_to_string(directory.path().join("00000002.history")).unwrap();
        assert_eq!(left_at(&history), Some((1, lsn)));
        assert_eq!(left_at("# nothing\n\n"), None);
        assert_eq!(newest_history(directory.path(), 1).unwrap().unwrap().0, 2);
        assert_eq!(newest_history(directory.path(), 2).unwrap(), None);
    }

    #[test]
    fn numbers_of_timelines_are_taken_but_no_history_is_replaced() {
        let directory = TempDir::new().unwrap();
        let files = WalFiles::new(directory.path().to_owned(), MIB);
        fs::write(directory.path().join("00000003.history"), "1\t0/10\tx\n").unwrap();
        let made = files.reserve((1, 0x20), 4).unwrap();
        assert_eq!(
            made,
            ["00000002.history", "00000004.history"].map(|n| directory.path().join(n))
        );
        assert_eq!(left_at(&fs::read_to_string(&made[0]).unwrap()), Some((1, 0x20)));
        assert_eq!(newest_history(directory.path(), 2).unwrap().unwrap().0, 4);
        assert!(files.reserve((4, 0x20), 4).unwrap().is_empty());
    }
}
