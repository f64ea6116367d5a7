//! I2 and I3: whoever writes, dooms and sweeps at the same time, whatever exists stays whole.

use std::{sync::Arc, time::Duration};

use stillpoint::repository::{
    CollectOptions, Repository,
    store::{MemoryStore, Rates, Schedule, Store, Waiting},
};

use crate::support::{
    data::{Content, change, content},
    ledger::{Ledger, forget, tell},
    session::{Driver, Method, init},
    stage::{Actor, Part, Played, Weather, Whim, is_clean, play},
    world::{runs_or, runtime, seed_or, world},
};

/// Collects everything at once: nothing but the log protects what is needed.
pub(super) const RUTHLESS: CollectOptions = CollectOptions {
    grace: Duration::ZERO,
    orphan_age: Some(Duration::ZERO),
    repack_max: 1.0,
    dry_run: false,
};

/// Dooms everything at once, and deletes nothing.
const PATIENT: CollectOptions = CollectOptions { grace: Duration::from_hours(1000), ..RUTHLESS };

/// A repository with backups in use, a forgotten one whose packs are half needed, and what two
/// writers want to store next.
struct Scene {
    store: Arc<MemoryStore>,
    ledger: Ledger,
    /// The contents of the forgotten backup: its chunks are there, and about to be doomed.
    doomed: Content,
    changed: Content,
}

