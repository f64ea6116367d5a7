//! What waits, what runs, and how it ends.

use std::time::Duration;

use stillpoint::coordinator::state::{Filter, Outcome, Scope, State, Task};
use stillpoint_contract::{ErrorKind, code};

use super::bench::{Bench, LEASE, due, minute, outcome, pause, running, task};

pub(super) async fn a_due_time_is_queued_once_and_again_only_after_a_failure(bench: &Bench) {
    let state = &bench.state;
    let task = task("shop", "full", 1);
    assert!(state.enqueue(&task, "scheduler").await.unwrap().is_some());
    assert_eq!(state.enqueue(&task, "another scheduler").await.unwrap(), None);
    bench.worker("w1").await;
    let claim = bench.claim("w1").await;
    assert_eq!(state.enqueue(&task, "scheduler").await.unwrap(), None);
    state.finish(&claim, Outcome::Failed, "the server was away").await.unwrap();
    assert!(state.enqueue(&task, "scheduler").await.unwrap().is_some());
    let claim = bench.claim("w1").await;
    assert_eq!((claim.attempt, &claim.task), (2, &task));
    state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
    assert_eq!(state.enqueue(&task, "scheduler").await.unwrap(), None);
    let jobs = bench.jobs().await;
    let outcomes: Vec<_> = jobs.iter().filter_map(outcome).collect();
    let expected = [(Outcome::Succeeded, ""), (Outcome::Failed, "the server was away")];
    assert_eq!(outcomes, expected);
}

pub(super) async fn the_first_in_rank_is_taken_and_no_cap_is_passed(bench: &Bench) {
    let state = &bench.state;
    bench.worker("w1").await;
    for (database, rank) in [("a", 1), ("b", 9), ("c", 5)] {
        state.enqueue(&task(database, "full", rank), "s").await.unwrap();
        let later = Task { due: minute(1), ..task(database, "full", rank) };
        state.enqueue(&later, "s").await.unwrap();
    }
    let other =
        Task { repository: "dr".to_owned(), host: "db2".to_owned(), ..task("d", "drill", 0) };
    state.enqueue(&other, "s").await.unwrap();
    let second = Task { host: "db2".to_owned(), repository: "dr".to_owned(), ..due("e", 0) };
    state.enqueue(&second, "s").await.unwrap();
    let caps = [(Scope::Repository, "primary", 2), (Scope::Host, "db2", 1)];
    state.set_caps(4, &caps).await.unwrap();
    let mut taken = Vec::new();
    while let Some(claim) = state.claim("w1").await.unwrap() {
        taken.push(claim);
    }
    let names: Vec<_> = taken.iter().map(|claim| claim.task.database.as_str()).collect();
    assert_eq!(names, ["b", "c", "e"], "rank; then the repository is full; then the host");
    state.set_caps(3, &[]).await.unwrap();
    assert_eq!(state.claim("w1").await.unwrap(), None, "three of everything");
    state.set_caps(4, &caps).await.unwrap();
    state.finish(&taken[0], Outcome::Succeeded, "").await.unwrap();
    let next = bench.claim("w1").await;
    assert_eq!((next.task.database.as_str(), next.task.due), ("b", minute(1)));
    assert_eq!(state.claim("w1").await.unwrap(), None);
}

pub(super) async fn who_takes_room_that_others_wait_for_learns_of_it(bench: &Bench) {
    let state = &bench.state;
    let rows = state.clone().of_agent("rows");
    bench.worker("w1").await;
    let moved = Task { agent: "rows".to_owned(), ..task("a", "archive a", 0) };
    rows.enqueue(&moved, "s").await.unwrap();
    rows.claim("w1").await.unwrap().unwrap();
    let elsewhere =
        Task { repository: "dr".to_owned(), host: "db2".to_owned(), ..task("b", "full", 1) };
    state.enqueue(&elsewhere, "s").await.unwrap();
    let (repository, host) = ((Scope::Repository, "primary", 1), (Scope::Host, "db1", 1));
    let caps = [repository, host, (Scope::Host, "db2", 1)];
    state.set_caps(2, &caps).await.unwrap();
    assert!(!rows.is_in_the_way().await.unwrap(), "that one may run");
    state.set_caps(1, &[]).await.unwrap();
    assert!(rows.is_in_the_way().await.unwrap(), "one of everything");
    state.enqueue(&task("c", "full", 1), "s").await.unwrap();
    for cap in [repository, host] {
        state.set_caps(9, &[]).await.unwrap();
        assert!(!rows.is_in_the_way().await.unwrap(), "there is room");
        state.set_caps(9, &[cap]).await.unwrap();
        assert!(rows.is_in_the_way().await.unwrap(), "{cap:?}");
        assert!(!state.is_in_the_way().await.unwrap(), "those of others are not its own");
    }
}

