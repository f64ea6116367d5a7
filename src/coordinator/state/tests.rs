//! What a state database promises, on every kind of it.

use std::{path::Path, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use rusqlite::Connection;
use stillpoint_conformance::memory::TestClock;
use stillpoint_contract::{Clock, ErrorKind, code};

use super::{
    AWAY, Claim, Database, Filter, Job, Outcome, Phase, Scope, SqliteState, State, Task, Value,
    verify,
};
use crate::pipeline::testing::Seeded;

const LEASE: Duration = Duration::from_secs(30);

fn start() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<TestClock>,
    state: State,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::manual(start()));
        let state = open(&folder.path().join("state.db"), &clock, 7).await;
        Self { folder, clock, state }
    }

    /// The same database, as another process would open it.
    async fn again(&self, seed: u64) -> State {
        open(&self.folder.path().join("state.db"), &self.clock, seed).await
    }

    fn behind_its_back(&self) -> Connection {
        Connection::open(self.folder.path().join("state.db")).unwrap()
    }
}

async fn open(path: &Path, clock: &Arc<TestClock>, seed: u64) -> State {
    let database = database(path, clock);
    State::open(Arc::new(database), Arc::new(Seeded::new(seed))).await.unwrap()
}

fn database(path: &Path, clock: &Arc<TestClock>) -> SqliteState {
    let shared: Arc<dyn Clock> = Arc::<TestClock>::clone(clock);
    SqliteState::open(path, shared).unwrap()
}

fn task(database: &str, kind: &str, rank: u64) -> Task {
    Task {
        database: database.to_owned(),
        kind: kind.to_owned(),
        due: start(),
        why: "calendar".to_owned(),
        repository: "primary".to_owned(),
        host: "db1".to_owned(),
        rank,
    }
}

fn most(most: u32) -> Filter {
    Filter { most, ..Filter::default() }
}

fn running(jobs: &[Job]) -> Vec<&Task> {
    let running = jobs.iter().filter(|job| matches!(job.phase, Phase::Running { .. }));
    running.map(|job| &job.task).collect()
}

