//! Endpoints come, answer, take over from each other and go.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::{
    alert::{Protection, alerts},
    civil::tests::utc,
    endpoint::{
        Drain, End, Phase, Registration, Registry, Sighting, Wanted, absence, choose, forgettable,
        is_over, lapse, make_way, observe, succeeded,
    },
    model::{
        Policy, State,
        tests::{HOUR, policy},
    },
    promise::{Interval, Reach},
    rule::{Absence, Lifecycle, Rule, Selector, Template},
};

const HANDOFF: Duration = Duration::from_mins(15);

fn at(second: i64) -> DateTime<Utc> {
    utc("2026-11-26T12:00:00") + TimeDelta::seconds(second)
}

fn rules() -> Vec<Rule> {
    vec![Rule {
        select: Selector::new("app").unwrap(),
        database: Template::new("{app}").unwrap(),
        endpoint: Template::new("postgres://b@{target}/postgres").unwrap(),
        lifecycle: Lifecycle::Ephemeral,
        handoff: HANDOFF,
        on_absence: Absence::Alert,
    }]
}

fn seen(id: &str, sign: &str, ttl: Option<u64>) -> Sighting {
    Sighting {
        id: id.to_owned(),
        target: format!("{id}:5432"),
        labels: [("app".to_owned(), "shop".to_owned())].into(),
        wanted: Wanted::Active,
        ttl: ttl.map(Duration::from_secs),
        sign: Some(sign.to_owned()),
    }
}

/// What is remembered after a complete look.
fn look(registry: &mut Registry, seen: &[Sighting], now: DateTime<Utc>) {
    observe(registry, "files", (seen, true), now);
    let others = succeeded(&rules(), registry, now);
    lapse(registry, |_| true, |id| others.contains(id), now);
}

fn answer(registry: &mut Registry, id: &str, identity: &str, now: DateTime<Utc>) {
    let own = registry.get_mut(id).unwrap();
    own.active.get_or_insert(now);
    own.identity = Some(identity.to_owned());
}

fn chosen(registry: &Registry, now: DateTime<Utc>) -> Option<String> {
    let all: Vec<&Registration> = registry.values().collect();
    choose(&all, HANDOFF, now).map(|one| one.id.clone())
}

fn phase(registry: &Registry, id: &str, now: DateTime<Utc>) -> Phase {
    registry[id].phase(chosen(registry, now).as_deref())
}

/// Row 9b: a name that comes to mean another database takes nothing from the first one, which is
/// known as long as it is remembered, and pages when it becomes too old.
#[test]
fn row_9b_a_name_that_another_database_takes_leaves_the_first_one_known() {
    let mut all = Registry::new();
    let owner = |one: &Registration| one.labels.get("app").cloned();
    let step = |all: &mut Registry, seen: &[Sighting], now| {
        make_way(all, "files", seen, owner, now);
        look(all, seen, now);
    };
    step(&mut all, &[seen("h:1", "1", None)], at(0));
    let mut other = seen("h:1", "2", None);
    other.labels.insert("app".to_owned(), "billing".to_owned());
    step(&mut all, &[other.clone()], at(60));
    let owners = |all: &Registry| {
        let owned = all.values().map(|one| (owner(one).unwrap(), one.end.map(|(_, end)| end)));
        owned.collect::<Vec<_>>()
    };
    let both = [("billing".to_owned(), None), ("shop".to_owned(), Some(End::Lost))];
    assert_eq!(owners(&all), both);
    // The same again changes nothing, and what only says more of itself is not another one.
    other.labels.insert("version".to_owned(), "2".to_owned());
    other.sign = Some("3".to_owned());
    step(&mut all, &[other], at(120));
    assert_eq!(owners(&all), both);
    assert_eq!(all["h:1"].since, at(60));
    assert_eq!(forgettable(&all, owner, at(9_000_000)), Vec::<String>::new());
}

