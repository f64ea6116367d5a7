//! Many workers at once that do anything at any time, are ended at any await, and vanish, while
//! time jumps. The audit log says in which order everything happened, and is judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::future::poll_fn;
use stillpoint::coordinator::state::{
    Claim, Filter, Outcome, Scope, Settling, Skipped, State, Task,
};
use stillpoint_conformance::memory::SeededEntropy;
use stillpoint_contract::{ErrorKind, Result};
use stillpoint_testcontainers::Postgres;

use super::bench::{Bench, LEASE, NEVER, due, minute, outcome, start};
use crate::support::world::{runs_or, seed_or};

const DATABASES: u64 = 5;
const ALL: usize = 4;
const OF_HOST: usize = 2;

/// A host has several databases.
fn host(database: &str) -> String {
    format!("host{}", database.len() % 2)
}

fn database(number: u64) -> String {
    "x".repeat(1 + number as usize)
}

fn job(database: &str, kind: &str, minutes: u64, rank: u64) -> Task {
    let (kind, host) = (kind.to_owned(), host(database));
    Task { kind, host, rank, ..due(database, minutes) }
}

/// Runs a call, or ends it after some looks at it. `None` when it was ended.
async fn ended<T>(call: impl Future<Output = T>, dice: &SeededEntropy) -> Option<T> {
    let mut looks = if dice.below(6) == 0 { dice.below(24) } else { u64::MAX };
    let mut call = pin!(call);
    poll_fn(move |context| {
        if looks == 0 {
            return Poll::Ready(None);
        }
        looks -= 1;
        let look = call.as_mut().poll(context);
        if look.is_pending() && looks == 0 {
            return Poll::Ready(None);
        }
        look.map(Some)
    })
    .await
}

/// What a worker may hear, and nothing else.
fn heard<T>(answer: Result<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            None
        }
    }
}

/// One process: a worker that becomes another one when it is killed, and decides what is due.
async fn work(bench: Arc<Bench>, number: u64, seed: u64, steps: u64) {
    let dice = SeededEntropy::new(seed ^ (number << 32));
    let (mut state, mut life) = (bench.again().await, 0);
    let mut name = format!("w{number}");
    let mut claims: Vec<Claim> = Vec::new();
    for _ in 0..steps {
        let chosen = dice.below(8.max(claims.len() as u64)) as usize;
        let outcome = if dice.below(3) == 0 { Outcome::Failed } else { Outcome::Succeeded };
        match dice.below(24) {
            0..4 => {
                ended(state.renew(&name, "here", LEASE), &dice).await;
            }
            4..9 => {
                let claim = ended(state.claim(&name), &dice).await;
                claims.extend(claim.and_then(heard).flatten());
            }
            9..14 if chosen < claims.len() => {
                let claim = claims.swap_remove(chosen);
                if ended(state.finish(&claim, outcome, ""), &dice).await.is_none() {
                    // It does not know whether it was heard, and says it again.
                    heard(state.finish(&claim, outcome, "").await);
                }
            }
            14 if chosen < claims.len() => {
                let bytes = dice.below(99);
                ended(state.progress(&claims[chosen], bytes), &dice).await.map(heard);
            }
            15..18 => settle(&state, &dice).await,
            18 => drop(ended(state.reap(4 * LEASE, &name), &dice).await),
            19 => {
                let jobs = state.jobs(&Filter::default()).await.unwrap();
                if let Some(job) = jobs.get(dice.below(20) as usize) {
                    ended(state.cancel(&job.id, "eve", ""), &dice).await;
                }
                if let Some(job) = jobs.get(dice.below(20) as usize) {
                    ended(state.retry(&job.id, "eve"), &dice).await;
                }
            }
            20 => bench.wait(Duration::from_secs(dice.below(20))).await,
            21 if dice.below(4) == 0 => bench.wait(Duration::from_secs(dice.below(200))).await,
            22 if dice.below(3) == 0 => {
                // Killed, with all that it had and knew.
                (state, life) = (bench.again().await, life + 1);
                name = format!("w{number}.{life}");
                claims.clear();
            }
            _ => tokio::task::yield_now().await,
        }
    }
}

/// Decides by what was read, as every coordinator does that thinks it leads; some decide otherwise.
async fn settle(state: &State, dice: &SeededEntropy) {
    let (database, kind) =
        (database(dice.below(DATABASES)), ["full", "drill"][dice.below(2) as usize]);
    let from = state.looked(&database, kind).await.unwrap();
    let minutes = |at: DateTime<Utc>| (at - start()).num_minutes().unsigned_abs();
    let first = from.map_or(0, |from| minutes(from) + 1);
    let last = first + dice.below(3);
    let (mut tasks, mut skipped) = (Vec::new(), Vec::new());
    for minutes in first..=last {
        if dice.below(4) == 0 {
            let (kind, reason) = (kind.to_owned(), "coalesced".to_owned());
            skipped.push(Skipped { kind, due: minute(minutes), reason });
        } else {
            tasks.push(job(&database, kind, minutes, dice.below(5)));
        }
    }
    let (kind, until) = (kind.to_owned(), minute(last));
    let settling = [Settling { database, kind, from, until, tasks, skipped }];
    ended(state.settle(&settling, "leader"), dice).await;
}

