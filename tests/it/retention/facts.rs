//! Rows 66 and 84: proofs, holds and events are where the backups are.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use stillpoint::{
    policy::{EventEnd, EventRule, Keep, Period, PeriodUnit, Proof, Reason, Rules, State, Until},
    repository::{
        HoldIntent, Repository, VerifyReport,
        custody::HeldPart,
        history::Committed,
        store::{MemoryStore, Store},
    },
    world::World,
};
use stillpoint_contract::{ErrorKind, code};

use crate::support::{
    data::content,
    ledger::Ledger,
    session::{Driver, Method, init},
    world::{TestClock, world_at},
};

struct Scene {
    clock: Arc<TestClock>,
    world: World,
    store: Arc<dyn Store>,
    repository: Repository,
    /// One backup a day.
    backups: Vec<Committed>,
}

const DAY: i64 = 86_400;

impl Scene {
    async fn of(days: u64) -> Self {
        let clock = TestClock::new();
        let world = world_at(Arc::clone(&clock), 1);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let repository = init(world.clone(), Arc::clone(&store)).await.unwrap();
        let driver = Driver::new(&world, "shop", &Ledger::default());
        let mut backups = Vec::new();
        for day in 0..days {
            let bytes = content(day, &[("a", 9000)]);
            let offset = u128::from(day);
            let made = driver.back_up_at(&repository, &bytes, Method::Whole, offset).await;
            backups.push(made.unwrap());
            clock.advance(DAY);
        }
        Self { clock, world, store, repository, backups }
    }

    fn id(&self, number: usize) -> String {
        self.backups[number].commit.backup.clone()
    }

    fn at(&self, number: usize) -> DateTime<Utc> {
        self.backups[number].commit.consistent_time
    }

    /// The same repository as somebody sees it who has nothing else.
    async fn anew(&self) -> Repository {
        Repository::open(self.world.clone(), Arc::clone(&self.store), None, None).await.unwrap()
    }

    async fn prove_all(&self) {
        for backup in &self.backups {
            assert!(self.repository.prove(backup, &VerifyReport::default()).await.unwrap());
        }
    }

    async fn hold(&self, case: &str, of: HeldPart) -> String {
        let (database, case) = ("shop".to_owned(), case.to_owned());
        let intent = HoldIntent { database, case, of };
        self.repository.hold(&intent, "ann on desk").await.unwrap().hold
    }

    async fn proofs(&self) -> Vec<Proof> {
        let holdings = self.anew().await.stock("shop").await.unwrap();
        holdings.backups.iter().map(|backup| backup.proof).collect()
    }

    async fn forget(&self, number: usize) -> stillpoint_contract::Result<Vec<Committed>> {
        self.repository.forget(&[self.id(number)], "test").await
    }
}

fn damage() -> VerifyReport {
    let problem = stillpoint::repository::Problem {
        object: "part a".to_owned(),
        what: "its hash differs ü".repeat(200),
        backups: Vec::new(),
    };
    VerifyReport { problems: vec![problem.clone(), problem], ..VerifyReport::default() }
}

#[tokio::test]
async fn row_66_the_newest_answer_about_a_backup_counts_and_is_told_once_a_day() {
    let scene = Scene::of(2).await;
    let (sound, backup) = (VerifyReport::default(), &scene.backups[0]);
    let prove = async |report: &VerifyReport| scene.repository.prove(backup, report).await.unwrap();
    assert!(prove(&sound).await);
    assert!(!prove(&sound).await, "the same again");
    assert_eq!(scene.proofs().await, [Proof::Verified, Proof::Unverified]);
    assert!(prove(&damage()).await, "it changed");
    assert_eq!(scene.proofs().await, [Proof::Suspect, Proof::Unverified]);
    let history = scene.anew().await.history().await.unwrap();
    let problem = history.proof(&scene.id(0)).unwrap().problem.clone().unwrap();
    assert!(problem.starts_with("part a: its hash differs") && problem.len() <= 1000, "{problem}");
    assert!(prove(&sound).await, "it was repaired");
    scene.clock.advance(DAY - 60);
    assert!(!prove(&sound).await, "not a day later");
    scene.clock.advance(60);
    assert!(prove(&sound).await, "a day later");
    // What is gone needs no proof.
    scene.forget(0).await.unwrap();
    assert!(!prove(&damage()).await);
}

