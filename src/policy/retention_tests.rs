//! What must hold of every keep-set, and a few that can be read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::{
    civil::tests::{ZONES, berlin, utc},
    event::{Event, WHOLE_DATABASE},
    model::{
        CopyKind, CopyRule, CopyWhen, EventRule, Keep, Period, PeriodUnit, State,
        tests::{DAY, policy},
    },
    reason::Until,
    retention::{Backup, Held, Hold, LogReason, Proof, Retention, Rules, Stock},
};

fn backup(id: &str, at: DateTime<Utc>, proof: Proof) -> Backup {
    let own_log = Some((at - TimeDelta::minutes(9), at));
    let subjects = Vec::new();
    Backup {
        id: id.to_owned(),
        at,
        seq: 1,
        proof,
        own_log,
        subjects,
        is_acknowledged: true,
        is_odd: false,
    }
}

/// A verified one for each of so many days, the last on 26 November 2026 at 03:00.
fn nights(days: i64) -> Vec<Backup> {
    let at = |ago: i64| berlin("2026-11-26T03:00:00") - TimeDelta::days(ago);
    (0..days)
        .map(|ago| {
            let id = at(ago).with_timezone(&Tz::Europe__Berlin).format("%m-%d").to_string();
            backup(&id, at(ago), Proof::Verified)
        })
        .collect()
}

const NOON: &str = "2026-11-26T12:00:00";

struct Case {
    keep: Keep,
    window_days: u32,
    floor: u32,
    backups: Vec<Backup>,
    holds: Vec<Hold>,
    events: Vec<Event>,
    state: State,
}

impl Case {
    fn new(keep: Keep, backups: Vec<Backup>) -> Self {
        let (holds, events, state) = (Vec::new(), Vec::new(), State::Active);
        Self { keep, window_days: 0, floor: 1, backups, holds, events, state }
    }

    fn retain(&self, now: &str) -> Retention {
        let rules = Rules {
            zone: Tz::Europe__Berlin,
            keep: &self.keep,
            window: DAY * self.window_days,
            floor: self.floor,
        };
        let Self { backups, holds, events, state, .. } = self;
        rules.retain(&Stock { backups, holds, events, state: *state }, berlin(now))
    }

    /// As in `11-26 last 1 of 2, floor 1 of 1`, those that are kept.
    fn kept(&self, now: &str) -> Vec<String> {
        let verdicts = self.retain(now).verdicts;
        let kept = verdicts.iter().filter(|verdict| verdict.is_kept());
        kept.map(|verdict| {
            let reasons: Vec<_> = verdict.reasons.iter().map(ToString::to_string).collect();
            format!("{} {}", verdict.id, reasons.join(", "))
        })
        .collect()
    }

    fn until(&self, id: &str, now: &str) -> Until {
        let verdicts = self.retain(now).verdicts;
        verdicts.iter().find(|verdict| verdict.id == id).unwrap().until
    }
}

#[test]
fn of_each_week_and_month_the_first_is_kept() {
    let keep = Keep { last: 2, weekly: 3, monthly: 2, ..Keep::default() };
    let mut case = Case::new(keep, nights(90));
    assert_eq!(
        case.kept(NOON),
        [
            "10-01 monthly 2026-10",
            "11-01 monthly 2026-11",
            "11-09 weekly 2026-W46",
            "11-16 weekly 2026-W47",
            "11-23 weekly 2026-W48",
            "11-25 last 2 of 2",
            "11-26 last 1 of 2, floor 1 of 1",
        ]
    );
    let soonest = |at: &str| Until::Replaced(Some(berlin(at)));
    assert_eq!(case.until("11-09", NOON), soonest("2026-11-30T00:00:00"));
    assert_eq!(case.until("11-23", NOON), soonest("2026-12-14T00:00:00"));
    assert_eq!(case.until("11-26", NOON), Until::Replaced(None));
    // The week before it went when the third after it had its first.
    assert_eq!(case.until("11-02", NOON), Until::Gone(berlin("2026-11-23T03:00:00")));
    // The first one was not verified, so the second is the first.
    let monday = case.backups.iter_mut().find(|backup| backup.id == "11-23").unwrap();
    monday.proof = Proof::Suspect;
    assert!(case.kept(NOON).contains(&"11-24 weekly 2026-W48".to_owned()));
}

