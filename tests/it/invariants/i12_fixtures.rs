//! I12: every format that was ever released can be restored.
//!
//! `tests/fixtures/format-1/` is a repository as the first version wrote it, and
//! `tests/fixtures/format-1.expected` says what is in it. They are never changed. While a format is
//! not released, `STILLPOINT_WRITE_FIXTURE=1 cargo test --test it i12` writes them anew.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint::{
    pipeline::compress::Encoding,
    repository::{
        Repository,
        keys::Secret,
        pack::{PackName, inspect},
        store::{LocalStore, RealFs, Store, Writers},
    },
};
use stillpoint_contract::{LogSource as _, Result};

use super::i3_interleavings::RUTHLESS;
use crate::support::{
    capture::{capture, segment},
    data::{Content, change, content},
    ledger::Ledger,
    session::{CHEAP, Driver, Method, init_with, passphrase, restore},
    world::{runtime, world},
};

const PASSPHRASE: &str = "a passphrase that everybody knows";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

async fn local(root: &Path) -> Arc<dyn Store> {
    let world = world(1);
    let (clock, entropy) = (&*world.clock, Arc::clone(&world.entropy));
    let store = LocalStore::open(RealFs, root, Writers::Several, clock, entropy).await;
    Arc::new(store.unwrap())
}

async fn open(root: &Path, secret: Secret) -> Result<Repository> {
    Repository::open(world(2), local(root).await, Some(secret), None).await
}

/// Everything in a repository, one line for each part of each backup and each log segment.
async fn describe(repository: &Repository) -> String {
    let mut lines = String::new();
    let history = repository.history().await.unwrap();
    for committed in history.live() {
        let commit = &committed.commit;
        for (part, bytes) in restore(repository, committed).await.unwrap() {
            let (hash, length) = (blake3::hash(&bytes), bytes.len());
            writeln!(lines, "{} {} {part} {length} {hash}", commit.database, commit.backup)
                .unwrap();
        }
    }
    let first = history.live()[0].clone();
    let mut log = repository.log_from(&first).await.unwrap();
    while let Some(head) = log.next().await.unwrap() {
        let hash = blake3::hash(&log.body().await.unwrap());
        let (start, end) = (head.range.start(), head.range.end());
        writeln!(lines, "log {start} {end} {} {hash}", head.events.len()).unwrap();
    }
    lines
}

