//! The world as values: time, randomness and threads for work, so that a simulation can replace it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, Utc};
use stillpoint_contract::{Clock, Entropy};

use crate::pipeline::cpu::CpuPool;

/// What everything else takes instead of asking the operating system.
#[derive(Clone, Debug)]
pub struct World {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Threads for hashing, compression and encryption.
    pub cpu: CpuPool,
}

impl World {
    /// The real one, with `threads` workers.
    pub fn real(threads: usize) -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            cpu: CpuPool::threads(threads),
        }
    }
}

impl World {
    /// A new id, a ULID: time and randomness, so that ids sort as they were made.
    pub fn new_id(&self) -> String {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let millis = self.clock.now().timestamp_millis().max(0).cast_unsigned();
        ulid::Ulid::from_parts(millis, u128::from_le_bytes(random)).to_string()
    }
}

/// The operating system's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts counting.
    #[expect(clippy::disallowed_methods, reason = "this is where time enters the program")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time enters the program")]
    fn now(&self) -> DateTime<Utc> {
        // To the microsecond, as times are stored and shown: one that was read off an answer and
        // typed back must be the very same instant.
        DateTime::from(SystemTime::now()).trunc_subsecs(6)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is where waiting enters the program")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The operating system's random numbers.
#[derive(Clone, Copy, Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("a system without random numbers cannot keep secrets");
    }
}