pub(super) async fn what_waits_becomes_more_urgent(bench: &Bench) {
    let state = &bench.state;
    bench.worker("w1").await;
    // Three hundred thousand points a second, and none.
    let starving = Task { rpo: Duration::from_millis(333), ..task("starving", "full", 1) };
    state.enqueue(&starving, "s").await.unwrap();
    state.enqueue(&task("patient", "full", 2), "s").await.unwrap();
    bench.wait(Duration::from_millis(50)).await;
    state.let_ranks_grow(Duration::from_mins(1)).await.unwrap();
    state.enqueue(&task("new", "full", 5_000), "s").await.unwrap();
    let order = async || {
        let jobs = bench.jobs().await;
        let mut ranks: Vec<_> =
            jobs.iter().map(|job| (job.task.rank, &job.task.database)).collect();
        ranks.sort();
        ranks.iter().rev().map(|(_, name)| (*name).clone()).collect::<Vec<_>>()
    };
    assert_eq!(order().await, ["new", "patient", "starving"], "that was done a moment ago");
    state.let_ranks_grow(Duration::ZERO).await.unwrap();
    assert_eq!(order().await, ["starving", "new", "patient"]);
    assert_eq!(bench.claim("w1").await.task.database, "starving");
    state.let_ranks_grow(Duration::ZERO).await.unwrap();
    assert_eq!(bench.claim("w1").await.task.database, "new");
}

pub(super) async fn an_agent_takes_what_is_its_own_and_nobody_else_does(bench: &Bench) {
    let state = &bench.state;
    bench.worker("w1").await;
    let [here, there] = ["here", "there"].map(|name| state.clone().of_agent(name));
    here.renew("a1", "host", LEASE).await.unwrap();
    there.renew("a2", "host", LEASE).await.unwrap();
    for agent in ["here", ""] {
        let own = Task { agent: agent.to_owned(), ..task(&format!("of {agent}"), "full", 1) };
        state.enqueue(&own, "s").await.unwrap();
    }
    assert_eq!(there.claim("a2").await.unwrap(), None);
    let own = here.claim("a1").await.unwrap().unwrap();
    assert_eq!((own.task.database.as_str(), own.task.agent.as_str()), ("of here", "here"));
    assert_eq!(here.claim("a1").await.unwrap(), None);
    assert_eq!(bench.claim("w1").await.task.database, "of ");
    here.finish(&own, Outcome::Failed, "").await.unwrap();
    // What is tried again stays whose it was.
    state.retry(&own.job, "eve").await.unwrap().unwrap();
    assert_eq!(state.claim("w1").await.unwrap(), None);
    assert_eq!(here.claim("a1").await.unwrap().unwrap().attempt, 2);
    // What waits goes where it is to be done now; what runs, and what nobody knows, stays.
    for name in ["moved", "unknown"] {
        let own = Task { agent: "here".to_owned(), ..task(name, "full", 1) };
        state.enqueue(&own, "s").await.unwrap();
    }
    let doer_of = |name: &str, _: &str| match name {
        "moved" | "of here" => Some(("there".to_owned(), String::new())),
        _ => None,
    };
    assert_eq!(state.reassign(doer_of, "s").await.unwrap(), 1);
    assert_eq!(state.reassign(doer_of, "s").await.unwrap(), 0);
    assert_eq!(there.claim("a2").await.unwrap().unwrap().task.database, "moved");
    assert_eq!(here.claim("a1").await.unwrap().unwrap().task.database, "unknown");
}