/// Two databases, a delta, a part with a leaf, log in two streams, a forgotten backup, doomed and
/// swept packs, and a key slot of every kind.
async fn write_fixture(root: &Path) {
    let (world, ledger) = (world(1212), Ledger::default());
    let secret = Some(passphrase(PASSPHRASE));
    let repository = init_with(world.clone(), local(root).await, secret).await.unwrap();
    let key_file = Secret::new_key_file(&*world.entropy);
    let recovery = Secret::new_recovery(&*world.entropy);
    repository.add_key(&key_file, "a key file", CHEAP).await.unwrap();
    repository.add_key(&recovery, "on paper", CHEAP).await.unwrap();
    fs::write(fixture("format-1.key"), key_file.text().as_bytes()).unwrap();
    fs::write(fixture("format-1.recovery"), recovery.text().as_bytes()).unwrap();

    let shop = Driver::new(&world, "shop", &ledger);
    let mut data: Content = content(1, &[("main", 100_000), ("small", 900), ("empty", 0)]);
    // A free stretch, longer than what the part table names itself.
    let mut sparse = vec![0; 1_500_000];
    sparse[700_000..700_005].copy_from_slice(b"pages");
    data.insert("sparse".to_owned(), sparse);
    shop.back_up_at(&repository, &data, Method::Whole, 0).await.unwrap();
    let mut stream = repository.begin_stream("shop", "shop-1", None, None).await.unwrap();
    capture(&shop, &mut stream, 0..2).await.unwrap();
    change(&mut data, 2, 3);
    data.get_mut("main").unwrap()[70_000..70_050].fill(7);
    shop.back_up_at(&repository, &data, Method::Incremental, 2).await.unwrap();
    let continues = Some((stream.id().to_owned(), 2));
    let mut stream = repository.begin_stream("shop", "shop-1", continues, None).await.unwrap();
    capture(&shop, &mut stream, 2..3).await.unwrap();
    let last = segment(&shop, 3);
    stream.append(last, shop.world.clock.now()).await.unwrap();

    let mail = Driver::new(&world, "Bücher & mail", &ledger);
    let letters = content(3, &[("a", 5000)]);
    let gone = mail.back_up(&repository, &letters, Method::Whole).await.unwrap();
    repository.forget(std::slice::from_ref(&gone.commit.backup), "an example").await.unwrap();
    let letters = content(4, &[("a", 5000)]);
    mail.back_up(&repository, &letters, Method::Whole).await.unwrap();
    repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
    fs::write(fixture("format-1.expected"), describe(&repository).await).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a person asks for new fixtures")]
fn is_to_be_written() -> bool {
    std::env::var("STILLPOINT_WRITE_FIXTURE").is_ok()
}

fn secrets() -> Vec<Secret> {
    let read = |name: &str| fs::read_to_string(fixture(name)).unwrap();
    vec![
        passphrase(PASSPHRASE),
        Secret::from_key_file(&read("format-1.key")).unwrap(),
        Secret::from_recovery(&read("format-1.recovery")).unwrap(),
    ]
}

#[test]
fn i12_a_repository_of_format_1_is_restored_bit_for_bit() {
    runtime().block_on(async {
        let root = fixture("format-1");
        if is_to_be_written() {
            let _ = fs::remove_dir_all(&root);
            write_fixture(&root).await;
        }
        let expected = fs::read_to_string(fixture("format-1.expected")).unwrap();
        assert!(has_delta(&root).await);
        assert_eq!(expected.lines().filter(|line| line.starts_with("log ")).count(), 4);
        for secret in secrets() {
            let repository = open(&root, secret).await.unwrap();
            assert_eq!(describe(&repository).await, expected);
            let meter = Arc::default();
            let mut problems = repository.verify_names(&meter).await.unwrap().problems;
            problems.extend(repository.verify_log("shop").await.unwrap().problems);
            for backup in repository.history().await.unwrap().live() {
                problems.extend(repository.verify_backup(backup, &meter).await.unwrap().problems);
            }
            assert_eq!(problems, []);
        }
        let error = open(&root, passphrase("another one")).await.unwrap_err();
        assert_eq!(error.code(), stillpoint_contract::code::WRONG_KEY);
    });
}

#[test]
fn i12_a_repository_of_format_1_goes_on() {
    // The other test writes the fixture, if that is wanted.
    if is_to_be_written() {
        return;
    }
    runtime().block_on(async {
        let copy = tempfile::tempdir().unwrap();
        copy_directory(&fixture("format-1"), copy.path());
        let repository = open(copy.path(), secrets().remove(0)).await.unwrap();
        let (world, ledger) = (world(3), Ledger::default());
        let before: BTreeMap<String, Content> = contents(&repository).await;
        let shop = Driver::new(&world, "shop", &ledger);
        let mut data = before.values().next().unwrap().clone();
        change(&mut data, 5, 2);
        let next = shop.back_up_at(&repository, &data, Method::Incremental, 4).await.unwrap();
        repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
        let mut after = contents(&repository).await;
        assert_eq!(after.remove(&next.commit.backup), Some(data));
        assert_eq!(after, before);
    });
}

async fn has_delta(root: &Path) -> bool {
    let store = local(root).await;
    for object in store.list("packs/").await.unwrap() {
        let pack = store.read(&object.key, object.size_bytes).await.unwrap().unwrap();
        let (_, entries) = inspect(&PackName::from_key(&object.key).unwrap(), &pack).unwrap();
        if entries.iter().any(|entry| entry.label.encoding == Encoding::Delta) {
            return true;
        }
    }
    false
}

async fn contents(repository: &Repository) -> BTreeMap<String, Content> {
    let mut contents = BTreeMap::new();
    for committed in repository.history().await.unwrap().live() {
        let content = restore(repository, committed).await.unwrap();
        contents.insert(committed.commit.backup.clone(), content);
    }
    contents
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
