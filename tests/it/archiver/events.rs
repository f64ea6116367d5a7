//! Rows that are kept for so long from an event on: until it is known, for ever.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use stillpoint::{
    archiver::{
        Erasing, Expiry, Holding, Place, SecondCopy, Shelf, erase, events, expire, hold, record,
        release, verify, withdraw,
    },
    policy::{EventRule, Period, PeriodUnit},
    repository::store::{MemoryStore, Store},
};

use super::{
    renewed::files,
    shop::{Shop as _, Sqlite, Yard},
};

const WHO: (&str, &str) = ("account closed", "dba");

/// Orders with two items each, of customers A (0 to 4), B (5 to 9), and of nobody (10 to 14).
async fn yard() -> Yard<Sqlite> {
    let mut yard = Yard::new(Sqlite::new().await, true);
    yard.rule.retention = Some(EventRule {
        after: Period { count: 7, unit: PeriodUnit::Years },
        event: "closed_at".to_owned(),
        subject: "note".to_owned(),
    });
    yard.fill(0..15, 2).await;
    let change = ["UPDATE orders SET note = CASE WHEN id < 5 THEN 'A' WHEN id < 10 THEN 'B' END"];
    yard.shop.change(&change.map(str::to_owned)).await;
    assert_eq!(yard.run().await.unwrap().pruned_rows, 45);
    yard
}

impl Yard<Sqlite> {
    async fn ends(&self, subject: &str, on: &str) -> String {
        let about = ("closed_at", "note", subject);
        let on: NaiveDate = on.parse().unwrap();
        record(&self.place, &self.world, about, on, WHO).await.unwrap().id
    }