/// Row 9: who was not listened to cannot have fallen silent.
#[test]
fn row_9_a_lease_runs_out_only_where_somebody_listened() {
    let mut all = Registry::new();
    look(&mut all, &[seen("blue", "1", Some(90))], at(0));
    assert_eq!(lapse(&mut all, |_| false, |_| false, at(9_000)), []);
    assert!(all["blue"].is_there());
    assert_eq!(lapse(&mut all, |_| true, |_| false, at(9_000)).len(), 1);
}

#[test]
fn an_endpoint_is_pending_until_it_answers_and_draining_once_another_one_does() {
    let mut all = Registry::new();
    look(&mut all, &[seen("blue", "1", None)], at(0));
    assert_eq!((phase(&all, "blue", at(0)), chosen(&all, at(0))), (Phase::Pending, None));
    answer(&mut all, "blue", "a", at(1));
    assert_eq!(phase(&all, "blue", at(1)), Phase::Active);
    look(&mut all, &[seen("blue", "1", None), seen("green", "1", None)], at(9));
    assert_eq!(chosen(&all, at(9)).unwrap(), "blue");
    answer(&mut all, "green", "b", at(10));
    assert_eq!(phase(&all, "blue", at(10)), Phase::Draining);
    assert_eq!(phase(&all, "green", at(10)), Phase::Active);
    // The one that had taken over was a mistake.
    look(&mut all, &[seen("blue", "1", None)], at(20));
    assert_eq!(phase(&all, "green", at(20)), Phase::GoneExpected);
    assert_eq!(phase(&all, "blue", at(20)), Phase::Active);
}

/// Row 17: whoever takes a registration back says that its end is expected; put back, it is
/// another one.
#[test]
fn row_17_what_is_taken_out_is_gone_as_expected_and_what_runs_out_is_lost() {
    let mut all = Registry::new();
    look(&mut all, &[seen("blue", "1", Some(90))], at(0));
    answer(&mut all, "blue", "a", at(1));
    // Only what changes is a sign of life, and it counts from when it was seen.
    look(&mut all, &[seen("blue", "1", Some(90))], at(89));
    look(&mut all, &[seen("blue", "2", Some(90))], at(90));
    look(&mut all, &[seen("blue", "2", Some(90))], at(180));
    assert_eq!(phase(&all, "blue", at(180)), Phase::Active);
    look(&mut all, &[seen("blue", "2", Some(90))], at(181));
    assert_eq!(phase(&all, "blue", at(181)), Phase::GoneLost);
    // It lies there still, and nobody touches it.
    look(&mut all, &[seen("blue", "2", Some(90))], at(999));
    assert_eq!(phase(&all, "blue", at(999)), Phase::GoneLost);
    look(&mut all, &[seen("blue", "3", Some(90))], at(1000));
    assert_eq!(phase(&all, "blue", at(1000)), Phase::Pending);
    look(&mut all, &[], at(1001));
    assert_eq!(phase(&all, "blue", at(1001)), Phase::GoneExpected);
    look(&mut all, &[seen("blue", "3", Some(90))], at(1002));
    assert_eq!(phase(&all, "blue", at(1002)), Phase::Pending);
}

#[test]
fn whoever_was_succeeded_or_drained_is_not_lost() {
    for is_drained in [false, true] {
        let mut all = Registry::new();
        look(&mut all, &[seen("blue", "1", Some(60))], at(0));
        answer(&mut all, "blue", "a", at(0));
        if is_drained {
            let until = at(50);
            all.get_mut("blue").unwrap().drain = Some(Drain { since: at(1), until, done: None });
        } else {
            look(&mut all, &[seen("blue", "1", Some(60)), seen("green", "1", None)], at(10));
            answer(&mut all, "green", "a", at(10));
        }
        observe(&mut all, "files", (&[], false), at(61));
        let others = succeeded(&rules(), &all, at(61));
        lapse(&mut all, |_| true, |id| others.contains(id), at(61));
        assert_eq!(all["blue"].end, Some((at(61), End::Expected)), "{is_drained}");
    }
}

