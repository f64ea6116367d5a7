//! Clocks and randomness for tests.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint_contract::{Clock, Entropy};
use tokio::sync::watch;

/// A clock that stands still until somebody moves it.
#[derive(Debug)]
pub struct TestClock {
    start: DateTime<Utc>,
    elapsed: watch::Sender<Duration>,
    leaps: bool,
}

impl TestClock {
    /// A clock on which sleepers wait until [`advance`](Self::advance) wakes them.
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self { start, elapsed: watch::Sender::new(Duration::ZERO), leaps: false }
    }

    /// A clock that a sleeper moves itself, so that waiting takes no time.
    pub fn leaping(start: DateTime<Utc>) -> Self {
        Self { leaps: true, ..Self::manual(start) }
    }

    /// Moves the time forward, and wakes whoever waited for it.
    pub fn advance(&self, by: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        self.start + *self.elapsed.borrow()
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        if self.leaps {
            self.advance(duration);
            return tokio::task::yield_now().await;
        }
        let until = self.elapsed() + duration;
        let mut moved = self.elapsed.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = moved.wait_for(|elapsed| *elapsed >= until).await;
    }
}

/// The machine's own clock, for tests against real servers.
#[derive(Debug)]
pub struct RealClock(std::time::Instant);

impl RealClock {
    /// A clock whose `elapsed` starts now.
    #[expect(clippy::disallowed_methods, reason = "real servers live in real time")]
    pub fn new() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "real servers live in real time")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "real servers live in real time")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Randomness that a seed repeats.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    stream: Mutex<blake3::OutputReader>,
    drawn: AtomicU64,
}

impl SeededEntropy {
    /// The same bytes for the same seed.
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("stillpoint 2026-11 test entropy");
        let stream = hasher.update(&seed.to_le_bytes()).finalize_xof();
        Self { seed, stream: Mutex::new(stream), drawn: AtomicU64::new(0) }
    }

    /// The seed, to print when a test fails.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many bytes were drawn so far.
    pub fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
        self.drawn.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}
