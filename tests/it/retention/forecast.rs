//! Rows 21 and 86: what repositories will hold, and be asked to write, held against what came.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use stillpoint::{
    config::{Config, Source, load},
    coordinator::{
        Endpoints, MadeBy, Member, Stake, StorageForecast, expire, forecast_storage, read_back,
    },
    pipeline::Meter,
    policy::State,
    repository::{
        CollectOptions, Repository, WriteOptions,
        store::{Dice, MemoryStore, Store},
    },
    world::World,
};
use stillpoint_contract::{Clock, Entropy as _, Evidence, PartName, PartSpec, Shape, Sink as _};

use crate::{
    cli::golden::assert_shape,
    site::{Site, add},
    support::{
        session::{init, intent},
        world::{TestClock, runtime, world_at},
    },
};

/// Three databases that are backed up each noon, one of which has all that is kept of it by the end
/// of the first month.
const CONFIG: &str = r#"
version = 1
timezone = "UTC"
repository.primary.url = "primary"
[policy.daily]
rpo = "26h"
full = "0 12 * * *"
incremental = "0 12 * * *"
logs = "never"
pitr_window = "1s"
floor = 1
drill = { every = "10y" }
[policy.steady]
extends = "daily"
keep = { daily = 7, weekly = 4 }
[policy.filling]
extends = "daily"
keep = { daily = 45 }
[policy.growing]
extends = "daily"
keep = { last = 10 }
[database.steady]
endpoint = "sqlite:steady.db"
policy = "steady"
[database.filling]
endpoint = "sqlite:filling.db"
policy = "filling"
[database.growing]
endpoint = "sqlite:growing.db"
policy = "growing"
"#;

const CHUNK_BYTES: usize = 65_536;
const PAGE_BYTES: u32 = 4_096;
const HOUR: i64 = 3_600;

/// After so many days it is forecast, and after so many more it is compared.
const MONTH: usize = 30;

/// A database whose pages nothing makes smaller.
struct Table {
    name: &'static str,
    chunks: Vec<Vec<u8>>,
}

impl Table {
    fn new(name: &'static str, chunks: usize, dice: &Dice) -> Self {
        Self { name, chunks: (0..chunks).map(|_| noise(dice)).collect() }
    }

    /// Lets a day pass.
    fn live(&mut self, dice: &Dice) {
        let count = self.chunks.len();
        let changed: Vec<usize> = match self.name {
            "steady" => (0..3).collect(),
            "filling" => (0..2).map(|_| dice.below(count)).collect(),
            _ => (0..2).collect(),
        };
        for chunk in changed {
            self.chunks[chunk] = noise(dice);
        }
        if self.name == "growing" {
            self.chunks.push(noise(dice));
        }
    }
}

fn noise(dice: &Dice) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_BYTES];
    dice.fill(&mut bytes);
    bytes
}

/// Objects that were seen so far.
#[derive(Default)]
struct Objects {
    there: BTreeSet<String>,
    bytes: u64,
    created: u64,
    deleted: u64,
}

impl Objects {
    async fn look(&mut self, store: &Arc<dyn Store>) {
        let listed = store.list("").await.unwrap();
        self.bytes = listed.iter().map(|object| object.size_bytes).sum();
        let there: BTreeSet<String> = listed.iter().map(|one| one.key.to_string()).collect();
        self.created += there.difference(&self.there).count() as u64;
        self.deleted += self.there.difference(&there).count() as u64;
        self.there = there;
    }

    /// Entries of the log, which stay for ever.
    fn entries(&self) -> u64 {
        self.there.iter().filter(|name| name.starts_with("log/")).count() as u64
    }
}

async fn back_up(world: &World, repository: &Repository, table: &Table) {
    let (at, meter) = (world.clock.now(), Arc::new(Meter::default()));
    let intent = intent(world, table.name);
    let draft =
        repository.begin(intent, WriteOptions::default(), Arc::clone(&meter)).await.unwrap();
    let name = PartName::new("table").unwrap();
    let shape = Shape::Paged { page_bytes: PAGE_BYTES };
    let part = draft.create(PartSpec { name, shape, attributes: BTreeMap::new() }).await.unwrap();
    let mut written = 0;
    for chunk in &table.chunks {
        part.write(written, Bytes::copy_from_slice(chunk)).await.unwrap();
        written += chunk.len() as u64;
    }
    part.finish(written).await.unwrap();
    let evidence = Evidence {
        consistent_at: None,
        consistent_time: at,
        cursor: Bytes::new(),
        replay: None,
        incremental: false,
        method: "simulation".to_owned(),
        tallies: Vec::new(),
        damage: None,
        extensions: BTreeMap::new(),
    };
    let committed = draft.commit(&evidence, at).await.unwrap();
    let report = read_back(repository, &committed, &meter).await.unwrap();
    assert_eq!(report.problems, []);
}

/// What whoever serves does once a day.
async fn look_after(world: &World, repository: &Repository, members: &[Member]) {
    for member in members {
        expire(repository, member, world.clock.now()).await.unwrap();
    }
    // An hour less than three days, so that an upkeep at the same hour finds it to be over.
    let options = CollectOptions { grace: Duration::from_hours(71), ..CollectOptions::default() };
    repository.collect(options, &Arc::new(Meter::default())).await.unwrap();
}

fn members(config: &Config) -> Vec<Member> {
    let member = |name: &str| Member {
        name: name.to_owned(),
        state: State::Active,
        since: chrono::DateTime::UNIX_EPOCH,
        place: None,
        obstacle: None,
        policy: Arc::new(config.policies[name].clone()),
        repository: "primary".to_owned(),
        labels: BTreeMap::new(),
        subjects: Vec::new(),
        endpoints: Endpoints::default(),
        agent: None,
        is_observed: false,
        archives: Vec::new(),
    };
    ["steady", "filling", "growing"].map(member).into()
}

