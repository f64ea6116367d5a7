//! A month of a database's schedule with restarts, pauses and failures, whose every due time is
//! accounted for.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::{
    civil::tests::{ZONES, utc},
    due::{Decision, Fate, Schedule, Skip, Step, Why},
    facts::{Attempt, Facts, Need, Outcome, Pause},
    model::{
        Kind, Missed, Policy, State,
        tests::{HOUR, policy, timing},
    },
    window::tests::windows,
};

/// Months with every kind of day: clocks go forward and back, in either hemisphere, and a leap day.
const MONTHS: [&str; 6] =
    ["2026-03-10", "2026-04-01", "2026-09-01", "2026-10-20", "2028-02-10", "2026-03-25"];

const FULLS: [&str; 4] = ["30 2 * * *", "0 2 * * SUN", "*/45 1-4 * * *", "@daily"];
const INCREMENTS: [&str; 3] = ["0 * * * *", "15 3 * * MON-SAT", "*/20 * * * *"];

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn minutes(&mut self, from: u64, to: u64) -> TimeDelta {
        TimeDelta::minutes((from + self.below(to - from)).cast_signed())
    }
}

struct Month<'a> {
    policy: &'a Policy,
    since: DateTime<Utc>,
    looked: BTreeMap<Kind, DateTime<Utc>>,
    pauses: Vec<Pause>,
    attempts: Vec<Attempt>,
    fates: BTreeMap<(Kind, DateTime<Utc>), Fate>,
    /// When what runs will end, and how.
    ends: Vec<(DateTime<Utc>, Outcome)>,
}

impl Month<'_> {
    fn has_backup(&self) -> bool {
        self.attempts.iter().any(|attempt| {
            attempt.kind != Kind::Drill && attempt.outcome() == Some(Outcome::Succeeded)
        })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            database: "shop/orders",
            state: State::Active,
            since: self.since,
            looked: &self.looked,
            pauses: &self.pauses,
            attempts: &self.attempts,
            need: (!self.has_backup()).then_some(Need::First(self.since)),
        }
    }

    fn end_what_is_over(&mut self, now: DateTime<Utc>) {
        for (attempt, (end, outcome)) in self.attempts.iter_mut().zip(&self.ends) {
            if attempt.ended.is_none() && *end <= now {
                attempt.ended = Some((*end, *outcome));
            }
        }
    }

    fn pause_or_go_on(&mut self, dice: &mut Dice, now: DateTime<Utc>) {
        match self.pauses.last_mut() {
            Some(last) if last.covers(now) && last.until.is_none() && dice.below(20) == 0 => {
                last.until = Some(now);
            }
            Some(last) if last.covers(now) => {}
            _ if dice.below(150) == 0 => {
                let until = (dice.below(2) == 0).then(|| now + dice.minutes(1, 30 * 60));
                self.pauses.push(Pause { since: now, until });
            }
            _ => {}
        }
    }

    fn check(&self, kind: Kind, decision: &Decision, now: DateTime<Utc>) {
        let running = |of: &dyn Fn(Kind) -> bool| {
            self.attempts.iter().any(|attempt| attempt.ended.is_none() && of(attempt.kind))
        };
        for settled in &decision.settled {
            assert!(settled.due <= now);
            let before = self.fates.get(&(kind, settled.due));
            assert_eq!(before, None, "{kind:?} {} is settled twice", settled.due);
        }
        let is_paused = self.pauses.iter().any(|pause| pause.covers(now));
        let is_closed = self.policy.closed_until(now).is_some();
        let is_busy = running(&|other| other != Kind::Drill);
        if let Step::Run { due, why } = decision.step {
            assert!(!is_paused && !is_closed && !is_busy, "{kind:?} starts at {now}");
            let resumed = self.pauses.iter().filter_map(|pause| pause.until).filter(|u| *u <= now);
            let is_late = resumed.max().is_some_and(|resumed| due < resumed);
            assert!(!is_late || matches!(why, Why::First | Why::Retry), "a pause fired {due}");
            let within = match self.policy.missed {
                Missed::None => TimeDelta::minutes(5),
                Missed::Latest(within) | Missed::All(within) => {
                    TimeDelta::from_std(within).unwrap()
                }
            };
            let is_late = within < now - due;
            assert!(!is_late || !matches!(why, Why::Calendar | Why::CatchUp), "{due} at {now}");
        } else if kind == Kind::Full && !self.has_backup() {
            let newest = self.attempts.iter().filter_map(|a| a.ended).map(|(end, _)| end).max();
            let is_ready = newest.is_none_or(|end| end + TimeDelta::hours(1) <= now);
            assert!(is_paused || is_closed || is_busy || !is_ready, "no first backup at {now}");
        }
    }

    fn apply(&mut self, dice: &mut Dice, kind: Kind, decision: &Decision, now: DateTime<Utc>) {
        self.fates.extend(decision.settled.iter().map(|s| ((kind, s.due), s.fate)));
        self.looked.insert(kind, decision.looked);
        if let Step::Run { due, .. } = decision.step {
            let outcome = match dice.below(10) {
                0..=1 => Outcome::Failed,
                2 => Outcome::Superseded,
                3 => Outcome::Cancelled,
                _ => Outcome::Succeeded,
            };
            self.attempts.push(Attempt { kind, due, started_at: now, ended: None });
            self.ends.push((now + dice.minutes(1, 200), outcome));
        }
    }

    /// Due times of a kind, all but those that are still open, ended in one way each.
    fn balance(&self, schedule: &Schedule<'_>, kind: Kind, now: DateTime<Utc>) {
        let facts = self.facts();
        let next = |after| schedule.next(kind, &facts, after).filter(|due| *due <= now);
        let due: Vec<_> = std::iter::successors(next(self.since), |due| next(*due)).collect();
        let looked = self.looked[&kind];
        let settled: Vec<_> = due.iter().copied().filter(|due| *due <= looked).collect();
        let fates = self.fates.iter().filter(|((of, _), _)| *of == kind);
        assert_eq!(fates.map(|((_, due), _)| *due).collect::<Vec<_>>(), settled);
        let is_each = matches!(self.policy.missed, Missed::All(_));
        let is_running = self.attempts.iter().any(|attempt| attempt.ended.is_none());
        let may_wait = is_each || is_running || self.policy.closed_until(now).is_some();
        assert!(may_wait || settled.len() == due.len(), "{kind:?} is open at {now}");
        for ((of, due), fate) in &self.fates {
            if *of == kind && *fate == Fate::Run {
                let begun = self.attempts.iter().filter(|a| a.kind == kind && a.due == *due);
                assert!(begun.count() >= 1, "{due} was said to run");
            }
            if *fate == Fate::Skipped(Skip::Paused) {
                let is_before_end = |p: &Pause| p.until.is_none_or(|until| *due < until);
                assert!(self.pauses.iter().any(is_before_end), "{due} was not in a pause");
            }
        }
    }
}

