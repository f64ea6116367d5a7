//! A store that fails on schedule.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::pending,
    ops::Range,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::sync::watch;

use super::{Deleted, Dice, Key, Listed, Put, Store};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request never reaches the store and fails with this kind.
    Fail(ErrorKind),
    /// The request is done, but its answer is lost: the caller sees `Transient`.
    LoseAnswer,
    /// The request is delivered twice; the caller sees the second answer.
    Twice,
    /// One bit of what a read answers is flipped. No effect on other calls.
    FlipBit,
    /// The process dies before the call: it never happens, and no call ever returns again.
    Stop,
    /// The process dies after the call: it happens, and no call ever returns again.
    StopAfter,
}

/// How often calls suffer each fault, in 256ths, drawn from the seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// [`Fault::Fail`] with `Transient`.
    pub fail: u8,
    /// [`Fault::LoseAnswer`].
    pub lose_answer: u8,
    /// [`Fault::Twice`].
    pub twice: u8,
    /// [`Fault::FlipBit`].
    pub flip_bit: u8,
    /// Other tasks run first, up to three times.
    pub pause: u8,
}

/// One call that reached the wrapper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub verb: &'static str,
    /// The name or prefix it was called with.
    pub name: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.name)
    }
}

/// Calls kept in the trace; older ones are forgotten.
const TRACE_CALLS_MAX: usize = 1 << 16;

/// Wraps a store and lets calls fail, by plan (numbered from 0) or by seeded chance.
///
/// Wrap an `Arc` of the store to look at it from outside, or to open it again after
/// [`Fault::Stop`].
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    dice: Dice,
    plan: Mutex<Plan>,
    stopped: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    trace: VecDeque<Call>,
    once: BTreeMap<u64, Fault>,
    from: Option<(u64, Fault)>,
    rates: Rates,
    list_lag_calls: u64,
    created: VecDeque<(u64, Key)>,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps `inner`; nothing fails yet, and what is drawn later is drawn from `seed`.
    pub fn new(inner: S, seed: u64) -> Self {
        let (stopped, _) = watch::channel(false);
        Self { inner, dice: Dice::new(seed), plan: Mutex::default(), stopped }
    }

    /// Lets calls fail by chance.
    pub fn with_rates(self, rates: Rates) -> Self {
        self.plan().rates = rates;
        self
    }

    /// Lets every listing miss what was created in the last `calls` calls.
    pub fn with_stale_lists(self, calls: u64) -> Self {
        self.plan().list_lag_calls = calls;
        self
    }

    /// Plans a fault for one call.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        self.plan().once.insert(call, fault);
    }

    /// Plans a fault for every call from one on.
    pub fn fault_from(&self, call: u64, fault: Fault) {
        self.plan().from = Some((call, fault));
    }

    /// Lets nothing fail any more. What is stopped stays stopped.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.once.clear();
        plan.from = None;
        plan.rates = Rates::default();
        plan.list_lag_calls = 0;
    }

    /// How many calls were made so far, which is the number of the next one.
    pub fn calls(&self) -> u64 {
        self.plan().calls
    }

    /// The calls made so far, oldest first, up to the last 65,536.
    pub fn trace(&self) -> Vec<Call> {
        self.plan().trace.iter().cloned().collect()
    }

    /// Waits until a [`Fault::Stop`] or [`Fault::StopAfter`] has struck. Race the task against
    /// this, and drop it when this wins.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no holder of this lock can panic")
    }

    /// Numbers a call and draws its fate.
    async fn begin(&self, verb: &'static str, name: &str) -> Option<Fault> {
        if *self.stopped.borrow() {
            return Some(Fault::Stop);
        }
        let (fault, pauses) = {
            let mut plan = self.plan();
            let fault = plan.next(Call { verb, name: name.to_owned() }, &self.dice);
            let pauses = if self.dice.happens(plan.rates.pause) { self.dice.below(4) } else { 0 };
            (fault, pauses)
        };
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        fault
    }

    async fn deliver<T, R>(&self, fault: Option<Fault>, request: impl Fn() -> R) -> Result<T>
    where
        R: Future<Output = Result<T>>,
    {
        match fault {
            None | Some(Fault::FlipBit) => request().await,
            Some(Fault::Fail(kind)) => Err(injected(kind, "reach the store")),
            Some(Fault::LoseAnswer) => {
                request().await?;
                Err(injected(ErrorKind::Transient, "hear from the store"))
            }
            Some(Fault::Twice) => {
                request().await?;
                request().await
            }
            Some(Fault::Stop) => self.stop().await,
            Some(Fault::StopAfter) => {
                let _ = request().await;
                self.stop().await
            }
        }
    }

    async fn stop<T>(&self) -> T {
        self.stopped.send_replace(true);
        pending().await
    }

    fn flip(&self, bytes: &Bytes) -> Bytes {
        let mut flipped = bytes.to_vec();
        let bit = self.dice.below(flipped.len() * 8);
        if let Some(byte) = flipped.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        flipped.into()
    }
}

