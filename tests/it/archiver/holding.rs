//! Holds that are recorded while an expiry or an erasure works: whoever records one is told that
//! it counts, and so it does for all that is still there.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Months, NaiveDate, Utc};
use stillpoint::{
    archiver::{
        Erasing, Expiry, Holding, Place, SecondCopy, erase, expire, held, hold, record, release,
        verify,
    },
    policy::{EventRule, Period, PeriodUnit},
    repository::store::{Deleted, Key, Listed, MemoryStore, Put, Store},
    world::World,
};
use stillpoint_contract::Result;

use super::shop::{Shop as _, Sqlite, Yard};

const WHO: (&str, &str) = ("Art. 17", "dba");

/// When a hold is recorded: as an object is created, or removed, whose name has that in it; and
/// whose rows it holds, by a column and a value: all where nobody is named.
#[derive(Debug)]
struct Amid {
    creates: bool,
    name: &'static str,
    subject: Option<(&'static str, &'static str)>,
}

/// A store of which somebody uses another program meanwhile.
#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Store>,
    world: World,
    amid: Mutex<Option<Amid>>,
}

impl Shared {
    fn holds(
        &self,
        creates: bool,
        name: &'static str,
        subject: Option<(&'static str, &'static str)>,
    ) {
        *self.amid.lock().unwrap() = Some(Amid { creates, name, subject });
    }

    async fn pass(&self, creates: bool, key: &Key) {
        let is_it = |amid: &mut Amid| amid.creates == creates && key.as_str().contains(amid.name);
        let amid = self.amid.lock().unwrap().take_if(is_it);
        let Some(amid) = amid else { return };
        let what = amid
            .subject
            .map_or(Holding::Set, |(column, value)| Holding::Subject(None, column, value));
        let place = Place::new(Arc::clone(&self.inner), "orders").unwrap();
        hold(&place, &self.world, what, "LEG-1", "dba").await.unwrap();
    }
}

#[async_trait]
impl Store for Shared {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        self.pass(true, key).await;
        self.inner.create(key, bytes).await
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
        self.pass(false, key).await;
        self.inner.delete(key).await
    }
}

/// A shop of which so many orders were archived, ten in a file, by turns of A and B; and a second
/// place with the same files.
async fn yard(orders: i64, keep: Option<Period>) -> (Yard<Sqlite>, Arc<Shared>, Place) {
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let amid = Mutex::default();
    let shared = Arc::new(Shared { inner, world: World::real(3), amid });
    let store: Arc<dyn Store> = Arc::<Shared>::clone(&shared);
    let mut yard = Yard::in_store(Sqlite::new().await, false, store);
    yard.rule.keep = keep;
    let to = Place::new(Arc::new(MemoryStore::default()), "orders").unwrap();
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    let change = ["UPDATE orders SET note = CASE WHEN id % 2 = 0 THEN 'A' ELSE 'B' END"];
    for first in (0..orders).step_by(10) {
        yard.fill(first..first + 10, 0).await;
        yard.shop.change(&change.map(str::to_owned)).await;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 10);
    }
    (yard, shared, to)
}

async fn over(yard: &Yard<Sqlite>, to: &Place, now: DateTime<Utc>) -> Expiry {
    let places = [yard.place.clone(), to.clone()];
    Box::pin(expire(&places, &yard.world, &yard.rule, now, false)).await.unwrap()
}

async fn let_go(yard: &Yard<Sqlite>) {
    for hold in held(&yard.place).await.unwrap().0 {
        release(&yard.place, &yard.world, &hold.id, "over", "dba").await.unwrap();
    }
}

