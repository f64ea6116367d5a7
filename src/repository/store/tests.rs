//! What the stores promise when disks fail, power goes and answers get lost.

use std::{io, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use rustix::io::Errno;
use stillpoint_contract::{Clock, Entropy, ErrorKind, Result, code};

use super::{
    Conditional, Deleted, Dice, Fault, FaultyStore, Fs, FsFault, Key, LocalStore, MemoryStore, Put,
    Rates, RealFs, SimFs, SingleWriter, Store, Unsynced, Writers, conformance, probe,
};

#[derive(Debug)]
struct Stopped(DateTime<Utc>);

#[async_trait]
impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }

    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    async fn sleep(&self, _: std::time::Duration) {}
}

const ROOT: &str = "/srv/back up/ärchiv";

async fn local<F: Fs>(fs: F, root: &Path, writers: Writers) -> LocalStore<F> {
    let clock = Stopped(DateTime::UNIX_EPOCH + TimeDelta::days(2));
    LocalStore::open(fs, root, writers, &clock, Arc::new(Dice::new(1))).await.unwrap()
}

async fn on_sim(fs: &SimFs) -> LocalStore<SimFs> {
    local(fs.clone(), Path::new(ROOT), Writers::Several).await
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

async fn whole(store: &dyn Store, name: &str) -> Option<Bytes> {
    store.read(&key(name), 1 << 20).await.unwrap()
}

fn kind<T>(outcome: &Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(stillpoint_contract::Error::kind)
}

/// Every disk on which a store can work: with hard links, and without them.
fn disks(seed: u64) -> [SimFs; 2] {
    [SimFs::new(seed), SimFs::new(seed).without_links()]
}

const OLD: &[u8] = b"written before";
const NEW: &[u8] = b"written while the power goes";

/// I1, below the store: an object is whole or absent after a power cut at any operation, and
/// whole if `create` had answered.
#[tokio::test]
async fn after_a_power_cut_an_object_is_whole_or_absent() {
    for seed in 0..48 {
        for (index, _) in disks(seed).iter().enumerate() {
            for unsynced in [Unsynced::Lost, Unsynced::Torn] {
                let mut operation = 0;
                while cut_power_during_create(seed, index, unsynced, operation).await {
                    operation += 1;
                }
                assert!(operation > 8, "only {operation} operations were cut");
            }
        }
    }
}

/// Answers whether the operation was reached.
async fn cut_power_during_create(
    seed: u64,
    disk: usize,
    unsynced: Unsynced,
    operation: u64,
) -> bool {
    let context = format!("seed {seed}, disk {disk}, {unsynced:?}, operation {operation}");
    let [with_links, without_links] = disks(seed);
    let fs = if disk == 0 { with_links } else { without_links };
    let store = on_sim(&fs).await;
    store.create(&key("packs/aa/old"), Bytes::from_static(OLD)).await.unwrap();

    let start = fs.operations();
    fs.fault_at(start + operation, FsFault::PowerOff);
    let answer = store.create(&key("packs/bb/cc/new"), Bytes::from_static(NEW)).await;
    let reached = fs.operations() > start + operation;
    fs.crash(unsynced);

    let store = on_sim(&fs).await;
    assert_eq!(whole(&store, "packs/aa/old").await.as_deref(), Some(OLD), "{context}");
    let found = whole(&store, "packs/bb/cc/new").await;
    assert!(found.is_none() || found.as_deref() == Some(NEW), "{context}: {found:?}");
    assert!(answer.is_err() || found.is_some(), "{context}: answered, then lost");
    for listed in store.list("").await.unwrap() {
        assert!(whole(&store, listed.key.as_str()).await.is_some(), "{context}: {listed:?}");
    }

    store.create(&key("packs/bb/cc/new"), Bytes::from_static(NEW)).await.unwrap();
    fs.crash(Unsynced::Lost);
    let found = whole(&on_sim(&fs).await, "packs/bb/cc/new").await;
    assert_eq!(found.as_deref(), Some(NEW), "{context}: repeated");
    reached
}

/// I10, below the store: any failure of any operation is reported as what it is, leaves the
/// object whole or absent, and the call can be repeated, by us or by somebody else.
#[tokio::test]
async fn a_failing_disk_leaves_no_half_object() {
    let kinds = [
        (Errno::NOSPC, ErrorKind::Exhausted),
        (Errno::DQUOT, ErrorKind::Exhausted),
        (Errno::IO, ErrorKind::Transient),
        (Errno::INTR, ErrorKind::Transient),
        (Errno::ACCESS, ErrorKind::Denied),
        (Errno::ROFS, ErrorKind::Denied),
    ];
    for (errno, expected) in kinds {
        for fault in [FsFault::Fail(errno), FsFault::FailAfter(errno)] {
            for operation in 0.. {
                let context = format!("{fault:?} at operation {operation}");
                let fs = SimFs::new(operation);
                let store = on_sim(&fs).await;
                let start = fs.operations();
                fs.fault_at(start + operation, fault);
                let answer = store.create(&key("log/1"), Bytes::from_static(NEW)).await;
                if fs.operations() <= start + operation {
                    assert!(operation > 8, "{context}");
                    break;
                }
                assert!(answer.is_ok() || kind(&answer) == Some(expected), "{context}: {answer:?}");
                let found = whole(&store, "log/1").await;
                assert!(found.is_none() || found.as_deref() == Some(NEW), "{context}");

                // A rival that finds the name taken may rely on the object.
                on_sim(&fs).await.create(&key("log/1"), Bytes::from_static(NEW)).await.unwrap();
                fs.crash(Unsynced::Lost);
                let found = whole(&on_sim(&fs).await, "log/1").await;
                assert_eq!(found.as_deref(), Some(NEW), "{context}");
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_says_so_and_keeps_what_is_there() {
    let fs = SimFs::new(0);
    let store = on_sim(&fs).await;
    store.create(&key("a"), Bytes::from_static(OLD)).await.unwrap();
    fs.fault_from(fs.operations(), FsFault::Fail(Errno::NOSPC));
    let error = store.create(&key("b"), Bytes::from_static(NEW)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Exhausted, code::STORE_FULL));
    assert!(error.facts().iter().any(|(label, path)| *label == "path" && path.contains(ROOT)));
    assert!(!error.advice().is_empty());
    fs.heal();
    assert_eq!(whole(&store, "a").await.as_deref(), Some(OLD));
    assert_eq!(store.create(&key("b"), Bytes::from_static(NEW)).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn a_disk_without_atomic_publishing_is_found_out() {
    let bare = || SimFs::new(0).without_links().without_rename_new();
    let store = on_sim(&bare()).await;
    let error = store.create(&key("a"), Bytes::from_static(NEW)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unsupported, code::SINGLE_WRITER));
    assert_eq!(probe(&store, &Dice::new(0)).await.unwrap(), Conditional::Ignored);

    let store = local(bare(), Path::new(ROOT), Writers::Single).await;
    assert_eq!(probe(&store, &Dice::new(0)).await.unwrap(), Conditional::Ignored);
    let guarded = SingleWriter::new(store);
    assert_eq!(guarded.create(&key("a"), Bytes::from_static(OLD)).await.unwrap(), Put::Created);
    assert_eq!(guarded.create(&key("a"), Bytes::from_static(NEW)).await.unwrap(), Put::Existed);
    assert_eq!(whole(&guarded, "a").await.as_deref(), Some(OLD));
}

#[tokio::test]
async fn files_that_killed_writers_left_are_swept_after_a_day() {
    let fs = SimFs::new(0);
    let store = on_sim(&fs).await;
    store.create(&key("tmp/mine"), Bytes::new()).await.unwrap();
    let tmp = Path::new(ROOT).join("tmp");
    let day = |days| DateTime::UNIX_EPOCH + TimeDelta::days(days);
    for (name, days) in [("+stale", 0), ("+fresh", 2), ("foreign", 0)] {
        fs.set_time(day(days));
        fs.write_new(&tmp.join(name), b"").unwrap();
    }
    on_sim(&fs).await;
    let mut left: Vec<_> = fs.entries(&tmp).unwrap().into_iter().map(|entry| entry.name).collect();
    left.sort();
    assert_eq!(left, ["+fresh", "foreign", "mine"]);
    let listed = store.list("tmp/").await.unwrap();
    assert_eq!(listed.len(), 2, "unfinished files are never listed: {listed:?}");
}

#[tokio::test]
async fn what_may_not_be_deleted_is_retained() {
    let fs = SimFs::new(0);
    let store = on_sim(&fs).await;
    store.create(&key("a"), Bytes::new()).await.unwrap();
    for errno in [Errno::PERM, Errno::ACCESS, Errno::ROFS] {
        fs.fault_at(fs.operations(), FsFault::Fail(errno));
        assert_eq!(store.delete(&key("a")).await.unwrap(), Deleted::Retained, "{errno}");
    }
    assert_eq!(store.delete(&key("a")).await.unwrap(), Deleted::Gone);
}

#[tokio::test]
async fn odd_things_in_the_directory_are_no_objects() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("with space/ünï");
    let store = local(RealFs, &root, Writers::Several).await;
    assert_eq!(store.list("").await.unwrap(), []);
    store.create(&key("packs/a"), Bytes::from_static(OLD)).await.unwrap();

    std::fs::create_dir(root.join("lost+found")).unwrap();
    std::fs::write(root.join("packs/notes of a human.txt"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("packs/link")).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("packs/pipe"), pipe, 0o600.into(), 0).unwrap();

    assert_eq!(whole(&store, "packs/pipe").await, None);
    assert_eq!(whole(&store, "packs").await, None);
    let listed = store.list("").await.unwrap();
    assert_eq!(listed.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["packs/a"]);
    assert_eq!(store.list("../").await.unwrap(), []);

    let error = store.create(&key("packs"), Bytes::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, code::BAD_NAME));
    let error = store.create(&key("packs/a/b"), Bytes::new()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, code::FILE));
    assert_eq!(store.delete(&key("packs")).await.unwrap(), Deleted::Gone);
    assert_eq!(whole(&store, "packs/a").await.as_deref(), Some(OLD));
}

#[tokio::test]
async fn a_directory_that_vanishes_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(RealFs, directory.path(), Writers::Several).await;
    store.create(&key("packs/aa/1"), Bytes::new()).await.unwrap();
    std::fs::remove_dir_all(directory.path().join("packs")).unwrap();
    assert_eq!(store.create(&key("packs/aa/1"), Bytes::new()).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn objects_cannot_be_written_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let store = local(RealFs, directory.path(), Writers::Several).await;
    store.create(&key("a"), Bytes::new()).await.unwrap();
    let mode = std::fs::metadata(directory.path().join("a")).unwrap().permissions();
    assert!(mode.readonly());
    assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
}

/// The store conformance suite (I14), on everything that needs no server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_without_servers_conform() {
    let directory = tempfile::tempdir().unwrap();
    let [links, no_links] = disks(0);
    let stores: [(&str, Arc<dyn Store>); 5] = [
        ("memory", Arc::new(MemoryStore::default())),
        ("real disk", Arc::new(local(RealFs, directory.path(), Writers::Several).await)),
        ("sim disk", Arc::new(on_sim(&links).await)),
        ("sim disk without links", Arc::new(on_sim(&no_links).await)),
        ("single writer", Arc::new(SingleWriter::new(Forgetful::default()))),
    ];
    for (name, store) in stores {
        for checked in conformance::check(Arc::clone(&store), "suite").await {
            assert_eq!(checked.broken, None, "{name}: {checked}");
        }
        // What a dropped call left may come late; everything else is gone.
        let left = store.list("suite/").await.unwrap();
        assert!(left.iter().all(|l| l.key.as_str().contains("/dropped/")), "{name}: {left:?}");
        let expected = Conditional::Linearizable;
        assert_eq!(probe(&*store, &Dice::new(0)).await.unwrap(), expected, "{name}");
    }
}

/// The suite can fail: a store that overwrites breaks sentences.
#[tokio::test]
async fn the_suite_notices_a_store_that_overwrites() {
    let store: Arc<dyn Store> = Arc::new(Forgetful::default());
    let report = conformance::check(Arc::clone(&store), "suite").await;
    assert!(report.iter().filter(|checked| checked.broken.is_some()).count() >= 2);
    assert_eq!(probe(&*store, &Dice::new(0)).await.unwrap(), Conditional::Ignored);
}

/// Whoever asks again after a lost answer is told of its own object.
#[tokio::test]
async fn lost_answers_are_no_ignored_conditions() {
    let store = Forgetful { loses_answers: true, ..Forgetful::default() };
    assert_eq!(probe(&store, &Dice::new(0)).await.unwrap(), Conditional::Linearizable);
}

/// A store in memory that ignores the condition, as some services do.
#[derive(Debug, Default)]
struct Forgetful {
    memory: MemoryStore,
    /// Keeps the condition, but loses each answer, and is asked again.
    loses_answers: bool,
}

#[async_trait]
impl Store for Forgetful {
    fn location(&self) -> String {
        self.memory.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        if self.loses_answers {
            self.memory.create(key, bytes.clone()).await?;
            return self.memory.create(key, bytes).await;
        }
        self.memory.overwrite(key, bytes);
        Ok(Put::Created)
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        self.memory.read(key, limit_bytes).await
    }

    async fn read_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        self.memory.read_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<super::Listed>> {
        self.memory.list(prefix).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.memory.top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        self.memory.delete(key).await
    }
}

#[tokio::test]
async fn injected_faults_do_what_they_say() {
    let memory = Arc::new(MemoryStore::default());
    let store = FaultyStore::new(Arc::clone(&memory), 7).with_stale_lists(2);
    let create = async |name: &str| store.create(&key(name), Bytes::from_static(OLD)).await;

    store.fault_at(0, Fault::Fail(ErrorKind::Exhausted));
    assert_eq!(kind(&create("a").await), Some(ErrorKind::Exhausted));
    assert_eq!(whole(&memory, "a").await, None);

    store.fault_at(1, Fault::LoseAnswer);
    assert_eq!(kind(&create("a").await), Some(ErrorKind::Transient));
    assert!(whole(&memory, "a").await.is_some());

    store.fault_at(2, Fault::Twice);
    assert_eq!(create("b").await.unwrap(), Put::Existed);

    assert_eq!(store.list("").await.unwrap(), [], "too young to be listed");
    store.fault_at(4, Fault::FlipBit);
    let flipped = store.read(&key("a"), 99).await.unwrap().unwrap();
    let bits: u32 = flipped.iter().zip(OLD).map(|(one, other)| (one ^ other).count_ones()).sum();
    assert_eq!(bits, 1);
    assert_eq!(store.list("").await.unwrap().len(), 2);

    store.fault_at(store.calls(), Fault::StopAfter);
    tokio::select! {
        biased;
        _ = create("c") => panic!("a stopped process answers nothing"),
        () = store.stopped() => {}
    }
    assert!(whole(&memory, "c").await.is_some());
    let trace: Vec<_> = store.trace().iter().map(ToString::to_string).collect();
    assert_eq!(trace[..3], ["create a", "create a", "create b"]);
}

/// Whatever gets lost on the way, a writer that repeats and compares learns who won.
#[tokio::test]
async fn a_patient_writer_survives_lost_answers() {
    let rates = Rates { fail: 60, lose_answer: 60, twice: 60, pause: 128, flip_bit: 0 };
    for seed in 0..200 {
        let store = FaultyStore::new(MemoryStore::default(), seed).with_rates(rates);
        let patient = async |body: &'static [u8]| {
            loop {
                match store.create(&key("log/1"), Bytes::from_static(body)).await {
                    Ok(_) => break,
                    Err(error) => assert!(error.kind().is_transient(), "seed {seed}"),
                }
            }
        };
        tokio::join!(patient(OLD), patient(NEW));
        store.heal();
        let kept = whole(&store, "log/1").await.unwrap();
        assert!(kept == OLD || kept == NEW, "seed {seed}");
    }
}

