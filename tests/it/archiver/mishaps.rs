//! Invariant 14: clocks that jump, and sessions that end under a run and let another one in.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stillpoint::{
    archiver::{Place, RunReport, Step, Witness, expire},
    policy::{Period, PeriodUnit},
    world::SystemClock,
};
use stillpoint_contract::{Clock, Result};
use tokio::runtime::Handle;

use super::{
    chaos::Impatient,
    shop::{InPostgres, Shop, Sqlite, Yard},
};

/// A clock that somebody sets, whose waits are over at once.
#[derive(Debug, Default)]
struct Settable {
    days_ahead: AtomicI64,
}

impl Settable {
    fn set(&self, days_ahead: i64) {
        self.days_ahead.store(days_ahead, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for Settable {
    fn now(&self) -> DateTime<Utc> {
        SystemClock::new().now() + TimeDelta::days(self.days_ahead.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _duration: Duration) {
        tokio::task::yield_now().await;
    }
}

/// Sets a clock at a step.
#[derive(Debug)]
struct Setter<'a> {
    clock: &'a Settable,
    days_ahead: i64,
    steps_left: AtomicI64,
}

impl Witness for Setter<'_> {
    fn see(&self, _step: &Step) {
        if self.steps_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.clock.set(self.days_ahead);
        }
    }
}

/// Archives while the clock is set wrong at a step, before the first one where that is 0; sets it
/// right, and archives again. Whether there was such a step.
async fn jump<S: Shop>(shop: S, days_ahead: i64, step: i64) -> bool {
    let at = format!("{days_ahead} days at step {step}");
    let clock = Arc::new(Settable::default());
    let mut yard = Yard::new(shop, true);
    yard.world.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    yard.rule.slice_rows = 3;
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.fill(0..5, 1).await;
    if step == 0 {
        clock.set(days_ahead);
    }
    let steps_left = AtomicI64::new(step);
    let setter = Setter { clock: &clock, days_ahead, steps_left };
    let first = yard.run_seen(&setter).await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
    assert!(first.quit.is_done() && first.pruned_rows == 10, "{at}: {first:?}");
    let was_set = setter.steps_left.load(Ordering::Relaxed) <= 0;

    clock.set(0);
    yard.fill(10..13, 1).await;
    let ids = || (0..5).chain(10..13);
    yard.conserves_each(ids(), &at).await;
    let second = yard.run().await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
    assert!(second.quit.is_done() && second.pruned_rows == 6, "{at}: {second:?}");
    yard.conserves_each(ids(), &at).await;
    yard.agrees(16, &at).await;

    // They are kept for a month from when they were written, whatever clock was asked then.
    let places: [Place; 1] = [yard.place.clone()];
    let now = yard.world.clock.now();
    let expiry = Box::pin(expire(&places, &yard.world, &yard.rule, now, false)).await.unwrap();
    assert_eq!(expiry.batches, [], "{at}");
    yard.conserves_each(ids(), &at).await;
    was_set
}

#[tokio::test(flavor = "multi_thread")]
async fn i14_clocks_that_jump_lose_no_row_of_sqlite() {
    for days_ahead in [40, -40] {
        let mut step = 0;
        while jump(Sqlite::new().await, days_ahead, step).await {
            step += 1;
        }
        assert!(step > 10, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i14_clocks_that_jump_lose_no_row_of_postgresql() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for days_ahead in [40, -40] {
        // Before anything, once files are durable, and amid a transaction.
        for step in [0, 3, 5] {
            shop.reset().await;
            assert!(jump(&shop, days_ahead, step).await);
        }
    }
}

/// At a step, ends the session that keeps others out, and lets another run do all that is left.
struct Usurper<'a> {
    yard: &'a Yard<&'a InPostgres>,
    steps_left: AtomicI64,
    other: Mutex<Option<Result<RunReport>>>,
}

impl fmt::Debug for Usurper<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Usurper")
    }
}

impl Witness for Usurper<'_> {
    fn see(&self, _step: &Step) {
        if self.steps_left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        let usurp = async {
            let end = "SELECT pg_terminate_backend(pid)::text FROM pg_locks
                WHERE locktype = 'advisory' AND granted";
            assert_eq!(self.yard.shop.ask(end).await, ["true"]);
            let other = Box::pin(self.yard.run()).await;
            *self.other.lock().unwrap() = Some(other);
        };
        tokio::task::block_in_place(|| Handle::current().block_on(usurp));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i14_a_run_whose_lock_is_lost_to_another_one_moves_nothing_twice() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let mut step = 0;
    loop {
        step += 1;
        shop.reset().await;
        let mut yard = Yard::new(&shop, true);
        yard.world.clock = Arc::new(Impatient);
        yard.rule.slice_rows = 3;
        yard.fill(0..5, 1).await;
        let steps_left = AtomicI64::new(step);
        let usurper = Usurper { yard: &yard, steps_left, other: Mutex::default() };
        let first = yard.run_seen(&usurper).await;
        let at = format!("lost at step {step}: {first:?}");
        let Some(other) = usurper.other.into_inner().unwrap() else {
            assert!(first.unwrap().quit.is_done());
            break;
        };
        let other = other.unwrap_or_else(|e| panic!("{at}: {e:?}"));
        assert!(other.quit.is_done(), "{at}: {other:?}");
        // The first one goes on, and finds nothing to do, or is refused; a third one has no work.
        let last = yard.run().await.unwrap_or_else(|e| panic!("{at}: {e:?}"));
        assert!(last.quit.is_done() && last.pruned_rows == 0, "{at}: {last:?}");
        yard.conserves_each(0..5, &at).await;
        assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (0, 0));
        yard.agrees(10, &at).await;
    }
    assert!(step > 10, "{step}");
}
