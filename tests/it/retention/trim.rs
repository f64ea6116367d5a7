//! Row 66: log goes when nothing that is kept needs it, and not before.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint::{
    policy::{Keep, Retention, Rules, State},
    repository::{
        CollectOptions, HoldIntent, Repository, StreamWriter, VerifyReport,
        custody::HeldPart,
        history::Committed,
        store::{Dice, Gate, MemoryStore, Store},
    },
    world::World,
};
use tokio::task::LocalSet;

use crate::support::{
    capture::{capture, replay},
    data::content,
    ledger::Ledger,
    session::{Driver, Method, init},
    world::{TestClock, runs_or, runtime, seed_or, world_at},
};

/// Collects everything at once: nothing but the log protects what is needed.
const RUTHLESS: CollectOptions = CollectOptions {
    grace: Duration::ZERO,
    orphan_age: Some(Duration::ZERO),
    repack_max: 1.0,
    dry_run: false,
};

/// A database with a history of its own: captured, interrupted, backed up, held.
struct Scene {
    clock: Arc<TestClock>,
    world: World,
    store: Arc<dyn Store>,
    repository: Repository,
    shop: Driver,
    ledger: Ledger,
    dice: Dice,
    /// Every commit that was captured, with its time; hours lie between any two.
    commits: Vec<(u128, DateTime<Utc>)>,
    /// Where the log of the database ends.
    offset: u128,
    /// The newest stream, and the number of its newest segment.
    last: Option<(String, u64)>,
    /// Segments that were let go.
    let_go: u64,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let clock = TestClock::new();
        let world = world_at(Arc::clone(&clock), seed);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let repository = init(world.clone(), Arc::clone(&store)).await.unwrap();
        let ledger = Ledger::default();
        let shop = Driver::new(&world, "shop", &ledger);
        let (commits, dice) = (Vec::new(), Dice::new(seed));
        let (offset, last, let_go) = (0, None, 0);
        Self { clock, world, store, repository, shop, ledger, dice, commits, offset, last, let_go }
    }

    /// The same repository, opened by another process.
    async fn anew(&self) -> Repository {
        Repository::open(self.world.clone(), Arc::clone(&self.store), None, None).await.unwrap()
    }

    /// A number below another one.
    fn draw(&self, below: u8) -> i64 {
        i64::try_from(self.dice.below(below.into())).unwrap()
    }

    fn hours_pass(&self) {
        self.clock.advance(3600 * (1 + self.draw(20)));
    }

    async fn back_up(&self) {
        let bytes = content(self.dice.below(1000) as u64, &[("a", 5000)]);
        let made = self.shop.back_up_at(&self.repository, &bytes, Method::Whole, self.offset).await;
        let report = VerifyReport::default();
        assert!(self.repository.prove(&made.unwrap(), &report).await.unwrap());
    }

    async fn capture(&mut self, stream: &mut StreamWriter<'_>, segments: u128) {
        for _ in 0..segments {
            let end = self.offset + 1;
            self.commits.push((end, self.world.clock.now()));
            capture(&self.shop, stream, self.offset..end).await.unwrap();
            self.offset = end;
            self.hours_pass();
        }
    }

    /// A capture, which goes on where the last one ended or leaves a gap.
    async fn run_capture(&mut self, repository: &Repository) {
        let has_gap = self.last.is_some() && self.dice.below(4) == 0;
        if has_gap {
            self.offset += 3;
        }
        let gap = has_gap.then(|| "it was lost".to_owned());
        let continues = self.last.clone().filter(|_| !has_gap);
        let begun = repository.begin_stream("shop", "shop-1", continues, gap).await;
        let mut stream = begun.unwrap();
        let segments = 1 + self.dice.below(4);
        self.capture(&mut stream, segments as u128).await;
        let mut seq = segments as u64;
        // A backup while it runs, or two.
        for _ in 0..self.dice.below(3) {
            self.back_up().await;
            self.capture(&mut stream, 1).await;
            seq += 1;
        }
        self.last = Some((stream.id().to_owned(), seq));
    }

    async fn hold(&self, backups: &[Committed]) {
        let of = |number: usize| backups[number % backups.len()].commit.consistent_time;
        let from = of(self.dice.below(99)) + TimeDelta::minutes(self.draw(60) - 30);
        let to = (self.dice.below(3) > 0).then(|| from + TimeDelta::hours(self.draw(90)));
        let of = if self.dice.below(3) == 0 {
            let number = self.dice.below(backups.len());
            HeldPart::Backup(backups[number].commit.backup.clone())
        } else {
            HeldPart::Range { from, to }
        };
        let intent = HoldIntent { database: "shop".to_owned(), case: "LEG-1".to_owned(), of };
        self.repository.hold(&intent, "ann").await.unwrap();
    }

    /// The commits that can be restored now, each from a backup that was there before it.
    async fn restorable(&self) -> BTreeSet<u128> {
        let timeline = self.repository.timeline("shop").await.unwrap();
        assert_eq!(timeline.problems, Vec::<String>::new());
        let mut restorable = BTreeSet::new();
        for backup in &timeline.backups {
            let from = backup.commit.consistent_at.as_ref().unwrap().offset;
            let to = replay(&self.repository, backup).await.unwrap();
            // Its own state was there before it: after a gap, no earlier instant leads there.
            restorable.extend(from + 1..=to);
        }
        restorable
    }

    /// Forgets and trims by a policy, collects, and makes sure that nothing promised is lost.
    async fn expire(&mut self) {
        let hours = [0, 30, 100, 400][self.dice.below(4)];
        let keep = Keep { last: self.dice.below(3) as u32, ..Keep::default() };
        let keep = Keep { weekly: self.dice.below(3) as u32, ..keep };
        let window = Duration::from_hours(hours);
        let rules = Rules { zone: chrono_tz::UTC, keep: &keep, window, floor: 1 };
        let now = self.world.clock.now();
        let before = self.restorable().await;
        let stock = self.repository.stock("shop").await.unwrap();
        let retention = rules.retain(&stock.stock(State::Active), now);
        let promised = self.promised(&retention, &before);

        let gone = |retention: &Retention| -> Vec<String> {
            let gone = retention.verdicts.iter().filter(|verdict| !verdict.is_kept());
            gone.map(|verdict| verdict.id.clone()).collect()
        };
        for id in gone(&retention) {
            self.ledger.forget(&id);
        }
        let forgotten = self.repository.expire("shop", "test", |holdings| {
            gone(&rules.retain(&holdings.stock(State::Active), now))
        });
        forgotten.await.unwrap();
        let trimmed = self.repository.trim("shop", "test", |holdings| {
            rules.retain(&holdings.stock(State::Active), now).log_begin()
        });
        trimmed.await.unwrap();
        if self.dice.below(3) == 0 {
            // A hold that comes after the policy spoke, and before anything went.
            let backups = self.repository.timeline("shop").await.unwrap().backups;
            self.hold(&backups).await;
            let stock = self.repository.stock("shop").await.unwrap();
            let held = rules.retain(&stock.stock(State::Active), now);
            let left = self.restorable().await;
            self.collect().await;
            let still = self.restorable().await;
            assert!(self.promised(&held, &left).is_subset(&still), "a hold came too late");
        }
        self.collect().await;
        let after = self.restorable().await;
        let lost: Vec<_> = promised.difference(&after).collect();
        let commits = &self.commits;
        assert!(lost.is_empty(), "{lost:?} of {promised:?} are lost; {commits:?} {retention:?}");
    }

    async fn collect(&mut self) {
        // Dooms, and sweeps what it doomed.
        for _ in 0..2 {
            let report = self.repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
            self.let_go += report.doomed_objects;
        }
    }

    /// What of the restorable commits lies in stretches of log that are kept.
    fn promised(&self, retention: &Retention, restorable: &BTreeSet<u128>) -> BTreeSet<u128> {
        let is_kept = |at: DateTime<Utc>| {
            let mut ranges = retention.log.iter();
            ranges.any(|range| range.from <= at && range.to.is_none_or(|to| at <= to))
        };
        let commits = self.commits.iter().filter(|(_, at)| is_kept(*at));
        commits.map(|(offset, _)| *offset).filter(|offset| restorable.contains(offset)).collect()
    }
}

