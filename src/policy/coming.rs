//! What the calendar makes due in the time to come, for whoever reckons with it.

use std::{collections::BTreeMap, iter::successors};

use chrono::{DateTime, Utc};

use super::{
    calendar::BadPattern,
    due::{DUE_TIMES_MAX, Schedule},
    facts::Facts,
    model::{Kind, Policy, State},
};

/// What will be done for a database, if nothing fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coming {
    /// When backups begin, and of which kind each is.
    pub backups: BTreeMap<DateTime<Utc>, Kind>,
    /// When restoring is rehearsed.
    pub drills: Vec<DateTime<Utc>>,
}

impl Policy {
    /// What becomes due of a database after an instant and up to another. What a blackout holds up
    /// begins at its end, all of it as one.
    ///
    /// # Errors
    ///
    /// What is wrong with one of its patterns.
    pub fn coming(
        &self,
        database: &str,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Coming, BadPattern> {
        let schedule = Schedule::new(self)?;
        let nothing = BTreeMap::new();
        let facts = Facts {
            database,
            state: State::Active,
            since: after,
            looked: &nothing,
            pauses: &[],
            attempts: &[],
            need: None,
        };
        let due = |kind: Kind| -> Vec<DateTime<Utc>> {
            let next = |at: &DateTime<Utc>| schedule.next(kind, &facts, *at);
            let all = successors(next(&after), next).take_while(|at| *at <= until);
            let begun = all.take(DUE_TIMES_MAX).map(|at| self.closed_until(at).unwrap_or(at));
            begun.filter(|at| *at <= until).collect()
        };
        // A full one, which comes last, stands for an increment that is due at the same time.
        let backups = [Kind::Incremental, Kind::Full].into_iter();
        let backups = backups.flat_map(|kind| due(kind).into_iter().map(move |at| (at, kind)));
        Ok(Coming { backups: backups.collect(), drills: due(Kind::Drill) })
    }
}

#[cfg(test)]
mod tests {
    use chrono::Weekday;
    use chrono_tz::Tz;

    use super::*;
    use crate::policy::{
        civil::tests::utc,
        model::{
            DrillPoint, DrillRule, Logs, Period, PeriodUnit,
            tests::{policy, timing},
        },
        window::tests::window,
    };

    /// From a Friday noon until the Monday after.
    fn told(policy: &Policy) -> Vec<String> {
        let (after, until) = (utc("2026-11-20T12:00:00"), utc("2026-11-23T12:00:00"));
        let coming = policy.coming("db", after, until).unwrap();
        let told = |(at, kind): (&DateTime<Utc>, &Kind)| {
            format!("{} {}", at.format("%a %H:%M"), kind.name())
        };
        coming.backups.iter().map(told).collect()
    }

    #[test]
    fn a_full_backup_stands_for_an_increment_that_is_due_with_it() {
        let full = Some(timing("0 2 * * SUN"));
        let incremental = Some(timing("0 2 * * *"));
        let policy = Policy { zone: Tz::UTC, full, incremental, ..policy() };
        assert_eq!(
            told(&policy),
            ["Sat 02:00 incremental", "Sun 02:00 full", "Mon 02:00 incremental"]
        );
    }

    #[test]
    fn what_a_blackout_holds_up_is_one_at_its_end() {
        let blackout = vec![window(&[Weekday::Sat], "00:30", "11:30")];
        let full = Some(timing("0 */4 * * SAT"));
        let policy = Policy { zone: Tz::UTC, full, blackout, ..policy() };
        assert_eq!(
            told(&policy),
            [
                "Sat 00:00 full",
                "Sat 11:30 full",
                "Sat 12:00 full",
                "Sat 16:00 full",
                "Sat 20:00 full"
            ]
        );
    }

    #[test]
    fn without_a_calendar_the_promise_is_one_and_drills_come_in_their_time() {
        let every = Period { count: 1, unit: PeriodUnit::Days };
        let drill = DrillRule {
            every,
            from: None,
            point: DrillPoint::Latest,
            checks: Vec::new(),
            site: None,
        };
        let policy = Policy { logs: Logs::Never, drill: Some(drill), ..policy() };
        let (after, until) = (utc("2026-11-20T12:00:00"), utc("2026-11-23T12:00:00"));
        let coming = policy.coming("db", after, until).unwrap();
        assert_eq!((coming.backups.len(), coming.drills.len()), (3 * 24, 3));
        assert!(coming.backups.values().all(|kind| *kind == Kind::Incremental));
    }
}
