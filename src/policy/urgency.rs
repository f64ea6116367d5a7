//! Who goes first when not all can, and what has stopped moving.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::model::Policy;

/// What one RPO of age adds to a rank: as much as a hundred points of priority.
pub const RANK_PER_RPO: u32 = 100_000;

/// Where a database stands in the queue: the largest goes first.
///
/// `priority + 100 * age / RPO`, in thousandths: a database of priority 90 whose newest point is
/// half an RPO old stands at 140, and one of priority 10 whose point is 1.5 RPO old stands at 160
/// and goes first. Priority decides between those that are equally late, and nobody starves,
/// since age has no limit.
pub fn rank(policy: &Policy, age: TimeDelta) -> u64 {
    let age_ms = u128::try_from(age.num_milliseconds()).unwrap_or(0);
    let urgency = age_ms * u128::from(RANK_PER_RPO) / policy.rpo.as_millis().max(1);
    u64::try_from(urgency).unwrap_or(u64::MAX).saturating_add(u64::from(policy.priority) * 1000)
}

/// Whether an attempt that last made progress at some time is to be ended. A clock that was set
/// back makes nothing stall.
pub fn is_stalled(progress_at: DateTime<Utc>, stall: Duration, now: DateTime<Utc>) -> bool {
    (now - progress_at).to_std().is_ok_and(|idle| stall <= idle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{civil::tests::utc, model::tests::policy};

    fn of(priority: u8, rpo_seconds: u64) -> Policy {
        Policy { priority, rpo: Duration::from_secs(rpo_seconds), ..policy() }
    }

    #[test]
    fn a_starving_database_overtakes_an_important_one() {
        let (important, other) = (of(90, 600), of(10, 3600));
        assert_eq!(rank(&important, TimeDelta::minutes(5)), 140_000);
        assert_eq!(rank(&other, TimeDelta::minutes(30)), 60_000);
        assert_eq!(rank(&other, TimeDelta::minutes(90)), 160_000);
        assert_eq!(rank(&other, TimeDelta::minutes(-90)), 10_000);
    }

    #[test]
    fn an_attempt_stalls_when_nothing_moved_for_long_enough() {
        let progress = utc("2026-11-26T12:00:00");
        let stalled = |minutes| {
            is_stalled(progress, Duration::from_mins(15), progress + TimeDelta::minutes(minutes))
        };
        assert_eq!([14, 15, -60].map(stalled), [false, true, false]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn rank_grows_with_age_until_it_exceeds_any_other(
            (low, high) in (any::<u8>(), any::<u8>()),
            rpo in 1..30 * 24 * 60 * 60u64,
            (age, more) in (0..1_000_000i64, 1..1_000_000i64),
            other in 0..1_000_000i64,
        ) {
            let older = TimeDelta::seconds(age + more);
            let younger = TimeDelta::seconds(age);
            prop_assert!(rank(&of(low, rpo), younger) <= rank(&of(low, rpo), older));
            let rpo_seconds = rpo.cast_signed();
            let needed = (other / rpo_seconds + 4) * rpo_seconds + age;
            prop_assert!(
                rank(&of(high, rpo), TimeDelta::seconds(other))
                    < rank(&of(low, rpo), TimeDelta::seconds(needed))
            );
        }
    }
}
