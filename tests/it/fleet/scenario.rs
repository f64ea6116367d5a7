//! A fleet, its coordinators, and what happens to them: all of it follows from a seed.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, stream::FuturesUnordered};
use stillpoint::{
    config::{Source, load},
    coordinator::{
        Caps, Coordinator, Endpoints, Fleet, Hands, Member, Notifier, Place, Rhythm,
        state::{Database, State},
    },
    pipeline::cpu::CpuPool,
    policy,
    repository::store::Dice,
    world::World,
};
use stillpoint_contract::{Endpoint, Engine};
use stillpoint_sim::SimEngine;
use tokio::sync::watch;

use super::{
    ledger::{Ledger, Line},
    model::{Model, Vault},
    oracle,
    people::People,
    time::{Time, Watch, live},
};

/// What promises there are: calendars in several zones, by both changes of clocks and a leap day.
const POLICIES: &str = include_str!("policies.toml");

/// The names in it, in the order in which databases take them in turn.
const NAMES: [&str; 5] = ["nightly", "hourly", "stream", "office", "often"];

/// When simulations begin.
const STARTS: [&str; 4] = [
    // Clocks go back in Berlin on 25 October, in New York on 1 November, and forward on Lord Howe.
    "2026-10-22T11:00:00Z",
    // Clocks go forward in Berlin on 28 March, and back on Lord Howe on 4 April.
    "2027-03-25T09:00:00Z",
    // New York's clocks go forward on 12 March.
    "2028-03-09T21:00:00Z",
    // A leap day.
    "2028-02-26T17:00:00Z",
];

const DAY: Duration = Duration::from_hours(24);

/// Who was not heard of for so long has lost what it works on.
pub(super) const LEASE: Duration = Duration::from_mins(12);

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Coordinators are killed at some call to the state database, and begin anew.
    Kills,
    /// One stands still for longer than its lease, and wakes.
    Freezes,
    /// Their clocks differ by minutes, and one is set back.
    Clocks,
    /// Answers of the state database are lost.
    LostAnswers,
    /// The state database fails over and forgets a second.
    FailOver,
    /// A repository cannot be reached for hours.
    Outages,
    /// Servers go away for hours.
    Departures,
    /// Nobody runs for six hours.
    Silence,
    /// Backups fail, or never end; messages do not get through.
    Failures,
}

impl Trouble {
    pub(super) const ALL: [Self; 9] = [
        Self::Kills,
        Self::Freezes,
        Self::Clocks,
        Self::LostAnswers,
        Self::FailOver,
        Self::Outages,
        Self::Departures,
        Self::Silence,
        Self::Failures,
    ];
}

/// Everything that a run follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) databases: usize,
    pub(super) days: u32,
    pub(super) coordinators: usize,
    pub(super) troubles: Vec<Trouble>,
    /// How many jobs run at once.
    pub(super) slots: u32,
    /// How long most backups take.
    pub(super) median: Duration,
    /// One promise for all, if not each in turn.
    pub(super) policy: Option<&'static str>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, databases, days, coordinators, troubles, .. } = self;
        write!(
            f,
            "STILLPOINT_SEED={seed}: {databases} databases, {days} days, {coordinators} \
             coordinators, {troubles:?}"
        )
    }
}

/// What is there to be judged in the end.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) begin: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) vault: Arc<Vault>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) people: Arc<People>,
    pub(super) state: State,
    /// When at least one coordinator could do something.
    pub(super) awake: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    /// Instants at which the state database forgot a second.
    pub(super) forgot: Vec<DateTime<Utc>>,
    /// How wrong clocks were at most.
    pub(super) skew: TimeDelta,
    /// When repositories could not be reached.
    pub(super) outages: Vec<(String, DateTime<Utc>, DateTime<Utc>)>,
    /// What was done to it, for the message of a failed test.
    pub(super) told: Vec<(DateTime<Utc>, String)>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) backups: u64,
    pub(super) drills: u64,
    pub(super) expired: u64,
    pub(super) captures: u64,
    pub(super) fenced: u64,
    pub(super) pages: u64,
    pub(super) breaches: u64,
    pub(super) commits: u64,
    pub(super) questions: u64,
    /// Calls that coordinators made to the state database.
    pub(super) calls: u64,
}

