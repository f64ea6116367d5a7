//! The state machine of log capture: which frames are handed out, and what is held meanwhile.
//!
//! Blocking; `log.rs` runs it on a thread of its own.

use std::{collections::VecDeque, fs, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use stillpoint_contract::{
    Error, ErrorKind, LogEvent, LogMark, LogPosition, LogRange, LogSegment, Result, SegmentHead,
    code,
};

use crate::{
    connect::{Database, Journal},
    error,
    first_page::{self, FirstPages},
    frames::{self, Stretch},
    generation::{LogState, Observer, write_lock},
    hold::Hold,
    position::{self, Stamps},
    resume::{self, OVERWRITTEN, Place, Tail},
    throttle::{Pauses, Throttle},
    wal::{Generation, Salts},
};

/// From this many frames on we copy the log back ourselves, because our hold keeps others from
/// doing it: SQLite's own default.
/// Source: <https://www.sqlite.org/pragma.html#pragma_wal_autocheckpoint>.
const CHECKPOINT_FRAMES: u32 = 1000;

/// From this length on a log that never pauses is let go although its last frames, which are in our
/// hands, are not yet durable, and writers that are faster than we are slowed down.
const LONG_BYTES: u64 = 64 << 20;

/// How much may be left to copy back while writers wait, and how often we try to get there
/// before.
const TAIL_BYTES_MAX: u64 = 16 << 20;
const COPY_ROUNDS: u32 = 2;

/// Longer than this our hold makes no log: then it is let go, whatever that costs. A full disk of
/// the application is worse than a gap.
const LOG_BYTES_MAX: u64 = 4 * LONG_BYTES;

/// How long we wait for the write lock.
const LOCK_WAIT: Duration = Duration::from_millis(30);

/// When nothing was copied back for so long although our hold would have let it, another reader
/// keeps it: a checkpoint that runs makes progress.
const OTHERS_HOLD: Duration = Duration::from_secs(1);

/// Least time between two checkpoints of ours.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(250);

/// Least time between two attempts to let a long log go.
const LET_GO_INTERVAL: Duration = Duration::from_millis(50);

/// How soon the hold is moved along while writers are busy.
const BUSY_PERIOD: Duration = Duration::from_millis(10);

/// How much log is read ahead under the write lock when a capture begins.
const CATCH_UP_BYTES_MAX: u64 = 32 << 20;

/// From this much of log that is read ahead on, no further segment is.
const READY_BYTES_MAX: u64 = 32 << 20;

/// By how much a file's time stamp may lag behind the clock: one tick of the kernel.
const TICK: Duration = Duration::from_millis(10);

/// Sightings that wait for their frames to be read: a minute of them and more.
const SIGHTINGS_MAX: usize = 1024;

/// How far the log had come at some time.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    generation: Generation,
    frame: u32,
    at: DateTime<Utc>,
}

/// A running capture.
#[derive(Debug)]
pub(crate) struct Capture {
    observer: Observer,
    hold: Hold,
    /// The end of what was handed out or lies in `ready`.
    place: Place,
    /// The generation that was left last.
    left: Option<Salts>,
    /// Whether all of that is durable.
    is_confirmed: bool,
    /// Segments read ahead; at most [`READY_BYTES_MAX`] of bodies and one more, or
    /// [`CATCH_UP_BYTES_MAX`] when the capture begins.
    ready: VecDeque<LogSegment>,
    /// The time of the last commit; times never step backwards within a capture.
    last_at: DateTime<Utc>,
    /// When frames that are not read yet were first seen, oldest first.
    sightings: VecDeque<Sighting>,
    /// When the end of the log was last seen, and everything before it read.
    seen_until: DateTime<Utc>,
    checkpoint_after: Duration,
    let_go_after: Duration,
    throttle: Throttle,
    /// Whether writers fill the log so fast that the hold must follow them.
    is_busy: bool,
    /// The first pages as they are known, and the file for which they are.
    pages: FirstPages,
    file_known: Option<Stamps>,
    /// How long the log may become, and in which generation: one that was long before we came may
    /// grow as much as any other.
    ceiling: (Option<Generation>, u64),
    /// How much of the log was copied back, and since when no more than that.
    copied: (u32, Duration),
    /// Since when the log has been longer than it may be.
    over_since: Option<Duration>,
    /// Set when the log was let go unread.
    given_up: Option<String>,
}

