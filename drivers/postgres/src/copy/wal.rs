//! The WAL from the start of a backup to its stop, as parts, so that it is restorable on its own.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Clock, EXTENT_BYTES, Error, ErrorKind, PartWriter, Result, Shape, Sink, code,
};
use tokio::sync::watch;

use super::{crew, reader::Files};
use crate::{
    connect::Sql,
    error,
    wal::{EventKind, Reader, meaning},
    wire::{Session, WalEvent, lsn_from, lsn_text},
};

/// How often we tell the server that we are alive.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

/// How often the server is asked how far its WAL reaches.
const POLL_PERIOD: Duration = Duration::from_millis(200);

/// How often a segment is looked at again before it counts as gone.
const LOOKS_MAX: u32 = 5;

/// How long WAL up to the stop may take to arrive once it is known.
const LAST_WAIT: Duration = Duration::from_mins(5);

/// The longest history file of a timeline.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// Length of a page of WAL.
const WAL_PAGE_BYTES: usize = 8192;

/// The most commits that are remembered: those of the WAL that arrives before the stop is known.
const COMMITS_MAX: usize = 1 << 18;

/// When transactions were committed, as the WAL of a backup tells.
#[derive(Debug)]
pub(crate) struct Commits {
    /// `None` once the WAL could not be understood: then times are less exact.
    reader: Option<Reader>,
    major: u32,
    /// Where each record ends, and its time.
    known: Vec<(u64, DateTime<Utc>)>,
}

impl Commits {
    fn read(&mut self, bytes: &[u8]) {
        let Some(reader) = &mut self.reader else { return };
        let (known, major) = (&mut self.known, self.major);
        let read = reader.push(bytes, |record| {
            for event in meaning(&record, major) {
                if let (EventKind::Ended { is_commit: true, .. }, Some(at)) = (event.kind, event.at)
                {
                    known.push((record.end, at));
                }
            }
        });
        if let Err(bad) = read {
            tracing::debug!("no more commits are told by the WAL of the backup: {bad}");
            self.reader = None;
        }
        if self.known.len() > 2 * COMMITS_MAX {
            self.known.drain(..COMMITS_MAX);
        }
    }

    /// The time of the last commit before a position, where there was one.
    pub(crate) fn last_before(&self, position: u64) -> Option<DateTime<Utc>> {
        self.known.iter().filter(|(end, _)| *end <= position).map(|(_, at)| *at).max()
    }
}

/// Segments that arrive in order and become parts.
#[derive(Debug)]
pub(crate) struct WalParts<'a> {
    sink: &'a dyn Sink,
    file_mode: u32,
    timeline: u32,
    segment_bytes: u64,
    /// The position of the next byte.
    next: u64,
    part: Option<Box<dyn PartWriter>>,
    buffer: BytesMut,
    commits: Commits,
}

impl<'a> WalParts<'a> {
    /// Parts from the segment that holds `start`, of a server of this major version.
    pub(crate) fn new(
        sink: &'a dyn Sink,
        (timeline, start): (u32, u64),
        (segment_bytes, major): (u32, u32),
        file_mode: u32,
    ) -> Self {
        let length = u64::from(segment_bytes);
        let next = start / length * length;
        let reader = Some(Reader::new(next, segment_bytes, None));
        let commits = Commits { reader, major, known: Vec::new() };
        let (part, buffer, segment_bytes) = (None, BytesMut::new(), length);
        Self { sink, file_mode, timeline, segment_bytes, next, part, buffer, commits }
    }

    /// Adds WAL that follows.
    async fn receive(&mut self, bytes: Bytes) -> Result<()> {
        self.commits.read(&bytes);
        self.append(bytes).await
    }

    /// Adds what follows.
    async fn append(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            if self.part.is_none() {
                let path = format!("pg_wal/{}", self.name(self.next));
                self.part =
                    Some(crew::create(self.sink, &path, Shape::Stream, self.file_mode).await?);
            }
            let left = self.segment_bytes - self.next % self.segment_bytes;
            let piece =
                bytes.split_to(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            self.next += piece.len() as u64;
            self.buffer.extend_from_slice(&piece);
            let is_end = piece.len() as u64 == left;
            if is_end || self.buffer.len() as u64 >= EXTENT_BYTES {
                self.pass_on().await?;
            }
            if is_end && let Some(part) = self.part.take() {
                part.finish(self.segment_bytes).await?;
            }
        }
        Ok(())
    }