/// What was done to a fleet.
#[derive(Debug, Default)]
struct Happened {
    forgot: Vec<DateTime<Utc>>,
    skew: TimeDelta,
    outages: Vec<(String, DateTime<Utc>, DateTime<Utc>)>,
    told: Vec<(DateTime<Utc>, String)>,
}

/// One coordinator, its clock, and its way to the state database.
struct Seat {
    own: usize,
    watch: Arc<Watch>,
    line: Arc<Line>,
    /// Until then, in microseconds of the simulation, it stands still.
    frozen_until: AtomicU64,
    /// It does not begin before.
    asleep_until: AtomicU64,
}

struct Stage {
    scenario: Scenario,
    time: Arc<Time>,
    fleet: Arc<Fleet>,
    vault: Arc<Vault>,
    ledger: Arc<Ledger>,
    people: Arc<People>,
    seats: Vec<Seat>,
    dice: Dice,
}

impl Scenario {
    /// A small fleet, and every trouble or some.
    pub(super) fn of(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let troubles = Trouble::ALL.into_iter().filter(|_| dice.happens(150)).collect();
        Self {
            seed,
            databases: 5 + dice.below(6),
            days: 2 + dice.below(4) as u32,
            coordinators: 1 + dice.below(3),
            troubles,
            slots: 2 + dice.below(3) as u32,
            median: Duration::from_secs(240 + 60 * dice.below(10) as u64),
            policy: None,
        }
    }

    fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }

    /// Lives through all of it, and judges it.
    pub(super) fn run(&self) -> Result<Report, String> {
        self.run_with(rhythm(), 1)
    }

    /// The same, looking more rarely; at all jobs after so many commits.
    pub(super) fn run_with(&self, rhythm: Rhythm, look_every: u64) -> Result<Report, String> {
        let dice = Dice::new(self.seed ^ 0x7374_6167);
        let begin: DateTime<Utc> = STARTS[dice.below(STARTS.len())].parse().unwrap();
        let time = Time::new(begin);
        let failing = if self.has(Trouble::Failures) { 16 } else { 0 };
        let lost = if self.has(Trouble::LostAnswers) { 4 } else { 0 };
        let ledger = Ledger::new(&time, look_every);
        let seat = |own: usize| Seat {
            own,
            watch: Watch::of(&time),
            line: Line::to(&ledger, self.seed ^ own as u64, lost),
            frozen_until: AtomicU64::new(0),
            asleep_until: AtomicU64::new(0),
        };
        let stage = Stage {
            fleet: Arc::new(fleet(self, begin)),
            vault: Vault::new(&time, self.seed, self.median, failing),
            people: People::new(&time, self.seed, failing),
            seats: (0..self.coordinators).map(seat).collect(),
            scenario: self.clone(),
            dice,
            ledger,
            time,
        };
        live(&stage.time, 0, stage.play(rhythm))
    }
}

/// Looks that are rare enough for a month to pass quickly.
pub(super) fn rhythm() -> Rhythm {
    Rhythm {
        tick: Duration::from_mins(5),
        renew: Duration::from_mins(4),
        lease: LEASE,
        report: Duration::from_mins(5),
        look: Duration::from_mins(30),
        watch: Duration::from_mins(5),
        well: Duration::from_mins(30),
    }
}

fn fleet(scenario: &Scenario, since: DateTime<Utc>) -> Fleet {
    let source = Source { path: "fleet.toml".into(), text: POLICIES.to_owned() };
    let loaded = load(vec![source], since);
    assert!(loaded.is_sound(), "{:?}", loaded.problems);
    let policies: BTreeMap<String, Arc<policy::Policy>> =
        loaded.config.policies.into_iter().map(|(name, one)| (name, Arc::new(one))).collect();
    let engine: Arc<dyn Engine> = Arc::new(SimEngine::new());
    let member = |place: usize| {
        let name = format!("db-{place:05}");
        let policy = scenario.policy.unwrap_or(NAMES[place % NAMES.len()]);
        let address = name.clone();
        let endpoint = Endpoint { scheme: "sim".to_owned(), address, settings: BTreeMap::new() };
        let member = Member {
            name: name.clone(),
            state: policy::State::Active,
            since,
            place: Some(Place {
                engine: Arc::clone(&engine),
                endpoint,
                host: format!("host-{}", place % 800),
                streams_max: std::num::NonZeroUsize::MIN,
                pickup: None,
            }),
            obstacle: None,
            policy: Arc::clone(&policies[policy]),
            repository: ["a", "b"][place % 2].to_owned(),
            labels: BTreeMap::new(),
            subjects: Vec::new(),
            endpoints: Endpoints::default(),
            agent: None,
            is_observed: false,
            archives: Vec::new(),
        };
        (name, Arc::new(member))
    };
    Fleet {
        members: (0..scenario.databases).map(member).collect(),
        caps: Caps {
            all: scenario.slots,
            host: Some(2),
            repositories: [("a".to_owned(), scenario.slots)].into(),
        },
        may_expire: true,
        ..Fleet::default()
    }
}

