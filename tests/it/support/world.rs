//! Time and randomness that a seed repeats.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint::{pipeline::cpu::CpuPool, repository::store::Dice, world::World};
use stillpoint_contract::Clock;

/// 2026-11-21 12:00:00 UTC, in microseconds.
const START_MICROS: i64 = 1_795_262_400_000_000;

/// A clock that a test sets. Every look advances it by a millisecond; waiting takes no real time.
#[derive(Debug)]
pub(crate) struct TestClock {
    micros: AtomicI64,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { micros: AtomicI64::new(START_MICROS) })
    }

    /// A clock that goes wrong by so many days.
    pub(crate) fn skewed(days: i64) -> Arc<Self> {
        let clock = Self::new();
        clock.advance(days * 86_400);
        clock
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.micros.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        let micros = self.micros.fetch_add(1000, Ordering::Relaxed);
        DateTime::from_timestamp_micros(micros).unwrap()
    }

    fn elapsed(&self) -> Duration {
        let micros = self.micros.fetch_add(1000, Ordering::Relaxed);
        Duration::from_micros(micros.cast_unsigned())
    }

    async fn sleep(&self, duration: Duration) {
        self.micros.fetch_add(duration.as_micros() as i64, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

thread_local! {
    /// Compression contexts are dear; tests of one thread share them.
    static CPU: CpuPool = CpuPool::inline();
}

/// A world of its own clock, in which everything happens on the calling thread.
pub(crate) fn world(seed: u64) -> World {
    world_at(TestClock::new(), seed)
}

pub(crate) fn world_at(clock: Arc<TestClock>, seed: u64) -> World {
    World { clock, entropy: Arc::new(Dice::new(seed)), cpu: CPU.with(CpuPool::clone) }
}

/// The seed of a randomised test: `STILLPOINT_SEED`, or the given one.
pub(crate) fn seed_or(default: u64) -> u64 {
    number_or("STILLPOINT_SEED", default)
}

/// How often a randomised test runs: `STILLPOINT_RUNS`, or as often as continuous integration does.
pub(crate) fn runs_or(default: u64) -> u64 {
    number_or("STILLPOINT_RUNS", default)
}

/// A number that `make soak`, or whoever repeats a failed test, gives.
#[expect(clippy::disallowed_methods, reason = "whoever repeats a failed test gives its seed")]
pub(crate) fn number_or(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

/// A runtime on one thread: the order of store calls fixes the order of everything.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
