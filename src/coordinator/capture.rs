//! One capture of a database's log: what the engine hands over becomes durable, then is confirmed.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Driver, Endpoint, Engine, Error, ErrorKind, LogCapture, LogMark, LogPosition, LogSegment,
    LogSupply, OpenedLog, Result, SEGMENT_BODY_BYTES_MAX, code,
};

use super::owner::{Owner, Successor};
use crate::{
    repository::{Repository, StoredHead, StreamWriter},
    world::World,
};

/// A sign of life is stored at least so often.
pub(super) const BEAT_PERIOD: Duration = Duration::from_secs(5);

/// Rivals are looked for so often.
const FENCE_PERIOD: Duration = Duration::from_secs(10);

/// How long a capture that failed tries to say goodbye: its store may be what failed.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// The first pause after something that may pass, and the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What to capture, and how.
#[derive(Debug)]
pub struct CaptureJob<'a> {
    /// The database's engine.
    pub engine: &'a dyn Engine,
    /// Where it is.
    pub endpoint: &'a Endpoint,
    /// Its name in the repository.
    pub database: &'a str,
    /// How long committed transactions may wait before they are stored.
    pub flush: Duration,
    /// How long what may pass by itself, such as a restart of the server, is waited out.
    pub retry_for: Duration,
    /// Take over from a capture that seems to be running.
    pub take_over: bool,
    /// Who captures.
    pub process: Process<'a>,
}

/// How a capture that was killed is told from one that lives.
#[derive(Clone, Copy)]
pub struct Process<'a> {
    /// A name of this process, where it can have one.
    pub name: Option<&'a str>,
    /// Whether the process of that name has certainly ended.
    pub is_gone: &'a dyn Fn(&str) -> bool,
}

impl Process<'_> {
    /// One of which nothing is known.
    pub const UNKNOWN: Process<'static> = Process { name: None, is_gone: &|_| false };
}

impl fmt::Debug for Process<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a capture tells on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureEvent {
    /// It runs.
    Started {
        /// The stream's id.
        stream: String,
        /// From where.
        position: LogPosition,
        /// Why it does not continue the capture before it, if there was one.
        gap: Option<String>,
        /// Whether some backup can be brought forward with this log.
        is_anchored: bool,
    },
    /// Nothing can be captured; it is tried again, and begins anew when it works.
    Interrupted {
        /// Why.
        reason: String,
    },
    /// Log became durable.
    Stored {
        /// Up to here.
        position: LogPosition,
        /// When its newest transaction was seen.
        at: Option<DateTime<Utc>>,
        /// Transactions in it.
        transactions: u64,
        /// What it took in the repository, in bytes.
        stored_bytes: u64,
    },
}

/// What a capture did until it was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureReport {
    /// The stream's id.
    pub stream: String,
    /// Everything before this is durable.
    pub position: LogPosition,
    /// Segments stored.
    pub segments: u64,
    /// Transactions stored.
    pub transactions: u64,
    /// What they took in the repository, in bytes.
    pub stored_bytes: u64,
}

