//! Invariant 15: the database is restored to an earlier time, and goes on from there; each row is
//! in its table or in the archive, and once, at every step.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use chrono::{Datelike as _, NaiveTime, TimeDelta};
use stillpoint::{
    archiver::{
        Aged, CameBack, Erasing, Left, LiveSlice, Overlap, Quit, Reconciling, Shelf, Step, Witness,
        erase, revoke, tell, verify,
    },
    policy::Window,
};
use stillpoint_contract::{ErrorKind, code};

use super::{
    returns::{copy, replace},
    shop::{Shop, Sqlite, Yard, tokens},
};
use crate::support::world::TestClock;

const LOOK: Reconciling = Reconciling { prunes: false, adopts: false, notes: false };

fn rows(slices: &[LiveSlice]) -> u64 {
    slices.iter().map(|slice| slice.rows).sum()
}

async fn look(yard: &Yard<Sqlite>, may: Reconciling) -> Overlap {
    yard.reconcile(may).await.unwrap()
}

/// How many rows live again, were archived anew, and were deleted since; nothing is taken for a
/// lost ledger.
async fn classes(yard: &Yard<Sqlite>, may: Reconciling) -> [u64; 3] {
    let found = look(yard, may).await;
    assert_eq!(found.unnoted, [], "{found:?}");
    [rows(&found.live), rows(&found.anew), rows(&found.deleted)]
}

/// Readers, files and ledger agree.
async fn agrees(yard: &Yard<Sqlite>, at: &impl Debug) {
    let ledger = yard.ledger().await;
    let found = verify(&yard.place, &yard.world.cpu, Some(&ledger), |_| true).await.unwrap();
    assert_eq!(found.damages.len(), 0, "{at:?}: {found:?}");
}

/// A shop with forty orders that were archived, and come back with a restore.
async fn restored(items: i64) -> Yard<Sqlite> {
    let yard = Yard::new(Sqlite::new().await, items > 0);
    yard.fill(0..40, items).await;
    let path = yard.shop.path();
    copy(&path, &path.with_extension("copy"));
    assert!(yard.run().await.unwrap().quit.is_done());
    yard
}

fn go_back(yard: &Yard<Sqlite>) {
    let path = yard.shop.path();
    replace(&path.with_extension("copy"), &path);
}

#[tokio::test(flavor = "multi_thread")]
async fn i15_rows_that_are_archived_anew_after_a_restore_are_there_once() {
    let mut yard = restored(1).await;
    go_back(&yard);
    yard.shop.change(&["UPDATE orders SET note = 'changed' WHERE id = 1".to_owned()]).await;
    let adopts = Reconciling { adopts: true, ..LOOK };
    assert_eq!(classes(&yard, adopts).await, [80, 0, 0]);
    yard.conserves_each(0..40, "reconciled").await;
    agrees(&yard, &"reconciled").await;

    // Amid a run, after it, and when nothing is left to do.
    for (rows_max, pruned, anew) in [(Some(20), 40, 40), (None, 40, 80), (None, 0, 80)] {
        yard.limits.rows_max = rows_max;
        let report = yard.run().await.unwrap();
        assert_eq!(report.pruned_rows, pruned, "{report:?}");
        yard.conserves_each(0..40, &format!("{anew} archived anew")).await;
        agrees(&yard, &anew).await;
        for may in [LOOK, Reconciling { notes: true, ..LOOK }] {
            assert_eq!(classes(&yard, may).await, [80 - anew, anew, 0], "{anew}");
            yard.conserves_each(0..40, &format!("{anew} archived anew, and looked")).await;
            agrees(&yard, &anew).await;
        }
    }
    let notices = yard.store.list("archive/orders/_stillpoint/_reconciled/").await.unwrap();
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    assert_eq!(classes(&yard, LOOK).await, [0, 80, 0]);
    let after = yard.store.list("archive/orders/_stillpoint/_reconciled/").await.unwrap();
    assert_eq!(notices, after, "a run and a reconciliation write down the same");

    assert_eq!(yard.put_back().await.unwrap().inserted, 40);
    let note = "SELECT note FROM orders WHERE id = 1";
    assert_eq!(yard.shop.ask(note).await, ["changed"]);
}