#[tokio::test]
async fn row_66_what_is_held_is_forgotten_by_nobody_until_every_hold_is_released() {
    let scene = Scene::of(3).await;
    let first = scene.hold("LEG-2231", HeldPart::Backup(scene.id(0))).await;
    let second = scene.hold("LEG-9", HeldPart::Backup(scene.id(0))).await;
    for hold in [first, second] {
        let error = scene.forget(0).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, code::HELD));
        // Nobody else's request takes it along, and it keeps no other.
        let both = [scene.id(1), scene.id(0)];
        assert!(scene.repository.forget(&both, "test").await.is_err());
        let anew = scene.anew().await;
        assert_eq!(anew.stock("shop").await.unwrap().backups.len(), 3);
        let released = anew.release(&hold.to_ascii_lowercase(), "settled", "bob on desk").await;
        assert_eq!(released.unwrap().hold, hold);
        let again = anew.release(&hold, "settled", "bob on desk").await.unwrap_err();
        assert_eq!(again.code(), code::NO_SUCH_HOLD);
    }
    scene.forget(0).await.unwrap();
    let holds = scene.anew().await.holds(Some("shop")).await.unwrap();
    assert!(holds.iter().all(|hold| hold.released.is_some()) && holds.len() == 2);
}

#[tokio::test]
async fn row_66_a_held_stretch_keeps_what_its_first_point_is_reached_from() {
    let scene = Scene::of(4).await;
    let from = scene.at(1) + TimeDelta::hours(1);
    let to = Some(scene.at(2) + TimeDelta::hours(1));
    let hold = scene.hold("LEG-1", HeldPart::Range { from, to }).await;
    // As long as nothing was read back, any of them may turn out to be the one.
    for number in [0, 1, 2] {
        assert_eq!(scene.forget(number).await.unwrap_err().code(), code::HELD, "{number}");
    }
    scene.prove_all().await;
    scene.forget(0).await.unwrap();
    scene.forget(3).await.unwrap();
    for number in [1, 2] {
        assert_eq!(scene.forget(number).await.unwrap_err().code(), code::HELD, "{number}");
    }
    scene.repository.release(&hold, "settled", "ann").await.unwrap();
    scene.forget(1).await.unwrap();
}

#[tokio::test]
async fn row_66_a_hold_on_what_is_not_there_is_refused() {
    let scene = Scene::of(2).await;
    scene.forget(0).await.unwrap();
    let (from, to) = (scene.at(1), Some(scene.at(0)));
    let whole = HeldPart::Range { from, to: None };
    for (database, case, of, expected) in [
        ("shop", "LEG-1", HeldPart::Backup(scene.id(0)), ErrorKind::Missing),
        ("shop", "LEG-1", HeldPart::Backup("01".to_owned()), ErrorKind::Missing),
        ("mail", "LEG-1", HeldPart::Backup(scene.id(1)), ErrorKind::Missing),
        ("mail", "LEG-1", whole.clone(), ErrorKind::Missing),
        ("shop", "LEG-1", HeldPart::Range { from, to }, ErrorKind::Invalid),
        ("shop", "", whole.clone(), ErrorKind::Invalid),
        ("shop", "two\nlines", whole.clone(), ErrorKind::Invalid),
        ("shop", &"x".repeat(1001), whole, ErrorKind::Invalid),
    ] {
        let intent = HoldIntent { database: database.to_owned(), case: case.to_owned(), of };
        let error = scene.repository.hold(&intent, "ann").await.unwrap_err();
        assert_eq!(error.kind(), expected, "{intent:?}");
    }
    assert_eq!(scene.anew().await.holds(None).await.unwrap(), []);
}

#[tokio::test]
async fn row_66_a_hold_that_comes_amid_an_expiry_counts() {
    let scene = Scene::of(3).await;
    scene.prove_all().await;
    let rival = scene.anew().await;
    let runtime = tokio::runtime::Handle::current();
    let mut asked = Vec::new();
    let keep = Keep::default();
    let rules = Rules { zone: chrono_tz::UTC, keep: &keep, window: Duration::ZERO, floor: 1 };
    let mut pending = Some(HeldPart::Backup(scene.id(0)));
    let now = scene.world.clock.now();
    let expired = scene.repository.expire("shop", "test", |holdings| {
        let retention = rules.retain(&holdings.stock(State::Active), now);
        let gone = retention.verdicts.iter().filter(|verdict| !verdict.is_kept());
        let gone: Vec<String> = gone.map(|verdict| verdict.id.clone()).collect();
        asked.push(gone.len());
        if let Some(of) = pending.take() {
            // Somebody is faster than we are.
            let intent = HoldIntent { database: "shop".to_owned(), case: "LEG-1".to_owned(), of };
            std::thread::scope(|scope| {
                let hold = || runtime.block_on(rival.hold(&intent, "ann")).unwrap();
                scope.spawn(hold).join().unwrap();
            });
        }
        gone
    });
    let expired = expired.await.unwrap();
    assert_eq!(asked, [2, 1]);
    let ids: Vec<String> = expired.into_iter().map(|c| c.commit.backup).collect();
    assert_eq!(ids, [scene.id(1)]);
    let left = scene.anew().await.stock("shop").await.unwrap();
    let left: Vec<String> = left.backups.into_iter().map(|backup| backup.id).collect();
    assert_eq!(left, [scene.id(0), scene.id(2)]);
}