/// How many rows there are, all of which are what was written.
async fn rows(yard: &Yard<Sqlite>, place: &Place) -> u64 {
    let found = verify(place, &yard.world.cpu, None, |_| true).await.unwrap();
    assert_eq!(found.damages.len(), 0, "{found:?}");
    found.rows
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_hold_that_comes_amid_an_expiry_keeps_what_is_still_there() {
    let (yard, shared, to) = yard(40, Some(Period { count: 1, unit: PeriodUnit::Months })).await;
    let later = yard.world.clock.now().checked_add_months(Months::new(3)).unwrap();
    shared.holds(false, "/expire=", None);
    let did = over(&yard, &to, later).await;
    let kept: Vec<bool> = did.batches.iter().map(|one| one.is_held).collect();
    assert_eq!((kept, did.removed.files), (vec![false, true, true, true], 1));
    // In its second copy that batch was still there.
    assert_eq!((rows(&yard, &yard.place).await, rows(&yard, &to).await), (30, 40));
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!((rows(&yard, &yard.place).await, rows(&yard, &to).await), (30, 40));
    let_go(&yard).await;
    let did = over(&yard, &to, later).await;
    assert_eq!((did.batches.len(), did.removed.files), (3, 7));
    assert_eq!((rows(&yard, &yard.place).await, rows(&yard, &to).await), (0, 0));
}

/// Of which file nobody knows before whether it has rows of theirs: the one that is written anew
/// at that moment, or another one.
#[tokio::test(flavor = "multi_thread")]
async fn i16_a_hold_on_somebody_that_comes_amid_an_expiry_keeps_their_rows() {
    for (held_order, batch) in [("4", 0), ("14", 1)] {
        let (mut yard, shared, to) = yard(20, None).await;
        yard.rule.retention = Some(EventRule {
            after: Period { count: 7, unit: PeriodUnit::Years },
            event: "closed_at".to_owned(),
            subject: "note".to_owned(),
        });
        let on: NaiveDate = "2010-01-31".parse().unwrap();
        record(&yard.place, &yard.world, ("closed_at", "note", "A"), on, WHO).await.unwrap();
        // As the first file is written anew.
        shared.holds(true, "-0001-", Some(("id", held_order)));
        let now = yard.world.clock.now();
        let did = over(&yard, &to, now).await;
        let kept: Vec<bool> = did.batches.iter().map(|one| one.is_held).collect();
        assert_eq!(kept, [batch == 0, batch == 1], "{held_order}");
        assert_eq!(rows(&yard, &yard.place).await, 15, "{held_order}");
        assert_eq!(rows(&yard, &to).await, 15, "{held_order}");
        assert!(yard.archived("orders").await.contains(&format!("o{held_order}")));
        let_go(&yard).await;
        assert_eq!(over(&yard, &to, yard.world.clock.now()).await.batches.len(), 1);
        assert_eq!((rows(&yard, &yard.place).await, rows(&yard, &to).await), (10, 10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_hold_on_somebody_that_comes_amid_an_erasure_keeps_their_rows() {
    for held_order in ["4", "14"] {
        let (yard, shared, to) = yard(20, None).await;
        let places = [yard.place.clone(), to.clone()];
        let erased = async || {
            let subject = (None, "note", "A");
            let did = erase(&places, &yard.world, subject, WHO, Erasing::Always);
            Box::pin(did).await.unwrap()
        };
        shared.holds(true, "-0001-", Some(("id", held_order)));
        let did = erased().await;
        // One batch stays at each place.
        let told = (did.rows, did.copied_rows, did.batches, did.held);
        assert_eq!(told, (5, 5, 2, 2), "{held_order}");
        assert_eq!(rows(&yard, &yard.place).await, 15, "{held_order}");
        assert_eq!(rows(&yard, &to).await, 15, "{held_order}");
        assert!(yard.archived("orders").await.contains(&format!("o{held_order}")));
        let_go(&yard).await;
        erased().await;
        assert_eq!((rows(&yard, &yard.place).await, rows(&yard, &to).await), (10, 10));
    }
}

/// What the first place has lost by then stays at the second one.
#[tokio::test(flavor = "multi_thread")]
async fn i16_a_hold_on_somebody_that_comes_too_late_for_one_place_keeps_their_rows_in_the_other() {
    let (yard, shared, to) = yard(20, None).await;
    let places = [yard.place.clone(), to.clone()];
    // As the file before is removed that has their rows; no hold on A's other ones.
    shared.holds(false, "/expire=", Some(("id", "4")));
    let did = erase(&places, &yard.world, (None, "note", "A"), WHO, Erasing::Always);
    let did = Box::pin(did).await.unwrap();
    assert_eq!((did.rows, did.copied_rows, did.batches, did.held), (10, 5, 3, 1));
    assert_eq!((rows(&yard, &yard.place).await, rows(&yard, &to).await), (10, 15));
}