impl Plan {
    fn next(&mut self, call: Call, dice: &Dice) -> Option<Fault> {
        let number = self.calls;
        self.calls += 1;
        if self.trace.len() == TRACE_CALLS_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(call);
        let lasting = self.from.filter(|(from, _)| number >= *from).map(|(_, fault)| fault);
        let drawn = [
            (self.rates.fail, Fault::Fail(ErrorKind::Transient)),
            (self.rates.lose_answer, Fault::LoseAnswer),
            (self.rates.twice, Fault::Twice),
            (self.rates.flip_bit, Fault::FlipBit),
        ]
        // Every rate is rolled, so that one seed means one sequence whatever happens.
        .map(|(rate, fault)| dice.happens(rate).then_some(fault));
        self.once.remove(&number).or(lasting).or(drawn.into_iter().flatten().next())
    }

    /// Whether a listing made now still misses `key`.
    fn hides(&mut self, key: &Key) -> bool {
        let (now, lag) = (self.calls, self.list_lag_calls);
        while self.created.front().is_some_and(|(call, _)| call + lag < now) {
            self.created.pop_front();
        }
        self.created.iter().any(|(_, created)| created == key)
    }
}

fn injected(kind: ErrorKind, step: &'static str) -> Error {
    let code = match kind {
        ErrorKind::Exhausted => code::STORE_FULL,
        ErrorKind::Denied => code::STORE_DENIED,
        ErrorKind::Corrupt => code::CORRUPT_OBJECT,
        _ => code::STORE_UNREACHABLE,
    };
    Error::new(kind, code, step).why("the fault was injected by a test")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for FaultyStore<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        let fault = self.begin("create", key.as_str()).await;
        let put = self.deliver(fault, || self.inner.create(key, bytes.clone())).await;
        let mut plan = self.plan();
        if plan.list_lag_calls > 0 {
            let call = plan.calls;
            plan.created.push_back((call, key.clone()));
        }
        put
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        let fault = self.begin("read", key.as_str()).await;
        let found = self.deliver(fault, || self.inner.read(key, limit_bytes)).await?;
        Ok(if fault == Some(Fault::FlipBit) { found.map(|b| self.flip(&b)) } else { found })
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let fault = self.begin("read_range", key.as_str()).await;
        let found = self.deliver(fault, || self.inner.read_range(key, range.clone())).await?;
        Ok(if fault == Some(Fault::FlipBit) { found.map(|b| self.flip(&b)) } else { found })
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let fault = self.begin("list", prefix).await;
        let mut listed = self.deliver(fault, || self.inner.list(prefix)).await?;
        let mut plan = self.plan();
        listed.retain(|object| !plan.hides(&object.key));
        Ok(listed)
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.inner.top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        let fault = self.begin("delete", key.as_str()).await;
        self.deliver(fault, || self.inner.delete(key)).await
    }
}
