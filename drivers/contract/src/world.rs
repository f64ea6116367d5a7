//! Time and randomness as inputs, so that a simulation can drive the real code.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

/// The only way to learn the time and to wait.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time of day. It may step backwards; nothing may rely on its order for correctness.
    fn now(&self) -> DateTime<Utc>;

    /// Time since an arbitrary start. Never steps backwards; for rates and limits.
    fn elapsed(&self) -> Duration;

    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// The only source of randomness.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills `bytes` with random bytes; cryptographically strong outside tests.
    fn fill(&self, bytes: &mut [u8]);
}
