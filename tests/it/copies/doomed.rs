//! What a copy has given up by name comes back under another one.

use std::{sync::Arc, time::Duration};

use stillpoint::{
    pipeline::Meter,
    repository::{
        CollectOptions, Pace, Replication, Repository, Road,
        descriptor::Writers,
        history::Committed,
        store::{Dice, Fault, FaultyStore, Gate, MemoryStore},
    },
    world::World,
};
use stillpoint_contract::{ErrorKind, Result};
use tokio::task::{LocalSet, spawn_local};

use crate::support::{
    data::{change, content},
    ledger::Ledger,
    session::{Driver, Method, init, restore},
    world::{TestClock, runs_or, runtime, seed_or, world, world_at},
};

pub(super) async fn proven(repository: &Repository, committed: &Committed) {
    let meter = Arc::new(Meter::default());
    let report = repository.verify_backup(committed, &meter).await.unwrap();
    assert_eq!(report.problems, []);
    repository.prove(committed, &report).await.unwrap();
}

pub(super) async fn copied(
    source: &Repository,
    target: &Repository,
    world: &World,
    committed: &Committed,
) {
    try_copy(source, target, world, committed).await.unwrap();
}

pub(super) async fn try_copy(
    source: &Repository,
    target: &Repository,
    world: &World,
    committed: &Committed,
) -> Result<()> {
    let meter = Arc::new(Meter::default());
    let pace = Pace::new(Arc::clone(&world.clock), None);
    let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
    let replication = Replication::new(source, target, road)?;
    replication.backup(committed).await.map(drop)
}

/// The copy forgets a backup and dooms its packs; a later backup of the original needs them again.
#[test]
fn packs_that_the_copy_has_doomed_are_needed_again() {
    runtime().block_on(async {
        let clock = TestClock::new();
        let world = world_at(Arc::clone(&clock), 3);
        let source = init(world.clone(), Arc::new(MemoryStore::default())).await.unwrap();
        let target = Arc::new(MemoryStore::default());
        let target = source.init_replica(target, Writers::Many, None).await.unwrap();
        let driver = Driver::new(&world, "app", &Ledger::default());
        let data = content(3, &[("a", 1 << 20)]);
        let other = content(4, &[("a", 1 << 20)]);
        let first = driver.back_up(&source, &data, Method::Whole).await.unwrap();
        proven(&source, &first).await;
        let second = driver.back_up(&source, &other, Method::Whole).await.unwrap();
        proven(&source, &second).await;
        copied(&source, &target, &world, &first).await;
        copied(&source, &target, &world, &second).await;
        target.forget(std::slice::from_ref(&first.commit.backup), "test").await.unwrap();
        let now = CollectOptions { grace: Duration::ZERO, ..CollectOptions::default() };
        for swept in [false, true] {
            let options = if swept { now } else { CollectOptions::default() };
            let report = target.collect(options, &Arc::new(Meter::default())).await.unwrap();
            assert_eq!(report.doomed.0 > 0, !swept, "{report:?}");
            assert_eq!(report.swept.0 > 0, swept, "{report:?}");
            // The original still has those chunks, and makes another backup of them.
            let mut back = data.clone();
            change(&mut back, u64::from(swept), 1);
            let again = driver.back_up(&source, &back, Method::Whole).await.unwrap();
            proven(&source, &again).await;
            copied(&source, &target, &world, &again).await;
            let there = target.find_backup(&again.commit.backup).await.unwrap();
            assert_eq!(restore(&target, &there).await.unwrap(), back, "swept: {swept}");
            clock.advance(60);
        }
        let again = target.collect(now, &Arc::new(Meter::default())).await.unwrap();
        assert_eq!(again.doomed.0, 0, "{again:?}");
        for committed in target.history().await.unwrap().live() {
            proven(&target, committed).await;
        }
    });
}

