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
use futures::future::poll_fn;
use stillpoint::{
    coordinator::state::{
        AWAY, Database, Mark, Outcome, Row, Scope, Settling, Skipped, State, Transaction, Value,
    },
    policy::{Alert, Class, Urgency},
};
use stillpoint_contract::{Error, ErrorKind, Result, code};

use super::bench::{Bench, LEASE, due, minute, start, task};

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is made, and its answer arrives.
    Fine,
    /// It is made, and its answer is lost.
    Lost,
    /// It is not made, and that is not known.
    Undone,
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
    let breaking = Arc::new(Breaking { inner: bench.database(), fate: AtomicU8::new(0) });
    let shared: Arc<dyn Database> = Arc::<Breaking>::clone(&breaking);
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
    bench.watch(LEASE - Duration::from_secs(5)).await;
    bench.wait(Duration::from_secs(6)).await;
    told!(breaking, fate, state.reap("s"));
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

/// Wherever the caller of a claim is ended, the same worker finds what was claimed, and no other
/// worker does.
pub(super) async fn a_claim_that_nobody_waited_for_is_found_again(bench: &Bench) {
    let mut found = 0;
    for polls in 1..40 {
        let state = bench.again().await;
        let database = format!("db{polls}");
        state.enqueue(&task(&database, "full", 1), "s").await.unwrap();
        bench.worker("w1").await;
        bench.worker("w2").await;
        let is_done = {
            let mut claim = pin!(state.claim("w1"));
            let mut left = polls;
            // A look, and another one whenever there is news, so many times.
            poll_fn(|context| {
                left -= 1;
                match claim.as_mut().poll(context) {
                    Poll::Ready(claimed) => {
                        assert_eq!(claimed.unwrap().unwrap().task.database, database);
                        Poll::Ready(true)
                    }
                    Poll::Pending if left == 0 => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        if is_done {
            assert!(polls > 5, "it was never given up");
            assert!(found > 0, "none was claimed and given up");
            return;
        }
        // What was under way is made, or is not.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let other = state.claim("w2").await.unwrap();
        if let Some(other) = other {
            state.finish(&other, Outcome::Succeeded, "").await.unwrap();
            assert_eq!(state.claim("w1").await.unwrap(), None);
        } else {
            found += 1;
            let claim = state.claim("w1").await.unwrap().unwrap();
            assert_eq!(claim.task.database, database);
            state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
        }
        assert_eq!(state.claim("w1").await.unwrap(), None);
    }
    panic!("a claim that takes no end");
}
