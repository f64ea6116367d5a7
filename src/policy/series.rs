//! Due times in a row, whatever they follow from.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{
    calendar::{Turns, offset},
    facts::{Attempt, Facts, Outcome},
    model::{Kind, Logs, Period, Policy},
};

/// How often a backup is taken where log carries the promise and no calendar is given: it bounds
/// how much log a restore replays.
const CADENCE_WITH_LOG: TimeDelta = TimeDelta::days(1);

/// The shortest time from one backup to the next that is derived from an RPO.
const CADENCE_MIN: TimeDelta = TimeDelta::minutes(1);

/// The longest. Nobody waits for what comes later than this.
const CADENCE_MAX: TimeDelta = TimeDelta::days(36_500);

/// The due times of one kind for one database.
#[derive(Clone, Copy, Debug)]
pub(super) enum Series<'a> {
    /// There are none.
    Never,
    /// Those of a calendar.
    Calendar(Turns<'a>),
    /// One after the other.
    Every { first: DateTime<Utc>, step: TimeDelta },
    /// The same, on the calendar of a zone.
    Civil { first: DateTime<Utc>, period: Period, zone: Tz },
}

impl Series<'_> {
    /// The first one after an instant.
    pub(super) fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match *self {
            Self::Never => None,
            Self::Calendar(turns) => turns.next(after),
            Self::Every { first, .. } | Self::Civil { first, .. } if after < first => Some(first),
            Self::Every { first, step } => {
                let passed = (after - first).num_seconds() / step.num_seconds().max(1) + 1;
                Some(first + step * i32::try_from(passed).ok()?)
            }
            Self::Civil { first, period, zone } => {
                let count = period.count.max(1);
                let later = |n: u32| Period { count: count.saturating_mul(n), ..period };
                let is_later = |n: u32| after < later(n).after(first, zone);
                let mut found: u32 = 1;
                while !is_later(found) {
                    found = found.checked_mul(2)?;
                }
                let mut before = found / 2;
                while before + 1 < found {
                    let middle = u32::midpoint(before, found);
                    if is_later(middle) { found = middle } else { before = middle }
                }
                Some(later(found).after(first, zone))
            }
        }
    }

    /// At most `max` of those after one instant and up to another, and the first one after those.
    pub(super) fn between(
        &self,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
        max: usize,
    ) -> (Vec<DateTime<Utc>>, Option<DateTime<Utc>>) {
        let (mut between, mut next) = (Vec::new(), self.next(after));
        while let Some(due) = next.filter(|due| *due <= until && between.len() < max) {
            between.push(due);
            next = self.next(due);
        }
        (between, next)
    }

    /// Whether they follow from what is promised, not from what somebody wrote down: then none of
    /// them is ever too old to be made up for, since the promise is only broken further.
    pub(super) fn is_derived(&self) -> bool {
        !matches!(self, Self::Calendar(_))
    }

    /// Backups where no calendar is given.
    pub(super) fn derived(policy: &Policy, facts: &Facts<'_>) -> Self {
        let step = cadence(policy, facts.attempts);
        let backups = facts.attempts.iter().filter(|attempt| attempt.kind != Kind::Drill);
        let good = backups.filter(|attempt| attempt.outcome() == Some(Outcome::Succeeded));
        let newest = good.map(|attempt| attempt.started_at).max();
        Self::Every { first: newest.unwrap_or(facts.since) + step, step }
    }

    /// Drills. The first ones of many databases that are new together are spread over a period.
    pub(super) fn drills(policy: &Policy, facts: &Facts<'_>) -> Self {
        let Some(rule) = &policy.drill else { return Self::Never };
        let (period, zone) = (rule.every, policy.zone);
        let judged = |attempt: &&Attempt| {
            attempt.kind == Kind::Drill
                && matches!(attempt.outcome(), Some(Outcome::Succeeded | Outcome::Failed))
        };
        let newest = facts.attempts.iter().filter(judged).map(|attempt| attempt.started_at).max();
        let first = if let Some(newest) = newest {
            period.after(newest, zone)
        } else {
            let spread = period.after(facts.since, zone) - facts.since;
            facts.since + offset(facts.database, spread.to_std().unwrap_or_default())
        };
        Self::Civil { first, period, zone }
    }
}

/// From the start of one backup to that of the next.
///
/// Without log, the newest point is as old as the last finished backup's start; just before the
/// next one is finished it is older by that one's duration. As much time again is left for delays.
/// A database whose backups take longer than that allows is backed up four times in each RPO.
fn cadence(policy: &Policy, attempts: &[Attempt]) -> TimeDelta {
    if policy.logs != Logs::Never {
        return CADENCE_WITH_LOG;
    }
    let rpo = TimeDelta::from_std(policy.rpo).unwrap_or(TimeDelta::MAX);
    let longest = attempts.iter().filter_map(Attempt::duration).max().unwrap_or_default();
    let step = (rpo - longest * 2).max(rpo / 4).clamp(CADENCE_MIN, CADENCE_MAX);
    // Calendars know no fractions of a second.
    TimeDelta::seconds(step.num_seconds())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{
        civil::tests::{ZONES, utc},
        facts::Outcome,
        model::{PeriodUnit, tests::policy},
    };

    #[test]
    fn four_times_in_each_rpo_is_the_least() {
        let took = |milliseconds| {
            let policy = Policy { logs: Logs::Never, ..policy() };
            let (due, started_at) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH);
            let end = started_at + TimeDelta::milliseconds(milliseconds);
            let ended = Some((end, Outcome::Succeeded));
            cadence(&policy, &[Attempt { kind: Kind::Full, due, started_at, ended }])
        };
        assert_eq!(took(600_250), TimeDelta::seconds(40 * 60 - 1));
        assert_eq!(took(6_000_000), TimeDelta::minutes(15));
        let never = Policy { logs: Logs::Never, rpo: std::time::Duration::MAX, ..policy() };
        assert_eq!(cadence(&never, &[]), CADENCE_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn the_next_one_is_the_first_that_is_later(
            zone in proptest::sample::select(ZONES.to_vec()),
            unit in proptest::sample::select(vec![
                PeriodUnit::Hours, PeriodUnit::Days, PeriodUnit::Weeks, PeriodUnit::Months
            ]),
            count in 1..40u32,
            milliseconds in -900_000_000..9_000_000_000i64,
        ) {
            let first = utc("2026-01-31T02:30:00");
            let after = first + TimeDelta::milliseconds(milliseconds);
            let period = Period { count, unit };
            let step = period.after(first, Tz::UTC) - first;
            for series in [Series::Every { first, step }, Series::Civil { first, period, zone }] {
                let next = series.next(after).unwrap();
                prop_assert!(after < next);
                let (all, _) = series.between(first - TimeDelta::seconds(1), next, 10_000);
                prop_assert_eq!(all.first(), Some(&first));
                prop_assert_eq!(all.last(), Some(&next));
                prop_assert!(all.len() == 1 || all[all.len() - 2] <= after);
            }
        }
    }
}
