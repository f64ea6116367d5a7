//! What a fleet of real parts stands on: simulated servers that remember every state they were in,
//! and repositories in stores that fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, Utc};
use stillpoint::{
    repository::{
        descriptor::Writers,
        store::{Dice, Fault, FaultyStore, MemoryStore, Rates, Store},
    },
    world::World,
};
use stillpoint_contract::{Clock, ErrorKind, LogPosition};
use stillpoint_sim::{CELLS_PER_PAGE, Mode, SimEngine, SimServer, Table, Write};

use super::time::Time;
use crate::support::session::init;

/// Pages of each table; a few, so that most writes of a day meet a page that was written before.
const PAGES: u32 = 6;

/// The names of repositories: that of backups, and that of their copies.
pub(super) const REPOSITORIES: [&str; 2] = ["a", "b"];

/// How long a step of a driver takes, so that servers change and coordinators die amid backups.
const STEP: Duration = Duration::from_secs(20);

/// A repository's objects, and a layer that is struck by outages.
type Bottom = FaultyStore<Arc<MemoryStore>>;

/// The way of one life of one coordinator to a repository, on which it may be killed.
pub(super) type Way = FaultyStore<Arc<Bottom>>;

/// Servers, stores, and the truth.
#[derive(Debug)]
pub(super) struct Yard {
    pub(super) engine: Arc<SimEngine>,
    pub(super) servers: Vec<SimServer>,
    pub(super) memories: BTreeMap<String, Arc<MemoryStore>>,
    bottoms: BTreeMap<String, Arc<Bottom>>,
    is_faulty: bool,
    /// What each position was: every state that a server was ever in.
    truths: Mutex<BTreeMap<String, (Table, DateTime<Utc>)>>,
    dice: Dice,
}

impl Yard {
    /// Servers that nobody has written to yet, and empty repositories. `world` makes these.
    pub(super) async fn new(
        (time, clock): (&Arc<Time>, Arc<dyn Clock>),
        world: &World,
        (seed, databases, is_faulty): (u64, usize, bool),
    ) -> Self {
        let engine = Arc::new(SimEngine::new());
        let (mut memories, mut bottoms) = (BTreeMap::new(), BTreeMap::new());
        let memory = || Arc::new(MemoryStore::with_clock(Arc::clone(&clock)));
        let of = REPOSITORIES.map(|name| (name, memory()));
        let [original, replica] =
            of.each_ref().map(|(_, memory)| Arc::<MemoryStore>::clone(memory));
        let original = init(world.clone(), original).await.unwrap();
        original.init_replica(replica, Writers::Many, None).await.unwrap();
        for (name, memory) in of {
            let bottom = Arc::new(FaultyStore::new(Arc::clone(&memory), seed));
            memories.insert(name.to_owned(), memory);
            bottoms.insert(name.to_owned(), bottom);
        }
        let mut servers = Vec::new();
        for place in 0..databases {
            let mut table = Table::default();
            for page in 0..PAGES {
                table.set(page * CELLS_PER_PAGE as u32, i64::from(page)).unwrap();
            }
            let name = format!("db-{place:05}");
            let server = SimServer::start(name, Mode::SNAPSHOT, Arc::clone(&clock), table).unwrap();
            server.slow_down(STEP);
            engine.add(&server);
            servers.push(server);
        }
        let (truths, dice) = (Mutex::default(), Dice::new(seed ^ 0x7961_7264));
        let yard = Self { engine, servers, memories, bottoms, is_faulty, truths, dice };
        for server in &yard.servers {
            yard.remember(server, time.now());
        }
        yard
    }