#[test]
fn an_outage_costs_nothing_and_retirement_comes_to_an_end() {
    let keep = Keep { weekly: 3, ..Keep::default() };
    let mut case = Case::new(keep, nights(40));
    let now = "2027-02-01T12:00:00";
    assert_eq!(case.kept(now).len(), 4);
    case.state = State::Retired;
    assert_eq!(case.kept(NOON).len(), 4);
    assert_eq!(case.until("11-16", NOON), Until::Instant(berlin("2026-12-07T00:00:00")));
    assert_eq!(case.kept(now), ["11-26 the last one of a retired database"]);
}

#[test]
fn every_instant_of_the_window_has_a_base_and_its_log() {
    let weekly = |days: &[i64]| {
        let made = nights(60).into_iter();
        let chosen = |(ago, _): &(i64, Backup)| days.contains(ago);
        (0..).zip(made).filter(chosen).map(|(_, backup)| backup).collect::<Vec<_>>()
    };
    let mut case = Case::new(Keep::default(), weekly(&[2, 9, 16, 23]));
    case.window_days = 14;
    assert_eq!(
        case.kept(NOON),
        [
            "11-10 base of the PITR window",
            "11-17 in the PITR window",
            "11-24 in the PITR window, floor 1 of 1",
        ]
    );
    let log = case.retain(NOON).log;
    assert_eq!((log[0].from, log[0].to), (berlin("2026-11-10T03:00:00"), None));
    // The base itself is not consistent without what was logged while it was made.
    assert_eq!(log[1].why, LogReason::Own("11-10".to_owned()));
    assert_eq!(log.len(), 2);
    assert_eq!(case.until("11-10", NOON), Until::Instant(berlin("2026-12-01T03:00:00")));
    assert_eq!(case.until("11-03", NOON), Until::Gone(berlin("2026-11-24T03:00:00")));
    // Nobody proved the base: the one before it stays as well.
    case.backups[2].proof = Proof::Unverified;
    assert_eq!(case.kept(NOON)[0], "11-03 base of the PITR window");
    assert_eq!(case.retain(NOON).log[0].from, berlin("2026-11-03T03:00:00"));
}

#[test]
fn beyond_the_window_a_backup_has_its_own_log() {
    let mut case = Case::new(Keep { monthly: 2, ..Keep::default() }, nights(60));
    case.window_days = 14;
    let own = |id: &str| LogReason::Own(id.to_owned());
    let log = case.retain(NOON).log;
    let whys: Vec<_> = log.iter().map(|range| range.why.clone()).collect();
    assert_eq!(whys, [LogReason::Window, own("10-01"), own("11-01"), own("11-12")]);
    let first = berlin("2026-10-01T04:00:00");
    assert_eq!((log[1].from, log[1].to), (first - TimeDelta::minutes(9), Some(first)));
}

#[test]
fn what_nobody_proved_stands_for_nothing_and_stays_until_something_does() {
    let mut case = Case::new(Keep::default(), nights(5));
    case.floor = 2;
    case.backups[0].proof = Proof::Suspect;
    case.backups[1].proof = Proof::Unverified;
    assert_eq!(
        case.kept(NOON),
        [
            "11-23 floor 2 of 2",
            "11-24 floor 1 of 2",
            "11-25 none that was verified is newer",
            "11-26 none that was verified is newer",
        ]
    );
    case.backups.iter_mut().for_each(|backup| backup.proof = Proof::Unverified);
    assert_eq!(case.kept(NOON).len(), 5);
}

#[test]
fn before_the_first_proven_one_any_may_be_the_base() {
    let mut case = Case::new(Keep::default(), nights(30));
    case.window_days = 14;
    case.backups.retain(|backup| ["11-01", "11-07", "11-24"].contains(&backup.id.as_str()));
    case.backups[1].proof = Proof::Unverified;
    case.backups[2].proof = Proof::Unverified;
    assert_eq!(
        case.kept(NOON),
        [
            "11-01 base of the PITR window",
            "11-07 base of the PITR window",
            "11-24 in the PITR window, floor 1 of 1",
        ]
    );
    assert_eq!(case.retain(NOON).log[0].from, berlin("2026-11-01T03:00:00"));
}

