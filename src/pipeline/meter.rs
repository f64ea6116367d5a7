//! How far long work has come, for whoever wants to show it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Counts the bytes of one long piece of work, and its rows where it has any. Cheap enough to be
/// fed from every thread.
#[derive(Debug, Default)]
pub struct Meter {
    phase: Mutex<&'static str>,
    done_bytes: AtomicU64,
    done_rows: AtomicU64,
    total_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    left: Mutex<Vec<String>>,
}

impl stillpoint_contract::Progress for Meter {
    fn begin(&self, phase: &'static str, total_bytes: u64) {
        Self::begin(self, phase, total_bytes);
    }

    fn advance(&self, bytes: u64) {
        Self::advance(self, bytes);
    }

    fn leave(&self, what: String) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// What a [`Meter`] showed at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What is being done, such as `copy`; empty before the first phase.
    pub phase: &'static str,
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Rows done in this phase; 0 where rows are not what is done.
    pub done_rows: u64,
    /// Bytes to do in this phase; 0 when nobody knows.
    pub total_bytes: u64,
    /// Bytes that went to the repository so far.
    pub stored_bytes: u64,
}

impl Meter {
    /// Begins a phase of `total_bytes`.
    pub fn begin(&self, phase: &'static str, total_bytes: u64) {
        tracing::info!("phase: {phase}");
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.done_bytes.store(0, Ordering::Relaxed);
        self.done_rows.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Adds to what is done.
    pub fn advance(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to the rows that are done.
    pub fn count(&self, rows: u64) {
        self.done_rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Adds to what went to the repository.
    pub fn store(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What stays of work that was given up.
    pub fn take_left(&self) -> Vec<String> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks.
    pub fn read(&self) -> Reading {
        Reading {
            phase: *self.phase.lock().unwrap_or_else(PoisonError::into_inner),
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            done_rows: self.done_rows.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        }
    }
}
