//! I3: every interleaving of rivals for the same place in the log, with answers that are lost.

use std::{collections::BTreeSet, sync::Arc};

use stillpoint::repository::{
    entry::{Action, Notary},
    history::History,
    log::{Appended, Log},
    store::{Fault, FaultyStore, Gate, MemoryStore, Schedule, Store},
};
use tokio::task::LocalSet;

use crate::support::world::{runtime, world};

/// A repository without keys.
#[derive(Debug)]
struct Unsigned;

impl Notary for Unsigned {
    fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn check(&self, _: &[u8], _: &[u8]) -> Option<bool> {
        None
    }
}

fn log(store: Arc<dyn Store>, seed: u64) -> Log {
    let world = world(seed);
    Log {
        store,
        notary: Arc::new(Unsigned),
        repository: "r".to_owned(),
        clock: world.clock,
        entropy: world.entropy,
    }
}

fn mark(who: &str) -> Action {
    Action::KeyAdded { slot: who.to_owned(), hash: "0".repeat(64) }
}

/// Appends one entry, as often as it takes.
async fn append(store: Arc<dyn Store>, mut history: Arc<History>, who: &'static str, seed: u64) {
    let log = log(store, seed);
    loop {
        match log.try_append(&mut history, mark(who)).await {
            Ok(Appended::Won) => return,
            Ok(Appended::Lost) => {}
            // The answer to a read was lost. Whether the entry is there, the log says.
            Err(error) => {
                assert!(error.kind().is_transient(), "{error:?}");
                log.follow(&mut history, None).await.unwrap();
                if history.key_slots().contains_key(who) {
                    return;
                }
            }
        }
    }
}

/// Lets `rivals` append at once in every order of their calls, the first of them with a fault at
/// its call `fault_at`. Answers how many orders there were.
async fn every_order(rivals: &[&'static str], fault_at: Option<u64>) -> usize {
    let base = Arc::new(MemoryStore::default());
    let mut start = Arc::<History>::default();
    let init = Action::Init { descriptor: "d".to_owned() };
    let first = log(Arc::clone(&base) as Arc<dyn Store>, 1);
    assert_eq!(first.try_append(&mut start, init).await.unwrap(), Appended::Won);

    let mut schedule = Schedule::exhaustive();
    let mut orders = 0;
    loop {
        let (memory, gate, local) = (Arc::new(base.fork()), Gate::new(), LocalSet::new());
        let mut tasks = Vec::new();
        for (number, who) in rivals.iter().enumerate() {
            let store = FaultyStore::new(gate.store(*who, Arc::clone(&memory)), 1);
            if let (0, Some(call)) = (number, fault_at) {
                store.fault_at(call, Fault::LoseAnswer);
            }
            let seed = 10 + number as u64;
            tasks.push(local.spawn_local(append(Arc::new(store), Arc::clone(&start), who, seed)));
        }
        let choose = gate.run(|waiting| Some(schedule.pick(waiting.len())));
        local.run_until(choose).await;
        for task in tasks {
            local.run_until(task).await.unwrap();
        }
        // Each of them is in the log once, and the log is one chain.
        let mut history = Arc::<History>::default();
        let reader = log(memory as Arc<dyn Store>, 2);
        reader.follow(&mut history, None).await.unwrap();
        assert_eq!(history.head().seq, 1 + rivals.len() as u64, "picks {schedule}");
        let known: BTreeSet<&str> = history.key_slots().keys().map(String::as_str).collect();
        assert_eq!(known, rivals.iter().copied().collect(), "picks {schedule}");
        orders += 1;
        if !schedule.advance() {
            return orders;
        }
    }
}

#[test]
fn i3_every_order_of_rivals_for_a_place_in_the_log_gives_each_its_own() {
    runtime().block_on(async {
        let mut orders = every_order(&["writer", "rival"], None).await;
        for call in 0..8 {
            orders += every_order(&["writer", "rival"], Some(call)).await;
        }
        orders += every_order(&["writer", "rival", "collector"], None).await;
        println!("{orders} orders");
        assert!(orders > 100, "only {orders} orders");
    });
}
