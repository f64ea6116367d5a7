//! Either side empties half-full packs of what its own backups do not need: what the other one
//! still needs of them is neither taken for copied nor given up.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use stillpoint::{
    pipeline::Meter,
    repository::{
        CollectOptions, Pace, Replication, Repository, Road,
        descriptor::Writers,
        history::Committed,
        store::{Key, MemoryStore, Store as _},
    },
    world::World,
};
use stillpoint_contract::{ErrorKind, Result};

use super::doomed::{copied, proven, try_copy};
use crate::support::{
    data::{Content, content},
    ledger::Ledger,
    session::{Driver, Method, init, restore},
    world::{TestClock, runtime, world_at},
};

/// Everything that is not needed goes at once.
const RUTHLESS: CollectOptions = CollectOptions {
    grace: Duration::ZERO,
    orphan_age: Some(Duration::ZERO),
    repack_max: 1.0,
    dry_run: false,
};

/// An original and its copy, and two backups in both: one of all, and one of a small part of it.
struct Pair {
    clock: Arc<TestClock>,
    world: World,
    driver: Driver,
    source: Repository,
    target: Repository,
    source_store: Arc<MemoryStore>,
    target_store: Arc<MemoryStore>,
    all: Content,
    part: Content,
    first: Committed,
    second: Committed,
}

impl Pair {
    async fn new(seed: u64) -> Self {
        let clock = TestClock::new();
        let world = world_at(Arc::clone(&clock), seed);
        let store = || Arc::new(MemoryStore::with_clock(Arc::clone(&world.clock)));
        let (source_store, target_store) = (store(), store());
        let source = init(world.clone(), Arc::clone(&source_store) as _).await.unwrap();
        let target = Arc::clone(&target_store) as _;
        let target = source.init_replica(target, Writers::Many, None).await.unwrap();
        let driver = Driver::new(&world, "app", &Ledger::default());
        let all = content(seed, &[("a", 900_000), ("b", 200_000)]);
        let mut part = all.clone();
        part.remove("a");
        let first = driver.back_up(&source, &all, Method::Whole).await.unwrap();
        let second = driver.back_up(&source, &part, Method::Whole).await.unwrap();
        for committed in [&first, &second] {
            proven(&source, committed).await;
            copied(&source, &target, &world, committed).await;
        }
        Self {
            clock,
            world,
            driver,
            source,
            target,
            source_store,
            target_store,
            all,
            part,
            first,
            second,
        }
    }

    /// The only pack with chunks, as both sides have it.
    async fn pack(&self) -> Key {
        let packs = data_packs(&self.source_store).await;
        assert_eq!(packs.len(), 1);
        packs.into_iter().next().unwrap()
    }

    /// Brings back what lacks of a backup at one side from the other.
    async fn mend(&self, to_source: bool, backup: &Committed) -> Result<Vec<String>> {
        let (from, to) =
            if to_source { (&self.target, &self.source) } else { (&self.source, &self.target) };
        let meter = Arc::new(Meter::default());
        let pace = Pace::new(Arc::clone(&self.world.clock), None);
        let road = Road { pace: &pace, may_go: &|| Ok(()), meter: &meter };
        let replication = Replication::to_mend(from, to, road)?;
        let there = to.find_backup(&backup.commit.backup).await?;
        replication.mend(&there).await
    }

    /// Each backup of a side restores.
    async fn is_whole(&self, side: &Repository) {
        for (backup, content) in [(&self.first, &self.all), (&self.second, &self.part)] {
            let there = side.find_backup(&backup.commit.backup).await.unwrap();
            assert_eq!(restore(side, &there).await.unwrap(), *content);
        }
    }
}

async fn data_packs(store: &MemoryStore) -> Vec<Key> {
    let listed = store.list("packs/").await.unwrap().into_iter().map(|object| object.key);
    listed.filter(|key| key.as_str().rsplit('.').next() == Some("pack")).collect()
}

/// Gives the first backup up, and empties the pack of what only that needed.
async fn repack(side: &Repository, first: &Committed) {
    side.forget(std::slice::from_ref(&first.commit.backup), "test").await.unwrap();
    let report = side.collect(RUTHLESS, &Arc::new(Meter::default())).await.unwrap();
    assert!(report.repacked.0 > 0, "{report:?}");
    side.collect(RUTHLESS, &Arc::new(Meter::default())).await.unwrap();
}

async fn is_sound(side: &Repository, backup: &Committed) -> bool {
    let there = side.find_backup(&backup.commit.backup).await.unwrap();
    let report = side.verify_backup(&there, &Arc::new(Meter::default())).await.unwrap();
    report.problems.is_empty()
}

/// Flips a byte of an object so that the first backup is damaged, and the second as it is said.
async fn damage(side: &Repository, store: &MemoryStore, key: &Key, pair: &Pair, second: bool) {
    let good = store.read(key, u64::MAX).await.unwrap().unwrap();
    for at in (0..good.len()).step_by(10_007) {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        store.overwrite(key, Bytes::from(bytes));
        let found = (is_sound(side, &pair.first).await, is_sound(side, &pair.second).await);
        if found == (false, !second) {
            return;
        }
    }
    panic!("no byte of {key} is of that");
}

