//! I5: a restore reads at most two blobs for each chunk and needs no other backup.

use std::sync::Arc;

use stillpoint::repository::{
    Repository,
    store::{FaultyStore, MemoryStore, Store},
};
use stillpoint_contract::Source as _;

use super::i3_interleavings::RUTHLESS;
use crate::support::{
    data::{change, content},
    ledger::{Ledger, forget},
    session::{Driver, Method, init, read_all, restore},
    world::{runtime, world},
};

#[test]
fn i5_a_restore_opens_two_blobs_a_chunk_and_no_other_manifest() {
    runtime().block_on(async {
        let (world, ledger) = (world(1), Ledger::default());
        let memory = Arc::new(MemoryStore::default());
        let store = Arc::clone(&memory) as Arc<dyn Store>;
        let repository = init(world.clone(), store).await.unwrap();
        let shop = Driver::new(&world, "shop", &ledger);
        let mut data = content(1, &[("main", 1_000_000), ("small", 5000)]);
        let mut backups = Vec::new();
        for seed in 0..6 {
            backups.push(shop.back_up(&repository, &data, Method::Incremental).await.unwrap());
            change(&mut data, seed, 12);
        }
        for backup in &backups {
            let recording = Arc::new(FaultyStore::new(Arc::clone(&memory), 1));
            let store = Arc::clone(&recording) as Arc<dyn Store>;
            let repository = Repository::open(world.clone(), store, None, None).await.unwrap();
            let reader = repository.reader(backup).await.unwrap();
            let found = read_all(&reader).await.unwrap();
            assert_eq!(Some(&found), ledger.content(&backup.commit.backup).as_ref());

            let parts = reader.parts(0).await.unwrap();
            let chunks: u64 = parts.iter().map(|part| part.length_bytes.div_ceil(65_536)).sum();
            // The page of the part table is one blob more, and so may be a leaf.
            let metadata = 1 + parts.len() as u64;
            let opened = reader.blobs_opened();
            assert!(opened <= 2 * chunks + metadata, "{opened} blobs for {chunks} chunks");

            let calls = recording.trace();
            let mut manifests: Vec<_> = calls
                .iter()
                .filter(|call| call.name.starts_with("snap/"))
                .map(|call| call.name.as_str())
                .collect();
            manifests.sort_unstable();
            let mut own = [backup.commit.manifest.as_str(), backup.commit.packs.as_str()];
            own.sort_unstable();
            assert_eq!(manifests, own);
        }
    });
}

#[test]
fn i5_a_backup_survives_the_deletion_of_every_other() {
    runtime().block_on(async {
        for survivor in 0..5 {
            let (world, ledger) = (world(survivor), Ledger::default());
            let store = Arc::new(MemoryStore::default()) as Arc<dyn Store>;
            let repository = init(world.clone(), Arc::clone(&store)).await.unwrap();
            let shop = Driver::new(&world, "shop", &ledger);
            let mut data = content(1, &[("main", 400_000), ("small", 5000)]);
            let mut backups = Vec::new();
            for seed in 0..5 {
                backups.push(shop.back_up(&repository, &data, Method::Incremental).await.unwrap());
                change(&mut data, seed, 6);
            }
            let survivor = backups.remove(survivor as usize);
            for backup in &backups {
                forget(&repository, &ledger, &backup.commit.backup).await.unwrap();
                repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
            }
            let left: Vec<_> = store.list("snap/").await.unwrap();
            assert_eq!(left.len(), 2, "{left:?}");
            let found = restore(&repository, &survivor).await.unwrap();
            assert_eq!(Some(found), ledger.content(&survivor.commit.backup));
            ledger.audit(&world, &store, None).await.unwrap();
        }
    });
}