/// Seven years after the end of a relationship, as the repository knows of it.
async fn ends(scene: &Scene, subjects: &[&str]) -> (Reason, Until) {
    let event = Some(EventRule {
        after: Period { count: 7, unit: PeriodUnit::Years },
        event: "relationship_end".to_owned(),
        subject: "customer_id".to_owned(),
    });
    let keep = Keep { event, ..Keep::default() };
    let zone = chrono_tz::Europe::Berlin;
    let rules = Rules { zone, keep: &keep, window: Duration::ZERO, floor: 1 };
    let subjects: Vec<String> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    let holdings = scene.anew().await.stock("shop").await.unwrap().about(&subjects);
    let retention = rules.retain(&holdings.stock(State::Active), scene.world.clock.now());
    let verdict = &retention.verdicts[0];
    let is_event = |reason: &&Reason| matches!(reason, Reason::Event(..));
    (verdict.reasons.iter().find(is_event).unwrap().clone(), verdict.until)
}

async fn record(scene: &Scene, database: Option<&str>, subject: &str, on: &str) -> String {
    let about = ("relationship_end", subject);
    let made = scene.repository.record_event(database, about, on.parse().unwrap(), "ann").await;
    made.unwrap().event
}

#[tokio::test]
async fn row_84_seven_years_after_an_event_that_only_the_repository_knows() {
    let scene = Scene::of(2).await;
    scene.prove_all().await;
    let unknown = |reason: &Reason| matches!(reason, Reason::Event(_, EventEnd::Unknown(_)));
    let midnight = |text: &str| Until::Instant(text.parse::<DateTime<Utc>>().unwrap());
    // No event: kept.
    let (reason, until) = ends(&scene, &["4711"]).await;
    assert!(unknown(&reason) && until == Until::Told, "{reason}");
    // 29 February: 1 March still belongs to the seven years.
    let leap = record(&scene, Some("shop"), "4711", "2028-02-29").await;
    let (reason, until) = ends(&scene, &["4711"]).await;
    assert_eq!(until, midnight("2035-03-01T23:00:00Z"), "{reason}");
    // Two subjects: the last one decides, and one that nobody knows of keeps it.
    assert!(unknown(&ends(&scene, &["4711", "12"]).await.0));
    let other = record(&scene, None, "12", "2030-06-30").await;
    assert_eq!(ends(&scene, &["4711", "12"]).await.1, midnight("2037-06-30T22:00:00Z"));
    // Withdrawn: kept.
    let anew = scene.anew().await;
    anew.withdraw(&other, "wrong customer", "bob").await.unwrap();
    assert!(unknown(&ends(&scene, &["4711", "12"]).await.0));
    assert_eq!(
        anew.withdraw(&other, "again", "bob").await.unwrap_err().code(),
        code::NO_SUCH_EVENT
    );
    // What was corrected cannot be withdrawn behind its correction.
    record(&scene, Some("shop"), "4711", "2028-03-31").await;
    assert_eq!(ends(&scene, &["4711"]).await.1, midnight("2035-03-31T22:00:00Z"));
    assert_eq!(anew.withdraw(&leap, "late", "bob").await.unwrap_err().code(), code::NO_SUCH_EVENT);
    // Another database's events are none of ours.
    record(&scene, Some("mail"), "77", "2026-01-31").await;
    assert!(unknown(&ends(&scene, &["77"]).await.0));
    let standing = anew.events(None).await.unwrap();
    let told: Vec<_> = standing.iter().map(|e| (&*e.recorded.subject, e.recorded.on)).collect();
    let day = |text: &str| text.parse().unwrap();
    assert_eq!(told, [("4711", day("2028-03-31")), ("77", day("2026-01-31"))]);
    assert_eq!(anew.events(Some("shop")).await.unwrap().len(), 1);
}
