//! I6: what is there is not stored again, and a small change costs little.

use std::sync::Arc;

use stillpoint::repository::{
    pack::{PackKind, PackName},
    store::{Dice, MemoryStore, Store},
};
use stillpoint_contract::Entropy as _;

use crate::support::{
    data::{PAGE_BYTES, content},
    ledger::Ledger,
    session::{Driver, Method, init},
    world::{runtime, world},
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
