//! Invariants 1 to 3: whatever writers do, and wherever a run is killed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics has failed, and says what it tried"
)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stillpoint::{
    archiver::Place,
    repository::store::{Dice, Fault, FaultyStore, MemoryStore, Store},
    world::World,
};
use stillpoint_contract::{Clock, ErrorKind};

use super::{
    shop::{InPostgres, Shop, Sqlite, Yard},
    sigkill::{Process, settle},
};
use crate::site::{seed, setting};

/// How many seeds; `STILLPOINT_RUNS` says otherwise.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let first = seed();
    first..first + setting("STILLPOINT_RUNS", usual)
}

/// What an application believes its orders and items to be: their tokens, by their numbers. What
/// was archived keeps the token that it had then.
#[derive(Debug, Default)]
struct Belief {
    orders: BTreeMap<i64, String>,
    items: BTreeMap<i64, String>,
    /// Of each order that was ever put away under a number that others have now.
    gone: Vec<String>,
    gone_items: Vec<String>,
    has_items: bool,
    made: u64,
}

impl Belief {
    fn new(with_items: bool) -> Self {
        let mut belief = Self { has_items: with_items, ..Self::default() };
        belief.orders.extend((0..40).map(|id| (id, format!("o{id}"))));
        if with_items {
            let ids = (0..40).flat_map(|id| [id * 100, id * 100 + 1]);
            belief.items.extend(ids.map(|id| (id, format!("i{id}"))));
        }
        belief
    }

    fn token(&mut self) -> String {
        self.made += 1;
        format!("t{}", self.made)
    }
}

fn tokens(living: &BTreeMap<i64, String>, gone: &[String]) -> Vec<String> {
    let mut tokens: Vec<String> = living.values().chain(gone).cloned().collect();
    tokens.sort();
    tokens
}

impl<S: Shop> Yard<S> {
    /// Each order, and each item, is in its table or in the archive, and in one of them only.
    /// Returns how many are archived.
    async fn conserves(&self, belief: &Belief, seed: u64) -> usize {
        let orders = tokens(&belief.orders, &belief.gone);
        let mut archived = self.conserves_of("orders", orders, seed).await;
        if belief.has_items {
            let items = tokens(&belief.items, &belief.gone_items);
            archived += self.conserves_of("items", items, seed).await;
        }
        archived
    }

    async fn conserves_of(&self, table: &str, wanted: Vec<String>, seed: u64) -> usize {
        let (live, archived) = (self.live(table).await, self.archived(table).await);
        let mut found = [live.clone(), archived.clone()].concat();
        found.sort();
        assert_eq!(
            found, wanted,
            "{table}: live {live:?}; archived {archived:?}\n\
             repeat: STILLPOINT_SEED={seed} STILLPOINT_RUNS=1"
        );
        archived.len()
    }
}

fn below(dice: &Dice, limit: usize) -> i64 {
    i64::try_from(dice.below(limit)).unwrap()
}

