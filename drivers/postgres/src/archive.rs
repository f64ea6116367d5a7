//! WAL files as `archive_command` and `restore_command` name them.
//!
//! Source: <https://www.postgresql.org/docs/current/continuous-archiving.html>.

use std::collections::BTreeMap;

use bytes::Bytes;
use stillpoint_contract::{
    ArchivedFile, Error, ErrorKind, LogArchive, LogCutter, LogFile, LogPosition, LogRange,
    LogSegment, Result, SEGMENT_BODY_BYTES_MAX, SegmentHead, WantedFile, code,
};

use crate::{
    capture::Found,
    index::Index,
    log::encode_cursor,
    names::Names,
    position::{Ancestry, Place, place},
    wal::{BadWal, Reader, Record, name, reader::header},
    wire::lsn_text,
};

const STEP: &str = "recognise a WAL file";

/// The length of a segment unless a cluster was made with another one.
const USUAL_SEGMENT_BYTES: u32 = 16 << 20;

/// What PostgreSQL's archiver hands over, and what its recovery asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Archive;

/// A stretch of a file on one timeline.
#[derive(Debug)]
struct Stretch {
    from: Place,
    until: u64,
    succeeds: Option<Place>,
}

fn segment_bytes(settings: &BTreeMap<String, String>) -> u32 {
    let bytes = settings.get("wal_segment_size").and_then(|text| text.parse().ok());
    bytes.filter(|bytes: &u32| bytes.is_power_of_two()).unwrap_or(USUAL_SEGMENT_BYTES)
}

fn foreign(name: &str, why: &'static str) -> Error {
    Error::new(ErrorKind::Refused, code::NOT_A_DATABASE, STEP).with("file", name).why(why)
}

fn range(place: Place, until: u64) -> Result<LogRange> {
    LogRange::new(place.position()?, place.at(until).position()?)
        .ok_or_else(|| Error::bug("cut a WAL file backwards"))
}

/// A WAL file's cluster, place and length.
fn recognise(name: &str, bytes: &[u8]) -> Result<(Place, u32)> {
    let header = header(bytes).ok_or_else(|| foreign(name, "it does not begin as WAL does"))?;
    let length = header.segment_bytes;
    if bytes.len() as u64 != u64::from(length) {
        return Err(foreign(name, "it is not as long as it says")
            .with("length", bytes.len())
            .with("expected", length));
    }
    let (timeline, lsn) =
        name::parse(name, length).ok_or_else(|| foreign(name, "no WAL file has such a name"))?;
    if header.address != lsn || header.timeline > timeline {
        return Err(foreign(name, "it holds other WAL than its name says")
            .with("holds", lsn_text(header.address)));
    }
    Ok((Place { system: header.system, timeline, lsn }, header.major))
}

impl LogArchive for Archive {
    fn recognise(&self, name: &str, bytes: &Bytes) -> Result<ArchivedFile> {
        if name.ends_with(".history") {
            let is_one = Ancestry::parse(bytes).is_some();
            let why = "kept with the first WAL of its timeline";
            return if is_one {
                Ok(ArchivedFile::Beside(why))
            } else {
                Err(foreign(name, "it is no history of a timeline"))
            };
        }
        if name.ends_with(".partial") {
            let why = "the first WAL file of the next timeline holds the same";
            return Ok(ArchivedFile::Beside(why));
        }
        if name.ends_with(".backup") {
            return Ok(ArchivedFile::Beside("backups know this themselves"));
        }
        let (place, _) = recognise(name, bytes)?;
        let range = range(place, place.lsn + bytes.len() as u64)?;
        Ok(ArchivedFile::Log { incarnation: place.system.to_string(), range })
    }

    fn cutter(&self, since: Option<&LogPosition>) -> Result<Box<dyn LogCutter>> {
        let since = since.map(place).transpose()?;
        Ok(Box::new(Cutter { since, reader: None, last: None }))
    }

