//! Every future may be dropped.

use stillpoint_contract::RecoveryTarget;

use crate::{
    memory::MemoryLog,
    stage::{Outcome, Stage, Verdict, abandon, ensure},
    watch::{WatchedLog, WatchedSink},
};

/// Numbers of awaits after which a future is dropped: each of the first, then ever more.
fn cuts() -> impl Iterator<Item = u64> {
    (0..8).chain((3..10).map(|power| (1 << power) + 1))
}

pub(crate) async fn a_dropped_probe_leaves_nothing(stage: &Stage) -> Verdict {
    for pendings in cuts() {
        drop(abandon(stage.connect(), pendings).await.transpose()?);
        drop(abandon(stage.driver.probe(), pendings).await.transpose()?);
    }
    stage.settled().await?;
    stage.work(4).await?;
    Ok(Outcome::Proven)
}

pub(crate) async fn a_dropped_backup_leaves_nothing(stage: &Stage) -> Verdict {
    for pendings in cuts() {
        stage.work(1).await?;
        let sink = WatchedSink::yielding();
        let cut = async { abandon(stage.back_up_into(&sink), pendings).await.transpose() };
        stage.while_busy(cut).await??;
        stage.settled().await?;
    }
    let copy = stage.back_up().await?;
    ensure!(stage.restore_alone(&copy).await? == stage.truth(), "the next backup is wrong");
    Ok(Outcome::Proven)
}

pub(crate) async fn a_dropped_capture_leaves_nothing(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let mark = copy.mark()?;
    for pendings in cuts() {
        let Some(opened) = abandon(stage.driver.open_log(Some(&mark)), pendings).await else {
            stage.settled().await?;
            continue;
        };
        let mut capture = opened?.capture;
        stage.work(2).await?;
        if let Some(taken) = abandon(capture.next(), pendings).await
            && let Some(segment) = taken?
        {
            let confirmed = abandon(capture.confirm(segment.head.range.end()), pendings).await;
            confirmed.transpose()?;
        }
        drop(capture);
        stage.settled().await?;
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_dropped_recovery_can_be_repeated(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let mark = copy.mark()?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    for _ in 0..6 {
        stage.work(2).await?;
        log.drain(opened.capture.as_mut()).await?;
    }
    for pendings in cuts() {
        let plan = stage.plan(&copy, &RecoveryTarget::Latest).await?;
        let mut source = WatchedLog::new(log.from(&mark.position));
        let recovery = stage.recover(&plan, &copy, &mut source);
        abandon(recovery, pendings).await.transpose()?;
        ensure!(!plan.target.exists(), "a recovery that was cut has a result");
    }
    let mut source = log.from(&mark.position);
    let (bank, _) = stage.restore(&copy, &mut source, RecoveryTarget::Latest).await?;
    ensure!(bank == stage.truth(), "the next recovery is wrong");
    Ok(Outcome::Proven)
}