#[test]
fn whoever_is_being_drained_keeps_the_role_until_all_is_stored() {
    let mut all = Registry::new();
    look(&mut all, &[seen("blue", "1", None)], at(0));
    answer(&mut all, "blue", "a", at(0));
    let drain = Drain { since: at(1), until: at(100), done: None };
    all.get_mut("blue").unwrap().drain = Some(drain);
    look(&mut all, &[seen("blue", "1", None), seen("green", "1", None)], at(5));
    answer(&mut all, "green", "a", at(5));
    assert_eq!(chosen(&all, at(5)).unwrap(), "blue");
    assert_eq!(phase(&all, "blue", at(5)), Phase::Draining);
    // Not for ever,
    assert_eq!(chosen(&all, at(100)).unwrap(), "green");
    // nor against another server that has begun another incarnation.
    all.get_mut("green").unwrap().identity = Some("b".to_owned());
    assert_eq!(chosen(&all, at(5)).unwrap(), "green");
    all.get_mut("green").unwrap().identity = Some("a".to_owned());
    all.get_mut("blue").unwrap().drain = Some(Drain { done: Some(at(6)), ..drain });
    assert_eq!(chosen(&all, at(6)).unwrap(), "green");
    // With nobody else, it is captured as long as it is there.
    look(&mut all, &[seen("blue", "1", None)], at(7));
    assert_eq!(chosen(&all, at(7)).unwrap(), "blue");
}

#[test]
fn whoever_falls_silent_keeps_the_role_for_the_time_of_a_hand_over() {
    let mut all = Registry::new();
    look(&mut all, &[seen("blue", "1", None), seen("green", "1", None)], at(0));
    all.get_mut("green").unwrap().since = at(1);
    answer(&mut all, "blue", "a", at(2));
    answer(&mut all, "green", "a", at(2));
    all.get_mut("green").unwrap().silent = Some(at(10));
    assert_eq!(chosen(&all, at(10 + 899)).unwrap(), "green");
    assert_eq!(chosen(&all, at(10 + 900)).unwrap(), "blue");
}

#[test]
fn an_absence_counts_from_the_last_end() {
    let mut all = Registry::new();
    look(&mut all, &[seen("blue", "1", None), seen("green", "1", None)], at(0));
    let of = |all: &Registry| absence(&all.values().collect::<Vec<_>>());
    look(&mut all, &[seen("green", "1", None)], at(10));
    assert_eq!(of(&all), None);
    look(&mut all, &[], at(20));
    let since = of(&all);
    assert_eq!(since, Some((at(20), End::Expected, "green".to_owned())));
    assert!(!is_over(since.as_ref(), HANDOFF, at(20 + 899)));
    assert!(is_over(since.as_ref(), HANDOFF, at(20 + 900)));
}

#[test]
fn what_ended_is_forgotten_but_for_the_last_of_a_database() {
    let mut all = Registry::new();
    for n in 0..5 {
        look(&mut all, &[seen(&format!("i-{n}"), "1", None)], at(n));
    }
    look(&mut all, &[], at(9));
    let shop = |one: &Registration| one.labels.get("app").cloned();
    assert_eq!(forgettable(&all, shop, at(100)), ["i-0", "i-1", "i-2", "i-3"]);
    assert_eq!(forgettable(&all, shop, at(2)), ["i-0"]);
    assert_eq!(forgettable(&all, |_| None, at(100)).len(), 5);
}

#[test]
fn an_id_stays_with_whoever_registered_it_first() {
    let mut all = Registry::new();
    observe(&mut all, "files", (&[seen("blue", "1", None)], true), at(0));
    let other = Sighting { target: "elsewhere:1".to_owned(), ..seen("blue", "1", None) };
    observe(&mut all, "exec", (std::slice::from_ref(&other), true), at(1));
    assert_eq!((&*all["blue"].source, &*all["blue"].target), ("files", "blue:5432"));
    observe(&mut all, "files", (&[], true), at(2));
    observe(&mut all, "exec", (&[other], true), at(3));
    assert_eq!(&*all["blue"].target, "elsewhere:1");
}