/// Changes orders at random, in the range of what is archived and outside of it, and their items.
async fn write<S: Shop>(shop: &S, belief: &mut Belief, dice: &Dice) {
    if belief.has_items && dice.below(2) == 0 {
        return write_item(shop, belief, dice).await;
    }
    let orders = shop.table("orders");
    let id = below(dice, 60);
    match dice.below(6) {
        0 | 1 => {
            let token = belief.token();
            let taken = shop.ask(&format!("SELECT token FROM {orders} WHERE id = {id}")).await;
            if taken.is_empty() {
                let state = ["closed", "open"][dice.below(2)];
                let insert = format!(
                    "INSERT INTO {orders} VALUES ({id}, '{token}', '{state}', 'n', 1) \
                     ON CONFLICT DO NOTHING"
                );
                if shop.change(&[insert]).await == [1] {
                    belief.gone.extend(belief.orders.insert(id, token));
                }
            }
        }
        2 | 3 => {
            let token = belief.token();
            let state = ["closed", "open"][dice.below(2)];
            let set = format!("token = '{token}', state = '{state}'");
            let update = format!("UPDATE {orders} SET {set} WHERE id = {id}");
            if shop.change(&[update]).await == [1] {
                belief.orders.insert(id, token);
            }
        }
        4 => {
            // Items keep it where it is.
            let delete = format!("DELETE FROM {orders} WHERE id = {id}");
            if shop.try_change(&[delete]).await == Some(vec![1]) {
                belief.orders.remove(&id);
            }
        }
        _ => {
            // The order gets another number: it moves to another slice.
            let other = 60 + below(dice, 60);
            let token = belief.token();
            let free = format!("NOT EXISTS (SELECT 1 FROM {orders} WHERE id = {other})");
            let set = format!("id = {other}, token = '{token}'");
            let update = format!("UPDATE {orders} SET {set} WHERE id = {id} AND {free}");
            if shop.try_change(&[update]).await == Some(vec![1]) {
                belief.orders.remove(&id);
                belief.gone.extend(belief.orders.insert(other, token));
            }
        }
    }
}

/// Items come to an order, change, move to another one, and go, also along with their order.
async fn write_item<S: Shop>(shop: &S, belief: &mut Belief, dice: &Dice) {
    let (orders, items) = (shop.table("orders"), shop.table("items"));
    let order = below(dice, 60);
    let id = below(dice, 40) * 100 + below(dice, 3);
    let token = belief.token();
    match dice.below(6) {
        0 | 1 => {
            let insert = format!(
                "INSERT INTO {items} SELECT {id}, o.id, '{token}' FROM {orders} AS o \
                 WHERE o.id = {order} AND NOT EXISTS (SELECT 1 FROM {items} WHERE id = {id})"
            );
            if shop.try_change(&[insert]).await == Some(vec![1]) {
                belief.gone_items.extend(belief.items.insert(id, token));
            }
        }
        2 => {
            let update = format!("UPDATE {items} SET token = '{token}' WHERE id = {id}");
            if shop.try_change(&[update]).await == Some(vec![1]) {
                belief.items.insert(id, token);
            }
        }
        3 => {
            let update = format!(
                "UPDATE {items} SET token = '{token}', order_id = {order} WHERE id = {id} \
                 AND EXISTS (SELECT 1 FROM {orders} AS o WHERE o.id = {order})"
            );
            if shop.try_change(&[update]).await == Some(vec![1]) {
                belief.items.insert(id, token);
            }
        }
        4 => {
            let delete = format!("DELETE FROM {items} WHERE id = {id}");
            if shop.try_change(&[delete]).await == Some(vec![1]) {
                belief.items.remove(&id);
            }
        }
        _ => {
            let found = format!("SELECT CAST(id AS TEXT) FROM {items} WHERE order_id = {order}");
            let found = shop.ask(&found).await;
            let deletes = [
                format!("DELETE FROM {items} WHERE order_id = {order}"),
                format!("DELETE FROM {orders} WHERE id = {order}"),
            ];
            let Some(deleted) = shop.try_change(&deletes).await else { return };
            // They were archived meanwhile, all of them or none.
            assert!([0, found.len() as u64].contains(&deleted[0]), "{found:?}: {deleted:?}");
            if deleted[0] > 0 {
                for id in &found {
                    belief.items.remove(&id.parse().unwrap());
                }
            }
            if deleted[1] == 1 {
                belief.orders.remove(&order);
            }
        }
    }
}

/// How a run is ended amid a step.
#[derive(Clone, Copy)]
enum End<'a> {
    /// Its future unwinds.
    Unwind,
    /// Its process is killed.
    Signal(&'a Process),
}

