//! Time that passes only when nothing else is left to do.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stillpoint_contract::Clock;

use crate::support::world::runtime;

/// Turns of what runs beside the main task before it counts as idle, where anything does.
pub(super) const TURNS: usize = 4;

/// The time of a whole simulation.
#[derive(Debug)]
pub(super) struct Time {
    start: DateTime<Utc>,
    timers: Mutex<Timers>,
}

#[derive(Debug, Default)]
struct Timers {
    elapsed: Duration,
    drawn: u64,
    waiting: BTreeMap<(Duration, u64), Waker>,
}

/// Waits for an instant.
#[derive(Debug)]
pub(super) struct Sleep<'a> {
    time: &'a Time,
    until: Duration,
    timer: Option<(Duration, u64)>,
    /// Whom the timer wakes.
    waker: Option<Waker>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (time, until) = (self.time, self.until);
        let mut timers = time.timers();
        if until <= timers.elapsed {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return Poll::Pending;
        }
        let timer = *self.timer.get_or_insert_with(|| {
            timers.drawn += 1;
            (until, timers.drawn)
        });
        let waker = context.waker().clone();
        timers.waiting.insert(timer, waker.clone());
        self.waker = Some(waker);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.time.timers().waiting.remove(&timer);
        }
    }
}

/// A clock that may be wrong.
#[derive(Debug)]
pub(super) struct Watch {
    time: Arc<Time>,
    wrong_by_micros: AtomicI64,
}

impl Time {
    pub(super) fn new(start: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self { start, timers: Mutex::default() })
    }

    fn timers(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.timers().elapsed
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.start + self.elapsed()
    }

    pub(super) fn sleep(&self, duration: Duration) -> Sleep<'_> {
        Sleep { time: self, until: self.elapsed() + duration, timer: None, waker: None }
    }

    /// Goes on to whatever is waited for next.
    fn pass(&self) {
        let mut timers = self.timers();
        let first = timers.waiting.pop_first();
        let ((until, _), waker) = first.expect("somebody waits for a time");
        timers.elapsed = timers.elapsed.max(until);
        drop(timers);
        waker.wake();
    }
}

impl Watch {
    pub(super) fn of(time: &Arc<Time>) -> Arc<Self> {
        Arc::new(Self { time: Arc::clone(time), wrong_by_micros: AtomicI64::new(0) })
    }

    pub(super) fn go_wrong(&self, by: TimeDelta) {
        self.wrong_by_micros.store(by.num_microseconds().unwrap(), Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for Watch {
    fn now(&self) -> DateTime<Utc> {
        self.time.now() + TimeDelta::microseconds(self.wrong_by_micros.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        self.time.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        self.time.sleep(duration).await;
    }
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a task to its end. Time passes whenever it can do nothing more, to the next instant for
/// which anybody waits; so the same task goes the same way each time. What runs beside it has so
/// many turns before.
pub(super) fn live<T>(time: &Time, turns_max: usize, task: impl Future<Output = T>) -> T {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let woken = || flag.0.swap(false, Ordering::Relaxed);
    runtime().block_on(async {
        // Otherwise it would have to wait for turns of its own after so many steps.
        let mut task = pin!(tokio::task::unconstrained(task));
        loop {
            if let Poll::Ready(done) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
                return done;
            }
            let mut turns = 0;
            while !woken() {
                if turns < turns_max {
                    turns += 1;
                    tokio::task::yield_now().await;
                } else {
                    time.pass();
                }
            }
        }
    })
}
