//! A running capture: WAL as it arrives, cut into segments behind commits.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Clock, Error, ErrorKind, LogCapture, LogEvent, LogEventKind, LogPosition, LogRange, LogSegment,
    Result, SEGMENT_BODY_BYTES_MAX, SegmentHead, code,
};

use crate::{
    connect::Sql,
    error,
    index::Index,
    log::{Broken, Origin, encode_cursor},
    names::{File, Names},
    position::{Place, place},
    wal::{BadWal, Changes, Event, EventKind, Reader, Record, meaning},
    wire::{NextTimeline, WalEvent, WalStream, lsn_from, lsn_text},
};

const STEP: &str = "capture WAL";

/// How long [`LogCapture::next`] waits for a commit.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a server may say nothing although it has more for us, or may be away.
const SILENCE_MAX: Duration = Duration::from_millis(900);

/// How often we tell the server that we are alive.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The longest piece that a server sends at once.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// The most events of a segment; further ones go into the next.
const EVENTS_MAX: usize = 20_000;

/// Files with smaller numbers belong to system catalogues.
const USER_FILES_FROM: u32 = 16_384;

/// How many new files of a segment are remembered, to ask for their names.
const MADE_MAX: usize = 1000;

/// A capture.
#[derive(Debug)]
pub(crate) struct Capture {
    origin: Origin,
    /// Where the last segment ended.
    at: Place,
    /// The checksum of the record that ends there, if one does.
    checksum: Option<u32>,
    /// Everything before this is durable.
    confirmed: u64,
    /// `None` after the connection broke.
    live: Option<Live>,
    /// The timeline that goes on where the one at hand has ended.
    next: Option<NextTimeline>,
    /// What the next segment succeeds, and the history file that says so.
    succeeds: Option<(LogPosition, Bytes)>,
    /// Names of tables, for what is dropped.
    names: Names,
}

/// WAL that arrives.
#[derive(Debug)]
pub(crate) struct Live {
    stream: WalStream,
    /// To ask how far the server is.
    sql: Sql,
    reader: Reader,
    /// What arrived and was not handed over yet; it begins at `start`.
    body: BytesMut,
    start: Place,
    found: Found,
    major: u32,
    status_at: Duration,
    /// Whether the names of new files were asked for since the last cut.
    is_named: bool,
}

/// Whether a server's log is the one that was captured up to the mark.
#[derive(Debug)]
pub(crate) enum CaughtUp {
    Proven,
    /// The record that ends at the mark begins before what was read.
    Unproven,
    Disproven(Broken),
}

/// What was found in a body.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) events: Vec<LogEvent>,
    /// The transactions of the commits among them.
    pub(crate) commits: Vec<u32>,
    pub(crate) changes: Changes,
    /// Databases whose removal was written and not committed yet.
    dropping: Vec<u32>,
    /// Files of relations that were made, as far as they may be asked for.
    made: BTreeSet<File>,
    /// What was lost, by the number of the event that tells it.
    lost: Vec<(usize, Lost)>,
    /// Where the last record ends, and its checksum.
    pub(crate) last: Option<(u64, u32)>,
}

/// What a commit took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    File(File),
    Database(u32),
}

impl Found {
    pub(crate) fn note(&mut self, record: &Record, major: u32) {
        let events = meaning(record, major);
        self.changes.add(record, &events);
        for Event { at, kind } in events {
            self.note_event(record.end, at, kind);
        }
        self.last = Some((record.end, record.checksum));
    }

