//! I10: whatever a store or a disk says at whichever call, nothing committed is lost, the error
//! says what it was, and the next backup succeeds without repair.

use std::{path::Path, sync::Arc};

use rustix::io::Errno;
use stillpoint::repository::store::{
    Fault, FaultyStore, FsFault, LocalStore, MemoryStore, SimFs, Store, Writers,
};
use stillpoint_contract::ErrorKind;

use super::i1_crashes::{Promises, day, prepare, survives};
use crate::support::{
    ledger::{Ledger, tell},
    world::{TestClock, runtime, world, world_at},
};

#[test]
fn i10_any_answer_of_a_store_at_any_call_is_survived() {
    let runtime = runtime();
    let (base, ledger) = (Arc::new(MemoryStore::default()), Ledger::default());
    runtime.block_on(prepare(&world(1), Arc::clone(&base) as Arc<dyn Store>, &ledger)).unwrap();
    // A full store, a refusal, an overloaded or vanished one for a moment (503, reset, 409), an
    // answer that is lost, a request that arrives twice, and a time limit.
    let faults = [
        Fault::Fail(ErrorKind::Exhausted),
        Fault::Fail(ErrorKind::Denied),
        Fault::Fail(ErrorKind::Transient),
        Fault::Fail(ErrorKind::TimedOut),
        Fault::LoseAnswer,
        Fault::Twice,
    ];
    for fault in faults {
        for lasts in [false, true] {
            let mut call = 0;
            loop {
                let memory = Arc::new(base.fork());
                let promises = Promises { ledger: ledger.fork(), ..Promises::default() };
                let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory), 1));
                if lasts {
                    faulty.fault_from(call, fault);
                } else {
                    faulty.fault_at(call, fault);
                }
                let worked = runtime.block_on(day(
                    &world(7),
                    Arc::clone(&faulty) as Arc<dyn Store>,
                    &promises,
                ));
                let place = format!("{fault:?} at call {call}, lasting: {lasts}");
                if let Err(error) = &worked {
                    let told = match fault {
                        Fault::Fail(kind) => error.kind() == kind,
                        _ => error.kind() == ErrorKind::Transient,
                    };
                    assert!(told, "{place} is told as {}", tell(error));
                }
                let store = memory as Arc<dyn Store>;
                if let Err(wrong) = runtime.block_on(survives(&store, &promises)) {
                    panic!("{wrong}\nafter {place}");
                }
                if faulty.calls() <= call {
                    break;
                }
                // A fault that lasts is found early; later calls are much alike.
                call += if lasts { 5 } else { 1 };
            }
            assert!(call > 100, "the day had {call} calls");
        }
    }
}

#[test]
fn i10_any_error_of_a_disk_at_any_operation_is_survived() {
    let runtime = runtime();
    let kinds = [
        (Errno::NOSPC, ErrorKind::Exhausted),
        (Errno::DQUOT, ErrorKind::Exhausted),
        (Errno::IO, ErrorKind::Transient),
        (Errno::INTR, ErrorKind::Transient),
    ];
    // Every operation fails with every error; some fail once, some from then on.
    let mut round: u64 = 0;
    loop {
        let operation = round / kinds.len() as u64;
        let (errno, kind) = kinds[(round % kinds.len() as u64) as usize];
        let lasts = operation.is_multiple_of(4);
        let fault = match operation % 3 {
            0 => FsFault::FailAfter(errno),
            _ => FsFault::Fail(errno),
        };
        let (survived, is_over) = runtime.block_on(async {
            let (disk, promises) = (SimFs::new(round), Promises::default());
            let world = world(1);
            prepare(&world, local(&disk, 1).await, &promises.ledger).await.unwrap();
            let store = local(&disk, 2).await;
            let start = disk.operations();
            if lasts {
                disk.fault_from(start + operation, fault);
            } else {
                disk.fault_at(start + operation, fault);
            }
            let worked = day(&world, store, &promises).await;
            let is_over = disk.operations() <= start + operation;
            if let Err(error) = &worked {
                assert_eq!(error.kind(), kind, "operation {operation}: {}", tell(error));
            }
            disk.heal();
            (survives(&local(&disk, 3).await, &promises).await, is_over)
        });
        if let Err(wrong) = survived {
            panic!("{wrong}\nafter {fault:?} at operation {operation}, lasting: {lasts}");
        }
        if is_over {
            break;
        }
        round += 1;
    }
    println!("{round} faults");
}

async fn local(disk: &SimFs, seed: u64) -> Arc<dyn Store> {
    let world = world_at(TestClock::new(), seed);
    let (root, entropy) = (Path::new("/backups/repo"), Arc::clone(&world.entropy));
    let store =
        LocalStore::open(disk.clone(), root, Writers::Several, &*world.clock, entropy).await;
    Arc::new(store.unwrap())
}
