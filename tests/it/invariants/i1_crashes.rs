//! I1: a crash at any operation loses nothing that was committed, and nobody has to repair it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt as _;
use stillpoint::{
    repository::{
        Repository,
        keys::Secret,
        store::{
            Fault, FaultyStore, FsFault, LocalStore, MemoryStore, SimFs, Store, Unsynced, Writers,
        },
    },
    world::World,
};
use stillpoint_contract::{Result, code};

use super::i3_interleavings::RUTHLESS;
use crate::support::{
    capture::{capture, replay},
    data::{change, content},
    ledger::{Ledger, forget, tell},
    session::{Driver, Method, init, init_with},
    world::{TestClock, runtime, world, world_at},
};

/// What the process that is killed has promised to others.
#[derive(Debug, Default)]
pub(super) struct Promises {
    pub(super) ledger: Ledger,
    /// Log is durable up to this offset.
    pub(super) captured: AtomicU64,
}

/// A repository with one backup.
pub(super) async fn prepare(world: &World, store: Arc<dyn Store>, ledger: &Ledger) -> Result<()> {
    let repository = init(world.clone(), store).await?;
    let old = Driver::new(world, "old", ledger);
    old.back_up(&repository, &content(1, &[("a", 9000), ("b", 70_000)]), Method::Whole).await?;
    Ok(())
}

/// A day in the life of a repository: backups, captured log, forgetting, garbage collection.
pub(super) async fn day(world: &World, store: Arc<dyn Store>, promises: &Promises) -> Result<()> {
    let ledger = &promises.ledger;
    let repository = Repository::open(world.clone(), store, None, None).await?;
    let shop = Driver::new(world, "shop", ledger);
    let mut data = content(2, &[("main", 150_000), ("small", 3000)]);
    let first = shop.back_up_at(&repository, &data, Method::Whole, 0).await?;
    let mut stream = repository.begin_stream("shop", "shop-1", None, None).await?;
    capture(&shop, &mut stream, 0..2).await?;
    promises.captured.store(2, Ordering::Relaxed);
    change(&mut data, 3, 3);
    shop.back_up_at(&repository, &data, Method::Incremental, 2).await?;
    capture(&shop, &mut stream, 2..3).await?;
    promises.captured.store(3, Ordering::Relaxed);
    forget(&repository, ledger, &first.commit.backup).await?;
    repository.collect(RUTHLESS, &Arc::default()).await?;
    change(&mut data, 4, 2);
    shop.back_up_at(&repository, &data, Method::Incremental, 3).await?;
    Ok(())
}

/// Everything promised is there, also after the next backup and the next collection.
pub(super) async fn survives(store: &Arc<dyn Store>, promises: &Promises) -> Result<(), String> {
    let world = world(99);
    let ledger = &promises.ledger;
    let live = ledger.audit(&world, store, None).await?;
    let opened = Repository::open(world.clone(), Arc::clone(store), None, None).await;
    let repository = opened.map_err(|error| tell(&error))?;
    let captured = u128::from(promises.captured.load(Ordering::Relaxed));
    for backup in live.iter().filter(|committed| committed.commit.database == "shop") {
        let reached = replay(&repository, backup).await.map_err(|error| tell(&error))?;
        if reached < captured {
            return Err(format!("log was durable up to {captured} and is up to {reached}"));
        }
    }
    let go_on = async {
        let shop = Driver::new(&world, "shop", ledger);
        let next = content(5, &[("main", 150_000)]);
        shop.back_up_at(&repository, &next, Method::Incremental, captured).await?;
        repository.collect(RUTHLESS, &Arc::default()).await
    };
    go_on.await.map_err(|error| format!("it does not go on: {}", tell(&error)))?;
    ledger.audit(&world, store, None).await.map(drop)
}

#[test]
fn row_48_i1_a_crash_at_any_store_operation_loses_nothing() {
    let runtime = runtime();
    let (base, ledger) = (MemoryStore::default(), Ledger::default());
    let base = Arc::new(base);
    let store = Arc::clone(&base) as Arc<dyn Store>;
    runtime.block_on(prepare(&world(1), store, &ledger)).unwrap();
    let mut call = 0;
    loop {
        let mut was_reached = false;
        for fault in [Fault::Stop, Fault::StopAfter] {
            let memory = Arc::new(base.fork());
            let promises = Promises { ledger: ledger.fork(), ..Promises::default() };
            let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory), 1));
            faulty.fault_at(call, fault);
            let world = world(7);
            let crashed = runtime.block_on(async {
                let working = day(&world, Arc::clone(&faulty) as Arc<dyn Store>, &promises);
                futures::select! {
                    done = Box::pin(working).fuse() => { done.unwrap(); false }
                    () = Box::pin(faulty.stopped()).fuse() => true,
                }
            });
            was_reached |= crashed;
            let store = memory as Arc<dyn Store>;
            if let Err(wrong) = runtime.block_on(survives(&store, &promises)) {
                panic!("{wrong}\nafter {fault:?} at call {call}: {:?}", faulty.trace().last());
            }
        }
        if !was_reached {
            break;
        }
        call += 1;
    }
    println!("{call} calls");
    assert!(call > 100, "the day had {call} calls");
}