#[test]
fn one_is_kept_whatever_was_written_down() {
    let mut case = Case::new(Keep::default(), nights(5));
    case.floor = 0;
    assert_eq!(case.kept(NOON), ["11-26 floor 1 of 1"]);
}

#[test]
fn a_hold_keeps_what_its_points_need_and_nothing_else() {
    let hold = |case: &str, of: Held| Hold { case: case.to_owned(), of };
    let mut case = Case::new(Keep::default(), nights(30));
    let range = Held::Range {
        from: berlin("2026-11-05T12:00:00"),
        to: Some(berlin("2026-11-07T12:00:00")),
    };
    case.holds = vec![
        hold("LEG-2231", range),
        hold("LEG-7", Held::Backup("11-06".to_owned())),
        hold("LEG-8", Held::Backup("never".to_owned())),
    ];
    assert_eq!(
        case.kept(NOON),
        [
            "11-05 held: case LEG-2231",
            "11-06 held: case LEG-2231, held: case LEG-7",
            "11-07 held: case LEG-2231",
            "11-26 floor 1 of 1",
        ]
    );
    assert_eq!(case.until("11-06", NOON), Until::Told);
    let log = case.retain(NOON).log;
    let held = log.iter().find(|range| range.why == LogReason::Held("LEG-2231".to_owned()));
    let held = held.unwrap();
    assert_eq!(
        (held.from, held.to),
        (berlin("2026-11-05T03:00:00"), Some(berlin("2026-11-07T12:00:00")))
    );
}

#[test]
fn events_and_receipts_keep_every_one() {
    let rule = EventRule {
        after: Period { count: 1, unit: PeriodUnit::Months },
        event: "project_end".to_owned(),
        subject: WHOLE_DATABASE.to_owned(),
    };
    let mut case = Case::new(Keep { event: Some(rule), ..Keep::default() }, nights(3));
    assert_eq!(case.kept(NOON).len(), 3);
    assert_eq!(case.until("11-24", NOON), Until::Told);
    let event = Event {
        name: "project_end".to_owned(),
        subject: WHOLE_DATABASE.to_owned(),
        on: "2026-10-31".parse().ok(),
    };
    case.events = vec![event];
    let end = berlin("2026-12-02T00:00:00");
    assert_eq!(case.until("11-24", NOON), Until::Instant(end));
    assert_eq!(case.kept("2026-12-02T00:00:00"), ["11-26 floor 1 of 1"]);
    assert_eq!(case.until("11-24", "2026-12-24T00:00:00"), Until::Gone(end));

    let fortnight = Period { count: 14, unit: PeriodUnit::Days };
    let keep = Keep { every: Some(fortnight), until_acknowledged: true, ..Keep::default() };
    let mut case = Case::new(keep, nights(20));
    case.backups[19].is_acknowledged = false;
    assert_eq!(case.kept(NOON)[0], "11-07 not acknowledged");
    assert_eq!(case.kept(NOON)[1], "11-13 every one for 14 days");
}

#[test]
fn what_was_there_before_a_suspicious_change_stays_for_a_fortnight() {
    let mut case = Case::new(Keep::default(), nights(10));
    let kept_before = |case: &Case, now: &str| {
        let kept = case.kept(now).into_iter().filter(|told| told.contains("before a suspicious"));
        kept.map(|told| told[..5].to_owned()).collect::<Vec<_>>()
    };
    assert!(kept_before(&case, NOON).is_empty());
    case.backups[3].is_odd = true;
    assert_eq!(kept_before(&case, NOON), ["11-21", "11-22"]);
    // Another one does not make it shorter, and keeps what was before it.
    case.backups[1].is_odd = true;
    assert_eq!(kept_before(&case, NOON), ["11-21", "11-22", "11-23", "11-24"]);
    assert_eq!(kept_before(&case, "2026-12-08T12:00:00"), ["11-23", "11-24"]);
    assert!(kept_before(&case, "2026-12-10T12:00:00").is_empty());
}