impl Capture {
    /// Begins a capture. Returns it with where it starts, and with why it cannot start at `since`.
    pub(crate) fn open(
        database: &Database,
        since: Option<&LogMark>,
    ) -> Result<(Self, LogPosition, Option<String>)> {
        let connection = database.open()?;
        if database.journal(&connection)? != Journal::Wal {
            return Err(no_log(database));
        }
        let observer = Observer::open(database)?;
        drop(connection);
        let (hold, state) = Hold::take(&observer)?;
        let (mut place, gap) = resume::start(&observer, &state, since)?;
        let is_new = since.is_none() || gap.is_some();
        if is_new && hold.let_go_at().is_some() && CATCH_UP_BYTES_MAX < state.bytes() {
            // The next writer may restart the log before so much is read, and nobody needs it.
            place = resume::end(&observer, &state)?;
        }
        let start = place.position.clone();
        let in_log = place.tail.map(|tail| (tail.generation, tail.frame));
        let pages = first_page::at(database, &observer.wal, in_log)?;
        let mut capture = Self {
            observer,
            hold,
            place,
            left: None,
            is_confirmed: true,
            ready: VecDeque::new(),
            last_at: DateTime::<Utc>::MIN_UTC,
            sightings: VecDeque::new(),
            seen_until: DateTime::UNIX_EPOCH,
            checkpoint_after: Duration::ZERO,
            let_go_after: Duration::ZERO,
            throttle: Throttle::default(),
            is_busy: false,
            pages,
            file_known: None,
            ceiling: (state.live.map(|(live, _)| live), LOG_BYTES_MAX + state.bytes()),
            copied: (0, Duration::ZERO),
            over_since: None,
            given_up: None,
        };
        capture.catch_up(&state)?;
        Ok((capture, start, gap))
    }

    /// Returns the next stretch of log.
    pub(crate) fn next(&mut self) -> Result<Option<LogSegment>> {
        let looked = self.look();
        let segment = match self.ready.pop_front() {
            None => {
                let (looked_at, state) = looked?;
                let segment = self.read_next(&state)?;
                if segment.is_none() || self.has_all(&state) {
                    self.seen_until = looked_at;
                }
                segment
            }
            ready => ready,
        };
        self.is_confirmed &= segment.is_none();
        match self.relax() {
            // The segment may be the only copy of what it holds; what is wrong is found again.
            Err(error) if segment.is_some() => {
                tracing::debug!(%error, "could not move the hold on the log along");
            }
            relaxed => relaxed?,
        }
        Ok(segment)
    }

    /// Looks at the log, and makes it end where it has become long.
    fn look(&mut self) -> Result<(DateTime<Utc>, LogState)> {
        self.database().check_identity()?;
        if !self.observer.wal.is_current() {
            return Err(error::gap("the log file was removed or replaced by hand"));
        }
        let looked_at = self.database().clock.now();
        let state = self.observer.observe()?;
        self.keep_below_ceiling(&state)?;
        self.check_file(&state)?;
        Ok((looked_at, self.shorten(state)?))
    }

    /// Everything before `position` is durable.
    pub(crate) fn confirm(&mut self, position: &LogPosition) -> Result<()> {
        if *position == self.place.position && self.ready.is_empty() {
            self.is_confirmed = true;
            self.relax()?;
        }
        Ok(())
    }