/// Captures until `stop` is done, then stores what was handed over and says goodbye.
///
/// What passes by itself, such as a restart of the server, is waited out once the capture has
/// begun: it goes on from what is stored, in a stream of its own. A gap is recorded in the same
/// way.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when another capture runs, [`Fenced`](ErrorKind::Fenced) when one took
/// over, and those of the engine and the repository. Whatever was reported as stored stays stored.
pub async fn capture(
    world: &World,
    repository: &Repository,
    job: CaptureJob<'_>,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(CaptureEvent),
) -> Result<CaptureReport> {
    let mut stop = Stop { future: pin!(stop), is_due: false };
    let mut outage: Option<Outage> = None;
    let mut done: Option<CaptureReport> = None;
    loop {
        let began_at = world.clock.elapsed();
        let attempt = async {
            match &done {
                None if !job.take_over => refuse_rival(repository, &job).await?,
                None => {}
                Some(done) => repository.check_fence(job.database, &done.stream).await?,
            }
            let driver = job.engine.connect(job.endpoint).await?;
            // A polled engine is asked once per flush; one that streams waits in `next` itself.
            let period = poll_period(&*driver).await?;
            Ok::<_, Error>((Running::begin(world, repository, &job, &*driver).await?, period))
        };
        let begun = match &done {
            None => attempt.await,
            Some(done) => tokio::select! {
                biased;
                () = stop.due() => return Ok(done.clone()),
                begun = attempt => begun,
            },
        };
        let (error, mut running) = match begun {
            Err(error) => (error, None),
            Ok((mut running, period)) => {
                let outcome = running.work(&job, period, &mut stop, &mut tell).await;
                let lasted = world.clock.elapsed().saturating_sub(began_at);
                if running.report.segments > 0 || lasted > RETRY_PAUSE_MAX {
                    outage = None;
                }
                let report = running.report.clone();
                done = Some(done.map_or(report.clone(), |done| done.and(report)));
                match outcome {
                    Ok(()) => {
                        running.beat(true).await?;
                        return done.ok_or_else(|| Error::bug("report a capture"));
                    }
                    Err(error) => (error, Some(running)),
                }
            }
        };
        let now = world.clock.elapsed();
        let is_new = outage.is_none();
        let since = outage.get_or_insert(Outage { since: now, pause: RETRY_PAUSE });
        let is_patient = done.is_some() && now.saturating_sub(since.since) < job.retry_for;
        let Some(done) = done.as_ref().filter(|_| is_patient && may_pass(&error, !is_new)) else {
            // Whoever begins next need not wait until this one looks dead.
            if let Some(running) = running.as_mut().filter(|_| error.kind() != ErrorKind::Fenced) {
                running.say_goodbye().await;
            }
            return Err(error);
        };
        drop(running);
        if is_new {
            tell(CaptureEvent::Interrupted { reason: error.to_string() });
        }
        tracing::debug!("the capture is interrupted: {error}");
        tokio::select! {
            biased;
            () = stop.due() => return Ok(done.clone()),
            () = world.clock.sleep(since.pause) => {}
        }
        since.pause = (since.pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// When the capture shall stop, which is asked more than once.
struct Stop<'a, F> {
    future: Pin<&'a mut F>,
    is_due: bool,
}

impl<F: Future<Output = ()>> Stop<'_, F> {
    async fn due(&mut self) {
        if !self.is_due {
            self.future.as_mut().await;
            self.is_due = true;
        }
    }
}

/// A time in which nothing can be captured.
struct Outage {
    since: Duration,
    pause: Duration,
}

/// Whether it may be worth trying again. A server that restarts is missing for a while.
fn may_pass(error: &Error, is_away: bool) -> bool {
    let kind = error.kind();
    kind.is_transient() || kind == ErrorKind::Gap || is_away && kind == ErrorKind::Missing
}

impl CaptureReport {
    /// This one and the one that went on from it.
    fn and(self, later: Self) -> Self {
        Self {
            segments: self.segments + later.segments,
            transactions: self.transactions + later.transactions,
            stored_bytes: self.stored_bytes + later.stored_bytes,
            ..later
        }
    }
}

/// Lets a server forget, for good, what it keeps for captures of a database that shall not be
/// captured any more. Returns what was given up, if there was anything.
///
/// # Errors
///
/// [`Busy`](ErrorKind::Busy) when a capture runs.
pub async fn retire(repository: &Repository, job: CaptureJob<'_>) -> Result<Option<String>> {
    refuse_rival(repository, &job).await?;
    job.engine.connect(job.endpoint).await?.retire_log().await
}

async fn poll_period(driver: &dyn Driver) -> Result<Option<Duration>> {
    match driver.probe().await?.capabilities.log {
        LogSupply::Stream => Ok(None),
        LogSupply::Poll { period } => Ok(Some(period)),
        // The driver knows why, and which statement would change it.
        LogSupply::Never => Err(match driver.open_log(None).await {
            Err(error) => error,
            Ok(_) => Error::bug("capture log that the driver says it does not have"),
        }),
    }
}

async fn refuse_rival(repository: &Repository, job: &CaptureJob<'_>) -> Result<()> {
    let database = job.database;
    let Some(beat) = repository.running_capture(database).await? else { return Ok(()) };
    if beat.process.as_deref().is_some_and(job.process.is_gone) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, code::FENCED, format!("capture the log of {database}"))
        .with("running since", &beat.stream)
        .with("last sign of life", beat.alive_at.unwrap_or(beat.at).to_rfc3339())
        .why("one capture of a database is enough")
        .next("if that one is dead, wait half a minute, or add --take-over"))
}

/// Where the newest backup of an incarnation leaves off, and when that was.
async fn backup_mark(
    repository: &Repository,
    owner: Option<&Owner>,
    incarnation: &str,
) -> Result<Option<(LogMark, DateTime<Utc>)>> {
    let newest = owner.map(Owner::backup);
    let Some(newest) = newest.filter(|c| c.commit.incarnation == incarnation) else {
        return Ok(None);
    };
    let evidence = repository.manifest(newest).await?.evidence()?;
    let mark = evidence.consistent_at.map(|position| LogMark { position, cursor: evidence.cursor });
    Ok(mark.map(|mark| (mark, newest.commit.consistent_time)))
}

