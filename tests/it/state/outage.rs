//! A server of PostgreSQL that goes away, is slow, or has settings of its own.

use std::{sync::Arc, time::Duration};

use stillpoint::coordinator::state::{Database, Filter, Outcome, Phase, State};
use stillpoint_conformance::memory::SeededEntropy;
use stillpoint_contract::ErrorKind;
use stillpoint_testcontainers::{POSTGRES_USER, Postgres};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{
    bench::{Bench, LEASE, connect, pause, postgres, task},
    queue::workers_that_race_take_nothing_twice,
};

/// Ends every session of ours. How many that were.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'stillpoint'";

async fn open(server: &Postgres, seed: u64) -> State {
    let address = format!("//{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
    State::open(Arc::new(postgres(address)), Arc::new(SeededEntropy::new(seed))).await.unwrap()
}

/// Waits until one of our sessions does what is asked for.
async fn until(client: &Client, sql: &str) {
    for _ in 0..1_000 {
        if !client.query(sql, &[]).await.unwrap().is_empty() {
            return;
        }
        pause(10).await;
    }
    panic!("never: {sql}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_made_again() {
    let Some(mut server) = Postgres::required(18) else { return };
    let state = open(&server, 1).await;
    state.enqueue(&task("a", "full", 1), "s").await.unwrap();
    let client = connect(server.port(), "postgres").await;
    for database in ["b", "c"] {
        assert!(!client.query(END, &[]).await.unwrap().is_empty());
        // Whether it was noticed already or not.
        if database == "c" {
            pause(200).await;
        }
        state.enqueue(&task(database, "full", 1), "s").await.unwrap();
    }
    tokio::task::block_in_place(|| server.stop()).unwrap();
    let away = state.enqueue(&task("d", "full", 1), "s").await.unwrap_err();
    assert_eq!(away.kind(), ErrorKind::Transient, "{away}");
    tokio::task::block_in_place(|| server.restart()).unwrap();
    state.enqueue(&task("d", "full", 1), "s").await.unwrap().unwrap();
    assert_eq!(state.jobs(&Filter::default()).await.unwrap().len(), 4);
    state.prove_audit().await.unwrap();
}

/// The server commits, waits for a standby that never comes, and is made to end the session: the
/// transaction is durable, and nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_found_again_whose_session_was_ended_after_its_commit() {
    let Some(server) = Postgres::required(18) else { return };
    let (state, other) = (open(&server, 1).await, open(&server, 2).await);
    for database in ["a", "b"] {
        state.enqueue(&task(database, "full", 1), "s").await.unwrap();
    }
    for worker in ["w1", "w2"] {
        state.renew(worker, "here", 100 * LEASE).await.unwrap();
    }
    let client = connect(server.port(), "postgres").await;
    let set = async |value: &str| {
        let sql = format!("ALTER SYSTEM SET synchronous_standby_names = '{value}'");
        client.execute(&sql, &[]).await.unwrap();
        client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
        pause(300).await;
    };
    // What was acknowledged is on disk, whatever a server does by default.
    client.execute("ALTER SYSTEM SET synchronous_commit = off", &[]).await.unwrap();
    set("nobody").await;
    let claiming = state.clone();
    let claiming = tokio::spawn(async move { claiming.claim("w1").await });
    let waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until(&client, waits).await;
    client.query(END, &[]).await.unwrap();
    let unknown = claiming.await.unwrap().unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Transient);
    assert!(unknown.reason().unwrap().ends_with("it may be done or not"), "{unknown:?}");
    set("").await;
    let found = state.claim("w1").await.unwrap().unwrap();
    let jobs = state.jobs(&Filter::default()).await.unwrap();
    let running = jobs.iter().filter(|job| matches!(job.phase, Phase::Running { .. }));
    assert_eq!(running.map(|job| &job.id).collect::<Vec<_>>(), [&found.job]);
    let next = other.claim("w2").await.unwrap().unwrap();
    assert_ne!(next.job, found.job);
    for claim in [found, next] {
        state.finish(&claim, Outcome::Succeeded, "").await.unwrap();
    }
    state.prove_audit().await.unwrap();
}

/// A trigger that is slow at commit, and the session ends there: nothing was done, nobody knows,
/// and the next call does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_made_once_whose_session_was_ended_before_its_commit() {
    let Some(server) = Postgres::required(13) else { return };
    let state = open(&server, 1).await;
    state.enqueue(&task("a", "full", 1), "s").await.unwrap();
    state.renew("w1", "here", 100 * LEASE).await.unwrap();
    let client = connect(server.port(), "postgres").await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON public.job
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
    client.batch_execute(slow).await.unwrap();
    let claiming = state.clone();
    let claiming = tokio::spawn(async move { claiming.claim("w1").await });
    until(&client, "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'").await;
    client.query(END, &[]).await.unwrap();
    let unknown = claiming.await.unwrap().unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Transient);
    assert!(unknown.reason().unwrap().ends_with("it may be done or not"), "{unknown:?}");
    client.batch_execute("DROP TRIGGER slow ON public.job").await.unwrap();
    let claim = state.claim("w1").await.unwrap().unwrap();
    assert_eq!(claim.attempt, 1);
    assert_eq!(state.claim("w1").await.unwrap(), None);
    let actions = state.audit(0).await.unwrap();
    let actions: Vec<_> = actions.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions, ["job.queued", "job.claimed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_frozen_in_a_transaction_holds_nobody_up_for_long() {
    let Some(server) = Postgres::required(18) else { return };
    let state = open(&server, 1).await;
    let address = format!("//{POSTGRES_USER}@127.0.0.1:{}/postgres", server.port());
    let frozen = postgres(address);
    let mut open = frozen.begin().await.unwrap();
    let insert = "INSERT INTO looked (name, kind, until) VALUES ('frozen', 'full', 1)";
    open.run(insert, &[]).await.unwrap();
    let task = task("a", "full", 1);
    let queued = timeout(Duration::from_secs(9), state.enqueue(&task, "s"));
    assert!(queued.await.unwrap().unwrap().is_some());
    // It wakes up, and nothing of what it did is there.
    let woken = open.run(insert, &[]).await.unwrap_err();
    assert_eq!(woken.kind(), ErrorKind::Transient, "{woken}");
    drop(open);
    assert_eq!(state.looked("frozen", "full").await.unwrap(), None);
    frozen.begin().await.unwrap().commit().await.unwrap();
}

/// Whatever a server does by default, transactions come one after the other, and can write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_of_a_server_change_nothing() {
    let Some(server) = Postgres::required(15) else { return };
    let client = connect(server.port(), "postgres").await;
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "synchronous_commit = off",
    ] {
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    pause(300).await;
    let bench = Bench::postgres(&server).await;
    workers_that_race_take_nothing_twice(&bench).await;
}
