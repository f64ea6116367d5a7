//! Invariant 16, and what is told while a run works: holds, expiry, erasure, pauses.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{sync::Arc, time::Duration};

use chrono::Months;
use stillpoint::{
    archiver::{
        Erasing, Holding, Place, SecondCopy, Shelf, Step, Witness, erase, expire, held, hold,
        release, tell, verify,
    },
    policy::{Period, PeriodUnit},
    repository::store::{MemoryStore, Store},
};
use stillpoint_contract::{ErrorKind, code};

use super::shop::{Shop, Sqlite, Yard};

/// Everything that any object of a store holds, as text where it is some.
async fn said(store: &dyn Store) -> String {
    let mut said = String::new();
    for listed in store.list("").await.unwrap() {
        let bytes = store.read(&listed.key, 64 << 20).await.unwrap().unwrap();
        said.push_str(&String::from_utf8_lossy(&bytes));
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_who_is_erased_is_in_no_file_and_stays_away() {
    let mut yard = Yard::new(Sqlite::new().await, true);
    yard.fill(0..60, 2).await;
    let second: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let to = Place::new(Arc::clone(&second), "orders").unwrap();
    let (from, cpu) = (yard.place.clone(), yard.world.cpu.clone());
    yard.gates.push(Box::new(SecondCopy { from, to: to.clone(), cpu }));
    let again = "INSERT INTO orders VALUES (1007, 'back', 'closed', 'erase-me', 1)";
    let mark = "UPDATE orders SET note = 'erase-me' WHERE id IN (7, 31)";
    yard.shop.change(&[mark.to_owned()]).await;
    yard.run().await.unwrap();
    let places = [yard.place.clone(), to.clone()];
    let erased = async || {
        let subject = (None, "note", "erase-me");
        erase(&places, &yard.world, subject, ("Art. 17", "dba"), Erasing::Always).await.unwrap()
    };
    let hold = hold(&yard.place, &yard.world, Holding::Set, "LEG-1", "dba").await.unwrap();
    let subject = (None, "note", "erase-me");
    let refused = erase(&places, &yard.world, subject, ("Art. 17", "dba"), Erasing::Always)
        .await
        .unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused, code::HELD));
    assert_eq!(held(&yard.place).await.unwrap().0.len(), 1);
    release(&yard.place, &yard.world, &hold.id[..8], "over", "dba").await.unwrap();

    let did = erased().await;
    assert_eq!(
        (did.rows, did.copied_rows),
        (6, 6),
        "two orders with two items each, in two places"
    );
    assert_eq!(did.batches, 2);
    for (place, store) in [(&yard.place, &yard.store), (&to, &second)] {
        let found = verify(place, &yard.world.cpu, None, |_| true).await.unwrap();
        assert_eq!((found.rows, found.damages.len()), (174, 0));
        assert!(!said(&**store).await.contains("erase-me"), "it is still there");
    }
    let archived = yard.archived("items").await;
    assert!(!archived.contains(&"i700".to_owned()) && archived.len() == 116, "{archived:?}");
    // The ledger still knows what was deleted.
    let ledger = yard.ledger().await;
    let found = verify(&yard.place, &yard.world.cpu, Some(&ledger), |_| true).await.unwrap();
    assert_eq!(found.damages.len(), 0, "{:?}", found.damages);

    // They come back with a restore, and are archived again: they are erased again.
    yard.shop.change(&[again.to_owned()]).await;
    yard.gates.clear();
    yard.run().await.unwrap();
    assert_eq!(yard.live("orders").await.len(), 0);
    assert!(!yard.archived("orders").await.contains(&"back".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_what_is_held_does_not_expire() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.fill(0..20, 0).await;
    yard.run().await.unwrap();
    let places = [yard.place.clone()];
    let expire = async |now, is_dry| {
        let over = expire(&places, &yard.world, &yard.rule, now, is_dry);
        Box::pin(over).await.unwrap().batches
    };
    let now = yard.world.clock.now();
    let later = now.checked_add_months(Months::new(3)).unwrap();
    assert_eq!(expire(now, false).await, []);
    let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
    let hold = hold(&yard.place, &yard.world, Holding::Run(&run), "LEG-2", "dba").await.unwrap();
    let kept = expire(later, false).await;
    assert!(kept.len() == 1 && kept[0].is_held, "{kept:?}");
    assert_eq!(yard.archived("orders").await.len(), 20);
    release(&yard.place, &yard.world, &hold.id, "over", "dba").await.unwrap();
    // A clock that went back removes nothing.
    let before = now.checked_sub_months(Months::new(3)).unwrap();
    assert_eq!(expire(before, false).await, []);
    assert_eq!(expire(later, true).await.len(), 1);
    assert_eq!(yard.archived("orders").await.len(), 20);
    assert_eq!(expire(later, false).await.len(), 1);
    assert_eq!(yard.archived("orders").await.len(), 0);
    assert_eq!(yard.store.list("archive/orders/orders/").await.unwrap(), []);
    // The ledger still tells of the rows; nobody takes them for lost.
    let ledger = yard.ledger().await;
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let overlap = stillpoint::archiver::compare(&shelf, &ledger).unwrap();
    assert_eq!((overlap.unknown.len(), overlap.live.len()), (0, 0));
}

/// Tells that somebody paused it, and lets it go on after a while.
#[derive(Debug)]
struct Pauser {
    place: Place,
    world: stillpoint::world::World,
}

impl Witness for Pauser {
    fn see(&self, step: &Step) {
        let is_paused = match step {
            Step::Shelved { .. } => true,
            Step::Resting { why, .. } if why.contains("paused") => false,
            _ => return,
        };
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                tell(&self.place, &self.world, "dba", |told| told.is_paused = is_paused)
                    .await
                    .unwrap();
            });
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_rests_while_somebody_paused_it() {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..30, 0).await;
    let pauser = Pauser { place: yard.place.clone(), world: yard.world.clone() };
    let report = yard.run_seen(&pauser).await.unwrap();
    assert!(report.quit.is_done() && report.pruned_rows == 30, "{report:?}");
    let rested: Duration = report.rested.values().sum();
    assert!(rested >= Duration::from_secs(1), "{report:?}");
    assert!(
        report.rested.keys().any(|why| why.to_string().contains("dba paused it")),
        "{report:?}"
    );
}