#[test]
fn row_66_random_histories_lose_no_promised_commit() {
    let (seed, runs) = (seed_or(1), runs_or(300));
    let mut let_go = 0;
    for seed in seed * runs..(seed + 1) * runs {
        runtime().block_on(async {
            let mut scene = Scene::new(seed).await;
            let capturing = scene.anew().await;
            scene.back_up().await;
            for _ in 0..3 {
                for _ in 0..=scene.dice.below(4) {
                    scene.run_capture(&capturing).await;
                    if scene.dice.below(2) == 0 {
                        scene.back_up().await;
                    }
                    scene.hours_pass();
                }
                if scene.dice.below(3) == 0 {
                    let backups = scene.repository.timeline("shop").await.unwrap().backups;
                    scene.hold(&backups).await;
                }
                scene.expire().await;
            }
            let audited = scene.ledger.audit(&scene.world, &scene.store, None).await;
            audited.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            let_go += scene.let_go;
        });
    }
    assert!(let_go > 3 * runs, "hardly anything went: {let_go}");
}

/// Two backups in one captured log, and the word that only the second needs it.
async fn two_backups(memory: &Arc<MemoryStore>) -> (World, Repository, [Committed; 2]) {
    let world = world_at(TestClock::new(), 1);
    let repository = init(world.clone(), Arc::clone(memory) as Arc<dyn Store>).await.unwrap();
    let shop = Driver::new(&world, "shop", &Ledger::default());
    let back_up = async |offset| {
        let bytes = content(1, &[("a", 5000)]);
        shop.back_up_at(&repository, &bytes, Method::Whole, offset).await.unwrap()
    };
    let first = back_up(0).await;
    let mut stream = repository.begin_stream("shop", "shop-1", None, None).await.unwrap();
    capture(&shop, &mut stream, 0..4).await.unwrap();
    let second = back_up(4).await;
    capture(&shop, &mut stream, 4..6).await.unwrap();
    let before = Some(second.commit.consistent_time);
    assert!(repository.trim("shop", "test", |_| before).await.unwrap());
    assert!(!repository.trim("shop", "test", |_| before).await.unwrap(), "it is said already");
    drop(stream);
    (world, repository, [first, second])
}

