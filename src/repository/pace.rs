//! How fast bytes may go out: a bucket of tokens, filled by the clock that is given.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stillpoint_contract::{Clock, Result};

/// So much time that nobody used may be made up for.
const BURST: Duration = Duration::from_millis(500);

/// Bytes are given in portions of this much time, so that whoever waits can be told to stop.
const PORTION: Duration = Duration::from_millis(250);

/// The smallest portion, in bytes.
const PORTION_BYTES_MIN: u64 = 1024;

/// A rate that several transfers share.
#[derive(Debug)]
pub struct Pace {
    clock: Arc<dyn Clock>,
    bytes_per_second: Option<u64>,
    /// Up to when the time is given away, on the clock.
    next: Mutex<Option<Duration>>,
}

impl Pace {
    /// So many bytes each second; without a number, as many as go.
    pub fn new(clock: Arc<dyn Clock>, bytes_per_second: Option<u64>) -> Self {
        let bytes_per_second = bytes_per_second.map(|rate| rate.max(1));
        Self { clock, bytes_per_second, next: Mutex::default() }
    }

    /// How many bytes may go each second.
    pub fn bytes_per_second(&self) -> Option<u64> {
        self.bytes_per_second
    }

    /// Waits until `bytes` may go. `each` hears of every portion once that may, and can end the
    /// wait.
    ///
    /// # Errors
    ///
    /// What `each` says.
    pub async fn take(&self, bytes: u64, mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
        each(0)?;
        let Some(rate) = self.bytes_per_second else { return each(bytes) };
        let portion = (rate as f64 * PORTION.as_secs_f64()) as u64;
        let portion = portion.max(PORTION_BYTES_MIN);
        let mut left = bytes;
        while left > 0 {
            let now = portion.min(left);
            let due = self.reserve(Duration::from_secs_f64(now as f64 / rate as f64));
            loop {
                let wait = due.saturating_sub(self.clock.elapsed());
                if wait.is_zero() {
                    break;
                }
                self.clock.sleep(wait.min(PORTION)).await;
                each(0)?;
            }
            each(now)?;
            left -= now;
        }
        Ok(())
    }

    /// Takes the next stretch of time. Says when it ends.
    fn reserve(&self, length: Duration) -> Duration {
        let now = self.clock.elapsed();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let from = next.map_or(now, |next| next.max(now.saturating_sub(BURST)));
        let end = from + length;
        *next = Some(end);
        end
    }
}
