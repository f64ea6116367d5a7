//! Fleets of real parts on virtual time: coordinators, drivers, pipeline and repositories are what
//! runs in production; servers are simulated ones, and stores are in memory and fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::{join_all, select_all};
use stillpoint::{
    config::{Source, load},
    coordinator::{
        Caps, Coordinator, Drivers, Endpoints, Fleet, Hands, Member, Notifier, Place, Rehearsal,
        ScratchPlace, Way as Road,
        state::{Database, State},
    },
    pipeline::cpu::CpuPool,
    policy,
    repository::{
        Repository,
        store::{Dice, Fault, Store},
    },
    world::World,
};
use stillpoint_contract::{Clock, Endpoint, Engine};
use tokio::sync::watch;

use super::{
    ledger::{Ledger, Line},
    people::{Heard, People},
    proof,
    scenario::{LEASE, rhythm},
    time::{TURNS, Time, Watch, live},
    yard::{REPOSITORIES, Way, Yard},
};
use crate::support::world::{runs_or, runtime, seed_or};

/// What is promised, with copies in the second repository, or without.
const POLICIES: &str = include_str!("yard.toml");

/// The names in it, in the order in which databases take them.
const NAMES: [&str; 3] = ["stream", "often", "hourly"];

/// Seeds that continuous integration tries.
const SEEDS: u64 = 6;

/// At the end nothing goes wrong for so long, so that everything that began is over.
const QUIET: Duration = Duration::from_hours(20);

/// So many pages the database has that grows, and that after so long it has three times as many.
const GROWING_PAGES: u32 = 256;
const GROWS_AFTER: Duration = Duration::from_hours(8);

/// Everything that a run follows from.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) seed: u64,
    pub(super) databases: usize,
    pub(super) hours: u64,
    pub(super) coordinators: usize,
    /// Whether anything goes wrong.
    pub(super) is_troubled: bool,
    /// Whether the last database grows threefold.
    pub(super) is_growing: bool,
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Backups that were committed, those that expired, copies of them, and restores in the end.
    pub(super) backups: usize,
    pub(super) expired: usize,
    pub(super) copies: usize,
    pub(super) restores: usize,
    /// Coordinators that were killed.
    pub(super) kills: usize,
    /// Calls to stores.
    pub(super) calls: u64,
    /// What people were told.
    pub(super) notices: Vec<String>,
}

/// What is there in the end.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) end: DateTime<Utc>,
    pub(super) fleet: Fleet,
    pub(super) yard: Yard,
    pub(super) ledger: Arc<Ledger>,
    pub(super) people: Arc<People>,
    pub(super) told: Vec<(DateTime<Utc>, String)>,
}

/// One coordinator, its clock, and its ways.
struct Seat {
    own: usize,
    watch: Arc<Watch>,
    line: Arc<Line>,
    /// Those of its present life.
    ways: Mutex<BTreeMap<String, Arc<Way>>>,
}

struct Stage {
    whole: Whole,
    time: Arc<Time>,
    begin: DateTime<Utc>,
    yard: Yard,
    ledger: Arc<Ledger>,
    people: Arc<People>,
    seats: Vec<Seat>,
    dice: Dice,
    told: Mutex<Vec<(DateTime<Utc>, String)>>,
    kills: Mutex<usize>,
}

impl Whole {
    pub(super) fn of(seed: u64) -> Self {
        let dice = Dice::new(seed ^ 0x7768_6f6c);
        Self {
            seed,
            databases: 3 + dice.below(2),
            hours: 30 + dice.below(12) as u64,
            coordinators: 1 + dice.below(2),
            is_troubled: true,
            is_growing: false,
        }
    }

