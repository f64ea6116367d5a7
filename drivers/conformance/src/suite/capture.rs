//! Capturing log while all is well.

use std::time::Duration;

use stillpoint_contract::{
    Clock, ErrorKind, LogEventKind, LogSupply, RecoveryTarget, SEGMENT_BODY_BYTES_MAX,
};

use crate::{
    Scene,
    harness::Claim,
    memory::{MemoryLog, RealClock},
    stage::{Outcome, Stage, Verdict, ensure},
};

pub(crate) async fn no_log_is_unsupported(stage: &Stage) -> Verdict {
    let error = match stage.driver.open_log(None).await {
        Ok(opened) => ensure_never(&opened)?,
        Err(error) => error,
    };
    ensure!(error.kind() == ErrorKind::Unsupported, "it ends as {:?}", error.kind());
    ensure!(!error.advice().is_empty(), "it does not say what would change that");
    Ok(Outcome::Proven)
}

fn ensure_never(
    opened: &stillpoint_contract::OpenedLog,
) -> Result<stillpoint_contract::Error, crate::stage::Failure> {
    Err(crate::stage::Failure::new(format!("a log opened: {opened:?}")))
}

pub(crate) async fn every_commit_is_an_event(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let mark = copy.mark()?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    for _ in 0..12 {
        let before = stage.server.clock().now();
        stage.tick().await;
        stage.work(1).await?;
        log.drain(opened.capture.as_mut()).await?;
        let seen = stage.server.clock().now();
        let heads = log.heads().pop().unwrap_or_default();
        let last =
            heads.iter().flat_map(|head| &head.events).rfind(|e| e.what == LogEventKind::Commit);
        let in_time = last.is_some_and(|event| before < event.at && event.at <= seen);
        ensure!(in_time, "{last:?} did not happen between {before} and {seen}");
    }
    let events = log.commits(&mark.position).len();
    ensure!(events == 12, "12 transactions became {events} events");
    stage.exercise(Claim::Log);
    Ok(Outcome::Proven)
}

pub(crate) async fn segments_follow_each_other_under_load(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let mark = copy.mark()?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    let drained = async {
        for _ in 0..50 {
            log.take(opened.capture.as_mut()).await?;
            tokio::task::yield_now().await;
        }
        Ok::<_, stillpoint_contract::Error>(())
    };
    stage.while_busy(drained).await??;
    log.drain(opened.capture.as_mut()).await?;
    let events = log.commits(&mark.position).len() as u64;
    let made = stage.truth().transfers();
    ensure!(events == made, "{made} transactions became {events} events");
    let mut source = log.from(&mark.position);
    let (bank, _) = stage.restore(&copy, &mut source, RecoveryTarget::Latest).await?;
    ensure!(bank == stage.truth(), "the log leads to {bank:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn an_idle_capture_returns_soon(stage: &Stage) -> Verdict {
    stage.work(3).await?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, None).await?;
    log.drain(opened.capture.as_mut()).await?;
    let clock = RealClock::new();
    ensure!(opened.capture.next().await?.is_none(), "a segment appeared out of nothing");
    let most = match stage.fixture.capabilities().log {
        LogSupply::Poll { .. } => Duration::from_millis(500),
        LogSupply::Stream | LogSupply::Never => Duration::from_millis(1500),
    };
    ensure!(clock.elapsed() < most, "it waited for {:?}", clock.elapsed());
    Ok(Outcome::Proven)
}

pub(crate) async fn a_capture_joins_a_backup(stage: &Stage) -> Verdict {
    stage.work(9).await?;
    let copy = stage.back_up().await?;
    stage.work(4).await?;
    let mark = copy.mark()?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    ensure!(opened.gap.is_none(), "it reports a gap: {:?}", opened.gap);
    stage.work(4).await?;
    log.drain(opened.capture.as_mut()).await?;
    let mut source = log.from(&mark.position);
    let (bank, _) = stage.restore(&copy, &mut source, RecoveryTarget::Latest).await?;
    ensure!(bank == stage.truth(), "it leads to {bank:?}");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_backup_joins_a_capture(stage: &Stage) -> Verdict {
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, None).await?;
    for round in 0..4 {
        stage.work(5).await?;
        log.drain(opened.capture.as_mut()).await?;
        let copy = stage.while_busy(stage.back_up()).await??;
        log.drain(opened.capture.as_mut()).await?;
        let mut source = log.from(&copy.mark()?.position);
        let (bank, _) = stage.restore(&copy, &mut source, RecoveryTarget::Latest).await?;
        ensure!(bank == stage.truth(), "backup {round} leads to {bank:?}");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_large_transaction_spans_segments(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let mark = copy.mark()?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    stage.work(3).await?;
    stage.server.play(Scene::Bulk).await?;
    stage.work(3).await?;
    log.drain(opened.capture.as_mut()).await?;
    let heads = log.heads().pop().unwrap_or_default();
    let silent = heads.iter().filter(|head| head.events.is_empty()).count();
    ensure!(silent > 0, "{} segments of {SEGMENT_BODY_BYTES_MAX} bytes hold it all", heads.len());
    let mut source = log.from(&mark.position);
    let (bank, _) = stage.restore(&copy, &mut source, RecoveryTarget::Latest).await?;
    ensure!(bank == stage.truth(), "it leads to {bank:?}");
    Ok(Outcome::Proven)
}