/// A copy that has emptied a pack gets anew what a later backup needs of it.
#[test]
fn a_pack_that_the_copy_has_emptied_is_not_whole() {
    runtime().block_on(async {
        let pair = Pair::new(11).await;
        repack(&pair.target, &pair.first).await;
        pair.clock.advance(60);
        let third = pair.driver.back_up(&pair.source, &pair.all, Method::Whole).await.unwrap();
        proven(&pair.source, &third).await;
        try_copy(&pair.source, &pair.target, &pair.world, &third).await.unwrap();
        for (backup, content) in [(&third, &pair.all), (&pair.second, &pair.part)] {
            let there = pair.target.find_backup(&backup.commit.backup).await.unwrap();
            assert_eq!(restore(&pair.target, &there).await.unwrap(), *content);
        }
        // What is whole by now is not sent again.
        let (packs, again) = (data_packs(&pair.target_store).await, third);
        assert_eq!(pair.mend(false, &again).await.unwrap(), [""; 0]);
        assert_eq!(data_packs(&pair.target_store).await, packs);
    });
}

/// One side emptied a pack that is damaged at the other: what it still has of it comes back, and
/// what only the damaged side needs is kept.
#[test]
fn row_82_a_repair_with_a_part_of_a_pack_keeps_the_rest_of_it() {
    runtime().block_on(async {
        for to_source in [false, true] {
            let pair = Pair::new(12).await;
            let pack = pair.pack().await;
            let (broken, store, other) = if to_source {
                (&pair.source, &pair.source_store, &pair.target)
            } else {
                (&pair.target, &pair.target_store, &pair.source)
            };
            damage(broken, store, &pack, &pair, true).await;
            repack(other, &pair.first).await;
            let mended = pair.mend(to_source, &pair.second).await.unwrap();
            assert_eq!(mended, [pack.to_string()]);
            pair.is_whole(broken).await;
            // Also when what was damaged is gone.
            broken.collect(RUTHLESS, &Arc::new(Meter::default())).await.unwrap();
            assert!(!data_packs(store).await.contains(&pack));
            pair.is_whole(broken).await;
        }
    });
}

/// What the damaged side needs, and nobody has as it was written, is not given up with its pack:
/// neither when a chunk of it is damaged, nor when nobody can tell what is in it.
#[test]
fn row_82_a_pack_stays_as_long_as_anything_in_it_is_needed_and_nowhere_else() {
    runtime().block_on(async {
        for to_source in [false, true] {
            for is_table in [false, true] {
                let pair = Pair::new(13).await;
                let pack = pair.pack().await;
                let (broken, store, other) = if to_source {
                    (&pair.source, &pair.source_store, &pair.target)
                } else {
                    (&pair.target, &pair.target_store, &pair.source)
                };
                if is_table {
                    let mut bytes = store.read(&pack, u64::MAX).await.unwrap().unwrap().to_vec();
                    let last = bytes.len() - 40;
                    bytes[last] ^= 1;
                    store.overwrite(&pack, Bytes::from(bytes));
                } else {
                    damage(broken, store, &pack, &pair, false).await;
                }
                repack(other, &pair.first).await;
                let error = pair.mend(to_source, &pair.second).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Missing, "{error:?}");
                assert_eq!(broken.history().await.unwrap().dooms().len(), 0);
                assert!(is_sound(broken, &pair.second).await);
                assert_eq!(is_sound(broken, &pair.first).await, is_table);
                // Once nobody needs the rest, the part will do.
                let first = std::slice::from_ref(&pair.first.commit.backup);
                broken.forget(first, "test").await.unwrap();
                pair.mend(to_source, &pair.second).await.unwrap();
                broken.collect(RUTHLESS, &Arc::new(Meter::default())).await.unwrap();
                assert!(!data_packs(store).await.contains(&pack));
                assert!(is_sound(broken, &pair.second).await);
            }
        }
    });
}

/// What came of a copy that is not at its end stays in its place for weeks, and as long as anything
/// comes.
#[test]
fn row_6_packs_of_a_copy_under_way_are_no_garbage() {
    runtime().block_on(async {
        let pair = Pair::new(14).await;
        let day = 24 * 60 * 60;
        let stray = |fill: u8| {
            let name = format!("packs/{fill:02x}/{}.pack", format!("{fill:02x}").repeat(32));
            pair.target_store.overwrite(&Key::new(name).unwrap(), Bytes::from(vec![fill; 100]));
        };
        let doomed = async |days: i64| {
            pair.clock.advance(days * day);
            let options = CollectOptions::default();
            let report = pair.target.collect(options, &Arc::new(Meter::default())).await.unwrap();
            report.doomed.0
        };
        stray(1);
        assert_eq!(doomed(50).await, 0);
        stray(2);
        assert_eq!(doomed(40).await, 0, "more came");
        assert_eq!(doomed(40).await, 2);
        pair.is_whole(&pair.target).await;
    });
}

/// A damaged pack list of another backup at the copy keeps nothing from being copied.
#[test]
fn row_82_a_damaged_list_at_the_copy_is_no_fault_of_the_original() {
    runtime().block_on(async {
        let pair = Pair::new(15).await;
        let list = Key::new(pair.first.commit.packs.clone()).unwrap();
        pair.target_store.overwrite(&list, Bytes::from_static(b"{}"));
        let third = pair.driver.back_up(&pair.source, &pair.all, Method::Whole).await.unwrap();
        proven(&pair.source, &third).await;
        copied(&pair.source, &pair.target, &pair.world, &third).await;
        let there = pair.target.find_backup(&third.commit.backup).await.unwrap();
        assert_eq!(restore(&pair.target, &there).await.unwrap(), pair.all);
    });
}