async fn scene() -> Scene {
    let (world, ledger) = (world(1), Ledger::default());
    let store = Arc::new(MemoryStore::default());
    let repository = init(world.clone(), Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
    let shop = Driver::new(&world, "shop", &ledger);
    let mail = Driver::new(&world, "mail", &ledger);
    let parts = [("a", 9000), ("b", 9000), ("c", 9000), ("d", 9000), ("e", 9000)];
    let doomed = content(1, &parts);
    let first = shop.back_up(&repository, &doomed, Method::Whole).await.unwrap();
    let mut kept = content(2, &parts[..4]);
    kept.insert("e".to_owned(), doomed["e"].clone());
    shop.back_up(&repository, &kept, Method::Whole).await.unwrap();
    let mut letters = content(3, &[("a", 9000), ("l", 20_000)]);
    letters.insert("d".to_owned(), doomed["d"].clone());
    mail.back_up(&repository, &letters, Method::Whole).await.unwrap();
    // Two that began at the same time hold the same chunks, each in packs of its own.
    let twins = [Driver::new(&world, "castor", &ledger), Driver::new(&world, "pollux", &ledger)];
    let [castor, pollux] = &twins;
    let drafts = (castor.begin(&repository).await, pollux.begin(&repository).await);
    let (same, method) = (content(6, &[("x", 9000)]), Method::Whole);
    castor.complete(drafts.0.unwrap(), &same, method, 0).await.unwrap();
    pollux.complete(drafts.1.unwrap(), &same, method, 0).await.unwrap();
    forget(&repository, &ledger, &first.commit.backup).await.unwrap();
    let mut changed = kept;
    change(&mut changed, 4, 3);
    Scene { store, ledger, doomed, changed }
}

impl Scene {
    /// Stores what the forgotten backup held, and what the other writer stores too.
    fn rival(&self) -> Actor {
        let mut content = self.doomed.clone();
        content.insert("new".to_owned(), self.changed["a"].clone());
        Actor::new("rival", Part::Write { database: "mail", content, method: Method::Whole })
    }

    fn writer(&self) -> Actor {
        let (content, method) = (self.changed.clone(), Method::Incremental);
        Actor::new("writer", Part::Write { database: "shop", content, method })
    }

    async fn play(
        &self,
        cast: &[Actor],
        seed: u64,
        weather: Weather,
        choose: impl FnMut(&[Waiting]) -> usize,
    ) -> Played {
        play((&self.store, &self.ledger), cast, seed, weather, choose).await
    }
}

/// After anything at all, the next backup and the next collection succeed, without repair.
async fn goes_on(played: &Played) -> Result<(), String> {
    let world = world(77);
    let store = Arc::clone(&played.store) as Arc<dyn Store>;
    let go_on = async {
        let repository = Repository::open(world.clone(), Arc::clone(&store), None, None).await?;
        let shop = Driver::new(&world, "shop", &played.ledger);
        shop.back_up(&repository, &content(5, &[("a", 9000)]), Method::Incremental).await?;
        repository.collect(RUTHLESS, &Arc::default()).await
    };
    go_on.await.map_err(|error| format!("it does not go on: {}", tell(&error)))?;
    played.ledger.audit(&world, &store, None).await.map(drop)
}

fn judge(played: &Played, must_succeed: bool) -> Result<(), String> {
    if let Some(wrong) = &played.wrong {
        return Err(wrong.clone());
    }
    for (name, outcome) in &played.outcomes {
        if !is_clean(outcome) || must_succeed && outcome.is_err() {
            return Err(format!("{name} broke a rule"));
        }
    }
    Ok(())
}

#[test]
fn i2_i3_random_schedules_of_writers_and_collectors_lose_nothing() {
    let (seed, runs) = (seed_or(1), runs_or(10_000));
    let runtime = runtime();
    let scene = runtime.block_on(scene());
    // Each seed of a soak has schedules of its own; a single run repeats exactly its seed.
    let first = if runs == 1 { seed } else { seed * runs };
    let mut committed = 0;
    for seed in first..first + runs {
        let mut cast =
            vec![scene.writer(), scene.rival(), Actor::new("collector", Part::Collect(RUTHLESS))];
        cast[2].skew_days = [0, 0, 0, 0, 0, 3650, -3650, 0][seed as usize % 8];
        // One run in four has a second collector, one in four a storm, one in four stale lists.
        if seed % 4 == 1 {
            cast.push(Actor::new("second collector", Part::Collect(RUTHLESS)));
        }
        let storm = Rates { fail: 6, lose_answer: 6, twice: 6, flip_bit: 0, pause: 40 };
        let rates = if seed % 4 == 2 { storm } else { Rates::default() };
        let list_lag_calls = if seed % 4 == 3 { 12 } else { 0 };
        let weather = Weather { rates, list_lag_calls };
        let mut whim = Whim::new(seed, &cast);
        let played = runtime.block_on(scene.play(&cast, seed, weather, |w| whim.pick(w)));
        let mut judged = judge(&played, false);
        if judged.is_ok() && seed % 16 < 4 {
            judged = runtime.block_on(goes_on(&played));
        }
        committed +=
            played.outcomes[..2].iter().filter(|(_, outcome)| outcome.is_ok()).count() as u64;
        if let Err(wrong) = judged {
            panic!(
                "{wrong}\n{}\nrepeat: STILLPOINT_SEED={seed} STILLPOINT_RUNS=1 \
                 cargo test --test it i3_random",
                played.story(),
            );
        }
    }
    println!("{committed} of {} backups came into being", 2 * runs);
    // Whoever discards everything loses nothing either.
    assert!(runs < 100 || committed > runs / 2, "{committed} of {} backups", 2 * runs);
}

#[test]
fn i2_i3_a_writer_that_sleeps_anywhere_through_doom_and_sweep_ends_cleanly() {
    let runtime = runtime();
    let scene = runtime.block_on(scene());
    for (options, must_succeed) in [(PATIENT, true), (RUTHLESS, false)] {
        let (mut pause, mut committed) = (0, 0);
        loop {
            let cast = [scene.rival(), Actor::new("collector", Part::Collect(options))];
            let mut made = 0;
            // The writer works up to call `pause`, then the collector does all its work, then the
            // writer awakes.
            let played = runtime.block_on(scene.play(&cast, 9, Weather::default(), |waiting| {
                let wanted = if made < pause { "rival" } else { "collector" };
                made += 1;
                waiting.iter().position(|w| w.actor == wanted).unwrap_or(0)
            }));
            let judged =
                judge(&played, must_succeed).and_then(|()| runtime.block_on(goes_on(&played)));
            if let Err(wrong) = judged {
                panic!("{wrong}\nasleep before call {pause} with {options:?}\n{}", played.story());
            }
            committed += usize::from(played.outcome("rival").is_ok());
            let mine = played.calls.iter().filter(|call| call.actor == "rival").count();
            if pause > mine {
                break;
            }
            pause += 1;
        }
        assert!(pause > 10, "the writer made {pause} calls");
        assert!(committed > 1, "some sleepers came in time");
    }
}

#[test]
fn i2_i3_every_schedule_with_two_changes_of_turn_loses_nothing() {
    let scene = runtime().block_on(scene());
    let cast = [scene.rival(), Actor::new("collector", Part::Collect(RUTHLESS))];
    let runs = explore(&scene, &cast, 2);
    println!("{runs} schedules");
    assert!(runs > 500, "only {runs} schedules");
}

#[test]
fn i2_i3_every_schedule_of_two_writers_and_a_collector_with_one_change_of_turn_loses_nothing() {
    let scene = runtime().block_on(scene());
    let collector = Actor::new("collector", Part::Collect(RUTHLESS));
    let runs = explore(&scene, &[scene.writer(), scene.rival(), collector], 1);
    println!("{runs} schedules");
    assert!(runs > 500, "only {runs} schedules");
}

/// Plays every schedule with so many changes of turn, and answers how many there are.
fn explore(scene: &Scene, cast: &[Actor], changes_left: usize) -> usize {
    let (runtime, mut schedule, mut runs) = (runtime(), Schedule::exhaustive(), 0);
    loop {
        let mut turns = Turns { changes_left, current: None };
        let played = runtime.block_on(
            scene.play(cast, 9, Weather::default(), |waiting| turns.pick(waiting, &mut schedule)),
        );
        if let Err(wrong) = judge(&played, false) {
            panic!("{wrong}\npicks {schedule}\n{}", played.story());
        }
        runs += 1;
        if !schedule.advance() {
            return runs;
        }
    }
}

/// Lets one actor go on for as long as it can, and takes its turn away a few times, anywhere.
struct Turns {
    changes_left: usize,
    current: Option<String>,
}

impl Turns {
    fn pick(&mut self, waiting: &[Waiting], schedule: &mut Schedule) -> usize {
        // The first call of each actor that could have a turn.
        let mut firsts: Vec<usize> = Vec::new();
        for (index, call) in waiting.iter().enumerate() {
            if !firsts.iter().any(|first| waiting[*first].actor == call.actor) {
                firsts.push(index);
            }
        }
        let is_own = |index: &usize| Some(&waiting[*index].actor) == self.current.as_ref();
        // Nought stays with whoever has the turn.
        firsts.sort_by_key(|index| !is_own(index));
        let has_turn = firsts.first().is_some_and(is_own);
        let picked = match firsts.len() {
            0 | 1 => 0,
            _ if has_turn && self.changes_left == 0 => 0,
            choices => schedule.pick(choices),
        };
        self.changes_left -= usize::from(has_turn && picked > 0);
        let chosen = firsts.get(picked).copied().unwrap_or(0);
        self.current = waiting.get(chosen).map(|w| w.actor.clone());
        chosen
    }
}