/// Row 30: what is bound to a site is taken by workers of that site alone, whatever they are.
pub(super) async fn row_30_what_is_bound_to_a_site_is_taken_there_alone(bench: &Bench) {
    let state = &bench.state;
    let [dr, elsewhere] = ["dr", "lab"].map(|site| state.clone().at_site(site));
    let agent = state.clone().of_agent("here").at_site("dr");
    bench.worker("w1").await;
    for (state, worker) in [(&dr, "w2"), (&elsewhere, "w3"), (&agent, "a1")] {
        state.renew(worker, "host", LEASE).await.unwrap();
    }
    let bound =
        |name: &str, site: &str, rank| Task { site: site.to_owned(), ..task(name, "drill", rank) };
    for task in [bound("first", "dr", 9), bound("second", "dr", 8), bound("any", "", 1)] {
        state.enqueue(&task, "s").await.unwrap();
    }
    let own = Task { agent: "here".to_owned(), ..bound("own", "", 5) };
    state.enqueue(&own, "s").await.unwrap();
    let taken = async |state: &State, worker: &str| {
        let claim = state.claim(worker).await.unwrap();
        claim.map(|claim| (claim.task.database, claim.task.site))
    };
    let at = |name: &str, site: &str| Some((name.to_owned(), site.to_owned()));
    assert_eq!(taken(state, "w1").await, at("any", ""), "not what is of a site");
    assert_eq!(taken(state, "w1").await, None);
    assert_eq!(taken(&elsewhere, "w3").await, None);
    assert_eq!(taken(&dr, "w2").await, at("first", "dr"));
    // An agent of the site has both its own and the site's, in the order of their ranks.
    assert_eq!(taken(&agent, "a1").await, at("second", "dr"));
    assert_eq!(taken(&agent, "a1").await, at("own", ""));
    assert_eq!(taken(&agent, "a1").await, None);

    // Caps hold for all of them, and what stands against one keeps no other waiting.
    state.set_caps(9, &[(Scope::Repository, "primary", 4)]).await.unwrap();
    state.enqueue(&bound("full", "dr", 9), "s").await.unwrap();
    let other = Task { repository: "dr".to_owned(), ..bound("free", "dr", 1) };
    state.enqueue(&other, "s").await.unwrap();
    assert_eq!(taken(&elsewhere, "w3").await, None);
    assert_eq!(taken(&dr, "w2").await, at("free", "dr"));
    assert_eq!(taken(&dr, "w2").await, None);
    // What waits goes where it is to be done now.
    let doer_of = |_: &str, _: &str| Some((String::new(), "lab".to_owned()));
    assert_eq!(state.reassign(doer_of, "s").await.unwrap(), 1);
    state.set_caps(9, &[]).await.unwrap();
    assert_eq!(taken(&dr, "w2").await, None);
    assert_eq!(taken(&elsewhere, "w3").await, at("full", "lab"));
}

/// Row 30: whether anybody works at a site is known, and what is said there is heard.
pub(super) async fn row_30_workers_of_a_site_are_heard(bench: &Bench) {
    let state = &bench.state;
    let dr = state.clone().at_site("dr");
    assert_eq!((state.site(), dr.site()), (None, Some("dr")));
    assert_eq!(dr.clone().of_agent("rows").site(), None);
    let known = async |name: &str| state.sites([]).await.unwrap().get(name).copied();
    bench.worker("w1").await;
    assert!(known("dr").await.is_none(), "nobody is at a site");
    state.sites(["dr"]).await.unwrap();
    let awaited = known("dr").await.unwrap();
    assert_eq!(awaited.seen, None);
    bench.wait(Duration::from_millis(20)).await;
    for worker in ["w2", "w3"] {
        dr.renew(worker, "host", LEASE).await.unwrap();
    }
    let seen = known("dr").await.unwrap();
    assert!(seen.since == awaited.since && Some(awaited.since) < seen.seen, "{seen:?}");
    // One of them looks after what is the site's, until it is not heard of.
    let leads = async |worker: &str| dr.lead_site(worker).await.unwrap();
    assert_eq!((leads("w2").await, leads("w3").await, leads("w2").await), (true, false, true));
    assert!(!state.lead_site("w1").await.unwrap());
    bench.wait(2 * LEASE).await;
    assert!(leads("w3").await);

    assert_eq!(state.copied("shop").await.unwrap().len(), 0);
    dr.say_copied("shop", "tape", "1").await.unwrap();
    let (said, heard) = state.copied_since(0).await.unwrap();
    assert_eq!(said[&("shop".to_owned(), "tape".to_owned())], "1");
    assert!(state.copied_since(heard).await.unwrap().0.is_empty());
    bench.wait(Duration::from_millis(20)).await;
    dr.say_copied("shop", "tape", "2").await.unwrap();
    assert_eq!(state.copied_since(heard).await.unwrap().0.len(), 1);
    assert_eq!(state.copied("shop").await.unwrap()["tape"], "2");
    state.forget_database("shop", "", "eve").await.unwrap();
    assert_eq!(state.copied("shop").await.unwrap().len(), 0);
}