    async fn expire(&self, now: &str, is_dry: bool) -> Expiry {
        let now: DateTime<Utc> = now.parse().unwrap();
        let places = [self.place.clone()];
        Box::pin(expire(&places, &self.world, &self.rule, now, is_dry)).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_rows_go_when_the_time_after_an_event_is_over_and_not_before() {
    let yard = yard().await;
    let shelf = Shelf::load(&yard.place).await.unwrap();
    assert_eq!(shelf.runs[0].plan.expire, "open");
    let all = yard.archived("orders").await;
    // Nothing is known of anybody.
    assert_eq!(yard.expire("2090-01-01T00:00:00Z", false).await, Expiry::default());
    let wrong = yard.ends("A", "2019-03-31").await;
    withdraw(&yard.place, &yard.world, &wrong[..10], "mistyped", "dba").await.unwrap();
    assert_eq!(yard.expire("2090-01-01T00:00:00Z", false).await, Expiry::default());
    // The last day that is recorded counts.
    yard.ends("A", "2019-03-31").await;
    yard.ends("A", "2030-03-31").await;
    assert_eq!(events(&yard.place).await.unwrap().len(), 2);
    assert_eq!(yard.expire("2037-03-31T23:59:59Z", false).await, Expiry::default());
    assert_eq!(yard.archived("orders").await, all);

    let would = yard.expire("2037-04-01T00:00:00Z", true).await;
    assert_eq!((would.batches.len(), would.batches[0].rows, would.batches[0].of_rows), (1, 15, 45));
    assert_eq!(yard.archived("orders").await, all);
    let did = yard.expire("2037-04-01T00:00:00Z", false).await;
    assert_eq!((did.batches, did.removed.files), (would.batches, 2));
    assert_eq!((yard.archived("orders").await.len(), yard.archived("items").await.len()), (10, 20));
    assert!(!yard.archived("orders").await.contains(&"o4".to_owned()));
    assert_eq!(yard.expire("2037-04-01T00:00:00Z", false).await, Expiry::default());
    // The ledger, and whoever restores, still know what was deleted.
    let ledger = yard.ledger().await;
    let cpu = &yard.world.cpu;
    let found = verify(&yard.place, cpu, Some(&ledger), |_| true).await.unwrap();
    assert_eq!((found.rows, found.damages.len()), (30, 0), "{:?}", found.damages);
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_a_batch_of_which_nobody_is_left_goes_as_a_whole_in_both_places() {
    let mut yard = yard().await;
    yard.shop.change(&["DELETE FROM orders".to_owned()]).await;
    yard.fill(20..25, 0).await;
    yard.shop.change(&["UPDATE orders SET note = 'B'".to_owned()]).await;
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let to = Place::new(Arc::clone(&second), "orders").unwrap();
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    yard.run().await.unwrap();
    yard.ends("B", "2020-01-31").await;
    let now: DateTime<Utc> = "2030-01-01T00:00:00Z".parse().unwrap();
    let places = [yard.place.clone(), to.clone()];
    let did = expire(&places, &yard.world, &yard.rule, now, false);
    let did = Box::pin(did).await.unwrap();
    let rows: Vec<_> = did.batches.iter().map(|one| (one.rows, one.of_rows)).collect();
    assert_eq!(rows, [(15, 45), (5, 5)]);
    assert_eq!(yard.archived("orders").await.len(), 10);
    // The first run was before there was a second place, and is there, too, without whose time is
    // over.
    let left = files(&*second).await;
    assert_eq!((left.len(), &left), (2, &files(&*yard.store).await));
    let shelf = Shelf::load(&to).await.unwrap();
    let expired: Vec<_> = shelf.runs.iter().map(|run| run.batches[&1].expired.is_some()).collect();
    assert_eq!(expired, [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_holds_and_clocks_that_go_back_keep_rows_whose_time_is_over() {
    let yard = yard().await;
    yard.ends("A", "2010-01-31").await;
    let hold = hold(&yard.place, &yard.world, Holding::Set, "LEG-1", "dba").await.unwrap();
    let now = "2090-01-01T00:00:00Z";
    let kept = yard.expire(now, false).await;
    assert!(kept.batches.len() == 1 && kept.batches[0].is_held, "{kept:?}");
    assert_eq!(yard.archived("orders").await.len(), 15);
    release(&yard.place, &yard.world, &hold.id, "over", "dba").await.unwrap();
    // Seven years are over, and yet the clock shows a time before the last word.
    let before = yard.expire("2020-01-01T00:00:00Z", false).await;
    assert!(before.ahead.is_some() && before.batches.is_empty(), "{before:?}");
    assert_eq!(yard.archived("orders").await.len(), 15);
    assert_eq!(yard.expire(now, false).await.batches[0].rows, 15);
    assert_eq!(yard.archived("orders").await.len(), 10);
}

/// Whoever reads what is recorded does not learn who it was.
#[tokio::test(flavor = "multi_thread")]
async fn events_do_not_say_whose_they_are() {
    let yard = yard().await;
    yard.ends("somebody-4711", "2030-01-31").await;
    let mut said = String::new();
    for listed in yard.store.list("archive/orders/_stillpoint/").await.unwrap() {
        let bytes = yard.store.read(&listed.key, 1 << 20).await.unwrap().unwrap();
        said.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(said.contains("2030-01-31") && !said.contains("somebody"), "{said}");
    // Two sets hash the same one differently.
    let other = self::yard().await;
    other.ends("somebody-4711", "2030-01-31").await;
    let (one, two) = (events(&yard.place).await.unwrap(), events(&other.place).await.unwrap());
    assert_ne!(one[0].subject, two[0].subject);
}

/// Rows of somebody that are held stay in their files, whoever is to be erased, and whatever time
/// is over; rows of others go.
#[tokio::test(flavor = "multi_thread")]
async fn i16_rows_of_a_subject_that_is_held_stay() {
    let yard = yard().await;
    let held = Holding::Subject(None, "note", "A");
    let hold = hold(&yard.place, &yard.world, held, "LEG-3", "dba").await.unwrap();
    let word = serde_json::to_string(&hold.subject).unwrap();
    assert!(!word.contains("\"A\""), "it says who: {word}");
    let places = [yard.place.clone()];
    let erase = async |column: &'static str, value: &'static str| {
        let of = (None, column, value);
        Box::pin(erase(&places, &yard.world, of, ("Art. 17", "dba"), Erasing::Always)).await
    };
    let refused = erase("note", "A").await.unwrap_err();
    assert_eq!(refused.code(), stillpoint_contract::code::HELD, "{refused}");
    // An order of A, by another column: it is written down, and waits.
    let waits = erase("id", "3").await.unwrap();
    assert_eq!((waits.rows, waits.held), (0, 1));
    for subject in ["A", "B"] {
        yard.ends(subject, "2010-01-01").await;
    }
    let dry = yard.expire("2030-01-01T00:00:00Z", true).await;
    assert!(dry.batches.iter().all(|one| one.is_held), "{dry:?}");
    assert_eq!(yard.expire("2030-01-01T00:00:00Z", false).await.removed.files, 0);
    assert_eq!(yard.archived("orders").await.len(), 15);
    // Of somebody else alone.
    let other = erase("note", "B").await.unwrap();
    assert_eq!((other.rows, other.held), (0, 1), "the word about order 3 is not forgotten");
    release(&yard.place, &yard.world, &hold.id, "closed", "dba").await.unwrap();
    let done = erase("note", "nobody").await.unwrap();
    // B's orders with their items, and that one of A.
    assert_eq!((done.rows, done.held), (18, 0));
    assert_eq!(yard.archived("orders").await.len(), 9);
}
