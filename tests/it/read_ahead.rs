//! Small files of a mount are read ahead of whoever reads them one after the other.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{sync::Arc, time::Duration};

use stillpoint::{
    repository::{OnDemand, PartPlace, store::MemoryStore},
    world::World,
};
use tokio::runtime::Handle;

use crate::support::{
    data::content,
    ledger::Ledger,
    session::{Driver, Method, init},
    world::world,
};

/// Parts of the backup, and the length of each.
const PARTS: u32 = 200;
const LENGTH_BYTES: usize = 9000;

/// How many parts are read ahead in one go.
const STEP: u32 = 32;

fn place(index: u32) -> PartPlace {
    PartPlace { page: 0, index }
}

async fn source() -> Arc<OnDemand> {
    let world = world(1);
    let repository = init(world.clone(), Arc::new(MemoryStore::default())).await.unwrap();
    let names: Vec<_> = (0..PARTS).map(|number| format!("base/{number:03}")).collect();
    let parts: Vec<_> = names.iter().map(|name| (name.as_str(), LENGTH_BYTES)).collect();
    let driver = Driver::new(&world, "shop", &Ledger::default());
    let content = content(1, &parts);
    let committed = driver.back_up(&repository, &content, Method::Whole).await.unwrap();
    OnDemand::new(repository.reader(&committed).await.unwrap(), Handle::current())
}

async fn read(source: &Arc<OnDemand>, index: u32) {
    let bytes = source.read(place(index), 0..LENGTH_BYTES as u64).await.unwrap();
    assert_eq!(bytes.len(), LENGTH_BYTES);
}

/// Which parts come to be at hand that nobody has asked for.
async fn at_hand(source: &Arc<OnDemand>) -> Vec<u32> {
    let clock = World::real(1).clock;
    let mut before = Vec::new();
    loop {
        clock.sleep(Duration::from_millis(100)).await;
        // A look counts as reading: backwards, so that it is none in order.
        let is_there = |index: &u32| source.at_hand(place(*index), &(0..1)).is_some();
        let mut now: Vec<_> = (0..PARTS).rev().filter(is_there).collect();
        now.reverse();
        if now == before {
            return now;
        }
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_small_parts_in_order_finds_the_next_ones_at_hand() {
    let source = source().await;
    read(&source, 0).await;
    read(&source, 1).await;
    assert_eq!(at_hand(&source).await, (0..2 + STEP).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_ahead_of_whoever_jumps() {
    let source = source().await;
    let jumps = [150, 3, 100, 60];
    for index in jumps {
        read(&source, index).await;
    }
    assert_eq!(at_hand(&source).await, [3, 60, 100, 150]);
}
