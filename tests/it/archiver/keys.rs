//! Invariant 16 where files are encrypted: whose key is destroyed cannot be read, wherever copies
//! of the file are; and no row is lost with a key, whenever somebody is killed.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeSet,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Months;
use futures::FutureExt as _;
use stillpoint::{
    archiver::{
        Erased, Erasing, FoundRows, Keyring, Place, Quit, SecondCopy, Shelf, Wanted, erase, expire,
        find, refuse_encrypted, verify,
    },
    pipeline::{
        id::RepositoryId,
        keys::{Domain, RepositoryKey},
    },
    policy::{FileFormat, Period, PeriodUnit},
    repository::store::{Deleted, Key, Listed, MemoryStore, Put, Store},
    world::World,
};
use stillpoint_contract::{Code, Error, ErrorKind, Result, code};
use zeroize::Zeroizing;

use super::shop::{InPostgres, Killed, Shop, Sqlite, Yard};

const KEYS: &str = "archive/orders/_stillpoint/_keys/";
const DOCUMENTS: &str = "archive/orders/_stillpoint/";
const WHO: (&str, &str) = ("Art. 17", "dba");

/// The secret of some repository.
fn domain(repository: u8) -> Domain {
    let master = RepositoryKey::new(Zeroizing::new([repository; 32]));
    Domain::encrypted(RepositoryId::new([repository; 16]), Domain::EPOCH_FIRST, &master)
}

fn keyring(repository: u8) -> Keyring {
    Keyring::new(domain(repository), World::real(1).entropy, true).unwrap()
}

/// A place in an encrypted repository.
pub(super) fn place(store: &Arc<dyn Store>, repository: u8) -> Place {
    Place::new(Arc::clone(store), "orders").unwrap().with_keyring(keyring(repository))
}

/// A yard whose files are encrypted, with orders, of which 7 and 31 are somebody's.
async fn yard_in<S: Shop>(shop: S, store: Arc<dyn Store>) -> Yard<S> {
    let mut yard = Yard::in_store(shop, true, store);
    yard.place = place(&yard.store, 1);
    yard.rule.format = FileFormat::Csv;
    yard.fill(0..40, 1).await;
    let orders = yard.shop.table("orders");
    let mark = format!("UPDATE {orders} SET note = 'erase-me' WHERE id IN (7, 31)");
    yard.shop.change(&[mark]).await;
    yard
}

async fn yard() -> Yard<Sqlite> {
    yard_in(Sqlite::new().await, Arc::new(MemoryStore::default())).await
}

async fn erase_me(places: &[Place], world: &World) -> Result<Erased> {
    Box::pin(erase(places, world, (None, "note", "erase-me"), WHO, Erasing::Always)).await
}

pub(super) async fn names(store: &dyn Store, prefix: &str) -> Vec<Key> {
    store.list(prefix).await.unwrap().into_iter().map(|listed| listed.key).collect()
}

async fn files(store: &dyn Store) -> Vec<Key> {
    let mut names = names(store, "archive/orders/").await;
    names.retain(|name| !name.as_str().starts_with(DOCUMENTS));
    names
}

pub(super) async fn bytes(store: &dyn Store, key: &Key) -> Vec<u8> {
    store.read(key, 64 << 20).await.unwrap().unwrap().to_vec()
}

pub(super) async fn replace(store: &dyn Store, key: &Key, bytes: Vec<u8>) {
    store.delete(key).await.unwrap();
    assert_eq!(store.create(key, bytes.into()).await.unwrap(), Put::Created);
}

/// Everything that a store has.
pub(super) async fn copy_of(store: &dyn Store) -> Arc<dyn Store> {
    let copy = MemoryStore::default();
    for name in names(store, "").await {
        copy.create(&name, bytes(store, &name).await.into()).await.unwrap();
    }
    Arc::new(copy)
}

/// What is wrong with each batch of a place.
async fn damages(place: &Place) -> Vec<Error> {
    let found = verify(place, &World::real(1).cpu, None, |_| true).await.unwrap();
    found.damages.into_iter().map(|damage| damage.error).collect()
}