/// Archives orders while they are written to, is killed at a step that the seed chooses, and goes
/// on; in the end each order, and each item, is in its table or in the archive.
async fn survive<S: Shop>(mut yard: Yard<S>, with_items: bool, end: End<'_>, seed: u64) {
    let dice = Dice::new(seed);
    yard.rule.slice_rows = 1 + dice.below(12) as u64;
    yard.rule.file_bytes = [1, 64 << 20][dice.below(2)];
    let verifications = yard.shop.verifications();
    yard.rule.verification = verifications[dice.below(verifications.len())];
    yard.fill(0..40, if with_items { 2 } else { 0 }).await;
    let mut belief = Belief::new(with_items);
    let mut killed = 0;
    for _ in 0..3 {
        let done = AtomicBool::new(false);
        let step = 1 + below(&dice, 60);
        let archive = async {
            let was_killed = match end {
                End::Unwind => match yard.run_until(step).await {
                    None => true,
                    Some(run) => {
                        run.unwrap();
                        false
                    }
                },
                End::Signal(process) => process.is_killed(&yard.rule, step).await,
            };
            done.store(true, Ordering::Relaxed);
            was_killed
        };
        let writes = async {
            while !done.load(Ordering::Relaxed) {
                write(&yard.shop, &mut belief, &dice).await;
                tokio::task::yield_now().await;
            }
        };
        let (was_killed, ()) = tokio::join!(archive, writes);
        killed += u32::from(was_killed);
        if matches!(end, End::Signal(_)) {
            settle(&yard).await;
        }
        yard.conserves(&belief, seed).await;
    }
    let last = yard.run().await.unwrap();
    assert!(last.quit.is_done(), "{last:?}");
    let archived = yard.conserves(&belief, seed).await;
    let closed = yard.shop.table("orders");
    let left = format!("SELECT token FROM {closed} WHERE state = 'closed'");
    assert_eq!(yard.shop.ask(&left).await, Vec::<String>::new(), "STILLPOINT_SEED={seed}");
    println!("seed {seed}: killed {killed} times, {archived} archived");
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_orders_of_sqlite_survive_writers_and_kills() {
    for seed in seeds(40) {
        survive(Yard::new(Sqlite::new().await, false), false, End::Unwind, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_orders_of_postgresql_survive_writers_and_kills() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for seed in seeds(40) {
        shop.reset().await;
        survive(Yard::new(&shop, false), false, End::Unwind, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_families_of_sqlite_survive_writers_and_kills() {
    for seed in seeds(10) {
        survive(Yard::new(Sqlite::new().await, true), true, End::Unwind, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_families_of_postgresql_survive_writers_and_kills() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for seed in seeds(5) {
        shop.reset().await;
        survive(Yard::new(&shop, true), true, End::Unwind, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_families_of_sqlite_survive_writers_and_signals() {
    for seed in seeds(5) {
        let shop = Sqlite::new().await;
        let process = Process::new("sqlite", shop.path().display().to_string());
        let yard = Yard::in_store(shop, true, process.store().await);
        survive(yard, true, End::Signal(&process), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_families_of_postgresql_survive_writers_and_signals() {
    let Some(shop) = InPostgres::new(18).await else { return };
    for seed in seeds(3) {
        shop.reset().await;
        let process = Process::new("postgres", shop.address());
        let yard = Yard::in_store(&shop, true, process.store().await);
        survive(yard, true, End::Signal(&process), seed).await;
    }
}

/// Kills a run at each step that it has, one after the other; after each, and after the run that
/// follows, each row is where it belongs.
async fn kill_at_each_step<S: Shop>(mut yard: Yard<S>) {
    yard.rule.slice_rows = 3;
    let all = |letter: &str, numbers: Vec<i64>| {
        let mut all: Vec<String> = numbers.iter().map(|one| format!("{letter}{one}")).collect();
        all.sort();
        all
    };
    let orders = all("o", (0..25).collect());
    let items = all("i", (0..25).flat_map(|id| [id * 100, id * 100 + 1]).collect());
    yard.fill(0..25, 2).await;
    let mut steps = 0;
    loop {
        steps += 1;
        let run = yard.run_until(steps).await;
        // What counts in the archive is what the ledger says, whether or not it was sealed.
        let noted: u64 = yard.ledger().await.iter().map(|entry| entry.rows).sum();
        let live = yard.live("orders").await.len() + yard.live("items").await.len();
        assert_eq!(noted as usize + live, orders.len() + items.len(), "killed at step {steps}");
        // And that is what readers see.
        for (table, all) in [("orders", &orders), ("items", &items)] {
            let mut found = [yard.live(table).await, yard.archived(table).await].concat();
            found.sort();
            assert_eq!(found, **all, "{table}, killed at step {steps}");
        }
        if let Some(run) = run {
            assert!(run.unwrap().quit.is_done());
            break;
        }
    }
    assert!(steps > 12, "{steps}");
    assert_eq!((yard.live("orders").await.len(), yard.live("items").await.len()), (0, 0));
    assert_eq!(yard.archived("orders").await, orders);
    assert_eq!(yard.archived("items").await, items);
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i3_sqlite_is_killed_at_each_step() {
    kill_at_each_step(Yard::new(Sqlite::new().await, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i3_postgresql_is_killed_at_each_step() {
    let Some(shop) = InPostgres::new(17).await else { return };
    kill_at_each_step(Yard::new(shop, true)).await;
}

/// Invariant 14: each call of the store fails once, in each way in which it can.
#[tokio::test(flavor = "multi_thread")]
async fn i14_any_call_of_the_store_may_fail() {
    let faults = [
        Fault::Fail(ErrorKind::Transient),
        Fault::Fail(ErrorKind::Exhausted),
        Fault::LoseAnswer,
        Fault::Twice,
        Fault::FlipBit,
    ];
    for fault in faults {
        let mut number = 0;
        loop {
            let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let faulty = Arc::new(FaultyStore::new(Arc::clone(&memory), 1));
            let mut yard = Yard::in_store(Sqlite::new().await, true, Arc::clone(&faulty) as _);
            yard.world.clock = Arc::new(Impatient);
            yard.fill(0..12, 1).await;
            faulty.fault_at(number, fault);
            let run = yard.run().await;
            let is_through = faulty.calls() <= number;
            faulty.heal();
            if run.is_err() {
                assert!(yard.run().await.unwrap().quit.is_done(), "{fault:?} at call {number}");
            }
            let at = format!("{fault:?} at call {number}");
            assert_eq!(yard.live("orders").await.len(), 0, "{at}");
            assert_eq!(yard.archived("orders").await.len(), 12, "{at}");
            assert_eq!(yard.archived("items").await.len(), 12, "{at}");
            if is_through {
                break;
            }
            number += 1;
        }
        assert!(number > 8, "{number}");
    }
}

/// Listings may lag: a file whose manifest is not listed yet is no garbage.
#[tokio::test(flavor = "multi_thread")]
async fn i14_listings_may_be_stale() {
    for step in 1..16 {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let stale = FaultyStore::new(Arc::clone(&memory), 1).with_stale_lists(60);
        let mut yard = Yard::in_store(Sqlite::new().await, true, Arc::new(stale));
        yard.world.clock = Arc::new(Impatient);
        yard.rule.slice_rows = 3;
        yard.fill(0..12, 1).await;
        drop(yard.run_until(step).await);
        // It refuses, or goes on; whatever it does, nothing is lost.
        drop(yard.run().await);
        yard.place = Place::new(Arc::clone(&memory), "orders").unwrap();
        let last = yard.run().await.unwrap_or_else(|e| panic!("step {step}: {e:?}"));
        assert!(last.quit.is_done(), "step {step}: {last:?}");
        assert_eq!(yard.live("orders").await.len(), 0, "step {step}");
        assert_eq!(yard.archived("orders").await.len(), 12, "step {step}");
        assert_eq!(yard.archived("items").await.len(), 12, "step {step}");
    }
}

/// A clock whose waits are over at once.
#[derive(Debug)]
pub(super) struct Impatient;

#[async_trait::async_trait]
impl Clock for Impatient {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        World::real(1).clock.now()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _duration: Duration) {
        tokio::task::yield_now().await;
    }
}