    /// How soon the hold has to be moved along, if at once is not needed.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.is_busy.then_some(BUSY_PERIOD)
    }

    /// Does what needs no request: moves the hold along so that others can copy back and restart
    /// the log.
    pub(crate) fn tend(&mut self) -> Result<()> {
        let looked_at = self.database().clock.now();
        let state = self.observer.observe()?;
        self.sight(&state);
        if self.has_all(&state) && self.ready.is_empty() {
            self.seen_until = looked_at;
        }
        self.keep_below_ceiling(&state)?;
        self.shorten(state)?;
        self.relax()
    }

    /// Fails when a program wrote over the database file in place: what the log holds then belongs
    /// to a file that is gone.
    fn check_file(&mut self, state: &LogState) -> Result<()> {
        let database = self.database();
        let (path, now) = (&database.path, database.clock.now());
        let stamps = fs::metadata(path).map_err(|_| error::vanished(path))?;
        let stamps = Stamps::of(&stamps);
        if self.file_known == Some(stamps) {
            return Ok(());
        }
        let known = [self.pages.in_file, self.pages.seen];
        match first_page::belongs(&self.observer, &known)? {
            // It is half written.
            Some(first_page::UNKNOWN) => {}
            Some(in_file) => {
                self.pages.in_file = in_file;
                self.file_known = Some(stamps).filter(|stamps| stamps.is_final(now));
            }
            None => {
                // What ended unread is found, and told, when the next generation is read.
                let live = state.live.map(|(live, _)| live);
                if self.place.tail.is_none_or(|tail| Some(tail.generation) == live) {
                    return Err(error::gap(OVERWRITTEN));
                }
            }
        }
        Ok(())
    }

    /// Lets the log go, read or not, before it fills the application's disk.
    fn keep_below_ceiling(&mut self, state: &LogState) -> Result<()> {
        if let Some(why) = &self.given_up {
            return Err(error::gap(why.clone()));
        }
        let live = state.live.map(|(live, _)| live);
        if live != self.ceiling.0 {
            self.ceiling = (live, LOG_BYTES_MAX);
        }
        if state.backfilled != self.copied.0 || self.hold.keeps(state.backfilled) {
            self.copied = (state.backfilled, self.database().clock.elapsed());
        }
        let is_let_go = self.hold.let_go_at().is_some_and(|at| at.same_commit(state));
        if state.bytes() < self.ceiling.1 || is_let_go {
            self.over_since = None;
            return Ok(());
        }
        let now = self.database().clock.elapsed();
        let over_since = *self.over_since.get_or_insert(now);
        if self.copied.1 <= over_since {
            // Unless something was copied back since, another reader may be what keeps the log.
            return Ok(());
        }
        let mebibytes = state.bytes() >> 20;
        let why = format!(
            "the log had grown to {mebibytes} MiB faster than it could be stored, and was let go \
             before it filled the application's disk"
        );
        tracing::warn!(file = %self.database().path.display(), "{why}");
        self.throttle.set(&self.observer.database, None)?;
        self.is_busy = false;
        self.given_up = Some(why.clone());
        self.hold.end(&self.observer)?;
        Err(error::gap(why))
    }

    /// Whether another reader keeps the log from being copied back: then neither a pause nor
    /// letting go makes it shorter.
    fn is_held_by_others(&self, state: &LogState) -> bool {
        let (copied, since) = self.copied;
        let stood = self.database().clock.elapsed().saturating_sub(since);
        copied == state.backfilled && OTHERS_HOLD <= stood
    }

    /// Releases everything.
    pub(crate) fn release(self) {
        drop(self.throttle);
        self.hold.release();
        Database::close(self.observer.connection);
    }

    fn database(&self) -> &Database {
        &self.observer.database
    }

    fn read_next(&mut self, state: &LogState) -> Result<Option<LogSegment>> {
        let Some((live, frames)) = state.live else {
            return if position::is_rest(&self.place.position.lineage) {
                Ok(None)
            } else {
                self.come_to_rest().map(Some)
            };
        };
        let known = self.place.tail.filter(|tail| tail.generation == live);
        let Some(tail) = known else {
            return self.change_generation(live, frames).map(Some);
        };
        if frames < tail.frame {
            return Err(error::gap("the log is shorter than it was"));
        }
        if frames == tail.frame {
            return Ok(None);
        }
        self.read(tail, self.place.position.clone(), frames, None).map(Some)
    }

    /// A new generation began. Backups taken between the two name the file at rest, so that state
    /// is put on record first, whenever we know it: as long as our hold kept the file unchanged.
    fn change_generation(&mut self, live: Generation, frames: u32) -> Result<LogSegment> {
        let is_rest = position::is_rest(&self.place.position.lineage);
        if !is_rest && self.place.tail.is_some() {
            return self.come_to_rest();
        }
        if self.left == Some(live.salts) {
            return Err(error::gap("a part of the log that was over came back"));
        }
        let start = position::at_frame(&self.database().identity.id, live.salts, 0)?;
        let succeeds = self.place.position.clone();
        let tail = Tail { generation: live, frame: 0, chain: live.checksum };
        self.read(tail, start, frames, Some(succeeds))
    }

    /// Says that the log is empty and the file alone holds the last state.
    fn come_to_rest(&mut self) -> Result<LogSegment> {
        let had_all = self.hold.let_go_at().is_some_and(|state| self.has_all(&state));
        if self.place.tail.is_some() && !had_all {
            return Err(error::gap("the log was restarted before its last frames were read"));
        }
        let database = self.database();
        let id = &database.identity.id;
        let rest = position::at_rest(id, &database.path, database.clock.as_ref())?;
        let range = LogRange::new(rest.clone(), rest.clone());
        let place = Place { position: rest, tail: None };
        let left = std::mem::replace(&mut self.place, place);
        // Everything was copied back.
        self.pages.in_file = self.pages.seen;
        self.left = left.tail.map(|tail| tail.generation.salts);
        let head = SegmentHead {
            range: range.ok_or_else(|| Error::bug("name a resting file"))?,
            succeeds: Some(left.position),
            events: Vec::new(),
            not_before: None,
            cursor: Bytes::new(),
            index: Bytes::new(),
        };
        Ok(LogSegment { head, body: Bytes::new() })
    }

    /// Reads from `tail`, which is at `start`, towards frame `end` as far as a segment goes.
    fn read(
        &mut self,
        tail: Tail,
        start: LogPosition,
        end: u32,
        succeeds: Option<LogPosition>,
    ) -> Result<LogSegment> {
        let Some(stretch) = frames::read(&self.observer.wal, &tail, end)? else {
            return Err(self.lost());
        };
        let Stretch { body, index, tail, commits, first_page } = stretch;
        self.pages.seen = first_page.unwrap_or(self.pages.seen);
        let events = self.date(&commits, tail.generation);
        let end = start.at(u128::from(tail.frame));
        let range = LogRange::new(start, end.clone());
        let head = SegmentHead {
            range: range.ok_or_else(|| Error::bug("order the log's frames"))?,
            succeeds,
            events,
            not_before: Some(self.seen_until),
            cursor: tail.cursor(self.pages).encode(),
            index,
        };
        self.place = Place { position: end, tail: Some(tail) };
        Ok(LogSegment { head, body })
    }

    /// Notes how far the log has come by now.
    fn sight(&mut self, state: &LogState) {
        let Some((generation, frame)) = state.live else { return };
        let is_news = self
            .sightings
            .back()
            .is_none_or(|last| last.generation != generation || last.frame != frame);
        if is_news {
            if self.sightings.len() == SIGHTINGS_MAX {
                self.sightings.pop_front();
            }
            let at = self.time_of_commit();
            self.sightings.push_back(Sighting { generation, frame, at });
        }
    }

    /// Dates commits that were just read: by the first time that they were seen in the log, or else
    /// by now.
    fn date(&mut self, commits: &[u32], generation: Generation) -> Vec<LogEvent> {
        let (now, mut last_at) = (self.time_of_commit(), self.last_at);
        let events = frames::events(commits, |frame| {
            let covers = |seen: &&Sighting| seen.generation == generation && frame <= seen.frame;
            last_at = self.sightings.iter().find(covers).map_or(now, |seen| seen.at).max(last_at);
            last_at
        });
        self.last_at = last_at;
        let done = commits.last().copied().unwrap_or(0);
        self.sightings.retain(|seen| seen.generation == generation && done < seen.frame);
        events
    }

    /// When the frames that were just read were committed at the latest: before now, and before
    /// the log was last written.
    fn time_of_commit(&self) -> DateTime<Utc> {
        let now = self.database().clock.now();
        let written = self.observer.wal.modified().map(DateTime::<Utc>::from);
        written.map_or(now, |written| now.min(written + TICK)).max(self.last_at)
    }

    fn lost(&self) -> Error {
        let still = self.observer.observe().ok().and_then(|state| state.live);
        let is_restarted = still.map(|(generation, _)| generation.salts)
            != self.place.tail.map(|tail| tail.generation.salts);
        if self.hold.let_go_at().is_some() || is_restarted {
            return error::gap("the log was restarted before its frames could be read");
        }
        Error::new(ErrorKind::Corrupt, code::UNSUITABLE_DATABASE, "read the write-ahead log")
            .with("file", self.database().path.display())
            .why("a committed frame does not have the checksum that it was written with")
    }

    /// Reads what a restart of the log could destroy before we get to it, with writers kept out.
    fn catch_up(&mut self, state: &LogState) -> Result<()> {
        if self.hold.let_go_at().is_none() {
            return Ok(());
        }
        let bytes = self.unread_bytes(state);
        if bytes == 0 || CATCH_UP_BYTES_MAX < bytes {
            return Ok(());
        }
        let mut writer = self.database().open_writable()?;
        if write_lock(self.database(), &mut writer, LOCK_WAIT).is_err() {
            return Ok(());
        }
        let looked_at = self.database().clock.now();
        let state = self.observer.observe()?;
        while let Some(segment) = self.read_next(&state)? {
            self.ready.push_back(segment);
        }
        self.seen_until = looked_at;
        self.is_confirmed = self.ready.is_empty();
        drop(writer);
        Ok(())
    }

    /// Moves the hold up to what is durable, lets others have the log when everything in it is, and
    /// helps them when our hold has kept them from copying it back.
    ///
    /// Frames that are not durable are best not copied back: while some are waiting, whoever begins
    /// a capture after we were killed can hold the log (see `hold.rs`). Where writers are busy that
    /// helps nobody: the next commit copies everything back. Then the hold follows them, so that
    /// each copies its share, as it would without us, and leaves the lock to others meanwhile.
    fn relax(&mut self) -> Result<()> {
        if self.given_up.is_some() {
            return Ok(());
        }
        let mut state = self.observer.observe()?;
        let lag = self.hold.lag(&state);
        self.is_busy = self.knows_live(&state) && CHECKPOINT_FRAMES <= lag;
        let has_all_durable = self.is_confirmed && self.has_all(&state);
        if self.is_busy || (has_all_durable && lag > 0) {
            self.hold.advance(&self.observer)?;
            state = self.observer.observe()?;
        }
        if !self.is_confirmed {
            return Ok(());
        }
        if self.hold.let_go_at().is_some() || !self.has_all(&state) {
            return Ok(());
        }
        let is_long = CHECKPOINT_FRAMES <= state.frames();
        if is_long && !state.is_backfilled() {
            self.checkpoint()?;
            state = self.observer.observe()?;
        }
        // A short log is kept: whoever begins a capture again finds everything in it.
        let is_wanted = state.is_backfilled() && self.has_all(&state);
        if is_wanted && (is_long || self.somebody_waits()?) {
            self.hold.advance(&self.observer)?;
        }
        Ok(())
    }

    /// Whether a checkpoint of another connection is running, which can only be waiting for
    /// readers now that everything is copied back. Asked now and then only: a checkpoint that
    /// begins in the instant of the question fails.
    fn somebody_waits(&mut self) -> Result<bool> {
        let now = self.database().clock.elapsed();
        if now < self.checkpoint_after {
            return Ok(false);
        }
        self.checkpoint_after = now + CHECKPOINT_INTERVAL;
        Ok(self.observer.checkpoint("PASSIVE")?.is_none())
    }

    /// Whether we are reading the generation that is written now.
    fn knows_live(&self, state: &LogState) -> bool {
        state.live.map(|(live, _)| live) == self.place.tail.map(|tail| tail.generation)
    }

    fn has_all(&self, state: &LogState) -> bool {
        let have = self.place.tail.map(|tail| (tail.generation, tail.frame));
        state.live.is_some() && state.live == have
    }

    /// How much of the live log is not read yet.
    fn unread_bytes(&self, state: &LogState) -> u64 {
        let Some((live, frames)) = state.live else { return 0 };
        let known = self.place.tail.filter(|tail| tail.generation == live);
        let unread = frames.saturating_sub(known.map_or(0, |tail| tail.frame));
        u64::from(unread) * live.frame_bytes() as u64
    }

    /// Copies the log back as far as readers allow; they and writers go on meanwhile.
    fn checkpoint(&mut self) -> Result<()> {
        let now = self.database().clock.elapsed();
        if self.checkpoint_after <= now {
            if self.observer.checkpoint("PASSIVE")?.is_none() {
                // Somebody else's runs.
                self.copied.1 = now;
            }
            self.checkpoint_after = now + CHECKPOINT_INTERVAL;
        }
        Ok(())
    }

    /// Lets a log go that has become long because writers never pause, or slows them down until
    /// what is left to read fits into our hands. Gives up quietly when the write lock is not free.
    fn shorten(&mut self, mut state: LogState) -> Result<LogState> {
        let is_let_go = self.hold.let_go_at().is_some_and(|at| at.same_commit(&state));
        if state.bytes() < LONG_BYTES || is_let_go {
            self.throttle.set(&self.observer.database, None)?;
            return Ok(state);
        }
        self.slow_down(&state)?;
        // Nobody else may copy anything back, and others are told by what we cannot.
        self.checkpoint()?;
        state = self.observer.observe()?;
        let is_within_reach = self.slow_down(&state)?;
        let now = self.database().clock.elapsed();
        if !is_within_reach || now < self.let_go_after {
            return Ok(state);
        }
        self.let_go_after = now + LET_GO_INTERVAL;
        if !self.knows_live(&state) && self.place.tail.is_some() {
            // That the generation before was read to its end is known from where the hold is now.
            let Some(segment) = self.read_next(&state)? else { return Ok(state) };
            self.ready.push_back(segment);
            self.is_confirmed = false;
        }
        // Most of the work is done before anybody has to wait. What is copied back need not be
        // durable: the end, which nobody can copy while more is written, keeps the log.
        for _ in 0..COPY_ROUNDS {
            if self.hold.lag(&state) > 0 {
                self.hold.advance(&self.observer)?;
            }
            self.observer.checkpoint("PASSIVE")?;
            state = self.observer.observe()?;
        }
        self.read_ahead(&state)?;
        let mut writer = self.database().open_writable()?;
        self.throttle.set(&self.observer.database, None)?;
        if write_lock(self.database(), &mut writer, LOCK_WAIT).is_ok() {
            self.let_go()?;
        }
        drop(writer);
        state = self.observer.observe()?;
        if self.hold.let_go_at().is_none() {
            // A disk takes its time to copy what a writer has written meanwhile.
            self.slow_down(&state)?;
        }
        Ok(state)
    }

    /// Slows writers down as a log of this length asks for, unless that is of no use. Returns
    /// whether the log can be let go as soon as it is copied back.
    fn slow_down(&mut self, state: &LogState) -> Result<bool> {
        let fits = self.ready_bytes() + self.unread_bytes(state) <= READY_BYTES_MAX;
        let is_hopeless = self.is_held_by_others(state);
        let excess = state.bytes().saturating_sub(LONG_BYTES);
        // Until the next look, only the throttle sees what is written.
        let allowed = if fits { LONG_BYTES } else { 0 };
        let pauses = (!is_hopeless).then(|| Pauses::of(self.database(), excess, allowed));
        self.throttle.set(&self.observer.database, pauses)?;
        Ok(fits && !is_hopeless)
    }

    /// Lets the log go while writers are kept out, if all of it can be had in our hands and be
    /// copied back at once. Should we be killed before it is durable, the next start finds a gap.
    fn let_go(&mut self) -> Result<()> {
        let state = self.observer.observe()?;
        self.read_ahead(&state)?;
        let copied = u64::from(state.backfilled) * state.bytes() / u64::from(state.frames().max(1));
        if !self.has_all(&state) || TAIL_BYTES_MAX < state.bytes() - copied {
            return Ok(());
        }
        if !state.is_backfilled() {
            self.hold.advance(&self.observer)?;
        }
        let ran = self.observer.checkpoint("PASSIVE")?.is_some();
        if self.observer.observe()?.is_backfilled() {
            return self.hold.advance(&self.observer);
        }
        if ran {
            // Another reader keeps it.
            self.let_go_after = self.database().clock.elapsed() + CHECKPOINT_INTERVAL;
        }
        Ok(())
    }

    fn ready_bytes(&self) -> u64 {
        self.ready.iter().map(|segment| segment.body.len() as u64).sum()
    }

    /// Reads towards the end of the log, as far as there is room for what is read.
    fn read_ahead(&mut self, state: &LogState) -> Result<()> {
        while !self.has_all(state) && self.ready_bytes() < READY_BYTES_MAX {
            let Some(segment) = self.read_next(state)? else { break };
            self.ready.push_back(segment);
            self.is_confirmed = false;
        }
        Ok(())
    }
}

/// A rollback-journal database keeps no log that could be captured.
fn no_log(database: &Database) -> Error {
    Error::new(ErrorKind::Unsupported, code::UNSUITABLE_DATABASE, "capture the log")
        .with("file", database.path.display())
        .why(
            "the database uses a rollback journal, which keeps no history; only a database in \
              WAL mode has a log to capture",
        )
        .next(format!("sqlite3 {} 'PRAGMA journal_mode=WAL'", error::quoted(&database.path)))
}
