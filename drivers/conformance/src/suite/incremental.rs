//! Backups that keep what did not change.

use stillpoint_contract::{Incremental, RecoveryTarget, Shape};

use crate::{
    harness::Claim,
    memory::MemoryLog,
    stage::{Absent, Copy, Failure, Outcome, Stage, Verdict, ensure},
};

/// Fails unless both copies hold the same bytes in the same parts.
fn same_bytes(left: &Copy, right: &Copy) -> Result<(), Failure> {
    ensure!(left.parts.records().eq(right.parts.records()), "they have other parts");
    for record in left.parts.records().filter(|r| matches!(r.spec.shape, Shape::Paged { .. })) {
        let name = &record.spec.name;
        ensure!(left.parts.bytes(name) == right.parts.bytes(name), "part {name} differs");
    }
    Ok(())
}

fn kept(copy: &Copy) -> Result<(), Failure> {
    ensure!(copy.evidence.incremental, "nothing was kept: {}", copy.evidence.method);
    ensure!(copy.parts.kept_bytes() > 0, "it is incremental and kept nothing");
    Ok(())
}

pub(crate) async fn row_64_an_incremental_copy_equals_a_full_one(stage: &Stage) -> Verdict {
    let base = stage.back_up().await?;
    let log = MemoryLog::new();
    let mark = base.mark()?;
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    stage.work(20).await?;
    log.drain(opened.capture.as_mut()).await?;

    let next = stage.back_up_on(&base, &mut log.from(&mark.position)).await?;
    kept(&next)?;
    let full = stage.back_up().await?;
    if next.evidence.consistent_at == full.evidence.consistent_at {
        same_bytes(&next, &full)?;
    }
    ensure!(stage.restore_alone(&next).await? == stage.truth(), "the increment is wrong");
    stage.exercise(Claim::Incremental);
    Ok(Outcome::Proven)
}

pub(crate) async fn row_64_increments_build_on_increments(stage: &Stage) -> Verdict {
    let full = stage.back_up().await?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&full.mark()?)).await?;
    let since_full = stage.fixture.capabilities().incremental == Incremental::SinceFull;
    let mut base = full.clone();
    for round in 0..4 {
        stage.work(5).await?;
        log.drain(opened.capture.as_mut()).await?;
        let next = stage.back_up_on(&base, &mut log.from(&base.mark()?.position)).await?;
        kept(&next)?;
        let bank = stage.restore_alone(&next).await?;
        ensure!(bank == stage.truth(), "increment {round} is wrong");
        base = if since_full { full.clone() } else { next };
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn an_incremental_copy_is_whole_under_load(stage: &Stage) -> Verdict {
    let base = stage.back_up().await?;
    let log = MemoryLog::new();
    let mark = base.mark()?;
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    for round in 0..5 {
        stage.work(5).await?;
        log.drain(opened.capture.as_mut()).await?;
        let mut source = log.from(&mark.position);
        let next = stage.while_busy(stage.back_up_on(&base, &mut source)).await??;
        stage.restore_alone(&next).await?;
        // The log that was captured meanwhile leads on from there.
        log.drain(opened.capture.as_mut()).await?;
        let mut source = log.from(&next.mark()?.position);
        let (bank, _) = stage.restore(&next, &mut source, RecoveryTarget::Latest).await?;
        ensure!(bank == stage.truth(), "round {round} does not lead to the latest state");
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn what_cannot_be_proven_unchanged_is_written(stage: &Stage) -> Verdict {
    let base = stage.back_up().await?;
    stage.work(30).await?;
    let next = stage.back_up_on(&base, &mut Absent).await?;
    ensure!(stage.restore_alone(&next).await? == stage.truth(), "a stale page was kept");
    let claimed = next.evidence.incremental || next.parts.kept_bytes() == 0;
    ensure!(claimed, "it kept pages and does not say so");
    Ok(Outcome::Proven)
}
