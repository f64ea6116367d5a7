//! Clocks that are ahead, and are set right: what was done last is the newest all the same.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use stillpoint::archiver::{
    Control, Reconciling, Shelf, Wanted, control, events, find, record, tell,
};

use super::{
    returns::{copy, replace},
    shop::{InPostgres, Shop, Sqlite, Yard},
};
use crate::support::world::{TestClock, world_at};

/// Rows come back as they were archived last, by whatever clock that was.
async fn newest<S: Shop>(mut yard: Yard<S>) {
    let orders = yard.shop.table("orders");
    yard.fill(0..3, 0).await;
    for days in [40, 0, -40, 30] {
        yard.world.clock = TestClock::skewed(days);
        let note = format!("by the clock of {days}");
        yard.shop.change(&[format!("UPDATE {orders} SET note = '{note}'")]).await;
        assert!(yard.run().await.unwrap().quit.is_done(), "{days}");
        assert_eq!(yard.live("orders").await, Vec::<String>::new(), "{days}");
        yard.put_back().await.unwrap();
        let found = yard.shop.ask(&format!("SELECT note FROM {orders}")).await;
        assert_eq!(found, [&*note; 3], "{days}");
    }
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let made: Vec<_> = shelf.runs.iter().map(|run| run.plan.made).collect();
    assert!(made.len() == 4 && made.is_sorted(), "by the database's clock: {made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_run_is_the_last_one_on_sqlite() {
    newest(Yard::new(Sqlite::new().await, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_run_is_the_last_one_on_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    newest(Yard::new(shop, false)).await;
}

/// How many rows are seen by whoever cannot ask the database.
async fn seen(yard: &Yard<Sqlite>) -> u64 {
    let wanted = Wanted::default();
    let found = find(&yard.place, &yard.world.cpu, &wanted, None, async |_| Ok(()));
    Box::pin(found).await.unwrap()
}

/// A copy of the database takes its place, by a clock that is ahead, and is followed by the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_reconciliation_and_adoption_are_the_last_ones() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    let path = yard.shop.path();
    let (held, clone) = (path.with_extension("held"), path.with_extension("copy"));
    copy(&path, &clone);
    assert!(yard.run().await.unwrap().quit.is_done());
    copy(&path, &held);

    replace(&clone, &path);
    yard.world.clock = TestClock::skewed(40);
    let adopts = Reconciling { adopts: true, ..Reconciling::default() };
    let found = yard.reconcile(adopts).await.unwrap();
    assert_eq!((found.live.len(), seen(&yard).await), (2, 0), "{found:?}");
    yard.world.clock = TestClock::new();
    let prunes = Reconciling { prunes: true, ..adopts };
    let found = yard.reconcile(prunes).await.unwrap();
    assert_eq!((found.pruned_rows, seen(&yard).await), (20, 20), "{found:?}");
    assert_eq!(yard.live("orders").await, Vec::<String>::new());

    replace(&held, &path);
    assert!(yard.run().await.is_err(), "it is another table again");
    yard.reconcile(adopts).await.unwrap();
    assert!(yard.run().await.unwrap().quit.is_done());
    assert_eq!((yard.archived("orders").await.len(), seen(&yard).await), (20, 20));
}

/// Two hosts, one of whose clocks is a minute ahead.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_spoke_last_is_heard() {
    let yard = Yard::new(Sqlite::new().await, false);
    let (fast, slow) = (TestClock::new(), TestClock::new());
    fast.advance(60);
    let (fast, slow) = (world_at(fast, 1), world_at(slow, 2));
    let place = &yard.place;
    for number in 0..4 {
        let pause = tell(place, &fast, "fast", |told| told.is_paused = true).await.unwrap();
        assert_eq!(control(place).await.unwrap(), pause, "{number}");
        let change = |told: &mut Control| {
            told.is_paused = false;
            told.said.nice_percent = Some(number);
        };
        let resume = tell(place, &slow, "slow", change).await.unwrap();
        assert_eq!(control(place).await.unwrap(), resume, "{number}");
        assert!(!resume.is_paused && resume.by == "slow");
    }
    // At once, either may be heard; it is the same one for everybody.
    let one = tell(place, &fast, "fast", |told| told.is_paused = true);
    let other = tell(place, &slow, "slow", |told| told.is_paused = false);
    let (one, other) = tokio::join!(one, other);
    let heard = control(place).await.unwrap();
    assert!(heard == one.unwrap() || heard == other.unwrap(), "{heard:?}");
    assert_eq!(control(place).await.unwrap(), heard);

    // Of several days of one event, the last one that was recorded counts.
    let about = ("closed_at", "note", "A");
    for (world, on) in [(&fast, "2030-03-31"), (&slow, "2019-03-31"), (&slow, "2021-03-31")] {
        let on = on.parse().unwrap();
        record(place, world, about, on, ("account closed", "dba")).await.unwrap();
        assert_eq!(events(place).await.unwrap().last().map(|event| event.on), Some(on));
    }
}