    /// Lives through all of it, and judges it.
    pub(super) fn run(&self) -> Result<Told, String> {
        let begin: DateTime<Utc> = "2026-10-24T15:00:00Z".parse().unwrap();
        let time = Time::new(begin);
        let ledger = Ledger::new(&time, 1);
        let watch = Watch::of(&time);
        let world = world(&watch, self.seed);
        let yard = runtime().block_on(Yard::new(
            (&time, Arc::<Watch>::clone(&watch)),
            &world,
            (self.seed, self.databases, self.is_troubled),
        ));
        let lost = if self.is_troubled { 2 } else { 0 };
        let seat = |own: usize| Seat {
            own,
            watch: Watch::of(&time),
            line: Line::to(&ledger, self.seed ^ own as u64, lost),
            ways: Mutex::default(),
        };
        let stage = Stage {
            whole: self.clone(),
            begin,
            yard,
            people: People::new(&time, self.seed, 0),
            seats: (0..self.coordinators).map(seat).collect(),
            dice: Dice::new(self.seed ^ 0x7374_6167),
            told: Mutex::default(),
            kills: Mutex::default(),
            ledger,
            time: Arc::clone(&time),
        };
        let mut told = live(&time, TURNS, stage.play());
        let remains = stage.remains();
        told.notices = remains.people.heard().iter().map(told_of).collect();
        // Whatever reads the rest reads files, for which virtual time does not wait.
        runtime().block_on(proof::judge(&remains, &mut told)).map(|()| told)
    }
}

fn told_of(heard: &Heard) -> String {
    let Heard { kind, urgency, class, database, .. } = heard;
    format!("{kind:?} {urgency:?} {class} {database}")
}

fn world(watch: &Arc<Watch>, seed: u64) -> World {
    let clock: Arc<dyn Clock> = Arc::<Watch>::clone(watch);
    World { clock, entropy: Arc::new(Dice::new(seed)), cpu: CpuPool::inline() }
}

