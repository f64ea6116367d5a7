//! Who was not heard of, what does not get on, and what only one may have.

use std::time::Duration;

use stillpoint::coordinator::state::{AWAY, LEAD, Outcome};
use stillpoint_contract::{ErrorKind, Result};

use super::bench::{Bench, LEASE, NEVER, outcome, task};

const SECOND: Duration = Duration::from_secs(1);

/// A second less than a lease.
const ALMOST: Duration = Duration::from_secs(29);

fn fenced<T: std::fmt::Debug>(result: Result<T>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced);
}

pub(super) async fn whoever_was_not_heard_of_has_lost_what_it_had(bench: &Bench) {
    let state = &bench.state;
    bench.watch(AWAY).await;
    state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    bench.worker("w1").await;
    let zombie = bench.claim("w1").await;
    state.progress(&zombie, 5).await.unwrap();
    bench.watch(LEASE / 2).await;
    bench.worker("w1").await;
    bench.watch(ALMOST).await;
    bench.wait(SECOND).await;
    assert_eq!(state.reap(NEVER, "s").await.unwrap(), [1, 0]);

    fenced(state.progress(&zombie, 6).await);
    // Not even if it says the same.
    fenced(state.finish(&zombie, Outcome::Lost, "").await);
    fenced(state.claim("w1").await);
    state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    state.renew("w2", "there", LEASE).await.unwrap();
    let heir = bench.claim("w2").await;
    // It wakes up, and even takes a new lease: what it had is not its own any more.
    bench.worker("w1").await;
    fenced(state.finish(&zombie, Outcome::Succeeded, "").await);
    state.finish(&heir, Outcome::Succeeded, "").await.unwrap();
    let jobs = bench.jobs().await;
    let outcomes: Vec<_> = jobs.iter().filter_map(outcome).map(|(how, _)| how).collect();
    assert_eq!(outcomes, [Outcome::Succeeded, Outcome::Lost]);
}

pub(super) async fn nobody_loses_anything_because_the_database_was_away(bench: &Bench) {
    let state = &bench.state;
    bench.watch(AWAY).await;
    state.enqueue(&task("a", "full", 1), "s").await.unwrap();
    state.enqueue(&task("b", "full", 1), "s").await.unwrap();
    for worker in ["w1", "w2"] {
        bench.worker(worker).await;
    }
    let (one, other) = (bench.claim("w1").await, bench.claim("w2").await);
    bench.wait(100 * LEASE).await;
    // The first who comes back does not take what the others had no chance to keep.
    assert_eq!(state.reap(20 * LEASE, "s").await.unwrap(), [0, 0]);
    bench.wait(AWAY / 2).await;
    assert_eq!(state.reap(20 * LEASE, "s").await.unwrap(), [0, 0]);
    bench.worker("w1").await;
    bench.wait(AWAY / 2).await;
    assert_eq!(state.reap(20 * LEASE, "s").await.unwrap(), [1, 0]);
    state.finish(&one, Outcome::Succeeded, "").await.unwrap();
    fenced(state.finish(&other, Outcome::Succeeded, "").await);
}

pub(super) async fn a_job_that_does_not_get_on_is_ended(bench: &Bench) {
    let state = &bench.state;
    let limit = Duration::from_mins(2);
    bench.watch(limit).await;
    for name in ["moves", "stands"] {
        state.enqueue(&task(name, "full", 1), "s").await.unwrap();
    }
    bench.state.renew("w1", "here", 10 * limit).await.unwrap();
    let (moves, stands) = (bench.claim("w1").await, bench.claim("w1").await);
    for claim in [&moves, &stands] {
        state.progress(claim, 7).await.unwrap();
    }
    bench.watch(limit / 2).await;
    state.progress(&moves, 8).await.unwrap();
    state.progress(&stands, 7).await.unwrap();
    // A server's own time goes on meanwhile.
    bench.watch(Duration::from_secs(40)).await;
    assert_eq!(state.reap(limit, "s").await.unwrap(), [0, 0]);
    bench.wait(25 * SECOND).await;
    assert_eq!(state.reap(limit, "s").await.unwrap(), [0, 1]);
    fenced(state.progress(&stands, 9).await);
    fenced(state.finish(&stands, Outcome::Failed, "").await);
    state.progress(&moves, 9).await.unwrap();
    let job = state.job(&stands.job).await.unwrap().unwrap();
    assert_eq!(outcome(&job), Some((Outcome::Failed, "it did not get on for 120 s")));
    let line = state.audit(0).await.unwrap().pop().unwrap();
    assert_eq!((line.action.as_str(), line.subject), ("job.stalled", stands.job));
}

pub(super) async fn one_worker_at_a_time_has_a_lease(bench: &Bench) {
    let state = &bench.state;
    let term = Some(LEASE);
    assert_eq!(state.lease("log/shop", "w1", term).await.unwrap(), Some(1));
    assert_eq!(state.lease("log/shop", "w2", term).await.unwrap(), None);
    assert_eq!(state.lease("log/other", "w2", term).await.unwrap(), Some(1));
    bench.wait(ALMOST).await;
    assert_eq!(state.lease("log/shop", "w1", term).await.unwrap(), Some(1), "kept");
    bench.wait(LEASE).await;
    assert_eq!(state.lease("log/shop", "w2", term).await.unwrap(), Some(2));
    assert_eq!(state.lease("log/shop", "w1", term).await.unwrap(), None);
    state.release("log/shop", "w1").await.unwrap();
    assert_eq!(state.lease("log/shop", "w1", term).await.unwrap(), None, "not its own to give");
    state.release("log/shop", "w2").await.unwrap();
    assert_eq!(state.lease("log/shop", "w1", term).await.unwrap(), Some(3));
    bench.wait(LEASE + SECOND).await;
    // Others may have had it in between.
    assert_eq!(state.lease("log/shop", "w1", term).await.unwrap(), Some(4));
}

pub(super) async fn a_lease_without_a_term_lasts_while_its_worker_is_heard_of(bench: &Bench) {
    let state = &bench.state;
    fenced(state.lease("log/shop", "w1", None).await);
    bench.worker("w1").await;
    assert_eq!(state.lease("log/shop", "w1", None).await.unwrap(), Some(1));
    bench.wait(ALMOST).await;
    bench.worker("w1").await;
    bench.worker("w2").await;
    bench.wait(ALMOST).await;
    assert_eq!(state.lease("log/shop", "w2", None).await.unwrap(), None);
    bench.wait(SECOND).await;
    fenced(state.lease("log/shop", "w1", None).await);
    bench.worker("w2").await;
    assert_eq!(state.lease("log/shop", "w2", None).await.unwrap(), Some(2));
    bench.worker("w1").await;
    assert_eq!(state.lease("log/shop", "w1", None).await.unwrap(), None);
}

pub(super) async fn one_leads(bench: &Bench) {
    let other = bench.again().await;
    assert!(bench.state.lead("w1").await.unwrap());
    assert!(!other.lead("w2").await.unwrap());
    bench.wait(LEAD / 2).await;
    assert!(bench.state.lead("w1").await.unwrap());
    bench.wait(LEAD).await;
    assert!(other.lead("w2").await.unwrap());
    assert!(!bench.state.lead("w1").await.unwrap());
}
