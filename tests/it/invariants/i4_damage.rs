//! I4: any damage to any object is reported, never becomes wrong bytes, and stays where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use stillpoint::{
    repository::{
        Repository,
        history::{Committed, Head},
        keys::Secret,
        manifest::decode_pack_list,
        pack::PackName,
        store::{Dice, Key, MemoryStore, Store},
    },
    world::World,
};
use stillpoint_contract::{ErrorKind, Result};

use crate::support::{
    capture::{capture, replay},
    data::{Content, change, content},
    ledger::{Ledger, tell},
    session::{CHEAP, Driver, Method, init_with, restore},
    world::{runs_or, runtime, seed_or, world},
};

/// Segments in the repository's only stream.
const SEGMENTS: u128 = 3;

/// A small encrypted repository that has one of everything.
struct Subject {
    world: World,
    memory: MemoryStore,
    ledger: Ledger,
    /// The secrets of its two key slots, by the slots' object names.
    secrets: BTreeMap<Key, Secret>,
    head: Head,
    backups: Vec<Committed>,
    /// Packs that each backup needs.
    packs: BTreeMap<String, BTreeSet<Key>>,
}

async fn subject() -> Subject {
    let (world, ledger) = (world(1), Ledger::default());
    let memory = Arc::new(MemoryStore::default());
    let store = Arc::clone(&memory) as Arc<dyn Store>;
    let secret = Secret::new_key_file(&*world.entropy);
    let spare = Secret::new_key_file(&*world.entropy);
    let repository =
        init_with(world.clone(), Arc::clone(&store), Some(secret.clone())).await.unwrap();
    let first = store.list("keys/").await.unwrap().remove(0).key;
    let slot = repository.add_key(&spare, "spare", CHEAP).await.unwrap();
    let secrets = BTreeMap::from([(first, secret), (slot.id().key(), spare)]);
    let (shop, mail) = (Driver::new(&world, "shop", &ledger), Driver::new(&world, "mail", &ledger));
    let mut data = content(1, &[("main", 6000), ("small", 500)]);
    shop.back_up_at(&repository, &data, Method::Whole, 0).await.unwrap();
    let letters = content(2, &[("letters", 3000)]);
    mail.back_up(&repository, &letters, Method::Whole).await.unwrap();
    let mut stream = repository.begin_stream("shop", "shop-1", None, None).await.unwrap();
    capture(&shop, &mut stream, 0..SEGMENTS).await.unwrap();
    change(&mut data, 3, 1);
    shop.back_up_at(&repository, &data, Method::Incremental, 1).await.unwrap();
    let history = repository.history().await.unwrap();
    let backups: Vec<Committed> = history.live().into_iter().cloned().collect();
    let mut packs = BTreeMap::new();
    for backup in &backups {
        let key = Key::new(backup.commit.packs.as_str()).unwrap();
        let list = store.read(&key, 1 << 20).await.unwrap().unwrap();
        let list = decode_pack_list(&list).unwrap();
        packs.insert(backup.commit.backup.clone(), list.keys().map(PackName::key).collect());
    }
    let (memory, head) = (memory.fork(), history.head().clone());
    Subject { world, memory, ledger, secrets, head, backups, packs }
}

/// Objects that are put where others were; `None` for objects that are gone.
type Damage = Vec<(Key, Option<Bytes>)>;

impl Subject {
    async fn objects(&self) -> Vec<(Key, Bytes)> {
        let mut objects = Vec::new();
        for object in self.memory.list("").await.unwrap() {
            let bytes = self.memory.read(&object.key, 1 << 30).await.unwrap().unwrap();
            objects.push((object.key, bytes));
        }
        objects
    }