/// The databases, and the repositories that are open.
fn fleet(
    whole: &Whole,
    (since, engine): (DateTime<Utc>, &Arc<dyn Engine>),
    repositories: BTreeMap<String, Arc<Repository>>,
) -> Fleet {
    let source = Source { path: "yard.toml".into(), text: POLICIES.to_owned() };
    let loaded = load(vec![source], since);
    assert!(loaded.is_sound(), "{:?}", loaded.problems);
    let policies: BTreeMap<String, Arc<policy::Policy>> =
        loaded.config.policies.into_iter().map(|(name, one)| (name, Arc::new(one))).collect();
    let member = |place: usize| {
        let name = format!("db-{place:05}");
        let policy = NAMES[place % NAMES.len()];
        let address = name.clone();
        let endpoint = Endpoint { scheme: "sim".to_owned(), address, settings: BTreeMap::new() };
        let member = Member {
            name: name.clone(),
            state: policy::State::Active,
            since,
            place: Some(Place {
                engine: Arc::clone(engine),
                endpoint,
                host: "host".to_owned(),
                streams_max: std::num::NonZeroUsize::MIN,
                pickup: None,
            }),
            obstacle: None,
            policy: Arc::clone(&policies[policy]),
            repository: REPOSITORIES[0].to_owned(),
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
        members: (0..whole.databases).map(member).collect(),
        caps: Caps { all: 3, host: Some(2), repositories: [("a".to_owned(), 2)].into() },
        repositories,
        may_expire: true,
        ..Fleet::default()
    }
}

impl Stage {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::<stillpoint_sim::SimEngine>::clone(&self.yard.engine)
    }

    fn remains(self) -> Remains {
        let engine = self.engine();
        let fleet = fleet(&self.whole, (self.begin, &engine), BTreeMap::new());
        let Self { yard, ledger, people, told, time, .. } = self;
        let told = told.into_inner().unwrap();
        Remains { end: time.now(), fleet, yard, ledger, people, told }
    }

    async fn play(&self) -> Told {
        let all = join_all(self.seats.iter().map(|seat| self.sit(seat)));
        tokio::select! {
            biased;
            () = self.happen() => {}
            () = self.yard.use_them(&self.time) => {}
            _ = all => {}
        }
        let (kills, calls) = (*self.kills.lock().unwrap(), self.yard.calls());
        Told { kills, calls, ..Told::default() }
    }

    fn tell(&self, what: String) {
        self.told.lock().unwrap().push((self.time.now(), what));
    }

    /// One coordinator after the other, as each is killed.
    async fn sit(&self, seat: &Seat) {
        for life in 1_u64.. {
            let seed = self.whole.seed ^ (seat.own as u64 * 1_000_003 + life);
            let ways = self.yard.ways(seed);
            seat.ways.lock().unwrap().clone_from(&ways);
            let stops = ways.values().map(|way| Box::pin(way.stopped()));
            let killed = async {
                tokio::select! {
                    biased;
                    () = seat.line.died() => {}
                    _ = select_all(stops) => {}
                }
            };
            tokio::select! {
                biased;
                () = killed => *self.kills.lock().unwrap() += 1,
                () = self.coordinate(seat, seed, &ways) => {}
            }
            self.tell(format!("seat {} begins anew", seat.own));
            self.time.sleep(Duration::from_secs(20)).await;
        }
    }

    /// One life of a coordinator.
    async fn coordinate(&self, seat: &Seat, seed: u64, ways: &BTreeMap<String, Arc<Way>>) {
        let world = world(&seat.watch, seed);
        let state = self.state(seat).await;
        let mut repositories = BTreeMap::new();
        for (name, way) in ways {
            let store: Arc<dyn Store> = Arc::<Way>::clone(way);
            let repository = loop {
                match Repository::open(world.clone(), Arc::clone(&store), None, None).await {
                    Ok(repository) => break repository,
                    Err(_) => self.time.sleep(Duration::from_secs(20)).await,
                }
            };
            repositories.insert(name.clone(), Arc::new(repository));
        }
        let engine = self.engine();
        let fleet = Arc::new(fleet(&self.whole, (self.begin, &engine), repositories));
        let hands: Arc<dyn Hands> = Arc::new(Drivers {
            world: world.clone(),
            place: format!("seat {}", seat.own),
            process: (None, |_| false),
            rehearsal: Rehearsal {
                engines: vec![engine],
                scratch: ScratchPlace { root: "/nowhere".into(), notes: None, program: None },
                way: Road::Restore,
                page: |_| String::new(),
            },
        });
        let notifier: Arc<dyn Notifier> = Arc::<People>::clone(&self.people);
        let place = format!("seat {}", seat.own);
        let mut coordinator = Coordinator::new(world, state, place, hands, notifier);
        coordinator.rhythm = rhythm();
        let names = fleet.members.keys().map(String::as_str);
        while coordinator.state.look_after(names.clone()).await.is_err() {}
        let (_fleets, fleets) = watch::channel(Arc::clone(&fleet));
        let (_stop, stop) = watch::channel(false);
        let _ = coordinator.serve(fleets, stop).await;
    }

    async fn state(&self, seat: &Seat) -> State {
        let line: Arc<dyn Database> = Arc::<Line>::clone(&seat.line);
        loop {
            let entropy = Arc::new(Dice::new(self.whole.seed ^ (seat.own as u64 + 77)));
            if let Ok(state) = State::open(Arc::clone(&line), entropy).await {
                return state.with_term(LEASE);
            }
        }
    }

    /// What happens, until the end.
    async fn happen(&self) {
        let end = Duration::from_hours(self.whole.hours) + QUIET;
        if self.whole.is_growing {
            self.yard.grow(&self.time, GROWING_PAGES);
            self.time.sleep(GROWS_AFTER).await;
            self.yard.grow(&self.time, 3 * GROWING_PAGES);
        }
        while self.whole.is_troubled && self.time.elapsed() + QUIET < end {
            self.time.sleep(Duration::from_secs(60 * (5 + self.dice.below(100) as u64))).await;
            let seat = &self.seats[self.dice.below(self.seats.len())];
            match self.dice.below(8) {
                0 | 1 => {
                    self.tell(format!("seat {} is killed at the state database", seat.own));
                    seat.line.die_after(self.dice.below(200).cast_signed() as i64);
                }
                2 | 3 => {
                    let name = REPOSITORIES[self.dice.below(2)];
                    self.tell(format!("seat {} is killed at repository {name}", seat.own));
                    let fault = [Fault::Stop, Fault::StopAfter][self.dice.below(2)];
                    if let Some(way) = seat.ways.lock().unwrap().get(name) {
                        way.fault_at(way.calls() + self.dice.below(60) as u64, fault);
                    }
                }
                4 => {
                    let name = REPOSITORIES[self.dice.below(2)];
                    self.tell(format!("repository {name} cannot be reached"));
                    self.yard.set_reachable(name, false);
                    let minutes = 1 + self.dice.below(150) as u64;
                    self.time.sleep(Duration::from_mins(minutes)).await;
                    self.tell(format!("repository {name} can be reached"));
                    self.yard.set_reachable(name, true);
                }
                5 => {
                    let by = TimeDelta::seconds(self.dice.below(600).cast_signed() as i64 - 300);
                    self.tell(format!("the clock of seat {} is wrong by {by}", seat.own));
                    seat.watch.go_wrong(by);
                }
                6 => {
                    self.ledger.fail_over().await;
                    self.tell("the state database fails over".to_owned());
                }
                _ => {
                    let what = self.yard.strike(&self.time);
                    self.tell(what);
                    let minutes = self.dice.below(120) as u64;
                    self.time.sleep(Duration::from_mins(minutes)).await;
                    self.yard.call_back();
                }
            }
        }
        self.seats.iter().for_each(|seat| seat.watch.go_wrong(TimeDelta::zero()));
        self.time.sleep(end.saturating_sub(self.time.elapsed())).await;
    }
}

