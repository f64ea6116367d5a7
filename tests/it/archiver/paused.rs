//! A set that somebody paused, or whose server cannot stand more: nothing is read, deleted or taken
//! out of its table, until a run may go on.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::TimeDelta;
use rusqlite::Connection;
use stillpoint::{
    archiver::{Aged, Cause, Place, Quit, Said, Step, Witness, tell},
    repository::store::Key,
    world::World,
};

use super::{
    few::few,
    partitions::{count, nested},
    renewed::{doubled, files, memory},
    shop::{InPostgres, Shop, Sqlite, Yard},
    throttle::wait,
};
use crate::{
    serving::ward::{HEAD, Ward},
    support::world::TestClock,
};

/// As many sets as are worked on at once, and another one.
const PAUSED: [&str; 4] = ["s1", "s2", "s3", "s4"];
const FREE: &str = "s5";

/// Keeps all steps, and does something at some of them.
struct Warden<'a> {
    act: &'a (dyn Fn(&[Step]) + Sync),
    steps: Mutex<Vec<Step>>,
}

impl fmt::Debug for Warden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Warden")
    }
}

impl<'a> Warden<'a> {
    fn new(act: &'a (dyn Fn(&[Step]) + Sync)) -> Self {
        Self { act, steps: Mutex::default() }
    }

    fn steps(self) -> Vec<Step> {
        self.steps.into_inner().unwrap()
    }
}

impl Witness for Warden<'_> {
    fn see(&self, step: &Step) {
        let mut steps = self.steps.lock().unwrap();
        steps.push(step.clone());
        (self.act)(&steps);
    }
}

fn is_rest(step: &Step) -> bool {
    matches!(step, Step::Resting { .. })
}

fn is_planned(step: &Step) -> bool {
    matches!(step, Step::Planned { .. })
}

fn is_shelved(step: &Step) -> bool {
    matches!(step, Step::Shelved { .. })
}

fn is_committed(step: &Step) -> bool {
    matches!(step, Step::Committed { .. })
}

/// Whether it is the last one, and there have been so many of its kind.
fn is_at(steps: &[Step], is_it: fn(&Step) -> bool, number: usize) -> bool {
    steps.last().is_some_and(is_it) && steps.iter().filter(|one| is_it(one)).count() == number
}

/// How many rests follow.
fn rests(steps: &[Step]) -> usize {
    steps.iter().take_while(|one| is_rest(one)).count()
}

async fn pause(place: &Place, world: &World, is_paused: bool) {
    tell(place, world, "dba", |told| told.is_paused = is_paused).await.unwrap();
}