    fn note_event(&mut self, end: u64, at: Option<DateTime<Utc>>, kind: EventKind) {
        let event = |at, what| LogEvent { offset: end.into(), at, what };
        match (kind, at) {
            (EventKind::Ended { is_commit: true, dropped, xid }, Some(at)) => {
                let files = dropped.iter().filter(|r| r.file >= USER_FILES_FROM);
                let files = files.map(|r| Lost::File((r.database, r.file)));
                let databases: Vec<_> = self.dropping.drain(..).map(Lost::Database).collect();
                for lost in files.chain(databases) {
                    self.lost.push((self.events.len(), lost));
                    self.events.push(event(at, LogEventKind::Dropped(String::new())));
                }
                self.events.push(event(at, LogEventKind::Commit));
                self.commits.push(xid);
            }
            (EventKind::RestorePoint(name), Some(at)) => {
                self.events.push(event(at, LogEventKind::RestorePoint(name)));
            }
            (EventKind::Created(file), _)
                if file.fork == 0 && file.file >= USER_FILES_FROM && self.made.len() < MADE_MAX =>
            {
                self.made.insert((file.database, file.file));
            }
            (EventKind::Database { database, is_dropped: true, .. }, _)
                if !self.dropping.contains(&database) =>
            {
                self.dropping.push(database);
            }
            _ => {}
        }
    }
}

impl Found {
    /// Says what was lost, by name where one is known.
    pub(crate) fn name_losses(&mut self, names: &mut Names) {
        let lost = std::mem::take(&mut self.lost);
        let mut untold = BTreeSet::new();
        for (index, lost) in &lost {
            let told = match lost {
                Lost::File(file) => names.tell(*file),
                Lost::Database(number) => Some(names.database(*number)),
            };
            match (told, self.events.get_mut(*index)) {
                (Some(told), Some(event)) => event.what = LogEventKind::Dropped(told),
                _ => drop(untold.insert(*index)),
            }
        }
        let mut index = 0;
        self.events.retain(|_| {
            index += 1;
            !untold.contains(&(index - 1))
        });
        names.forget(lost.iter().filter_map(|(_, lost)| match lost {
            Lost::File(file) => Some(*file),
            Lost::Database(_) => None,
        }));
    }
}

impl Live {
    /// Reads `stream`, which begins at the start of a segment, to hand over what follows `start`.
    pub(crate) fn new(
        origin: &Origin,
        start: Place,
        (stream, from): (WalStream, u64),
        sql: Sql,
    ) -> Self {
        Self {
            stream,
            sql,
            reader: Reader::new(from, origin.segment_bytes, Some(origin.system)),
            body: BytesMut::new(),
            start,
            found: Found::default(),
            major: origin.major,
            status_at: origin.cluster.clock.elapsed() + STATUS_PERIOD,
            is_named: false,
        }
    }

    /// Where it begins, or where the last segment was cut off.
    pub(crate) fn start(&self) -> Place {
        self.start
    }

    /// Everything before this has arrived.
    fn received(&self) -> u64 {
        self.reader.next()
    }

    /// The session beside the stream, which ends.
    pub(crate) fn into_sql(self) -> Sql {
        self.sql
    }

    /// Reads to the mark, and looks whether what ends there fits.
    pub(crate) async fn catch_up(
        &mut self,
        checksum: Option<u32>,
        clock: &Arc<dyn Clock>,
    ) -> Result<CaughtUp> {
        let mut last = None;
        while self.received() < self.start.lsn {
            let event = self.wait(clock, Duration::from_mins(1)).await?;
            let Some(WalEvent::Bytes { start, bytes }) = event else {
                if matches!(event, Some(WalEvent::KeepAlive { .. })) {
                    continue;
                }
                return Err(silent(self.received()));
            };
            match self.take(start, &bytes) {
                Ok(record) => last = record.or(last),
                Err(bad) => {
                    let why = format!("the server's log is another one: {bad}");
                    return Ok(CaughtUp::Disproven(why));
                }
            }
        }
        Ok(match (checksum, last) {
            (None, _) => CaughtUp::Proven,
            (Some(expected), Some((end, found))) if end == self.start.lsn && found == expected => {
                CaughtUp::Proven
            }
            (Some(_), None) => CaughtUp::Unproven,
            (Some(_), Some(_)) => CaughtUp::Disproven(format!(
                "the server's log is not the one that was captured up to {}",
                lsn_text(self.start.lsn)
            )),
        })
    }

