//! Second copies, where whoever wrote a file anew was killed before they were: the next run brings
//! them, and so does whoever asks again; no gate takes the copy of the file before for them.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Months, Utc};
use futures::FutureExt as _;
use rusqlite::Connection;
use stillpoint::{
    archiver::{
        Batch, Erasing, Gate, Holding, Place, Plan, Quit, SecondCopy, Shelf, Shelved, Step, Wanted,
        Witness, erase, erasures, expire, find, hold, verify,
    },
    policy::{Period, PeriodUnit},
    repository::store::{Fault, FaultyStore, Key, MemoryStore, Store},
};
use stillpoint_contract::{ErrorKind, Result};

use super::shop::{Killed, Shop as _, Sqlite, Yard};

pub(super) const WHO: (&str, &str) = ("Art. 17", "dba");
pub(super) const SUBJECT: (Option<&str>, &str, &str) = (None, "note", "erase-me");

/// Orders with a second copy, and where that is.
pub(super) async fn doubled(
    first: Arc<dyn Store>,
    second: Arc<dyn Store>,
) -> (Yard<Sqlite>, Place) {
    let mut yard = Yard::in_store(Sqlite::new().await, true, first);
    let to = Place::new(second, "orders").unwrap();
    yard.gates = vec![Box::new(copy(&yard, &to))];
    (yard, to)
}

fn copy(yard: &Yard<Sqlite>, to: &Place) -> SecondCopy {
    SecondCopy { from: yard.place.clone(), to: to.clone(), cpu: yard.world.cpu.clone() }
}

pub(super) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

/// The names of all files of rows.
pub(super) async fn files(store: &dyn Store) -> Vec<String> {
    let listed = store.list("archive/orders/").await.unwrap();
    let names = listed.into_iter().map(|listed| listed.key.as_str().to_owned());
    names.filter(|name| !name.contains("/_stillpoint/")).collect()
}

/// The newest generation of each batch.
async fn generations(place: &Place) -> Vec<(u32, u32)> {
    let shelf = Shelf::load(place).await.unwrap();
    let batches = shelf.runs.iter().flat_map(|run| run.batches.values());
    let live = batches.filter(|one| one.void.is_none() && one.expired.is_none());
    live.map(|one| (one.batch.number, one.batch.generation)).collect()
}

/// How many orders are archived at a place, as its documents say.
pub(super) async fn archived(yard: &Yard<Sqlite>, place: &Place, condition: &str) -> u64 {
    let terms = Wanted::terms_of(condition).unwrap();
    let wanted = Wanted { terms, ..Wanted::default() };
    Box::pin(find(place, &yard.world.cpu, &wanted, None, async |_| Ok(()))).await.unwrap()
}