fn yard_of<S: Shop>(shop: S) -> Yard<S> {
    let mut yard = Yard::new(shop, false);
    yard.world.clock = TestClock::new();
    yard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_paused_set_writes_and_deletes_nothing_before_it_goes_on() {
    for keeps_source in [false, true] {
        let mut yard = yard_of(Sqlite::new().await);
        yard.fill(0..30, 0).await;
        yard.limits.keeps_source = keeps_source;
        yard.gates.push(Box::new(Aged(Duration::from_hours(1))));
        let (place, world, store) = (&yard.place, &yard.world, &yard.store);
        pause(place, world, true).await;
        let before = store.list("").await.unwrap();
        let go_on = |steps: &[Step]| {
            if is_at(steps, is_rest, 20) {
                assert_eq!(wait(store.list("")).unwrap(), before, "it wrote something");
                wait(pause(place, world, false));
            }
        };
        let warden = Warden::new(&go_on);
        let report = yard.run_seen(&warden).await.unwrap();
        let steps = warden.steps();
        assert_eq!(rests(&steps), 20, "{steps:?}");
        let Step::Resting { why, .. } = &steps[0] else { panic!("{steps:?}") };
        assert!(why.contains("dba paused it"), "{why}");
        assert!(why.ends_with("stillpoint archive resume orders"), "{why}");
        assert_eq!(matches!(report.quit, Quit::Gate(_)), !keeps_source, "{report:?}");
        assert_eq!((report.exported_rows, yard.live("orders").await.len()), (30, 30));
        let rested = report.rested[&Cause::Paused { by: "dba".to_owned() }];
        assert_eq!(rested, Duration::from_secs(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_paused_amid_its_files_reads_and_deletes_no_more_before_it_goes_on() {
    for keeps_source in [false, true] {
        let mut yard = yard_of(Sqlite::new().await);
        yard.fill(0..300, 0).await;
        yard.rule.file_bytes = 1;
        yard.limits.keeps_source = keeps_source;
        let (place, world) = (&yard.place, &yard.world);
        let tell_it = |steps: &[Step]| {
            if is_at(steps, is_shelved, 1) {
                wait(pause(place, world, true));
            } else if is_at(steps, is_rest, 5) {
                wait(pause(place, world, false));
            }
        };
        let warden = Warden::new(&tell_it);
        let report = yard.run_seen(&warden).await.unwrap();
        let steps = warden.steps();
        let first = steps.iter().position(is_shelved).unwrap();
        assert_eq!(rests(&steps[first + 1..]), 5, "{steps:?}");
        assert!(steps.iter().filter(|one| is_shelved(one)).count() > 1, "{steps:?}");
        let wanted = if keeps_source { Quit::KeptSource } else { Quit::Finished };
        assert_eq!((report.quit, report.exported_rows), (wanted, 300));
    }
}

/// That it is not to rest, as one that was scheduled, leaves everything as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_to_rest_stops_where_somebody_paused_it() {
    let mut yard = yard_of(Sqlite::new().await);
    yard.fill(0..30, 0).await;
    yard.limits.rests_max = Some(Duration::from_mins(5));
    pause(&yard.place, &yard.world, true).await;
    let before = yard.store.list("").await.unwrap();
    let report = yard.run().await.unwrap();
    let Quit::Paused(why) = &report.quit else { panic!("{report:?}") };
    assert_eq!(why, "dba paused it; to go on: stillpoint archive resume orders");
    assert_eq!((report.rested.len(), yard.live("orders").await.len()), (0, 30));
    assert_eq!(yard.store.list("").await.unwrap(), before);
    // Also amid its work; what it has read waits for the next run.
    pause(&yard.place, &yard.world, false).await;
    let (place, world) = (&yard.place, &yard.world);
    let tell_it = |steps: &[Step]| {
        if is_at(steps, is_shelved, 1) {
            wait(pause(place, world, true));
        }
    };
    let report = yard.run_seen(&Warden::new(&tell_it)).await.unwrap();
    assert!(matches!(report.quit, Quit::Paused(_)), "{report:?}");
    assert_eq!((report.exported_rows, report.pruned_rows), (30, 0), "{report:?}");
    pause(&yard.place, &yard.world, false).await;
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 30), "{report:?}");
}

/// Nor does its end: what is gone from the second copy is brought once somebody lets it go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_paused_set_leaves_all_as_it_is_once_its_time_is_over() {
    let stores = [memory(), memory()];
    let (mut yard, _) = doubled(Arc::clone(&stores[0]), Arc::clone(&stores[1])).await;
    yard.world.clock = TestClock::new();
    yard.fill(0..20, 1).await;
    assert!(yard.run().await.unwrap().quit.is_done());
    let whole = files(&*stores[1]).await;
    stores[1].delete(&Key::new(whole[0].clone()).unwrap()).await.unwrap();
    yard.fill(20..30, 1).await;
    pause(&yard.place, &yard.world, true).await;
    let listed = async || [stores[0].list("").await.unwrap(), stores[1].list("").await.unwrap()];
    let before = listed().await;
    yard.limits.until = Some(yard.world.clock.now() + TimeDelta::seconds(5));
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.exported_rows), (&Quit::OutOfTime, 0), "{report:?}");
    assert!(!report.rested.is_empty(), "{report:?}");
    assert_eq!(listed().await, before);
    assert_eq!(yard.live("orders").await.len(), 10);

    pause(&yard.place, &yard.world, false).await;
    yard.limits.until = Some(yard.world.clock.now());
    assert_eq!(yard.run().await.unwrap().quit, Quit::OutOfTime);
    assert_eq!(files(&*stores[1]).await, whole, "it is brought by a run without time, too");
}

/// Its own pace is what it is to keep to, however slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_to_rest_keeps_to_its_pace() {
    let mut yard = yard_of(Sqlite::new().await);
    yard.fill(0..30, 0).await;
    yard.rule.throttle.dead_rows_per_hour = Some(10);
    yard.limits.rests_max = Some(Duration::from_mins(5));
    let report = yard.run().await.unwrap();
    assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 30), "{report:?}");
    assert!(report.rested[&Cause::DeadRowRate] > Duration::from_mins(30), "{report:?}");
}