/// Judges what happened, in the order in which it did.
async fn judge(state: &State) {
    let jobs = state.jobs(&Filter { most: u32::MAX, ..Filter::default() }).await.unwrap();
    let tasks: BTreeMap<_, _> = jobs.iter().map(|job| (job.id.as_str(), &job.task)).collect();
    let mut waiting = BTreeSet::new();
    let mut running: BTreeMap<String, (&Task, String)> = BTreeMap::new();
    let mut last = None;
    loop {
        let lines = state.audit(last.unwrap_or_default()).await.unwrap();
        let Some(line) = lines.last() else { break };
        last = Some(line.seq);
        for line in lines {
            let id = line.subject.clone();
            match line.action.as_str() {
                "job.queued" => assert!(waiting.insert(id), "{line:?}"),
                "job.claimed" => {
                    assert!(waiting.remove(&id), "{line:?}");
                    let task = tasks[id.as_str()];
                    let same = |other: &Task| {
                        (&other.database, &other.kind) == (&task.database, &task.kind)
                    };
                    assert!(!running.values().any(|(other, _)| same(other)), "{line:?}");
                    running.insert(id, (task, line.who.clone()));
                    let on_host = running.values().filter(|(other, _)| other.host == task.host);
                    assert!(on_host.count() <= OF_HOST && running.len() <= ALL, "{line:?}");
                }
                "job.ended" => {
                    let (_, worker) = running.remove(&id).unwrap();
                    assert_eq!(worker, line.who, "whoever has it ends it");
                }
                "job.lost" | "job.stalled" => assert!(running.remove(&id).is_some(), "{line:?}"),
                "job.cancelled" => {
                    assert!(waiting.remove(&id) || running.remove(&id).is_some(), "{line:?}");
                }
                "job.retried" => {}
                other => panic!("{other}"),
            }
        }
    }
    state.prove_audit().await.unwrap();
    let mut succeeded = BTreeSet::new();
    let mut attempts: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for job in &jobs {
        let key = (&job.task.database, &job.task.kind, job.task.due);
        attempts.entry(key).or_default().push(job.attempt);
        if outcome(job).is_some_and(|(how, _)| how == Outcome::Succeeded) {
            assert!(succeeded.insert(key), "{key:?} succeeded twice");
        }
    }
    for (key, attempts) in &mut attempts {
        attempts.sort_unstable();
        assert_eq!(*attempts, (1..=attempts.len() as u32).collect::<Vec<_>>(), "{key:?}");
    }
    settled(state, &attempts.into_keys().collect()).await;
}

/// Every due time that was looked at became one thing.
async fn settled(state: &State, queued: &BTreeSet<(&String, &String, DateTime<Utc>)>) {
    let looked = state.all_looked().await.unwrap();
    let mut count = 0;
    for ((database, kind), until) in &looked {
        let skipped = state.skipped(database).await.unwrap();
        let skipped: BTreeSet<_> =
            skipped.iter().filter(|one| one.kind == *kind).map(|one| one.due).collect();
        let mut at = start();
        while at <= *until {
            let is_queued = queued.contains(&(database, kind, at));
            assert_ne!(is_queued, skipped.contains(&at), "{database} {kind} {at}");
            (at, count) = (at + Duration::from_mins(1), count + 1);
        }
        let late =
            queued.iter().any(|(name, of, due)| (*name, *of) == (database, kind) && due > until);
        assert!(!late && skipped.iter().all(|due| due <= until));
    }
    assert!(count > 20, "{count} due times are too few");
}

/// In the end everything that is not cancelled succeeds, however it began.
async fn drain(bench: &Bench) {
    let state = &bench.state;
    bench.wait(200 * LEASE).await;
    for _ in 0..8 {
        state.reap(NEVER, "drain").await.unwrap();
        bench.wait(Duration::from_secs(10)).await;
    }
    state.renew("last", "here", 1_000 * LEASE).await.unwrap();
    while let Some(claim) = state.claim("last").await.unwrap() {
        state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
    }
    let jobs = state.jobs(&Filter { most: u32::MAX, ..Filter::default() }).await.unwrap();
    assert!(jobs.iter().all(|job| outcome(job).is_some()), "something was forgotten");
}

async fn storm(bench: Bench, seed: u64, steps: u64) {
    #[expect(clippy::print_stdout, reason = "to repeat it")]
    {
        println!("repeat: STILLPOINT_SEED={seed} STILLPOINT_RUNS=1");
    }
    let bench = Arc::new(bench);
    let hosts = ["host0", "host1"].map(|host| (Scope::Host, host, OF_HOST as u32));
    bench.state.set_caps(ALL as u32, &hosts).await.unwrap();
    let workers = (0..4).map(|number| tokio::spawn(work(Arc::clone(&bench), number, seed, steps)));
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    judge(&bench.state).await;
    drain(&bench).await;
    judge(&bench.state).await;
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let first = seed_or(1);
    first..first + runs_or(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_order_of_events_breaks_a_file() {
    for seed in seeds(6) {
        storm(Bench::sqlite(seed).await, seed, 250).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_order_of_events_breaks_a_server() {
    let Some(server) = Postgres::required(18) else { return };
    for seed in seeds(3) {
        storm(Bench::postgres(&server).await, seed, 250).await;
    }
}