/// Every file that counts has its key, and there are no other files or keys.
async fn is_tidy(store: &Arc<dyn Store>, place: &Place, at: &str) {
    let shelf = Shelf::load(place).await.unwrap();
    let live = shelf.runs.iter().flat_map(|run| run.batches.values()).filter(|one| one.is_there());
    let (mut named, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for file in live.flat_map(|one| one.batch.files()) {
        named.insert(Key::new(&*file.key).unwrap());
        keys.insert(Key::new(&*file.encryption.as_ref().unwrap().key).unwrap());
    }
    assert_eq!(BTreeSet::from_iter(files(&**store).await), named, "{at}");
    assert_eq!(BTreeSet::from_iter(names(&**store, KEYS).await), keys, "{at}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_who_is_erased_cannot_be_read_in_an_old_file_that_was_kept() {
    erased_is_unreadable(yard().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_who_is_erased_from_postgres_cannot_be_read_in_an_old_file() {
    let Some(shop) = InPostgres::new(17).await else { return };
    erased_is_unreadable(yard_in(shop, Arc::new(MemoryStore::default())).await).await;
}

async fn erased_is_unreadable<S: Shop>(mut yard: Yard<S>) {
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    // Another repository, with a secret of its own.
    let (from, to) = (yard.place.clone(), place(&second, 2));
    let cpu = yard.world.cpu.clone();
    yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    assert_eq!(yard.run().await.unwrap().pruned_rows, 80);
    assert_eq!(yard.archived("orders").await.len(), 40);
    for store in [&yard.store, &second] {
        for name in files(&**store).await {
            assert!(bytes(&**store, &name).await.starts_with(b"STLPROWS"), "{name}");
        }
        assert_eq!(names(&**store, KEYS).await.len(), 2);
    }
    let before = [copy_of(&*yard.store).await, copy_of(&*second).await];

    let places = [yard.place.clone(), to.clone()];
    let did = erase_me(&places, &yard.world).await.unwrap();
    assert_eq!((did.rows, did.copied_rows), (4, 4), "two orders and their items, in two places");
    assert_eq!((did.batches, did.held_rows), (2, 0));
    assert_eq!((did.removed.keys, did.removed.files, did.removed.kept.len()), (4, 4, 0));
    for (store, place) in [(&yard.store, &yard.place), (&second, &to)] {
        assert_eq!(damages(place).await.len(), 0);
        is_tidy(store, place, "erased").await;
    }
    // Both places have the very same files.
    assert_eq!(files(&*yard.store).await, files(&*second).await);
    let mut left = yard.archived("orders").await;
    left.sort();
    assert!(left.len() == 38 && !left.contains(&"o7".to_owned()), "{left:?}");

    // All that there was before, but for the keys: nobody can read any of it.
    for (number, (old, now)) in before.iter().zip([&yard.store, &second]).enumerate() {
        for name in names(&**old, KEYS).await {
            assert!(now.read(&name, 1 << 20).await.unwrap().is_none(), "{name} is there");
            old.delete(&name).await.unwrap();
        }
        for name in names(&**now, KEYS).await {
            old.create(&name, bytes(&**now, &name).await.into()).await.unwrap();
        }
        let old = place(old, number as u8 + 1);
        let found = damages(&old).await;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].kind(), found[0].code()), (ErrorKind::Corrupt, code::ARCHIVE_KEY));
        let take = async |_: FoundRows| Ok(());
        let read = find(&old, &yard.world.cpu, &Wanted::default(), None, take).await;
        assert_eq!(read.err().map(|e| e.code()), Some(code::ARCHIVE_KEY));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_is_read_when_the_first_one_is_lost() {
    let mut yard = yard().await;
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let (from, to) = (yard.place.clone(), place(&second, 2));
    let cpu = yard.world.cpu.clone();
    yard.gates.push(Box::new(SecondCopy { from, to, cpu }));
    yard.run().await.unwrap();
    drop(std::mem::replace(&mut yard.store, Arc::new(MemoryStore::default())));
    assert_eq!(damages(&place(&second, 2)).await.len(), 0);
    // Nothing that lies there can be read with the secret of another repository.
    let found = damages(&place(&second, 1)).await;
    assert_eq!(found[0].code(), code::WRONG_KEY, "{found:?}");
    let plain = Place::new(Arc::new(MemoryStore::default()), "orders").unwrap();
    let mut yard = self::yard().await;
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates.push(Box::new(SecondCopy { from, to: plain, cpu }));
    let refused = yard.run().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::ARCHIVE_KEY));
    assert_eq!(yard.live("orders").await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_gone_from_a_second_copy_is_brought_again() {
    let mut yard = yard().await;
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let (from, to) = (yard.place.clone(), place(&second, 2));
    let cpu = yard.world.cpu.clone();
    yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    yard.run().await.unwrap();
    second.delete(&names(&*second, KEYS).await[0]).await.unwrap();
    assert_eq!(damages(&to).await.len(), 1);
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    assert_eq!(damages(&to).await.len(), 0);
    is_tidy(&second, &to, "brought again").await;
}

/// What was done to a place where files are, and rows are still in their tables.
type Damage = (&'static str, fn(&mut Vec<u8>), Code);

#[tokio::test(flavor = "multi_thread")]
async fn i5_what_is_not_as_it_was_written_is_told_and_no_row_is_deleted() {
    let yard = yard().await;
    let mut pending = yard;
    pending.limits.keeps_source = true;
    assert_eq!(pending.run().await.unwrap().quit, Quit::KeptSource);
    pending.limits.keeps_source = false;
    let intact = copy_of(&*pending.store).await;
    let first = files(&*intact).await[0].clone();
    let key = names(&*intact, KEYS).await[0].clone();
    let damages: [Damage; 6] = [
        ("a bit of a file", |bytes| bytes[200] ^= 4, code::ARCHIVE_FILE),
        ("the end of a file", |bytes| bytes.truncate(bytes.len() - 1), code::ARCHIVE_FILE),
        ("a bit of a key", |bytes| bytes[80] ^= 4, code::ARCHIVE_KEY),
        ("the salt of a key", |bytes| bytes[50] ^= 4, code::ARCHIVE_KEY),
        ("the repository of a key", |bytes| bytes[20] ^= 4, code::WRONG_KEY),
        ("the end of a key", |bytes| bytes.truncate(bytes.len() - 1), code::ARCHIVE_KEY),
    ];
    for (what, change, expected) in damages {
        let name = if what.ends_with("key") { &key } else { &first };
        let store = copy_of(&*intact).await;
        let mut changed = bytes(&*store, name).await;
        change(&mut changed);
        replace(&*store, name, changed).await;
        tells(&mut pending, store, what, expected).await;
    }
    let store = copy_of(&*intact).await;
    store.delete(&key).await.unwrap();
    tells(&mut pending, store, "a key is gone", code::ARCHIVE_KEY).await;
    let store = copy_of(&*intact).await;
    swap(&*store, &names(&*store, KEYS).await).await;
    tells(&mut pending, store, "keys that changed places", code::ARCHIVE_KEY).await;
    let store = copy_of(&*intact).await;
    swap(&*store, &files(&*store).await).await;
    tells(&mut pending, store, "files that changed places", code::ARCHIVE_FILE).await;
    // Another secret, as of another repository.
    pending.place = place(&intact, 3);
    assert_eq!(pending.run().await.unwrap_err().code(), code::WRONG_KEY);
    assert_eq!(pending.live("orders").await.len(), 40);
    // Nothing was deleted yet: what cannot be read is read from its table again.
    let store = copy_of(&*intact).await;
    let mut changed = bytes(&*store, &key).await;
    changed[80] ^= 4;
    replace(&*store, &key, changed).await;
    pending.place = place(&store, 1);
    assert!(pending.run().await.unwrap().quit.is_done());
    assert_eq!(
        verify(&pending.place, &pending.world.cpu, None, |_| true).await.unwrap().damages.len(),
        0
    );
    assert_eq!(
        (pending.live("orders").await.len(), pending.archived("orders").await.len()),
        (0, 40)
    );
}

async fn swap(store: &dyn Store, names: &[Key]) {
    let (one, other) = (bytes(store, &names[0]).await, bytes(store, &names[1]).await);
    replace(store, &names[0], other).await;
    replace(store, &names[1], one).await;
}

async fn tells(yard: &mut Yard<Sqlite>, store: Arc<dyn Store>, what: &str, expected: Code) {
    yard.place = place(&store, 1);
    let found = verify(&yard.place, &yard.world.cpu, None, |_| true).await.unwrap();
    let [damage] = &*found.damages else { panic!("{what}: {found:?}") };
    assert_eq!(damage.error.code(), expected, "{what}: {damage:?}");
}

/// A manifest, a file and its key that were carried from one run to another, all three.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_file_of_another_run_does_not_open_whatever_its_manifest_says() {
    let yard = yard().await;
    yard.run().await.unwrap();
    yard.fill(40..50, 1).await;
    yard.run().await.unwrap();
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let of = |run: usize| shelf.runs[run].batches[&1].batch.members[0].file.clone().unwrap();
    let (one, mut other) = (of(0), of(1));
    // Its name and its hash are those of the second run's file; what it holds is the first one's.
    let stored = bytes(&*yard.store, &Key::new(&*one.key).unwrap()).await;
    replace(&*yard.store, &Key::new(&*other.key).unwrap(), stored).await;
    let key_of = |file: &stillpoint::archiver::File| {
        Key::new(&*file.encryption.as_ref().unwrap().key).unwrap()
    };
    let key = bytes(&*yard.store, &key_of(&one)).await;
    replace(&*yard.store, &key_of(&other), key).await;
    let of_second = |name: &Key| {
        name.as_str().contains(&*shelf.runs[1].plan.run) && name.as_str().contains("/000001.0000")
    };
    let documents = names(&*yard.store, DOCUMENTS).await;
    let manifest = documents.into_iter().find(of_second).unwrap();
    let text = String::from_utf8(bytes(&*yard.store, &manifest).await).unwrap();
    let (ours, theirs) = (other.encryption.take().unwrap(), one.encryption.unwrap());
    let forged = text
        .replace(&other.hash, &one.hash)
        .replace(&format!("\"bytes\": {}", other.bytes), &format!("\"bytes\": {}", one.bytes))
        .replace(&ours.hash, &theirs.hash)
        .replace(&format!("\"id\": \"{}\"", ours.id), &format!("\"id\": \"{}\"", theirs.id));
    assert_ne!(forged, text);
    replace(&*yard.store, &manifest, forged.into_bytes()).await;
    let found = damages(&yard.place).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code(), code::ARCHIVE_KEY, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_bytes_are_verified_and_rows_are_not_read() {
    let yard = yard().await;
    yard.run().await.unwrap();
    let locked = Place::new(Arc::clone(&yard.store), "orders").unwrap();
    let cpu = &yard.world.cpu;
    let found = verify(&locked, cpu, None, |_| true).await.unwrap();
    assert_eq!((found.damages.len(), found.undecrypted), (0, 2));
    let take = async |_: FoundRows| Ok(());
    let read = find(&locked, cpu, &Wanted::default(), None, take).await.unwrap_err();
    assert_eq!((read.kind(), read.code()), (ErrorKind::Denied, code::NO_KEY));
    let shelf = Shelf::load(&locked).await.unwrap();
    let refused = refuse_encrypted(&locked, &shelf).await.unwrap_err();
    assert!(format!("{refused:?}").contains("archive scan orders"), "{refused:?}");
    let name = files(&*yard.store).await[0].clone();
    let mut changed = bytes(&*yard.store, &name).await;
    *changed.last_mut().unwrap() ^= 1;
    replace(&*yard.store, &name, changed).await;
    let found = verify(&locked, cpu, None, |_| true).await.unwrap();
    assert_eq!(found.damages[0].error.code(), code::ARCHIVE_FILE);
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_file_that_cannot_be_deleted_cannot_be_read_either() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let locks = Arc::new(Odd::new(Arc::clone(&memory)));
    let yard = yard_in(Sqlite::new().await, Arc::clone(&locks) as _).await;
    yard.run().await.unwrap();
    *locks.retains.lock().unwrap() = vec!["archive/orders/orders/", "archive/orders/items/"];
    let places = [yard.place.clone()];
    let did = erase_me(&places, &yard.world).await.unwrap();
    assert_eq!((did.removed.keys, did.removed.files), (2, 0));
    assert!(did.removed.kept.len() == 2 && did.removed.kept.iter().all(|file| file.is_unreadable));
    assert_eq!((files(&*memory).await.len(), names(&*memory, KEYS).await.len()), (4, 2));
    assert_eq!(damages(&yard.place).await.len(), 0);
    // Where the key is kept, too, the subject can be read: that is told, and tried again.
    let mark = "INSERT INTO orders VALUES (1000, 'again', 'closed', 'erase-me', 1)";
    yard.shop.change(&[mark.to_owned()]).await;
    *locks.retains.lock().unwrap() = vec!["archive/"];
    let refused = yard.run().await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::ARCHIVE_KEY));
    locks.retains.lock().unwrap().clear();
    erase_me(&places, &yard.world).await.unwrap();
    is_tidy(&memory, &yard.place, "in the end").await;
    assert_eq!(yard.archived("orders").await.len(), 38);
}

/// Kills a run at each change of the store: between a key and its file, between files and their
/// manifest, and so on.
#[tokio::test(flavor = "multi_thread")]
async fn i1_no_row_is_lost_with_a_key_wherever_a_run_is_killed() {
    for number in 1.. {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let odd = Arc::new(Odd::new(Arc::clone(&memory)));
        let yard = yard_in(Sqlite::new().await, Arc::clone(&odd) as _).await;
        odd.kill_at(number);
        let is_killed = killed(yard.run()).await.is_none();
        let at = format!("killed at change {number}");
        let noted: u64 = yard.ledger().await.iter().map(|entry| entry.rows).sum();
        let live = yard.live("orders").await.len() + yard.live("items").await.len();
        assert_eq!(live as u64 + noted, 80, "{at}");
        odd.kill_at(0);
        assert!(yard.run().await.unwrap().quit.is_done(), "{at}");
        assert_eq!((yard.live("orders").await.len(), yard.archived("orders").await.len()), (0, 40));
        assert_eq!(yard.archived("items").await.len(), 40, "{at}");
        is_tidy(&memory, &yard.place, &at).await;
        if !is_killed {
            assert!(number > 14, "{number}");
            break;
        }
    }
}

/// Kills an erasure, and then an expiry, at each change of the store, such as between the new
/// manifest and the end of the old key.
#[tokio::test(flavor = "multi_thread")]
async fn i16_no_key_outlives_an_erasure_or_an_expiry_that_was_killed() {
    let mut yard = yard().await;
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.run().await.unwrap();
    let later = yard.world.clock.now().checked_add_months(Months::new(3)).unwrap();
    let old = names(&*yard.store, KEYS).await;
    for expires in [false, true] {
        for number in 1.. {
            let memory = copy_of(&*yard.store).await;
            let odd = Arc::new(Odd::new(Arc::clone(&memory)));
            let store: Arc<dyn Store> = Arc::clone(&odd) as _;
            let places = [place(&store, 1)];
            let work = async || {
                if expires {
                    let over = expire(&places, &yard.world, &yard.rule, later, false);
                    Box::pin(over).await.map(drop)
                } else {
                    erase_me(&places, &yard.world).await.map(drop)
                }
            };
            odd.kill_at(number);
            let is_killed = killed(work()).await.is_none();
            let at = format!("expires {expires}, killed at change {number}");
            odd.kill_at(0);
            let [place] = &places;
            assert_eq!(damages(place).await.len(), 0, "{at}");
            work().await.unwrap();
            assert_eq!(damages(place).await.len(), 0, "{at}");
            is_tidy(&memory, place, &at).await;
            for name in &old {
                assert!(memory.read(name, 1 << 20).await.unwrap().is_none(), "{at}: {name}");
            }
            let mut rows = 0;
            let take = async |found: FoundRows| {
                rows += found.rows.len();
                Ok(())
            };
            find(place, &yard.world.cpu, &Wanted::default(), None, take).await.unwrap();
            assert_eq!(rows, if expires { 0 } else { 38 }, "{at}");
            if !is_killed {
                assert!(number > 9, "{number}");
                break;
            }
        }
    }
}

/// What a future is worth, unless it is killed.
async fn killed<T>(future: impl Future<Output = T>) -> Option<T> {
    let outcome = AssertUnwindSafe(Box::pin(future)).catch_unwind().await;
    outcome.map_err(|cause| assert!(cause.is::<Killed>(), "it broke")).ok()
}

/// A store that retains what it is told to, and kills its caller before or after some change.
#[derive(Debug)]
struct Odd {
    inner: Arc<dyn Store>,
    retains: std::sync::Mutex<Vec<&'static str>>,
    /// Odd numbers are before a change, even ones after it.
    kill_at: AtomicI64,
}

impl Odd {
    fn new(inner: Arc<dyn Store>) -> Self {
        let (retains, kill_at) = Default::default();
        Self { inner, retains, kill_at }
    }

    /// At none, with 0.
    fn kill_at(&self, number: i64) {
        self.kill_at.store(number, Ordering::Relaxed);
    }

    fn pass(&self) {
        if self.kill_at.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

#[async_trait]
impl Store for Odd {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        self.pass();
        let put = self.inner.create(key, bytes).await;
        self.pass();
        put
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        self.inner.read(key, limit_bytes).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.inner.read_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.inner.top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        let retains = self.retains.lock().unwrap().clone();
        if retains.iter().any(|prefix| key.as_str().starts_with(prefix)) {
            return Ok(Deleted::Retained);
        }
        self.pass();
        let deleted = self.inner.delete(key).await;
        self.pass();
        deleted
    }
}