/// Both places have the very same files, and these are what was written.
pub(super) async fn are_one(
    yard: &Yard<Sqlite>,
    to: &Place,
    stores: [&Arc<dyn Store>; 2],
    what: &str,
) {
    assert_eq!(generations(to).await, generations(&yard.place).await, "{what}");
    assert_eq!(files(&**stores[1]).await, files(&**stores[0]).await, "{what}");
    for place in [&yard.place, to] {
        let found = verify(place, &yard.world.cpu, None, |_| true).await.unwrap();
        assert_eq!(found.damages.len(), 0, "{what}: {:?}", found.damages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_an_erasure_that_was_cut_off_anywhere_is_finished_by_whoever_comes_next() {
    for (faulty_one, is_run) in [(1, true), (1, false), (0, true)] {
        for number in 0.. {
            let what = format!("call {number} of place {faulty_one}, a run follows: {is_run}");
            let stores = [memory(), memory()];
            let faulty = Arc::new(FaultyStore::new(Arc::clone(&stores[faulty_one]), 1));
            let mut seen = stores.clone();
            seen[faulty_one] = Arc::clone(&faulty) as _;
            let [first, second] = seen;
            let (yard, to) = doubled(first, second).await;
            yard.fill(0..12, 1).await;
            let mark = "UPDATE orders SET note = 'erase-me' WHERE id = 7".to_owned();
            yard.shop.change(&[mark]).await;
            assert!(yard.run().await.unwrap().quit.is_done());
            let places = [yard.place.clone(), to.clone()];
            let asked = async || {
                let erased = erase(&places, &yard.world, SUBJECT, WHO, Erasing::IfFound);
                Box::pin(erased).await
            };
            faulty.fault_from(faulty.calls() + number, Fault::Fail(ErrorKind::Exhausted));
            let is_through = asked().await.is_ok();
            faulty.heal();
            if is_run {
                yard.run().await.unwrap();
            } else {
                asked().await.unwrap();
            }
            are_one(&yard, &to, [&stores[0], &stores[1]], &what).await;
            // What was not written down was never begun.
            let is_begun = !erasures(&yard.place).await.unwrap().is_empty();
            let left = u64::from(!is_begun);
            assert!(is_begun || is_run, "{what}");
            for place in &places {
                assert_eq!(archived(&yard, place, "note = 'erase-me'").await, left, "{what}");
                assert_eq!(archived(&yard, place, "").await, 11 + left, "{what}");
            }
            if is_through {
                assert!(number > 5, "{what}");
                break;
            }
        }
    }
}

/// The second copy; whoever renews it is killed.
#[derive(Debug)]
struct Dying(SecondCopy);

#[async_trait]
impl Gate for Dying {
    async fn closed(
        &self,
        plan: &Plan,
        batch: &Batch,
        now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        self.0.closed(plan, batch, now).await
    }

    async fn renew(&self, _plan: &Plan, _old: &Batch, _new: &Batch) -> Result<()> {
        std::panic::resume_unwind(Box::new(Killed))
    }

    fn copy(&self) -> Option<&Place> {
        self.0.copy()
    }
}

/// Changes rows once they are in a file.
#[derive(Debug)]
struct Changer {
    path: std::path::PathBuf,
    ids: &'static str,
    is_done: AtomicBool,
}

impl Witness for Changer {
    fn see(&self, step: &Step) {
        if matches!(step, Step::Shelved { .. }) && !self.is_done.swap(true, Ordering::Relaxed) {
            let change = format!("UPDATE orders SET note = 'other' WHERE id IN ({})", self.ids);
            let connection = Connection::open(&self.path).unwrap();
            connection.busy_timeout(Duration::from_secs(30)).unwrap();
            connection.execute(&change, []).unwrap();
        }
    }
}

/// Rows that changed are taken out of their file. Killed before the second copy was renewed, the
/// next run finds every row deleted that the file has, and the batch done with.
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_copy_that_was_not_renewed_is_by_the_next_run() {
    // Some of the batch, and all of it, of which nothing counts then.
    for ids in ["5", "5, 15"] {
        let stores = [memory(), memory()];
        let (mut yard, to) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
        yard.fill(0..20, 1).await;
        yard.gates = vec![Box::new(Dying(copy(&yard, &to)))];
        let changer = Changer { path: yard.shop.path(), ids, is_done: AtomicBool::new(false) };
        let run = AssertUnwindSafe(yard.run_seen(&changer)).catch_unwind().await;
        if ids == "5" {
            assert!(run.is_err_and(|cause| cause.is::<Killed>()), "nobody renewed it");
            assert_eq!(generations(&to).await, [(1, 0)]);
            assert_eq!(generations(&yard.place).await, [(1, 1)]);
        }
        yard.gates = vec![Box::new(copy(&yard, &to))];
        assert!(yard.run().await.unwrap().quit.is_done());
        are_one(&yard, &to, [&stores[0], &stores[1]], ids).await;
        assert_eq!(yard.live("orders").await.len(), 0);
        for place in [&yard.place, &to] {
            // Each row once: what was not deleted is not in the file of what was.
            assert_eq!(archived(&yard, place, "").await, 20, "{ids}");
            assert_eq!(
                archived(&yard, place, "note = 'other'").await,
                ids.split(", ").count() as u64
            );
        }
    }
}

/// An older version said at the second place that a writing is sealed which never came there.
#[tokio::test(flavor = "multi_thread")]
async fn i3_a_copy_that_an_older_version_left_cut_off_is_whole_after_the_next_run() {
    for erases in [false, true] {
        let stores = [memory(), memory()];
        let (mut yard, to) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
        yard.fill(0..20, 1).await;
        yard.gates = vec![Box::new(Dying(copy(&yard, &to)))];
        let changer = Changer { path: yard.shop.path(), ids: "5", is_done: AtomicBool::new(false) };
        let run = AssertUnwindSafe(yard.run_seen(&changer)).catch_unwind().await;
        assert!(run.is_err_and(|cause| cause.is::<Killed>()), "nobody renewed it");
        // The run ends without the second place.
        yard.gates.clear();
        assert!(yard.run().await.unwrap().quit.is_done());
        let run = Shelf::load(&yard.place).await.unwrap().runs[0].plan.run.clone();
        let name = format!("archive/orders/_stillpoint/{run}/000001.sealed.json");
        let name = Key::new(name).unwrap();
        let sealed = stores[0].read(&name, 1 << 20).await.unwrap().unwrap();
        stores[1].create(&name, sealed).await.unwrap();
        assert_eq!(Shelf::load(&to).await.unwrap_err().kind(), ErrorKind::Corrupt);
        if erases {
            // It stands, and every run looks for whom it is about.
            let first = [yard.place.clone()];
            let erased = erase(&first, &yard.world, SUBJECT, WHO, Erasing::Always);
            assert_eq!(Box::pin(erased).await.unwrap().rows, 0);
        }

        yard.gates = vec![Box::new(copy(&yard, &to))];
        assert!(yard.run().await.unwrap().quit.is_done());
        let found = verify(&to, &yard.world.cpu, None, |_| true).await.unwrap();
        assert_eq!((found.damages.len(), found.unnamed), (0, 0), "{found:?}");
        let of_first = |run: &Shelved| run.batches[&1].batch.clone();
        let shelves = [Shelf::load(&yard.place).await.unwrap(), Shelf::load(&to).await.unwrap()];
        let [first, second] = shelves.map(|shelf| of_first(&shelf.runs[0]));
        assert_eq!((first.generation, &first), (1, &second), "{erases}");
    }
}

/// Opens when somebody says so, and looks whether the second place has the very files whose rows
/// are about to be deleted.
#[derive(Debug)]
struct Probe {
    second: Arc<dyn Store>,
    is_open: Arc<AtomicBool>,
    looks: Arc<AtomicU32>,
}

#[async_trait]
impl Gate for Probe {
    async fn closed(
        &self,
        _plan: &Plan,
        batch: &Batch,
        _now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        for file in batch.files() {
            let found = self.second.read(&Key::new(&*file.key)?, 1 << 20).await?;
            assert_eq!(found.map(|bytes| bytes.len() as u64), Some(file.bytes), "{file:?}");
            self.looks.fetch_add(1, Ordering::Relaxed);
        }
        let is_open = self.is_open.load(Ordering::Relaxed);
        Ok((!is_open).then(|| "not yet".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_no_gate_is_open_because_of_the_copy_of_the_file_before() {
    let stores = [memory(), memory()];
    let (mut yard, to) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    let (is_open, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let second = Arc::clone(&stores[1]);
    let probe = Probe { second, is_open: Arc::clone(&is_open), looks: Arc::clone(&looks) };
    yard.gates.push(Box::new(probe));
    yard.fill(0..20, 1).await;
    let mark = "UPDATE orders SET note = 'erase-me' WHERE id = 7".to_owned();
    yard.shop.change(&[mark]).await;
    assert_eq!(yard.run().await.unwrap().quit, Quit::Gate("not yet".to_owned()));
    assert_eq!(generations(&to).await, [(1, 0)]);
    // Killed before it came to the second place.
    let first = [yard.place.clone()];
    let erased = erase(&first, &yard.world, SUBJECT, WHO, Erasing::IfFound);
    assert_eq!(Box::pin(erased).await.unwrap().rows, 2);
    assert_eq!(
        (generations(&to).await, generations(&yard.place).await),
        (vec![(1, 0)], vec![(1, 1)])
    );

    let looked = looks.load(Ordering::Relaxed);
    is_open.store(true, Ordering::Relaxed);
    assert!(yard.run().await.unwrap().quit.is_done());
    assert!(looks.load(Ordering::Relaxed) > looked, "the gate was not asked");
    assert_eq!(yard.live("orders").await.len(), 0);
    are_one(&yard, &to, [&stores[0], &stores[1]], "after the run").await;
    for place in [&yard.place, &to] {
        assert_eq!(archived(&yard, place, "").await, 19);
        assert_eq!(archived(&yard, place, "note = 'erase-me'").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i16_an_expiry_that_was_cut_off_is_finished_by_the_next_run() {
    let stores = [memory(), memory()];
    let (mut yard, to) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    yard.rule.keep = Some(Period { count: 1, unit: PeriodUnit::Months });
    yard.fill(0..12, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let later = yard.world.clock.now().checked_add_months(Months::new(3)).unwrap();
    let first = [yard.place.clone()];
    let over = Box::pin(expire(&first, &yard.world, &yard.rule, later, false)).await.unwrap();
    assert_eq!((over.batches.len(), files(&*stores[1]).await.len()), (1, 2));
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    are_one(&yard, &to, [&stores[0], &stores[1]], "after the run").await;
    assert_eq!(files(&*stores[1]).await, Vec::<String>::new());
}

/// A run is cut off at a call of the second place, the policy is corrected, and the next run is cut
/// off at another call, or knows nothing of that place; the one behind it is not. Whether rows had
/// been deleted by then, and whether the next run was through.
async fn given_up(copying: u64, next: Option<u64>, has_holds: bool) -> (bool, bool) {
    let what = format!("cut off at {copying} and {next:?}, holds: {has_holds}");
    let stores = [memory(), memory()];
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&stores[1]), 1));
    let second = Arc::clone(&faulty) as Arc<dyn Store>;
    let (mut yard, to) = doubled(Arc::clone(&stores[0]), second).await;
    yard.fill(0..12, 1).await;
    let cut_off = async |yard: &Yard<Sqlite>, call: u64| {
        faulty.fault_from(faulty.calls() + call, Fault::Fail(ErrorKind::Exhausted));
        let is_through = yard.run().await.is_ok();
        faulty.heal();
        is_through
    };
    cut_off(&yard, copying).await;
    if yard.live("orders").await.len() < 12 {
        return (true, true);
    }
    if has_holds {
        // Rows of others are held.
        let held = Holding::Subject(None, "id", "99");
        hold(&yard.place, &yard.world, held, "LEG-1", "dba").await.unwrap();
    }
    "state = 'closed' AND id < 4".clone_into(&mut yard.rule.selects);
    let is_through = if let Some(call) = next {
        cut_off(&yard, call).await
    } else {
        let gates = std::mem::take(&mut yard.gates);
        let is_through = yard.run().await.is_ok();
        yard.gates = gates;
        is_through
    };
    assert!(yard.run().await.unwrap().quit.is_done(), "{what}");
    are_one(&yard, &to, [&stores[0], &stores[1]], &what).await;
    for place in [&yard.place, &to] {
        let found = verify(place, &yard.world.cpu, None, |_| true).await.unwrap();
        assert_eq!(found.unnamed, 0, "{what}: {found:?}");
        assert_eq!(archived(&yard, place, "").await, 4, "{what}");
    }
    (false, is_through)
}

/// Killed before the second place had the manifest of files that are there already: once their
/// batch is let go, they do not stay where nobody who is erased is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn i16_files_of_a_batch_that_was_given_up_leave_the_second_place() {
    let mut copying = 0;
    while !Box::pin(given_up(copying, Some(u64::MAX / 2), false)).await.0 {
        copying += 1;
    }
    assert!(copying > 5, "{copying}");
    // The last call before rows are deleted is that which writes the manifest.
    let copying = copying - 1;
    for has_holds in [false, true] {
        assert!(Box::pin(given_up(copying, None, has_holds)).await.1, "{has_holds}");
        for call in 0.. {
            if Box::pin(given_up(copying, Some(call), has_holds)).await.1 {
                assert!(call > 5, "{call}");
                break;
            }
        }
    }
}
