//! I6: what is there is not stored again, and a small change costs little.

use std::sync::Arc;

use stillpoint::repository::{
    Repository,
    pack::{PackKind, PackName},
    store::{Call, Dice, FaultyStore, MemoryStore, Store},
};
use stillpoint_contract::Entropy as _;

use super::i3_interleavings::RUTHLESS;
use crate::support::{
    data::{PAGE_BYTES, content},
    ledger::Ledger,
    session::{Driver, Method, init},
    world::{TestClock, runtime, world, world_at},
};

async fn data_packs(store: &dyn Store) -> usize {
    let packs = store.list("packs/").await.unwrap();
    let names = packs.iter().filter_map(|object| PackName::from_key(&object.key));
    names.filter(|name| name.kind == PackKind::Data).count()
}

#[test]
fn i6_the_same_input_twice_stores_no_new_data_pack() {
    runtime().block_on(async {
        let (world, ledger) = (world(1), Ledger::default());
        let store = Arc::new(MemoryStore::default()) as Arc<dyn Store>;
        let repository = init(world.clone(), Arc::clone(&store)).await.unwrap();
        let data = content(1, &[("main", 3_000_000), ("small", 5000), ("empty", 0)]);
        let shop = Driver::new(&world, "shop", &ledger);
        shop.back_up(&repository, &data, Method::Whole).await.unwrap();
        let before = data_packs(&*store).await;
        assert_eq!(before, 1);
        for method in [Method::Whole, Method::Incremental] {
            shop.back_up(&repository, &data, method).await.unwrap();
        }
        // Neither does a copy of the database under another name.
        let copy = Driver::new(&world, "copy", &ledger);
        copy.back_up(&repository, &data, Method::Whole).await.unwrap();
        assert_eq!(data_packs(&*store).await, before);
        ledger.audit(&world, &store, None).await.unwrap();
    });
}

#[test]
fn i6_a_change_of_a_thousandth_stores_less_than_a_twentieth() {
    runtime().block_on(async {
        let (world, ledger) = (world(1), Ledger::default());
        let store = Arc::new(MemoryStore::default()) as Arc<dyn Store>;
        let repository = init(world.clone(), Arc::clone(&store)).await.unwrap();
        let shop = Driver::new(&world, "shop", &ledger);
        let mut data = content(1, &[("main", 32 << 20)]);
        let first = shop.back_up(&repository, &data, Method::Whole).await.unwrap();
        let dice = Dice::new(2);
        for round in 0..3 {
            // Whole pages change at random, a thousandth of all.
            let bytes = data.get_mut("main").unwrap();
            for _ in 0..bytes.len() / PAGE_BYTES / 1000 {
                let page = dice.below(bytes.len() / PAGE_BYTES) * PAGE_BYTES;
                dice.fill(&mut bytes[page..page + PAGE_BYTES / 3]);
            }
            let method = if round == 0 { Method::Whole } else { Method::Incremental };
            let next = shop.back_up(&repository, &data, method).await.unwrap();
            let (small, all) = (next.commit.stored_bytes, first.commit.stored_bytes);
            println!("{small} of {all} bytes");
            assert!(small * 20 < all, "round {round}: {small} of {all} bytes");
        }
        ledger.audit(&world, &store, None).await.unwrap();
    });
}

#[test]
fn i6_many_backups_by_one_process_list_and_read_little() {
    runtime().block_on(async {
        const DATABASES: usize = 120;
        let clock = TestClock::new();
        let (world, ledger) = (world_at(Arc::clone(&clock), 1), Ledger::default());
        let store = Arc::new(FaultyStore::new(MemoryStore::default(), 1));
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let repository = init(world.clone(), Arc::clone(&shared)).await.unwrap();
        let contents: Vec<_> =
            (0..DATABASES as u64).map(|seed| content(seed, &[("main", 70_000)])).collect();
        for (number, data) in contents.iter().enumerate() {
            let shop = Driver::new(&world, &format!("shop {number}"), &ledger);
            let made = shop.back_up(&repository, data, Method::Whole).await.unwrap();
            let report = repository.verify_backup(&made, &Arc::default()).await.unwrap();
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            clock.advance(1);
        }
        let reads = |trace: &[Call]| {
            let runs = trace.iter().filter(|call| call.name.starts_with("index/"));
            let mut read: Vec<_> = runs.filter(|call| call.verb == "read").cloned().collect();
            let all = read.len();
            read.sort_by(|one, other| one.name.cmp(&other.name));
            read.dedup();
            (all, read.len())
        };
        let lists = |trace: &[Call]| trace.iter().filter(|call| call.verb == "list").count();
        let trace = store.trace();
        let (all, once) = reads(&trace);
        println!("{} lists, {all} reads of {once} runs", lists(&trace));
        assert!(all == once && once <= DATABASES, "{all} reads of {once} runs");
        assert!(lists(&trace) <= DATABASES / 2, "{} lists", lists(&trace));

        // What lies in merged runs is found all the same, and what was stored a moment ago, too.
        clock.advance(60);
        let before = data_packs(&*shared).await;
        for number in [0, 33, 77, DATABASES - 1] {
            let copy = Driver::new(&world, &format!("copy {number}"), &ledger);
            copy.back_up(&repository, &contents[number], Method::Whole).await.unwrap();
            let shop = Driver::new(&world, &format!("shop {number}"), &ledger);
            shop.back_up(&repository, &contents[number], Method::Incremental).await.unwrap();
        }
        assert_eq!(data_packs(&*shared).await, before);

        // Who restores one of them does not read what is known of the others.
        let other = Repository::open(world.clone(), Arc::clone(&shared), None, None).await.unwrap();
        let history = other.history().await.unwrap();
        let from = store.trace().len();
        let newest = history.live_of("shop 7").next_back().unwrap();
        other.reader(newest).await.unwrap();
        let trace = &store.trace()[from..];
        assert!(trace.len() < 10 && lists(trace) == 0 && reads(trace).0 == 0, "{trace:?}");
        ledger.audit(&world, &shared, None).await.unwrap();
    });
}

#[test]
fn i6_what_went_a_moment_ago_is_not_built_upon() {
    runtime().block_on(async {
        let (world, ledger) = (world(1), Ledger::default());
        let store = Arc::new(MemoryStore::default()) as Arc<dyn Store>;
        let here = init(world.clone(), Arc::clone(&store)).await.unwrap();
        let there = Repository::open(world.clone(), store, None, None).await.unwrap();
        let data = content(1, &[("main", 300_000)]);
        let shop = Driver::new(&world, "shop", &ledger);
        let old = shop.back_up(&here, &data, Method::Whole).await.unwrap();
        // One process has listed what is there; another forgets and dooms it.
        there.forget(std::slice::from_ref(&old.commit.backup), "test").await.unwrap();
        for _ in 0..2 {
            there.collect(RUTHLESS, &Arc::default()).await.unwrap();
        }
        let made = shop.back_up(&here, &data, Method::Whole).await.unwrap();
        let report = here.verify_backup(&made, &Arc::default()).await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    });
}