    fn origin_name(&self, name: &str) -> Option<String> {
        let timeline = u32::from_str_radix(name.get(..8)?, 16).ok()?;
        (name.len() == 24 && timeline > 1).then(|| name::history(timeline))
    }

    /// Source: <https://www.postgresql.org/docs/current/continuous-archiving.html>; the names are
    /// those of xlogarchive.c, `XLogArchiveNotify`.
    fn waiting_name(&self, name: &str) -> Option<String> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
        is_plain.then(|| format!("archive_status/{name}.ready"))
    }

    fn wanted(
        &self,
        name: &str,
        incarnation: &str,
        settings: &BTreeMap<String, String>,
    ) -> Option<WantedFile> {
        let system = incarnation.parse().ok()?;
        if let Some(timeline) = name.strip_suffix(".history") {
            let timeline =
                u32::from_str_radix(timeline, 16).ok().filter(|_| timeline.len() == 8)?;
            let place = Place { system, timeline, lsn: 0 };
            return place.position().ok().map(WantedFile::Origin);
        }
        let length = segment_bytes(settings);
        let (timeline, lsn) = name::parse(name, length)?;
        let until = lsn.checked_add(u64::from(length))?;
        range(Place { system, timeline, lsn }, until).ok().map(WantedFile::Log)
    }

    fn name_after(&self, name: &str, length_bytes: u64) -> Option<String> {
        let length = u32::try_from(length_bytes).ok().filter(|bytes| bytes.is_power_of_two())?;
        let (timeline, lsn) = name::parse(name, length)?;
        Some(name::segment(timeline, lsn.checked_add(u64::from(length))?, length))
    }

    fn origin(&self, index: &Bytes) -> Option<Bytes> {
        Index::decode(index).map(|index| index.history).filter(|history| !history.is_empty())
    }
}

/// Goes from file to file, with the record that runs on from one into the next.
#[derive(Debug)]
struct Cutter {
    since: Option<Place>,
    reader: Option<Reader>,
    /// Where the last record ended, and its checksum.
    last: Option<(u64, u32)>,
}

impl LogCutter for Cutter {
    fn needs_before(&self, start: &LogPosition) -> bool {
        self.reader.as_ref().is_none_or(|reader| u128::from(reader.next()) != start.offset)
    }

    fn cut(&mut self, file: LogFile<'_>) -> Result<Vec<LogSegment>> {
        let (start, major) = recognise(file.name, &file.bytes)?;
        let until = start.lsn + file.bytes.len() as u64;
        let origin = file.origin.as_ref().map(|text| {
            Ancestry::parse(text)
                .ok_or_else(|| foreign(file.name, "the history beside it cannot be read"))
        });
        let stretches = stretches(start, until, self.since, origin.transpose()?.as_ref())?;
        let bad = |bad: BadWal| {
            Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "decode a WAL file")
                .with("file", file.name)
                .with("found", bad)
                .why("the server could not replay it either")
        };
        let length = u32::try_from(file.bytes.len()).map_err(|e| Error::bug(STEP).caused_by(e))?;
        let mut last = self.last;
        let known = self.reader.take().filter(|reader| reader.next() == start.lsn);
        let mut reader = if let Some(reader) = known {
            reader
        } else {
            let before = file.before.as_ref().filter(|b| b.len() == file.bytes.len());
            let first = before.map_or(start.lsn, |before| start.lsn - before.len() as u64);
            let mut reader = Reader::new(first, length, Some(start.system));
            let before = before.map(Bytes::as_ref).unwrap_or_default();
            let note = |record: Record| last = Some((record.end, record.checksum));
            reader.push(before, note).map_err(bad)?;
            reader
        };
        let mut segments = Vec::new();
        // Also where log before it is missing, servers will ask for the history of the timeline.
        let begins = self.since.is_none();
        for Stretch { mut from, until, succeeds } in stretches {
            let mut succeeds = succeeds.map(Place::position).transpose()?;
            let origin = file.origin.clone().filter(|_| begins || succeeds.is_some());
            let mut history = origin.unwrap_or_default();
            while from.lsn < until {
                let end = until.min(from.lsn + SEGMENT_BODY_BYTES_MAX as u64);
                let at = |lsn: u64| usize::try_from(lsn - start.lsn).unwrap_or(usize::MAX);
                let mut found = Found::default();
                let unread = file.bytes.get(at(reader.next().max(start.lsn))..at(end));
                reader
                    .push(unread.unwrap_or_default(), |record| {
                        if record.end > from.lsn {
                            found.note(&record, major);
                        }
                    })
                    .map_err(bad)?;
                last = found.last.or(last);
                // Without its beginning, nobody knows what a record changes.
                let is_whole = reader.passed_until() <= from.lsn;
                found.name_losses(&mut Names::default());
                let index = Index {
                    history: std::mem::take(&mut history),
                    commits: found.commits,
                    changes: Some(found.changes).filter(|_| is_whole),
                };
                let checksum = last.filter(|(last, _)| *last == end).map(|(_, sum)| sum);
                let body = file.bytes.slice(at(from.lsn)..at(end));
                let head = SegmentHead {
                    range: range(from, end)?,
                    succeeds: succeeds.take(),
                    events: found.events,
                    not_before: None,
                    cursor: encode_cursor(checksum),
                    index: index.encode(),
                };
                segments.push(LogSegment { head, body });
                from = from.at(end);
            }
        }
        (self.since, self.reader, self.last) = (Some(start.at(until)), Some(reader), last);
        Ok(segments)
    }
}

