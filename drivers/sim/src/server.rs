//! A simulated server, as a test holds it: its workload, its truth, and what happens to it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint_contract::{Clock, Error, ErrorKind, LogPosition, Result, code};
use tokio::sync::Notify;

use crate::{
    Mode, Table, Write,
    error::departed,
    history::{Commit, History},
};

/// A database that lives in memory. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimServer {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    mode: Mode,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Wakes whoever waits for a commit, or for the end.
    stirred: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) identity: String,
    pub(crate) history: History,
    pub(crate) table: Table,
    pub(crate) gone: bool,
    /// Counts restarts: connections of an earlier epoch are broken.
    pub(crate) epoch: u64,
    /// What sessions hold: a name, and the first commit whose log must stay.
    pub(crate) holds: BTreeMap<u64, (&'static str, usize)>,
    pub(crate) sessions: u64,
    incarnations: u64,
    fault: Option<(u64, ErrorKind)>,
    latency: Duration,
}

impl fmt::Debug for SimServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimServer").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl SimServer {
    /// Starts a server whose database holds `table`. Its name is its address and, with a number,
    /// its identity: two servers of one simulation need two names, of visible ASCII without `:`.
    pub fn start(
        name: impl Into<String>,
        mode: Mode,
        clock: Arc<dyn Clock>,
        table: Table,
    ) -> Result<Self> {
        let name = name.into();
        let identity = format!("{name}-1");
        let state = State {
            history: History::new(&identity, table.clone())?,
            identity,
            table,
            gone: false,
            epoch: 0,
            holds: BTreeMap::new(),
            sessions: 0,
            incarnations: 1,
            fault: None,
            latency: Duration::ZERO,
        };
        let shared = Shared { name, mode, clock, state: Mutex::new(state), stirred: Notify::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its address.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How it behaves.
    pub fn mode(&self) -> &Mode {
        &self.shared.mode
    }

    /// Commits one transaction: `decide` sees the table and says what to set.
    ///
    /// # Errors
    ///
    /// [`Departed`](ErrorKind::Departed) when the server is gone,
    /// [`Invalid`](ErrorKind::Invalid) when nothing would be set, or a cell past the last.
    pub fn transact(&self, decide: impl FnOnce(&Table) -> Vec<Write>) -> Result<LogPosition> {
        let mut state = self.state();
        if state.gone {
            return Err(departed());
        }
        let writes = decide(&state.table);
        if writes.is_empty() {
            let step = "commit a transaction that sets nothing";
            return Err(Error::new(ErrorKind::Invalid, code::USAGE, step));
        }
        let mut table = state.table.clone();
        writes.iter().try_for_each(|write| table.set(write.cell, write.value))?;
        state.table = table;
        let position = state.history.commit(self.shared.clock.now(), writes);
        drop(state);
        self.shared.stirred.notify_waiters();
        Ok(position)
    }

    /// What the database holds now.
    pub fn table(&self) -> Table {
        self.state().table.clone()
    }

    /// The position of what it holds now.
    pub fn position(&self) -> LogPosition {
        self.state().history.position()
    }

    /// The end and the time of each commit of this incarnation, in order.
    pub fn commits(&self) -> Vec<(LogPosition, DateTime<Utc>)> {
        self.state().history.commits.iter().map(|commit| (commit.end(), commit.at)).collect()
    }

    /// What the database held at `position`, if a transaction ended there.
    pub fn truth_at(&self, position: &LogPosition) -> Option<Table> {
        let state = self.state();
        let count = state.history.count_until(position)?;
        state.history.replay(count).ok()
    }

    /// What the database held at `instant`.
    pub fn truth_at_time(&self, instant: DateTime<Utc>) -> Result<Table> {
        let state = self.state();
        let until = |commit: &Commit| commit.at <= instant;
        let count = state.history.commits.iter().rposition(until).map_or(0, |last| last + 1);
        state.history.replay(count)
    }

    /// Discards the log that no session holds, as housekeeping does.
    pub fn discard(&self) {
        let mut state = self.state();
        let held = state.holds.values().map(|(_, first)| *first).min();
        state.history.retained = held.unwrap_or(usize::MAX).min(state.history.commits.len());
    }

    /// Discards all log, held or not, as a server does that is about to run out of space.
    pub fn purge(&self) {
        let mut state = self.state();
        state.history.retained = state.history.commits.len();
    }

    /// Goes on in another lineage without its last `lost` commits, as after a fail-over to a
    /// replica that trailed behind.
    pub fn fail_over(&self, lost: usize) -> Result<()> {
        let mut state = self.state();
        let identity = state.identity.clone();
        state.table = state.history.fork(&identity, lost)?;
        Ok(())
    }

    /// Breaks every connection. Nothing that was committed is lost.
    pub fn restart(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.holds.clear();
    }

    /// Puts another database, which holds `table`, at the same address.
    pub fn replace(&self, table: Table) -> Result<()> {
        let mut state = self.state();
        state.incarnations += 1;
        state.identity = format!("{}-{}", self.shared.name, state.incarnations);
        state.history = History::new(&state.identity, table.clone())?;
        state.table = table;
        state.holds.clear();
        drop(state);
        self.shared.stirred.notify_waiters();
        Ok(())
    }

    /// Goes away, until [`come_back`](Self::come_back).
    pub fn depart(&self) {
        self.state().gone = true;
        self.shared.stirred.notify_waiters();
    }

    /// Comes back as it was.
    pub fn come_back(&self) {
        self.state().gone = false;
    }

    /// Lets the `nth` step of any driver from now on fail, counted from 0.
    pub fn fail_at(&self, nth: u64, kind: ErrorKind) {
        self.state().fault = Some((nth, kind));
    }

    /// Lets every step of any driver take this long.
    pub fn slow_down(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// What drivers hold in the server at this moment.
    pub fn holds(&self) -> Vec<&'static str> {
        self.state().holds.values().map(|(what, _)| *what).collect()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.shared.clock.as_ref()
    }

    pub(crate) fn stirred(&self) -> &Notify {
        &self.shared.stirred
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts one step of a driver: how long it takes, unless it fails.
    pub(crate) fn step(&mut self) -> Result<Duration> {
        match self.fault.take() {
            Some((0, kind)) => {
                return Err(Error::new(kind, code::NO_DATABASE, "reach the server"));
            }
            Some((left, kind)) => self.fault = Some((left - 1, kind)),
            None => {}
        }
        Ok(self.latency)
    }
}