/// Somebody was erased before the restore: what came back of them goes with the run that follows,
/// and their slice cannot be deleted again.
#[tokio::test(flavor = "multi_thread")]
async fn i15_who_was_erased_and_came_back_keeps_no_run_from_going_on() {
    let yard = restored(0).await;
    let places = [yard.place.clone()];
    let who = (None, "id", "3");
    let erased = erase(&places, &yard.world, who, ("asked", "test"), Erasing::IfFound);
    assert_eq!(Box::pin(erased).await.unwrap().rows, 1);
    go_back(&yard);
    let prunes = Reconciling { adopts: true, prunes: true, notes: false };
    let found = look(&yard, prunes).await;
    assert_eq!((found.pruned_rows, rows(&found.differing), rows(&found.live)), (30, 9, 9));
    assert_eq!(came_back(&found), ["1 of orders: id=3"]);
    assert_eq!(yard.live("orders").await, tokens(0..10));
    assert_eq!(yard.archived("orders").await, tokens(10..40));
    agrees(&yard, &"reconciled").await;

    for pruned in [10, 0] {
        let report = yard.run().await.unwrap();
        assert_eq!((report.pruned_rows, report.erased_rows), (pruned, pruned / 10), "{report:?}");
        assert_eq!(yard.live("orders").await, Vec::<String>::new());
        assert_eq!(yard.archived("orders").await, tokens((0..40).filter(|id| *id != 3)));
        agrees(&yard, &pruned).await;
        assert_eq!(classes(&yard, LOOK).await, [0, 9, 0]);
        assert_eq!(look(&yard, LOOK).await.erased, []);
    }
}

/// A shop with forty orders, of which one slice of ten is somebody's who was erased since.
async fn with_an_empty_slice() -> Yard<Sqlite> {
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..40, 0).await;
    let theirs = "UPDATE orders SET note = 'theirs' WHERE id BETWEEN 10 AND 19".to_owned();
    yard.shop.change(&[theirs]).await;
    let path = yard.shop.path();
    copy(&path, &path.with_extension("copy"));
    assert_eq!(yard.run().await.unwrap().pruned_rows, 40);
    let places = [yard.place.clone()];
    let who = (None, "note", "theirs");
    let erased = erase(&places, &yard.world, who, ("asked", "test"), Erasing::IfFound);
    assert_eq!(Box::pin(erased).await.unwrap().rows, 10);
    yard
}

/// Nothing of a slice can be forgotten of which no row is left: it keeps no run from going on, and
/// is not taken for one whose rows are others now.
#[tokio::test(flavor = "multi_thread")]
async fn i15_a_slice_of_which_no_row_is_left_keeps_no_run_from_going_on() {
    let others = || (0..10).chain(20..40);
    for prunes in [false, true] {
        let yard = with_an_empty_slice().await;
        go_back(&yard);
        let refused = yard.run().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        let found = look(&yard, Reconciling { adopts: true, prunes, notes: false }).await;
        let (pruned, left) = if prunes { (30, 0) } else { (0, 30) };
        assert_eq!((found.pruned_rows, rows(&found.live)), (pruned, left), "{found:?}");
        assert_eq!((found.differing.len(), found.unnoted.len()), (0, 0), "{found:?}");
        assert!(came_back(&found)[0].starts_with("10 of orders: id=10; id=11"), "{found:?}");
        for (moved, erased) in [(40 - pruned, 10), (0, 0)] {
            let report = yard.run().await.unwrap();
            assert_eq!((report.pruned_rows, report.erased_rows), (moved, erased), "{report:?}");
            assert_eq!(yard.live("orders").await, Vec::<String>::new());
            assert_eq!(yard.archived("orders").await, tokens(others()));
            assert_eq!(classes(&yard, LOOK).await, [0, left, 0]);
            agrees(&yard, &(prunes, moved)).await;
        }
    }
}

/// Where only the ledger was lost, it is noted again with the slices beside it.
#[tokio::test(flavor = "multi_thread")]
async fn i15_a_slice_of_which_no_row_is_left_is_noted_again_with_the_others() {
    let yard = with_an_empty_slice().await;
    yard.shop.change(&["DROP TABLE stillpoint_archive_ledger".to_owned()]).await;
    let found = look(&yard, LOOK).await;
    assert_eq!((found.unnoted.len(), rows(&found.unnoted)), (4, 30), "{found:?}");
    assert_eq!(look(&yard, Reconciling { notes: true, ..LOOK }).await.archived, (4, 30));
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    let found = look(&yard, LOOK).await;
    assert_eq!((found.archived, found.live.len()), ((4, 30), 0), "{found:?}");
    agrees(&yard, &"noted").await;
}

/// Which rows of the erased came back.
fn came_back(found: &Overlap) -> Vec<String> {
    let told = |one: &CameBack| format!("{} of {}: {}", one.rows, one.table, one.keys.join("; "));
    found.erased.iter().map(told).collect()
}