/// Is polled only while its coordinator does not stand still.
struct Thawed<'a, F> {
    seat: &'a Seat,
    time: &'a Time,
    inner: Pin<Box<F>>,
    waits: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

impl<F: Future> Future for Thawed<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let until = self.seat.frozen_until.load(Ordering::Relaxed);
        let until = Duration::from_micros(until);
        if let Some(left) = until.checked_sub(self.time.elapsed()).filter(|left| !left.is_zero()) {
            let time = self.time;
            let waits = self.waits.get_or_insert_with(|| Box::pin(time.sleep(left)));
            // Woken once more when it is over.
            let _ = waits.as_mut().poll(context);
            return Poll::Pending;
        }
        self.waits = None;
        self.inner.as_mut().poll(context)
    }
}

impl Stage {
    fn below(&self, limit: usize) -> i64 {
        self.dice.below(limit).cast_signed() as i64
    }

    fn end(&self) -> Duration {
        DAY * self.scenario.days
    }

    async fn play(&self, rhythm: Rhythm) -> Result<Report, String> {
        let begin = self.time.now();
        let mut past = {
            let all = self.seats.iter().map(|seat| self.sit(seat, rhythm));
            // Only those are looked at that something happens to.
            let all = all.collect::<FuturesUnordered<_>>().collect::<Vec<_>>();
            let happened = tokio::select! {
                biased;
                told = self.happen() => told,
                _ = all => return Err("every coordinator ended".to_owned()),
            };
            let state = self.state(&self.seats[0]).await;
            Past {
                begin,
                end: self.time.now(),
                fleet: Arc::clone(&self.fleet),
                vault: Arc::clone(&self.vault),
                ledger: Arc::clone(&self.ledger),
                people: Arc::clone(&self.people),
                state,
                awake: Vec::new(),
                forgot: happened.forgot,
                skew: happened.skew,
                outages: happened.outages,
                told: happened.told,
            }
        };
        past.awake = self.ledger.awake(past.end);
        let mut report = oracle::judge(&past).await?;
        report.calls = self.seats.iter().map(|seat| seat.line.calls()).sum();
        Ok(report)
    }

    async fn state(&self, seat: &Seat) -> State {
        let line: Arc<dyn Database> = Arc::<Line>::clone(&seat.line);
        loop {
            let entropy = Arc::new(Dice::new(self.scenario.seed ^ (seat.own as u64 + 77)));
            if let Ok(state) = State::open(Arc::clone(&line), entropy).await {
                return state.with_term(LEASE);
            }
        }
    }

    /// One coordinator after the other, as each is killed.
    async fn sit(&self, seat: &Seat, rhythm: Rhythm) {
        let mut lives = 0;
        loop {
            let asleep = Duration::from_micros(seat.asleep_until.load(Ordering::Relaxed));
            self.time.sleep(asleep.saturating_sub(self.time.elapsed())).await;
            lives += 1;
            let life = async {
                let state = self.state(seat).await;
                let seed = self.scenario.seed ^ (seat.own as u64 * 1_000_003 + lives);
                let world = World {
                    clock: Arc::<Watch>::clone(&seat.watch),
                    entropy: Arc::new(Dice::new(seed)),
                    cpu: CpuPool::inline(),
                };
                let hands: Arc<dyn Hands> =
                    Arc::new(Model { vault: Arc::clone(&self.vault), own: seat.own });
                let notifier: Arc<dyn Notifier> = Arc::<People>::clone(&self.people);
                let place = format!("seat {}", seat.own);
                let mut coordinator = Coordinator::new(world, state, place, hands, notifier);
                coordinator.rhythm = rhythm;
                let names = self.fleet.members.keys().map(String::as_str);
                while coordinator.state.look_after(names.clone()).await.is_err() {}
                let (_fleets, fleet) = watch::channel(Arc::clone(&self.fleet));
                let (_stop, stop) = watch::channel(false);
                coordinator.serve(fleet, stop).await
            };
            let thawed = Thawed { seat, time: &self.time, inner: Box::pin(life), waits: None };
            tokio::select! {
                biased;
                () = seat.line.died() => {}
                _ = thawed => {}
            }
            self.time.sleep(Duration::from_secs(20)).await;
        }
    }

