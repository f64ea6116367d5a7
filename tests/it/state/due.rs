//! Each due time becomes one thing.

use std::slice;

use stillpoint::coordinator::state::{Outcome, SKIPPED_MAX, Settling, Skipped};
use stillpoint_contract::ErrorKind;

use super::bench::{Bench, due, minute, outcome};

fn settling(from: Option<u64>, until: u64, run: &[u64], skip: &[u64]) -> Settling {
    let skipped = |minutes: &u64| Skipped {
        kind: "full".to_owned(),
        due: minute(*minutes),
        reason: "blackout".to_owned(),
    };
    Settling {
        database: "shop".to_owned(),
        kind: "full".to_owned(),
        from: from.map(minute),
        until: minute(until),
        tasks: run.iter().map(|minutes| due("shop", *minutes)).collect(),
        skipped: skip.iter().map(skipped).collect(),
    }
}

pub(super) async fn due_times_are_settled_once(bench: &Bench) {
    let state = &bench.state;
    assert_eq!(state.looked("shop", "full").await.unwrap(), None);
    let first = settling(None, 5, &[1, 2], &[3]);
    assert_eq!(state.settle(slice::from_ref(&first), "s").await.unwrap(), [true]);
    assert_eq!(state.looked("shop", "full").await.unwrap(), Some(minute(5)));
    assert_eq!(state.looked("shop", "drill").await.unwrap(), None);
    // The answer was lost, and it is said again.
    assert_eq!(state.settle(slice::from_ref(&first), "s").await.unwrap(), [false]);
    assert_eq!(state.settle(&[settling(Some(5), 9, &[8], &[])], "s").await.unwrap(), [true]);
    let queued: Vec<_> = bench.jobs().await.into_iter().map(|job| job.task.due).collect();
    assert_eq!(queued, [8, 2, 1].map(minute));
    let skipped: Vec<_> = state.skipped("shop").await.unwrap();
    assert_eq!(skipped, settling(None, 5, &[], &[3]).skipped);
    let all = state.all_looked().await.unwrap();
    let key = ("shop".to_owned(), "full".to_owned());
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [(key, minute(9))]);
    // Nothing new is due, but what failed is tried again.
    bench.worker("w1").await;
    for _ in 0..3 {
        let claim = bench.claim("w1").await;
        state.finish(&claim, Outcome::Failed, "").await.unwrap();
    }
    assert_eq!(state.settle(&[settling(Some(9), 9, &[8], &[])], "s").await.unwrap(), [true]);
    let attempts: Vec<_> = bench.jobs().await.iter().map(|job| job.attempt).collect();
    assert_eq!(attempts, [2, 1, 1, 1]);
}

pub(super) async fn settling_is_one_step(bench: &Bench) {
    let state = &bench.state;
    let other = Settling { database: "other".to_owned(), ..settling(None, 2, &[], &[1]) };
    let backwards = Settling { from: Some(minute(9)), ..settling(None, 2, &[], &[]) };
    let all = [settling(None, 5, &[1], &[3]), other, backwards];
    assert_eq!(state.settle(&all, "s").await.unwrap_err().kind(), ErrorKind::Bug);
    let foreign = Settling { kind: "drill".to_owned(), ..settling(None, 5, &[1], &[]) };
    assert_eq!(state.settle(&[foreign], "s").await.unwrap_err().kind(), ErrorKind::Bug);
    assert_eq!(bench.jobs().await, []);
    assert_eq!(state.skipped("shop").await.unwrap(), []);
    assert!(state.all_looked().await.unwrap().is_empty());
    assert_eq!(state.settle(&all[..2], "s").await.unwrap(), [true, true]);
    assert_eq!(state.all_looked().await.unwrap().len(), 2);
}

pub(super) async fn a_decision_that_was_overtaken_does_nothing(bench: &Bench) {
    let (one, other) = (&bench.state, bench.again().await);
    assert_eq!(one.settle(&[settling(None, 5, &[4], &[])], "one").await.unwrap(), [true]);
    // Another leader decided by what it had read before, and by other calendars.
    let late = settling(None, 7, &[3, 6], &[4]);
    assert_eq!(other.settle(&[late], "other").await.unwrap(), [false]);
    let queued: Vec<_> = bench.jobs().await.into_iter().map(|job| job.task.due).collect();
    assert_eq!(queued, [minute(4)]);
    assert_eq!(one.skipped("shop").await.unwrap(), []);
    assert_eq!(one.looked("shop", "full").await.unwrap(), Some(minute(5)));
    assert!(bench.jobs().await.iter().all(|job| outcome(job).is_none()));
}

pub(super) async fn the_newest_that_were_skipped_are_remembered(bench: &Bench) {
    let state = &bench.state;
    let most = SKIPPED_MAX as u64;
    let early: Vec<_> = (0..most - 10).collect();
    let late: Vec<_> = (most..2 * most + 50).collect();
    state.settle(&[settling(None, most, &[], &early)], "s").await.unwrap();
    assert_eq!(state.skipped("shop").await.unwrap().len(), early.len());
    state.settle(&[settling(Some(most), 9 * most, &[], &late)], "s").await.unwrap();
    let skipped: Vec<_> = state.skipped("shop").await.unwrap().iter().map(|one| one.due).collect();
    let newest: Vec<_> = (most + 50..2 * most + 50).rev().map(minute).collect();
    assert_eq!(skipped, newest);
    let oldest = minute(most + 50).timestamp_micros();
    bench.behind(&format!("DELETE FROM skipped WHERE due >= {oldest}")).await;
    assert_eq!(state.skipped("shop").await.unwrap(), [], "older ones are not only hidden");
}