/// Row 30: nobody makes way for what waits for a site at which nobody is.
pub(super) async fn row_30_nobody_makes_way_for_a_site_that_is_silent(bench: &Bench) {
    let state = &bench.state;
    let rows = state.clone().of_agent("rows");
    bench.worker("w1").await;
    let moved = Task { agent: "rows".to_owned(), ..task("a", "archive a", 0) };
    rows.enqueue(&moved, "s").await.unwrap();
    rows.claim("w1").await.unwrap().unwrap();
    state.set_caps(1, &[]).await.unwrap();
    let bound = Task { site: "dr".to_owned(), ..task("b", "drill", 1) };
    state.enqueue(&bound, "s").await.unwrap();
    assert!(!rows.is_in_the_way().await.unwrap());
    state.clone().at_site("dr").renew("w2", "host", LEASE).await.unwrap();
    assert!(rows.is_in_the_way().await.unwrap());
}

pub(super) async fn what_agents_say_is_heard(bench: &Bench) {
    let state = &bench.state;
    let agent = state.clone().of_agent("here");
    assert!(agent.is_agent() && !state.is_agent());
    assert!(state.agents().await.unwrap().is_empty());
    bench.worker("w1").await;
    assert!(state.agents().await.unwrap().is_empty(), "whoever serves is no agent");
    agent.renew("a1", "host", LEASE).await.unwrap();
    let first = state.agents().await.unwrap()["here"];
    bench.wait(Duration::from_millis(20)).await;
    agent.renew("a1", "host", LEASE).await.unwrap();
    assert!(first < state.agents().await.unwrap()["here"]);
    assert_eq!(state.reported("shop").await.unwrap(), None);
    agent.report("shop", "{}").await.unwrap();
    assert_eq!(state.reported("shop").await.unwrap().as_deref(), Some("{}"));
    let (names, heard) = state.reported_since(0).await.unwrap();
    assert_eq!(names, ["shop"]);
    assert_eq!(state.reported_since(heard).await.unwrap(), (Vec::new(), heard));
    bench.wait(Duration::from_millis(20)).await;
    agent.report("shop", "[]").await.unwrap();
    assert_eq!(state.reported_since(heard).await.unwrap().0, ["shop"]);
    state.forget_database("shop", "", "eve").await.unwrap();
    assert_eq!(state.reported("shop").await.unwrap(), None);
}

pub(super) async fn a_cap_of_nothing_lets_nothing_run(bench: &Bench) {
    bench.worker("w1").await;
    bench.state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    bench.state.set_caps(9, &[(Scope::Repository, "primary", 0)]).await.unwrap();
    assert_eq!(bench.state.claim("w1").await.unwrap(), None);
    bench.state.set_caps(0, &[]).await.unwrap();
    assert_eq!(bench.state.claim("w1").await.unwrap(), None);
    bench.state.set_caps(1, &[]).await.unwrap();
    bench.claim("w1").await;
}

pub(super) async fn never_two_of_a_kind_for_one_database(bench: &Bench) {
    let state = &bench.state;
    bench.worker("w1").await;
    for minutes in [0, 1] {
        state.enqueue(&due("shop", minutes), "s").await.unwrap();
    }
    state.enqueue(&task("shop", "drill", 0), "s").await.unwrap();
    let kinds = [bench.claim("w1").await, bench.claim("w1").await].map(|claim| claim.task.kind);
    assert_eq!(kinds, ["full", "drill"]);
    assert_eq!(state.claim("w1").await.unwrap(), None);
}

pub(super) async fn somebody_may_end_a_job(bench: &Bench) {
    let state = &bench.state;
    let waiting = state.enqueue(&task("a", "full", 1), "s").await.unwrap().unwrap();
    assert!(state.cancel(&waiting, "eve", "maintenance").await.unwrap());
    assert!(!state.cancel(&waiting, "eve", "again").await.unwrap());
    state.enqueue(&task("b", "full", 1), "s").await.unwrap();
    bench.worker("w1").await;
    let claim = bench.claim("w1").await;
    assert!(state.cancel(&claim.job, "eve", "too slow").await.unwrap());
    assert_eq!(state.progress(&claim, 1).await.unwrap_err().kind(), ErrorKind::Fenced);
    let ended = state.finish(&claim, Outcome::Cancelled, "").await.unwrap_err();
    assert_eq!((ended.kind(), ended.code()), (ErrorKind::Fenced, code::FENCED));
    let who: Vec<_> = state.audit(0).await.unwrap().into_iter().map(|line| line.who).collect();
    assert_eq!(who, ["s", "eve", "s", "w1", "eve"]);
}

