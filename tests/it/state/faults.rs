//! Answers that are lost, and callers that do not wait for them.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures::future::{pending, poll_fn};
use stillpoint::{
    coordinator::state::{
        AWAY, Database, Mark, Outcome, Row, Scope, Settling, Skipped, State, Transaction, Value,
    },
    policy::{Alert, Class, Urgency},
};
use stillpoint_contract::{Error, ErrorKind, Result, code};
use tokio::time::timeout;

use super::bench::{Bench, LEASE, NEVER, due, minute, start, task};

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is made, and its answer arrives.
    Fine,
    /// It is made, and its answer is lost.
    Lost,
    /// It is not made, and that is not known.
    Undone,
    /// It is made, and nobody waits for its answer.
    Unheard,
}

/// A database to which the connection breaks.
#[derive(Debug)]
struct Breaking {
    inner: Arc<dyn Database>,
    fate: AtomicU8,
}

struct Open<'a> {
    inner: Box<dyn Transaction + 'a>,
    fate: &'a AtomicU8,
}

impl Breaking {
    fn new(bench: &Bench) -> (Arc<Self>, Arc<dyn Database>) {
        let breaking = Arc::new(Self { inner: bench.database(), fate: AtomicU8::new(0) });
        let shared: Arc<dyn Database> = Arc::<Self>::clone(&breaking);
        (breaking, shared)
    }

    fn next(&self, fate: Fate) {
        self.fate.store(fate as u8, Ordering::Relaxed);
    }
}

#[async_trait]
impl Database for Breaking {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>> {
        Ok(Box::new(Open { inner: self.inner.begin().await?, fate: &self.fate }))
    }
}

#[async_trait]
impl Transaction for Open<'_> {
    fn now(&self) -> i64 {
        self.inner.now()
    }

    async fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>> {
        self.inner.run(sql, values).await
    }

    async fn commit(self: Box<Self>) -> Result<()> {
        let fate = self.fate.swap(Fate::Fine as u8, Ordering::Relaxed);
        if fate != Fate::Undone as u8 {
            self.inner.commit().await?;
        }
        if fate == Fate::Fine as u8 {
            return Ok(());
        }
        if fate == Fate::Unheard as u8 {
            pending::<()>().await;
        }
        Err(Error::new(ErrorKind::Transient, code::STATE, "commit").why("nobody knows"))
    }
}

/// Calls, and calls again if the first answer is lost.
macro_rules! told {
    ($breaking:ident, $fate:ident, $call:expr) => {{
        $breaking.next($fate);
        let first = $call.await;
        if $fate == Fate::Fine {
            first.unwrap()
        } else {
            assert_eq!(first.unwrap_err().kind(), ErrorKind::Transient, stringify!($call));
            $call.await.unwrap()
        }
    }};
}

/// Everything that can be done, and what is left of it.
async fn story(bench: &Bench, fate: Fate) -> Vec<String> {
    let (breaking, shared) = Breaking::new(bench);
    let state = bench.with(shared).await;
    bench.watch(AWAY).await;
    let first = task("a", "full", 9);
    told!(breaking, fate, state.enqueue(&first, "s"));
    told!(breaking, fate, state.renew("w1", "here", LEASE));
    told!(breaking, fate, state.set_caps(2, &[(Scope::Host, "db1", 2)]));
    let claim = told!(breaking, fate, state.claim("w1")).unwrap();
    assert_eq!(claim.task, first);
    told!(breaking, fate, state.progress(&claim, 7));
    told!(breaking, fate, state.finish(&claim, Outcome::Failed, "why"));
    told!(breaking, fate, state.retry(&claim.job, "eve"));
    let skipped =
        Skipped { kind: "full".to_owned(), due: minute(3), reason: "blackout".to_owned() };
    let settling = Settling {
        database: "b".to_owned(),
        kind: "full".to_owned(),
        from: None,
        until: minute(5),
        tasks: vec![due("b", 1), due("b", 2)],
        skipped: vec![skipped],
    };
    let settling = [settling];
    told!(breaking, fate, state.settle(&settling, "s"));
    let cancelled = state.claim("w1").await.unwrap().unwrap();
    told!(breaking, fate, state.cancel(&cancelled.job, "eve", "no"));
    assert_eq!(cancelled.task, first);
    let lost = told!(breaking, fate, state.claim("w1")).unwrap();
    assert_eq!(lost.task, due("b", 1));
    bench.watch(LEASE / 2).await;
    bench.wait(LEASE / 2).await;
    told!(breaking, fate, state.reap(NEVER, "s"));
    told!(breaking, fate, state.lease("log", "w1", Some(LEASE)));
    told!(breaking, fate, state.release("log", "w1"));
    told!(breaking, fate, state.lease("log", "w2", Some(LEASE)));
    told!(breaking, fate, state.lead("w1"));
    let mark = Some(Mark::Paused { until: None });
    told!(breaking, fate, state.set_mark("b", mark, "why", "eve"));
    told!(breaking, fate, state.set_applied(None, "a", "text", "eve"));
    told!(breaking, fate, state.prune(start()));
    let mut kept = state.board().await.unwrap();
    let breach = Alert {
        class: Class::RpoBreached,
        database: "a".to_owned(),
        urgency: Urgency::Page,
        since: start(),
        what: String::new(),
        cause: None,
        muted_until: None,
    };
    kept.board.step(&[breach]);
    let messages = ["page".to_owned()];
    told!(breaking, fate, state.set_board(&kept, &messages));
    let unsent = state.unsent().await.unwrap();
    assert_eq!(unsent.len(), 1);
    told!(breaking, fate, state.sent(&unsent[0].id));
    left(&state).await
}

