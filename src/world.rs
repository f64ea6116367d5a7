//! The world as values: time, randomness and threads for work, so that a simulation can replace it.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, Utc};
use stillpoint_contract::{Clock, Entropy};
use ulid::Ulid;

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
    /// A new id, a ULID: time and randomness, so that ids sort as they were made, as far as clocks
    /// agree.
    pub fn new_id(&self) -> String {
        self.draw().to_string()
    }

    /// A new id that sorts behind others, whatever clocks said when those were made. What is no id
    /// does not count.
    pub fn new_id_behind<'a>(&self, others: impl IntoIterator<Item = &'a str>) -> String {
        let drawn = self.draw();
        let newest = others.into_iter().filter_map(|other| Ulid::from_string(other).ok()).max();
        // Within one millisecond, chance would say which of two sorts first.
        let behind = newest.map(|newest| newest.timestamp_ms() + 1);
        let behind = behind.filter(|behind| drawn.timestamp_ms() < *behind);
        behind.map_or(drawn, |behind| Ulid::from_parts(behind, drawn.random())).to_string()
    }

    fn draw(&self) -> Ulid {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let millis = self.clock.now().timestamp_millis().max(0).cast_unsigned();
        Ulid::from_parts(millis, u128::from_le_bytes(random))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that stands.
    #[derive(Debug)]
    struct Standing(i64);

    #[async_trait]
    impl Clock for Standing {
        fn now(&self) -> DateTime<Utc> {
            DateTime::from_timestamp_millis(self.0).unwrap_or_default()
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        async fn sleep(&self, _length: Duration) {}
    }

    /// The same each time.
    #[derive(Debug)]
    struct Same(u8);

    impl Entropy for Same {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    fn world(millis: i64, random: u8) -> World {
        let (clock, entropy) = (Arc::new(Standing(millis)), Arc::new(Same(random)));
        World { clock, entropy, cpu: CpuPool::inline() }
    }

    #[test]
    fn an_id_is_behind_those_that_are_known_whatever_the_clock_says() {
        let ahead = world(2_000_000, 7).new_id();
        for (late, random) in [(1_000_000, 9), (1_000_000, 0), (2_000_000, 9), (2_000_000, 0)] {
            let world = world(late, random);
            let behind = world.new_id_behind([&*ahead, "01KB3QZZZZ", "plan.json", ""]);
            assert!(behind > ahead, "{behind} {ahead}");
            let next = world.new_id_behind([&*behind, &*ahead]);
            assert!(next > behind && next.len() == 26, "{next} {behind}");
        }
        let later = world(2_000_001, 0);
        assert_eq!(later.new_id_behind([&*ahead]), later.new_id(), "the clock is right");
        assert_eq!(later.new_id_behind([]), later.new_id());
    }
}