#[test]
fn each_copy_has_rules_of_its_own() {
    let copy = |kinds: &[CopyKind], until_acknowledged| CopyRule {
        name: "dr".to_owned(),
        to: "dr".to_owned(),
        from: None,
        when: CopyWhen::Verified,
        kinds: kinds.to_vec(),
        keep: Keep { daily: 35, until_acknowledged, ..Keep::default() },
        windows: Vec::new(),
        site: None,
    };
    let policy = policy();
    let rules = |copy: &CopyRule| {
        let rules = Rules::of_copy(&policy, copy);
        (rules.window, rules.floor, rules.keep.daily)
    };
    assert_eq!(rules(&copy(&[CopyKind::Full, CopyKind::Logs], false)), (14 * DAY, 2, 35));
    assert_eq!(rules(&copy(&[CopyKind::Full], true)), (Duration::ZERO, 1, 35));
    assert_eq!(Rules::of(&policy).window, 14 * DAY);
}

/// Everything that a keep-set follows from.
#[derive(Clone, Debug)]
struct World {
    zone: Tz,
    keep: Keep,
    window_hours: u32,
    floor: u32,
    backups: Vec<Backup>,
    holds: Vec<Hold>,
    events: Vec<Event>,
    state: State,
    now: DateTime<Utc>,
}

impl World {
    fn at(&self, now: DateTime<Utc>) -> Retention {
        let (zone, keep, floor) = (self.zone, &self.keep, self.floor);
        let rules = Rules { zone, keep, window: DAY / 24 * self.window_hours, floor };
        let Self { backups, holds, events, state, .. } = self;
        rules.retain(&Stock { backups, holds, events, state: *state }, now)
    }

    /// The ids of those that are kept.
    fn kept(&self) -> Vec<String> {
        let verdicts = self.at(self.now).verdicts.into_iter();
        verdicts.filter(|v| !v.reasons.is_empty()).map(|verdict| verdict.id).collect()
    }

    fn verified(&self) -> impl Iterator<Item = &Backup> {
        self.backups.iter().filter(|backup| backup.proof == Proof::Verified)
    }
}

const BEGIN: &str = "2026-01-01T00:00:00";
const HOURS: i64 = 900 * 24;

fn hour() -> impl Strategy<Value = DateTime<Utc>> {
    // Many near each other, and some at the same time.
    prop_oneof![0..HOURS, 0..240i64].prop_map(|hour| utc(BEGIN) + TimeDelta::hours(hour))
}

fn keep() -> impl Strategy<Value = Keep> {
    let every = proptest::option::of(1..60u32);
    let event = proptest::option::weighted(0.2, 1..400u32);
    (0..4u32, 0..5u32, 0..9u32, 0..9u32, 0..7u32, 0..3u32, every, event, any::<bool>()).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, every, event, until_acknowledged)| {
            let days = |count| Period { count, unit: PeriodUnit::Days };
            let rule = |count| EventRule {
                after: days(count),
                event: "end".to_owned(),
                subject: "who".to_owned(),
            };
            let (every, event) = (every.map(days), event.map(rule));
            Keep { last, hourly, daily, weekly, monthly, yearly, every, event, until_acknowledged }
        },
    )
}

fn backups() -> impl Strategy<Value = Vec<Backup>> {
    let proof = prop_oneof![
        4 => Just(Proof::Verified), 2 => Just(Proof::Unverified), 1 => Just(Proof::Suspect)
    ];
    let subjects = proptest::collection::vec("[ab]", 0..3);
    let some = proptest::bool::weighted;
    let one = (hour(), proof, subjects, some(0.8), some(0.1));
    proptest::collection::vec(one, 0..40).prop_map(|all| {
        let numbered = (0..).zip(all);
        numbered
            .map(|(seq, (at, proof, subjects, is_acknowledged, is_odd))| Backup {
                seq,
                subjects,
                is_acknowledged,
                is_odd,
                ..backup(&format!("b{seq}"), at, proof)
            })
            .collect()
    })
}