/// Nothing else finds who was erased and came back where no run selects their rows any more: they
/// are told until somebody deletes them, or the erasure is over. Where nothing lives again, a row
/// of theirs is one that was never archived.
#[tokio::test(flavor = "multi_thread")]
async fn i15_who_was_erased_and_came_back_is_told_until_they_are_gone() {
    let yard = restored(1).await;
    let another = |id| format!("INSERT INTO orders VALUES ({id}, 'new', 'open', 'note 3', 1)");
    yard.shop.change(&[another(3)]).await;
    let (places, mut ids) = ([yard.place.clone()], Vec::new());
    for who in [(None, "note", "note 3"), (Some("items"), "token", "i1700")] {
        let erased = erase(&places, &yard.world, who, ("asked", "test"), Erasing::IfFound);
        ids.extend(Box::pin(erased).await.unwrap().id);
    }
    assert_eq!(look(&yard, LOOK).await.erased, [], "nothing was restored");

    go_back(&yard);
    let open = "UPDATE orders SET state = 'open', amount = 7 WHERE id IN (3, 17)".to_owned();
    yard.shop.change(&[open, another(50)]).await;
    let both = ["1 of orders: id=3", "1 of items: id=1700"];
    let found = look(&yard, Reconciling { adopts: true, ..LOOK }).await;
    assert_eq!(came_back(&found), both, "{found:?}");
    assert!(found.erased.iter().map(|one| &one.erasure).eq(&ids), "{found:?}");

    assert!(yard.run().await.unwrap().quit.is_done());
    let found = look(&yard, LOOK).await;
    assert_eq!(came_back(&found), both, "no run selects them: {found:?}");
    revoke(&yard.place, &yard.world, &ids[1], ("a mistake", "test")).await.unwrap();
    assert_eq!(came_back(&look(&yard, LOOK).await), both[..1]);
    let gone = ["DELETE FROM items WHERE order_id = 3", "DELETE FROM orders WHERE id = 3"];
    yard.shop.change(&gone.map(str::to_owned)).await;
    assert_eq!(look(&yard, LOOK).await.erased, []);
}

/// Beyond what a run archived, rows of the erased are told only where its plan selects them: the
/// others there were never archived.
#[tokio::test(flavor = "multi_thread")]
async fn i15_rows_of_the_erased_that_were_never_archived_are_not_told() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..40, 0).await;
    let never = |id| format!("INSERT INTO orders VALUES ({id}, 'new {id}', 'open', 'theirs', 1)");
    let theirs = "UPDATE orders SET note = 'theirs' WHERE id IN (0, 19, 20, 39)".to_owned();
    yard.shop.change(&[theirs, never(-5), never(60)]).await;
    let path = yard.shop.path();
    copy(&path, &path.with_extension("copy"));
    for rows_max in [Some(20), None] {
        yard.limits.rows_max = rows_max;
        assert_eq!(yard.run().await.unwrap().pruned_rows, 20);
    }
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let batches: Vec<usize> = shelf.runs.iter().map(|run| run.batches.len()).collect();
    assert_eq!(batches, [2]);
    let places = [yard.place.clone()];
    let who = (None, "note", "theirs");
    let erased = erase(&places, &yard.world, who, ("asked", "test"), Erasing::IfFound);
    assert_eq!(Box::pin(erased).await.unwrap().rows, 4);

    go_back(&yard);
    // Between two batches, all of them are known.
    yard.shop.change(&["UPDATE orders SET state = 'open' WHERE id IN (19, 20)".to_owned()]).await;
    let found = look(&yard, Reconciling { adopts: true, ..LOOK }).await;
    let [told] = &*found.erased else { panic!("{found:?}") };
    let mut keys = told.keys.clone();
    keys.sort();
    assert_eq!((told.rows, &*keys.join(", ")), (4, "id=0, id=19, id=20, id=39"), "{found:?}");
}

/// What somebody deletes after a restore is no lost ledger either, and does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn i15_rows_that_are_deleted_after_a_restore_stay_deleted() {
    let yard = restored(0).await;
    go_back(&yard);
    assert_eq!(classes(&yard, Reconciling { adopts: true, ..LOOK }).await, [40, 0, 0]);
    yard.shop.change(&["DELETE FROM orders WHERE id < 10".to_owned()]).await;
    assert_eq!(classes(&yard, LOOK).await, [30, 0, 10]);
    assert_eq!(yard.run().await.unwrap().pruned_rows, 30);
    for may in [LOOK, Reconciling { notes: true, prunes: true, ..LOOK }] {
        assert_eq!(classes(&yard, may).await, [0, 30, 10]);
        assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
        assert_eq!(yard.archived("orders").await, tokens(10..40));
        agrees(&yard, &may).await;
    }
}

/// Counts transactions that delete, and rests.
#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    rests: AtomicU64,
}

