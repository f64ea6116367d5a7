//! I13: who has no key gets nothing, and ciphertext is worth nothing anywhere else.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use stillpoint::repository::{
    Repository,
    keys::Secret,
    pack::{PackName, inspect},
    store::{Dice, Key, MemoryStore, Store},
};
use stillpoint_contract::{Entropy as _, ErrorKind, code};

use crate::support::{
    data::{Content, content},
    ledger::{Ledger, tell},
    session::{CHEAP, Driver, Method, init_with, passphrase, restore},
    world::{runtime, world},
};

const OBJECT_BYTES_MAX: u64 = 1 << 30;

fn incompressible() -> Content {
    let dice = Dice::new(5);
    let part = |length: usize| {
        let mut bytes = vec![0; length];
        dice.fill(&mut bytes);
        bytes
    };
    Content::from([("a".to_owned(), part(8192)), ("b".to_owned(), part(8192))])
}

async fn repository(seed: u64, data: &Content) -> (Arc<MemoryStore>, Repository, Driver) {
    let memory = Arc::new(MemoryStore::default());
    let world = world(seed);
    let store = Arc::clone(&memory) as Arc<dyn Store>;
    let secret = Some(passphrase("correct horse"));
    let repository = init_with(world.clone(), store, secret).await.unwrap();
    let shop = Driver::new(&world, "shop", &Ledger::default());
    shop.back_up(&repository, data, Method::Whole).await.unwrap();
    (memory, repository, shop)
}

async fn open(
    memory: &Arc<MemoryStore>,
    secret: Secret,
) -> stillpoint_contract::Result<Repository> {
    let store = Arc::clone(memory) as Arc<dyn Store>;
    Repository::open(world(9), store, Some(secret), None).await
}

async fn packs(memory: &MemoryStore, extension: &str) -> Vec<(Key, Bytes)> {
    let mut packs = Vec::new();
    for object in memory.list("packs/").await.unwrap() {
        if object.key.as_str().ends_with(extension) {
            let bytes = memory.read(&object.key, OBJECT_BYTES_MAX).await.unwrap().unwrap();
            packs.push((object.key, bytes));
        }
    }
    packs
}

#[test]
fn i13_a_wrong_key_opens_nothing_and_no_key_reads_nothing() {
    runtime().block_on(async {
        let data = content(1, &[("a", 5000)]);
        let (memory, _, _) = repository(1, &data).await;
        let stranger = world(8);
        for wrong in [
            passphrase("Correct horse"),
            passphrase("correct horse "),
            Secret::new_key_file(&*stranger.entropy),
            Secret::new_recovery(&*stranger.entropy),
        ] {
            let error = open(&memory, wrong).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Denied, code::WRONG_KEY));
        }
        let store = Arc::clone(&memory) as Arc<dyn Store>;
        let locked = Repository::open(world(9), store, None, None).await.unwrap();
        let backup = locked.history().await.unwrap().live()[0].clone();
        let error = restore(&locked, &backup).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Denied, code::NO_KEY));
        let error =
            locked.forget(std::slice::from_ref(&backup.commit.backup), "").await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Denied, code::NO_KEY));
        // What needs no key still works.
        assert_eq!(locked.verify_names(&Arc::default()).await.unwrap().problems, []);
    });
}

#[test]
fn i13_an_unencrypted_repository_in_the_place_of_an_encrypted_one_is_refused() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let store = Arc::clone(&memory) as Arc<dyn Store>;
        init_with(world(1), store, None).await.unwrap();
        let error = open(&memory, passphrase("correct horse")).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::WRONG_KEY));
    });
}

#[test]
fn i13_a_removed_key_opens_nothing_and_the_last_one_stays() {
    runtime().block_on(async {
        let data = content(1, &[("a", 5000)]);
        let (memory, repository, _) = repository(1, &data).await;
        let recovery = Secret::new_recovery(&*world(3).entropy);
        let first = repository.key_slots().await.unwrap().remove(0);
        repository.add_key(&recovery, "paper", CHEAP).await.unwrap();
        open(&memory, recovery.clone()).await.unwrap();
        repository.remove_key(&first.id().to_string()).await.unwrap();
        let error = open(&memory, passphrase("correct horse")).await.unwrap_err();
        assert_eq!(error.code(), code::WRONG_KEY);
        let reopened = open(&memory, recovery).await.unwrap();
        let backup = reopened.history().await.unwrap().live()[0].clone();
        assert_eq!(restore(&reopened, &backup).await.unwrap(), data);
        let last = reopened.key_slots().await.unwrap().remove(0);
        let error = reopened.remove_key(&last.id().to_string()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::KEY_SLOT));
    });
}

