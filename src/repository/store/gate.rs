//! Tasks that share a store, interleaved by a test, one store call at a time.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use stillpoint_contract::Result;
use tokio::sync::{oneshot, watch};

use super::{Deleted, Key, Listed, Put, Store};

/// Decides whose store call happens next.
///
/// Each actor (a writer, a collector) gets its own [`store`](Self::store), and every call on it
/// waits until it is admitted. On a current-thread runtime the order of admissions fixes the
/// whole run, so a failing interleaving can be repeated. Clones share one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<State>);

/// A call that waits to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who calls.
    pub actor: String,
    /// What is called, such as `create log/42`.
    pub operation: String,
    ticket: u64,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.actor, self.operation)
    }
}

#[derive(Debug, Default)]
struct State {
    queue: Mutex<Queue>,
    /// Counts changes of the queue, so that a scheduler can wait for the next one.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    waiting: BTreeMap<u64, (Waiting, oneshot::Sender<()>)>,
    /// Calls that were admitted and have not returned.
    running: usize,
    /// Actors, with the number of their stores that are still held.
    live: BTreeMap<String, usize>,
}

impl Gate {
    /// A gate without actors.
    pub fn new() -> Self {
        Self::default()
    }

    /// The store as `actor` sees it. The actor lives until the last such store is dropped, so
    /// move it into the actor's task.
    pub fn store<S: Store>(&self, actor: impl Into<String>, inner: S) -> GatedStore<S> {
        let actor = actor.into();
        self.change(|queue| *queue.live.entry(actor.clone()).or_default() += 1);
        GatedStore { inner, gate: self.clone(), actor }
    }

    /// The calls that wait, oldest first.
    pub fn waiting(&self) -> Vec<Waiting> {
        self.queue().waiting.values().map(|(waiting, _)| waiting.clone()).collect()
    }

    /// Lets a call happen. Answers whether it still waited.
    pub fn admit(&self, waiting: &Waiting) -> bool {
        self.change(|queue| {
            let Some((_, admission)) = queue.waiting.remove(&waiting.ticket) else { return false };
            queue.running += 1;
            // The caller may just have been dropped; its `Turn` puts the count right.
            let _ = admission.send(());
            true
        })
    }

    /// Waits until no admitted call is under way and every live actor waits, and answers the
    /// calls that wait. None means that all actors are done.
    pub async fn quiet(&self) -> Vec<Waiting> {
        let mut changes = self.0.changes.subscribe();
        while !self.queue().is_quiet() {
            // The sender lives as long as this gate.
            let _ = changes.changed().await;
        }
        self.waiting()
    }

    /// Admits one call after the other, as `choose` picks them by index, until all actors are done
    /// or `choose` answers `None`. Answers what was admitted, for messages.
    pub async fn run(&self, mut choose: impl FnMut(&[Waiting]) -> Option<usize>) -> Vec<Waiting> {
        let mut admitted = Vec::new();
        loop {
            let waiting = self.quiet().await;
            if waiting.is_empty() {
                return admitted;
            }
            let Some(chosen) = choose(&waiting).and_then(|index| waiting.get(index)) else {
                return admitted;
            };
            self.admit(chosen);
            admitted.push(chosen.clone());
        }
    }

    async fn pass(&self, actor: &str, operation: String) -> Turn {
        let (admission, admitted) = oneshot::channel();
        let turn = self.change(|queue| {
            let ticket = queue.next_ticket;
            queue.next_ticket += 1;
            let waiting = Waiting { actor: actor.to_owned(), operation, ticket };
            queue.waiting.insert(ticket, (waiting, admission));
            Turn { gate: self.clone(), ticket }
        });
        // The sender is dropped only after it has sent.
        let _ = admitted.await;
        turn
    }

    fn change<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        let done = act(&mut self.queue());
        self.0.changes.send_modify(|count| *count += 1);
        done
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().expect("no holder of this lock can panic")
    }
}

impl Queue {
    fn is_quiet(&self) -> bool {
        let waits = |actor: &String| self.waiting.values().any(|(w, _)| w.actor == *actor);
        self.running == 0 && self.live.keys().all(waits)
    }
}

/// A call on its way; dropping it, done or cancelled, takes it out of the books.
#[derive(Debug)]
struct Turn {
    gate: Gate,
    ticket: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.change(|queue| {
            if queue.waiting.remove(&self.ticket).is_none() {
                queue.running -= 1;
            }
        });
    }
}

/// A store whose every call waits at a [`Gate`].
#[derive(Debug)]
pub struct GatedStore<S> {
    inner: S,
    gate: Gate,
    actor: String,
}

impl<S> Drop for GatedStore<S> {
    fn drop(&mut self) {
        self.gate.change(|queue| {
            let held = queue.live.remove(&self.actor).unwrap_or_default();
            if held > 1 {
                queue.live.insert(self.actor.clone(), held - 1);
            }
        });
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for GatedStore<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        let _turn = self.gate.pass(&self.actor, format!("create {key}")).await;
        self.inner.create(key, bytes).await
    }

    async fn read(&self, key: &Key, limit_bytes: u64) -> Result<Option<Bytes>> {
        let _turn = self.gate.pass(&self.actor, format!("read {key}")).await;
        self.inner.read(key, limit_bytes).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        let _turn = self.gate.pass(&self.actor, format!("read_range {key}")).await;
        self.inner.read_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let _turn = self.gate.pass(&self.actor, format!("list {prefix}")).await;
        self.inner.list(prefix).await
    }

    async fn top(&self) -> Result<Vec<String>> {
        self.inner.top().await
    }

    async fn delete(&self, key: &Key) -> Result<Deleted> {
        let _turn = self.gate.pass(&self.actor, format!("delete {key}")).await;
        self.inner.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::{MemoryStore, Schedule},
        *,
    };

    /// A read followed by a write, by two actors: all six interleavings, and no others.
    #[tokio::test]
    async fn an_exhaustive_schedule_runs_every_interleaving_once() {
        let mut schedule = Schedule::exhaustive();
        let mut seen = BTreeSet::new();
        loop {
            let gate = Gate::new();
            let memory = Arc::new(MemoryStore::default());
            let mut tasks = Vec::new();
            for actor in ["a", "b"] {
                let store = gate.store(actor, Arc::clone(&memory));
                tasks.push(tokio::spawn(async move {
                    let key = Key::new("log/1").unwrap();
                    let seen = store.read(&key, 9).await.unwrap().is_some();
                    (seen, store.create(&key, actor.into()).await.unwrap())
                }));
            }
            let ran = gate.run(|waiting| Some(schedule.pick(waiting.len()))).await;
            let order: Vec<_> = ran.iter().map(ToString::to_string).collect();
            assert!(seen.insert(order.clone()), "{order:?} twice");

            let mut created = 0;
            for task in tasks {
                let (saw, put) = task.await.unwrap();
                created += usize::from(put == Put::Created);
                assert!(!(saw && put == Put::Created), "{order:?}");
            }
            assert_eq!(created, 1, "{order:?}");
            if !schedule.advance() {
                break;
            }
        }
        assert_eq!(seen.len(), 6);
    }

    #[tokio::test]
    async fn a_dropped_call_leaves_the_queue() {
        let gate = Gate::new();
        let store = gate.store("a", MemoryStore::default());
        let call = tokio::spawn(async move { store.list("").await });
        assert_eq!(gate.quiet().await.len(), 1);
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert!(gate.quiet().await.is_empty());
    }
}