#[tokio::test]
async fn a_due_time_is_queued_once_and_again_only_after_a_failure() {
    let bench = Bench::new().await;
    let state = &bench.state;
    let task = task("shop", "full", 1);
    assert!(state.enqueue(&task, "scheduler").await.unwrap().is_some());
    assert_eq!(state.enqueue(&task, "another scheduler").await.unwrap(), None);
    state.renew("w1", "here", LEASE).await.unwrap();
    let claim = state.claim("w1").await.unwrap().unwrap();
    assert_eq!(state.enqueue(&task, "scheduler").await.unwrap(), None);
    state.finish(&claim, Outcome::Failed, "the server was away").await.unwrap();
    assert!(state.enqueue(&task, "scheduler").await.unwrap().is_some());
    let claim = state.claim("w1").await.unwrap().unwrap();
    assert_eq!(claim.attempt, 2);
    state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
    assert_eq!(state.enqueue(&task, "scheduler").await.unwrap(), None);
    let jobs = state.jobs(&most(10)).await.unwrap();
    let outcomes: Vec<_> = jobs
        .iter()
        .map(|job| match &job.phase {
            Phase::Ended { outcome, reason, .. } => (*outcome, reason.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [(Outcome::Succeeded, ""), (Outcome::Failed, "the server was away")];
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn the_first_in_rank_is_taken_and_no_cap_is_passed() {
    let bench = Bench::new().await;
    let state = &bench.state;
    state.renew("w1", "here", LEASE).await.unwrap();
    for (database, rank) in [("a", 1), ("b", 9), ("c", 5)] {
        state.enqueue(&task(database, "full", rank), "s").await.unwrap();
        state
            .enqueue(&Task { due: start() + LEASE, ..task(database, "full", rank) }, "s")
            .await
            .unwrap();
    }
    let other =
        Task { repository: "dr".to_owned(), host: "db2".to_owned(), ..task("d", "drill", 0) };
    state.enqueue(&other, "s").await.unwrap();
    let caps = [(Scope::Repository, "primary", 2), (Scope::Host, "db2", 1)];
    state.set_caps(3, &caps).await.unwrap();
    let mut taken = Vec::new();
    while let Some(claim) = state.claim("w1").await.unwrap() {
        taken.push(claim);
    }
    let names: Vec<_> = taken.iter().map(|claim| claim.task.database.as_str()).collect();
    assert_eq!(names, ["b", "c", "d"], "rank; then the repository is full; then everything");
    state.finish(&taken[0], Outcome::Succeeded, "").await.unwrap();
    let next = state.claim("w1").await.unwrap().unwrap();
    assert_eq!((next.task.database.as_str(), next.task.due), ("b", start() + LEASE));
    assert_eq!(state.claim("w1").await.unwrap(), None);
}

#[tokio::test]
async fn never_two_of_a_kind_for_one_database() {
    let bench = Bench::new().await;
    let state = &bench.state;
    state.renew("w1", "here", LEASE).await.unwrap();
    for due in [start(), start() + LEASE] {
        state.enqueue(&Task { due, ..task("shop", "full", 1) }, "s").await.unwrap();
    }
    state.enqueue(&task("shop", "drill", 0), "s").await.unwrap();
    let kinds = [state.claim("w1").await.unwrap(), state.claim("w1").await.unwrap()];
    let kinds: Vec<_> = kinds.iter().flatten().map(|claim| claim.task.kind.as_str()).collect();
    assert_eq!(kinds, ["full", "drill"]);
    assert_eq!(state.claim("w1").await.unwrap(), None);
}

#[tokio::test]
async fn whoever_was_not_heard_of_has_lost_what_it_had() {
    let bench = Bench::new().await;
    let state = &bench.state;
    for _ in 0..3 {
        // Somebody looks for long enough to tell a worker that is away from a database that was.
        state.reap("s").await.unwrap();
        bench.clock.advance(AWAY / 2);
    }
    state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    state.renew("w1", "here", LEASE).await.unwrap();
    let zombie = state.claim("w1").await.unwrap().unwrap();
    state.progress(&zombie, 5).await.unwrap();
    bench.clock.advance(LEASE / 2 - Duration::from_secs(1));
    assert_eq!(state.reap("s").await.unwrap(), 0);
    state.renew("w1", "here", LEASE).await.unwrap();
    bench.clock.advance(LEASE - Duration::from_secs(1));
    assert_eq!(state.reap("s").await.unwrap(), 0);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(state.reap("s").await.unwrap(), 1);

    let fenced = |result: stillpoint_contract::Result<()>| result.unwrap_err().kind();
    assert_eq!(fenced(state.progress(&zombie, 6).await), ErrorKind::Fenced);
    assert_eq!(state.claim("w1").await.unwrap_err().kind(), ErrorKind::Fenced);
    state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    state.renew("w2", "there", LEASE).await.unwrap();
    let heir = state.claim("w2").await.unwrap().unwrap();
    // It wakes up, and even takes a new lease: what it had is not its own any more.
    state.renew("w1", "here", LEASE).await.unwrap();
    assert_eq!(fenced(state.finish(&zombie, Outcome::Succeeded, "").await), ErrorKind::Fenced);
    state.finish(&heir, Outcome::Succeeded, "").await.unwrap();
}

#[tokio::test]
async fn somebody_may_end_a_job() {
    let bench = Bench::new().await;
    let state = &bench.state;
    let waiting = state.enqueue(&task("a", "full", 1), "s").await.unwrap().unwrap();
    assert!(state.cancel(&waiting, "eve", "maintenance").await.unwrap());
    assert!(!state.cancel(&waiting, "eve", "again").await.unwrap());
    state.enqueue(&task("b", "full", 1), "s").await.unwrap();
    state.renew("w1", "here", LEASE).await.unwrap();
    let claim = state.claim("w1").await.unwrap().unwrap();
    assert!(state.cancel(&claim.job, "eve", "too slow").await.unwrap());
    assert_eq!(state.progress(&claim, 1).await.unwrap_err().kind(), ErrorKind::Fenced);
    let who: Vec<_> = state.audit(0).await.unwrap().into_iter().map(|line| line.who).collect();
    assert_eq!(who, ["s", "eve", "s", "w1", "eve"]);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_changes_nothing_and_holds_nobody_up() {
    let bench = Bench::new().await;
    let database = database(&bench.folder.path().join("state.db"), &bench.clock);
    let mut open = database.begin().await.unwrap();
    let insert = "INSERT INTO looked (name, kind, until) VALUES ($1, $2, $3)";
    let row = [Value::from("shop"), Value::from("full"), Value::from(1_i64)];
    open.run(insert, &row).await.unwrap();
    drop(open);
    let mut open = database.begin().await.unwrap();
    assert_eq!(open.run("SELECT name FROM looked", &[]).await.unwrap(), []);
    open.run(insert, &row).await.unwrap();
    open.commit().await.unwrap();
    let mut open = database.begin().await.unwrap();
    assert_eq!(open.run("SELECT name FROM looked", &[]).await.unwrap().len(), 1);
    drop(open);
    bench.state.jobs(&most(1)).await.unwrap();
}

#[tokio::test]
async fn a_changed_line_of_the_audit_log_is_found() {
    let bench = Bench::new().await;
    for database in ["a", "b", "c"] {
        bench.state.enqueue(&task(database, "full", 1), "s").await.unwrap();
    }
    let lines = bench.state.audit(0).await.unwrap();
    verify(None, &lines).unwrap();
    verify(Some(&lines[0]), &lines[1..]).unwrap();
    verify(None, &lines[1..]).unwrap_err();
    for change in [
        "UPDATE audit SET who = 'eve' WHERE seq = 2",
        "UPDATE audit SET at = at + 1 WHERE seq = 2",
        "UPDATE audit SET detail = detail || ' ' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "UPDATE audit SET seq = 9 WHERE seq = 2",
    ] {
        let other = bench.behind_its_back();
        other.execute_batch(&format!("SAVEPOINT s; {change}")).unwrap();
        let mut changed = lines.clone();
        let mut select =
            other.prepare("SELECT seq, at, who, detail FROM audit ORDER BY seq").unwrap();
        let rows = select.query_map([], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?, row.get(3)?))
        });
        let rows: Vec<(i64, i64, String, String)> = rows.unwrap().map(Result::unwrap).collect();
        changed.truncate(rows.len());
        for (line, (seq, at, who, detail)) in changed.iter_mut().zip(rows) {
            line.at = DateTime::from_timestamp_micros(at).unwrap();
            (line.seq, line.who, line.detail) = (seq, who, detail);
        }
        assert_eq!(verify(None, &changed).unwrap_err().code(), code::AUDIT, "{change}");
        drop(select);
        other.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
    }
}

#[tokio::test]
async fn tables_of_a_newer_program_are_left_alone() {
    let bench = Bench::new().await;
    bench.behind_its_back().execute_batch("UPDATE meta SET value = 2").unwrap();
    let database = database(&bench.folder.path().join("state.db"), &bench.clock);
    let refused = State::open(Arc::new(database), Arc::new(Seeded::new(1))).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Unsupported, code::STATE));
}