pub(super) async fn somebody_may_try_a_job_again(bench: &Bench) {
    let state = &bench.state;
    let missing = state.retry("01J", "eve").await.unwrap_err();
    assert_eq!((missing.kind(), missing.code()), (ErrorKind::Missing, code::NO_SUCH_JOB));
    let first = state.enqueue(&task("shop", "full", 1), "s").await.unwrap().unwrap();
    assert_eq!(state.retry(&first, "eve").await.unwrap(), None, "it waits");
    bench.worker("w1").await;
    let claim = bench.claim("w1").await;
    assert_eq!(state.retry(&first, "eve").await.unwrap(), None, "it runs");
    state.finish(&claim, Outcome::Failed, "").await.unwrap();
    let second = state.retry(&first, "eve").await.unwrap().unwrap();
    assert_eq!(state.retry(&first, "eve").await.unwrap(), None, "another one waits");
    let claim = bench.claim("w1").await;
    assert_eq!((&claim.job, claim.attempt), (&second, 2));
    state.finish(&claim, Outcome::Failed, "").await.unwrap();
    assert_eq!(state.retry(&first, "eve").await.unwrap(), None, "it was not the last");
    let third = state.retry(&second, "eve").await.unwrap().unwrap();
    let claim = bench.claim("w1").await;
    state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
    assert_eq!(state.retry(&third, "eve").await.unwrap(), None, "it succeeded");
    let retried = state.audit(0).await.unwrap();
    let retried: Vec<_> = retried.iter().filter(|line| line.action == "job.retried").collect();
    let subjects: Vec<_> = retried.iter().map(|line| (&line.subject, line.who.as_str())).collect();
    assert_eq!(subjects, [(&first, "eve"), (&second, "eve")]);
}

pub(super) async fn an_end_is_said_once(bench: &Bench) {
    let state = &bench.state;
    state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    bench.worker("w1").await;
    let claim = bench.claim("w1").await;
    state.finish(&claim, Outcome::Failed, "why").await.unwrap();
    let lines = state.audit(0).await.unwrap();
    // The answer was lost, and it is said again.
    state.finish(&claim, Outcome::Failed, "why").await.unwrap();
    assert_eq!(state.audit(0).await.unwrap(), lines);
    let otherwise = state.finish(&claim, Outcome::Succeeded, "").await.unwrap_err();
    assert_eq!(otherwise.kind(), ErrorKind::Fenced);
}

/// A server that fails over may forget the last that it said: what it gives to another worker then
/// bears the same number.
pub(super) async fn a_claim_that_was_forgotten_counts_no_more(bench: &Bench) {
    let state = &bench.state;
    state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
    bench.worker("w1").await;
    bench.worker("w2").await;
    let zombie = bench.claim("w1").await;
    bench.behind("UPDATE job SET state = 'waiting', epoch = 0, worker = NULL").await;
    let heir = bench.claim("w2").await;
    let said =
        [state.progress(&zombie, 1).await, state.finish(&zombie, Outcome::Succeeded, "").await];
    assert!(said.into_iter().all(|said| said.unwrap_err().kind() == ErrorKind::Fenced));
    state.finish(&heir, Outcome::Succeeded, "").await.unwrap();
}

/// Several processes at once, each with several claims: nothing is taken twice, no cap is passed.
pub(super) async fn workers_that_race_take_nothing_twice(bench: &Bench) {
    const JOBS: usize = 40;
    const CAP: u32 = 3;
    for number in 0..JOBS {
        bench.state.enqueue(&task(&format!("db{number}"), "full", 1), "s").await.unwrap();
    }
    bench.state.set_caps(CAP, &[]).await.unwrap();
    let mut workers = Vec::new();
    for number in 0..4 {
        let (state, name) = (bench.again().await, format!("w{number}"));
        state.renew(&name, "here", 100 * LEASE).await.unwrap();
        workers.push(tokio::spawn(async move {
            let (mut taken, mut idle) = (Vec::new(), 0);
            while idle < 100 {
                let Some(claim) = state.claim(&name).await.unwrap() else {
                    idle += 1;
                    pause(3).await;
                    continue;
                };
                let jobs = state.jobs(&Filter::default()).await.unwrap();
                let now = running(&jobs).len();
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
    bench.state.prove_audit().await.unwrap();
}
