//! I7: nobody rewrites the log unnoticed, and no clock decides anything.

use std::sync::Arc;

use bytes::Bytes;
use stillpoint::{
    pipeline::{
        id::RepositoryId,
        keys::{Domain, RepositoryKey},
        sign::Signer,
    },
    repository::{
        Repository,
        descriptor::Descriptor,
        entry::{Action, Entry, Notary, hash_of},
        keys::Secret,
        names,
        store::{FaultyStore, Gate, MemoryStore, Store},
    },
};
use stillpoint_contract::{ErrorKind, code};
use tokio::task::LocalSet;

use super::{
    i1_crashes::{Promises, day, prepare, survives},
    i3_interleavings::RUTHLESS,
};
use crate::support::{
    capture::{capture, replay},
    data::content,
    ledger::{Ledger, tell},
    session::{Driver, Method, init_with, passphrase, position, restore},
    world::{TestClock, runtime, world, world_at},
};

const ENTRY_BYTES_MAX: u64 = 1 << 24;

/// An encrypted repository with a backup.
async fn repository(memory: &Arc<MemoryStore>, seed: u64) -> (Repository, Driver) {
    let store = Arc::clone(memory) as Arc<dyn Store>;
    let world = world(seed);
    let secret = Some(passphrase("correct horse"));
    let repository = init_with(world.clone(), store, secret).await.unwrap();
    let shop = Driver::new(&world, "shop", &Ledger::default());
    shop.back_up(&repository, &content(1, &[("a", 5000)]), Method::Whole).await.unwrap();
    (repository, shop)
}

#[test]
fn i7_a_fork_is_refused_by_whoever_saw_the_other_branch() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let (repository, shop) = repository(&memory, 1).await;
        let branch = Arc::new(memory.fork()) as Arc<dyn Store>;
        shop.back_up(&repository, &content(2, &[("a", 5000)]), Method::Whole).await.unwrap();
        let seen = repository.history().await.unwrap().head().clone();

        let secret = || Some(passphrase("correct horse"));
        let open = |witness| Repository::open(world(2), Arc::clone(&branch), secret(), witness);
        let error = open(Some(&seen)).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROLLED_BACK));
        // The other branch grows: as long as the known one, and then longer.
        let other = open(None).await.unwrap();
        for round in 3..6 {
            let data = content(round, &[("a", 5000)]);
            shop.back_up(&other, &data, Method::Whole).await.unwrap();
            let error = open(Some(&seen)).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROLLED_BACK));
        }
    });
}

/// Somebody who can write to the store and has no key of the repository.
#[derive(Debug)]
enum Forger {
    Unsigned,
    OwnKey(Signer),
}

impl Notary for Forger {
    fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Unsigned => None,
            Self::OwnKey(signer) => Some(signer.sign(bytes).as_bytes().to_vec()),
        }
    }

    fn check(&self, _: &[u8], _: &[u8]) -> Option<bool> {
        None
    }
}

fn foreign_signer() -> Signer {
    let key = RepositoryKey::generate(&*world(666).entropy);
    Domain::encrypted(RepositoryId::new([6; 16]), 1, &key).signer().unwrap()
}

/// Writes entry `seq` anew, with `change`, and puts it where it belongs.
async fn forge(memory: &MemoryStore, seq: u64, forger: &Forger, change: impl FnOnce(&mut Entry)) {
    // There is no entry 0: what does not exist reads as zeros.
    let (before, own) = (names::log_entry(seq - 1), names::log_entry(seq));
    let before = memory.read(&before, ENTRY_BYTES_MAX).await.unwrap();
    let mut entry = match memory.read(&own, ENTRY_BYTES_MAX).await.unwrap() {
        Some(bytes) => parse(&bytes),
        None => Entry { seq, ..parse(before.as_ref().unwrap()) },
    };
    entry.previous = before.map_or_else(|| "0".repeat(64), |bytes| hash_of(&bytes));
    change(&mut entry);
    memory.overwrite(&own, entry.encode(forger).unwrap());
}

fn parse(bytes: &Bytes) -> Entry {
    let line = bytes.split(|b| *b == b'\n').next().unwrap();
    serde_json::from_slice(line).unwrap()
}

