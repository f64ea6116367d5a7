//! Log that a server asks for file by file while it replays.

use std::collections::BTreeMap;

use bytes::Bytes;
use stillpoint_contract::{
    Engine, Error, ErrorKind, LogArchive, LogRange, Result, SegmentHead, WantedFile, code,
};

use super::archive::archive;
use crate::repository::{CapturedLog, Repository, Timeline};

const STEP: &str = "fetch a log file";

/// Files for a server that replays.
#[derive(Debug)]
pub struct Fetcher<'a> {
    archive: &'a dyn LogArchive,
    timeline: Timeline,
    captured: CapturedLog<'a>,
    incarnation: String,
    settings: BTreeMap<String, String>,
}

/// A file for a server that replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// All of it, with zeros where nothing was captured.
    pub bytes: Bytes,
    /// Whether all of it was captured.
    pub is_whole: bool,
}

impl<'a> Fetcher<'a> {
    /// Files of a database.
    pub async fn new(
        repository: &'a Repository,
        engine: &'a dyn Engine,
        database: &str,
    ) -> Result<Self> {
        let archive = archive(engine)?;
        let timeline = repository.timeline(database).await?;
        let newest = timeline.backups.last().ok_or_else(|| {
            Error::new(ErrorKind::Config, code::NO_SUCH_BACKUP, STEP)
                .with("database", database)
                .why("it has no backup that log could be replayed onto")
        })?;
        let incarnation = newest.commit.incarnation.clone();
        let settings = repository.manifest(newest).await?.settings;
        let captured = repository.captured(&timeline);
        Ok(Self { archive, timeline, captured, incarnation, settings })
    }

    /// The file of that name; `None` when nothing of it was captured.
    ///
    /// # Errors
    ///
    /// [`Gap`](ErrorKind::Gap) when log behind it was captured, and [`Corrupt`](ErrorKind::Corrupt)
    /// when it was stored and is damaged or missing: neither is the end of the log, for which a
    /// server would take it.
    pub async fn fetch(&self, name: &str) -> Result<Option<Fetched>> {
        match self.archive.wanted(name, &self.incarnation, &self.settings) {
            None => Ok(None),
            Some(WantedFile::Origin(position)) => {
                let origin = |head: &SegmentHead| self.archive.origin(&head.index);
                let is_known = |head: &SegmentHead| origin(head).is_some();
                let head = self.captured.lineage_begin(&position, is_known).await?;
                let text = head.as_ref().and_then(origin);
                Ok(text.map(|text| Fetched { bytes: text, is_whole: true }))
            }
            Some(WantedFile::Log(range)) => {
                let bytes = self.captured.bytes(&range).await?;
                let length = range.end().offset - range.start().offset;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if bytes.len() == length {
                    return Ok(Some(Fetched { bytes, is_whole: true }));
                }
                self.check_end(name, &range, bytes.len())?;
                if bytes.is_empty() {
                    return Ok(None);
                }
                let mut bytes = bytes.to_vec();
                bytes.resize(length, 0);
                Ok(Some(Fetched { bytes: bytes.into(), is_whole: false }))
            }
        }
    }

    /// Makes sure that the captured log of a lineage ends in a file, as far as anybody knows.
    fn check_end(&self, name: &str, range: &LogRange, captured: usize) -> Result<()> {
        let reached = range.start().offset + captured as u128;
        let failed = |kind, code, why| {
            Err(Error::new(kind, code, STEP).with("file", name).why(why).next("stillpoint verify"))
        };
        let mut goes_on = None;
        for coverage in &self.timeline.coverage {
            let (start, end) = (&coverage.start.position, &coverage.end.position);
            if start.lineage == range.start().lineage && start.offset > reached {
                goes_on = Some(coverage);
            }
            let is_lost = coverage.lost.is_some() && end.offset <= range.end().offset;
            let is_replaced = self.timeline.coverage.iter().any(|other| {
                other.end.position.offset > end.offset && other.start.position.offset <= end.offset
            });
            if is_lost && !is_replaced {
                let why = "log was stored up to there and further, and is missing or damaged now";
                return failed(ErrorKind::Corrupt, code::BROKEN_SEGMENT, why);
            }
        }
        let why = "it was never captured, although log behind it was";
        match goes_on {
            Some(_) => failed(ErrorKind::Gap, code::UNREACHABLE_POINT, why),
            None => Ok(()),
        }
    }

    /// The name of the file that is asked for after this one.
    pub fn name_after(&self, name: &str, file: &Fetched) -> Option<String> {
        self.archive.name_after(name, file.bytes.len() as u64)
    }
}