/// What keeps it from work beside that does not end it before: the next attempt would not know what
/// this one owes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_to_rest_rests_first_for_what_it_deleted() {
    let mut yard = yard_of(Sqlite::new().await);
    yard.fill(0..30, 0).await;
    yard.rule.throttle.dead_rows_per_hour = Some(360);
    yard.limits.rests_max = Some(Duration::from_secs(1));
    let (place, world) = (&yard.place, &yard.world);
    // Which SQLite cannot tell.
    let said = Said { sessions_max: Some(1), ..Said::default() };
    let tell_it = |steps: &[Step]| {
        if is_at(steps, is_committed, 1) {
            wait(tell(place, world, "dba", |told| told.said = said)).unwrap();
        }
    };
    let report = yard.run_seen(&Warden::new(&tell_it)).await.unwrap();
    assert!(matches!(report.quit, Quit::Rested(_)), "{report:?}");
    let rows = u32::try_from(report.pruned_rows).unwrap();
    assert!((1..30).contains(&rows), "{report:?}");
    // One in ten seconds; looking takes some time, too.
    let rested: Duration = report.rested.values().sum();
    assert!(rested >= Duration::from_secs(9) * rows, "{report:?}");
    assert!(report.rested.contains_key(&Cause::UnknownSessions), "{report:?}");
}

