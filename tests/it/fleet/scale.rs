//! Ten thousand databases for a month.

use std::time::Duration;

use stillpoint::coordinator::Rhythm;

use super::scenario::{Report, Scenario, Trouble};
use crate::support::world::number_or;

/// `STILLPOINT_FLEET` databases for `STILLPOINT_DAYS` days; in continuous integration fewer, since
/// that compiles for debugging.
#[test]
fn a_large_fleet_keeps_its_promises() {
    let databases = number_or("STILLPOINT_FLEET", 1_000) as usize;
    let days = number_or("STILLPOINT_DAYS", 6) as u32;
    let scenario = Scenario {
        databases,
        days,
        coordinators: 2,
        troubles: vec![Trouble::Kills, Trouble::Failures, Trouble::FailOver],
        slots: 40 + databases as u32 / 20,
        median: Duration::from_mins(6),
        policy: Some("daily"),
        ..Scenario::of(1)
    };
    let rhythm = Rhythm {
        tick: Duration::from_mins(5),
        renew: Duration::from_mins(4),
        lease: Duration::from_mins(12),
        report: Duration::from_mins(15),
        look: Duration::from_hours(12),
        watch: Duration::from_mins(5),
        well: Duration::from_hours(12),
    };
    let report = scenario.run_with(rhythm, u64::MAX).unwrap();
    let Report { backups, drills, expired, pages, breaches, commits, calls, questions, .. } =
        report;
    println!(
        "{databases} databases, {days} days: {backups} backups, {drills} drills, {expired} \
         expired, {pages} pages for {breaches} breaches; {commits} commits and {calls} calls of \
         the state database, {questions} questions to repositories"
    );
    assert!(backups >= databases as u64 * u64::from(days - 1));
}
