//! How far a run is, and why it waits, for those who ask from elsewhere.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says what it tried")]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use stillpoint::{
    archiver::{Aged, LastWord, Place, Quit, Shelf, Step, Witness, gone_rows, last_word, tell},
    world::World,
};
use tokio::{runtime::Handle, task::block_in_place};

use super::{
    few::{configured, few},
    shop::{Sqlite, Yard},
};
use crate::support::world::TestClock;

impl Yard<Sqlite> {
    async fn word(&self) -> Option<LastWord> {
        last_word(&self.place).await.unwrap()
    }

    /// The run that has not ended, how it stopped last, and why.
    async fn stopped(&self) -> (String, String) {
        let word = self.word().await.unwrap();
        let shelf = Shelf::load(&self.place).await.unwrap();
        assert_eq!(shelf.unfinished().map(|run| &run.plan.run), Some(&word.run), "{word:?}");
        (word.state, word.why)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_run_waits_is_known_afterwards() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.world.clock = TestClock::new();
    assert_eq!(yard.run().await.unwrap().quit, Quit::NothingSelected);
    assert_eq!(yard.word().await, None, "nothing was begun");
    yard.fill(0..40, 0).await;
    yard.gates.push(Box::new(Aged(Duration::from_hours(1))));
    assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
    let (state, why) = yard.stopped().await;
    assert!(state == "gate" && why.contains("kept beside the rows until 2026-11-21 13:"), "{why}");
    // The same again is so since then, and nothing is written.
    let (word, listed) = (yard.word().await, yard.store.list("").await.unwrap());
    assert!(matches!(yard.run().await.unwrap().quit, Quit::Gate(_)));
    assert_eq!((yard.word().await, yard.store.list("").await.unwrap()), (word, listed));

    // Before anything of it is done.
    yard.limits.until = Some(yard.world.clock.now());
    let report = yard.run().await.unwrap();
    assert!(report.quit == Quit::OutOfTime && report.run.is_some(), "{report:?}");
    assert_eq!(yard.stopped().await.0, "out-of-time");
    yard.limits.until = None;
    yard.gates.clear();
    yard.limits.rows_max = Some(10);
    assert_eq!(yard.run().await.unwrap().quit, Quit::RowsMax);
    assert_eq!(yard.stopped().await.0, "rows-max");
    let shelf = Shelf::load(&yard.place).await.unwrap();
    let ledger = yard.ledger().await;
    let run = shelf.unfinished().unwrap();
    assert_eq!((run.plan.rows, gone_rows(run, &ledger)), (40, 10));

    // An error is told, and so is the end.
    let files = yard.store.list("archive/orders/orders/").await.unwrap();
    for file in &files {
        yard.store.delete(&file.key).await.unwrap();
    }
    let error = yard.run().await.unwrap_err();
    let (state, why) = yard.stopped().await;
    assert!(state == "failed" && why.contains(&error.to_string()), "{why}");
    let yard = Yard::new(Sqlite::new().await, false);
    yard.fill(0..20, 0).await;
    let report = yard.run().await.unwrap();
    let word = yard.word().await.unwrap();
    assert_eq!((Some(word.run), &*word.state), (report.run, "finished"));
}

/// Pauses a run, looks what others hear while it rests, and lets it go on.
#[derive(Debug)]
struct Pauser {
    place: Place,
    world: World,
    rests: AtomicU64,
    heard: Mutex<Vec<LastWord>>,
}

impl Pauser {
    fn look(&self, is_paused: Option<bool>) {
        let looked = async {
            let word = last_word(&self.place).await.unwrap();
            self.heard.lock().unwrap().extend(word);
            if let Some(is_paused) = is_paused {
                tell(&self.place, &self.world, "dba", |told| told.is_paused = is_paused)
                    .await
                    .unwrap();
            }
        };
        block_in_place(|| Handle::current().block_on(looked));
    }
}

impl Witness for Pauser {
    fn see(&self, step: &Step) {
        match step {
            Step::Shelved { .. } => self.look(Some(true)),
            Step::Resting { .. } => match self.rests.fetch_add(1, Ordering::Relaxed) {
                5 => self.look(None),
                15 => self.look(Some(false)),
                _ => {}
            },
            Step::Committed { .. } => self.look(None),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_that_lasts_is_heard_of_while_it_does() {
    let mut yard = Yard::new(Sqlite::new().await, false);
    yard.world.clock = TestClock::new();
    yard.fill(0..10, 0).await;
    let (place, world) = (yard.place.clone(), yard.world.clone());
    let pauser = Pauser { place, world, rests: AtomicU64::new(0), heard: Mutex::default() };
    assert!(yard.run_seen(&pauser).await.unwrap().quit.is_done());
    let heard = pauser.heard.into_inner().unwrap();
    let states: Vec<&str> = heard.iter().map(|word| &*word.state).collect();
    // Nothing at first, and after a few seconds; then that it rests; then that it goes on.
    assert_eq!(states, ["resting", "working"], "{heard:?}");
    assert_eq!(heard[0].cause.as_deref(), Some("paused"));
    assert!(heard[0].why.contains("dba paused it"), "{heard:?}");
    assert!(heard[0].since < heard[1].since);
    assert_eq!(yard.word().await.unwrap().state, "finished");
}

/// The same through the program.
#[test]
fn status_shows_bytes_what_is_left_and_why_it_waits() {
    let (ward, _shop) = few(5, "slice_rows = 1\ndelete_gate = { min_age = \"24h\" }\n");
    let status = || ward.json(&["archive", "status", "few"]);
    assert_eq!((&status()["run"], &status()["last_word"]), (&Value::Null, &Value::Null));
    ward.ok(&["archive", "run", "few"]);
    let waits = status();
    let (word, run) = (&waits["last_word"], &waits["run"]);
    assert_eq!((&word["state"], &word["run"]), (&"gate".into(), run), "{waits:#}");
    assert!(word["why"].as_str().unwrap().contains("kept beside the rows until"), "{waits:#}");
    assert_eq!((&waits["planned_rows"], &waits["exported_rows"]), (&5.into(), &5.into()));
    assert_eq!((&waits["pruned_rows"], &waits["left_rows"]), (&0.into(), &5.into()), "{waits:#}");
    assert_eq!((&waits["rows_per_second"], &waits["eta_ms"]), (&Value::Null, &Value::Null));
    assert!(waits["file_bytes"].as_u64().unwrap() > 0 && waits["planned_bytes"].is_u64());
    let told = ward.ok(&["archive", "status", "few"]);
    assert!(told.contains("kept beside the rows until") && told.contains("5 rows, "), "{told}");
    assert!(told.contains("too little was deleted to say how long it takes"), "{told}");

    // Row by row: from the second one on, it is known how fast they go.
    ward.configure(&configured("slice_rows = 1\n"));
    for _ in 0..2 {
        ward.ok(&["archive", "run", "few", "--max-rows", "1"]);
    }
    let goes = status();
    assert_eq!((&goes["pruned_rows"], &goes["left_rows"]), (&2.into(), &3.into()), "{goes:#}");
    assert!(goes["rows_per_second"].as_f64().unwrap() > 0.0, "{goes:#}");
    assert!(goes["eta_ms"].is_u64() && goes["last_word"]["state"] == "rows-max", "{goes:#}");
    let told = ward.ok(&["archive", "status", "few"]);
    assert!(told.contains("3 rows of the root: about "), "{told}");
    ward.ok(&["archive", "run", "few"]);
    let ended = status();
    assert_eq!((&ended["run"], &ended["left_rows"]), (&Value::Null, &Value::Null), "{ended:#}");
    assert_eq!(ended["last_word"]["state"], "finished", "{ended:#}");
}
