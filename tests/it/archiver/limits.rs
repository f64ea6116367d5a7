//! Limits of a run hold for all of it, however often it begins anew.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stillpoint::{
    archiver::{Batch, Gate, Plan, Quit, Shelf, Step, Witness},
    policy::FileFormat,
};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::shop::{InPostgres, RESET, Sqlite, Yard, tokens};
use crate::support::world::TestClock;

/// Each transaction takes an hour.
#[derive(Debug)]
struct Slow(Arc<TestClock>);

impl Slow {
    fn of<S>(yard: &mut Yard<S>) -> Self {
        let clock = TestClock::new();
        yard.world.clock = Arc::<TestClock>::clone(&clock);
        Self(clock)
    }
}

impl Witness for Slow {
    fn see(&self, step: &Step) {
        if matches!(step, Step::Committed { .. }) {
            self.0.advance(3_600);
        }
    }
}

/// Seventy orders, of which twenty are in files; the others have to go by another plan.
async fn begun() -> (Yard<Sqlite>, Slow) {
    let mut yard = Yard::new(Sqlite::new().await, false);
    let slow = Slow::of(&mut yard);
    yard.fill(0..70, 0).await;
    yard.limits.keeps_source = true;
    yard.limits.rows_max = Some(20);
    assert_eq!(yard.run().await.unwrap().exported_rows, 20);
    yard.limits.keeps_source = false;
    yard.limits.rows_max = None;
    yard.rule.format = FileFormat::Jsonl;
    (yard, slow)
}

async fn plans<S>(yard: &Yard<S>) -> usize {
    Shelf::load(&yard.place).await.unwrap().runs.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_rows_are_moved_by_all_plans_of_a_run_together() {
    let (mut yard, _) = begun().await;
    yard.limits.rows_max = Some(50);
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::RowsMax, 50), "{report:?}");
    assert_eq!((yard.live("orders").await.len(), plans(&yard).await), (20, 2));
    yard.limits.rows_max = None;
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 20), "{report:?}");
    assert_eq!(yard.archived("orders").await, tokens(0..70));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_plan_is_written_once_as_many_rows_as_wanted_are_moved() {
    let (mut yard, _) = begun().await;
    yard.limits.rows_max = Some(20);
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::RowsMax, 20), "{report:?}");
    assert_eq!((yard.live("orders").await.len(), plans(&yard).await), (50, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_not_longer_for_having_several_plans() {
    let (mut yard, slow) = begun().await;
    yard.rule.runtime_max = Some(Duration::from_mins(330));
    let report = yard.run_seen(&slow).await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::OutOfTime, 60), "{report:?}");
    assert_eq!((yard.live("orders").await.len(), plans(&yard).await), (10, 2));
    let report = yard.run_seen(&slow).await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 10), "{report:?}");
}

/// Cannot tell for a moment whether the second batch may go; that takes so many seconds.
#[derive(Debug)]
struct Unsure {
    clock: Arc<TestClock>,
    seconds: i64,
    asked: AtomicU64,
}

#[async_trait]
impl Gate for Unsure {
    async fn closed(
        &self,
        _plan: &Plan,
        _batch: &Batch,
        _now: DateTime<Utc>,
    ) -> Result<Option<String>> {
        if self.asked.fetch_add(1, Ordering::Relaxed) != 1 {
            return Ok(None);
        }
        self.clock.advance(self.seconds);
        Err(Error::new(ErrorKind::Transient, code::STORE_UNREACHABLE, "ask whether rows may go"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_begins_anew_begins_no_limit_anew() {
    for (seconds, quit, gone) in [(0, Quit::RowsMax, 200), (3_600, Quit::OutOfTime, 120)] {
        let mut yard = Yard::new(Sqlite::new().await, false);
        let clock = TestClock::new();
        yard.world.clock = Arc::<TestClock>::clone(&clock);
        yard.fill(0..400, 0).await;
        // A batch has twelve slices of ten rows then.
        yard.rule.file_bytes = 1;
        yard.limits.rows_max = Some(200);
        yard.rule.runtime_max = Some(Duration::from_mins(30));
        let unsure = Unsure { clock, seconds, asked: AtomicU64::new(0) };
        yard.gates.push(Box::new(unsure));
        let report = yard.run().await.unwrap();
        assert_eq!((&report.quit, report.pruned_rows), (&quit, gone), "{report:?}");
        assert_eq!(report.exported_rows, 200, "{report:?}");
    }
}

/// Two partitions whose rows are deleted, of fifty rows each.
const PARTED: &str = "
    DROP TABLE IF EXISTS orders, parted;
    CREATE TABLE parted (id int NOT NULL, token text NOT NULL, state text NOT NULL,
        PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p9 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE p10 PARTITION OF parted FOR VALUES FROM (100) TO (200);
    INSERT INTO parted SELECT n, 'o' || n, 'closed' FROM generate_series(50, 149) AS n;";

/// Fifty more in the first one.
const MORE: &str =
    "INSERT INTO parted SELECT n, 'o' || n, 'closed' FROM generate_series(0, 49) AS n";

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_all_partitions_together() {
    let Some(shop) = InPostgres::new(18).await else { return };
    shop.client().await.batch_execute(&format!("{RESET}{PARTED}")).await.unwrap();
    let mut yard = Yard::new(&shop, false);
    "public.parted".clone_into(&mut yard.rule.root);
    yard.rule.detaches = false;
    let slow = Slow::of(&mut yard);
    // Time for one of them, and nothing is begun of the other.
    yard.rule.runtime_max = Some(Duration::from_hours(5));
    let report = yard.run_seen(&slow).await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::OutOfTime, 50), "{report:?}");
    assert_eq!(plans(&yard).await, 1);
    // Time for some slices of the other.
    yard.rule.runtime_max = Some(Duration::from_mins(90));
    let report = yard.run_seen(&slow).await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::OutOfTime, 20), "{report:?}");
    // Rows that were read before count like others.
    shop.client().await.batch_execute(MORE).await.unwrap();
    yard.rule.runtime_max = None;
    yard.limits.rows_max = Some(60);
    let report = yard.run_seen(&slow).await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::RowsMax, 60), "{report:?}");
    yard.limits.rows_max = None;
    let report = yard.run_seen(&slow).await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 20), "{report:?}");
}