fn hold() -> impl Strategy<Value = Hold> {
    let one = (0..40u32).prop_map(|seq| Held::Backup(format!("b{seq}")));
    let range = (hour(), proptest::option::of(hour()));
    let range = range.prop_map(|(from, to)| Held::Range { from, to });
    prop_oneof![one, range].prop_map(|of| Hold { case: "c".to_owned(), of })
}

fn world() -> impl Strategy<Value = World> {
    let zone = proptest::sample::select(ZONES.to_vec());
    let event = ("[ab]", proptest::option::of(hour())).prop_map(|(subject, on)| Event {
        name: "end".to_owned(),
        subject,
        on: on.map(|at| at.date_naive()),
    });
    let state = prop_oneof![Just(State::Active), Just(State::Retiring), Just(State::Retired)];
    let recorded =
        (proptest::collection::vec(hold(), 0..3), proptest::collection::vec(event, 0..4));
    let keep = prop_oneof![1 => Just(Keep::default()), 3 => keep()];
    let window_hours = prop_oneof![1 => Just(0), 4 => 1..60 * 24u32];
    let rules = (zone, keep, window_hours, 0..4u32);
    let now = (0..HOURS + 9000).prop_map(|hour| utc(BEGIN) + TimeDelta::hours(hour));
    (rules, backups(), recorded, state, now).prop_map(
        |((zone, keep, window_hours, floor), backups, (holds, events), state, now)| World {
            zone,
            keep,
            window_hours,
            floor,
            backups,
            holds,
            events,
            state,
            now,
        },
    )
}