proptest! {
    /// Row 11: no host and no address decides which endpoint is backed up, or how one ends. Each of
    /// them is one that a rule can reach: others belong to no database.
    #[test]
    fn row_11_addresses_decide_nothing_about_endpoints(
        steps in prop::collection::vec((0..3_usize, any::<bool>(), 0..3_u8), 1..40),
    ) {
        let run = |host: &dyn Fn(&str) -> String| {
            let mut all = Registry::new();
            let mut told = Vec::new();
            let mut there = [false; 3];
            for (second, (number, is_there, sign)) in (0..).zip(&steps) {
                there[*number] = *is_there;
                let names = ["blue", "green", "red"];
                let sighting = |(id, _): (&&str, bool)| {
                    let target = host(id);
                    Sighting { target, ..seen(id, &sign.to_string(), Some(7)) }
                };
                let all_there = names.iter().zip(there).filter(|(_, there)| *there);
                let seen: Vec<_> = all_there.map(sighting).collect();
                look(&mut all, &seen, at(second));
                for id in names {
                    if all.get(id).is_some_and(Registration::is_there) {
                        answer(&mut all, id, id, at(second));
                    }
                }
                let phases: Vec<_> = all.keys().map(|id| phase(&all, id, at(second))).collect();
                told.push((chosen(&all, at(second)), phases));
            }
            told
        };
        let here = run(&|id| format!("10.0.0.{}:5432", id.len()));
        let there = run(&|id| format!("[2001:db8::{}]:5433", id.len()));
        prop_assert_eq!(here, there);
    }
}

/// Row 7: fifty replacements on each of thirty days. What endpoints do is decided by the code that
/// decides it in earnest; a capture stores what there is as long as the newest server is up and has
/// the role.
#[test]
fn row_7_fifty_replacements_a_day_for_thirty_days_page_nobody() {
    const DAYS: i64 = 30;
    const EACH_S: i64 = 86_400 / 50;
    let policy = Policy { rpo: HOUR / 12, ..policy() };
    let mut all = Registry::new();
    let (mut newest, mut replacements, mut ends) = (at(0), 0, 0);
    for second in (0..DAYS * 86_400).step_by(30) {
        let now = at(second);
        let number = second / EACH_S;
        let into = second % EACH_S;
        let mut there = Vec::new();
        // The next one is up before the one before it is killed, its file taken out later still;
        // every seventh time it is only there two minutes after.
        let is_late = number % 7 == 0;
        if !is_late || 120 <= into {
            there.push(seen(&format!("i-{number}"), &second.to_string(), Some(90)));
        }
        if 0 < number && into < 60 {
            // A killed server gives no signs of life any more.
            let sign = (number * EACH_S).to_string();
            there.push(seen(&format!("i-{}", number - 1), &sign, Some(90)));
        }
        let before = chosen(&all, now);
        look(&mut all, &there, now);
        let own = format!("i-{number}");
        if all.get(&own).is_some_and(Registration::is_there) {
            answer(&mut all, &own, "a", now);
        }
        let after = chosen(&all, now);
        replacements += i64::from(before != after && after.as_deref() == Some(&*own));
        if after.as_deref() == Some(&*own) {
            newest = now;
        }
        ends += all.values().filter(|one| one.end.is_some_and(|(at, _)| at == now)).count();
        let coverage = [Interval { from: at(0), to: newest }];
        let reach = Reach { state: State::Active, since: at(0), coverage: &coverage };
        let protection = Protection {
            database: "shop",
            reach,
            pause: None,
            drill_passed: Some(now),
            drill_took: None,
            drill_failed: None,
            drill_trouble: None,
            copies: &[],
            corrupt_since: None,
            damaged_since: None,
            anomaly: None,
            archives: &[],
            cause: None,
        };
        assert_eq!(alerts(&protection, Some(&policy), now), [], "at {now}");
        let breached = reach.freshness(&policy, now).and_then(|fresh| fresh.breached_since);
        assert_eq!(breached, None, "at {now}");
        for id in forgettable(&all, |_| Some(String::new()), now - TimeDelta::days(1)) {
            all.remove(&id);
        }
    }
    assert_eq!((replacements, ends), (DAYS * 50, usize::try_from(DAYS * 50).unwrap() - 1));
    assert!(all.len() < 60, "{}", all.len());
}
