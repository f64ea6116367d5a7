//! Slows writers down while the log is long, by short pauses on a thread of its own.
//!
//! A writer that waits for the lock sleeps ever longer between its tries, up to 100 ms, and one
//! that commits without a pause frees the lock for microseconds only: whoever has slept long hardly
//! ever finds it free. Short pauses put the fast one to sleep for about as long again as they take,
//! and the lock is free for the others meanwhile. They are uneven, because even ones would meet
//! the tries of a sleeper again and again.
//! Source: SQLite 3.54 main.c, `sqliteDefaultBusyCallback`.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::Connection;
use stillpoint_contract::{Clock, Error, ErrorKind, Result, code};

use crate::{connect::Database, generation::write_lock};

/// How long the lock is waited for.
const LOCK_WAIT: Duration = Duration::from_millis(30);

/// How long writers are kept out, and how long they then have for themselves, on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pauses {
    each: Duration,
    between: Duration,
}

impl Pauses {
    /// Those for a log that is longer than it should be by `excess` bytes.
    pub(crate) fn of(excess: u64) -> Self {
        let excess_mib = (excess >> 20).min(192);
        Self {
            each: Duration::from_millis(9 + excess_mib / 5),
            between: Duration::from_millis(20 - excess_mib / 16),
        }
    }
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
        loop {
            if write_lock(database, writer, LOCK_WAIT).is_ok() {
                let told = self.wait(pauses.each, pauses);
                if writer.execute_batch("ROLLBACK").is_err() {
                    return Ok(());
                }
                match told? {
                    Some(changed) => pauses = changed,
                    None => return Ok(()),
                }
            }
            match self.wait(pauses.between, pauses)? {
                Some(changed) => pauses = changed,
                None => return Ok(()),
            }
        }
    }

    /// Waits for about `time`. Returns the pauses that hold from then on, and earlier when there
    /// are to be none.
    fn wait(&mut self, time: Duration, pauses: Pauses) -> Result<Option<Pauses>, Alone> {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let until = self.clock.elapsed() + time / 2 + time * (self.random >> 16) / (1 << 16);
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
