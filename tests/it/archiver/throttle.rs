//! Invariant 13: while replicas are too far behind, or nobody knows how far, no row is deleted.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stillpoint::{
    archiver::{Cause, Quit, Said, Step, Witness, tell},
    policy::{LogShare, Throttle},
    world::World,
};
use stillpoint_contract::{Clock, Driver, ErrorKind, code};
use tokio::runtime::Handle;
use tokio_postgres::Client;

use super::shop::{InPostgres, Shop, Sqlite, Yard, driver};

/// Counts rests and transactions, and does something after some rests.
struct Nurse<'a> {
    /// After so many rests in a row.
    after: u64,
    help: &'a (dyn Fn() + Sync),
    rests: AtomicU64,
    /// How many transactions there were before the last rest.
    begun: AtomicU64,
    begun_at_rest: Mutex<Vec<u64>>,
}

impl fmt::Debug for Nurse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nurse")
    }
}

impl<'a> Nurse<'a> {
    fn new(after: u64, help: &'a (dyn Fn() + Sync)) -> Self {
        let (rests, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { after, help, rests, begun, begun_at_rest: Mutex::default() }
    }

    /// How many transactions had begun at each rest.
    fn begun_at_rest(&self) -> Vec<u64> {
        self.begun_at_rest.lock().unwrap().clone()
    }
}

impl Witness for Nurse<'_> {
    fn see(&self, step: &Step) {
        match step {
            Step::Begun => {
                self.begun.fetch_add(1, Ordering::Relaxed);
            }
            Step::Resting { .. } => {
                let begun = self.begun.load(Ordering::Relaxed);
                self.begun_at_rest.lock().unwrap().push(begun);
                if self.rests.fetch_add(1, Ordering::Relaxed) + 1 == self.after {
                    (self.help)();
                }
            }
            _ => {}
        }
    }
}

/// Waits amid a step.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| Handle::current().block_on(future))
}

/// Waits until a query answers yes.
async fn until(client: &Client, query: &str) {
    let clock = World::real(1).clock;
    for _ in 0..600 {
        // A standby that is about to connect has no row yet.
        let row = client.query_opt(query, &[]).await.unwrap();
        if row.and_then(|row| row.get::<_, Option<bool>>(0)) == Some(true) {
            return;
        }
        // What is replayed is some log.
        client.batch_execute("SELECT pg_logical_emit_message(false, '', '')").await.unwrap();
        clock.sleep(Duration::from_millis(50)).await;
    }
    panic!("not within half a minute: {query}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_no_row_is_deleted_while_a_replica_does_not_follow() {
    let Some(mut shop) = InPostgres::new(18).await else { return };
    let standby = shop.server.standby().unwrap();
    let replica = crate::postgres::connect(&standby).await;
    let client = shop.client().await;
    until(&client, "SELECT state = 'streaming' FROM pg_stat_replication").await;
    let mut yard = Yard::new(&shop, false);
    yard.fill(0..100, 0).await;
    yard.rule.throttle.lag = Duration::from_secs(1);
    replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    until(&client, "SELECT replay_lag > '1.5 s' FROM pg_stat_replication").await;

    let go_on = || wait(replica.batch_execute("SELECT pg_wal_replay_resume()")).unwrap();
    let nurse = Nurse::new(5, &go_on);
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 100), "{report:?}");
    let begun = nurse.begun_at_rest();
    assert!(begun.len() >= 5 && begun[..5] == [0; 5], "{begun:?}");
    assert!(report.rested.keys().any(|why| why.to_string().contains("replicas are")), "{report:?}");
    assert!(report.rested.values().sum::<Duration>() >= Duration::from_secs(2), "{report:?}");
    assert_eq!(yard.archived("orders").await.len(), 100);
}

/// The shop as somebody sees it who may not look at replicas.
struct Clerk<'a>(&'a InPostgres);

#[async_trait]
impl Shop for Clerk<'_> {
    async fn driver(&self) -> Box<dyn Driver> {
        driver("postgres", &format!("//clerk@127.0.0.1:{}/postgres", self.0.server.port())).await
    }

    async fn change(&self, statements: &[String]) -> Vec<u64> {
        self.0.change(statements).await
    }

    async fn try_change(&self, statements: &[String]) -> Option<Vec<u64>> {
        self.0.try_change(statements).await
    }

    async fn ask(&self, query: &str) -> Vec<String> {
        self.0.ask(query).await
    }

    fn table(&self, name: &str) -> String {
        self.0.table(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_no_row_is_deleted_while_nobody_knows_how_far_replicas_are() {
    let Some(mut shop) = InPostgres::new(17).await else { return };
    let _standby = shop.server.standby().unwrap();
    let client = shop.client().await;
    until(&client, "SELECT state = 'streaming' FROM pg_stat_replication").await;
    let rights = "CREATE ROLE clerk LOGIN; ALTER TABLE orders OWNER TO clerk;
        GRANT CREATE ON DATABASE postgres TO clerk;";
    client.batch_execute(rights).await.unwrap();
    let mut yard = Yard::new(Clerk(&shop), false);
    yard.fill(0..50, 0).await;
    yard.limits.until = Some(yard.world.clock.now() + TimeDelta::seconds(4));
    let nurse = Nurse::new(u64::MAX, &|| {});
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::OutOfTime, 0), "{report:?}");
    assert_eq!((report.exported_rows, yard.live("orders").await.len()), (50, 50));
    assert!(report.rested.keys().any(|why| why.to_string().contains("is not known")), "{report:?}");
    assert!(nurse.begun_at_rest().iter().all(|begun| *begun == 0));
    // Once it is known, the same run goes on.
    client.batch_execute("GRANT pg_monitor TO clerk").await.unwrap();
    yard.limits.until = None;
    let report = yard.run().await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 50), "{report:?}");
    assert_eq!((report.exported_rows, yard.archived("orders").await.len()), (0, 50));
}