#[test]
fn i13_ciphertext_in_the_place_of_another_is_refused() {
    runtime().block_on(async {
        let data = incompressible();
        let (memory, _, _) = repository(1, &data).await;
        let (key, pack) = packs(&memory, ".pack").await.remove(0);
        let (_, entries) = inspect(&PackName::from_key(&key).unwrap(), &pack).unwrap();
        let [one, other] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(one.stored_bytes, other.stored_bytes);
        let range = |entry: &stillpoint::repository::pack::PackEntry| {
            entry.offset as usize..(entry.offset + entry.stored_bytes) as usize
        };
        // Whole blobs change places, and then only what is behind their headers (104 bytes).
        for skip in [0, 104] {
            let mut swapped = pack.to_vec();
            let (first, second) = (pack[range(one)].to_vec(), pack[range(other)].to_vec());
            swapped[range(one)][skip..].copy_from_slice(&second[skip..]);
            swapped[range(other)][skip..].copy_from_slice(&first[skip..]);
            let damaged = Arc::new(memory.fork());
            damaged.overwrite(&key, swapped.into());
            let repository = open(&damaged, passphrase("correct horse")).await.unwrap();
            let backup = repository.history().await.unwrap().live()[0].clone();
            let error = restore(&repository, &backup).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", tell(&error));
        }
    });
}

#[test]
fn i13_objects_of_another_repository_are_refused_even_under_the_same_passphrase() {
    runtime().block_on(async {
        let data = incompressible();
        let (memory, _, _) = repository(1, &data).await;
        let (other, _, _) = repository(2, &data).await;
        for prefix in ["packs/", "index/", "snap/", "keys/", "log/"] {
            let own = memory.list(prefix).await.unwrap();
            let foreign = other.list(prefix).await.unwrap();
            for (own, foreign) in own.iter().zip(&foreign) {
                let mixed = Arc::new(memory.fork());
                let bytes = other.read(&foreign.key, OBJECT_BYTES_MAX).await.unwrap().unwrap();
                mixed.overwrite(&own.key, bytes);
                let restored = async {
                    let repository = open(&mixed, passphrase("correct horse")).await?;
                    let backup = repository.history().await?.live()[0].clone();
                    restore(&repository, &backup).await
                };
                match restored.await {
                    // An index run is a hint; packs say the same.
                    Ok(found) if prefix == "index/" => assert_eq!(found, data),
                    Ok(_) => panic!("{} was taken for {}", foreign.key, own.key),
                    Err(error) => {
                        let kind = error.kind();
                        let told = [ErrorKind::Corrupt, ErrorKind::Refused, ErrorKind::Denied];
                        assert!(told.contains(&kind), "{}: {}", own.key, tell(&error));
                    }
                }
            }
        }
    });
}

#[test]
fn i13_ids_of_one_repository_say_nothing_in_another() {
    runtime().block_on(async {
        let data = incompressible();
        let mut ids: Vec<BTreeSet<String>> = Vec::new();
        for seed in [1, 2] {
            let (memory, _, _) = repository(seed, &data).await;
            let mut own = BTreeSet::new();
            for (key, pack) in packs(&memory, "pack").await {
                let (_, entries) = inspect(&PackName::from_key(&key).unwrap(), &pack).unwrap();
                own.extend(entries.iter().map(|entry| entry.label.id.to_string()));
            }
            ids.push(own);
        }
        assert!(ids[0].len() >= 3 && ids[0].is_disjoint(&ids[1]));
        // Who knows a chunk cannot tell whether a repository has it.
        for bytes in data.values() {
            let plain = blake3::hash(bytes).to_hex().to_string();
            assert!(!ids.iter().any(|own| own.contains(&plain)));
        }
    });
}
