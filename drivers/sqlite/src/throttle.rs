//! Slows writers down while the log is long, by short pauses on a thread of its own.
//!
//! A writer that waits for the lock sleeps 1, 2, 5, 10, 15 ms and ever longer between its tries,
//! up to 100 ms, and one that commits without a pause frees the lock for microseconds only:
//! whoever has slept long hardly ever finds it free. A pause that ends just after a try of the
//! fast one leaves it asleep for about as long again, and the lock is free for the others
//! meanwhile. Two lengths in no order do not meet the tries of a sleeper again and again. And
//! between two pauses, somebody commits: a pause waits for that as long as anybody sleeps.
//! Source: SQLite 3.54 main.c, `sqliteDefaultBusyCallback`.

use std::{
    fs,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::Connection;
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};

use crate::{config::Config, connect::Database, generation::write_lock};

/// How long the lock is waited for.
const LOCK_WAIT: Duration = Duration::from_millis(30);

/// How long a pause lasts, and up to [`PAUSE_SPREAD`] more: a writer that met its beginning has
/// tried again after 8 or 18 ms, and sleeps for 10 or 15 ms more.
const PAUSES: [Duration; 2] = [Duration::from_millis(9), Duration::from_millis(19)];
const PAUSE_SPREAD: Duration = Duration::from_millis(1);

/// How long somebody is waited for to commit: whoever sleeps has tried again by then.
const COMMIT_WAIT: Duration = Duration::from_millis(110);

/// How often it is looked whether somebody did.
const COMMIT_INTERVAL: Duration = Duration::from_millis(1);

/// How often the length of the log is looked at while writers are left alone.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How writers are slowed down, and from when on, by bytes of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pauses {
    excess: u64,
    allowed: u64,
    wal_length: u64,
}

impl Pauses {
    /// Those for a log that is longer than it should be by `excess` bytes and whatever its file
    /// grows by from now on; none until that is `allowed`.
    pub(crate) fn of(database: &Database, excess: u64, allowed: u64) -> Self {
        Self { excess, allowed, wal_length: wal_length(database) }
    }

    /// How long writers have for themselves between pauses, on average; `None` before any is made.
    fn between(self, database: &Database) -> Option<Duration> {
        let excess = self.excess + wal_length(database).saturating_sub(self.wal_length);
        let mebibytes = excess >> 20;
        // Where that was not enough, a disk is slow, and a gap is near.
        let micros = 32_000 - 320 * mebibytes.min(80) - 55 * mebibytes.saturating_sub(80).min(80);
        (self.allowed <= excess).then(|| Duration::from_micros(micros))
    }
}

/// What changes whenever another connection commits.
/// Source: <https://www.sqlite.org/pragma.html#pragma_data_version>.
fn commits(connection: &Connection) -> Option<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0)).ok()
}

fn wal_length(database: &Database) -> u64 {
    fs::metadata(Config::beside(&database.path, "-wal")).map_or(0, |found| found.len())
}

/// Slows writers down from when it is told to until it is told otherwise, or dropped. Dropping it
/// waits until the write lock is free of it.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    thread: Option<(Sender<Option<Pauses>>, JoinHandle<()>)>,
    pauses: Option<Pauses>,
}

impl Throttle {
    /// Makes such pauses from now on, or none: then one that is being made ends.
    pub(crate) fn set(&mut self, database: &Database, pauses: Option<Pauses>) -> Result<()> {
        if pauses == self.pauses {
            return Ok(());
        }
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => start(database)?,
        };
        let (settings, _) = self.thread.insert(thread);
        self.pauses = pauses;
        let sent = settings.send(pauses);
        sent.map_err(|_| Error::bug("reach the thread that slows writers down"))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        if let Some((settings, thread)) = self.thread.take() {
            drop(settings);
            // It does not panic, and nothing is left to tell anybody.
            drop(thread.join());
        }
    }
}

fn start(database: &Database) -> Result<(Sender<Option<Pauses>>, JoinHandle<()>)> {
    let (sender, settings) = mpsc::channel();
    let database = database.clone();
    let thread = thread::Builder::new()
        .name("sqlite-throttle".to_owned())
        .spawn(move || {
            let mut told = Told { settings, clock: Arc::clone(&database.clock), random: 0 };
            while let Ok(pauses) = told.settings.recv() {
                if pauses.is_some_and(|pauses| told.pause(&database, pauses).is_err()) {
                    break;
                }
            }
        })
        .map_err(|e| Error::new(ErrorKind::Exhausted, code::FILE, "start a thread").caused_by(e))?;
    Ok((sender, thread))
}

/// What the thread is told.
struct Told {
    settings: Receiver<Option<Pauses>>,
    clock: Arc<dyn Clock>,
    random: u32,
}

/// Nobody is left to tell anything.
struct Alone;

impl Told {
    /// Makes pauses until told to stop.
    fn pause(&mut self, database: &Database, mut pauses: Pauses) -> Result<(), Alone> {
        loop {
            let Ok(mut writer) = database.open_writable() else {
                match self.wait(LOCK_WAIT, pauses)? {
                    Some(changed) => pauses = changed,
                    None => return Ok(()),
                }
                continue;
            };
            let paused = self.pause_on(database, &mut writer, pauses);
            Database::close(writer);
            return paused;
        }
    }

    fn pause_on(
        &mut self,
        database: &Database,
        writer: &mut Connection,
        mut pauses: Pauses,
    ) -> Result<(), Alone> {
        let mut seen = None;
        loop {
            let between = pauses.between(database);
            if between.is_some() && write_lock(database, writer, LOCK_WAIT).is_ok() {
                let length = PAUSES[self.draw(PAUSES.len() as u32) as usize];
                let spread = self.part_of(PAUSE_SPREAD);
                let told = self.wait(length + spread, pauses);
                seen = commits(writer);
                if writer.execute_batch("ROLLBACK").is_err() {
                    return Ok(());
                }
                match told? {
                    Some(changed) => pauses = changed,
                    None => return Ok(()),
                }
            }
            let left_alone = match between {
                Some(between) => between / 2 + self.part_of(between),
                None => LOOK_INTERVAL,
            };
            let until = self.clock.elapsed() + COMMIT_WAIT;
            let mut wait = left_alone;
            loop {
                match self.wait(wait, pauses)? {
                    Some(changed) => pauses = changed,
                    None => return Ok(()),
                }
                let nobody_came = seen.is_some() && commits(writer) == seen;
                if !nobody_came || until <= self.clock.elapsed() {
                    break;
                }
                wait = COMMIT_INTERVAL;
            }
        }
    }

    /// A number below `end`.
    fn draw(&mut self, end: u32) -> u32 {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((self.random >> 16) * end) >> 16
    }

    /// Any part of a time.
    fn part_of(&mut self, time: Duration) -> Duration {
        time * self.draw(1 << 10) / (1 << 10)
    }

    /// Waits. Returns the pauses that hold from then on, and earlier when there are to be none.
    fn wait(&mut self, time: Duration, pauses: Pauses) -> Result<Option<Pauses>, Alone> {
        let until = self.clock.elapsed() + time;
        let mut pauses = pauses;
        loop {
            let left = until.saturating_sub(self.clock.elapsed());
            match self.settings.recv_timeout(left) {
                Ok(Some(changed)) => pauses = changed,
                Ok(None) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => return Ok(Some(pauses)),
                Err(RecvTimeoutError::Disconnected) => return Err(Alone),
            }
        }
    }
}
