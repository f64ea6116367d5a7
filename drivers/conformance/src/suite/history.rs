//! Capturing log while things happen to the server, and to us.

use stillpoint_contract::{ErrorKind, LogCapture, LogMark, LogPosition, RecoveryTarget};

use crate::{
    Scene,
    memory::MemoryLog,
    stage::{Copy, Failure, Outcome, Stage, Verdict, ensure, kind_of, told},
};

/// Restores `copy` to the end of `log` and compares it with the truth.
async fn leads_to_now(stage: &Stage, copy: &Copy, log: &MemoryLog) -> Result<(), Failure> {
    let mut source = log.from(&copy.mark()?.position);
    let (bank, _) = stage.restore(copy, &mut source, RecoveryTarget::Latest).await?;
    ensure!(bank == stage.truth(), "the log leads to {:?}", bank.progress);
    Ok(())
}

pub(crate) async fn nothing_is_lost_between_next_and_confirm(stage: &Stage) -> Verdict {
    let log = MemoryLog::new();
    let mut copy = stage.back_up().await?;
    let mut mark = copy.mark()?;
    for _ in 0..40 {
        let mut opened = stage.capture(&log, Some(&mark)).await?;
        if opened.gap.is_some() {
            copy = stage.back_up().await?;
        }
        live_and_die(stage, &log, opened.capture.as_mut()).await?;
        drop(opened);
        stage.work(stage.entropy.below(3) as u32).await?;
        mark = log.mark().unwrap_or(mark);
    }
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    if opened.gap.is_some() {
        copy = stage.back_up().await?;
    }
    log.drain(opened.capture.as_mut()).await?;
    leads_to_now(stage, &copy, &log).await?;
    Ok(Outcome::Proven)
}

/// Captures for a while, and dies with nothing taken, with something taken but not stored, stored
/// but not confirmed, or confirmed.
async fn live_and_die(
    stage: &Stage,
    log: &MemoryLog,
    capture: &mut dyn LogCapture,
) -> Result<(), Failure> {
    let (takes, stores, confirms) = match stage.entropy.below(4) {
        0 => (false, false, false),
        1 => (true, false, false),
        2 => (true, true, false),
        _ => (true, true, true),
    };
    for last in [false, false, true] {
        stage.work(stage.entropy.below(4) as u32).await?;
        let Some(segment) = (if last && !takes { None } else { capture.next().await? }) else {
            continue;
        };
        if last && !stores {
            break;
        }
        let end = segment.head.range.end().clone();
        log.append(segment)?;
        if !last || confirms {
            capture.confirm(&end).await?;
        }
    }
    Ok(())
}

/// How far a capture gets with a segment before it dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Take,
    Store,
    Confirm,
}

pub(crate) async fn unconfirmed_log_is_not_forgotten(stage: &Stage) -> Verdict {
    use Step::{Confirm, Store, Take};
    let mut copy = stage.back_up().await?;
    let log = MemoryLog::new();
    let mut mark = copy.mark()?;
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    for step in [Confirm, Take, Confirm, Store, Take, Take, Confirm, Store, Confirm, Take] {
        stage.work(3).await?;
        stage.server.play(Scene::Discard).await?;
        let taken = take_all(&log, opened.capture.as_mut(), step).await?;
        stage.server.play(Scene::Discard).await?;
        if step == Confirm {
            continue;
        }
        // Whoever dies without having confirmed finds everything again. Only where the history
        // went on in another lineage may nobody be able to tell that nothing lies between.
        drop(opened);
        mark = log.mark().unwrap_or(mark);
        let unbroken = taken.iter().all(|end| end.lineage == mark.position.lineage);
        opened = stage.capture(&log, Some(&mark)).await?;
        if let Some(gap) = &opened.gap {
            ensure!(!unbroken, "unconfirmed log is a gap: {gap}");
            copy = stage.back_up().await?;
        }
    }
    log.drain(opened.capture.as_mut()).await?;
    leads_to_now(stage, &copy, &log).await?;
    Ok(Outcome::Proven)
}

/// Goes as far as `step` with everything there is; returns where the segments end.
async fn take_all(
    log: &MemoryLog,
    capture: &mut dyn LogCapture,
    step: Step,
) -> Result<Vec<LogPosition>, Failure> {
    let mut ends = Vec::new();
    while let Some(segment) = capture.next().await? {
        let end = segment.head.range.end().clone();
        if step >= Step::Store {
            log.append(segment)?;
        }
        if step == Step::Confirm {
            capture.confirm(&end).await?;
        }
        ends.push(end);
    }
    Ok(ends)
}