/// Until when the capture that stored `last` certainly saw everything.
async fn last_seen(
    repository: &Repository,
    database: &str,
    last: &StoredHead,
) -> Result<DateTime<Utc>> {
    let stored = last.head.events.last().map_or(DateTime::UNIX_EPOCH, |event| event.at);
    // A sign that cannot be read says nothing.
    let beat = repository.newest_beat(database).await.unwrap_or_else(|error| {
        tracing::warn!("the last sign of life of the capture before: {error}");
        None
    });
    let beat = beat.filter(|beat| beat.position == *last.head.range.end());
    Ok(beat.map_or(stored, |beat| stored.max(beat.at)))
}

struct Running<'a> {
    world: &'a World,
    repository: &'a Repository,
    database: &'a str,
    capture: Box<dyn LogCapture>,
    writer: StreamWriter<'a>,
    gap: Option<String>,
    /// Handed over by the engine, not stored yet.
    pending: Vec<LogSegment>,
    pending_since: Duration,
    /// Until when a capture before this one had seen everything that this one continues.
    seen_until: DateTime<Utc>,
    /// When the end of the log was seen last.
    dry_at: DateTime<Utc>,
    beat_at: Option<Duration>,
    fence_at: Duration,
    report: CaptureReport,
}

impl<'a> Running<'a> {
    async fn begin(
        world: &'a World,
        repository: &'a Repository,
        job: &CaptureJob<'a>,
        driver: &dyn Driver,
    ) -> Result<Self> {
        let identity = driver.probe().await?.identity;
        let owner = Owner::of(repository, job.database).await?;
        if let Some(owner) = &owner {
            owner.admit(job.engine.name(), &identity, Successor::InPlace)?;
        }
        let last = repository.last_segment(job.database).await?;
        let ours = last.as_ref().filter(|last| last.incarnation == identity.id);
        let mark = ours.map(|last| LogMark {
            position: last.head.range.end().clone(),
            cursor: last.head.cursor.clone(),
        });
        let mut opened = driver.open_log(mark.as_ref()).await?;
        let mut seen_until = match ours {
            Some(last) => last_seen(repository, job.database, last).await?,
            None => DateTime::UNIX_EPOCH,
        };
        let mut continues = ours.map(|last| (last.stream.clone(), last.seq));
        if continues.is_none() || opened.gap.is_some() {
            // Log that joins the newest backup is as good as log that joins the last capture.
            continues = None;
            seen_until = DateTime::UNIX_EPOCH;
            let replaced = || "the database was replaced".to_owned();
            let gap = last.as_ref().map(|_| opened.gap.take().unwrap_or_else(replaced));
            let mark = backup_mark(repository, owner.as_ref(), &identity.id).await?;
            if let Some((mark, at)) = mark {
                drop(opened);
                opened = driver.open_log(Some(&mark)).await?;
                if opened.gap.is_none() {
                    seen_until = at;
                }
            }
            opened.gap = gap.or(opened.gap);
        }
        let OpenedLog { capture, start, gap } = opened;
        let writer = repository.begin_stream(job.database, &identity.id, continues, gap.clone());
        let writer = writer.await?.held_by(job.process.name.map(str::to_owned));
        let now = world.clock.elapsed();
        let report = CaptureReport {
            stream: writer.id().to_owned(),
            position: start,
            segments: 0,
            transactions: 0,
            stored_bytes: 0,
        };
        let (pending, beat_at) = (Vec::new(), None);
        let database = job.database;
        Ok(Self {
            world,
            repository,
            database,
            capture,
            writer,
            gap,
            pending,
            pending_since: now,
            seen_until,
            dry_at: seen_until,
            beat_at,
            fence_at: now,
            report,
        })
    }

    /// Captures until it is to stop.
    async fn work(
        &mut self,
        job: &CaptureJob<'_>,
        period: Option<Duration>,
        stop: &mut Stop<'_, impl Future<Output = ()>>,
        tell: &mut impl FnMut(CaptureEvent),
    ) -> Result<()> {
        let wait = period.map_or(Duration::ZERO, |period| period.max(job.flush));
        self.beat(false).await?;
        tell(self.started().await?);
        loop {
            let is_dry = self.drain(job.flush, tell).await?;
            self.look_around().await?;
            // A stream of a busy server never runs dry; what it has not sent yet stays there.
            if stop.is_due && (is_dry || period.is_none()) {
                return Ok(());
            }
            let pause = if is_dry { wait } else { Duration::ZERO };
            let may_stop = !stop.is_due;
            tokio::select! {
                biased;
                () = stop.due(), if may_stop => {}
                () = self.world.clock.sleep(pause) => {}
            }
        }
    }