#[test]
fn the_real_file_system_keeps_taken_names() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| directory.path().join(name));
    RealFs.write_new(&a, b"a").unwrap();
    RealFs.write_new(&b, b"b").unwrap();
    for taken in [RealFs.rename_new(&a, &b), RealFs.link(&a, &b), RealFs.write_new(&b, b"")] {
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
    RealFs.link(&a, &c).unwrap();
    assert!(RealFs.is_same(&a, &c).unwrap() && !RealFs.is_same(&a, &b).unwrap());
    RealFs.unlink(&c).unwrap();
    RealFs.rename_new(&a, &c).unwrap();
    assert_eq!(RealFs.read(&a, 0..9).unwrap(), None);
    RealFs.rename_over(&c, &b).unwrap();
    assert_eq!(RealFs.read(&b, 0..9).unwrap().as_deref(), Some(&b"a"[..]));
}

/// An NFS client repeats a link whose answer got lost, and is told that the name is taken.
#[tokio::test]
async fn a_name_that_is_taken_by_ourselves_is_created() {
    let fs = SimFs::new(0);
    let store = on_sim(&fs).await;
    store.create(&key("a"), Bytes::new()).await.unwrap();
    let start = fs.operations();
    store.create(&key("b"), Bytes::new()).await.unwrap();
    // Three operations write the file; the link follows.
    fs.fault_at(fs.operations() + 3, FsFault::FailAfter(Errno::EXIST));
    assert_eq!(fs.operations() - start, 6);
    assert_eq!(store.create(&key("c"), Bytes::new()).await.unwrap(), Put::Created);
}

#[test]
fn a_seed_is_a_sequence() {
    let draw = |seed| {
        let mut drawn = [0; 16];
        Dice::new(seed).fill(&mut drawn);
        drawn
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_simulated_disk_forgets_what_was_not_synced() {
    let fs = SimFs::new(0);
    fs.make_directory(Path::new("/d")).unwrap();
    fs.sync_directory(Path::new("/")).unwrap();
    fs.write_new(Path::new("/d/a"), b"a").unwrap();
    fs.crash(Unsynced::Lost);
    assert_eq!(fs.entries(Path::new("/d")).unwrap(), []);
    fs.write_new(Path::new("/d/a"), b"a").unwrap();
    fs.sync_directory(Path::new("/d")).unwrap();
    fs.unlink(Path::new("/d/a")).unwrap();
    fs.crash(Unsynced::Lost);
    assert_eq!(fs.read(Path::new("/d/a"), 0..9).unwrap().as_deref(), Some(&b"a"[..]));
    let taken = fs.write_new(Path::new("/d/a"), b"").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
}