/// Several processes at once, each with several claims: nothing is taken twice, no cap is passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_that_race_take_nothing_twice() {
    const JOBS: usize = 60;
    const CAP: u32 = 3;
    let bench = Bench::new().await;
    for number in 0..JOBS {
        bench.state.enqueue(&task(&format!("db{number}"), "full", 1), "s").await.unwrap();
    }
    bench.state.set_caps(CAP, &[]).await.unwrap();
    let mut workers = Vec::new();
    for number in 0..4 {
        let (state, name) = (bench.again(100 + number).await, format!("w{number}"));
        state.renew(&name, "here", Duration::from_hours(1)).await.unwrap();
        workers.push(tokio::spawn(async move {
            let (mut taken, mut idle) = (Vec::new(), 0);
            while idle < 200 {
                let Some(claim) = state.claim(&name).await.unwrap() else {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                };
                let now = running(&state.jobs(&most(JOBS as u32)).await.unwrap()).len();
                assert!(now <= CAP as usize, "{now} run at once");
                state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
                taken.push(claim.job);
                idle = 0;
            }
            taken
        }));
    }
    let mut taken = Vec::new();
    for worker in workers {
        taken.extend(worker.await.unwrap());
    }
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), JOBS);
    verify(None, &bench.state.audit(0).await.unwrap()).unwrap();
}