/// The smallest run found that still goes wrong, and how.
fn shrink(mut whole: Whole, mut wrong: String) -> (Whole, String) {
    loop {
        let Whole { databases, hours, coordinators, .. } = whole;
        let smaller = [
            Whole { databases: databases - 1, ..whole.clone() },
            Whole { coordinators: coordinators - 1, ..whole.clone() },
            Whole { hours: hours / 2, ..whole.clone() },
        ];
        let is_any = |one: &Whole| one.databases > 0 && one.coordinators > 0 && one.hours > 2;
        let mut smaller = smaller.into_iter().filter(is_any);
        match smaller.find_map(|one| Some((one.run().err()?, one))) {
            Some((why, next)) => (whole, wrong) = (next, why),
            None => return (whole, wrong),
        }
    }
}

fn run(whole: &Whole) -> Told {
    whole.run().unwrap_or_else(|wrong| {
        let (smallest, still) = shrink(whole.clone(), wrong.clone());
        panic!(
            "{wrong}\nafter STILLPOINT_SEED={} of {whole:?}\nthe smallest that goes wrong: \
             {still}\nafter {smallest:?}",
            whole.seed
        )
    })
}

#[test]
fn what_real_parts_made_is_what_the_servers_remember_whatever_goes_wrong() {
    let first = seed_or(1);
    let mut sum = Told::default();
    for seed in first..first + runs_or(SEEDS) {
        let told = run(&Whole::of(seed));
        println!("seed {seed}: {told:?}");
        sum.backups += told.backups;
        sum.expired += told.expired;
        sum.copies += told.copies;
        sum.restores += told.restores;
        sum.kills += told.kills;
    }
    let all = [sum.backups, sum.expired, sum.copies, sum.restores, sum.kills];
    assert!(all.iter().all(|count| *count > 0), "{sum:?}");
}

#[test]
fn row_57_a_database_that_grows_threefold_is_one_ticket_and_wakes_nobody() {
    let (hours, is_troubled, is_growing) = (8, false, true);
    let small = Whole { databases: 3, coordinators: 1, ..Whole::of(1) };
    let told = run(&Whole { hours, is_troubled, is_growing, ..small });
    let (of_size, others): (Vec<&String>, Vec<&String>) =
        told.notices.iter().partition(|notice| notice.contains("unusual-size"));
    // Once the larger size is the usual one, that is over.
    let both = ["Raised", "Resolved"].map(|kind| format!("{kind} Ticket unusual-size db-00002"));
    assert_eq!(of_size, both.iter().collect::<Vec<_>>());
    assert!(!others.iter().any(|notice| notice.contains("Page")), "{others:?}");
}

#[test]
fn the_same_seed_of_real_parts_is_the_same_day() {
    let whole = Whole { hours: 6, databases: 3, coordinators: 2, ..Whole::of(5) };
    assert_eq!(run(&whole), run(&whole));
}