/// What of a file follows `since`: on its own timeline, or also on the one that it left.
fn stretches(
    start: Place,
    until: u64,
    since: Option<Place>,
    origin: Option<&Ancestry>,
) -> Result<Vec<Stretch>> {
    let whole = |from, succeeds| Stretch { from, until, succeeds };
    let Some(since) = since else { return Ok(vec![whole(start, None)]) };
    let gap = |why: &'static str| {
        Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "continue the captured log")
            .with("captured up to", lsn_text(since.lsn))
            .with("file begins at", lsn_text(start.lsn))
            .why(why)
    };
    if since.lsn < start.lsn || since.lsn >= until {
        return Err(gap("files between the two were never archived"));
    }
    if since.timeline == start.timeline {
        return Ok(vec![whole(start.at(since.lsn), None)]);
    }
    let left = origin.and_then(|origin| origin.left_at(since.timeline));
    let left = left.ok_or_else(|| gap("it is WAL of a timeline that does not go on from there"))?;
    if left < since.lsn || left > until {
        return Err(gap("its timeline left the captured one elsewhere"));
    }
    let (old, new) = (since.at(left), Place { lsn: left, ..start });
    let before = Stretch { from: since, until: left, succeeds: None };
    Ok([before, whole(new, Some(old))].into_iter().filter(|s| s.from.lsn < s.until).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::forge::{Forge, SYSTEM};

    const MIB: u32 = 1 << 20;
    const START: u64 = 7 << 20;

    /// A whole file with three commits, which the server left early, and where the second ends.
    fn sample() -> (Bytes, u64) {
        let mut forge = Forge::new(START, MIB, 0xD110);
        forge.commit(1, 1);
        let (_, second) = forge.commit(2, 2);
        forge.commit(3, 3);
        forge.record((0, 0x40, 0), None, &[]);
        forge.bytes.resize(MIB as usize, 0);
        (forge.bytes.into(), second)
    }

    fn file(name: &str, bytes: Bytes) -> LogFile<'_> {
        LogFile { name, bytes, before: None, origin: None }
    }

    fn cut(file: LogFile<'_>, since: Option<&LogPosition>) -> Result<Vec<LogSegment>> {
        Archive.cutter(since).unwrap().cut(file)
    }

    fn at(timeline: u32, lsn: u64) -> LogPosition {
        Place { system: SYSTEM, timeline, lsn }.position().unwrap()
    }

    #[test]
    fn a_file_follows_what_was_captured() {
        let (bytes, second) = sample();
        let name = name::segment(1, START, MIB);
        let archived = Archive.recognise(&name, &bytes).unwrap();
        let whole = LogRange::new(at(1, START), at(1, START + u64::from(MIB))).unwrap();
        let incarnation = SYSTEM.to_string();
        assert_eq!(archived, ArchivedFile::Log { incarnation, range: whole.clone() });
        let settings = BTreeMap::from([("wal_segment_size".to_owned(), MIB.to_string())]);
        let wanted = Archive.wanted(&name, &SYSTEM.to_string(), &settings);
        assert_eq!(wanted, Some(WantedFile::Log(whole.clone())));

        let all = cut(file(&name, bytes.clone()), None).unwrap();
        assert_eq!((all.len(), &all[0].head.range, all[0].head.events.len()), (1, &whole, 3));
        assert_eq!(all[0].body, bytes);
        assert!(Index::decode(&all[0].head.index).unwrap().changes.is_some());
        let rest = cut(file(&name, bytes.clone()), Some(&at(1, second))).unwrap();
        assert_eq!(*rest[0].head.range.start(), at(1, second));
        assert_eq!(rest[0].head.events.len(), 1);
        assert_eq!(rest[0].body, bytes.slice((second - START) as usize..));
        for elsewhere in [at(1, START - 8), at(1, START + u64::from(MIB)), at(2, second)] {
            let cut = cut(file(&name, bytes.clone()), Some(&elsewhere));
            assert_eq!(cut.unwrap_err().kind(), ErrorKind::Gap, "{elsewhere}");
        }
    }

    #[test]
    fn the_first_file_of_a_timeline_brings_the_end_of_the_old_one() {
        let (bytes, second) = sample();
        let name = name::segment(2, START, MIB);
        assert_eq!(Archive.origin_name(&name).as_deref(), Some("00000002.history"));
        let history = Bytes::from(format!("1\t{}\tno reason\n", lsn_text(second)));
        let file = LogFile { origin: Some(history.clone()), ..file(&name, bytes) };
        let both = cut(file.clone(), Some(&at(1, START))).unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!((both[0].head.range.end(), both[0].head.events.len()), (&at(1, second), 2));
        assert_eq!((both[1].head.range.start(), both[1].head.events.len()), (&at(2, second), 1));
        assert_eq!(both[1].head.succeeds, Some(at(1, second)));
        assert_eq!(Archive.origin(&both[1].head.index), Some(history));
        assert_eq!(Archive.origin(&both[0].head.index), None);
        // Also where the log before it was never archived, servers ask for the history.
        let alone = cut(file.clone(), None).unwrap();
        assert_eq!((alone.len(), &alone[0].head.succeeds), (1, &None));
        assert_eq!(Archive.origin(&alone[0].head.index), Archive.origin(&both[1].head.index));
        let behind = cut(file, Some(&at(1, second + 8)));
        assert_eq!(behind.unwrap_err().kind(), ErrorKind::Gap);
    }

    #[test]
    fn what_is_no_log_of_its_name_is_refused() {
        let (bytes, _) = sample();
        let other = name::segment(1, START + u64::from(MIB), MIB);
        let name = name::segment(1, START, MIB);
        for (name, bytes) in [
            (other.as_str(), bytes.clone()),
            (name.as_str(), bytes.slice(..1000)),
            (name.as_str(), Bytes::from(vec![0; MIB as usize])),
            ("elsewhere", bytes),
            ("00000002.history", Bytes::from_static(b"x y\n")),
        ] {
            let refused = Archive.recognise(name, &bytes).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused, "{name}");
        }
        for beside in ["00000002.history", "x.partial", "x.00000028.backup"] {
            let archived = Archive.recognise(beside, &Bytes::new()).unwrap();
            assert!(matches!(archived, ArchivedFile::Beside(_)), "{beside}");
        }
    }
}
