//! What repositories hold, counted from time to time for whoever measures it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stillpoint_contract::Clock;
use tokio::sync::watch;

use crate::{coordinator::Fleet, repository::Stats};

/// What repositories hold, by name.
pub(super) type Stocks = BTreeMap<String, Stats>;

/// Repositories are looked at so often.
const PERIOD: Duration = Duration::from_secs(5);

/// Log comes without an entry: a count is that old at most.
const AGE_MAX: Duration = Duration::from_hours(1);

/// Counting takes no more than one part in so many of the time.
const SHARE: u32 = 100;

/// Counts, for ever.
#[derive(Debug, Default)]
pub(super) struct StockTaking {
    taken: Mutex<Stocks>,
}

/// When a repository was counted.
struct Counted {
    at: Duration,
    took: Duration,
    /// How many entries its log had.
    entries: u64,
}

impl StockTaking {
    /// What was counted last.
    pub(super) fn taken(&self) -> Stocks {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts each repository when its log has grown.
    pub(super) async fn run(&self, clock: &dyn Clock, fleets: &watch::Receiver<Arc<Fleet>>) {
        let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
        loop {
            let fleet = Arc::clone(&fleets.borrow());
            for (name, repository) in &fleet.repositories {
                let at = clock.elapsed();
                let Ok(history) = repository.history().await else { continue };
                let entries = history.head().seq;
                drop(history);
                let is_due = counted.get(name).is_none_or(|last| {
                    let age = at.saturating_sub(last.at);
                    let has_changed = last.entries != entries || AGE_MAX <= age;
                    has_changed && last.took * SHARE <= age
                });
                if !is_due {
                    continue;
                }
                // Where it cannot be counted, what was counted before is told no longer.
                let stats = repository.stats().await.ok();
                let took = clock.elapsed().saturating_sub(at);
                counted.insert(name.clone(), Counted { at, took, entries });
                let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                match stats {
                    Some(stats) => taken.insert(name.clone(), stats),
                    None => taken.remove(name),
                };
            }
            self.taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|name, _| fleet.repositories.contains_key(name));
            clock.sleep(PERIOD).await;
        }
    }
}
