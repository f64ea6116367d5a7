//! Many small fleets, each with troubles of its own.

use std::time::Duration;

use super::scenario::{Report, Scenario, Trouble};
use crate::support::world::{runs_or, seed_or};

/// Seeds that continuous integration tries.
const SEEDS: u64 = 64;

/// The smallest scenario found that still goes wrong, and how.
fn shrink(mut scenario: Scenario, mut wrong: String) -> (Scenario, String) {
    loop {
        let smaller = candidates(&scenario).into_iter().find_map(|candidate| {
            let wrong = candidate.run().err()?;
            Some((candidate, wrong))
        });
        match smaller {
            Some((next, why)) => (scenario, wrong) = (next, why),
            None => return (scenario, wrong),
        }
    }
}

/// Scenarios that are a step smaller.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    for place in 0..scenario.troubles.len() {
        let mut troubles = scenario.troubles.clone();
        troubles.remove(place);
        all.push(Scenario { troubles, ..scenario.clone() });
    }
    for databases in [scenario.databases / 2, scenario.databases.saturating_sub(1)] {
        all.push(Scenario { databases, ..scenario.clone() });
    }
    for days in [scenario.days / 2, scenario.days.saturating_sub(1)] {
        all.push(Scenario { days, ..scenario.clone() });
    }
    let coordinators = scenario.coordinators - 1;
    all.push(Scenario { coordinators, ..scenario.clone() });
    all.retain(|one| one != scenario && one.databases > 0 && one.days > 1 && one.coordinators > 0);
    all
}

fn run(scenario: &Scenario) -> Report {
    scenario.run().unwrap_or_else(|wrong| {
        let (smallest, still) = shrink(scenario.clone(), wrong.clone());
        panic!("{wrong}\nafter {scenario}\nthe smallest that goes wrong: {still}\nafter {smallest}")
    })
}

#[test]
fn every_promise_of_a_fleet_holds_whatever_goes_wrong() {
    let first = seed_or(1);
    let mut sum = [0; 6];
    for seed in first..first + runs_or(SEEDS) {
        let report = run(&Scenario::of(seed));
        let Report { backups, expired, captures, fenced, pages, breaches, .. } = report;
        let one = [backups, expired, captures, fenced, pages, breaches];
        sum.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
    }
    // Whatever is to be survived has happened.
    let [backups, expired, captures, fenced, pages, breaches] = sum;
    println!(
        "{backups} backups, {expired} expired, {captures} captures, {fenced} refused to those who \
         lost their jobs, {pages} pages, {breaches} breaches"
    );
    assert!([backups, expired, captures, pages, breaches].iter().all(|count| *count > 0));
}

#[test]
fn the_same_seed_is_the_same_month() {
    let scenario = Scenario { troubles: Trouble::ALL.to_vec(), ..Scenario::of(7) };
    let [first, second] = [run(&scenario), run(&scenario)];
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[test]
fn nobody_is_told_anything_when_nothing_goes_wrong() {
    let scenario = Scenario {
        troubles: Vec::new(),
        databases: 10,
        days: 10,
        coordinators: 2,
        slots: 10,
        median: Duration::from_mins(1),
        ..Scenario::of(3)
    };
    let report = run(&scenario);
    assert_eq!((report.pages, report.breaches), (0, 0), "{report:?}");
    assert!(report.backups > 100, "{report:?}");
}