#[tokio::test]
async fn row_66_what_was_let_go_leaves_a_point_and_no_damage() {
    let memory = Arc::new(MemoryStore::default());
    let (_, repository, [first, second]) = two_backups(&memory).await;
    assert_eq!(replay(&repository, &first).await.unwrap(), 6);
    let report = repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
    // The segment that ends where the second backup is leads into it as well.
    assert_eq!(report.doomed_objects, 3);
    for _ in 0..2 {
        assert_eq!(replay(&repository, &first).await.unwrap(), 0);
        assert_eq!(replay(&repository, &second).await.unwrap(), 6);
        let timeline = repository.timeline("shop").await.unwrap();
        assert_eq!(timeline.problems, Vec::<String>::new());
        let windows = stillpoint::coordinator::windows(&timeline);
        let [point, rest] = windows.as_slice() else { panic!("{windows:?}") };
        assert_eq!((point.from.at, point.to.at), (first.commit.consistent_time, point.from.at));
        assert_eq!(rest.from.at, second.commit.consistent_time);
        assert!(rest.gap.as_ref().is_some_and(|why| why.contains("let go")), "{rest:?}");
        let report = repository.verify_names(&Arc::default()).await.unwrap();
        assert_eq!(report.problems, []);
        repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
    }
}

#[test]
fn row_66_a_hold_that_comes_while_garbage_is_collected_keeps_its_log() {
    runtime().block_on(async {
        let memory = Arc::new(MemoryStore::default());
        let (world, repository, [first, _]) = two_backups(&memory).await;
        let gate = Gate::new();
        let store = Arc::new(gate.store("collector", Arc::clone(&memory))) as Arc<dyn Store>;
        let local = LocalSet::new();
        let collecting = local.spawn_local(async move {
            let collector = Repository::open(world, store, None, None).await?;
            collector.collect(RUTHLESS, &Arc::default()).await
        });
        let mut is_held = false;
        local
            .run_until(async {
                while let Some(call) = gate.quiet().await.first() {
                    // What goes is decided; the entry that says so is not there yet.
                    if call.operation.starts_with("create log/") && !is_held {
                        let from = first.commit.consistent_time;
                        let of = HeldPart::Range { from, to: Some(from) };
                        let (database, case) = ("shop".to_owned(), "LEG-1".to_owned());
                        let intent = HoldIntent { database, case, of };
                        repository.hold(&intent, "ann").await.unwrap();
                        is_held = true;
                    }
                    gate.admit(call);
                }
            })
            .await;
        let report = local.run_until(collecting).await.unwrap().unwrap();
        assert!(is_held && report.doomed_objects == 0, "{report:?}");
        assert_eq!(replay(&repository, &first).await.unwrap(), 6);
        // The next collection knows of it.
        repository.collect(RUTHLESS, &Arc::default()).await.unwrap();
        assert_eq!(replay(&repository, &first).await.unwrap(), 6);
    });
}
