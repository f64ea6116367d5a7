//! Actors on one store, interleaved by a schedule, one store call at a time.

use std::sync::Arc;

use stillpoint::{
    pipeline::Meter,
    repository::{
        CollectOptions, Repository,
        store::{Dice, FaultyStore, Gate, MemoryStore, Rates, Store, Waiting},
    },
};
use stillpoint_contract::{ErrorKind, Result};
use tokio::task::LocalSet;

use super::{
    data::Content,
    ledger::{Ledger, tell},
    session::{Driver, Method},
    world::{TestClock, world_at},
};

/// What an actor does, once.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Backs a database up.
    Write { database: &'static str, content: Content, method: Method },
    /// Marks, dooms and sweeps.
    Collect(CollectOptions),
}

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) name: &'static str,
    pub(crate) part: Part,
    /// By how many days its clock is wrong.
    pub(crate) skew_days: i64,
}

impl Actor {
    pub(crate) fn new(name: &'static str, part: Part) -> Self {
        Self { name, part, skew_days: 0 }
    }
}

/// What the store does to the calls of every actor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) rates: Rates,
    /// Listings miss what was created in so many last calls.
    pub(crate) list_lag_calls: u64,
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Played {
    /// What each actor said in the end.
    pub(crate) outcomes: Vec<(&'static str, Result<()>)>,
    /// What was admitted, in order.
    pub(crate) calls: Vec<Waiting>,
    /// What an audit found wrong, at the first call after which it was.
    pub(crate) wrong: Option<String>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) ledger: Ledger,
}

impl Played {
    pub(crate) fn outcome(&self, name: &str) -> &Result<()> {
        &self.outcomes.iter().find(|(actor, _)| *actor == name).unwrap().1
    }

    /// Everything that happened, for the message of a failed test.
    pub(crate) fn story(&self) -> String {
        let calls: Vec<_> = self.calls.iter().map(ToString::to_string).collect();
        let outcomes: Vec<_> = self
            .outcomes
            .iter()
            .map(|(name, outcome)| match outcome {
                Ok(()) => format!("{name}: done"),
                Err(error) => format!("{name}: {}", tell(error)),
            })
            .collect();
        format!("{}\n{}", calls.join("\n"), outcomes.join("\n"))
    }
}

/// Lets actors act on a copy of `scene`, and audits whenever the log or the set of objects that
/// somebody may rely on has changed: nothing else can make a committed backup worse.
pub(crate) async fn play(
    scene: (&MemoryStore, &Ledger),
    cast: &[Actor],
    seed: u64,
    weather: Weather,
    mut choose: impl FnMut(&[Waiting]) -> usize,
) -> Played {
    let (memory, ledger) = (Arc::new(scene.0.fork()), scene.1.fork());
    let lagging =
        FaultyStore::new(Arc::clone(&memory), seed).with_stale_lists(weather.list_lag_calls);
    let lagging = Arc::new(lagging);
    let gate = Gate::new();
    let plain: Arc<dyn Store> = Arc::clone(&memory) as Arc<dyn Store>;
    let auditor = world_at(TestClock::new(), seed);
    let local = LocalSet::new();
    let mut tasks = Vec::new();
    for (number, actor) in cast.iter().enumerate() {
        let actor_seed = seed.wrapping_mul(31).wrapping_add(number as u64);
        let gated = gate.store(actor.name, Arc::clone(&lagging));
        let store = FaultyStore::new(gated, actor_seed).with_rates(weather.rates);
        let (actor, ledger) = (actor.clone(), ledger.clone());
        tasks.push(local.spawn_local(act(actor, Arc::new(store), ledger, actor_seed)));
    }
    let (mut calls, mut wrong) = (Vec::new(), None);
    local
        .run_until(async {
            let mut is_due = false;
            loop {
                let waiting = gate.quiet().await;
                if is_due && wrong.is_none() {
                    wrong = ledger.audit(&auditor, &plain, None).await.err();
                }
                let Some(chosen) = waiting.get(choose(&waiting).min(waiting.len().max(1) - 1))
                else {
                    break;
                };
                is_due = chosen.operation.starts_with("create log/");
                gate.admit(chosen);
                calls.push(chosen.clone());
            }
        })
        .await;
    let mut outcomes = Vec::new();
    for (actor, task) in cast.iter().zip(tasks) {
        outcomes.push((actor.name, local.run_until(task).await.unwrap()));
    }
    if wrong.is_none() {
        wrong = ledger.audit(&auditor, &plain, None).await.err();
    }
    Played { outcomes, calls, wrong, store: memory, ledger }
}

async fn act(actor: Actor, store: Arc<dyn Store>, ledger: Ledger, seed: u64) -> Result<()> {
    let world = world_at(TestClock::skewed(actor.skew_days), seed);
    let repository = Repository::open(world.clone(), store, None, None).await?;
    match actor.part {
        Part::Write { database, content, method } => {
            let driver = Driver::new(&world, database, &ledger);
            driver.back_up(&repository, &content, method).await.map(drop)
        }
        Part::Collect(options) => {
            repository.collect(options, &Arc::new(Meter::default())).await.map(drop)
        }
    }
}

/// What an actor may say in the end without breaking a promise: done, or a reason that leaves the
/// repository as it was.
pub(crate) fn is_clean(outcome: &Result<()>) -> bool {
    outcome.as_ref().err().is_none_or(|error| {
        !matches!(error.kind(), ErrorKind::Bug | ErrorKind::Corrupt | ErrorKind::Invalid)
    })
}

/// Picks whose call is next: sometimes evenly, and sometimes by ranks that change a few times, so
/// that actors sleep for long in the middle of their work.
#[derive(Debug)]
pub(crate) struct Whim {
    dice: Dice,
    ranks: Option<Vec<(String, usize)>>,
}

impl Whim {
    pub(crate) fn new(seed: u64, cast: &[Actor]) -> Self {
        let dice = Dice::new(seed);
        let ranks = dice
            .happens(160)
            .then(|| cast.iter().map(|actor| (actor.name.to_owned(), dice.below(1000))).collect());
        Self { dice, ranks }
    }

    pub(crate) fn pick(&mut self, waiting: &[Waiting]) -> usize {
        let Some(ranks) = &mut self.ranks else { return self.dice.below(waiting.len()) };
        if self.dice.happens(8) {
            let changed = self.dice.below(ranks.len());
            ranks[changed].1 = self.dice.below(1000);
        }
        let rank = |w: &Waiting| ranks.iter().find(|(name, _)| *name == w.actor).map(|r| r.1);
        (0..waiting.len()).max_by_key(|index| rank(&waiting[*index])).unwrap_or(0)
    }
}