#[test]
fn i7_nobody_without_the_key_adds_to_the_log_or_changes_it() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let (repository, _) = repository(&memory, 1).await;
        let history = repository.history().await.unwrap();
        let (head, live) = (history.head().seq, history.live());
        let forget = Action::Forget {
            backups: vec![live[0].commit.backup.clone()],
            reason: "forged".to_owned(),
        };
        for forger in [Forger::Unsigned, Forger::OwnKey(foreign_signer())] {
            for seq in [head, head + 1] {
                let forged = Arc::new(memory.fork());
                forge(&forged, seq, &forger, |entry| entry.action = forget.clone()).await;
                for secret in [None, Some(passphrase("correct horse"))] {
                    let store = Arc::clone(&forged) as Arc<dyn Store>;
                    let error = Repository::open(world(2), store, secret, None).await.unwrap_err();
                    assert_eq!(error.code(), code::BROKEN_LOG, "{}", tell(&error));
                }
            }
        }
    });
}

#[test]
fn i7_a_whole_log_forged_under_another_key_is_refused_by_the_holder_of_the_key() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let (repository, _) = repository(&memory, 1).await;
        let head = repository.history().await.unwrap().head().seq;
        let known = repository.descriptor().clone();
        let signer = foreign_signer();
        let other_key = Some(signer.public_key().to_string());
        for (forger, signing_key) in [(Forger::OwnKey(signer), other_key), (Forger::Unsigned, None)]
        {
            let forged = Arc::new(memory.fork());
            let descriptor = Descriptor { signing_key, ..known.clone() }.encode().unwrap();
            let descriptor_hash = hash_of(&descriptor);
            forged.overwrite(&names::descriptor(), descriptor);
            for seq in 1..=head {
                let hash = descriptor_hash.clone();
                let entry = |entry: &mut Entry| {
                    if seq == 1 {
                        entry.action = Action::Init { descriptor: hash };
                    }
                };
                forge(&forged, seq, &forger, entry).await;
            }
            let store = Arc::clone(&forged) as Arc<dyn Store>;
            let secret = Some(passphrase("correct horse"));
            let error = Repository::open(world(2), store, secret, None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", tell(&error));
        }
    });
}

/// What a day did to the store: its calls without what is random in them.
async fn calls_of_a_day(skew_days: i64) -> Vec<String> {
    let memory = Arc::new(MemoryStore::default());
    let promises = Promises::default();
    prepare(&world(1), Arc::clone(&memory) as Arc<dyn Store>, &promises.ledger).await.unwrap();
    let recording = Arc::new(FaultyStore::new(Arc::clone(&memory), 1));
    let world = world_at(TestClock::skewed(skew_days), 7);
    day(&world, Arc::clone(&recording) as Arc<dyn Store>, &promises).await.unwrap();
    survives(&(memory as Arc<dyn Store>), &promises).await.unwrap();
    let kind = |name: &str| {
        let (folder, extension) = (name.split('/').next(), name.rsplit('.').next());
        format!("{} {}", folder.unwrap_or_default(), extension.unwrap_or_default())
    };
    recording
        .trace()
        .iter()
        .filter(|call| call.verb == "create" || call.verb == "delete")
        .map(|call| format!("{} {}", call.verb, kind(&call.name)))
        .collect()
}

#[test]
fn i7_a_clock_ten_years_off_changes_nothing_but_displayed_times() {
    runtime().block_on(async {
        let straight = calls_of_a_day(0).await;
        assert!(straight.len() > 20, "{straight:?}");
        for days in [-3650, 3650] {
            assert_eq!(calls_of_a_day(days).await, straight, "{days} days off");
        }
    });
}

#[test]
fn i7_the_capture_that_began_last_wins_whatever_the_clocks_say() {
    runtime().block_on(async {
        for (first_days, second_days) in [(0, 0), (3650, 0), (0, -3650), (-3650, 3650)] {
            let memory = Arc::new(MemoryStore::default());
            let (_, shop) = repository(&memory, 1).await;
            let open = |days: i64, seed| {
                let world = world_at(TestClock::skewed(days), seed);
                let store = Arc::clone(&memory) as Arc<dyn Store>;
                Repository::open(world, store, Some(passphrase("correct horse")), None)
            };
            let one = open(first_days, 11).await.unwrap();
            let mut old = one.begin_stream("shop", "shop-1", None, None).await.unwrap();
            capture(&shop, &mut old, 0..2).await.unwrap();
            let two = open(second_days, 12).await.unwrap();
            let continues = Some((old.id().to_owned(), 2));
            let mut new = two.begin_stream("shop", "shop-1", continues, None).await.unwrap();
            // The old one has not noticed yet; what it goes on to store is stored by both.
            capture(&shop, &mut old, 2..3).await.unwrap();
            capture(&shop, &mut new, 2..4).await.unwrap();
            capture(&shop, &mut old, 3..4).await.unwrap();

            new.check_fence().await.unwrap();
            assert_eq!(old.check_fence().await.unwrap_err().kind(), ErrorKind::Fenced);
            let beat = two.newest_beat("shop").await.unwrap().unwrap();
            assert_eq!(beat.position, position("shop", 4));
            let timeline = two.timeline("shop").await.unwrap();
            assert_eq!(timeline.problems, Vec::<String>::new());
            assert_eq!(timeline.coverage.len(), 1, "{:?}", timeline.coverage);
            let backup = timeline.backups[0].clone();
            assert_eq!(timeline.coverage_of(&backup), timeline.coverage.first());
            assert_eq!(replay(&two, &backup).await.unwrap(), 4);
            capture(&shop, &mut new, 4..6).await.unwrap();
            assert_eq!(replay(&two, &backup).await.unwrap(), 6);
        }
    });
}