/// Sentry #107906: a burst of dead rows, which autovacuum and replicas had to bear.
#[tokio::test(flavor = "multi_thread")]
async fn sentry_107906_dead_rows_have_a_limit() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let mut yard = Yard::new(&shop, false);
    yard.fill(0..100, 0).await;
    yard.rule.throttle.dead_rows = Some(1_000);
    let client = shop.client().await;
    let litter = "ALTER TABLE orders SET (autovacuum_enabled = off);
        INSERT INTO orders SELECT n, 'dead ' || n, 'open' FROM generate_series(1000, 4999) AS n;
        DELETE FROM orders WHERE state = 'open'; SELECT pg_stat_force_next_flush()";
    for statement in litter.split(';') {
        client.batch_execute(statement).await.unwrap();
    }
    let dead = "SELECT n_dead_tup >= 4000 FROM pg_stat_all_tables
        WHERE relid = 'orders'::regclass";
    until(&client, dead).await;

    let vacuum = || wait(client.batch_execute("VACUUM orders")).unwrap();
    let nurse = Nurse::new(3, &vacuum);
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 100), "{report:?}");
    assert!(nurse.begun_at_rest().len() >= 3, "{report:?}");
    assert_eq!(nurse.begun_at_rest()[..3], [0; 3]);
    assert!(report.rested.keys().any(|why| why.to_string().contains("dead rows")), "{report:?}");
}

/// How much log the server keeps is asked of it; whoever may not know it deletes nothing, and what
/// is told to a run that works counts from the next transaction on.
#[tokio::test(flavor = "multi_thread")]
async fn i13_no_row_is_deleted_while_too_much_log_is_kept() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let client = shop.client().await;
    let rights = "CREATE ROLE clerk LOGIN; ALTER TABLE orders OWNER TO clerk;
        GRANT CREATE ON DATABASE postgres TO clerk;";
    client.batch_execute(rights).await.unwrap();
    let mut yard = Yard::new(Clerk(&shop), false);
    yard.fill(0..50, 0).await;
    // One segment is in use at any time.
    yard.rule.throttle.log_used = Some(LogShare::Bytes(1));
    let help = || {
        wait(async {
            client.batch_execute("GRANT pg_monitor TO clerk").await.unwrap();
            let log_used_max = Some(LogShare::Percent(100));
            let said = Said { log_used_max, ..Said::default() };
            tell(&yard.place, &yard.world, "dba", |told| told.said = said).await.unwrap();
        });
    };
    let nurse = Nurse::new(2, &help);
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 50), "{report:?}");
    assert_eq!(nurse.begun_at_rest()[..2], [0; 2]);
    assert!(report.rested.contains_key(&Cause::UnknownLogUsed), "{report:?}");
    yard.fill(100..110, 0).await;
    // What was told counts for the set, until something else is.
    let said = Said { log_used_max: Some(LogShare::Bytes(1)), ..Said::default() };
    tell(&yard.place, &yard.world, "dba", |told| told.said = said).await.unwrap();
    yard.rule.throttle.aborts = true;
    let report = yard.run().await.unwrap();
    let Quit::Critical(why) = &report.quit else { panic!("{report:?}") };
    assert!(why.contains("bytes of log are in use"), "{why}");
    assert_eq!((report.pruned_rows, yard.live("orders").await.len()), (0, 10));
}

/// The real clock, for who has no time: what is waited for is over at once.
#[derive(Debug)]
struct Hasty {
    real: Arc<dyn Clock>,
    skipped: Mutex<Duration>,
}

#[async_trait]
impl Clock for Hasty {
    fn now(&self) -> DateTime<Utc> {
        self.real.now() + *self.skipped.lock().unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed() + *self.skipped.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        *self.skipped.lock().unwrap() += duration;
    }
}