/// Whether the server is one that cannot say how far its replicas are: one of them is gone.
async fn lose_a_replica(shop: &InPostgres, is_lost: bool) {
    let slot = if is_lost {
        "SELECT pg_create_physical_replication_slot('gone', true)"
    } else {
        "SELECT pg_drop_replication_slot('gone')"
    };
    shop.execute(slot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_no_partition_is_taken_out_while_a_run_is_to_rest() {
    let Some(shop) = InPostgres::new(17).await else { return };
    for is_paused in [true, false] {
        let mut yard = nested(&shop, &shop, 100).await;
        let (place, world) = (&yard.place, &yard.world);
        let tell_it = |steps: &[Step]| {
            let begins = is_at(steps, is_planned, 1);
            let ends = is_at(steps, is_rest, 3);
            if ends {
                let all = wait(count(&shop, "parted"));
                assert_eq!(all, 160, "a partition was taken out");
            }
            match (begins || ends, is_paused) {
                (false, _) => {}
                (true, true) => wait(pause(place, world, begins)),
                (true, false) => wait(lose_a_replica(&shop, begins)),
            }
        };
        let warden = Warden::new(&tell_it);
        let report = yard.run_seen(&warden).await.unwrap();
        let steps = warden.steps();
        let at = steps.iter().position(is_planned).unwrap();
        assert_eq!(rests(&steps[at + 1..]), 3, "{steps:?}");
        assert!(matches!(steps[at + 4], Step::Detaching { .. }), "{steps:?}");
        assert_eq!((&report.quit, report.pruned_rows), (&Quit::Finished, 40), "{report:?}");
        let cause = report.rested.keys().next().unwrap();
        assert_eq!(*cause == Cause::UnknownLag, !is_paused, "{cause}");
        assert_eq!(count(&shop, "parted").await, 120);

        // Nor is one by a run that is not to rest for long.
        yard = nested(&shop, &shop, 100).await;
        yard.limits.rests_max = Some(Duration::from_secs(1));
        if is_paused {
            pause(&yard.place, &yard.world, true).await;
        } else {
            lose_a_replica(&shop, true).await;
        }
        let report = yard.run().await.unwrap();
        let (is_as_told, why) = match &report.quit {
            Quit::Paused(why) => (is_paused, why),
            Quit::Rested(why) => (!is_paused, why),
            _ => panic!("{report:?}"),
        };
        assert!(is_as_told && !why.is_empty(), "{report:?}");
        assert_eq!((report.pruned_rows, count(&shop, "parted").await), (0, 160), "{report:?}");
        if !is_paused {
            lose_a_replica(&shop, false).await;
        }
    }
}

/// The same through the program.
#[test]
fn somebody_who_runs_a_paused_set_is_told_what_lets_it_go_on() {
    let (ward, _shop) = few(5, "");
    let rows = || -> i64 {
        let shop = Connection::open(ward.path("shop.db")).unwrap();
        shop.query_row("SELECT count(*) FROM few", [], |row| row.get(0)).unwrap()
    };
    assert!(ward.json(&["archive", "plan", "few"])["paused"].is_null());
    ward.ok(&["archive", "pause", "few"]);
    let plan = ward.json(&["archive", "plan", "few"]);
    let why = plan["paused"].as_str().unwrap();
    assert!(why.ends_with("; to go on: stillpoint archive resume few"), "{why}");
    let told = ward.ok(&["archive", "plan", "few"]);
    assert!(told.contains(why) && told.contains("would rest before it begins"), "{told}");

    let running = ward.start(&["archive", "run", "few"], &[]);
    ward.wait_until("word of the pause", || ward.said().contains(why));
    assert_eq!(rows(), 5);
    let runs = ward.json(&["archive", "ls", "few"]);
    assert!(runs["runs"].as_array().unwrap().is_empty(), "{runs:#}");
    ward.ok(&["archive", "resume", "few"]);
    assert_eq!((running.wait(), rows()), (0, 0), "{}", ward.said());
    // One line when it began to rest, and one at the end.
    let said = ward.said();
    for event in ["archive.resting", "archive.working"] {
        assert_eq!(said.matches(event).count(), 1, "{event}: {said}");
    }
    assert!(!said.contains("Resting"), "{said}");
}

#[test]
fn a_run_that_lets_others_work_does_not_tell_of_each_time() {
    let (ward, _shop) = few(20, "slice_rows = 1\nthrottle = { nice_percent = 300 }\n");
    let told = ward.ok(&["archive", "run", "few"]);
    assert!(told.contains("rested") && !told.contains("Resting"), "{told}");
}

/// As many sets as are worked on at once are paused, and one is not.
#[test]
fn paused_sets_leave_their_room_to_others() {
    let policy = |set: &str| {
        format!(
            "[archive.{set}]\ndatabase = \"shop\"\nroot = \"{set}\"\n\
             where = \"state = 'closed'\"\nschedule = \"0 0 1 1 *\"\n"
        )
    };
    let sets: Vec<&str> = PAUSED.into_iter().chain([FREE]).collect();
    let policies: Vec<String> = sets.iter().map(|set| policy(set)).collect();
    let shop = "[database.shop]\nendpoint = \"sqlite:shop.db\"\n";
    let ward = Ward::new(&format!("{HEAD}{shop}{}", policies.concat()));
    ward.ok(&["init", "--repo", "repo", "--no-encryption"]);
    let shop = Connection::open(ward.path("shop.db")).unwrap();
    for set in sets {
        let make = format!(
            "CREATE TABLE {set} (id INTEGER PRIMARY KEY, state TEXT);
             INSERT INTO {set} (state) VALUES ('closed')"
        );
        shop.execute_batch(&make).unwrap();
    }
    drop(shop);
    let rows = |set: &str| -> i64 {
        let shop = Connection::open(ward.path("shop.db")).unwrap();
        shop.query_row(&format!("SELECT count(*) FROM {set}"), [], |row| row.get(0)).unwrap()
    };
    let jobs = |set: &str| {
        let mut jobs = ward.jobs("shop");
        jobs.retain(|job| job["kind"] == format!("archive {set}"));
        jobs
    };
    for set in PAUSED {
        ward.ok(&["archive", "pause", set]);
    }
    let serving = ward.serve();
    ward.wait_until("the last set", || rows(FREE) == 0);
    for set in PAUSED {
        ward.wait_until("word of the pause", || {
            let all = jobs(set);
            all.len() == 1 && all[0]["outcome"] == "deferred"
        });
        let why = jobs(set)[0]["reason"].as_str().unwrap().to_owned();
        assert!(why.ends_with(&format!("stillpoint archive resume {set}")), "{why}");
    }
    // Nothing more is queued for them, until somebody lets one go on: it does so at once.
    ward.ok(&["archive", "resume", PAUSED[0]]);
    ward.wait_until("the first set", || rows(PAUSED[0]) == 0);
    for set in PAUSED.into_iter().skip(1) {
        assert_eq!((rows(set), jobs(set).len()), (1, 1), "{set}");
    }
    assert_eq!(serving.stop(), 143);
    assert!(!ward.said().contains("Resting"), "{}", ward.said());
}
