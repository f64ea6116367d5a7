//! Copies and drills that are bound to a site are done by its workers alone, whoever leads and
//! whoever goes away; and whoever leads knows when nobody is there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use stillpoint::{
    config::{Source, load},
    coordinator::{
        BackupTask, Caps, CaptureEvent, Coordinator, Drivers, Ending, Endpoints, Fleet, Hands,
        Member, NoticeKind, Notifier, Place, Rehearsal, ScratchPlace, Standing, Way as Road,
        state::{Database, Filter, Line as Audited, Stage, State},
        unheard, windows,
    },
    pipeline::{Meter, cpu::CpuPool},
    policy,
    repository::{
        Repository,
        store::{Dice, Store},
    },
    world::World,
};
use stillpoint_contract::{Clock, Endpoint, Engine, Result};
use stillpoint_sim::SimEngine;
use tokio::sync::watch;

use super::{
    ledger::{Ledger, Line},
    people::People,
    scenario::{LEASE, rhythm},
    time::{TURNS, Time, Watch, live},
    yard::{REPOSITORIES, Way, Yard},
};
use crate::support::world::{TestClock, runtime, world_at};

/// What is promised.
const POLICIES: &str = include_str!("sites.toml");

const SEED: u64 = 30;

const DATABASES: usize = 3;

/// The site that copies and drills are bound to.
const SITE: &str = "dr";

/// The agent that each coordinator is, if it is one, and the site that it is at.
const SEATS: [(Option<&str>, Option<&str>); 4] =
    [(None, None), (None, Some("lab")), (None, Some(SITE)), (Some("porter"), Some(SITE))];

/// For so long nobody is at the site.
const SILENCE: Duration = Duration::from_hours(32);

/// What is done at which site.
type Done = Arc<Mutex<Vec<Option<&'static str>>>>;

/// Real hands, save that a rehearsal is only noted.
#[derive(Debug)]
struct Noting {
    drivers: Drivers,
    site: Option<&'static str>,
    drills: Done,
}

#[async_trait(?Send)]
impl Hands for Noting {
    async fn standing(&self, fleet: &Fleet, member: &Member) -> Result<Standing> {
        self.drivers.standing(fleet, member).await
    }

    async fn back_up(
        &self,
        fleet: &Fleet,
        member: &Member,
        task: BackupTask,
        meter: &Arc<Meter>,
    ) -> Result<Ending> {
        self.drivers.back_up(fleet, member, task, meter).await
    }

    async fn rehearse(&self, fleet: &Fleet, member: &Member, _: &Arc<Meter>) -> Result<Ending> {
        // What is restored is within reach.
        fleet.drilled(member)?.history().await?;
        self.drills.lock().unwrap().push(self.site);
        Ok(Ending::succeeded("rehearsed"))
    }

    async fn expire(
        &self,
        fleet: &Fleet,
        member: &Member,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>> {
        self.drivers.expire(fleet, member, now).await
    }

    async fn collect(&self, fleet: &Fleet, repository: &str, meter: &Arc<Meter>) -> Result<u64> {
        self.drivers.collect(fleet, repository, meter).await
    }

    async fn capture(
        &self,
        fleet: &Fleet,
        member: &Member,
        is_over: &mut watch::Receiver<bool>,
        tell: &dyn Fn(CaptureEvent),
    ) -> Result<()> {
        self.drivers.capture(fleet, member, is_over, tell).await
    }
}

/// One coordinator, its clock, and its way to the state database.
struct Seat {
    own: usize,
    agent: Option<&'static str>,
    site: Option<&'static str>,
    watch: Arc<Watch>,
    line: Arc<Line>,
    /// Whether nobody is there.
    away: watch::Sender<bool>,
    /// Its ways to the copies, each with the calls that opening it took.
    ways: Mutex<Vec<(Arc<Way>, u64)>>,
}

struct Regions {
    time: Arc<Time>,
    begin: DateTime<Utc>,
    yard: Yard,
    people: Arc<People>,
    seats: Vec<Seat>,
    drills: Done,
    /// Where each worker was, by the name that it drew.
    workers: Mutex<BTreeMap<String, Option<&'static str>>>,
    /// What is said of jobs that wait while nobody is there, and since when that is.
    waits: Mutex<Vec<String>>,
    silent: Mutex<Option<DateTime<Utc>>>,
}

impl Regions {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::<SimEngine>::clone(&self.yard.engine)
    }