    async fn pass_on(&mut self) -> Result<()> {
        let bytes = self.buffer.split().freeze();
        let at = (self.next - bytes.len() as u64) % self.segment_bytes;
        match &self.part {
            Some(part) if !bytes.is_empty() => part.write(at, bytes).await,
            _ => Ok(()),
        }
    }

    /// Adds the file that says where the timeline comes from.
    async fn history(&self, name: &str, text: Bytes) -> Result<()> {
        crew::write_file(self.sink, &format!("pg_wal/{name}"), text, self.file_mode).await
    }

    /// Fills the last segment up with zeros.
    async fn finish(mut self) -> Result<Commits> {
        while self.part.is_some() {
            let left = self.segment_bytes - self.next % self.segment_bytes;
            let zeros = vec![0; left.min(EXTENT_BYTES) as usize];
            self.append(zeros.into()).await?;
        }
        Ok(self.commits)
    }

    /// The name of the segment that holds a position.
    fn name(&self, lsn: u64) -> String {
        let segment = lsn / self.segment_bytes;
        let per_log = (1 << 32) / self.segment_bytes;
        format!("{:08X}{:08X}{:08X}", self.timeline, segment / per_log, segment % per_log)
    }
}

/// Streams WAL into parts until `stop` names the end and everything before it has arrived.
pub(crate) async fn capture_stream(
    (mut session, slot): (Session, Option<String>),
    mut parts: WalParts<'_>,
    mut stop: watch::Receiver<Option<u64>>,
    clock: &Arc<dyn Clock>,
) -> Result<Commits> {
    if parts.timeline > 1 {
        let (name, text) = session.timeline_history(parts.timeline).await?;
        parts.history(&name, text).await?;
    }
    let mut stream = session.start_physical(None, parts.next, parts.timeline).await?;
    let mut status_at = clock.elapsed() + STATUS_PERIOD;
    loop {
        let end = *stop.borrow_and_update();
        if end.is_some_and(|end| parts.next >= end) {
            let commits = parts.finish().await?;
            let (mut session, _) = stream.finish().await?;
            if let Some(slot) = slot {
                session.drop_slot(&slot).await?;
            }
            session.close().await;
            return Ok(commits);
        }
        let pause = status_at.saturating_sub(clock.elapsed());
        let event = tokio::select! {
            event = stream.receive() => Some(event?),
            changed = stop.changed(), if end.is_none() => {
                changed.map_err(|_| Error::bug("wait for the end of a copy that is gone"))?;
                continue;
            }
            () = clock.sleep(pause) => None,
        };
        let mut is_due = clock.elapsed() >= status_at;
        match event {
            Some(WalEvent::Bytes { start, bytes }) => {
                if start != parts.next {
                    return Err(error::unexpected(lsn_text(start), "stream WAL without a hole"));
                }
                let (at, append) = (parts.next, parts.receive(bytes));
                alive_while(append, &mut stream, at, clock).await?;
            }
            Some(WalEvent::KeepAlive { reply_now, .. }) => is_due |= reply_now,
            Some(WalEvent::End) => return Err(ended()),
            None => {}
        }
        if is_due {
            stream.send_status(parts.next, parts.next, clock.now()).await?;
            status_at = clock.elapsed() + STATUS_PERIOD;
        }
    }
}

/// Waits for `work`, telling the server all the while that we are alive.
async fn alive_while(
    work: impl Future<Output = Result<()>>,
    stream: &mut crate::wire::WalStream,
    at: u64,
    clock: &Arc<dyn Clock>,
) -> Result<()> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = clock.sleep(STATUS_PERIOD) => stream.send_status(at, at, clock.now()).await?,
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, "stream WAL during a backup")
        .why("the server ended the stream: it is shutting down, or was promoted")
}