/// The process dies at every call of the copy's store in turn; what is there by then restores, and
/// the next attempt ends well, without sending again what was sent.
#[test]
fn a_copy_that_is_cut_at_any_call_goes_on() {
    runtime().block_on(async {
        let world = world(5);
        let source = init(world.clone(), Arc::new(MemoryStore::default())).await.unwrap();
        let driver = Driver::new(&world, "app", &Ledger::default());
        let data = content(5, &[("a", 600_000), ("b", 300_000)]);
        let committed = driver.back_up(&source, &data, Method::Whole).await.unwrap();
        proven(&source, &committed).await;
        for fault in [Fault::Stop, Fault::StopAfter] {
            for call in 0.. {
                let inner = Arc::new(MemoryStore::default());
                let made = source.init_replica(Arc::clone(&inner) as _, Writers::Many, None).await;
                drop(made.unwrap());
                let faulty = Arc::new(FaultyStore::new(Arc::clone(&inner), 1));
                let target = Repository::open(world.clone(), Arc::clone(&faulty) as _, None, None);
                let target = target.await.unwrap();
                let from = faulty.calls() + call;
                faulty.fault_at(from, fault);
                let copy = copied(&source, &target, &world, &committed);
                let is_done = tokio::select! {
                    () = copy => true,
                    () = faulty.stopped() => false,
                };
                let target = Repository::open(world.clone(), inner, None, None).await.unwrap();
                if let Ok(there) = target.find_backup(&committed.commit.backup).await {
                    assert_eq!(restore(&target, &there).await.unwrap(), data, "call {call}");
                }
                copied(&source, &target, &world, &committed).await;
                let there = target.find_backup(&committed.commit.backup).await.unwrap();
                assert_eq!(restore(&target, &there).await.unwrap(), data, "call {call}");
                if is_done {
                    assert!(call > 10, "{call}");
                    break;
                }
            }
        }
    });
}

/// A copy runs beside a collection of garbage in its place that takes even the youngest packs for
/// orphans, and sweeps at once: whatever comes first, nothing that exists there lacks anything.
#[test]
fn copying_beside_a_collection_of_garbage_loses_nothing() {
    let first_seed = seed_or(1);
    for seed in first_seed..first_seed + runs_or(60) {
        runtime().block_on(LocalSet::new().run_until(beside_a_collection(seed)));
    }
}

async fn beside_a_collection(seed: u64) {
    let world = world(seed);
    let source = init(world.clone(), Arc::new(MemoryStore::default())).await.unwrap();
    let source = Arc::new(source);
    let driver = Driver::new(&world, "app", &Ledger::default());
    let mut contents = Vec::new();
    let mut data = content(seed, &[("a", 200_000), ("b", 150_000)]);
    for round in 0..2 {
        let committed = driver.back_up(&source, &data, Method::Incremental).await.unwrap();
        proven(&source, &committed).await;
        contents.push((committed, data.clone()));
        change(&mut data, seed + round, 20);
    }
    let memory = Arc::new(MemoryStore::default());
    let made = source.init_replica(Arc::clone(&memory) as _, Writers::Many, None).await.unwrap();
    copied(&source, &made, &world, &contents[0].0).await;
    drop(made);

    let gate = Gate::new();
    let (store, from) = (gate.store("copy", Arc::clone(&memory)), Arc::clone(&source));
    let (own, second) = (world.clone(), contents[1].0.clone());
    let copy = spawn_local(async move {
        let target = Repository::open(own.clone(), Arc::new(store), None, None).await?;
        try_copy(&from, &target, &own, &second).await
    });
    let (store, own) = (gate.store("collect", Arc::clone(&memory)), world.clone());
    let first = contents[0].0.commit.backup.clone();
    let collect = spawn_local(async move {
        let target = Repository::open(own, Arc::new(store), None, None).await?;
        target.forget(&[first], "test").await?;
        let (grace, orphan_age) = (Duration::ZERO, Some(Duration::ZERO));
        let options = CollectOptions { grace, orphan_age, ..CollectOptions::default() };
        target.collect(options, &Arc::new(Meter::default())).await.map(drop)
    });
    let dice = Dice::new(seed);
    gate.run(|waiting| Some(dice.below(waiting.len()))).await;
    let outcomes = [copy.await.unwrap(), collect.await.unwrap()];
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_ne!(error.kind(), ErrorKind::Bug, "seed {seed}: {error:?}");
    }
    // What exists is whole; and what could not be copied is, the next time.
    for last in [false, true] {
        let target = Repository::open(world.clone(), Arc::clone(&memory) as _, None, None);
        let target = target.await.unwrap();
        for committed in target.history().await.unwrap().live() {
            let own = |(known, _): &&(Committed, _)| known.commit.backup == committed.commit.backup;
            let (_, content) = contents.iter().find(own).unwrap();
            assert_eq!(restore(&target, committed).await.unwrap(), *content, "seed {seed}");
        }
        copied(&source, &target, &world, &contents[1].0).await;
        let is_there = target.find_backup(&contents[1].0.commit.backup).await.is_ok();
        assert!(is_there || !last, "seed {seed}");
    }
}
