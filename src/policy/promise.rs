//! Whether what is promised is kept: how old the newest point is, and what lacks in the window.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::model::{Logs, Policy, State};

/// A database that was never backed up is given so long for its first backup, if its RPO is
/// shorter: no promise can be kept before there is anything.
pub const FIRST_BACKUP_MAX: TimeDelta = TimeDelta::days(1);

/// What can be restored of a database.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Whether it is still protected.
    pub state: State,
    /// Since when it is.
    pub since: DateTime<Utc>,
    /// What can be restored, in any order.
    pub coverage: &'a [Interval],
}

/// A stretch of time of which every instant can be restored; a single one, if both ends are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// The first instant.
    pub from: DateTime<Utc>,
    /// The last one.
    pub to: DateTime<Utc>,
}

/// How old the newest restorable point is, against what is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The newest point, if there is any.
    pub newest: Option<DateTime<Utc>>,
    /// How old it is, or for how long there has been none.
    pub age: TimeDelta,
    /// Until when the promise is kept if nothing is stored from now on.
    pub deadline: DateTime<Utc>,
    /// Since when it is broken, if it is.
    pub breached_since: Option<DateTime<Utc>>,
}

impl Reach<'_> {
    /// Where the database stands: `None` once nothing is promised for it any more.
    pub fn freshness(&self, policy: &Policy, now: DateTime<Utc>) -> Option<Freshness> {
        if self.state != State::Active {
            return None;
        }
        let newest = self.coverage.iter().map(|interval| interval.to).max();
        let rpo = TimeDelta::from_std(policy.rpo).unwrap_or(TimeDelta::MAX);
        let allowed = if newest.is_some() { rpo } else { rpo.max(FIRST_BACKUP_MAX) };
        let known = newest.unwrap_or(self.since);
        let deadline = known.checked_add_signed(allowed).unwrap_or(DateTime::<Utc>::MAX_UTC);
        Some(Freshness {
            newest,
            age: (now - known).max(TimeDelta::zero()),
            deadline,
            breached_since: (deadline < now).then_some(deadline),
        })
    }

    /// What cannot be restored between the first and the newest point, as far as it lies in the
    /// window; in order. Where no log is captured, every backup is a point, and nothing lacks.
    pub fn gaps(&self, policy: &Policy, now: DateTime<Utc>) -> Vec<Interval> {
        if policy.logs == Logs::Never || self.state != State::Active {
            return Vec::new();
        }
        let window = TimeDelta::from_std(policy.pitr_window).unwrap_or(TimeDelta::MAX);
        let start = now.checked_sub_signed(window).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let mut coverage = self.coverage.to_vec();
        coverage.sort_unstable();
        let mut gaps = Vec::new();
        let mut covered: Option<DateTime<Utc>> = None;
        for Interval { from, to } in coverage {
            let lacks = covered.map(|covered| Interval { from: covered.max(start), to: from });
            gaps.extend(lacks.filter(|gap| gap.from < gap.to));
            covered = covered.max(Some(to));
        }
        gaps
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{
        civil::tests::utc,
        model::tests::{DAY, HOUR, policy},
    };

    pub(in crate::policy) fn at(hour: i64) -> DateTime<Utc> {
        utc("2026-11-01T00:00:00") + TimeDelta::hours(hour)
    }

    pub(in crate::policy) fn intervals(hours: &[(i64, i64)]) -> Vec<Interval> {
        hours.iter().map(|(from, to)| Interval { from: at(*from), to: at(*to) }).collect()
    }

    fn reach(coverage: &[Interval]) -> Reach<'_> {
        Reach { state: State::Active, since: at(0), coverage }
    }

    #[test]
    fn a_promise_is_broken_when_the_newest_point_is_older_than_it() {
        let policy = Policy { rpo: 4 * HOUR, ..policy() };
        let coverage = intervals(&[(20, 30), (2, 9)]);
        let kept = reach(&coverage).freshness(&policy, at(34)).unwrap();
        assert_eq!(kept.newest, Some(at(30)));
        assert_eq!((kept.age, kept.deadline), (TimeDelta::hours(4), at(34)));
        assert_eq!(kept.breached_since, None);
        let broken = reach(&coverage).freshness(&policy, at(35)).unwrap();
        assert_eq!(broken.breached_since, Some(at(34)));
        let retired = Reach { state: State::Retired, ..reach(&coverage) };
        assert_eq!(retired.freshness(&policy, at(99)), None);
    }

    #[test]
    fn a_new_database_has_a_day_for_its_first_backup() {
        let fresh = |rpo, hour| {
            let policy = Policy { rpo, ..policy() };
            reach(&[]).freshness(&policy, at(hour)).unwrap().breached_since
        };
        assert_eq!(fresh(HOUR, 24), None);
        assert_eq!(fresh(HOUR, 25), Some(at(24)));
        assert_eq!(fresh(2 * DAY, 25), None);
    }

    #[test]
    fn gaps_are_what_lies_between_points_of_the_window() {
        let policy = Policy { pitr_window: DAY, ..policy() };
        let coverage = intervals(&[(40, 44), (1, 9), (3, 5), (12, 20), (30, 30)]);
        let gaps = |hour| reach(&coverage).gaps(&policy, at(hour));
        assert_eq!(gaps(46), intervals(&[(22, 30), (30, 40)]));
        assert_eq!(gaps(30), intervals(&[(9, 12), (20, 30), (30, 40)]));
        assert_eq!(gaps(90), []);
        let without_log = Policy { logs: Logs::Never, ..policy.clone() };
        assert_eq!(reach(&coverage).gaps(&without_log, at(46)), []);
    }

    proptest! {
        #[test]
        fn an_instant_is_covered_or_in_a_gap(
            hours in proptest::collection::vec((0..200i64, 0..30i64), 0..12),
            now in 0..300i64,
            hour in 0..200i64,
        ) {
            let hours: Vec<_> = hours.into_iter().map(|(from, long)| (from, from + long)).collect();
            let coverage = intervals(&hours);
            let policy = Policy { pitr_window: 3 * DAY, ..policy() };
            let gaps = reach(&coverage).gaps(&policy, at(now));
            let probe = at(hour) + TimeDelta::minutes(30);
            let is_in = |interval: &Interval| interval.from <= probe && probe <= interval.to;
            let first = coverage.iter().map(|interval| interval.from).min();
            let newest = coverage.iter().map(|interval| interval.to).max();
            let is_between = first.is_some_and(|f| f < probe) && newest.is_some_and(|n| probe < n);
            let is_in_window = at(now) - TimeDelta::days(3) <= probe;
            let lacks = is_between && is_in_window && !coverage.iter().any(is_in);
            prop_assert_eq!(gaps.iter().any(is_in), lacks);
        }
    }
}
