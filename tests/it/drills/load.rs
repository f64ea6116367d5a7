//! Random drills while the database is written to: each reaches its point, and finds there what the
//! history says.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use stillpoint::world::World;

use super::remains::assert_none;
use crate::{
    postgres::{Story, connect},
    site::{Site, add, setting},
};

/// When each row was about to be committed, and when it was.
type History = Arc<Mutex<Vec<(DateTime<Utc>, DateTime<Utc>)>>>;

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap_or_else(|| panic!("{value}"))).unwrap()
}

/// The rows that a drill counted in a table, and its point.
fn found(drill: &Value, table: &str) -> (usize, DateTime<Utc>, Value) {
    assert_eq!(drill["passed"], true, "{drill:#}");
    let at = drill["asked"].as_str().unwrap().parse().unwrap();
    let tables = drill["rows"]["tables"].as_array().unwrap();
    let row = tables.iter().find(|row| row["table"] == table).unwrap_or(&Value::Null).clone();
    (row["counted"].as_u64().map_or(0, |rows| usize::try_from(rows).unwrap()), at, row)
}

/// Asserts that a state holds every row that was committed before `at` less `unseen`, and none that
/// was begun later.
fn assert_matches(history: &History, base: usize, rows: usize, at: DateTime<Utc>, unseen: i64) {
    let history = history.lock().unwrap();
    let seen = at - TimeDelta::milliseconds(unseen);
    let least = base + history.iter().filter(|(_, done)| *done <= seen).count();
    let most = base + history.iter().filter(|(begun, _)| *begun <= at).count();
    assert!((least..=most).contains(&rows), "{rows} rows at {at}: not in {least}..={most}");
}

#[test]
fn random_drills_of_sqlite_under_load_match_the_history() {
    let (site, world) = (Site::new(), World::real(1));
    let app = site.create("app.db", 50);
    fs::create_dir(site.path("scratch")).unwrap();
    let history = History::default();
    let stop = Arc::new(AtomicBool::new(false));
    site.ok(&["backup", "sqlite:app.db"]);
    let words = ["logs", "stream", "sqlite:app.db", "--flush", "1s", "--stop-at-eof"];
    let capture = site.spawn(&words, "capture");
    let pause = |milliseconds| std::thread::sleep(Duration::from_millis(milliseconds));
    while !fs::read_to_string(site.path("capture.log")).unwrap().contains("Capturing") {
        pause(20);
    }
    let writer = {
        let (history, stop, clock) = (Arc::clone(&history), Arc::clone(&stop), world.clock);
        std::thread::spawn(move || {
            app.busy_timeout(Duration::from_secs(10)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let begun = clock.now();
                add(&app, 1);
                history.lock().unwrap().push((begun, clock.now()));
                pause(7);
            }
        })
    };
    pause(2000);
    for round in 0..setting("STILLPOINT_DRILLS", 8) {
        if round == 3 {
            site.ok(&["backup", "sqlite:app.db"]);
        }
        let words = ["drill", "run", "app.db", "--random", "--scratch", "scratch"];
        let drill = site.json(&words);
        let (rows, at, row) = found(&drill, "t");
        // A commit bears the time at which the capture saw it.
        assert_matches(&history, 50, rows, at, 1500);
        // Each transaction added one row to those that the backup had counted.
        let replayed = number(&drill["reached"]["transactions"]);
        assert_eq!(rows, number(&row["recorded"]) + replayed, "{drill:#}");
        // The same point again is the same state.
        let at = drill["asked"].as_str().unwrap();
        let again = ["drill", "run", "app.db", "--at", at, "--scratch", "scratch"];
        assert_eq!(found(&site.json(&again), "t").0, rows);
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(capture.end(), 0);
    assert_none(&site);
}

/// A client that adds rows to `entry`, each in a transaction of its own.
struct Writer {
    history: History,
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<()>,
}

impl Writer {
    async fn begin(story: &Story, think_milliseconds: u64) -> Self {
        let (history, stop) = (History::default(), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (Arc::clone(&history), Arc::clone(&stop));
        let (client, clock) = (connect(&story.server).await, Arc::clone(&story.world.clock));
        let work = tokio::spawn(async move {
            for n in 1000.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let begun = clock.now();
                client.execute("INSERT INTO entry VALUES ($1, 'x')", &[&n]).await.unwrap();
                noted.lock().unwrap().push((begun, clock.now()));
                clock.sleep(Duration::from_millis(think_milliseconds)).await;
            }
        });
        Self { history, stop, work }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.unwrap();
    }
}

/// A backup holds whatever was committed before its time, and nothing that was begun later.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_postgresql_holds_what_was_committed_before_its_time() {
    for (major, method) in [(13, "sql"), (15, "sql"), (17, "base_backup"), (18, "local")] {
        let Some(story) = Story::begin(major, method).await else { continue };
        fs::create_dir(story.site.path("scratch")).unwrap();
        let writer = Writer::begin(&story, 0).await;
        for _ in 0..setting("STILLPOINT_DRILLS", 3) {
            story.pause(300).await;
            let made = tokio::task::block_in_place(|| story.back_up());
            let at = made["backup"]["at"].as_str().unwrap();
            let words = ["drill", "run", "shop", "--at", at, "--scratch", "scratch"];
            let drill = tokio::task::block_in_place(|| story.ok(&words));
            let (rows, at, _) = found(&drill, "postgres.public.entry");
            println!("PostgreSQL {major}, by {method}");
            assert_matches(&writer.history, 0, rows, at, 0);
        }
        writer.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_drills_of_postgresql_under_load_match_the_history() {
    for major in [15, 18] {
        let Some(mut story) = Story::begin(major, "sql").await else { continue };
        story.write(2).await;
        fs::create_dir(story.site.path("scratch")).unwrap();
        story.back_up();
        let capture = story.capture().await;
        let writer = Writer::begin(&story, 7).await;
        story.pause(4000).await;
        for round in 0..setting("STILLPOINT_DRILLS", 6) {
            if round == 2 {
                story.back_up();
            }
            let words = ["drill", "run", "shop", "--random", "--scratch", "scratch"];
            let drill = tokio::task::block_in_place(|| story.ok(&words));
            let (rows, at, _) = found(&drill, "postgres.public.entry");
            assert_matches(&writer.history, 2, rows, at, 0);
        }
        writer.end().await;
        story.end(capture).await;
        assert_none(&story.site);
    }
}