/// Two years of backups that nobody ever read back, and then one that was.
#[test]
fn what_was_never_proven_keeps_its_place_in_the_calendar() {
    let at = |week: i64| utc("2026-11-02T02:00:00") - TimeDelta::weeks(week);
    let mut backups: Vec<_> =
        (1..100).map(|week| backup(&format!("w{week}"), at(week), Proof::Unverified)).collect();
    backups.push(backup("new", at(0), Proof::Verified));
    let keep = Keep { weekly: 8, ..Keep::default() };
    let rules = Rules { zone: Tz::UTC, keep: &keep, window: DAY, floor: 1 };
    let kept = |backups: &[Backup]| {
        let stock = Stock { backups, holds: &[], events: &[], state: State::Active };
        let retained = rules.retain(&stock, at(0) + TimeDelta::hours(1));
        (retained.verdicts.iter().filter(|verdict| verdict.is_kept()).count(), retained)
    };
    assert_eq!(kept(&backups).0, 100, "one proven backup stands for no week but its own");
    for backup in &mut backups {
        backup.proof = Proof::Verified;
    }
    assert_eq!(kept(&backups).0, 8);
    // Something that all of them need is damaged: that takes neither them nor the window's log.
    let healthy = kept(&backups).1.log_begin();
    for backup in &mut backups {
        backup.proof = Proof::Suspect;
    }
    let (count, doubted) = kept(&backups);
    assert_eq!(count, 100);
    assert!(doubted.log_begin() <= healthy, "{doubted:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn something_verified_is_always_kept(world in world()) {
        let kept = world.kept();
        let mut newest: Vec<_> = world.verified().collect();
        newest.sort_by_key(|backup| std::cmp::Reverse((backup.at, backup.seq)));
        let floor = if world.state == State::Retired { 1 } else { world.floor.max(1) };
        for backup in newest.iter().take(floor as usize) {
            prop_assert!(kept.contains(&backup.id));
        }
        let is_unproven = |b: &&Backup| newest.first().is_none_or(|proven| proven.at < b.at);
        prop_assert!(world.backups.iter().filter(is_unproven).all(|b| kept.contains(&b.id)));
    }

    #[test]
    fn every_point_of_the_window_can_be_reached(world in world(), ago in 0..60 * 24u32) {
        let ago = ago % world.window_hours.max(1);
        let point = world.now - TimeDelta::hours(ago.into());
        let base = world.verified().map(|backup| (backup.at, backup.seq, &backup.id));
        let base = base.filter(|(at, ..)| *at <= point).max();
        if let Some((at, _, id)) = base.filter(|_| world.window_hours > 0) {
            prop_assert!(world.kept().contains(id));
            let log = world.at(world.now).log;
            let has_log = |range: &super::retention::LogRange| {
                range.from <= at && range.to.is_none_or(|to| point <= to)
            };
            prop_assert!(log.iter().any(has_log));
        }
    }

    #[test]
    fn a_hold_only_adds(world in world(), hold in hold()) {
        let before = world.kept();
        let mut held = world.clone();
        held.holds.push(hold.clone());
        let after = held.kept();
        prop_assert!(before.iter().all(|id| after.contains(id)));
        if let Held::Range { from, to } = hold.of {
            let is_in = |at: DateTime<Utc>| from <= at && to.is_none_or(|to| at <= to);
            let mut needed = world.backups.iter().filter(|backup| is_in(backup.at));
            prop_assert!(needed.all(|backup| after.contains(&backup.id)));
            let verified = world.verified().filter(|backup| backup.at <= from);
            if let Some(base) = verified.max_by_key(|backup| (backup.at, backup.seq)) {
                prop_assert!(after.contains(&base.id));
            }
        }
    }

    #[test]
    fn what_went_does_not_come_back(world in world(), hours in 1..20_000i64) {
        let later = World { now: world.now + TimeDelta::hours(hours), ..world.clone() };
        let before = world.kept();
        prop_assert!(later.kept().iter().all(|id| before.contains(id)));
    }

    #[test]
    fn neither_names_nor_order_matter(world in world(), seed in any::<u64>()) {
        let kept = world.at(world.now);
        let mut other = World { holds: Vec::new(), ..world.clone() };
        let mut plain = other.clone();
        let hash = |text: String| *blake3::hash(text.as_bytes()).as_bytes();
        let key = |backup: &Backup| hash(format!("{seed}{}", backup.id));
        other.backups.sort_by_key(key);
        for backup in &mut other.backups {
            backup.id = format!("host-{}", &blake3::hash(backup.id.as_bytes()).to_hex()[..9]);
        }
        let told = |world: &World| {
            let verdicts = world.at(world.now).verdicts.into_iter();
            verdicts.map(|v| (v.at, v.reasons, v.until)).collect::<Vec<_>>()
        };
        prop_assert_eq!(told(&other), told(&plain));
        plain.holds.clone_from(&world.holds);
        plain.backups.reverse();
        prop_assert_eq!(plain.at(world.now), kept);
    }

    #[test]
    fn what_is_not_proven_removes_nothing(
        world in world(), at in hour(), suspect in any::<bool>(),
    ) {
        let mut more = world.clone();
        let proof = if suspect { Proof::Suspect } else { Proof::Unverified };
        more.backups.push(Backup { seq: 99, ..backup("new", at, proof) });
        let (before, after) = (world.kept(), more.kept());
        prop_assert!(before.iter().all(|id| after.contains(id)));
    }

    #[test]
    fn times_that_are_told_come_true(world in world()) {
        let is_kept = |world: &World, id: &str, at: DateTime<Utc>| {
            let verdicts = world.at(at).verdicts;
            verdicts.iter().any(|verdict| verdict.id == id && verdict.is_kept())
        };
        let second = TimeDelta::seconds(1);
        for verdict in world.at(world.now).verdicts {
            prop_assert_eq!(verdict.is_kept(), !matches!(verdict.until, Until::Gone(_)));
            match verdict.until {
                Until::Instant(end) => {
                    prop_assert!(world.now < end);
                    prop_assert!(is_kept(&world, &verdict.id, end - second));
                    prop_assert!(!is_kept(&world, &verdict.id, end));
                }
                Until::Replaced(Some(soonest)) => {
                    prop_assert!(is_kept(&world, &verdict.id, soonest.max(world.now) - second));
                }
                Until::Gone(since) => prop_assert!(!is_kept(&world, &verdict.id, since)),
                Until::Replaced(None) | Until::Told => {
                    let far = world.now + TimeDelta::days(20_000);
                    prop_assert!(is_kept(&world, &verdict.id, far));
                }
            }
        }
    }
}
