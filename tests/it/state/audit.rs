//! The audit log, and what holds for every table.

use std::sync::Arc;

use stillpoint::coordinator::state::{Outcome, State, Value, verify};
use stillpoint_contract::{ErrorKind, code};

use super::bench::{Bench, due, pause, task};

pub(super) async fn row_83_a_changed_line_is_found(bench: &Bench) {
    let state = &bench.state;
    assert_eq!(state.prove_audit().await.unwrap(), None);
    for database in ["a", "b", "c", "d"] {
        state.enqueue(&task(database, "full", 1), "s").await.unwrap();
    }
    let lines = state.audit(0).await.unwrap();
    verify(None, &lines).unwrap();
    verify(Some(&lines[0]), &lines[1..]).unwrap();
    assert_eq!(verify(None, &lines[1..]).unwrap_err().code(), code::AUDIT);
    assert_eq!(state.audit(2).await.unwrap(), lines[2..]);
    // Lines belong together: one of another log is not one of this.
    let foreign = bench.fresh().await.state;
    for database in ["z", "b"] {
        foreign.enqueue(&task(database, "full", 1), "s").await.unwrap();
    }
    let foreign = foreign.audit(0).await.unwrap();
    verify(Some(&foreign[0]), &foreign[1..]).unwrap();
    verify(Some(&lines[0]), &foreign[1..]).unwrap_err();
    bench.behind("CREATE TABLE kept AS SELECT * FROM audit").await;
    for change in [
        "UPDATE audit SET who = 'eve' WHERE seq = 2",
        "UPDATE audit SET at = at + 1 WHERE seq = 2",
        "UPDATE audit SET action = 'job.ended' WHERE seq = 2",
        "UPDATE audit SET subject = '' WHERE seq = 2",
        "UPDATE audit SET detail = detail || ' ' WHERE seq = 2",
        "UPDATE audit SET detail = '', subject = subject || detail WHERE seq = 2",
        "UPDATE audit SET hash = (SELECT hash FROM kept WHERE seq = 1) WHERE seq = 2",
        "UPDATE audit SET seq = 9 WHERE seq = 2",
        "UPDATE audit SET seq = 9 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3;
         UPDATE audit SET seq = 3 WHERE seq = 9",
        "DELETE FROM audit WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 4",
        "DELETE FROM audit",
    ] {
        bench.behind(change).await;
        let found = state.prove_audit().await.unwrap_err();
        assert_eq!((found.kind(), found.code()), (ErrorKind::Corrupt, code::AUDIT), "{change}");
        bench.behind("DELETE FROM audit; INSERT INTO audit SELECT * FROM kept").await;
        assert_eq!(state.prove_audit().await.unwrap().as_ref(), lines.last());
    }
    state.enqueue(&task("e", "full", 1), "s").await.unwrap();
    state.prove_audit().await.unwrap();
}

pub(super) async fn tables_of_a_newer_program_are_left_alone(bench: &Bench) {
    bench.behind("UPDATE meta SET value = 5 WHERE key = 'version'").await;
    let refused = State::open(bench.database(), bench.entropy()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Unsupported, code::STATE));
}

pub(super) async fn tables_of_an_older_program_become_these(bench: &Bench) {
    let before = bench.state.enqueue(&due("shop", 1), "s").await.unwrap();
    for statement in [
        "UPDATE meta SET value = 1 WHERE key = 'version'",
        "DROP INDEX job_burden",
        "DROP TABLE endpoint",
        "DROP TABLE adoption",
        "ALTER TABLE job DROP COLUMN rpo",
        "ALTER TABLE job DROP COLUMN ranked",
        "DROP INDEX job_of_site",
        "CREATE INDEX job_waiting ON job (rank DESC, due, id) WHERE state = 'waiting'",
        "ALTER TABLE job DROP COLUMN agent",
        "ALTER TABLE job DROP COLUMN site",
        "ALTER TABLE worker DROP COLUMN site",
        "DROP TABLE site",
        "DROP TABLE copied",
        "DROP TABLE agent",
        "DROP TABLE report",
    ] {
        bench.behind(statement).await;
    }
    let state = State::open(bench.database(), bench.entropy()).await.unwrap();
    assert!(state.endpoints().await.unwrap().is_empty());
    assert!(state.sites([]).await.unwrap().is_empty());
    assert_eq!(before.as_ref(), Some(&bench.jobs().await[0].id));
    State::open(bench.database(), bench.entropy()).await.unwrap();
}

pub(super) async fn a_transaction_that_is_dropped_changes_nothing_and_holds_nobody_up(
    bench: &Bench,
) {
    let (database, other) = (bench.database(), bench.again().await);
    let insert = "INSERT INTO looked (name, kind, until) VALUES ($1, $2, $3)";
    let row = [Value::from("shop"), Value::from("full"), Value::from(1_i64)];
    let mut open = database.begin().await.unwrap();
    open.run(insert, &row).await.unwrap();
    drop(open);
    // What is wrong leaves nothing behind, either.
    let mut open = database.begin().await.unwrap();
    open.run(insert, &row).await.unwrap();
    open.run(insert, &row).await.unwrap_err();
    drop(open);
    let mut open = database.begin().await.unwrap();
    assert_eq!(open.run("SELECT name FROM looked", &[]).await.unwrap(), []);
    open.run(insert, &row).await.unwrap();
    open.commit().await.unwrap();
    let mut open = database.begin().await.unwrap();
    assert_eq!(open.run("SELECT name FROM looked", &[]).await.unwrap().len(), 1);
    let waits = tokio::spawn(async move { other.looked("shop", "full").await });
    tokio::task::yield_now().await;
    drop(open);
    assert!(waits.await.unwrap().unwrap().is_some());
    // One that waits for its turn is given up.
    let open = database.begin().await.unwrap();
    let (other, same) = (bench.database(), Arc::clone(&database));
    let waits = tokio::spawn(async move { other.begin().await.map(drop) });
    let queued = tokio::spawn(async move { same.begin().await.map(drop) });
    pause(100).await;
    waits.abort();
    queued.abort();
    drop(open);
    database.begin().await.unwrap().commit().await.unwrap();
    bench.state.enqueue(&task("shop", "full", 1), "s").await.unwrap();
}

pub(super) async fn any_text_is_kept(bench: &Bench) {
    let state = &bench.state;
    let odd = "it's\0 \"odd\" \u{1f980} $1 %s\n";
    let told = odd.replace('\0', "\u{fffd}");
    bench.worker("w1").await;
    let task = stillpoint::coordinator::state::Task {
        database: odd.to_owned(),
        why: odd.to_owned(),
        ..task("", "full", u64::MAX)
    };
    state.enqueue(&task, odd).await.unwrap();
    assert_eq!(state.enqueue(&task, odd).await.unwrap(), None);
    let claim = bench.claim("w1").await;
    assert_eq!((&claim.task.database, &claim.task.why), (&told, &told));
    let long = "\u{1f980}".repeat(9_999);
    state.finish(&claim, Outcome::Failed, &long).await.unwrap();
    let job = state.job(&claim.job).await.unwrap().unwrap();
    let (_, reason) = super::bench::outcome(&job).unwrap();
    assert!(long.starts_with(reason) && (4_000..=4_096).contains(&reason.len()));
    assert_eq!(state.prove_audit().await.unwrap().unwrap().seq, 3);
}