    fn truths(&self) -> MutexGuard<'_, BTreeMap<String, (Table, DateTime<Utc>)>> {
        self.truths.lock().unwrap()
    }

    /// What a server held at a position, and since when.
    pub(super) fn truth(&self, at: &LogPosition) -> Option<(Table, DateTime<Utc>)> {
        self.truths().get(&at.to_string()).cloned()
    }

    fn remember(&self, server: &SimServer, now: DateTime<Utc>) {
        let state = (server.table(), now);
        self.truths().insert(server.position().to_string(), state);
    }

    /// Whoever uses the databases, for ever.
    pub(super) async fn use_them(&self, time: &Time) {
        loop {
            time.sleep(Duration::from_secs(60 + self.dice.below(600) as u64)).await;
            let server = &self.servers[self.dice.below(self.servers.len())];
            let writes = |_: &Table| {
                let write = |_| Write {
                    cell: self.dice.below(PAGES as usize * CELLS_PER_PAGE) as u32,
                    value: self.dice.below(1 << 30).cast_signed() as i64,
                };
                (0..=self.dice.below(3)).map(write).collect()
            };
            if server.transact(writes).is_ok() {
                self.remember(server, time.now());
            }
            if self.dice.happens(32) {
                server.discard();
            }
        }
    }

    /// The last database has so many pages from now on.
    pub(super) fn grow(&self, time: &Time, pages: u32) {
        let Some(server) = self.servers.last() else { return };
        let last = Write { cell: (pages - 1) * CELLS_PER_PAGE as u32, value: 1 };
        server.transact(|_| vec![last]).unwrap();
        self.remember(server, time.now());
    }

    /// Something happens to a server. Returns what.
    pub(super) fn strike(&self, time: &Time) -> String {
        let server = &self.servers[self.dice.below(self.servers.len())];
        let what = match self.dice.below(6) {
            0 => {
                server.restart();
                "restarts"
            }
            1 => {
                let kinds = [ErrorKind::Transient, ErrorKind::TimedOut, ErrorKind::Denied];
                let nth = self.dice.below(8) as u64;
                server.fail_at(nth, kinds[self.dice.below(kinds.len())]);
                "fails once"
            }
            2 => {
                server.fail_over(self.dice.below(3)).unwrap();
                self.remember(server, time.now());
                "fails over"
            }
            3 => {
                server.purge();
                "loses its log"
            }
            4 => {
                server.replace(server.table()).unwrap();
                self.remember(server, time.now());
                "is another server"
            }
            _ => {
                server.depart();
                "goes away"
            }
        };
        format!("{} {what}", server.name())
    }

    /// Servers that went away come back.
    pub(super) fn call_back(&self) {
        self.servers.iter().for_each(SimServer::come_back);
    }

    /// A repository cannot be reached, or can be again.
    pub(super) fn set_reachable(&self, repository: &str, is_reachable: bool) {
        let bottom = &self.bottoms[repository];
        if is_reachable {
            bottom.heal();
        } else {
            bottom.fault_from(bottom.calls(), Fault::Fail(ErrorKind::Transient));
        }
    }

    /// Ways to the repositories for one life of a coordinator.
    pub(super) fn ways(&self, seed: u64) -> BTreeMap<String, Arc<Way>> {
        let rates = if self.is_faulty {
            Rates { fail: 1, lose_answer: 1, twice: 2, ..Rates::default() }
        } else {
            Rates::default()
        };
        let lag = if self.is_faulty { 3 } else { 0 };
        let way = |(name, bottom): (&String, &Arc<Bottom>)| {
            let way = FaultyStore::new(Arc::clone(bottom), seed).with_rates(rates);
            (name.clone(), Arc::new(way.with_stale_lists(lag)))
        };
        self.bottoms.iter().map(way).collect()
    }

    /// Calls that reached stores.
    pub(super) fn calls(&self) -> u64 {
        self.bottoms.values().map(|bottom| bottom.calls()).sum()
    }

    /// The repositories' objects, as whoever restores after everything has ended finds them.
    pub(super) fn stores(&self) -> impl Iterator<Item = (&String, Arc<dyn Store>)> {
        self.memories.iter().map(|(name, memory)| {
            let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(memory);
            (name, store)
        })
    }
}