impl Witness for Counts {
    fn see(&self, step: &Step) {
        match step {
            Step::Begun => {
                self.begun.fetch_add(1, Ordering::Relaxed);
            }
            Step::Resting { .. } => {
                self.rests.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// Nothing is deleted again; why.
async fn leaves(yard: &Yard<Sqlite>) -> String {
    let (counts, may) = (Counts::default(), Reconciling { prunes: true, ..LOOK });
    let found = yard.reconcile_seen(may, &counts).await.unwrap();
    assert_eq!(counts.begun.load(Ordering::Relaxed), 0, "{found:?}");
    assert_eq!((found.pruned_rows, rows(&found.live)), (0, 40), "{found:?}");
    assert_eq!(yard.live("orders").await.len(), 40);
    let [Left { why, rows: 40 }] = &*found.left else { panic!("{found:?}") };
    why.clone()
}

/// Invariant 13: what keeps a run from deleting rows keeps them in their table here, too, and is
/// told; once it is over, the same rows go.
#[tokio::test(flavor = "multi_thread")]
async fn i13_no_row_is_deleted_again_that_no_run_might_delete() {
    let mut yard = restored(0).await;
    go_back(&yard);
    yard.world.clock = TestClock::new();
    assert_eq!(classes(&yard, Reconciling { adopts: true, ..LOOK }).await, [40, 0, 0]);

    yard.gates = vec![Box::new(Aged(Duration::from_hours(1_000_000)))];
    let why = leaves(&yard).await;
    assert!(
        why.contains("may not be deleted yet") && why.contains("kept beside the rows"),
        "{why}"
    );
    yard.gates.clear();

    let now = yard.world.clock.now();
    yard.limits.until = Some(now);
    assert_eq!(leaves(&yard).await, "its time is over");
    yard.limits.until = None;
    let (days, from) = (vec![(now + TimeDelta::days(2)).weekday()], NaiveTime::MIN);
    let to = from + TimeDelta::hours(1);
    yard.rule.windows = vec![Window { days, from, to, zone: None }];
    let why = leaves(&yard).await;
    assert!(why.contains("its window is closed until"), "{why}");
    yard.rule.windows.clear();

    tell(&yard.place, &yard.world, "dba", |told| told.is_paused = true).await.unwrap();
    let why = leaves(&yard).await;
    assert_eq!(why, "dba paused it; to go on: stillpoint archive resume orders");
    tell(&yard.place, &yard.world, "dba", |told| told.is_paused = false).await.unwrap();

    // Ten rows are a slice, and a second's worth.
    yard.rule.throttle.dead_rows_per_hour = Some(36_000);
    let (counts, may) = (Counts::default(), Reconciling { prunes: true, ..LOOK });
    let found = yard.reconcile_seen(may, &counts).await.unwrap();
    assert_eq!((found.pruned_rows, found.live.len(), found.left.len()), (40, 0, 0), "{found:?}");
    assert_eq!(counts.begun.load(Ordering::Relaxed), 4);
    assert!(counts.rests.load(Ordering::Relaxed) >= 3, "{counts:?}");
    assert_eq!(yard.live("orders").await, Vec::<String>::new());
    assert_eq!(yard.archived("orders").await, tokens(0..40));
    agrees(&yard, &"deleted again").await;
}

/// It would rest for ever, with the lock of the set.
#[tokio::test(flavor = "multi_thread")]
async fn i13_no_row_is_deleted_again_where_nobody_can_tell_whether_a_limit_is_kept() {
    let mut yard = restored(0).await;
    go_back(&yard);
    yard.world.clock = TestClock::new();
    // Should it rest all the same, that ends.
    yard.limits.until = Some(yard.world.clock.now() + TimeDelta::hours(1));
    yard.rule.throttle.active = Some(1);
    let prunes = Reconciling { adopts: true, prunes: true, notes: false };
    let error = yard.reconcile(prunes).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::ROWS_REFUSED), "{error:?}");
    let next = "leave max_threads_running out of throttle of [archive.orders]";
    assert!(error.advice().iter().any(|one| one.contains(next)), "{error:?}");
    assert_eq!(yard.live("orders").await.len(), 40);
    // Nothing was changed, and whoever only looks needs no limits.
    assert_eq!(yard.reconcile(LOOK).await.unwrap_err().code(), code::FOREIGN_DATABASE);
    assert_eq!(classes(&yard, Reconciling { adopts: true, ..LOOK }).await, [40, 0, 0]);

    yard.rule.throttle.active = None;
    let found = look(&yard, prunes).await;
    assert_eq!((found.pruned_rows, found.live.len()), (40, 0), "{found:?}");
    assert_eq!(yard.live("orders").await, Vec::<String>::new());
}