    /// What a coordinator looks after: one without a site does not get to the copies, and an agent
    /// not to the servers.
    fn fleet(&self, seat: &Seat, repositories: BTreeMap<String, Arc<Repository>>) -> Fleet {
        let source = Source { path: "sites.toml".into(), text: POLICIES.to_owned() };
        let loaded = load(vec![source], self.begin);
        assert!(loaded.is_sound(), "{:?}", loaded.problems);
        let policy: Arc<policy::Policy> = Arc::new(loaded.config.policies["bound"].clone());
        let member = |place: usize| {
            let name = format!("db-{place:05}");
            let (scheme, address, settings) = ("sim".to_owned(), name.clone(), BTreeMap::new());
            let member = Member {
                name: name.clone(),
                state: policy::State::Active,
                since: self.begin,
                place: seat.agent.is_none().then(|| Place {
                    engine: self.engine(),
                    endpoint: Endpoint { scheme, address, settings },
                    host: "host".to_owned(),
                    streams_max: std::num::NonZeroUsize::MIN,
                    pickup: None,
                }),
                obstacle: None,
                policy: Arc::clone(&policy),
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
        let unopened = REPOSITORIES.iter().filter(|name| !repositories.contains_key(**name));
        Fleet {
            members: (0..DATABASES).map(member).collect(),
            caps: Caps { all: 3, host: Some(2), repositories: BTreeMap::new() },
            unopened: unopened
                .map(|name| ((*name).to_owned(), "out of reach".to_owned()))
                .collect(),
            repositories,
            may_expire: true,
            ..Fleet::default()
        }
    }

    async fn state(&self, seat: &Seat) -> State {
        let line: Arc<dyn Database> = Arc::<Line>::clone(&seat.line);
        let entropy = Arc::new(Dice::new(SEED ^ (seat.own as u64 + 77)));
        let state = State::open(line, entropy).await.unwrap().with_term(LEASE);
        let state = seat.agent.iter().fold(state, |state, name| state.of_agent(name));
        seat.site.iter().fold(state, |state, site| state.at_site(site))
    }

    /// One coordinator after the other, as each goes away.
    async fn sit(&self, seat: &Seat) {
        let mut away = seat.away.subscribe();
        for life in 1_u64.. {
            drop(away.wait_for(|is_away| !*is_away).await);
            tokio::select! {
                biased;
                _ = away.wait_for(|is_away| *is_away) => {}
                () = self.coordinate(seat, life) => {}
            }
        }
    }

    /// One life of a coordinator.
    async fn coordinate(&self, seat: &Seat, life: u64) {
        let seed = SEED ^ (seat.own as u64 * 1_000_003 + life);
        let clock: Arc<dyn Clock> = Arc::<Watch>::clone(&seat.watch);
        let world = World { clock, entropy: Arc::new(Dice::new(seed)), cpu: CpuPool::inline() };
        let ways = self.yard.ways(seed);
        let mut repositories = BTreeMap::new();
        let within_reach = if seat.site.is_some() { &REPOSITORIES[..] } else { &REPOSITORIES[..1] };
        for name in within_reach {
            let store: Arc<dyn Store> = Arc::<Way>::clone(&ways[*name]);
            let opened = Repository::open(world.clone(), store, None, None).await.unwrap();
            repositories.insert((*name).to_owned(), Arc::new(opened));
        }
        let copies = &ways[REPOSITORIES[1]];
        seat.ways.lock().unwrap().push((Arc::clone(copies), copies.calls()));
        let place = format!("seat {}", seat.own);
        let rehearsal = Rehearsal {
            engines: vec![self.engine()],
            scratch: ScratchPlace { root: "/nowhere".into(), notes: None, program: None },
            way: Road::Restore,
            page: |_| String::new(),
        };
        let process: (Option<String>, fn(&str) -> bool) = (None, |_| false);
        let drivers = Drivers { world: world.clone(), place: place.clone(), process, rehearsal };
        let (site, drills) = (seat.site, Arc::clone(&self.drills));
        let hands: Arc<dyn Hands> = Arc::new(Noting { drivers, site, drills });
        let notifier: Arc<dyn Notifier> = Arc::<People>::clone(&self.people);
        let state = self.state(seat).await;
        let mut coordinator = Coordinator::new(world, state, place, hands, notifier);
        coordinator.rhythm = rhythm();
        self.workers.lock().unwrap().insert(coordinator.worker.clone(), seat.site);
        let fleet = Arc::new(self.fleet(seat, repositories));
        let names = fleet.members.keys().map(String::as_str);
        coordinator.state.look_after(names).await.unwrap();
        let (_fleets, fleets) = watch::channel(Arc::clone(&fleet));
        let (_stop, stop) = watch::channel(false);
        if seat.agent.is_some() {
            let _ = coordinator.assist(fleets, stop).await;
        } else {
            let _ = coordinator.serve(fleets, stop).await;
        }
    }

    /// Some go away, or come back.
    fn set_away(&self, is_away: bool, which: impl Fn(&Seat) -> bool) {
        for seat in self.seats.iter().filter(|seat| which(seat)) {
            seat.away.send_replace(is_away);
        }
    }

    /// What happens, until the end.
    async fn happen(&self) {
        let hours = |count| self.time.sleep(Duration::from_hours(count));
        hours(12).await;
        // One of two is killed; later whoever leads, whoever that is.
        for killed in [2, 0, 1] {
            self.set_away(true, |seat| seat.own == killed);
            hours(1).await;
            self.set_away(false, |seat| seat.own == killed);
            hours(5).await;
        }
        *self.silent.lock().unwrap() = Some(self.time.now());
        self.set_away(true, |seat| seat.site == Some(SITE));
        hours(20).await;
        let state = self.state(&self.seats[0]).await;
        let filter = Filter { stage: Some(Stage::Waiting), ..Filter::default() };
        for job in state.jobs(&filter).await.unwrap() {
            if job.task.site == SITE {
                let why = unheard(&state, &job.task, self.time.now()).await.unwrap();
                self.waits.lock().unwrap().push(why.unwrap_or_default());
            }
        }
        hours(12).await;
        self.set_away(false, |seat| seat.site == Some(SITE));
        hours(14).await;
    }

    async fn play(&self) {
        let all = join_all(self.seats.iter().map(|seat| self.sit(seat)));
        tokio::select! {
            biased;
            () = self.happen() => {}
            () = self.yard.use_them(&self.time) => {}
            _ = all => {}
        }
    }

    /// Every claim, and where it was made.
    async fn claims(&self) -> Vec<(String, Option<&'static str>)> {
        let state = self.state(&self.seats[0]).await;
        let mut lines: Vec<Audited> = Vec::new();
        loop {
            let more = state.audit(lines.last().map_or(0, |line| line.seq)).await.unwrap();
            if more.is_empty() {
                break;
            }
            lines.extend(more);
        }
        let workers = self.workers.lock().unwrap();
        let claims = lines.into_iter().filter(|line| line.action == "job.claimed");
        claims.map(|line| (line.detail, workers[&line.who])).collect()
    }

    /// The copies are as new as what they are made of, and are restored as far.
    async fn judge_copies(&self) {
        let end = self.time.now();
        let (_, store) = self.yard.stores().find(|(name, _)| *name == REPOSITORIES[1]).unwrap();
        let world = world_at(TestClock::new(), 1);
        let copies = Repository::open(world, store, None, None).await.unwrap();
        let history = copies.history().await.unwrap();
        for place in 0..DATABASES {
            let name = format!("db-{place:05}");
            assert!(history.live_of(&name).count() >= 3, "{name}");
            let newest = history.live_of(&name).map(|one| one.commit.consistent_time).max();
            assert!(end < newest.unwrap() + TimeDelta::hours(9), "{name}: {newest:?}");
            let windows = windows(&copies.timeline(&name).await.unwrap());
            let reached = windows.iter().map(|window| window.to.at).max().unwrap();
            assert!(end < reached + TimeDelta::hours(4), "{name}: {reached}");
            let proven = history.live_of(&name).all(|one| {
                history.proof(&one.commit.backup).is_some_and(|proof| proof.problem.is_none())
            });
            assert!(proven, "{name}");
        }
    }
}

/// Row 30: with workers at no site, at another one, and two at the right one, one of which is an
/// agent that gets to no server: copies, their upkeep and drills are done at the right one, and
/// wait as long as nobody is there, which is told.
#[test]
fn row_30_copies_and_drills_run_at_their_site_only() {
    let begin: DateTime<Utc> = "2026-11-20T09:00:00Z".parse().unwrap();
    let time = Time::new(begin);
    let ledger = Ledger::new(&time, 1);
    let watch = Watch::of(&time);
    let clock: Arc<dyn Clock> = Arc::<Watch>::clone(&watch);
    let world = World {
        clock: Arc::clone(&clock),
        entropy: Arc::new(Dice::new(SEED)),
        cpu: CpuPool::inline(),
    };
    let yard = Yard::new((&time, clock), &world, (SEED, DATABASES, false));
    let yard = runtime().block_on(yard);
    let seat = |(own, (agent, site)): (usize, (Option<&'static str>, Option<&'static str>))| Seat {
        own,
        agent,
        site,
        watch: Watch::of(&time),
        line: Line::to(&ledger, SEED ^ own as u64, 0),
        away: watch::Sender::new(false),
        ways: Mutex::default(),
    };
    let stage = Regions {
        begin,
        yard,
        people: People::new(&time, SEED, 0),
        seats: SEATS.into_iter().enumerate().map(seat).collect(),
        drills: Done::default(),
        workers: Mutex::default(),
        waits: Mutex::default(),
        silent: Mutex::default(),
        time: Arc::clone(&time),
    };
    live(&time, TURNS, stage.play());
    assert_eq!(ledger.wrong(), None);

    let claims = runtime().block_on(stage.claims());
    let kinds = ["copy ", "drill ", "upkeep of repository b,"];
    let is_bound = |what: &str| kinds.iter().any(|kind| what.starts_with(kind));
    for kind in kinds {
        let own: Vec<_> = claims.iter().filter(|(what, _)| what.starts_with(kind)).collect();
        assert!(!own.is_empty() && own.iter().all(|(_, site)| *site == Some(SITE)), "{own:?}");
    }
    let mut others = claims.iter().filter(|(what, _)| !is_bound(what));
    assert!(others.any(|(_, site)| site.is_none()), "backups are made anywhere");
    let drills = stage.drills.lock().unwrap().clone();
    assert!(!drills.is_empty() && drills.iter().all(|site| *site == Some(SITE)), "{drills:?}");
    // Who is at another site has a way to the copies, and never goes it.
    for (way, opening) in stage.seats[1].ways.lock().unwrap().iter() {
        assert_eq!(way.calls(), *opening);
    }
    runtime().block_on(stage.judge_copies());

    let waits = stage.waits.lock().unwrap().clone();
    let told = "no worker of site dr was heard of since";
    assert!(!waits.is_empty() && waits.iter().all(|why| why.contains(told)), "{waits:?}");
    let silent = stage.silent.lock().unwrap().unwrap();
    let mut lag = stage.people.heard();
    lag.retain(|one| one.class == "copy-lag");
    let raised = lag.iter().filter(|one| one.kind == NoticeKind::Raised);
    assert!(raised.clone().count() >= DATABASES, "{lag:?}");
    let (from, until) = (silent + TimeDelta::hours(23), silent + SILENCE);
    assert!(raised.clone().all(|one| from < one.at && one.at < until), "{silent} {lag:?}");
    let resolved = lag.iter().filter(|one| one.kind == NoticeKind::Resolved);
    assert_eq!(resolved.count(), raised.count(), "{lag:?}");
}