    /// Does the damage, looks at everything as a user would, and answers what went wrong.
    async fn examine(&self, damage: &Damage) -> std::result::Result<(), String> {
        let memory = Arc::new(self.memory.fork());
        for (key, bytes) in damage {
            match bytes {
                Some(bytes) => memory.overwrite(key, bytes.clone()),
                None => drop(memory.delete(key).await),
            }
        }
        let touched: Vec<&Key> = damage.iter().map(|(key, _)| key).collect();
        // Whoever's slot is damaged is locked out; the other one is not.
        let mut usable = self.secrets.iter().filter(|(slot, _)| !touched.contains(slot));
        let Some((_, secret)) = usable.next() else { return Ok(()) };
        let store = memory as Arc<dyn Store>;
        let opened =
            Repository::open(self.world.clone(), store, Some(secret.clone()), Some(&self.head));
        let repository = match opened.await {
            Ok(repository) => repository,
            Err(error) => return is_fair_refusal(&touched, &error),
        };
        let mut is_reported = self.is_reported(&repository).await.map_err(|e| tell(&e))?;
        for backup in &self.backups {
            match restore(&repository, backup).await {
                Ok(found) => self.compare(backup, &found)?,
                Err(error) => self.is_fair_failure(&touched, backup, &error)?,
            }
        }
        let (first, reached) = (&self.backups[0], replay(&repository, &self.backups[0]).await);
        let log_is_touched = touched.iter().any(|key| key.as_str().starts_with("streams/"));
        match reached {
            Ok(reached) if reached == SEGMENTS => {}
            Ok(_) | Err(_) if log_is_touched => {}
            Ok(reached) => return Err(format!("log is replayed up to {reached}")),
            Err(error) => {
                self.is_fair_failure(&touched, first, &error)?;
                is_reported = true;
            }
        }
        if is_reported { Ok(()) } else { Err("nobody reports it".to_owned()) }
    }

    async fn is_reported(&self, repository: &Repository) -> Result<bool> {
        let meter = Arc::default();
        let mut problems = repository.verify_names(&meter).await?.problems;
        for backup in &self.backups {
            problems.extend(repository.verify_backup(backup, &meter).await?.problems);
        }
        problems.extend(repository.verify_log("shop").await?.problems);
        Ok(!problems.is_empty())
    }

    fn compare(&self, backup: &Committed, found: &Content) -> std::result::Result<(), String> {
        if self.ledger.content(&backup.commit.backup).as_ref() == Some(found) {
            return Ok(());
        }
        Err(format!("wrong bytes were restored of {}", backup.commit.backup))
    }

    /// A backup may be lost only with an object that it needs.
    fn is_fair_failure(
        &self,
        touched: &[&Key],
        backup: &Committed,
        error: &stillpoint_contract::Error,
    ) -> std::result::Result<(), String> {
        let commit = &backup.commit;
        let is_own = touched.iter().any(|key| {
            key.as_str() == commit.manifest
                || key.as_str() == commit.packs
                || self.packs[&commit.backup].contains(*key)
        });
        let is_told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Missing);
        if is_own && is_told {
            return Ok(());
        }
        Err(format!("backup {} is lost with it: {}", commit.backup, tell(error)))
    }

    async fn expect(&self, what: &str, damage: Damage) {
        if let Err(wrong) = self.examine(&damage).await {
            let names: Vec<_> = damage.iter().map(|(key, _)| key.as_str()).collect();
            panic!("{wrong}\nafter {what} of {}", names.join(" and "));
        }
    }
}

/// The whole repository may be refused only for damage to its log or descriptor.
fn is_fair_refusal(
    touched: &[&Key],
    error: &stillpoint_contract::Error,
) -> std::result::Result<(), String> {
    let spine =
        |key: &&Key| key.as_str().starts_with("log/") || key.as_str().ends_with("-repo.json");
    let is_told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Refused);
    if touched.iter().any(spine) && is_told {
        return Ok(());
    }
    Err(format!("the repository does not open: {}", tell(error)))
}