/// A yard whose rests take no time.
fn hasty<S: Shop>(shop: S) -> Yard<S> {
    let mut yard = Yard::new(shop, false);
    let real = Arc::clone(&yard.world.clock);
    yard.world.clock = Arc::new(Hasty { real, skipped: Mutex::default() });
    yard
}

/// One rest is not longer than ten seconds; what more was written is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn all_log_is_rested_for_that_was_written_faster_than_it_may_be() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let mut yard = hasty(&shop);
    yard.fill(0..100, 0).await;
    // Each deletion writes what may be written in 16 s.
    yard.rule.throttle.log_bytes_per_second = Some(256 << 10);
    shop.execute(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_logical_emit_message(false, '', repeat('x', 4 << 20)); RETURN NULL; END $$;
         CREATE TRIGGER tell AFTER DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION tell()",
    )
    .await;
    let nurse = Nurse::new(u64::MAX, &|| {});
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 100), "{report:?}");
    let begun = u32::try_from(nurse.begun.load(Ordering::Relaxed)).unwrap();
    // Nothing is left that the last one would keep from being deleted.
    let least = Duration::from_secs(12) * (begun - 1);
    assert!(begun > 1 && report.rested[&Cause::LogRate] >= least, "{begun}: {report:?}");
}

/// Sessions of others look idle to whoever may not see them.
#[tokio::test(flavor = "multi_thread")]
async fn i13_no_row_is_deleted_while_nobody_knows_how_many_sessions_work() {
    let Some(shop) = InPostgres::new(18).await else { return };
    let client = shop.client().await;
    let rights = "CREATE ROLE clerk LOGIN; ALTER TABLE orders OWNER TO clerk;
        GRANT CREATE ON DATABASE postgres TO clerk;";
    client.batch_execute(rights).await.unwrap();
    let mut yard = Yard::new(Clerk(&shop), false);
    yard.fill(0..50, 0).await;
    yard.rule.throttle.active = Some(100);
    // It may be more than twice as many, and nobody knows.
    yard.rule.throttle.aborts = true;
    let grant = || wait(client.batch_execute("GRANT pg_monitor TO clerk")).unwrap();
    let nurse = Nurse::new(2, &grant);
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 50), "{report:?}");
    assert_eq!(nurse.begun_at_rest()[..2], [0; 2]);
    assert!(report.rested.contains_key(&Cause::UnknownSessions), "{report:?}");
    let told = report.findings.iter().find(|one| one.found.contains("max_threads_running"));
    let statement = told.and_then(|one| one.statement.as_deref());
    assert_eq!(statement, Some("GRANT pg_monitor TO clerk"), "{report:?}");
}

/// Limits that an engine does not know are refused, by their names, also where a run goes on.
#[tokio::test(flavor = "multi_thread")]
async fn limits_that_sqlite_cannot_tell_are_refused() {
    let mut yard = hasty(Sqlite::new().await);
    yard.fill(0..60, 0).await;
    yard.limits.keeps_source = true;
    yard.run().await.unwrap();
    yard.limits.keeps_source = false;
    let usual = yard.rule.throttle.clone();
    for (name, throttle) in [
        ("max_threads_running", Throttle { active: Some(1), ..usual.clone() }),
        ("max_dead_rows", Throttle { dead_rows: Some(1), ..usual.clone() }),
    ] {
        yard.rule.throttle = throttle;
        let error = yard.run().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Refused, code::ROWS_REFUSED),
            "{name}"
        );
        let found = format!("{:?}", error.facts());
        assert!(found.contains(&format!("{name}: SQLite")), "{error:?}");
        let advice = format!("leave {name} out of throttle of [archive.orders]");
        assert_eq!(error.advice(), [advice.as_str()], "{error:?}");
        assert_eq!(yard.live("orders").await.len(), 60, "{name}");
    }
    // The log is written by each transaction, at least to a page of the table and the ledger's.
    yard.rule.throttle = Throttle { log_bytes_per_second: Some(1 << 10), ..usual };
    let nurse = Nurse::new(u64::MAX, &|| {});
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 60), "{report:?}");
    let begun = u32::try_from(nurse.begun.load(Ordering::Relaxed)).unwrap();
    let least = Duration::from_secs(6) * (begun - 1);
    assert!(begun > 1 && report.rested[&Cause::LogRate] >= least, "{begun}: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_lets_others_work_after_each_transaction() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..60, 0).await;
    yard.rule.throttle.nice_percent = 300;
    let nurse = Nurse::new(u64::MAX, &|| {});
    let report = yard.run_seen(&nurse).await.unwrap();
    assert_eq!((report.quit.clone(), report.pruned_rows), (Quit::Finished, 60), "{report:?}");
    assert!(report.rested[&Cause::Nice] > Duration::ZERO, "{report:?}");
    // Once after each of them, and not again and again.
    let begun = nurse.begun_at_rest();
    assert!(begun.windows(2).all(|two| two[0] < two[1]), "{begun:?}");
}