    /// What happens, until the end.
    async fn happen(&self) -> Happened {
        let mut all = Happened::default();
        let mut over: Vec<(Duration, Trouble, String)> = Vec::new();
        // At the end everything is well for a day, so that everything that began is over.
        let quiet_from = self.end().saturating_sub(DAY.min(self.end() / 2));
        let has = |trouble| self.scenario.has(trouble);
        let names: Vec<&String> = self.fleet.members.keys().collect();
        while self.time.elapsed() < self.end() {
            let next = Duration::from_secs(60 * (10 + self.dice.below(240) as u64));
            self.time.sleep(next.min(self.end().saturating_sub(self.time.elapsed()))).await;
            let now = self.time.elapsed();
            let is_quiet = quiet_from <= now;
            over.retain(|(until, trouble, what)| {
                if now < *until && !is_quiet {
                    return true;
                }
                all.told.push((self.time.now(), format!("end of {trouble:?} of {what}")));
                match trouble {
                    Trouble::Outages => {
                        self.vault.set_reachable(what, true);
                        let open = all.outages.iter_mut().filter(|one| one.0 == *what);
                        open.for_each(|one| one.2 = one.2.min(self.time.now()));
                    }
                    _ => self.vault.set_there(what, true),
                }
                false
            });
            if is_quiet {
                self.seats.iter().for_each(|seat| seat.watch.go_wrong(TimeDelta::zero()));
                continue;
            }
            let hours = |least: usize, more: usize| {
                Duration::from_secs(60 * (least * 60 + self.dice.below(more * 60)) as u64)
            };
            let trouble = Trouble::ALL[self.dice.below(Trouble::ALL.len())];
            if !has(trouble) {
                if self.dice.happens(8) {
                    self.vault.hold_newest(names[self.dice.below(names.len())]);
                }
                continue;
            }
            let seat = &self.seats[self.dice.below(self.seats.len())];
            all.told.push((self.time.now(), format!("{trouble:?}, seat {}", seat.own)));
            match trouble {
                Trouble::Kills => seat.line.die_after(self.below(400)),
                Trouble::Freezes => {
                    let long = Duration::from_secs(300 + self.dice.below(5_400) as u64);
                    self.freeze(seat, now + long);
                }
                Trouble::Clocks => {
                    let by = TimeDelta::seconds(self.below(600) - 300);
                    all.skew = all.skew.max(by.abs());
                    seat.watch.go_wrong(by);
                }
                Trouble::FailOver => {
                    self.ledger.fail_over().await;
                    all.forgot.push(self.time.now());
                }
                Trouble::Outages => {
                    let which = ["a", "b"][self.dice.below(2)];
                    self.vault.set_reachable(which, false);
                    all.told.push((self.time.now(), format!("of {which}")));
                    all.outages.push((which.to_owned(), self.time.now(), DateTime::<Utc>::MAX_UTC));
                    over.push((now + hours(0, 8), trouble, which.to_owned()));
                }
                Trouble::Departures => {
                    let which = names[self.dice.below(names.len())];
                    self.vault.set_there(which, false);
                    all.told.push((self.time.now(), format!("of {which}")));
                    over.push((now + hours(0, 60), trouble, which.clone()));
                }
                Trouble::Silence => {
                    let until = now + hours(6, 1);
                    for seat in &self.seats {
                        seat.asleep_until.store(until.as_micros() as u64, Ordering::Relaxed);
                        seat.line.die_after(0);
                    }
                }
                Trouble::LostAnswers | Trouble::Failures => {}
            }
        }
        all
    }

    fn freeze(&self, seat: &Seat, until: Duration) {
        seat.frozen_until.store(until.as_micros() as u64, Ordering::Relaxed);
        self.vault.freeze(seat.own);
    }
}
