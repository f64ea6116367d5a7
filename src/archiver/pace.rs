//! How fast rows are deleted: as fast as the server, its replicas and its log can stand.

use std::time::Duration;

use stillpoint_contract::{ArchiveSet, Burden, Lag, Result, Rows};

use crate::policy::Throttle;

/// How long the work rests before it looks again.
pub(super) const REST: Duration = Duration::from_millis(500);

/// Decides when the work rests.
#[derive(Debug)]
pub(super) struct Pace {
    throttle: Throttle,
    /// When the log was looked at last, and how long it was then.
    log: Option<(Duration, u128)>,
    /// Whether it rests: it goes on only once all is well, not just below a limit.
    is_resting: bool,
}

impl Pace {
    pub(super) fn new(throttle: Throttle) -> Self {
        Self { throttle, log: None, is_resting: false }
    }

    /// Lets replicas be so far behind, where somebody said so.
    pub(super) fn allow_lag(&mut self, lag: Option<Duration>) {
        self.throttle.lag = lag.unwrap_or(self.throttle.lag);
    }

    /// Why the work has to rest now, and for how long; `None` when it may go on.
    pub(super) async fn rest(
        &mut self,
        rows: &mut dyn Rows,
        set: &ArchiveSet,
        elapsed: Duration,
    ) -> Result<Option<(String, Duration)>> {
        let burden = rows.burden(set).await?;
        let rest = self.judge(&burden, elapsed);
        self.is_resting = rest.is_some();
        Ok(rest)
    }

    fn judge(&mut self, burden: &Burden, elapsed: Duration) -> Option<(String, Duration)> {
        let throttle = &self.throttle;
        // Once at rest, half of a limit is where it ends.
        let ease = if self.is_resting { 2 } else { 1 };
        match burden.lag {
            Lag::Unknown => {
                return Some(("how far replicas are behind is not known".to_owned(), REST));
            }
            Lag::Behind(lag) if lag > throttle.lag / ease => {
                return Some((format!("replicas are {:.1} s behind", lag.as_secs_f64()), REST));
            }
            Lag::Behind(_) | Lag::NoReplica => {}
        }
        if let (Some(max), Some(active)) = (throttle.active, burden.active)
            && active > max / ease
        {
            return Some((format!("{active} sessions are working"), REST));
        }
        if let (Some(max), Some(dead)) = (throttle.dead_rows, burden.dead_rows)
            && dead > max / u64::from(ease)
        {
            return Some((format!("there are {dead} dead rows to be vacuumed"), REST));
        }
        self.log_rest(burden, elapsed)
    }

    /// Rests for as long as what was written needs at the rate that is allowed.
    fn log_rest(&mut self, burden: &Burden, elapsed: Duration) -> Option<(String, Duration)> {
        let (max, now) = (self.throttle.log_bytes_per_second?, burden.log_bytes?);
        let before = self.log.replace((elapsed, now));
        let (then, before) = before?;
        let written = now.saturating_sub(before);
        let needs = Duration::from_secs_f64(written as f64 / max.max(1) as f64);
        let rest =
            needs.checked_sub(elapsed.saturating_sub(then)).filter(|rest| !rest.is_zero())?;
        let why = format!("{written} bytes of log were written since the last look");
        Some((why, rest.min(Duration::from_secs(10))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Burden =
        Burden { lag: Lag::NoReplica, log_bytes: None, dead_rows: None, active: None };

    fn behind(millis: u64) -> Burden {
        Burden { lag: Lag::Behind(Duration::from_millis(millis)), ..CALM }
    }

    #[test]
    fn it_rests_until_all_is_well_and_not_just_below_the_limit() {
        let mut pace = Pace::new(Throttle::default());
        let mut rests = |burden: Burden| {
            let rest = pace.judge(&burden, Duration::ZERO).is_some();
            pace.is_resting = rest;
            rest
        };
        assert!(!rests(CALM));
        assert!(!rests(behind(1_900)));
        assert!(rests(behind(2_100)));
        assert!(rests(behind(1_900)), "just below the limit");
        assert!(!rests(behind(900)));
        assert!(!rests(behind(1_900)));
        assert!(rests(Burden { lag: Lag::Unknown, ..CALM }), "unknown is not zero");
    }

    #[test]
    fn log_is_written_no_faster_than_allowed() {
        let throttle = Throttle { log_bytes_per_second: Some(1_000), ..Throttle::default() };
        let mut pace = Pace::new(throttle);
        let log = |bytes| Burden { log_bytes: Some(bytes), ..CALM };
        assert_eq!(pace.judge(&log(5_000), Duration::ZERO), None);
        let (_, rest) = pace.judge(&log(8_000), Duration::from_secs(1)).expect("it rests");
        assert_eq!(rest, Duration::from_secs(2));
        assert_eq!(pace.judge(&log(8_500), Duration::from_secs(3)), None);
    }
}