    /// Takes what arrived. Returns the last record in it that ends at or before the mark: its end
    /// and its checksum.
    fn take(&mut self, start: u64, bytes: &[u8]) -> Result<Option<(u64, u32)>, BadWal> {
        if start != self.received() {
            return Err(BadWal { at: start, what: "a hole" });
        }
        let (after, major, found) = (self.start.lsn, self.major, &mut self.found);
        let mut last = None;
        self.reader.push(bytes, |record| {
            if record.end > after {
                found.note(&record, major);
            } else {
                last = Some((record.end, record.checksum));
            }
        })?;
        let old = usize::try_from(after.saturating_sub(start)).unwrap_or(usize::MAX);
        self.body.extend_from_slice(bytes.get(old..).unwrap_or_default());
        Ok(last)
    }

    /// Waits for something to arrive, answering what must be answered; `None` when nothing does.
    async fn wait(
        &mut self,
        clock: &Arc<dyn Clock>,
        patience: Duration,
    ) -> Result<Option<WalEvent>> {
        let event = tokio::select! {
            event = self.stream.receive() => Some(event?),
            () = clock.sleep(patience) => None,
        };
        Ok(event)
    }

    /// Says how far we are, when it is due or asked for.
    async fn report(&mut self, confirmed: u64, now: bool, clock: &Arc<dyn Clock>) -> Result<()> {
        if now || clock.elapsed() >= self.status_at {
            self.status_at = clock.elapsed() + STATUS_PERIOD;
            let received = self.received().max(confirmed);
            self.stream.send_status(received, confirmed, clock.now()).await?;
        }
        Ok(())
    }

    /// How far the server's log is durable.
    async fn goal(&self) -> Result<u64> {
        let query = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                     ELSE pg_current_wal_flush_lsn() END)::text";
        let failed = |e| error::sql(e, "ask how far the WAL reaches");
        let row = self.sql.client.query_one(query, &[]).await.map_err(failed)?;
        let text: &str = row.try_get(0).map_err(failed)?;
        lsn_from(text).ok_or_else(|| error::unexpected(text, STEP))
    }

    /// Whether some record has arrived and was not handed over.
    fn has_records(&self) -> bool {
        self.found.last.is_some_and(|(end, _)| end > self.start.lsn)
    }

    fn is_full(&self) -> bool {
        self.body.len() + PIECE_BYTES_MAX > SEGMENT_BODY_BYTES_MAX
            || self.found.events.len() >= EVENTS_MAX
    }

    /// Cuts off everything up to the end of the last record, or up to `until`.
    fn cut(&mut self, until: Option<u64>, names: &mut Names) -> Result<(LogSegment, Option<u32>)> {
        let mut found = std::mem::take(&mut self.found);
        found.name_losses(names);
        self.is_named = false;
        let last = found.last.filter(|(end, _)| *end <= self.received());
        let end = until.or(last.map(|(end, _)| end)).unwrap_or_else(|| self.received());
        let checksum = last.filter(|(last, _)| *last == end).map(|(_, checksum)| checksum);
        let length = usize::try_from(end.saturating_sub(self.start.lsn)).unwrap_or(usize::MAX);
        if length > self.body.len() {
            return Err(Error::bug("cut a segment beyond what arrived"));
        }
        let body = self.body.split_to(length).freeze();
        let (start, end) = (self.start, self.start.at(end));
        self.start = end;
        let range = LogRange::new(start.position()?, end.position()?);
        let head = SegmentHead {
            range: range.ok_or_else(|| Error::bug("cut a segment that ends before it starts"))?,
            succeeds: None,
            events: found.events,
            not_before: None,
            cursor: encode_cursor(checksum),
            index: Index {
                history: Bytes::new(),
                commits: found.commits,
                changes: Some(found.changes),
            }
            .encode(),
        };
        Ok((LogSegment { head, body }, checksum))
    }
}