/// Every byte of the small objects, and of packs their header, table and every seventh byte from
/// a place that the seed says; `STILLPOINT_RUNS` above 10,000 means every byte of everything.
fn places(key: &Key, length: usize, seed: u64) -> Vec<usize> {
    let is_thorough = runs_or(1) > 10_000;
    let stride = match key.as_str() {
        _ if is_thorough => 1,
        name if name.starts_with("packs/") => 7,
        name if name.starts_with("log/") || name.starts_with("streams/") => 3,
        _ => 1,
    };
    let offset = seed as usize % stride;
    let edges = 96;
    (0..length)
        .filter(|at| at % stride == offset || *at < edges && stride == 7 || at + edges > length)
        .collect()
}

#[test]
fn i4_no_flipped_bit_goes_unnoticed_or_spreads() {
    let (runtime, seed) = (runtime(), seed_or(1));
    runtime.block_on(async {
        let subject = subject().await;
        let dice = Dice::new(seed);
        let mut flips = 0;
        for (key, bytes) in subject.objects().await {
            for at in places(&key, bytes.len(), seed) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << dice.below(8);
                flips += 1;
                let what = format!("a flip (seed {seed}) in byte {at}");
                subject.expect(&what, vec![(key.clone(), Some(damaged.into()))]).await;
            }
        }
        println!("{flips} flips");
    });
}

#[test]
fn i4_no_truncated_zeroed_grown_or_lost_object_goes_unnoticed_or_spreads() {
    runtime().block_on(async {
        let subject = subject().await;
        for (key, bytes) in subject.objects().await {
            let length = bytes.len();
            for to in [0, 1, length / 3, length / 2, length - 8, length - 1] {
                let what = format!("truncation to {to} bytes");
                subject.expect(&what, vec![(key.clone(), Some(bytes.slice(..to)))]).await;
            }
            let mut zeroed = bytes.to_vec();
            zeroed[length / 2..].fill(0);
            subject.expect("zeroing half", vec![(key.clone(), Some(zeroed.into()))]).await;
            let zeroed = vec![0; length];
            subject.expect("zeroing", vec![(key.clone(), Some(zeroed.into()))]).await;
            let mut grown = bytes.to_vec();
            grown.push(0);
            subject.expect("growth", vec![(key.clone(), Some(grown.into()))]).await;
        }
    });
}

#[test]
fn i4_no_swapped_objects_go_unnoticed_or_spread() {
    runtime().block_on(async {
        let subject = subject().await;
        let objects = subject.objects().await;
        for (index, (one, first)) in objects.iter().enumerate() {
            for (other, second) in &objects[index + 1..] {
                let damage =
                    vec![(one.clone(), Some(second.clone())), (other.clone(), Some(first.clone()))];
                subject.expect("a swap", damage).await;
            }
        }
    });
}

#[test]
fn i4_a_log_rolled_back_to_any_older_state_is_refused_by_whoever_saw_it() {
    runtime().block_on(async {
        let subject = subject().await;
        let objects = subject.objects().await;
        let entries: Vec<_> =
            objects.iter().filter(|(key, _)| key.as_str().starts_with("log/")).collect();
        for keep in 0..entries.len() {
            let damage: Damage =
                entries[keep..].iter().map(|(key, _)| (key.clone(), None)).collect();
            subject.expect("a rollback", damage).await;
        }
    });
}

#[test]
fn i4_a_lost_object_is_reported() {
    runtime().block_on(async {
        let subject = subject().await;
        let (mut lost, mut spared) = (BTreeSet::new(), BTreeSet::new());
        for (key, _) in subject.objects().await {
            let kind = key.as_str().split('/').next().unwrap().to_owned();
            // A hint that is lost costs time, or what is known of the last seconds; never data.
            if kind == "index" || kind == "control" {
                spared.insert(kind);
                continue;
            }
            lost.insert(kind);
            subject.expect("the loss", vec![(key, None)]).await;
        }
        assert_eq!(Vec::from_iter(spared), ["control", "index"]);
        let kinds = ["keys", "log", "packs", "snap", "stillpoint-repo.json", "streams"];
        assert_eq!(Vec::from_iter(lost), kinds);
    });
}
