//! A sink, a source and a log in memory, the system's clock, and short cuts around them.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use stillpoint_contract::{
    BackupRequest, Base, Clock, Driver, Endpoint, Engine, Error, ErrorKind, Evidence, LogMark,
    LogPosition, LogSegment, LogSource, OpenedLog, Overwrite, PartName, PartRecord, PartSpec,
    PartWriter, Reached, Recovery, RecoveryTarget, RestoreExtras, RestorePlan, RestoreRequest,
    Result, SegmentHead, Sink, Source, code,
};
use stillpoint_sqlite::SqliteEngine;
use tempfile::TempDir;

/// The system's clock.
#[derive(Debug)]
pub(crate) struct SystemClock(Instant);

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        Utc::now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        tokio::time::sleep(duration).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn engine() -> SqliteEngine {
    SqliteEngine::new(Arc::new(SystemClock(Instant::now())))
}

pub(crate) fn endpoint(path: &Path) -> Endpoint {
    Endpoint {
        scheme: "sqlite".into(),
        address: path.to_str().unwrap().into(),
        settings: BTreeMap::new(),
    }
}

pub(crate) async fn connect(path: &Path) -> Box<dyn Driver> {
    engine().connect(&endpoint(path)).await.unwrap()
}

/// A finished backup.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) evidence: Evidence,
    pub(crate) parts: BTreeMap<PartName, (PartSpec, Vec<u8>)>,
    /// Bytes that were written rather than kept.
    pub(crate) written_bytes: u64,
}

#[async_trait]
impl Source for Copy {
    async fn parts(&self, page: u32) -> Result<Vec<PartRecord>> {
        let record = |(spec, bytes): &(PartSpec, Vec<u8>)| PartRecord {
            spec: spec.clone(),
            length_bytes: bytes.len() as u64,
        };
        Ok(if page == 0 { self.parts.values().map(record).collect() } else { Vec::new() })
    }

    async fn read(&self, name: &PartName, range: Range<u64>) -> Result<Bytes> {
        let missing = || Error::new(ErrorKind::Missing, code::MISSING_OBJECT, "read a part");
        let (_, bytes) = self.parts.get(name).ok_or_else(missing)?;
        let end = (range.end as usize).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[(range.start as usize).min(end)..end]))
    }
}

#[derive(Debug, Default)]
struct Shelf {
    parts: BTreeMap<PartName, (PartSpec, Vec<u8>)>,
    written_bytes: u64,
    finished: HashMap<PartName, u64>,
}

#[derive(Debug)]
struct MemorySink {
    base: HashMap<PartName, Vec<u8>>,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug)]
struct MemoryPart {
    spec: PartSpec,
    base: Option<Vec<u8>>,
    state: Mutex<(Vec<u8>, Vec<Range<u64>>, u64)>,
    shelf: Arc<Mutex<Shelf>>,
}

#[async_trait]
impl Sink for MemorySink {
    async fn create(&self, spec: PartSpec) -> Result<Box<dyn PartWriter>> {
        Ok(Box::new(MemoryPart {
            base: self.base.get(&spec.name).cloned(),
            spec,
            state: Mutex::default(),
            shelf: Arc::clone(&self.shelf),
        }))
    }
}

impl MemoryPart {
    fn put(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let range = offset..offset + bytes.len() as u64;
        assert!(state.1.iter().all(|r| r.end <= range.start || range.end <= r.start), "{range:?}");
        if state.0.len() < range.end as usize {
            state.0.resize(range.end as usize, 0xAA);
        }
        state.0[range.start as usize..range.end as usize].copy_from_slice(bytes);
        state.1.push(range);
    }
}

#[async_trait]
impl PartWriter for MemoryPart {
    async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.put(offset, &bytes);
        self.state.lock().unwrap().2 += bytes.len() as u64;
        Ok(())
    }

    async fn keep(&self, range: Range<u64>) -> Result<()> {
        let base = self.base.as_ref().expect("a base to keep from");
        self.put(range.start, &base[range.start as usize..range.end as usize]);
        Ok(())
    }

    async fn finish(self: Box<Self>, length_bytes: u64) -> Result<()> {
        let (bytes, mut ranges, written) = self.state.into_inner().unwrap();
        ranges.sort_by_key(|range| range.start);
        let end = ranges.iter().fold(0, |end, range| {
            assert_eq!(range.start, end, "a hole");
            range.end
        });
        assert_eq!(end, length_bytes);
        let mut shelf = self.shelf.lock().unwrap();
        shelf.written_bytes += written;
        shelf.finished.insert(self.spec.name.clone(), length_bytes);
        shelf.parts.insert(self.spec.name.clone(), (self.spec, bytes));
        Ok(())
    }
}

/// Captured log in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(pub(crate) Vec<LogSegment>);

impl Log {
    /// The log from an anchor on, as a repository hands it out.
    pub(crate) fn from(&self, anchor: &LogPosition) -> LogReader {
        let touches = |segment: &LogSegment| {
            segment.head.range.touches(anchor) || segment.head.succeeds.as_ref() == Some(anchor)
        };
        let first = self.0.iter().position(touches).unwrap_or(self.0.len());
        LogReader { segments: self.0[first..].to_vec(), next: 0 }
    }
}

#[derive(Debug)]
pub(crate) struct LogReader {
    segments: Vec<LogSegment>,
    next: usize,
}

impl LogReader {
    pub(crate) fn into_segments(self) -> Vec<LogSegment> {
        self.segments
    }
}

#[async_trait]
impl LogSource for LogReader {
    async fn next(&mut self) -> Result<Option<SegmentHead>> {
        let segment = self.segments.get(self.next);
        self.next += 1;
        Ok(segment.map(|segment| segment.head.clone()))
    }