pub(crate) async fn a_gap_is_reported_as_a_value(stage: &Stage) -> Verdict {
    let old = stage.back_up().await?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&old.mark()?)).await?;
    stage.work(3).await?;
    log.drain(opened.capture.as_mut()).await?;
    let known = stage.truth();
    drop(opened);
    stage.settled().await?;
    stage.work(3).await?;
    stage.server.play(Scene::Discard).await?;
    stage.work(3).await?;

    let mark = log.mark().ok_or_else(|| Failure::new("nothing was captured"))?;
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    ensure!(opened.gap.is_some(), "log that was discarded is no gap");
    let new = stage.back_up().await?;
    stage.work(3).await?;
    log.drain(opened.capture.as_mut()).await?;
    let chains = log.heads();
    let first = chains.last().and_then(|chain| chain.first());
    ensure!(first.is_some_and(|head| head.succeeds.is_none()), "{first:?} succeeds something");
    leads_to_now(stage, &new, &log).await?;

    // The old backup leads up to the gap, and not across it.
    let mut source = log.from(&old.mark()?.position);
    let (bank, _) = stage.restore(&old, &mut source, RecoveryTarget::Latest).await?;
    ensure!(bank == known, "the old backup leads to {:?}", bank.progress);
    Ok(Outcome::Proven)
}

pub(crate) async fn a_foreign_mark_is_a_gap(stage: &Stage) -> Verdict {
    let neighbour = stage.neighbour().await?;
    stage.work(5).await?;
    neighbour.work(5).await?;
    let copy = neighbour.back_up().await?;
    let log = MemoryLog::new();
    let opened = stage.capture(&log, Some(&copy.mark()?)).await?;
    ensure!(opened.gap.is_some(), "it continues another database's log");
    let forged = LogMark { position: stage.back_up().await?.mark()?.position, ..copy.mark()? };
    match stage.driver.open_log(Some(&forged)).await {
        Ok(opened) => ensure!(opened.gap.is_some() || forged.cursor.is_empty(), "a forged mark"),
        Err(error) => ensure!(error.kind() != ErrorKind::Bug, "{}", told(&error)),
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn capture_survives_a_restart(stage: &Stage) -> Verdict {
    goes_on_after(stage, Scene::Restart).await
}

pub(crate) async fn capture_survives_a_crash(stage: &Stage) -> Verdict {
    goes_on_after(stage, Scene::Crash).await
}

async fn goes_on_after(stage: &Stage, scene: Scene) -> Verdict {
    let log = MemoryLog::new();
    let mut copy = stage.back_up().await?;
    let mut mark = copy.mark()?;
    for _ in 0..4 {
        let driver = stage.connect().await?;
        let mut opened = driver.open_log(Some(&mark)).await?;
        log.open(Some(&mark), &opened);
        if opened.gap.is_some() {
            copy = stage.back_up().await?;
        }
        stage.work(4).await?;
        log.drain(opened.capture.as_mut()).await?;
        stage.work(2).await?;
        stage.server.play(scene).await?;
        stage.work(2).await?;
        mark = log.mark().unwrap_or(mark);
    }
    let driver = stage.connect().await?;
    let mut opened = driver.open_log(Some(&mark)).await?;
    log.open(Some(&mark), &opened);
    if opened.gap.is_some() {
        copy = stage.back_up().await?;
    }
    log.drain(opened.capture.as_mut()).await?;
    leads_to_now(stage, &copy, &log).await?;
    Ok(Outcome::Proven)
}

pub(crate) async fn a_lineage_succeeds_another(stage: &Stage) -> Verdict {
    let copy = stage.back_up().await?;
    let mark = copy.mark()?;
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, Some(&mark)).await?;
    for _ in 0..3 {
        stage.work(4).await?;
        log.drain(opened.capture.as_mut()).await?;
        stage.server.play(Scene::Succession).await?;
    }
    stage.work(4).await?;
    log.drain(opened.capture.as_mut()).await?;
    let heads = log.heads().pop().unwrap_or_default();
    let successions = heads.iter().filter(|head| head.succeeds.is_some()).count();
    ensure!(successions >= 3, "three successions became {successions}");
    leads_to_now(stage, &copy, &log).await?;

    // Each commit can be reached, on whichever side of a succession it lies.
    let commits = log.commits(&mark.position);
    ensure!(commits.len() == 16, "16 transactions became {} events", commits.len());
    for (count, (position, _)) in (1_u64..).zip(commits) {
        let mut source = log.from(&mark.position);
        let until = RecoveryTarget::Position(position.clone());
        let (bank, _) = stage.restore(&copy, &mut source, until).await?;
        ensure!(bank.transfers() == count, "{position} holds {} transfers", bank.transfers());
    }
    Ok(Outcome::Proven)
}

pub(crate) async fn a_replaced_database_ends_the_capture(stage: &Stage) -> Verdict {
    ends_as_departed(stage, Scene::Replacement).await
}

pub(crate) async fn a_departed_database_ends_the_capture(stage: &Stage) -> Verdict {
    ends_as_departed(stage, Scene::Departure).await
}

async fn ends_as_departed(stage: &Stage, scene: Scene) -> Verdict {
    let log = MemoryLog::new();
    let mut opened = stage.capture(&log, None).await?;
    stage.work(3).await?;
    log.drain(opened.capture.as_mut()).await?;
    stage.server.play(scene).await?;
    let kind = kind_of(&opened.capture.next().await);
    ensure!(kind == Some(ErrorKind::Departed), "it ends as {kind:?}");
    Ok(Outcome::Proven)
}