/// What is in a state database, save ids and times.
async fn left(state: &State) -> Vec<String> {
    let mut left = Vec::new();
    for job in state.jobs(&stillpoint::coordinator::state::Filter::default()).await.unwrap() {
        let how = super::bench::outcome(&job);
        left.push(format!("{:?} {} {} {how:?}", job.task, job.attempt, job.bytes));
    }
    for line in state.audit(0).await.unwrap() {
        left.push(format!("{} {} {}", line.who, line.action, line.detail));
    }
    for mark in state.marks().await.unwrap() {
        left.push(format!("{} {:?} {}", mark.database, mark.mark, mark.who));
    }
    left.push(format!("{:?}", state.all_looked().await.unwrap()));
    left.push(format!("{:?}", state.skipped("b").await.unwrap()));
    left.push(format!("{:?}", state.applied().await.unwrap().map(|applied| applied.digest)));
    left.push(format!("{:?}", state.board().await.unwrap()));
    left.push(format!("{:?}", state.unsent().await.unwrap()));
    left.push(format!("{:?}", state.lease("log", "w3", Some(LEASE)).await.unwrap()));
    left.push(format!("{}", state.lead("w1").await.unwrap()));
    state.prove_audit().await.unwrap();
    left
}

pub(super) async fn every_call_may_be_repeated_when_its_answer_was_lost(bench: &Bench) {
    let expected = story(bench, Fate::Fine).await;
    for fate in [Fate::Lost, Fate::Undone] {
        assert_eq!(story(&bench.fresh().await, fate).await, expected, "{fate:?}");
    }
}

pub(super) async fn a_claim_that_nobody_waited_for_is_found_again(bench: &Bench) {
    let (breaking, shared) = Breaking::new(bench);
    let state = bench.with(shared).await;
    for database in ["a", "b"] {
        state.enqueue(&task(database, "full", 1), "s").await.unwrap();
    }
    for worker in ["w1", "w2"] {
        bench.worker(worker).await;
    }
    breaking.next(Fate::Unheard);
    timeout(Duration::from_millis(300), state.claim("w1")).await.unwrap_err();
    let other = state.claim("w2").await.unwrap().unwrap();
    assert_eq!(other.task.database, "b", "what was claimed is not another's");
    let found = state.claim("w1").await.unwrap().unwrap();
    assert_eq!((found.task.database.as_str(), found.attempt), ("a", 1));
    assert_eq!(state.claim("w1").await.unwrap(), None);
    for claim in [found, other] {
        state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
    }
}

/// Wherever the caller of a claim is ended, exactly one worker gets the job.
pub(super) async fn a_claim_may_be_given_up_at_any_await(bench: &Bench) {
    let state = bench.again().await;
    for polls in 1.. {
        let database = format!("db{polls}");
        state.enqueue(&task(&database, "full", 1), "s").await.unwrap();
        for worker in ["w1", "w2"] {
            bench.worker(worker).await;
        }
        let claimed = {
            let (mut claim, mut left) = (pin!(state.claim("w1")), polls);
            poll_fn(|context| match claim.as_mut().poll(context) {
                Poll::Ready(claimed) => Poll::Ready(Some(claimed.unwrap().unwrap())),
                Poll::Pending if left == 1 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        };
        if let Some(claim) = claimed {
            assert_eq!(claim.task.database, database);
            return;
        }
        let (one, other) = (state.claim("w2").await.unwrap(), state.claim("w1").await.unwrap());
        let claims: Vec<_> = one.into_iter().chain(other).collect();
        let [claim] = &claims[..] else { panic!("{claims:?}") };
        state.finish(claim, Outcome::Succeeded, "").await.unwrap();
    }
}