    async fn body(&mut self) -> Result<Bytes> {
        Ok(self.segments[self.next - 1].body.clone())
    }

    async fn reaches(&mut self, position: &LogPosition) -> Result<bool> {
        Ok(self.segments.iter().any(|segment| segment.head.range.touches(position)))
    }
}

/// Takes a backup, incremental if there is a base.
pub(crate) async fn back_up(driver: &dyn Driver, base: Option<(&Copy, &Log)>) -> Result<Copy> {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let anchor = base.and_then(|(copy, _)| copy.evidence.consistent_at.clone());
    let mut reader = match (&anchor, base) {
        (Some(anchor), Some((_, log))) => log.from(anchor),
        _ => Log::default().from(&"none:0".parse().unwrap()),
    };
    let kept = base.map(|(copy, _)| {
        copy.parts.iter().map(|(name, (_, bytes))| (name.clone(), bytes.clone())).collect()
    });
    let sink = MemorySink { base: kept.unwrap_or_default(), shelf: Arc::clone(&shelf) };
    let base =
        base.map(|(copy, _)| Base { evidence: &copy.evidence, parts: copy, log: &mut reader });
    let request = BackupRequest { base, streams_max: 2.try_into().unwrap() };
    let evidence = driver.backup(request, &sink).await?;
    let mut shelf = shelf.lock().unwrap();
    let parts = std::mem::take(&mut shelf.parts);
    Ok(Copy { evidence, parts, written_bytes: shelf.written_bytes })
}

/// Restores into a new file and returns its path with what was reached.
pub(crate) async fn restore(
    copy: &Copy,
    log: &Log,
    until: RecoveryTarget,
    directory: &Path,
) -> Result<(PathBuf, Reached)> {
    let target = TempDir::new_in(directory).unwrap().keep().join("restored.db");
    let reached = restore_to(copy, log, until, &target, Overwrite::Never).await?;
    Ok((target, reached))
}

pub(crate) async fn restore_to(
    copy: &Copy,
    log: &Log,
    until: RecoveryTarget,
    target: &Path,
    overwrite: Overwrite,
) -> Result<Reached> {
    let engine = engine();
    let staging = TempDir::new_in(target.parent().unwrap()).unwrap();
    let plan = plan(copy, &until, target, staging.path(), overwrite).await?;
    for (name, (_, bytes)) in &copy.parts {
        std::fs::write(plan.place(name).unwrap(), bytes).unwrap();
    }
    let anchor = copy.evidence.consistent_at.clone();
    let mut reader = log.from(&anchor.unwrap_or_else(|| "none:0".parse().unwrap()));
    let recovery =
        Recovery { plan: &plan, evidence: &copy.evidence, parts: copy, log: &mut reader };
    let reached = engine.recover(recovery).await?;
    engine.check(&plan).await?;
    let names: Vec<_> = std::fs::read_dir(staging.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    engine.publish(&plan).await?;
    Ok(reached)
}

pub(crate) async fn plan(
    copy: &Copy,
    until: &RecoveryTarget,
    target: &Path,
    staging: &Path,
    overwrite: Overwrite,
) -> Result<RestorePlan> {
    let request = RestoreRequest {
        evidence: &copy.evidence,
        version: "3",
        settings: &BTreeMap::new(),
        parts: copy,
        extras: &RestoreExtras::default(),
        target,
        staging,
        until,
        overwrite,
    };
    engine().plan_restore(&request).await
}

/// Takes everything that the capture has, confirming each segment.
pub(crate) async fn drain(opened: &mut OpenedLog, log: &mut Log) {
    while take(opened, log).await {}
}

/// Takes one segment, if there is one, and confirms it.
pub(crate) async fn take(opened: &mut OpenedLog, log: &mut Log) -> bool {
    let Some(segment) = opened.capture.next().await.unwrap() else { return false };
    let end = segment.head.range.end().clone();
    log.0.push(segment);
    opened.capture.confirm(&end).await.unwrap();
    true
}

/// Where a capture that was interrupted goes on.
pub(crate) fn mark(log: &Log) -> Option<LogMark> {
    let last = log.0.last()?;
    Some(LogMark { position: last.head.range.end().clone(), cursor: last.head.cursor.clone() })
}

/// Every commit in the log.
pub(crate) fn commits(log: &Log) -> Vec<(LogPosition, DateTime<Utc>)> {
    let of = |segment: &LogSegment| {
        let lineage = segment.head.range.start().clone();
        let event =
            move |event: &stillpoint_contract::LogEvent| (lineage.at(event.offset), event.at);
        segment.head.events.iter().map(event).collect::<Vec<_>>()
    };
    log.0.iter().flat_map(of).collect()
}

/// Opens a database in WAL mode, as an application does.
pub(crate) fn application(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let mode: String =
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    connection
}

/// Everything in a database, as one hash: its schema and the rows of its ordinary tables.
pub(crate) fn dump(connection: &Connection) -> String {
    let mut hash = blake3::Hasher::new();
    let mut schema = connection
        .prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")
        .unwrap();
    let entries: Vec<(String, String, String)> = schema
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    for (kind, name, sql) in entries {
        hash.update(format!("{kind} {name} {sql}\n").as_bytes());
        if kind != "table" {
            continue;
        }
        let mut rows = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
        let columns = rows.column_count();
        let mut lines = Vec::new();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<_> =
                (0..columns).map(|i| format!("{:?}", row.get_ref(i).unwrap())).collect();
            lines.push(values.join("|"));
        }
        lines.sort();
        hash.update(lines.join("\n").as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

pub(crate) fn dump_file(path: &Path) -> String {
    dump(&Connection::open(path).unwrap())
}