#[test]
fn i7_a_capture_that_goes_on_while_somebody_looks_is_not_taken_for_a_loss() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let (writer, shop) = repository(&memory, 1).await;
        let mut stream = writer.begin_stream("shop", "shop-1", None, None).await.unwrap();
        capture(&shop, &mut stream, 0..2).await.unwrap();
        let gate = Gate::new();
        let store = Arc::new(gate.store("reader", Arc::clone(&memory))) as Arc<dyn Store>;
        let local = LocalSet::new();
        let looking = local.spawn_local(async move {
            let secret = Some(passphrase("correct horse"));
            Repository::open(world(9), store, secret, None).await?.timeline("shop").await
        });
        let mut has_gone_on = false;
        local
            .run_until(async {
                while let Some(call) = gate.quiet().await.first() {
                    // The segments are listed by now, the signs of life are not.
                    if call.operation.starts_with("list control/") && !has_gone_on {
                        capture(&shop, &mut stream, 2..4).await.unwrap();
                        has_gone_on = true;
                    }
                    gate.admit(call);
                }
            })
            .await;
        assert!(has_gone_on);
        let timeline = local.run_until(looking).await.unwrap().unwrap();
        assert_eq!(timeline.problems, Vec::<String>::new());
        assert_eq!(timeline.coverage[0].end.position, position("shop", 2));
    });
}

#[test]
fn i7_a_sign_of_life_from_the_future_keeps_nobody_waiting() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        drop(repository(&memory, 1).await);
        let clock = TestClock::skewed(3650);
        let open = |clock, seed| {
            let store = Arc::clone(&memory) as Arc<dyn Store>;
            let world = world_at(clock, seed);
            Repository::open(world, store, Some(passphrase("correct horse")), None)
        };
        let ahead = open(Arc::clone(&clock), 11).await.unwrap();
        let shop = Driver::new(&world_at(clock, 11), "shop", &Ledger::default());
        let mut stream = ahead.begin_stream("shop", "shop-1", None, None).await.unwrap();
        capture(&shop, &mut stream, 0..1).await.unwrap();
        let running = ahead.running_capture("shop").await.unwrap();
        assert!(running.is_some(), "its own clock agrees with it");
        let straight = open(TestClock::new(), 12).await.unwrap();
        assert_eq!(straight.running_capture("shop").await.unwrap(), None);
    });
}

#[test]
fn i7_no_time_that_a_client_supplies_evicts_a_backup() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let (repository, _) = repository(&memory, 1).await;
        drop(repository);
        let ledger = Ledger::default();
        let mut backups = Vec::new();
        for (seed, days) in [(21, 0), (22, 3650), (23, -3650), (24, 36_500), (25, 1)] {
            let world = world_at(TestClock::skewed(days), seed);
            let store = Arc::clone(&memory) as Arc<dyn Store>;
            let secret: Option<Secret> = Some(passphrase("correct horse"));
            let repository = Repository::open(world.clone(), store, secret, None).await.unwrap();
            let shop = Driver::new(&world, "shop", &ledger);
            let data = content(seed, &[("a", 5000)]);
            backups.push(shop.back_up(&repository, &data, Method::Whole).await.unwrap());
            repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
            // They are listed as they were committed, and all of them are there.
            let history = repository.history().await.unwrap();
            let listed: Vec<_> = history.live().into_iter().skip(1).cloned().collect();
            assert_eq!(listed, backups);
            for backup in &backups {
                let found = restore(&repository, backup).await.unwrap();
                assert_eq!(Some(found), ledger.content(&backup.commit.backup));
            }
        }
    });
}