impl Capture {
    pub(crate) async fn new(origin: Origin, live: Live) -> Self {
        let mut names = Names::default();
        names.load(&origin.cluster, &live.sql, origin.major).await;
        let (at, live) = (live.start(), Some(live));
        Self { origin, at, checksum: None, confirmed: 0, live, next: None, succeeds: None, names }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.origin.cluster.clock)
    }

    /// Connects again after the connection broke, or follows the server to the next timeline.
    async fn join(&mut self) -> Result<()> {
        let (place, checksum) = match self.next {
            Some(next) => (Place { timeline: next.timeline, ..self.at }, None),
            None => (self.at, self.checksum),
        };
        let live = self.origin.join(place, checksum).await?.map_err(|why| {
            Error::new(ErrorKind::Gap, code::UNREACHABLE_POINT, STEP)
                .with("position", lsn_text(place.lsn))
                .with("reason", why)
                .why("the server no longer has the log that follows what was captured")
                .next("take a new backup")
        })?;
        if let Some(next) = self.next {
            let mut session = self.origin.cluster.replication_on(&live.sql.host).await?;
            let history = session.timeline_history(next.timeline).await?.1;
            session.close().await;
            self.succeeds = Some((self.at.position()?, history));
            self.next = None;
            self.at = place;
            self.checksum = None;
        }
        self.live = Some(live);
        Ok(())
    }

    /// Joins as soon as the server answers, which may be restarting.
    async fn join_patiently(&mut self) -> Result<()> {
        let clock = self.clock();
        let until = clock.elapsed() + SILENCE_MAX;
        loop {
            match self.join().await {
                // The socket of a server that restarts is missing for a moment.
                Err(error) if is_away(&error) && clock.elapsed() < until => {
                    clock.sleep(RECONNECT_PAUSE).await;
                }
                Err(error) if is_away(&error) && self.origin.cluster.is_gone() => {
                    return Err(departed(error));
                }
                Err(error) if error.kind() == ErrorKind::Missing => return Err(restarting(error)),
                outcome => return outcome,
            }
        }
    }

    /// Takes the next segment off what arrived.
    fn cut(&mut self, until: Option<u64>) -> Result<LogSegment> {
        let live = self.live.as_mut().ok_or_else(|| Error::bug(STEP))?;
        let (mut segment, checksum) = live.cut(until, &mut self.names)?;
        (self.at, self.checksum) = (live.start(), checksum);
        if let Some((left, history)) = self.succeeds.take() {
            let index = Index::decode(&segment.head.index).unwrap_or_default();
            segment.head.index = Index { history, ..index }.encode();
            segment.head.succeeds = Some(left);
        }
        Ok(segment)
    }

    /// Ends a timeline: what is left of it, if anything is.
    async fn end_timeline(&mut self) -> Result<Option<LogSegment>> {
        let Some(live) = self.live.as_mut() else { return Ok(None) };
        let Some(next) = live.stream.read_next().await? else {
            // The server shuts down.
            self.live = None;
            return Ok(None);
        };
        if next.begins_at < live.start.lsn || next.begins_at > live.received() {
            return Err(error::unexpected(lsn_text(next.begins_at), "follow a timeline"));
        }
        let has_more = next.begins_at > live.start.lsn;
        let segment = if has_more { Some(self.cut(Some(next.begins_at))?) } else { None };
        self.live = None;
        self.next = Some(next);
        Ok(segment)
    }

    /// Reads until there is a segment to hand over.
    async fn read(&mut self) -> Result<Option<LogSegment>> {
        let clock = self.clock();
        let mut until = clock.elapsed() + PATIENCE;
        let mut goal = None;
        loop {
            if self.live.is_none() {
                self.join_patiently().await?;
            }
            let confirmed = self.confirmed;
            let Some(live) = self.live.as_mut() else { return Err(Error::bug(STEP)) };
            let goal = match goal {
                Some(goal) => goal,
                None => *goal.insert(live.goal().await?),
            };
            let now = clock.elapsed();
            let has_all = live.received() >= goal;
            if live.is_full() || !live.found.events.is_empty() && (has_all || now >= until) {
                // A cut cannot be taken back, so nothing may be waited for after it.
                if !live.is_named {
                    live.is_named = true;
                    let (cluster, made) = (&self.origin.cluster, &live.found.made);
                    self.names.learn(cluster, &live.sql, live.major, made).await;
                }
                return self.cut(None).map(Some);
            }
            if now >= until {
                return if has_all { Ok(None) } else { Err(silent(live.received())) };
            }
            let event = live.wait(&clock, until.saturating_sub(now)).await?;
            match event {
                Some(WalEvent::Bytes { start, bytes }) => {
                    live.take(start, &bytes).map_err(|bad| corrupt(&bad))?;
                    live.report(confirmed, false, &clock).await?;
                    if !has_all {
                        until = clock.elapsed() + SILENCE_MAX;
                    }
                }
                Some(WalEvent::KeepAlive { end, reply_now, .. }) => {
                    live.report(confirmed, reply_now, &clock).await?;
                    // A server that shuts down waits until everything that it sent is durable,
                    // its last checkpoint as well, and asks for that. A busy one asks only whom
                    // it has not heard of for long.
                    if reply_now && live.received() >= end && live.has_records() {
                        return self.cut(None).map(Some);
                    }
                }
                Some(WalEvent::End) => {
                    if let Some(segment) = self.end_timeline().await? {
                        return Ok(Some(segment));
                    }
                }
                None => live.report(confirmed, false, &clock).await?,
            }
        }
    }
}

