//! WAL captured from servers that go on working.

use std::time::Duration;

use stillpoint_conformance::memory::{MemoryLog, RealClock};
use stillpoint_contract::{Clock as _, ErrorKind, LogEventKind, LogMark};

use stillpoint_testcontainers::PostgresOptions;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_is_captured_also_after_a_crash() {
    for major in [15, 18] {
        let Some(mut stage) = Stage::open(major, &["autovacuum = off"]).await else { continue };
        let copy = stage.back_up("").await;
        let position = copy.evidence.consistent_at.clone().unwrap();
        let mut mark = LogMark { position: position.clone(), cursor: copy.evidence.cursor };
        let log = MemoryLog::new();
        let mut made = 0;
        for round in 0..6 {
            let driver = stage.driver("").await;
            let mut opened = driver.open_log(Some(&mark)).await.unwrap();
            assert_eq!(opened.gap, None, "{major}, round {round}");
            assert_eq!(opened.start, mark.position);
            log.open(Some(&mark), &opened);
            for _ in 0..3 {
                stage.run("UPDATE ledger SET number = number + 1").await;
                made += 1;
                log.drain(opened.capture.as_mut()).await.unwrap();
                assert_eq!(log.commits(&position).len(), made, "{major}, round {round}");
            }
            // What is taken and not stored is found again.
            stage.run("UPDATE ledger SET number = number + 1").await;
            made += 1;
            assert!(opened.capture.next().await.unwrap().is_some());
            mark = log.mark().unwrap();
            drop(opened);
            if round % 2 == 1 {
                stage.server.kill();
                stage.server.restart().unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_points_and_drops_are_events() {
    let Some(stage) = Stage::open(15, &["autovacuum = off"]).await else { return };
    let driver = stage.driver("").await;
    let mut opened = driver.open_log(None).await.unwrap();
    let log = MemoryLog::new();
    log.open(None, &opened);
    stage.run("SELECT pg_create_restore_point('before the flood')").await;
    stage.run("DROP TABLE still").await;
    log.drain(opened.capture.as_mut()).await.unwrap();
    let events: Vec<_> = log.heads().pop().unwrap().into_iter().flat_map(|h| h.events).collect();
    let named = LogEventKind::RestorePoint("before the flood".to_owned());
    let named = events.iter().position(|event| event.what == named).unwrap();
    let dropped = |what: &LogEventKind| matches!(what, LogEventKind::Dropped(_));
    assert!(events[named..].iter().any(|event| dropped(&event.what)), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_the_server_gave_up_is_a_gap() {
    let Some(stage) = Stage::open(15, &["autovacuum = off"]).await else { return };
    let copy = stage.back_up("").await;
    let position = copy.evidence.consistent_at.clone().unwrap();
    let mark = LogMark { position, cursor: copy.evidence.cursor };
    for _ in 0..4 {
        stage.run("CREATE TABLE more AS SELECT 1; DROP TABLE more; SELECT pg_switch_wal()").await;
        stage.run("CHECKPOINT").await;
    }
    let opened = stage.driver("").await.open_log(Some(&mark)).await.unwrap();
    assert!(opened.gap.is_some(), "a gap went unnoticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_not_held_up_by_a_capture() {
    for major in [13, 15, 18] {
        let Some(stage) = Stage::open(major, &["autovacuum = off"]).await else { continue };
        let mut opened = stage.driver("").await.open_log(None).await.unwrap();
        let log = MemoryLog::new();
        log.open(None, &opened);
        stage.run("UPDATE ledger SET number = number + 1").await;
        log.drain(opened.capture.as_mut()).await.unwrap();
        let before = log.commits(&opened.start).len();
        let mut server = stage.server;
        let stopped = tokio::task::spawn_blocking(move || {
            let clock = RealClock::new();
            server.stop().unwrap();
            (server, clock.elapsed())
        });
        // Until the server is gone.
        let error = loop {
            match log.take(opened.capture.as_mut()).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
        let (mut server, took) = stopped.await.unwrap();
        assert!(took < Duration::from_secs(20), "PostgreSQL {major} stopped after {took:?}");
        // Nothing is lost, and the capture goes on.
        server.restart().unwrap();
        let stage = Stage { server };
        stage.run("UPDATE ledger SET number = number + 1").await;
        log.drain(opened.capture.as_mut()).await.unwrap();
        assert_eq!(log.commits(&opened.start).len(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_gave_up_is_a_gap_that_says_so_and_can_be_retired() {
    let settings = ["autovacuum = off", "max_slot_wal_keep_size = 16MB", "max_wal_size = 32MB"];
    for major in [13, 18] {
        let Some(stage) = Stage::open(major, &settings).await else { continue };
        let driver = stage.driver("").await;
        let mut opened = driver.open_log(None).await.unwrap();
        let log = MemoryLog::new();
        log.open(None, &opened);
        stage.run("UPDATE ledger SET number = number + 1").await;
        log.drain(opened.capture.as_mut()).await.unwrap();
        assert_eq!(driver.retire_log().await.unwrap_err().kind(), ErrorKind::Busy);
        drop(opened);
        for _ in 0..5 {
            stage
                .run("UPDATE still SET t = t WHERE n < 50; SELECT pg_switch_wal(); CHECKPOINT")
                .await;
        }
        let findings = driver.examine().await.unwrap();
        let lost = findings.iter().find(|f| f.subject == "replication slot").unwrap();
        let drop_it = Some("SELECT pg_drop_replication_slot('stillpoint')".to_owned());
        assert_eq!(lost.statement, drop_it, "{lost:?}");
        let opened = driver.open_log(log.mark().as_ref()).await.unwrap();
        let gap = opened.gap.unwrap();
        assert!(gap.contains("it gave up what replication slot stillpoint held"), "{gap}");
        drop(opened.capture);
        let mut dropped = driver.retire_log().await;
        while dropped.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy) {
            dropped = driver.retire_log().await;
        }
        assert_eq!(dropped.unwrap().as_deref(), Some("replication slot stillpoint"));
        assert_eq!(driver.retire_log().await.unwrap(), None);
        stage.settled().await;
    }
}

const SEGMENT_BYTES: u128 = 1 << 20;

/// Whatever ends at the mark begins in a file before the one that goes on behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_at_the_edge_of_a_wal_file_is_no_gap() {
    for major in [13, 17] {
        let settings = ["autovacuum = off", "min_wal_size = 2MB"].map(str::to_owned).into();
        let options =
            PostgresOptions { wal_segment_mib: 1, settings, ..PostgresOptions::default() };
        let Some(stage) = Stage::open_with(major, &options).await else { continue };
        let log = MemoryLog::new();
        let mut mark = None;
        // A switch to the next file, and a point that lies in two files.
        // What is left of the file, without the headers of its pages.
        let fill = "SELECT pg_logical_emit_message(false, '', \
                    repeat('x', (r - r / 8192 * 24 - 80)::int)) \
                    FROM (SELECT 1048576 - (pg_current_wal_insert_lsn() - '0/0'::pg_lsn) \
                    % 1048576 AS r) AS rest";
        for edge in ["SELECT pg_switch_wal()", fill] {
            let is_switch = edge != fill;
            let mut is_at_edge = false;
            for _ in 0..20 {
                let opened = stage.driver("").await.open_log(mark.as_ref()).await.unwrap();
                assert_eq!(opened.gap, None, "{major}");
                log.open(mark.as_ref(), &opened);
                let mut capture = opened.capture;
                if is_switch {
                    stage.run("UPDATE ledger SET number = number + 1").await;
                    stage.run(edge).await;
                } else {
                    stage.run("SELECT pg_switch_wal(); UPDATE ledger SET number = 1").await;
                    log.drain(capture.as_mut()).await.unwrap();
                    stage.run(edge).await;
                    stage.run("SELECT pg_create_restore_point('edge')").await;
                }
                log.drain(capture.as_mut()).await.unwrap();
                mark = log.mark();
                let at = mark.as_ref().unwrap().position.offset % SEGMENT_BYTES;
                is_at_edge = if is_switch { at == 0 } else { (41..150).contains(&at) };
                if is_at_edge {
                    break;
                }
            }
            assert!(is_at_edge, "{major}: {mark:?}");
            // While the file before it is there, and when it is not.
            for is_gone in [false, true] {
                if is_gone {
                    stage.run("CHECKPOINT; CHECKPOINT").await;
                }
                let opened = stage.driver("").await.open_log(mark.as_ref()).await.unwrap();
                assert_eq!(opened.gap, None, "{major}, {is_gone}");
                assert_eq!(opened.start, mark.as_ref().unwrap().position);
            }
        }
    }
}