/// Copies finished segments while they are there, and the last one once `stop` names the end.
pub(crate) async fn collect_files(
    (files, sql): (&Files, &Sql),
    mut parts: WalParts<'_>,
    mut stop: watch::Receiver<Option<u64>>,
    clock: &Arc<dyn Clock>,
) -> Result<Commits> {
    let query = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                 ELSE pg_current_wal_lsn() END)::text";
    let step = "ask how far the WAL reaches";
    let mut stopped_at = None;
    if parts.timeline > 1 {
        let name = format!("{:08X}.history", parts.timeline);
        let text = files.read_one(&format!("pg_wal/{name}"), HISTORY_BYTES_MAX).await?;
        parts.history(&name, text.unwrap_or_default().into()).await?;
    }
    loop {
        let end = *stop.borrow_and_update();
        let row = sql.client.query_one(query, &[]).await.map_err(|e| error::sql(e, step))?;
        let text: &str = row.try_get(0).map_err(|e| error::sql(e, step))?;
        let reached = lsn_from(text).ok_or_else(|| error::unexpected(text, step))?;
        while reached >= parts.next + parts.segment_bytes && end.is_none_or(|end| parts.next < end)
        {
            let until = end.unwrap_or(u64::MAX).min(parts.next + parts.segment_bytes);
            copy_patiently(files, &mut parts, until, clock).await?;
        }
        match end {
            Some(end) if parts.next >= end => return parts.finish().await,
            Some(end) if reached >= end => {
                copy_patiently(files, &mut parts, end, clock).await?;
                return parts.finish().await;
            }
            Some(end) => {
                let since = *stopped_at.get_or_insert_with(|| clock.elapsed());
                if clock.elapsed().saturating_sub(since) > LAST_WAIT {
                    return Err(Error::new(ErrorKind::TimedOut, code::SOURCE_VANISHED, step)
                        .with("end of the backup", lsn_text(end))
                        .with("reached", lsn_text(reached)));
                }
                clock.sleep(POLL_PERIOD).await;
            }
            None => tokio::select! {
                changed = stop.changed() => {
                    changed.map_err(|_| Error::bug("wait for a copy that is gone"))?;
                }
                () = clock.sleep(POLL_PERIOD) => {}
            },
        }
    }
}

/// Copies a segment, and looks again a few times before it counts as gone: the server says how far
/// its WAL reaches before every page of it can be read as a file.
async fn copy_patiently(
    files: &Files,
    parts: &mut WalParts<'_>,
    until: u64,
    clock: &Arc<dyn Clock>,
) -> Result<()> {
    let mut looks = 0;
    loop {
        match copy_segment(files, parts, until).await {
            Err(error) if error.kind() == ErrorKind::Gap && looks < LOOKS_MAX => looks += 1,
            outcome => return outcome,
        }
        clock.sleep(POLL_PERIOD).await;
    }
}

/// Copies the segment at `parts.next` up to `until`.
async fn copy_segment(files: &Files, parts: &mut WalParts<'_>, until: u64) -> Result<()> {
    let path = format!("pg_wal/{}", parts.name(parts.next));
    let until = until.min(parts.next + parts.segment_bytes);
    while parts.next < until {
        let at = parts.next % parts.segment_bytes;
        let length = EXTENT_BYTES.min(parts.segment_bytes - at);
        // The session of the first worker is shared; its questions are answered in turn.
        let read = files.read_range(0, &path, at..at + length).await?;
        let mut bytes = read.ok_or_else(|| recycled(&path))?;
        bytes.truncate(usize::try_from(until - parts.next).unwrap_or(usize::MAX));
        let pages = bytes.chunks(WAL_PAGE_BYTES).zip((parts.next..).step_by(WAL_PAGE_BYTES));
        for (page, address) in pages {
            if page.get(8..16) != Some(&address.to_le_bytes()[..]) {
                return Err(recycled(&path));
            }
        }
        if bytes.is_empty() {
            return Err(recycled(&path));
        }
        parts.receive(bytes.into()).await?;
    }
    Ok(())
}

fn recycled(path: &str) -> Error {
    Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, "copy WAL during a backup")
        .with("file", path)
        .why("the server removed it before it was copied")
        .next("let the role replicate (ALTER ROLE … REPLICATION): then WAL is streamed")
        .next("or keep more of it: wal_keep_size")
}