fn live_through(policy: &Policy, first_day: &str, seed: u64) {
    let schedule = Schedule::new(policy).unwrap();
    let since = utc(&format!("{first_day}T07:21:00"));
    let mut dice = Dice(seed | 1);
    let mut month = Month {
        policy,
        since,
        looked: BTreeMap::new(),
        pauses: Vec::new(),
        attempts: Vec::new(),
        fates: BTreeMap::new(),
        ends: Vec::new(),
    };
    let mut now = since;
    while now < since + TimeDelta::days(31) {
        // Now and then nobody looks for a while, such as while the program is down.
        now += match dice.below(100) {
            0 => dice.minutes(60, 48 * 60),
            _ => dice.minutes(1, 20),
        };
        month.end_what_is_over(now);
        month.pause_or_go_on(&mut dice, now);
        for (kind, decision) in schedule.decide(&month.facts(), now) {
            month.check(kind, &decision, now);
            // Killed before the decision was written down: it is made again.
            if dice.below(10) == 0 {
                break;
            }
            month.apply(&mut dice, kind, &decision, now);
        }
    }
    for kind in [Kind::Full, Kind::Incremental] {
        for (of, decision) in schedule.decide(&month.facts(), now) {
            if of == kind {
                month.apply(&mut dice, kind, &decision, now);
                break;
            }
        }
        month.balance(&schedule, kind, now);
    }
    let may_lack = !policy.blackout.is_empty();
    assert!(may_lack || month.has_backup(), "not one backup in a month");
}

fn missed() -> impl Strategy<Value = Missed> {
    prop_oneof![
        Just(Missed::None),
        (1..48u32).prop_map(|hours| Missed::Latest(HOUR * hours)),
        (1..48u32).prop_map(|hours| Missed::All(HOUR * hours)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn row_10_22_every_due_time_of_a_month_ends_in_one_way(
        zone in proptest::sample::select(ZONES.to_vec()),
        month in proptest::sample::select(MONTHS.to_vec()),
        full in proptest::sample::select(FULLS.to_vec()),
        incremental in proptest::sample::select(INCREMENTS.to_vec()),
        missed in missed(),
        blackout in windows(),
        spread in 0..7200u64,
        seed in any::<u64>(),
    ) {
        let (mut full, mut incremental) = (timing(full), timing(incremental));
        for timing in [&mut full, &mut incremental] {
            timing.spread = std::time::Duration::from_secs(spread);
        }
        let (full, incremental) = (Some(full), Some(incremental));
        let policy = Policy { zone, full, incremental, missed, blackout, ..policy() };
        live_through(&policy, month, seed);
    }
}