/// What a test does in one step.
#[derive(Clone, Debug)]
enum Step {
    Queue { database: u8, kind: u8, due: u8, rank: u8 },
    Claim { worker: u8 },
    Renew { worker: u8 },
    Finish { claim: u8, succeeds: bool },
    Cancel { job: u8 },
    Reap,
    Wait { seconds: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8, 0..2_u8, 0..3_u8, 0..5_u8).prop_map(|(database, kind, due, rank)| {
            Step::Queue { database, kind, due, rank }
        }),
        4 => (0..3_u8).prop_map(|worker| Step::Claim { worker }),
        3 => (0..3_u8).prop_map(|worker| Step::Renew { worker }),
        3 => (0..16_u8, any::<bool>()).prop_map(|(claim, succeeds)| {
            Step::Finish { claim, succeeds }
        }),
        1 => (0..16_u8).prop_map(|job| Step::Cancel { job }),
        1 => Just(Step::Reap),
        2 => (1..20_u8).prop_map(|seconds| Step::Wait { seconds }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens in whatever order: no task succeeds twice, no two attempts at one run at
    /// once, caps hold, and the audit log is whole.
    #[test]
    fn no_order_of_events_breaks_the_queue(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let state = &bench.state;
            state.set_caps(3, &[(Scope::Host, "db1", 2)]).await.unwrap();
            let mut claims: Vec<Claim> = Vec::new();
            for step in steps {
                match step {
                    Step::Queue { database, kind, due, rank } => {
                        let task = Task {
                            due: start() + Duration::from_secs(due.into()),
                            host: format!("db{}", database % 2),
                            ..task(&database.to_string(), ["full", "drill"][kind as usize], rank.into())
                        };
                        state.enqueue(&task, "s").await.unwrap();
                    }
                    Step::Claim { worker } => {
                        if let Ok(claim) = state.claim(&format!("w{worker}")).await {
                            claims.extend(claim);
                        }
                    }
                    Step::Renew { worker } => {
                        state.renew(&format!("w{worker}"), "here", LEASE).await.unwrap();
                    }
                    Step::Finish { claim, succeeds } => {
                        if let Some(claim) = claims.get(claim as usize) {
                            let outcome =
                                if succeeds { Outcome::Succeeded } else { Outcome::Failed };
                            let ended = state.finish(claim, outcome, "").await;
                            assert!(ended.is_ok() || ended.unwrap_err().kind() == ErrorKind::Fenced);
                        }
                    }
                    Step::Cancel { job } => {
                        if let Some(job) = state.jobs(&most(99)).await.unwrap().get(job as usize) {
                            state.cancel(&job.id, "eve", "").await.unwrap();
                        }
                    }
                    Step::Reap => drop(state.reap("s").await.unwrap()),
                    Step::Wait { seconds } => {
                        bench.clock.advance(Duration::from_secs(seconds.into()));
                    }
                }
                let jobs = state.jobs(&most(999)).await.unwrap();
                let running = running(&jobs);
                assert!(running.len() <= 3);
                assert!(running.iter().filter(|task| task.host == "db1").count() <= 2);
                for (index, one) in running.iter().enumerate() {
                    let same = |other: &&&Task| (&other.database, &other.kind) == (&one.database, &one.kind);
                    assert!(!running[..index].iter().any(|other| same(&other)));
                }
                let mut won: Vec<_> = jobs
                    .iter()
                    .filter(|job| {
                        matches!(job.phase, Phase::Ended { outcome: Outcome::Succeeded, .. })
                    })
                    .map(|job| (&job.task.database, &job.task.kind, job.task.due))
                    .collect();
                let all = won.len();
                won.sort();
                won.dedup();
                assert_eq!(won.len(), all, "a task succeeded twice");
            }
            verify(None, &state.audit(0).await.unwrap()).unwrap();
        });
    }
}
