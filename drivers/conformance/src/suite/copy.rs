//! What a copy holds, and how it ends when something goes wrong.

use std::{num::NonZeroUsize, sync::Arc};

use chrono::TimeDelta;
use stillpoint_contract::{
    BackupRequest, Consistency, Error, ErrorKind, LogSupply, RecoveryTarget, code,
};

use crate::{
    Scene, Transfer,
    harness::Claim,
    memory::{CURSOR_BYTES_MAX, MemoryLog},
    stage::{Copy, Outcome, Stage, Verdict, ensure, kind_of, told},
    watch::WatchedSink,
};

pub(crate) async fn a_copy_is_the_database(stage: &Stage) -> Verdict {
    stage.work(50).await?;
    let copy = stage.back_up().await?;
    let bank = stage.restore_alone(&copy).await?;
    ensure!(bank == stage.truth(), "restored {bank:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_copy_never_holds_part_of_a_transaction(stage: &Stage) -> Verdict {
    for _ in 0..5 {
        let before = stage.truth();
        let copy = stage.while_busy(stage.back_up_patiently()).await??;
        let bank = stage.restore_alone(&copy).await?;
        let now = stage.truth();
        let grown = |a: &[u64], b: &[u64]| a.iter().zip(b).all(|(a, b)| a <= b);
        let between =
            grown(&before.progress, &bank.progress) && grown(&bank.progress, &now.progress);
        ensure!(between, "{:?} is not within {:?}", bank.progress, (before.progress, now.progress));
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_copy_holds_what_was_committed_before_its_time(stage: &Stage) -> Verdict {
    for _ in 0..3 {
        let copy = stage.while_busy(stage.back_up_patiently()).await??;
        let at = copy.evidence.consistent_time;
        let held = stage.restore_alone(&copy).await?.progress;
        let (before, later) =
            (stage.committed_before(at), stage.committed_before(at + TimeDelta::seconds(1)));
        // What a writer had asked for it may not know yet to be committed.
        let is_held =
            |((held, before), after): ((&u64, &u64), &u64)| (*before..=after + 1).contains(held);
        ensure!(
            held.iter().zip(&before).zip(&later).all(is_held),
            "it holds {held:?} at {at}, when {before:?} were committed, and {later:?} soon after"
        );
    }
    Ok(Outcome::Proven)
}

/// One transfer is committed while the copy is being written: a snapshot must not have it, a copy
/// of the end must.
pub(crate) async fn a_copy_is_of_the_instant_it_claims(stage: &Stage) -> Verdict {
    let server = Arc::clone(&stage.server);
    let sink = WatchedSink::new(move |call| {
        let server = Arc::clone(&server);
        Box::pin(async move {
            if call == 0 { server.transact(Transfer::new(0, 1)).await } else { Ok(()) }
        })
    });
    let evidence = stage.back_up_into(&sink).await?;
    let copy = Copy { evidence, parts: sink.inner.seal()? };
    let seen = stage.restore_alone(&copy).await?.transfers();
    let expected = match stage.fixture.capabilities().consistency {
        Consistency::AtStart => 0,
        Consistency::AtEnd => 1,
    };
    ensure!(seen == expected, "it holds {seen} transfers instead of {expected}");
    stage.exercise(Claim::Consistency);
    Ok(Outcome::Proven)
}

pub(crate) async fn evidence_is_complete(stage: &Stage) -> Verdict {
    stage.work(3).await?;
    let Copy { evidence, .. } = stage.back_up().await?;
    let capabilities = stage.fixture.capabilities();
    let logged = capabilities.log != LogSupply::Never;
    ensure!(!logged || evidence.consistent_at.is_some(), "a logged copy has no position");
    let snapshot = capabilities.consistency == Consistency::AtStart;
    ensure!(!snapshot || evidence.replay.is_none(), "a snapshot must be replayed");
    if let Some(replay) = &evidence.replay {
        let end = evidence.consistent_at.as_ref() == Some(replay.end());
        ensure!(end, "it is not consistent where {replay:?} ends");
    }
    ensure!(evidence.cursor.len() <= CURSOR_BYTES_MAX, "its cursor exceeds 4 KiB");
    ensure!(!evidence.incremental, "it is incremental without a base");
    ensure!(!evidence.method.is_empty(), "it does not say how it was taken");
    Ok(Outcome::Proven)
}

pub(crate) async fn parts_written_at_once_are_limited(stage: &Stage) -> Verdict {
    for streams_max in [NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(1)] {
        let sink = WatchedSink::yielding();
        stage.driver.backup(BackupRequest { base: None, streams_max }, &sink).await?;
        let most = sink.open_most();
        ensure!(most <= streams_max.get(), "{most} parts instead of {streams_max}");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_failing_sink_ends_the_backup(stage: &Stage) -> Verdict {
    stage.work(10).await?;
    let probe = WatchedSink::yielding();
    stage.back_up_into(&probe).await?;
    let calls = probe.calls();
    // Every call of a small backup, and about thirty of a large one.
    for nth in (0..calls).step_by(calls.div_ceil(30).max(1) as usize) {
        let sink = WatchedSink::full_at(nth);
        let kind = kind_of(&stage.back_up_into(&sink).await);
        ensure!(kind == Some(ErrorKind::Exhausted), "a full store at call {nth} ends as {kind:?}");
        stage.settled().await?;
    }
    let copy = stage.back_up().await?;
    ensure!(stage.restore_alone(&copy).await? == stage.truth(), "the next backup is wrong");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_departed_server_ends_the_backup(stage: &Stage) -> Verdict {
    ends_as_departed(stage, Scene::Departure).await
}

pub(crate) async fn a_replaced_server_ends_the_backup(stage: &Stage) -> Verdict {
    ends_as_departed(stage, Scene::Replacement).await
}

async fn ends_as_departed(stage: &Stage, scene: Scene) -> Verdict {
    let server = Arc::clone(&stage.server);
    let sink = WatchedSink::new(move |call| {
        let server = Arc::clone(&server);
        Box::pin(async move { if call == 0 { server.play(scene).await } else { Ok(()) } })
    });
    let error = stage.back_up_into(&sink).await.err().unwrap_or_else(|| {
        Error::new(ErrorKind::Bug, code::BUG, "succeed although the server was gone")
    });
    ensure!(error.kind() == ErrorKind::Departed, "it ends as {}", told(&error));
    Ok(Outcome::Proven)
}

pub(crate) async fn a_database_is_restored_without_its_neighbours(stage: &Stage) -> Verdict {
    let neighbour = stage.neighbour().await?;
    stage.work(7).await?;
    neighbour.work(3).await?;
    let copy = stage.back_up().await?;
    let then = stage.truth();
    stage.work(2).await?;
    neighbour.work(2).await?;
    ensure!(stage.restore_alone(&copy).await? == then, "the restored database is another");
    ensure!(neighbour.server.bank().await? == neighbour.truth(), "the neighbour changed");
    stage.exercise(Claim::SingleDatabase);
    Ok(Outcome::Proven)
}

pub(crate) async fn any_method_runs_while_any_other_runs(stage: &Stage) -> Verdict {
    let log = MemoryLog::new();
    let logged = stage.fixture.capabilities().log != LogSupply::Never;
    let capture = async {
        if logged {
            let mut opened = stage.capture(&log, None).await?;
            for _ in 0..20 {
                log.take(opened.capture.as_mut()).await?;
                stage.driver.probe().await?;
            }
        }
        stage.driver.probe().await
    };
    let all = async { tokio::join!(stage.back_up_patiently(), capture, stage.back_up_patiently()) };
    let (first, probed, second) = stage.while_busy(all).await?;
    probed?;
    for copy in [first?, second?] {
        stage.restore(&copy, &mut crate::stage::Absent, RecoveryTarget::Consistent).await?;
    }
    stage.settled().await?;
    Ok(Outcome::Proven)
}