    /// Tries to say that this was all.
    async fn say_goodbye(&mut self) {
        let world = self.world;
        tokio::select! {
            biased;
            said = self.beat(true) => {
                said.unwrap_or_else(|silent| tracing::debug!("no goodbye: {silent}"));
            }
            () = world.clock.sleep(GOODBYE_MAX) => {}
        }
    }

    async fn started(&mut self) -> Result<CaptureEvent> {
        let position = self.report.position.clone();
        let is_anchored = self.repository.is_anchored(self.database, &position).await?;
        let (stream, gap) = (self.report.stream.clone(), self.gap.clone());
        Ok(CaptureEvent::Started { stream, position, gap, is_anchored })
    }

    /// Takes everything that the engine has now, and stores it in pieces of a bounded size.
    ///
    /// `false` when there is more: what was taken is stored after `flush`, or when it is much.
    async fn drain(
        &mut self,
        flush: Duration,
        tell: &mut impl FnMut(CaptureEvent),
    ) -> Result<bool> {
        let mut is_dry = false;
        while !is_dry && !self.is_due(flush) {
            is_dry = !self.poll().await?;
        }
        if let Some(event) = self.flush().await? {
            tell(event);
        }
        Ok(is_dry)
    }

    /// Asks the engine once; `true` when it handed something over.
    async fn poll(&mut self) -> Result<bool> {
        let asked_at = self.world.clock.now();
        let Some(mut segment) = self.capture.next().await? else {
            self.dry_at = asked_at;
            return Ok(false);
        };
        segment.head.not_before = segment.head.not_before.map(|at| at.max(self.seen_until));
        if segment.head.range.start() != self.position()
            && segment.head.succeeds.as_ref() != Some(self.position())
        {
            return Err(Error::bug("capture log without a hole")
                .with("expected", self.position())
                .with("found", segment.head.range.start()));
        }
        if self.pending.is_empty() {
            self.pending_since = self.world.clock.elapsed();
        }
        self.pending.push(segment);
        Ok(true)
    }

    fn position(&self) -> &LogPosition {
        self.pending.last().map_or(&self.report.position, |last| last.head.range.end())
    }

    fn is_due(&self, flush: Duration) -> bool {
        let waited = self.world.clock.elapsed().saturating_sub(self.pending_since);
        let bytes: usize = self.pending.iter().map(|segment| segment.body.len()).sum();
        !self.pending.is_empty() && (waited >= flush || bytes >= SEGMENT_BODY_BYTES_MAX / 2)
    }

    /// Stores what is pending, then lets the engine forget it.
    async fn flush(&mut self) -> Result<Option<CaptureEvent>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let (mut transactions, mut stored_bytes, mut at) = (0, 0, None);
        for segment in std::mem::take(&mut self.pending) {
            transactions += segment.head.events.len() as u64;
            at = segment.head.events.last().map(|event| event.at).or(at);
            let position = segment.head.range.end().clone();
            stored_bytes += self.writer.append(segment, self.world.clock.now()).await?;
            self.report.segments += 1;
            self.report.position = position;
        }
        self.capture.confirm(&self.report.position).await?;
        self.report.transactions += transactions;
        self.report.stored_bytes += stored_bytes;
        let position = self.report.position.clone();
        Ok(Some(CaptureEvent::Stored { position, at, transactions, stored_bytes }))
    }

    /// Gives signs of life and looks for rivals, each in its time.
    async fn look_around(&mut self) -> Result<()> {
        let now = self.world.clock.elapsed();
        let is_quiet = self.pending.is_empty();
        if is_quiet && self.beat_at.is_none_or(|at| now.saturating_sub(at) >= BEAT_PERIOD) {
            self.beat(false).await?;
        }
        if now.saturating_sub(self.fence_at) >= FENCE_PERIOD {
            self.writer.check_fence().await?;
            self.fence_at = now;
        }
        Ok(())
    }

    async fn beat(&mut self, is_last: bool) -> Result<()> {
        self.writer.beat(&self.report.position, self.dry_at, is_last).await?;
        self.beat_at = Some(self.world.clock.elapsed());
        Ok(())
    }
}