fn stakes(members: &[Member]) -> Vec<Stake<'_>> {
    let all = members.iter().map(|member| Stake {
        database: &member.name,
        policy: &member.policy,
        copy: None,
        state: State::Active,
        made_by: MadeBy::Calendar,
        subjects: Vec::new(),
    });
    all.collect()
}

/// Whether what was forecast is within a tenth of what came.
fn is_near(forecast: u64, came: u64) -> bool {
    forecast.abs_diff(came) * 10 <= came
}

#[test]
fn row_21_86_a_month_is_forecast_within_a_tenth() {
    runtime().block_on(async {
        let clock = TestClock::new();
        let world = world_at(Arc::clone(&clock), 21);
        let source = Source { path: "forecast.toml".into(), text: CONFIG.to_owned() };
        let loaded = load(vec![source], clock.now());
        assert!(loaded.is_sound(), "{:?}", loaded.problems);
        let members = members(&loaded.config);
        let shared: Arc<dyn Clock> = Arc::<TestClock>::clone(&clock);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(shared));
        let repository = init(world.clone(), Arc::clone(&store)).await.unwrap();
        let dice = Dice::new(86);
        let sizes = [("steady", 48), ("filling", 32), ("growing", 32)];
        let mut tables = sizes.map(|(name, chunks)| Table::new(name, chunks, &dice));
        let (mut objects, mut before) = (Objects::default(), Objects::default());
        let mut forecast: Option<StorageForecast> = None;
        // Each day ends at one o'clock, an hour after the backups.
        for day in 0..=2 * MONTH {
            if day > 0 {
                clock.advance(17 * HOUR);
                look_after(&world, &repository, &members).await;
                clock.advance(6 * HOUR);
            }
            for table in &mut tables {
                table.live(&dice);
                back_up(&world, &repository, table).await;
            }
            clock.advance(HOUR);
            objects.look(&store).await;
            if day == MONTH {
                let now = clock.now();
                let told = forecast_storage(&repository, &stakes(&members), now).await.unwrap();
                forecast = Some(told);
                before = std::mem::take(&mut objects);
                objects.there.clone_from(&before.there);
            }
        }
        let told = forecast.unwrap();
        assert_eq!((told.now.objects, told.now.bytes), (before.there.len() as u64, before.bytes));
        assert_eq!((told.observed, told.unknown.len()), (3 * MONTH as u64, 0));
        assert!(told.backups_now < told.backups_then, "{told:?}");
        let came = [
            ("bytes", told.then.bytes, objects.bytes),
            ("objects", told.then.objects, objects.there.len() as u64),
            ("requests that create", told.created, objects.created),
            ("requests that delete", told.deleted, objects.deleted),
            ("entries", told.lasting, objects.entries() - before.entries()),
        ];
        println!("{told:?}\n{came:?}");
        for (what, forecast, came) in came {
            assert!(is_near(forecast, came), "{what}: {forecast} were forecast, {came} came");
        }
        // What stays for ever is all that grows without a bound.
        let others = |objects: &Objects| objects.there.len() as u64 - objects.entries();
        assert!(others(&objects) < 2 * others(&before));
    });
}

#[test]
fn row_21_86_repositories_are_forecast_by_what_is_there_and_what_is_promised() {
    let site = Site::new();
    let config = r#"
version = 1
timezone = "UTC"
[repository.primary]
url = "repo"
encryption = { key = { file = "key" } }
[policy.default]
logs = "never"
rpo = "26h"
full = "0 3 * * *"
incremental = "0 3 * * *"
pitr_window = "1s"
keep = { last = 5 }
[database."app.db"]
endpoint = "sqlite:app.db"
[database."new.db"]
endpoint = "sqlite:new.db"
"#;
    std::fs::write(site.path("stillpoint.toml"), config).unwrap();
    let application = site.create("app.db", 2_000);
    for _ in 0..2 {
        site.ok(&["backup", "sqlite:app.db"]);
        add(&application, 500);
    }
    site.ok(&["verify"]);
    let words = ["repo", "forecast", "-c", "stillpoint.toml"];
    let told = site.json(&words);
    assert_shape("repo-forecast", &told);
    let forecast = &told["repositories"][0]["forecast"];
    let number = |field: &str| forecast[field].as_u64().unwrap();
    assert_eq!((number("backups_now"), number("backups_then"), number("observed")), (2, 5, 1));
    let stats = site.json(&["repo", "stats"]);
    let stored: u64 = stats["stored"].as_object().unwrap().values().map(bytes_of).sum();
    assert_eq!(bytes_of(&forecast["now"]), stored);
    // About thirty times what the second one stored.
    assert!(30 * 400_000 < number("stored_bytes"), "{told:#}");
    let text = site.ok(&words).out;
    assert!(text.contains("primary: 2 backups now, and 5 then"), "{text}");
    assert!(text.contains("stay for ever") && text.contains("new.db"), "{text}");

    // A repository that nobody can look into is told, and fails.
    std::fs::rename(site.path("repo"), site.path("away")).unwrap();
    let ran = site.fails(&[&words[..], &["-o", "json"]].concat(), 6, &["SP02"]);
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let primary = &told["repositories"][0];
    assert!(primary["forecast"].is_null() && primary["problem"].is_string(), "{told:#}");
}

fn bytes_of(amount: &serde_json::Value) -> u64 {
    amount["bytes"].as_u64().unwrap()
}