/// What a user does after the machine died during `init`: the same again.
async fn makes_it(store: &Arc<dyn Store>, secret: Option<&Secret>) -> Result<(), String> {
    let world = world(8);
    match init_with(world.clone(), Arc::clone(store), secret.cloned()).await {
        Ok(_) => {}
        Err(error) if error.code() == code::REPOSITORY_EXISTS => {}
        Err(error) => return Err(format!("it cannot be made: {}", tell(&error))),
    }
    let opened = Repository::open(world.clone(), Arc::clone(store), secret.cloned(), None).await;
    let repository = opened.map_err(|error| tell(&error))?;
    let ledger = Ledger::default();
    let shop = Driver::new(&world, "shop", &ledger);
    let work = async {
        shop.back_up(&repository, &content(1, &[("a", 9000)]), Method::Whole).await?;
        repository.verify_names(&Arc::default()).await
    };
    let report = work.await.map_err(|error| tell(&error))?;
    if !report.problems.is_empty() {
        return Err(format!("{:?}", report.problems));
    }
    ledger.audit(&world, store, secret.cloned()).await.map(drop)
}

#[test]
fn i1_a_crash_while_a_repository_is_made_leaves_a_place_where_it_can_be_made() {
    let (runtime, mut calls) = (runtime(), 0);
    for secret in [None, Some(Secret::new_key_file(&*world(3).entropy))] {
        for call in 0.. {
            let mut was_reached = false;
            for fault in [Fault::Stop, Fault::StopAfter] {
                let memory = Arc::new(MemoryStore::default());
                let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory), 1));
                faulty.fault_at(call, fault);
                was_reached |= runtime.block_on(async {
                    let store = Arc::clone(&faulty) as Arc<dyn Store>;
                    let making = init_with(world(7), store, secret.clone());
                    futures::select! {
                        done = Box::pin(making).fuse() => { done.unwrap(); false }
                        () = Box::pin(faulty.stopped()).fuse() => true,
                    }
                });
                let store = memory as Arc<dyn Store>;
                if let Err(wrong) = runtime.block_on(makes_it(&store, secret.as_ref())) {
                    panic!("{wrong}\nafter {fault:?} at call {call}: {:?}", faulty.trace().last());
                }
            }
            if !was_reached {
                break;
            }
            calls += 1;
        }
    }
    assert!(calls > 6, "{calls} calls");
}

async fn local(disk: &SimFs, seed: u64) -> Arc<dyn Store> {
    let world = world_at(TestClock::new(), seed);
    let (root, clock) = (Path::new("/backups/repo"), &*world.clock);
    let entropy = Arc::clone(&world.entropy);
    let store = LocalStore::open(disk.clone(), root, Writers::Several, clock, entropy).await;
    Arc::new(store.unwrap())
}

/// Runs the day on a disk that loses its power at an operation, or never.
async fn day_on_disk(power_off: Option<u64>) -> (SimFs, Promises) {
    let (disk, promises) = (SimFs::new(power_off.unwrap_or(0)), Promises::default());
    let world = world(1);
    prepare(&world, local(&disk, 1).await, &promises.ledger).await.unwrap();
    let store = local(&disk, 2).await;
    if let Some(operation) = power_off {
        disk.fault_at(disk.operations() + operation, FsFault::PowerOff);
    }
    let done = day(&world, store, &promises).await;
    assert!(done.is_ok() || power_off.is_some(), "{done:?}");
    (disk, promises)
}

#[test]
fn i1_power_loss_at_any_disk_operation_loses_nothing() {
    let runtime = runtime();
    let (_, spent) = runtime.block_on(async {
        let (disk, _) = day_on_disk(None).await;
        let before = {
            let (disk, promises) = (SimFs::new(0), Promises::default());
            prepare(&world(1), local(&disk, 1).await, &promises.ledger).await.unwrap();
            disk.operations()
        };
        (before, disk.operations() - before)
    });
    println!("{spent} operations");
    for operation in 0..spent {
        let unsynced = if operation % 2 == 0 { Unsynced::Lost } else { Unsynced::Torn };
        let survived = runtime.block_on(async {
            let (disk, promises) = day_on_disk(Some(operation)).await;
            disk.crash(unsynced);
            survives(&local(&disk, 3).await, &promises).await
        });
        if let Err(wrong) = survived {
            panic!("{wrong}\nafter losing power at operation {operation}, {unsynced:?}");
        }
    }
}