/// Whether a server may come back.
fn is_away(error: &Error) -> bool {
    error.kind().is_transient() || error.kind() == ErrorKind::Missing
}

fn departed(cause: Error) -> Error {
    Error::new(ErrorKind::Departed, code::SOURCE_VANISHED, STEP)
        .why("the server is gone, and the directory of its socket as well")
        .caused_by(cause)
}

fn restarting(cause: Error) -> Error {
    Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, STEP)
        .why("nothing answers where the server was; its slot keeps the log for us")
        .caused_by(cause)
}

fn silent(received: u64) -> Error {
    Error::new(ErrorKind::Transient, code::SOURCE_VANISHED, STEP)
        .with("received up to", lsn_text(received))
        .why("the server sends nothing although it has more")
}

fn corrupt(bad: &BadWal) -> Error {
    Error::new(ErrorKind::Corrupt, code::BROKEN_SEGMENT, "check the WAL that the server sends")
        .with("found", bad)
        .why("the server could not replay it either")
}

#[async_trait]
impl LogCapture for Capture {
    async fn next(&mut self) -> Result<Option<LogSegment>> {
        let outcome = match self.read().await {
            // A connection that broke is worth another try, from where the last segment ended.
            Err(error) if error.kind().is_transient() => {
                self.live = None;
                self.read().await
            }
            outcome => outcome,
        };
        if outcome.is_err() {
            self.live = None;
        }
        outcome
    }

    async fn confirm(&mut self, position: &LogPosition) -> Result<()> {
        let place = place(position)?;
        if place.system != self.origin.system {
            return Err(Error::bug("confirm the log of another cluster"));
        }
        self.confirmed = self.confirmed.max(place.lsn);
        let (clock, confirmed) = (self.clock(), self.confirmed);
        let Some(live) = self.live.as_mut() else { return Ok(()) };
        if live.report(confirmed, true, &clock).await.is_err() {
            // The server learns it when we are connected again.
            self.live = None;
        }
        Ok(())
    }
}
